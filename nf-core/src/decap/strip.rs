//! From decrypted ESP to the packet that was inside: padding, next header, policy, ECN, and the headers that go.

use std::ops::Range;

use super::ecn::{self, Ecn};
use crate::crypto::{HEADER_LEN, TRAILER_LEN};
use crate::drop::DropReason;
use crate::packet::{Decapsulated, Packet};
use crate::sa::inbound::Sa;
use crate::sa::permit::V4Pair;
use crate::sa::spec::Mode;
use crate::types::Spi;
use crate::wire::{Headers, Inner, IpVersion, Kind, ipv4, ipv6, transport, udp};

/// IP protocol numbers that ESP's next header may hold.
mod next_header {
    pub(super) const IPV4: u8 = 4;
    pub(super) const IPV6: u8 = 41;
    /// "No next header": a dummy packet (RFC 4303 2.6).
    pub(super) const NONE: u8 = 59;
}

/// What was in the packet.
pub(super) enum Stripped {
    /// A packet, whose IP header the frame now begins with.
    Inner,
    /// Nothing: the peer hides how much it has to say.
    Dummy,
}

/// What the usual packets of an SA are held against, read once for all of a burst: those of an SA in tunnel mode whose
/// selectors are one network of IPv4 on either side.
#[derive(Clone, Copy)]
pub(super) struct Usual {
    spi: Spi,
    permit: V4Pair,
    /// Octets of ESP in front of the payload.
    front: usize,
}

impl Usual {
    /// None for SAs that have no usual packets.
    pub(super) fn of(sa: &Sa) -> Option<Usual> {
        let permit = sa.permit.v4().filter(|_| sa.mode == Mode::Tunnel)?;
        Some(Usual { spi: sa.spi, permit, front: front(sa) })
    }
}

/// Octets of ESP in front of an SA's payloads.
fn front(sa: &Sa) -> usize {
    HEADER_LEN + usize::from(sa.layout.iv_len)
}

/// Takes ESP and, in tunnel mode, the outer header off an authentic, decrypted packet with that many octets of payload.
#[inline(always)]
pub(super) fn strip(
    packet: &mut Packet<'_>,
    sa: &Sa,
    usual: Option<&Usual>,
    payload_len: usize,
) -> Result<Stripped, DropReason> {
    if let Some(usual) = usual
        && strip_usual(packet, usual, payload_len).is_some()
    {
        return Ok(Stripped::Inner);
    }
    strip_any(packet, sa, payload_len)
}

/// A packet of IPv4 without options and in one piece, in an outer one without a congestion mark, and short padding. None,
/// and nothing changed, for any other and for each that is refused, which [`strip_any`] then looks at from the beginning.
#[inline(always)]
fn strip_usual(packet: &mut Packet<'_>, usual: &Usual, payload_len: usize) -> Option<()> {
    let headers = packet.headers();
    let start = headers.esp_range().start + usual.front;
    let plaintext = packet.data().get(start..start + payload_len)?;
    let trailer: &[u8; LONGEST_IN_A_WORD + 1 + TRAILER_LEN] = plaintext.last_chunk()?;
    let [.., pad_len, next_header] = *trailer;
    if next_header != next_header::IPV4
        || !counts_from_one(u64::from_be_bytes(*trailer.first_chunk()?), pad_len)
        || Ecn::of(headers.tos()) != Ecn::NotEct
    {
        return None;
    }
    let payload = plaintext.get(..payload_len - TRAILER_LEN - usize::from(pad_len))?;
    let inner = Inner::parse_plain(payload)?;
    if !usual.permit.contains(inner.v4()?) {
        return None;
    }
    packet.narrow(start..start + inner.total_len()).ok()?;
    packet.set_decapsulated(Decapsulated { spi: usual.spi, inner, for_host: false });
    Some(())
}

/// The longest padding of which one word tells whether it is right.
const LONGEST_IN_A_WORD: usize = 7;

/// Whether padding of so many octets, of [`LONGEST_IN_A_WORD`] at most, counts 1, 2, 3, .. where `last` are the eight octets
/// up to its end.
#[inline(always)]
const fn counts_from_one(last: u64, pad_len: u8) -> bool {
    const COUNT: u64 = 0x01_0203_0405_0607;
    if pad_len as usize > LONGEST_IN_A_WORD {
        return false;
    }
    let bits = 8 * pad_len as u32;
    // What lies in front of the padding is data.
    (last ^ COUNT >> (56 - bits)) & ((1 << bits) - 1) == 0
}

