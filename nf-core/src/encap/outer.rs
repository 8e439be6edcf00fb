//! The headers in front of an outbound SA's ESP packets.

use std::net::IpAddr;

use crate::crypto::{HEADER_LEN, Layout};
use crate::sa::spec::{Encap, Mode, SaParams};
use crate::types::{SeqNo, Spi};
use crate::wire::udp::NAT_T_PORT;
use crate::wire::{IpVersion, ipv4, ipv6, protocol, put_u16, udp};

/// Octets of the longest of them: IPv6 and UDP.
const MAX_LEN: usize = ipv6::HEADER_LEN + udp::HEADER_LEN;

/// The TTL or hop limit of outer headers: as far as it goes (RFC 4301 5.1.2.1).
const TTL: u8 = 64;

/// What is in front of ESP: in tunnel mode an IP header, and where it was agreed on, a UDP header. A template, of which
/// each packet gets a copy with what is its own.
#[derive(Clone, Debug)]
pub struct Outer {
    template: [u8; MAX_LEN],
    /// Octets of the IP header; none in transport mode.
    ip_len: u8,
    len: u8,
    version: IpVersion,
}

/// What is each packet's own in an outer IP header.
#[derive(Clone, Copy, Debug)]
pub(super) struct PerPacket {
    /// TOS octet or traffic class: DSCP and congestion mark of the inner packet (RFC 4301 5.1.2.1, RFC 6040 4.1).
    pub(super) tos: u8,
    /// Whether routers must not fragment it.
    pub(super) df: bool,
    /// IPv4's number by which fragments are told apart.
    pub(super) id: u16,
}

impl Outer {
    /// The headers of an SA.
    pub fn new(params: &SaParams) -> Outer {
        let mut template = [0; MAX_LEN];
        let protocol = if params.encap == Encap::Udp { protocol::UDP } else { protocol::ESP };
        let (version, header_len) = match (params.src, params.dst) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header: [&[u8]; 4] = [&[0x60, 0, 0, 0, 0, 0], &[protocol, TTL], &src.octets(), &dst.octets()];
                fill(&mut template, header);
                (IpVersion::V6, ipv6::HEADER_LEN)
            }
            (src, dst) => {
                let octets = |address| match address {
                    IpAddr::V4(v4) => v4.octets(),
                    // A spec with both versions is refused.
                    IpAddr::V6(_) => [0; 4],
                };
                let header: [&[u8]; 4] =
                    [&[0x45, 0, 0, 0, 0, 0, 0, 0], &[TTL, protocol, 0, 0], &octets(src), &octets(dst)];
                fill(&mut template, header);
                (IpVersion::V4, ipv4::MIN_HEADER_LEN)
            }
        };
        let ip_len = if params.mode == Mode::Tunnel { header_len } else { 0 };
        let mut len = ip_len;
        if params.encap == Encap::Udp {
            let header: [&[u8]; 2] = [&NAT_T_PORT.to_be_bytes(), &params.peer_port.to_be_bytes()];
            fill(template.get_mut(len..).unwrap_or_default(), header);
            if let Some(rest) = template.get_mut(len + 4..len + udp::HEADER_LEN) {
                rest.fill(0);
            }
            len += udp::HEADER_LEN;
        }
        Outer { template, ip_len: ip_len as u8, len: len as u8, version }
    }

    /// The headers to where the peer is now. None for another IP version, and for what isn't a tunnel in UDP.
    pub fn moved(&self, to: IpAddr, port: u16) -> Option<Outer> {
        let ip_len = usize::from(self.ip_len);
        if ip_len == 0 || !self.has_udp() {
            return None;
        }
        let mut moved = self.clone();
        match (to, self.version) {
            (IpAddr::V4(to), IpVersion::V4) => {
                *moved.template.get_mut(ipv4::field::DST..)?.first_chunk_mut()? = to.octets();
            }
            (IpAddr::V6(to), IpVersion::V6) => {
                *moved.template.get_mut(ipv6::field::DST..)?.first_chunk_mut()? = to.octets();
            }
            _ => return None,
        }
        put_u16(moved.template.get_mut(ip_len..)?, udp::field::DST_PORT, port);
        Some(moved)
    }

    /// Octets of the headers.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "in transport mode without UDP it is 0, and nobody asks")]
    pub fn len(&self) -> usize {
        self.len.into()
    }

    /// The IP version of the outer header.
    #[inline]
    pub fn version(&self) -> IpVersion {
        self.version
    }

    /// The protocol that an IP header in front of it names.
    #[inline]
    pub(super) fn protocol(&self) -> u8 {
        if self.has_udp() { protocol::UDP } else { protocol::ESP }
    }

    /// Whether there is a UDP header.
    #[inline]
    pub(super) fn has_udp(&self) -> bool {
        self.len > self.ip_len
    }

    /// Writes the headers at the front of `octets`, which end with the packet.
    #[inline]
    pub(super) fn write(&self, octets: &mut [u8], own: PerPacket) -> Option<()> {
        let total_len = octets.len();
        let (headers, _) = octets.split_at_mut_checked(self.len.into())?;
        headers.copy_from_slice(self.template.get(..self.len.into())?);
        let (ip, udp) = headers.split_at_mut_checked(self.ip_len.into())?;
        if !udp.is_empty() {
            udp::set_length(udp, total_len - usize::from(self.ip_len));
        }
        if !ip.is_empty() {
            match self.version {
                IpVersion::V4 => {
                    ipv4::set_tos_id_df(ip, own.tos, own.id, own.df);
                    ipv4::set_total_length(ip, total_len);
                }
                IpVersion::V6 => {
                    ipv6::set_traffic_class(ip, own.tos);
                    ipv6::set_total_length(ip, total_len);
                }
            }
        }
        Some(())
    }
}

