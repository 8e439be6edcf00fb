//! What the agent needs of whoever speaks IKE on this host: a daemon over VICI ([`crate::vici`]), or IKEv2 of its own.
//!
//! SAs are told apart by their SPIs, which are what packets and messages have; what else a daemon calls them stays with
//! it. A connection is one configured peer, by its name in the daemon's configuration.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nf_core::types::Spi;
use serde::Serialize;

/// The SPIs of an IKE SA (RFC 7296 3.1); for IKEv1 the cookies (RFC 2408 2.5.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct IkeSpis {
    /// The initiator's.
    pub initiator: u64,
    /// The responder's; 0 until it has answered.
    pub responder: u64,
}

impl fmt::Display for IkeSpis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}_i {:016x}_r", self.initiator, self.responder)
    }
}

/// Where an IKE SA stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IkeState {
    /// Its first exchanges are under way.
    Connecting,
    /// It can be used.
    Established,
    /// Its successor is being made; it can still be used.
    Rekeying,
    /// It has a successor, or is being deleted.
    Closing,
}

/// Where a CHILD_SA stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChildState {
    /// It is being negotiated or installed.
    Installing,
    /// It carries traffic.
    Installed,
    /// It carries traffic, and its successor is being made.
    Rekeying,
    /// It has a successor, or is being deleted.
    Closing,
}

/// A pair of SAs, one for each direction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ChildSa {
    /// Its name in the configuration.
    pub name: String,
    /// Where it stands.
    pub state: ChildState,
    /// `tunnel` or `transport`.
    pub mode: String,
    /// In UDP (RFC 3948).
    pub encap: bool,
    /// Of what the peer sends: the SPI in its packets. None until there is one.
    pub spi_in: Option<Spi>,
    /// Of what is sent to the peer.
    pub spi_out: Option<Spi>,
    /// Our networks.
    pub local_ts: Vec<String>,
    /// The peer's networks.
    pub remote_ts: Vec<String>,
    /// Packets that came in on it.
    pub packets_in: u64,
    /// Their octets.
    pub octets_in: u64,
    /// For how long it has been installed.
    pub age_s: u64,
    /// When it will be rekeyed.
    pub rekey_in_s: Option<u64>,
}

/// An IKE SA with its CHILD_SAs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct IkeSa {
    /// The connection that it is of.
    pub connection: String,
    /// Its SPIs.
    pub spis: IkeSpis,
    /// 1 or 2.
    pub version: u8,
    /// Where it stands.
    pub state: IkeState,
    /// Our address and UDP port.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Who we say we are.
    pub local_id: String,
    /// Who the peer proved to be.
    pub remote_id: String,
    /// Whether we were its initiator.
    pub initiator: bool,
    /// For how long it has been established.
    pub age_s: u64,
    /// When it will be rekeyed or authenticated anew.
    pub rekey_in_s: Option<u64>,
    /// Its CHILD_SAs.
    pub children: Vec<ChildSa>,
}

/// A configured peer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// 1 or 2; none where either will do.
    pub version: Option<u8>,
    /// Our addresses, names or networks.
    pub local_addrs: Vec<String>,
    /// The peer's.
    pub remote_addrs: Vec<String>,
    /// Who we may say we are; without any our address is it.
    pub local_ids: Vec<String>,
    /// Who the peer has to be; without any its address is it.
    pub remote_ids: Vec<String>,
    /// The names of its CHILD_SAs.
    pub children: Vec<String>,
}

/// Something that happened to an SA.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// An IKE SA is established.
    IkeUp(IkeSa),
    /// An IKE SA is gone, with its CHILD_SAs.
    IkeDown(IkeSa),
    /// A CHILD_SA is installed.
    ChildUp(IkeSa),
    /// A CHILD_SA is gone.
    ChildDown(IkeSa),
    /// A CHILD_SA has a successor.
    ChildRekeyed {
        /// The IKE SA with the successor alone.
        ike: IkeSa,
        /// The one that is about to go.
        old: Box<ChildSa>,
    },
}

/// A request that was not carried out. Each message is a sentence with its remedy.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Nobody is there.
    #[error("no IKE daemon at {at}: {why}")]
    Unavailable {
        /// Its socket.
        at: String,
        /// Why, and what to do.
        why: String,
    },
    /// It went away, or is silent.
    #[error("the IKE daemon at {at} doesn't answer: {why}")]
    Broken {
        /// Its socket.
        at: String,
        /// What happened.
        why: String,
    },
    /// Its answer makes no sense.
    #[error("the IKE daemon at {at} answers in an unknown way ({why}); which version is it?")]
    Protocol {
        /// Its socket.
        at: String,
        /// What doesn't fit.
        why: String,
    },
    /// There is no such connection.
    #[error("the IKE daemon has no connection `{name}`; {}", those(known))]
    NoConnection {
        /// Its name.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// There is no such SA.
    #[error("the IKE daemon has no {what}; it may have been rekeyed or deleted a moment ago")]
    NoSa {
        /// Which.
        what: String,
    },
    /// It tried, and says why that failed.
    #[error("the IKE daemon could not {what}: {why}")]
    Failed {
        /// What it was asked for.
        what: String,
        /// Its own words.
        why: String,
    },
}

fn those(known: &[String]) -> String {
    match known {
        [] => "it has none: load them with swanctl --load-conns".to_owned(),
        known => format!("it has `{}`", known.join("`, `")),
    }
}

/// Whoever speaks IKE on this host.
pub trait IkeBackend {
    /// The configured peers.
    ///
    /// # Errors
    /// [`BackendError`].
    fn connections(&mut self) -> Result<Vec<Connection>, BackendError>;

    /// The IKE SAs of a connection, or all.
    ///
    /// # Errors
    /// [`BackendError`].
    fn sas(&mut self, connection: Option<&str>) -> Result<Vec<IkeSa>, BackendError>;

    /// Brings up all CHILD_SAs of a connection, over its IKE SA if there is one, else over a new one. Waits until they
    /// are up.
    ///
    /// # Errors
    /// [`BackendError::NoConnection`]; [`BackendError::Failed`] with the reason, or when it takes longer than `within`.
    fn initiate(&mut self, connection: &str, within: Duration) -> Result<(), BackendError>;

    /// Replaces a CHILD_SA, named by the SPI in the packets that the peer sends. What follows is told by an event.
    ///
    /// # Errors
    /// [`BackendError::NoSa`] and others.
    fn rekey_child(&mut self, spi: Spi, local: IpAddr) -> Result<(), BackendError>;

    /// Replaces an IKE SA; its CHILD_SAs move over. What follows is told by an event.
    ///
    /// # Errors
    /// [`BackendError::NoSa`] and others.
    fn rekey_ike(&mut self, ike: IkeSpis) -> Result<(), BackendError>;

    /// Deletes a CHILD_SA, named as in [`IkeBackend::rekey_child`], and tells the peer.
    ///
    /// # Errors
    /// [`BackendError::NoSa`] and others; [`BackendError::Failed`] when the peer hasn't answered `within` that time.
    fn terminate_child(&mut self, spi: Spi, local: IpAddr, within: Duration) -> Result<(), BackendError>;

    /// Deletes an IKE SA with its CHILD_SAs and tells the peer. When the peer doesn't answer `within` that time the SA
    /// is dropped all the same.
    ///
    /// # Errors
    /// [`BackendError::NoSa`] and others.
    fn terminate_ike(&mut self, ike: IkeSpis, within: Duration) -> Result<(), BackendError>;
}
