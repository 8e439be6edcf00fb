//! Fragmentation of packets on their way out: of IPv4 (RFC 791 2.3 and 3.2), and of IPv6 by who has made them (RFC 8200 4.5).

use arrayvec::ArrayVec;

use crate::wire::{IpVersion, ipv4, ipv6, protocol, put_u16, u16_at, u32_at, udp};

/// The longest header.
const MAX_HEADER: usize = 60;
/// Offsets count in units of so many octets.
const UNIT: usize = 8;
/// The option that ends all others, and the one that fills up.
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
/// The bit of an option that goes into each fragment.
const COPIED: u8 = 0x80;

/// Octets of IPv6's fragment header.
const FRAGMENT_HEADER: usize = 8;

/// Cuts a packet into fragments of `mtu` octets at most, and gives header and payload of each to `send`, in order. A packet of
/// IPv4 that is a fragment itself is cut further; of IPv6 only ESP is cut, in UDP or not, right behind the fixed header.
///
/// Gives how many there were. None, and nothing was sent, for what can't be cut: no IP packet, one that ends behind the
/// end of all datagrams, or an MTU that has no room for a payload.
pub fn split(packet: &[u8], mtu: usize, send: impl FnMut(&[u8], &[u8])) -> Option<usize> {
    match IpVersion::of(packet)? {
        IpVersion::V4 => split_v4(packet, mtu, send),
        IpVersion::V6 => split_v6(packet, mtu, send),
    }
}

fn split_v6(packet: &[u8], mtu: usize, mut send: impl FnMut(&[u8], &[u8])) -> Option<usize> {
    let (fixed, payload) = packet.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
    let room = mtu.checked_sub(fixed.len() + FRAGMENT_HEADER)? / UNIT * UNIT;
    if room == 0 || payload.is_empty() {
        return None;
    }
    // No two packets on their way may share it: what is cut is ESP, whose sequence number no other packet of the SA has.
    let esp = if fixed[ipv6::field::NEXT_HEADER] == protocol::UDP { udp::HEADER_LEN } else { 0 };
    let id = u32_at(payload, esp)? ^ u32_at(payload, esp + 4)?;
    let parts = payload.len().div_ceil(room);
    for (place, part) in payload.chunks(room).enumerate() {
        let mut header = [0; ipv6::HEADER_LEN + FRAGMENT_HEADER];
        header.get_mut(..ipv6::HEADER_LEN)?.copy_from_slice(fixed);
        let named = std::mem::replace(header.get_mut(ipv6::field::NEXT_HEADER)?, ipv6::extension::FRAGMENT);
        *header.get_mut(ipv6::HEADER_LEN)? = named;
        let more = u16::from(place + 1 < parts);
        put_u16(&mut header, ipv6::HEADER_LEN + 2, u16::try_from(place * room).ok()? | more);
        header.get_mut(ipv6::HEADER_LEN + 4..)?.copy_from_slice(&id.to_be_bytes());
        ipv6::set_total_length(&mut header, ipv6::HEADER_LEN + FRAGMENT_HEADER + part.len());
        send(&header, part);
    }
    Some(parts)
}

fn split_v4(packet: &[u8], mtu: usize, mut send: impl FnMut(&[u8], &[u8])) -> Option<usize> {
    let header_len = ipv4::header_len(packet)?;
    let (first, payload) = packet.split_at_checked(header_len)?;
    let later = later_header(first)?;
    let flags = u16_at(first, ipv4::field::FRAGMENT)?;
    let more_follow = flags & ipv4::fragment::MORE != 0;
    let (mut offset, mut rest, mut count) = (usize::from(flags & ipv4::fragment::OFFSET), payload, 0);
    if offset * UNIT + payload.len() > usize::from(u16::MAX) {
        return None;
    }
    while !rest.is_empty() {
        let mut header: ArrayVec<u8, MAX_HEADER> = ArrayVec::new();
        header.try_extend_from_slice(if count == 0 { first } else { &later }).ok()?;
        let room = mtu.checked_sub(header.len())?;
        let is_last = rest.len() <= room;
        let len = if is_last { rest.len() } else { room / UNIT * UNIT };
        let (part, behind) = rest.split_at_checked(len).filter(|(part, _)| !part.is_empty())?;
        let more = if is_last && !more_follow { 0 } else { ipv4::fragment::MORE };
        put_u16(&mut header, ipv4::field::FRAGMENT, more | u16::try_from(offset).ok()? & ipv4::fragment::OFFSET);
        let total = header.len() + len;
        ipv4::set_total_length(&mut header, total);
        send(&header, part);
        (offset, rest, count) = (offset + len / UNIT, behind, count + 1);
    }
    Some(count)
}

