//! Keys of ESP with HMAC, and AES-CBC or no encryption.

use crate::manager::shared;
use crate::wiped::Wiped;

/// Octets of an expanded key that opening a packet needs, from its beginning.
const PREFETCHED: usize = 64 + 64 + 240;

/// The longest block that a hash takes, and the longest state.
const MAX_BLOCK: usize = 128;
const MAX_STATE: usize = 64;

/// 15 round keys of 16 octets.
const ROUND_KEYS: usize = 240;

/// What an HMAC hashes by, its output cut short as ESP does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hash {
    /// HMAC-SHA1-96 (RFC 2404).
    Sha1,
    /// HMAC-SHA-256-128 (RFC 4868).
    Sha256,
    /// HMAC-SHA-384-192 (RFC 4868).
    Sha384,
    /// HMAC-SHA-512-256 (RFC 4868).
    Sha512,
}

impl Hash {
    /// All of them.
    pub const ALL: [Hash; 4] = [Hash::Sha1, Hash::Sha256, Hash::Sha384, Hash::Sha512];

    /// Octets of the MAC.
    pub const fn mac_len(self) -> usize {
        match self {
            Hash::Sha1 => 12,
            Hash::Sha256 => 16,
            Hash::Sha384 => 24,
            Hash::Sha512 => 32,
        }
    }

    const fn block_len(self) -> usize {
        match self {
            Hash::Sha1 | Hash::Sha256 => 64,
            Hash::Sha384 | Hash::Sha512 => 128,
        }
    }
}

/// The length of an AES key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AesKey {
    /// 128 bits.
    Bits128,
    /// 192 bits.
    Bits192,
    /// 256 bits.
    Bits256,
}

impl AesKey {
    /// All of them.
    pub const ALL: [AesKey; 3] = [AesKey::Bits128, AesKey::Bits192, AesKey::Bits256];

    pub(crate) const fn octets(self) -> usize {
        match self {
            AesKey::Bits128 => 16,
            AesKey::Bits192 => 24,
            AesKey::Bits256 => 32,
        }
    }
}

/// What opening needs comes first.
#[repr(C, align(64))]
pub(crate) struct Expanded {
    /// The states of the two hashes with the key absorbed (RFC 2104 4).
    pub(crate) inner: [u8; MAX_STATE],
    pub(crate) outer: [u8; MAX_STATE],
    pub(crate) decrypt: [u8; ROUND_KEYS],
    pub(crate) encrypt: [u8; ROUND_KEYS],
}

/// An SA's keys, expanded. They are zeroised when it is dropped.
pub struct ChainKey {
    pub(crate) expanded: Wiped<Expanded>,
    hash: Hash,
    aes: Option<AesKey>,
}

impl ChainKey {
    /// Expands an AES key of 16, 24 or 32 octets, or none for NULL encryption, and an HMAC key of a block of its hash at most.
    /// None for other lengths, or where the library can't run.
    pub fn new(aes_key: &[u8], hash: Hash, hmac_key: &[u8]) -> Option<ChainKey> {
        let functions = shared()?;
        let aes = match aes_key {
            [] => None,
            key => Some(AesKey::ALL.into_iter().find(|aes| aes.octets() == key.len())?),
        };
        let mut expanded = Wiped::new(Expanded {
            inner: [0; MAX_STATE],
            outer: [0; MAX_STATE],
            decrypt: [0; ROUND_KEYS],
            encrypt: [0; ROUND_KEYS],
        });
        let expand = match aes {
            None => None,
            Some(AesKey::Bits128) => Some(functions.keyexp_128?),
            Some(AesKey::Bits192) => Some(functions.keyexp_192?),
            Some(AesKey::Bits256) => Some(functions.keyexp_256?),
        };
        if let Some(expand) = expand {
            let Expanded { encrypt, decrypt, .. } = &mut *expanded;
            // SAFETY: the key has the length that this function reads. It writes 15 round keys at most, to memory that is
            // aligned to 16 octets.
            unsafe { expand(aes_key.as_ptr().cast(), encrypt.as_mut_ptr().cast(), decrypt.as_mut_ptr().cast()) };
        }
        let absorb = match hash {
            Hash::Sha1 => functions.sha1_one_block?,
            Hash::Sha256 => functions.sha256_one_block?,
            Hash::Sha384 => functions.sha384_one_block?,
            Hash::Sha512 => functions.sha512_one_block?,
        };
        let mut block = Wiped::new([0; MAX_BLOCK]);
        let Expanded { inner, outer, .. } = &mut *expanded;
        for (pad, state) in [(0x36, inner), (0x5c, outer)] {
            let padded = block.get_mut(..hash.block_len())?;
            padded.fill(pad);
            // A key that is longer than a block would have to be hashed; ESP has none.
            padded.get_mut(..hmac_key.len())?.iter_mut().zip(hmac_key).for_each(|(octet, key)| *octet ^= key);
            // SAFETY: it reads a block of the hash and writes a state, 64 octets at most.
            unsafe { absorb(padded.as_ptr().cast(), state.as_mut_ptr().cast()) };
        }
        Some(ChainKey { expanded, hash, aes })
    }

    /// The hash that the key is for.
    #[inline]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The length of the AES key; none for NULL encryption.
    #[inline]
    pub fn aes(&self) -> Option<AesKey> {
        self.aes
    }

    /// Asks the CPU for what opening a packet needs of the key.
    #[inline]
    pub fn prefetch(&self) {
        self.expanded.prefetch(PREFETCHED);
    }
}

impl std::fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainKey").field("hash", &self.hash).field("aes", &self.aes).finish_non_exhaustive()
    }
}
