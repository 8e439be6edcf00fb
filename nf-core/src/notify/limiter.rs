//! How many events a core may send: enough to report every stuck peer, too few to be a load for anyone.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use crate::hash::{bits, mix};
use crate::types::{Nanos, Spi};

/// Places of a set: a flow may have any of its set, which fills a cache line.
const WAYS: usize = 4;
/// Sets.
const SETS: usize = 256;
/// A flow that goes on is reported to the control thread once in this time.
const FLOW_INTERVAL: u64 = Nanos::SECOND;
/// A flow that has made no event for so long leaves its place to another.
const QUIET: u64 = 5 * Nanos::SECOND;
/// Events a second, and events at once: for flows that have a place, and as many for those that are new.
const RATE: u64 = 500;
const NANOS_PER_TOKEN: u64 = Nanos::SECOND / RATE;
const BURST: u64 = 500;

/// Small, so that a flood of flows pushes little else out of the CPU's cache.
#[derive(Clone, Copy, Default)]
struct Place {
    /// The last event.
    last: Nanos,
    /// The flow's tag; 0 before the first event.
    flow: u32,
    /// Packets since then.
    packets: u32,
}

impl Place {
    fn is_free(&self, now: Nanos) -> bool {
        self.flow == 0 || now.since(self.last) >= QUIET
    }
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Set([Place; WAYS]);

/// Events that may still be sent.
struct Bucket {
    tokens: u64,
    filled: Nanos,
}

impl Bucket {
    const FULL: Bucket = Bucket { tokens: BURST, filled: Nanos(0) };

    /// Fills it up to a time; gives what it has no room for.
    #[inline]
    fn fill(&mut self, now: Nanos) -> u64 {
        let fresh = now.since(self.filled) / NANOS_PER_TOKEN;
        self.filled = Nanos(self.filled.0 + fresh * NANOS_PER_TOKEN);
        self.add(fresh)
    }

    #[inline]
    fn add(&mut self, tokens: u64) -> u64 {
        let all = self.tokens.saturating_add(tokens);
        self.tokens = all.min(BURST);
        all - self.tokens
    }

    #[inline]
    fn take(&mut self) -> bool {
        let taken = self.tokens > 0;
        self.tokens -= u64::from(taken);
        taken
    }
}

/// A core's limit on invalid-SPI events. Of a flow that goes on it lets one a second through; random SPIs from random sources
/// can't exceed a token bucket.
///
/// A flood takes no event from the flows that it finds here: a flow keeps its place as long as it goes on, and flows with a
/// place have a bucket of their own, whose surplus goes to the new ones. A flow that finds its set taken has its share of the
/// bucket of the new ones, and a place as soon as one is free.
pub struct CoreLimiter {
    sets: Box<[Set]>,
    /// Not to be guessed from outside, so that nobody can aim at another flow's set.
    seed: u64,
    known: Bucket,
    new: Bucket,
    /// When both were filled last: once for a burst, whose packets all have one time.
    filled: Nanos,
}

impl Default for CoreLimiter {
    fn default() -> Self {
        CoreLimiter {
            sets: vec![Set::default(); SETS].into_boxed_slice(),
            seed: RandomState::new().hash_one(0),
            known: Bucket::FULL,
            new: Bucket::FULL,
            filled: Nanos(0),
        }
    }
}

impl CoreLimiter {
    /// Whether a packet on an unknown SPI is worth an event: if so, how many packets of its flow that event stands for,
    /// this one included. A flow that has no place, or has lost it, begins anew at one.
    #[inline(always)]
    pub fn offer(&mut self, now: Nanos, src: IpAddr, dst: IpAddr, spi: Spi) -> Option<u32> {
        if now > self.filled {
            self.fill(now);
        }
        let hash = self.hash(src, dst, spi);
        let flow = (hash >> 32) as u32 | 1;
        let Set(places) = self.sets.get_mut(hash as usize % SETS)?;
        let known = places.iter_mut().find(|place| place.flow == flow);
        if let Some(place) = known {
            place.packets = place.packets.saturating_add(1);
            if now.since(place.last) < FLOW_INTERVAL {
                return None;
            }
            if !self.known.take() {
                return None;
            }
            place.last = now;
            return Some(std::mem::take(&mut place.packets));
        }
        if !self.new.take() {
            return None;
        }
        if let Some(place) = places.iter_mut().find(|place| place.is_free(now)) {
            *place = Place { last: now, flow, packets: 0 };
        }
        Some(1)
    }

