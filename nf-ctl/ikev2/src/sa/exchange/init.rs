//! IKE_SA_INIT (RFC 7296 1.2, 2.6, 2.7): algorithms, the Diffie-Hellman secret, NATs.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Exchange;
use crate::config::{Connection, RemoteAddress};
use crate::context::Cx;
use crate::credentials;
use crate::crypto::dh::{DhGroup, KeyExchange};
use crate::crypto::keys::{IkeKeys, IkeSuite, Role, Seed};
use crate::event::{CommandId, Failure, IkeId, Notice, SaKind};
use crate::proposal::{IkeProposal, accept_ike_answer, choose_ike, offer_ike};
use crate::sa::child::{agree, ke_payload};
use crate::sa::{IkeSa, Phase, nat};
use crate::wire::{
    self, ExchangeType, Flags, Header, IkeSpi, Message, MessageId, Nonce, Notify, NotifyType, Payload, Payloads, Spi,
    Version,
};

/// Our IKE_SA_INIT request.
pub(crate) struct Init {
    pub command: Option<CommandId>,
    initial_contact: bool,
    key_exchange: KeyExchange,
    nonce: Vec<u8>,
    cookie: Option<Vec<u8>>,
    /// How often we began anew, with a cookie or another group.
    rounds: u8,
}

/// A peer that never has enough is left alone after so many new beginnings.
const MAX_ROUNDS: u8 = 4;

/// What a responder keeps between IKE_SA_INIT and IKE_AUTH.
pub(crate) struct Answered {
    /// Both messages: the AUTH payloads sign them.
    pub request: Vec<u8>,
    pub response: Vec<u8>,
    pub nonce_i: Vec<u8>,
    pub nonce_r: Vec<u8>,
    /// Hashes that the peer can verify signatures with.
    pub signature_hashes: Vec<wire::HashAlgorithm>,
    /// The connections that the addresses and algorithms leave.
    pub candidates: Vec<Arc<Connection>>,
}

/// What the connection has to know for IKE_AUTH.
pub(crate) struct Begun {
    pub request: Vec<u8>,
    pub response: Vec<u8>,
    pub nonce_i: Vec<u8>,
    pub nonce_r: Vec<u8>,
    pub signature_hashes: Vec<wire::HashAlgorithm>,
    pub command: Option<CommandId>,
    pub initial_contact: bool,
}

impl IkeSa {
    /// Begins an IKE SA with a peer.
    pub fn initiate(
        cx: &mut Cx<'_>,
        connection: &Arc<Connection>,
        command: CommandId,
        initial_contact: bool,
    ) -> Option<IkeSa> {
        let RemoteAddress::Host(remote) = connection.remote else { return None };
        let group = first_group(&connection.ike_proposals)?;
        let path = (SocketAddr::new(connection.local, cx.config.port), SocketAddr::new(remote, cx.config.port));
        let id = cx.out.new_ike_id();
        let spis = (cx.ike_spi(), IkeSpi::ZERO);
        let mut sa = IkeSa::new(id, Role::Initiator, spis, path, Arc::clone(connection), cx.now);
        let init = Init {
            command: Some(command),
            initial_contact,
            key_exchange: KeyExchange::generate(group, cx.rng),
            nonce: cx.nonce(),
            cookie: None,
            rounds: 0,
        };
        init.send(&mut sa, cx);
        Some(sa)
    }
}

fn first_group(proposals: &[IkeProposal]) -> Option<DhGroup> {
    proposals.iter().find_map(|proposal| proposal.groups().first().copied())
}

impl Init {
    fn send(self, sa: &mut IkeSa, cx: &mut Cx<'_>) {
        let mut payloads = Vec::new();
        if let Some(cookie) = &self.cookie {
            payloads.push(Payload::Notify(Notify::with_data(NotifyType::COOKIE, cookie.clone())));
        }
        payloads.push(Payload::Sa(offer_ike(&sa.connection.ike_proposals, &Spi::None)));
        payloads.push(ke_payload(&self.key_exchange));
        payloads.push(Payload::Nonce(Nonce::new(self.nonce.clone())));
        let spis = (sa.spi_i, IkeSpi::ZERO);
        payloads.extend(nat::notifies(spis, sa.local, sa.remote, sa.connection.force_encap, cx.rng));
        payloads.push(Payload::Notify(Notify::new(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)));
        payloads.push(Payload::Notify(Notify::signature_hashes(credentials::SIGNATURE_HASHES)));
        // Each of these begins anew: the message ID stays 0 (RFC 7296 2.6).
        let id = MessageId(0);
        let header = sa.header(ExchangeType::IKE_SA_INIT, false, id);
        match wire::emit(&header, &payloads.into()) {
            Ok(datagram) => {
                sa.next_request = MessageId(1);
                let exchange = Exchange::Init(Box::new(self));
                sa.send_request(cx, id, ExchangeType::IKE_SA_INIT, vec![datagram], exchange);
            }
            Err(error) => self.fail(sa, cx, Failure::Internal(error.to_string())),
        }
    }

