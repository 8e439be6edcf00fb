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
use super::scrub::scrubbed;
use super::secret::Secret;
use crate::wire::{Sk, SkFrame, SkLayout, strip_padding};

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
    /// The message was laid out for another cipher.
    #[error("the message was laid out for another cipher than the IKE SA's")]
    Layout,
}

fn copy(to: &mut [u8], from: &[u8]) -> Result<(), ProtectionError> {
    if to.len() != from.len() {
        return Err(ProtectionError::Layout);
    }
    to.copy_from_slice(from);
    Ok(())
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

    /// What the cipher adds to a message.
    pub fn layout(&self) -> SkLayout {
        let icv = match &self.integrity {
            Some((algorithm, _)) => algorithm.icv_len(),
            None => GCM_ICV_LEN,
        };
        SkLayout { iv: self.cipher.iv_len(), block: self.cipher.block_len(), icv }
    }

    /// Encrypts a message that was laid out for [`Protection::layout`].
    pub fn seal(&mut self, frame: SkFrame, rng: &mut dyn CryptoRng) -> Result<Vec<u8>, ProtectionError> {
        scrubbed(|| self.try_seal(frame, rng))
    }

    fn try_seal(&mut self, mut frame: SkFrame, rng: &mut dyn CryptoRng) -> Result<Vec<u8>, ProtectionError> {
        match self.cipher {
            IkeCipher::AesGcm16(_) => {
                let iv = self.counter.to_be_bytes();
                self.counter = self.counter.checked_add(1).ok_or(ProtectionError::Exhausted)?;
                let parts = frame.parts_mut();
                let icv = self.gcm_seal(&iv, parts.aad, parts.text).ok_or(ProtectionError::Layout)?;
                copy(parts.iv, &iv)?;
                copy(parts.icv, &icv)?;
            }
            IkeCipher::AesCbc(_) => {
                // CBC wants an IV that can't be foretold.
                let mut iv = [0; CBC_BLOCK];
                rng.fill_bytes(&mut iv);
                let parts = frame.parts_mut();
                self.cbc(&iv, parts.text, Direction::Encrypt).ok_or(ProtectionError::Layout)?;
                copy(parts.iv, &iv)?;
                if let Some((algorithm, key)) = &self.integrity {
                    let (authenticated, icv) = frame.authenticated_and_icv();
                    copy(icv, &algorithm.icv(key.expose(), &[authenticated]))?;
                }
            }
        }
        Ok(frame.into_message())
    }

    /// Verifies the encrypted part of a message and gives its content, without padding.
    pub fn open(&self, sk: &Sk<'_>) -> Result<Zeroizing<Vec<u8>>, ProtectionError> {
        scrubbed(|| self.try_open(sk)).ok_or(ProtectionError::NotAuthentic)
    }

    fn try_open(&self, sk: &Sk<'_>) -> Option<Zeroizing<Vec<u8>>> {
        let parts = sk.parts(self.layout()).ok()?;
        let mut plain = Zeroizing::new(parts.ciphertext.to_vec());
        match &self.integrity {
            None => self.gcm_open(parts.iv, parts.aad, &mut plain, parts.icv)?,
            Some((algorithm, key)) => {
                if !algorithm.verify(key.expose(), &[parts.authenticated], parts.icv) {
                    return None;
                }
                self.cbc(parts.iv, &mut plain, Direction::Decrypt)?;
            }
        }
        let content = strip_padding(&plain).ok()?.len();
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
    use crate::wire::{Chain, ExchangeType, Flags, Header, IkeSpi, Message, MessageId, PayloadType, Version};
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

    fn frame(protection: &Protection, content: &[u8]) -> SkFrame {
        let header = Header {
            initiator_spi: IkeSpi([1; 8]),
            responder_spi: IkeSpi([2; 8]),
            version: Version::V2,
            exchange: ExchangeType::INFORMATIONAL,
            flags: Flags::default(),
            message_id: MessageId(7),
        };
        let chain = Chain { first: PayloadType::VENDOR_ID, octets: content.to_vec() };
        SkFrame::new(&header, &chain, protection.layout()).unwrap()
    }

    fn open(protection: &Protection, message: &[u8]) -> Option<Vec<u8>> {
        let sk = Message::parse(message).ok()?.sk?;
        protection.open(&sk).ok().map(|content| content.to_vec())
    }

    #[test]
    fn what_is_sealed_opens() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        for suite in suites() {
            let mut sender = protection(suite);
            let receiver = protection(suite);
            for len in [0, 1, 15, 16, 17, 100, 1500] {
                let content: Vec<u8> = (0..len).map(|i| i as u8).collect();
                let message = sender.seal(frame(&sender, &content), &mut rng).unwrap();
                assert_eq!(open(&receiver, &message).unwrap(), content, "{suite:?} {len}");
            }
        }
    }

    #[test]
    fn any_changed_octet_is_noticed() {
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        for suite in suites() {
            let mut protection = protection(suite);
            let message = protection.seal(frame(&protection, b"content"), &mut rng).unwrap();
            for at in 0..message.len() {
                let mut changed = message.clone();
                changed[at] ^= 0x10;
                assert_eq!(open(&protection, &changed), None, "{suite:?} octet {at}");
            }
            for len in 0..message.len() {
                assert_eq!(open(&protection, &message[..len]), None);
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
                    let message = protection.seal(frame(&protection, b""), &mut rng).unwrap();
                    let sk = Message::parse(&message).unwrap().sk.unwrap();
                    sk.parts(protection.layout()).unwrap().iv.to_vec()
                })
                .collect();
            assert_eq!(ivs.len(), 50);
        }
    }

    #[test]
    fn a_frame_for_another_cipher_is_an_error() {
        let mut rng = ChaCha20Rng::seed_from_u64(6);
        let mut gcm = protection((IkeCipher::AesGcm16(AesKey::Bits128), None));
        let cbc = protection((IkeCipher::AesCbc(AesKey::Bits128), Some(Integrity::HmacSha256_128)));
        assert_eq!(gcm.seal(frame(&cbc, b"content"), &mut rng), Err(ProtectionError::Layout));
    }
}
