//! CREATE_CHILD_SA for an IKE SA in place of this one (RFC 7296 1.3.2, 2.8, 2.8.2, 2.18).

use std::time::Duration;

use super::create::nonce_payload;
use super::{Exchange, Task};
use crate::context::{Action, Cx};
use crate::crypto::dh::{DhGroup, KeyExchange};
use crate::crypto::keys::{IkeKeys, IkeSuite, Role, Seed};
use crate::event::{CommandId, Event, Failure, IkeId, Notice, Outcome, SaKind};
use crate::proposal::{accept_ike_answer, choose_ike, offer_ike};
use crate::qcd;
use crate::sa::child::{ChildState, Refusal, agree, ke_payload, refusal};
use crate::sa::{IkeSa, Phase};
use crate::wire::{self, ExchangeType, IkeSpi, Notify, NotifyType, Payload, Payloads, Spi};

/// Our request.
pub(crate) struct RekeyIke {
    pub command: Option<CommandId>,
    pub spi: IkeSpi,
    key_exchange: KeyExchange,
    nonce: Vec<u8>,
    /// Whether the peer had us take another group already.
    group_changed: bool,
    /// The peer asked for the same meanwhile.
    collision: Option<Collision>,
}

/// The IKE SA that came out of the peer's request.
struct Collision {
    lowest_nonce: Vec<u8>,
    new: IkeId,
}

/// How long we wait before we ask a busy peer again, at least and on top at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

pub(crate) fn start(sa: &mut IkeSa, cx: &mut Cx<'_>, command: Option<CommandId>) {
    let Some(suite) = sa.suite else { return };
    let key_exchange = KeyExchange::generate(suite.group, cx.rng);
    let (spi, nonce) = (cx.ike_spi(), cx.nonce());
    RekeyIke { command, spi, key_exchange, nonce, group_changed: false, collision: None }.send(sa, cx);
}

impl RekeyIke {
    fn send(self, sa: &mut IkeSa, cx: &mut Cx<'_>) {
        let payloads = vec![
            Payload::Sa(offer_ike(&sa.connection.ike_proposals, &self.spi.into())),
            nonce_payload(&self.nonce),
            ke_payload(&self.key_exchange),
        ];
        sa.request(cx, ExchangeType::CREATE_CHILD_SA, payloads, Exchange::RekeyIke(Box::new(self)));
    }

    pub fn conclude(mut self, sa: &mut IkeSa, cx: &mut Cx<'_>, response: &Payloads<'_>) {
        if let Phase::Closing(reason) = &sa.phase {
            let reason = reason.clone();
            return self.undo(sa, cx, reason, response);
        }
        if let Some(group) = response.notify(NotifyType::INVALID_KE_PAYLOAD).and_then(Notify::wanted_group)
            && !std::mem::replace(&mut self.group_changed, true)
            && let Some(group) = our_group(sa, group)
        {
            self.key_exchange = KeyExchange::generate(group, cx.rng);
            return self.send(sa, cx);
        }
        match self.accept(sa, response) {
            Ok(made) => self.succeed(sa, cx, made, response),
            Err(failure) => self.fail(sa, cx, failure),
        }
    }

    /// The IKE SA ends, and what was made in its place ends with it, by our hand: the peer counts on it.
    fn undo(&self, sa: &IkeSa, cx: &mut Cx<'_>, reason: Failure, response: &Payloads<'_>) {
        if let Ok(made) = self.accept(sa, response) {
            let id = cx.out.new_ike_id();
            let mut new = sa.successor(id, Role::Initiator, made.spis, made.suite, made.keys, cx);
            new.phase = Phase::Closing(reason.clone());
            new.is_reported_down = true;
            new.push(cx, Task::DeleteIke { reason, command: None });
            cx.action(Action::Add(Box::new(new)));
        }
    }

