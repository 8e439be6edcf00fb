//! What an SA's packets are protected with: the algorithms by name, and the keys, checked against each other.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use super::layout::Layout;

/// Octets of the salt that follows an AEAD's key in its keying material (RFC 4106 4, RFC 7634 2).
pub const SALT_LEN: usize = 4;

/// The ICV of AES-GCM: the tag of 16 octets, or its first 8 or 12 (RFC 4106 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GcmIcv {
    /// 8 octets. A forgery succeeds with a chance of at least 2^-64 and grows with the packet's length: for peers that
    /// offer nothing else.
    Octets8,
    /// 12 octets.
    Octets12,
    /// 16 octets.
    Octets16,
}

impl GcmIcv {
    /// The length in octets.
    pub const fn octets(self) -> u8 {
        match self {
            GcmIcv::Octets8 => 8,
            GcmIcv::Octets12 => 12,
            GcmIcv::Octets16 => 16,
        }
    }
}

/// An encryption algorithm of ESP. Its text form is that of `alg` in nf.toml.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cipher {
    /// AES in Galois/Counter Mode with a key of 128, 192 or 256 bits (RFC 4106). An AEAD.
    AesGcm {
        /// How much of the tag is on the wire.
        icv: GcmIcv,
    },
    /// AES in Cipher Block Chaining mode with a key of 128, 192 or 256 bits (RFC 3602).
    AesCbc,
    /// ChaCha20 and Poly1305 (RFC 7634). An AEAD.
    ChaCha20Poly1305,
    /// No encryption (RFC 2410): the payload is only authenticated.
    Null,
}

impl Cipher {
    /// Every cipher, in the order of the documentation.
    pub const ALL: [Cipher; 6] = [
        Cipher::AesGcm { icv: GcmIcv::Octets16 },
        Cipher::AesGcm { icv: GcmIcv::Octets12 },
        Cipher::AesGcm { icv: GcmIcv::Octets8 },
        Cipher::AesCbc,
        Cipher::ChaCha20Poly1305,
        Cipher::Null,
    ];

    /// The name in nf.toml.
    pub const fn as_str(self) -> &'static str {
        match self {
            Cipher::AesGcm { icv: GcmIcv::Octets8 } => "aes-gcm-8",
            Cipher::AesGcm { icv: GcmIcv::Octets12 } => "aes-gcm-12",
            Cipher::AesGcm { icv: GcmIcv::Octets16 } => "aes-gcm-16",
            Cipher::AesCbc => "aes-cbc",
            Cipher::ChaCha20Poly1305 => "chacha20-poly1305",
            Cipher::Null => "null",
        }
    }

    /// True where the cipher authenticates as well and so takes no [`Integrity`].
    pub const fn is_aead(self) -> bool {
        matches!(self, Cipher::AesGcm { .. } | Cipher::ChaCha20Poly1305)
    }

    /// Splits configured keying material into key and salt; `None` where its length isn't one of the cipher's.
    fn split_key(self, material: &[u8]) -> Option<(&[u8], &[u8])> {
        let salt_len = if self.is_aead() { SALT_LEN } else { 0 };
        let (key, salt) = material.split_at_checked(material.len().checked_sub(salt_len)?)?;
        let fits = match self {
            Cipher::AesGcm { .. } | Cipher::AesCbc => matches!(key.len(), 16 | 24 | 32),
            Cipher::ChaCha20Poly1305 => key.len() == 32,
            Cipher::Null => key.is_empty(),
        };
        fits.then_some((key, salt))
    }

    /// What a key of the right length is, for the message about one that isn't.
    const fn key_rule(self) -> &'static str {
        match self {
            Cipher::AesGcm { .. } => "20 or 28 or 36 octets, the last 4 of which are the salt",
            Cipher::AesCbc => "16 or 24 or 32 octets",
            Cipher::ChaCha20Poly1305 => "36 octets, the last 4 of which are the salt",
            Cipher::Null => "0 octets",
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Cipher {
    type Err = TransformError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|cipher| cipher.as_str() == name).ok_or(TransformError::UnknownCipher)
    }
}

