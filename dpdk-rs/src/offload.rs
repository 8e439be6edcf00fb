//! Work that a port can do for the program.

use std::ffi::CStr;
use std::ops::{BitOr, BitOrAssign};

use crate::sys;

macro_rules! offloads {
    ($(#[$doc:meta])* $set:ident, $name_of:ident { $($(#[$item_doc:meta])* $item:ident = $value:ident;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $set(u64);

        impl $set {
            /// None of them.
            pub const NONE: Self = Self(0);
            $($(#[$item_doc])* pub const $item: Self = Self(sys::$value);)*

            pub(crate) const fn from_bits(bits: u64) -> Self {
                Self(bits)
            }

            pub(crate) const fn bits(self) -> u64 {
                self.0
            }

            /// Whether all of `other` are in this set.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether the set is empty.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Those of this set that are not in `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// The names that DPDK has for them.
            #[must_use]
            pub fn names(self) -> Vec<String> {
                (0..u64::BITS)
                    .map(|bit| 1_u64 << bit)
                    .filter(|bit| self.0 & bit != 0)
                    .map(|bit| {
                        // SAFETY: returns a static NUL-terminated string for any argument.
                        let name = unsafe { CStr::from_ptr(sys::$name_of(bit)) };
                        name.to_string_lossy().into_owned()
                    })
                    .collect()
            }
        }

        impl BitOr for $set {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl BitOrAssign for $set {
            fn bitor_assign(&mut self, other: Self) {
                self.0 |= other.0;
            }
        }
    };
}

offloads! {
    /// A set of what a port can do on receipt.
    RxOffloads, rte_eth_dev_rx_offload_name {
        /// Takes the VLAN tag out of the frame: [`Mbuf::stripped_vlan`](crate::Mbuf::stripped_vlan).
        VLAN_STRIP = SHIM_RX_VLAN_STRIP;
        /// Verifies the IPv4 header checksum: [`Mbuf::ip_checksum`](crate::Mbuf::ip_checksum).
        IPV4_CHECKSUM = SHIM_RX_IPV4_CKSUM;
        /// Verifies the UDP checksum: [`Mbuf::l4_checksum`](crate::Mbuf::l4_checksum).
        UDP_CHECKSUM = SHIM_RX_UDP_CKSUM;
        /// Verifies the TCP checksum: [`Mbuf::l4_checksum`](crate::Mbuf::l4_checksum).
        TCP_CHECKSUM = SHIM_RX_TCP_CKSUM;
        /// Spreads a frame larger than a buffer over several segments.
        SCATTER = SHIM_RX_SCATTER;
        /// Delivers the RSS hash with each packet: [`Mbuf::rss_hash`](crate::Mbuf::rss_hash).
        RSS_HASH = SHIM_RX_RSS_HASH;
    }
}

offloads! {
    /// A set of what a port can do on sending.
    ///
    /// `MBUF_FAST_FREE` is left out on purpose: it frees memory wrongly unless all packets of a queue come from one
    /// pool and are shared with none, which no type here guarantees.
    TxOffloads, rte_eth_dev_tx_offload_name {
        /// Puts a VLAN tag into the frame.
        VLAN_INSERT = SHIM_TX_VLAN_INSERT;
        /// Computes the IPv4 header checksum.
        IPV4_CHECKSUM = SHIM_TX_IPV4_CKSUM;
        /// Computes the UDP checksum.
        UDP_CHECKSUM = SHIM_TX_UDP_CKSUM;
        /// Computes the TCP checksum.
        TCP_CHECKSUM = SHIM_TX_TCP_CKSUM;
        /// Sends packets of several segments. Asked for by itself wherever the driver has it.
        MULTI_SEGMENT = SHIM_TX_MULTI_SEGS;
    }
}

/// A set of header fields over which a port hashes to choose a receive queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RssTypes(u64);

impl RssTypes {
    /// None: the port does not spread.
    pub const NONE: Self = Self(0);
    /// Source and destination address of IPv4 and IPv6.
    pub const IP: Self = Self(sys::SHIM_RSS_IP);
    /// UDP ports as well.
    pub const UDP: Self = Self(sys::SHIM_RSS_UDP);
    /// The SPI of ESP as well.
    pub const ESP: Self = Self(sys::SHIM_RSS_ESP);

    /// What this crate asks for.
    pub(crate) const WANTED: u64 = Self::IP.0 | Self::UDP.0 | Self::ESP.0;

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// Whether any of `other` is in this set (a driver may have UDP for IPv4 only).
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is hashed, in words.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let known = [(Self::IP, "addresses"), (Self::UDP, "UDP ports"), (Self::ESP, "SPI")];
        known.into_iter().filter(|(of, _)| self.intersects(*of)).map(|(_, name)| name).collect()
    }
}
