//! Early packets on larval SPIs, in their mbufs, until their SA matures.

use dpdk_rs::{Mbuf, Tsc};

use super::clock::Clock;
use crate::counters::CoreCounters;
use crate::drop::DropReason;
use crate::holding::{Held, HoldLimits, HoldQueue};
use crate::sa::larval::ReservationId;
use crate::types::{Nanos, PortIndex};

/// How often packets are looked over for those whose time is up.
const EXPIRY_MS: u64 = 10;

/// A core's held packets. Each is booked once its fate is known: by the pipeline when its SA has matured, here when it
/// is given up.
pub(super) struct Holding {
    queue: HoldQueue<Mbuf>,
    expiry: u64,
    next_expiry: Tsc,
}

impl Holding {
    pub(super) fn new(limits: HoldLimits, clock: Clock) -> Holding {
        Holding { queue: HoldQueue::new(limits), expiry: clock.counts(EXPIRY_MS), next_expiry: Tsc(0) }
    }

    /// Takes a packet that was received at `at` on `port`.
    pub(super) fn hold(
        &mut self,
        id: ReservationId,
        packet: Mbuf,
        port: PortIndex,
        at: Nanos,
        counters: &CoreCounters,
    ) {
        let octets = packet.pkt_len();
        if let Err(refused) = self.queue.hold(id, Held { buffer: packet, octets, port, at }) {
            drop_as(refused, DropReason::LarvalFull, counters);
        }
    }

    /// Takes a reservation's oldest packet back out.
    pub(super) fn pop(&mut self, id: ReservationId) -> Option<Held<Mbuf>> {
        self.queue.pop(id)
    }

    /// Gives up a reservation's packets: there will be no SA.
    pub(super) fn give_up(&mut self, id: ReservationId, counters: &CoreCounters) {
        while let Some(held) = self.queue.pop(id) {
            drop_as(held, DropReason::LarvalTimeout, counters);
        }
    }

    /// Gives up packets whose time is over. Cheap where it is called too soon.
    pub(super) fn expire(&mut self, tsc: Tsc, clock: Clock, counters: &CoreCounters) {
        if !self.queue.is_empty() && tsc >= self.next_expiry {
            self.next_expiry = Tsc(tsc.0.saturating_add(self.expiry));
            self.queue.expire(clock.at(tsc), |held| drop_as(held, DropReason::LarvalTimeout, counters));
        }
    }

    /// Gives up everything: no SA will mature any more.
    pub(super) fn finish(&mut self, counters: &CoreCounters) {
        self.queue.clear(|held| drop_as(held, DropReason::LarvalTimeout, counters));
    }
}

fn drop_as(held: Held<Mbuf>, reason: DropReason, counters: &CoreCounters) {
    counters.drops(reason).add(1, held.octets as u64);
}
