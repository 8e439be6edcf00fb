//! The IVs of an outbound SA: no two packets under a key have the same, and cores make them without asking each other or
//! the operating system.

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use zeroize::Zeroizing;

use super::engine::EngineError;
use super::transform::{Cipher, Transform};
use crate::types::SeqNo;

/// Octets of the longest IV.
pub const MAX_IV_LEN: usize = 16;

/// An IV for each sequence number of an SA. A number is never used twice, so neither is an IV.
pub enum IvSource {
    /// No IV.
    None,
    /// AEADs need one that doesn't repeat under the key (RFC 4106 3.1, RFC 7634 2): the sequence number in full, with a
    /// mask that is drawn when the SA is made. Within an SA that is a permutation of the numbers. The mask is for keys
    /// that come again, from a file when the program is started again, say: without it the first packet of the second
    /// run would have the IV of the first packet of the first one.
    Counter {
        /// The mask.
        mask: u64,
    },
    /// AES-CBC needs one that can't be foretold (RFC 3602 3): the sequence number, encrypted under a key that is used
    /// for nothing else (NIST SP 800-38A, appendix C).
    Encrypted {
        /// That cipher.
        cipher: Box<Aes128>,
    },
}

impl IvSource {
    /// The IVs of an SA with these algorithms.
    ///
    /// # Errors
    /// [`EngineError::NoRandom`] where the operating system gives no random octets.
    pub fn new(transform: &Transform) -> Result<IvSource, EngineError> {
        Ok(match transform.cipher() {
            Cipher::Null => IvSource::None,
            Cipher::AesGcm { .. } | Cipher::ChaCha20Poly1305 => {
                IvSource::Counter { mask: u64::from_ne_bytes(*random::<8>()?) }
            }
            Cipher::AesCbc => IvSource::Encrypted { cipher: Box::new(Aes128::new(&(*random::<16>()?).into())) },
        })
    }

    /// Writes the IV of a number, and gives its length.
    #[inline]
    pub fn write(&self, seq: SeqNo, iv: &mut [u8; MAX_IV_LEN]) -> usize {
        match self {
            IvSource::None => 0,
            IvSource::Counter { mask } => {
                let number = (seq.0 ^ mask).to_be_bytes();
                let (head, _) = iv.split_at_mut(number.len());
                head.copy_from_slice(&number);
                number.len()
            }
            IvSource::Encrypted { cipher } => {
                let mut block = u128::from(seq.0).to_be_bytes().into();
                cipher.encrypt_block(&mut block);
                *iv = block.into();
                iv.len()
            }
        }
    }
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, EngineError> {
    let mut octets = Zeroizing::new([0; N]);
    getrandom::fill(&mut *octets).map_err(|error| EngineError::NoRandom(error.to_string()))?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::crypto::{GcmIcv, Integrity};

    fn ivs(cipher: Cipher, key: &[u8]) -> Vec<Vec<u8>> {
        let auth = (!cipher.is_aead()).then_some((Integrity::HmacSha256_128, &[7; 32][..]));
        let transform = Transform::new(cipher, key, auth, true).unwrap();
        let source = IvSource::new(&transform).unwrap();
        let numbers = (0..1000).chain((1 << 32) - 500..(1 << 32) + 500).chain([u64::MAX]);
        let ivs = numbers.map(|number| {
            let mut iv = [0; MAX_IV_LEN];
            let len = source.write(SeqNo(number), &mut iv);
            assert_eq!(len, usize::from(transform.layout().iv_len));
            iv[..len].to_vec()
        });
        ivs.collect()
    }

    #[test]
    fn no_iv_comes_twice_and_another_sa_of_the_same_key_has_others() {
        for (cipher, len) in
            [(Cipher::AesGcm { icv: GcmIcv::Octets16 }, 20), (Cipher::ChaCha20Poly1305, 36), (Cipher::AesCbc, 16)]
        {
            let key = vec![0x5A; len];
            let (first, second) = (ivs(cipher, &key), ivs(cipher, &key));
            let all: HashSet<&Vec<u8>> = first.iter().chain(&second).collect();
            assert_eq!(all.len(), first.len() + second.len(), "{cipher}");
        }
    }

    #[test]
    fn null_has_none() {
        assert!(ivs(Cipher::Null, &[]).iter().all(Vec::is_empty));
    }

    /// Two packets in a row differ in half of the bits, as those of a cipher do, and not in the lowest ones.
    #[test]
    fn ivs_of_cbc_cant_be_foretold_from_those_before() {
        let ivs = ivs(Cipher::AesCbc, &[0x5A; 16]);
        let differences: Vec<u32> = ivs[..1000]
            .windows(2)
            .map(|pair| pair[0].iter().zip(&pair[1]).map(|(a, b)| (a ^ b).count_ones()).sum())
            .collect();
        let mean = f64::from(differences.iter().sum::<u32>()) / differences.len() as f64;
        assert!((60.0..68.0).contains(&mean), "{mean}");
    }
}