/// Any packet.
// What is rare is kept out of line, here and in the other stages: inlined it would take registers from what is not.
#[inline(never)]
fn strip_any(packet: &mut Packet<'_>, sa: &Sa, payload_len: usize) -> Result<Stripped, DropReason> {
    let headers = packet.headers();
    let start = headers.esp_range().start + front(sa);
    let plaintext = packet.data_mut().get_mut(start..start + payload_len).ok_or(DropReason::PadOrLength)?;
    let (payload, next_header) = unpad(plaintext)?;
    if next_header == next_header::NONE {
        return Ok(Stripped::Dummy);
    }
    if sa.mode == Mode::Transport {
        let payload = start..start + payload.len();
        return strip_transport(packet, sa, payload, next_header);
    }
    let inner = leave_tunnel(payload, headers.tos(), next_header)?;
    permit(sa, payload, inner)?;
    packet.narrow(start..start + inner.total_len()).map_err(|_| DropReason::InnerMalformed)?;
    packet.set_decapsulated(Decapsulated { spi: sa.spi, inner, for_host: false });
    Ok(Stripped::Inner)
}

#[inline(never)]
fn strip_transport(
    packet: &mut Packet<'_>,
    sa: &Sa,
    payload: Range<usize>,
    next_header: u8,
) -> Result<Stripped, DropReason> {
    let inner = join_headers(packet, packet.headers(), payload, next_header)?;
    permit(sa, packet.data(), inner)?;
    packet.set_decapsulated(Decapsulated { spi: sa.spi, inner, for_host: true });
    Ok(Stripped::Inner)
}

/// Whether the SA may carry the packet that `inner` describes.
#[inline(always)]
fn permit(sa: &Sa, packet: &[u8], inner: Inner) -> Result<(), DropReason> {
    if sa.permit.permit(packet, inner) {
        return Ok(());
    }
    Err(inner.version.choose(DropReason::PolicyV4, DropReason::PolicyV6))
}

/// The payload and its protocol, from the trailer. Padding counts 1, 2, 3, .. with all ciphers that we have
/// (RFC 4303 2.4), so anything else is a sign that sender and receiver disagree.
#[inline]
fn unpad(plaintext: &mut [u8]) -> Result<(&mut [u8], u8), DropReason> {
    let [body @ .., pad_len, next_header] = plaintext else {
        return Err(DropReason::PadOrLength);
    };
    let payload_len = body.len().checked_sub(usize::from(*pad_len)).ok_or(DropReason::PadOrLength)?;
    let (payload, padding) = body.split_at_mut_checked(payload_len).ok_or(DropReason::PadOrLength)?;
    if padding.iter().enumerate().all(|(before, octet)| usize::from(*octet) == before + 1) {
        Ok((payload, *next_header))
    } else {
        Err(DropReason::PadOrLength)
    }
}

/// Tunnel mode: the inner packet, which takes the outer congestion mark. What lies behind its end is traffic flow
/// confidentiality padding (RFC 4303 2.7).
#[inline]
fn leave_tunnel(inside: &mut [u8], outer_tos: u8, next_header: u8) -> Result<Inner, DropReason> {
    let expected = match next_header {
        next_header::IPV4 => IpVersion::V4,
        next_header::IPV6 => IpVersion::V6,
        _ => return Err(DropReason::NextHeader),
    };
    if IpVersion::of(inside).is_some_and(|version| version != expected) {
        return Err(DropReason::InnerVersion);
    }
    let inner = Inner::parse(inside)?;
    let outer_mark = Ecn::of(outer_tos);
    if outer_mark == Ecn::NotEct {
        // Nearly always, and it changes no mark.
        return Ok(inner);
    }
    take_mark(inside, inner.version, Ecn::of(inner.tos), outer_mark)?;
    Ok(inner)
}

