//! The ports and addresses that a core needs to know of.

use std::net::IpAddr;

use hashbrown::HashSet;

use crate::config::PortRole;
use crate::types::PortIndex;
use crate::wire::ethernet::MacAddr;

/// A port as the cores see it.
#[derive(Clone, Debug)]
pub struct NetPort {
    /// What it is for.
    pub role: PortRole,
    /// Its own address, which frames that it sends carry as their source.
    pub mac: MacAddr,
    /// Where frames that it sends go. Without one a frame keeps the addresses that it was received with.
    pub next_hop: Option<MacAddr>,
}

/// Ports and addresses. Made by the control thread, swapped into the cores as a whole.
#[derive(Clone, Debug)]
pub struct Net {
    ports: Vec<NetPort>,
    local: LocalAddresses,
}

impl Net {
    /// The ports, in the order of their [`PortIndex`], and the addresses that are ours.
    pub fn new(ports: Vec<NetPort>, local: LocalAddresses) -> Net {
        Net { ports, local }
    }

    /// The same ports with other addresses.
    pub fn with_local(&self, local: LocalAddresses) -> Net {
        Net { ports: self.ports.clone(), local }
    }

    /// A port.
    #[inline]
    pub fn port(&self, port: PortIndex) -> Option<&NetPort> {
        self.ports.get(port.index())
    }

    /// The first port with a role.
    #[inline]
    pub fn first(&self, role: PortRole) -> Option<PortIndex> {
        self.ports.iter().position(|port| port.role == role).map(|index| PortIndex(index as u8))
    }

    /// Whether an address is ours.
    #[inline]
    pub fn is_local(&self, address: IpAddr) -> bool {
        match &self.local {
            LocalAddresses::Any => true,
            LocalAddresses::These(addresses) => addresses.contains(&address),
        }
    }
}

/// The addresses at which this network function terminates ESP.
#[derive(Clone, Debug)]
pub enum LocalAddresses {
    /// Every address: nothing is configured, so what reaches the ports is taken to be for us.
    Any,
    /// These.
    These(HashSet<IpAddr, std::hash::RandomState>),
}

impl LocalAddresses {
    /// The configured addresses and the SAs' destinations, which are ours by being there; any address where none is
    /// configured.
    pub fn new(configured: &[IpAddr], sa_destinations: impl IntoIterator<Item = IpAddr>) -> LocalAddresses {
        if configured.is_empty() {
            return LocalAddresses::Any;
        }
        LocalAddresses::These(configured.iter().copied().chain(sa_destinations).collect())
    }
}
