//! The agent's heart: what nf-core, the peers and the operator say comes together here, and what is done about it goes out.
//! It has no socket and no clock; [`super::daemon`] lends it both.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ikev2::crypto::keys::Role;
use ikev2::wire::{ChildSpi, IpSelector};
use ikev2::{ChildDownReason, ChildUp, CommandError, CommandId, Endpoint, Event, Failure, IkeUp, Notice, Transmit};
use nf_core::control::proto::{EventReport, InvalidSpiEvent, SaName, SaReport};
use nf_core::sa::lifetime::Limit;
use nf_core::sa::spec::{Direction, SaSpec};
use nf_core::types::Spi;

use super::daemon_link::{DaemonLink, DaemonNews, Job, JobId};
use super::install;
use super::ledger::{ChildEntry, Ledger};
use super::peers::Peer;
use super::proto::{ChildReport, DecisionReport, IkeReport, PeerReport, RecoveryReport};
use super::sad::{CoreNews, Sad};
use super::tasks::{TaskId, Tasks};
use crate::backend;
use crate::recovery::{Action, Engine, IkeId, Outcome, PeerId, Policy, Site, Trigger, Unknown, Verdict};

/// For so long a liveness check of a recovery may take: three requests.
const LIVENESS: Duration = Duration::from_millis(2500);
/// For so long an exchange of a recovery may take: four requests.
const EXCHANGE: Duration = Duration::from_millis(4500);
/// For so long the exchanges of a new IKE SA may take.
const INITIATION: Duration = Duration::from_millis(5500);
/// For so long what the operator asked for may take.
const BY_HAND: Duration = Duration::from_secs(15);

/// nf-core's SAD as a source of SPIs.
pub struct SpiSource(pub Arc<Mutex<Sad>>);

fn lock(sad: &Mutex<Sad>) -> MutexGuard<'_, Sad> {
    sad.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ikev2::SpiSource for SpiSource {
    fn reserve(&mut self, local: IpAddr, remote: IpAddr) -> Result<ChildSpi, ikev2::SpiError> {
        lock(&self.0).reserve(local, remote).map(|spi| ChildSpi(spi.0)).map_err(ikev2::SpiError)
    }

    fn release(&mut self, local: IpAddr, remote: IpAddr, spi: ChildSpi) {
        let sa = SaName { spi: install::spi(spi), dst: Some(local), src: Some(remote) };
        if let Err(error) = lock(&self.0).release(sa) {
            // It runs out by itself.
            tracing::debug!(spi = %sa.spi, error, "a reserved SPI could not be given back");
        }
    }
}

/// Whom an exchange is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Recovery(Site),
    Task(TaskId),
}

/// An exchange that goes on.
#[derive(Clone, Debug)]
struct Waiting {
    purpose: Purpose,
    /// The IKE SA that it goes over.
    ike: Option<ikev2::IkeId>,
    /// Where its messages go.
    remote: IpAddr,
    /// Messages that have gone there since.
    sent: u32,
    since: Instant,
    deadline: Instant,
}

/// The outbound SA of a CHILD_SA that the peer has asked for in place of another one. It is installed when the peer has
/// shown that it has the new one (RFC 7296 2.8).
#[derive(Clone, Debug)]
struct WaitingOutbound {
    spec: SaSpec,
    name: SaName,
    /// The inbound SPI of the CHILD_SA that it replaces.
    replaces: Spi,
}

/// The daemon's IKE SAs, as it listed them last.
#[derive(Debug, Default)]
struct DaemonSas {
    link: Option<DaemonLink>,
    problem: Option<String>,
    sas: Vec<(IkeId, PeerId, backend::IkeSa)>,
    jobs: HashMap<JobId, Waiting>,
}