/// An integrity algorithm of ESP. Its text form is that of `auth` in nf.toml.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Integrity {
    /// HMAC-SHA1, truncated to 12 octets (RFC 2404).
    HmacSha1_96,
    /// HMAC-SHA-256, truncated to 16 octets (RFC 4868).
    HmacSha256_128,
    /// HMAC-SHA-384, truncated to 24 octets (RFC 4868).
    HmacSha384_192,
    /// HMAC-SHA-512, truncated to 32 octets (RFC 4868).
    HmacSha512_256,
}

impl Integrity {
    /// Every integrity algorithm, in the order of the documentation.
    pub const ALL: [Integrity; 4] =
        [Integrity::HmacSha1_96, Integrity::HmacSha256_128, Integrity::HmacSha384_192, Integrity::HmacSha512_256];

    /// The name in nf.toml.
    pub const fn as_str(self) -> &'static str {
        match self {
            Integrity::HmacSha1_96 => "hmac-sha1-96",
            Integrity::HmacSha256_128 => "hmac-sha256-128",
            Integrity::HmacSha384_192 => "hmac-sha384-192",
            Integrity::HmacSha512_256 => "hmac-sha512-256",
        }
    }

    /// The key's length in octets: the hash's output (RFC 2404 3, RFC 4868 2.1.1).
    pub const fn key_len(self) -> usize {
        match self {
            Integrity::HmacSha1_96 => 20,
            Integrity::HmacSha256_128 => 32,
            Integrity::HmacSha384_192 => 48,
            Integrity::HmacSha512_256 => 64,
        }
    }

    /// The ICV's length in octets.
    pub const fn icv_len(self) -> u8 {
        match self {
            Integrity::HmacSha1_96 => 12,
            Integrity::HmacSha256_128 => 16,
            Integrity::HmacSha384_192 => 24,
            Integrity::HmacSha512_256 => 32,
        }
    }

    /// The name in a transform set.
    const fn transform_set_name(self) -> &'static str {
        match self {
            Integrity::HmacSha1_96 => "esp-sha-hmac",
            Integrity::HmacSha256_128 => "esp-sha256-hmac",
            Integrity::HmacSha384_192 => "esp-sha384-hmac",
            Integrity::HmacSha512_256 => "esp-sha512-hmac",
        }
    }
}

impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Integrity {
    type Err = TransformError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|integrity| integrity.as_str() == name).ok_or(TransformError::UnknownIntegrity)
    }
}

/// Why algorithms and keys don't make a [`Transform`]. Lengths are told, octets of keys never; and an unknown name isn't
/// repeated, since it may be a key that slipped into the wrong field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransformError {
    /// A name that isn't a cipher's.
    #[error("unknown cipher; use aes-gcm-16, aes-gcm-12, aes-gcm-8, aes-cbc, chacha20-poly1305 or null")]
    UnknownCipher,
    /// A name that isn't an integrity algorithm's.
    #[error("unknown integrity algorithm; use hmac-sha1-96, hmac-sha256-128, hmac-sha384-192 or hmac-sha512-256")]
    UnknownIntegrity,
    /// The cipher's keying material has the wrong length.
    #[error("{cipher} takes a key of {}; this one has {octets}", .cipher.key_rule())]
    KeyLength {
        /// The cipher.
        cipher: Cipher,
        /// The length given.
        octets: usize,
    },
    /// The integrity key has the wrong length.
    #[error("{integrity} takes a key of {} octets; this one has {octets}", .integrity.key_len())]
    AuthKeyLength {
        /// The integrity algorithm.
        integrity: Integrity,
        /// The length given.
        octets: usize,
    },
    /// The cipher doesn't authenticate, and nothing else would: anyone could forge the SA's packets.
    #[error("{cipher} doesn't authenticate: add `auth`, such as hmac-sha256-128, and `auth_key`")]
    AuthMissing {
        /// The cipher.
        cipher: Cipher,
    },
    /// The cipher authenticates by itself.
    #[error("{cipher} authenticates by itself: leave out `auth` and `auth_key`")]
    AuthRefused {
        /// The cipher.
        cipher: Cipher,
    },
}

