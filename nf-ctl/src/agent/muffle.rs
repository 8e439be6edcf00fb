//! Something that may happen very often, told now and then.

use std::time::{Duration, Instant};

/// Lets one report through an interval, and counts those that it keeps back.
#[derive(Debug)]
pub struct Muffle {
    interval: Duration,
    told: Option<Instant>,
    untold: u64,
}

impl Muffle {
    /// At most one report in an interval.
    pub const fn new(interval: Duration) -> Muffle {
        Muffle { interval, told: None, untold: 0 }
    }

    /// Whether to report what happens now: if so, with how many reports were kept back since the last one.
    pub fn tell(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < self.interval) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_report_an_interval_tells_of_those_kept_back() {
        let start = Instant::now();
        let mut muffle = Muffle::new(Duration::from_secs(10));
        let told = [0, 1, 9, 10, 11, 30].map(|second| muffle.tell(start + Duration::from_secs(second)));
        assert_eq!(told, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