/// See the module.
pub struct Coordinator {
    peers: Vec<Peer>,
    engine: Engine,
    endpoint: Endpoint,
    sad: Arc<Mutex<Sad>>,
    ledger: Ledger,
    tasks: Tasks,
    /// Tasks that end with the recovery of a peer.
    recoveries: Vec<(PeerId, TaskId)>,
    commands: HashMap<CommandId, Waiting>,
    numbers: HashMap<ikev2::IkeId, IkeId>,
    last_number: u64,
    /// Outbound SAs that the peer may not be ready for, by the inbound SPI of their CHILD_SA.
    waiting_outbound: HashMap<Spi, WaitingOutbound>,
    daemon: DaemonSas,
    core_pid: Option<u32>,
}

impl Coordinator {
    /// A coordinator of these peers. The endpoint has their connections.
    pub fn new(
        now: Instant,
        peers: Vec<Peer>,
        policy: Policy,
        endpoint: Endpoint,
        sad: Arc<Mutex<Sad>>,
        daemon: Option<DaemonLink>,
    ) -> Coordinator {
        Coordinator {
            peers,
            engine: Engine::new(now, policy),
            endpoint,
            sad,
            ledger: Ledger::default(),
            tasks: Tasks::default(),
            recoveries: Vec::new(),
            commands: HashMap::new(),
            numbers: HashMap::new(),
            last_number: 0,
            waiting_outbound: HashMap::new(),
            daemon: DaemonSas { link: daemon, ..DaemonSas::default() },
            core_pid: None,
        }
    }

    // In.

