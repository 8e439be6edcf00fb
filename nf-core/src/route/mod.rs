//! Where packets go: routes, chosen by the longest prefix, and neighbours, the Ethernet addresses of next hops.
//!
//! Both are made by the control thread and swapped into the cores as a whole, as part of [`Net`](crate::net::Net): a core
//! only reads them. So a look-up needs no lock, and a change is seen between two bursts or not at all.

mod neighbours;
mod resolve;
mod table;

pub use neighbours::{Neighbour, Neighbours};
pub use resolve::{Answer, Resolver};
pub use table::Routes;

use std::net::IpAddr;

use crate::prefix::Prefix;
use crate::types::PortIndex;
use crate::wire::ethernet::MacAddr;

/// A way to a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The network.
    pub dst: Prefix,
    /// The way there.
    pub target: Target,
}

/// The way to a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Out of a port.
    Port {
        /// The port.
        port: PortIndex,
        /// The router to send to; none for a network on the port's link, whose hosts are neighbours.
        via: Option<IpAddr>,
    },
    /// Nowhere: the host has a route that isn't by a port of ours, or that refuses packets.
    Nowhere,
}

/// A packet's next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The port that it leaves on.
    pub port: PortIndex,
    /// Where on the port's link it goes.
    pub link: LinkAddress,
}

/// An Ethernet address to send to, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkAddress {
    /// This one.
    Mac(MacAddr),
    /// Those of the frame in which the packet was received: for ports without a next hop, such as captures.
    AsReceived,
    /// The host's own stack, which knows the frame's addresses: those in which the packet was received.
    Host,
    /// There is no neighbour of that address yet.
    Unresolved,
}

/// What the host's stack knows of the network, as far as it is by ports of ours.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostTables {
    /// Its routes.
    pub routes: Vec<Route>,
    /// Its neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Its own addresses.
    pub addresses: Vec<HostAddress>,
}

/// An address of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostAddress {
    /// The address.
    pub address: IpAddr,
    /// The port whose interface has it.
    pub port: Option<PortIndex>,
}
