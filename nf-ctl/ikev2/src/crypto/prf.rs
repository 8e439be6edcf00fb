//! Pseudorandom functions (RFC 7296 2.13): HMAC over SHA-2 (RFC 4868).

use std::fmt;

use hmac::{EagerHash, Hmac, KeyInit, Mac};
use sha2::digest::Digest;
use sha2::{Sha256, Sha384, Sha512};

use super::scrub::scrubbed;
use super::secret::Secret;

/// A pseudorandom function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Prf {
    /// PRF_HMAC_SHA2_256.
    HmacSha256,
    /// PRF_HMAC_SHA2_384.
    HmacSha384,
    /// PRF_HMAC_SHA2_512.
    HmacSha512,
}

impl Prf {
    /// Every function, in the order in which they are preferred.
    pub const ALL: [Prf; 3] = [Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512];

    /// The number in the registry "Transform Type 2".
    pub const fn transform_id(self) -> u16 {
        match self {
            Prf::HmacSha256 => 5,
            Prf::HmacSha384 => 6,
            Prf::HmacSha512 => 7,
        }
    }

    /// The function of that number, where it is one of ours.
    pub fn from_transform_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|prf| prf.transform_id() == id)
    }

    /// Length of the preferred key and of the output, in octets.
    pub const fn output_len(self) -> usize {
        match self {
            Prf::HmacSha256 => 32,
            Prf::HmacSha384 => 48,
            Prf::HmacSha512 => 64,
        }
    }

    /// `prf(key, data)`, where the data is the concatenation of the parts.
    pub fn compute(self, key: &[u8], parts: &[&[u8]]) -> Secret {
        scrubbed(|| match self {
            Prf::HmacSha256 => hmac::<Sha256>(key, parts),
            Prf::HmacSha384 => hmac::<Sha384>(key, parts),
            Prf::HmacSha512 => hmac::<Sha512>(key, parts),
        })
    }

    /// `prf+(key, seed)` to `len` octets (RFC 7296 2.13).
    ///
    /// The RFC ends at 255 blocks; nothing here asks for a tenth of that, and what was asked beyond would be cut off.
    pub fn expand(self, key: &[u8], seed: &[&[u8]], len: usize) -> Secret {
        let mut stream = Vec::with_capacity(len.next_multiple_of(self.output_len()));
        let mut block = Secret::default();
        for counter in 1..=u8::MAX {
            if stream.len() >= len {
                break;
            }
            let counter = [counter];
            let mut parts = vec![block.expose()];
            parts.extend_from_slice(seed);
            parts.push(&counter);
            block = self.compute(key, &parts);
            stream.extend_from_slice(block.expose());
        }
        stream.truncate(len);
        Secret::new(stream)
    }
}

impl fmt::Display for Prf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Prf::HmacSha256 => "prfsha256",
            Prf::HmacSha384 => "prfsha384",
            Prf::HmacSha512 => "prfsha512",
        })
    }
}

/// HMAC with a key of any length (RFC 2104).
pub(super) fn hmac<D: EagerHash + Digest>(key: &[u8], parts: &[&[u8]]) -> Secret {
    let mut mac = keyed::<D>(key);
    for part in parts {
        mac.update(part);
    }
    // Keys are made of it: no copy of it is left on the stack.
    let mut code = hmac::digest::Output::<Hmac<D>>::default();
    hmac::digest::FixedOutput::finalize_into(mac, &mut code);
    let secret = Secret::from(code.as_slice());
    zeroize::Zeroize::zeroize(code.as_mut_slice());
    secret
}

/// Compares an ICV, which may be a truncated MAC, in constant time.
pub(super) fn hmac_matches<D: EagerHash + Digest>(key: &[u8], parts: &[&[u8]], icv: &[u8]) -> bool {
    let mut mac = keyed::<D>(key);
    for part in parts {
        mac.update(part);
    }
    mac.verify_truncated_left(icv).is_ok()
}

/// Builds the key block itself, which can't fail, unlike the library's way from a slice.
fn keyed<D: EagerHash + Digest>(key: &[u8]) -> Hmac<D> {
    let mut block = hmac::digest::Key::<Hmac<D>>::default();
    match block.get_mut(..key.len()) {
        Some(head) => head.copy_from_slice(key),
        None => {
            let digest = D::digest(key);
            if let Some(head) = block.get_mut(..digest.len()) {
                head.copy_from_slice(&digest);
            }
        }
    }
    let mac = Hmac::<D>::new(&block);
    zeroize::Zeroize::zeroize(block.as_mut_slice());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test cases 2 (short key) and 6 (key longer than a block).
    #[test]
    fn rfc4231() {
        let mac = |prf: Prf, key: &[u8], data: &[u8]| hex::encode(prf.compute(key, &[data]).expose());
        let what = b"what do ya want for nothing?";
        assert_eq!(
            mac(Prf::HmacSha256, b"Jefe", what),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            mac(Prf::HmacSha384, b"Jefe", what),
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649"
        );
        let long = [0xaa; 131];
        assert_eq!(
            mac(Prf::HmacSha256, &long, b"Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
        assert_eq!(
            mac(Prf::HmacSha512, &long, b"Test Using Larger Than Block-Size Key - Hash Key First"),
            "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd2215d6a1e52\
             95e64f73f63f0aec8b915a985d786598"
        );
    }

    /// T1 = prf(K, S | 1), T2 = prf(K, T1 | S | 2), and a longer stream begins with a shorter one.
    #[test]
    fn prf_plus_chains_its_blocks() {
        let prf = Prf::HmacSha256;
        let t1 = prf.compute(b"key", &[b"se", b"ed", &[1]]);
        let t2 = prf.compute(b"key", &[t1.expose(), b"seed", &[2]]);
        let stream = prf.expand(b"key", &[b"seed"], 50);
        assert_eq!(stream.len(), 50);
        assert_eq!(&stream.expose()[..32], t1.expose());
        assert_eq!(&stream.expose()[32..], &t2.expose()[..18]);
        assert_eq!(&stream.expose()[..20], prf.expand(b"key", &[b"seed"], 20).expose());
        assert!(prf.expand(b"key", &[b"seed"], 0).is_empty());
    }
}
