//! Why a port can't be had, or a message not be sent.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;

use super::MAX_MESSAGE;
use crate::detect::{self, Conflict, Endpoint};

/// The sockets of this thread's network namespace.
const NETWORK: &str = "/proc/thread-self/net";

/// Why an IKE endpoint can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Nothing to bind to.
    #[error("there is no local address to speak IKE on: add a [[local]] table with its address")]
    NoAddress,
    /// Another IKE endpoint is there.
    #[error("can't listen on UDP {local}: {conflict}")]
    Taken {
        /// What was to be bound.
        local: SocketAddr,
        /// Who is there.
        conflict: Conflict,
    },
    /// Somebody is there whom this process can't see.
    #[error(
        "can't listen on UDP {local}: it's taken by a process that /proc doesn't show; find it with `ss -ulpn 'sport = :{}'` as \
         root on the host, and stop it",
        local.port()
    )]
    TakenByUnknown {
        /// What was to be bound.
        local: SocketAddr,
    },
    /// Not an address of this host.
    #[error(
        "can't listen on UDP {local}: {} is no address of this host; IKE comes to the kernel by the exception port, so add it to \
         that port's interface with `ip address add`, or correct the [[local]] table",
        local.ip()
    )]
    NotLocal {
        /// What was to be bound.
        local: SocketAddr,
    },
    /// Ports below 1024 are for root.
    #[error(
        "can't listen on UDP {local}: that needs root or CAP_NET_BIND_SERVICE (setcap cap_net_bind_service+ep nf-ctl)"
    )]
    NotPermitted {
        /// What was to be bound.
        local: SocketAddr,
    },
    /// Anything else about a socket.
    #[error("can't listen on UDP {local}: {error}")]
    Socket {
        /// What was to be bound.
        local: SocketAddr,
        /// What the kernel says.
        error: io::Error,
    },
    /// Anything else.
    #[error("can't prepare to receive IKE messages: {0}")]
    System(io::Error),
}

impl BindError {
    pub(super) fn new(local: SocketAddr, error: io::Error) -> BindError {
        match error.kind() {
            ErrorKind::AddrInUse => match holder(local) {
                Some(conflict) => BindError::Taken { local, conflict },
                None => BindError::TakenByUnknown { local },
            },
            ErrorKind::AddrNotAvailable => BindError::NotLocal { local },
            ErrorKind::PermissionDenied => BindError::NotPermitted { local },
            _ => BindError::Socket { local, error },
        }
    }
}

/// Who is at an IKE port of an address.
fn holder(local: SocketAddr) -> Option<Conflict> {
    let daemons = detect::find(Path::new(NETWORK), &[]).ok()?;
    detect::conflict(&daemons, Endpoint { local: local.ip(), local_id: "", remote_id: "" })
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The address or port isn't bound.
    #[error("can't send from UDP {local}: it's not a port of this endpoint")]
    NotLocal {
        /// What it was to be sent from.
        local: SocketAddr,
    },
    /// Too long for one datagram.
    #[error(
        "can't send {octets} octets to {remote} at once: {MAX_MESSAGE} is the limit; does the peer support fragmentation?"
    )]
    TooLong {
        /// The peer.
        remote: SocketAddr,
        /// The message's octets.
        octets: usize,
    },
    /// The kernel refuses.
    #[error("can't send from {local} to {remote}: {error}{}", remedy(.error))]
    Refused {
        /// Our address.
        local: SocketAddr,
        /// The peer.
        remote: SocketAddr,
        /// What the kernel says.
        error: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => "; is there a route to the peer?",
        ErrorKind::NetworkDown => "; is the interface up?",
        ErrorKind::PermissionDenied => "; does this host's firewall let it out?",
        _ => "",
    }
}
