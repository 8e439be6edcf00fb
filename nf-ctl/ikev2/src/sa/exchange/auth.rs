//! IKE_AUTH (RFC 7296 1.2, 2.15): both sides prove who they are, and the first CHILD_SA is made.

use std::sync::Arc;
use std::time::Instant;

use super::init::{Answered, Begun};
use super::{Exchange, Task};
use crate::config::Connection;
use crate::context::{Action, Cx};
use crate::credentials::{self, Proof};
use crate::event::{AuthProblem, CommandId, Event, Failure, Notice, Outcome};
use crate::identity::Identity;
use crate::qcd;
use crate::sa::child::{self, Offer};
use crate::sa::{IkeSa, Phase};
use crate::wire::{ExchangeType, Notify, NotifyType, Payload, Payloads};

/// Our IKE_AUTH request.
pub(crate) struct Auth {
    pub command: Option<CommandId>,
    initial_contact: bool,
    begun: Begun,
    offer: Offer,
    sent: Instant,
}

/// Sends the request.
pub(crate) fn start(sa: &mut IkeSa, cx: &mut Cx<'_>, begun: Begun) {
    let command = begun.command;
    if let Err(failure) = try_start(sa, cx, begun) {
        cx.done(command, sa.id, Err(failure.clone()));
        sa.close(cx, failure);
    }
}

fn try_start(sa: &mut IkeSa, cx: &mut Cx<'_>, begun: Begun) -> Result<(), Failure> {
    let connection = Arc::clone(&sa.connection);
    let offer = Offer::new(&sa.path(), cx, None, true)?;
    let id = connection.local_id.to_wire();
    let proof = sa.keys().and_then(|keys| {
        let octets = keys.signed_octets_local(&begun.request, &begun.nonce_r, &id.body());
        credentials::prove(&connection, keys, &octets, &begun.signature_hashes, cx.rng)
    });
    let proof = match proof {
        Ok(proof) => proof,
        Err(failure) => {
            sa.path().release(cx, offer.spi);
            return Err(failure);
        }
    };
    let mut payloads = vec![Payload::IdI(id)];
    payloads.extend(credentials::certificate_request(&connection));
    if let Some(remote_id) = &connection.remote_id {
        payloads.push(Payload::IdR(remote_id.to_wire()));
    }
    payloads.extend(proof);
    payloads.extend(offer.payloads(&sa.path(), None));
    if begun.initial_contact {
        payloads.push(Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)));
    }
    payloads.extend(qcd::token_payload(cx.config, sa.spi_i, sa.spi_r));
    let (command, initial_contact) = (begun.command, begun.initial_contact);
    let exchange = Exchange::Auth(Box::new(Auth { command, initial_contact, begun, offer, sent: cx.now }));
    sa.request(cx, ExchangeType::IKE_AUTH, payloads, exchange);
    Ok(())
}

impl Auth {
    pub fn abandon(self, sa: &IkeSa, cx: &mut Cx<'_>, failure: &Failure) {
        sa.path().release(cx, self.offer.spi);
        cx.done(self.command, sa.id, Err(failure.clone()));
    }

