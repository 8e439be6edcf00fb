//! The marks: a line of memory for each SA, in a file, where cores store how far its sequence numbers have come.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release};

use super::seal::Id;
use super::{FORMAT, Refusal};
use crate::types::SeqNo;

/// Words of a line: no two SAs share a cache line.
const LINE: usize = 8;

/// Words of a line.
type Line = [AtomicU64; LINE];

/// The word of a line that tells whose it is: the serial number of an SA, or 0.
const OWNER: usize = 0;
/// The word with the highest sequence number.
const HIGHEST: usize = 1;

/// The first word of the first line, which tells what file this is. The id and the format follow it.
const MAGIC: u64 = u64::from_le_bytes(*b"NFMARKS\0");

/// Where an SA's progress is kept, for a core.
#[derive(Clone, Copy)]
pub struct Mark(&'static Line);

impl Mark {
    /// Stores a sequence number, unless a higher one stands there. Once this returns, no end of the process undoes it.
    #[inline]
    pub fn raise(&self, seq: SeqNo) {
        let word = &self.0[HIGHEST];
        if word.load(Relaxed) < seq.0 {
            word.fetch_max(seq.0, Relaxed);
        }
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mark").field(&self.0[HIGHEST].load(Relaxed)).finish()
    }
}

/// An SA's place among the marks.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// For the cores.
    pub mark: Mark,
    /// The line's number.
    pub(super) line: u32,
    /// What the line's owner is known by: no two SAs of a process have the same.
    pub(super) serial: u64,
    /// Whether nf.toml names the SA.
    pub configured: bool,
    /// When the SA was installed, by the clock that runs since the machine has started, in nanoseconds.
    pub installed: u64,
}

/// The marks of this process.
pub(super) struct Marks {
    lines: &'static [Line],
    free: Vec<u32>,
    /// Lines that are given up, but may still be named in the state file.
    given_up: Vec<u32>,
    serial: u64,
}

impl Marks {
    /// Octets of the marks of so many SAs, with those that are about to be given up.
    pub(super) fn words(capacity: usize) -> usize {
        (capacity + capacity / 8 + 64) * LINE
    }

    /// Takes fresh memory, all zeros.
    pub(super) fn new(words: &'static [AtomicU64], id: &Id) -> Marks {
        let (lines, _) = words.as_chunks::<LINE>();
        if let Some(first) = lines.first() {
            let (high, low) = id.halves();
            for (word, value) in first.iter().zip([MAGIC, high, low, FORMAT.into()]) {
                word.store(value, Relaxed);
            }
        }
        // The lowest first, so that few pages are touched.
        let free = (1..u32::try_from(lines.len()).unwrap_or(u32::MAX)).rev().collect();
        Marks { lines, free, given_up: Vec::new(), serial: 0 }
    }

    /// Gives an SA a line, in which a number stands that counts as received; none where all are taken.
    pub(super) fn take(&mut self, highest: SeqNo) -> Option<(u32, u64, Mark)> {
        let number = self.free.pop()?;
        let line = self.lines.get(number as usize)?;
        self.serial += 1;
        line[HIGHEST].store(highest.0, Relaxed);
        // Whoever reads the owner reads its number, not that of the line's former owner.
        line[OWNER].store(self.serial, Release);
        Some((number, self.serial, Mark(line)))
    }

    /// Takes a line back. From now on no successor restores its SA, whatever the state file says.
    pub(super) fn give_up(&mut self, number: u32) {
        if let Some(line) = self.lines.get(number as usize) {
            line[OWNER].store(0, Relaxed);
            self.given_up.push(number);
        }
    }

    /// How many lines wait for the next state file.
    pub(super) fn waiting(&self) -> usize {
        self.given_up.len()
    }

    /// No state file names any more what was given up.
    pub(super) fn settle(&mut self) {
        self.free.append(&mut self.given_up);
    }
}

/// The marks of a predecessor, as it left them.
pub(super) struct OldMarks(Vec<u64>);

impl OldMarks {
    /// Checks what was read.
    pub(super) fn read(octets: &[u8], id: &Id) -> Result<OldMarks, Refusal> {
        let (words, rest) = octets.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        let (high, low) = id.halves();
        let is_ours = words.first_chunk::<4>() == Some(&[MAGIC, high, low, FORMAT.into()]);
        if is_ours && rest.is_empty() && words.len().is_multiple_of(LINE) {
            Ok(OldMarks(words))
        } else {
            Err(Refusal::Marks)
        }
    }

    /// How far an SA has come; nothing if it was deleted.
    ///
    /// # Errors
    /// The marks don't reach to that line: they were cut.
    pub(super) fn highest(&self, line: u32, serial: u64) -> Result<Option<SeqNo>, Refusal> {
        let start = line as usize * LINE;
        let line = self.0.get(start..start + LINE).filter(|_| line > 0).ok_or(Refusal::Marks)?;
        Ok((serial != 0 && line[OWNER] == serial).then_some(SeqNo(line[HIGHEST])))
    }
}
