//! What an SA is protected with: algorithms and keys, checked against each other.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use zeroize::Zeroizing;

/// Octets of SPI and sequence number.
const ESP_HEADER_LEN: usize = 8;
/// Octets of the salt that follows the key of an AEAD (RFC 4106 4, RFC 7634 2).
pub(super) const SALT_LEN: usize = 4;

/// How the payload is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cipher {
    /// AES-GCM with an ICV of 8, 12 or 16 octets (RFC 4106).
    AesGcm {
        /// Octets of the ICV.
        icv: u8,
    },
    /// AES-CBC (RFC 3602); needs a separate integrity algorithm.
    AesCbc,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
    /// None (RFC 2410); needs a separate integrity algorithm.
    Null,
}

impl Cipher {
    const ALL: [Cipher; 6] = [
        Cipher::AesGcm { icv: 16 },
        Cipher::AesGcm { icv: 12 },
        Cipher::AesGcm { icv: 8 },
        Cipher::AesCbc,
        Cipher::ChaCha20Poly1305,
        Cipher::Null,
    ];

    /// The name in `[[sa]] alg`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Cipher::AesGcm { icv: 8 } => "aes-gcm-8",
            Cipher::AesGcm { icv: 12 } => "aes-gcm-12",
            Cipher::AesGcm { .. } => "aes-gcm-16",
            Cipher::AesCbc => "aes-cbc",
            Cipher::ChaCha20Poly1305 => "chacha20-poly1305",
            Cipher::Null => "null",
        }
    }

    /// Whether the cipher authenticates by itself.
    pub const fn is_aead(self) -> bool {
        matches!(self, Cipher::AesGcm { .. } | Cipher::ChaCha20Poly1305)
    }

    /// Octets that a key may have, an AEAD's salt included.
    const fn key_lengths(self) -> &'static [usize] {
        match self {
            Cipher::AesGcm { .. } => &[16 + SALT_LEN, 24 + SALT_LEN, 32 + SALT_LEN],
            Cipher::AesCbc => &[16, 24, 32],
            Cipher::ChaCha20Poly1305 => &[32 + SALT_LEN],
            Cipher::Null => &[0],
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Cipher {
    type Err = TransformError;

    fn from_str(name: &str) -> Result<Cipher, TransformError> {
        Cipher::ALL
            .into_iter()
            .find(|cipher| cipher.as_str() == name)
            .ok_or_else(|| TransformError::UnknownCipher(name.to_owned()))
    }
}

/// How packets are authenticated where the cipher doesn't do it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Integrity {
    /// HMAC-SHA1 cut to 96 bits (RFC 2404).
    HmacSha1_96,
    /// HMAC-SHA-256 cut to 128 bits (RFC 4868).
    HmacSha256_128,
    /// HMAC-SHA-384 cut to 192 bits (RFC 4868).
    HmacSha384_192,
    /// HMAC-SHA-512 cut to 256 bits (RFC 4868).
    HmacSha512_256,
}

impl Integrity {
    const ALL: [Integrity; 4] =
        [Integrity::HmacSha1_96, Integrity::HmacSha256_128, Integrity::HmacSha384_192, Integrity::HmacSha512_256];

    /// The name in `[[sa]] auth`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Integrity::HmacSha1_96 => "hmac-sha1-96",
            Integrity::HmacSha256_128 => "hmac-sha256-128",
            Integrity::HmacSha384_192 => "hmac-sha384-192",
            Integrity::HmacSha512_256 => "hmac-sha512-256",
        }
    }

    /// Octets of the key: the length of the hash (RFC 4868 2.1.1, RFC 2404 3).
    pub const fn key_len(self) -> usize {
        match self {
            Integrity::HmacSha1_96 => 20,
            Integrity::HmacSha256_128 => 32,
            Integrity::HmacSha384_192 => 48,
            Integrity::HmacSha512_256 => 64,
        }
    }

    /// Octets of the ICV.
    pub const fn icv_len(self) -> u8 {
        match self {
            Integrity::HmacSha1_96 => 12,
            Integrity::HmacSha256_128 => 16,
            Integrity::HmacSha384_192 => 24,
            Integrity::HmacSha512_256 => 32,
        }
    }
}

impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Integrity {
    type Err = TransformError;

    fn from_str(name: &str) -> Result<Integrity, TransformError> {
        Integrity::ALL
            .into_iter()
            .find(|integrity| integrity.as_str() == name)
            .ok_or_else(|| TransformError::UnknownIntegrity(name.to_owned()))
    }
}

