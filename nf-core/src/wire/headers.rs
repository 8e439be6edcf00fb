//! All headers of a received frame, read once.

use std::net::IpAddr;
use std::ops::Range;

use super::ethernet::{self, ethertype};
use super::ipv6::{self, ChainEnd};
use super::udp::{self, NAT_T_PORT};
use super::{IpVersion, checksum, ipv4, protocol, u16_at, u32_at};
use crate::drop::DropReason;
use crate::types::Spi;

/// Octets of SPI and sequence number.
const ESP_HEADER_LEN: usize = 8;

/// What a frame is, as far as the pipeline must know. Whether it is for us is not asked here, so what would be wrong
/// behind an IP header addressed to us is a kind of its own and not an error: what passes through may hold anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// IP protocol 50, with room for SPI and sequence number.
    Esp,
    /// ESP in UDP (RFC 3948 2.1): destination port 4500, the first word not zero.
    EspInUdp,
    /// A NAT keepalive (RFC 3948 2.3).
    NatKeepalive,
    /// Port 4500 with the marker that says IKE (RFC 3948 2.2).
    IkeNatT,
    /// Wrong if it is for us, for this reason: no room for ESP's header, UDP to port 4500 that lies about its length,
    /// something on port 4500 that is neither ESP nor IKE nor a keepalive.
    Faulty(DropReason),
    /// A fragment of a datagram that may be ESP or UDP.
    Fragment,
    /// Everything else: ARP, ICMP, TCP, IKE on port 500, other protocols' fragments.
    #[default]
    Other,
}

/// Where a frame's headers lie. All offsets are within the frame; a frame is shorter than 64 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Headers {
    /// What the frame is.
    pub kind: Kind,
    version: Option<IpVersion>,
    tos: u8,
    protocol: u8,
    l3: u16,
    next_header_at: u16,
    /// The upper-layer header: UDP, ESP, or a fragment's payload.
    l4: u16,
    /// Behind the last octet that belongs to the datagram.
    end: u16,
    /// Where ESP begins; where `end` is for what isn't ESP.
    esp_at: u16,
    /// ESP's first two words.
    spi: u32,
    seq_low: u32,
    /// The addresses of IPv4, which most packets have, so that the frame isn't asked for them again and again.
    v4: ipv4::Addresses,
}

impl Headers {
    /// The IP version; none for frames without IP.
    #[inline]
    pub fn version(self) -> Option<IpVersion> {
        self.version
    }

    /// The outer TOS octet or traffic class.
    #[inline]
    pub fn tos(self) -> u8 {
        self.tos
    }

    /// The upper-layer protocol: what the last IP header names.
    #[inline]
    pub fn protocol(self) -> u8 {
        self.protocol
    }

    /// Where the IP header begins.
    #[inline]
    pub fn l3(self) -> usize {
        self.l3.into()
    }

    /// Octets of the IP header, extension headers included.
    #[inline]
    pub fn l3_len(self) -> usize {
        usize::from(self.l4) - usize::from(self.l3)
    }

    /// Where the octet stands that names the upper-layer protocol.
    #[inline]
    pub fn next_header_at(self) -> usize {
        self.next_header_at.into()
    }

    /// From the SPI to the end of the ICV. Empty for frames that aren't ESP.
    #[inline]
    pub fn esp_range(self) -> Range<usize> {
        self.esp_at.into()..self.end.into()
    }

    /// The upper-layer header and all behind it that belongs to the datagram.
    #[inline]
    pub fn upper_layer_range(self) -> Range<usize> {
        self.l4.into()..self.end.into()
    }

    /// Of two things that differ by IP version the one for this frame's; for a frame without IP that for IPv4.
    #[inline]
    pub(crate) fn choose<T>(self, v4: T, v6: T) -> T {
        self.version.unwrap_or(IpVersion::V4).choose(v4, v6)
    }

    /// Whether the frame is ESP, in UDP or without.
    #[inline]
    pub fn is_esp(self) -> bool {
        // As the kind says, which takes more to compare.
        self.esp_at < self.end
    }

    /// The addresses, where they are of IPv4.
    #[inline]
    pub(crate) fn v4(self) -> Option<ipv4::Addresses> {
        (self.version == Some(IpVersion::V4)).then_some(self.v4)
    }

