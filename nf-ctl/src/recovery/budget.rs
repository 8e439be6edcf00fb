//! The budget of IKE messages: a token bucket that all recoveries share.

use std::time::{Duration, Instant};

/// A token bucket, one token for each IKE message.
///
/// A recovery takes the most that it may send before it begins, and gives back at its end what it didn't send. So what
/// has been sent never exceeds what has been granted, whatever happens in between.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Messages at once, at most.
    burst: i64,
    /// The time in which a message is granted.
    interval: Duration,
    tokens: i64,
    filled: Instant,
}

impl Budget {
    /// A full bucket of `burst` messages, into which come `per_minute` a minute.
    pub fn new(now: Instant, per_minute: u32, burst: u32) -> Budget {
        let interval = Duration::from_secs(60) / per_minute.max(1);
        Budget { burst: i64::from(burst), interval, tokens: i64::from(burst), filled: now }
    }

    /// Other limits from now on. What was spent stays spent.
    pub fn set_limits(&mut self, now: Instant, per_minute: u32, burst: u32) {
        self.fill(now);
        let Budget { burst, interval, tokens, .. } = Budget::new(now, per_minute, burst);
        self.tokens = (self.tokens + tokens - self.burst).min(burst);
        (self.burst, self.interval) = (burst, interval);
    }

    /// Takes tokens, if there are that many.
    pub fn take(&mut self, now: Instant, messages: u32) -> bool {
        self.fill(now);
        let enough = self.tokens >= i64::from(messages);
        if enough {
            self.tokens -= i64::from(messages);
        }
        enough
    }

    /// Settles a recovery that had taken `taken` and sent `sent`.
    pub fn settle(&mut self, taken: u32, sent: u32) {
        self.tokens = (self.tokens + i64::from(taken) - i64::from(sent)).min(self.burst);
    }

    /// What is there: negative if more was sent than taken.
    pub fn left(&self) -> i64 {
        self.tokens
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        let grants = passed.as_nanos() / self.interval.as_nanos().max(1);
        let grants = i64::try_from(grants).unwrap_or(i64::MAX);
        if self.tokens.saturating_add(grants) >= self.burst {
            (self.tokens, self.filled) = (self.burst.max(self.tokens), now);
        } else {
            self.tokens += grants;
            // The rest of an interval isn't lost.
            let grants = u32::try_from(grants).unwrap_or(u32::MAX);
            self.filled += self.interval.saturating_mul(grants);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(start, 60, 10);
        assert!(budget.take(start, 10) && !budget.take(start, 1));
        assert!(!budget.take(start + Duration::from_millis(999), 1));
        assert!(budget.take(start + Duration::from_millis(1000), 1));
        // No more than the burst is saved up.
        let later = start + Duration::from_secs(3600);
        assert!(budget.take(later, 10) && !budget.take(later, 1));
    }

    #[test]
    fn other_limits_forgive_nothing() {
        let start = Instant::now();
        let mut budget = Budget::new(start, 60, 10);
        assert!(budget.take(start, 8));
        budget.set_limits(start, 60, 20);
        assert_eq!(budget.left(), 12);
        budget.set_limits(start, 120, 5);
        assert_eq!(budget.left(), -3);
        assert!(!budget.take(start + Duration::from_millis(1900), 1));
        assert!(budget.take(start + Duration::from_secs(2), 1));
        budget.set_limits(start + Duration::from_secs(2), 120, 5);
        assert_eq!(budget.left(), 0);
    }

    #[test]
    fn what_was_not_sent_comes_back_and_what_was_sent_beyond_is_owed() {
        let start = Instant::now();
        let mut budget = Budget::new(start, 60, 10);
        assert!(budget.take(start, 10));
        budget.settle(10, 4);
        assert_eq!(budget.left(), 6);
        assert!(budget.take(start, 6));
        budget.settle(6, 9);
        assert_eq!(budget.left(), -3);
        assert!(!budget.take(start + Duration::from_secs(3), 1));
        assert!(budget.take(start + Duration::from_secs(4), 1));
    }
}
