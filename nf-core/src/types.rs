//! The numbers of the field, a type for each, so that an SPI can't be passed where a sequence number is wanted.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Security Parameters Index (RFC 4303 2.1): the 32 bits by which the receiver of an ESP packet finds its SA.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spi(pub u32);

impl Spi {
    /// The smallest SPI that a peer may be given: 0 is never on the wire and 1 to 255 are IANA's (RFC 4303 2.1).
    pub const MIN: Spi = Spi(0x100);

    /// True for the SPIs that an SA may have: 0x100 to 0xFFFFFFFF.
    pub const fn is_assignable(self) -> bool {
        self.0 >= Self::MIN.0
    }
}

/// As Cisco prints it: eight hex digits, then the decimal in brackets, `0xB761863E(3076621886)`.
impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}({})", self.0, self.0)
    }
}

/// Reads decimal or `0x` hex.
impl FromStr for Spi {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(hex) => u32::from_str_radix(hex, 16).map(Spi),
            None => text.parse().map(Spi),
        }
    }
}

/// A packet's sequence number in full: the 32 bits of the wire, with the high half of the ESN above them
/// (RFC 4303 2.2.1). The high half is 0 without ESN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SeqNo(pub u64);

impl SeqNo {
    /// The half that is on the wire.
    pub const fn low(self) -> u32 {
        self.0 as u32
    }

    /// The half that ESN leaves out of the packet but authenticates.
    pub const fn high(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// A worker core by its place among the workers (0, 1, ..), not by its CPU number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CoreId(pub u16);

impl CoreId {
    /// As an index into a table with an entry per core.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A port by its place among the configured ports, not by its DPDK number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortIndex(pub u8);

impl PortIndex {
    /// As an index into a table with an entry per port.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A point in time: nanoseconds on a clock that never goes back and starts at 0 with the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The nanoseconds of one second.
    pub const SECOND: u64 = 1_000_000_000;

    /// From whole seconds.
    pub const fn from_secs(seconds: u64) -> Nanos {
        Nanos(seconds.saturating_mul(Self::SECOND))
    }

    /// So many milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Nanos {
        Nanos(milliseconds.saturating_mul(Self::SECOND / 1000))
    }

    /// The time from `earlier` to this, in nanoseconds; 0 where `earlier` is later.
    pub const fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_spi_prints_as_cisco_prints_it() {
        assert_eq!(Spi(0xB761_863E).to_string(), "0xB761863E(3076621886)");
        assert_eq!(Spi(0x100).to_string(), "0x00000100(256)");
    }

    #[test]
    fn an_spi_reads_decimal_and_hex() {
        assert_eq!("0xB761863E".parse(), Ok(Spi(3_076_621_886)));
        assert_eq!("3076621886".parse(), Ok(Spi(0xB761_863E)));
        assert!("0x1_0000_0000".parse::<Spi>().is_err());
        assert!("-1".parse::<Spi>().is_err());
    }

    #[test]
    fn every_spi_from_0x100_up_is_assignable() {
        assert!(!Spi(0).is_assignable());
        assert!(!Spi(255).is_assignable());
        assert!(Spi(256).is_assignable());
        assert!(Spi(0xFF00_0001).is_assignable());
        assert!(Spi(u32::MAX).is_assignable());
    }

    #[test]
    fn a_sequence_number_has_two_halves() {
        let seq = SeqNo(0x0000_0002_FFFF_FFFE);
        assert_eq!((seq.high(), seq.low()), (2, 0xFFFF_FFFE));
    }
}
