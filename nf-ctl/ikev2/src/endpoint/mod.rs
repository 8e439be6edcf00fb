//! The endpoint: all IKE SAs, and the only door to them.

mod connections;
mod cookie;
mod limiter;
mod unprotected;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand_core::CryptoRng;

pub use self::connections::ConnectionChanges;
use self::cookie::Cookies;
use self::limiter::Limiter;
use crate::config::{Connection, EndpointConfig};
use crate::context::{Action, Cx, Output, SpiSource};
use crate::crypto::keys::Role;
use crate::event::{CommandId, Event, Failure, IkeId, Notice, Transmit};
use crate::identity::Identity;
use crate::sa::IkeSa;
use crate::sa::exchange::{Task, init, rekey_ike};
use crate::wire::{ChildSpi, ExchangeType, Header, IkeSpi, IpSelector, Message, Notify, NotifyType, Version};

/// An IKEv2 endpoint: initiator and responder of any number of IKE SAs.
///
/// It does no I/O. The driver calls [`handle_datagram`](Self::handle_datagram) with what a socket received and
/// [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) is due; after either, and after each
/// command, it fetches all [events](Self::poll_event) and acts on them, then sends all
/// [transmits](Self::poll_transmit).
pub struct Endpoint {
    config: EndpointConfig,
    rng: Box<dyn CryptoRng + Send>,
    spis: Box<dyn SpiSource + Send>,
    connections: Vec<Arc<Connection>>,
    sas: HashMap<IkeId, IkeSa>,
    by_spi: HashMap<IkeSpi, IkeId>,
    /// Half-open IKE SAs, by what a repeated IKE_SA_INIT request has in common with the first.
    by_first_message: HashMap<(SocketAddr, IkeSpi), IkeId>,
    timers: BTreeSet<(Instant, IkeId)>,
    out: Output,
    cookies: Cookies,
    unprotected: Limiter,
    last_command: u64,
    /// The wall clock, at an instant: certificates are valid by date.
    wall: (Instant, Duration),
}

/// Why a command can't even be begun.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandError {
    /// No such connection.
    #[error("there is no connection '{0}'")]
    UnknownConnection(String),
    /// The peer has to begin.
    #[error("connection '{0}' doesn't let us initiate: its peer has no fixed address, or the configuration forbids it")]
    MayNotInitiate(String),
    /// No such IKE SA.
    #[error("there is no established IKE SA {0}")]
    UnknownIkeSa(IkeId),
}

/// An IKE SA, for a listing.
#[derive(Clone, Debug)]
pub struct IkeSummary {
    /// The IKE SA.
    pub ike: IkeId,
    /// Its connection.
    pub connection: Arc<str>,
    /// Whether we sent its first message.
    pub role: Role,
    /// The initiator's and the responder's SPI.
    pub spis: (IkeSpi, IkeSpi),
    /// Our address.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Who the peer is, once it has proved it.
    pub remote_id: Option<Identity>,
    /// Whether it is established, and neither replaced nor about to be deleted.
    pub established: bool,
    /// Its CHILD_SAs.
    pub children: Vec<ChildSummary>,
}

/// A CHILD_SA, for a listing.
#[derive(Clone, Debug)]
pub struct ChildSummary {
    /// The SPI of packets to us.
    pub inbound_spi: ChildSpi,
    /// The SPI of packets to the peer.
    pub outbound_spi: ChildSpi,
    /// The traffic on our side.
    pub local_ts: Vec<IpSelector>,
    /// The traffic on the peer's side.
    pub remote_ts: Vec<IpSelector>,
}

impl Endpoint {
    /// An endpoint without connections. The generator has to be cryptographically secure; see
    /// [`system_rng`](crate::system_rng). `wall` is the date at `now`.
    pub fn new(
        config: EndpointConfig,
        mut rng: Box<dyn CryptoRng + Send>,
        spis: Box<dyn SpiSource + Send>,
        now: Instant,
        wall: SystemTime,
    ) -> Self {
        let cookies = Cookies::new(now, rng.as_mut());
        let unprotected = Limiter::new(config.unprotected_answers_per_second, now);
        Endpoint {
            config,
            rng,
            spis,
            connections: Vec::new(),
            sas: HashMap::new(),
            by_spi: HashMap::new(),
            by_first_message: HashMap::new(),
            timers: BTreeSet::new(),
            out: Output::default(),
            cookies,
            unprotected,
            last_command: 0,
            wall: (now, wall.duration_since(UNIX_EPOCH).unwrap_or_default()),
        }
    }

