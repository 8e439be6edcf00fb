//! Cache hints.

/// Asks the CPU to load the cache line at the start of `target` for reading.
///
/// A hint: it changes nothing but timing. On architectures other than `x86_64` it does nothing.
#[inline(always)]
pub fn prefetch_read<T: ?Sized>(target: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the base instruction set, and a prefetch never faults.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(core::ptr::from_ref(target).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = target;
}
