//! Encryption algorithms (transform type 1) that protect an IKE SA's messages: the SK payload of RFC 7296 3.14 and
//! RFC 5282, and the SKF payload of RFC 7383.

use std::fmt;

use aes::cipher::array::{Array, ArraySize};
use aes::cipher::consts::U16;
use aes::cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, BlockSizeUser, InnerIvInit, KeyInit,
};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::AesGcm;
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{AeadInOut, Tag};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::integrity::Integrity;
use super::secret::Secret;

/// The length of an AES key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AesKey {
    /// 128 bits.
    Bits128,
    /// 192 bits.
    Bits192,
    /// 256 bits.
    Bits256,
}

impl AesKey {
    /// Every length.
    pub const ALL: [AesKey; 3] = [AesKey::Bits128, AesKey::Bits192, AesKey::Bits256];

    /// The key length attribute's value.
    pub const fn bits(self) -> u16 {
        match self {
            AesKey::Bits128 => 128,
            AesKey::Bits192 => 192,
            AesKey::Bits256 => 256,
        }
    }

    /// The length of that many bits.
    pub fn from_bits(bits: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.bits() == bits)
    }

    /// The length in octets.
    pub const fn octets(self) -> usize {
        self.bits() as usize / 8
    }
}

/// A cipher of an IKE SA.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IkeCipher {
    /// AES-GCM with an ICV of 16 octets (RFC 5282).
    AesGcm16(AesKey),
    /// AES-CBC (RFC 3602), with an integrity algorithm beside it.
    AesCbc(AesKey),
}

/// ENCR_AES_CBC.
pub(crate) const ENCR_AES_CBC: u16 = 12;
/// AES-GCM with a 16-octet ICV.
pub(crate) const ENCR_AES_GCM_16: u16 = 20;

impl IkeCipher {
    /// The number in the registry "Transform Type 1".
    pub const fn transform_id(self) -> u16 {
        match self {
            IkeCipher::AesGcm16(_) => ENCR_AES_GCM_16,
            IkeCipher::AesCbc(_) => ENCR_AES_CBC,
        }
    }

    /// The key's length.
    pub const fn key(self) -> AesKey {
        match self {
            IkeCipher::AesGcm16(key) | IkeCipher::AesCbc(key) => key,
        }
    }

    /// The cipher of that number and key length attribute, where it is one of ours.
    pub fn from_transform(id: u16, key_bits: Option<u16>) -> Option<Self> {
        let key = AesKey::from_bits(key_bits?)?;
        match id {
            ENCR_AES_GCM_16 => Some(IkeCipher::AesGcm16(key)),
            ENCR_AES_CBC => Some(IkeCipher::AesCbc(key)),
            _ => None,
        }
    }

    /// True where the cipher authenticates as well.
    pub const fn is_aead(self) -> bool {
        matches!(self, IkeCipher::AesGcm16(_))
    }

    /// Octets of SK_e: the key and, for an AEAD, the salt (RFC 5282 7.1).
    pub const fn key_material_len(self) -> usize {
        match self {
            IkeCipher::AesGcm16(key) => key.octets() + SALT_LEN,
            IkeCipher::AesCbc(key) => key.octets(),
        }
    }

    /// Octets of the IV on the wire.
    pub const fn iv_len(self) -> usize {
        match self {
            IkeCipher::AesGcm16(_) => GCM_IV_LEN,
            IkeCipher::AesCbc(_) => CBC_BLOCK,
        }
    }

    /// What the plain text's length, padding included, must be a multiple of.
    pub const fn block_len(self) -> usize {
        match self {
            IkeCipher::AesGcm16(_) => 1,
            IkeCipher::AesCbc(_) => CBC_BLOCK,
        }
    }
}

impl fmt::Display for IkeCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IkeCipher::AesGcm16(key) => write!(f, "aes{}gcm16", key.bits()),
            IkeCipher::AesCbc(key) => write!(f, "aes{}", key.bits()),
        }
    }
}