    /// Sets the date anew, after the system's clock was.
    pub fn set_wall_clock(&mut self, now: Instant, wall: SystemTime) {
        self.wall = (now, wall.duration_since(UNIX_EPOCH).unwrap_or_default());
    }

    // ---- Commands ----

    /// Begins an IKE SA with a CHILD_SA. With `initial_contact` the peer is told that we know of no other one, and drops
    /// those that it has with our identity; so do we. Ends as [`Outcome::Established`](crate::Outcome::Established).
    pub fn initiate(
        &mut self,
        now: Instant,
        connection: &str,
        initial_contact: bool,
    ) -> Result<(CommandId, IkeId), CommandError> {
        let found = self.connections.iter().find(|known| known.name == connection).cloned();
        let found = found.ok_or_else(|| CommandError::UnknownConnection(connection.to_owned()))?;
        if !found.may_initiate {
            return Err(CommandError::MayNotInitiate(connection.to_owned()));
        }
        let command = self.new_command();
        let mut cx = self.cx(now);
        let sa = IkeSa::initiate(&mut cx, &found, command, initial_contact)
            .ok_or_else(|| CommandError::MayNotInitiate(connection.to_owned()))?;
        let id = sa.id;
        self.insert(sa);
        self.settle(now, id);
        Ok((command, id))
    }

    /// Makes a further CHILD_SA. Ends as [`Outcome::ChildCreated`](crate::Outcome::ChildCreated).
    pub fn create_child(&mut self, now: Instant, ike: IkeId) -> Result<CommandId, CommandError> {
        self.command(now, ike, |command| Task::CreateChild { command })
    }

    /// Makes a CHILD_SA in place of the one with that inbound SPI. Ends as
    /// [`Outcome::ChildCreated`](crate::Outcome::ChildCreated).
    pub fn rekey_child(&mut self, now: Instant, ike: IkeId, spi: ChildSpi) -> Result<CommandId, CommandError> {
        self.command(now, ike, |command| Task::RekeyChild { spi, command })
    }

    /// Makes an IKE SA in place of that one. Ends as [`Outcome::IkeRekeyed`](crate::Outcome::IkeRekeyed).
    pub fn rekey_ike(&mut self, now: Instant, ike: IkeId) -> Result<CommandId, CommandError> {
        self.command(now, ike, |command| Task::RekeyIke { command })
    }

    /// Sends DELETE for these inbound SPIs of ours, whether a CHILD_SA with them is known here or not: a peer that sends to
    /// an SPI that we have lost is told so. Ends as [`Outcome::Deleted`](crate::Outcome::Deleted).
    pub fn delete_child(&mut self, now: Instant, ike: IkeId, spis: Vec<ChildSpi>) -> Result<CommandId, CommandError> {
        self.command(now, ike, |command| Task::DeleteChildren {
            spis,
            reason: crate::event::ChildDownReason::Deleted,
            command,
        })
    }

    /// Deletes an IKE SA with all that belongs to it. Ends as [`Outcome::Deleted`](crate::Outcome::Deleted).
    pub fn delete_ike(&mut self, now: Instant, ike: IkeId) -> Result<CommandId, CommandError> {
        self.command(now, ike, |command| Task::DeleteIke { reason: Failure::Deleted, command })
    }

    /// Forgets an IKE SA, established or not, without a message: for a driver that has waited long enough.
    pub fn abandon(&mut self, now: Instant, ike: IkeId) {
        if self.sas.contains_key(&ike) {
            self.with_sa(now, ike, |sa, cx| sa.close(cx, Failure::GivenUp));
        }
    }

    /// Asks whether the peer is alive. Ends as [`Outcome::Alive`](crate::Outcome::Alive), or with the IKE SA's end.
    pub fn liveness(&mut self, now: Instant, ike: IkeId) -> Result<CommandId, CommandError> {
        self.command(now, ike, |command| Task::Liveness { command })
    }

    /// Tells the peer over its IKE SA that we don't know an SPI: for its log, it changes nothing. Ends as
    /// [`Outcome::Notified`](crate::Outcome::Notified).
    pub fn notify_invalid_spi(&mut self, now: Instant, ike: IkeId, spi: ChildSpi) -> Result<CommandId, CommandError> {
        self.command(now, ike, |command| Task::InvalidSpi { spi, command })
    }

    fn command(
        &mut self,
        now: Instant,
        ike: IkeId,
        task: impl FnOnce(Option<CommandId>) -> Task,
    ) -> Result<CommandId, CommandError> {
        if !self.sas.get(&ike).is_some_and(IkeSa::is_established) {
            return Err(CommandError::UnknownIkeSa(ike));
        }
        let command = self.new_command();
        self.with_sa(now, ike, |sa, cx| sa.push(cx, task(Some(command))));
        Ok(command)
    }

