//! The packet that was inside a tunnel.

use std::net::IpAddr;

use super::ipv6::ChainEnd;
use super::{IpVersion, ipv4, ipv6, protocol, u16_at};
use crate::drop::DropReason;
use crate::policy::has_ports;

/// What must be known of a decapsulated packet. Small on purpose: it goes through many hands. Ports and the addresses of
/// IPv6 are read from the packet itself where they are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inner {
    /// The version of its header.
    pub version: IpVersion,
    /// TOS octet or traffic class.
    pub tos: u8,
    /// Upper-layer protocol; of a fragment, what its header names.
    pub protocol: u8,
    /// Whether this is a fragment, so that no checksum can be told.
    pub fragment: bool,
    /// Whether the upper-layer header is there to be read.
    shows_ports: bool,
    l4: u32,
    total_len: u32,
    v4: ipv4::Addresses,
}

impl Inner {
    /// Stands for a packet that is not known yet.
    pub(crate) const NONE: Inner = Inner {
        version: IpVersion::V4,
        tos: 0,
        protocol: 0,
        fragment: false,
        shows_ports: false,
        l4: 0,
        total_len: 0,
        v4: ipv4::Addresses::NONE,
    };

    /// Reads the packet at the front of `octets`; what lies behind its end doesn't matter (RFC 4303 2.7).
    ///
    /// # Errors
    /// [`DropReason::InnerMalformed`] where the header is cut short or lies about lengths.
    #[inline(always)]
    pub fn parse(octets: &[u8]) -> Result<Inner, DropReason> {
        match IpVersion::of(octets) {
            Some(IpVersion::V4) => Self::parse_v4(octets),
            Some(IpVersion::V6) => Self::parse_v6(octets),
            None => None,
        }
        .ok_or(DropReason::InnerMalformed)
    }

    /// As [`Inner::parse`], of what nearly all packets are: IPv4 without options and in one piece. None for all else.
    #[inline(always)]
    pub(crate) fn parse_plain(octets: &[u8]) -> Option<Inner> {
        use ipv4::field;
        let header: &[u8; ipv4::MIN_HEADER_LEN] = octets.first_chunk()?;
        let total_len = usize::from(u16_at(header, field::TOTAL_LEN)?);
        if header[0] != ipv4::PLAIN
            || u16_at(header, field::FRAGMENT)? & (ipv4::fragment::OFFSET | ipv4::fragment::MORE) != 0
            || total_len < ipv4::MIN_HEADER_LEN
            || total_len > octets.len()
        {
            return None;
        }
        Some(Inner {
            version: IpVersion::V4,
            tos: header[field::TOS],
            protocol: header[field::PROTOCOL],
            fragment: false,
            shows_ports: true,
            l4: ipv4::MIN_HEADER_LEN as u32,
            total_len: total_len as u32,
            v4: ipv4::Addresses::of(header),
        })
    }

    /// Octets of the packet, header included.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.total_len as usize
    }

    /// Where the upper-layer header begins.
    #[inline]
    pub fn l4(&self) -> usize {
        self.l4 as usize
    }

    /// The addresses, where they are of IPv4.
    #[inline]
    pub(crate) fn v4(&self) -> Option<ipv4::Addresses> {
        (self.version == IpVersion::V4).then_some(self.v4)
    }

    /// The source address, from the packet that this was parsed from.
    #[inline]
    pub fn src(&self, packet: &[u8]) -> Option<IpAddr> {
        match self.version {
            IpVersion::V4 => Some(self.v4.src().into()),
            IpVersion::V6 => v6_address(packet, ipv6::field::SRC),
        }
    }

    /// The destination address, from the packet that this was parsed from.
    #[inline]
    pub fn dst(&self, packet: &[u8]) -> Option<IpAddr> {
        match self.version {
            IpVersion::V4 => Some(self.v4.dst().into()),
            IpVersion::V6 => v6_address(packet, ipv6::field::DST),
        }
    }

    /// Source and destination port of TCP and UDP, if the packet shows them.
    pub fn ports(&self, packet: &[u8]) -> Option<(u16, u16)> {
        let packet = packet.get(..self.total_len()).filter(|_| self.shows_ports)?;
        match self.protocol {
            protocol::TCP | protocol::UDP => Some((u16_at(packet, self.l4())?, u16_at(packet, self.l4() + 2)?)),
            _ => None,
        }
    }

    /// What selectors take for source and destination port (RFC 4301 4.4.1.1): ports, or twice the type and code of ICMP. None
    /// where the packet shows none.
    pub fn selector_ports(&self, packet: &[u8]) -> Option<(u16, u16)> {
        let packet = packet.get(..self.total_len()).filter(|_| self.shows_ports && has_ports(self.protocol))?;
        let first = u16_at(packet, self.l4())?;
        match self.protocol {
            protocol::ICMP | protocol::ICMPV6 => Some((first, first)),
            _ => Some((first, u16_at(packet, self.l4() + 2)?)),
        }
    }

    /// Where the octet stands that names the upper-layer protocol, in the packet that this was parsed from.
    pub fn next_header_at(&self, packet: &[u8]) -> Option<usize> {
        match self.version {
            IpVersion::V4 => Some(ipv4::field::PROTOCOL),
            IpVersion::V6 => ipv6::walk(packet, 0).map(|chain| chain.named_at),
        }
    }

    #[inline(always)]
    fn parse_v4(octets: &[u8]) -> Option<Inner> {
        use ipv4::field;
        let header: &[u8; ipv4::MIN_HEADER_LEN] = octets.first_chunk()?;
        let l4 = ipv4::header_len(octets)?;
        let total_len = usize::from(u16_at(header, field::TOTAL_LEN)?);
        if total_len < l4 || total_len > octets.len() {
            return None;
        }
        let fragment = u16_at(header, field::FRAGMENT)?;
        Some(Inner {
            version: IpVersion::V4,
            tos: header[field::TOS],
            protocol: header[field::PROTOCOL],
            fragment: fragment & (ipv4::fragment::OFFSET | ipv4::fragment::MORE) != 0,
            shows_ports: fragment & ipv4::fragment::OFFSET == 0,
            l4: l4 as u32,
            total_len: total_len as u32,
            v4: ipv4::Addresses::of(header),
        })
    }

    #[inline(never)]
    fn parse_v6(octets: &[u8]) -> Option<Inner> {
        use ipv6::field;
        let header: &[u8; ipv6::HEADER_LEN] = octets.first_chunk()?;
        let total_len = usize::from(u16_at(header, field::PAYLOAD_LEN)?) + ipv6::HEADER_LEN;
        let packet = octets.get(..total_len)?;
        let chain = ipv6::walk(packet, 0)?;
        Some(Inner {
            version: IpVersion::V6,
            tos: ipv6::traffic_class(header)?,
            protocol: chain.protocol,
            fragment: chain.end == ChainEnd::Fragment,
            shows_ports: chain.end == ChainEnd::UpperLayer,
            l4: chain.at as u32,
            total_len: total_len as u32,
            v4: ipv4::Addresses::NONE,
        })
    }
}

