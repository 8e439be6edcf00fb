//! AES-GCM by one call for each packet, which keeps no state in the manager: all threads share one.

use std::mem::MaybeUninit;

use subtle::ConstantTimeEq;

use crate::manager::shared;
use crate::wiped::Wiped;
use crate::{as_number, sys};

/// Octets of a nonce.
pub const NONCE_LEN: usize = 12;
/// The longest tag.
pub const TAG_LEN: usize = 16;

/// Octets of an expanded key that short packets need: round keys and the first powers of the hash key.
const PREFETCHED: usize = 512;

type Prepare = unsafe extern "C" fn(*const std::ffi::c_void, *mut sys::gcm_key_data);
type OneCall = unsafe extern "C" fn(
    *const sys::gcm_key_data,
    *mut sys::gcm_context_data,
    *mut u8,
    *const u8,
    u64,
    *const u8,
    *const u8,
    u64,
    *mut u8,
    u64,
);

/// An expanded key, on cache lines of its own as the library asks.
#[repr(C, align(64))]
struct ExpandedKey(sys::gcm_key_data);

/// AES-GCM under one key. The key is zeroised when it is dropped.
pub struct Gcm {
    key: Wiped<ExpandedKey>,
    encrypt: OneCall,
    decrypt: OneCall,
}

impl Gcm {
    /// Expands a key of 16, 24 or 32 octets. None for another length, or where the library can't run.
    pub fn new(key: &[u8]) -> Option<Gcm> {
        let functions = shared()?;
        let (prepare, encrypt, decrypt): (Prepare, OneCall, OneCall) = match key.len() {
            16 => (functions.gcm128_pre?, functions.gcm128_enc?, functions.gcm128_dec?),
            24 => (functions.gcm192_pre?, functions.gcm192_enc?, functions.gcm192_dec?),
            32 => (functions.gcm256_pre?, functions.gcm256_enc?, functions.gcm256_dec?),
            _ => return None,
        };
        // SAFETY: the structure is plain octets, for which zero is valid.
        let mut expanded = Wiped::new(unsafe { std::mem::zeroed::<ExpandedKey>() });
        // SAFETY: the key has the length that this function reads, and the structure may be written.
        unsafe { prepare(key.as_ptr().cast(), &mut expanded.0) };
        Some(Gcm { key: expanded, encrypt, decrypt })
    }

    /// Verifies and decrypts in place. Where it gives false, `data` holds octets that must not be used. The tag, of at
    /// most [`TAG_LEN`] octets, may be cut short; it is compared in constant time.
    #[must_use]
    pub fn open(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], data: &mut [u8], tag: &[u8]) -> bool {
        let mut expected = [0; TAG_LEN];
        let Some(expected) = expected.get_mut(..tag.len()) else {
            return false;
        };
        self.call(self.decrypt, nonce, aad, data, expected);
        let Some(tag) = as_number(tag) else {
            return false;
        };
        // One comparison of numbers: octet by octet it would cost as much as decrypting a short packet.
        as_number(expected).is_some_and(|expected| expected.ct_eq(&tag).into())
    }

    /// Asks the CPU for the expanded key: what a short packet needs of it.
    #[inline]
    pub fn prefetch(&self) {
        self.key.prefetch(PREFETCHED);
    }

    /// Encrypts in place and writes the tag, as many octets of it as `tag` has, at most [`TAG_LEN`]. False, and nothing
    /// done, for a longer or empty one.
    #[must_use]
    pub fn seal(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], data: &mut [u8], tag: &mut [u8]) -> bool {
        if !(1..=TAG_LEN).contains(&tag.len()) {
            return false;
        }
        self.call(self.encrypt, nonce, aad, data, tag);
        true
    }

    #[inline]
    fn call(&self, function: OneCall, nonce: &[u8; NONCE_LEN], aad: &[u8], data: &mut [u8], tag: &mut [u8]) {
        let mut context = MaybeUninit::<sys::gcm_context_data>::uninit();
        let (memory, len) = (data.as_mut_ptr(), data.len() as u64);
        // SAFETY: the key was expanded for this function; the context is the function's to write first; source and
        // destination may be the same; all lengths are those of the slices.
        unsafe {
            function(
                &self.key.0,
                context.as_mut_ptr(),
                memory,
                memory,
                len,
                nonce.as_ptr(),
                aad.as_ptr(),
                aad.len() as u64,
                tag.as_mut_ptr(),
                tag.len() as u64,
            );
        }
    }
}

impl std::fmt::Debug for Gcm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gcm(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test case 4 of McGrew and Viega, "The Galois/Counter Mode of Operation": 128 bits, with additional data.
    #[test]
    fn the_inventors_example() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
        };
        let gcm = Gcm::new(&hex("feffe9928665731c6d6a8f9467308308")).expect("a CPU with AES instructions");
        let nonce: [u8; 12] = hex("cafebabefacedbaddecaf888").try_into().unwrap();
        let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let clear = hex(concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        ));
        let sealed = hex(concat!(
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e",
            "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
        ));
        let (mut data, mut tag) = (clear.clone(), [0; 16]);
        assert!(gcm.seal(&nonce, &aad, &mut data, &mut tag));
        assert_eq!((data.clone(), tag.to_vec()), (sealed, hex("5bc94fbc3221a5db94fae95ae7121a47")));
        assert!(gcm.open(&nonce, &aad, &mut data.clone(), &tag[..8]), "a tag cut short");
        assert!(!gcm.open(&nonce, &aad[1..], &mut data.clone(), &tag));
        assert!(!gcm.open(&nonce, &aad, &mut data.clone(), &[]));
        assert!(!gcm.open(&nonce, &aad, &mut data.clone(), &[0; 17]));
        assert!(gcm.open(&nonce, &aad, &mut data, &tag));
        assert_eq!(data, clear);
    }

    #[test]
    fn keys_of_other_lengths_are_refused() {
        for len in (0..64).filter(|len| ![16, 24, 32].contains(len)) {
            assert!(Gcm::new(&vec![0; len]).is_none(), "{len}");
        }
    }
}