    fn new_command(&mut self) -> CommandId {
        self.last_command += 1;
        CommandId(self.last_command)
    }

    /// All IKE SAs, half-open ones of peers excepted.
    pub fn ike_sas(&self) -> impl Iterator<Item = IkeSummary> {
        self.sas.values().filter(|sa| !sa.is_half_open()).map(|sa| IkeSummary {
            ike: sa.id,
            connection: sa.connection.name.as_str().into(),
            role: sa.role,
            spis: (sa.spi_i, sa.spi_r),
            local: sa.local,
            remote: sa.remote,
            remote_id: sa.remote_id.clone(),
            established: sa.is_established(),
            children: sa
                .children
                .iter()
                .map(|child| ChildSummary {
                    inbound_spi: child.inbound,
                    outbound_spi: child.outbound,
                    local_ts: child.local_ts.clone(),
                    remote_ts: child.remote_ts.clone(),
                })
                .collect(),
        })
    }

    /// How many peers have begun and not proved who they are.
    pub fn half_open(&self) -> usize {
        self.by_first_message.len()
    }

    // ---- In ----

    /// Takes an IKE message: a datagram's payload, without the non-ESP marker that it has on port 4500.
    pub fn handle_datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, datagram: &[u8]) {
        let path = (local, remote);
        let Ok(header) = Header::parse(datagram) else { return };
        if header.version.major != Version::V2.major {
            self.refuse_version(now, path, &header);
            return;
        }
        let first = header.exchange == ExchangeType::IKE_SA_INIT && !header.flags.response && header.flags.initiator;
        if first {
            if header.responder_spi.is_zero() && !header.initiator_spi.is_zero() && header.message_id.0 == 0 {
                self.handle_first(now, path, &header, datagram);
            }
            return;
        }
        // The flag tells which of the two SPIs is the receiver's.
        let (spi, role) = match header.flags.initiator {
            true => (header.responder_spi, Role::Responder),
            false => (header.initiator_spi, Role::Initiator),
        };
        let theirs = if header.flags.initiator { header.initiator_spi } else { header.responder_spi };
        let found = self.by_spi.get(&spi).and_then(|id| self.sas.get(id)).filter(|sa| {
            let init = header.exchange == ExchangeType::IKE_SA_INIT;
            sa.role == role && (init || sa.remote_spi() == theirs)
        });
        match found.map(|sa| sa.id) {
            Some(id) => self.with_sa(now, id, |sa, cx| sa.handle(cx, path, &header, datagram)),
            None => self.handle_stray(now, path, &header, datagram),
        }
    }

    /// A peer's first message.
    fn handle_first(&mut self, now: Instant, path: (SocketAddr, SocketAddr), header: &Header, datagram: &[u8]) {
        let (local, remote) = path;
        let key = (remote, header.initiator_spi);
        if let Some(id) = self.by_first_message.get(&key).copied() {
            self.with_sa(now, id, |sa, cx| sa.handle(cx, path, header, datagram));
            return;
        }
        let candidates: Vec<_> =
            self.connections.iter().filter(|connection| connection.covers(local, remote)).cloned().collect();
        if candidates.is_empty() {
            if self.unprotected.allow(now) {
                let reason =
                    Failure::NoConnection { local: local.ip(), remote: remote.ip(), peer: "not told yet".into() };
                self.out.events.push_back(Event::Notice(Notice::Refused { remote, reason }));
                let payloads = crate::wire::Payloads::default();
                let request = init::Request { header, payloads: &payloads, datagram, local, remote };
                request.refuse(&mut self.cx(now), Notify::new(NotifyType::NO_PROPOSAL_CHOSEN));
            }
            return;
        }
        let Ok(message) = Message::parse(datagram) else { return };
        let request = init::Request { header, payloads: &message.payloads, datagram, local, remote };
        let half_open = self.half_open();
        if half_open >= self.config.max_half_open {
            return;
        }
        if half_open >= self.config.cookie_threshold {
            let Some(nonce) = message.payloads.nonce() else { return };
            let spi = header.initiator_spi;
            let shown = message.payloads.notify(NotifyType::COOKIE);
            let good = shown
                .is_some_and(|cookie| self.cookies.verify(now, self.rng.as_mut(), &cookie.data, remote, spi, &nonce.0));
            if !good {
                let cookie = self.cookies.make(now, self.rng.as_mut(), remote, spi, &nonce.0);
                request.refuse(&mut self.cx(now), Notify::with_data(NotifyType::COOKIE, cookie));
                return;
            }
        }
        let Some(sa) = request.accept(&mut self.cx(now), &candidates) else { return };
        let id = sa.id;
        self.by_first_message.insert(key, id);
        self.insert(sa);
        self.settle(now, id);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.remove(&(at, id));
            if let Some(sa) = self.sas.get_mut(&id) {
                sa.armed = None;
            }
            self.with_sa(now, id, |sa, cx| sa.handle_timeout(cx));
        }
    }

    // ---- Out ----

    /// When [`handle_timeout`](Self::handle_timeout) has to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The next event. All events are to be acted on before anything is sent.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    // ---- The machinery ----

    fn cx(&mut self, now: Instant) -> Cx<'_> {
        Cx {
            now,
            unix_time: self.wall.1 + now.saturating_duration_since(self.wall.0),
            config: &self.config,
            rng: self.rng.as_mut(),
            spis: self.spis.as_mut(),
            out: &mut self.out,
        }
    }

    fn insert(&mut self, sa: IkeSa) {
        self.by_spi.insert(sa.local_spi(), sa.id);
        self.sas.insert(sa.id, sa);
    }

    /// Lets an IKE SA do something and then sees to what came of it.
    fn with_sa(&mut self, now: Instant, id: IkeId, action: impl FnOnce(&mut IkeSa, &mut Cx<'_>)) {
        // Out of the map while it works, so that it can be lent the rest of the endpoint.
        let Some(mut sa) = self.sas.remove(&id) else { return };
        action(&mut sa, &mut self.cx(now));
        self.sas.insert(id, sa);
        self.settle(now, id);
    }

    /// Carries out the actions that an IKE SA has asked for, forgets it if it is closed, sets its timer if not.
    fn settle(&mut self, now: Instant, id: IkeId) {
        for action in std::mem::take(&mut self.out.actions) {
            match action {
                Action::Add(sa) => {
                    let id = sa.id;
                    self.insert(*sa);
                    self.arm(id);
                }
                Action::Inherit { old, new, command } => self.inherit(now, old, new, command),
                Action::Close(id, reason) => self.with_sa(now, id, |sa, cx| sa.close(cx, reason)),
                Action::Redundant(id) => self.with_sa(now, id, IkeSa::make_redundant),
                Action::Supersede { by, established_before } => self.supersede(now, by, established_before),
            }
        }
        self.arm(id);
    }

    fn arm(&mut self, id: IkeId) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        if !sa.is_half_open() && sa.role == Role::Responder {
            self.by_first_message.remove(&(sa.first_remote, sa.spi_i));
        }
        let next = sa.next_timeout();
        let armed = std::mem::replace(&mut sa.armed, next);
        if armed != next {
            if let Some(at) = armed {
                self.timers.remove(&(at, id));
            }
            if let Some(at) = next {
                self.timers.insert((at, id));
            }
        }
        if sa.is_closed()
            && let Some(sa) = self.sas.remove(&id)
        {
            self.by_spi.remove(&sa.local_spi());
        }
    }

    fn inherit(&mut self, now: Instant, old: IkeId, new: IkeId, command: Option<CommandId>) {
        let Some(mut predecessor) = self.sas.remove(&old) else { return };
        let Some(mut successor) = self.sas.remove(&new) else {
            let mut cx = self.cx(now);
            cx.done(command, old, Err(Failure::DeletedByPeer));
            predecessor.end_like_successor(&mut cx);
            self.sas.insert(old, predecessor);
            self.arm(old);
            return;
        };
        let mut cx = self.cx(now);
        successor.inherit(&mut cx, &mut predecessor);
        rekey_ike::report(&mut cx, command, old, new);
        self.sas.insert(old, predecessor);
        self.sas.insert(new, successor);
        self.arm(old);
        self.arm(new);
    }

    fn supersede(&mut self, now: Instant, by: IkeId, before: Instant) {
        let Some(stays) = self.sas.get(&by) else { return };
        let gone: Vec<IkeId> = self
            .sas
            .values()
            .filter(|sa| sa.id != by && sa.same_peer(stays) && sa.established.is_some_and(|at| at <= before))
            .map(|sa| sa.id)
            .collect();
        for old in gone {
            self.out.events.push_back(Event::Notice(Notice::SupersededBy { old, new: by }));
            self.with_sa(now, old, |sa, cx| sa.supersede(cx));
        }
    }
}
