//! Outer fragments: held until the datagram is whole, then sent through the pipeline as one packet.

use std::time::Duration;

use dpdk_rs::{DeathReason, Eal, FragTable, Mbuf, Mempool, Outcome, SocketId, Tsc};

use super::clock::Clock;
use crate::config::Config;
use crate::counters::{Consumed, CoreCounters};
use crate::drop::DropReason;
use crate::wire::{Headers, IpVersion, ethernet, ipv4, ipv6};

/// How often datagrams are looked over for those whose time is up.
const EXPIRY_MS: u64 = 10;

/// A core's incomplete datagrams. Each fragment is booked once its fate is known: as consumed when its datagram is whole,
/// as dropped when it won't be.
pub(super) struct Reassembler {
    table: FragTable,
    /// Fragments that wait in the table.
    held: usize,
    /// As many as may: reception needs buffers, too.
    limit: usize,
    big: Mempool,
    expiry: u64,
    next_expiry: Tsc,
}

impl Reassembler {
    /// One of as many as there are workers. However many fragments come, three quarters of all packet buffers are left for
    /// others.
    pub(super) fn new(
        eal: Eal,
        config: &Config,
        workers: usize,
        clock: Clock,
        big: Mempool,
    ) -> Result<Reassembler, dpdk_rs::Error> {
        let limit = config.eal.mbufs as usize / 4 / workers.max(1);
        let config = &config.reassembly;
        let timeout = Duration::from_millis(config.timeout_ms);
        let table = FragTable::new(eal, config.max_flows, timeout, SocketId::ANY)?;
        Ok(Reassembler { table, held: 0, limit, big, expiry: clock.counts(EXPIRY_MS), next_expiry: Tsc(0) })
    }

    /// Takes a fragment; gives the datagram if it is whole now.
    pub(super) fn insert(
        &mut self,
        fragment: Mbuf,
        headers: Headers,
        now: Tsc,
        counters: &CoreCounters,
    ) -> Option<Mbuf> {
        let (l3, l3_len) = (headers.l3(), headers.l3_len());
        let damaged = damaged(headers);
        if self.held >= self.limit {
            drop_as(fragment, damaged, counters);
            return None;
        }
        let outcome = match headers.version() {
            Some(IpVersion::V6) => self.table.insert_v6(fragment, now, l3),
            _ => self.table.insert_v4(fragment, now, l3),
        };
        if !matches!(outcome, Outcome::Rejected(..)) {
            self.held += 1;
        }
        self.bury(damaged, counters);
        match outcome {
            Outcome::Held | Outcome::Dead => None,
            Outcome::Rejected(fragment, _) => {
                drop_as(fragment, damaged, counters);
                None
            }
            Outcome::Complete(chain) => {
                // Each came in a buffer of its own.
                self.held = self.held.saturating_sub(usize::from(chain.nb_segs()));
                let merged = usize::from(chain.nb_segs()).saturating_sub(1);
                counters.consumed(Consumed::Fragment).add(merged as u64, (merged * (l3 + l3_len)) as u64);
                self.whole(chain, headers, counters)
            }
        }
    }

    /// Puts the datagram into one buffer and mends its header.
    fn whole(&mut self, chain: Mbuf, headers: Headers, counters: &CoreCounters) -> Option<Mbuf> {
        let mut packet = match chain.linearise_into(&self.big) {
            Ok(packet) => packet,
            Err(chain) => {
                drop_as(chain, headers.choose(DropReason::TooBigV4, DropReason::TooBigV6), counters);
                return None;
            }
        };
        let (buffer, data) = packet.buffer_mut().ok()?;
        let frame = buffer.get_mut(data)?;
        if let Some((_, l3)) = ethernet::payload(frame)
            && let Some(datagram) = frame.get_mut(l3..)
        {
            let len = datagram.len();
            match headers.version() {
                Some(IpVersion::V6) => ipv6::set_total_length(datagram, len),
                _ => ipv4::set_total_length(datagram, len),
            }
        }
        Some(packet)
    }

    /// Gives up datagrams whose time is over. Cheap where it is called too soon.
    pub(super) fn expire(&mut self, now: Tsc, counters: &CoreCounters) {
        if now >= self.next_expiry {
            self.next_expiry = Tsc(now.0.saturating_add(self.expiry));
            self.table.expire(now);
            self.bury(DropReason::FragmentTimeout, counters);
        }
    }

    /// Gives up everything: there will be no more fragments.
    pub(super) fn finish(&mut self, counters: &CoreCounters) {
        self.table.expire(Tsc(u64::MAX));
        self.bury(DropReason::FragmentTimeout, counters);
    }

    /// Books what the table gave up; `damaged` is the reason for what did not fit together.
    fn bury(&mut self, damaged: DropReason, counters: &CoreCounters) {
        for (why, fragment) in self.table.drain_dead() {
            let reason = if why == DeathReason::Expired { DropReason::FragmentTimeout } else { damaged };
            drop_as(fragment, reason, counters);
            self.held = self.held.saturating_sub(1);
        }
    }
}

/// Why a fragment is dropped that can't be part of a whole datagram.
pub(super) fn damaged(headers: Headers) -> DropReason {
    headers.choose(DropReason::FragmentV4, DropReason::FragmentV6)
}

fn drop_as(packet: Mbuf, reason: DropReason, counters: &CoreCounters) {
    counters.drops(reason).add(1, packet.pkt_len() as u64);
}
