//! What routers have said of the path to a peer: its MTU, which anybody can forge (RFC 4301 8.2.1), so within bounds.

use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::types::Nanos;

/// How long a router's word counts. Then a longer packet tries the path again (RFC 1191 6.3, RFC 8201 4).
const LIFETIME_MS: u64 = 10 * 60 * 1000;

/// Where in the number the time begins; the MTU is below.
const TIME: u32 = 16;

/// A path MTU that was learned, and until when it counts. Shared by all cores.
#[derive(Debug, Default)]
pub struct PathMtu(AtomicU64);

impl PathMtu {
    /// The MTU in octets, while it counts.
    #[inline]
    pub fn get(&self, now: Nanos) -> Option<u16> {
        match self.0.load(Relaxed) {
            0 => None,
            known => counts(known, now).then_some(known as u16),
        }
    }

    /// Takes a router's word for it. It lowers what is known, or confirms it; it raises nothing. Gives whether it has lowered it.
    #[cold]
    pub fn lower(&self, mtu: u16, now: Nanos) -> bool {
        let until = (millis(now) + LIFETIME_MS) << TIME;
        let before = self.0.fetch_update(Relaxed, Relaxed, |known| {
            (!counts(known, now) || mtu <= known as u16).then_some(until | u64::from(mtu))
        });
        before.is_ok_and(|before| !counts(before, now) || mtu < before as u16)
    }

    /// The path is another one.
    pub fn forget(&self) {
        self.0.store(0, Relaxed);
    }
}

fn counts(known: u64, now: Nanos) -> bool {
    millis(now) < known >> TIME
}

fn millis(now: Nanos) -> u64 {
    now.0 / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_lowered_and_grows_old_and_is_never_raised() {
        let (path, minute) = (PathMtu::default(), |n: u64| Nanos::from_secs(n * 60));
        assert_eq!(path.get(minute(1)), None);
        assert!(path.lower(1400, minute(1)));
        assert!(!path.lower(1500, minute(2)));
        assert_eq!(path.get(minute(10)), Some(1400));
        assert!(path.lower(1300, minute(9)));
        assert!(!path.lower(1300, minute(10)), "it is known");
        assert_eq!(path.get(minute(19)), Some(1300), "and counts anew from there");
        assert_eq!(path.get(minute(20)), None);
        assert!(path.lower(1450, minute(20)), "what is over binds nobody");
        path.forget();
        assert_eq!(path.get(minute(20)), None);
    }
}
