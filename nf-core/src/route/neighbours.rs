//! Neighbours: what ARP (RFC 826) and neighbour discovery (RFC 4861) find out.

use std::hash::RandomState;
use std::net::IpAddr;

use hashbrown::HashMap;

use crate::types::PortIndex;
use crate::wire::ethernet::MacAddr;

/// A host or router on a port's link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// The port whose link it is on.
    pub port: PortIndex,
}

/// All neighbours.
#[derive(Clone, Debug, Default)]
pub struct Neighbours(HashMap<(PortIndex, IpAddr), MacAddr, RandomState>);

impl Neighbours {
    /// The Ethernet address of a port's neighbour.
    #[inline]
    pub fn mac(&self, port: PortIndex, address: IpAddr) -> Option<MacAddr> {
        self.0.get(&(port, address)).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Of two with the same port and address the later one counts.
impl FromIterator<Neighbour> for Neighbours {
    fn from_iter<I: IntoIterator<Item = Neighbour>>(neighbours: I) -> Neighbours {
        Neighbours(neighbours.into_iter().map(|it| ((it.port, it.address), it.mac)).collect())
    }
}