const SALT_LEN: usize = 4;
const GCM_IV_LEN: usize = 8;
const GCM_ICV_LEN: usize = 16;
const CBC_BLOCK: usize = 16;

/// A message couldn't be protected or opened. An ICV that is wrong and a message that is too short are the same to
/// whoever sent it, and so they are here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtectionError {
    /// The message isn't the peer's, or was changed on its way.
    #[error("the message's integrity check failed")]
    NotAuthentic,
    /// The key has sealed as many messages as it may.
    #[error("the IKE SA's key is used up; rekey the IKE SA")]
    Exhausted,
}

/// One direction of an IKE SA: its cipher under its keys.
pub struct Protection {
    cipher: IkeCipher,
    integrity: Option<(Integrity, Secret)>,
    key: Secret,
    /// The next IV of an AEAD, which may never come twice under a key (RFC 5282 4): a counter.
    counter: u64,
}

impl Protection {
    /// Takes the keys, SK_e (salt included) and SK_a (empty with an AEAD).
    pub(super) fn new(cipher: IkeCipher, integrity: Option<Integrity>, sk_e: Secret, sk_a: Secret) -> Self {
        Protection { cipher, integrity: integrity.map(|algorithm| (algorithm, sk_a)), key: sk_e, counter: 0 }
    }

    /// Octets that the SK payload needs beside its content: IV, padding length, ICV and, at most, padding.
    pub fn overhead(&self) -> usize {
        self.cipher.iv_len() + self.cipher.block_len() + self.icv_len()
    }

    /// Octets of the IV at the beginning of the SK payload's body.
    pub fn iv_len(&self) -> usize {
        self.cipher.iv_len()
    }

    /// Octets of the ICV at the end.
    pub fn icv_len(&self) -> usize {
        match &self.integrity {
            Some((algorithm, _)) => algorithm.icv_len(),
            None => GCM_ICV_LEN,
        }
    }

    /// Octets of the SK payload's body for a content of that length.
    pub fn sealed_len(&self, content: usize) -> usize {
        self.iv_len() + (content + 1).next_multiple_of(self.cipher.block_len()) + self.icv_len()
    }

