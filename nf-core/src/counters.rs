//! Counters per core: each core writes its own, cache-line aligned, without locked instructions; readers sum them.
//!
//! `rx.packets + originated = tx.packets + consumed + drops + in_flight`, always, once no packet is under way: every
//! received packet, and every one that was made here, is booked exactly once; those are in flight that a crypto device
//! has. Octets are those of the frame without FCS, as received for rx, consumed and drops, as sent for tx.

use std::collections::BTreeMap;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::drop::{DropReason, GlobalDrop};

/// Why a packet ended here without being dropped or sent on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Consumed {
    /// A NAT keepalive, one octet 0xFF on UDP 4500 (RFC 3948 2.3).
    NatKeepalive,
    /// A dummy packet, ESP next header 59 (RFC 4303 2.6).
    Dummy,
    /// A fragment that became part of a reassembled datagram, which goes on as one packet.
    Fragment,
    /// A packet that a plugin took for itself.
    Plugin,
}

impl Consumed {
    /// All of them, in the order in which they are printed.
    pub const ALL: &'static [Consumed] =
        &[Consumed::NatKeepalive, Consumed::Dummy, Consumed::Fragment, Consumed::Plugin];

    /// The name in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Consumed::NatKeepalive => "nat_keepalive",
            Consumed::Dummy => "dummy",
            Consumed::Fragment => "fragment",
            Consumed::Plugin => "plugin",
        }
    }
}

/// A number that one core writes and any reads.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds; only the owning core calls this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// What has been counted so far.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Packets that went to a crypto device, and those that are back. Written by one core and read by any.
#[derive(Debug, Default)]
pub struct Flights {
    submitted: Count,
    returned: Count,
}

impl Flights {
    /// The device has taken so many packets.
    #[inline]
    pub fn submit(&self, packets: u64) {
        self.submitted.add(packets);
    }

    /// So many are back, or given up.
    #[inline]
    pub fn give_back(&self, packets: u64) {
        self.returned.add(packets);
    }

    /// How many were submitted.
    pub fn submitted(&self) -> u64 {
        self.submitted.get()
    }

    /// How many have come back.
    pub fn returned(&self) -> u64 {
        self.returned.get()
    }

    /// How many the device has now.
    #[inline]
    pub fn in_flight(&self) -> u64 {
        // Read first what is counted last: so the difference is never negative for another thread.
        let returned = self.returned.get();
        self.submitted.get().saturating_sub(returned)
    }
}

/// Packets and octets, written by one core and read by any.
#[derive(Debug, Default)]
pub struct Counter {
    packets: AtomicU64,
    octets: AtomicU64,
}

impl Counter {
    /// Adds to both. Only the owning core calls this: it is a load and a store, not a locked add.
    #[inline]
    pub fn add(&self, packets: u64, octets: u64) {
        self.packets.store(self.packets.load(Relaxed).wrapping_add(packets), Relaxed);
        self.octets.store(self.octets.load(Relaxed).wrapping_add(octets), Relaxed);
    }

    /// What has been counted so far.
    pub fn read(&self) -> Tally {
        Tally { packets: self.packets.load(Relaxed), octets: self.octets.load(Relaxed) }
    }
}

/// Packets and octets, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Octets of the frames, without FCS.
    pub octets: u64,
}

impl Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        Tally { packets: self.packets.wrapping_add(other.packets), octets: self.octets.wrapping_add(other.octets) }
    }
}

impl Sub for Tally {
    type Output = Tally;

    fn sub(self, other: Tally) -> Tally {
        Tally { packets: self.packets.wrapping_sub(other.packets), octets: self.octets.wrapping_sub(other.octets) }
    }
}

/// The counters of one core. Aligned so that no two cores write to the same pair of cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct CoreCounters {
    rx: Counter,
    tx: Counter,
    originated: Counter,
    consumed: [Counter; Consumed::ALL.len()],
    drops: [Counter; DropReason::COUNT],
    flights: Flights,
    /// Events for the control thread that found its queue full.
    events_lost: AtomicU64,
}

impl Default for CoreCounters {
    fn default() -> Self {
        CoreCounters {
            rx: Counter::default(),
            tx: Counter::default(),
            originated: Counter::default(),
            consumed: std::array::from_fn(|_| Counter::default()),
            drops: std::array::from_fn(|_| Counter::default()),
            flights: Flights::default(),
            events_lost: AtomicU64::new(0),
        }
    }
}

