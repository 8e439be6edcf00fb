//! A quick hash for the cores' tables: a fold of multiplications. A table's random seed keeps hosts that choose addresses
//! from telling where their entries lie.

use std::net::IpAddr;

/// Takes a word into a hash, which begins as the table's seed.
#[inline]
pub(crate) fn mix(hash: u64, word: u128) -> u64 {
    let mixed = (word ^ u128::from(hash)).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    (mixed >> 64) as u64 ^ mixed as u64
}

/// An address as a word to hash.
#[inline]
pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}