/// Algorithms and keys that don't fit together. No message holds an octet of a key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransformError {
    /// No cipher has that name.
    #[error("there is no algorithm `{0}`; use aes-gcm-16, aes-gcm-12, aes-gcm-8, aes-cbc, chacha20-poly1305 or null")]
    UnknownCipher(String),
    /// No integrity algorithm has that name.
    #[error(
        "there is no integrity algorithm `{0}`; use hmac-sha1-96, hmac-sha256-128, hmac-sha384-192 or hmac-sha512-256"
    )]
    UnknownIntegrity(String),
    /// The cipher's key has the wrong length.
    #[error("{cipher} takes a key of {} octets{}; this one has {found}", one_of(.cipher.key_lengths()), salt_note(*.cipher))]
    KeyLength {
        /// The cipher.
        cipher: Cipher,
        /// Octets that were given.
        found: usize,
    },
    /// The integrity algorithm's key has the wrong length.
    #[error("{integrity} takes a key of {} octets; this one has {found}", .integrity.key_len())]
    AuthKeyLength {
        /// The algorithm.
        integrity: Integrity,
        /// Octets that were given.
        found: usize,
    },
    /// The cipher authenticates by itself.
    #[error("{0} authenticates by itself: leave out `auth` and `auth_key`")]
    NeedlessIntegrity(Cipher),
    /// The cipher does not authenticate.
    #[error("{0} doesn't authenticate: add `auth`, such as hmac-sha256-128, and `auth_key`")]
    MissingIntegrity(Cipher),
}

fn one_of(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ")
}

fn salt_note(cipher: Cipher) -> &'static str {
    if cipher.is_aead() { ", the last 4 of which are the salt" } else { "" }
}

/// What an SA is protected with. Keys are zeroised when it is dropped, and never shown.
#[derive(Clone)]
pub struct Transform {
    cipher: Cipher,
    pub(super) key: Zeroizing<Vec<u8>>,
    integrity: Option<Integrity>,
    pub(super) auth_key: Zeroizing<Vec<u8>>,
    esn: bool,
}

impl Transform {
    /// Checks the algorithms and the lengths of their keys. `key` is that of the cipher, for AEADs followed by the
    /// 4-octet salt; `auth` is the integrity algorithm with its key, where the cipher needs one.
    pub fn new(
        cipher: Cipher,
        key: &[u8],
        auth: Option<(Integrity, &[u8])>,
        esn: bool,
    ) -> Result<Transform, TransformError> {
        if !cipher.key_lengths().contains(&key.len()) {
            return Err(TransformError::KeyLength { cipher, found: key.len() });
        }
        match auth {
            Some(_) if cipher.is_aead() => return Err(TransformError::NeedlessIntegrity(cipher)),
            None if !cipher.is_aead() => return Err(TransformError::MissingIntegrity(cipher)),
            Some((integrity, key)) if key.len() != integrity.key_len() => {
                return Err(TransformError::AuthKeyLength { integrity, found: key.len() });
            }
            _ => {}
        }
        Ok(Transform {
            cipher,
            key: Zeroizing::new(key.to_vec()),
            integrity: auth.map(|(integrity, _)| integrity),
            auth_key: Zeroizing::new(auth.map(|(_, key)| key.to_vec()).unwrap_or_default()),
            esn,
        })
    }

    /// The cipher.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// The integrity algorithm, where the cipher doesn't authenticate.
    pub fn integrity(&self) -> Option<Integrity> {
        self.integrity
    }

    /// Whether sequence numbers are extended to 64 bits.
    pub fn esn(&self) -> bool {
        self.esn
    }

    /// Bits of the cipher's key, without salt.
    pub fn key_bits(&self) -> usize {
        let salt = if self.cipher.is_aead() { SALT_LEN } else { 0 };
        (self.key.len() - salt) * 8
    }

    /// Lengths of the ESP fields.
    pub fn layout(&self) -> Layout {
        let (iv_len, icv_len, block) = match self.cipher {
            Cipher::AesGcm { icv } => (8, icv, 4),
            Cipher::ChaCha20Poly1305 => (8, 16, 4),
            Cipher::AesCbc => (16, self.integrity.map_or(0, Integrity::icv_len), 16),
            Cipher::Null => (0, self.integrity.map_or(0, Integrity::icv_len), 4),
        };
        Layout { iv_len, icv_len, block }
    }
}

