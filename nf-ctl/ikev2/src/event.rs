//! What an endpoint tells its driver.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Mode;
use crate::crypto::esp::{ChildKeys, EspSuite};
use crate::crypto::keys::{IkeSuite, Role};
use crate::identity::Identity;
use crate::wire::{ChildSpi, IkeSpi, IpSelector, NotifyType};

/// An IKE SA of this endpoint. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IkeId(pub(crate) u64);

impl fmt::Display for IkeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A command that was given, to find its result by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CommandId(pub(crate) u64);

/// A datagram to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// From this address. Its port tells the socket: on [`nat_port`](crate::EndpointConfig::nat_port) the driver puts the
    /// non-ESP marker in front.
    pub local: SocketAddr,
    /// To that one.
    pub remote: SocketAddr,
    /// The IKE message.
    pub payload: Vec<u8>,
}

/// Something that happened.
///
/// The driver acts on all events before it sends what [`poll_transmit`](crate::Endpoint::poll_transmit) gives: so an
/// inbound SA is in place before the peer hears of it (RFC 7296 2.8).
#[derive(Debug)]
pub enum Event {
    /// An IKE SA is established.
    IkeUp(IkeUp),
    /// An IKE SA was rekeyed: its CHILD_SAs belong to the new one now.
    IkeRekeyed {
        /// The one that ends.
        old: IkeId,
        /// The one that goes on.
        new: IkeId,
        /// The new one's SPIs: the initiator's and the responder's.
        spis: (IkeSpi, IkeSpi),
        /// Its algorithms.
        suite: IkeSuite,
    },
    /// An IKE SA is gone, or couldn't be made. Each of its CHILD_SAs was reported as down before. Where its connection was
    /// removed or changed, the peer is told after this.
    IkeDown {
        /// The IKE SA.
        ike: IkeId,
        /// The connection, where that was known already.
        connection: Option<Arc<str>>,
        /// The peer.
        remote: SocketAddr,
        /// Why.
        reason: Failure,
    },
    /// A CHILD_SA is there: install it.
    ChildUp(Box<ChildUp>),
    /// A CHILD_SA is gone: remove it.
    ChildDown {
        /// Its IKE SA.
        ike: IkeId,
        /// The SPI of packets to us.
        inbound_spi: ChildSpi,
        /// The SPI of packets to the peer.
        outbound_spi: ChildSpi,
        /// Why.
        reason: ChildDownReason,
    },
    /// A command was done, or couldn't be.
    Done {
        /// Which.
        command: CommandId,
        /// The IKE SA that it was carried out over.
        ike: IkeId,
        /// With what result.
        result: Result<Outcome, Failure>,
    },
    /// Something to know, which changes nothing.
    Notice(Notice),
}

/// An IKE SA that was established.
#[derive(Clone, Debug)]
pub struct IkeUp {
    /// The IKE SA.
    pub ike: IkeId,
    /// Its connection.
    pub connection: Arc<str>,
    /// Whether we began.
    pub role: Role,
    /// The initiator's and the responder's SPI.
    pub spis: (IkeSpi, IkeSpi),
    /// Our address.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Who we are.
    pub local_id: Identity,
    /// Who the peer is.
    pub remote_id: Identity,
    /// The algorithms.
    pub suite: IkeSuite,
    /// Whether a NAT lies on our side and on the peer's.
    pub nat: (bool, bool),
}

/// A CHILD_SA that was negotiated.
#[derive(Debug)]
pub struct ChildUp {
    /// Its IKE SA.
    pub ike: IkeId,
    /// The connection.
    pub connection: Arc<str>,
    /// The SPI of packets to us.
    pub inbound_spi: ChildSpi,
    /// The SPI of packets to the peer.
    pub outbound_spi: ChildSpi,
    /// The algorithms.
    pub suite: EspSuite,
    /// The keys.
    pub keys: ChildKeys,
    /// Tunnel or transport mode.
    pub mode: Mode,
    /// The traffic on our side.
    pub local_ts: Vec<IpSelector>,
    /// The traffic on the peer's side.
    pub remote_ts: Vec<IpSelector>,
    /// Our address, and with `udp_encap` our port.
    pub local: SocketAddr,
    /// The peer's address, and with `udp_encap` its port.
    pub remote: SocketAddr,
    /// Whether ESP goes in UDP (RFC 3948).
    pub udp_encap: bool,
    /// Whether the peer's address and port are to be taken from its newest authentic packet: it is behind a NAT, and we aren't
    /// (RFC 7296 2.23).
    pub peer_may_move: bool,
    /// The inbound SPI of the CHILD_SA that it replaces, which is reported as down later.
    pub replaces: Option<ChildSpi>,
    /// Our part in the exchange that made it. A responder that replaces a CHILD_SA does well to send by the old one until
    /// the peer has shown that it has the new one: by a packet on it, or by deleting the old one (RFC 7296 2.8).
    pub role: Role,
}

