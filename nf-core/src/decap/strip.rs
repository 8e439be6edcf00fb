//! From decrypted ESP to the packet that was inside: padding, next header, policy, ECN, and the headers that go.

use std::ops::Range;

use super::ecn::{self, Ecn};
use crate::crypto::HEADER_LEN;
use crate::drop::DropReason;
use crate::packet::{Decapsulated, Packet};
use crate::sa::inbound::Sa;
use crate::sa::spec::Mode;
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

/// Takes ESP and, in tunnel mode, the outer header off an authentic, decrypted packet with that many octets of payload.
// What is rare is kept out of line, here and in the other stages: inlined it would take registers from what is not.
#[inline(never)]
pub(super) fn strip(packet: &mut Packet<'_>, sa: &Sa, payload_len: usize) -> Result<Stripped, DropReason> {
    let headers = packet.headers();
    let start = headers.esp_range().start + HEADER_LEN + usize::from(sa.layout.iv_len);
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
    use super::*;

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
}
