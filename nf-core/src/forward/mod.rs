//! Routing: where a packet leaves, and what changes on the way: TTL, Ethernet header.
//!
//! Two kinds of packets come here: those that decapsulation has brought out, and those that were received from the
//! protected network. Both get a next hop and an Ethernet header, and go through the gate egress, where a plugin may
//! protect them. What it has put into another packet it has routed anew by [`reroute`].

mod way;

use std::net::IpAddr;

pub(crate) use self::way::Ways;
use self::way::{Usual, Way};
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
use crate::wire::{IpVersion, ethernet, ipv4, ipv6};

/// Gives each packet its next hop and the Ethernet header for it, and sends it to the egress gate.
pub fn process(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
    let CoreCx { net, now, errors, ways, .. } = core;
    let mut router = Router { net, ways, last: None };
    let mut tell_sender = |packet: &Packet<'_>, why: &DropReason| {
        if let Some(problem) = problem(*why) {
            errors.offer(net, *now, packet, problem);
        }
    };
    let routed = batch.sift(lanes, |packet| router.forward(packet).inspect_err(|why| tell_sender(packet, why)));
    batch.send_all_to(routed, Gate::Egress);
}

/// What ICMP tells the sender of a packet that isn't forwarded, where it has a message for that.
#[cold]
fn problem(why: DropReason) -> Option<Problem> {
    match why {
        DropReason::TtlExpired => Some(Problem::TtlExpired),
        DropReason::NoRoute => Some(Problem::NoRoute),
        _ => None,
    }
}

/// Lets packets that have passed the egress gate leave on their ports.
pub fn transmit(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
    let net = core.net;
    for lane in batch.transmit_all(lanes, |packet| may_leave(net, packet).ok()) {
        stay(core, batch, lane);
    }
}

/// Ends a packet that may not leave as it is.
#[cold]
fn stay(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lane: Lane) {
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

/// Routes a burst's packets. Most of them go where others have gone lately.
struct Router<'n> {
    net: &'n Net,
    ways: &'n mut Ways,
    /// The last answer: for packets of which no way is remembered.
    last: Option<(Asked, Way)>,
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
    #[inline(always)]
    fn forward(&mut self, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        match self.known(packet) {
            Some(way) => pass(packet, way),
            None => self.forward_any(packet),
        }
    }

    /// The way of a packet that goes where another one has gone lately.
    #[inline(always)]
    fn known(&self, packet: &Packet<'_>) -> Option<&Way> {
        self.ways.get(Usual::of(packet)?)
    }

    #[inline(never)]
    fn forward_any(&mut self, packet: &mut Packet<'_>) -> Result<(), DropReason> {
        let (origin, for_host) = match packet.decapsulated() {
            Some(it) => (Origin::Decapsulated, it.for_host),
            None => {
                packet.begin_transit()?;
                if let Some(way) = self.known(packet) {
                    return pass(packet, way);
                }
                (Origin::Protected, false)
            }
        };
        let dst = packet.inner_dst().ok_or(DropReason::InnerMalformed)?;
        let way = self.look_up(Asked { dst, origin, for_host, received: packet.port() }).ok_or(DropReason::NoRoute)?;
        // A router takes one off the TTL of what it forwards; what is for the host itself isn't forwarded.
        if way.hop.link == LinkAddress::Host || for_host || packet.is_own() {
            return way.take(packet);
        }
        if let Some(usual) = Usual::of(packet) {
            self.ways.put(usual, way);
        }
        match dst {
            IpAddr::V4(_) => pass(packet, &way),
            IpAddr::V6(_) if ipv6::decrement_hop_limit(packet.data_mut()) => way.take(packet),
            IpAddr::V6(_) => Err(DropReason::TtlExpired),
        }
    }

    fn look_up(&mut self, asked: Asked) -> Option<Way> {
        if let Some((last, way)) = self.last
            && last == asked
        {
            return Some(way);
        }
        let hop = match self.net.host(asked.received) {
            // What is for this host goes to its stack where there is a port to it; all else follows the routes.
            Some(port) if asked.for_host || self.net.is_host(asked.dst) => Hop { port, link: LinkAddress::Host },
            _ => self.net.route(asked.dst, asked.origin)?,
        };
        let version = if asked.dst.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 };
        let way = Way::of(self.net, hop, version)?;
        self.last = Some((asked, way));
        Some(way)
    }
}

/// Has a packet of IPv4 pass through.
#[inline(always)]
fn pass(packet: &mut Packet<'_>, way: &Way) -> Result<(), DropReason> {
    if !ipv4::decrement_ttl(packet.data_mut()) {
        return Err(DropReason::TtlExpired);
    }
    way.take(packet)
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
