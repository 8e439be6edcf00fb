//! The flows on unknown SPIs: never more than a fixed number, the one that was seen longest ago goes first.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::FlowReport;
use crate::types::{Nanos, Spi};

/// What a flow on an unknown SPI means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Seen for less than a minute: most likely a rekey in flight.
    Transient,
    /// Seen again after a minute: the peer is black-holed.
    Stuck,
}

impl Class {
    /// The name in displays.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Transient => "transient",
            Class::Stuck => "stuck",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct FlowKey {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) spi: Spi,
}

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) first_seen: Nanos,
    pub(super) last_seen: Nanos,
    pub(super) last_message: Option<Nanos>,
    pub(super) class: Class,
    pub(super) events: u64,
    pub(super) messages: u64,
    /// Packets that the cores have counted for it.
    pub(super) packets: u64,
    /// When subscribers heard of it last, and at how many packets.
    pub(super) published: Option<(Nanos, u64)>,
    udp_ports: Option<(u16, u16)>,
}

impl Flow {
    pub(super) fn report(&self, now: Nanos, key: &FlowKey) -> FlowReport {
        FlowReport {
            src: key.src,
            dst: key.dst,
            spi: key.spi,
            udp_ports: self.udp_ports,
            class: self.class,
            first_seen_s: now.since(self.first_seen) / Nanos::SECOND,
            last_seen_s: now.since(self.last_seen) / Nanos::SECOND,
            packets: self.packets,
            events: self.events,
            messages: self.messages,
        }
    }
}

/// The table. To evict by age alone keeps stuck flows under a flood: they make an event every second, while the flood's
/// flows are seen once.
#[derive(Debug)]
pub(super) struct Flows {
    by_key: HashMap<FlowKey, Flow>,
    by_age: BTreeSet<(Nanos, FlowKey)>,
    max: usize,
}

impl Flows {
    pub(super) fn new(max: usize) -> Flows {
        Flows { by_key: HashMap::new(), by_age: BTreeSet::new(), max: max.max(1) }
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Flows whose peer is stuck.
    pub(super) fn stuck(&self) -> usize {
        self.by_key.values().filter(|flow| flow.class == Class::Stuck).count()
    }

    /// The flow of an event, made if it is new, and whether another had to go for it.
    pub(super) fn touch(
        &mut self,
        now: Nanos,
        key: FlowKey,
        udp_ports: Option<(u16, u16)>,
        packets: u32,
    ) -> (&mut Flow, bool) {
        let mut evicted = false;
        match self.by_key.get(&key) {
            Some(flow) => {
                self.by_age.remove(&(flow.last_seen, key));
            }
            None if self.by_key.len() >= self.max => {
                if let Some((_, oldest)) = self.by_age.pop_first() {
                    self.by_key.remove(&oldest);
                    evicted = true;
                }
            }
            None => {}
        }
        self.by_age.insert((now, key));
        let flow = self.by_key.entry(key).or_insert(Flow {
            first_seen: now,
            last_seen: now,
            last_message: None,
            class: Class::Transient,
            events: 0,
            messages: 0,
            packets: 0,
            published: None,
            udp_ports,
        });
        flow.last_seen = now;
        flow.events += 1;
        flow.packets += u64::from(packets);
        flow.udp_ports = udp_ports;
        (flow, evicted)
    }

    /// Forgets flows that were seen last before a time.
    pub(super) fn forget_before(&mut self, time: Nanos) {
        while let Some((seen, key)) = self.by_age.first().copied().filter(|(seen, _)| *seen < time) {
            self.by_age.remove(&(seen, key));
            self.by_key.remove(&key);
        }
    }

    /// The flows that were seen last, the latest first.
    pub(super) fn latest(&self, limit: usize) -> impl Iterator<Item = (&FlowKey, &Flow)> {
        self.by_age.iter().rev().take(limit).filter_map(|(_, key)| self.by_key.get_key_value(key))
    }
}
