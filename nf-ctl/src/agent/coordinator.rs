//! The agent's heart: what nf-core, the peers and the operator say comes together here, and what is done about it goes out.
//! It has no socket and no clock; [`super::daemon`] lends it both.

mod actions;
mod by_hand;
mod ike;
mod ike_daemon;
mod reload;
mod reports;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ikev2::wire::ChildSpi;
use ikev2::{CommandId, Endpoint, Transmit};
use nf_core::control::proto::{EventReport, InvalidSpiEvent, SaName, SaReport};
use nf_core::sa::lifetime::Limit;
use nf_core::sa::spec::{Direction, SaSpec};
use nf_core::types::Spi;

use self::ike_daemon::DaemonSas;
use super::daemon_link::{DaemonLink, DaemonNews};
use super::install;
use super::ledger::Ledger;
use super::peers::Peers;
use super::sad::{CoreNews, Sad};
use super::tasks::{TaskId, Tasks};
use crate::recovery::{Engine, IkeId, PeerId, Policy, Site, Trigger, Unknown, Verdict};

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

/// See the module.
pub struct Coordinator {
    peers: Peers,
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
        peers: Peers,
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
        let id = self.peers.find(name)?;
        let seconds = self.peers.get(id).filter(|peer| !peer.is_by_daemon())?.config.lifetimes.child_s;
        Some((id, Duration::from_secs(seconds + seconds / 10)))
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
                if let Some(peer) = self.peers.find(&name) {
                    self.engine.sa_wanted(now, peer);
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

    // The end.

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
        self.peers.name(peer)
    }
}
