//! What an SA may carry: the check of the decapsulated packet against the SA's selectors (RFC 4301 5.2 step 4).

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::prefix::{BadPrefix, Prefix};
use crate::sa::spec::Quoted;
use crate::wire::{Inner, protocol};

/// The packets that may be inside, by their two ends. An empty list stands for any.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selectors {
    /// The packets' source.
    pub src: Box<[Selector]>,
    /// The packets' destination.
    pub dst: Box<[Selector]>,
}

impl Selectors {
    /// Whether the SA may carry this packet, whose IP header `inner` describes.
    #[inline]
    pub fn permit(&self, packet: &[u8], inner: &Inner) -> bool {
        within(&self.src, packet, inner, || inner.src(packet), |(src, _)| src)
            && within(&self.dst, packet, inner, || inner.dst(packet), |(_, dst)| dst)
    }
}

#[inline]
fn within(
    list: &[Selector],
    packet: &[u8],
    inner: &Inner,
    address: impl FnOnce() -> Option<IpAddr>,
    port: impl Fn((u16, u16)) -> u16,
) -> bool {
    list.is_empty()
        || address().is_some_and(|address| {
            list.iter().any(|selector| {
                selector.network.contains(address)
                    && (selector.upper.is_any()
                        || selector.upper.fits(inner.protocol, inner.selector_ports(packet).map(&port)))
            })
        })
}

/// One end of packets: a network, and what of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Selector {
    /// The addresses.
    pub network: Prefix,
    /// The protocol and the ports.
    pub upper: Upper,
}

/// An upper-layer protocol and ports of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Upper {
    /// The protocol; 0 for any.
    protocol: u8,
    first: u16,
    last: u16,
}

impl Upper {
    /// Any protocol, and any port.
    pub const ANY: Upper = Upper { protocol: 0, first: 0, last: u16::MAX };

    /// These ports of a protocol, 0 for any. None where there can be no ports, or no packet has such a one.
    pub fn new(protocol: u8, ports: RangeInclusive<u16>) -> Option<Upper> {
        let upper = Upper { protocol, first: *ports.start(), last: *ports.end() };
        (upper.all_ports() || upper.first <= upper.last && has_ports(protocol)).then_some(upper)
    }

    /// Whether it leaves all open.
    #[inline]
    pub fn is_any(self) -> bool {
        self == Upper::ANY
    }

    /// The protocol; 0 for any.
    pub fn protocol(self) -> u8 {
        self.protocol
    }

    fn all_ports(self) -> bool {
        (self.first, self.last) == (0, u16::MAX)
    }

    /// The ports.
    pub fn range(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// How many ports there are.
    pub fn ports(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }

    /// Whether a packet of that protocol, with that port if it shows one, fits. A later fragment shows none, and fits where all
    /// ports do (RFC 4301 7.4).
    #[inline]
    pub fn fits(self, protocol: u8, port: Option<u16>) -> bool {
        (self.protocol == 0 || self.protocol == protocol)
            && (self.all_ports() || port.is_some_and(|port| (self.first..=self.last).contains(&port)))
    }

    /// Whether all that fits another one fits this one.
    pub fn covers(self, other: Upper) -> bool {
        (self.protocol == 0 || self.protocol == other.protocol) && self.first <= other.first && other.last <= self.last
    }
}

/// Protocols whose header begins with two ports, or with ICMP's type and code, which selectors take for one (RFC 4301 4.4.1.1).
pub(crate) fn has_ports(protocol: u8) -> bool {
    matches!(
        protocol,
        protocol::TCP
            | protocol::UDP
            | protocol::DCCP
            | protocol::SCTP
            | protocol::UDP_LITE
            | protocol::ICMP
            | protocol::ICMPV6
    )
}

/// Names that operators write in place of numbers.
const NAMES: [(&str, u8); 5] = [
    ("icmp", protocol::ICMP),
    ("tcp", protocol::TCP),
    ("udp", protocol::UDP),
    ("icmpv6", protocol::ICMPV6),
    ("sctp", protocol::SCTP),
];

/// The text isn't a selector.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadSelector {
    /// The network isn't one.
    #[error(transparent)]
    Network(#[from] BadPrefix),
    /// What is in brackets is neither protocol nor protocol and ports.
    #[error("{} names no protocol with ports; it looks like 10.0.0.0/8[tcp], 10.0.0.0/8[udp/53] or 10.0.0.0/8[17/1024-65535]", Quoted(.0))]
    Upper(String),
}

impl FromStr for Selector {
    type Err = BadSelector;

    fn from_str(text: &str) -> Result<Selector, BadSelector> {
        let Some((network, upper)) = text.split_once('[') else {
            return Ok(text.parse::<Prefix>()?.into());
        };
        let upper = upper.strip_suffix(']').and_then(parse_upper).ok_or_else(|| BadSelector::Upper(text.to_owned()))?;
        Ok(Selector { network: network.parse()?, upper })
    }
}

fn parse_upper(text: &str) -> Option<Upper> {
    let (name, ports) = match text.split_once('/') {
        Some((name, ports)) => (name, Some(ports)),
        None => (text, None),
    };
    let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    let protocol = named.or_else(|| name.parse().ok().filter(|number| *number != 0))?;
    let ports = match ports.map(|ports| ports.split_once('-').unwrap_or((ports, ports))) {
        Some((first, last)) => first.parse().ok()?..=last.parse().ok()?,
        None => 0..=u16::MAX,
    };
    Upper::new(protocol, ports)
}

/// A network of which everything fits.
impl From<Prefix> for Selector {
    fn from(network: Prefix) -> Selector {
        Selector { network, upper: Upper::ANY }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.network, self.upper)
    }
}

