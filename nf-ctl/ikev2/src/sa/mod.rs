//! An IKE SA: what it knows, which request of ours is under way, and how messages find their exchange.
//!
//! Each kind of exchange has a module of its own in [`exchange`], with the initiator's and the responder's side.

pub(crate) mod child;
pub(crate) mod exchange;
pub(crate) mod nat;
mod timers;
mod window;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::child::{Child, ChildState, NewChild, Path};
use self::exchange::{Exchange, Task};
use self::nat::Nat;
use self::window::{Outstanding, Received};
use crate::config::Connection;
use crate::context::Cx;
use crate::crypto::keys::{IkeKeys, IkeSuite, Role};
use crate::crypto::secret::Secret;
use crate::event::{ChildDownReason, Event, Failure, IkeId, Notice, Transmit};
use crate::identity::Identity;
use crate::wire::{
    ChildSpi, ExchangeType, Flags, Header, IkeSpi, Message, MessageId, Notify, NotifyType, Payload, PayloadType,
    Payloads, SkFrame, Version,
};

/// An IKE SA, half-open or whole.
pub(crate) struct IkeSa {
    pub id: IkeId,
    pub role: Role,
    pub spi_i: IkeSpi,
    pub spi_r: IkeSpi,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// For a responder before IKE_AUTH: the likeliest.
    pub connection: Arc<Connection>,
    pub local_id: Option<Identity>,
    pub remote_id: Option<Identity>,
    pub phase: Phase,
    /// When both sides had proved who they are.
    pub established: Option<Instant>,
    /// Where the first message came from: what it may come again from.
    pub first_remote: SocketAddr,
    suite: Option<IkeSuite>,
    keys: Option<IkeKeys>,
    nat: Nat,
    peer: PeerFeatures,
    next_request: MessageId,
    outstanding: Option<Outstanding>,
    responses: crate::wire::Reassembly,
    received: Received,
    queue: VecDeque<Task>,
    /// Tasks for later: when, and what.
    delayed: Vec<(Instant, Task)>,
    pub children: Vec<Child>,
    rekey_at: Option<Instant>,
    expire_at: Option<Instant>,
    last_heard: Instant,
    /// When an unproven hint last made us ask whether the peer is alive.
    last_hint: Option<Instant>,
    /// The driver has heard of its end already; what follows is between the peer and us.
    is_reported_down: bool,
    /// What the endpoint has in its timer queue for this IKE SA.
    pub armed: Option<Instant>,
}

/// What the peer said it can.
#[derive(Clone, Default)]
pub(crate) struct PeerFeatures {
    pub fragmentation: bool,
    /// The token by which the peer will prove that it has lost this IKE SA.
    pub qcd_token: Option<Secret>,
}

/// How far an IKE SA is.
pub(crate) enum Phase {
    /// We have sent IKE_SA_INIT or IKE_AUTH.
    Connecting,
    /// We have answered IKE_SA_INIT.
    HalfOpen(Box<exchange::init::Answered>),
    /// We have refused IKE_AUTH. It stays for a moment, so that the refusal can be repeated.
    Refused,
    Established,
    /// A successor has its children; it is about to be deleted by one side.
    Replaced,
    /// We have asked the peer to delete it.
    Closing(Failure),
    /// To be removed by the endpoint.
    Closed,
}

/// After a collision or a rekey the side that has to delete an IKE SA gets so long, then it ends by itself.
const LINGER: Duration = Duration::from_secs(60);

/// Unproven hints about an IKE SA make us ask the peer once in that time at most.
const HINT_INTERVAL: Duration = Duration::from_secs(10);

impl IkeSa {
    fn new(
        id: IkeId,
        role: Role,
        spis: (IkeSpi, IkeSpi),
        path: (SocketAddr, SocketAddr),
        connection: Arc<Connection>,
        now: Instant,
    ) -> Self {
        IkeSa {
            id,
            role,
            spi_i: spis.0,
            spi_r: spis.1,
            local: path.0,
            remote: path.1,
            connection,
            local_id: None,
            remote_id: None,
            phase: Phase::Connecting,
            established: None,
            first_remote: path.1,
            suite: None,
            keys: None,
            nat: Nat::default(),
            peer: PeerFeatures::default(),
            next_request: MessageId(0),
            outstanding: None,
            responses: crate::wire::Reassembly::default(),
            received: Received::default(),
            queue: VecDeque::new(),
            delayed: Vec::new(),
            children: Vec::new(),
            rekey_at: None,
            expire_at: None,
            last_heard: now,
            last_hint: None,
            is_reported_down: false,
            armed: None,
        }
    }

