//! ESP's algorithms by libipsec-mb, behind safe types, with keys expanded once.
//!
//! - [`Gcm`] is AES-GCM, a direct call for each packet.
//! - [`MultiBuffer`] is AES-CBC and HMAC, under [`ChainKey`]s: several packets at once, of one SA or of many. A chain of blocks
//!   is computed one after the other, so one packet leaves most of a CPU's units idle; the library has others of other packets
//!   computed beside it.
//!
//! The library picks its code for the CPU that it finds when it is first used.

mod chain;
mod gcm;
mod manager;
mod multi_buffer;
mod sys;
mod wiped;

pub use chain::{AesKey, ChainKey, Hash};
pub use gcm::{Gcm, NONCE_LEN, TAG_LEN};
pub use manager::is_available;
pub use multi_buffer::{Cbc, MAX_JOBS, Mac, MultiBuffer};
pub use wiped::Wiped;

/// A tag of 1 to [`TAG_LEN`] octets as a number, the octets that are missing taken as zero.
#[inline]
fn as_number(tag: &[u8]) -> Option<u128> {
    if let Ok(tag) = tag.try_into() {
        return Some(u128::from_ne_bytes(tag));
    }
    let mut octets = [0; TAG_LEN];
    octets.get_mut(..tag.len())?.copy_from_slice(tag);
    (!tag.is_empty()).then(|| u128::from_ne_bytes(octets))
}
