//! Which next hops a core has asked the control thread to have resolved, so that it asks seldom.

use std::net::IpAddr;

use crate::types::{Nanos, PortIndex};

/// Next hops that are remembered.
const PLACES: usize = 64;
/// Between two questions about the same next hop: the kernel asks three times within that.
const INTERVAL: u64 = Nanos::SECOND;

/// How long a next hop is asked for before its packets' senders hear that it doesn't answer (RFC 1122 2.3.2.2, RFC 4861
/// 7.2.2: three questions, a second apart).
const PATIENCE: u64 = 3 * Nanos::SECOND;

/// A core's open questions. A scan of a network can't make it ask more than so many times a second.
#[derive(Debug)]
pub struct Resolver([Option<Question>; PLACES]);

#[derive(Clone, Copy, Debug)]
struct Question {
    port: PortIndex,
    address: IpAddr,
    /// When it was asked first, of the questions that followed each other without a pause.
    since: Nanos,
    /// When it was asked last.
    asked: Nanos,
}

/// What is to be done about a packet whose next hop isn't resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The next hop is to be asked for.
    pub ask: bool,
    /// It has been asked for often enough: it doesn't answer.
    pub in_vain: bool,
}

impl Default for Resolver {
    fn default() -> Self {
        Resolver([None; PLACES])
    }
}

impl Resolver {
    /// A packet's next hop isn't resolved.
    pub fn offer(&mut self, now: Nanos, port: PortIndex, address: IpAddr) -> Answer {
        let known = self.0.iter_mut().flatten().find(|question| (question.port, question.address) == (port, address));
        if let Some(question) = known {
            let ask = now.since(question.asked) >= INTERVAL;
            if now.since(question.asked) >= 2 * INTERVAL {
                question.since = now;
            }
            if ask {
                question.asked = now;
            }
            return Answer { ask, in_vain: now.since(question.since) >= PATIENCE };
        }
        // The place that is empty, or whose question is the oldest, if that isn't a recent one.
        let place = self.0.iter_mut().min_by_key(|place| place.map(|question| question.asked));
        let free = place.filter(|place| place.is_none_or(|question| now.since(question.asked) >= INTERVAL));
        let ask = free.is_some();
        if let Some(place) = free {
            *place = Some(Question { port, address, since: now, asked: now });
        }
        Answer { ask, in_vain: false }
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
        let mut ask = |now, port| resolver.offer(Nanos(now), PortIndex(port), host(1)).ask;
        assert!(ask(5, 0));
        assert!(!ask(6, 0));
        assert!(ask(6, 1), "it is another one on another link");
        assert!(!ask(Nanos::SECOND, 0));
        assert!(ask(Nanos::SECOND + 5, 0));
    }

    #[test]
    fn one_that_does_not_answer_is_given_up_while_it_is_asked_for() {
        let mut resolver = Resolver::default();
        let mut in_vain = |seconds| resolver.offer(Nanos::from_secs(seconds), PortIndex(0), host(1)).in_vain;
        assert_eq!([1, 2, 3, 4, 5].map(&mut in_vain), [false, false, false, true, true]);
        assert!(!in_vain(60), "after a pause it may have come back");
    }

    #[test]
    fn a_scan_is_bounded() {
        let mut resolver = Resolver::default();
        let mut asked = |now: Nanos| (0..200).filter(|n| resolver.offer(now, PortIndex(0), host(*n)).ask).count();
        assert_eq!(asked(Nanos(1)), PLACES);
        assert_eq!(asked(Nanos(2)), 0);
        assert_eq!(asked(Nanos(Nanos::SECOND + 1)), PLACES);
    }
}
