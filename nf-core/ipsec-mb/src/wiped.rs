//! Memory that is overwritten before it is given back.

use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

/// Octets of a cache line.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE: usize = 64;

/// A box whose memory is overwritten with zeros when it is dropped: for expanded keys, also those of libraries that leave
/// theirs where they were.
///
/// What a type points to isn't overwritten, so it may own nothing: a type that has something to drop doesn't compile.
pub struct Wiped<T>(Box<MaybeUninit<T>>);

impl<T> Wiped<T> {
    /// Takes a value to a place of its own.
    pub fn new(value: T) -> Wiped<T> {
        const { assert!(!std::mem::needs_drop::<T>(), "what the type owns would leak and not be overwritten") };
        Wiped(Box::new(MaybeUninit::new(value)))
    }
}

impl<T> Wiped<T> {
    /// Asks the CPU for the first `octets` of the memory, or for all of it where that is less.
    #[inline]
    pub fn prefetch(&self, octets: usize) {
        #[cfg(target_arch = "x86_64")]
        for line in 0..size_of::<T>().min(octets).div_ceil(CACHE_LINE) {
            let memory: *const i8 = self.0.as_ptr().cast();
            // SAFETY: a prefetch is a hint that never faults, and the line begins within the memory.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(memory.add(line * CACHE_LINE));
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = octets;
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: it was made with a value, which only `drop` overwrites.
        unsafe { self.0.assume_init_ref() }
    }
}

impl<T> DerefMut for Wiped<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`.
        unsafe { self.0.assume_init_mut() }
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        let memory: *mut MaybeUninit<T> = &mut *self.0;
        // SAFETY: the memory is ours, and any octets are valid for `MaybeUninit`; a volatile write isn't left out for
        // being the last.
        unsafe { std::ptr::write_volatile(memory, MaybeUninit::zeroed()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_its_value() {
        // With octets between the fields that nobody ever writes.
        let mut wiped = Wiped::new((1_u8, 2_u64));
        wiped.prefetch(usize::MAX);
        let value = &mut *wiped;
        value.1 += u64::from(value.0);
        assert_eq!(*wiped, (1, 3));
    }
}
