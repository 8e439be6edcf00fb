//! ESP with an AEAD: AES-GCM (RFC 4106) and ChaCha20-Poly1305 (RFC 7634), which frame it alike.

use aes_gcm::aead::array::Array;
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{AeadInOut, KeyInit, Tag};
use zeroize::Zeroizing;

use super::PacketCipher;
use crate::crypto::layout::{HEADER_LEN, Layout};
use crate::crypto::transform::{SALT_LEN, Transform};

/// Octets of the nonce: the salt, then the packet's IV (RFC 4106 4, RFC 7634 2).
const NONCE_LEN: usize = 12;

/// Octets of the AAD with ESN: SPI and the whole sequence number (RFC 4106 5).
const ESN_AAD_LEN: usize = 12;

/// An AEAD under an SA's key.
pub(super) struct AeadEsp<A> {
    aead: A,
    salt: Zeroizing<[u8; SALT_LEN]>,
    esn: bool,
    layout: Layout,
}

impl<A> PacketCipher for AeadEsp<A>
where
    A: AeadInOut<NonceSize = U12> + KeyInit + Send + Sync,
{
    fn new(transform: &Transform) -> Option<Self> {
        Some(AeadEsp {
            aead: A::new_from_slice(transform.key()).ok()?,
            salt: Zeroizing::new(transform.salt().try_into().ok()?),
            esn: transform.esn(),
            layout: transform.layout(),
        })
    }

    fn open(&self, esp: &mut [u8], seq_hi: u32) -> Option<()> {
        let fields = self.layout.split(esp)?;
        let nonce = self.nonce(fields.iv)?;
        let icv: &Tag<A> = (&*fields.icv).try_into().ok()?;
        let mut esn_aad = [0; ESN_AAD_LEN];
        let aad = self.aad(fields.header, seq_hi, &mut esn_aad);
        self.aead.decrypt_inout_detached(&nonce, aad, fields.payload.into(), icv).ok()
    }

    fn seal(&self, esp: &mut [u8], seq_hi: u32, iv: &[u8]) -> Option<()> {
        let fields = self.layout.split(esp)?;
        let nonce = self.nonce(iv)?;
        let mut esn_aad = [0; ESN_AAD_LEN];
        let aad = self.aad(fields.header, seq_hi, &mut esn_aad);
        let icv = self.aead.encrypt_inout_detached(&nonce, aad, fields.payload.into()).ok()?;
        fields.iv.copy_from_slice(iv);
        fields.icv.copy_from_slice(&icv);
        Some(())
    }
}

impl<A> AeadEsp<A> {
    /// `None` where the IV doesn't fill the nonce.
    fn nonce(&self, iv: &[u8]) -> Option<Array<u8, U12>> {
        let iv: &[u8; NONCE_LEN - SALT_LEN] = iv.try_into().ok()?;
        let mut nonce = [0; NONCE_LEN];
        let (salt, rest) = nonce.split_first_chunk_mut()?;
        *salt = *self.salt;
        rest.copy_from_slice(iv);
        Some(nonce.into())
    }

    /// SPI and sequence number, as they are in the header or, with ESN, with the upper half between them.
    fn aad<'a>(&self, header: &'a [u8; HEADER_LEN], seq_hi: u32, esn_aad: &'a mut [u8; ESN_AAD_LEN]) -> &'a [u8] {
        if !self.esn {
            return header;
        }
        let [a, b, c, d, seq_lo @ ..] = *header;
        let halves = [[a, b, c, d], seq_hi.to_be_bytes(), seq_lo];
        esn_aad.copy_from_slice(halves.as_flattened());
        esn_aad
    }
}
