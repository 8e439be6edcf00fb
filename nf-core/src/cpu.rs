//! The two things that a core asks of its CPU beyond computing: to tell the time in clocks, and to fetch memory ahead.
//!
//! Both need instructions that only `dpdk-rs` may use. In a build without DPDK, which never runs a core for real, clocks
//! stand still and nothing is fetched ahead; no packet fares otherwise for it.

/// The time-stamp counter: clocks of a constant rate, comparable between cores.
#[inline]
pub fn clocks() -> u64 {
    #[cfg(feature = "dpdk")]
    return dpdk_rs::Tsc::now().0;
    #[cfg(not(feature = "dpdk"))]
    0
}

/// Asks for the cache line at the start of `target`.
#[inline(always)]
pub fn prefetch<T: ?Sized>(target: &T) {
    #[cfg(feature = "dpdk")]
    dpdk_rs::prefetch_read(target);
    #[cfg(not(feature = "dpdk"))]
    let _ = target;
}