    pub fn conclude(self, sa: &mut IkeSa, cx: &mut Cx<'_>, response: &Payloads<'_>) {
        // Its connection went meanwhile. Where the peer has taken us in, it is told.
        if let Phase::Closing(reason) = &sa.phase {
            let reason = reason.clone();
            self.abandon(sa, cx, &reason);
            match response.auth() {
                Some(_) => sa.push(cx, Task::DeleteIke { reason, command: None }),
                None => sa.close(cx, reason),
            }
            return;
        }
        // Refused before it was authenticated: the peer holds no IKE SA then.
        if response.auth().is_none() {
            let failure = match response.error() {
                Some(notify) => child::refusal(notify.kind),
                None => Failure::InvalidMessage("the IKE_AUTH response has no AUTH payload".into()),
            };
            self.abandon(sa, cx, &failure);
            sa.close(cx, failure);
            return;
        }
        let remote_id = match self.verify(sa, cx, response) {
            Ok(remote_id) => remote_id,
            Err(failure) => return self.refuse(sa, cx, failure, Notify::new(NotifyType::AUTHENTICATION_FAILED)),
        };
        sa.remote_id = Some(remote_id);
        sa.local_id = Some(sa.connection.local_id.clone());
        sa.peer.qcd_token = qcd::token_of(response);
        let nonces = (self.begun.nonce_i.as_slice(), self.begun.nonce_r.as_slice());
        let child = sa.keys().and_then(|keys| self.offer.conclude(&sa.path(), cx, keys, response, nonces));
        match child {
            Ok(child) => {
                sa.establish(cx);
                let spi = sa.install(cx, child, None);
                cx.done(self.command, sa.id, Ok(Outcome::Established(spi)));
                if self.initial_contact {
                    cx.action(Action::Supersede { by: sa.id, established_before: self.sent });
                }
            }
            // An IKE SA without a CHILD_SA helps nobody, and after INITIAL_CONTACT the peer has no other one left.
            Err(failure) => {
                sa.path().release(cx, self.offer.spi);
                cx.done(self.command, sa.id, Err(failure.clone()));
                sa.phase = Phase::Closing(failure.clone());
                sa.push(cx, Task::DeleteIke { reason: failure, command: None });
            }
        }
    }

    /// Tells the peer why its IKE SA ends (RFC 7296 2.21.2).
    fn refuse(self, sa: &mut IkeSa, cx: &mut Cx<'_>, failure: Failure, notify: Notify<'static>) {
        self.abandon(sa, cx, &failure);
        super::informational::refuse(sa, cx, failure, notify);
    }

    fn verify(&self, sa: &IkeSa, cx: &Cx<'_>, response: &Payloads<'_>) -> Result<Identity, Failure> {
        let (Some(id), Some(auth)) = (response.id_r(), response.auth()) else {
            let peer = "nobody".to_owned();
            return Err(Failure::PeerNotAuthenticated { peer, problem: AuthProblem::Missing("IDr") });
        };
        let identity = Identity::from_wire(id);
        let failed = |problem| Failure::PeerNotAuthenticated { peer: identity.to_string(), problem };
        check_identity(&sa.connection, &identity).map_err(failed)?;
        let keys = sa.keys()?;
        let octets = keys.signed_octets_remote(&self.begun.response, &self.begun.nonce_i, &id.body());
        let proof = Proof { identity: &identity, auth, payloads: response, unix_time: cx.unix_time };
        credentials::verify(&sa.connection, keys, &octets, &proof).map_err(failed)?;
        Ok(identity)
    }
}

fn check_identity(connection: &Connection, identity: &Identity) -> Result<(), AuthProblem> {
    match &connection.remote_id {
        Some(expected) if !expected.matches(identity) => Err(AuthProblem::Identity { expected: expected.to_string() }),
        _ => Ok(()),
    }
}

/// Answers the peer's request.
pub(crate) fn respond(sa: &mut IkeSa, cx: &mut Cx<'_>, request: &Payloads<'_>) {
    let Phase::HalfOpen(answered) = std::mem::replace(&mut sa.phase, Phase::Refused) else { return };
    match authenticate(sa, cx, &answered, request) {
        Ok(accepted) => accept(sa, cx, &answered, request, accepted),
        Err(failure) => {
            cx.event(Event::Notice(Notice::Refused { remote: sa.remote, reason: failure }));
            sa.respond_notify(cx, ExchangeType::IKE_AUTH, Notify::new(NotifyType::AUTHENTICATION_FAILED));
        }
    }
}

/// Who the peer is, proved, and the connection that it is for.
struct Accepted {
    connection: Arc<Connection>,
    remote_id: Identity,
}

