//! From decrypted ESP to the packet that was inside: padding, next header, policy, ECN, and the headers that go.

use std::ops::Range;

use super::ecn::{self, Ecn};
use crate::crypto::HEADER_LEN;
use crate::drop::DropReason;
use crate::packet::{Decapsulated, Packet};
use crate::sa::inbound::Sa;
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

/// Takes ESP and, in tunnel mode, the outer header off an authentic, decrypted packet with that many octets of payload.
#[inline]
pub(super) fn strip(packet: &mut Packet<'_>, sa: &Sa, payload_len: usize) -> Result<Stripped, DropReason> {
    let headers = packet.headers();
    let start = headers.esp_range().start + HEADER_LEN + usize::from(sa.layout.iv_len);
    let plaintext = start..start + payload_len;
    let (payload_len, next_header) = unpad(packet.data().get(plaintext.clone()).ok_or(DropReason::PadOrLength)?)?;
    let payload = plaintext.start..plaintext.start + payload_len;
    if next_header == next_header::NONE {
        return Ok(Stripped::Dummy);
    }
    let inner = match sa.mode {
        Mode::Tunnel => leave_tunnel(packet, headers, payload, next_header)?,
        Mode::Transport => join_headers(packet, headers, payload, next_header)?,
    };
    if !sa.selectors.permit(packet.data(), &inner) {
        return Err(match inner.version {
            IpVersion::V4 => DropReason::PolicyV4,
            IpVersion::V6 => DropReason::PolicyV6,
        });
    }
    let spi: Spi = sa.key.spi;
    packet.set_decapsulated(Decapsulated { spi, inner, for_host: sa.mode == Mode::Transport });
    Ok(Stripped::Inner)
}

/// The payload's length and its protocol, from the trailer. Padding counts 1, 2, 3, .. with all ciphers that we have
/// (RFC 4303 2.4), so anything else is a sign that sender and receiver disagree.
#[inline]
fn unpad(plaintext: &[u8]) -> Result<(usize, u8), DropReason> {
    let [body @ .., pad_len, next_header] = plaintext else {
        return Err(DropReason::PadOrLength);
    };
    let payload_len = body.len().checked_sub(usize::from(*pad_len)).ok_or(DropReason::PadOrLength)?;
    let padding = body.get(payload_len..).unwrap_or_default();
    if padding.iter().zip(1..=u8::MAX).all(|(octet, expected)| *octet == expected) {
        Ok((payload_len, *next_header))
    } else {
        Err(DropReason::PadOrLength)
    }
}

/// Tunnel mode: only the inner packet stays. What lies behind its end is traffic flow confidentiality padding
/// (RFC 4303 2.7).
#[inline]
fn leave_tunnel(
    packet: &mut Packet<'_>,
    headers: Headers,
    payload: Range<usize>,
    next_header: u8,
) -> Result<Inner, DropReason> {
    let expected = match next_header {
        next_header::IPV4 => IpVersion::V4,
        next_header::IPV6 => IpVersion::V6,
        _ => return Err(DropReason::NextHeader),
    };
    let payload_start = payload.start;
    let inside = packet.data_mut().get_mut(payload).ok_or(DropReason::PadOrLength)?;
    if IpVersion::of(inside).is_some_and(|version| version != expected) {
        return Err(DropReason::InnerVersion);
    }
    let inner = Inner::parse(inside)?;
    let tos = inner.tos;
    match ecn::leave_tunnel(Ecn::of(tos), Ecn::of(headers.tos())) {
        None => return Err(DropReason::EcnNotEct),
        Some(mark) if mark == Ecn::of(tos) => {}
        Some(mark) => match inner.version {
            IpVersion::V4 => ipv4::set_ecn(inside, mark as u8),
            IpVersion::V6 => ipv6::set_ecn(inside, mark as u8),
        },
    }
    packet.narrow(payload_start..payload_start + inner.total_len()).map_err(|_| DropReason::InnerMalformed)?;
    Ok(inner)
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

    #[test]
    fn padding_counts_from_one() {
        assert_eq!(unpad(&[0xAA, 0xBB, 1, 2, 3, 3, 4]), Ok((2, 4)));
        assert_eq!(unpad(&[0, 6]), Ok((0, 6)));
        assert_eq!(unpad(&[0xAA, 1, 3, 3, 3, 4]), Err(DropReason::PadOrLength));
    }

    #[test]
    fn a_pad_length_beyond_the_packet_is_refused() {
        assert_eq!(unpad(&[1, 2, 3, 4]), Err(DropReason::PadOrLength));
        assert_eq!(unpad(&[4]), Err(DropReason::PadOrLength));
        assert_eq!(unpad(&[]), Err(DropReason::PadOrLength));
    }

    #[test]
    fn the_longest_padding_is_255_octets() {
        let mut plaintext: Vec<u8> = (1..=255).collect();
        plaintext.extend([255, 59]);
        assert_eq!(unpad(&plaintext), Ok((0, 59)));
    }
}
