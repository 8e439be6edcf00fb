//! Routes by longest prefix.
//!
//! A tree bitmap (Eatherton, Varghese, Dittia, 2004) for each IP version, of the crate `prefix-trie`: five bits of an
//! address are decided at each node, so that a look-up reads a handful of cache lines even in a full Internet table, and
//! a table with a default route alone is one node. DPDK's rte_fib would read fewer, at the price of 64 MB a table and of
//! DPDK in the crate's heart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use prefix_trie::PrefixMap;

use super::{Route, Target};

/// All routes.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    v4: PrefixMap<(u32, u8), Target>,
    v6: PrefixMap<(u128, u8), Target>,
}

impl Routes {
    /// The way to an address.
    #[inline]
    pub fn look_up(&self, dst: IpAddr) -> Option<Target> {
        match dst {
            IpAddr::V4(dst) => self.v4.get_lpm(&(dst.to_bits(), Ipv4Addr::BITS as u8)).map(|(_, target)| *target),
            IpAddr::V6(dst) => self.v6.get_lpm(&(dst.to_bits(), Ipv6Addr::BITS as u8)).map(|(_, target)| *target),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// Of two to the same network the later one counts.
impl FromIterator<Route> for Routes {
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Routes {
        let mut table = Routes::default();
        for Route { dst, target } in routes {
            match dst.address() {
                IpAddr::V4(address) => table.v4.insert((address.to_bits(), dst.length()), target),
                IpAddr::V6(address) => table.v6.insert((address.to_bits(), dst.length()), target),
            };
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::prefix::Prefix;
    use crate::types::PortIndex;

    fn route(dst: Prefix, number: usize) -> Route {
        Route { dst, target: Target::Port { port: PortIndex(number as u8), via: None } }
    }

    /// Networks that lie inside each other, as long prefixes of few addresses do.
    fn networks() -> impl Strategy<Value = Vec<Prefix>> {
        let v4 = (any::<u32>(), 0u8..=32).prop_map(|(bits, len)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            format!("{}/{len}", Ipv4Addr::from_bits(bits & 0x0303_0303 & mask))
        });
        let v6 = (any::<u128>(), 0u8..=128).prop_map(|(bits, len)| {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            format!("{}/{len}", Ipv6Addr::from_bits(bits & (u128::MAX / 255 * 3) & mask))
        });
        prop::collection::vec(prop_oneof![v4, v6].prop_map(|text| text.parse().unwrap()), 0..64)
    }

    proptest! {
        /// Against a search through all of them.
        #[test]
        fn the_longest_prefix_wins(networks in networks(), v4: u32, v6: u128) {
            let table: Routes = networks.iter().enumerate().map(|(number, dst)| route(*dst, number)).collect();
            for dst in [
                IpAddr::from(Ipv4Addr::from_bits(v4)),
                IpAddr::from(Ipv4Addr::from_bits(v4 & 0x0303_0303)),
                IpAddr::from(Ipv6Addr::from_bits(v6)),
                IpAddr::from(Ipv6Addr::from_bits(v6 & (u128::MAX / 255 * 3))),
            ] {
                let fits = networks.iter().enumerate().filter(|(_, network)| network.contains(dst));
                let best = fits.max_by_key(|(number, network)| (network.length(), *number));
                prop_assert_eq!(table.look_up(dst), best.map(|(number, dst)| route(*dst, number).target));
            }
        }
    }

    #[test]
    fn routes_of_both_versions_are_counted() {
        let networks = ["0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.0.0/8"].map(|text| text.parse().unwrap());
        let table: Routes = networks.iter().enumerate().map(|(number, dst)| route(*dst, number)).collect();
        assert_eq!((table.len(), table.is_empty()), (3, false));
        assert!(Routes::default().is_empty());
        assert_eq!(Routes::default().look_up("10.0.0.1".parse().unwrap()), None);
    }
}
