//! The anti-replay window of an inbound SA (RFC 4303 3.4.3), with extended sequence numbers (RFC 4303 appendix A),
//! shared by all cores without a lock.
//!
//! The window is a ring of words (as in RFC 6479: no shifting). A word holds the numbers of one block of 16 and a tag
//! that says which of the blocks that share its place it stands for just now. To mark a number is one compare-exchange:
//! under the same tag it sets a bit, or finds it set; over an older tag it replaces the word, by which the old block is
//! forgotten; under a newer tag the number is too old. As there is no separate clearing, there is nothing to race with:
//! whatever cores do at the same time, a number is accepted once at most. The highest number that the cores share only
//! decides what is too old and, with ESN, which high half a packet has; a look at it that is a little stale lets an
//! old number in that its word still knows to be new, and never a number twice.

use std::cmp::Ordering;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::types::SeqNo;

/// Numbers in a block: the bits of a word that aren't tag.
const BLOCK: u64 = 16;
const BLOCK_SHIFT: u32 = 4;
const BITS: u64 = 0xFFFF;
/// Half of the 32-bit numbers: what "nearest" means where there is no window to go by.
const HALF: u64 = 1 << 31;

/// The size of an anti-replay window in packets: 0 for none, or 32 to 65,536.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WindowSize(u32);

impl WindowSize {
    /// No anti-replay.
    pub const OFF: WindowSize = WindowSize(0);
    /// The smallest window (RFC 4303 3.4.3: a minimum of 32 must be supported).
    pub const MIN: u32 = 32;
    /// The largest window.
    pub const MAX: u32 = 65_536;

    /// In packets; 0 for none.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A window size that isn't one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} isn't a window size: use 0 for no anti-replay, or {min} to {max} packets", min = WindowSize::MIN, max = WindowSize::MAX)]
pub struct BadWindowSize(u32);

impl TryFrom<u32> for WindowSize {
    type Error = BadWindowSize;

    fn try_from(packets: u32) -> Result<WindowSize, BadWindowSize> {
        match packets {
            0 | WindowSize::MIN..=WindowSize::MAX => Ok(WindowSize(packets)),
            _ => Err(BadWindowSize(packets)),
        }
    }
}

/// Why a number is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It was accepted before.
    Duplicate,
    /// It lies left of the window, or isn't a number that a sender uses.
    TooOld,
}

/// The window of one SA. 64 packets take 64 octets, 65,536 packets 64 KiB, beside this struct.
pub struct ReplayWindow {
    /// The highest authentic number. 0 before the first: no sender uses it (RFC 4303 3.3.3).
    highest: AtomicU64,
    words: Box<[AtomicU64]>,
    size: u64,
    esn: bool,
}

impl ReplayWindow {
    /// A window in which nothing has been seen.
    pub fn new(size: WindowSize, esn: bool) -> ReplayWindow {
        // One block more than the window is long: its ends may lie in blocks of their own. A power of two makes a
        // mask of the modulo.
        let blocks =
            if size == WindowSize::OFF { 0 } else { (u64::from(size.0).div_ceil(BLOCK) + 1).next_power_of_two() };
        ReplayWindow {
            highest: AtomicU64::new(0),
            words: (0..blocks).map(|_| AtomicU64::new(0)).collect(),
            size: size.0.into(),
            esn,
        }
    }

    /// The highest authentic number, if there was one.
    pub fn highest(&self) -> Option<SeqNo> {
        match self.highest.load(Relaxed) {
            0 => None,
            highest => Some(SeqNo(highest)),
        }
    }

    /// Before decryption: the number in full, unless it was certainly seen or is too old.
    #[inline]
    pub fn check(&self, low: u32) -> Result<SeqNo, Refused> {
        let highest = self.highest.load(Relaxed);
        let seq = if self.esn { self.extend(low, highest)? } else { u64::from(low) };
        if self.size == 0 {
            return Ok(SeqNo(seq));
        }
        self.within(seq, highest)?;
        let (slot, tag, bit) = self.place(seq);
        let word = slot.load(Relaxed);
        match tag_of(word).cmp(&tag) {
            Ordering::Equal if word & bit != 0 => Err(Refused::Duplicate),
            Ordering::Greater => Err(Refused::TooOld),
            _ => Ok(SeqNo(seq)),
        }
    }

