//! Which next hops a core has asked the control thread to have resolved, so that it asks seldom.

use std::net::IpAddr;

use crate::types::{Nanos, PortIndex};

/// Next hops that are remembered.
const PLACES: usize = 64;
/// Between two questions about the same next hop: the kernel asks three times within that.
const INTERVAL: u64 = Nanos::SECOND;

/// A core's open questions. A scan of a network can't make it ask more than so many times a second.
#[derive(Debug)]
pub struct Resolver {
    asked: [Option<(PortIndex, IpAddr, Nanos)>; PLACES],
    /// The place that is taken next.
    next: usize,
}

impl Default for Resolver {
    fn default() -> Self {
        Resolver { asked: [None; PLACES], next: 0 }
    }
}

impl Resolver {
    /// Whether a next hop is to be asked for now.
    pub fn offer(&mut self, now: Nanos, port: PortIndex, address: IpAddr) -> bool {
        let is_recent = |at: Nanos| now.since(at) < INTERVAL;
        let known = |place: &Option<(PortIndex, IpAddr, Nanos)>| {
            place.is_some_and(|(of, asked, at)| of == port && asked == address && is_recent(at))
        };
        if self.asked.iter().any(known) {
            return false;
        }
        let Some(place) = self.asked.get_mut(self.next) else {
            return false;
        };
        // Places are taken in turn, so the one that is next is the oldest.
        if place.is_some_and(|(_, _, at)| is_recent(at)) {
            return false;
        }
        *place = Some((port, address, now));
        self.next = (self.next + 1) % PLACES;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn a_next_hop_is_asked_for_once_a_second() {
        let mut resolver = Resolver::default();
        assert!(resolver.offer(Nanos(5), PortIndex(0), host(1)));
        assert!(!resolver.offer(Nanos(6), PortIndex(0), host(1)));
        assert!(resolver.offer(Nanos(6), PortIndex(1), host(1)), "it is another one on another link");
        assert!(!resolver.offer(Nanos(Nanos::SECOND), PortIndex(0), host(1)));
        assert!(resolver.offer(Nanos(Nanos::SECOND + 5), PortIndex(0), host(1)));
    }

    #[test]
    fn a_scan_is_bounded() {
        let mut resolver = Resolver::default();
        let mut asked = |now: Nanos| (0..200).filter(|n| resolver.offer(now, PortIndex(0), host(*n))).count();
        assert_eq!(asked(Nanos(1)), PLACES);
        assert_eq!(asked(Nanos(2)), 0);
        assert_eq!(asked(Nanos(Nanos::SECOND + 1)), PLACES);
    }
}