/// Why a CHILD_SA is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ChildDownReason {
    /// Another one has taken its place. Packets that were on their way may still come.
    Rekeyed,
    /// Both sides rekeyed at once, and this is the one of two new SAs that is not used (RFC 7296 2.8.1).
    Redundant,
    /// The peer deleted it.
    DeletedByPeer,
    /// We did, by a command.
    Deleted,
    /// Its lifetime ended before it was rekeyed.
    Expired,
    /// Its IKE SA is gone.
    IkeDown,
    /// Its connection was removed, or is to be negotiated anew.
    Reconfigured,
}

impl fmt::Display for ChildDownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChildDownReason::Rekeyed => "rekeyed",
            ChildDownReason::Redundant => "redundant after both sides rekeyed at once",
            ChildDownReason::DeletedByPeer => "deleted by the peer",
            ChildDownReason::Deleted => "deleted by command",
            ChildDownReason::Expired => "its lifetime ended",
            ChildDownReason::IkeDown => "its IKE SA is gone",
            ChildDownReason::Reconfigured => "its connection was removed or changed",
        })
    }
}

/// What a command led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// An IKE SA with a CHILD_SA, of this inbound SPI.
    Established(ChildSpi),
    /// A new CHILD_SA, of this inbound SPI.
    ChildCreated(ChildSpi),
    /// A new IKE SA in place of the old one.
    IkeRekeyed(IkeId),
    /// The peer has answered a DELETE; what it knew of the SPIs, it has removed.
    Deleted,
    /// The peer is alive.
    Alive,
    /// The peer has taken a notify.
    Notified,
}

/// Something to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The peer's address has changed: a NAT gave it another one. CHILD_SAs of this IKE SA send there from now on.
    AddressChanged {
        /// The IKE SA.
        ike: IkeId,
        /// Our address.
        local: SocketAddr,
        /// The peer's new address.
        remote: SocketAddr,
    },
    /// Somebody says, without proof, that a host doesn't know an SPI of ours (RFC 7296 1.5). A liveness check was begun,
    /// where an IKE SA with that address exists and none was made a moment ago.
    InvalidSpiHint {
        /// Who it came from.
        remote: SocketAddr,
        /// The SPI, if it was told.
        spi: Option<ChildSpi>,
        /// The IKE SA that is checked.
        checking: Option<IkeId>,
    },
    /// The peer says, over its IKE SA, that it doesn't know an SPI.
    PeerMissesSpi {
        /// The IKE SA.
        ike: IkeId,
        /// The SPI.
        spi: ChildSpi,
    },
    /// Somebody says, without proof, that the peer has lost an IKE SA. A liveness check was begun, if none was made a
    /// moment ago.
    InvalidIkeSpiHint {
        /// The IKE SA.
        ike: IkeId,
        /// Who it came from.
        remote: SocketAddr,
        /// Whether a check was begun.
        checking: bool,
    },
    /// A peer's IKE_SA_INIT, or IKE_AUTH, was refused.
    Refused {
        /// Who.
        remote: SocketAddr,
        /// Why.
        reason: Failure,
    },
    /// A CHILD_SA that the peer asked for was refused.
    ChildRefused {
        /// The IKE SA.
        ike: IkeId,
        /// Why.
        reason: Failure,
    },
    /// The peer forgot its earlier IKE SAs (INITIAL_CONTACT), so this one ends.
    SupersededBy {
        /// The one that ends.
        old: IkeId,
        /// The one that was established.
        new: IkeId,
    },
}

