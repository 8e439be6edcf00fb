//! What an endpoint and its connections are configured to do.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::crypto::certificate::{Authorities, LocalCertificate};
use crate::crypto::secret::Secret;
use crate::identity::Identity;
use crate::proposal::{EspProposal, IkeProposal};
use crate::selector::Selector;
use crate::wire::AddressRange;

/// Settings of the whole endpoint.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// The UDP port of IKE: 500.
    pub port: u16,
    /// The UDP port of IKE and ESP behind a NAT, where IKE has the non-ESP marker: 4500.
    pub nat_port: u16,
    /// From so many half-open IKE SAs on, initiators have to return a cookie (RFC 7296 2.6).
    pub cookie_threshold: usize,
    /// More half-open IKE SAs than that aren't kept: IKE_SA_INIT requests are dropped.
    pub max_half_open: usize,
    /// A responder's half-open IKE SA is forgotten after that.
    pub half_open_timeout: Duration,
    /// Answers to messages that belong to no IKE SA, at most so many in a second.
    pub unprotected_answers_per_second: u32,
    /// What tokens of quick crash detection are made from (RFC 6290). It has to outlive a restart: only then can the tokens
    /// of IKE SAs that the restart lost be made again. Without it, none are.
    pub qcd_secret: Option<Secret>,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        EndpointConfig {
            port: 500,
            nat_port: 4500,
            cookie_threshold: 32,
            max_half_open: 1024,
            half_open_timeout: Duration::from_secs(30),
            unprotected_answers_per_second: 20,
            qcd_secret: None,
        }
    }
}

/// Where a peer is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemoteAddress {
    /// At this address.
    Host(IpAddr),
    /// Somewhere in these networks: a dynamic peer, who has to initiate.
    Networks(Vec<AddressRange>),
}

impl RemoteAddress {
    /// True where the peer may have that address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match self {
            RemoteAddress::Host(host) => *host == address,
            RemoteAddress::Networks(networks) => networks.iter().any(|network| {
                network.start().is_ipv4() == address.is_ipv4() && network.start() <= address && address <= network.end()
            }),
        }
    }
}

/// How both sides prove who they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Auth {
    /// By a secret that both know.
    Psk(Secret),
    /// By signatures, with certificates (RFC 7427).
    Certificates {
        /// Ours.
        local: Arc<LocalCertificate>,
        /// Who may vouch for the peer.
        authorities: Arc<Authorities>,
    },
}

/// How packets of a CHILD_SA are encapsulated (RFC 4301 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Whole IP packets.
    Tunnel,
    /// What the IP packet of one of the ends carries.
    Transport,
}

/// How long an SA is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetime {
    /// We begin to rekey after that, less a random part of `jitter`, so that both sides rarely begin at once.
    pub rekey: Duration,
    /// The most that is taken off.
    pub jitter: Duration,
    /// An SA that could not be rekeyed ends after that.
    pub hard: Duration,
}

/// How requests are repeated while no response comes (RFC 7296 2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retransmit {
    /// Before the first repetition.
    pub initial: Duration,
    /// Each pause is longer than the one before by that factor, in percent.
    pub factor_percent: u32,
    /// No pause is longer.
    pub max: Duration,
    /// So many repetitions; after one more pause the peer counts as dead.
    pub tries: u32,
}

impl Default for Retransmit {
    /// The peer counts as dead after 2 minutes, which is what RFC 7296 2.4 calls "several minutes" at its shortest.
    fn default() -> Self {
        Retransmit { initial: Duration::from_millis(500), factor_percent: 180, max: Duration::from_secs(20), tries: 10 }
    }
}

/// A connection: a peer, and what is negotiated with it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its name in logs and commands.
    pub name: String,
    /// Our address.
    pub local: IpAddr,
    /// The peer's.
    pub remote: RemoteAddress,
    /// Who we are.
    pub local_id: Identity,
    /// Who the peer has to be; anybody who knows the secret, or has a certificate, if not given.
    pub remote_id: Option<Identity>,
    /// How both sides prove it.
    pub auth: Auth,
    /// Algorithms of the IKE SA, the preferred ones first.
    pub ike_proposals: Vec<IkeProposal>,
    /// Algorithms of the CHILD_SA, the preferred ones first.
    pub esp_proposals: Vec<EspProposal>,
    /// The traffic on our side.
    pub local_ts: Vec<Selector>,
    /// The traffic on the peer's side.
    pub remote_ts: Vec<Selector>,
    /// Tunnel or transport mode.
    pub mode: Mode,
    /// Of the IKE SA.
    pub ike_lifetime: Lifetime,
    /// Of each CHILD_SA.
    pub child_lifetime: Lifetime,
    /// When nothing was heard of the peer for that long, we ask whether it is alive. Never, if not given.
    pub dpd: Option<Duration>,
    /// Have ESP in UDP even without a NAT, by letting the peer believe that there is one.
    pub force_encap: bool,
    /// Whether we begin: at a peer with a fixed address, unless the configuration says that the peer has to.
    pub may_initiate: bool,
    /// How requests are repeated.
    pub retransmit: Retransmit,
    /// Messages are sent in fragments of at most so many octets of UDP payload, where the peer knows RFC 7383.
    pub fragment_size: usize,
}

