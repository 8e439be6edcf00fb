//! The anti-replay window of an inbound SA (RFC 4303 3.4.3 and appendix A2), with extended sequence numbers
//! (RFC 4303 2.2.1), shared by several cores without locks.
//!
//! The window is a ring of words, as in RFC 6479, so that it moves on without shifting bits. A word is the record of one
//! *block* of 16 numbers: 16 bits say which of them were received, 48 bits above say which block it is, as its
//! *generation*:
//!
//! ```text
//! block = number / 16      slot = block mod words      generation = block / words
//! ```
//!
//! A number is marked by one compare-exchange on the word in its slot. Same generation: set the bit, or find it set and
//! report a duplicate. The packet's generation is newer: replace the word, which forgets the old block in the same
//! instant. It is older: the block has been forgotten, refuse. RFC 6479 clears the blocks that the window moves over in
//! a step of its own; here there is no such step for another core to race with.
//!
//! # Why no number is accepted twice
//!
//! A word is `generation << 16 | bits`, and every successful compare-exchange makes it a larger integer: either the
//! generation grows, or it stays and a bit is added. To accept a number is to be the one exchange that adds its bit to
//! its generation. For that to happen a second time, the word would have to return to a smaller value in between, which
//! it never does. The argument looks at one word at a time and needs neither the head nor any order between words.
//!
//! # Memory ordering
//!
//! All accesses are relaxed.
//!
//! * Words: the argument above needs only that a compare-exchange sees the newest value of *its* word, and a
//!   read-modify-write does so under every ordering. A set bit publishes no other memory, so there is nothing to release
//!   or to acquire. A stale load in [`WindowNow::check`] can only let pass what the commit then refuses.
//! * Head: it only grows, by `fetch_max`. A core that reads an old head tests against a window that lies further left
//!   than the newest. It may accept a late packet that was never accepted before, as if that packet had come a moment
//!   earlier; the words still refuse a second one. The high half is inferred from a head that lags by the few packets
//!   that other cores hold, and errs only if it lags by about 2³².
//!
//! # One core alone
//!
//! In a process with one core a word is read and stored, as nobody can change it in between.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cpu;
use crate::drop::DropReason;
use crate::sync::{AtomicU64, Ordering};
use crate::types::SeqNo;

/// log2 of the numbers in a block.
const BLOCK_SHIFT: u32 = 4;
/// The packet bits of a word, one for each number of the block.
const PACKET_BITS: u64 = 0xFFFF;
/// The generation's place in a word.
const GENERATION_SHIFT: u32 = 16;

/// The widest window, in packets.
const WIDEST: u32 = 65_536;

/// How many numbers a replay window spans, its highest included: 0 (off), or 32 to 65,536.
///
/// RFC 4303 3.4.3 demands at least 32 and prefers 64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct WindowSize(u32);

impl WindowSize {
    /// No replay protection, for SAs with manual keys or with several senders (RFC 4303 3.4.3).
    pub const OFF: WindowSize = WindowSize(0);

    /// This window, or one of so many packets where that is wider. One that is off stays off.
    #[must_use]
    pub fn at_least(self, packets: u32) -> WindowSize {
        match self {
            WindowSize::OFF => self,
            WindowSize(size) => WindowSize(size.max(packets.min(WIDEST))),
        }
    }

    /// The size in packets; 0 is off.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for WindowSize {
    type Error = BadWindowSize;

    fn try_from(packets: u32) -> Result<Self, Self::Error> {
        match packets {
            0 | 32..=WIDEST => Ok(WindowSize(packets)),
            _ => Err(BadWindowSize(packets)),
        }
    }
}

impl From<WindowSize> for u32 {
    fn from(size: WindowSize) -> u32 {
        size.0
    }
}

/// A replay window size that no SA can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a replay window of {0} packets isn't possible: set 32 to 65536, or 0 to switch replay protection off")]
pub struct BadWindowSize(pub u32);

/// Why the window refused a packet. An SA counts the two apart, for they have different causes; as a drop, both are
/// [`DropReason::Replay`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
pub enum Refused {
    /// The number was received before: the network duplicated the packet, or someone replays it.
    #[error("the sequence number was received before")]
    Duplicate,
    /// The number lies left of the window, or isn't one that the SA can use: 0, which no sender uses (RFC 4303 3.3.3),
    /// and anything beyond the SA's last number.
    #[error("the sequence number lies left of the replay window")]
    TooOld,
}

impl From<Refused> for DropReason {
    fn from(_: Refused) -> DropReason {
        DropReason::Replay
    }
}