fn fill<const N: usize>(place: &mut [u8], parts: [&[u8]; N]) {
    for (place, octet) in place.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *octet;
    }
}

/// Writes an ESP packet's header, padding and trailer around so many octets of data that are in place already (RFC 4303
/// 2). IV and ICV are left to the engine.
#[inline]
pub(super) fn write_esp(
    esp: &mut [u8],
    layout: Layout,
    spi: Spi,
    seq: SeqNo,
    data_len: usize,
    next_header: u8,
) -> Option<()> {
    let header: &mut [u8; HEADER_LEN] = esp.first_chunk_mut()?;
    let ([a, b, c, d], [e, f, g, h]) = (spi.0.to_be_bytes(), seq.low().to_be_bytes());
    *header = [a, b, c, d, e, f, g, h];
    let padding = layout.padding(data_len);
    let rest = esp.get_mut(HEADER_LEN + usize::from(layout.iv_len) + data_len..)?;
    let (pad, rest) = rest.split_at_mut_checked(padding)?;
    for (place, number) in pad.iter_mut().zip(1..) {
        *place = number;
    }
    let trailer = rest.first_chunk_mut()?;
    *trailer = [padding as u8, next_header];
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sa::spec::SaSpec;
    use crate::wire::checksum;

    const OWN: PerPacket = PerPacket { tos: 0xB9, df: true, id: 0x1234 };

    fn outer(src: &str, dst: &str, mode: &str, encap: &str) -> Outer {
        let spec: SaSpec = serde_json::from_value(serde_json::json!({
            "spi": 0x1000, "direction": "out", "src": src, "dst": dst, "mode": mode, "encap": encap,
            "alg": "aes-gcm-16", "key": "00".repeat(20),
        }))
        .unwrap();
        Outer::new(&spec.validate().unwrap())
    }

    #[test]
    fn ipv4() {
        let outer = outer("10.10.1.2", "10.1.1.1", "tunnel", "none");
        let mut packet = [0xEE; 100];
        outer.write(&mut packet, OWN).unwrap();
        assert_eq!(packet[..10], [0x45, 0xB9, 0, 100, 0x12, 0x34, 0x40, 0, 64, 50]);
        assert_eq!(packet[12..22], [10, 10, 1, 2, 10, 1, 1, 1, 0xEE, 0xEE]);
        assert!(checksum::is_valid(&packet[..20]));
        outer.write(&mut packet, PerPacket { df: false, ..OWN }).unwrap();
        assert_eq!(packet[6], 0);
        assert!(checksum::is_valid(&packet[..20]));
        assert!(outer.write(&mut packet[..19], OWN).is_none());
    }

    #[test]
    fn ipv6_and_udp() {
        let outer = outer("2001:db8::2", "2001:db8::1", "tunnel", "udp");
        let mut packet = [0xEE; 120];
        outer.write(&mut packet, OWN).unwrap();
        assert_eq!(packet[..8], [0x6B, 0x90, 0, 0, 0, 80, 17, 64]);
        assert_eq!((packet[23], packet[39]), (2, 1));
        assert_eq!(packet[40..49], [0x11, 0x94, 0x11, 0x94, 0, 80, 0, 0, 0xEE]);
    }

    #[test]
    fn in_transport_mode_there_is_only_udp() {
        assert_eq!(outer("10.10.1.2", "10.1.1.1", "transport", "none").len(), 0);
        let udp = outer("10.10.1.2", "10.1.1.1", "transport", "udp");
        assert_eq!((udp.len(), udp.protocol()), (8, 17));
        let mut packet = [0xEE; 50];
        udp.write(&mut packet, OWN).unwrap();
        assert_eq!(packet[..9], [0x11, 0x94, 0x11, 0x94, 0, 50, 0, 0, 0xEE]);
    }

    #[test]
    fn padding_counts_and_the_trailer_follows() {
        let layout = Layout { iv_len: 8, icv_len: 16, block: 4 };
        let mut esp = [0xEE; 8 + 8 + 5 + 1 + 2 + 16];
        write_esp(&mut esp, layout, Spi(0x1000), SeqNo(0x1_0000_0007), 5, 4).unwrap();
        assert_eq!(esp[..8], [0, 0, 0x10, 0, 0, 0, 0, 7]);
        assert_eq!(esp[8..21], [0xEE; 13], "room for the IV, and the data");
        assert_eq!(esp[21..25], [1, 1, 4, 0xEE]);
        assert!(write_esp(&mut esp[..22], layout, Spi(0x1000), SeqNo(7), 5, 4).is_none());
    }
}
