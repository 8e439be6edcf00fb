//! The portable engine: the RustCrypto crates, which use the CPU's AES, carry-less multiply and SHA instructions where
//! they find them at run time.

mod aead;
mod encrypt_then_mac;

use aes::{Aes128, Aes192, Aes256};
use aes_gcm::AesGcm;
use aes_gcm::aead::consts::{U8, U12, U16};
use chacha20poly1305::ChaCha20Poly1305;
use hmac::Hmac;
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};

use self::aead::AeadEsp;
use self::encrypt_then_mac::{Cbc, EncryptThenMac, NullCipher, PayloadCipher};
use super::engine::{Engine, EngineError, Opener, Sealer};
use super::packet_cipher::{TwoWay, boxed};
use super::transform::{Cipher, GcmIcv, Integrity, Transform};

/// The portable engine. It supports every [`Transform`].
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Engine for Portable {
    fn name(&self) -> &'static str {
        "aes-gcm"
    }

    fn supports(&self, _: &Transform) -> bool {
        true
    }

    fn prepare(&self, transform: &Transform) -> Result<Box<dyn Opener>, EngineError> {
        match two_way(transform) {
            Some(prepared) => Ok(prepared),
            None => Err(self.unsupported(transform)),
        }
    }

    fn prepare_seal(&self, transform: &Transform) -> Result<Box<dyn Sealer>, EngineError> {
        match two_way(transform) {
            Some(prepared) => Ok(prepared),
            None => Err(self.unsupported(transform)),
        }
    }
}

impl Portable {
    fn unsupported(self, transform: &Transform) -> EngineError {
        EngineError::Unsupported { engine: self.name(), transform: transform.name() }
    }
}

/// Picks the types for a transform. `None` would take a key length that [`Transform::new`] refuses.
pub(super) fn two_way(transform: &Transform) -> Option<Box<dyn TwoWay>> {
    match (transform.cipher(), transform.key().len()) {
        (Cipher::AesGcm { icv }, 16) => match icv {
            GcmIcv::Octets8 => boxed::<AeadEsp<AesGcm<Aes128, U12, U8>>>(transform),
            GcmIcv::Octets12 => boxed::<AeadEsp<AesGcm<Aes128, U12, U12>>>(transform),
            GcmIcv::Octets16 => boxed::<AeadEsp<AesGcm<Aes128, U12, U16>>>(transform),
        },
        (Cipher::AesGcm { icv }, 24) => match icv {
            GcmIcv::Octets8 => boxed::<AeadEsp<AesGcm<Aes192, U12, U8>>>(transform),
            GcmIcv::Octets12 => boxed::<AeadEsp<AesGcm<Aes192, U12, U12>>>(transform),
            GcmIcv::Octets16 => boxed::<AeadEsp<AesGcm<Aes192, U12, U16>>>(transform),
        },
        (Cipher::AesGcm { icv }, 32) => match icv {
            GcmIcv::Octets8 => boxed::<AeadEsp<AesGcm<Aes256, U12, U8>>>(transform),
            GcmIcv::Octets12 => boxed::<AeadEsp<AesGcm<Aes256, U12, U12>>>(transform),
            GcmIcv::Octets16 => boxed::<AeadEsp<AesGcm<Aes256, U12, U16>>>(transform),
        },
        (Cipher::ChaCha20Poly1305, 32) => boxed::<AeadEsp<ChaCha20Poly1305>>(transform),
        (Cipher::AesCbc, 16) => with_integrity::<Cbc<Aes128>>(transform),
        (Cipher::AesCbc, 24) => with_integrity::<Cbc<Aes192>>(transform),
        (Cipher::AesCbc, 32) => with_integrity::<Cbc<Aes256>>(transform),
        (Cipher::Null, 0) => with_integrity::<NullCipher>(transform),
        _ => None,
    }
}

fn with_integrity<C: PayloadCipher + 'static>(transform: &Transform) -> Option<Box<dyn TwoWay>> {
    match transform.integrity()? {
        Integrity::HmacSha1_96 => boxed::<EncryptThenMac<C, Hmac<Sha1>>>(transform),
        Integrity::HmacSha256_128 => boxed::<EncryptThenMac<C, Hmac<Sha256>>>(transform),
        Integrity::HmacSha384_192 => boxed::<EncryptThenMac<C, Hmac<Sha384>>>(transform),
        Integrity::HmacSha512_256 => boxed::<EncryptThenMac<C, Hmac<Sha512>>>(transform),
    }
}
