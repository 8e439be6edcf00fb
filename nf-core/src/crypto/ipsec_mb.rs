//! The engine on libipsec-mb: AES-GCM by the widest instructions that the CPU has, AES-CBC and HMAC of several packets at
//! once, everything else by the portable engine.

use ipsec_mb::Gcm;

use super::chained::Chained;
use super::engine::{Engine, EngineError, Opener, Sealer};
use super::layout::{Fields, Layout};
use super::packet_cipher::{AeadFrame, ESN_AAD_LEN, PacketCipher, TwoWay, boxed};
use super::portable::Portable;
use super::transform::{Cipher, Transform};

/// The engine. It exists only where the CPU has what the library needs.
#[derive(Clone, Copy, Debug)]
pub struct IpsecMb(());

impl IpsecMb {
    /// The engine, if this CPU can run it.
    pub fn new() -> Option<IpsecMb> {
        ipsec_mb::is_available().then_some(IpsecMb(()))
    }

    /// Its own implementation of a transform.
    fn native(transform: &Transform) -> Option<Box<dyn TwoWay>> {
        match transform.cipher() {
            Cipher::AesGcm { .. } => boxed::<GcmEsp>(transform),
            Cipher::AesCbc | Cipher::Null => Some(Box::new(Chained::new(transform)?)),
            Cipher::ChaCha20Poly1305 => None,
        }
    }
}

impl Engine for IpsecMb {
    fn name(&self) -> &'static str {
        "ipsec-mb"
    }

    fn supports(&self, transform: &Transform) -> bool {
        Portable.supports(transform)
    }

    fn prepare(&self, transform: &Transform) -> Result<Box<dyn Opener>, EngineError> {
        match Self::native(transform) {
            Some(prepared) => Ok(prepared),
            None => Portable.prepare(transform),
        }
    }

    fn prepare_seal(&self, transform: &Transform) -> Result<Box<dyn Sealer>, EngineError> {
        match Self::native(transform) {
            Some(prepared) => Ok(prepared),
            None => Portable.prepare_seal(transform),
        }
    }
}

/// ESP with AES-GCM (RFC 4106).
pub(super) struct GcmEsp {
    gcm: Gcm,
    pub(super) frame: AeadFrame,
    pub(super) layout: Layout,
}

impl PacketCipher for GcmEsp {
    fn new(transform: &Transform) -> Option<Self> {
        let (gcm, frame) = (Gcm::new(transform.key())?, AeadFrame::new(transform)?);
        Some(GcmEsp { gcm, frame, layout: transform.layout() })
    }

    /// The library decrypts before it knows the tag: a packet that isn't valid is left changed.
    #[inline]
    fn open(&self, esp: &mut [u8], seq_hi: u32) -> Option<()> {
        self.open_fields(self.layout.split(esp)?, seq_hi)
    }

    #[inline]
    fn prefetch(&self, _payload_len: usize) {
        self.gcm.prefetch();
    }

    #[inline]
    fn seal(&self, esp: &mut [u8], seq_hi: u32, iv: &[u8]) -> Option<()> {
        self.seal_fields(self.layout.split(esp)?, seq_hi, iv)
    }
}

impl GcmEsp {
    /// As [`PacketCipher::open`], of a packet that has been taken apart.
    #[inline]
    pub(super) fn open_fields(&self, fields: Fields<'_>, seq_hi: u32) -> Option<()> {
        let nonce = self.frame.nonce(fields.iv)?;
        let mut esn_aad = [0; ESN_AAD_LEN];
        let aad = self.frame.aad(fields.header, seq_hi, &mut esn_aad);
        self.gcm.open(&nonce, aad, fields.payload, fields.icv).then_some(())
    }

    /// As [`PacketCipher::seal`], of a packet that has been taken apart.
    #[inline]
    pub(super) fn seal_fields(&self, fields: Fields<'_>, seq_hi: u32, iv: &[u8]) -> Option<()> {
        let nonce = self.frame.nonce(iv)?;
        let mut esn_aad = [0; ESN_AAD_LEN];
        let aad = self.frame.aad(fields.header, seq_hi, &mut esn_aad);
        fields.iv.copy_from_slice(iv);
        self.gcm.seal(&nonce, aad, fields.payload, fields.icv).then_some(())
    }
}