/// What an SA's packets are protected with: cipher, integrity algorithm and their keys, which fit each other.
///
/// The keys of every copy are cleared from memory on drop. `Debug` shows the algorithms only.
#[derive(Clone, PartialEq, Eq)]
pub struct Transform {
    cipher: Cipher,
    key: Zeroizing<Vec<u8>>,
    salt: Zeroizing<Vec<u8>>,
    auth: Option<(Integrity, Zeroizing<Vec<u8>>)>,
    esn: bool,
}

impl Transform {
    /// Checks algorithms and keys and takes a copy of the keys.
    ///
    /// `key` is the cipher's keying material: for AES-GCM a key of 16, 24 or 32 octets and the salt of 4 (RFC 4106 8.1),
    /// for ChaCha20-Poly1305 32 and 4 (RFC 7634 2), for AES-CBC 16, 24 or 32 (RFC 3602 2.2), for NULL none. `auth` is
    /// for AES-CBC and NULL; its key is as long as the hash's output. `esn` says whether sequence numbers have 64 bits
    /// (RFC 4303 2.2.1).
    ///
    /// # Errors
    /// A key of the wrong length; an AEAD with `auth`; another cipher without it. RFC 4303 3.2 allows encryption
    /// without integrity, RFC 8221 4 forbids it, and so do we.
    pub fn new(
        cipher: Cipher,
        key: &[u8],
        auth: Option<(Integrity, &[u8])>,
        esn: bool,
    ) -> Result<Transform, TransformError> {
        let length = TransformError::KeyLength { cipher, octets: key.len() };
        let (key, salt) = cipher.split_key(key).ok_or(length)?;
        let auth = match auth {
            Some(_) if cipher.is_aead() => return Err(TransformError::AuthRefused { cipher }),
            None if !cipher.is_aead() => return Err(TransformError::AuthMissing { cipher }),
            Some((integrity, key)) if key.len() != integrity.key_len() => {
                return Err(TransformError::AuthKeyLength { integrity, octets: key.len() });
            }
            Some((integrity, key)) => Some((integrity, Zeroizing::new(key.to_vec()))),
            None => None,
        };
        let (key, salt) = (Zeroizing::new(key.to_vec()), Zeroizing::new(salt.to_vec()));
        Ok(Transform { cipher, key, salt, auth, esn })
    }

    /// Where the fields of the SA's packets are.
    pub fn layout(&self) -> Layout {
        let icv_len = self.integrity().map_or(0, Integrity::icv_len);
        match self.cipher {
            Cipher::AesGcm { icv } => Layout { iv_len: 8, icv_len: icv.octets(), block: 4 },
            Cipher::ChaCha20Poly1305 => Layout { iv_len: 8, icv_len: 16, block: 4 },
            Cipher::AesCbc => Layout { iv_len: 16, icv_len, block: 16 },
            Cipher::Null => Layout { iv_len: 0, icv_len, block: 4 },
        }
    }

    /// True with extended sequence numbers of 64 bits, of which the upper half isn't on the wire (RFC 4303 2.2.1).
    pub fn esn(&self) -> bool {
        self.esn
    }

    /// The encryption algorithm.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// The integrity algorithm; `None` with an AEAD.
    pub fn integrity(&self) -> Option<Integrity> {
        self.auth.as_ref().map(|(integrity, _)| *integrity)
    }

    /// The bits of the cipher's key, without the salt; 0 for NULL.
    pub fn key_bits(&self) -> usize {
        self.key.len() * 8
    }

