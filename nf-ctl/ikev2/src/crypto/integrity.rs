//! Integrity algorithms (transform type 3) of IKE and ESP.

use std::fmt;

use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};

use super::prf::{hmac, hmac_matches};
use super::scrub::scrubbed;
use super::secret::Secret;

/// An HMAC, truncated to an ICV.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Integrity {
    /// AUTH_HMAC_SHA1_96 (RFC 2404). For ESP alone: no IKE SA is made with it.
    HmacSha1_96,
    /// AUTH_HMAC_SHA2_256_128 (RFC 4868).
    HmacSha256_128,
    /// AUTH_HMAC_SHA2_384_192 (RFC 4868).
    HmacSha384_192,
    /// AUTH_HMAC_SHA2_512_256 (RFC 4868).
    HmacSha512_256,
}

impl Integrity {
    /// Every algorithm.
    pub const ALL: [Integrity; 4] =
        [Integrity::HmacSha1_96, Integrity::HmacSha256_128, Integrity::HmacSha384_192, Integrity::HmacSha512_256];

    /// The number in the registry "Transform Type 3".
    pub const fn transform_id(self) -> u16 {
        match self {
            Integrity::HmacSha1_96 => 2,
            Integrity::HmacSha256_128 => 12,
            Integrity::HmacSha384_192 => 13,
            Integrity::HmacSha512_256 => 14,
        }
    }

    /// The algorithm of that number, where it is one of ours.
    pub fn from_transform_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|integrity| integrity.transform_id() == id)
    }

    /// Octets of the key: the hash's output (RFC 2404 3, RFC 4868 2.1.1).
    pub const fn key_len(self) -> usize {
        match self {
            Integrity::HmacSha1_96 => 20,
            Integrity::HmacSha256_128 => 32,
            Integrity::HmacSha384_192 => 48,
            Integrity::HmacSha512_256 => 64,
        }
    }

    /// Octets of the ICV.
    pub const fn icv_len(self) -> usize {
        match self {
            Integrity::HmacSha1_96 => 12,
            Integrity::HmacSha256_128 => 16,
            Integrity::HmacSha384_192 => 24,
            Integrity::HmacSha512_256 => 32,
        }
    }

    /// The ICV of the concatenated parts.
    pub(super) fn icv(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let mac: Secret = scrubbed(|| match self {
            Integrity::HmacSha1_96 => hmac::<Sha1>(key, parts),
            Integrity::HmacSha256_128 => hmac::<Sha256>(key, parts),
            Integrity::HmacSha384_192 => hmac::<Sha384>(key, parts),
            Integrity::HmacSha512_256 => hmac::<Sha512>(key, parts),
        });
        mac.expose().iter().copied().take(self.icv_len()).collect()
    }

    /// Compares in constant time.
    pub(super) fn verify(self, key: &[u8], parts: &[&[u8]], icv: &[u8]) -> bool {
        icv.len() == self.icv_len()
            && scrubbed(|| match self {
                Integrity::HmacSha1_96 => hmac_matches::<Sha1>(key, parts, icv),
                Integrity::HmacSha256_128 => hmac_matches::<Sha256>(key, parts, icv),
                Integrity::HmacSha384_192 => hmac_matches::<Sha384>(key, parts, icv),
                Integrity::HmacSha512_256 => hmac_matches::<Sha512>(key, parts, icv),
            })
    }
}

impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Integrity::HmacSha1_96 => "sha1",
            Integrity::HmacSha256_128 => "sha256",
            Integrity::HmacSha384_192 => "sha384",
            Integrity::HmacSha512_256 => "sha512",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4868 2.7.2.1, AUTH256-1, and RFC 2202 case 1 cut to 96 bits.
    #[test]
    fn known_icvs() {
        let icv = |integrity: Integrity, key: &[u8]| hex::encode(integrity.icv(key, &[b"Hi ", b"There"]));
        assert_eq!(icv(Integrity::HmacSha256_128, &[0x0b; 32]), "198a607eb44bfbc69903a0f1cf2bbdc5");
        assert_eq!(icv(Integrity::HmacSha1_96, &[0x0b; 20]), "b617318655057264e28bc0b6");
    }

    #[test]
    fn an_icv_of_the_wrong_length_or_value_fails() {
        for integrity in Integrity::ALL {
            let key = vec![7; integrity.key_len()];
            let mut icv = integrity.icv(&key, &[b"data"]);
            assert_eq!(icv.len(), integrity.icv_len());
            assert!(integrity.verify(&key, &[b"da", b"ta"], &icv));
            assert!(!integrity.verify(&key, &[b"data"], &icv[..8]));
            assert!(!integrity.verify(&key, &[b"data"], &[]));
            icv[0] ^= 1;
            assert!(!integrity.verify(&key, &[b"data"], &icv));
        }
    }
}
