//! Netlink sockets to the kernel's XFRM.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage};
use netlink_packet_xfrm::constants::{AF_INET, AF_INET6, XFRMNLGRP_EXPIRE, XFRMNLGRP_POLICY, XFRMNLGRP_SA};
use netlink_packet_xfrm::monitor::ExpireMessage;
use netlink_packet_xfrm::policy::DelGetMessage;
use netlink_packet_xfrm::state::GetDumpMessage;
use netlink_packet_xfrm::{Address, Id, UserExpire, UserSaInfo, XfrmMessage};
use netlink_sys::protocols::NETLINK_XFRM;
use netlink_sys::{Socket, SocketAddr};
use nf_core::sa::lifetime::Limit;
use zeroize::Zeroizing;

use super::message::{ESP, Event, SaId, read};

/// The address of the kernel.
const KERNEL: (u32, u32) = (0, 0);

/// A socket that hears of SAs and policies. The kernel allows that to CAP_NET_ADMIN.
pub(super) fn listen() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_XFRM)?;
    socket.bind_auto()?;
    socket.add_membership(XFRMNLGRP_SA)?;
    socket.add_membership(XFRMNLGRP_EXPIRE)?;
    socket.add_membership(XFRMNLGRP_POLICY)?;
    Ok(socket)
}

/// The next datagram. It may hold keys.
pub(super) fn receive(socket: &Socket) -> io::Result<Zeroizing<Vec<u8>>> {
    Ok(Zeroizing::new(socket.recv_from_full()?.0))
}

/// All policies, and all SAs, reserved SPIs included.
pub(super) fn dump() -> io::Result<Vec<Event>> {
    // In this order: a daemon may install an SA's policies before it, and what comes meanwhile is an event as well.
    let mut all = dump_of(XfrmMessage::GetPolicy(DelGetMessage::default()))?;
    all.extend(dump_of(XfrmMessage::GetDumpSa(GetDumpMessage::default()))?);
    Ok(all)
}

fn dump_of(what: XfrmMessage) -> io::Result<Vec<Event>> {
    let socket = ask(what, NLM_F_DUMP)?;
    let mut all = Vec::new();
    loop {
        let datagram = receive(&socket)?;
        for event in read(&datagram).map_err(io::Error::other)? {
            match event {
                Event::Done => return Ok(all),
                Event::Refused(errno) => return Err(io::Error::from_raw_os_error(errno)),
                event => all.push(event),
            }
        }
    }
}

/// Says that a lifetime of an SA is over: the kernel tells whoever negotiated it, and deletes it at the hard one.
pub(super) fn expire(id: SaId, limit: Limit) -> io::Result<()> {
    let family = match id.dst {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    };
    let state = UserSaInfo {
        id: Id { daddr: Address::from_ip(&id.dst), spi: id.spi.0, proto: ESP },
        family,
        ..UserSaInfo::default()
    };
    let message = ExpireMessage { expire: UserExpire { state, hard: u8::from(limit == Limit::Hard) } };
    let socket = ask(XfrmMessage::Expire(message), NLM_F_ACK)?;
    let datagram = receive(&socket)?;
    for event in read(&datagram).map_err(io::Error::other)? {
        if let Event::Refused(errno) = event {
            return if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) };
        }
    }
    Err(io::Error::other("the kernel didn't acknowledge"))
}

/// nf-core asks rtnetlink in the same way: the two protocols' messages have no type in common, and nf-core's library no
/// netlink but for the host's ports.
fn ask(message: XfrmMessage, flags: u16) -> io::Result<Socket> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, message.into());
    message.finalize();
    let mut octets = vec![0; message.buffer_len()];
    message.serialize(&mut octets);
    let socket = Socket::new(NETLINK_XFRM)?;
    socket.send_to(&octets, &SocketAddr::new(KERNEL.0, KERNEL.1), 0)?;
    Ok(socket)
}
