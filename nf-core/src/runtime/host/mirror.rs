//! The kernel's routes and neighbours as the cores want them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType, RouteVia,
};

use super::netlink::IfIndex;
use crate::prefix::Prefix;
use crate::route::{HostAddress, Neighbour, Route, Target};
use crate::types::PortIndex;
use crate::wire::ethernet::MacAddr;

/// The table of addresses (RT_TABLE_LOCAL of linux/rtnetlink.h).
const TABLE_LOCAL: u32 = 255;
const TABLE_MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// The interfaces of the host that stand for ports of ours, and the ports.
#[derive(Clone, Debug, Default)]
pub(super) struct Interfaces(Vec<(IfIndex, PortIndex)>);

impl Interfaces {
    pub(super) fn new(interfaces: Vec<(IfIndex, PortIndex)>) -> Interfaces {
        Interfaces(interfaces)
    }

    pub(super) fn port(&self, interface: IfIndex) -> Option<PortIndex> {
        self.0.iter().find(|(index, _)| *index == interface).map(|(_, port)| *port)
    }

    pub(super) fn interface(&self, port: PortIndex) -> Option<IfIndex> {
        self.0.iter().find(|(_, of)| *of == port).map(|(index, _)| *index)
    }
}

/// Routes of the main table, and the addresses that the kernel takes for its own. A route by an interface that stands for
/// no port of ours leads nowhere, rather than not being there: what it is for must not follow a shorter prefix.
pub(super) fn routes(messages: &[RouteMessage], interfaces: &Interfaces) -> (Vec<Route>, Vec<HostAddress>) {
    // Of several routes to a network the one with the least metric counts.
    let mut best: BTreeMap<(IpAddr, u8), (u32, Route)> = BTreeMap::new();
    let mut addresses = Vec::new();
    let usable = messages.iter().filter(|message| !message.header.flags.contains(RouteFlags::Dead));
    for message in usable {
        let Some(dst) = destination(message) else {
            continue;
        };
        let attributes = Attributes::of(message);
        match (message.header.kind, attributes.table) {
            // Broadcasts are the kernel's as well.
            (RouteType::Local | RouteType::Broadcast | RouteType::Anycast, TABLE_LOCAL) if dst.is_single() => {
                let port = attributes.interface.and_then(|interface| interfaces.port(interface));
                let is_unicast = message.header.kind == RouteType::Local;
                addresses.push(HostAddress { address: dst.address(), port: port.filter(|_| is_unicast) });
            }
            (kind, TABLE_MAIN) if !is_scoped(dst) => {
                let Some(target) = target(kind, &attributes, interfaces) else {
                    continue;
                };
                let route = Route { dst, target };
                let key = (dst.address(), dst.length());
                if best.get(&key).is_none_or(|(metric, _)| attributes.metric < *metric) {
                    best.insert(key, (attributes.metric, route));
                }
            }
            _ => {}
        }
    }
    (best.into_values().map(|(_, route)| route).collect(), addresses)
}

/// Neighbours whose Ethernet address is known, on interfaces of ours.
pub(super) fn neighbours(messages: &[NeighbourMessage], interfaces: &Interfaces) -> Vec<Neighbour> {
    let known = messages.iter().filter(|message| {
        matches!(
            message.header.state,
            NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent
        )
    });
    known
        .filter_map(|message| {
            let port = interfaces.port(IfIndex(message.header.ifindex))?;
            let mut mac = None;
            for attribute in &message.attributes {
                if let NeighbourAttribute::LinkLayerAddress(octets) = attribute {
                    mac = octets.as_slice().try_into().ok().map(MacAddr);
                }
            }
            Some(Neighbour { address: address(message)?, mac: mac?, port })
        })
        .collect()
}

/// Neighbours that the kernel doesn't know to be there still: nobody but the cores uses them.
pub(super) fn stale(messages: &[NeighbourMessage], interfaces: &Interfaces) -> Vec<(IfIndex, IpAddr)> {
    let stale = messages.iter().filter(|message| message.header.state == NeighbourState::Stale);
    let interface = |message: &NeighbourMessage| IfIndex(message.header.ifindex);
    stale
        .filter(|message| interfaces.port(interface(message)).is_some())
        .filter_map(|message| Some((interface(message), address(message)?)))
        .collect()
}

fn address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

/// What of a route's attributes counts.
#[derive(Default)]
struct Attributes {
    table: u32,
    metric: u32,
    interface: Option<IfIndex>,
    via: Option<IpAddr>,
    /// Of a route with several next hops, each one's.
    hops: Vec<(IfIndex, Option<IpAddr>)>,
}

