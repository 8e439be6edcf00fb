//! AES-CBC and HMAC of several packets at once.

use subtle::{Choice, ConstantTimeEq};

use crate::chain::{AesKey, ChainKey, Hash};
use crate::manager::Manager;
use crate::{as_number, sys};

/// How many packets one call takes.
pub const MAX_JOBS: usize = 64;

/// Octets of an AES block, and of AES-CBC's IV.
const BLOCK: usize = 16;

/// The longest message: the library counts in 16 bits.
const MAX_LEN: usize = u16::MAX as usize - 1;

/// With fewer packets than this the lanes of the widest instructions cost more than one packet after the other does.
const FEWEST_IN_WIDE_LANES: usize = 3;

/// The MAC of a packet, to be compared with what is in it.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub struct Mac {
    octets: [u8; 32],
    len: usize,
}

impl Mac {
    /// The octets, as many as [`Hash::mac_len`] says.
    #[inline]
    pub fn octets(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }

    /// Whether this is the MAC in a packet, compared in constant time.
    #[inline]
    #[must_use]
    pub fn is(&self, icv: &[u8]) -> bool {
        let own = self.octets();
        let halves = own.chunks(BLOCK).zip(icv.chunks(BLOCK));
        let equal = halves.fold(Choice::from(1), |equal, (own, icv)| match (as_number(own), as_number(icv)) {
            (Some(own), Some(icv)) => equal & own.ct_eq(&icv),
            _ => Choice::from(0),
        });
        own.len() == icv.len() && !own.is_empty() && equal.into()
    }
}

/// The library's descriptions of packets, written anew for each call.
struct Jobs(Box<[sys::IMB_JOB; MAX_JOBS]>);

// SAFETY: the pointers in it are followed during a call alone, which has just written them.
unsafe impl Send for Jobs {}

/// One thread's lanes: several packets are worked on at once in each call, and none is left in them after it.
pub struct MultiBuffer {
    widest: Manager,
    /// For SHA-1 and SHA-256: it gains from the second packet on, and loses nothing with one.
    sha: Option<Manager>,
    jobs: Jobs,
    macs: Box<[Mac; MAX_JOBS]>,
}

impl MultiBuffer {
    /// Lanes for a thread, some 400 kB. None where the library can't run, or gets no memory.
    pub fn new() -> Option<MultiBuffer> {
        // SAFETY: a job is plain numbers, and pointers for which null is valid.
        let jobs = Jobs(Box::new(std::array::from_fn(|_| unsafe { std::mem::zeroed() })));
        let macs = Box::new([Mac { octets: [0; 32], len: 0 }; MAX_JOBS]);
        Some(MultiBuffer { widest: Manager::widest()?, sha: Manager::with_sha(), jobs, macs })
    }

    /// Whether so many packets with this hash are done faster here than one after the other.
    #[inline]
    pub fn pays(&self, hash: Hash, packets: usize) -> bool {
        packets >= FEWEST_IN_WIDE_LANES || (self.sha.is_some() && has_instructions(hash))
    }

