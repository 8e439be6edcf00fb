//! ICMP errors about packets that can't be forwarded: time exceeded, destination unreachable, packet too big.
//!
//! A core writes them into memory of its own, bounded in number and rate (RFC 1812 4.3.2.8, RFC 4443 2.4(f)); whoever
//! runs the core puts each into a buffer and has it routed as a packet of this host ([`Core::originate`]), so that one to
//! a host behind a tunnel goes through that tunnel, or nowhere.
//!
//! [`Core::originate`]: crate::core::Core::originate

use std::net::IpAddr;

use crate::net::Net;
use crate::packet::Packet;
use crate::types::{Nanos, PortIndex};
use crate::wire::{IpVersion, checksum, ethernet, ipv4, ipv6, protocol, put_u16};

/// Errors that may wait to be sent: a burst's packets are as many, but the rate allows few of them.
const PLACES: usize = 8;
/// Between two errors of a core, in the long run.
const INTERVAL: u64 = Nanos::SECOND / 100;
/// Errors that it may send at once.
const BURST: u64 = 20;

/// Octets of an ICMP error's header, of either version.
const ICMP_LEN: usize = 8;
/// The longest error for IPv4 (RFC 1812 4.3.2.3), and for IPv6 (RFC 4443 2.4(c)).
const MAX_V4: usize = 576;
const MAX_V6: usize = ipv6::MIN_MTU;
/// The longest of all, in its frame.
const MAX_FRAME: usize = ethernet::HEADER_LEN + MAX_V6;
/// The TTL that hosts send with.
const TTL: u8 = 64;
/// Internetwork control: the precedence of ICMP errors (RFC 1812 4.3.2.5).
const TOS: u8 = 0xC0;

/// What is the matter with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// Its TTL or hop limit allows no further hop.
    TtlExpired,
    /// No route leads to its destination.
    NoRoute,
    /// The next hop or the destination itself doesn't answer on its link.
    Unreachable,
    /// It is longer than the path takes, and may not be fragmented.
    TooBig {
        /// The longest that it takes, in octets.
        mtu: u16,
    },
}

impl Problem {
    /// Type, code, and the header's last 32 bits.
    fn message(self, version: IpVersion) -> (u8, u8, u32) {
        match (self, version) {
            (Problem::TtlExpired, IpVersion::V4) => (11, 0, 0),
            (Problem::TtlExpired, IpVersion::V6) => (3, 0, 0),
            (Problem::NoRoute, IpVersion::V4) => (3, 0, 0),
            (Problem::NoRoute, IpVersion::V6) => (1, 0, 0),
            (Problem::Unreachable, IpVersion::V4) => (3, 1, 0),
            (Problem::Unreachable, IpVersion::V6) => (1, 3, 0),
            // RFC 1191 4, RFC 4443 3.2.
            (Problem::TooBig { mtu }, IpVersion::V4) => (3, 4, mtu.into()),
            // No link of IPv6 takes less (RFC 8200 5); where a tunnel does, what it carries is fragmented.
            (Problem::TooBig { mtu }, IpVersion::V6) => (2, 0, u32::from(mtu).max(MAX_V6 as u32)),
        }
    }
}

/// An error that waits to be sent.
#[derive(Clone)]
struct Place {
    frame: [u8; MAX_FRAME],
    len: usize,
    port: PortIndex,
}

/// A core's errors that wait to be sent.
#[derive(Clone)]
pub struct Errors {
    places: Box<[Place]>,
    waiting: usize,
    /// When the core would have sent all of its errors at the long run's rate (GCRA).
    theoretical: Nanos,
}

impl Default for Errors {
    fn default() -> Self {
        let place = Place { frame: [0; MAX_FRAME], len: 0, port: PortIndex(0) };
        Errors { places: vec![place; PLACES].into_boxed_slice(), waiting: 0, theoretical: Nanos::default() }
    }
}

impl Errors {
    /// Writes an error about a packet that is being forwarded, if there may be one: not about errors, fragments, and
    /// packets from or to groups (RFC 1812 4.3.2.7, RFC 4443 2.4(e)), and not without an address to send it from.
    #[cold]
    pub fn offer(&mut self, net: &Net, now: Nanos, packet: &Packet<'_>, problem: Problem) {
        let Some(to) = subject(packet) else {
            return;
        };
        let Some(from) = net.error_source(packet.port(), packet.decapsulated().is_some(), to) else {
            return;
        };
        let theoretical = self.theoretical.max(now);
        if theoretical.since(now) > (BURST - 1) * INTERVAL {
            return;
        }
        let Some(place) = self.places.get_mut(self.waiting) else {
            return;
        };
        if let Some(len) = write(&mut place.frame, from, to, problem, packet.ip()) {
            (place.len, place.port) = (len, packet.port());
            self.waiting += 1;
            self.theoretical = Nanos(theoretical.0.saturating_add(INTERVAL));
        }
    }

