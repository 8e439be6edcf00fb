//! An allocator that looks into every block that is freed, for a test that no secret is left in one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The beginnings of what is looked for, and how many there are.
static MARKERS: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// A bit for the first two octets of each.
static FILTER: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];
static FOUND: AtomicU64 = AtomicU64::new(0);
static SHOW: AtomicBool = AtomicBool::new(true);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// What a secret is known by: its first eight octets.
pub fn beginning(secret: &[u8]) -> u64 {
    u64::from_ne_bytes(secret[..8].try_into().unwrap())
}

fn filter(word: u64) -> (&'static AtomicU64, u64) {
    let bits = usize::from(word as u16);
    (&FILTER[bits / 64], 1 << (bits % 64))
}

/// The system's allocator, which looks for the secrets of [`freed_with`].
pub struct Looking;

impl Looking {
    fn look(block: &[u8]) {
        let count = COUNT.load(Relaxed);
        if count == 0 {
            return;
        }
        let is_marker = |window: &[u8]| {
            let word = window.try_into().map_or(0, u64::from_ne_bytes);
            let (bits, bit) = filter(word);
            bits.load(Relaxed) & bit != 0 && MARKERS.iter().take(count).any(|marker| marker.load(Relaxed) == word)
        };
        let Some(at) = block.windows(8).position(is_marker) else {
            return;
        };
        FOUND.fetch_add(1, Relaxed);
        // Whose it was is what one wants to know; what that allocates isn't shown.
        if SHOW.load(Relaxed) && !INSIDE.replace(true) {
            let trace = std::backtrace::Backtrace::force_capture();
            eprintln!("a block of {} octets is freed with a secret at {at}:\n{trace}", block.len());
            INSIDE.set(false);
        }
    }
}

// SAFETY: every call goes to the system's allocator as it is. `realloc` is the trait's own: a new block, a copy, and the old
// one freed by `dealloc`.
unsafe impl GlobalAlloc for Looking {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Zeroed, so that what nobody has written since can't be what somebody left before; and so that all of it may be
        // read when it is freed.
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the block is the caller's, whole and initialised, until it is freed below.
        Looking::look(unsafe { std::slice::from_raw_parts(memory, layout.size()) });
        // SAFETY: the caller keeps to the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Work before may have left something on the stack, which a moved value takes along in its padding: that is out of reach of
/// whoever frees it.
#[inline(never)]
fn wipe_stack() {
    std::hint::black_box([0u8; 512 << 10]);
}

/// Blocks with one of these beginnings of secrets in them that are freed while `work` runs.
pub fn freed_with(secrets: &BTreeSet<u64>, work: impl FnOnce()) -> u64 {
    assert!((1..=MARKERS.len()).contains(&secrets.len()), "{} secrets", secrets.len());
    for (marker, secret) in MARKERS.iter().zip(secrets) {
        marker.store(*secret, Relaxed);
        let (bits, bit) = filter(*secret);
        bits.fetch_or(bit, Relaxed);
    }
    wipe_stack();
    let before = FOUND.load(Relaxed);
    COUNT.store(secrets.len(), Relaxed);
    work();
    COUNT.store(0, Relaxed);
    FILTER.iter().for_each(|bits| bits.store(0, Relaxed));
    FOUND.load(Relaxed) - before
}

/// The same where a secret is expected: it isn't shown whose it was.
pub fn freed_on_purpose(secrets: &BTreeSet<u64>, work: impl FnOnce()) -> u64 {
    SHOW.store(false, Relaxed);
    let found = freed_with(secrets, work);
    SHOW.store(true, Relaxed);
    found
}