    /// The high half of a number (RFC 4303 A2.2). Of all numbers with this low half it is the one within reach of the
    /// window: at most a window's length left of the highest, else to the right of it. More than 2^32 packets lost in a
    /// row defeat it (RFC 4303 A3).
    #[inline]
    fn extend(&self, low: u32, highest: u64) -> Result<u64, Refused> {
        let window = if self.size == 0 { HALF } else { self.size };
        // The lowest number that may still be meant.
        let left = (highest + 1).saturating_sub(window);
        let ahead = low.wrapping_sub(left as u32);
        left.checked_add(ahead.into()).ok_or(Refused::TooOld)
    }

    #[inline]
    fn within(&self, seq: u64, highest: u64) -> Result<(), Refused> {
        if seq == 0 || seq.saturating_add(self.size) <= highest { Err(Refused::TooOld) } else { Ok(()) }
    }

    /// Where a number is marked: its word, the word's tag for its block, its bit. The ring has a power of two of words,
    /// at least four, so the tag is the number without its lowest six bits or more, cut to 48 bits: the same tag comes
    /// round after 2^54 authentic packets, some ten million years at a packet every 20 ns.
    #[inline]
    fn place(&self, seq: u64) -> (&AtomicU64, u64, u64) {
        let block = seq >> BLOCK_SHIFT;
        let count = self.words.len();
        let slot = &self.words[block as usize & (count - 1)];
        let tag = (block >> count.trailing_zeros()) & (u64::MAX >> BLOCK);
        (slot, tag, 1 << (seq % BLOCK))
    }

    /// After authentication: takes one number.
    pub fn commit(&self, seq: SeqNo) -> Result<(), Refused> {
        let mut verdict = [Ok(())];
        self.commit_run(&[seq], &mut verdict);
        let [verdict] = verdict;
        verdict
    }

    /// After authentication: takes the numbers of a burst of one SA's packets in arrival order, and writes for each
    /// whether it is accepted. Neighbours in a block share a compare-exchange, and the highest number is published once.
    /// The outcome is that of taking them one by one. The shorter of the two slices decides how many are taken.
    pub fn commit_run(&self, seqs: &[SeqNo], verdicts: &mut [Result<(), Refused>]) {
        let count = seqs.len().min(verdicts.len());
        let known = self.highest.load(Relaxed);
        let mut highest = known;
        let mut at = 0;
        while at < count {
            let SeqNo(seq) = seqs[at];
            if self.size == 0 {
                highest = highest.max(seq);
                verdicts[at] = Ok(());
                at += 1;
                continue;
            }
            if let Err(refused) = self.within(seq, highest) {
                verdicts[at] = Err(refused);
                at += 1;
                continue;
            }
            highest = highest.max(seq);
            let (slot, tag, mut bits) = self.place(seq);
            // Those that follow in the same block, each number once: its second copy is left for the next round, which
            // finds it marked.
            let mut end = at + 1;
            while end < count {
                let SeqNo(next) = seqs[end];
                let bit = 1 << (next % BLOCK);
                if next >> BLOCK_SHIFT != seq >> BLOCK_SHIFT || bits & bit != 0 || self.within(next, highest).is_err() {
                    break;
                }
                highest = highest.max(next);
                bits |= bit;
                end += 1;
            }
            let seen = mark(slot, tag, bits);
            for (SeqNo(seq), verdict) in seqs[at..end].iter().zip(&mut verdicts[at..end]) {
                *verdict = seen.and_then(|seen| match seen & 1 << (seq % BLOCK) {
                    0 => Ok(()),
                    _ => Err(Refused::Duplicate),
                });
            }
            at = end;
        }
        if highest > known {
            self.highest.fetch_max(highest, Relaxed);
        }
    }
}

const fn tag_of(word: u64) -> u64 {
    word >> BLOCK
}

/// Sets bits of a block; gives those of the block's bits that were set before. Relaxed will do: the word is all there
/// is to agree on, each of its values is one step, and no other memory hangs on it.
#[inline]
fn mark(slot: &AtomicU64, tag: u64, bits: u64) -> Result<u64, Refused> {
    let mut word = slot.load(Relaxed);
    loop {
        let seen = match tag_of(word).cmp(&tag) {
            Ordering::Less => 0,
            Ordering::Equal => word & BITS,
            Ordering::Greater => return Err(Refused::TooOld),
        };
        match slot.compare_exchange_weak(word, tag << BLOCK | seen | bits, Relaxed, Relaxed) {
            Ok(_) => return Ok(seen),
            Err(changed) => word = changed,
        }
    }
}