impl CoreCounters {
    /// Packets received from all ports.
    pub fn rx(&self) -> &Counter {
        &self.rx
    }

    /// Packets that a port took for transmission.
    pub fn tx(&self) -> &Counter {
        &self.tx
    }

    /// Packets that were made here: ICMP errors, and of a packet that was cut into fragments all but one.
    pub fn originated(&self) -> &Counter {
        &self.originated
    }

    /// Packets that ended here by design.
    #[inline]
    pub fn consumed(&self, why: Consumed) -> &Counter {
        &self.consumed[why as usize]
    }

    /// Packets dropped under a reason.
    #[inline]
    pub fn drops(&self, why: DropReason) -> &Counter {
        &self.drops[why.slot()]
    }

    /// Packets that a crypto device opens.
    #[inline]
    pub fn flights(&self) -> &Flights {
        &self.flights
    }

    /// Counts an event that the full queue to the control thread turned away.
    #[inline]
    pub fn event_lost(&self) {
        self.events_lost.store(self.events_lost.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// A copy of all counters now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            rx: self.rx.read(),
            tx: self.tx.read(),
            originated: self.originated.read(),
            consumed: std::array::from_fn(|i| self.consumed[i].read()),
            drops: std::array::from_fn(|i| self.drops[i].read()),
            in_flight: self.flights.in_flight(),
            events_lost: self.events_lost.load(Relaxed),
        }
    }
}

/// A copy of counters: of one core, of several summed, or the difference of two times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Packets received.
    pub rx: Tally,
    /// Packets sent on.
    pub tx: Tally,
    /// Packets that were made here.
    pub originated: Tally,
    consumed: [Tally; Consumed::ALL.len()],
    drops: [Tally; DropReason::COUNT],
    /// Packets that a crypto device has at the time of the copy.
    pub in_flight: u64,
    /// Events lost on the way to the control thread.
    pub events_lost: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        CoreCounters::default().snapshot()
    }
}

impl Snapshot {
    /// The sum over cores.
    pub fn sum<'a>(cores: impl IntoIterator<Item = &'a CoreCounters>) -> Snapshot {
        cores
            .into_iter()
            .fold(Snapshot::default(), |sum, core| sum.combine(&core.snapshot(), Tally::add, u64::wrapping_add))
    }

    /// What was counted since `baseline` was taken: this is how counters are cleared without writing to a core's memory.
    /// What is in flight is no count: it stays as it is.
    pub fn since(&self, baseline: &Snapshot) -> Snapshot {
        Snapshot { in_flight: self.in_flight, ..self.combine(baseline, Tally::sub, u64::wrapping_sub) }
    }

    fn combine(&self, other: &Snapshot, tally: fn(Tally, Tally) -> Tally, number: fn(u64, u64) -> u64) -> Snapshot {
        Snapshot {
            rx: tally(self.rx, other.rx),
            tx: tally(self.tx, other.tx),
            originated: tally(self.originated, other.originated),
            consumed: std::array::from_fn(|i| tally(self.consumed[i], other.consumed[i])),
            drops: std::array::from_fn(|i| tally(self.drops[i], other.drops[i])),
            in_flight: number(self.in_flight, other.in_flight),
            events_lost: number(self.events_lost, other.events_lost),
        }
    }

    /// Packets that ended here by design, for one cause.
    pub fn consumed(&self, why: Consumed) -> Tally {
        self.consumed[why as usize]
    }

    /// Packets dropped under one reason.
    pub fn drops(&self, why: DropReason) -> Tally {
        self.drops[why.slot()]
    }

    /// The sum of all reasons that count under a global name.
    pub fn global(&self, name: GlobalDrop) -> Tally {
        DropReason::ALL
            .iter()
            .filter(|reason| reason.info().global == Some(name))
            .fold(Tally::default(), |sum, reason| sum + self.drops(*reason))
    }

    /// All packets that ended here by design.
    pub fn consumed_total(&self) -> Tally {
        self.consumed.iter().fold(Tally::default(), |sum, tally| sum + *tally)
    }

    /// All dropped packets.
    pub fn drops_total(&self) -> Tally {
        self.drops.iter().fold(Tally::default(), |sum, tally| sum + *tally)
    }

    /// Whether each packet is accounted for that was received or made here: sent, consumed, dropped, or in flight to a
    /// crypto device and back. Holds when no packet is under way elsewhere.
    pub fn is_conserved(&self) -> bool {
        self.rx.packets + self.originated.packets
            == self.tx.packets + self.consumed_total().packets + self.drops_total().packets + self.in_flight
    }

    /// In the shape of the counters' JSON.
    pub fn report(&self) -> Report {
        Report {
            rx: self.rx,
            tx: self.tx,
            originated: self.originated,
            consumed: Consumed::ALL.iter().map(|why| (why.name().to_owned(), self.consumed(*why))).collect(),
            global: GlobalDrop::ALL.iter().map(|name| (name.name().to_owned(), self.global(*name))).collect(),
            feature: DropReason::ALL
                .iter()
                .map(|reason| {
                    let Tally { packets, octets } = self.drops(*reason);
                    let info = reason.info();
                    FeatureDrop { index: info.index, name: info.name.to_owned(), packets, octets }
                })
                .collect(),
            in_flight: self.in_flight,
            events_lost: self.events_lost,
        }
    }
}

