//! The exchanges, one module each: what we ask, how we take the answer, and how we answer the peer.

pub(crate) mod auth;
pub(crate) mod create;
pub(crate) mod informational;
pub(crate) mod init;
pub(crate) mod rekey_ike;

use super::IkeSa;
use crate::context::Cx;
use crate::event::{ChildDownReason, CommandId, Failure, IkeId};
use crate::wire::{ChildSpi, Payloads};

/// Something to do over an established IKE SA, once the window is free.
#[derive(Debug)]
pub(crate) enum Task {
    /// A further CHILD_SA.
    CreateChild { command: Option<CommandId> },
    /// A CHILD_SA in place of that one, named by its inbound SPI.
    RekeyChild { spi: ChildSpi, command: Option<CommandId> },
    /// An IKE SA in place of this one.
    RekeyIke { command: Option<CommandId> },
    /// DELETE with these SPIs, inbound ones of ours, known here or not.
    DeleteChildren { spis: Vec<ChildSpi>, reason: ChildDownReason, command: Option<CommandId> },
    /// DELETE of the IKE SA.
    DeleteIke { reason: Failure, command: Option<CommandId> },
    /// An empty request.
    Liveness { command: Option<CommandId> },
    /// Our token of quick crash detection, for an IKE SA that was rekeyed.
    Token,
    /// N(INVALID_SPI), for the peer's log.
    InvalidSpi { spi: ChildSpi, command: Option<CommandId> },
}

impl Task {
    /// Sends the request, or finds that there is nothing to do any more.
    pub fn start(self, sa: &mut IkeSa, cx: &mut Cx<'_>) {
        match self {
            Task::CreateChild { command } => create::start(sa, cx, None, command),
            Task::RekeyChild { spi, command } => create::start(sa, cx, Some(spi), command),
            Task::RekeyIke { command } => rekey_ike::start(sa, cx, command),
            Task::DeleteChildren { spis, reason, command } => {
                informational::delete_children(sa, cx, spis, reason, command);
            }
            Task::DeleteIke { reason, command } => informational::delete_ike(sa, cx, reason, command),
            Task::Liveness { command } => informational::liveness(sa, cx, command),
            Task::Token => informational::token(sa, cx),
            Task::InvalidSpi { spi, command } => informational::invalid_spi(sa, cx, spi, command),
        }
    }

    /// Reports that it wasn't done.
    pub fn fail(self, ike: IkeId, cx: &mut Cx<'_>, failure: Failure) {
        match self {
            Task::CreateChild { command }
            | Task::RekeyChild { command, .. }
            | Task::RekeyIke { command }
            | Task::DeleteChildren { command, .. }
            | Task::DeleteIke { command, .. }
            | Task::Liveness { command }
            | Task::InvalidSpi { command, .. } => cx.done(command, ike, Err(failure)),
            Task::Token => {}
        }
    }

    /// True for what still makes sense over an IKE SA that has a successor: its own DELETE. One that a command asks for is
    /// meant for all that there is with the peer, so it is the successor's.
    pub fn is_farewell(&self) -> bool {
        matches!(self, Task::DeleteIke { command: None, .. })
    }
}

/// A request of ours that is under way.
pub(crate) enum Exchange {
    Init(Box<init::Init>),
    Auth(Box<auth::Auth>),
    Create(Box<create::Create>),
    RekeyIke(Box<rekey_ike::RekeyIke>),
    Informational(informational::Informational),
}

impl Exchange {
    /// Takes the authentic response.
    pub fn conclude(self, sa: &mut IkeSa, cx: &mut Cx<'_>, response: &Payloads<'_>) {
        match self {
            // Its response isn't encrypted and goes another way.
            Exchange::Init(_) => {}
            Exchange::Auth(auth) => auth.conclude(sa, cx, response),
            Exchange::Create(create) => create.conclude(sa, cx, response),
            Exchange::RekeyIke(rekey) => rekey.conclude(sa, cx, response),
            Exchange::Informational(informational) => informational.conclude(sa, cx),
        }
    }

    /// Takes the command away that it was begun by: that one hears of something else.
    pub fn take_command(&mut self) -> Option<CommandId> {
        match self {
            Exchange::Init(init) => init.command.take(),
            Exchange::Auth(auth) => auth.command.take(),
            Exchange::Create(create) => create.command.take(),
            Exchange::RekeyIke(rekey) => rekey.command.take(),
            Exchange::Informational(informational) => informational.take_command(),
        }
    }

    /// The IKE SA ends, and the exchange with it.
    pub fn abandon(self, sa: &mut IkeSa, cx: &mut Cx<'_>, failure: &Failure) {
        match self {
            Exchange::Init(init) => cx.done(init.command, sa.id, Err(failure.clone())),
            Exchange::Auth(auth) => auth.abandon(sa, cx, failure),
            Exchange::Create(create) => create.abandon(sa, cx, failure),
            Exchange::RekeyIke(rekey) => cx.done(rekey.command, sa.id, Err(failure.clone())),
            Exchange::Informational(informational) => informational.abandon(sa, cx, failure),
        }
    }

    /// True where the answer doesn't matter much.
    pub fn is_farewell(&self) -> bool {
        matches!(self, Exchange::Informational(informational::Informational::DeleteIke { .. }))
    }
}