    fn accept(&self, sa: &IkeSa, response: &Payloads<'_>) -> Result<Made, Failure> {
        if let Some(notify) = response.error() {
            return Err(match refusal(notify.kind) {
                Failure::NoProposalChosen(_) => Failure::NoProposalChosen(SaKind::Ike),
                other => other,
            });
        }
        let (Some(answer), Some(nonce)) = (response.sa(), response.nonce()) else {
            return Err(Failure::InvalidMessage("the answer has no SA or nonce".into()));
        };
        let chosen =
            accept_ike_answer(&sa.connection.ike_proposals, answer).ok_or(Failure::NoProposalChosen(SaKind::Ike))?;
        let spi_r = peer_spi(&chosen.spi)?;
        if chosen.suite.group != self.key_exchange.group() {
            return Err(Failure::InvalidMessage("it chose a group that no value was sent for".into()));
        }
        let shared = agree(&self.key_exchange, response.ke())?;
        let seed = Seed { nonce_i: &self.nonce, nonce_r: &nonce.0, spi_i: &self.spi.0, spi_r: &spi_r.0 };
        let keys = sa.keys()?.rekeyed(chosen.suite, Role::Initiator, &shared, seed);
        Ok(Made { spis: (self.spi, spi_r), suite: chosen.suite, keys, nonce_r: nonce.0.to_vec() })
    }

    fn succeed(self, sa: &mut IkeSa, cx: &mut Cx<'_>, made: Made, response: &Payloads<'_>) {
        let id = cx.out.new_ike_id();
        let mut new = sa.successor(id, Role::Initiator, made.spis, made.suite, made.keys, cx);
        new.peer.qcd_token = qcd::token_of(response);
        let lowest = self.nonce.min(made.nonce_r);
        let farewell = |reason| Task::DeleteIke { reason, command: None };
        match self.collision {
            // Ours has the lowest of the four nonces, and goes by our own hand (RFC 7296 2.8.2).
            Some(theirs) if lowest < theirs.lowest_nonce => {
                new.phase = Phase::Closing(Failure::Redundant);
                new.push(cx, farewell(Failure::Redundant));
                cx.action(Action::Add(Box::new(new)));
                hand_over(sa, cx, theirs.new, self.command);
            }
            collision => {
                // Only now both SPIs are known, of which the token is made.
                if cx.config.qcd_secret.is_some() {
                    new.push(cx, Task::Token);
                }
                cx.action(Action::Add(Box::new(new)));
                hand_over(sa, cx, id, self.command);
                if let Some(theirs) = collision {
                    cx.action(Action::Redundant(theirs.new));
                }
                sa.queue.push_back(farewell(Failure::Rekeyed));
            }
        }
    }

    fn fail(self, sa: &mut IkeSa, cx: &mut Cx<'_>, failure: Failure) {
        if let Some(theirs) = self.collision {
            hand_over(sa, cx, theirs.new, self.command);
            return;
        }
        let (at_least, jitter) = RETRY;
        let at = cx.now + at_least + cx.jitter(jitter);
        let busy = failure == Failure::Busy;
        sa.push_later(at, Task::RekeyIke { command: self.command.filter(|_| busy) });
        if !busy {
            cx.done(self.command, sa.id, Err(failure));
        }
    }
}

/// What both sides have agreed on.
struct Made {
    spis: (IkeSpi, IkeSpi),
    suite: IkeSuite,
    keys: IkeKeys,
    nonce_r: Vec<u8>,
}

fn our_group(sa: &IkeSa, wanted: wire::DhGroup) -> Option<DhGroup> {
    let ours = sa.connection.ike_proposals.iter().flat_map(|proposal| proposal.groups());
    ours.copied().find(|group| group.transform_id() == wanted.0)
}

fn peer_spi(spi: &Spi) -> Result<IkeSpi, Failure> {
    match spi {
        Spi::Ike(spi) if !spi.is_zero() => Ok(*spi),
        _ => Err(Failure::InvalidMessage("the proposal has no SPI for the new IKE SA".into())),
    }
}

/// Answers the peer's request.
pub(crate) fn respond(sa: &mut IkeSa, cx: &mut Cx<'_>, request: &Payloads<'_>) {
    if let Err(refusal) = try_respond(sa, cx, request) {
        if refusal.reason != Failure::Busy {
            cx.event(Event::Notice(Notice::Refused { remote: sa.remote, reason: refusal.reason }));
        }
        sa.respond_notify(cx, ExchangeType::CREATE_CHILD_SA, refusal.notify);
    }
}

