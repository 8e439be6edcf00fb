//! ESP with a cipher and an integrity algorithm of their own: encrypt, then authenticate (RFC 4303 3.3.2.1); verify,
//! then decrypt (RFC 4303 3.4.4.1).

use aes::cipher::array::{Array, ArraySize};
use aes::cipher::consts::U16;
use aes::cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, BlockSizeUser, InnerIvInit, KeyInit,
};
use hmac::Mac;

use crate::crypto::layout::Layout;
use crate::crypto::packet_cipher::PacketCipher;
use crate::crypto::transform::Transform;

/// A cipher that only encrypts. Its methods give `None` where IV or payload don't have the lengths it needs.
pub(super) trait PayloadCipher: Sized + Send + Sync {
    fn new(key: &[u8]) -> Option<Self>;
    fn encrypt(&self, iv: &[u8], payload: &mut [u8]) -> Option<()>;
    fn decrypt(&self, iv: &[u8], payload: &mut [u8]) -> Option<()>;
}

/// A block cipher in CBC mode (RFC 3602).
pub(super) struct Cbc<B>(B);

impl<B> PayloadCipher for Cbc<B>
where
    B: KeyInit + BlockSizeUser<BlockSize = U16> + BlockCipherEncrypt + BlockCipherDecrypt + Send + Sync,
{
    fn new(key: &[u8]) -> Option<Self> {
        B::new_from_slice(key).ok().map(Cbc)
    }

    fn encrypt(&self, iv: &[u8], payload: &mut [u8]) -> Option<()> {
        let mut mode = cbc::Encryptor::inner_iv_init(&self.0, iv.try_into().ok()?);
        mode.encrypt_blocks(whole_blocks(payload)?);
        Some(())
    }

    fn decrypt(&self, iv: &[u8], payload: &mut [u8]) -> Option<()> {
        let mut mode = cbc::Decryptor::inner_iv_init(&self.0, iv.try_into().ok()?);
        mode.decrypt_blocks(whole_blocks(payload)?);
        Some(())
    }
}

fn whole_blocks<N: ArraySize>(payload: &mut [u8]) -> Option<&mut [Array<u8, N>]> {
    let (blocks, rest) = Array::slice_as_chunks_mut(payload);
    rest.is_empty().then_some(blocks)
}

/// No encryption (RFC 2410).
pub(super) struct NullCipher;

impl PayloadCipher for NullCipher {
    fn new(key: &[u8]) -> Option<Self> {
        key.is_empty().then_some(NullCipher)
    }

    fn encrypt(&self, iv: &[u8], _: &mut [u8]) -> Option<()> {
        iv.is_empty().then_some(())
    }

    fn decrypt(&self, iv: &[u8], _: &mut [u8]) -> Option<()> {
        iv.is_empty().then_some(())
    }
}

/// A cipher and a MAC under an SA's keys.
pub(super) struct EncryptThenMac<C, M> {
    cipher: C,
    /// The MAC with its key absorbed: a packet's MAC starts from a copy.
    mac: M,
    esn: bool,
    layout: Layout,
}

impl<C, M> PacketCipher for EncryptThenMac<C, M>
where
    C: PayloadCipher,
    M: Mac + KeyInit + Clone + Send + Sync,
{
    fn new(transform: &Transform) -> Option<Self> {
        let (_, auth_key) = transform.auth()?;
        Some(EncryptThenMac {
            cipher: C::new(transform.key())?,
            mac: <M as KeyInit>::new_from_slice(auth_key).ok()?,
            esn: transform.esn(),
            layout: transform.layout(),
        })
    }

    fn open(&self, esp: &mut [u8], seq_hi: u32) -> Option<()> {
        let icv_start = self.layout.payload_range(esp.len())?.end;
        let (authenticated, icv) = esp.split_at_checked(icv_start)?;
        self.verify(authenticated, seq_hi, icv)?;
        let fields = self.layout.split(esp)?;
        self.cipher.decrypt(fields.iv, fields.payload)
    }

    fn seal(&self, esp: &mut [u8], seq_hi: u32, iv: &[u8]) -> Option<()> {
        let fields = self.layout.split(esp)?;
        if iv.len() != fields.iv.len() {
            return None;
        }
        self.cipher.encrypt(iv, fields.payload)?;
        fields.iv.copy_from_slice(iv);
        let icv_start = self.layout.payload_range(esp.len())?.end;
        let (authenticated, icv) = esp.split_at_mut_checked(icv_start)?;
        let mut mac = self.mac.clone().chain_update(authenticated);
        if self.esn {
            mac.update(&seq_hi.to_be_bytes());
        }
        let mac = mac.finalize().into_bytes();
        icv.copy_from_slice(mac.get(..icv.len())?);
        Some(())
    }
}

impl<C, M: Mac + Clone> EncryptThenMac<C, M> {
    /// Compares the ICV with the MAC over what comes before it and, with ESN, the upper half of the sequence number,
    /// which follows for the MAC alone (RFC 4303 2.2.1).
    fn verify(&self, authenticated: &[u8], seq_hi: u32, icv: &[u8]) -> Option<()> {
        let mac = self.mac.clone().chain_update(authenticated);
        if !self.esn {
            return mac.verify_truncated_left(icv).ok();
        }
        // Some senders (older versions of scapy are one) leave the upper half of the sequence number out of the ICV.
        // While it is 0 nothing is lost by taking their packets too. But an ICV is then right for two packets, the one
        // with four octets more than the other, and only blocks of more than four octets make sure that one of the two
        // can't be a packet.
        let tolerant = seq_hi == 0 && usize::from(self.layout.block) > size_of_val(&seq_hi);
        let without_upper_half = tolerant.then(|| mac.clone());
        let verified = mac.chain_update(seq_hi.to_be_bytes()).verify_truncated_left(icv).ok();
        verified.or_else(|| without_upper_half?.verify_truncated_left(icv).ok())
    }
}