/// The counters as JSON: what `--stats-json` writes and `nf-ctl show ... --json` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Packets received.
    pub rx: Tally,
    /// Packets sent on.
    pub tx: Tally,
    /// Packets that were made here.
    #[serde(default)]
    pub originated: Tally,
    /// Packets that ended here by design, by cause.
    pub consumed: BTreeMap<String, Tally>,
    /// Dropped packets by the global names of IOS XE. Only IPsec drops are in it.
    pub global: BTreeMap<String, Tally>,
    /// Dropped packets by reason, ascending by index, zeros included.
    pub feature: Vec<FeatureDrop>,
    /// Packets that a crypto device has now.
    #[serde(default)]
    pub in_flight: u64,
    /// Events lost on the way from a core to the control thread.
    pub events_lost: u64,
}

impl Report {
    /// The row with a drop index, if there is one.
    pub fn feature(&self, index: u16) -> Option<&FeatureDrop> {
        self.feature.iter().find(|row| row.index == index)
    }
}

/// One row of the feature drops.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FeatureDrop {
    /// The drop index.
    pub index: u16,
    /// The reason's name.
    pub name: String,
    /// Packets.
    pub packets: u64,
    /// Octets of the received frames, without FCS.
    pub octets: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_spi_counts_globally_and_as_a_feature() {
        let core = CoreCounters::default();
        core.rx().add(3, 300);
        core.drops(DropReason::UnknownSpiV4).add(2, 200);
        core.drops(DropReason::Ipv4Malformed).add(1, 100);
        let report = core.snapshot().report();
        assert_eq!(report.global["IpsecInput"], Tally { packets: 2, octets: 200 });
        assert_eq!(report.feature(4).map(|row| row.packets), Some(2));
        assert_eq!(report.feature(201).map(|row| row.octets), Some(100));
        assert!(core.snapshot().is_conserved());
    }

    #[test]
    fn cores_are_summed_and_a_baseline_clears() {
        let cores = [CoreCounters::default(), CoreCounters::default()];
        cores[0].tx().add(1, 60);
        cores[1].tx().add(2, 120);
        let baseline = Snapshot::sum(&cores);
        assert_eq!(baseline.tx, Tally { packets: 3, octets: 180 });
        cores[1].consumed(Consumed::Dummy).add(1, 99);
        let since = Snapshot::sum(&cores).since(&baseline);
        assert_eq!(since.tx, Tally::default());
        assert_eq!(since.consumed(Consumed::Dummy), Tally { packets: 1, octets: 99 });
    }

    #[test]
    fn json_has_the_shape_of_the_interface() {
        let json = serde_json::to_value(Snapshot::default().report()).unwrap();
        assert_eq!(json["rx"]["packets"], 0);
        assert_eq!(json["tx"]["octets"], 0);
        for name in GlobalDrop::ALL {
            assert_eq!(json["global"][name.name()]["packets"], 0);
        }
        assert_eq!(json["feature"].as_array().unwrap().len(), DropReason::COUNT);
        assert_eq!(json["feature"][2]["index"], 4);
    }
}
