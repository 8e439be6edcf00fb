//! What engines that take one packet at a time have in common.

use zeroize::Zeroizing;

use super::engine::{OpenJob, Opener, SealJob, Sealer};
use super::layout::HEADER_LEN;
use super::transform::{SALT_LEN, Transform};

/// ESP's algorithms under an SA's keys, for one packet at a time. Both directions are one type: AEADs and HMACs keep the
/// same state for either.
pub(super) trait PacketCipher: Sized + Send + Sync {
    /// `None` where the transform's keys don't have the lengths of the algorithms.
    fn new(transform: &Transform) -> Option<Self>;

    /// Verifies and decrypts; `None` where the packet isn't valid.
    fn open(&self, esp: &mut [u8], seq_hi: u32) -> Option<()>;

    /// As [`Opener::prefetch`].
    fn prefetch(&self, payload_len: usize) {
        let _ = payload_len;
    }

    /// Encrypts and authenticates; `None` where the lengths of packet or IV don't fit.
    fn seal(&self, esp: &mut [u8], seq_hi: u32, iv: &[u8]) -> Option<()>;
}

/// The loop over a burst, compiled for each [`PacketCipher`].
struct OneByOne<C>(C);

impl<C: PacketCipher> Opener for OneByOne<C> {
    fn open_burst(&self, jobs: &mut [OpenJob<'_>]) {
        for job in jobs {
            let opened = self.0.open(job.esp, job.seq_hi).is_some();
            job.finish(opened);
        }
    }

    fn prefetch(&self, payload_len: usize) {
        self.0.prefetch(payload_len);
    }
}

impl<C: PacketCipher> Sealer for OneByOne<C> {
    fn seal_burst(&self, jobs: &mut [SealJob<'_>]) {
        for job in jobs {
            let sealed = self.0.seal(job.esp, job.seq_hi, job.iv).is_some();
            job.finish(sealed);
        }
    }
}

pub(super) trait TwoWay: Opener + Sealer {}

impl<C: PacketCipher> TwoWay for OneByOne<C> {}

pub(super) fn boxed<C: PacketCipher + 'static>(transform: &Transform) -> Option<Box<dyn TwoWay>> {
    Some(Box::new(OneByOne(C::new(transform)?)))
}

/// Octets of an AEAD's nonce: the salt, then the packet's IV (RFC 4106 4, RFC 7634 2).
pub(super) const NONCE_LEN: usize = 12;

/// Octets of the AAD with ESN: SPI and the whole sequence number (RFC 4106 5).
pub(super) const ESN_AAD_LEN: usize = 12;

/// How ESP frames an AEAD, the same for all of them.
pub(super) struct AeadFrame {
    salt: Zeroizing<[u8; SALT_LEN]>,
    esn: bool,
}

impl AeadFrame {
    pub(super) fn new(transform: &Transform) -> Option<AeadFrame> {
        Some(AeadFrame { salt: Zeroizing::new(transform.salt().try_into().ok()?), esn: transform.esn() })
    }

    /// `None` where the IV doesn't fill the nonce.
    pub(super) fn nonce(&self, iv: &[u8]) -> Option<[u8; NONCE_LEN]> {
        let [a, b, c, d, rest @ ..]: [u8; NONCE_LEN - SALT_LEN] = iv.try_into().ok()?;
        Some(joined(*self.salt, [a, b, c, d], rest))
    }

    /// SPI and sequence number, as they are in the header or, with ESN, with the upper half between them.
    pub(super) fn aad<'a>(
        &self,
        header: &'a [u8; HEADER_LEN],
        seq_hi: u32,
        esn_aad: &'a mut [u8; ESN_AAD_LEN],
    ) -> &'a [u8] {
        if !self.esn {
            return header;
        }
        let [a, b, c, d, seq_lo @ ..] = *header;
        *esn_aad = joined([a, b, c, d], seq_hi.to_be_bytes(), seq_lo);
        esn_aad
    }
}

/// Three words as one string of octets, written as libipsec-mb reads it: eight octets, then four. A CPU that is to read in one
/// piece what was written in two waits until both are in its cache, and that is when the packet before is done.
#[inline]
fn joined(first: [u8; 4], second: [u8; 4], third: [u8; 4]) -> [u8; 12] {
    let word = |octets| u64::from(u32::from_le_bytes(octets));
    let pair = (word(first) | word(second) << 32).to_le_bytes();
    let mut octets = [0; 12];
    let (front, back) = octets.split_at_mut(8);
    front.copy_from_slice(&pair);
    back.copy_from_slice(&third);
    octets
}
