//! The seal of the state file: ChaCha20-Poly1305 under a key that a process makes when it starts, with a header in the clear
//! that the seal covers.

use std::fmt;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use zeroize::Zeroizing;

use super::{FORMAT, Refusal, StateError};

const MAGIC: [u8; 8] = *b"NFSTATE\0";
/// Magic, format, id, count of writes, length of what is sealed.
pub(super) const HEADER: usize = 8 + 4 + 16 + 8 + 8;
pub(super) const TAG: usize = 16;

/// What tells the files of one process from those of another; not secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Id([u8; 16]);

impl Id {
    pub(super) fn random() -> Result<Id, StateError> {
        let mut id = [0; 16];
        fill(&mut id)?;
        Ok(Id(id))
    }

    /// Of the process that wrote a state file.
    pub(super) fn of(file: &[u8]) -> Option<Id> {
        let (start, rest) = file.split_first_chunk::<12>()?;
        let is_ours = start[..8] == MAGIC && start[8..] == FORMAT.to_be_bytes();
        rest.first_chunk().filter(|_| is_ours).copied().map(Id)
    }

    /// The same in two numbers.
    pub(super) fn halves(&self) -> (u64, u64) {
        let number = u128::from_be_bytes(self.0);
        ((number >> 64) as u64, number as u64)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

fn fill(octets: &mut [u8]) -> Result<(), StateError> {
    getrandom::fill(octets).map_err(|error| StateError::Key(format!("the kernel gives no random octets: {error}")))
}

/// The seal's key.
pub(super) struct SealKey(pub(super) Zeroizing<[u8; 32]>);

impl SealKey {
    pub(super) fn random() -> Result<SealKey, StateError> {
        let mut key = Zeroizing::new([0; 32]);
        fill(&mut *key)?;
        Ok(SealKey(key))
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new((&*self.0).into())
    }
}

/// Each write of a process has a number of its own, and each process a key of its own: no nonce comes twice.
fn nonce(write: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&write.to_be_bytes());
    nonce.into()
}

/// A state file of which the header is known.
pub(super) struct Sealed<'f> {
    pub(super) id: Id,
    write: u64,
    header: &'f [u8],
    body: &'f [u8],
    tag: &'f [u8; TAG],
}

impl<'f> Sealed<'f> {
    pub(super) fn read(file: &'f [u8]) -> Result<Sealed<'f>, Refusal> {
        let (magic, rest) =
            file.split_first_chunk().ok_or(if file.is_empty() { Refusal::Short } else { Refusal::Foreign })?;
        if *magic != MAGIC {
            return Err(Refusal::Foreign);
        }
        let (format, rest) = rest.split_first_chunk().ok_or(Refusal::Short)?;
        let format = u32::from_be_bytes(*format);
        if format != FORMAT {
            return Err(Refusal::Format(format));
        }
        let (id, rest) = rest.split_first_chunk().ok_or(Refusal::Short)?;
        let (write, rest) = rest.split_first_chunk().ok_or(Refusal::Short)?;
        let (length, rest) = rest.split_first_chunk().ok_or(Refusal::Short)?;
        let (body, tag) = rest.split_last_chunk().ok_or(Refusal::Short)?;
        let expected = u64::from_be_bytes(*length);
        match (body.len() as u64).cmp(&expected) {
            std::cmp::Ordering::Less => return Err(Refusal::Short),
            std::cmp::Ordering::Greater => return Err(Refusal::Broken),
            std::cmp::Ordering::Equal => {}
        }
        let header = file.get(..HEADER).ok_or(Refusal::Short)?;
        Ok(Sealed { id: Id(*id), write: u64::from_be_bytes(*write), header, body, tag })
    }

    pub(super) fn open(&self, key: &SealKey) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let mut plain = Zeroizing::new(self.body.to_vec());
        let tag = Tag::from(*self.tag);
        key.cipher()
            .decrypt_inout_detached(&nonce(self.write), self.header, plain.as_mut_slice().into(), &tag)
            .map_err(|_| Refusal::Broken)?;
        Ok(plain)
    }
}

/// Seals what stands in `file` behind [`HEADER`] octets of room, in place; gives nothing if there is no room.
pub(super) fn seal(file: &mut Vec<u8>, id: &Id, write: u64, key: &SealKey) -> Option<()> {
    let (header, body) = file.split_at_mut_checked(HEADER)?;
    let fields: [&[u8]; 5] =
        [&MAGIC, &FORMAT.to_be_bytes(), &id.0, &write.to_be_bytes(), &(body.len() as u64).to_be_bytes()];
    header.copy_from_slice(&fields.concat());
    let tag = key.cipher().encrypt_inout_detached(&nonce(write), header, body.into()).ok()?;
    file.extend_from_slice(&tag);
    Some(())
}
