//! What is shown of peers, IKE SAs and recovery.

use std::time::Instant;

use super::{Coordinator, lock};
use crate::agent::proto::{ChildReport, DecisionReport, IkeReport, PeerReport, RecoveryReport};
use crate::backend;
use crate::recovery::{IkeId, PeerId, Trigger};

impl Coordinator {
    /// Whether nf-core can be asked.
    pub fn nf_core(&self) -> Result<(), String> {
        match (self.core_pid, lock(&self.sad).problem()) {
            (_, Some(problem)) => Err(problem.to_owned()),
            (None, None) => Err("not there yet".to_owned()),
            (Some(_), None) => Ok(()),
        }
    }

    /// The peers.
    pub fn peer_reports(&self) -> Vec<PeerReport> {
        let reports = self.peers.iter().map(|(id, peer)| {
            let ikes = self.ike_reports_of(id, Instant::now());
            PeerReport {
                peer: peer.config.name.clone(),
                kind: peer.config.kind.to_string(),
                backend: peer.config.backend.to_string(),
                address: peer.config.address.map(|address| {
                    if address.is_single() { address.address().to_string() } else { address.to_string() }
                }),
                ike_sas: ikes.len(),
                child_sas: ikes.iter().map(|ike| ike.children.len()).sum(),
                problem: match peer.is_by_daemon() {
                    true => self.daemon.problem.clone(),
                    false => peer.problem.clone(),
                },
            }
        });
        reports.collect()
    }

    /// The IKE SAs of a peer, or of all.
    pub fn ike_reports(&self, peer: Option<PeerId>, now: Instant) -> Vec<IkeReport> {
        match peer {
            Some(peer) => self.ike_reports_of(peer, now),
            None => self.peers.iter().flat_map(|(id, _)| self.ike_reports_of(id, now)).collect(),
        }
    }

    pub(super) fn ike_reports_of(&self, peer: PeerId, now: Instant) -> Vec<IkeReport> {
        let mut reports = self.ledger.reports(Some(peer), now);
        for (id, _, sa) in self.daemon.sas.iter().filter(|(_, of, _)| *of == peer) {
            reports.push(daemon_report(*id, self.name(peer), sa));
        }
        reports
    }

    /// What recovery has decided.
    pub fn recovery_report(&self, now: Instant, limit: usize) -> RecoveryReport {
        let policy = self.engine.policy();
        let entries = self.engine.journal().entries();
        let skip = entries.len().saturating_sub(limit);
        let ago = |at: Instant| u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
        let decisions = entries.skip(skip).map(|decision| DecisionReport {
            first_ms: ago(decision.first),
            last_ms: ago(decision.last),
            count: decision.count,
            peer: decision.peer.map(|peer| self.name(peer).to_owned()),
            address: decision.address,
            spi: match decision.trigger {
                Trigger::InvalidSpi(spi) => Some(spi),
                _ => None,
            },
            trigger: decision.trigger.to_string(),
            action: decision.verdict.action().to_owned(),
            reason: decision.verdict.to_string(),
        });
        RecoveryReport {
            invalid_spi_recovery: policy.invalid_spi_recovery,
            budget_left: self.engine.budget().left(),
            budget_burst: policy.limits.budget_burst,
            budget_per_min: policy.limits.budget_per_min,
            totals: self.engine.journal().totals().map(|(action, times)| (action.to_owned(), times)).collect(),
            decisions: decisions.collect(),
        }
    }
}

pub(super) fn algorithms(suite: &ikev2::crypto::keys::IkeSuite) -> String {
    let hash = suite.integrity.map_or_else(|| "None".to_owned(), |integrity| integrity.to_string());
    format!("Encr: {}, PRF: {}, Hash: {hash}, DH Grp: {}", suite.cipher, suite.prf, suite.group)
}

fn daemon_report(id: IkeId, peer: &str, sa: &backend::IkeSa) -> IkeReport {
    let children = sa.children.iter().filter_map(|child| {
        Some(ChildReport {
            inbound_spi: child.spi_in?,
            outbound_spi: child.spi_out?,
            mode: child.mode.to_lowercase(),
            encap: if child.encap { "udp" } else { "none" }.to_owned(),
            transform: String::new(),
            local_ts: child.local_ts.clone(),
            remote_ts: child.remote_ts.clone(),
            age_s: child.age_s,
            lifetime_s: child.rekey_in_s.map_or(0, |left| left.saturating_add(child.age_s)),
            used: child.packets_in > 0,
        })
    });
    IkeReport {
        id: id.0,
        peer: peer.to_owned(),
        backend: "vici".to_owned(),
        version: sa.version,
        local: sa.local,
        remote: sa.remote,
        local_id: sa.local_id.clone(),
        remote_id: sa.remote_id.clone(),
        initiator: sa.initiator,
        initiator_spi: format!("{:016x}", sa.spis.initiator),
        responder_spi: format!("{:016x}", sa.spis.responder),
        algorithms: "algorithms: see swanctl --list-sas".to_owned(),
        nat: (sa.local.port() != 500, sa.remote.port() != 500),
        age_s: sa.age_s,
        lifetime_s: sa.rekey_in_s.map_or(0, |left| left.saturating_add(sa.age_s)),
        children: children.collect(),
    }
}
