//! Traffic selectors: how they are written in a configuration, and how two sides narrow them (RFC 7296 2.9).

use std::net::IpAddr;
use std::str::FromStr;

use crate::wire::{AddressRange, IpSelector};

/// A selector of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Selector {
    /// The address under which this side of the IKE SA is seen, whatever it is.
    Dynamic,
    /// What is written.
    Fixed(IpSelector),
}

/// Why a text isn't a selector.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("traffic selector '{text}': {problem}")]
pub struct SelectorError {
    text: String,
    problem: &'static str,
}

impl FromStr for Selector {
    type Err = SelectorError;

    /// As in `10.1.0.0/16`, `2001:db8::1`, `10.1.0.1-10.1.0.9`, `dynamic`, with `[PROTOCOL/PORT]` behind it for a part of
    /// the traffic; the protocol is a number, `tcp`, `udp`, `sctp`, `icmp` or `icmpv6`, the port a number or a range.
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let error = |problem| SelectorError { text: text.to_owned(), problem };
        if text == "dynamic" {
            return Ok(Selector::Dynamic);
        }
        let (addresses, traffic) = match text.split_once('[') {
            None => (text, None),
            Some((addresses, rest)) => {
                (addresses, Some(rest.strip_suffix(']').ok_or_else(|| error("the ']' is missing"))?))
            }
        };
        let addresses = parse_addresses(addresses)
            .ok_or_else(|| error("give an address, a network such as 10.1.0.0/16, a range of addresses, or dynamic"))?;
        let mut selector = IpSelector::any(addresses);
        if let Some(traffic) = traffic {
            let (protocol, ports) = traffic.split_once('/').map_or((traffic, None), |(a, b)| (a, Some(b)));
            selector.protocol = match protocol {
                "tcp" => 6,
                "udp" => 17,
                "icmp" => 1,
                "icmpv6" => 58,
                "sctp" => 132,
                number => number
                    .parse()
                    .map_err(|_| error("the protocol is tcp, udp, sctp, icmp, icmpv6 or a number up to 255"))?,
            };
            if let Some(ports) = ports {
                let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                let port = |port: &str| port.parse().map_err(|_| error("a port is a number up to 65535"));
                (selector.start_port, selector.end_port) = (port(first)?, port(last)?);
                if selector.start_port > selector.end_port {
                    return Err(error("the first port comes after the last"));
                }
            }
        }
        Ok(Selector::Fixed(selector))
    }
}

fn parse_addresses(text: &str) -> Option<AddressRange> {
    if let Some((address, bits)) = text.split_once('/') {
        return AddressRange::prefix(address.parse().ok()?, bits.parse().ok()?);
    }
    let Some((first, last)) = text.split_once('-') else { return Some(AddressRange::single(text.parse().ok()?)) };
    range(first.parse().ok()?, last.parse().ok()?)
}

fn range(first: IpAddr, last: IpAddr) -> Option<AddressRange> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (first <= last).then_some(AddressRange::V4(first, last)),
        (IpAddr::V6(first), IpAddr::V6(last)) => (first <= last).then_some(AddressRange::V6(first, last)),
        _ => None,
    }
}

impl Selector {
    /// The selector with the address of its side of the IKE SA filled in.
    pub(crate) fn resolve(&self, address: IpAddr) -> IpSelector {
        match self {
            Selector::Dynamic => IpSelector::any(AddressRange::single(address)),
            Selector::Fixed(selector) => *selector,
        }
    }
}

/// What both sides can agree on: all non-empty intersections, none of which lies in another.
pub(crate) fn narrow(ours: &[IpSelector], theirs: &[IpSelector]) -> Vec<IpSelector> {
    let mut narrowed: Vec<IpSelector> = Vec::new();
    for theirs in theirs {
        for ours in ours {
            let Some(common) = intersect(ours, theirs) else { continue };
            if narrowed.iter().any(|known| covers(known, &common)) {
                continue;
            }
            narrowed.retain(|known| !covers(&common, known));
            narrowed.push(common);
        }
    }
    narrowed
}

/// True where all traffic of `inner` is traffic of `outer`.
pub(crate) fn covers(outer: &IpSelector, inner: &IpSelector) -> bool {
    intersect(outer, inner) == Some(*inner)
}

