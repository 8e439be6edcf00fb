//! The CPU's time stamp counter.

use crate::eal::Eal;
use crate::sys;

/// A reading of the counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tsc(pub u64);

impl Tsc {
    /// The counter now.
    #[inline]
    pub fn now() -> Tsc {
        // SAFETY: reads a register.
        Tsc(unsafe { sys::rte_rdtsc() })
    }

    /// Counts a second, as EAL has measured.
    pub fn hz(_eal: Eal) -> u64 {
        // SAFETY: EAL runs.
        unsafe { sys::rte_get_tsc_hz() }
    }
}
