//! Routing: where a packet leaves, and what changes on the way: TTL, Ethernet header.
//!
//! Two kinds of packets come here: those that decapsulation has brought out, and those that were received from the
//! protected network. Both get a next hop and an Ethernet header, and go through the gate egress, where a plugin may
//! protect them. What it has put into another packet it has routed anew by [`reroute`].

use std::net::{IpAddr, Ipv4Addr};

use crate::batch::Batch;
use crate::config::PortRole;
use crate::core::CoreCx;
use crate::drop::DropReason;
use crate::event::Event;
use crate::icmp::Problem;
use crate::lanes::{Lane, Lanes};
use crate::net::{Net, Origin};
use crate::packet::Packet;
use crate::plugin::Gate;
use crate::route::{Answer, Hop, LinkAddress};
use crate::types::PortIndex;
use crate::wire::ethernet::{MacAddr, MacPair};
use crate::wire::{IpVersion, ethernet, ipv4, ipv6};

/// Gives each packet its next hop and the Ethernet header for it, and sends it to the egress gate.
pub fn process(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
    let mut router = Router { net: core.net, usual: None, last: None };
    let routed = batch.sift(lanes, |packet| router.forward(packet).inspect_err(|why| tell_sender(core, packet, *why)));
    batch.send_all_to(routed, Gate::Egress);
}

/// Tells the sender of a packet that isn't forwarded, where ICMP has a message for that.
#[cold]
fn tell_sender(core: &mut CoreCx<'_>, packet: &Packet<'_>, why: DropReason) {
    let problem = match why {
        DropReason::TtlExpired => Problem::TtlExpired,
        DropReason::NoRoute => Problem::NoRoute,
        _ => return,
    };
    core.errors.offer(core.net, core.now, packet, problem);
}

/// Lets packets that have passed the egress gate leave on their ports.
pub fn transmit(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
    for lane in lanes {
        match may_leave(core.net, batch.packet(lane)) {
            Ok(port) => batch.transmit(lane, port),
            Err(Stop::TooLong { port, mtu }) => too_long(core, batch, lane, port, mtu),
            Err(Stop::Drop(why)) => {
                if why == DropReason::NoNeighbour {
                    resolve(core, batch.packet(lane));
                }
                batch.drop(lane, why);
            }
        }
    }
}

/// Why a packet doesn't leave as it is.
enum Stop {
    Drop(DropReason),
    /// It is longer than the port's MTU, or its own.
    TooLong {
        port: PortIndex,
        mtu: u16,
    },
}

impl From<DropReason> for Stop {
    fn from(why: DropReason) -> Stop {
        Stop::Drop(why)
    }
}

/// Cuts a packet that may be cut; tells the sender of another.
#[cold]
fn too_long(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lane: Lane, port: PortIndex, mtu: u16) {
    let packet = batch.packet(lane);
    let ip = packet.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
    // Of IPv6 only what a plugin has put in front is ours to cut (RFC 8200 4.5).
    let is_our_v6 = packet.inner().is_none() && IpVersion::of(ip) == Some(IpVersion::V6);
    if ipv4::may_be_fragmented(ip) || is_our_v6 {
        return batch.fragment(lane, port, mtu);
    }
    core.errors.offer(core.net, core.now, packet, Problem::TooBig { mtu });
    batch.drop(lane, DropReason::MtuExceeded);
}

/// Asks for a packet's next hop to be resolved; tells its sender if that has been of no avail for a while.
#[cold]
fn resolve(core: &mut CoreCx<'_>, packet: &Packet<'_>) {
    let dst = packet.data().get(ethernet::HEADER_LEN..).and_then(destination);
    let Some((port, address)) = dst.and_then(|(_, dst)| core.net.next_hop(dst)) else {
        return;
    };
    let Answer { ask, in_vain } = core.resolver.offer(core.now, port, address);
    if ask {
        core.tell(Event::Unresolved { port, address });
    }
    if in_vain {
        core.errors.offer(core.net, core.now, packet, Problem::Unreachable);
    }
}

/// Routes a packet anew by the destination in the IP header that its frame now begins with, and puts an Ethernet header
/// in front of it. For plugins at the gate egress that have put a packet into another one, whose TTL is theirs to choose;
/// from here on it counts as protected, and may leave on an unprotected port.
///
/// # Errors
/// The reason under which to drop it: no route, no room, no IP header.
pub fn reroute(net: &Net, packet: &mut Packet<'_>) -> Result<(), DropReason> {
    let (version, dst) = destination(packet.data()).ok_or(DropReason::InnerMalformed)?;
    let hop = net.route(dst, Origin::Protected).ok_or(DropReason::NoRoute)?;
    packet.set_protected();
    Way::of(net, hop, version).ok_or(DropReason::NoRoute)?.take(packet)
}

/// The destination of the IP packet at the front of `octets`.
fn destination(octets: &[u8]) -> Option<(IpVersion, IpAddr)> {
    let version = IpVersion::of(octets)?;
    let dst = match version {
        IpVersion::V4 => IpAddr::from(*octets.get(ipv4::field::DST..)?.first_chunk::<4>()?),
        IpVersion::V6 => IpAddr::from(*octets.get(ipv6::field::DST..)?.first_chunk::<16>()?),
    };
    Some((version, dst))
}

/// Routes a burst's packets. Most of them go to few destinations: what was asked last is answered again.
struct Router<'n> {
    net: &'n Net,
    /// The last packet's, if that was one as most are.
    usual: Option<(Usual, Way)>,
    last: Option<(Asked, Way)>,
}