/// The replay window of one inbound SA, for any number of cores at once.
///
/// With window size W and head H, the highest number received, the window is H - W + 1 to H. A number is acceptable
/// if it is above H, or in the window and not received yet. That is exact for every W while one core commits; while
/// several do, a late packet may be judged by where the window is or by where it just was. No number is ever accepted
/// twice.
///
/// Memory: a struct of 112 octets, which has room for the ring of a window of up to 112 packets; the ring of a wider one is apart
/// and takes 8 octets per word, with ⌈W/16⌉ + 1 words rounded up to a power of two: 64 KiB for W = 65,536.
///
/// # Extended sequence numbers
///
/// The high half isn't on the wire and is inferred from the head. This holds while fewer than 2³² - W packets in a row
/// are lost; after a longer gap every packet fails authentication, and the SA must be replaced. Detecting
/// that and searching for the sender's high half, as RFC 4303 appendix A3 describes, isn't the window's business.
#[repr(C)]
pub struct ReplayWindow {
    /// The highest authenticated number; 0 means none, since 0 itself is never valid.
    head: AtomicU64,
    /// The last number that the SA can use.
    last: u64,
    /// The words of the ring, if they are more than [`SMALL`].
    large: Box<[AtomicU64]>,
    /// How many words there are: 0 when the window is off, otherwise a power of two.
    words: u32,
    /// How far left of the head a number may lie: W - 1, or half of the low half's range when the window is off.
    reach: u32,
    esn: bool,
    /// Whether one core alone commits.
    alone: bool,
    /// log2 of the number of words.
    words_shift: u8,
    /// The words of a small ring: where the window itself is, so that a core with many SAs waits for one place of memory less.
    small: [AtomicU64; SMALL],
}

/// Words that are in the window itself.
const SMALL: usize = 8;

impl ReplayWindow {
    /// The window of a new SA: nothing received yet.
    pub fn new(size: WindowSize, esn: bool) -> Self {
        Self::resume_from(size, esn, SeqNo(1))
    }

    /// The window of an SA that was in use before: every number below `next` counts as received.
    pub fn resume_from(size: WindowSize, esn: bool, next: SeqNo) -> Self {
        let (reach, words) = match size.get().checked_sub(1) {
            Some(reach) => (reach, (size.get().div_ceil(1 << BLOCK_SHIFT) as usize + 1).next_power_of_two()),
            None => (1 << 31, 0),
        };
        let words_shift = words.checked_ilog2().unwrap_or(0);
        // A generation has 48 bits in its word. The numbers whose generation needs more are refused instead of cut, so
        // that `generation` never truncates. With ESN and the smallest ring (4 words) they begin at 2^54: at 100 million
        // packets per second, an SA would have to live on one key for more than five years to get there. Without ESN,
        // numbers end at 2^32 - 1 and don't wrap (RFC 4303 3.3.3).
        let last = match (esn, words) {
            (false, _) => u64::from(u32::MAX),
            (true, 0) => u64::MAX,
            (true, _) => u64::MAX >> (GENERATION_SHIFT - BLOCK_SHIFT).saturating_sub(words_shift),
        };
        let head = next.0.saturating_sub(1).min(last);
        let window = ReplayWindow {
            head: AtomicU64::new(head),
            last,
            large: std::iter::repeat_with(|| AtomicU64::new(0)).take(if words > SMALL { words } else { 0 }).collect(),
            words: words as u32,
            reach,
            esn,
            alone: false,
            words_shift: words_shift as u8,
            small: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        if !window.is_off() {
            window.fill_up_to(head);
        }
        window
    }

    /// The same window for one core: whoever commits is the only one, at least at a time. It needs no exchanges then, each
    /// of which has the core wait for all that it has written before; with many SAs a packet pays for two of them.
    #[must_use]
    pub(crate) fn alone(self) -> Self {
        ReplayWindow { alone: true, ..self }
    }

    /// The last number that a packet may have, unless the window is off.
    pub fn last(&self) -> Option<SeqNo> {
        (!self.is_off()).then_some(SeqNo(self.last))
    }

    /// The window as it is now, for the first look at a burst's numbers: the head is read once for all of them.
    #[inline]
    pub fn now(&self) -> WindowNow<'_> {
        WindowNow { window: self, head: self.head.load(Ordering::Relaxed) }
    }

    /// As [`WindowNow::check`], of one number.
    ///
    /// # Errors
    ///
    /// [`Refused`]: drop the packet.
    #[inline]
    pub fn check(&self, low: u32) -> Result<SeqNo, Refused> {
        self.now().check(low)
    }

    /// After authentication: marks the number as received, and moves the window if it is the highest.
    ///
    /// # Errors
    ///
    /// [`Refused`]: the packet is a replay or too old after all; drop it. Never when the window is off.
    #[inline]
    pub fn commit(&self, seq: SeqNo) -> Result<(), Refused> {
        if self.alone && self.commit_newest_alone(seq) {
            return Ok(());
        }
        self.commit_any(seq)
    }

    #[inline(never)]
    fn commit_any(&self, seq: SeqNo) -> Result<(), Refused> {
        let mut verdict = Ok(());
        self.commit_run([seq], |_, why| verdict = Err(why));
        verdict
    }

    /// As [`commit`](Self::commit) on the only core, of what nearly every number is: newer than all before. False, and nothing
    /// changed, for any other.
    #[inline(always)]
    fn commit_newest_alone(&self, seq: SeqNo) -> bool {
        let block = block_of(seq.0);
        if self.is_off() || seq.0 <= self.head.load(Ordering::Relaxed) || seq.0 > self.last {
            return false;
        }
        let word = self.word(block);
        let Some(seen) = self.seen(word.load(Ordering::Relaxed), block) else {
            return false;
        };
        let marked = self.with_received(block, seen | packet_bit(seq.0));
        word.store(marked, Ordering::Relaxed);
        self.head.store(seq.0, Ordering::Relaxed);
        true
    }

