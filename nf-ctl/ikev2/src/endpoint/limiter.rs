//! A token bucket, for answers to messages that nobody has authenticated.

use std::time::Instant;

/// So many in a second, and as many at once.
pub(super) struct Limiter {
    per_second: u32,
    /// Millionths of a token.
    tokens: u64,
    last: Instant,
}

const TOKEN: u64 = 1_000_000;

impl Limiter {
    pub fn new(per_second: u32, now: Instant) -> Self {
        Limiter { per_second, tokens: u64::from(per_second) * TOKEN, last: now }
    }

    /// Takes a token, if there is one.
    pub fn allow(&mut self, now: Instant) -> bool {
        let full = u64::from(self.per_second) * TOKEN;
        let elapsed = u64::try_from(now.saturating_duration_since(self.last).as_micros()).unwrap_or(u64::MAX);
        self.last = self.last.max(now);
        self.tokens = self.tokens.saturating_add(elapsed.saturating_mul(self.per_second.into())).min(full);
        match self.tokens.checked_sub(TOKEN) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_flood_gets_the_rate_and_no_more() {
        let start = Instant::now();
        let mut limiter = Limiter::new(10, start);
        let allowed = (0..100_000).filter(|i| limiter.allow(start + Duration::from_micros(i * 10))).count();
        // 10 at once and 10 in the second that 100,000 requests took.
        assert!((19..=20).contains(&allowed), "{allowed}");
        assert!(limiter.allow(start + Duration::from_secs(10)));
        assert!(!Limiter::new(0, start).allow(start + Duration::from_secs(10)));
    }
}
