//! ESP with an AEAD: AES-GCM (RFC 4106) and ChaCha20-Poly1305 (RFC 7634), which frame it alike.

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{AeadInOut, KeyInit, Tag};

use crate::crypto::layout::Layout;
use crate::crypto::packet_cipher::{AeadFrame, ESN_AAD_LEN, PacketCipher};
use crate::crypto::transform::Transform;

/// An AEAD under an SA's key.
pub(super) struct AeadEsp<A> {
    aead: A,
    frame: AeadFrame,
    layout: Layout,
}

impl<A> PacketCipher for AeadEsp<A>
where
    A: AeadInOut<NonceSize = U12> + KeyInit + Send + Sync,
{
    fn new(transform: &Transform) -> Option<Self> {
        Some(AeadEsp {
            aead: A::new_from_slice(transform.key()).ok()?,
            frame: AeadFrame::new(transform)?,
            layout: transform.layout(),
        })
    }

    fn open(&self, esp: &mut [u8], seq_hi: u32) -> Option<()> {
        let fields = self.layout.split(esp)?;
        let nonce = self.frame.nonce(fields.iv)?.into();
        let icv: &Tag<A> = (&*fields.icv).try_into().ok()?;
        let mut esn_aad = [0; ESN_AAD_LEN];
        let aad = self.frame.aad(fields.header, seq_hi, &mut esn_aad);
        self.aead.decrypt_inout_detached(&nonce, aad, fields.payload.into(), icv).ok()
    }

    fn seal(&self, esp: &mut [u8], seq_hi: u32, iv: &[u8]) -> Option<()> {
        let fields = self.layout.split(esp)?;
        let nonce = self.frame.nonce(iv)?.into();
        let mut esn_aad = [0; ESN_AAD_LEN];
        let aad = self.frame.aad(fields.header, seq_hi, &mut esn_aad);
        let icv = self.aead.encrypt_inout_detached(&nonce, aad, fields.payload.into()).ok()?;
        fields.iv.copy_from_slice(iv);
        fields.icv.copy_from_slice(&icv);
        Some(())
    }
}
