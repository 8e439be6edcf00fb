//! What IKE of our own brings: IKE SAs and CHILD_SAs that come and go.

use std::time::Instant;

use ikev2::crypto::keys::Role;
use ikev2::wire::IpSelector;
use ikev2::{ChildDownReason, ChildUp, Event, IkeUp, Notice};
use nf_core::control::proto::SaName;
use nf_core::types::Spi;

use super::reports::algorithms;
use super::{Coordinator, WaitingOutbound, lock};
use crate::agent::install;
use crate::agent::ledger::ChildEntry;
use crate::agent::proto::{ChildReport, IkeReport};
use crate::recovery::IkeId;

impl Coordinator {
    pub(super) fn ike_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::IkeUp(up) => self.ike_up(now, &up),
            Event::IkeRekeyed { old, new, spis, suite } => {
                let Some(before) = self.numbers.remove(&old) else {
                    return;
                };
                let after = self.number(new);
                self.engine.ike_rekeyed(now, before, after);
                self.ledger.ike_rekeyed(before, after, now, |report| {
                    (report.initiator_spi, report.responder_spi) = (spis.0.to_string(), spis.1.to_string());
                    report.algorithms = algorithms(&suite);
                });
                for waiting in self.commands.values_mut().filter(|waiting| waiting.ike == Some(old)) {
                    waiting.ike = Some(new);
                }
                tracing::info!(ike = after.0, "IKE SA rekeyed");
            }
            Event::IkeDown { ike, connection, remote, reason } => {
                let peer = connection.as_deref().unwrap_or("unknown");
                if let Some(number) = self.numbers.remove(&ike) {
                    self.engine.ike_down(now, number);
                    self.ledger.ike_down(number, now);
                    tracing::info!(peer, %remote, ike = number.0, "IKE SA down: {reason}");
                } else {
                    tracing::info!(peer, %remote, "no IKE SA: {reason}");
                }
            }
            Event::ChildUp(child) => self.child_up(now, &child),
            Event::ChildDown { ike, inbound_spi, reason, .. } => {
                self.child_down(now, ike, install::spi(inbound_spi), reason)
            }
            Event::Done { command, ike, result } => {
                if let Some(number) = self.numbers.get(&ike).filter(|_| result.is_ok()) {
                    self.engine.heard(now, *number);
                }
                if let Some(waiting) = self.commands.remove(&command) {
                    self.ended(now, waiting, result.map(|_| ()));
                }
            }
            Event::Notice(notice) => self.notice(notice),
        }
    }

    pub(super) fn number(&mut self, ike: ikev2::IkeId) -> IkeId {
        *self.numbers.entry(ike).or_insert_with(|| {
            self.last_number += 1;
            IkeId(self.last_number)
        })
    }

    pub(super) fn ike_up(&mut self, now: Instant, up: &IkeUp) {
        let Some(peer) = self.peers.find(&up.connection) else {
            return;
        };
        let number = self.number(up.ike);
        let lifetime_s = self.peers.get(peer).map_or(0, |peer| peer.config.lifetimes.ike_s);
        let report = IkeReport {
            id: number.0,
            peer: up.connection.to_string(),
            backend: "embedded".to_owned(),
            version: 2,
            local: up.local,
            remote: up.remote,
            local_id: up.local_id.to_string(),
            remote_id: up.remote_id.to_string(),
            initiator: up.role == Role::Initiator,
            initiator_spi: up.spis.0.to_string(),
            responder_spi: up.spis.1.to_string(),
            algorithms: algorithms(&up.suite),
            nat: up.nat,
            age_s: 0,
            lifetime_s,
            children: Vec::new(),
        };
        tracing::info!(peer = %up.connection, remote = %up.remote, id = %up.remote_id, ike = number.0, "IKE SA up");
        self.ledger.ike_up(number, peer, now, report);
        self.engine.ike_up(now, number, peer, up.remote);
    }

    pub(super) fn child_up(&mut self, now: Instant, child: &ChildUp) {
        let Some(number) = self.numbers.get(&child.ike).copied() else {
            return;
        };
        let spi = install::spi(child.inbound_spi);
        let seconds = self.embedded(&child.connection).map_or(0, |(_, lifetime)| lifetime.as_secs());
        let inbound = install::inbound(child, &child.connection, seconds);
        if let Err(why) = inbound.and_then(|inbound| lock(&self.sad).install(inbound)) {
            // Once nf-core is back it is found to be missing there.
            tracing::warn!(peer = %child.connection, %spi, "nf-core doesn't take the inbound SA: {why}");
        }
        let peer = self.peers.find(&child.connection).and_then(|peer| self.peers.get(peer));
        let shown = |list: &[IpSelector]| install::selectors(list).unwrap_or_else(|why| vec![why]);
        let report = ChildReport {
            inbound_spi: spi,
            outbound_spi: install::spi(child.outbound_spi),
            mode: install::mode(child.mode).to_owned(),
            encap: if child.udp_encap { "udp" } else { "none" }.to_owned(),
            transform: child.suite.to_string(),
            local_ts: shown(&child.local_ts),
            remote_ts: shown(&child.remote_ts),
            age_s: 0,
            lifetime_s: peer.map_or(0, |peer| peer.config.lifetimes.child_s),
            used: false,
        };
        tracing::info!(peer = %child.connection, %spi, replaces = ?child.replaces, "CHILD_SA up");
        let (local, remote) = (child.local.ip(), child.remote.ip());
        let entry = ChildEntry { since: now, local, remote, outbound: None, report };
        self.ledger.child_up(number, spi, entry);
        self.engine.child_up(number, spi);
        let outbound = match install::outbound(child, &child.connection, seconds) {
            Ok(outbound) => outbound,
            Err(why) => {
                tracing::warn!(peer = %child.connection, %spi, "nf-core doesn't take the outbound SA: {why}");
                return;
            }
        };
        let name = SaName { spi: install::spi(child.outbound_spi), dst: Some(remote), src: Some(local) };
        match child.replaces.filter(|_| child.role == Role::Responder) {
            // The peer may not have it yet, and has the old one for certain.
            Some(old) => {
                let waiting = WaitingOutbound { spec: outbound, name, replaces: install::spi(old) };
                self.waiting_outbound.insert(spi, waiting);
            }
            None => self.install_outbound(spi, outbound, name),
        }
    }

    pub(super) fn child_down(&mut self, now: Instant, ike: ikev2::IkeId, spi: Spi, reason: ChildDownReason) {
        let Some(number) = self.numbers.get(&ike).copied() else {
            return;
        };
        tracing::info!(%spi, "CHILD_SA down: {reason}");
        // The peer may still send on one that was replaced, and on one of an IKE SA that is gone.
        let lingers =
            matches!(reason, ChildDownReason::Rekeyed | ChildDownReason::Redundant | ChildDownReason::IkeDown);
        self.engine.child_down(now, number, spi);
        self.end_sending(spi);
        if let Some(sa) = self.ledger.child_down(number, spi, now, lingers) {
            self.remove(sa);
        }
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::AddressChanged { ike, remote, .. } => {
                if let Some(number) = self.numbers.get(&ike).copied() {
                    self.engine.ike_moved(number, remote);
                    self.ledger.ike_moved(number, remote);
                    tracing::info!(ike = number.0, %remote, "the peer has another address");
                }
            }
            Notice::Refused { remote, reason } => tracing::info!(%remote, "a peer was refused: {reason}"),
            Notice::ChildRefused { reason, .. } => tracing::info!("a CHILD_SA was refused: {reason}"),
            Notice::InvalidSpiHint { remote, spi, checking } => {
                tracing::info!(%remote, ?spi, checks = checking.is_some(), "an unproved hint: the peer misses an SPI of ours");
            }
            Notice::PeerMissesSpi { spi, .. } => tracing::info!(?spi, "the peer doesn't know an SPI"),
            Notice::InvalidIkeSpiHint { remote, checking, .. } => {
                tracing::info!(%remote, checking, "an unproved hint: the peer has lost an IKE SA");
            }
            Notice::SupersededBy { .. } => tracing::info!("the peer begins anew: its IKE SA of before ends"),
        }
    }
}