/// The algorithms, such as `aes-gcm-16 128` or `aes-cbc 256 hmac-sha256-128`.
impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cipher)?;
        if self.cipher != Cipher::Null {
            write!(f, " {}", self.key_bits())?;
        }
        self.integrity.map_or(Ok(()), |integrity| write!(f, " {integrity}"))
    }
}

impl fmt::Debug for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transform({self}{})", if self.esn { " esn" } else { "" })
    }
}

/// Octets of the fields around ESP's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Of the IV.
    pub iv_len: u8,
    /// Of the ICV.
    pub icv_len: u8,
    /// The payload with its trailer is a multiple of this (RFC 4303 2.4).
    pub block: u8,
}

impl Layout {
    /// Where the encrypted part of an ESP packet of `esp_len` octets lies, counted from the SPI: payload, padding, pad
    /// length and next header. None where the packet is too short for one or isn't a multiple of the block.
    #[inline]
    pub fn payload_range(self, esp_len: usize) -> Option<Range<usize>> {
        let start = ESP_HEADER_LEN + usize::from(self.iv_len);
        let end = esp_len.checked_sub(self.icv_len.into())?;
        let block = usize::from(self.block);
        let len = end.checked_sub(start)?;
        // Blocks are of 4 or 16 octets.
        (len >= block && len & (block - 1) == 0).then_some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_as_they_print() {
        for cipher in Cipher::ALL {
            assert_eq!(cipher.to_string().parse(), Ok(cipher));
        }
        for integrity in Integrity::ALL {
            assert_eq!(integrity.to_string().parse(), Ok(integrity));
        }
        assert_eq!("des".parse::<Cipher>(), Err(TransformError::UnknownCipher("des".into())));
    }

    #[test]
    fn lengths_and_combinations_are_checked() {
        let auth = Some((Integrity::HmacSha256_128, &[0; 32][..]));
        assert!(Transform::new(Cipher::AesGcm { icv: 16 }, &[0; 20], None, false).is_ok());
        assert!(Transform::new(Cipher::AesCbc, &[0; 24], auth, true).is_ok());
        assert!(Transform::new(Cipher::Null, &[], auth, false).is_ok());
        let error = |result: Result<Transform, TransformError>| result.unwrap_err().to_string();
        assert_eq!(
            error(Transform::new(Cipher::AesGcm { icv: 16 }, &[0; 16], None, false)),
            "aes-gcm-16 takes a key of 20 or 28 or 36 octets, the last 4 of which are the salt; this one has 16"
        );
        assert_eq!(
            error(Transform::new(Cipher::AesCbc, &[0; 16], None, false)),
            "aes-cbc doesn't authenticate: add `auth`, such as hmac-sha256-128, and `auth_key`"
        );
        assert_eq!(
            error(Transform::new(Cipher::ChaCha20Poly1305, &[0; 36], auth, false)),
            "chacha20-poly1305 authenticates by itself: leave out `auth` and `auth_key`"
        );
        assert_eq!(
            error(Transform::new(Cipher::Null, &[], Some((Integrity::HmacSha1_96, &[0; 16])), false)),
            "hmac-sha1-96 takes a key of 20 octets; this one has 16"
        );
    }

    #[test]
    fn the_payload_is_whole_blocks() {
        let gcm = Layout { iv_len: 8, icv_len: 16, block: 4 };
        assert_eq!(gcm.payload_range(36), Some(16..20));
        assert_eq!(gcm.payload_range(40), Some(16..24));
        for len in (0..36).chain([37, 38, 39]) {
            assert_eq!(gcm.payload_range(len), None, "{len}");
        }
        let cbc = Layout { iv_len: 16, icv_len: 12, block: 16 };
        assert_eq!(cbc.payload_range(8 + 16 + 16 + 12), Some(24..40));
        assert_eq!(cbc.payload_range(8 + 16 + 24 + 12), None);
    }

    #[test]
    fn no_key_is_shown() {
        let transform = Transform::new(Cipher::AesGcm { icv: 16 }, &[0xA5; 20], None, true).unwrap();
        assert_eq!(format!("{transform} {transform:?}"), "aes-gcm-16 128 Transform(aes-gcm-16 128 esn)");
    }
}
