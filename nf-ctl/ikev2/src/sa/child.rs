//! CHILD_SAs and how they are negotiated, in IKE_AUTH and in CREATE_CHILD_SA alike (RFC 7296 1.3.1, 2.9, 2.17).

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::nat::Nat;
use crate::config::{Connection, Mode};
use crate::context::Cx;
use crate::crypto::dh::{DhGroup, KeyExchange};
use crate::crypto::esp::EspSuite;
use crate::crypto::keys::{IkeKeys, Role};
use crate::crypto::secret::Secret;
use crate::event::{ChildUp, Failure, IkeId, SaKind};
use crate::proposal::{accept_esp_answer, choose_esp, offer_esp};
use crate::selector::narrow;
use crate::wire::{self, ChildSpi, IpSelector, Ke, Notify, NotifyType, Payload, Payloads, Spi, TrafficSelector, Ts};

/// A CHILD_SA that exists. Its keys are with whoever was told by [`ChildUp`].
#[derive(Debug)]
pub(crate) struct Child {
    pub inbound: ChildSpi,
    pub outbound: ChildSpi,
    pub mode: Mode,
    pub local_ts: Vec<IpSelector>,
    pub remote_ts: Vec<IpSelector>,
    pub rekey_at: Instant,
    pub expire_at: Instant,
    pub state: ChildState,
}

/// What is going on with a CHILD_SA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChildState {
    Installed,
    /// Our request to rekey it is under way.
    Rekeying,
    /// Another one has taken its place; who made that one will delete this one.
    Replaced,
    /// Our request to delete it is under way.
    Deleting,
}

/// The path and the peer of an IKE SA, as far as its children are concerned.
#[derive(Clone, Copy)]
pub(crate) struct Path<'a> {
    pub ike: IkeId,
    pub connection: &'a Connection,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub nat: Nat,
}

impl Path<'_> {
    fn reserve(&self, cx: &mut Cx<'_>) -> Result<ChildSpi, Failure> {
        cx.spis.reserve(self.local.ip(), self.remote.ip()).map_err(|error| Failure::NoSpi(error.to_string()))
    }

    pub fn release(&self, cx: &mut Cx<'_>, spi: ChildSpi) {
        cx.spis.release(self.local.ip(), self.remote.ip(), spi);
    }

    /// What both sides sign up to: the child for our list, and the event for the driver.
    fn child(&self, cx: &mut Cx<'_>, terms: Terms, keys: &IkeKeys, role: Role, nonces: (&[u8], &[u8])) -> NewChild {
        let Terms { inbound, outbound, suite, mode, local_ts, remote_ts, shared } = terms;
        let lifetime = self.connection.child_lifetime;
        let child = Child {
            inbound,
            outbound,
            mode,
            local_ts: local_ts.clone(),
            remote_ts: remote_ts.clone(),
            rekey_at: cx.now + lifetime.rekey - cx.jitter(lifetime.jitter),
            expire_at: cx.now + lifetime.hard,
            state: ChildState::Installed,
        };
        let up = Box::new(ChildUp {
            ike: self.ike,
            connection: self.connection.name.as_str().into(),
            inbound_spi: inbound,
            outbound_spi: outbound,
            suite,
            keys: keys.child_keys(suite, role, shared.as_ref(), nonces.0, nonces.1),
            mode,
            local_ts,
            remote_ts,
            local: self.local,
            remote: self.remote,
            udp_encap: self.nat.any(),
            peer_may_move: self.nat.remote && !self.nat.local,
            replaces: None,
            role,
        });
        NewChild { child, up }
    }
}

/// What was agreed on.
struct Terms {
    inbound: ChildSpi,
    outbound: ChildSpi,
    suite: EspSuite,
    mode: Mode,
    local_ts: Vec<IpSelector>,
    remote_ts: Vec<IpSelector>,
    shared: Option<Secret>,
}

/// A CHILD_SA that was just made.
pub(crate) struct NewChild {
    pub child: Child,
    pub up: Box<ChildUp>,
}

