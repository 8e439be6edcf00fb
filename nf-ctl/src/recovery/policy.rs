//! Who may be sent what: the peers and the limits, as configured.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nf_core::config::PeerKind;
use nf_core::prefix::Prefix;

/// A `[[peer]]`, by a number that it keeps as long as the agent runs, wherever it stands in nf.toml.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(pub usize);

/// An IKE SA, by the number that its backend has for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IkeId(pub u64);

/// The far end of one IKE SA: a peer may be a network from which several come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Site {
    /// The peer.
    pub peer: PeerId,
    /// Its address.
    pub address: IpAddr,
    /// Its UDP port, where that tells hosts behind one NAT apart: for dynamic kinds with UDP encapsulation.
    pub port: Option<u16>,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// What recovery needs to know of a peer.
#[derive(Clone, Debug)]
pub struct PeerRule {
    /// Its place in nf.toml: of two peers that a packet may be of equally well it is the first one's.
    pub place: usize,
    /// Its kind, which decides whether IKE may be started to it.
    pub kind: PeerKind,
    /// Where it may come from. Without it nothing is sent to it but over an IKE SA.
    pub address: Option<Prefix>,
    /// The address of ours that it speaks to; any if not given.
    pub local_address: Option<IpAddr>,
    /// Whether an IKE SA is started whenever there is none: `start = "always"`.
    pub keep_up: bool,
    /// Whether a daemon speaks IKE with it. A daemon can be asked for less: neither for a DELETE of an SPI that it doesn't
    /// know nor for an unprotected message.
    pub by_daemon: bool,
}

impl PeerRule {
    /// The host that IKE may be started to: for static kinds the one with the peer's address.
    pub fn host(&self) -> Option<IpAddr> {
        let single = self.address.filter(|address| address.is_single())?;
        self.kind.may_initiate().then_some(single.address())
    }
}

/// Limits of what recovery may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// IKE messages a minute.
    pub budget_per_min: u32,
    /// IKE messages at once.
    pub budget_burst: u32,
    /// Between the first recovery of a site and its second.
    pub back_off_first: Duration,
    /// Between two recoveries of a site, at most.
    pub back_off_longest: Duration,
    /// Between two unprotected hints to a site.
    pub hint_interval: Duration,
    /// For so long an SPI that was rekeyed or deleted is left alone.
    pub grace: Duration,
    /// An IKE SA that was heard of within this time needs no liveness check.
    pub fresh: Duration,
}

impl Limits {
    /// Transmissions of one request of a recovery, at most. The backend keeps to it.
    pub const TRANSMISSIONS: u32 = 4;
    /// What a recovery sends at most: a liveness check, CREATE_CHILD_SA twice (INVALID_KE_PAYLOAD asks for it again), and
    /// where those show that the IKE SA is dead IKE_SA_INIT three times (COOKIE asks for it again, too), IKE_AUTH, and at
    /// last a DELETE.
    pub const RESERVE: u32 = Limits::TRANSMISSIONS * 8;
    /// What one more CHILD_SA may add to that.
    pub const RESERVE_CHILD: u32 = Limits::TRANSMISSIONS * 2;
}

/// Peers and limits.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `[recovery] invalid_spi_recovery`
    pub invalid_spi_recovery: bool,
    /// Limits.
    pub limits: Limits,
    /// The peers.
    pub peers: BTreeMap<PeerId, PeerRule>,
}

impl Policy {
    /// The rule of a peer.
    pub fn peer(&self, id: PeerId) -> Option<&PeerRule> {
        self.peers.get(&id)
    }

    /// The peer that a packet from `src` to `dst` may be of: the one with the narrowest address.
    pub fn find(&self, src: IpAddr, dst: IpAddr) -> Option<PeerId> {
        let fitting = self.peers.iter().filter_map(|(id, peer)| {
            let network = peer.address.filter(|network| network.contains(src))?;
            let is_ours = peer.local_address.is_none_or(|local| local == dst);
            is_ours.then_some((*id, (network.length(), Reverse(peer.place))))
        });
        fitting.max_by_key(|(_, narrowness)| *narrowness).map(|(id, _)| id)
    }

    /// The site that a packet or an IKE SA of a peer belongs to.
    pub fn site(&self, peer: PeerId, address: IpAddr, udp_port: Option<u16>) -> Site {
        let is_static = self.peer(peer).is_some_and(|rule| rule.host().is_some());
        // A static peer is one host: another port is its NAT's doing.
        Site { peer, address, port: udp_port.filter(|_| !is_static) }
    }
}