impl Attributes {
    fn of(message: &RouteMessage) -> Attributes {
        let mut found = Attributes { table: message.header.table.into(), ..Attributes::default() };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(table) => found.table = *table,
                RouteAttribute::Priority(metric) => found.metric = *metric,
                RouteAttribute::Oif(interface) => found.interface = Some(IfIndex(*interface)),
                RouteAttribute::MultiPath(hops) => {
                    let hop = |hop: &netlink_packet_route::route::RouteNextHop| {
                        (IfIndex(hop.interface_index), hop.attributes.iter().find_map(gateway))
                    };
                    found.hops = hops.iter().map(hop).collect();
                }
                other => found.via = gateway(other).or(found.via),
            }
        }
        found
    }
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// The network that a route is for.
fn destination(message: &RouteMessage) -> Option<Prefix> {
    use netlink_packet_route::AddressFamily;
    let any = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let given = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    Prefix::new(given.unwrap_or(any), message.header.destination_prefix_length)
}

/// Whether a network is valid on one link alone, or a group: nothing is forwarded there.
fn is_scoped(dst: Prefix) -> bool {
    match dst.address() {
        IpAddr::V4(address) => address.is_multicast() || address.is_link_local(),
        IpAddr::V6(address) => address.is_multicast() || address.is_unicast_link_local(),
    }
}