/// Has the inner packet take a congestion mark of the outer one.
#[inline(never)]
fn take_mark(inside: &mut [u8], version: IpVersion, mark: Ecn, outer_mark: Ecn) -> Result<(), DropReason> {
    let leaving = ecn::leave_tunnel(mark, outer_mark).ok_or(DropReason::EcnNotEct)?;
    if leaving != mark {
        match version {
            IpVersion::V4 => ipv4::set_ecn(inside, leaving as u8),
            IpVersion::V6 => ipv6::set_ecn(inside, leaving as u8),
        }
    }
    Ok(())
}

/// Transport mode: the IP header, with its extension headers, moves up to the payload and names its protocol.
fn join_headers(
    packet: &mut Packet<'_>,
    headers: Headers,
    payload: Range<usize>,
    next_header: u8,
) -> Result<Inner, DropReason> {
    let in_udp = headers.kind == Kind::EspInUdp;
    let ip = headers.l3()..headers.esp_range().start - if in_udp { udp::HEADER_LEN } else { 0 };
    let start = payload.start.checked_sub(ip.len()).ok_or(DropReason::InnerMalformed)?;
    let next_header_at = headers.next_header_at() - ip.start;
    let frame = packet.data_mut();
    frame.copy_within(ip, start);
    packet.narrow(start..payload.end).map_err(|_| DropReason::InnerMalformed)?;

    let datagram = packet.data_mut();
    let len = datagram.len();
    *datagram.get_mut(next_header_at).ok_or(DropReason::InnerMalformed)? = next_header;
    match headers.version() {
        Some(IpVersion::V4) => ipv4::set_total_length(datagram, len),
        Some(IpVersion::V6) => ipv6::set_total_length(datagram, len),
        None => return Err(DropReason::InnerMalformed),
    }
    let inner = Inner::parse(datagram)?;
    if in_udp {
        // A NAT on the way has changed the addresses that TCP and UDP checksums cover (RFC 3948 3.1.2). The ICV
        // vouches for the payload, so its checksum is made anew rather than checked.
        transport::refresh_checksum(datagram, &inner);
    }
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::Portable;
    use crate::sa::spec::SaSpec;
    use crate::types::PortIndex;

    /// The payload's length and the next header.
    fn unpadded(plaintext: &[u8]) -> Result<(usize, u8), DropReason> {
        unpad(&mut plaintext.to_vec()).map(|(payload, next_header)| (payload.len(), next_header))
    }

    #[test]
    fn padding_counts_from_one() {
        assert_eq!(unpadded(&[0xAA, 0xBB, 1, 2, 3, 3, 4]), Ok((2, 4)));
        assert_eq!(unpadded(&[0, 6]), Ok((0, 6)));
        assert_eq!(unpadded(&[0xAA, 1, 3, 3, 3, 4]), Err(DropReason::PadOrLength));
    }

    #[test]
    fn a_pad_length_beyond_the_packet_is_refused() {
        assert_eq!(unpadded(&[1, 2, 3, 4]), Err(DropReason::PadOrLength));
        assert_eq!(unpadded(&[4]), Err(DropReason::PadOrLength));
        assert_eq!(unpadded(&[]), Err(DropReason::PadOrLength));
    }

    #[test]
    fn the_longest_padding_is_255_octets() {
        let mut plaintext: Vec<u8> = (1..=255).collect();
        plaintext.extend([255, 59]);
        assert_eq!(unpadded(&plaintext), Ok((0, 59)));
    }

    #[test]
    fn a_word_tells_short_padding() {
        for pad_len in 0..=LONGEST_IN_A_WORD {
            let data = 8 - pad_len;
            let last: [u8; 8] = std::array::from_fn(|at| if at < data { 0xEE } else { (at - data) as u8 + 1 });
            assert!(counts_from_one(u64::from_be_bytes(last), pad_len as u8), "{last:02x?}");
            for at in 0..8 {
                let mut damaged = last;
                damaged[at] ^= 0x40;
                assert_eq!(counts_from_one(u64::from_be_bytes(damaged), pad_len as u8), at < data, "{damaged:02x?}");
            }
        }
        assert!(!counts_from_one(0x0102_0304_0506_0708, 8), "longer than a word tells");
    }

    fn sa(selectors: serde_json::Value) -> Sa {
        let spec: SaSpec = serde_json::from_value(serde_json::json!({
            "spi": 0x1000, "src": "10.1.1.1", "dst": "10.10.1.2", "mode": "tunnel", "alg": "aes-gcm-16",
            "key": "00".repeat(20), "selectors": selectors,
        }))
        .unwrap();
        Sa::new(&spec.validate().unwrap(), 1, &Portable, 1).unwrap()
    }

    /// A frame of ESP with this plaintext and outer TOS octet.
    fn frame(plaintext: &[u8], tos: u8) -> Vec<u8> {
        let esp = [&[0, 0, 0x10, 0, 0, 0, 0, 1][..], &[0; 8], plaintext, &[0; 16]].concat();
        let len = 20 + esp.len() as u16;
        let mut outer =
            vec![0x45, tos, (len >> 8) as u8, len as u8, 0, 0, 0, 0, 64, 50, 0, 0, 10, 1, 1, 1, 10, 10, 1, 2];
        ipv4::refresh_checksum(&mut outer);
        [&[2; 6][..], &[6; 6], &[8, 0], &outer, &esp].concat()
    }

    /// What becomes of a frame: whether it is dropped, where the packet lies then, and what is known of it.
    fn stripped(sa: &Sa, usual: Option<&Usual>, frame: &mut [u8]) -> String {
        let (end, payload_len) = (frame.len(), frame.len() - 14 - 20 - 16 - 16);
        let mut packet = Packet::new(frame, 0..end, PortIndex(0)).unwrap();
        packet.parse(crate::wire::HeaderChecksum::Unknown).unwrap();
        let outcome = strip(&mut packet, sa, usual, payload_len).map(|stripped| matches!(stripped, Stripped::Inner));
        format!("{outcome:?} {packet:?}")
    }

    #[test]
    fn what_most_packets_are_is_stripped_straight() {
        let inner =
            [&[0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 168, 1, 7, 172, 16, 0, 9][..], &[0xA5; 8]].concat();
        for selectors in [serde_json::json!({}), serde_json::json!({"src": ["192.168.0.0/16"]})] {
            let sa = sa(selectors);
            for trailer in [&[1, 2, 2, 4][..], &[0xEE, 0xEE, 0, 4]] {
                let mut frame = frame(&[&inner[..], trailer].concat(), 0xB8);
                let end = frame.len();
                let mut packet = Packet::new(&mut frame, 0..end, PortIndex(0)).unwrap();
                packet.parse(crate::wire::HeaderChecksum::Unknown).unwrap();
                let usual = Usual::of(&sa).unwrap();
                assert!(strip_usual(&mut packet, &usual, inner.len() + trailer.len()).is_some());
                assert_eq!(packet.data(), inner);
            }
        }
        let lists = sa(serde_json::json!({"src": ["192.168.0.0/16", "10.0.0.0/8"]}));
        assert!(Usual::of(&lists).is_none());
    }

    proptest! {
        #[test]
        fn both_ways_to_strip_agree(
            at in 0usize..40, value: u8, tos in prop::sample::select(vec![0u8, 0xB8, 1, 2, 3]), whole: bool,
            pad_len in 0u8..12, beyond in 0usize..2, next_header in prop::sample::select(vec![4u8, 4, 4, 4, 41, 59, 6]),
            dst in prop::sample::select(vec![[172, 16, 0, 9], [10, 0, 0, 1]]),
        ) {
            let mut plaintext = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 1, 7];
            plaintext.extend(dst);
            plaintext.extend([0xA5; 8]);
            plaintext.extend(vec![0xEE; beyond * 40]);
            plaintext.extend(1..=pad_len);
            plaintext.extend([pad_len, next_header]);
            let damaged = plaintext.len() - 1 - at.min(plaintext.len() - 1);
            if !whole {
                plaintext[damaged] = value;
            }
            let sa = sa(serde_json::json!({"src": ["192.168.0.0/16"], "dst": ["172.16.0.0/12"]}));
            let usual = Usual::of(&sa).unwrap();
            let mut frames = [frame(&plaintext, tos), frame(&plaintext, tos)];
            let [with, without] = &mut frames;
            prop_assert_eq!(stripped(&sa, Some(&usual), with), stripped(&sa, None, without));
        }
    }
}