    /// The source address.
    #[inline]
    pub fn src(self, frame: &[u8]) -> Option<IpAddr> {
        match self.version? {
            IpVersion::V4 => Some(self.v4.src().into()),
            IpVersion::V6 => self.v6_address(frame, ipv6::field::SRC),
        }
    }

    /// The destination address.
    #[inline]
    pub fn dst(self, frame: &[u8]) -> Option<IpAddr> {
        match self.version? {
            IpVersion::V4 => Some(self.v4.dst().into()),
            IpVersion::V6 => self.v6_address(frame, ipv6::field::DST),
        }
    }

    #[inline(never)]
    fn v6_address(self, frame: &[u8], at: usize) -> Option<IpAddr> {
        Some(IpAddr::from(*frame.get(self.l3() + at..)?.first_chunk::<16>()?))
    }

    /// The UDP ports, source first, of what came over port 4500.
    #[inline]
    pub fn udp_ports(self, frame: &[u8]) -> Option<(u16, u16)> {
        match self.kind {
            Kind::EspInUdp | Kind::NatKeepalive | Kind::IkeNatT => {
                let l4 = usize::from(self.l4);
                Some((u16_at(frame, l4)?, u16_at(frame, l4 + udp::field::DST_PORT)?))
            }
            Kind::Esp | Kind::Fragment | Kind::Faulty(_) | Kind::Other => None,
        }
    }

    /// The SPI, if the frame is ESP.
    #[inline]
    pub fn spi(self) -> Option<Spi> {
        self.is_esp().then_some(Spi(self.spi))
    }

    /// The sequence number's 32 bits on the wire, if the frame is ESP.
    #[inline]
    pub fn seq_low(self) -> Option<u32> {
        self.is_esp().then_some(self.seq_low)
    }
}

/// What is known of an IPv4 header's checksum before the header is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderChecksum {
    /// Nothing: it is summed.
    Unknown,
    /// It is right: the port has found so, or this host has just made it.
    Verified,
}

impl HeaderChecksum {
    #[inline(always)]
    fn is_valid(self, header: &[u8]) -> bool {
        self == HeaderChecksum::Verified || checksum::is_valid(header)
    }
}

/// Reads a frame's headers.
///
/// # Errors
/// The reason under which to drop a frame that is cut short or lies about its lengths.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Headers, DropReason> {
    parse_with(frame, HeaderChecksum::Unknown)
}

/// As [`parse`], with what is known of the checksum.
#[inline]
pub(crate) fn parse_with(frame: &[u8], checksum: HeaderChecksum) -> Result<Headers, DropReason> {
    let mut headers = Headers::default();
    parse_into(frame, &mut headers, checksum).map(|()| headers)
}

/// As [`parse_with`], into the place where the headers are wanted: returned, they would be written twice, and the CPU would wait
/// for the first time before the second. Where it fails `headers` are what they were.
#[inline(always)]
pub(crate) fn parse_into(frame: &[u8], headers: &mut Headers, checksum: HeaderChecksum) -> Result<(), DropReason> {
    match parse_common(frame, headers, checksum) {
        Some(()) => Ok(()),
        None => parse_any(frame, checksum).map(|any| *headers = any),
    }
}

/// Octets up to the end of ESP's header, in Ethernet without tags and IPv4 without options.
const COMMON_LEN: usize = ethernet::HEADER_LEN + ipv4::MIN_HEADER_LEN + ESP_HEADER_LEN;
/// The same with UDP between IPv4 and ESP.
const COMMON_UDP_LEN: usize = COMMON_LEN + udp::HEADER_LEN;
/// EtherType, IP version and header length of such frames.
const COMMON_START: u32 = (ethertype::IPV4 as u32) << 8 | ipv4::PLAIN as u32;