fn target(kind: RouteType, attributes: &Attributes, interfaces: &Interfaces) -> Option<Target> {
    match kind {
        RouteType::Unicast => {
            let single = attributes.interface.map(|interface| (interface, attributes.via));
            let mut hops = single.into_iter().chain(attributes.hops.iter().copied());
            let ours = hops.find_map(|(interface, via)| Some(Target::Port { port: interfaces.port(interface)?, via }));
            Some(ours.unwrap_or(Target::Nowhere))
        }
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => Some(Target::Nowhere),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::AddressFamily;
    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    const WAN: PortIndex = PortIndex(0);
    const LAN: PortIndex = PortIndex(1);

    fn interfaces() -> Interfaces {
        Interfaces::new(vec![(IfIndex(7), WAN), (IfIndex(8), LAN)])
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn message(dst: &str, kind: RouteType, table: u8, attributes: &[RouteAttribute]) -> RouteMessage {
        let dst: Prefix = dst.parse().unwrap();
        let mut message = RouteMessage::default();
        let is_ipv4 = dst.address().is_ipv4();
        message.header.address_family = if is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.destination_prefix_length = dst.length();
        (message.header.kind, message.header.table) = (kind, table);
        message.attributes = attributes.to_vec();
        // The kernel leaves it out of a default route.
        if dst.length() > 0 {
            message.attributes.push(RouteAttribute::Destination(dst.address().into()));
        }
        message
    }

    fn main(dst: &str, attributes: &[RouteAttribute]) -> RouteMessage {
        message(dst, RouteType::Unicast, 254, attributes)
    }

    fn by(interface: u32) -> RouteAttribute {
        RouteAttribute::Oif(interface)
    }

    fn via(address: &str) -> RouteAttribute {
        RouteAttribute::Gateway(ip(address).into())
    }

    /// What comes of routes: destination, and port and next hop.
    fn mirrored(messages: &[RouteMessage]) -> Vec<(String, Target)> {
        let (routes, _) = routes(messages, &interfaces());
        routes.into_iter().map(|route| (route.dst.to_string(), route.target)).collect()
    }

    fn to(port: PortIndex, via: Option<&str>) -> Target {
        Target::Port { port, via: via.map(ip) }
    }

    #[test]
    fn routes_of_our_interfaces_are_by_our_ports() {
        let found = mirrored(&[
            main("0.0.0.0/0", &[by(7), via("10.10.1.1")]),
            main("10.2.0.0/24", &[by(8)]),
            main("2001:db8::/32", &[by(8), via("fe80::1")]),
            main("10.4.0.0/16", &[by(7), RouteAttribute::Via(RouteVia::Inet6("fe80::9".parse().unwrap()))]),
        ]);
        let expected = [
            ("0.0.0.0/0", to(WAN, Some("10.10.1.1"))),
            ("10.2.0.0/24", to(LAN, None)),
            ("10.4.0.0/16", to(WAN, Some("fe80::9"))),
            ("2001:db8::/32", to(LAN, Some("fe80::1"))),
        ];
        assert_eq!(found, expected.map(|(dst, target)| (dst.to_owned(), target)));
    }

    #[test]
    fn what_isnt_by_our_ports_leads_nowhere() {
        let refusals = [RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit];
        let mut messages = vec![main("10.5.0.0/16", &[by(3), via("192.0.2.1")])];
        messages
            .extend(refusals.iter().enumerate().map(|(n, kind)| message(&format!("10.6.{n}.0/24"), *kind, 254, &[])));
        let found = mirrored(&messages);
        assert_eq!(found.len(), 4);
        assert!(found.iter().all(|(_, target)| *target == Target::Nowhere), "{found:?}");
    }

    #[test]
    fn the_least_metric_wins_and_dead_routes_do_not_count() {
        let metric = RouteAttribute::Priority;
        let mut dead = main("10.2.0.0/24", &[by(7), via("10.10.1.7")]);
        dead.header.flags = RouteFlags::Dead;
        let found = mirrored(&[
            dead,
            main("10.2.0.0/24", &[by(8), via("10.3.0.1"), metric(200)]),
            main("10.2.0.0/24", &[by(8), via("10.3.0.2"), metric(100)]),
            main("10.2.0.0/24", &[by(8), via("10.3.0.3"), metric(100)]),
        ]);
        assert_eq!(found, [("10.2.0.0/24".to_owned(), to(LAN, Some("10.3.0.2")))]);
    }

    #[test]
    fn of_several_next_hops_the_first_of_ours_is_taken() {
        let hop = |interface, address| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = interface;
            hop.attributes = vec![via(address)];
            hop
        };
        let paths = RouteAttribute::MultiPath(vec![hop(3, "192.0.2.1"), hop(8, "10.3.0.1"), hop(7, "10.10.1.1")]);
        assert_eq!(mirrored(&[main("0.0.0.0/0", &[paths])]), [("0.0.0.0/0".to_owned(), to(LAN, Some("10.3.0.1")))]);
    }

    #[test]
    fn other_tables_and_scoped_networks_are_left_out() {
        let found = mirrored(&[
            main("10.7.0.0/16", &[by(7), RouteAttribute::Table(1000)]),
            message("10.8.0.0/16", RouteType::Unicast, 100, &[by(7)]),
            main("fe80::/64", &[by(7)]),
            main("169.254.0.0/16", &[by(7)]),
            message("10.9.0.0/16", RouteType::Throw, 254, &[]),
        ]);
        assert_eq!(found, []);
    }

    #[test]
    fn the_local_table_tells_the_hosts_addresses() {
        let messages = [
            message("10.10.1.2/32", RouteType::Local, 255, &[by(7)]),
            message("2001:db8::1/128", RouteType::Local, 255, &[by(8)]),
            message("192.0.2.9/32", RouteType::Local, 255, &[by(1)]),
            message("10.10.1.255/32", RouteType::Broadcast, 255, &[by(7)]),
            message("127.0.0.0/8", RouteType::Local, 255, &[by(1)]),
        ];
        let (routes, addresses) = routes(&messages, &interfaces());
        assert_eq!(routes, []);
        let address = |text, port| HostAddress { address: ip(text), port };
        assert_eq!(
            addresses,
            [
                address("10.10.1.2", Some(WAN)),
                address("2001:db8::1", Some(LAN)),
                address("192.0.2.9", None),
                address("10.10.1.255", None),
            ]
        );
    }

    #[test]
    fn neighbours_count_once_they_are_known() {
        let neighbour = |interface, state, address: &str, mac: Option<u8>| {
            let mut message = NeighbourMessage::default();
            (message.header.ifindex, message.header.state) = (interface, state);
            message.attributes = vec![NeighbourAttribute::Destination(ip(address).into())];
            message.attributes.extend(mac.map(|last| NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, last])));
            message
        };
        let messages = [
            neighbour(8, NeighbourState::Reachable, "10.2.0.1", Some(1)),
            neighbour(8, NeighbourState::Stale, "fe80::2", Some(2)),
            neighbour(8, NeighbourState::Incomplete, "10.2.0.3", None),
            neighbour(8, NeighbourState::Failed, "10.2.0.4", Some(4)),
            neighbour(3, NeighbourState::Reachable, "192.0.2.1", Some(5)),
            neighbour(7, NeighbourState::Permanent, "10.10.1.1", Some(6)),
        ];
        let found = neighbours(&messages, &interfaces());
        let of = |address, last, port| Neighbour { address: ip(address), mac: MacAddr([2, 0, 0, 0, 0, last]), port };
        assert_eq!(found, [of("10.2.0.1", 1, LAN), of("fe80::2", 2, LAN), of("10.10.1.1", 6, WAN)]);
        assert_eq!(stale(&messages, &interfaces()), [(IfIndex(8), ip("fe80::2"))]);
    }
}