fn try_respond(sa: &mut IkeSa, cx: &mut Cx<'_>, request: &Payloads<'_>) -> Result<(), Refusal> {
    let refuse = |kind, reason| Err(Refusal::new(Notify::new(kind), reason));
    let invalid =
        |what: &str| Refusal::new(Notify::new(NotifyType::INVALID_SYNTAX), Failure::InvalidMessage(what.into()));
    // Not while we are creating, rekeying or deleting one of its children, or the IKE SA itself (RFC 7296 2.25.2).
    let creating = sa.outstanding.as_ref().is_some_and(|request| matches!(request.exchange, Exchange::Create(_)));
    let deleting = sa.children.iter().any(|child| child.state == ChildState::Deleting)
        || sa.outstanding.as_ref().is_some_and(|request| {
            matches!(
                request.exchange,
                Exchange::Informational(super::informational::Informational::DeleteChildren { .. })
            )
        });
    if creating || deleting || !matches!(sa.phase, Phase::Established) {
        return refuse(NotifyType::TEMPORARY_FAILURE, Failure::Busy);
    }
    let (Some(offer), Some(nonce), Some(ke)) = (request.sa(), request.nonce(), request.ke()) else {
        return Err(invalid("the request has no SA, nonce or KE"));
    };
    let Some(chosen) = choose_ike(&sa.connection.ike_proposals, offer, Some(ke.group.0)) else {
        return refuse(NotifyType::NO_PROPOSAL_CHOSEN, Failure::NoProposalChosen(SaKind::Ike));
    };
    let suite = chosen.suite;
    if ke.group.0 != suite.group.transform_id() {
        let notify = Notify::invalid_ke(wire::DhGroup(suite.group.transform_id()));
        return Err(Refusal::new(notify, Failure::Busy));
    }
    let spi_i =
        peer_spi(&chosen.spi).map_err(|reason| Refusal::new(Notify::new(NotifyType::INVALID_SYNTAX), reason))?;
    let key_exchange = KeyExchange::generate(suite.group, cx.rng);
    let shared = agree(&key_exchange, Some(ke))
        .map_err(|reason| Refusal::new(Notify::new(NotifyType::INVALID_SYNTAX), reason))?;
    let (spi_r, nonce_r) = (cx.ike_spi(), cx.nonce());
    let seed = Seed { nonce_i: &nonce.0, nonce_r: &nonce_r, spi_i: &spi_i.0, spi_r: &spi_r.0 };
    let Some(keys) = &sa.keys else { return Err(invalid("the IKE SA has no keys")) };
    let keys = keys.rekeyed(suite, Role::Responder, &shared, seed);
    let id = cx.out.new_ike_id();
    let new = sa.successor(id, Role::Responder, (spi_i, spi_r), suite, keys, cx);
    cx.action(Action::Add(Box::new(new)));
    let lowest_nonce = nonce.0.to_vec().min(nonce_r.clone());
    match sa.outstanding.as_mut().map(|request| &mut request.exchange) {
        // Which of the two goes on is known when our own answer has come.
        Some(Exchange::RekeyIke(ours)) => ours.collision = Some(Collision { lowest_nonce, new: id }),
        _ => hand_over(sa, cx, id, None),
    }
    let mut answer = vec![Payload::Sa(chosen.answer(spi_r.into())), nonce_payload(&nonce_r), ke_payload(&key_exchange)];
    answer.extend(qcd::token_payload(cx.config, spi_i, spi_r));
    sa.respond(cx, ExchangeType::CREATE_CHILD_SA, answer);
    Ok(())
}

/// The peer deletes the IKE SA that we are rekeying. Where it has made a successor, that is why (RFC 7296 2.25.2), and our
/// own request counts no more.
pub(crate) fn yield_to_peer(sa: &mut IkeSa, cx: &mut Cx<'_>) {
    let theirs = match sa.outstanding.as_ref().map(|request| &request.exchange) {
        Some(Exchange::RekeyIke(ours)) => ours.collision.as_ref().map(|theirs| (theirs.new, ours.command)),
        _ => None,
    };
    if let Some((new, command)) = theirs {
        sa.outstanding = None;
        hand_over(sa, cx, new, command);
    }
}

/// All goes over to the successor; nothing but the goodbye begins here any more.
fn hand_over(sa: &mut IkeSa, cx: &mut Cx<'_>, new: IkeId, command: Option<CommandId>) {
    sa.phase = Phase::Replaced;
    cx.action(Action::Inherit { old: sa.id, new, command });
}

/// What the command that asked for it hears.
pub(crate) fn report(cx: &mut Cx<'_>, command: Option<CommandId>, old: IkeId, new: IkeId) {
    cx.done(command, old, Ok(Outcome::IkeRekeyed(new)));
}
