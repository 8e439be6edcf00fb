//! The portable engine: RustCrypto, with the instructions that the CPU is found to have at run time.

use aes::cipher::consts::U16;
use aes::cipher::{Array, BlockCipherDecrypt, BlockModeDecrypt, BlockSizeUser, InnerIvInit};
use aes::{Aes128, Aes128Dec, Aes192, Aes192Dec, Aes256, Aes256Dec};
use aes_gcm::AesGcm;
use aes_gcm::aead::consts::{U8, U12};
use aes_gcm::aead::{AeadInOut, KeyInit, Nonce, Tag};
use chacha20poly1305::ChaCha20Poly1305;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};

use super::transform::SALT_LEN;
use super::{Cipher, Engine, EngineError, Integrity, OpenJob, Opener, Transform};

/// Octets of the high half of an ESN.
const ESN_HIGH_LEN: usize = 4;

/// RustCrypto's `aes-gcm` and its siblings.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Engine for Portable {
    fn name(&self) -> &'static str {
        "aes-gcm"
    }

    fn prepare(&self, transform: &Transform) -> Result<Box<dyn Opener>, EngineError> {
        let opener = match (transform.cipher(), transform.integrity()) {
            (Cipher::AesGcm { icv }, _) => aes_gcm(transform, icv),
            (Cipher::ChaCha20Poly1305, _) => aead::<ChaCha20Poly1305>(transform),
            (Cipher::AesCbc | Cipher::Null, Some(Integrity::HmacSha1_96)) => cbc_or_null::<Hmac<Sha1>>(transform),
            (Cipher::AesCbc | Cipher::Null, Some(Integrity::HmacSha256_128)) => cbc_or_null::<Hmac<Sha256>>(transform),
            (Cipher::AesCbc | Cipher::Null, Some(Integrity::HmacSha384_192)) => cbc_or_null::<Hmac<Sha384>>(transform),
            (Cipher::AesCbc | Cipher::Null, Some(Integrity::HmacSha512_256)) => cbc_or_null::<Hmac<Sha512>>(transform),
            (Cipher::AesCbc | Cipher::Null, None) => None,
        };
        opener.ok_or_else(|| EngineError::Unsupported { engine: self.name(), transform: transform.to_string() })
    }
}

fn aes_gcm(transform: &Transform, icv: u8) -> Option<Box<dyn Opener>> {
    match (transform.key_bits(), icv) {
        (128, 8) => aead::<AesGcm<Aes128, U12, U8>>(transform),
        (128, 12) => aead::<AesGcm<Aes128, U12, U12>>(transform),
        (128, 16) => aead::<AesGcm<Aes128, U12>>(transform),
        (192, 8) => aead::<AesGcm<Aes192, U12, U8>>(transform),
        (192, 12) => aead::<AesGcm<Aes192, U12, U12>>(transform),
        (192, 16) => aead::<AesGcm<Aes192, U12>>(transform),
        (256, 8) => aead::<AesGcm<Aes256, U12, U8>>(transform),
        (256, 12) => aead::<AesGcm<Aes256, U12, U12>>(transform),
        (256, 16) => aead::<AesGcm<Aes256, U12>>(transform),
        _ => None,
    }
}

fn aead<C>(transform: &Transform) -> Option<Box<dyn Opener>>
where
    C: AeadInOut<NonceSize = U12> + KeyInit + Send + Sync + 'static,
{
    let (key, salt) = transform.key.split_last_chunk::<SALT_LEN>()?;
    let cipher = C::new_from_slice(key).ok()?;
    Some(Box::new(Aead { cipher, salt: *salt, esn: transform.esn() }))
}

/// An AEAD with the nonce and additional data of ESP (RFC 4106 3 and 5, RFC 7634 2).
struct Aead<C> {
    cipher: C,
    salt: [u8; SALT_LEN],
    esn: bool,
}