/// What we asked a peer for.
#[derive(Debug)]
pub(crate) struct Offer {
    pub spi: ChildSpi,
    pub mode: Mode,
    local_ts: Vec<IpSelector>,
    remote_ts: Vec<IpSelector>,
    /// Our half of a fresh exchange.
    key_exchange: Option<KeyExchange>,
    with_groups: bool,
}

impl Offer {
    /// Reserves an SPI. Selectors are the connection's, or those of the CHILD_SA to be replaced.
    pub fn new(path: &Path<'_>, cx: &mut Cx<'_>, replaced: Option<&Child>, in_auth: bool) -> Result<Self, Failure> {
        let connection = path.connection;
        let resolve = |selectors: &[crate::selector::Selector], address: IpAddr| {
            selectors.iter().map(|selector| selector.resolve(address)).collect::<Vec<_>>()
        };
        let (local_ts, remote_ts, mode) = match replaced {
            Some(child) => (child.local_ts.clone(), child.remote_ts.clone(), child.mode),
            None => (
                resolve(&connection.local_ts, path.local.ip()),
                resolve(&connection.remote_ts, path.remote.ip()),
                connection.mode,
            ),
        };
        let group = connection.esp_proposals.iter().find_map(|proposal| proposal.groups().first().copied());
        let mut offer =
            Offer { spi: path.reserve(cx)?, mode, local_ts, remote_ts, key_exchange: None, with_groups: !in_auth };
        if !in_auth {
            offer.key_exchange = group.map(|group| KeyExchange::generate(group, cx.rng));
        }
        Ok(offer)
    }

    /// Begins again with the group that the peer wants.
    pub fn use_group(&mut self, path: &Path<'_>, group: wire::DhGroup, cx: &mut Cx<'_>) -> bool {
        let wanted = DhGroup::from_transform_id(group.0);
        let ours = path.connection.esp_proposals.iter().flat_map(|proposal| proposal.groups());
        let Some(group) = ours.copied().find(|group| Some(*group) == wanted) else { return false };
        self.key_exchange = Some(KeyExchange::generate(group, cx.rng));
        true
    }

    /// SA, KE, TSi, TSr and the notifies, where we are the exchange's initiator. The nonce stands between, elsewhere.
    pub fn payloads(&self, path: &Path<'_>, nonce: Option<&[u8]>) -> Vec<Payload<'static>> {
        let mut payloads =
            vec![Payload::Sa(offer_esp(&path.connection.esp_proposals, &self.spi.into(), self.with_groups))];
        payloads.extend(nonce.map(|nonce| Payload::Nonce(wire::Nonce::new(nonce.to_vec()))));
        payloads.extend(self.key_exchange.as_ref().map(ke_payload));
        payloads.push(Payload::TsI(ts_payload(&self.local_ts)));
        payloads.push(Payload::TsR(ts_payload(&self.remote_ts)));
        if self.mode == Mode::Transport {
            payloads.push(Payload::Notify(Notify::new(NotifyType::USE_TRANSPORT_MODE)));
        }
        payloads
    }

    /// Takes the peer's answer. The SPI isn't released on failure: the offer is, by its owner.
    pub fn conclude(
        &self,
        path: &Path<'_>,
        cx: &mut Cx<'_>,
        keys: &IkeKeys,
        answer: &Payloads<'_>,
        nonces: (&[u8], &[u8]),
    ) -> Result<NewChild, Failure> {
        if let Some(notify) = answer.error() {
            return Err(refusal(notify.kind));
        }
        let (Some(sa), Some(ts_i), Some(ts_r)) = (answer.sa(), answer.ts_i(), answer.ts_r()) else {
            return Err(Failure::InvalidMessage("the answer has no SA, TSi or TSr payload".into()));
        };
        let chosen = accept_esp_answer(&path.connection.esp_proposals, sa, self.with_groups)
            .ok_or(Failure::NoProposalChosen(SaKind::Child))?;
        let outbound = peer_spi(&chosen.spi)?;
        let shared = match (chosen.suite.group, &self.key_exchange) {
            (None, _) => None,
            (Some(group), Some(ours)) if ours.group() == group => Some(agree(ours, answer.ke())?),
            (Some(_), _) => return Err(Failure::InvalidMessage("it chose a group that no value was sent for".into())),
        };
        let (mut ours, mut theirs) = (selectors(ts_i), selectors(ts_r));
        if self.mode == Mode::Transport && path.nat.any() {
            substitute(&mut ours, path.local.ip());
            substitute(&mut theirs, path.remote.ip());
        }
        let (local_ts, remote_ts) = (narrow(&self.local_ts, &ours), narrow(&self.remote_ts, &theirs));
        if local_ts.is_empty() || remote_ts.is_empty() {
            return Err(Failure::TsUnacceptable);
        }
        let mode = mode_of(answer);
        if mode != self.mode {
            return Err(Failure::ModeUnacceptable);
        }
        let terms = Terms { inbound: self.spi, outbound, suite: chosen.suite, mode, local_ts, remote_ts, shared };
        Ok(path.child(cx, terms, keys, Role::Initiator, nonces))
    }
}

/// Why a peer's request is refused: what the peer is told, and what the operator is.
pub(crate) struct Refusal {
    pub notify: Notify<'static>,
    pub reason: Failure,
}

impl Refusal {
    pub fn new(notify: Notify<'static>, reason: Failure) -> Self {
        Refusal { notify, reason }
    }

