//! How long a site waits for its next recovery.

use std::time::{Duration, Instant};

/// The back-off of one site: the first recovery starts at once, and each further one waits twice as long as the one
/// before, counted from that one's start. A site that has been quiet for the longest wait begins anew.
#[derive(Clone, Debug, Default)]
pub struct BackOff {
    /// When the last recovery started or ended, and how many starts there were without a quiet time.
    last: Option<(Instant, u32)>,
}

impl BackOff {
    /// The time until a recovery may start; zero if it may now.
    pub fn wait(&self, now: Instant, first: Duration, longest: Duration) -> Duration {
        let Some((at, starts)) = self.last else {
            return Duration::ZERO;
        };
        let wait = first.saturating_mul(1u32.checked_shl(starts.saturating_sub(1)).unwrap_or(u32::MAX)).min(longest);
        wait.saturating_sub(now.saturating_duration_since(at))
    }

    /// Notes that a recovery starts.
    pub fn start(&mut self, now: Instant, longest: Duration) {
        let starts = match self.last {
            // Twice the longest wait: a site that is tried as often as it may be isn't quiet.
            Some((at, starts)) if now.saturating_duration_since(at) < longest.saturating_mul(2) => starts,
            _ => 0,
        };
        self.last = Some((now, starts.saturating_add(1)));
    }

    /// Notes that it ended. The next one waits from now on: an exchange that takes long isn't repeated at once.
    pub fn end(&mut self, now: Instant) {
        if let Some((at, _)) = &mut self.last {
            *at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_the_longest_and_forgets_in_a_quiet_time() {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut now = Instant::now();
        let mut back_off = BackOff::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            let wait = back_off.wait(now, first, longest);
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(back_off.wait(now, first, longest), Duration::ZERO);
            back_off.start(now, longest);
            back_off.end(now);
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        now += longest * 2;
        back_off.start(now, longest);
        assert_eq!(back_off.wait(now, first, longest), first);
    }
}