    /// As operators know it from a router's transform sets, such as `esp-gcm 128` or `esp-aes 256 esp-sha256-hmac`.
    /// An ICV of AES-GCM that is shorter than the usual 16 octets is named.
    pub fn name(&self) -> String {
        let bits = self.key_bits();
        let cipher = match self.cipher {
            Cipher::AesGcm { icv: GcmIcv::Octets16 } => format!("esp-gcm {bits}"),
            Cipher::AesGcm { icv } => format!("esp-gcm {bits} icv {}", icv.octets()),
            Cipher::AesCbc => format!("esp-aes {bits}"),
            Cipher::ChaCha20Poly1305 => "esp-chacha20-poly1305".to_owned(),
            Cipher::Null => "esp-null".to_owned(),
        };
        match self.integrity() {
            Some(integrity) => format!("{cipher} {}", integrity.transform_set_name()),
            None => cipher,
        }
    }

    /// The cipher's key, for an engine: never to be shown.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The salt of an AEAD's nonce, [`SALT_LEN`] octets; empty for other ciphers. For an engine: never to be shown.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The integrity algorithm and its key, for an engine: never to be shown.
    pub fn auth(&self) -> Option<(Integrity, &[u8])> {
        self.auth.as_ref().map(|(integrity, key)| (*integrity, key.as_slice()))
    }
}

