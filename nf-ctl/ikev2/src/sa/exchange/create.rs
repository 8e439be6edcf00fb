//! CREATE_CHILD_SA for CHILD_SAs (RFC 7296 1.3.1, 1.3.3, 2.8): new ones, and such that replace another.

use std::time::Duration;

use super::{Exchange, Task};
use crate::context::Cx;
use crate::event::{ChildDownReason, CommandId, Event, Failure, Notice, Outcome, SaKind};
use crate::sa::child::{self, ChildState, NewChild, Offer};
use crate::sa::{IkeSa, Phase};
use crate::wire::{ChildSpi, ExchangeType, Nonce, Notify, NotifyType, Payload, Payloads, ProtocolId, Spi};

/// Our request.
pub(crate) struct Create {
    pub command: Option<CommandId>,
    /// The inbound SPI of the CHILD_SA to be replaced.
    replaces: Option<ChildSpi>,
    nonce: Vec<u8>,
    offer: Offer,
    /// Whether the peer had us take another group already.
    group_changed: bool,
    /// The peer asked to replace the same CHILD_SA meanwhile.
    collision: Option<Collision>,
    /// SPIs of unknown CHILD_SAs that the peer has deleted meanwhile: ours may be among them, its answer still on the way.
    deleted: Vec<ChildSpi>,
}

/// The most that are remembered.
const MAX_DELETED: usize = 16;

/// What the peer made of a CHILD_SA that we were about to replace.
struct Collision {
    /// The lower nonce of the peer's exchange.
    lowest_nonce: Vec<u8>,
    /// The inbound SPI of the CHILD_SA that came out.
    spi: ChildSpi,
}

/// How long we wait before we ask a busy peer again, at least and on top at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3));

pub(crate) fn start(sa: &mut IkeSa, cx: &mut Cx<'_>, replaces: Option<ChildSpi>, command: Option<CommandId>) {
    let replaced = match replaces {
        None => None,
        // It was replaced or deleted while the request waited.
        Some(spi) => {
            match sa.children.iter().find(|child| child.inbound == spi && child.state == ChildState::Installed) {
                None => return cx.done(command, sa.id, Err(Failure::Gone(SaKind::Child))),
                child => child,
            }
        }
    };
    let offer = match Offer::new(&sa.path(), cx, replaced, false) {
        Ok(offer) => offer,
        Err(failure) => {
            // Nothing was sent; there may be an SPI later, and the CHILD_SA lives on until its end.
            if let Some(spi) = replaces {
                let (at_least, jitter) = RETRY;
                let at = cx.now + at_least + cx.jitter(jitter);
                sa.push_later(at, Task::RekeyChild { spi, command: None });
            }
            return cx.done(command, sa.id, Err(failure));
        }
    };
    if let Some(child) = replaces.and_then(|spi| sa.child_mut(spi)) {
        child.state = ChildState::Rekeying;
    }
    let nonce = cx.nonce();
    Create { command, replaces, nonce, offer, group_changed: false, collision: None, deleted: Vec::new() }.send(sa, cx);
}

impl Create {
    fn send(self, sa: &mut IkeSa, cx: &mut Cx<'_>) {
        let mut payloads = Vec::new();
        if let Some(spi) = self.replaces {
            payloads.push(Payload::Notify(Notify::about(NotifyType::REKEY_SA, ProtocolId::ESP, spi)));
        }
        payloads.extend(self.offer.payloads(&sa.path(), Some(&self.nonce)));
        sa.request(cx, ExchangeType::CREATE_CHILD_SA, payloads, Exchange::Create(Box::new(self)));
    }

    pub fn abandon(self, sa: &IkeSa, cx: &mut Cx<'_>, failure: &Failure) {
        sa.path().release(cx, self.offer.spi);
        cx.done(self.command, sa.id, Err(failure.clone()));
    }

