//! The packet that was inside a tunnel.

use std::net::IpAddr;

use super::ipv6::ChainEnd;
use super::{IpVersion, ipv4, ipv6, protocol, u16_at};
use crate::drop::DropReason;

/// What must be known of a decapsulated packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inner {
    /// The version of its header.
    pub version: IpVersion,
    /// Octets of the packet, header included.
    pub total_len: usize,
    /// TOS octet or traffic class.
    pub tos: u8,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Upper-layer protocol; of a fragment, what its header names.
    pub protocol: u8,
    /// Where the upper-layer header begins.
    pub l4: usize,
    /// Source and destination port of TCP and UDP, if the packet shows them.
    pub ports: Option<(u16, u16)>,
    /// Whether this is a fragment, so that no checksum can be told.
    pub fragment: bool,
}

impl Inner {
    /// Reads the packet at the front of `octets`; what lies behind its end doesn't matter (RFC 4303 2.7).
    ///
    /// # Errors
    /// [`DropReason::InnerMalformed`] where the header is cut short or lies about lengths.
    #[inline]
    pub fn parse(octets: &[u8]) -> Result<Inner, DropReason> {
        match IpVersion::of(octets) {
            Some(IpVersion::V4) => Self::parse_v4(octets),
            Some(IpVersion::V6) => Self::parse_v6(octets),
            None => None,
        }
        .ok_or(DropReason::InnerMalformed)
    }

    #[inline]
    fn parse_v4(octets: &[u8]) -> Option<Inner> {
        use ipv4::field;
        let header: &[u8; ipv4::MIN_HEADER_LEN] = octets.first_chunk()?;
        let l4 = ipv4::header_len(octets)?;
        let total_len = usize::from(u16_at(header, field::TOTAL_LEN)?);
        if total_len < l4 || total_len > octets.len() {
            return None;
        }
        let fragment = u16_at(header, field::FRAGMENT)?;
        let protocol = header[field::PROTOCOL];
        let first = fragment & ipv4::fragment::OFFSET == 0;
        Some(Inner {
            version: IpVersion::V4,
            total_len,
            tos: header[field::TOS],
            src: IpAddr::from(*header.get(field::SRC..)?.first_chunk::<4>()?),
            dst: IpAddr::from(*header.get(field::DST..)?.first_chunk::<4>()?),
            protocol,
            l4,
            ports: if first { ports(octets.get(..total_len)?, l4, protocol) } else { None },
            fragment: fragment & (ipv4::fragment::OFFSET | ipv4::fragment::MORE) != 0,
        })
    }

    #[inline]
    fn parse_v6(octets: &[u8]) -> Option<Inner> {
        use ipv6::field;
        let header: &[u8; ipv6::HEADER_LEN] = octets.first_chunk()?;
        let total_len = usize::from(u16_at(header, field::PAYLOAD_LEN)?) + ipv6::HEADER_LEN;
        let packet = octets.get(..total_len)?;
        let chain = ipv6::walk(packet, 0)?;
        let upper = chain.end == ChainEnd::UpperLayer;
        Some(Inner {
            version: IpVersion::V6,
            total_len,
            tos: ipv6::traffic_class(header)?,
            src: IpAddr::from(*header.get(field::SRC..)?.first_chunk::<16>()?),
            dst: IpAddr::from(*header.get(field::DST..)?.first_chunk::<16>()?),
            protocol: chain.protocol,
            l4: chain.at,
            ports: if upper { ports(packet, chain.at, chain.protocol) } else { None },
            fragment: chain.end == ChainEnd::Fragment,
        })
    }
}

fn ports(packet: &[u8], l4: usize, protocol: u8) -> Option<(u16, u16)> {
    match protocol {
        protocol::TCP | protocol::UDP => Some((u16_at(packet, l4)?, u16_at(packet, l4 + 2)?)),
        _ => None,
    }
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
        assert_eq!((inner.version, inner.total_len, inner.tos), (IpVersion::V4, 30, 0xB8));
        assert_eq!((inner.src.to_string(), inner.dst.to_string()), ("192.168.1.2".into(), "10.0.0.1".into()));
        assert_eq!((inner.protocol, inner.l4, inner.ports), (17, 20, Some((1000, 53))));
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut octets = v4();
        octets[7] = 1;
        let inner = Inner::parse(&octets).unwrap();
        assert_eq!((inner.ports, inner.fragment), (None, true));
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
        assert_eq!((inner.version, inner.total_len, inner.tos), (IpVersion::V6, 48, 0xA5));
        assert_eq!((inner.protocol, inner.ports), (6, Some((80, 81))));
        assert_eq!(Inner::parse(&packet[..47]), Err(DropReason::InnerMalformed));
    }

    proptest! {
        #[test]
        fn never_reads_beyond_the_end(octets in prop::collection::vec(any::<u8>(), 0..200), version in prop::sample::select(vec![0x45u8, 0x46, 0x60])) {
            let mut octets = octets;
            if let Some(first) = octets.first_mut() {
                *first = version;
            }
            if let Ok(inner) = Inner::parse(&octets) {
                prop_assert!(inner.total_len <= octets.len());
            }
        }
    }
}
