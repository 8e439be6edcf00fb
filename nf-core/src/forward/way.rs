//! Next hops as frames need them, and those that a core has found lately.

use std::net::Ipv4Addr;

use crate::drop::DropReason;
use crate::net::{Net, Origin};
use crate::packet::Packet;
use crate::route::{Hop, LinkAddress};
use crate::types::PortIndex;
use crate::wire::ethernet::{MacAddr, MacPair};
use crate::wire::{IpVersion, ethernet};

/// A next hop, and what the frames that go there have in common.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) hop: Hop,
    ethertype: u16,
    /// The frames' Ethernet header; none where a frame keeps the addresses that it was received with.
    header: Option<[u8; ethernet::HEADER_LEN]>,
}

impl Way {
    /// None where there is no such port. The destination of a hop that isn't resolved is left zero: a plugin may still
    /// have the packet go elsewhere.
    pub(super) fn of(net: &Net, hop: Hop, version: IpVersion) -> Option<Way> {
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
    pub(super) fn take(&self, packet: &mut Packet<'_>) -> Result<(), DropReason> {
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

/// What decides about the next hop of a packet of IPv4 that was made elsewhere and is for another host: all that others have
/// besides needn't be looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Usual {
    dst: Ipv4Addr,
    origin: Origin,
    /// The port that it was received on.
    received: PortIndex,
}

impl Usual {
    /// None for other packets.
    #[inline(always)]
    pub(super) fn of(packet: &Packet<'_>) -> Option<Usual> {
        let origin = match packet.decapsulated() {
            Some(it) if it.for_host => return None,
            Some(_) => Origin::Decapsulated,
            None if packet.is_own() => return None,
            None => Origin::Protected,
        };
        Some(Usual { dst: packet.inner()?.v4()?.dst(), origin, received: packet.port() })
    }
}

/// How many ways a core remembers.
const WAYS: usize = 1024;

/// The ways that a core's packets have gone lately, each in the one place that its destination has: routes and neighbours
/// cost several times as much to ask as all else that forwarding does. They hold for one [`Net`].
pub(crate) struct Ways(Box<[Option<(Usual, Way)>; WAYS]>);

// Half a cache line each.
const _: () = assert!(size_of::<Option<(Usual, Way)>>() == 32);

impl Default for Ways {
    fn default() -> Self {
        Ways(Box::new([None; WAYS]))
    }
}

impl Ways {
    #[inline(always)]
    pub(super) fn get(&self, usual: Usual) -> Option<&Way> {
        self.0[Ways::place(usual)].as_ref().filter(|(known, _)| *known == usual).map(|(_, way)| way)
    }

    #[inline]
    pub(super) fn put(&mut self, usual: Usual, way: Way) {
        self.0[Ways::place(usual)] = Some((usual, way));
    }

    /// Forgets all of them: ports, routes or neighbours are others now.
    pub(crate) fn clear(&mut self) {
        self.0.fill(None);
    }

    /// Neighbouring hosts have places of their own.
    #[inline(always)]
    fn place(usual: Usual) -> usize {
        let dst = usual.dst.to_bits();
        (dst ^ dst >> 10 ^ dst >> 20) as usize % WAYS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_remembered_until_another_one_takes_its_place() {
        let way = |port| Way {
            hop: Hop { port: PortIndex(port), link: LinkAddress::AsReceived },
            ethertype: IpVersion::V4.ethertype(),
            header: None,
        };
        let usual =
            |dst: u32| Usual { dst: Ipv4Addr::from_bits(dst), origin: Origin::Decapsulated, received: PortIndex(0) };
        let mut ways = Ways::default();
        let port = |ways: &Ways, usual| ways.get(usual).map(|way| way.hop.port);
        // Of addresses that differ in the bits 0 and 10 alone, two have the same place.
        let (one, other, third) = (usual(0x0A00_0000), usual(0x0A00_0401), usual(0x0A00_0001));
        assert_eq!(Ways::place(one), Ways::place(other));
        ways.put(one, way(1));
        ways.put(third, way(3));
        assert_eq!([one, other, third].map(|usual| port(&ways, usual)), [Some(PortIndex(1)), None, Some(PortIndex(3))]);
        assert_eq!(port(&ways, Usual { origin: Origin::Protected, ..one }), None);
        assert_eq!(port(&ways, Usual { received: PortIndex(1), ..one }), None);
        ways.put(other, way(2));
        assert_eq!([one, other, third].map(|usual| port(&ways, usual)), [None, Some(PortIndex(2)), Some(PortIndex(3))]);
        ways.clear();
        assert_eq!([one, other, third].map(|usual| port(&ways, usual)), [None; 3]);
    }
}
