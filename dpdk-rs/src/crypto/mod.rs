//! Crypto devices (`rte_cryptodev`): sessions that open packets or seal them, and queues that packets go through and come
//! back from in order.

mod device;
mod queue;

pub use device::{CryptoConfig, CryptoDevice, CryptoSession};
pub use queue::{CryptoQueue, CryptoStatus, CryptoWork};

use crate::sys;

/// The longest IV in bytes.
pub(crate) const MAX_IV: usize = sys::SHIM_CRYPTO_MAX_IV as usize;
/// The longest additional authenticated data in bytes.
pub(crate) const MAX_AAD: usize = sys::SHIM_CRYPTO_MAX_AAD as usize;
/// The longest ICV in bytes.
pub(crate) const MAX_ICV: usize = sys::SHIM_CRYPTO_MAX_ICV as usize;

/// What a session does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CryptoDirection {
    /// Verifies and decrypts.
    Open,
    /// Encrypts, then makes the ICV.
    Seal,
}

/// What a session encrypts or decrypts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CryptoCipher {
    /// AES in Galois/Counter Mode, an AEAD.
    AesGcm,
    /// ChaCha20 and Poly1305, an AEAD.
    ChaCha20Poly1305,
    /// AES in Cipher Block Chaining mode.
    AesCbc,
}

/// What a session authenticates with, where its cipher doesn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CryptoAuth {
    /// HMAC-SHA1.
    HmacSha1,
    /// HMAC-SHA-256.
    HmacSha256,
    /// HMAC-SHA-384.
    HmacSha384,
    /// HMAC-SHA-512.
    HmacSha512,
}

/// What the operations of a session do.
#[derive(Clone, Copy)]
pub struct CryptoTransform<'k> {
    /// Which way packets go.
    pub direction: CryptoDirection,
    /// The cipher with its key; none to authenticate alone.
    pub cipher: Option<(CryptoCipher, &'k [u8])>,
    /// The integrity algorithm with its key; with every cipher that is not an AEAD, and only then.
    pub auth: Option<(CryptoAuth, &'k [u8])>,
    /// Bytes of the IV.
    pub iv_len: u8,
    /// Bytes of the additional authenticated data of an AEAD.
    pub aad_len: u8,
    /// Bytes of the ICV.
    pub icv_len: u8,
}

impl CryptoCipher {
    fn is_aead(self) -> bool {
        matches!(self, Self::AesGcm | Self::ChaCha20Poly1305)
    }

    fn raw(self) -> u32 {
        match self {
            Self::AesGcm => sys::SHIM_CRYPTO_AES_GCM,
            Self::ChaCha20Poly1305 => sys::SHIM_CRYPTO_CHACHA20_POLY1305,
            Self::AesCbc => sys::SHIM_CRYPTO_AES_CBC,
        }
    }
}

impl CryptoAuth {
    fn raw(self) -> u32 {
        match self {
            Self::HmacSha1 => sys::SHIM_CRYPTO_HMAC_SHA1,
            Self::HmacSha256 => sys::SHIM_CRYPTO_HMAC_SHA256,
            Self::HmacSha384 => sys::SHIM_CRYPTO_HMAC_SHA384,
            Self::HmacSha512 => sys::SHIM_CRYPTO_HMAC_SHA512,
        }
    }
}

impl CryptoTransform<'_> {
    /// Whether it is an AEAD.
    pub(crate) fn is_aead(&self) -> bool {
        self.cipher.is_some_and(|(cipher, _)| cipher.is_aead())
    }

    /// As the shim takes it; `None` where its parts don't go together. The keys are borrowed.
    pub(crate) fn raw(&self) -> Option<sys::shim_crypto_transform> {
        let lengths = [(self.iv_len, MAX_IV), (self.aad_len, MAX_AAD), (self.icv_len, MAX_ICV)];
        if self.is_aead() == self.auth.is_some() || (self.cipher.is_none() && self.auth.is_none()) {
            return None;
        }
        if self.icv_len == 0 || lengths.iter().any(|(len, max)| usize::from(*len) > *max) {
            return None;
        }
        let key = self.cipher.map_or(&[][..], |(_, key)| key);
        let auth_key = self.auth.map_or(&[][..], |(_, key)| key);
        Some(sys::shim_crypto_transform {
            cipher: self.cipher.map_or(0, |(cipher, _)| cipher.raw()).try_into().ok()?,
            auth: self.auth.map_or(0, |(auth, _)| auth.raw()).try_into().ok()?,
            seals: (self.direction == CryptoDirection::Seal).into(),
            key: key.as_ptr(),
            auth_key: auth_key.as_ptr(),
            key_len: key.len().try_into().ok()?,
            auth_key_len: auth_key.len().try_into().ok()?,
            iv_len: self.iv_len.into(),
            aad_len: self.aad_len.into(),
            icv_len: self.icv_len.into(),
        })
    }
}