/// What decides about the next hop of a packet of IPv4 that came out of a tunnel and is for another host: all that others have
/// besides needn't be looked at.
#[derive(Clone, Copy)]
struct Usual {
    dst: Ipv4Addr,
    /// The port that it was received on.
    received: PortIndex,
}

impl Usual {
    /// None for other packets.
    #[inline(always)]
    fn of(packet: &Packet<'_>) -> Option<Usual> {
        let it = packet.decapsulated().filter(|it| !it.for_host)?;
        Some(Usual { dst: it.inner.v4()?.dst(), received: packet.port() })
    }
}

/// A next hop, and what the frames that go there have in common.
#[derive(Clone, Copy)]
struct Way {
    hop: Hop,
    ethertype: u16,
    /// The frames' Ethernet header; none where a frame keeps the addresses that it was received with.
    header: Option<[u8; ethernet::HEADER_LEN]>,
}

impl Way {
    /// None where there is no such port. The destination of a hop that isn't resolved is left zero: a plugin may still
    /// have the packet go elsewhere.
    fn of(net: &Net, hop: Hop, version: IpVersion) -> Option<Way> {
        let src = net.port(hop.port)?.mac;
        let macs = match hop.link {
            LinkAddress::Mac(dst) => Some(MacPair::new(dst, src)),
            LinkAddress::AsReceived | LinkAddress::Host => None,
            LinkAddress::Unresolved => Some(MacPair::new(MacAddr::default(), src)),
        };
        let ethertype = version.ethertype();
        Some(Way { hop, ethertype, header: macs.map(|macs| ethernet::header(macs, ethertype)) })
    }

    /// Has an IP packet go this way: puts the Ethernet header in front of it.
    #[inline(always)]
    fn take(&self, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        packet.set_hop(self.hop);
        match &self.header {
            Some(header) => *packet.prepend().ok_or(DropReason::NoBuffer)? = *header,
            None => {
                let macs = packet.received_macs();
                *packet.prepend().ok_or(DropReason::NoBuffer)? = ethernet::header(macs, self.ethertype);
            }
        }
        Ok(())
    }
}

/// What decides about a packet's next hop.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Asked {
    dst: IpAddr,
    origin: Origin,
    /// Whether the packet is for this host, whatever its destination.
    for_host: bool,
    /// The port that it was received on.
    received: PortIndex,
}

impl Router<'_> {
    /// Remembers the answer itself: a router that is written to from outside of the loop over the packets stays in memory,
    /// from where the header is copied in one piece, and isn't kept in registers octet by octet.
    #[inline(never)]
    fn look_up(&mut self, asked: Asked, version: IpVersion) {
        let way = route(self.net, asked).and_then(|hop| Way::of(self.net, hop, version));
        self.last = way.map(|way| (asked, way));
    }

    #[inline(always)]
    fn forward(&mut self, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        if let Some((usual, way)) = &self.usual
            && let Some(Usual { dst, received }) = Usual::of(packet)
            && dst == usual.dst
            && received == usual.received
        {
            if !ipv4::decrement_ttl(packet.data_mut()) {
                return Err(DropReason::TtlExpired);
            }
            return way.take(packet);
        }
        self.forward_any(packet)
    }

    #[inline(never)]
    fn forward_any(&mut self, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        let received = packet.port();
        let (version, origin, for_host) = match packet.decapsulated() {
            Some(it) => (it.inner.version, Origin::Decapsulated, it.for_host),
            None => (packet.begin_transit()?.version, Origin::Protected, false),
        };
        let dst = packet.inner_dst().ok_or(DropReason::InnerMalformed)?;
        let asked = Asked { dst, origin, for_host, received };
        if self.last.as_ref().is_none_or(|(last, _)| *last != asked) {
            self.look_up(asked, version);
        }
        let (_, way) = self.last.as_ref().ok_or(DropReason::NoRoute)?;
        // A router takes one off the TTL of what it forwards; what is for the host itself isn't forwarded.
        if way.hop.link != LinkAddress::Host && !asked.for_host && !packet.is_own() {
            let may_pass = match version {
                IpVersion::V4 => ipv4::decrement_ttl(packet.data_mut()),
                IpVersion::V6 => ipv6::decrement_hop_limit(packet.data_mut()),
            };
            if !may_pass {
                return Err(DropReason::TtlExpired);
            }
            self.usual = Usual::of(packet).map(|usual| (usual, *way));
        }
        way.take(packet)
    }
}

/// What is for this host goes to its stack where there is a port to it; all else follows the routes.
fn route(net: &Net, asked: Asked) -> Option<Hop> {
    match net.host(asked.received) {
        Some(port) if asked.for_host || net.is_host(asked.dst) => Some(Hop { port, link: LinkAddress::Host }),
        _ => net.route(asked.dst, asked.origin),
    }
}

/// The port that a packet leaves on, if it may.
#[inline]
fn may_leave(net: &Net, packet: &Packet<'_>) -> Result<PortIndex, Stop> {
    let hop = packet.hop().ok_or(DropReason::NoRoute)?;
    let port = net.port(hop.port).ok_or(DropReason::NoRoute)?;
    if port.role == PortRole::Unprotected && !packet.may_leave_unprotected() {
        return Err(DropReason::ClearOutput.into());
    }
    if hop.link == LinkAddress::Unresolved {
        return Err(DropReason::NoNeighbour.into());
    }
    let mtu = port.mtu.min(packet.mtu());
    if packet.range().len() > usize::from(mtu) + ethernet::HEADER_LEN && hop.link != LinkAddress::Host {
        return Err(Stop::TooLong { port: hop.port, mtu });
    }
    Ok(hop.port)
}
