//! Putting fragments of a message together again (RFC 7383 2.6).

use super::chain::Chain;
use super::header::MessageId;
use super::registry::PayloadType;
use super::sk::{FragmentId, MAX_FRAGMENTS};

/// The octets of a message put together from fragments, without padding, that are taken by default.
pub const MAX_REASSEMBLED: usize = 64 * 1024;

/// Why a fragment is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unwanted {
    /// It is there already.
    #[error("fragment {0} is there already")]
    Duplicate(FragmentId),
    /// It belongs to an older, finer or coarser cut of the message than what is there.
    #[error("fragment {fragment} comes after fragments of {total} in all")]
    FewerInAll {
        /// The fragment.
        fragment: FragmentId,
        /// The total of the fragments that are there.
        total: u16,
    },
    /// The message has more fragments than are taken.
    #[error("fragment {fragment}, where at most {limit} are taken")]
    TooMany {
        /// The fragment.
        fragment: FragmentId,
        /// The limit.
        limit: u16,
    },
    /// The message has more octets than are taken. All of it is dropped.
    #[error("with fragment {fragment} the message has more than {limit} octets, all of it is dropped")]
    TooLong {
        /// The fragment.
        fragment: FragmentId,
        /// The limit.
        limit: usize,
    },
}

/// The fragments of one message, until it is whole.
///
/// There is one for each direction of an IKE SA with a window of 1: fragments of another message push out what is there,
/// so a message ID has to be checked against the window before.
#[derive(Debug)]
pub struct Reassembly {
    max_octets: usize,
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    message_id: MessageId,
    first: PayloadType,
    /// By number, from 1: the place in the list is one less.
    pieces: Vec<Option<Box<[u8]>>>,
    missing: usize,
    octets: usize,
}

impl Default for Reassembly {
    fn default() -> Reassembly {
        Reassembly::new(MAX_REASSEMBLED)
    }
}

impl Reassembly {
    /// Takes messages of up to so many octets, without padding.
    pub fn new(max_octets: usize) -> Reassembly {
        Reassembly { max_octets, partial: None }
    }

    /// Whether a fragment is worth decrypting.
    pub fn check(&self, message_id: MessageId, fragment: FragmentId) -> Result<(), Unwanted> {
        if fragment.total() > MAX_FRAGMENTS {
            return Err(Unwanted::TooMany { fragment, limit: MAX_FRAGMENTS });
        }
        let Some(partial) = self.partial.as_ref().filter(|partial| partial.message_id == message_id) else {
            return Ok(());
        };
        match usize::from(fragment.total()).cmp(&partial.pieces.len()) {
            std::cmp::Ordering::Less => Err(Unwanted::FewerInAll { fragment, total: partial.pieces.len() as u16 }),
            std::cmp::Ordering::Equal if partial.piece(fragment).is_some() => Err(Unwanted::Duplicate(fragment)),
            _ => Ok(()),
        }
    }

    /// Adds a fragment that was authenticated, decrypted, and rid of its padding. Gives the message when it is whole.
    ///
    /// `first` is the type that its SKF payload announces. More fragments in all than before mean that the sender has cut
    /// the message anew, for a smaller path MTU: what is there is dropped.
    pub fn add(
        &mut self,
        message_id: MessageId,
        fragment: FragmentId,
        first: PayloadType,
        plaintext: &[u8],
    ) -> Result<Option<Chain>, Unwanted> {
        self.check(message_id, fragment)?;
        let total = usize::from(fragment.total());
        let mut partial = self
            .partial
            .take()
            .filter(|partial| partial.message_id == message_id && partial.pieces.len() == total)
            .unwrap_or_else(|| Partial::new(message_id, total));
        partial.octets += plaintext.len();
        if partial.octets > self.max_octets {
            return Err(Unwanted::TooLong { fragment, limit: self.max_octets });
        }
        partial.set(fragment, first, plaintext);
        if partial.missing == 0 {
            return Ok(Some(partial.whole()));
        }
        self.partial = Some(partial);
        Ok(None)
    }

    /// Forgets what is there.
    pub fn clear(&mut self) {
        self.partial = None;
    }
}

impl Partial {
    fn new(message_id: MessageId, total: usize) -> Partial {
        Partial { message_id, first: PayloadType::NONE, pieces: vec![None; total], missing: total, octets: 0 }
    }