    /// The MACs of messages, in their order. None where a key is for another hash, where a message is empty or longer than
    /// 65,534 octets, or where there are more than [`MAX_JOBS`].
    pub fn macs<'j>(
        &mut self,
        hash: Hash,
        messages: impl IntoIterator<Item = (&'j ChainKey, &'j [u8])>,
    ) -> Option<&[Mac]> {
        let mut count = 0;
        for (key, message) in messages {
            let (job, mac) = (self.jobs.0.get_mut(count)?, self.macs.get_mut(count)?);
            if key.hash() != hash || !(1..=MAX_LEN).contains(&message.len()) {
                return None;
            }
            mac.len = hash.mac_len();
            job.hash_alg = match hash {
                Hash::Sha1 => sys::IMB_HASH_ALG_IMB_AUTH_HMAC_SHA_1,
                Hash::Sha256 => sys::IMB_HASH_ALG_IMB_AUTH_HMAC_SHA_256,
                Hash::Sha384 => sys::IMB_HASH_ALG_IMB_AUTH_HMAC_SHA_384,
                Hash::Sha512 => sys::IMB_HASH_ALG_IMB_AUTH_HMAC_SHA_512,
            };
            job.__bindgen_anon_1.src = message.as_ptr();
            job.hash_start_src_offset_in_bytes = 0;
            job.__bindgen_anon_5.msg_len_to_hash_in_bytes = message.len() as u64;
            job.auth_tag_output = mac.octets.as_mut_ptr();
            job.auth_tag_output_len_in_bytes = mac.len as u64;
            job.u.HMAC._hashed_auth_key_xor_ipad = key.expanded.inner.as_ptr();
            job.u.HMAC._hashed_auth_key_xor_opad = key.expanded.outer.as_ptr();
            count += 1;
        }
        let manager = match &mut self.sha {
            Some(sha) if has_instructions(hash) => sha,
            _ => &mut self.widest,
        };
        let submit = manager.functions().submit_hash_burst_nocheck?;
        let alg = self.jobs.0.first()?.hash_alg;
        // SAFETY: the first `count` jobs were written just now. What they point to outlives the call: keys and messages
        // for `'j`, the MACs in `self`, each with room for the longest. The call is done with all of them when it returns.
        let done = unsafe { submit(manager.as_mut_ptr(), self.jobs.0.as_mut_ptr(), count as u32, alg) };
        if done as usize != count {
            manager.reset();
            return None;
        }
        self.macs.get(..count)
    }

    /// Encrypts by AES-CBC in place. Each packet has a key, an IV and whole blocks. None, and packets that mean nothing, where
    /// a key has another length, data isn't whole blocks, is empty or longer than 65,534 octets, or where there are more than
    /// [`MAX_JOBS`].
    pub fn encrypt<'j>(&mut self, aes: AesKey, packets: impl IntoIterator<Item = Cbc<'j>>) -> Option<()> {
        self.cbc(aes, sys::IMB_CIPHER_DIRECTION_IMB_DIR_ENCRYPT, packets)
    }

    /// Decrypts by AES-CBC in place, as [`MultiBuffer::encrypt`] encrypts.
    pub fn decrypt<'j>(&mut self, aes: AesKey, packets: impl IntoIterator<Item = Cbc<'j>>) -> Option<()> {
        self.cbc(aes, sys::IMB_CIPHER_DIRECTION_IMB_DIR_DECRYPT, packets)
    }

    fn cbc<'j>(
        &mut self,
        aes: AesKey,
        direction: sys::IMB_CIPHER_DIRECTION,
        packets: impl IntoIterator<Item = Cbc<'j>>,
    ) -> Option<()> {
        let mut count = 0;
        for Cbc { key, iv, data } in packets {
            let job = self.jobs.0.get_mut(count)?;
            if key.aes() != Some(aes) || !data.len().is_multiple_of(BLOCK) || !(1..=MAX_LEN).contains(&data.len()) {
                return None;
            }
            job.cipher_mode = sys::IMB_CIPHER_MODE_IMB_CIPHER_CBC;
            job.cipher_direction = direction;
            job.enc_keys = key.expanded.encrypt.as_ptr().cast();
            job.dec_keys = key.expanded.decrypt.as_ptr().cast();
            job.key_len_in_bytes = aes.octets() as u64;
            let memory = data.as_mut_ptr();
            job.__bindgen_anon_1.src = memory;
            job.__bindgen_anon_2.dst = memory;
            job.__bindgen_anon_3.cipher_start_src_offset_in_bytes = 0;
            job.__bindgen_anon_4.msg_len_to_cipher_in_bytes = data.len() as u64;
            job.iv = iv.as_ptr();
            job.iv_len_in_bytes = BLOCK as u64;
            count += 1;
        }
        let submit = self.widest.functions().submit_cipher_burst_nocheck?;
        let (mode, key_len) = (sys::IMB_CIPHER_MODE_IMB_CIPHER_CBC, aes.octets() as sys::IMB_KEY_SIZE_BYTES);
        let (manager, jobs) = (self.widest.as_mut_ptr(), self.jobs.0.as_mut_ptr());
        // SAFETY: the first `count` jobs were written just now. What they point to outlives the call, for `'j`; source and
        // destination may be the same; keys have 15 round keys. The call is done with all of it when it returns.
        let done = unsafe { submit(manager, jobs, count as u32, mode, direction, key_len) };
        if done as usize != count {
            self.widest.reset();
            return None;
        }
        Some(())
    }
}