    /// Appends the body of an SK or SKF payload to `message`, which ends after that payload's header: IV, encrypted
    /// content and ICV, over all that is in `message` already. The lengths in the headers are there already, so they
    /// count on [`Protection::sealed_len`].
    pub fn seal(
        &mut self,
        message: &mut Vec<u8>,
        content: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<(), ProtectionError> {
        let padded = (content.len() + 1).next_multiple_of(self.cipher.block_len());
        let mut plain = Zeroizing::new(Vec::with_capacity(padded));
        plain.extend_from_slice(content);
        plain.resize(padded, 0);
        if let (Some(last), Ok(pad_len)) = (plain.last_mut(), u8::try_from(padded - content.len() - 1)) {
            *last = pad_len;
        }
        match self.cipher {
            IkeCipher::AesGcm16(_) => {
                let iv = self.counter.to_be_bytes();
                self.counter = self.counter.checked_add(1).ok_or(ProtectionError::Exhausted)?;
                let icv = self.gcm_seal(&iv, message, &mut plain).ok_or(ProtectionError::Exhausted)?;
                message.extend_from_slice(&iv);
                message.extend_from_slice(&plain);
                message.extend_from_slice(&icv);
            }
            IkeCipher::AesCbc(_) => {
                // CBC wants an IV that can't be foretold.
                let mut iv = [0; CBC_BLOCK];
                rng.fill_bytes(&mut iv);
                self.cbc(&iv, &mut plain, Direction::Encrypt).ok_or(ProtectionError::Exhausted)?;
                message.extend_from_slice(&iv);
                message.extend_from_slice(&plain);
                if let Some((algorithm, key)) = &self.integrity {
                    let icv = algorithm.icv(key.expose(), &[message]);
                    message.extend_from_slice(&icv);
                }
            }
        }
        Ok(())
    }

    /// Verifies a message whose SK or SKF payload has its body at `body_start` and is the last, and gives the content
    /// without padding.
    pub fn open(&self, message: &[u8], body_start: usize) -> Result<Zeroizing<Vec<u8>>, ProtectionError> {
        self.try_open(message, body_start).ok_or(ProtectionError::NotAuthentic)
    }

    fn try_open(&self, message: &[u8], body_start: usize) -> Option<Zeroizing<Vec<u8>>> {
        let (authenticated, icv) = message.split_at_checked(message.len().checked_sub(self.icv_len())?)?;
        let (header, body) = authenticated.split_at_checked(body_start)?;
        let (iv, encrypted) = body.split_at_checked(self.iv_len())?;
        let mut plain = Zeroizing::new(encrypted.to_vec());
        match &self.integrity {
            None => self.gcm_open(iv, header, &mut plain, icv)?,
            Some((algorithm, key)) => {
                if !algorithm.verify(key.expose(), &[authenticated], icv) {
                    return None;
                }
                self.cbc(iv, &mut plain, Direction::Decrypt)?;
            }
        }
        let pad_len = usize::from(*plain.last()?);
        let content = plain.len().checked_sub(pad_len + 1)?;
        plain.truncate(content);
        Some(plain)
    }

    fn gcm_parts(&self, iv: &[u8]) -> Option<(&[u8], [u8; 12])> {
        let (key, salt) = self.key.expose().split_at_checked(self.cipher.key().octets())?;
        let mut nonce = [0; 12];
        nonce.get_mut(..SALT_LEN)?.copy_from_slice(salt);
        nonce.get_mut(SALT_LEN..)?.copy_from_slice(iv);
        Some((key, nonce))
    }

    fn gcm_seal(&self, iv: &[u8], aad: &[u8], plain: &mut [u8]) -> Option<[u8; GCM_ICV_LEN]> {
        let (key, nonce) = self.gcm_parts(iv)?;
        match self.cipher.key() {
            AesKey::Bits128 => gcm_seal::<AesGcm<Aes128, U12>>(key, nonce, aad, plain),
            AesKey::Bits192 => gcm_seal::<AesGcm<Aes192, U12>>(key, nonce, aad, plain),
            AesKey::Bits256 => gcm_seal::<AesGcm<Aes256, U12>>(key, nonce, aad, plain),
        }
    }

    fn gcm_open(&self, iv: &[u8], aad: &[u8], body: &mut [u8], icv: &[u8]) -> Option<()> {
        let (key, nonce) = self.gcm_parts(iv)?;
        match self.cipher.key() {
            AesKey::Bits128 => gcm_open::<AesGcm<Aes128, U12>>(key, nonce, aad, body, icv),
            AesKey::Bits192 => gcm_open::<AesGcm<Aes192, U12>>(key, nonce, aad, body, icv),
            AesKey::Bits256 => gcm_open::<AesGcm<Aes256, U12>>(key, nonce, aad, body, icv),
        }
    }

    fn cbc(&self, iv: &[u8], octets: &mut [u8], direction: Direction) -> Option<()> {
        let key = self.key.expose();
        match self.cipher.key() {
            AesKey::Bits128 => cbc::<Aes128>(key, iv, octets, direction),
            AesKey::Bits192 => cbc::<Aes192>(key, iv, octets, direction),
            AesKey::Bits256 => cbc::<Aes256>(key, iv, octets, direction),
        }
    }
}

impl fmt::Debug for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protection").field("cipher", &self.cipher).finish_non_exhaustive()
    }
}

fn gcm_seal<A>(key: &[u8], nonce: [u8; 12], aad: &[u8], plain: &mut [u8]) -> Option<[u8; GCM_ICV_LEN]>
where
    A: AeadInOut<NonceSize = U12, TagSize = U16> + KeyInit,
{
    let aead = A::new_from_slice(key).ok()?;
    aead.encrypt_inout_detached(&nonce.into(), aad, plain.into()).ok().map(Into::into)
}