/// The header of all fragments but the first: with those options alone that are to be copied.
fn later_header(first: &[u8]) -> Option<ArrayVec<u8, MAX_HEADER>> {
    let (fixed, mut options) = first.split_at_checked(ipv4::MIN_HEADER_LEN)?;
    let mut header = ArrayVec::new();
    header.try_extend_from_slice(fixed).ok()?;
    while let [kind, behind @ ..] = options {
        let len = match *kind {
            END_OF_OPTIONS => break,
            NO_OPERATION => 1,
            // Kind and length are counted in.
            _ => usize::from(*behind.first()?).max(2),
        };
        let (option, rest) = options.split_at_checked(len)?;
        if kind & COPIED != 0 {
            header.try_extend_from_slice(option).ok()?;
        }
        options = rest;
    }
    while header.len() % 4 != 0 {
        header.try_push(END_OF_OPTIONS).ok()?;
    }
    *header.first_mut()? = 0x40 | (header.len() / 4) as u8;
    Some(header)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::checksum;

    fn packet(options: &[u8], flags: u16, payload: usize) -> Vec<u8> {
        let mut packet =
            vec![0x45 + (options.len() / 4) as u8, 0, 0, 0, 0x12, 0x34, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet[6..8].copy_from_slice(&flags.to_be_bytes());
        packet.extend(options);
        let len = packet.len() + payload;
        ipv4::set_total_length(&mut packet, len);
        packet.extend((0..payload).map(|n| (n % 251) as u8));
        packet
    }

    fn fragments(packet: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        split(packet, mtu, |header, payload| all.push([header, payload].concat())).map(|count| {
            assert_eq!(count, all.len());
            all
        })
    }

    proptest! {
        /// What a receiver puts together is what was sent.
        #[test]
        fn fragments_add_up(payload in 1usize..4000, mtu in 28usize..1600, more: bool, units in 0u16..1000) {
            let flags = units | if more { ipv4::fragment::MORE } else { 0 };
            let packet = packet(&[], flags, payload / UNIT * UNIT + if more { 0 } else { payload % UNIT } + if more { UNIT } else { 0 });
            let all = fragments(&packet, mtu).unwrap();
            let mut expected = usize::from(units) * UNIT;
            for (number, fragment) in all.iter().enumerate() {
                prop_assert!(fragment.len() <= mtu && checksum::is_valid(&fragment[..20]));
                prop_assert_eq!(usize::from(u16_at(fragment, 2).unwrap()), fragment.len());
                prop_assert_eq!(&fragment[4..6], &packet[4..6]);
                let flags = u16_at(fragment, 6).unwrap();
                prop_assert_eq!(usize::from(flags & ipv4::fragment::OFFSET) * UNIT, expected);
                prop_assert_eq!(flags & ipv4::fragment::MORE != 0, more || number + 1 < all.len());
                expected += fragment.len() - 20;
            }
            let whole: Vec<u8> = all.iter().flat_map(|fragment| fragment[20..].to_vec()).collect();
            prop_assert_eq!(&whole, &packet[20..]);
        }

        #[test]
        fn nothing_makes_it_panic(octets in prop::collection::vec(any::<u8>(), 0..200), mtu in 0usize..100) {
            let _ = fragments(&octets, mtu);
        }
    }

    #[test]
    fn esp_over_ipv6_is_cut_by_its_sender() {
        for (protocol, header_len) in [(protocol::ESP, 0), (protocol::UDP, 8)] {
            let mut packet = vec![0x6B, 0x80, 0, 0, 0, 0, protocol, 64];
            packet.extend([0x20; 16].into_iter().chain([0x30; 16]).chain(vec![7; header_len]));
            packet.extend([0, 0, 0x10, 0, 0, 0, 0, 9]);
            packet.extend((0..2000).map(|n| (n % 251) as u8));
            let total = packet.len();
            ipv6::set_total_length(&mut packet, total);
            let all = fragments(&packet, 1280).unwrap();
            assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [1280, 48 + total - 40 - 1232]);
            for (fragment, [offset, more]) in all.iter().zip([[0u16, 1], [1232, 0]]) {
                assert_eq!((&fragment[..4], fragment[6], &fragment[8..40]), (&packet[..4], 44, &packet[8..40]));
                assert_eq!(usize::from(u16_at(fragment, 4).unwrap()), fragment.len() - 40);
                assert_eq!((fragment[40], u16_at(fragment, 42)), (protocol, Some(offset | more)));
                assert_eq!(u32_at(fragment, 44), Some(0x1009));
            }
            let whole: Vec<u8> = all.iter().flat_map(|fragment| fragment[48..].to_vec()).collect();
            assert_eq!(whole, packet[40..]);
            assert_eq!(fragments(&packet, 55), None);
        }
    }

    #[test]
    fn options_are_copied_if_they_say_so() {
        // Loose source route (copied), then a time stamp (not copied).
        let options = [0x83, 7, 4, 10, 0, 0, 9, NO_OPERATION, 0x44, 4, 5, 0];
        let all = fragments(&packet(&options, 0, 100), 72).unwrap();
        assert_eq!(all[0][20..32], options);
        assert_eq!(all[0].len(), 72);
        assert_eq!(all[1][0], 0x47);
        assert_eq!(all[1][20..28], [0x83, 7, 4, 10, 0, 0, 9, END_OF_OPTIONS]);
        assert!(checksum::is_valid(&all[1][..28]));
    }

    #[test]
    fn an_mtu_without_room_is_refused() {
        assert_eq!(fragments(&packet(&[], 0, 100), 27), None);
        assert_eq!(fragments(&packet(&[], 0, 100), 19), None);
        assert_eq!(fragments(&packet(&[], 0, 100), 28).unwrap().len(), 13);
    }
}
