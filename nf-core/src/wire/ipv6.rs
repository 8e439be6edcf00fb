//! IPv6 headers (RFC 8200), read and changed in place. Functions on a packet that is too short do nothing: the caller
//! has parsed it before.

use super::{put_u16, u16_at};

/// Octets of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Octets of a packet that every link takes (RFC 8200 5).
pub const MIN_MTU: usize = 1280;

/// Offsets of fields.
pub(crate) mod field {
    pub(crate) const PAYLOAD_LEN: usize = 4;
    pub(crate) const NEXT_HEADER: usize = 6;
    pub(crate) const HOP_LIMIT: usize = 7;
    pub(crate) const SRC: usize = 8;
    pub(crate) const DST: usize = 24;
}

/// Extension headers that may stand before ESP.
pub(crate) mod extension {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const DESTINATION: u8 = 60;
    /// More than that nobody sends; a longer chain is an attack on the parser.
    pub(crate) const MAX: usize = 8;
}

/// The traffic class.
#[inline]
pub fn traffic_class(packet: &[u8]) -> Option<u8> {
    Some((u16_at(packet, 0)? >> 4) as u8)
}

/// Sets the traffic class.
#[inline]
pub(crate) fn set_traffic_class(packet: &mut [u8], class: u8) {
    if let Some(word) = u16_at(packet, 0) {
        put_u16(packet, 0, word & !0x0FF0 | u16::from(class) << 4);
    }
}

/// Sets the payload length so that the whole packet is `len` octets long.
pub fn set_total_length(packet: &mut [u8], len: usize) {
    let payload = len.saturating_sub(HEADER_LEN);
    put_u16(packet, field::PAYLOAD_LEN, u16::try_from(payload).unwrap_or(u16::MAX));
}

/// Takes one off the hop limit. False, and nothing changed, if the packet may not be forwarded any more.
#[inline]
#[must_use]
pub fn decrement_hop_limit(packet: &mut [u8]) -> bool {
    match packet.get_mut(field::HOP_LIMIT) {
        Some(hops) if *hops > 1 => {
            *hops -= 1;
            true
        }
        _ => false,
    }
}

/// Sets the ECN bits (RFC 3168 5).
#[inline]
pub fn set_ecn(packet: &mut [u8], ecn: u8) {
    if let Some(word) = u16_at(packet, 0) {
        put_u16(packet, 0, word & !0x0030 | u16::from(ecn & 3) << 4);
    }
}

/// A walk along the chain of extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chain {
    /// The protocol behind the chain.
    pub(super) protocol: u8,
    /// Where its header begins.
    pub(super) at: usize,
    /// Where the octet stands that names it.
    pub(super) named_at: usize,
    /// What the walk met.
    pub(super) end: ChainEnd,
}

/// Why a walk ended where it did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ChainEnd {
    /// At the upper-layer header.
    UpperLayer,
    /// At the payload of a fragment; `protocol` is what its fragment header names.
    Fragment,
    /// At a routing header that wants the packet to go on to another node.
    EnRoute,
}

/// Walks the extension headers of a packet that begins at `start`; none where the chain is cut short or too long.
/// `Fragment` ends the walk only for real fragments: an atomic one is a whole packet (RFC 6946).
#[inline]
pub(super) fn walk(frame: &[u8], start: usize) -> Option<Chain> {
    let mut named_at = start + field::NEXT_HEADER;
    let mut protocol = *frame.get(named_at)?;
    let mut at = start + HEADER_LEN;
    for count in 0..=extension::MAX {
        let len = match protocol {
            extension::HOP_BY_HOP if count > 0 => return None,
            extension::HOP_BY_HOP | extension::DESTINATION | extension::ROUTING => {
                if protocol == extension::ROUTING && *frame.get(at + 3)? != 0 {
                    return Some(Chain { protocol, at, named_at, end: ChainEnd::EnRoute });
                }
                (usize::from(*frame.get(at + 1)?) + 1) * 8
            }
            extension::FRAGMENT => {
                // Offset in the upper 13 bits, "more" in the lowest.
                if u16_at(frame, at + 2)? & 0xFFF9 != 0 {
                    let protocol = *frame.get(at)?;
                    return Some(Chain { protocol, at, named_at, end: ChainEnd::Fragment });
                }
                8
            }
            _ => return Some(Chain { protocol, at, named_at, end: ChainEnd::UpperLayer }),
        };
        named_at = at;
        protocol = *frame.get(at)?;
        at += len;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(chain: &[(u8, &[u8])], last: u8) -> Vec<u8> {
        let mut packet = vec![0; HEADER_LEN];
        packet[0] = 0x60;
        packet[6] = chain.first().map_or(last, |(header, _)| *header);
        for (i, (_, body)) in chain.iter().enumerate() {
            packet.push(chain.get(i + 1).map_or(last, |(header, _)| *header));
            packet.extend_from_slice(body);
        }
        packet
    }

    #[test]
    fn the_chain_is_walked_to_the_upper_layer() {
        let packet = packet(&[(0, &[0; 7]), (43, &[0; 7]), (60, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])], 50);
        let chain = walk(&packet, 0).unwrap();
        assert_eq!(chain, Chain { protocol: 50, at: 72, named_at: 56, end: ChainEnd::UpperLayer });
    }

    #[test]
    fn an_atomic_fragment_is_a_whole_packet_and_a_real_one_is_not() {
        let atomic = packet(&[(44, &[0, 0, 0, 1, 2, 3, 4])], 50);
        assert_eq!(walk(&atomic, 0).unwrap().end, ChainEnd::UpperLayer);
        for field in [[0, 1], [0, 8]] {
            let fragment = packet(&[(44, &[0, field[0], field[1], 1, 2, 3, 4])], 50);
            let chain = walk(&fragment, 0).unwrap();
            assert_eq!((chain.end, chain.protocol), (ChainEnd::Fragment, 50));
        }
    }

    #[test]
    fn a_routing_header_with_segments_left_ends_the_walk() {
        let en_route = packet(&[(43, &[0, 0, 1, 0, 0, 0, 0])], 50);
        assert_eq!(walk(&en_route, 0).unwrap().end, ChainEnd::EnRoute);
    }

    #[test]
    fn a_bad_chain_is_refused() {
        assert_eq!(walk(&packet(&[(60, &[0; 7]), (0, &[0; 7])], 50), 0), None, "hop-by-hop not first");
        assert_eq!(walk(&packet(&[(60, &[0u8; 7] as &[u8]); 9], 50), 0), None, "too long");
        let whole = packet(&[(0, &[0; 7]), (44, &[0, 0, 0, 1, 2, 3, 4])], 50);
        for len in 0..48 {
            assert_eq!(walk(&whole[..len], 0), None, "{len} octets");
        }
    }

    #[test]
    fn fields_change_in_place() {
        let mut packet = packet(&[], 17);
        packet[7] = 2;
        set_ecn(&mut packet, 3);
        assert_eq!(traffic_class(&packet), Some(3));
        assert!(decrement_hop_limit(&mut packet));
        assert!(!decrement_hop_limit(&mut packet));
        set_total_length(&mut packet, 48);
        assert_eq!(&packet[4..8], [0, 8, 17, 1]);
    }
}