    pub fn conclude(mut self, sa: &mut IkeSa, cx: &mut Cx<'_>, response: &Payloads<'_>) {
        // What came out ends with the IKE SA.
        if let Phase::Closing(reason) = &sa.phase {
            let reason = reason.clone();
            return self.abandon(sa, cx, &reason);
        }
        if let Some(group) = response.notify(NotifyType::INVALID_KE_PAYLOAD).and_then(Notify::wanted_group)
            && !std::mem::replace(&mut self.group_changed, true)
            && self.offer.use_group(&sa.path(), group, cx)
        {
            return self.send(sa, cx);
        }
        let nonce = response.nonce().map(|nonce| nonce.0.to_vec());
        let made = match (&nonce, response.error()) {
            (None, None) => Err(Failure::InvalidMessage("the answer has no nonce".into())),
            _ => {
                let nonces = (self.nonce.as_slice(), nonce.as_deref().unwrap_or_default());
                sa.keys().and_then(|keys| self.offer.conclude(&sa.path(), cx, keys, response, nonces))
            }
        };
        match made {
            Ok(child) => self.succeed(sa, cx, child, &nonce.unwrap_or_default()),
            Err(failure) => self.fail(sa, cx, failure),
        }
    }

    /// The peer has deleted a CHILD_SA that isn't known here.
    pub fn note_deleted(&mut self, spi: ChildSpi) {
        if self.deleted.len() < MAX_DELETED {
            self.deleted.push(spi);
        }
    }

    fn succeed(self, sa: &mut IkeSa, cx: &mut Cx<'_>, child: NewChild, nonce_r: &[u8]) {
        let gone = self.deleted.contains(&child.child.outbound);
        let ours = sa.install(cx, child, self.replaces);
        if gone {
            sa.remove_child(cx, ours, ChildDownReason::DeletedByPeer);
        }
        let lowest = self.nonce.as_slice().min(nonce_r);
        // Of two CHILD_SAs made at once, the one with the lowest of the four nonces goes, by the hand of who made it
        // (RFC 7296 2.8.1).
        match self.collision {
            Some(theirs) if lowest < theirs.lowest_nonce.as_slice() => {
                cx.done(self.command, sa.id, Ok(Outcome::ChildCreated(theirs.spi)));
                if let Some(old) = self.replaces.and_then(|spi| sa.child_mut(spi)) {
                    old.state = ChildState::Replaced;
                }
                sa.queue.push_front(Task::DeleteChildren {
                    spis: vec![ours],
                    reason: ChildDownReason::Redundant,
                    command: None,
                });
            }
            _ => {
                cx.done(self.command, sa.id, Ok(Outcome::ChildCreated(ours)));
                if let Some(old) = self.replaces.and_then(|spi| sa.child_mut(spi)) {
                    old.state = ChildState::Replaced;
                    let (spis, reason) = (vec![old.inbound], ChildDownReason::Rekeyed);
                    sa.queue.push_front(Task::DeleteChildren { spis, reason, command: None });
                }
            }
        }
    }

    fn fail(self, sa: &mut IkeSa, cx: &mut Cx<'_>, failure: Failure) {
        sa.path().release(cx, self.offer.spi);
        let Some(spi) = self.replaces else {
            return cx.done(self.command, sa.id, Err(failure));
        };
        if let Some(theirs) = self.collision {
            // The peer has replaced it, so there is nothing left to do.
            if let Some(old) = sa.child_mut(spi) {
                old.state = ChildState::Replaced;
            }
            return cx.done(self.command, sa.id, Ok(Outcome::ChildCreated(theirs.spi)));
        }
        let mut command = self.command;
        match failure {
            // The peer doesn't have it any more (RFC 7296 2.25.1): ours is of no use, a new one is.
            Failure::Gone(SaKind::Child) => {
                if sa.remove_child(cx, spi, ChildDownReason::DeletedByPeer) {
                    sa.queue.push_back(Task::CreateChild { command: command.take() });
                }
            }
            _ => {
                if let Some(child) = sa.child_mut(spi) {
                    child.state = ChildState::Installed;
                    let (at_least, jitter) = RETRY;
                    let at = cx.now + at_least + cx.jitter(jitter);
                    sa.push_later(at, Task::RekeyChild { spi, command: command.filter(|_| failure == Failure::Busy) });
                    if failure == Failure::Busy {
                        return;
                    }
                }
            }
        }
        cx.done(command, sa.id, Err(failure));
    }
}