fn authenticate(sa: &IkeSa, cx: &Cx<'_>, answered: &Answered, request: &Payloads<'_>) -> Result<Accepted, Failure> {
    let Some(id) = request.id_i() else {
        let peer = "nobody".to_owned();
        return Err(Failure::PeerNotAuthenticated { peer, problem: AuthProblem::Missing("IDi") });
    };
    let remote_id = Identity::from_wire(id);
    let failed = |problem| Failure::PeerNotAuthenticated { peer: remote_id.to_string(), problem };
    let auth = request.auth().ok_or_else(|| failed(AuthProblem::Missing("AUTH")))?;
    let wanted = request.id_r().map(Identity::from_wire);
    let for_us =
        |connection: &&Arc<Connection>| wanted.as_ref().is_none_or(|wanted| connection.local_id.matches(wanted));
    let proof = Proof { identity: &remote_id, auth, payloads: request, unix_time: cx.unix_time };
    let mut problem = None;
    for connection in answered.candidates.iter().filter(for_us) {
        let keys = sa.keys()?;
        let octets = keys.signed_octets_remote(&answered.request, &answered.nonce_r, &id.body());
        let verified = check_identity(connection, &remote_id)
            .and_then(|()| credentials::verify(connection, keys, &octets, &proof));
        match verified {
            Ok(()) => return Ok(Accepted { connection: Arc::clone(connection), remote_id }),
            // A proof that failed says more than that somebody else was meant.
            Err(found) => {
                if problem.is_none() || !matches!(found, AuthProblem::Identity { .. }) {
                    problem = Some(found);
                }
            }
        }
    }
    Err(match problem {
        Some(problem) => failed(problem),
        None => Failure::NoConnection { local: sa.local.ip(), remote: sa.remote.ip(), peer: remote_id.to_string() },
    })
}

fn accept(sa: &mut IkeSa, cx: &mut Cx<'_>, answered: &Answered, request: &Payloads<'_>, accepted: Accepted) {
    let Accepted { connection, remote_id } = accepted;
    let id = connection.local_id.to_wire();
    let proof = sa.keys().and_then(|keys| {
        let octets = keys.signed_octets_local(&answered.response, &answered.nonce_i, &id.body());
        credentials::prove(&connection, keys, &octets, &answered.signature_hashes, cx.rng)
    });
    let proof = match proof {
        Ok(proof) => proof,
        Err(failure) => {
            cx.event(Event::Notice(Notice::Refused { remote: sa.remote, reason: failure }));
            sa.respond_notify(cx, ExchangeType::IKE_AUTH, Notify::new(NotifyType::AUTHENTICATION_FAILED));
            return;
        }
    };
    sa.nat.local |= connection.force_encap;
    sa.connection = Arc::clone(&connection);
    sa.local_id = Some(connection.local_id.clone());
    sa.remote_id = Some(remote_id);
    sa.peer.qcd_token = qcd::token_of(request);
    sa.establish(cx);
    let mut payloads = vec![Payload::IdR(id)];
    payloads.extend(proof);
    let nonces = (answered.nonce_i.as_slice(), answered.nonce_r.as_slice());
    let child = match &sa.keys {
        Some(keys) => child::respond(&sa.path(), cx, keys, request, nonces, true),
        None => return,
    };
    match child {
        Ok((child, answer)) => {
            payloads.extend(answer);
            sa.install(cx, child, None);
        }
        Err(refusal) => {
            cx.event(Event::Notice(Notice::ChildRefused { ike: sa.id, reason: refusal.reason }));
            payloads.push(Payload::Notify(refusal.notify));
        }
    }
    payloads.extend(qcd::token_payload(cx.config, sa.spi_i, sa.spi_r));
    if request.notify(NotifyType::INITIAL_CONTACT).is_some() {
        cx.action(Action::Supersede { by: sa.id, established_before: cx.now });
    }
    sa.respond(cx, ExchangeType::IKE_AUTH, payloads);
}