/// The headers of what nearly all frames are: Ethernet without tags, IPv4 without options, whole, sound, and ESP behind it
/// or behind UDP. None, and nothing written, for anything else, which [`parse_any`] then looks at from the beginning: it
/// alone tells faults.
#[inline(always)]
fn parse_common(frame: &[u8], headers: &mut Headers, checksum: HeaderChecksum) -> Option<()> {
    use ipv4::field;
    const L3: usize = ethernet::HEADER_LEN;
    const L4: usize = L3 + ipv4::MIN_HEADER_LEN;
    let start: &[u8; COMMON_LEN] = frame.first_chunk()?;
    let ip: &[u8; ipv4::MIN_HEADER_LEN] = start.get(L3..)?.first_chunk()?;
    let end = L3 + usize::from(u16_at(ip, field::TOTAL_LEN)?);
    if u32_at(start, ethernet::TYPE_AT)? >> 8 != COMMON_START
        || u16_at(ip, field::FRAGMENT)? & (ipv4::fragment::MORE | ipv4::fragment::OFFSET) != 0
        || end < COMMON_LEN
        || end > frame.len().min(u16::MAX.into())
        || !checksum.is_valid(ip)
    {
        return None;
    }
    let protocol = ip[field::PROTOCOL];
    let (kind, esp_at, esp): (_, _, &[u8; ESP_HEADER_LEN]) = match protocol {
        protocol::ESP => (Kind::Esp, L4, start.last_chunk()?),
        protocol::UDP if end >= COMMON_UDP_LEN => {
            let udp: &[u8; udp::HEADER_LEN + ESP_HEADER_LEN] = frame.get(L4..)?.first_chunk()?;
            let to_nat_t = u16_at(udp, udp::field::DST_PORT)? == NAT_T_PORT;
            let to_the_end = usize::from(u16_at(udp, udp::field::LEN)?) == end - L4;
            let esp = udp.last_chunk()?;
            if !to_nat_t || !to_the_end || u32_at(esp, 0)? == 0 {
                return None;
            }
            (Kind::EspInUdp, L4 + udp::HEADER_LEN, esp)
        }
        _ => return None,
    };
    *headers = Headers {
        kind,
        version: Some(IpVersion::V4),
        tos: ip[field::TOS],
        protocol,
        l3: L3 as u16,
        next_header_at: (L3 + field::PROTOCOL) as u16,
        l4: L4 as u16,
        end: end as u16,
        esp_at: esp_at as u16,
        spi: u32_at(esp, 0)?,
        seq_low: u32_at(esp, 4)?,
        v4: ipv4::Addresses::of(ip),
    };
    Some(())
}

/// Whether a frame is ESP in one piece: work that any core can do.
#[inline]
pub fn is_whole_esp(frame: &[u8]) -> bool {
    parse(frame).is_ok_and(Headers::is_esp)
}

/// The headers of any frame.
#[inline(never)]
fn parse_any(frame: &[u8], checksum: HeaderChecksum) -> Result<Headers, DropReason> {
    let (ethertype, l3) = ethernet::payload(frame).ok_or(DropReason::L2Malformed)?;
    // No frame is that long: a buffer holds less.
    let frame = frame.get(..frame.len().min(u16::MAX.into())).unwrap_or(frame);
    match ethertype {
        ethertype::IPV4 => parse_v4(frame, l3, checksum),
        ethertype::IPV6 => parse_v6(frame, l3),
        _ => {
            let end = frame.len() as u16;
            Ok(Headers { l3: l3 as u16, l4: l3 as u16, end, esp_at: end, ..Headers::default() })
        }
    }
}

#[inline(always)]
fn parse_v4(frame: &[u8], l3: usize, checksum: HeaderChecksum) -> Result<Headers, DropReason> {
    use ipv4::field;
    let malformed = DropReason::Ipv4Malformed;
    let packet = frame.get(l3..).ok_or(malformed)?;
    let fixed: &[u8; ipv4::MIN_HEADER_LEN] = packet.first_chunk().ok_or(malformed)?;
    let header_len = ipv4::header_len(packet).ok_or(malformed)?;
    let total_len = usize::from(u16_at(fixed, field::TOTAL_LEN).ok_or(malformed)?);
    if IpVersion::of(packet) != Some(IpVersion::V4) || total_len < header_len || total_len > packet.len() {
        return Err(malformed);
    }
    if !checksum.is_valid(packet.get(..header_len).ok_or(malformed)?) {
        return Err(DropReason::Ipv4Checksum);
    }
    let protocol = fixed[field::PROTOCOL];
    let fragment = u16_at(fixed, field::FRAGMENT).ok_or(malformed)?;
    let headers = Headers {
        kind: Kind::Other,
        version: Some(IpVersion::V4),
        tos: fixed[field::TOS],
        protocol,
        l3: l3 as u16,
        next_header_at: (l3 + field::PROTOCOL) as u16,
        l4: (l3 + header_len) as u16,
        end: (l3 + total_len) as u16,
        esp_at: (l3 + total_len) as u16,
        v4: ipv4::Addresses::of(fixed),
        ..Headers::default()
    };
    if fragment & (ipv4::fragment::MORE | ipv4::fragment::OFFSET) != 0 {
        return Ok(as_fragment(headers));
    }
    Ok(upper_layer(frame, headers))
}