fn gcm_open<A>(key: &[u8], nonce: [u8; 12], aad: &[u8], body: &mut [u8], icv: &[u8]) -> Option<()>
where
    A: AeadInOut<NonceSize = U12, TagSize = U16> + KeyInit,
{
    let aead = A::new_from_slice(key).ok()?;
    let icv: &Tag<A> = icv.try_into().ok()?;
    aead.decrypt_inout_detached(&nonce.into(), aad, body.into(), icv).ok()
}

#[derive(Clone, Copy)]
enum Direction {
    Encrypt,
    Decrypt,
}

fn cbc<B>(key: &[u8], iv: &[u8], octets: &mut [u8], direction: Direction) -> Option<()>
where
    B: KeyInit + BlockSizeUser<BlockSize = U16> + BlockCipherEncrypt + BlockCipherDecrypt,
{
    let cipher = B::new_from_slice(key).ok()?;
    let iv = iv.try_into().ok()?;
    let blocks = whole_blocks(octets)?;
    match direction {
        Direction::Encrypt => cbc::Encryptor::inner_iv_init(&cipher, iv).encrypt_blocks(blocks),
        Direction::Decrypt => cbc::Decryptor::inner_iv_init(&cipher, iv).decrypt_blocks(blocks),
    }
    Some(())
}

fn whole_blocks<N: ArraySize>(octets: &mut [u8]) -> Option<&mut [Array<u8, N>]> {
    let (blocks, rest) = Array::slice_as_chunks_mut(octets);
    rest.is_empty().then_some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn suites() -> Vec<(IkeCipher, Option<Integrity>)> {
        let mut suites = Vec::new();
        for key in AesKey::ALL {
            suites.push((IkeCipher::AesGcm16(key), None));
            for integrity in [Integrity::HmacSha256_128, Integrity::HmacSha384_192, Integrity::HmacSha512_256] {
                suites.push((IkeCipher::AesCbc(key), Some(integrity)));
            }
        }
        suites
    }

    fn protection((cipher, integrity): (IkeCipher, Option<Integrity>)) -> Protection {
        let sk_a = vec![2; integrity.map_or(0, Integrity::key_len)];
        Protection::new(cipher, integrity, Secret::new(vec![1; cipher.key_material_len()]), Secret::new(sk_a))
    }

    #[test]
    fn what_is_sealed_opens_and_has_the_length_foretold() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        for suite in suites() {
            let mut sender = protection(suite);
            let receiver = protection(suite);
            for len in [0, 1, 15, 16, 17, 100, 1500] {
                let content: Vec<u8> = (0..len).map(|i| i as u8).collect();
                let mut message = b"an IKE header and an SK header..".to_vec();
                let start = message.len();
                sender.seal(&mut message, &content, &mut rng).unwrap();
                assert_eq!(message.len() - start, sender.sealed_len(len), "{suite:?} {len}");
                assert!(sender.sealed_len(len) <= len + sender.overhead());
                assert_eq!(*receiver.open(&message, start).unwrap(), content);
            }
        }
    }

    #[test]
    fn any_changed_octet_is_noticed() {
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        for suite in suites() {
            let mut message = b"header".to_vec();
            let mut protection = protection(suite);
            protection.seal(&mut message, b"content", &mut rng).unwrap();
            for at in 0..message.len() {
                let mut changed = message.clone();
                changed[at] ^= 0x10;
                assert_eq!(protection.open(&changed, 6), Err(ProtectionError::NotAuthentic), "{suite:?} octet {at}");
            }
            for len in 0..message.len() {
                assert!(protection.open(&message[..len], 6).is_err());
            }
        }
    }

    #[test]
    fn no_iv_comes_twice() {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        for suite in suites() {
            let mut protection = protection(suite);
            let ivs: std::collections::HashSet<Vec<u8>> = (0..50)
                .map(|_| {
                    let mut message = Vec::new();
                    protection.seal(&mut message, b"", &mut rng).unwrap();
                    message[..protection.iv_len()].to_vec()
                })
                .collect();
            assert_eq!(ivs.len(), 50);
        }
    }
}