/// Why something didn't work, as a sentence for an operator.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// No response.
    #[error("the peer doesn't answer after {tries} tries in {} s; check that it runs IKE and that UDP 500 and 4500 pass", waited.as_secs())]
    NoResponse {
        /// How often the request was sent.
        tries: u32,
        /// Since it was first sent.
        waited: Duration,
    },
    /// The peer said AUTHENTICATION_FAILED.
    #[error(
        "the peer refused our authentication; compare the secret or certificate, and the identities, on both sides"
    )]
    RefusedByPeer,
    /// The peer's proof is wrong.
    #[error("authentication of peer '{peer}' failed: {problem}")]
    PeerNotAuthenticated {
        /// Who it said it is.
        peer: String,
        /// What is wrong, and what to do.
        problem: AuthProblem,
    },
    /// No signature that both can handle.
    #[error(
        "the peer can't verify a signature by our key: it knows neither RFC 7427 with SHA-2, nor, for ECDSA, RFC 4754; use \
         an ECDSA certificate, or another peer"
    )]
    NoSignatureInCommon,
    /// No common algorithms.
    #[error(
        "no proposal chosen for the {0}: the peer and we have no set of algorithms in common; compare the proposals"
    )]
    NoProposalChosen(SaKind),
    /// No common traffic.
    #[error("traffic selectors unacceptable: the peer's and ours have nothing in common; compare them on both sides")]
    TsUnacceptable,
    /// The modes differ.
    #[error("the peer doesn't take the mode: one side is configured for tunnel, the other for transport mode")]
    ModeUnacceptable,
    /// The peer refused with a notify.
    #[error("the peer refused with {0}")]
    PeerNotify(NotifyType),
    /// A message that can't be right.
    #[error("the peer's message is invalid: {0}")]
    InvalidMessage(String),
    /// The peer closed the IKE SA.
    #[error("the peer closed the IKE SA")]
    DeletedByPeer,
    /// We closed the IKE SA.
    #[error("closed by command")]
    Deleted,
    /// Its connection was taken away.
    #[error("its connection was removed from the configuration")]
    ConnectionRemoved,
    /// Its connection has other terms.
    #[error("its connection was changed in what is negotiated")]
    ConnectionChanged,
    /// The driver has forgotten it.
    #[error("given up, as the peer doesn't answer in time")]
    GivenUp,
    /// The IKE SA was replaced by its successor.
    #[error("replaced by a rekeyed IKE SA")]
    Rekeyed,
    /// Both sides rekeyed at once.
    #[error("redundant, as both sides rekeyed the IKE SA at once")]
    Redundant,
    /// The lifetime ended.
    #[error("the IKE SA's lifetime ended before it could be rekeyed")]
    Expired,
    /// The peer forgot it.
    #[error("the peer began anew with INITIAL_CONTACT")]
    InitialContact,
    /// The peer proved by a token that it has lost the IKE SA.
    #[error("the peer proved with a QCD token that it has lost the IKE SA (RFC 6290)")]
    PeerLostState,
    /// No SPI was to be had.
    #[error("no SPI could be reserved: {0}")]
    NoSpi(String),
    /// The peer is busy with something that excludes this.
    #[error("the peer is busy with another exchange; try again")]
    Busy,
    /// The SA is not there, or not any more.
    #[error("the {0} doesn't exist any more")]
    Gone(SaKind),
    /// No connection of ours is for that peer.
    #[error("no connection is configured for {local} with {remote} and identity '{peer}'")]
    NoConnection {
        /// Our address.
        local: IpAddr,
        /// The peer's.
        remote: IpAddr,
        /// Who it says it is.
        peer: String,
    },
    /// A message couldn't be made.
    #[error("a message couldn't be made: {0}")]
    Internal(String),
}

/// An SA, in a sentence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SaKind {
    /// IKE SA.
    Ike,
    /// CHILD_SA.
    Child,
}

impl fmt::Display for SaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SaKind::Ike => "IKE SA",
            SaKind::Child => "CHILD_SA",
        })
    }
}

/// What is wrong with a peer's proof.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthProblem {
    /// The MAC by the shared secret differs.
    #[error("its pre-shared key differs from ours")]
    PskMismatch,
    /// The peer proves itself in another way than is configured.
    #[error("it uses {0}, and the connection is configured for another method")]
    Method(String),
    /// The peer is somebody else.
    #[error("the connection expects '{expected}'")]
    Identity {
        /// Who it has to be.
        expected: String,
    },
    /// The peer's certificate, or the signature by its key.
    #[error(transparent)]
    Certificate(#[from] crate::crypto::certificate::CertificateProblem),
    /// The message has no proof.
    #[error("its message has no {0} payload")]
    Missing(&'static str),
}