impl fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayWindow")
            .field("highest", &self.highest())
            .field("size", &self.size)
            .field("esn", &self.esn)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn window(size: u32, esn: bool) -> ReplayWindow {
        ReplayWindow::new(size.try_into().unwrap(), esn)
    }

    /// Check, then commit: a packet that turns out authentic.
    fn receive(window: &ReplayWindow, low: u32) -> Result<SeqNo, Refused> {
        let seq = window.check(low)?;
        window.commit(seq).map(|()| seq)
    }

    #[test]
    fn sizes_are_0_or_32_to_65536() {
        for size in [0, 32, 33, 64, 65_536] {
            assert_eq!(WindowSize::try_from(size).map(WindowSize::get), Ok(size));
        }
        for size in [1, 31, 65_537, u32::MAX] {
            assert_eq!(WindowSize::try_from(size), Err(BadWindowSize(size)));
        }
    }

    #[test]
    fn the_edges_are_exact_for_every_size() {
        for size in [32u32, 33, 47, 48, 64, 100, 65_536] {
            let window = window(size, false);
            let head = 200_000;
            assert_eq!(receive(&window, head), Ok(SeqNo(head.into())));
            assert_eq!(window.check(head - size), Err(Refused::TooOld), "size {size}");
            assert_eq!(receive(&window, head - size + 1), Ok(SeqNo((head - size + 1).into())), "size {size}");
            assert_eq!(receive(&window, head - size + 1), Err(Refused::Duplicate), "size {size}");
            assert_eq!(receive(&window, head), Err(Refused::Duplicate), "size {size}");
        }
    }

    #[test]
    fn only_commit_moves_the_window() {
        let window = window(64, false);
        assert_eq!(window.check(1_000_000), Ok(SeqNo(1_000_000)));
        assert_eq!(window.highest(), None);
        assert_eq!(receive(&window, 1), Ok(SeqNo(1)));
    }

    #[test]
    fn zero_is_never_sent() {
        assert_eq!(window(64, false).check(0), Err(Refused::TooOld));
        assert_eq!(window(64, true).check(0), Err(Refused::TooOld));
    }

    #[test]
    fn a_jump_forgets_the_whole_ring() {
        let window = window(64, false);
        for seq in 1..=64 {
            receive(&window, seq).unwrap();
        }
        receive(&window, 1_000_000).unwrap();
        for seq in 999_937..1_000_000 {
            assert_eq!(receive(&window, seq), Ok(SeqNo(seq.into())));
            assert_eq!(receive(&window, seq), Err(Refused::Duplicate));
        }
    }

    #[test]
    fn without_esn_numbers_end() {
        let window = window(64, false);
        receive(&window, u32::MAX).unwrap();
        assert_eq!(window.check(0), Err(Refused::TooOld));
        assert_eq!(window.check(1), Err(Refused::TooOld));
    }

    #[test]
    fn esn_goes_on_into_the_next_epoch_and_looks_back() {
        let window = window(64, true);
        receive(&window, 0x8000_0000).unwrap();
        assert_eq!(receive(&window, 0xFFFF_FFF0), Ok(SeqNo(0xFFFF_FFF0)));
        assert_eq!(receive(&window, 5), Ok(SeqNo(0x1_0000_0005)));
        assert_eq!(receive(&window, 0), Ok(SeqNo(0x1_0000_0000)));
        assert_eq!(receive(&window, 0xFFFF_FFF1), Ok(SeqNo(0xFFFF_FFF1)));
        assert_eq!(receive(&window, 0xFFFF_FFF0), Err(Refused::Duplicate));
        assert_eq!(window.check(0xFFFF_FF00), Ok(SeqNo(0x1_FFFF_FF00)), "left of the window: it must be of this epoch");
    }

    #[test]
    fn without_a_window_everything_passes_and_esn_takes_the_nearest() {
        let plain = window(0, false);
        for _ in 0..2 {
            assert_eq!(receive(&plain, 7), Ok(SeqNo(7)));
            assert_eq!(receive(&plain, 0), Ok(SeqNo(0)));
        }
        let esn = window(0, true);
        receive(&esn, 0x7FFF_FFFF).unwrap();
        receive(&esn, 0xFFFF_FFFF).unwrap();
        assert_eq!(receive(&esn, 3), Ok(SeqNo(0x1_0000_0003)));
        assert_eq!(receive(&esn, 0xFFFF_FFFE), Ok(SeqNo(0xFFFF_FFFE)));
    }

    /// The window as RFC 4303 tells it, with a set in place of a bitmap and appendix A2.2 word for word.
    struct Model {
        size: i128,
        esn: bool,
        highest: i128,
        seen: BTreeSet<i128>,
    }

    impl Model {
        fn infer(&self, low: u32) -> i128 {
            if !self.esn {
                return low.into();
            }
            let (th, tl) = (self.highest >> 32, self.highest & 0xFFFF_FFFF);
            let low = i128::from(low);
            let bottom = tl - self.size + 1;
            let epoch = if tl >= self.size - 1 {
                if low >= bottom { th } else { th + 1 }
            } else if low >= bottom.rem_euclid(1 << 32) {
                // Before the first wrap there is no epoch to go back to.
                (th - 1).max(0)
            } else {
                th
            };
            (epoch << 32) + low
        }

        fn accepts(&self, seq: i128) -> Result<(), Refused> {
            if seq == 0 || seq <= self.highest - self.size {
                Err(Refused::TooOld)
            } else if self.seen.contains(&seq) {
                Err(Refused::Duplicate)
            } else {
                Ok(())
            }
        }

        fn take(&mut self, seq: i128) -> Result<(), Refused> {
            self.accepts(seq)?;
            self.seen.insert(seq);
            self.highest = self.highest.max(seq);
            Ok(())
        }
    }

    /// Numbers relative to the highest: mostly near it, some far off.
    fn steps() -> impl Strategy<Value = Vec<(i64, bool)>> {
        let step = prop_oneof![
            6 => -8i64..=8,
            4 => -150i64..=150,
            1 => -70_000i64..=70_000,
            1 => Just(i64::from(u32::MAX)),
            1 => 1_000_000_000i64..=2_000_000_000,
        ];
        prop::collection::vec((step, prop::bool::weighted(0.9)), 1..400)
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(
            size in prop::sample::select(vec![32u32, 33, 48, 64, 100, 1024, 65_536]), esn: bool,
            start in prop::sample::select(vec![1u32, 40, 0x7FFF_FFFF, 0xFFFF_FFC0]), steps in steps(),
        ) {
            let window = window(size, esn);
            let mut model = Model { size: size.into(), esn, highest: 0, seen: BTreeSet::new() };
            let mut next = i64::from(start);
            for (step, authentic) in steps {
                let low = next as u32;
                let seq = model.infer(low);
                let expected = model.accepts(seq);
                prop_assert_eq!(window.check(low), expected.map(|()| SeqNo(seq as u64)), "low {:#x}", low);
                if authentic && expected.is_ok() {
                    model.take(seq).unwrap();
                    prop_assert_eq!(window.commit(SeqNo(seq as u64)), Ok(()));
                }
                prop_assert_eq!(window.highest().map_or(0, |seq| i128::from(seq.0)), model.highest);
                next = model.highest as i64 + step;
            }
        }

        #[test]
        fn a_run_is_its_numbers_one_by_one(
            size in prop::sample::select(vec![0u32, 32, 64, 100]),
            runs in prop::collection::vec(prop::collection::vec(0u64..300, 1..65), 1..20),
        ) {
            let (by_run, one_by_one) = (window(size, true), window(size, true));
            for (i, run) in runs.iter().enumerate() {
                let seqs: Vec<SeqNo> = run.iter().map(|seq| SeqNo(seq + 40 * i as u64)).collect();
                let mut verdicts = vec![Ok(()); seqs.len()];
                by_run.commit_run(&seqs, &mut verdicts);
                let expected: Vec<_> = seqs.iter().map(|seq| one_by_one.commit(*seq)).collect();
                prop_assert_eq!(verdicts, expected);
                prop_assert_eq!(by_run.highest(), one_by_one.highest());
            }
        }
    }
}