    /// After authentication, for a burst of one SA's packets in the order of their arrival: calls `refused` with the
    /// index of each packet that must be dropped, in ascending order, and has accepted all others.
    ///
    /// The verdicts are those of [`commit`](Self::commit) on one number after the other, but neighbours in the same
    /// block of 16 share one compare-exchange and the head is moved once. Several cores can afford to share a window
    /// only thanks to that.
    #[inline]
    pub fn commit_run<I>(&self, seqs: I, mut refused: impl FnMut(usize, Refused))
    where
        I: IntoIterator<Item = SeqNo, IntoIter: Clone>,
    {
        let mut left = seqs.into_iter();
        let head_before = self.head.load(Ordering::Relaxed);
        let mut head = head_before;
        if self.is_off() {
            head = left.fold(head, |head, seq| head.max(seq.0));
        } else {
            let mut index = 0;
            let mut next = left.next();
            while let Some(first) = next {
                let mut asked = Asked { block: block_of(first.0), bits: packet_bit(first.0), twice: 0, count: 1 };
                let behind_first = left.clone();
                next = left.find(|seq| !asked.takes(*seq));
                let run = std::iter::once(first).chain(behind_first).take(asked.count);
                head = self.commit_block(head, &asked, run, |nth, why| refused(index + nth, why));
                index += asked.count;
            }
        }
        if head > head_before {
            if self.alone {
                self.head.store(head, Ordering::Relaxed);
            } else {
                self.head.fetch_max(head, Ordering::Relaxed);
            }
        }
    }

    /// Asks for the words that are in the window itself.
    #[inline]
    pub(crate) fn prefetch_small(&self) {
        cpu::prefetch(&self.small);
    }

    /// Asks for the memory outside of the window itself that a number near the head needs, once the window is there.
    #[inline]
    pub(crate) fn prefetch_large(&self) {
        if !self.large.is_empty() {
            cpu::prefetch(self.word(block_of(self.head.load(Ordering::Relaxed))));
        }
    }

    /// Where the words are that the window itself holds.
    #[cfg(all(target_pointer_width = "64", not(loom)))]
    pub(crate) const SMALL_AT: usize = std::mem::offset_of!(ReplayWindow, small);

    /// The highest number that was authenticated, or that [`resume_from`](Self::resume_from) took for it.
    pub fn highest(&self) -> Option<SeqNo> {
        match self.head.load(Ordering::Relaxed) {
            0 => None,
            head => Some(SeqNo(head)),
        }
    }

    /// Commits numbers of one block, which are those of `run`, against a window that ends at `head`; returns the head after
    /// them.
    ///
    /// The head may move while the run is judged, yet never so far that it decides about a number of the same block:
    /// such a head lies in that block, and the window spans two blocks at least.
    #[inline]
    fn commit_block(
        &self,
        head: u64,
        asked: &Asked,
        run: impl Iterator<Item = SeqNo>,
        refused: impl FnMut(usize, Refused),
    ) -> u64 {
        let block = asked.block;
        let in_window = self.in_window(head, block);
        let word = self.word(block);
        let mut current = word.load(Ordering::Relaxed);
        let (in_window, fresh) = loop {
            let Some(seen) = self.seen(current, block) else {
                // Another core has moved the window past the block, and `head` did not tell yet.
                break (0, 0);
            };
            let fresh = asked.bits & in_window & !seen;
            if fresh == 0 {
                break (in_window, 0);
            }
            let marked = self.with_received(block, seen | fresh);
            if self.alone {
                word.store(marked, Ordering::Relaxed);
                break (in_window, fresh);
            }
            match word.compare_exchange_weak(current, marked, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break (in_window, fresh),
                Err(now) => current = now,
            }
        };
        let head = match fresh.checked_ilog2() {
            Some(highest) => head.max(block << BLOCK_SHIFT | u64::from(highest)),
            None => head,
        };
        if fresh != asked.bits || asked.twice != 0 {
            refuse(run, in_window, fresh, refused);
        }
        head
    }

    /// The number that has this low half among the 2³² numbers from the window's left edge on; `None` if that number is
    /// below 0 or above 2⁶⁴ - 1.
    ///
    /// This is RFC 4303 A2.2 in one expression. Case A (the window lies within one high half) and case B (it spans two)
    /// differ only in whether the left edge has the head's high half or the one before.
    #[inline]
    fn infer(&self, head: u64, low: u32) -> Option<u64> {
        if !self.esn || head == 0 {
            return Some(u64::from(low));
        }
        let left_edge = SeqNo(head).low().wrapping_sub(self.reach);
        let from_left_edge = low.wrapping_sub(left_edge);
        head.checked_add_signed(i64::from(from_left_edge) - i64::from(self.reach))
    }

    /// The lowest number in the window.
    #[inline]
    fn lowest(&self, head: u64) -> u64 {
        head.saturating_sub(u64::from(self.reach)).max(1)
    }

    /// The packet bits of those numbers of the block that are neither left of the window nor beyond the last number.
    #[inline]
    fn in_window(&self, head: u64, block: u64) -> u64 {
        // The last number is the last one of its block.
        if block > block_of(self.last) {
            return 0;
        }
        let left_of_window = self.lowest(head).saturating_sub(block << BLOCK_SHIFT);
        PACKET_BITS & PACKET_BITS << left_of_window.min(u64::from(GENERATION_SHIFT))
    }