#[inline(never)]
fn v6_address(packet: &[u8], at: usize) -> Option<IpAddr> {
    Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4() -> Vec<u8> {
        let mut packet = vec![0x45, 0xB8, 0, 30, 0, 1, 0, 0, 64, 17, 0, 0, 192, 168, 1, 2, 10, 0, 0, 1];
        packet.extend([0x03, 0xE8, 0x00, 0x35, 0, 10, 0, 0, 0xAA, 0xBB]);
        packet
    }

    #[test]
    fn a_v4_packet_with_padding_behind_it() {
        let mut octets = v4();
        octets.extend([0; 100]);
        let inner = Inner::parse(&octets).unwrap();
        assert_eq!((inner.version, inner.total_len(), inner.tos), (IpVersion::V4, 30, 0xB8));
        assert_eq!(inner.src(&octets), Some(IpAddr::from([192, 168, 1, 2])));
        assert_eq!(inner.dst(&octets), Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!((inner.protocol, inner.l4(), inner.ports(&octets)), (17, 20, Some((1000, 53))));
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut octets = v4();
        octets[7] = 1;
        let inner = Inner::parse(&octets).unwrap();
        assert_eq!((inner.ports(&octets), inner.fragment), (None, true));
    }

    #[test]
    fn lies_about_lengths_are_refused() {
        for (at, value) in [(0, 0x44), (0, 0x55), (0, 0x4F), (3, 19), (3, 31), (2, 1)] {
            let mut octets = v4();
            octets[at] = value;
            assert_eq!(Inner::parse(&octets), Err(DropReason::InnerMalformed), "octet {at} = {value:#x}");
        }
        for len in 0..30 {
            assert_eq!(Inner::parse(&v4()[..len]), Err(DropReason::InnerMalformed), "{len} octets");
        }
    }

    #[test]
    fn a_v6_packet() {
        let mut packet = vec![0x6A, 0x50, 0, 0, 0, 8, 6, 64];
        packet.extend([0x20; 16]);
        packet.extend([0x30; 16]);
        packet.extend([0, 80, 0, 81, 9, 9, 9, 9]);
        let inner = Inner::parse(&packet).unwrap();
        assert_eq!((inner.version, inner.total_len(), inner.tos), (IpVersion::V6, 48, 0xA5));
        assert_eq!(inner.src(&packet), Some(IpAddr::from([0x20; 16])));
        assert_eq!(inner.dst(&packet), Some(IpAddr::from([0x30; 16])));
        assert_eq!((inner.protocol, inner.ports(&packet)), (6, Some((80, 81))));
        assert_eq!(Inner::parse(&packet[..47]), Err(DropReason::InnerMalformed));
    }

    proptest! {
        #[test]
        fn never_reads_beyond_the_end(octets in prop::collection::vec(any::<u8>(), 0..200), version in prop::sample::select(vec![0x45u8, 0x46, 0x60])) {
            let mut octets = octets;
            if let Some(first) = octets.first_mut() {
                *first = version;
            }
            let plain = Inner::parse_plain(&octets);
            prop_assert!(plain.is_none() || plain == Inner::parse(&octets).ok());
            if let Ok(inner) = Inner::parse(&octets) {
                prop_assert!(inner.total_len() <= octets.len());
                let _ = inner.ports(&octets);
                prop_assert!(inner.src(&octets).is_some() && inner.dst(&octets).is_some());
            }
        }
    }
}
