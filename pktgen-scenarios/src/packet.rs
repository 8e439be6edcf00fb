//! Inner packets: IPv4 and IPv6 with UDP, all checksums right.

use std::net::IpAddr;

/// The Internet checksum (RFC 1071), 16 bits at a time.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let octets = parts.concat();
    let mut sum = 0u64;
    for pair in octets.chunks(2) {
        let low = pair.get(1).copied().unwrap_or_default();
        sum += u64::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An IP packet with the header that its addresses ask for.
pub fn ip(src: IpAddr, dst: IpAddr, tos: u8, hops: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = match src {
        IpAddr::V4(_) => {
            let len = (20 + payload.len()) as u16;
            let mut header = vec![0x45, tos];
            header.extend(len.to_be_bytes());
            header.extend([0, 1, 0x40, 0, hops, protocol, 0, 0]);
            header.extend(octets(src));
            header.extend(octets(dst));
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        IpAddr::V6(_) => {
            let mut header = vec![0x60 | tos >> 4, tos << 4, 0, 0];
            header.extend((payload.len() as u16).to_be_bytes());
            header.extend([protocol, hops]);
            header.extend(octets(src));
            header.extend(octets(dst));
            header
        }
    };
    packet.extend(payload);
    packet
}

/// A UDP datagram with its checksum.
pub fn udp(src: IpAddr, dst: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let mut datagram = Vec::with_capacity(len.into());
    datagram.extend(ports.0.to_be_bytes());
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend(len.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let pseudo = [octets(src), octets(dst), vec![0, 17], len.to_be_bytes().to_vec()].concat();
    let sum = match checksum(&[&pseudo, &datagram]) {
        0 => 0xFFFF,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// What a router sends on of an inner packet: a hop less, and these ECN bits.
pub fn forwarded(packet: &[u8], ecn: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    match packet[0] >> 4 {
        4 => {
            packet[1] = packet[1] & !3 | ecn;
            packet[8] -= 1;
            packet[10..12].fill(0);
            let header_len = usize::from(packet[0] & 15) * 4;
            let sum = checksum(&[&packet[..header_len]]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        _ => {
            packet[1] = packet[1] & !0x30 | ecn << 4;
            packet[7] -= 1;
        }
    }
    packet
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn checksums_come_out_right(payload in prop::collection::vec(any::<u8>(), 0..200), tos: u8, hops in 2u8.., v6: bool, ecn in 0u8..4) {
            let (src, dst): (IpAddr, IpAddr) = if v6 {
                ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap())
            } else {
                ("192.168.1.1".parse().unwrap(), "192.168.2.2".parse().unwrap())
            };
            let datagram = udp(src, dst, (1, 2), &payload);
            let packet = ip(src, dst, tos, hops, 17, &datagram);
            let sent_on = forwarded(&packet, ecn);
            if !v6 {
                prop_assert_eq!(checksum(&[&packet[..20]]), 0);
                prop_assert_eq!(checksum(&[&sent_on[..20]]), 0);
                prop_assert_eq!((sent_on[8], sent_on[1]), (hops - 1, tos & !3 | ecn));
            } else {
                prop_assert_eq!(sent_on[7], hops - 1);
            }
            let pseudo = [octets(src), octets(dst), vec![0, 17], (datagram.len() as u16).to_be_bytes().to_vec()].concat();
            prop_assert_eq!(checksum(&[&pseudo, &datagram]), 0);
        }
    }
}
