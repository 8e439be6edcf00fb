//! Security parameter indices: of IKE SAs with 8 octets, of CHILD_SAs with 4.

use std::fmt;

/// The SPI by which one side of an IKE SA knows it (RFC 7296 3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IkeSpi(pub [u8; 8]);

impl IkeSpi {
    /// What stands for the responder's SPI as long as it isn't known.
    pub const ZERO: IkeSpi = IkeSpi([0; 8]);

    /// Whether it is not an SPI but the lack of one.
    pub fn is_zero(self) -> bool {
        self == IkeSpi::ZERO
    }
}

impl fmt::Display for IkeSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for IkeSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The SPI of an ESP or AH SA (RFC 4303 2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildSpi(pub u32);

impl fmt::Display for ChildSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}", self.0)
    }
}

impl fmt::Debug for ChildSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An SPI in a proposal or a notify. Its size tells what it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Spi {
    /// None: size 0.
    #[default]
    None,
    /// Of ESP or AH: 4 octets.
    Child(ChildSpi),
    /// Of an IKE SA: 8 octets.
    Ike(IkeSpi),
    /// Of a size that no protocol known here uses. Up to 255 octets.
    Other(Box<[u8]>),
}

impl Spi {
    pub(super) fn from_octets(octets: &[u8]) -> Spi {
        if octets.is_empty() {
            Spi::None
        } else if let Ok(spi) = octets.try_into() {
            Spi::Child(ChildSpi(u32::from_be_bytes(spi)))
        } else if let Ok(spi) = octets.try_into() {
            Spi::Ike(IkeSpi(spi))
        } else {
            Spi::Other(octets.into())
        }
    }

    pub(super) fn with_octets<T>(&self, use_octets: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Spi::None => use_octets(&[]),
            Spi::Child(spi) => use_octets(&spi.0.to_be_bytes()),
            Spi::Ike(spi) => use_octets(&spi.0),
            Spi::Other(octets) => use_octets(octets),
        }
    }
}

impl From<ChildSpi> for Spi {
    fn from(spi: ChildSpi) -> Spi {
        Spi::Child(spi)
    }
}

impl From<IkeSpi> for Spi {
    fn from(spi: IkeSpi) -> Spi {
        Spi::Ike(spi)
    }
}