    fn of(kind: NotifyType, reason: Failure) -> Self {
        Refusal { notify: Notify::new(kind), reason }
    }
}

/// Answers a peer's request for a CHILD_SA: the child, and the payloads of the answer.
pub(crate) fn respond(
    path: &Path<'_>,
    cx: &mut Cx<'_>,
    keys: &IkeKeys,
    request: &Payloads<'_>,
    nonces: (&[u8], &[u8]),
    in_auth: bool,
) -> Result<(NewChild, Vec<Payload<'static>>), Refusal> {
    let connection = path.connection;
    let (Some(sa), Some(ts_i), Some(ts_r)) = (request.sa(), request.ts_i(), request.ts_r()) else {
        let reason = Failure::InvalidMessage("the request has no SA, TSi or TSr payload".into());
        return Err(Refusal::of(NotifyType::INVALID_SYNTAX, reason));
    };
    let sent_group = request.ke().map(|ke| ke.group.0);
    let no_proposal = || Refusal::of(NotifyType::NO_PROPOSAL_CHOSEN, Failure::NoProposalChosen(SaKind::Child));
    let chosen = choose_esp(&connection.esp_proposals, sa, !in_auth, sent_group).ok_or_else(no_proposal)?;
    let outbound = peer_spi(&chosen.spi).map_err(|reason| Refusal::of(NotifyType::INVALID_SYNTAX, reason))?;
    let key_exchange = match chosen.suite.group {
        None => None,
        Some(group) if sent_group == Some(group.transform_id()) => Some(KeyExchange::generate(group, cx.rng)),
        Some(group) => {
            let notify = Notify::invalid_ke(wire::DhGroup(group.transform_id()));
            return Err(Refusal::new(notify, Failure::PeerNotify(NotifyType::INVALID_KE_PAYLOAD)));
        }
    };
    let shared = match &key_exchange {
        None => None,
        Some(ours) => {
            Some(agree(ours, request.ke()).map_err(|reason| Refusal::of(NotifyType::INVALID_SYNTAX, reason))?)
        }
    };
    // A peer in transport mode behind a NAT names the address that it has there; it is known here by another one
    // (RFC 7296 2.23.1).
    let mode = match (mode_of(request), connection.mode) {
        (Mode::Transport, Mode::Transport) => Mode::Transport,
        (_, Mode::Tunnel) => Mode::Tunnel,
        (Mode::Tunnel, Mode::Transport) => {
            return Err(Refusal::of(NotifyType::NO_PROPOSAL_CHOSEN, Failure::ModeUnacceptable));
        }
    };
    let (mut theirs, mut ours) = (selectors(ts_i), selectors(ts_r));
    if mode == Mode::Transport && path.nat.any() {
        substitute(&mut theirs, path.remote.ip());
        substitute(&mut ours, path.local.ip());
    }
    let resolve = |selectors: &[crate::selector::Selector], address: IpAddr| {
        selectors.iter().map(|selector| selector.resolve(address)).collect::<Vec<_>>()
    };
    let local_ts = narrow(&resolve(&connection.local_ts, path.local.ip()), &ours);
    let remote_ts = narrow(&resolve(&connection.remote_ts, path.remote.ip()), &theirs);
    if local_ts.is_empty() || remote_ts.is_empty() {
        return Err(Refusal::of(NotifyType::TS_UNACCEPTABLE, Failure::TsUnacceptable));
    }
    let inbound = path.reserve(cx).map_err(|reason| Refusal::of(NotifyType::NO_ADDITIONAL_SAS, reason))?;
    let mut answer = vec![Payload::Sa(chosen.answer(inbound.into()))];
    if !in_auth {
        answer.push(Payload::Nonce(wire::Nonce::new(nonces.1.to_vec())));
    }
    answer.extend(key_exchange.as_ref().map(ke_payload));
    answer.push(Payload::TsI(ts_payload(&remote_ts)));
    answer.push(Payload::TsR(ts_payload(&local_ts)));
    if mode == Mode::Transport {
        answer.push(Payload::Notify(Notify::new(NotifyType::USE_TRANSPORT_MODE)));
    }
    let terms = Terms { inbound, outbound, suite: chosen.suite, mode, local_ts, remote_ts, shared };
    Ok((path.child(cx, terms, keys, Role::Responder, nonces), answer))
}

/// Puts an address in place of the only one that a selector has.
fn substitute(selectors: &mut [IpSelector], address: IpAddr) {
    for selector in selectors {
        if selector.addresses.start() == selector.addresses.end() {
            selector.addresses = wire::AddressRange::single(address);
        }
    }
}

fn mode_of(payloads: &Payloads<'_>) -> Mode {
    match payloads.notify(NotifyType::USE_TRANSPORT_MODE) {
        Some(_) => Mode::Transport,
        None => Mode::Tunnel,
    }
}

/// SPIs up to 255 are reserved (RFC 4303 2.1).
fn peer_spi(spi: &Spi) -> Result<ChildSpi, Failure> {
    match spi {
        Spi::Child(spi) if spi.0 > 255 => Ok(*spi),
        _ => Err(Failure::InvalidMessage("the proposal has no SPI that ESP could use".into())),
    }
}

pub(crate) fn ke_payload(key_exchange: &KeyExchange) -> Payload<'static> {
    let group = wire::DhGroup(key_exchange.group().transform_id());
    Payload::Ke(Ke::new(group, key_exchange.public_value().to_vec()))
}