/// In brackets, as behind a network; nothing for any.
impl fmt::Display for Upper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return Ok(());
        }
        match NAMES.iter().find(|(_, number)| *number == self.protocol) {
            Some((name, _)) => write!(f, "[{name}")?,
            None => write!(f, "[{}", self.protocol)?,
        }
        match (self.all_ports(), self.first == self.last) {
            (true, _) => f.write_str("]"),
            (false, true) => write!(f, "/{}]", self.first),
            (false, false) => write!(f, "/{}-{}]", self.first, self.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of that protocol with these octets behind its header.
    fn packet(protocol: u8, fragment: u16, payload: [u8; 4]) -> Vec<u8> {
        let [high, low] = fragment.to_be_bytes();
        let mut packet = vec![0x45, 0, 0, 24, 0, 1, high, low, 64, protocol, 0, 0, 10, 1, 0, 1, 10, 2, 0, 2];
        packet.extend(payload);
        packet
    }

    fn permits(src: &str, dst: &str, packet: &[u8]) -> bool {
        let list = |text: &str| text.split_whitespace().map(|text| text.parse().unwrap()).collect();
        Selectors { src: list(src), dst: list(dst) }.permit(packet, &Inner::parse(packet).unwrap())
    }

    #[test]
    fn protocols_and_ports_count_at_their_end() {
        let (tcp, udp) = (packet(6, 0, [0x30, 0x39, 1, 0xBB]), packet(17, 0, [0x30, 0x39, 1, 0xBB]));
        for (src, dst, of_tcp, of_udp) in [
            ("", "", true, true),
            ("10.1.0.0/16", "10.2.0.0/16[tcp]", true, false),
            ("10.1.0.0/16", "10.2.0.0/16[tcp/443]", true, false),
            ("10.1.0.0/16[tcp/443]", "10.2.0.0/16", false, false),
            ("10.1.0.0/16[tcp/12345]", "10.2.0.0/16[6/1-500]", true, false),
            ("", "10.2.0.0/16[tcp/80] 10.2.0.2[udp/443]", false, true),
            ("", "10.3.0.0/16[tcp/443] 10.2.0.0/16[udp]", false, true),
            ("10.1.0.0/16[99]", "", false, false),
        ] {
            assert_eq!((permits(src, dst, &tcp), permits(src, dst, &udp)), (of_tcp, of_udp), "{src} -> {dst}");
        }
    }

    #[test]
    fn icmp_has_its_type_and_code_in_place_of_ports() {
        let ping = packet(1, 0, [8, 0, 0, 0]);
        assert!(permits("10.1.0.0/16[icmp/2048]", "10.2.0.0/16[icmp/2048]", &ping));
        assert!(permits("", "10.2.0.0/16[icmp/2048-2303]", &ping));
        assert!(!permits("", "10.2.0.0/16[icmp/0]", &ping));
    }

    #[test]
    fn a_later_fragment_shows_no_port() {
        let fragment = packet(6, 1, [0x30, 0x39, 1, 0xBB]);
        assert!(permits("", "10.2.0.0/16[tcp]", &fragment));
        assert!(!permits("", "10.2.0.0/16[tcp/443]", &fragment));
    }

    #[test]
    fn a_selector_is_written_as_it_is_read() {
        for text in ["10.0.0.0/8", "10.0.0.0/8[tcp]", "2001:db8::/32[udp/53]", "10.1.1.1/32[sctp/1-9]", "0.0.0.0/0[47]"]
        {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
        }
        assert_eq!("10.1.1.1[icmpv6]".parse::<Selector>().unwrap().to_string(), "10.1.1.1/32[icmpv6]");
        for text in
            ["10.0.0.0/8[", "10.0.0.0/8[]", "10.0.0.0/8[tcp/9-1]", "10.0.0.0/8[47/1]", "10.0.0.0/8[0]", "10.0.0.0/8[x]"]
        {
            assert!(matches!(text.parse::<Selector>(), Err(BadSelector::Upper(_))), "{text}");
        }
        assert!(matches!("10.0.0.1/8[tcp]".parse::<Selector>(), Err(BadSelector::Network(_))));
    }

    #[test]
    fn what_covers_another_one() {
        let upper = |text: &str| format!("10.0.0.0/8{text}").parse::<Selector>().unwrap().upper;
        assert!(Upper::ANY.covers(upper("[tcp/443]")) && upper("[tcp]").covers(upper("[tcp/443]")));
        assert!(!upper("[tcp/443]").covers(upper("[tcp]")) && !upper("[tcp]").covers(Upper::ANY));
        assert!(!upper("[tcp]").covers(upper("[udp]")));
    }
}
