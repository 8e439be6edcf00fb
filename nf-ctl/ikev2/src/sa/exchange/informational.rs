//! INFORMATIONAL (RFC 7296 1.4, 1.5): DELETE, liveness, notifies; and messages that nobody has authenticated.

use std::net::SocketAddr;

use super::Exchange;
use crate::context::{Action, Cx};
use crate::event::{ChildDownReason, CommandId, Event, Failure, Notice, Outcome};
use crate::qcd;
use crate::sa::child::ChildState;
use crate::sa::{IkeSa, Phase};
use crate::wire::{ChildSpi, Delete, ExchangeType, Message, Notify, NotifyType, Payload, Payloads, ProtocolId};

/// Our request.
pub(crate) enum Informational {
    DeleteChildren { spis: Vec<ChildSpi>, reason: ChildDownReason, command: Option<CommandId> },
    DeleteIke { command: Option<CommandId> },
    Liveness { command: Option<CommandId> },
    InvalidSpi { command: Option<CommandId> },
}

fn send(sa: &mut IkeSa, cx: &mut Cx<'_>, payloads: Vec<Payload<'static>>, exchange: Informational) {
    sa.request(cx, ExchangeType::INFORMATIONAL, payloads, Exchange::Informational(exchange));
}

pub(crate) fn delete_children(
    sa: &mut IkeSa,
    cx: &mut Cx<'_>,
    spis: Vec<ChildSpi>,
    reason: ChildDownReason,
    command: Option<CommandId>,
) {
    for spi in &spis {
        if let Some(child) = sa.child_mut(*spi)
            && child.state != ChildState::Replaced
        {
            child.state = ChildState::Deleting;
        }
    }
    let delete = Delete::Children { protocol: ProtocolId::ESP, spis: spis.clone() };
    send(sa, cx, vec![Payload::Delete(delete)], Informational::DeleteChildren { spis, reason, command });
}

pub(crate) fn delete_ike(sa: &mut IkeSa, cx: &mut Cx<'_>, reason: Failure, command: Option<CommandId>) {
    if !matches!(sa.phase, Phase::Replaced) {
        sa.phase = Phase::Closing(reason);
    }
    send(sa, cx, vec![Payload::Delete(Delete::IkeSa)], Informational::DeleteIke { command });
}

/// Ends an IKE SA whose peer we don't believe.
pub(crate) fn refuse(sa: &mut IkeSa, cx: &mut Cx<'_>, reason: Failure, notify: Notify<'static>) {
    sa.phase = Phase::Closing(reason);
    send(sa, cx, vec![Payload::Notify(notify)], Informational::DeleteIke { command: None });
}

pub(crate) fn liveness(sa: &mut IkeSa, cx: &mut Cx<'_>, command: Option<CommandId>) {
    send(sa, cx, Vec::new(), Informational::Liveness { command });
}

pub(crate) fn token(sa: &mut IkeSa, cx: &mut Cx<'_>) {
    let payloads = qcd::token_payload(cx.config, sa.spi_i, sa.spi_r).into_iter().collect();
    send(sa, cx, payloads, Informational::Liveness { command: None });
}

pub(crate) fn invalid_spi(sa: &mut IkeSa, cx: &mut Cx<'_>, spi: ChildSpi, command: Option<CommandId>) {
    send(sa, cx, vec![Payload::Notify(Notify::invalid_spi(spi))], Informational::InvalidSpi { command });
}

impl Informational {
    pub fn conclude(self, sa: &mut IkeSa, cx: &mut Cx<'_>) {
        let (command, outcome) = match self {
            Informational::DeleteChildren { spis, reason, command } => {
                for spi in spis {
                    sa.remove_child(cx, spi, reason);
                }
                (command, Outcome::Deleted)
            }
            Informational::DeleteIke { command } => {
                let reason = match &sa.phase {
                    Phase::Closing(reason) => reason.clone(),
                    _ => Failure::Rekeyed,
                };
                sa.close(cx, reason);
                (command, Outcome::Deleted)
            }
            Informational::Liveness { command } => (command, Outcome::Alive),
            Informational::InvalidSpi { command } => (command, Outcome::Notified),
        };
        cx.done(command, sa.id, Ok(outcome));
    }