    fn fail(self, sa: &mut IkeSa, cx: &mut Cx<'_>, failure: Failure) {
        cx.done(self.command, sa.id, Err(failure.clone()));
        sa.close(cx, failure);
    }

    fn begin_anew(mut self, sa: &mut IkeSa, cx: &mut Cx<'_>) {
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS {
            self.fail(sa, cx, Failure::InvalidMessage("it asks for ever new cookies or groups".into()));
            return;
        }
        self.send(sa, cx);
    }

    /// Takes the response. It isn't authenticated: whoever could see our request could have made it.
    fn conclude(
        mut self,
        sa: &mut IkeSa,
        cx: &mut Cx<'_>,
        request: Vec<u8>,
        header: &Header,
        datagram: &[u8],
        payloads: &Payloads<'_>,
    ) {
        if let Some(cookie) = payloads.notify(NotifyType::COOKIE) {
            self.cookie = Some(cookie.data.to_vec());
            return self.begin_anew(sa, cx);
        }
        if let Some(group) = payloads.notify(NotifyType::INVALID_KE_PAYLOAD).and_then(Notify::wanted_group) {
            let ours = sa.connection.ike_proposals.iter().flat_map(|proposal| proposal.groups());
            let Some(group) = ours.copied().find(|ours| ours.transform_id() == group.0) else {
                return self.fail(sa, cx, Failure::NoProposalChosen(SaKind::Ike));
            };
            self.key_exchange = KeyExchange::generate(group, cx.rng);
            return self.begin_anew(sa, cx);
        }
        if let Some(error) = payloads.error() {
            let failure = match error.kind {
                NotifyType::NO_PROPOSAL_CHOSEN => Failure::NoProposalChosen(SaKind::Ike),
                other => Failure::PeerNotify(other),
            };
            return self.fail(sa, cx, failure);
        }
        match self.accept(sa, header, payloads) {
            Ok((suite, keys, nonce_r)) => {
                let spis = (header.initiator_spi, header.responder_spi);
                sa.spi_r = header.responder_spi;
                sa.suite = Some(suite);
                sa.keys = Some(keys);
                sa.nat = nat::detect(payloads, spis, sa.local, sa.remote);
                // What we made the peer believe has to hold for us as well.
                sa.nat.local |= sa.connection.force_encap;
                sa.peer.fragmentation = payloads.notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED).is_some();
                if sa.nat.any() {
                    sa.local.set_port(cx.config.nat_port);
                    sa.remote.set_port(cx.config.nat_port);
                }
                let begun = Begun {
                    request,
                    response: datagram.to_vec(),
                    nonce_i: self.nonce,
                    nonce_r,
                    signature_hashes: signature_hashes(payloads),
                    command: self.command,
                    initial_contact: self.initial_contact,
                };
                super::auth::start(sa, cx, begun);
            }
            Err(failure) => self.fail(sa, cx, failure),
        }
    }

    fn accept(
        &self,
        sa: &IkeSa,
        header: &Header,
        payloads: &Payloads<'_>,
    ) -> Result<(IkeSuite, IkeKeys, Vec<u8>), Failure> {
        let (Some(answer), Some(nonce)) = (payloads.sa(), payloads.nonce()) else {
            return Err(Failure::InvalidMessage("the IKE_SA_INIT response has no SA or nonce".into()));
        };
        if header.responder_spi.is_zero() {
            return Err(Failure::InvalidMessage("the IKE_SA_INIT response has no responder SPI".into()));
        }
        let suite = accept_ike_answer(&sa.connection.ike_proposals, answer)
            .ok_or(Failure::NoProposalChosen(SaKind::Ike))?
            .suite;
        let shared = agree(&self.key_exchange, payloads.ke())?;
        if suite.group != self.key_exchange.group() {
            return Err(Failure::InvalidMessage("it chose a group that no value was sent for".into()));
        }
        let seed = Seed {
            nonce_i: &self.nonce,
            nonce_r: &nonce.0,
            spi_i: &header.initiator_spi.0,
            spi_r: &header.responder_spi.0,
        };
        Ok((suite, IkeKeys::initial(suite, Role::Initiator, &shared, seed), nonce.0.to_vec()))
    }
}

fn signature_hashes(payloads: &Payloads<'_>) -> Vec<wire::HashAlgorithm> {
    payloads
        .notify(NotifyType::SIGNATURE_HASH_ALGORITHMS)
        .map(|notify| notify.hash_algorithms().collect())
        .unwrap_or_default()
}

/// Takes an IKE_SA_INIT message for an IKE SA that exists: the response to ours, or a request that comes again.
pub(crate) fn handle(
    sa: &mut IkeSa,
    cx: &mut Cx<'_>,
    path: (SocketAddr, SocketAddr),
    header: &Header,
    datagram: &[u8],
) {
    if !header.flags.response {
        if let Phase::HalfOpen(answered) = &sa.phase
            && answered.request == datagram
        {
            let response = [answered.response.clone()];
            sa.transmit(cx, &response);
        }
        return;
    }
    let under_way = matches!(&sa.outstanding, Some(outstanding) if matches!(outstanding.exchange, Exchange::Init(_)));
    if !under_way || header.message_id != MessageId(0) || path.1 != sa.remote {
        return;
    }
    // Not parsed, not there: the right one may still come.
    let Ok(message) = Message::parse(datagram) else { return };
    if message.sk.is_some() {
        return;
    }
    let Some(mut outstanding) = sa.outstanding.take() else { return };
    if let Exchange::Init(init) = outstanding.exchange {
        sa.last_heard = cx.now;
        let request = outstanding.datagrams.pop().unwrap_or_default();
        init.conclude(sa, cx, request, header, datagram, &message.payloads);
    }
}