    /// A datagram came in, without its non-ESP marker.
    pub fn datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, octets: &[u8]) {
        self.endpoint.handle_datagram(now, local, remote, octets);
        self.settle(now);
    }

    /// News of nf-core.
    pub fn core_news(&mut self, now: Instant, news: CoreNews) {
        match news {
            CoreNews::Up { pid } => self.core_up(now, pid),
            CoreNews::Down(why) => {
                tracing::warn!("nf-core can't be reached: {why}");
                self.core_pid = None;
            }
            CoreNews::Event(event) => self.core_event(now, event),
        }
        self.settle(now);
    }

    /// News of the IKE daemon.
    pub fn daemon_news(&mut self, now: Instant, news: DaemonNews) {
        match news {
            DaemonNews::Sas(sas) => self.daemon_sas(now, sas),
            DaemonNews::Gone(why) => {
                tracing::warn!("{why}");
                self.daemon.problem = Some(why);
                self.daemon_sas(now, Vec::new());
            }
            DaemonNews::Done(job, result) => self.daemon_done(now, job, result),
        }
        self.settle(now);
    }

    /// Does what is due.
    pub fn timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
        self.engine.handle_timeout(now);
        for sa in self.ledger.expired(now) {
            self.remove(sa);
        }
        let late: Vec<CommandId> =
            self.commands.iter().filter(|(_, waiting)| waiting.deadline <= now).map(|(id, _)| *id).collect();
        for command in late {
            if let Some(waiting) = self.commands.remove(&command) {
                self.late(now, waiting);
            }
        }
        self.settle(now);
    }

    /// When [`Coordinator::timeout`] has something to do.
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let commands = self.commands.values().map(|waiting| waiting.deadline).min();
        [self.endpoint.poll_timeout(), self.engine.next_timeout(now), self.ledger.next_timeout(), commands]
            .into_iter()
            .flatten()
            .min()
    }

    // Out.

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = self.endpoint.poll_transmit()?;
        for waiting in self.commands.values_mut().filter(|waiting| waiting.remote == transmit.remote.ip()) {
            waiting.sent += 1;
        }
        Some(transmit)
    }

    /// Acts on all that has happened, until nothing happens any more.
    fn settle(&mut self, now: Instant) {
        loop {
            if let Some(event) = self.endpoint.poll_event() {
                self.ike_event(now, event);
            } else if let Some(action) = self.engine.poll_action() {
                self.carry_out(now, action);
            } else {
                break;
            }
        }
        while let Some(decision) = self.engine.poll_decision() {
            self.log_decision(&decision.verdict, decision.peer, decision.address, decision.trigger);
            let ended = match &decision.verdict {
                Verdict::Recovered { took } => Ok(format!("recovered after {:.1} ms", took.as_secs_f64() * 1e3)),
                Verdict::Failed { why } => {
                    let peer = decision.peer.map_or("none", |peer| self.name(peer));
                    let spi = match decision.trigger {
                        Trigger::InvalidSpi(spi) => Some(spi),
                        _ => None,
                    };
                    if let Err(error) = lock(&self.sad).recovery_failed(peer, decision.address, spi, why) {
                        tracing::debug!(peer, "nf-core's hooks don't hear of a failed recovery: {error}");
                    }
                    Err(why.clone())
                }
                _ => continue,
            };
            let tasks = self.recoveries.extract_if(.., |(peer, _)| Some(*peer) == decision.peer);
            for (_, task) in tasks.collect::<Vec<_>>() {
                self.tasks.end(task, ended.clone());
            }
        }
    }

    fn log_decision(&self, verdict: &Verdict, peer: Option<PeerId>, address: Option<IpAddr>, trigger: Trigger) {
        let peer = peer.map_or("none", |peer| self.name(peer));
        let address = address.map(tracing::field::display);
        match verdict.action() {
            "none" | "joined" | "postponed" => tracing::debug!(peer, address, %trigger, "{verdict}"),
            "failed" | "ike-dead" => tracing::warn!(peer, address, %trigger, "recovery: {verdict}"),
            _ => tracing::info!(peer, address, %trigger, "recovery: {verdict}"),
        }
    }

    // nf-core.

    fn core_up(&mut self, now: Instant, pid: u32) {
        lock(&self.sad).retry();
        let list = match lock(&self.sad).list() {
            Ok(list) => list,
            Err(why) => {
                tracing::warn!("nf-core's SAs can't be listed: {why}");
                return;
            }
        };
        tracing::info!(pid, sas = list.len(), "nf-core is there");
        let first = self.core_pid.is_none();
        self.core_pid = Some(pid);
        let is_inbound = |sa: &SaReport| sa.direction == Direction::In.as_str();
        let kept = |spi| list.iter().any(|sa| sa.spi == spi && sa.state != "larval" && is_inbound(sa));
        self.engine.sas_lost(now, kept);
        if !first {
            return;
        }
        // What an agent before this one has left.
        for sa in list.iter().filter(|sa| sa.state != "larval") {
            if is_inbound(sa) && self.ledger.has_child(sa.spi) {
                continue;
            }
            let Some((peer, lifetime)) = sa.peer.as_deref().and_then(|name| self.embedded(name)) else {
                continue;
            };
            let name = SaName { spi: sa.spi, dst: Some(sa.dst), src: sa.src };
            if let Some(remote) = if is_inbound(sa) { sa.src } else { Some(sa.dst) } {
                self.ledger.adopt(peer, name, remote, now, lifetime);
            }
            if self.ledger.ikes(Some(peer)).next().is_none() {
                self.engine.ike_lost(now, peer);
            }
        }
    }

    /// The peer of that name, if IKE is spoken with it here, and its CHILD_SAs' lifetime.
    fn embedded(&self, name: &str) -> Option<(PeerId, Duration)> {
        let place = self.peers.iter().position(|peer| peer.config.name == name && !peer.is_by_daemon())?;
        let seconds = self.peers.get(place)?.config.lifetimes.child_s;
        Some((PeerId(place), Duration::from_secs(seconds + seconds / 10)))
    }

    fn core_event(&mut self, now: Instant, event: EventReport) {
        match event {
            EventReport::InvalidSpi(InvalidSpiEvent { spi, src, dst, udp_ports, .. }) => {
                self.engine.invalid_spi(now, Unknown { spi, src, dst, udp_ports });
            }
            EventReport::SaFirstPacket { sa, .. } => {
                // The peer has it: what goes to it may go by its pair.
                self.begin_to_send(sa.spi);
                for old in self.ledger.first_packet(sa.spi, sa.dst) {
                    self.remove(old);
                }
            }
            EventReport::SaLifetime { sa, limit: Limit::Soft, unit, .. } => {
                tracing::info!(spi = %sa.spi, ?unit, "an SA is near its end, and is rekeyed");
                let name = SaName { spi: sa.spi, dst: Some(sa.dst), src: Some(sa.src) };
                self.rekey(now, self.ledger.inbound_of(&name).unwrap_or(sa.spi));
            }
            EventReport::SaLifetime { sa, limit: Limit::Hard, unit, .. } => {
                tracing::warn!(spi = %sa.spi, ?unit, "nf-core has ended an SA, as its lifetime is over");
            }
            EventReport::SaAddressChanged { sa, from, to, .. } => {
                let (from, to) = (from.address, to.address);
                tracing::info!(spi = %sa.spi, %from, %to, "ESP of an SA comes from another address or port");
            }
            EventReport::SaWanted { peer: Some(name), .. } => {
                if let Some(place) = self.peers.iter().position(|peer| peer.config.name == name) {
                    self.engine.sa_wanted(now, PeerId(place));
                }
            }
            EventReport::Lost { count } => tracing::warn!(count, "events of nf-core were lost"),
            _ => {}
        }
    }

    /// Has a CHILD_SA of ours rekeyed.
    fn rekey(&mut self, now: Instant, spi: Spi) {
        let number = self.ledger.ikes(None).find(|(_, ike)| ike.spis().contains(&spi)).map(|(number, _)| number);
        let ike = self.numbers.iter().find(|(_, of)| Some(**of) == number).map(|(id, _)| *id);
        if let Some(ike) = ike
            && let Err(error) = self.endpoint.rekey_child(now, ike, ChildSpi(spi.0))
        {
            tracing::warn!(%spi, "no rekey: {error}");
        }
    }

    /// Takes an SA out of nf-core.
    fn remove(&self, sa: SaName) {
        match lock(&self.sad).delete(sa) {
            Ok(()) => tracing::debug!(spi = %sa.spi, "SA removed"),
            Err(why) => tracing::debug!(spi = %sa.spi, why, "SA can't be removed"),
        }
    }

    /// Installs the outbound SA that waits with an inbound one. From then on packets go by it, and not by the one before.
    fn begin_to_send(&mut self, inbound: Spi) {
        if let Some(WaitingOutbound { spec, name, .. }) = self.waiting_outbound.remove(&inbound) {
            self.install_outbound(inbound, spec, name);
        }
    }

    fn install_outbound(&mut self, inbound: Spi, spec: SaSpec, name: SaName) {
        match lock(&self.sad).install(spec) {
            Ok(()) => self.ledger.outbound_up(inbound, name),
            Err(why) => tracing::warn!(spi = %name.spi, "nf-core doesn't take the outbound SA: {why}"),
        }
    }

    /// Ends what goes out by a CHILD_SA that is gone. What replaces it takes over before that.
    fn end_sending(&mut self, inbound: Spi) {
        self.waiting_outbound.remove(&inbound);
        let heirs = self.waiting_outbound.iter().filter(|(_, waiting)| waiting.replaces == inbound);
        for heir in heirs.map(|(spi, _)| *spi).collect::<Vec<_>>() {
            self.begin_to_send(heir);
        }
        if let Some(outbound) = self.ledger.take_outbound(inbound) {
            self.remove(outbound);
        }
    }

    // IKE of our own.

    fn ike_event(&mut self, now: Instant, event: Event) {
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

    fn number(&mut self, ike: ikev2::IkeId) -> IkeId {
        *self.numbers.entry(ike).or_insert_with(|| {
            self.last_number += 1;
            IkeId(self.last_number)
        })
    }

    fn ike_up(&mut self, now: Instant, up: &IkeUp) {
        let Some(peer) = self.peers.iter().position(|peer| peer.config.name == *up.connection) else {
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
        self.ledger.ike_up(number, PeerId(peer), now, report);
        self.engine.ike_up(now, number, PeerId(peer), up.remote);
    }

    fn child_up(&mut self, now: Instant, child: &ChildUp) {
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
        let lifetime_s = self.peers.iter().find(|peer| peer.config.name == *child.connection);
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
            lifetime_s: lifetime_s.map_or(0, |peer| peer.config.lifetimes.child_s),
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

    fn child_down(&mut self, now: Instant, ike: ikev2::IkeId, spi: Spi, reason: ChildDownReason) {
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

    fn notice(&mut self, notice: Notice) {
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

    // Actions of recovery.

    fn carry_out(&mut self, now: Instant, action: Action) {
        match action {
            Action::CheckLiveness { site, .. } if self.is_by_daemon(site.peer) => {
                // There is no such request; what follows shows whether the IKE SA lives.
                self.engine.outcome(now, site, Outcome::Done, 0);
            }
            Action::CheckLiveness { site, ike } => {
                self.exchange(now, Purpose::Recovery(site), ike, LIVENESS, |endpoint, ike| endpoint.liveness(now, ike));
            }
            Action::MakeChild { site, replaces, .. } if self.is_by_daemon(site.peer) => {
                let job = match (replaces, self.daemon_ike(site.peer)) {
                    (Some(spi), Some(ike)) => Job::RekeyChild { spi, local: ike.local.ip() },
                    _ => self.daemon_initiation(site.peer),
                };
                self.submit(now, Purpose::Recovery(site), site.address, job);
            }
            Action::MakeChild { site, ike, replaces } => {
                self.exchange(now, Purpose::Recovery(site), ike, EXCHANGE, |endpoint, ike| match replaces {
                    Some(spi) => endpoint.rekey_child(now, ike, ChildSpi(spi.0)),
                    None => endpoint.create_child(now, ike),
                });
            }
            Action::Delete { site, ike, spis } => {
                let spis = spis.into_iter().map(|spi| ChildSpi(spi.0)).collect();
                self.exchange(now, Purpose::Recovery(site), ike, EXCHANGE, |endpoint, ike| {
                    endpoint.delete_child(now, ike, spis)
                });
            }
            Action::Initiate { site } if self.is_by_daemon(site.peer) => {
                let job = self.daemon_initiation(site.peer);
                self.submit(now, Purpose::Recovery(site), site.address, job);
            }
            Action::Initiate { site } => self.initiate(now, site),
            Action::Hint { site, packet } => self.hint(now, site, &packet),
            Action::Abandon { ike } => self.abandon(now, ike),
        }
    }

    /// Begins an exchange over an IKE SA.
    fn exchange(
        &mut self,
        now: Instant,
        purpose: Purpose,
        ike: IkeId,
        time: Duration,
        begin: impl FnOnce(&mut Endpoint, ikev2::IkeId) -> Result<CommandId, CommandError>,
    ) {
        let found = self.numbers.iter().find(|(_, number)| **number == ike).map(|(id, _)| *id);
        let remote = self.ledger.ike(ike).map(|entry| entry.report.remote.ip());
        let (Some(id), Some(remote)) = (found, remote) else {
            self.finish(now, purpose, Err("the IKE SA is gone".to_owned()), false, 0);
            return;
        };
        match begin(&mut self.endpoint, id) {
            Ok(command) => {
                let deadline = now + time;
                let waiting = Waiting { purpose, ike: Some(id), remote, sent: 0, since: now, deadline };
                self.commands.insert(command, waiting);
            }
            Err(error) => self.finish(now, purpose, Err(error.to_string()), false, 0),
        }
    }

    fn initiate(&mut self, now: Instant, site: Site) {
        let purpose = Purpose::Recovery(site);
        let Some(peer) = self.peers.get(site.peer.0) else {
            return;
        };
        if let Some(problem) = peer.problem.clone() {
            self.finish(now, purpose, Err(problem), false, 0);
            return;
        }
        match self.endpoint.initiate(now, &peer.config.name, true) {
            Ok((command, ike)) => {
                let deadline = now + INITIATION;
                let waiting = Waiting { purpose, ike: Some(ike), remote: site.address, sent: 0, since: now, deadline };
                self.commands.insert(command, waiting);
            }
            Err(error) => self.finish(now, purpose, Err(error.to_string()), false, 0),
        }
    }

    fn hint(&mut self, now: Instant, site: Site, packet: &Unknown) {
        // To where the packet came from (RFC 7296 1.5): behind a NAT only that port leads to the peer.
        let (remote_port, local_port) = packet.udp_ports.unwrap_or((500, 500));
        let local = SocketAddr::new(packet.dst, local_port);
        let remote = SocketAddr::new(site.address, remote_port);
        if !self.endpoint.send_invalid_spi_hint(now, local, remote, ChildSpi(packet.spi.0)) {
            tracing::debug!(%remote, "no hint: too many unprotected messages");
        }
    }

    fn abandon(&mut self, now: Instant, ike: IkeId) {
        if let Some((_, peer, sa)) = self.daemon.sas.iter().find(|(id, ..)| *id == ike) {
            let (spis, peer) = (sa.spis, *peer);
            tracing::info!(peer = self.name(peer), "the IKE daemon is to drop a dead IKE SA");
            if let Some(link) = &mut self.daemon.link
                && let Err(why) = link.submit(Job::Terminate { ike: spis })
            {
                tracing::warn!("{why}");
            }
            return;
        }
        if let Some(id) = self.numbers.iter().find(|(_, number)| **number == ike).map(|(id, _)| *id) {
            self.endpoint.abandon(now, id);
        }
    }

    /// An exchange has taken too long.
    fn late(&mut self, now: Instant, waiting: Waiting) {
        let seconds = now.saturating_duration_since(waiting.since).as_secs_f32();
        let why = format!("the peer doesn't answer, {} requests in {seconds:.1} s", waiting.sent);
        // What is still being established is given up with it.
        if let Some(ike) = waiting.ike
            && !self.numbers.contains_key(&ike)
        {
            self.endpoint.abandon(now, ike);
        }
        self.finish(now, waiting.purpose, Err(why), true, waiting.sent);
    }

    fn ended(&mut self, now: Instant, waiting: Waiting, result: Result<(), Failure>) {
        let silent = matches!(result, Err(Failure::NoResponse { .. } | Failure::PeerLostState));
        self.finish(now, waiting.purpose, result.map_err(|failure| failure.to_string()), silent, waiting.sent);
    }

    fn finish(&mut self, now: Instant, purpose: Purpose, result: Result<(), String>, silent: bool, sent: u32) {
        match purpose {
            Purpose::Recovery(site) => {
                let outcome = match result {
                    Ok(()) => Outcome::Done,
                    Err(why) if silent => Outcome::NoAnswer(why),
                    Err(why) => Outcome::Failed(why),
                };
                self.engine.outcome(now, site, outcome, sent);
            }
            Purpose::Task(task) => self.tasks.end(task, result.map(|()| "the peer has answered".to_owned())),
        }
    }

    // The IKE daemon.

    fn is_by_daemon(&self, peer: PeerId) -> bool {
        self.peers.get(peer.0).is_some_and(Peer::is_by_daemon)
    }

    fn daemon_ike(&self, peer: PeerId) -> Option<&backend::IkeSa> {
        self.daemon.sas.iter().rev().find(|(_, of, _)| *of == peer).map(|(_, _, sa)| sa)
    }

    fn daemon_initiation(&self, peer: PeerId) -> Job {
        let connection = self.peers.get(peer.0).map_or("", Peer::connection);
        Job::Initiate { connection: connection.to_owned() }
    }

    fn submit(&mut self, now: Instant, purpose: Purpose, remote: IpAddr, job: Job) {
        let submitted = match &mut self.daemon.link {
            Some(link) => link.submit(job),
            None => Err("there is no IKE daemon".to_owned()),
        };
        match submitted {
            Ok(id) => {
                // The threads keep to a time of their own.
                let waiting = Waiting { purpose, ike: None, remote, sent: 0, since: now, deadline: now };
                self.daemon.jobs.insert(id, waiting);
            }
            Err(why) => self.finish(now, purpose, Err(why), false, 0),
        }
    }

    fn daemon_done(&mut self, now: Instant, job: JobId, result: Result<(), backend::BackendError>) {
        if let Some(waiting) = self.daemon.jobs.remove(&job) {
            // What the daemon sends is its own affair, and so are its limits.
            self.finish(now, waiting.purpose, result.map_err(|error| error.to_string()), false, 0);
        } else if let Err(error) = result {
            tracing::warn!("{error}");
        }
    }

    /// Compares the daemon's SAs with those of before.
    fn daemon_sas(&mut self, now: Instant, list: Vec<backend::IkeSa>) {
        let before = std::mem::take(&mut self.daemon.sas);
        let usable =
            |sa: &backend::IkeSa| matches!(sa.state, backend::IkeState::Established | backend::IkeState::Rekeying);
        for sa in list.into_iter().filter(usable) {
            let peer = self.peers.iter().position(|peer| peer.is_by_daemon() && peer.connection() == sa.connection);
            let Some(peer) = peer.map(PeerId) else {
                continue;
            };
            let known = before.iter().find(|(_, _, old)| old.spis == sa.spis);
            let id = known.map(|(id, ..)| *id).unwrap_or_else(|| {
                self.last_number += 1;
                let id = IkeId(self.last_number);
                self.engine.ike_up(now, id, peer, sa.remote);
                id
            });
            for spi in sa.children.iter().filter_map(|child| child.spi_in) {
                let is_new =
                    known.is_none_or(|(_, _, old)| !old.children.iter().any(|child| child.spi_in == Some(spi)));
                if is_new {
                    self.engine.child_up(id, spi);
                }
            }
            let gone = known.into_iter().flat_map(|(_, _, old)| &old.children).filter_map(|child| child.spi_in);
            for spi in gone.filter(|spi| !sa.children.iter().any(|child| child.spi_in == Some(*spi))) {
                self.engine.child_down(now, id, spi);
            }
            self.daemon.sas.push((id, peer, sa));
        }
        for (id, ..) in before.iter().filter(|(id, ..)| !self.daemon.sas.iter().any(|(now, ..)| now == id)) {
            self.engine.ike_down(now, *id);
        }
        if !self.daemon.sas.is_empty() {
            self.daemon.problem = None;
        }
    }

    // The operator.

    /// The peer of that name.
    ///
    /// # Errors
    /// There is none; those that there are.
    pub fn find(&self, name: &str) -> Result<PeerId, String> {
        self.peers.iter().position(|peer| peer.config.name == name).map(PeerId).ok_or_else(|| {
            let names: Vec<&str> = self.peers.iter().map(|peer| peer.config.name.as_str()).collect();
            match names.as_slice() {
                [] => format!("there is no [[peer]] `{name}`: the agent's configuration has none"),
                names => format!("there is no [[peer]] `{name}`; there are {}", names.join(", ")),
            }
        })
    }

    /// Recovers a peer.
    ///
    /// # Errors
    /// Why not, in a sentence.
    pub fn recover(&mut self, now: Instant, peer: PeerId) -> Result<TaskId, String> {
        self.engine.recover(now, peer).map_err(|refusal| refusal.to_string())?;
        let task = self.tasks.start();
        self.recoveries.push((peer, task));
        self.settle(now);
        Ok(task)
    }

    /// Starts an IKE SA with a peer that has none.
    ///
    /// # Errors
    /// As [`Coordinator::recover`].
    pub fn initiate_by_hand(&mut self, now: Instant, peer: PeerId) -> Result<TaskId, String> {
        if !self.ike_numbers(peer).is_empty() {
            let name = self.name(peer);
            return Err(format!("there is an IKE SA with {name}; `nf-ctl recover {name}` renews what is over it"));
        }
        self.recover(now, peer)
    }

    /// Deletes the IKE SAs with a peer.
    ///
    /// # Errors
    /// As [`Coordinator::recover`].
    pub fn delete_by_hand(&mut self, now: Instant, peer: PeerId) -> Result<TaskId, String> {
        let of_daemon: Vec<_> = self.daemon.sas.iter().filter(|(_, of, _)| *of == peer).cloned().collect();
        let task = self.over_each_ike(now, peer, |endpoint, ike| endpoint.delete_ike(now, ike))?;
        for (_, _, sa) in of_daemon {
            self.submit(now, Purpose::Task(task), sa.remote.ip(), Job::Terminate { ike: sa.spis });
        }
        Ok(task)
    }

    /// Asks a peer for a sign of life.
    ///
    /// # Errors
    /// As [`Coordinator::recover`].
    pub fn dpd_by_hand(&mut self, now: Instant, peer: PeerId) -> Result<TaskId, String> {
        if self.is_by_daemon(peer) {
            return Err(
                "the IKE daemon can't be asked for a liveness check; its own dead peer detection does it".to_owned()
            );
        }
        self.over_each_ike(now, peer, |endpoint, ike| endpoint.liveness(now, ike))
    }

    fn over_each_ike(
        &mut self,
        now: Instant,
        peer: PeerId,
        begin: impl Fn(&mut Endpoint, ikev2::IkeId) -> Result<CommandId, CommandError>,
    ) -> Result<TaskId, String> {
        if self.ike_numbers(peer).is_empty() {
            return Err(format!("there is no IKE SA with {}", self.name(peer)));
        }
        let task = self.tasks.start();
        for ike in self.ledger.ikes(Some(peer)).map(|(id, _)| id).collect::<Vec<_>>() {
            self.exchange(now, Purpose::Task(task), ike, BY_HAND, &begin);
        }
        self.settle(now);
        Ok(task)
    }

    fn ike_numbers(&self, peer: PeerId) -> Vec<IkeId> {
        let ours = self.ledger.ikes(Some(peer)).map(|(id, _)| id);
        let daemons = self.daemon.sas.iter().filter(|(_, of, _)| *of == peer).map(|(id, ..)| *id);
        ours.chain(daemons).collect()
    }

    /// Begins to delete all IKE SAs, for the agent ends.
    pub fn delete_all(&mut self, now: Instant) {
        let ikes: Vec<ikev2::IkeId> = self.numbers.keys().copied().collect();
        for ike in ikes {
            // One that can't be deleted is being deleted.
            let _ = self.endpoint.delete_ike(now, ike);
        }
        self.settle(now);
    }

    /// Takes out of nf-core what IKE SAs that are gone have left there, for the agent ends.
    pub fn remove_all(&mut self) {
        for sa in self.ledger.own_lingering() {
            self.remove(sa);
        }
    }

    /// Whether IKE SAs of our own are left.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The tasks.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    fn name(&self, peer: PeerId) -> &str {
        self.peers.get(peer.0).map_or("unknown", |peer| peer.config.name.as_str())
    }

    // Reports.

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
        let reports = self.peers.iter().enumerate().map(|(place, peer)| {
            let ikes = self.ike_reports_of(PeerId(place), Instant::now());
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
            None => (0..self.peers.len()).flat_map(|place| self.ike_reports_of(PeerId(place), now)).collect(),
        }
    }

    fn ike_reports_of(&self, peer: PeerId, now: Instant) -> Vec<IkeReport> {
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

fn algorithms(suite: &ikev2::crypto::keys::IkeSuite) -> String {
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
