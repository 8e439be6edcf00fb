//! An SA's selectors as a core checks them.

use std::net::{IpAddr, Ipv4Addr};

use crate::policy::{Selector, Selectors};
use crate::wire::Inner;
use crate::wire::ipv4::Addresses;

/// What an SA may carry. The selectors that nearly all SAs have lie in the SA itself, so that they are one place of memory
/// less to wait for.
#[derive(Debug)]
pub struct Permit(Rule);

#[derive(Debug)]
enum Rule {
    Any,
    V4(V4Pair),
    Lists(Box<Selectors>),
}

/// One network of IPv4 on either side, and all of it: source and destination are compared at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct V4Pair {
    addresses: u64,
    mask: u64,
}

impl V4Pair {
    /// Holds every pair of addresses.
    const ANY: V4Pair = V4Pair { addresses: 0, mask: 0 };

    fn new(src: V4Net, dst: V4Net) -> V4Pair {
        V4Pair {
            addresses: Addresses::between(src.address, dst.address).word(),
            mask: Addresses::between(src.mask, dst.mask).word(),
        }
    }

    #[inline(always)]
    pub(crate) const fn contains(self, addresses: Addresses) -> bool {
        (self.addresses ^ addresses.word()) & self.mask == 0
    }
}

#[derive(Clone, Copy)]
struct V4Net {
    address: Ipv4Addr,
    mask: Ipv4Addr,
}

impl V4Net {
    const ANY: V4Net = V4Net { address: Ipv4Addr::UNSPECIFIED, mask: Ipv4Addr::UNSPECIFIED };

    /// The only network of a list, which is any where the list is empty; none for other lists.
    fn only(list: &[Selector]) -> Option<V4Net> {
        match list {
            [] => Some(V4Net::ANY),
            [Selector { network, upper }] if upper.is_any() => match network.address() {
                IpAddr::V4(address) => {
                    let mask = u32::MAX.checked_shl(32 - u32::from(network.length())).unwrap_or(0);
                    Some(V4Net { address, mask: Ipv4Addr::from_bits(mask) })
                }
                IpAddr::V6(_) => None,
            },
            _ => None,
        }
    }
}

impl From<&Selectors> for Permit {
    fn from(selectors: &Selectors) -> Permit {
        if *selectors == Selectors::default() {
            return Permit(Rule::Any);
        }
        // No packet has addresses of both versions: one side with IPv4 makes it a rule of IPv4.
        Permit(match (V4Net::only(&selectors.src), V4Net::only(&selectors.dst)) {
            (Some(src), Some(dst)) => Rule::V4(V4Pair::new(src, dst)),
            _ => Rule::Lists(Box::new(selectors.clone())),
        })
    }
}

impl Permit {
    /// The addresses of IPv4 that the SA may carry, where they are all that decides about a packet of IPv4.
    #[inline]
    pub(crate) fn v4(&self) -> Option<V4Pair> {
        match self.0 {
            Rule::Any => Some(V4Pair::ANY),
            Rule::V4(pair) => Some(pair),
            Rule::Lists(_) => None,
        }
    }

    /// Whether the SA may carry this packet, whose IP header `inner` describes.
    #[inline(always)]
    pub fn permit(&self, packet: &[u8], inner: Inner) -> bool {
        match &self.0 {
            Rule::Any => true,
            Rule::V4(pair) => inner.v4().is_some_and(|v4| pair.contains(v4)),
            Rule::Lists(selectors) => by_lists(selectors, packet, inner),
        }
    }
}

#[inline(never)]
fn by_lists(selectors: &Selectors, packet: &[u8], inner: Inner) -> bool {
    selectors.permit(packet, &inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::Upper;
    use crate::prefix::Prefix;

    /// A packet with four octets of TCP, from port 7 to port 9.
    fn packet(src: IpAddr, dst: IpAddr) -> Vec<u8> {
        let ports = [0, 7, 0, 9];
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                [&[0x45, 0, 0, 24, 0, 0, 0, 0, 64, 6, 0, 0], &src.octets()[..], &dst.octets(), &ports].concat()
            }
            (src, dst) => {
                let octets = |address| match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                [&[0x60, 0, 0, 0, 0, 4, 6, 64], &octets(src)[..], &octets(dst), &ports].concat()
            }
        }
    }

    /// Addresses and networks that are close to each other, so that they often fit.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u8..4, 0u8..4).prop_map(|(b, d)| IpAddr::from([10, b, 0, d])),
            (0u8..4).prop_map(|d| IpAddr::from([0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, d])),
        ]
    }

    fn selectors() -> impl Strategy<Value = Box<[Selector]>> {
        let upper = [Upper::ANY, Upper::ANY, Upper::new(6, 0..=u16::MAX).unwrap(), Upper::new(6, 9..=9).unwrap()];
        let one = (address(), prop::sample::select(vec![0u8, 8, 14, 30, 32]), prop::sample::select(upper.to_vec()));
        let one = one.prop_map(|(address, len, upper)| Selector { network: Prefix::around(address, len), upper });
        prop::collection::vec(one, 0..3).prop_map(Into::into)
    }

    proptest! {
        #[test]
        fn a_permit_is_what_its_selectors_say(src in selectors(), dst in selectors(), from in address(), to in address()) {
            let packet = packet(from, to);
            let inner = Inner::parse(&packet).unwrap();
            let selectors = Selectors { src, dst };
            let (permit, permitted) = (Permit::from(&selectors), selectors.permit(&packet, &inner));
            prop_assert_eq!(permit.permit(&packet, inner), permitted);
            if let (Some(pair), Some(addresses)) = (permit.v4(), inner.v4()) {
                prop_assert_eq!(pair.contains(addresses), permitted);
            }
        }
    }
}