    #[inline(never)]
    fn fill(&mut self, now: Nanos) {
        self.filled = now;
        self.new.fill(now);
        self.new.add(self.known.fill(now));
    }

    #[inline(always)]
    fn hash(&self, src: IpAddr, dst: IpAddr, spi: Spi) -> u64 {
        match (src, dst) {
            // Together they fit one word.
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                mix(self.seed, u128::from(src.to_bits()) << 64 | u128::from(dst.to_bits()) << 32 | u128::from(spi.0))
            }
            _ => [u128::from(spi.0), bits(src), bits(dst)].into_iter().fold(self.seed, mix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SRC: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 1, 1));
    const DST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 10, 1, 2));

    #[test]
    fn a_flow_that_goes_on_is_an_event_a_second() {
        let mut limiter = CoreLimiter::default();
        let events: Vec<u32> =
            (0..100_000u64).filter_map(|n| limiter.offer(Nanos(n * 100_000), SRC, DST, Spi(7))).collect();
        assert_eq!(events.len(), 10, "ten seconds at 10,000 packets a second");
        assert_eq!((events[0], events[1]), (1, 10_000), "packets since the event before");
    }

    #[test]
    fn new_flows_share_a_bucket() {
        let mut limiter = CoreLimiter::default();
        // A million flows in one second: the bursts, and what the second refills.
        let events = (0..1_000_000u32)
            .filter(|n| limiter.offer(Nanos(u64::from(*n) * 1000), SRC, DST, Spi(n + 256)).is_some())
            .count();
        assert!((1000..=2000).contains(&events), "{events}");
    }

    #[test]
    fn the_buckets_hold_no_more_than_a_burst() {
        let mut limiter = CoreLimiter::default();
        let later = Nanos::from_secs(3600);
        let events = (0..10_000u32).filter(|n| limiter.offer(later, SRC, DST, Spi(n + 256)).is_some()).count();
        assert!(events <= 1000, "{events}");
    }

    /// Packets of a flood: half of them of flows that go on, more than there are places, half of flows that are seen once.
    fn flood(packet: u64) -> Spi {
        Spi(match packet % 2 {
            0 => 0x1_0000 + (packet / 2 % 5000) as u32,
            _ => 0x100_0000 + packet as u32,
        })
    }

    #[test]
    fn a_flood_takes_no_event_from_a_flow_that_goes_on() {
        let mut limiter = CoreLimiter::default();
        assert_eq!(limiter.offer(Nanos(1), SRC, DST, Spi(7)), Some(1), "it was there before");
        let (mut of_flood, mut heard) = (0u64, 0);
        // 100,000 packets a second; one of the flow.
        for packet in 0..1_000_000u64 {
            let now = Nanos(1 + packet * 10_000);
            of_flood += u64::from(limiter.offer(now, SRC, DST, flood(packet)).is_some());
            if packet % 100_000 == 0 && packet > 0 {
                heard += u64::from(limiter.offer(now, SRC, DST, Spi(7)).is_some());
            }
        }
        assert_eq!(heard, 9, "one a second");
        assert!(of_flood + heard <= 2 * BURST + 10 * 2 * RATE, "{of_flood} events");
    }

    #[test]
    fn a_flow_that_begins_in_a_flood_is_heard() {
        let mut limiter = CoreLimiter::default();
        let mut heard = Vec::new();
        // 20,000 packets a second for two minutes, and from half a minute on 50 of the flow.
        for packet in 0..2_400_000u64 {
            let now = Nanos(packet * 50_000);
            limiter.offer(now, SRC, DST, flood(packet));
            if packet >= 600_000 && packet % 400 == 0 && limiter.offer(now, SRC, DST, Spi(7)).is_some() {
                heard.push(now);
            }
        }
        let first = heard.first().copied().unwrap_or_default();
        let last = heard.last().copied().unwrap_or_default();
        assert!(last.since(first) >= 60 * Nanos::SECOND, "long enough to count as stuck: {heard:?}");
    }
}