/// A packet for AES-CBC.
pub struct Cbc<'j> {
    /// The key; its hash doesn't matter.
    pub key: &'j ChainKey,
    /// The IV.
    pub iv: &'j [u8; BLOCK],
    /// Whole blocks.
    pub data: &'j mut [u8],
}

/// Whether CPUs have instructions for a hash of which the library knows.
fn has_instructions(hash: Hash) -> bool {
    matches!(hash, Hash::Sha1 | Hash::Sha256)
}

impl std::fmt::Debug for MultiBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MultiBuffer(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// RFC 2202 test case 1, RFC 4231 test case 1.
    #[test]
    fn macs_are_those_of_the_rfcs() {
        let mut lanes = MultiBuffer::new().expect("a CPU with AES instructions");
        for (hash, expected) in [
            (Hash::Sha1, "b617318655057264e28bc0b6"),
            (Hash::Sha256, "b0344c61d8db38535ca8afceaf0bf12b"),
            (Hash::Sha384, "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec6"),
            (Hash::Sha512, "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde"),
        ] {
            let key = ChainKey::new(&[], hash, &[0x0b; 20]).unwrap();
            for packets in [1, 2, 7, MAX_JOBS] {
                let macs = lanes.macs(hash, vec![(&key, b"Hi There".as_slice()); packets]).unwrap();
                assert_eq!(macs.len(), packets);
                let expected = hex(expected);
                assert!(macs.iter().all(|mac| mac.octets() == expected && mac.is(&expected)), "{hash:?}");
                assert!(
                    !macs[0].is(&expected[1..]) && !macs[0].is(&[]) && !macs[0].is(&[&expected[..], &[0]].concat())
                );
                for at in 0..expected.len() {
                    let mut forged = expected.clone();
                    forged[at] ^= 0x10;
                    assert!(!macs[0].is(&forged), "{hash:?}: {at}");
                }
            }
        }
    }

    /// RFC 3602 4, case 2, and the same blocks decrypted.
    #[test]
    fn cbc_is_that_of_the_rfc() {
        let mut lanes = MultiBuffer::new().expect("a CPU with AES instructions");
        let key = ChainKey::new(&hex("c286696d887c9aa0611bbb3e2025a45a"), Hash::Sha1, &[0; 20]).unwrap();
        let iv: [u8; 16] = hex("562e17996d093d28ddb3ba695a2e6f58").try_into().unwrap();
        let clear: Vec<u8> = (0..32).collect();
        let mut packets = vec![clear.clone(); 11];
        let encrypted = lanes.encrypt(AesKey::Bits128, packets.iter_mut().map(|data| Cbc { key: &key, iv: &iv, data }));
        assert!(encrypted.is_some());
        let sealed = hex("d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1");
        assert!(packets.iter().all(|packet| *packet == sealed));
        let opened = lanes.decrypt(AesKey::Bits128, packets.iter_mut().map(|data| Cbc { key: &key, iv: &iv, data }));
        assert!(opened.is_some() && packets.iter().all(|packet| *packet == clear));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut lanes = MultiBuffer::new().expect("a CPU with AES instructions");
        let key = ChainKey::new(&[1; 16], Hash::Sha256, &[2; 32]).unwrap();
        let null = ChainKey::new(&[], Hash::Sha256, &[2; 32]).unwrap();
        let long = vec![0; MAX_LEN + 1];
        assert!(lanes.macs(Hash::Sha1, [(&key, [0].as_slice())]).is_none(), "another hash");
        assert!(lanes.macs(Hash::Sha256, [(&key, [].as_slice())]).is_none(), "nothing");
        assert!(lanes.macs(Hash::Sha256, [(&key, long.as_slice())]).is_none(), "too long");
        assert!(lanes.macs(Hash::Sha256, vec![(&key, [0].as_slice()); MAX_JOBS + 1]).is_none(), "too many");
        assert_eq!(lanes.macs(Hash::Sha256, []).map(<[Mac]>::len), Some(0));
        assert!(lanes.macs(Hash::Sha256, [(&key, &long[..MAX_LEN])]).is_some());
        for (aes, key, len, fits) in [
            (AesKey::Bits128, &key, 16, true),
            (AesKey::Bits256, &key, 16, false),
            (AesKey::Bits128, &null, 16, false),
            (AesKey::Bits128, &key, 0, false),
            (AesKey::Bits128, &key, 17, false),
            (AesKey::Bits128, &key, MAX_LEN / 16 * 16, true),
            (AesKey::Bits128, &key, MAX_LEN + 2, false),
        ] {
            let mut data = vec![0; len];
            let job = Cbc { key, iv: &[0; 16], data: &mut data };
            assert_eq!(lanes.encrypt(aes, [job]).is_some(), fits, "{aes:?}, {len}");
        }
        assert!(ChainKey::new(&[0; 17], Hash::Sha1, &[0; 20]).is_none());
        assert!(ChainKey::new(&[0; 16], Hash::Sha1, &[0; 65]).is_none());
    }

    /// Packets of many keys, lengths and places in memory, against one at a time.
    #[test]
    fn packets_do_not_depend_on_those_beside_them() {
        let mut lanes = MultiBuffer::new().expect("a CPU with AES instructions");
        for hash in Hash::ALL {
            for aes in AesKey::ALL {
                let keys: Vec<ChainKey> = (0..MAX_JOBS as u8)
                    .map(|n| ChainKey::new(&vec![n; aes.octets()], hash, &[n ^ 0x55; 20]).unwrap())
                    .collect();
                let clear: Vec<Vec<u8>> = (0..MAX_JOBS).map(|n| vec![n as u8; (1 + n * 37 % 90) * 16]).collect();
                let iv = [9; 16];
                let mut together = clear.clone();
                let jobs = keys.iter().zip(&mut together).map(|(key, data)| Cbc { key, iv: &iv, data });
                lanes.encrypt(aes, jobs).unwrap();
                let macs: Vec<Mac> = {
                    let messages = keys.iter().zip(&together).map(|(key, data)| (key, &data[..data.len() - 3]));
                    lanes.macs(hash, messages).unwrap().to_vec()
                };
                for (((key, clear), together), mac) in keys.iter().zip(&clear).zip(&mut together).zip(&macs) {
                    let mut alone = clear.clone();
                    lanes.encrypt(aes, [Cbc { key, iv: &iv, data: &mut alone }]).unwrap();
                    assert_eq!(alone, *together, "{hash:?}, {aes:?}");
                    let its = lanes.macs(hash, [(key, &alone[..alone.len() - 3])]).unwrap();
                    assert!(its[0].is(mac.octets()), "{hash:?}, {aes:?}");
                }
                let jobs = keys.iter().zip(&mut together).map(|(key, data)| Cbc { key, iv: &iv, data });
                lanes.decrypt(aes, jobs).unwrap();
                assert_eq!(together, clear, "{hash:?}, {aes:?}");
            }
        }
    }

    /// What the library is built to do, `SAFE_DATA`: lanes that are done hold no keys, nor states made from them.
    #[test]
    fn no_key_is_left_in_the_lanes() {
        let mut lanes = MultiBuffer::new().expect("a CPU with AES instructions");
        for hash in Hash::ALL {
            for aes in AesKey::ALL {
                let key = ChainKey::new(&vec![0xC3; aes.octets()], hash, &[0x7A; 20]).unwrap();
                let mut packets = vec![vec![1; 160]; 5];
                let jobs = packets.iter_mut().map(|data| Cbc { key: &key, iv: &[0; 16], data });
                lanes.encrypt(aes, jobs).unwrap();
                lanes.macs(hash, packets.iter().map(|data| (&key, data.as_slice()))).unwrap();
                let jobs = packets.iter_mut().map(|data| Cbc { key: &key, iv: &[0; 16], data });
                lanes.decrypt(aes, jobs).unwrap();
                let expanded = &*key.expanded;
                let states = [&expanded.inner, &expanded.outer].into_iter().flat_map(|state| state.chunks(16));
                let round_keys = expanded.encrypt.chunks(16).chain(expanded.decrypt.chunks(16));
                let secrets: HashSet<&[u8]> = states.chain(round_keys).filter(|part| *part != [0; 16]).collect();
                for manager in [Some(&lanes.widest), lanes.sha.as_ref()].into_iter().flatten() {
                    let found = manager.memory().windows(16).step_by(4).position(|octets| secrets.contains(octets));
                    assert_eq!(found, None, "{hash:?}, {aes:?}");
                }
            }
        }
    }
}