    /// The SPI by which messages to us name this IKE SA.
    pub fn local_spi(&self) -> IkeSpi {
        match self.role {
            Role::Initiator => self.spi_i,
            Role::Responder => self.spi_r,
        }
    }

    pub fn remote_spi(&self) -> IkeSpi {
        match self.role {
            Role::Initiator => self.spi_r,
            Role::Responder => self.spi_i,
        }
    }

    /// The SPI of a successor that we have asked the peer for.
    pub fn offered_spi(&self) -> Option<IkeSpi> {
        match &self.outstanding.as_ref()?.exchange {
            Exchange::RekeyIke(rekey) => Some(rekey.spi),
            _ => None,
        }
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    pub fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Established)
    }

    /// True where the peer began and hasn't proved who it is.
    pub fn is_half_open(&self) -> bool {
        matches!(self.phase, Phase::HalfOpen(_) | Phase::Refused)
    }

    fn path(&self) -> Path<'_> {
        Path { ike: self.id, connection: &self.connection, local: self.local, remote: self.remote, nat: self.nat }
    }

    fn keys(&self) -> Result<&IkeKeys, Failure> {
        self.keys.as_ref().ok_or_else(|| Failure::Internal("the IKE SA has no keys yet".into()))
    }

    fn header(&self, kind: ExchangeType, response: bool, message_id: MessageId) -> Header {
        Header {
            initiator_spi: self.spi_i,
            responder_spi: self.spi_r,
            version: Version::V2,
            exchange: kind,
            flags: Flags { initiator: self.role == Role::Initiator, higher_version: false, response },
            message_id,
        }
    }

    // ---- Sending ----

    fn transmit(&self, cx: &mut Cx<'_>, datagrams: &[Vec<u8>]) {
        for payload in datagrams {
            let (local, remote) = (self.local, self.remote);
            cx.out.transmits.push_back(Transmit { local, remote, payload: payload.clone() });
        }
    }

    /// Encrypts a message, in fragments where it is long and the peer knows them.
    fn seal(&mut self, cx: &mut Cx<'_>, header: &Header, payloads: &Payloads<'_>) -> Result<Vec<Vec<u8>>, Failure> {
        let internal = |error: &dyn std::fmt::Display| Failure::Internal(error.to_string());
        let keys = self.keys.as_mut().ok_or_else(|| Failure::Internal("the IKE SA has no keys yet".into()))?;
        let chain = payloads.emit().map_err(|error| internal(&error))?;
        let layout = keys.outbound.layout();
        let frames = if self.peer.fragmentation {
            SkFrame::fragments(header, &chain, layout, self.connection.fragment_size)
        } else {
            SkFrame::new(header, &chain, layout).map(|frame| vec![frame])
        };
        frames
            .map_err(|error| internal(&error))?
            .into_iter()
            .map(|frame| keys.outbound.seal(frame, cx.rng).map_err(|error| internal(&error)))
            .collect()
    }

    /// Sends an encrypted request.
    fn request(&mut self, cx: &mut Cx<'_>, kind: ExchangeType, payloads: Vec<Payload<'_>>, exchange: Exchange) {
        let id = self.next_request;
        let sealed = id.next().ok_or_else(|| Failure::Internal("the message IDs are used up".into()));
        let header = self.header(kind, false, id);
        let sealed = sealed.and_then(|next| Ok((next, self.seal(cx, &header, &payloads.into())?)));
        match sealed {
            Ok((next, datagrams)) => {
                self.next_request = next;
                self.send_request(cx, id, kind, datagrams, exchange);
            }
            Err(failure) => {
                exchange.abandon(self, cx, &failure);
                self.close(cx, failure);
            }
        }
    }

    fn send_request(
        &mut self,
        cx: &mut Cx<'_>,
        id: MessageId,
        kind: ExchangeType,
        datagrams: Vec<Vec<u8>>,
        exchange: Exchange,
    ) {
        self.transmit(cx, &datagrams);
        let rules = self.connection.retransmit;
        self.outstanding = Some(Outstanding::new(id, kind, exchange, datagrams, &rules, cx));
    }

    /// Answers the peer's request `received.expected` and keeps the answer.
    fn respond(&mut self, cx: &mut Cx<'_>, kind: ExchangeType, payloads: Vec<Payload<'_>>) {
        let id = self.received.expected;
        let header = self.header(kind, true, id);
        match (self.seal(cx, &header, &payloads.into()), id.next()) {
            (Ok(datagrams), Some(next)) => {
                self.received.expected = next;
                self.transmit(cx, &datagrams);
                self.received.response = datagrams;
            }
            (Err(failure), _) => self.close(cx, failure),
            (_, None) => self.close(cx, Failure::Internal("the message IDs are used up".into())),
        }
    }

    fn respond_notify(&mut self, cx: &mut Cx<'_>, kind: ExchangeType, notify: Notify<'_>) {
        self.respond(cx, kind, vec![Payload::Notify(notify)]);
    }

    // ---- Receiving ----

    /// Takes a datagram that names this IKE SA by our SPI and its right end.
    pub fn handle(&mut self, cx: &mut Cx<'_>, path: (SocketAddr, SocketAddr), header: &Header, datagram: &[u8]) {
        if header.exchange == ExchangeType::IKE_SA_INIT {
            exchange::init::handle(self, cx, path, header, datagram);
        } else if header.flags.response {
            self.handle_response(cx, path, header, datagram);
        } else {
            self.handle_request(cx, path, header, datagram);
        }
        self.pump(cx);
    }

    fn handle_response(&mut self, cx: &mut Cx<'_>, path: (SocketAddr, SocketAddr), header: &Header, datagram: &[u8]) {
        let Ok(message) = Message::parse(datagram) else { return };
        if message.sk.is_none() {
            exchange::informational::handle_unprotected(self, cx, path.1, &message);
            return;
        }
        let awaited =
            |outstanding: &Outstanding| (outstanding.id, outstanding.kind) == (header.message_id, header.exchange);
        if !self.outstanding.as_ref().is_some_and(awaited) {
            return;
        }
        let Some((first, content)) = self.open(&message, true) else { return };
        self.heard(cx, path);
        let Some(outstanding) = self.outstanding.take() else { return };
        match Payloads::parse(first, &content) {
            Ok(payloads) => outstanding.exchange.conclude(self, cx, &payloads),
            Err(error) => {
                // An answer that can't be understood leaves the two sides with different ideas of what exists.
                let failure = Failure::InvalidMessage(error.to_string());
                outstanding.exchange.abandon(self, cx, &failure);
                self.close(cx, failure);
            }
        }
    }

    fn handle_request(&mut self, cx: &mut Cx<'_>, path: (SocketAddr, SocketAddr), header: &Header, datagram: &[u8]) {
        let Ok(message) = Message::parse(datagram) else { return };
        if message.sk.is_none() {
            // Unprotected requests over an IKE SA are nobody's: a forger's at best.
            return;
        }
        let again = header.message_id.next() == Some(self.received.expected);
        if again {
            // One fragment of a repeated request is answered, not each (RFC 7383 2.6.1).
            let first = message.sk.and_then(|sk| sk.fragment).is_none_or(|fragment| fragment.number() == 1);
            let authentic =
                first && self.keys.as_ref().zip(message.sk).is_some_and(|(keys, sk)| keys.inbound.open(&sk).is_ok());
            if authentic {
                let response = std::mem::take(&mut self.received.response);
                self.transmit(cx, &response);
                self.received.response = response;
            }
            return;
        }
        if header.message_id != self.received.expected || matches!(self.phase, Phase::Refused | Phase::Closed) {
            return;
        }
        let Some((first, content)) = self.open(&message, false) else { return };
        self.heard(cx, path);
        let kind = header.exchange;
        let payloads = match Payloads::parse(first, &content) {
            Ok(payloads) => payloads,
            Err(error) => {
                self.respond_notify(cx, kind, error.notify());
                return;
            }
        };
        match (kind, &self.phase) {
            (ExchangeType::IKE_AUTH, Phase::HalfOpen(_)) => exchange::auth::respond(self, cx, &payloads),
            (_, Phase::HalfOpen(_) | Phase::Connecting) => {
                self.respond_notify(cx, kind, Notify::new(NotifyType::INVALID_SYNTAX));
            }
            (ExchangeType::CREATE_CHILD_SA, _) => exchange::create::respond(self, cx, &payloads),
            (ExchangeType::INFORMATIONAL, _) => exchange::informational::respond(self, cx, &payloads),
            _ => self.respond_notify(cx, kind, Notify::new(NotifyType::INVALID_SYNTAX)),
        }
    }

    /// Decrypts a message, or a fragment: then there is something when it was the last one.
    fn open(&mut self, message: &Message<'_>, response: bool) -> Option<(PayloadType, zeroize::Zeroizing<Vec<u8>>)> {
        let sk = message.sk?;
        let keys = self.keys.as_ref()?;
        let Some(fragment) = sk.fragment else {
            return Some((sk.first, keys.inbound.open(&sk).ok()?));
        };
        let id = message.header.message_id;
        let reassembly = if response { &mut self.responses } else { &mut self.received.reassembly };
        reassembly.check(id, fragment).ok()?;
        let content = keys.inbound.open(&sk).ok()?;
        let chain = reassembly.add(id, fragment, sk.first, &content).ok()??;
        Some((chain.first, chain.octets.into()))
    }

    /// Notes that the peer lives, and where: its address may change behind a NAT, and ports do between IKE_SA_INIT and
    /// IKE_AUTH (RFC 7296 2.23).
    fn heard(&mut self, cx: &mut Cx<'_>, (local, remote): (SocketAddr, SocketAddr)) {
        self.last_heard = cx.now;
        if (self.local, self.remote) == (local, remote) {
            return;
        }
        match self.phase {
            Phase::HalfOpen(_) => (self.local, self.remote) = (local, remote),
            Phase::Established if self.nat.remote => {
                (self.local, self.remote) = (local, remote);
                cx.event(Event::Notice(Notice::AddressChanged { ike: self.id, local, remote }));
            }
            _ => {}
        }
    }

    // ---- Tasks ----

    /// Queues something to do.
    pub fn push(&mut self, cx: &mut Cx<'_>, task: Task) {
        self.queue.push_back(task);
        self.pump(cx);
    }

    fn push_later(&mut self, at: Instant, task: Task) {
        self.delayed.push((at, task));
    }

    /// Begins the next task, if no request is under way. What waits at an IKE SA that was replaced is left for its
    /// successor, but for the goodbye.
    fn pump(&mut self, cx: &mut Cx<'_>) {
        while self.outstanding.is_none() {
            let next = match self.phase {
                Phase::Established => self.queue.pop_front(),
                Phase::Replaced | Phase::Closing(_) => {
                    let farewell = self.queue.iter().position(Task::is_farewell);
                    farewell.and_then(|at| self.queue.remove(at))
                }
                Phase::Connecting | Phase::HalfOpen(_) | Phase::Refused | Phase::Closed => None,
            };
            let Some(task) = next else { return };
            task.start(self, cx);
        }
    }

    /// Asks the peer whether it is alive, because somebody says it isn't. `false` where that was done a moment ago.
    pub fn check_on_hint(&mut self, cx: &mut Cx<'_>) -> bool {
        if !self.is_established() || self.last_hint.is_some_and(|last| cx.now < last + HINT_INTERVAL) {
            return false;
        }
        self.last_hint = Some(cx.now);
        if self.outstanding.is_none() && self.queue.is_empty() {
            self.push(cx, Task::Liveness { command: None });
        }
        true
    }

    // ---- Children ----

    /// Takes a CHILD_SA in and reports it.
    fn install(&mut self, cx: &mut Cx<'_>, new: NewChild, replaces: Option<ChildSpi>) -> ChildSpi {
        let NewChild { child, mut up } = new;
        // The peer may have deleted it meanwhile.
        up.replaces = replaces.filter(|old| self.children.iter().any(|child| child.inbound == *old));
        let spi = child.inbound;
        self.children.push(child);
        cx.event(Event::ChildUp(up));
        spi
    }

    fn child_mut(&mut self, inbound: ChildSpi) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.inbound == inbound)
    }

    fn remove_child(&mut self, cx: &mut Cx<'_>, inbound: ChildSpi, reason: ChildDownReason) -> bool {
        let Some(at) = self.children.iter().position(|child| child.inbound == inbound) else { return false };
        let child = self.children.swap_remove(at);
        cx.event(Event::ChildDown {
            ike: self.id,
            inbound_spi: child.inbound,
            outbound_spi: child.outbound,
            reason: if child.state == ChildState::Replaced { ChildDownReason::Rekeyed } else { reason },
        });
        true
    }

    // ---- The beginning and the end ----

    fn establish(&mut self, cx: &mut Cx<'_>) {
        self.phase = Phase::Established;
        self.established = Some(cx.now);
        self.start_lifetime(cx);
        let (Some(suite), Some(local_id), Some(remote_id)) =
            (self.suite, self.local_id.clone(), self.remote_id.clone())
        else {
            self.close(cx, Failure::Internal("the IKE SA has no suite or identities".into()));
            return;
        };
        cx.event(Event::IkeUp(crate::event::IkeUp {
            ike: self.id,
            connection: self.connection.name.as_str().into(),
            role: self.role,
            spis: (self.spi_i, self.spi_r),
            local: self.local,
            remote: self.remote,
            local_id,
            remote_id,
            suite,
            nat: (self.nat.local, self.nat.remote),
        }));
    }

    fn start_lifetime(&mut self, cx: &mut Cx<'_>) {
        let lifetime = self.connection.ike_lifetime;
        self.rekey_at = Some(cx.now + lifetime.rekey - cx.jitter(lifetime.jitter));
        self.expire_at = Some(cx.now + lifetime.hard);
    }

    /// The IKE SA ends, with all that belongs to it. The peer isn't told.
    pub fn close(&mut self, cx: &mut Cx<'_>, reason: Failure) {
        if self.is_closed() {
            return;
        }
        let was_replaced = matches!(self.phase, Phase::Replaced);
        let was_half_open = self.is_half_open();
        self.phase = Phase::Closed;
        self.drop_children(cx, ChildDownReason::IkeDown);
        let reason = if was_replaced { Failure::Rekeyed } else { reason };
        if let Some(outstanding) = self.outstanding.take() {
            outstanding.exchange.abandon(self, cx, &reason);
        }
        self.drop_tasks(cx, &reason);
        if !was_half_open {
            self.report_down(cx, reason);
        }
    }

    fn report_down(&mut self, cx: &mut Cx<'_>, reason: Failure) {
        if std::mem::replace(&mut self.is_reported_down, true) {
            return;
        }
        cx.event(Event::IkeDown {
            ike: self.id,
            connection: self.remote_id.as_ref().map(|_| self.connection.name.as_str().into()),
            remote: self.remote,
            reason,
        });
    }

    /// Its connection isn't the one any more that it was negotiated by. For us it ends now; the peer is told once the request
    /// that is under way has its answer.
    pub fn retire(&mut self, cx: &mut Cx<'_>, reason: Failure) {
        // Others end already, or nobody has proved anything.
        if !matches!(self.phase, Phase::Connecting | Phase::Established) {
            return;
        }
        if let Some(outstanding) = &mut self.outstanding {
            // The peer keeps nothing of IKE_SA_INIT for long.
            if matches!(outstanding.exchange, Exchange::Init(_)) {
                return self.close(cx, reason);
            }
            outstanding.hurry();
            cx.done(outstanding.exchange.take_command(), self.id, Err(reason.clone()));
        }
        let was_established = self.is_established();
        self.phase = Phase::Closing(reason.clone());
        self.drop_children(cx, ChildDownReason::Reconfigured);
        self.drop_tasks(cx, &reason);
        self.report_down(cx, reason.clone());
        if was_established {
            self.push(cx, Task::DeleteIke { reason, command: None });
        }
    }

    fn drop_tasks(&mut self, cx: &mut Cx<'_>, reason: &Failure) {
        let waiting = std::mem::take(&mut self.queue);
        let delayed = std::mem::take(&mut self.delayed).into_iter().map(|(_, task)| task);
        for task in waiting.into_iter().chain(delayed) {
            task.fail(self.id, cx, reason.clone());
        }
    }

    fn drop_children(&mut self, cx: &mut Cx<'_>, reason: ChildDownReason) {
        for child in std::mem::take(&mut self.children) {
            cx.event(Event::ChildDown {
                ike: self.id,
                inbound_spi: child.inbound,
                outbound_spi: child.outbound,
                reason,
            });
        }
    }

    /// A new IKE SA that goes on where this one ends: same peer, same path, other SPIs and keys.
    fn successor(
        &self,
        id: IkeId,
        role: Role,
        spis: (IkeSpi, IkeSpi),
        suite: IkeSuite,
        keys: IkeKeys,
        cx: &mut Cx<'_>,
    ) -> IkeSa {
        let path = (self.local, self.remote);
        let mut new = IkeSa::new(id, role, spis, path, Arc::clone(&self.connection), cx.now);
        new.local_id.clone_from(&self.local_id);
        new.remote_id.clone_from(&self.remote_id);
        new.phase = Phase::Established;
        new.established = self.established;
        new.suite = Some(suite);
        new.keys = Some(keys);
        new.nat = self.nat;
        new.peer = self.peer.clone();
        new.peer.qcd_token = None;
        new.start_lifetime(cx);
        new
    }

    /// Takes over what belonged to a predecessor.
    pub fn inherit(&mut self, cx: &mut Cx<'_>, old: &mut IkeSa) {
        self.children.append(&mut old.children);
        self.delayed.append(&mut old.delayed);
        let (farewells, rest): (VecDeque<_>, VecDeque<_>) = old.queue.drain(..).partition(Task::is_farewell);
        old.queue = farewells;
        self.queue.extend(rest);
        self.last_heard = self.last_heard.max(old.last_heard);
        old.make_redundant(cx);
        if let Some(suite) = self.suite {
            let spis = (self.spi_i, self.spi_r);
            cx.event(Event::IkeRekeyed { old: old.id, new: self.id, spis, suite });
        }
        self.pump(cx);
        old.pump(cx);
    }

    /// The successor is gone before it could take over, for the peer has deleted it: what it would have taken over ends here.
    pub fn end_like_successor(&mut self, cx: &mut Cx<'_>) {
        let reason = Failure::DeletedByPeer;
        self.make_redundant(cx);
        self.drop_children(cx, ChildDownReason::IkeDown);
        self.drop_tasks(cx, &reason);
        self.report_down(cx, reason);
    }

    /// It has a successor, or has lost a collision of rekeys: whoever made it deletes it, and it stays for a moment so that a
    /// DELETE of the peer's has an answer.
    pub fn make_redundant(&mut self, cx: &mut Cx<'_>) {
        self.phase = Phase::Replaced;
        self.rekey_at = None;
        self.expire_at = Some(cx.now + LINGER);
    }

    /// True where both prove the same two identities to each other.
    pub fn same_peer(&self, other: &IkeSa) -> bool {
        let matches =
            |a: &Option<Identity>, b: &Option<Identity>| a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| a.matches(b));
        matches(&self.remote_id, &other.remote_id) && matches(&self.local_id, &other.local_id)
    }

    /// The peer says that it knows of no other IKE SA than a newer one. Should it be mistaken, because both began at once,
    /// it hears of this one's end.
    pub fn supersede(&mut self, cx: &mut Cx<'_>) {
        let reason = Failure::InitialContact;
        if !self.is_established() || self.outstanding.is_some() {
            self.close(cx, reason);
            return;
        }
        self.drop_children(cx, ChildDownReason::IkeDown);
        self.phase = Phase::Closing(reason.clone());
        self.push(cx, Task::DeleteIke { reason, command: None });
    }
}