impl fmt::Debug for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transform").field("name", &self.name()).field("esn", &self.esn).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GCM16: Cipher = Cipher::AesGcm { icv: GcmIcv::Octets16 };

    #[test]
    fn names_read_back_as_what_they_name() {
        for cipher in Cipher::ALL {
            assert_eq!(cipher.to_string().parse(), Ok(cipher));
        }
        for integrity in Integrity::ALL {
            assert_eq!(integrity.to_string().parse(), Ok(integrity));
        }
        assert_eq!("AES-GCM-16".parse::<Cipher>(), Err(TransformError::UnknownCipher));
        assert_eq!("".parse::<Integrity>(), Err(TransformError::UnknownIntegrity));
    }

    #[test]
    fn the_error_of_an_unknown_name_lists_every_name() {
        let (ciphers, integrities) = (TransformError::UnknownCipher, TransformError::UnknownIntegrity);
        assert!(Cipher::ALL.iter().all(|cipher| ciphers.to_string().contains(cipher.as_str())));
        assert!(Integrity::ALL.iter().all(|integrity| integrities.to_string().contains(integrity.as_str())));
    }

    #[test]
    fn only_the_key_lengths_of_the_rfcs_are_taken() {
        let accepted = |cipher: Cipher| -> Vec<usize> {
            let auth_key = [0; 20];
            let auth = (!cipher.is_aead()).then_some((Integrity::HmacSha1_96, &auth_key[..]));
            (0..80).filter(|len| Transform::new(cipher, &vec![0; *len], auth, false).is_ok()).collect()
        };
        assert_eq!(accepted(GCM16), [20, 28, 36]);
        assert_eq!(accepted(Cipher::AesGcm { icv: GcmIcv::Octets8 }), [20, 28, 36]);
        assert_eq!(accepted(Cipher::AesCbc), [16, 24, 32]);
        assert_eq!(accepted(Cipher::ChaCha20Poly1305), [36]);
        assert_eq!(accepted(Cipher::Null), [0]);
        for integrity in Integrity::ALL {
            let accepted: Vec<usize> = (0..140)
                .filter(|len| Transform::new(Cipher::Null, &[], Some((integrity, &vec![0; *len])), false).is_ok())
                .collect();
            assert_eq!(accepted, [integrity.key_len()]);
        }
    }

    #[test]
    fn integrity_comes_exactly_once() {
        let auth = Some((Integrity::HmacSha256_128, &[0; 32][..]));
        for cipher in Cipher::ALL {
            let key = vec![0; if cipher.is_aead() { 36 } else { 32 }];
            let key = if cipher == Cipher::Null { &[] } else { &key[..] };
            let (with, without) = (Transform::new(cipher, key, auth, false), Transform::new(cipher, key, None, false));
            if cipher.is_aead() {
                assert_eq!(with.unwrap_err(), TransformError::AuthRefused { cipher });
                assert!(without.is_ok());
            } else {
                assert!(with.is_ok());
                assert_eq!(without.unwrap_err(), TransformError::AuthMissing { cipher });
            }
        }
    }

    #[test]
    fn key_and_salt_are_told_apart() {
        let material: Vec<u8> = (1..=20).collect();
        let transform = Transform::new(GCM16, &material, None, true).unwrap();
        assert_eq!(transform.key(), &material[..16]);
        assert_eq!(transform.salt(), &material[16..]);
        assert_eq!(transform.key_bits(), 128);
        assert!(transform.esn());
    }

    #[test]
    fn layouts_are_those_of_the_rfcs() {
        let layout = |cipher, key: &[u8], auth| Transform::new(cipher, key, auth, false).unwrap().layout();
        assert_eq!(layout(GCM16, &[0; 20], None), Layout { iv_len: 8, icv_len: 16, block: 4 });
        let gcm8 = Cipher::AesGcm { icv: GcmIcv::Octets8 };
        assert_eq!(layout(gcm8, &[0; 36], None), Layout { iv_len: 8, icv_len: 8, block: 4 });
        assert_eq!(layout(Cipher::ChaCha20Poly1305, &[0; 36], None), Layout { iv_len: 8, icv_len: 16, block: 4 });
        let sha1 = Some((Integrity::HmacSha1_96, &[0; 20][..]));
        assert_eq!(layout(Cipher::AesCbc, &[0; 16], sha1), Layout { iv_len: 16, icv_len: 12, block: 16 });
        let sha512 = Some((Integrity::HmacSha512_256, &[0; 64][..]));
        assert_eq!(layout(Cipher::Null, &[], sha512), Layout { iv_len: 0, icv_len: 32, block: 4 });
    }

    #[test]
    fn transforms_are_named_as_in_transform_sets() {
        let name = |cipher, key: &[u8], auth| Transform::new(cipher, key, auth, false).unwrap().name();
        assert_eq!(name(GCM16, &[0; 20], None), "esp-gcm 128");
        assert_eq!(name(Cipher::AesGcm { icv: GcmIcv::Octets12 }, &[0; 36], None), "esp-gcm 256 icv 12");
        assert_eq!(name(Cipher::ChaCha20Poly1305, &[0; 36], None), "esp-chacha20-poly1305");
        let sha1 = Some((Integrity::HmacSha1_96, &[0; 20][..]));
        assert_eq!(name(Cipher::AesCbc, &[0; 24], sha1), "esp-aes 192 esp-sha-hmac");
        assert_eq!(name(Cipher::Null, &[], sha1), "esp-null esp-sha-hmac");
    }

    #[test]
    fn errors_say_what_is_wrong_and_what_to_do() {
        let error = Transform::new(GCM16, &[0; 16], None, false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "aes-gcm-16 takes a key of 20 or 28 or 36 octets, the last 4 of which are the salt; this one has 16"
        );
        let auth = Some((Integrity::HmacSha256_128, &[0; 20][..]));
        let error = Transform::new(Cipher::AesCbc, &[0; 16], auth, false).unwrap_err();
        assert_eq!(error.to_string(), "hmac-sha256-128 takes a key of 32 octets; this one has 20");
    }

    #[test]
    fn no_key_octet_is_shown() {
        let (key, auth_key) = ([0xA7; 32], [0xC9; 32]);
        let secrets = ["a7", "A7", "167", "c9", "C9", "201"];
        let transform =
            Transform::new(Cipher::AesCbc, &key, Some((Integrity::HmacSha256_128, &auth_key)), false).unwrap();
        let errors = [
            Transform::new(Cipher::AesCbc, &key[..31], None, false).unwrap_err(),
            Transform::new(Cipher::AesCbc, &key, Some((Integrity::HmacSha1_96, &auth_key)), false).unwrap_err(),
            Transform::new(Cipher::AesCbc, &key, None, false).unwrap_err(),
        ];
        let shown = format!("{transform:?} {transform:#?} {errors:?} {}", errors.map(|e| e.to_string()).join(" "));
        assert!(secrets.iter().all(|secret| !shown.contains(secret)), "{shown}");
        assert_eq!(format!("{transform:?}"), "Transform { name: \"esp-aes 256 esp-sha256-hmac\", esn: false, .. }");
    }
}
