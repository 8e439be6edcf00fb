//! Address prefixes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// The network of that length in which an address lies; none where an address has fewer bits.
    pub fn new(address: IpAddr, len: u8) -> Option<Prefix> {
        let address = from_bits(address, bits(address) & mask(address, len));
        (len <= width(address)).then_some(Prefix { address, len })
    }

    /// Whether an address lies in the network. One of the other IP version never does.
    #[inline]
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            // The usual case, without a mask to be made: what counts is what is left of the difference.
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                u64::from(own.to_bits() ^ other.to_bits()) >> (32 - self.len.min(32)) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()) & self.mask() == 0,
            _ => false,
        }
    }

    /// The network of all addresses of IPv4 or IPv6.
    pub fn any(is_ipv4: bool) -> Prefix {
        let address = if is_ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Prefix { address, len: 0 }
    }

    /// The network of that length that an address lies in.
    #[inline]
    pub fn around(address: IpAddr, len: u8) -> Prefix {
        let len = len.min(width(address));
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(u32::from(32 - len)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & mask(address, len)).into(),
        };
        Prefix { address, len }
    }

    /// Whether all of another network lies in this one.
    pub fn covers(self, other: Prefix) -> bool {
        self.len <= other.len && self.contains(other.address)
    }

    /// The network's address: its first one.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// How many leading bits count.
    pub const fn length(self) -> u8 {
        self.len
    }

    /// Whether it is a single address.
    pub fn is_single(self) -> bool {
        self.len == width(self.address)
    }

    fn mask(self) -> u128 {
        mask(self.address, self.len)
    }
}

/// An address's bits, its first one uppermost.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, len: u8) -> u128 {
    u128::MAX.checked_shl(u32::from(128 - len.min(width(address)))).unwrap_or(0)
}

fn from_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::from(((bits >> 96) as u32).to_be_bytes()),
        IpAddr::V6(_) => IpAddr::from(bits.to_be_bytes()),
    }
}

/// A single address.
impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Prefix {
        Prefix { address, len: width(address) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        prefix.to_string()
    }
}

/// The text isn't a prefix.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPrefix {
    /// It isn't an address with a length.
    #[error("{} isn't a network; one looks like 10.0.0.0/8, 2001:db8::/32 or 10.1.1.1", crate::sa::spec::Quoted(.0))]
    Syntax(String),
    /// Bits behind the length are set.
    #[error("{} has bits set behind its length; the network is {network}", crate::sa::spec::Quoted(.given))]
    HostBits {
        /// What was given.
        given: String,
        /// What was probably meant.
        network: Prefix,
    },
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Prefix, BadPrefix> {
        let syntax = || BadPrefix::Syntax(text.to_owned());
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| syntax())?;
        let Some(len) = len else {
            return Ok(Prefix::from(address));
        };
        let digits = len.bytes().all(|c| c.is_ascii_digit());
        let len: u8 = len.parse().ok().filter(|len| digits && *len <= width(address)).ok_or_else(syntax)?;
        let network = from_bits(address, bits(address) & mask(address, len));
        if network != address {
            return Err(BadPrefix::HostBits { given: text.to_owned(), network: Prefix { address: network, len } });
        }
        Ok(Prefix { address, len })
    }
}

impl TryFrom<String> for Prefix {
    type Error = BadPrefix;

    fn try_from(text: String) -> Result<Prefix, BadPrefix> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_contains_its_addresses() {
        assert!(net("10.0.0.0/8").contains(ip("10.255.255.255")));
        assert!(!net("10.0.0.0/8").contains(ip("11.0.0.0")));
        assert!(net("0.0.0.0/0").contains(ip("255.255.255.255")));
        assert!(!net("0.0.0.0/0").contains(ip("::")));
        assert!(net("2001:db8::/32").contains(ip("2001:db8:ffff::1")));
        assert!(!net("::/0").contains(ip("1.2.3.4")));
        assert!(net("10.1.1.1").contains(ip("10.1.1.1")));
        assert!(!net("10.1.1.1").contains(ip("10.1.1.2")));
    }

    #[test]
    fn bad_ones_are_refused() {
        for bad in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "::/129", "x/8"] {
            assert_eq!(bad.parse::<Prefix>(), Err(BadPrefix::Syntax(bad.to_owned())));
        }
        let error = "10.1.2.3/8".parse::<Prefix>().unwrap_err().to_string();
        assert_eq!(error, "`10.1.2.3/8` has bits set behind its length; the network is 10.0.0.0/8");
    }

    proptest! {
        #[test]
        fn it_reads_as_it_prints(address: u128, v4: bool, len in 0u8..=128) {
            let like = if v4 { ip("0.0.0.0") } else { ip("::") };
            let len = len.min(width(like));
            let address = from_bits(like, address & mask(like, len));
            let prefix = Prefix { address, len };
            prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
            prop_assert!(prefix.contains(address));
        }
    }
}