#[inline]
fn parse_v6(frame: &[u8], l3: usize) -> Result<Headers, DropReason> {
    use ipv6::field;
    let malformed = DropReason::Ipv6Malformed;
    let packet = frame.get(l3..).ok_or(malformed)?;
    let fixed: &[u8; ipv6::HEADER_LEN] = packet.first_chunk().ok_or(malformed)?;
    let payload_len = usize::from(u16_at(fixed, field::PAYLOAD_LEN).ok_or(malformed)?);
    let end = l3 + ipv6::HEADER_LEN + payload_len;
    // A payload length of 0 stands for a jumbogram (RFC 2675), which no port of ours takes; an empty packet, which
    // it might be as well, holds nothing for us.
    if IpVersion::of(packet) != Some(IpVersion::V6) || payload_len == 0 {
        return Err(malformed);
    }
    let datagram = frame.get(..end).ok_or(malformed)?;
    let chain = ipv6::walk(datagram, l3).ok_or(malformed)?;
    if chain.at > end {
        return Err(malformed);
    }
    let headers = Headers {
        kind: Kind::Other,
        version: Some(IpVersion::V6),
        tos: ipv6::traffic_class(fixed).ok_or(malformed)?,
        protocol: chain.protocol,
        l3: l3 as u16,
        next_header_at: chain.named_at as u16,
        l4: chain.at as u16,
        end: end as u16,
        esp_at: end as u16,
        ..Headers::default()
    };
    match chain.end {
        ChainEnd::UpperLayer => Ok(upper_layer(frame, headers)),
        ChainEnd::Fragment => Ok(as_fragment(headers)),
        ChainEnd::EnRoute => Ok(headers),
    }
}

/// A later fragment shows no ports, so every UDP one may be ours.
fn as_fragment(headers: Headers) -> Headers {
    let kind = match headers.protocol {
        protocol::ESP | protocol::UDP => Kind::Fragment,
        _ => Kind::Other,
    };
    Headers { kind, ..headers }
}

#[inline(always)]
fn upper_layer(frame: &[u8], headers: Headers) -> Headers {
    let payload = frame.get(headers.l4.into()..headers.end.into()).unwrap_or_default();
    match headers.protocol {
        protocol::ESP => match payload.first_chunk() {
            Some(start) => with_esp(Headers { kind: Kind::Esp, ..headers }, headers.l4, start),
            None => Headers { kind: Kind::Faulty(DropReason::EspTruncated), ..headers },
        },
        protocol::UDP => in_udp(payload, headers),
        _ => headers,
    }
}

#[inline(always)]
fn with_esp(headers: Headers, at: u16, start: &[u8; ESP_HEADER_LEN]) -> Headers {
    let [a, b, c, d, e, f, g, h] = *start;
    Headers { esp_at: at, spi: u32::from_be_bytes([a, b, c, d]), seq_low: u32::from_be_bytes([e, f, g, h]), ..headers }
}

fn in_udp(datagram: &[u8], headers: Headers) -> Headers {
    if u16_at(datagram, udp::field::DST_PORT) != Some(NAT_T_PORT) {
        return headers;
    }
    let (kind, len) = nat_t(datagram).unwrap_or((Kind::Faulty(DropReason::UdpMalformed), datagram.len()));
    let end = headers.l4 + len as u16;
    let headers = Headers { kind, end, esp_at: end, ..headers };
    match datagram.get(udp::HEADER_LEN..).and_then(|esp| esp.first_chunk()) {
        Some(start) if kind == Kind::EspInUdp => with_esp(headers, headers.l4 + udp::HEADER_LEN as u16, start),
        _ => headers,
    }
}