    /// Which numbers of the block were received, going by the word in its slot; `None` if that word has moved on to a
    /// newer block.
    #[inline]
    fn seen(&self, word: u64, block: u64) -> Option<u64> {
        let generation = self.generation(block);
        let held = word >> GENERATION_SHIFT;
        if held > generation {
            None
        } else if held == generation {
            Some(word & PACKET_BITS)
        } else {
            Some(0)
        }
    }

    /// What stands in the block's slot when these of its numbers were received, by their packet bits.
    #[inline]
    fn with_received(&self, block: u64, bits: u64) -> u64 {
        self.generation(block) << GENERATION_SHIFT | bits
    }

    /// Not for a window that is off.
    #[inline]
    fn generation(&self, block: u64) -> u64 {
        block >> self.words_shift
    }

    /// The word in the block's slot. Not for a window that is off, which has none.
    #[inline]
    fn word(&self, block: u64) -> &AtomicU64 {
        // In bounds whatever the block: the number of words is a power of two, the mask one less.
        let slot = block as usize & (self.words as usize).wrapping_sub(1);
        if self.large.is_empty() { &self.small[slot % SMALL] } else { &self.large[slot] }
    }

    #[inline]
    fn is_off(&self) -> bool {
        self.words == 0
    }

    /// Marks every number up to `head` as received, as far left as the ring reaches.
    fn fill_up_to(&self, head: u64) {
        let newest = block_of(head);
        let oldest = newest.saturating_sub(u64::from(self.words) - 1);
        for block in oldest..=newest {
            let received = if block < newest { PACKET_BITS } else { (packet_bit(head) << 1) - 1 };
            self.word(block).store(self.with_received(block, received), Ordering::Relaxed);
        }
    }
}

/// The window as it was when a core looked at it.
#[derive(Clone, Copy)]
pub struct WindowNow<'w> {
    window: &'w ReplayWindow,
    head: u64,
}

impl WindowNow<'_> {
    /// Before decryption: completes the number on the wire and refuses what is certainly a replay or too old.
    ///
    /// With ESN the high half is inferred as RFC 4303 A2.2 says; before the first packet it is 0. A number that would
    /// have come before 0 is too old. When the window is off nothing is refused, and with ESN the number nearest to the
    /// head is taken.
    ///
    /// `Ok` promises nothing: the packet may still be forged, or another core may commit its number first. Authenticate
    /// it under the returned number, then [`commit`](ReplayWindow::commit) that number.
    ///
    /// # Errors
    ///
    /// [`Refused`]: drop the packet.
    #[inline(always)]
    pub fn check(self, low: u32) -> Result<SeqNo, Refused> {
        match self.window.infer(self.head, low) {
            // Nearly all are newer than all before.
            Some(seq) if seq > self.head && seq <= self.window.last => Ok(SeqNo(seq)),
            inferred => self.check_older(inferred, low),
        }
    }

    /// As [`Self::check`], where the number isn't newer than the head.
    #[inline(never)]
    fn check_older(self, inferred: Option<u64>, low: u32) -> Result<SeqNo, Refused> {
        let WindowNow { window, head } = self;
        if window.is_off() {
            // No such number on this side of 0 or 2^64: the head's own high half is as near as it gets.
            return Ok(SeqNo(inferred.unwrap_or(head & !u64::from(u32::MAX) | u64::from(low))));
        }
        let seq = inferred.ok_or(Refused::TooOld)?;
        if seq < window.lowest(head) || seq > window.last {
            return Err(Refused::TooOld);
        }
        if seq <= head {
            let block = block_of(seq);
            let word = window.word(block).load(Ordering::Relaxed);
            let seen = window.seen(word, block).ok_or(Refused::TooOld)?;
            if seen & packet_bit(seq) != 0 {
                return Err(Refused::Duplicate);
            }
        }
        Ok(SeqNo(seq))
    }
}

/// Neighbours of a run whose numbers lie in one block.
struct Asked {
    block: u64,
    bits: u64,
    /// Those of numbers that come more than once.
    twice: u64,
    count: usize,
}

impl Asked {
    /// Takes the next number, if it lies in the block.
    #[inline(always)]
    fn takes(&mut self, seq: SeqNo) -> bool {
        let is_in = block_of(seq.0) == self.block;
        if is_in {
            self.twice |= self.bits & packet_bit(seq.0);
            self.bits |= packet_bit(seq.0);
            self.count += 1;
        }
        is_in
    }
}

/// Tells which numbers of a block were not accepted, where `fresh` are those that were.
#[cold]
fn refuse(run: impl Iterator<Item = SeqNo>, in_window: u64, mut fresh: u64, mut refused: impl FnMut(usize, Refused)) {
    for (index, seq) in run.enumerate() {
        let bit = packet_bit(seq.0);
        if in_window & bit == 0 {
            refused(index, Refused::TooOld);
        } else if fresh & bit == 0 {
            refused(index, Refused::Duplicate);
        }
        // The first packet with this number took it; a second one in the same run is a duplicate.
        fresh &= !bit;
    }
}

/// The block that a number lies in.
#[inline]
const fn block_of(seq: u64) -> u64 {
    seq >> BLOCK_SHIFT
}

