//! The ports, addresses, routes and neighbours that a core needs to know of.

use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashSet;

use crate::config::PortRole;
use crate::route::{Hop, HostAddress, LinkAddress, Neighbours, Routes, Target};
use crate::types::PortIndex;
use crate::wire::ethernet::MacAddr;

/// A port as the cores see it.
#[derive(Clone, Debug)]
pub struct NetPort {
    /// What it is for.
    pub role: PortRole,
    /// Its own address, which frames that it sends carry as their source.
    pub mac: MacAddr,
    /// Where frames that it sends go, if there is no neighbour of the next hop's address.
    pub next_hop: Option<MacAddr>,
    /// The longest IP packet that may leave on it, in octets.
    pub mtu: u16,
    /// Addresses of ours on its link.
    pub addresses: Vec<IpAddr>,
    /// Of an exception port: the port that the host's interface behind it stands for.
    pub stands_for: Option<PortIndex>,
}

impl NetPort {
    /// A port without a limit to the length of packets.
    pub fn new(role: PortRole, mac: MacAddr, next_hop: Option<MacAddr>) -> NetPort {
        NetPort { role, mac, next_hop, mtu: u16::MAX, addresses: Vec::new(), stands_for: None }
    }
}

/// Where a packet that is to be routed comes from: it decides where it goes without a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It came out of a tunnel.
    Decapsulated,
    /// It was received from the protected network, or made by this host.
    Protected,
}

/// Ports, addresses, routes and neighbours. Made by the control thread, swapped into the cores as a whole.
#[derive(Clone, Debug)]
pub struct Net {
    ports: Vec<NetPort>,
    /// By port: where its frames go that are the host's.
    hosts: Vec<Option<PortIndex>>,
    local: LocalAddresses,
    routes: Arc<Routes>,
    neighbours: Arc<Neighbours>,
    /// What else is the host's.
    addresses: Arc<HashSet<IpAddr, RandomState>>,
    /// Addresses of ours on ports' links, in the order in which they are preferred.
    links: Arc<Vec<(PortIndex, IpAddr)>>,
    /// Where decapsulated packets go that no route is for.
    inwards: Option<Hop>,
    /// Where packets of the protected network go that no route is for.
    outwards: Option<Hop>,
}

impl Net {
    /// The ports, in the order of their [`PortIndex`], and the addresses that are ours.
    pub fn new(ports: Vec<NetPort>, local: LocalAddresses) -> Net {
        let index = |port: usize| PortIndex(port as u8);
        let exception = |fits: &dyn Fn(Option<PortIndex>) -> bool| {
            ports.iter().position(|port| port.role == PortRole::Exception && fits(port.stands_for)).map(index)
        };
        let host_of = |port: usize| {
            exception(&|stands_for| stands_for == Some(index(port)))
                .or_else(|| exception(&|stands_for| stands_for.is_none()))
        };
        let hosts = (0..ports.len()).map(host_of).collect();
        let net = Net {
            hosts,
            ports,
            local,
            routes: Arc::default(),
            neighbours: Arc::default(),
            addresses: Arc::default(),
            links: Arc::default(),
            inwards: None,
            outwards: None,
        };
        net.with_routes(Arc::default(), Arc::default()).with_host_addresses(&[])
    }

    /// The same with other addresses.
    pub fn with_local(&self, local: LocalAddresses) -> Net {
        Net { local, ..self.clone() }
    }

    /// The same with other addresses of the host, at which ESP isn't terminated by that.
    pub fn with_host_addresses(&self, addresses: &[HostAddress]) -> Net {
        let ports = self.ports.iter().enumerate();
        let configured = ports.flat_map(|(port, it)| it.addresses.iter().map(move |of| (PortIndex(port as u8), *of)));
        let of_host = addresses.iter().filter_map(|it| Some((it.port?, it.address)));
        let links: Vec<(PortIndex, IpAddr)> = configured.chain(of_host).collect();
        let all = links.iter().map(|(_, address)| *address).chain(addresses.iter().map(|it| it.address));
        Net { addresses: Arc::new(all.collect()), links: Arc::new(links), ..self.clone() }
    }