/// Answers the peer's request, whatever kind of SA it is for.
pub(crate) fn respond(sa: &mut IkeSa, cx: &mut Cx<'_>, request: &Payloads<'_>) {
    let for_ike = request.sa().is_some_and(|sa| sa.proposals.iter().any(|p| p.protocol == ProtocolId::IKE));
    if for_ike {
        return super::rekey_ike::respond(sa, cx, request);
    }
    match try_respond(sa, cx, request) {
        Ok(()) => {}
        Err(refusal) => {
            cx.event(Event::Notice(Notice::ChildRefused { ike: sa.id, reason: refusal.reason }));
            sa.respond_notify(cx, ExchangeType::CREATE_CHILD_SA, refusal.notify);
        }
    }
}

fn try_respond(sa: &mut IkeSa, cx: &mut Cx<'_>, request: &Payloads<'_>) -> Result<(), child::Refusal> {
    let refuse = |kind, reason| Err(child::Refusal::new(Notify::new(kind), reason));
    // While the IKE SA is about to be replaced or deleted, its children stay as they are (RFC 7296 2.25.2).
    let rekeying = sa.outstanding.as_ref().is_some_and(|request| matches!(request.exchange, Exchange::RekeyIke(_)));
    if rekeying || !matches!(sa.phase, Phase::Established) {
        return refuse(NotifyType::TEMPORARY_FAILURE, Failure::Busy);
    }
    let Some(nonce_i) = request.nonce().map(|nonce| nonce.0.to_vec()) else {
        return refuse(NotifyType::INVALID_SYNTAX, Failure::InvalidMessage("the request has no nonce".into()));
    };
    let creating = sa.outstanding.as_ref().is_some_and(|request| matches!(request.exchange, Exchange::Create(_)));
    let replaces = match request.notify(NotifyType::REKEY_SA) {
        None => None,
        Some(notify) => {
            let found = sa.children.iter().find(|child| notify.spi == Spi::Child(child.outbound));
            match found.map(|child| (child.inbound, child.state)) {
                // It may be the one that we are making, whose answer is still on the way.
                None if creating => return refuse(NotifyType::TEMPORARY_FAILURE, Failure::Busy),
                None => {
                    let notify = Notify { kind: NotifyType::CHILD_SA_NOT_FOUND, ..notify.clone() };
                    let notify = Notify { data: notify.data.into_owned().into(), ..notify };
                    return Err(child::Refusal::new(notify, Failure::Gone(SaKind::Child)));
                }
                Some((_, ChildState::Deleting | ChildState::Replaced)) => {
                    return refuse(NotifyType::TEMPORARY_FAILURE, Failure::Busy);
                }
                Some((inbound, _)) => Some(inbound),
            }
        }
    };
    let nonce_r = cx.nonce();
    let Some(keys) = &sa.keys else { return refuse(NotifyType::TEMPORARY_FAILURE, Failure::Busy) };
    let (child, answer) = child::respond(&sa.path(), cx, keys, request, (&nonce_i, &nonce_r), false)?;
    let spi = sa.install(cx, child, replaces);
    if let Some(replaced) = replaces {
        let ours = match sa.outstanding.as_mut().map(|request| &mut request.exchange) {
            Some(Exchange::Create(create)) if create.replaces == Some(replaced) => Some(create),
            _ => None,
        };
        match ours {
            Some(create) => {
                create.collision = Some(Collision { lowest_nonce: nonce_i.min(nonce_r), spi });
            }
            None => {
                if let Some(old) = sa.child_mut(replaced) {
                    old.state = ChildState::Replaced;
                }
            }
        }
    }
    sa.respond(cx, ExchangeType::CREATE_CHILD_SA, answer);
    Ok(())
}

/// The nonce, as a payload.
pub(crate) fn nonce_payload(nonce: &[u8]) -> Payload<'static> {
    Payload::Nonce(Nonce::new(nonce.to_vec()))
}
