//! ICMP messages that one of our ESP packets was too big for a link on its way: the path's MTU (RFC 1191, RFC 8201).
//!
//! Anybody can send one. It counts for an SA only if it quotes that SA's SPI and outer addresses, and lowers the MTU to no
//! less than all links take (RFC 4301 8.2.1). The message goes on to the host's stack all the same, whose own packets it
//! may be about.

use std::net::IpAddr;

use crate::core::CoreCx;
use crate::event::{Event, SaRef};
use crate::net::{Net, NetPort, Origin};
use crate::packet::Packet;
use crate::types::Spi;
use crate::wire::udp::{self, NAT_T_PORT};
use crate::wire::{IpVersion, checksum, ipv4, ipv6, protocol, u16_at, u32_at};

/// Octets of the message's own header.
const HEADER_LEN: usize = 8;

/// The least that a path's MTU is lowered to, in octets: what all links of IPv6 take, and what all hosts of IPv4 do.
const LEAST_V4: u16 = 576;
const LEAST_V6: u16 = 1280;

/// What a message says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct TooBig {
    spi: Spi,
    src: IpAddr,
    dst: IpAddr,
    mtu: u16,
}

/// Looks whether a packet to us is such a message about one of our SAs.
#[cold]
pub fn notice(core: &mut CoreCx<'_>, packet: &Packet<'_>) {
    let told = read(packet).and_then(|told| Some((told, core.spd.sa(told.spi, told.src, told.dst)?)));
    if let Some((told, sa)) = told
        && leaves_by(core.net, told.dst).is_some_and(|port| told.mtu < port.mtu)
        && sa.lower_path_mtu(told.mtu, core.now)
    {
        let sa = SaRef { key: sa.key, id: sa.id };
        core.tell(Event::PathMtu { sa, mtu: told.mtu });
    }
}

/// The port by which packets go to an address.
fn leaves_by(net: &Net, dst: IpAddr) -> Option<&NetPort> {
    net.route(dst, Origin::Protected).and_then(|hop| net.port(hop.port))
}

fn read(packet: &Packet<'_>) -> Option<TooBig> {
    let (headers, frame) = (packet.headers(), packet.data());
    let message = frame.get(headers.upper_layer_range())?;
    let (header, quoted) = message.split_first_chunk::<HEADER_LEN>()?;
    let version = headers.version()?;
    let pseudo_header = match version {
        IpVersion::V4 => 0,
        IpVersion::V6 => {
            let addresses = frame.get(headers.l3()..)?.get(ipv6::field::SRC..ipv6::HEADER_LEN)?;
            checksum::sum(addresses) + u64::from(protocol::ICMPV6) + message.len() as u64
        }
    };
    if checksum::fold(checksum::sum(message) + pseudo_header) != 0xFFFF || IpVersion::of(quoted) != Some(version) {
        return None;
    }
    let (named, src, dst, l4, mtu) = match (version, header) {
        // A router from before RFC 1191 gives no MTU.
        (IpVersion::V4, [3, 4, ..]) => {
            let address = |at: usize| quoted.get(at..)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets));
            let (src, dst) = (address(ipv4::field::SRC)?, address(ipv4::field::DST)?);
            let mtu = u16_at(header, 6)?.max(LEAST_V4);
            (*quoted.get(ipv4::field::PROTOCOL)?, src, dst, ipv4::header_len(quoted)?, mtu)
        }
        // No packet of ours has extension headers, but those that were cut: they fit.
        (IpVersion::V6, [2, 0, ..]) => {
            let address = |at: usize| quoted.get(at..)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
            let (src, dst) = (address(ipv6::field::SRC)?, address(ipv6::field::DST)?);
            let mtu = u16::try_from(u32_at(header, 4)?).ok()?.max(LEAST_V6);
            (*quoted.get(ipv6::field::NEXT_HEADER)?, src, dst, ipv6::HEADER_LEN, mtu)
        }
        _ => return None,
    };
    let esp = match named {
        protocol::ESP => l4,
        protocol::UDP if u16_at(quoted, l4)? == NAT_T_PORT => l4 + udp::HEADER_LEN,
        _ => return None,
    };
    Some(TooBig { spi: Spi(u32_at(quoted, esp)?), src, dst, mtu })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::PortIndex;
    use crate::wire;

    const SRC: [u8; 4] = [10, 10, 1, 2];
    const DST: [u8; 4] = [10, 1, 1, 1];

    fn quote(protocol: u8, behind: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 5, 220, 0, 1, 0x40, 0, 60, protocol, 0, 0];
        packet.extend(SRC.into_iter().chain(DST));
        packet.extend(behind);
        packet
    }

    fn message(kind: u8, code: u8, mtu: u16, quoted: &[u8]) -> Vec<u8> {
        let mut icmp = vec![kind, code, 0, 0, 0, 0];
        icmp.extend(mtu.to_be_bytes());
        icmp.extend(quoted);
        let sum = checksum::checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1]);
        frame.extend(SRC);
        let total = 20 + icmp.len();
        ipv4::set_total_length(&mut frame[14..], total);
        frame.extend(icmp);
        frame
    }

    fn read(mut frame: Vec<u8>) -> Option<TooBig> {
        let headers = wire::parse(&frame).ok()?;
        let len = frame.len();
        let mut packet = Packet::new(&mut frame, 0..len, PortIndex(0)).unwrap();
        packet.set_headers(headers);
        super::read(&packet)
    }

    #[test]
    fn the_spi_is_found_behind_ip_and_behind_udp() {
        let told = |mtu| Some(TooBig { spi: Spi(0x1000), src: SRC.into(), dst: DST.into(), mtu });
        let esp = [0, 0, 0x10, 0, 0, 0, 0, 9];
        let udp = [&[0x11, 0x94, 0xEE, 0x48, 5, 200, 0, 0][..], &esp].concat();
        assert_eq!(read(message(3, 4, 1400, &quote(50, &esp))), told(1400));
        assert_eq!(read(message(3, 4, 1400, &quote(17, &udp))), told(1400));
        assert_eq!(read(message(3, 4, 68, &quote(50, &esp))), told(576));
        assert_eq!(read(message(3, 4, 0, &quote(50, &esp))), told(576), "a router from before RFC 1191");
        assert_eq!(read(message(3, 3, 1400, &quote(50, &esp))), None, "another error");
        assert_eq!(read(message(3, 4, 1400, &quote(6, &esp))), None, "another protocol");
        assert_eq!(read(message(3, 4, 1400, &quote(17, &udp[..8]))), None, "no SPI is quoted");
        let mut wrong = message(3, 4, 1400, &quote(50, &esp));
        wrong[40] ^= 1;
        assert_eq!(read(wrong), None, "the checksum");
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(kind in prop::sample::select(vec![2u8, 3]), code in 0u8..5, mtu: u16, quoted in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(message(kind, code, mtu, &quoted));
            let mut ip = quoted;
            if let Some(first) = ip.first_mut() {
                *first = 0x45;
            }
            let _ = read(message(kind, code, mtu, &ip));
        }
    }
}
