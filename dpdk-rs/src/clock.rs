//! The time-stamp counter.

use std::time::Duration;

/// A reading of the time-stamp counter, in cycles since an arbitrary start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tsc(pub u64);

impl Tsc {
    /// Reads the counter. Readings on different cores are comparable where the CPU has an invariant, synchronised
    /// TSC, as every CPU that DPDK is used on does.
    #[inline]
    #[must_use]
    pub fn now() -> Self {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction is part of the base instruction set and touches no memory.
        let cycles = unsafe { core::arch::x86_64::_rdtsc() };
        #[cfg(not(target_arch = "x86_64"))]
        // SAFETY: reads a counter; needs no initialised EAL.
        let cycles = unsafe { crate::sys::rte_get_tsc_cycles() };
        Self(cycles)
    }

    /// Cycles from `earlier` to this reading; 0 if `earlier` is later.
    #[inline]
    #[must_use]
    pub const fn cycles_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// How fast the time-stamp counter runs, in cycles a second. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscHz(u64);

impl TscHz {
    pub(crate) const fn new(hz: u64) -> Self {
        // A rate of 0 would make every conversion divide by it.
        Self(if hz == 0 { 1 } else { hz })
    }

    /// Cycles a second.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The cycles that `duration` takes; saturates.
    #[must_use]
    pub fn cycles(self, duration: Duration) -> u64 {
        let cycles = duration.as_nanos().saturating_mul(u128::from(self.0)) / 1_000_000_000;
        u64::try_from(cycles).unwrap_or(u64::MAX)
    }

    /// The nanoseconds that `cycles` take; saturates.
    #[inline]
    #[must_use]
    pub fn nanos(self, cycles: u64) -> u64 {
        let nanos = u128::from(cycles) * 1_000_000_000 / u128::from(self.0);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}