/// The shared secret with the value in a KE payload, which must be of the same group.
pub(crate) fn agree(ours: &KeyExchange, ke: Option<&Ke<'_>>) -> Result<Secret, Failure> {
    let ke = ke
        .filter(|ke| ke.group.0 == ours.group().transform_id())
        .ok_or_else(|| Failure::InvalidMessage(format!("no KE payload with a value for {}", ours.group())))?;
    ours.agree(&ke.data).map_err(|error| Failure::InvalidMessage(error.to_string()))
}

fn ts_payload(selectors: &[IpSelector]) -> Ts {
    Ts(selectors.iter().copied().map(TrafficSelector::Ip).collect())
}

fn selectors(ts: &Ts) -> Vec<IpSelector> {
    ts.ip().copied().collect()
}

/// What a notify in an answer means for what was asked.
pub(crate) fn refusal(kind: NotifyType) -> Failure {
    match kind {
        NotifyType::NO_PROPOSAL_CHOSEN => Failure::NoProposalChosen(SaKind::Child),
        NotifyType::TS_UNACCEPTABLE => Failure::TsUnacceptable,
        NotifyType::AUTHENTICATION_FAILED => Failure::RefusedByPeer,
        NotifyType::TEMPORARY_FAILURE => Failure::Busy,
        NotifyType::CHILD_SA_NOT_FOUND => Failure::Gone(SaKind::Child),
        other => Failure::PeerNotify(other),
    }
}