    pub fn take_command(&mut self) -> Option<CommandId> {
        let (Informational::DeleteChildren { command, .. }
        | Informational::DeleteIke { command }
        | Informational::Liveness { command }
        | Informational::InvalidSpi { command }) = self;
        command.take()
    }

    pub fn abandon(self, sa: &IkeSa, cx: &mut Cx<'_>, failure: &Failure) {
        let (Informational::DeleteChildren { command, .. }
        | Informational::DeleteIke { command }
        | Informational::Liveness { command }
        | Informational::InvalidSpi { command }) = self;
        cx.done(command, sa.id, Err(failure.clone()));
    }
}

/// Answers the peer's request.
pub(crate) fn respond(sa: &mut IkeSa, cx: &mut Cx<'_>, request: &Payloads<'_>) {
    let mut answer = Vec::new();
    let mut closed = None;
    if request.deletes().any(|delete| *delete == Delete::IkeSa) {
        closed = Some(Failure::DeletedByPeer);
    } else if request.notify(NotifyType::AUTHENTICATION_FAILED).is_some() {
        // The peer didn't believe our proof in its own response (RFC 7296 2.21.2).
        closed = Some(Failure::RefusedByPeer);
    } else {
        let paired = delete_of_peer(sa, cx, request);
        if !paired.is_empty() {
            answer.push(Payload::Delete(Delete::Children { protocol: ProtocolId::ESP, spis: paired }));
        }
    }
    if let Some(token) = qcd::token_of(request) {
        sa.peer.qcd_token = Some(token);
    }
    for spi in request.notifies(NotifyType::INVALID_SPI).filter_map(Notify::spi_of_packet) {
        cx.event(Event::Notice(Notice::PeerMissesSpi { ike: sa.id, spi }));
    }
    sa.respond(cx, ExchangeType::INFORMATIONAL, answer);
    if let Some(reason) = closed {
        super::rekey_ike::yield_to_peer(sa, cx);
        cx.action(Action::Close(sa.id, reason));
    }
}

/// Removes the CHILD_SAs that the peer names by its inbound SPIs, and gives ours. Those that we are deleting ourselves are
/// left out of the answer: they are in our request (RFC 7296 1.4.1).
fn delete_of_peer(sa: &mut IkeSa, cx: &mut Cx<'_>, request: &Payloads<'_>) -> Vec<ChildSpi> {
    let mut paired = Vec::new();
    for delete in request.deletes() {
        let Delete::Children { protocol: ProtocolId::ESP, spis } = delete else { continue };
        for spi in spis {
            let Some(child) = sa.children.iter().find(|child| child.outbound == *spi) else {
                if let Some(Exchange::Create(create)) = sa.outstanding.as_mut().map(|request| &mut request.exchange) {
                    create.note_deleted(*spi);
                }
                continue;
            };
            let (inbound, state) = (child.inbound, child.state);
            if state != ChildState::Deleting {
                paired.push(inbound);
            }
            sa.remove_child(cx, inbound, ChildDownReason::DeletedByPeer);
        }
    }
    paired
}

/// A message in the clear for an IKE SA that has keys. It changes nothing, unless it carries the token by which the peer
/// said it would prove that it has lost the IKE SA.
pub(crate) fn handle_unprotected(sa: &mut IkeSa, cx: &mut Cx<'_>, remote: SocketAddr, message: &Message<'_>) {
    if message.payloads.notify(NotifyType::INVALID_IKE_SPI).is_none() || !sa.is_established() {
        return;
    }
    let token = qcd::token_of(&message.payloads);
    if let (Some(expected), Some(token)) = (&sa.peer.qcd_token, &token)
        && qcd::matches(expected, token)
    {
        sa.close(cx, Failure::PeerLostState);
        return;
    }
    let checking = sa.check_on_hint(cx);
    cx.event(Event::Notice(Notice::InvalidIkeSpiHint { ike: sa.id, remote, checking }));
}