impl Connection {
    /// The usual values for what isn't about the peer: an IKE SA of 4 hours, CHILD_SAs of 1 hour, in tunnel mode, with a
    /// liveness check after 30 s.
    pub fn new(name: &str, local: IpAddr, remote: RemoteAddress, local_id: Identity, auth: Auth) -> Self {
        let may_initiate = matches!(remote, RemoteAddress::Host(_));
        Connection {
            name: name.to_owned(),
            local,
            remote,
            local_id,
            remote_id: None,
            auth,
            ike_proposals: Vec::new(),
            esp_proposals: Vec::new(),
            local_ts: vec![Selector::Dynamic],
            remote_ts: vec![Selector::Dynamic],
            mode: Mode::Tunnel,
            ike_lifetime: Lifetime {
                rekey: Duration::from_secs(4 * 3600),
                jitter: Duration::from_secs(600),
                hard: Duration::from_secs(4 * 3600 + 900),
            },
            child_lifetime: Lifetime {
                rekey: Duration::from_secs(3600),
                jitter: Duration::from_secs(300),
                hard: Duration::from_secs(3600 + 600),
            },
            dpd: Some(Duration::from_secs(30)),
            force_encap: false,
            may_initiate,
            retransmit: Retransmit::default(),
            // What fits into an IPv6 packet of 1280 octets with UDP, non-ESP marker and an extension header or two.
            fragment_size: 1200,
        }
    }

    /// How another connection of that name differs from this one.
    pub fn compare(&self, other: &Connection) -> Difference {
        // All fields by name: whoever adds one says here whether IKE SAs are negotiated by it.
        let Connection {
            name,
            local,
            remote,
            local_id,
            remote_id,
            auth,
            ike_proposals,
            esp_proposals,
            local_ts,
            remote_ts,
            mode,
            ike_lifetime,
            child_lifetime,
            dpd,
            force_encap,
            may_initiate,
            retransmit,
            fragment_size,
        } = self;
        let same_terms = *name == other.name
            && (*local, remote) == (other.local, &other.remote)
            && (local_id, remote_id, auth) == (&other.local_id, &other.remote_id, &other.auth)
            && (ike_proposals, esp_proposals) == (&other.ike_proposals, &other.esp_proposals)
            && (local_ts, remote_ts) == (&other.local_ts, &other.remote_ts)
            && (*mode, *force_encap) == (other.mode, other.force_encap);
        let same_settings = (*ike_lifetime, *child_lifetime) == (other.ike_lifetime, other.child_lifetime)
            && (*dpd, *retransmit) == (other.dpd, other.retransmit)
            && (*may_initiate, *fragment_size) == (other.may_initiate, other.fragment_size);
        match (same_terms, same_settings) {
            (false, _) => Difference::Terms,
            (true, false) => Difference::Settings,
            (true, true) => Difference::None,
        }
    }

    /// True where a datagram between these addresses may belong to the connection.
    pub(crate) fn covers(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.local == local.ip() && self.remote.contains(remote.ip())
    }
}

/// How two connections of the same name differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Difference {
    /// Not at all.
    None,
    /// In what one side decides for itself, such as times: IKE SAs that there are go on.
    Settings,
    /// In what both sides have to agree on: addresses, identities, credentials, proposals, selectors, mode, encapsulation.
    Terms,
}

/// Why a connection can't be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// Two of the same name.
    #[error("connection '{0}' is there already; give each connection a name of its own")]
    DuplicateName(String),
    /// A list with nothing in it.
    #[error("connection '{name}': {field} is empty; give at least one")]
    Empty {
        /// The connection.
        name: String,
        /// The field.
        field: &'static str,
    },
    /// A value that doesn't go with another.
    #[error("connection '{name}': {problem}")]
    Conflict {
        /// The connection.
        name: String,
        /// What is wrong, and the fix.
        problem: &'static str,
    },
}

impl Connection {
    /// Checks what the types can't say.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (field, empty) in [
            ("ike_proposals", self.ike_proposals.is_empty()),
            ("esp_proposals", self.esp_proposals.is_empty()),
            ("local_ts", self.local_ts.is_empty()),
            ("remote_ts", self.remote_ts.is_empty()),
        ] {
            if empty {
                return Err(ConfigError::Empty { name: self.name.clone(), field });
            }
        }
        let conflict = |problem| Err(ConfigError::Conflict { name: self.name.clone(), problem });
        if matches!(&self.auth, Auth::Psk(secret) if secret.is_empty()) {
            return conflict("the pre-shared key is empty; give one");
        }
        if matches!(&self.auth, Auth::Certificates { local, .. } if !local.names(&self.local_id)) {
            return conflict(
                "our certificate doesn't name local_id; use its subject or one of its subjectAltNames as local_id",
            );
        }
        if self.may_initiate && !matches!(self.remote, RemoteAddress::Host(_)) {
            return conflict("we can't initiate to a network; give the peer's address, or let the peer initiate");
        }
        for lifetime in [&self.ike_lifetime, &self.child_lifetime] {
            if lifetime.rekey >= lifetime.hard || lifetime.jitter >= lifetime.rekey {
                return conflict("a lifetime needs jitter < rekey < hard");
            }
        }
        if self.fragment_size < 256 {
            return conflict("fragment_size is below 256 octets, which no path asks for; raise it");
        }
        Ok(())
    }
}