/// The number's bit in the word of its block.
#[inline]
const fn packet_bit(seq: u64) -> u64 {
    1 << (seq & ((1 << BLOCK_SHIFT) - 1))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::Refused::{Duplicate, TooOld};
    use super::*;

    const SIZES: [u32; 11] = [32, 33, 47, 48, 49, 64, 100, 112, 113, 1000, 65_536];
    const EPOCH: u64 = 1 << 32;

    fn size(packets: u32) -> WindowSize {
        WindowSize::try_from(packets).unwrap()
    }

    fn window(packets: u32, esn: bool) -> ReplayWindow {
        ReplayWindow::new(size(packets), esn)
    }

    /// Checks and commits a packet as the pipeline does.
    fn receive(window: &ReplayWindow, low: u32) -> Result<SeqNo, Refused> {
        let seq = window.check(low)?;
        window.commit(seq).map(|()| seq)
    }

    fn verdicts(window: &ReplayWindow, seqs: &[SeqNo]) -> Vec<Result<(), Refused>> {
        let mut verdicts = vec![Ok(()); seqs.len()];
        window.commit_run(seqs.iter().copied(), |index, why| verdicts[index] = Err(why));
        verdicts
    }

    #[test]
    fn sizes_are_0_or_32_to_65536() {
        for good in [0, 32, 33, 64, 65_536] {
            assert_eq!(WindowSize::try_from(good).map(WindowSize::get), Ok(good));
        }
        for bad in [1, 31, 65_537, u32::MAX] {
            assert_eq!(WindowSize::try_from(bad), Err(BadWindowSize(bad)));
        }
        assert_eq!(
            BadWindowSize(16).to_string(),
            "a replay window of 16 packets isn't possible: set 32 to 65536, or 0 to switch replay protection off"
        );
    }

    #[test]
    fn a_window_is_widened_and_never_narrowed_or_switched_on() {
        let widened = |size| WindowSize::try_from(size).unwrap().at_least(1024).get();
        assert_eq!([0, 64, 1024, 4096].map(widened), [0, 1024, 1024, 4096]);
        assert_eq!(WindowSize::try_from(64).unwrap().at_least(u32::MAX).get(), 65_536);
        assert_eq!(WindowSize::try_from(64).unwrap().at_least(0).get(), 64);
    }

    #[test]
    fn a_small_window_has_its_words_in_itself() {
        assert_eq!((window(112, true).words, window(112, true).large.len()), (SMALL as u32, 0));
        assert_eq!(window(113, true).large.len(), 2 * SMALL);
        assert_eq!(size_of_val(&*window(65_536, true).large), 64 << 10);
        assert_eq!(size_of::<ReplayWindow>(), 112);
    }

    #[test]
    fn the_first_packet_may_have_any_number_but_0() {
        for esn in [false, true] {
            for first in [1, 2, 31, 32, 1000, u32::MAX] {
                let w = window(64, esn);
                assert_eq!(w.highest(), None);
                assert_eq!(w.check(0), Err(TooOld));
                assert_eq!(w.commit(SeqNo(0)), Err(TooOld));
                assert_eq!(w.highest(), None);
                assert_eq!(receive(&w, first), Ok(SeqNo(first.into())));
                assert_eq!(w.highest(), Some(SeqNo(first.into())));
                assert_eq!(w.check(first), Err(Duplicate));
                assert_eq!(w.commit(SeqNo(first.into())), Err(Duplicate));
            }
        }
    }

    #[test]
    fn the_window_is_exactly_as_wide_as_asked() {
        for packets in SIZES {
            let reach = u64::from(packets) - 1;
            // The head at every place in its block.
            for head in 200_000..200_016_u64 {
                let w = window(packets, false);
                assert_eq!(w.commit(SeqNo(head)), Ok(()));
                let left = head - reach;
                assert_eq!(w.check((left - 1) as u32), Err(TooOld), "W={packets} head={head}");
                assert_eq!(w.commit(SeqNo(left - 1)), Err(TooOld), "W={packets} head={head}");
                for seq in left..head {
                    assert_eq!(w.check(seq as u32), Ok(SeqNo(seq)), "W={packets} head={head}");
                    assert_eq!(w.commit(SeqNo(seq)), Ok(()), "W={packets} head={head}");
                    assert_eq!(w.commit(SeqNo(seq)), Err(Duplicate), "W={packets} head={head}");
                    if packets > 1000 && seq == left + 40 {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn jumps_forget_what_they_pass_and_keep_what_they_reach() {
        for packets in SIZES {
            let ring = u64::from(window(packets, false).words) * 16;
            let reach = u64::from(packets) - 1;
            for jump in [1, 16, reach, reach + 1, ring - 1, ring, ring + 1, 3 * ring + 5, 1 << 30] {
                let w = window(packets, false);
                let old = 100_003;
                assert_eq!(w.commit(SeqNo(old)), Ok(()));
                assert_eq!(w.commit(SeqNo(old + jump)), Ok(()), "W={packets} jump={jump}");
                let expected = if jump > reach { TooOld } else { Duplicate };
                assert_eq!(w.commit(SeqNo(old)), Err(expected), "W={packets} jump={jump}");
                assert_eq!(w.check(old as u32), Err(expected), "W={packets} jump={jump}");
                // Within the window, nothing but the two was received.
                for seq in (old + jump - reach..old + jump).take(50).filter(|&seq| seq != old) {
                    assert_eq!(w.commit(SeqNo(seq)), Ok(()), "W={packets} jump={jump} seq={seq}");
                }
            }
        }
    }

    #[test]
    fn without_esn_numbers_end_at_the_last_32_bit_one() {
        let w = window(64, false);
        assert_eq!(receive(&w, u32::MAX - 1), Ok(SeqNo(EPOCH - 2)));
        assert_eq!(receive(&w, u32::MAX), Ok(SeqNo(EPOCH - 1)));
        for low in [0, 1, 2, 63, 64] {
            assert_eq!(w.check(low), Err(TooOld));
        }
        assert_eq!(w.commit(SeqNo(EPOCH)), Err(TooOld));
        assert_eq!(w.highest(), Some(SeqNo(EPOCH - 1)));
        assert_eq!(receive(&w, u32::MAX - 2), Ok(SeqNo(EPOCH - 3)));
    }

    #[test]
    fn with_esn_the_window_crosses_into_the_next_epoch_and_reaches_back() {
        for packets in SIZES {
            let reach = u64::from(packets) - 1;
            let w = window(packets, true);
            assert_eq!(receive(&w, u32::MAX - 1), Ok(SeqNo(EPOCH - 2)));
            // 0 is a number like any other above the first epoch.
            assert_eq!(receive(&w, 0), Ok(SeqNo(EPOCH)));
            assert_eq!(receive(&w, 0), Err(Duplicate));
            assert_eq!(receive(&w, u32::MAX), Ok(SeqNo(EPOCH - 1)));
            assert_eq!(receive(&w, u32::MAX - 1), Err(Duplicate));
            assert_eq!(receive(&w, 5), Ok(SeqNo(EPOCH + 5)));
            // The left edge lies before the boundary. One further left means the far end of the new epoch.
            let left = EPOCH + 5 - reach;
            assert_eq!(w.check(left as u32), Ok(SeqNo(left)));
            assert_eq!(w.check((left - 1) as u32), Ok(SeqNo(EPOCH + left - 1)));
            assert_eq!(w.commit(SeqNo(left - 1)), Err(TooOld));
            // Once the window has left the old epoch, its numbers mean the next one.
            assert_eq!(receive(&w, packets + 10), Ok(SeqNo(EPOCH + u64::from(packets) + 10)));
            assert_eq!(w.check(u32::MAX), Ok(SeqNo(2 * EPOCH - 1)));
        }
    }

    #[test]
    fn with_esn_there_is_no_epoch_before_the_first() {
        let w = window(64, true);
        assert_eq!(receive(&w, 10), Ok(SeqNo(10)));
        assert_eq!(w.check(u32::MAX), Err(TooOld));
        // The window would begin at 10 - 63 = -53.
        assert_eq!(w.check(0_u32.wrapping_sub(53)), Err(TooOld));
        assert_eq!(w.check(0_u32.wrapping_sub(54)), Ok(SeqNo(EPOCH - 54)));
        assert_eq!(w.check(0), Err(TooOld));
        assert_eq!(w.check(1), Ok(SeqNo(1)));
    }

    #[test]
    fn numbers_end_before_a_generation_outgrows_its_word() {
        for (packets, last) in [(32, (1 << 54) - 1), (64, (1 << 55) - 1), (65_536, u64::MAX)] {
            let w = ReplayWindow::resume_from(size(packets), true, SeqNo(last - 1));
            assert_eq!(w.check(last as u32 - 1), Ok(SeqNo(last - 1)), "W={packets}");
            assert_eq!(receive(&w, last as u32), Ok(SeqNo(last)), "W={packets}");
            assert_eq!(receive(&w, last as u32 - 1), Ok(SeqNo(last - 1)), "W={packets}");
            assert_eq!(receive(&w, last as u32), Err(Duplicate), "W={packets}");
            assert_eq!(w.check(0), Err(TooOld), "W={packets}");
            if let Some(beyond) = last.checked_add(1) {
                assert_eq!(w.commit(SeqNo(beyond)), Err(TooOld), "W={packets}");
                assert_eq!(w.commit(SeqNo(u64::MAX)), Err(TooOld), "W={packets}");
            }
            assert_eq!(w.highest(), Some(SeqNo(last)));
        }
    }

    #[test]
    fn resuming_counts_everything_below_as_received() {
        for packets in SIZES {
            let reach = u64::from(packets) - 1;
            for next in [1, 2, 16, 17, 33, 70_000, 70_007, 70_015, 70_016, 3 * EPOCH + 5] {
                let w = ReplayWindow::resume_from(size(packets), true, SeqNo(next));
                let head = next - 1;
                assert_eq!(w.highest(), (head > 0).then_some(SeqNo(head)));
                for seq in (0..next).rev().take(packets as usize + 40) {
                    let expected = if seq > 0 && head - seq <= reach { Duplicate } else { TooOld };
                    assert_eq!(w.commit(SeqNo(seq)), Err(expected), "W={packets} next={next} seq={seq}");
                }
                assert_eq!(w.check(next as u32), Ok(SeqNo(next)));
                assert_eq!(w.commit(SeqNo(next)), Ok(()));
                assert_eq!(w.commit(SeqNo(next)), Err(Duplicate));
            }
        }
    }

    #[test]
    fn resuming_beyond_the_last_number_accepts_nothing() {
        let w = ReplayWindow::resume_from(size(64), false, SeqNo(EPOCH + 7));
        for low in [0, 1, 1 << 31, u32::MAX - 64, u32::MAX] {
            assert!(w.check(low).is_err());
            assert!(w.commit(SeqNo(low.into())).is_err());
        }
        assert_eq!(w.commit(SeqNo(EPOCH + 7)), Err(TooOld));
    }

    #[test]
    fn a_window_that_is_off_refuses_nothing() {
        let w = ReplayWindow::new(WindowSize::OFF, false);
        for low in [0, 5, 5, 1, u32::MAX, 1, 0] {
            assert_eq!(receive(&w, low), Ok(SeqNo(low.into())));
        }
        assert_eq!(w.highest(), Some(SeqNo(EPOCH - 1)));
        assert_eq!(verdicts(&w, &[SeqNo(7), SeqNo(7), SeqNo(0)]), [Ok(()); 3]);
    }

    #[test]
    fn a_window_that_is_off_takes_the_number_nearest_to_the_head() {
        let w = ReplayWindow::new(WindowSize::OFF, true);
        assert_eq!(receive(&w, 0), Ok(SeqNo(0)));
        assert_eq!(w.highest(), None);
        assert_eq!(receive(&w, u32::MAX), Ok(SeqNo(EPOCH - 1)));
        assert_eq!(receive(&w, 3), Ok(SeqNo(EPOCH + 3)));
        assert_eq!(receive(&w, u32::MAX), Ok(SeqNo(EPOCH - 1)));
        assert_eq!(w.highest(), Some(SeqNo(EPOCH + 3)));
        assert_eq!(w.check(0x8000_0002), Ok(SeqNo(EPOCH + 0x8000_0002)));
        assert_eq!(w.check(0x8000_0003), Ok(SeqNo(0x8000_0003)));
        // Nothing lies below 0 or above 2^64 - 1.
        let w = ReplayWindow::resume_from(WindowSize::OFF, true, SeqNo(6));
        assert_eq!(w.check(u32::MAX), Ok(SeqNo(EPOCH - 1)));
        let w = ReplayWindow::resume_from(WindowSize::OFF, true, SeqNo(u64::MAX));
        assert_eq!(w.check(0), Ok(SeqNo(u64::MAX - (EPOCH - 1))));
    }

    #[test]
    fn a_run_judges_as_one_by_one_does() {
        let w = window(32, false);
        let seqs = [5, 6, 6, 5, 0, 40, 8, 9, 7, 40, 41, 9].map(SeqNo);
        let expected = [
            Ok(()),
            Ok(()),
            Err(Duplicate),
            Err(Duplicate),
            Err(TooOld),
            Ok(()),
            Err(TooOld),
            Ok(()),
            Err(TooOld),
            Err(Duplicate),
            Ok(()),
            Err(TooOld),
        ];
        assert_eq!(verdicts(&w, &seqs), expected);
        assert_eq!(w.highest(), Some(SeqNo(41)));
        assert_eq!(verdicts(&w, &[]), []);
    }

    #[test]
    fn a_window_in_use_by_the_word_refuses_what_the_head_would_let_pass() {
        // What a core sees whose load of the head was overtaken: the word of the slot belongs to a newer block already.
        let w = window(32, false);
        let ring = u64::from(w.words) * 16;
        w.word(block_of(100 + ring)).store((w.generation(block_of(100)) + 1) << GENERATION_SHIFT, Ordering::Relaxed);
        assert_eq!(verdicts(&w, &[SeqNo(100), SeqNo(101)]), [Err(TooOld); 2]);
        assert_eq!(w.highest(), None);
    }

    /// The window as the RFC tells it, with all the time and memory in the world.
    struct Model {
        size: i128,
        esn: bool,
        head: Option<i128>,
        /// All below it count as seen.
        start: i128,
        seen: BTreeSet<i128>,
    }

    impl Model {
        fn new(size: u32, esn: bool, next: u64) -> Self {
            let start = i128::from(next);
            Model { size: size.into(), esn, head: (next > 1).then_some(start - 1), start, seen: BTreeSet::new() }
        }

        /// RFC 4303 A2.2, case by case, on the halves that it names: T (Th, Tl), W, Bl, Seql, Seqh.
        fn infer(&self, seql: u32) -> i128 {
            let epoch = 1_i128 << 32;
            let (Some(t), true) = (self.head, self.esn) else { return seql.into() };
            let seql = i128::from(seql);
            let (th, tl) = (t / epoch, t % epoch);
            if self.size == 0 {
                let candidates = [th - 1, th, th + 1].map(|seqh| seqh * epoch + seql);
                return candidates.into_iter().filter(|&n| n >= 0).min_by_key(|n| (n - t).abs()).unwrap();
            }
            let bl = (tl - self.size + 1).rem_euclid(epoch);
            let seqh = if tl >= self.size - 1 {
                if seql >= bl { th } else { th + 1 }
            } else if seql >= bl {
                th - 1
            } else {
                th
            };
            seqh * epoch + seql
        }

        fn judge(&self, n: i128) -> Result<(), Refused> {
            let too_old = n <= 0 || self.head.is_some_and(|head| n <= head - self.size);
            let too_far = !self.esn && n >= 1 << 32;
            if self.size == 0 {
                Ok(())
            } else if too_old || too_far {
                Err(TooOld)
            } else if n < self.start || self.seen.contains(&n) {
                Err(Duplicate)
            } else {
                Ok(())
            }
        }

        fn check(&self, low: u32) -> Result<SeqNo, Refused> {
            let n = self.infer(low);
            self.judge(n).map(|()| SeqNo(n.try_into().unwrap()))
        }

        fn commit(&mut self, seq: SeqNo) -> Result<(), Refused> {
            let n = i128::from(seq.0);
            self.judge(n)?;
            self.seen.insert(n);
            if n > 0 {
                self.head = self.head.max(Some(n));
            }
            Ok(())
        }
    }

    /// Where the next number lies.
    #[derive(Clone, Debug)]
    enum Step {
        /// This far from the head.
        Near(i64),
        /// This far from the window's left edge.
        Edge(i64),
        /// A number that was used before, counted back.
        Again(usize),
        /// This far from the nearest multiple of 2^32.
        Boundary(i64),
        /// This far ahead of the head.
        Far(u32),
        /// Some low half at all.
        Any(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (-3_i64..4).prop_map(Step::Near),
            6 => (-80_i64..80).prop_map(Step::Near),
            4 => (-20_i64..20).prop_map(Step::Edge),
            4 => (0_usize..80).prop_map(Step::Again),
            1 => (-70_i64..70).prop_map(Step::Boundary),
            1 => (0_u32..200_000).prop_map(Step::Far),
            1 => (0_u32..).prop_map(Step::Far),
            1 => (0_u32..).prop_map(Step::Any),
        ]
    }

    #[derive(Clone, Debug)]
    enum Op {
        /// A packet from the wire: checked by its low half, committed if it passes.
        Receive(Step),
        /// A packet that another core is authenticating or that is forged: checked, never committed.
        Check(Step),
        /// Numbers of packets that passed an earlier check, as one burst.
        Run(Vec<Step>),
        /// Consecutive numbers from there on.
        InOrder(Step, usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => step().prop_map(Op::Receive),
            1 => step().prop_map(Op::Check),
            2 => prop::collection::vec(step(), 0..64).prop_map(Op::Run),
            2 => (step(), 1_usize..64).prop_map(|(from, count)| Op::InOrder(from, count)),
        ]
    }

    fn start() -> impl Strategy<Value = u64> {
        prop_oneof![
            3 => Just(1_u64),
            2 => 1_u64..200,
            2 => (1_u64..4, -100_i64..100).prop_map(|(epoch, off)| (epoch << 32).saturating_add_signed(off)),
            1 => 1_u64..1 << 40,
        ]
    }

    proptest! {
        #[test]
        fn the_window_does_what_the_rfc_says(
            packets in prop_oneof![prop::sample::select(&SIZES[..]), 32_u32..=300, Just(0_u32)],
            esn: bool,
            alone: bool,
            start in start(),
            ops in prop::collection::vec(op(), 1..60),
        ) {
            let start = if esn { start } else { start.min(u64::from(u32::MAX)) };
            let w = ReplayWindow::resume_from(size(packets), esn, SeqNo(start));
            let w = if alone { w.alone() } else { w };
            let mut model = Model::new(packets, esn, start);
            let mut used: Vec<u64> = vec![];
            let mut place = |model: &Model, step: &Step| {
                let head = model.head.map_or(0, |head| head as u64);
                let seq = match *step {
                    Step::Near(off) => head.saturating_add_signed(off),
                    Step::Edge(off) => head.saturating_sub(packets.into()).saturating_add_signed(off),
                    Step::Again(back) => used.iter().rev().nth(back).copied().unwrap_or(head),
                    Step::Boundary(off) => ((head + EPOCH / 2) >> 32 << 32).saturating_add_signed(off),
                    Step::Far(ahead) => head + u64::from(ahead),
                    Step::Any(low) => low.into(),
                };
                used.push(seq);
                SeqNo(seq)
            };
            for op in &ops {
                match op {
                    Op::Receive(step) => {
                        let low = place(&model, step).low();
                        let checked = w.check(low);
                        prop_assert_eq!(checked, model.check(low), "check of {}", low);
                        if let Ok(seq) = checked {
                            prop_assert_eq!(w.commit(seq), model.commit(seq), "commit of {:?}", seq);
                        }
                    }
                    Op::Check(step) => {
                        let low = place(&model, step).low();
                        prop_assert_eq!(w.check(low), model.check(low), "check of {}", low);
                    }
                    Op::Run(steps) => {
                        let seqs: Vec<SeqNo> = steps.iter().map(|step| place(&model, step)).collect();
                        let expected: Vec<_> = seqs.iter().map(|&seq| model.commit(seq)).collect();
                        prop_assert_eq!(verdicts(&w, &seqs), expected, "run of {:?}", seqs);
                    }
                    Op::InOrder(from, count) => {
                        let first = place(&model, from).0;
                        let seqs: Vec<SeqNo> = (first..).take(*count).map(SeqNo).collect();
                        let expected: Vec<_> = seqs.iter().map(|&seq| model.commit(seq)).collect();
                        prop_assert_eq!(verdicts(&w, &seqs), expected, "run of {:?}", seqs);
                    }
                }
                prop_assert_eq!(w.highest().map(|seq| i128::from(seq.0)), model.head);
            }
        }
    }
}
