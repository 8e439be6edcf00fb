//! The time of cores and control thread: one clock, from the CPU's counter.

use dpdk_rs::{Eal, Tsc};

use crate::types::Nanos;

/// Turns counts of the TSC into nanoseconds since the clock was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Tsc,
    /// Nanoseconds of a count, times 2^32.
    scale: u64,
    hz: u64,
}

impl Clock {
    pub(super) fn new(eal: Eal) -> Clock {
        let hz = eal.tsc_hz().get();
        Clock { start: Tsc::now(), scale: ((u128::from(Nanos::SECOND) << 32) / u128::from(hz)) as u64, hz }
    }

    pub(super) fn now(&self) -> Nanos {
        self.at(Tsc::now())
    }

    pub(super) fn at(&self, tsc: Tsc) -> Nanos {
        let counts = tsc.0.saturating_sub(self.start.0);
        Nanos(((u128::from(counts) * u128::from(self.scale)) >> 32) as u64)
    }

    /// How many counts that many milliseconds take.
    pub(super) fn counts(&self, milliseconds: u64) -> u64 {
        (u128::from(self.hz) * u128::from(milliseconds) / 1000).min(u64::MAX.into()) as u64
    }
}