fn intersect(a: &IpSelector, b: &IpSelector) -> Option<IpSelector> {
    let addresses = range(a.addresses.start().max(b.addresses.start()), a.addresses.end().min(b.addresses.end()))
        .filter(|_| a.addresses.start().is_ipv4() == b.addresses.start().is_ipv4())?;
    let protocol = match (a.protocol, b.protocol) {
        (a, b) if a == b => a,
        (0, one) | (one, 0) => one,
        _ => return None,
    };
    let (start_port, end_port) = (a.start_port.max(b.start_port), a.end_port.min(b.end_port));
    let opaque = |selector: &IpSelector| (selector.start_port, selector.end_port) == (u16::MAX, 0);
    let any = |selector: &IpSelector| (selector.start_port, selector.end_port) == (0, u16::MAX);
    // OPAQUE, which is a range the wrong way round, is part of "any" and of itself only.
    if opaque(a) || opaque(b) {
        return ((opaque(a) || any(a)) && (opaque(b) || any(b))).then_some(IpSelector {
            addresses,
            protocol,
            start_port: u16::MAX,
            end_port: 0,
        });
    }
    (start_port <= end_port).then_some(IpSelector { addresses, protocol, start_port, end_port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn selector(text: &str) -> IpSelector {
        match text.parse().unwrap() {
            Selector::Fixed(selector) => selector,
            Selector::Dynamic => panic!("dynamic"),
        }
    }

    fn narrowed(ours: &[&str], theirs: &[&str]) -> Vec<String> {
        let parse = |texts: &[&str]| texts.iter().map(|text| selector(text)).collect::<Vec<_>>();
        narrow(&parse(ours), &parse(theirs)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn notation() {
        assert_eq!(selector("10.1.0.0/16").to_string(), "10.1.0.0-10.1.255.255");
        assert_eq!(selector("2001:db8::1").to_string(), "2001:db8::1");
        assert_eq!(selector("10.1.0.1-10.1.0.9[tcp/80-90]").to_string(), "10.1.0.1-10.1.0.9[6/80-90]");
        assert_eq!(selector("0.0.0.0/0[icmp]").protocol, 1);
        assert_eq!("dynamic".parse::<Selector>().unwrap().resolve("10.0.0.1".parse().unwrap()), selector("10.0.0.1"));
        for bad in ["", "10.1.0.0/33", "10.1.0.9-10.1.0.1", "10.0.0.1-::1", "10.0.0.1[tcp/9-1]", "10.0.0.1[tcp", "x"] {
            let error = bad.parse::<Selector>().unwrap_err();
            assert!(error.to_string().starts_with(&format!("traffic selector '{bad}'")), "{error}");
        }
    }

    #[test]
    fn narrowing() {
        assert_eq!(narrowed(&["10.1.0.0/16"], &["0.0.0.0/0"]), ["10.1.0.0-10.1.255.255"]);
        assert_eq!(
            narrowed(&["10.1.0.0/16", "10.3.0.0/16"], &["10.1.2.0/24", "10.3.0.1"]),
            ["10.1.2.0-10.1.2.255", "10.3.0.1"]
        );
        assert!(narrowed(&["10.1.0.0/16"], &["10.2.0.0/16", "::/0"]).is_empty());
        assert_eq!(narrowed(&["10.1.0.0/16[tcp]"], &["10.1.0.0/24[6/80]"]), ["10.1.0.0-10.1.0.255[6/80-80]"]);
        assert!(narrowed(&["10.1.0.0/16[tcp]"], &["10.1.0.0/24[udp]"]).is_empty());
        // The first selector may be the packet that asked for the SA (RFC 7296 2.9): it lies in the one that follows.
        assert_eq!(narrowed(&["0.0.0.0/0"], &["10.0.0.1[tcp/80]", "10.0.0.0/8"]), ["10.0.0.0-10.255.255.255"]);
    }

    proptest! {
        #[test]
        fn what_is_narrowed_lies_in_both(a in any::<(u32, u32)>(), b in any::<(u32, u32)>()) {
            let of = |(x, y): (u32, u32)| {
                IpSelector::any(AddressRange::V4(x.min(y).into(), x.max(y).into()))
            };
            let (a, b) = (of(a), of(b));
            for common in narrow(&[a], &[b]) {
                prop_assert!(covers(&a, &common) && covers(&b, &common));
            }
            prop_assert_eq!(narrow(&[a], &[b]), narrow(&[b], &[a]));
            prop_assert_eq!(narrow(&[a], &[a]), vec![a]);
        }
    }
}