/// What a datagram to port 4500 is (RFC 3948 2.1 to 2.3), and its length. None where it lies about that. The UDP checksum
/// isn't looked at: senders are to leave it zero, receivers not to rely on it, and the ICV protects what matters.
#[inline]
fn nat_t(datagram: &[u8]) -> Option<(Kind, usize)> {
    // Octets that IP carries behind the end of UDP are nobody's.
    let len = usize::from(u16_at(datagram, udp::field::LEN)?);
    let payload = datagram.get(udp::HEADER_LEN..len)?;
    // Some senders (scapy is one) write the length of the header alone. As ESP tells its own end, no harm comes of
    // believing IP then; the ICV has the last word.
    if payload.is_empty() && is_esp(datagram.get(udp::HEADER_LEN..)?) {
        return Some((Kind::EspInUdp, datagram.len()));
    }
    let kind = match payload {
        [0xFF] => Kind::NatKeepalive,
        [0, 0, 0, 0, ..] => Kind::IkeNatT,
        payload if is_esp(payload) => Kind::EspInUdp,
        _ => Kind::Faulty(DropReason::NatDemux),
    };
    Some((kind, len))
}

/// Whether a payload of UDP has an ESP header: an SPI that isn't the marker of IKE, and a sequence number.
#[inline]
fn is_esp(payload: &[u8]) -> bool {
    payload.len() >= ESP_HEADER_LEN && u32_at(payload, 0) != Some(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPI_AND_SEQ: [u8; 8] = [0xB7, 0x61, 0x86, 0x3E, 0, 0, 0, 7];

    fn ethernet(tags: usize, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x81, 0x00, 0x00, 0x64].repeat(tags));
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn v4(options: usize, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + options * 4;
        let mut packet = vec![0x40 | (header_len / 4) as u8, 0x03];
        packet.extend(((header_len + payload.len()) as u16).to_be_bytes());
        packet.extend([0, 1]);
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0, 10, 1, 1, 1, 10, 10, 1, 2]);
        packet.extend([1u8, 1, 1, 1].repeat(options));
        ipv4::refresh_checksum(&mut packet);
        packet.extend(payload);
        packet
    }

    fn v6(extensions: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let len = extensions.len() * 8 + payload.len();
        let mut packet = vec![0x60, 0x30, 0, 0];
        packet.extend((len as u16).to_be_bytes());
        packet.extend([*extensions.first().unwrap_or(&protocol), 64]);
        packet.extend([0x20; 16]);
        packet.extend([0x30; 16]);
        for i in 0..extensions.len() {
            packet.extend([*extensions.get(i + 1).unwrap_or(&protocol), 0, 0, 0, 0, 0, 0, 0]);
        }
        packet.extend(payload);
        packet
    }

    fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::new();
        datagram.extend(src.to_be_bytes());
        datagram.extend(dst.to_be_bytes());
        datagram.extend(((payload.len() + 8) as u16).to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        datagram
    }

    #[test]
    fn plain_esp_over_v4() {
        let frame = ethernet(0, ethertype::IPV4, &v4(0, 0x4000, 50, &SPI_AND_SEQ));
        let headers = parse(&frame).unwrap();
        assert_eq!((headers.kind, headers.version(), headers.tos()), (Kind::Esp, Some(IpVersion::V4), 3));
        assert_eq!((headers.l3(), headers.l3_len(), headers.next_header_at()), (14, 20, 23));
        assert_eq!((headers.spi(), headers.seq_low()), (Some(Spi(0xB761_863E)), Some(7)));
        assert_eq!(headers.src(&frame), Some("10.1.1.1".parse().unwrap()));
        assert_eq!(headers.dst(&frame), Some("10.10.1.2".parse().unwrap()));
        assert_eq!(headers.udp_ports(&frame), None);
    }

    #[test]
    fn ethernet_padding_is_left_out() {
        let mut frame = ethernet(0, ethertype::IPV4, &v4(0, 0, 50, &SPI_AND_SEQ));
        let len = frame.len();
        frame.resize(60, 0);
        assert_eq!(parse(&frame).unwrap().esp_range(), len - 8..len);
    }

    #[test]
    fn esp_over_v6_with_extension_headers() {
        let frame = ethernet(1, ethertype::IPV6, &v6(&[0, 60], 50, &SPI_AND_SEQ));
        let headers = parse(&frame).unwrap();
        assert_eq!((headers.kind, headers.version(), headers.tos()), (Kind::Esp, Some(IpVersion::V6), 3));
        assert_eq!((headers.l3(), headers.l3_len(), headers.next_header_at()), (18, 56, 18 + 48));
        assert_eq!(headers.spi(), Some(Spi(0xB761_863E)));
    }

    #[test]
    fn what_comes_over_port_4500() {
        let kind = |payload: &[u8]| {
            let frame = ethernet(0, ethertype::IPV4, &v4(0, 0, 17, &udp(61000, 4500, payload)));
            let headers = parse(&frame).unwrap();
            headers.kind
        };
        assert_eq!(kind(&SPI_AND_SEQ), Kind::EspInUdp);
        assert_eq!(kind(&[0xFF, 0, 0, 1, 0, 0, 0, 1]), Kind::EspInUdp, "an SPI may begin with 0xFF");
        assert_eq!(kind(&[0xFF; 8]), Kind::EspInUdp);
        assert_eq!(kind(&[0xFF]), Kind::NatKeepalive);
        assert_eq!(kind(&[0, 0, 0, 0, 1, 2, 3, 4]), Kind::IkeNatT);
        for runt in [&[][..], &[0], &[0xFE], &[0xFF; 2], &[0xFF; 4], &[0xFF; 7]] {
            assert_eq!(kind(runt), Kind::Faulty(DropReason::NatDemux), "{runt:?}");
        }
    }

    #[test]
    fn udp_that_lies_about_its_length_is_refused() {
        let udp_fault = Ok(Kind::Faulty(DropReason::UdpMalformed));
        for len in [0u8, 7, 17] {
            let mut datagram = udp(4500, 4500, &SPI_AND_SEQ);
            datagram[5] = len;
            let frame = ethernet(0, ethertype::IPV4, &v4(0, 0, 17, &datagram));
            assert_eq!(parse(&frame).map(|headers| headers.kind), udp_fault, "length {len}");
        }
        let frame = ethernet(0, ethertype::IPV4, &v4(0, 0, 17, &[0x11, 0x94, 0x11, 0x94]));
        assert_eq!(parse(&frame).map(|headers| headers.kind), udp_fault, "cut short");
    }

    #[test]
    fn octets_behind_udp_are_left_out() {
        let mut datagram = udp(4500, 4500, &SPI_AND_SEQ);
        datagram.extend([9; 5]);
        let frame = ethernet(0, ethertype::IPV4, &v4(0, 0, 17, &datagram));
        assert_eq!(parse(&frame).unwrap().esp_range(), 42..50);
    }

    #[test]
    fn esp_behind_a_udp_length_of_the_header_alone() {
        let mut datagram = udp(4500, 4500, &SPI_AND_SEQ);
        datagram[5] = 8;
        let frame = ethernet(0, ethertype::IPV4, &v4(0, 0, 17, &datagram));
        let headers = parse(&frame).unwrap();
        assert_eq!((headers.kind, headers.esp_range()), (Kind::EspInUdp, 42..50));
        datagram[8..12].fill(0);
        let frame = ethernet(0, ethertype::IPV4, &v4(0, 0, 17, &datagram));
        assert_eq!(parse(&frame).unwrap().kind, Kind::Faulty(DropReason::NatDemux), "IKE tells no end");
    }

    #[test]
    fn fragments_of_what_may_be_esp() {
        for fragment in [0x2000, 0x0001, 0x3FFF] {
            for (protocol, kind) in [(50, Kind::Fragment), (17, Kind::Fragment), (6, Kind::Other)] {
                let frame = ethernet(0, ethertype::IPV4, &v4(0, fragment, protocol, &[1; 3]));
                assert_eq!(parse(&frame).unwrap().kind, kind, "{fragment:#x} {protocol}");
            }
        }
        let mut packet = v6(&[44], 50, &SPI_AND_SEQ);
        packet[43] = 1;
        assert_eq!(parse(&ethernet(0, ethertype::IPV6, &packet)).unwrap().kind, Kind::Fragment);
        packet[43] = 0;
        assert_eq!(parse(&ethernet(0, ethertype::IPV6, &packet)).unwrap().kind, Kind::Esp, "atomic");
    }

    #[test]
    fn everything_else_is_other() {
        let arp = ethernet(0, ethertype::ARP, &[0; 28]);
        assert_eq!(parse(&arp).unwrap().kind, Kind::Other);
        assert_eq!(parse(&arp).unwrap().src(&arp), None);
        let ike = ethernet(0, ethertype::IPV4, &v4(0, 0, 17, &udp(500, 500, &[1; 28])));
        assert_eq!(parse(&ike).unwrap().kind, Kind::Other);
        let from_4500 = ethernet(0, ethertype::IPV4, &v4(0, 0, 17, &udp(4500, 9, &SPI_AND_SEQ)));
        assert_eq!(parse(&from_4500).unwrap().kind, Kind::Other);
    }

    #[test]
    fn v4_lies_are_refused() {
        let sound = v4(0, 0, 50, &SPI_AND_SEQ);
        for (at, value) in [(0, 0x55), (0, 0x44), (0, 0x4F), (3, 19), (3, 29)] {
            let mut packet = sound.clone();
            packet[at] = value;
            assert_eq!(parse(&ethernet(0, ethertype::IPV4, &packet)), Err(DropReason::Ipv4Malformed), "{at} {value}");
        }
        let mut packet = sound;
        packet[8] = 1;
        let frame = ethernet(0, ethertype::IPV4, &packet);
        assert_eq!(parse(&frame), Err(DropReason::Ipv4Checksum));
        assert!(parse_with(&frame, HeaderChecksum::Verified).is_ok());
    }

    #[test]
    fn esp_without_room_for_its_header_is_faulty() {
        let frame = ethernet(0, ethertype::IPV4, &v4(0, 0, 50, &SPI_AND_SEQ[..7]));
        assert_eq!(parse(&frame).unwrap().kind, Kind::Faulty(DropReason::EspTruncated));
        let frame = ethernet(0, ethertype::IPV6, &v6(&[], 50, &SPI_AND_SEQ[..7]));
        assert_eq!(parse(&frame).unwrap().kind, Kind::Faulty(DropReason::EspTruncated));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = [
            ethernet(2, ethertype::IPV4, &v4(3, 0, 50, &SPI_AND_SEQ)),
            ethernet(0, ethertype::IPV4, &v4(0, 0, 17, &udp(4500, 4500, &SPI_AND_SEQ))),
            ethernet(1, ethertype::IPV6, &v6(&[0, 60, 43, 44], 50, &SPI_AND_SEQ)),
            ethernet(0, ethertype::IPV6, &v6(&[], 17, &udp(4500, 4500, &SPI_AND_SEQ))),
        ];
        for frame in whole {
            assert!(parse(&frame).is_ok());
            for len in 0..frame.len() {
                assert!(parse(&frame[..len]).is_err(), "{len} of {}", frame.len());
            }
        }
    }

    fn common(frame: &[u8]) -> Option<Headers> {
        let before = Headers { spi: 1, ..Headers::default() };
        let mut headers = before;
        let found = parse_common(frame, &mut headers, HeaderChecksum::Unknown);
        assert!(found.is_some() || headers == before, "nothing is written");
        found.map(|()| headers)
    }

    /// Both ways to read a frame are one to everybody else.
    fn both_agree(frame: &[u8]) -> Result<(), TestCaseError> {
        if let Some(headers) = common(frame) {
            prop_assert_eq!(Ok(headers), parse_any(frame, HeaderChecksum::Unknown));
        }
        Ok(())
    }

    #[test]
    fn what_most_frames_are_is_read_straight() {
        let esp: Vec<u8> = [&SPI_AND_SEQ[..], &[0xEE; 40]].concat();
        for frame in [
            ethernet(0, ethertype::IPV4, &v4(0, 0x4000, 50, &esp)),
            ethernet(0, ethertype::IPV4, &v4(0, 0, 17, &udp(4500, 4500, &esp))),
        ] {
            assert!(common(&frame).is_some());
            assert_eq!(common(&frame), parse_any(&frame, HeaderChecksum::Unknown).ok());
        }
    }

    proptest! {
        #[test]
        fn a_damaged_frame_is_read_alike_in_both_ways(
            at in 0usize..60, value: u8, in_udp: bool, sound: bool, cut in 0usize..90,
            esp in prop::collection::vec(any::<u8>(), 0..60), padding in 0usize..20,
        ) {
            let packet = if in_udp { v4(0, 0, 17, &udp(4500, 4500, &esp)) } else { v4(0, 0, 50, &esp) };
            let mut frame = ethernet(0, ethertype::IPV4, &packet);
            frame.extend(std::iter::repeat_n(0xEE, padding));
            both_agree(&frame)?;
            if let Some(octet) = frame.get_mut(at) {
                *octet = value;
            }
            if sound {
                ipv4::refresh_checksum(&mut frame[14..]);
            }
            both_agree(&frame)?;
            frame.truncate(cut);
            both_agree(&frame)?;
        }

        #[test]
        fn offsets_stay_in_the_frame(octets in prop::collection::vec(any::<u8>(), 0..200), start in prop::sample::select(vec![0x0800u16, 0x86DD, 0x8100, 0])) {
            let frame = ethernet(0, start, &octets);
            if let Ok(headers) = parse(&frame) {
                let esp = headers.esp_range();
                prop_assert!(headers.l3() <= usize::from(headers.l4) && headers.l4 <= headers.end);
                prop_assert!(esp.start <= esp.end && esp.end <= frame.len());
                prop_assert_eq!(headers.is_esp(), matches!(headers.kind, Kind::Esp | Kind::EspInUdp));
                let _ = (headers.spi(), headers.src(&frame), headers.udp_ports(&frame));
            }
        }

        #[test]
        fn a_built_frame_parses_to_its_parts(
            tags in 0usize..3, options in 0usize..=10, is_v6: bool, in_udp: bool, padding in 0usize..46,
            extensions in prop::collection::vec(prop::sample::select(vec![60u8, 43]), 0..6),
            spi in 1u32.., seq: u32, rest in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let esp: Vec<u8> = [&spi.to_be_bytes()[..], &seq.to_be_bytes(), &rest].concat();
            let (protocol, payload) = if in_udp { (17, udp(1234, 4500, &esp)) } else { (50, esp.clone()) };
            let (ethertype, packet) = if is_v6 {
                (ethertype::IPV6, v6(&extensions, protocol, &payload))
            } else {
                (ethertype::IPV4, v4(options, 0, protocol, &payload))
            };
            let mut frame = ethernet(tags, ethertype, &packet);
            frame.extend(std::iter::repeat_n(0xEE, padding));
            let headers = parse(&frame).unwrap();
            prop_assert_eq!(headers.kind, if in_udp { Kind::EspInUdp } else { Kind::Esp });
            prop_assert_eq!(&frame[headers.esp_range()], &esp[..]);
            prop_assert_eq!(headers.spi(), Some(Spi(spi)));
            prop_assert_eq!(headers.seq_low(), Some(seq));
            prop_assert_eq!(headers.l3(), 14 + 4 * tags);
            prop_assert_eq!(frame[headers.next_header_at()], protocol);
        }

        #[test]
        fn damage_never_panics(at: prop::sample::Index, value: u8) {
            let mut frame = ethernet(1, ethertype::IPV6, &v6(&[0, 60], 17, &udp(4500, 4500, &SPI_AND_SEQ)));
            let at = at.index(frame.len());
            frame[at] = value;
            if let Ok(headers) = parse(&frame) {
                prop_assert!(headers.esp_range().end <= frame.len());
                prop_assert_eq!(headers.is_esp(), matches!(headers.kind, Kind::Esp | Kind::EspInUdp));
            }
        }
    }
}