    /// Whether one waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Takes one: a frame whose Ethernet addresses are left open, and the port on which came what it is about.
    pub fn take(&mut self) -> Option<(&[u8], PortIndex)> {
        self.waiting = self.waiting.checked_sub(1)?;
        let place = self.places.get(self.waiting)?;
        Some((place.frame.get(..place.len)?, place.port))
    }
}

/// Whom an error about a packet is for; none if nobody may get one.
fn subject(packet: &Packet<'_>) -> Option<IpAddr> {
    // What a plugin has wrapped is forgotten there: it is no longer what its sender sent.
    let inner = packet.inner().filter(|inner| !inner.fragment)?;
    let octets = packet.ip();
    let message = octets.get(inner.l4()).copied();
    let is_error = match inner.protocol {
        // Whatever isn't a query or an answer.
        protocol::ICMP => !matches!(message, Some(0 | 8 | 9 | 10 | 13..=18)),
        protocol::ICMPV6 => message.is_none_or(|kind| kind < 128 || kind == 137),
        _ => false,
    };
    let (src, dst) = (inner.src(octets)?, inner.dst(octets)?);
    let is_host = |address: IpAddr| match address {
        IpAddr::V4(v4) => {
            !(v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_loopback()
                || v4.octets()[0] == 0
                || v4.octets()[0] >= 240)
        }
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_loopback() || v6.is_unspecified()),
    };
    (!is_error && is_host(src) && is_host(dst)).then_some(src)
}

/// Writes the frame; gives its length.
fn write(frame: &mut [u8; MAX_FRAME], from: IpAddr, to: IpAddr, problem: Problem, about: &[u8]) -> Option<usize> {
    let (version, header_len, most) = match to {
        IpAddr::V4(_) => (IpVersion::V4, ipv4::MIN_HEADER_LEN, MAX_V4),
        IpAddr::V6(_) => (IpVersion::V6, ipv6::HEADER_LEN, MAX_V6),
    };
    let quoted = about.get(..about.len().min(most - header_len - ICMP_LEN))?;
    let icmp_len = ICMP_LEN + quoted.len();
    let (ethernet_header, datagram) = frame.split_first_chunk_mut::<{ ethernet::HEADER_LEN }>()?;
    *ethernet_header = [0; ethernet::HEADER_LEN];
    put_u16(ethernet_header, ethernet::HEADER_LEN - 2, version.ethertype());
    let datagram = datagram.get_mut(..header_len + icmp_len)?;
    let (header, icmp) = datagram.split_at_mut_checked(header_len)?;

    let (kind, code, rest) = problem.message(version);
    icmp.first_chunk_mut::<4>()?.copy_from_slice(&[kind, code, 0, 0]);
    icmp.get_mut(4..ICMP_LEN)?.copy_from_slice(&rest.to_be_bytes());
    icmp.get_mut(ICMP_LEN..)?.copy_from_slice(quoted);
    let pseudo_header = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [s0, s1, s2, s3] = from.octets();
            let [d0, d1, d2, d3] = to.octets();
            header.copy_from_slice(&[
                0x45,
                TOS,
                0,
                0,
                0,
                0,
                0x40,
                0,
                TTL,
                protocol::ICMP,
                0,
                0,
                s0,
                s1,
                s2,
                s3,
                d0,
                d1,
                d2,
                d3,
            ]);
            ipv4::set_total_length(header, header_len + icmp_len);
            0
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            header.fill(0);
            *header.first_mut()? = 0x60;
            put_u16(header, ipv6::field::PAYLOAD_LEN, icmp_len as u16);
            *header.get_mut(ipv6::field::NEXT_HEADER)? = protocol::ICMPV6;
            *header.get_mut(ipv6::field::HOP_LIMIT)? = TTL;
            header.get_mut(ipv6::field::SRC..ipv6::field::DST)?.copy_from_slice(&from.octets());
            header.get_mut(ipv6::field::DST..)?.copy_from_slice(&to.octets());
            let addresses = checksum::sum(&from.octets()) + checksum::sum(&to.octets());
            addresses + u64::from(protocol::ICMPV6) + icmp_len as u64
        }
        _ => return None,
    };
    let sum = !checksum::fold(checksum::sum(icmp) + pseudo_header);
    put_u16(icmp, 2, sum);
    Some(ethernet::HEADER_LEN + header_len + icmp_len)
}