    fn piece(&self, fragment: FragmentId) -> Option<&[u8]> {
        self.pieces.get(usize::from(fragment.number()) - 1)?.as_deref()
    }

    fn set(&mut self, fragment: FragmentId, first: PayloadType, plaintext: &[u8]) {
        if fragment.number() == 1 {
            self.first = first;
        }
        if let Some(piece @ None) = self.pieces.get_mut(usize::from(fragment.number()) - 1) {
            *piece = Some(plaintext.into());
            self.missing -= 1;
        }
    }

    fn whole(self) -> Chain {
        let mut octets = Vec::with_capacity(self.octets);
        self.pieces.iter().flatten().for_each(|piece| octets.extend_from_slice(piece));
        Chain { first: self.first, octets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16, total: u16) -> FragmentId {
        FragmentId::new(number, total).unwrap()
    }

    /// Adds a fragment of message 1 whose content is its number, as often as `total`.
    fn add(reassembly: &mut Reassembly, number: u16, total: u16) -> Result<Option<Chain>, Unwanted> {
        let first = if number == 1 { PayloadType::IDI } else { PayloadType::NONE };
        reassembly.add(MessageId(1), id(number, total), first, &vec![number as u8; total.into()])
    }

    fn whole(octets: &[u8]) -> Result<Option<Chain>, Unwanted> {
        Ok(Some(Chain { first: PayloadType::IDI, octets: octets.to_vec() }))
    }

    #[test]
    fn a_message_is_whole_in_any_order() {
        let mut reassembly = Reassembly::default();
        assert_eq!(add(&mut reassembly, 3, 3), Ok(None));
        assert_eq!(add(&mut reassembly, 1, 3), Ok(None));
        assert_eq!(add(&mut reassembly, 1, 3), Err(Unwanted::Duplicate(id(1, 3))));
        assert_eq!(add(&mut reassembly, 2, 3), whole(&[1, 1, 1, 2, 2, 2, 3, 3, 3]));
        // Nothing is left of it.
        assert_eq!(add(&mut reassembly, 2, 3), Ok(None));
        reassembly.clear();
        assert_eq!(add(&mut reassembly, 1, 1), whole(&[1]));
    }

    #[test]
    fn a_finer_cut_pushes_out_a_coarser_one() {
        let mut reassembly = Reassembly::default();
        assert_eq!(add(&mut reassembly, 1, 2), Ok(None));
        assert_eq!(add(&mut reassembly, 3, 3), Ok(None));
        // What remains of the coarser one is late.
        let late = Unwanted::FewerInAll { fragment: id(2, 2), total: 3 };
        assert_eq!(reassembly.check(MessageId(1), id(2, 2)), Err(late));
        assert_eq!(add(&mut reassembly, 2, 2), Err(late));
        assert_eq!(add(&mut reassembly, 1, 3), Ok(None));
        assert_eq!(add(&mut reassembly, 2, 3), whole(&[1, 1, 1, 2, 2, 2, 3, 3, 3]));
    }

    #[test]
    fn another_message_pushes_out_what_is_there() {
        let mut reassembly = Reassembly::default();
        assert_eq!(add(&mut reassembly, 1, 2), Ok(None));
        assert_eq!(reassembly.add(MessageId(2), id(2, 2), PayloadType::NONE, &[9]), Ok(None));
        assert_eq!(add(&mut reassembly, 2, 2), Ok(None));
        assert_eq!(add(&mut reassembly, 1, 2), whole(&[1, 1, 2, 2]));
    }

    #[test]
    fn fragments_and_octets_are_limited() {
        let mut reassembly = Reassembly::new(5);
        let many = id(1, MAX_FRAGMENTS + 1);
        let error = Unwanted::TooMany { fragment: many, limit: MAX_FRAGMENTS };
        assert_eq!(reassembly.check(MessageId(1), many), Err(error));
        assert_eq!(add(&mut reassembly, 1, 3), Ok(None));
        assert_eq!(add(&mut reassembly, 2, 3), Err(Unwanted::TooLong { fragment: id(2, 3), limit: 5 }));
        // All of it was dropped, so the first is none that was there already.
        assert_eq!(add(&mut reassembly, 1, 3), Ok(None));
    }
}
