//! Checksums of TCP and UDP, which cover the IP addresses.

use std::net::IpAddr;

use super::{Inner, IpVersion, checksum, protocol, put_u16, u16_at, udp};

const TCP_CHECKSUM: usize = 16;

/// Makes the TCP or UDP checksum of a packet anew. A fragment, another protocol, and UDP over IPv4 without a checksum
/// are left alone.
pub fn refresh_checksum(packet: &mut [u8], inner: &Inner) {
    let at = match inner.protocol {
        protocol::TCP => inner.l4() + TCP_CHECKSUM,
        protocol::UDP => inner.l4() + udp::field::CHECKSUM,
        _ => return,
    };
    let Some(before) = packet.get(..inner.total_len()).and_then(|packet| u16_at(packet, at)) else {
        return;
    };
    let without = inner.protocol == protocol::UDP && before == 0 && inner.version == IpVersion::V4;
    if inner.fragment || without {
        return;
    }
    let Some(pseudo_header) = pseudo_header(packet, inner) else {
        return;
    };
    put_u16(packet, at, 0);
    let Some(segment) = packet.get(inner.l4()..inner.total_len()) else {
        return;
    };
    let sum = checksum::sum(segment) + pseudo_header;
    let sum = match (!checksum::fold(sum), inner.protocol) {
        // In UDP zero stands for "none".
        (0, protocol::UDP) => 0xFFFF,
        (sum, _) => sum,
    };
    put_u16(packet, at, sum);
}

/// The sum of the pseudo header (RFC 9293 3.1, RFC 8200 8.1).
fn pseudo_header(packet: &[u8], inner: &Inner) -> Option<u64> {
    let len = inner.total_len().checked_sub(inner.l4())?;
    let address = |address| match address {
        IpAddr::V4(address) => checksum::sum(&address.octets()),
        IpAddr::V6(address) => checksum::sum(&address.octets()),
    };
    Some(address(inner.src(packet)?) + address(inner.dst(packet)?) + u64::from(inner.protocol) + len as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A DNS query's header as a host made it: the checksum was computed elsewhere.
    const UDP: [u8; 28] = [
        0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 192, 168, 105, 7, 192, 168, 115, 1, 0x03, 0xEE, 0x1E, 0x61, 0, 8,
        0x80, 0x35,
    ];

    #[test]
    fn a_damaged_checksum_is_made_anew() {
        let mut packet = UDP;
        packet[26] = 0x12;
        let inner = Inner::parse(&packet).unwrap();
        refresh_checksum(&mut packet, &inner);
        assert_eq!(packet, UDP);
    }

    #[test]
    fn udp_without_a_checksum_stays_so() {
        let mut packet = UDP;
        packet[26..28].fill(0);
        let without = packet;
        let inner = Inner::parse(&packet).unwrap();
        refresh_checksum(&mut packet, &inner);
        assert_eq!(packet, without);
    }

    #[test]
    fn a_segment_cut_short_is_left_alone() {
        let mut packet = UDP;
        packet[9] = protocol::TCP;
        let before = packet;
        let inner = Inner::parse(&packet).unwrap();
        refresh_checksum(&mut packet, &inner);
        assert_eq!(packet, before);
    }
}
