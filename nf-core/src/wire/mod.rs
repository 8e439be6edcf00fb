//! Packets on the wire: zero-copy views of Ethernet, VLAN, IPv4, IPv6, UDP and ESP that never panic.
//!
//! [`parse`] reads all headers of a frame once and keeps their offsets; the rest of the pipeline works with those.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod checksum;
pub mod ethernet;
mod headers;
mod inner;
pub mod ipv4;
pub mod ipv6;
pub mod transport;
pub mod udp;

pub use headers::{HeaderChecksum, Headers, Kind, is_whole_esp, parse};
pub(crate) use headers::{parse_into, parse_with};
pub use inner::Inner;

/// IP protocol numbers.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003): what ESP's next header says of a tunnel's payload.
    pub const IPV4: u8 = 4;
    /// IPv6 in IP (RFC 2473).
    pub const IPV6: u8 = 41;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ESP (RFC 4303).
    pub const ESP: u8 = 50;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// The version of an IP header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IpVersion {
    /// IPv4 (RFC 791).
    V4,
    /// IPv6 (RFC 8200).
    V6,
}

impl IpVersion {
    /// The version that a packet's first four bits claim.
    #[inline]
    pub fn of(packet: &[u8]) -> Option<IpVersion> {
        match packet.first()? >> 4 {
            4 => Some(IpVersion::V4),
            6 => Some(IpVersion::V6),
            _ => None,
        }
    }

    /// Of two things that differ by version the one for this one.
    #[inline]
    pub(crate) fn choose<T>(self, v4: T, v6: T) -> T {
        match self {
            IpVersion::V4 => v4,
            IpVersion::V6 => v6,
        }
    }

    /// The EtherType of frames with such packets.
    pub const fn ethertype(self) -> u16 {
        match self {
            IpVersion::V4 => ethernet::ethertype::IPV4,
            IpVersion::V6 => ethernet::ethertype::IPV6,
        }
    }
}

/// The 16-bit number at an offset, if the packet is long enough.
#[inline]
pub(crate) fn u16_at(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

/// The 32-bit number at an offset, if the packet is long enough.
#[inline]
pub(crate) fn u32_at(packet: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

/// Writes a 16-bit number at an offset; nothing where the packet is too short.
#[inline]
pub(crate) fn put_u16(packet: &mut [u8], at: usize, value: u16) {
    if let Some(place) = packet.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = value.to_be_bytes();
    }
}