/// A peer's first message, taken apart.
pub(crate) struct Request<'a> {
    pub header: &'a Header,
    pub payloads: &'a Payloads<'a>,
    pub datagram: &'a [u8],
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl Request<'_> {
    /// Answers with an error, and keeps nothing.
    pub fn refuse(&self, cx: &mut Cx<'_>, notify: Notify<'_>) {
        let header =
            Header { version: Version::V2, flags: Flags { response: true, ..Flags::default() }, ..*self.header };
        if let Ok(payload) = wire::emit(&header, &vec![Payload::Notify(notify)].into()) {
            let (local, remote) = (self.local, self.remote);
            cx.out.transmits.push_back(crate::event::Transmit { local, remote, payload });
        }
    }

    /// Answers, with a half-open IKE SA as the result, where addresses and algorithms fit.
    pub fn accept(&self, cx: &mut Cx<'_>, candidates: &[Arc<Connection>]) -> Option<IkeSa> {
        let payloads = self.payloads;
        let (Some(offer), Some(ke), Some(nonce)) = (payloads.sa(), payloads.ke(), payloads.nonce()) else {
            self.refuse(cx, Notify::new(NotifyType::INVALID_SYNTAX));
            return None;
        };
        let chosen = candidates
            .iter()
            .find_map(|connection| Some((connection, choose_ike(&connection.ike_proposals, offer, Some(ke.group.0))?)));
        let Some((connection, chosen)) = chosen else {
            let reason = Failure::NoProposalChosen(SaKind::Ike);
            cx.event(crate::event::Event::Notice(Notice::Refused { remote: self.remote, reason }));
            self.refuse(cx, Notify::new(NotifyType::NO_PROPOSAL_CHOSEN));
            return None;
        };
        let suite = chosen.suite;
        if ke.group.0 != suite.group.transform_id() {
            self.refuse(cx, Notify::invalid_ke(wire::DhGroup(suite.group.transform_id())));
            return None;
        }
        let key_exchange = KeyExchange::generate(suite.group, cx.rng);
        let Ok(shared) = agree(&key_exchange, Some(ke)) else {
            self.refuse(cx, Notify::new(NotifyType::INVALID_SYNTAX));
            return None;
        };
        let candidates = candidates
            .iter()
            .filter(|candidate| choose_ike(&candidate.ike_proposals, &chosen.answer(Spi::None), None).is_some())
            .cloned()
            .collect();
        let spis = (self.header.initiator_spi, cx.ike_spi());
        let nonce_r = cx.nonce();
        let seed = Seed { nonce_i: &nonce.0, nonce_r: &nonce_r, spi_i: &spis.0.0, spi_r: &spis.1.0 };
        let id: IkeId = cx.out.new_ike_id();
        let mut sa = IkeSa::new(id, Role::Responder, spis, (self.local, self.remote), Arc::clone(connection), cx.now);
        sa.suite = Some(suite);
        sa.keys = Some(IkeKeys::initial(suite, Role::Responder, &shared, seed));
        sa.nat = nat::detect(payloads, (spis.0, IkeSpi::ZERO), self.local, self.remote);
        sa.nat.local |= connection.force_encap;
        sa.peer.fragmentation = payloads.notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED).is_some();
        sa.received.expected = MessageId(1);
        sa.expire_at = Some(cx.now + cx.config.half_open_timeout);

        let mut answer = vec![
            Payload::Sa(chosen.answer(Spi::None)),
            ke_payload(&key_exchange),
            Payload::Nonce(Nonce::new(nonce_r.clone())),
        ];
        answer.extend(nat::notifies(spis, self.local, self.remote, connection.force_encap, cx.rng));
        answer.extend(credentials::certificate_request(connection));
        if sa.peer.fragmentation {
            answer.push(Payload::Notify(Notify::new(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)));
        }
        let hashes = signature_hashes(payloads);
        if !hashes.is_empty() {
            answer.push(Payload::Notify(Notify::signature_hashes(credentials::SIGNATURE_HASHES)));
        }
        let header = sa.header(ExchangeType::IKE_SA_INIT, true, MessageId(0));
        let response = wire::emit(&header, &answer.into()).ok()?;
        sa.transmit(cx, std::slice::from_ref(&response));
        sa.phase = Phase::HalfOpen(Box::new(Answered {
            request: self.datagram.to_vec(),
            response,
            nonce_i: nonce.0.to_vec(),
            nonce_r,
            signature_hashes: hashes,
            candidates,
        }));
        Some(sa)
    }
}