impl<C: AeadInOut<NonceSize = U12> + Send + Sync> Opener for Aead<C> {
    fn open_burst(&self, jobs: &mut [OpenJob<'_>]) {
        for job in jobs {
            job.opened = self.open(job).is_some();
        }
    }
}

impl<C: AeadInOut<NonceSize = U12>> Aead<C> {
    #[inline]
    fn open(&self, job: &mut OpenJob<'_>) -> Option<()> {
        let (header, rest) = job.esp.split_first_chunk_mut::<8>()?;
        let (iv, rest) = rest.split_first_chunk_mut::<8>()?;
        let body_len = rest.len().checked_sub(Tag::<C>::default().len())?;
        let (body, tag) = rest.split_at_mut_checked(body_len)?;
        let tag = Tag::<C>::try_from(&*tag).ok()?;

        let mut nonce = Nonce::<C>::default();
        let (salt, explicit) = nonce.split_at_mut_checked(SALT_LEN)?;
        salt.copy_from_slice(&self.salt);
        explicit.copy_from_slice(iv);

        let [s0, s1, s2, s3, l0, l1, l2, l3] = *header;
        let [h0, h1, h2, h3] = job.seq_high.to_be_bytes();
        let extended = [s0, s1, s2, s3, h0, h1, h2, h3, l0, l1, l2, l3];
        let additional = if self.esn { &extended[..] } else { &header[..] };
        self.cipher.decrypt_inout_detached(&nonce, additional, body.into(), &tag).ok()
    }
}

fn cbc_or_null<M>(transform: &Transform) -> Option<Box<dyn Opener>>
where
    M: Mac + KeyInit + Clone + Send + Sync + 'static,
{
    match (transform.cipher(), transform.key_bits()) {
        (Cipher::Null, _) => encrypt_then_mac::<M, Plain>(transform),
        (_, 128) => encrypt_then_mac::<M, Cbc<Aes128Dec>>(transform),
        (_, 192) => encrypt_then_mac::<M, Cbc<Aes192Dec>>(transform),
        (_, 256) => encrypt_then_mac::<M, Cbc<Aes256Dec>>(transform),
        _ => None,
    }
}

fn encrypt_then_mac<M, D>(transform: &Transform) -> Option<Box<dyn Opener>>
where
    M: Mac + KeyInit + Clone + Send + Sync + 'static,
    D: Decrypt,
{
    let mac = <M as KeyInit>::new_from_slice(&transform.auth_key).ok()?;
    let decrypt = D::new(&transform.key)?;
    let icv_len = transform.layout().icv_len.into();
    Some(Box::new(EncryptThenMac { mac, decrypt, icv_len, esn: transform.esn() }))
}

/// A cipher with a separate MAC over the ciphertext (RFC 4303 3.4.4.1).
struct EncryptThenMac<M, D> {
    /// With the key absorbed: cloned for each packet.
    mac: M,
    decrypt: D,
    icv_len: usize,
    esn: bool,
}

impl<M: Mac + Clone + Send + Sync, D: Decrypt> Opener for EncryptThenMac<M, D> {
    fn open_burst(&self, jobs: &mut [OpenJob<'_>]) {
        for job in jobs {
            job.opened = self.open(job).is_some();
        }
    }
}

impl<M: Mac + Clone, D: Decrypt> EncryptThenMac<M, D> {
    #[inline]
    fn open(&self, job: &mut OpenJob<'_>) -> Option<()> {
        let covered = job.esp.len().checked_sub(self.icv_len)?;
        let (covered, icv) = job.esp.split_at_mut_checked(covered)?;
        let mac = self.mac.clone().chain_update(&*covered);
        if self.esn {
            // The high half is authenticated as if it stood behind the packet (RFC 4303 2.2.1).
            let extended = mac.clone().chain_update(job.seq_high.to_be_bytes()).verify_truncated_left(icv);
            // Some senders (scapy is one) leave it out while it is zero. To take their ICV as well is safe only where
            // no packet can be another one with four octets more, as an ICV over both would be the same.
            extended.or_else(|error| match job.seq_high {
                0 if D::BLOCK > ESN_HIGH_LEN => mac.verify_truncated_left(icv),
                _ => Err(error),
            })
        } else {
            mac.verify_truncated_left(icv)
        }
        .ok()?;
        let (_header, sealed) = covered.split_first_chunk_mut::<8>()?;
        self.decrypt.decrypt(sealed)
    }
}

/// A cipher without integrity, used once the MAC is found right.
trait Decrypt: Send + Sync + Sized + 'static {
    /// What the length of a ciphertext is a multiple of.
    const BLOCK: usize;

    fn new(key: &[u8]) -> Option<Self>;

    /// Decrypts in place what follows the ESP header: IV and ciphertext.
    fn decrypt(&self, sealed: &mut [u8]) -> Option<()>;
}

/// No encryption (RFC 2410).
struct Plain;

impl Decrypt for Plain {
    const BLOCK: usize = 4;

    fn new(_key: &[u8]) -> Option<Plain> {
        Some(Plain)
    }

    fn decrypt(&self, _sealed: &mut [u8]) -> Option<()> {
        Some(())
    }
}

/// AES-CBC with the IV in front (RFC 3602 3).
struct Cbc<C>(C);

impl<C> Decrypt for Cbc<C>
where
    C: BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + KeyInit + Send + Sync + 'static,
{
    const BLOCK: usize = 16;

    fn new(key: &[u8]) -> Option<Cbc<C>> {
        C::new_from_slice(key).ok().map(Cbc)
    }

    fn decrypt(&self, sealed: &mut [u8]) -> Option<()> {
        let (iv, body) = sealed.split_first_chunk_mut::<16>()?;
        let (blocks, rest) = Array::<u8, U16>::slice_as_chunks_mut(body);
        if !rest.is_empty() {
            return None;
        }
        cbc::Decryptor::<&C>::inner_iv_init(&self.0, &Array(*iv)).decrypt_blocks(blocks);
        Some(())
    }
}
