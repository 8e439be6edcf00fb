//! rtnetlink (RFC 3549; rtnetlink(7)): what the kernel is asked and told about interfaces, routes and neighbours.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::wire::ethernet::MacAddr;

/// The address of the kernel.
const KERNEL: (u32, u32) = (0, 0);
/// Multicast groups (`enum rtnetlink_groups` of linux/rtnetlink.h).
mod group {
    pub(super) const NEIGH: u32 = 3;
    pub(super) const IPV4_ROUTE: u32 = 7;
    pub(super) const IPV6_ROUTE: u32 = 11;
}

/// An interface of the kernel, by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct IfIndex(pub(super) u32);

/// A socket that hears when routes and neighbours change.
pub(super) fn listen() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    for group in [group::NEIGH, group::IPV4_ROUTE, group::IPV6_ROUTE] {
        socket.add_membership(group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// What a listening socket has heard of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Heard {
    pub(super) routes: bool,
    pub(super) neighbours: bool,
}

/// Takes all that has been heard. An overrun, as all that can't be read, counts as a change of everything.
pub(super) fn hear(socket: &Socket) -> io::Result<Heard> {
    let mut heard = Heard::default();
    loop {
        match socket.recv_from_full() {
            Ok((datagram, _)) => {
                for message in messages(&datagram) {
                    match message {
                        Ok(NetlinkPayload::InnerMessage(
                            RouteNetlinkMessage::NewNeighbour(_) | RouteNetlinkMessage::DelNeighbour(_),
                        )) => heard.neighbours = true,
                        Ok(NetlinkPayload::InnerMessage(
                            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_),
                        )) => heard.routes = true,
                        Ok(_) => {}
                        Err(_) => heard = Heard { routes: true, neighbours: true },
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                tracing::warn!(
                    "the kernel's routes and neighbours changed faster than they could be read; reading all"
                );
                heard = Heard { routes: true, neighbours: true };
            }
            Err(error) => return Err(error),
        }
    }
}

/// All routes of IPv4 and IPv6.
pub(super) fn routes() -> io::Result<Vec<RouteMessage>> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        dump(RouteNetlinkMessage::GetRoute(request), |message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                all.push(route);
            }
        })?;
    }
    Ok(all)
}

/// All neighbours.
pub(super) fn neighbours() -> io::Result<Vec<NeighbourMessage>> {
    let mut all = Vec::new();
    dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), |message| {
        if let RouteNetlinkMessage::NewNeighbour(neighbour) = message {
            all.push(neighbour);
        }
    })?;
    Ok(all)
}

/// Gives an interface the address and MTU of the port that it stands for.
pub(super) fn set_link(interface: IfIndex, mac: MacAddr, mtu: u16) -> io::Result<()> {
    let attributes = vec![LinkAttribute::Address(mac.0.to_vec()), LinkAttribute::Mtu(mtu.into())];
    change_link(interface, attributes)
}

/// Says whether an interface has a link, as a cable does.
pub(super) fn set_carrier(interface: IfIndex, up: bool) -> io::Result<()> {
    change_link(interface, vec![LinkAttribute::Carrier(up.into())])
}

fn change_link(interface: IfIndex, attributes: Vec<LinkAttribute>) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = interface.0;
    message.attributes = attributes;
    change(RouteNetlinkMessage::SetLink(message), 0)
}

/// Has the kernel find out the Ethernet address of a neighbour, or see that it is still there: it asks as if it had a
/// packet to send there (NTF_USE).
pub(super) fn use_neighbour(interface: IfIndex, address: IpAddr) -> io::Result<()> {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = interface.0;
    message.header.state = NeighbourState::None;
    message.header.flags = NeighbourFlags::Use;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
}

/// Sends a change and waits for the kernel's answer, which it gives within the call.
fn change(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let socket = ask(message, NLM_F_ACK | flags)?;
    let (datagram, _) = socket.recv_from_full()?;
    match messages(&datagram).next() {
        Some(Ok(NetlinkPayload::Error(error))) if error.code.is_none() => Ok(()),
        Some(Ok(NetlinkPayload::Error(error))) => Err(error.to_io()),
        Some(Err(error)) => Err(error),
        _ => Err(io::Error::other("the kernel didn't acknowledge")),
    }
}

fn dump(request: RouteNetlinkMessage, mut take: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
    let socket = ask(request, NLM_F_DUMP)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for message in messages(&datagram) {
            match message {
                Ok(NetlinkPayload::InnerMessage(message)) => take(message),
                Ok(NetlinkPayload::Done(_)) => return Ok(()),
                Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "the kernel has a route or neighbour that can't be read: it is left out")
                }
            }
        }
    }
}

fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Socket> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut octets = vec![0; message.buffer_len()];
    message.serialize(&mut octets);
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.send_to(&octets, &SocketAddr::new(KERNEL.0, KERNEL.1), 0)?;
    Ok(socket)
}

/// The messages of a datagram.
fn messages(datagram: &[u8]) -> impl Iterator<Item = io::Result<NetlinkPayload<RouteNetlinkMessage>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let len = NetlinkBuffer::new_checked(rest).ok()?.length() as usize;
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
        // Messages begin at multiples of four octets.
        rest = rest.get(len.max(1).next_multiple_of(4)..).unwrap_or_default();
        Some(message.map(|message| message.payload).map_err(io::Error::other))
    })
}
