//! How many events a core may send: enough to report every stuck peer, too few to be a load for anyone.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use crate::hash::{bits, mix};
use crate::types::{Nanos, Spi};

/// Flows whose last event a core remembers. Two flows that share a place push each other out, which costs an event from
/// the bucket and nothing else.
const PLACES: usize = 1024;
/// A flow that goes on is reported to the control thread once in this time.
const FLOW_INTERVAL: u64 = Nanos::SECOND;
/// Events a second, and events at once.
const RATE: u64 = 1000;
const NANOS_PER_TOKEN: u64 = Nanos::SECOND / RATE;
const BURST: u64 = 1000;

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

/// A core's limit on invalid-SPI events. Of a flow that goes on it lets one a second through; flows that are new share
/// a token bucket, so that random SPIs from random sources can't exceed it.
pub struct CoreLimiter {
    places: Box<[Place]>,
    /// Not to be guessed from outside, so that nobody can aim at another flow's place.
    seed: u64,
    tokens: u64,
    filled: Nanos,
}

impl Default for CoreLimiter {
    fn default() -> Self {
        CoreLimiter {
            places: vec![Place::default(); PLACES].into_boxed_slice(),
            seed: RandomState::new().hash_one(0),
            tokens: BURST,
            filled: Nanos(0),
        }
    }
}

impl CoreLimiter {
    /// Whether a packet on an unknown SPI is worth an event: if so, how many packets of its flow that event stands for,
    /// this one included. A flow that was pushed out of its place begins anew at one.
    #[inline]
    pub fn offer(&mut self, now: Nanos, src: IpAddr, dst: IpAddr, spi: Spi) -> Option<u32> {
        let hash = self.hash(src, dst, spi);
        let flow = (hash >> 32) as u32 | 1;
        let place = self.places.get_mut(hash as usize % PLACES)?;
        let known = place.flow == flow;
        let packets = if known { place.packets.saturating_add(1) } else { 1 };
        if known {
            place.packets = packets;
            if now.since(place.last) < FLOW_INTERVAL {
                return None;
            }
        }
        let fresh = now.since(self.filled) / NANOS_PER_TOKEN;
        if fresh > 0 {
            self.tokens = (self.tokens + fresh).min(BURST);
            self.filled = Nanos(self.filled.0 + fresh * NANOS_PER_TOKEN);
        }
        if self.tokens == 0 {
            return None;
        }
        self.tokens -= 1;
        *place = Place { last: now, flow, packets: 0 };
        Some(packets)
    }

    #[inline]
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
        // A million flows in one second: the burst, and what the second refills.
        let events = (0..1_000_000u32)
            .filter(|n| limiter.offer(Nanos(u64::from(*n) * 1000), SRC, DST, Spi(n + 256)).is_some())
            .count();
        assert!((1000..=2000).contains(&events), "{events}");
    }

    #[test]
    fn the_bucket_holds_no_more_than_a_burst() {
        let mut limiter = CoreLimiter::default();
        let later = Nanos::from_secs(3600);
        let events = (0..10_000u32).filter(|n| limiter.offer(later, SRC, DST, Spi(n + 256)).is_some()).count();
        assert!(events <= 1000, "{events}");
    }
}
