//! An allocator that looks into every block that is freed, for a test that no secret is left in one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

static FOUND: AtomicU64 = AtomicU64::new(0);
static SHOW: AtomicBool = AtomicBool::new(true);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator, with what is looked for: where in a block it begins.
pub struct Looking(pub fn(&[u8]) -> Option<usize>);

impl Looking {
    fn look(&self, block: &[u8]) {
        let Some(at) = self.0(block) else {
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
        self.look(unsafe { std::slice::from_raw_parts(memory, layout.size()) });
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

/// Blocks with a secret in them that are freed while `work` runs.
pub fn freed_with_a_secret(work: impl FnOnce()) -> u64 {
    wipe_stack();
    let before = FOUND.load(Relaxed);
    work();
    FOUND.load(Relaxed) - before
}

/// The same where a secret is expected: it isn't shown whose it was.
pub fn freed_on_purpose(work: impl FnOnce()) -> u64 {
    SHOW.store(false, Relaxed);
    let found = freed_with_a_secret(work);
    SHOW.store(true, Relaxed);
    found
}
