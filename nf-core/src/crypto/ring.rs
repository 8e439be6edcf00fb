//! The engine for CPUs that have VAES and no AVX-512: AES-GCM of long packets by ring, all else as the engine on
//! libipsec-mb.
//!
//! libipsec-mb 1.3 uses VAES only together with AVX-512. ring uses it with AVX2, but spends more on each packet, so that
//! short ones are better off with the library. docs/benchmarks.md has the figures.

use ipsec_mb::Wiped;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

use super::engine::{Engine, EngineError, Opener, Sealer};
use super::ipsec_mb::{GcmEsp, IpsecMb};
use super::packet_cipher::{ESN_AAD_LEN, PacketCipher, TwoWay, boxed};
use super::transform::{Cipher, GcmIcv, Transform};

/// Octets of a payload from which on ring is the faster one: the two meet at about 700 with keys of 128 bits, and at
/// 540 with 256.
pub(super) const LONG: usize = 704;

/// The engine. It exists only where the CPU has what it needs.
#[derive(Clone, Copy, Debug)]
pub struct Ring(IpsecMb);

impl Ring {
    /// The engine, if this CPU can run it.
    pub fn new() -> Option<Ring> {
        #[cfg(target_arch = "x86_64")]
        let able = std::is_x86_feature_detected!("vaes")
            && std::is_x86_feature_detected!("vpclmulqdq")
            && std::is_x86_feature_detected!("avx2");
        #[cfg(not(target_arch = "x86_64"))]
        let able = false;
        IpsecMb::new().filter(|_| able).map(Ring)
    }

    /// Whether this is faster here than libipsec-mb alone, which is the fastest where it can use AVX-512.
    pub(super) fn pays() -> bool {
        #[cfg(target_arch = "x86_64")]
        return !std::is_x86_feature_detected!("avx512f");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    fn native(transform: &Transform) -> Option<Box<dyn TwoWay>> {
        match transform.cipher() {
            Cipher::AesGcm { icv: GcmIcv::Octets16 } => boxed::<ByLength>(transform),
            Cipher::AesGcm { .. } | Cipher::AesCbc | Cipher::ChaCha20Poly1305 | Cipher::Null => None,
        }
    }
}

impl Engine for Ring {
    fn name(&self) -> &'static str {
        "ring"
    }

    fn supports(&self, transform: &Transform) -> bool {
        self.0.supports(transform)
    }

    fn prepare(&self, transform: &Transform) -> Result<Box<dyn Opener>, EngineError> {
        match Self::native(transform) {
            Some(prepared) => Ok(prepared),
            None => self.0.prepare(transform),
        }
    }

    fn prepare_seal(&self, transform: &Transform) -> Result<Box<dyn Sealer>, EngineError> {
        match Self::native(transform) {
            Some(prepared) => Ok(prepared),
            None => self.0.prepare_seal(transform),
        }
    }
}

/// ESP with AES-GCM (RFC 4106) of 128 or 256 bits and the whole tag, which is all that ring has.
struct ByLength {
    short: GcmEsp,
    /// ring doesn't zeroise its keys.
    long: Wiped<LessSafeKey>,
}

impl PacketCipher for ByLength {
    fn new(transform: &Transform) -> Option<Self> {
        let algorithm = match transform.key().len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            _ => return None,
        };
        let long = Wiped::new(LessSafeKey::new(UnboundKey::new(algorithm, transform.key()).ok()?));
        Some(ByLength { short: GcmEsp::new(transform)?, long })
    }

    /// Both libraries decrypt before they know the tag: a packet that isn't valid is left changed.
    #[inline]
    fn open(&self, esp: &mut [u8], seq_hi: u32) -> Option<()> {
        let fields = self.short.layout.split(esp)?;
        if fields.payload.len() < LONG {
            return self.short.open_fields(fields, seq_hi);
        }
        let nonce = Nonce::assume_unique_for_key(self.short.frame.nonce(fields.iv)?);
        let mut esn_aad = [0; ESN_AAD_LEN];
        let aad = Aad::from(self.short.frame.aad(fields.header, seq_hi, &mut esn_aad));
        let icv = Tag::try_from(&*fields.icv).ok()?;
        self.long.open_in_place_separate_tag(nonce, aad, icv, fields.payload, 0..).ok().map(|_| ())
    }

    #[inline]
    fn prefetch(&self, payload_len: usize) {
        if payload_len < LONG {
            self.short.prefetch(payload_len);
        } else {
            self.long.prefetch(usize::MAX);
        }
    }

    #[inline]
    fn seal(&self, esp: &mut [u8], seq_hi: u32, iv: &[u8]) -> Option<()> {
        let fields = self.short.layout.split(esp)?;
        if fields.payload.len() < LONG {
            return self.short.seal_fields(fields, seq_hi, iv);
        }
        let nonce = Nonce::assume_unique_for_key(self.short.frame.nonce(iv)?);
        let mut esn_aad = [0; ESN_AAD_LEN];
        let aad = Aad::from(self.short.frame.aad(fields.header, seq_hi, &mut esn_aad));
        let icv = self.long.seal_in_place_separate_tag(nonce, aad, fields.payload).ok()?;
        fields.iv.copy_from_slice(iv);
        fields.icv.copy_from_slice(icv.as_ref());
        Some(())
    }
}