    /// The address of ours from which an ICMP error goes to somebody whose packet was received on a port: what came out
    /// of a tunnel is answered from the protected network's side, for which the tunnel is.
    pub fn error_source(&self, received: PortIndex, decapsulated: bool, to: IpAddr) -> Option<IpAddr> {
        let fits = |port: PortIndex| {
            if decapsulated {
                self.port(port).is_some_and(|it| it.role == PortRole::Protected)
            } else {
                port == received
            }
        };
        let is_scoped = |address: IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        let mut usable = self.links.iter().filter(|(_, of)| of.is_ipv4() == to.is_ipv4() && !is_scoped(*of));
        usable.find(|(port, _)| fits(*port)).map(|(_, address)| *address)
    }

    /// The same with other routes and neighbours.
    pub fn with_routes(&self, routes: Arc<Routes>, neighbours: Arc<Neighbours>) -> Net {
        // The first port of a role is its default route, if it has a next hop; without any route a protected port needs
        // none, as frames may keep their addresses then.
        let default = |role, keep: bool| {
            let port = self.first(role)?;
            let link = match self.port(port)?.next_hop {
                Some(mac) => LinkAddress::Mac(mac),
                None if keep => LinkAddress::AsReceived,
                None => return None,
            };
            Some(Hop { port, link })
        };
        Net {
            inwards: default(PortRole::Protected, routes.is_empty()),
            outwards: default(PortRole::Unprotected, false),
            routes,
            neighbours,
            ..self.clone()
        }
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

    /// The port to the host's own stack for what was received on a port.
    #[inline]
    pub fn host(&self, received: PortIndex) -> Option<PortIndex> {
        self.hosts.get(received.index()).copied().flatten()
    }

    /// The port on which leaves what the host sends on an exception port.
    #[inline]
    pub fn from_host(&self, exception: PortIndex) -> Option<PortIndex> {
        self.port(exception)?.stands_for.or_else(|| self.first(PortRole::Unprotected))
    }

    /// Whether an address is ours, for ESP that is sent there. Without any `[[local]]` every address is.
    #[inline]
    pub fn is_local(&self, address: IpAddr) -> bool {
        match &self.local {
            LocalAddresses::Any => true,
            LocalAddresses::These(addresses) => addresses.contains(&address),
        }
    }

    /// Whether an address is known to be this host's, so that packets to it aren't forwarded.
    #[inline]
    pub fn is_host(&self, address: IpAddr) -> bool {
        let is_local = match &self.local {
            LocalAddresses::Any => false,
            LocalAddresses::These(addresses) => addresses.contains(&address),
        };
        is_local || self.addresses.contains(&address)
    }

    /// The address of a next hop on a port's link: what a packet to an address is sent to.
    pub fn next_hop(&self, dst: IpAddr) -> Option<(PortIndex, IpAddr)> {
        match self.routes.look_up(dst)? {
            Target::Port { port, via } => Some((port, via.unwrap_or(dst))),
            Target::Nowhere => None,
        }
    }

    /// Whether packets of the protected network can be forwarded at all.
    #[inline]
    pub fn forwards(&self) -> bool {
        self.outwards.is_some() || !self.routes.is_empty()
    }

    /// Routes a packet to an address; none where no route leads there.
    #[inline]
    pub fn route(&self, dst: IpAddr, origin: Origin) -> Option<Hop> {
        // The shape of a gateway without routes must stay cheap.
        let target = if self.routes.is_empty() { None } else { self.routes.look_up(dst) };
        match target {
            None if origin == Origin::Decapsulated => self.inwards,
            None => self.outwards,
            Some(Target::Nowhere) => None,
            Some(Target::Port { port, via }) => {
                let neighbour = self.neighbours.mac(port, via.unwrap_or(dst));
                let mac = neighbour.or_else(|| self.port(port)?.next_hop);
                Some(Hop { port, link: mac.map_or(LinkAddress::Unresolved, LinkAddress::Mac) })
            }
        }
    }

    /// Whether a route, and not only a default, leads to an address by a port with that role.
    pub fn leads_to(&self, dst: IpAddr, role: PortRole) -> bool {
        match self.routes.look_up(dst) {
            Some(Target::Port { port, .. }) => self.port(port).is_some_and(|port| port.role == role),
            _ => false,
        }
    }

    /// All routes.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// All neighbours.
    pub fn neighbours(&self) -> &Neighbours {
        &self.neighbours
    }
}

/// The addresses at which this network function terminates ESP.
#[derive(Clone, Debug)]
pub enum LocalAddresses {
    /// Every address: nothing is configured, so what reaches the ports is taken to be for us.
    Any,
    /// These.
    These(HashSet<IpAddr, RandomState>),
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
