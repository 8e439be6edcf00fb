//! From an unknown SPI to a message that an operator sees, within limits that no sender can exceed.
//!
//! A core's [`CoreLimiter`] decides which packets become events. The control thread's [`Notifier`] keeps a bounded table
//! of flows (source, destination, SPI), prints at most one message a minute for a flow and a budget over all of them,
//! tells a rekey in flight from a black-holed peer, and reports what it has left out. [`Sink`]s take the messages.

mod flows;
mod limiter;
mod sink;
mod syslog;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use flows::Class;
pub use limiter::CoreLimiter;
pub use sink::{About, FanOut, Notice, Severity, Sink, Stderr, Tracing};
pub use syslog::Syslog;
pub(crate) use syslog::timestamp;

use crate::event::InvalidSpi;
use crate::types::{Nanos, Spi};
use flows::{FlowKey, Flows};

const MINUTE: u64 = 60 * Nanos::SECOND;
/// A flow that was not seen for this long is forgotten.
const FORGET_AFTER: u64 = 10 * MINUTE;

/// Subscribers hear of a flow once in this time. A little less than the cores' interval, so that an event that comes a
/// moment early isn't held over for the next.
const PUBLISH_INTERVAL: u64 = Nanos::SECOND * 9 / 10;

/// What subscribers hear of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowNews {
    /// Whether it passes or the peer is stuck.
    pub class: Class,
    /// Packets since the news before.
    pub packets: u64,
}

/// Limits of the messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotifyConfig {
    /// Nanoseconds between two messages about a flow; also, how long after its first packet a flow that goes on counts
    /// as stuck.
    pub interval: u64,
    /// Messages a minute over all flows.
    pub budget_per_min: u32,
    /// Flows in the table.
    pub max_flows: usize,
    /// Whether messages name the port.
    pub input_interface: bool,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        NotifyConfig { interval: MINUTE, budget_per_min: 120, max_flows: 4096, input_interface: false }
    }
}

/// The control thread's part.
#[derive(Debug)]
pub struct Notifier {
    config: NotifyConfig,
    flows: Flows,
    budget: Budget,
    totals: Totals,
    /// The totals at the last summary, and when that was.
    summary: (Totals, Nanos),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Totals {
    /// Packets on unknown SPIs, as the cores count them.
    packets: u64,
    /// Those that became events.
    events: u64,
    messages: u64,
    evicted: u64,
}

/// What is known of invalid SPIs, for `nf-ctl show invalid-spi`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NotifyReport {
    /// Packets on unknown SPIs since the start.
    pub packets: u64,
    /// Those that were reported by an event; the rest is counted only.
    pub events: u64,
    /// Messages that were printed.
    pub messages: u64,
    /// Flows that are remembered.
    pub flows_tracked: usize,
    /// Those whose peer is stuck.
    #[serde(default)]
    pub flows_stuck: usize,
    /// Flows that had to go for newer ones.
    pub flows_evicted: u64,
    /// The flows, the one that was seen last first.
    pub flows: Vec<FlowReport>,
}

/// A flow on an unknown SPI.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowReport {
    /// Outer source address.
    pub src: IpAddr,
    /// Outer destination address.
    pub dst: IpAddr,
    /// SPI.
    pub spi: Spi,
    /// UDP ports of the last packet, source first, if it came in UDP.
    pub udp_ports: Option<(u16, u16)>,
    /// Whether it passes or the peer is stuck.
    pub class: Class,
    /// Seconds since the first packet.
    pub first_seen_s: u64,
    /// Seconds since the last event.
    pub last_seen_s: u64,
    /// Packets, as far as cores count them apart: a core forgets a flow's count for other flows.
    #[serde(default)]
    pub packets: u64,
    /// Events; a flow that goes on makes one a second.
    pub events: u64,
    /// Messages printed.
    pub messages: u64,
}

impl Notifier {
    /// A notifier that knows of nothing yet.
    pub fn new(config: NotifyConfig) -> Notifier {
        Notifier {
            config,
            flows: Flows::new(config.max_flows),
            budget: Budget::new(config.budget_per_min),
            totals: Totals::default(),
            summary: (Totals::default(), Nanos(0)),
        }
    }

    /// Takes other limits. The table of flows stays as large as it was made.
    pub fn set_limits(&mut self, config: NotifyConfig) {
        if self.config.budget_per_min != config.budget_per_min {
            self.budget = Budget { filled: self.budget.filled, ..Budget::new(config.budget_per_min) };
        }
        self.config = NotifyConfig { max_flows: self.config.max_flows, ..config };
    }

    /// Takes an event; `port` is the name of the port that the packet came in on. Gives what subscribers are to hear of
    /// it: of a flow that comes on several cores, too, one event a second.
    pub fn on_event(&mut self, now: Nanos, event: &InvalidSpi, port: &str, sink: &mut impl Sink) -> Option<FlowNews> {
        self.totals.events += 1;
        let key = FlowKey { src: event.src, dst: event.dst, spi: event.spi };
        let (flow, evicted) = self.flows.touch(now, key, event.udp_ports, event.packets);
        self.totals.evicted += u64::from(evicted);
        let stuck_now = flow.class == Class::Transient && now.since(flow.first_seen) >= self.config.interval;
        if stuck_now {
            flow.class = Class::Stuck;
        }
        let news = flow.published.is_none_or(|(at, _)| now.since(at) >= PUBLISH_INTERVAL).then(|| {
            let before = flow.published.map_or(0, |(_, packets)| packets);
            flow.published = Some((now, flow.packets));
            FlowNews { class: flow.class, packets: flow.packets - before }
        });
        let due = flow.last_message.is_none_or(|last| now.since(last) >= self.config.interval);
        // The last quarter of the budget is for flows that go on: a flood of new ones can't hide them.
        let reserve = if flow.class == Class::Stuck { 0 } else { self.config.budget_per_min / 4 };
        if due && self.budget.take(now, reserve) {
            flow.last_message = Some(now);
            flow.messages += 1;
            self.totals.messages += 1;
            sink.emit(&Notice::invalid_spi(
                event,
                flow.class,
                flow.events,
                self.config.input_interface.then_some(port),
                port,
            ));
        }
        if stuck_now {
            sink.emit(&Notice::stuck(event, now.since(flow.first_seen), flow.events, port));
        }
        news
    }

    /// Does what is due: call it often. `packets` is how many packets on unknown SPIs the cores have counted since the
    /// start.
    pub fn tick(&mut self, now: Nanos, packets: u64, sink: &mut impl Sink) {
        self.totals.packets = packets;
        self.flows.forget_before(Nanos(now.0.saturating_sub(FORGET_AFTER)));
        let (before, at) = self.summary;
        if now.since(at) < MINUTE {
            return;
        }
        self.summarise(now, before, sink);
    }

    /// Reports what was left out since the last summary, without waiting for the minute to pass: for the end.
    pub fn finish(&mut self, now: Nanos, packets: u64, sink: &mut impl Sink) {
        self.totals.packets = packets;
        self.summarise(now, self.summary.0, sink);
    }

    fn summarise(&mut self, now: Nanos, before: Totals, sink: &mut impl Sink) {
        let packets = self.totals.packets.saturating_sub(before.packets);
        let messages = self.totals.messages - before.messages;
        if packets > messages {
            let evicted = self.totals.evicted - before.evicted;
            sink.emit(&Notice::summary(packets, messages, self.flows.len(), evicted));
        }
        self.summary = (self.totals, now);
    }

    /// The totals, and the flows that were seen last.
    pub fn report(&self, now: Nanos, limit: usize) -> NotifyReport {
        NotifyReport {
            packets: self.totals.packets,
            events: self.totals.events,
            messages: self.totals.messages,
            flows_tracked: self.flows.len(),
            flows_stuck: self.flows.stuck(),
            flows_evicted: self.totals.evicted,
            flows: self.flows.latest(limit).map(|(key, flow)| flow.report(now, key)).collect(),
        }
    }
}

/// Messages that may still be printed: a bucket that fills once a minute, a little at a time.
#[derive(Debug)]
struct Budget {
    per_min: u64,
    left: u64,
    filled: Nanos,
}

impl Budget {
    fn new(per_min: u32) -> Budget {
        Budget { per_min: per_min.into(), left: per_min.into(), filled: Nanos(0) }
    }

    /// Takes a message's worth unless no more than `reserve` would be left.
    fn take(&mut self, now: Nanos, reserve: u32) -> bool {
        let nanos_each = MINUTE / self.per_min.max(1);
        let fresh = now.since(self.filled) / nanos_each;
        self.left = self.left.saturating_add(fresh).min(self.per_min);
        self.filled = Nanos(self.filled.0 + fresh * nanos_each);
        if self.left <= u64::from(reserve) {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{CoreId, PortIndex};

    /// Keeps the lines.
    #[derive(Default)]
    struct Lines(Vec<String>);

    impl Sink for Lines {
        fn emit(&mut self, notice: &Notice) {
            self.0.push(notice.line.clone());
        }
    }

    impl Lines {
        fn messages(&self) -> usize {
            self.0.iter().filter(|line| line.contains("RECVD_PKT_INV_SPI")).count()
        }
    }

    fn event(spi: u32) -> InvalidSpi {
        InvalidSpi {
            spi: Spi(spi),
            packets: 1,
            seq: 1,
            src: "10.1.1.1".parse().unwrap(),
            dst: "10.10.1.2".parse().unwrap(),
            udp_ports: None,
            port: PortIndex(0),
            core: CoreId(0),
            at: Nanos(0),
        }
    }

    #[test]
    fn the_message_is_ciscos_to_the_letter() {
        let mut lines = Lines::default();
        Notifier::new(NotifyConfig::default()).on_event(Nanos(0), &event(0xB761_863E), "net0", &mut lines);
        assert_eq!(
            lines.0,
            [
                "%CRYPTO-4-RECVD_PKT_INV_SPI: decaps: rec'd IPSEC packet has invalid spi for destaddr=10.10.1.2, prot=50, \
              spi=0xB761863E(3076621886), srcaddr=10.1.1.1"
            ]
        );
    }

    #[test]
    fn the_interface_is_named_on_demand() {
        let mut lines = Lines::default();
        let config = NotifyConfig { input_interface: true, ..NotifyConfig::default() };
        Notifier::new(config).on_event(Nanos(0), &event(0x1DB7_3BBB), "net0", &mut lines);
        assert!(
            lines.0[0].ends_with("spi=0x1DB73BBB(498547643), srcaddr=10.1.1.1, input interface=net0"),
            "{:?}",
            lines.0
        );
    }

    #[test]
    fn nat_t_is_reported_like_the_rest() {
        let mut lines = Lines::default();
        let natt = InvalidSpi { udp_ports: Some((61000, 4500)), ..event(0xB761_863E) };
        let mut notifier = Notifier::new(NotifyConfig::default());
        notifier.on_event(Nanos(0), &natt, "net0", &mut lines);
        assert_eq!(lines.messages(), 1);
        assert_eq!(notifier.report(Nanos(0), 1).flows[0].udp_ports, Some((61000, 4500)));
    }

    #[test]
    fn one_message_a_minute_for_a_flow_and_stuck_after_one() {
        let mut lines = Lines::default();
        let mut notifier = Notifier::new(NotifyConfig::default());
        for second in 0..=150 {
            notifier.on_event(Nanos::from_secs(second), &event(0xB761_863E), "net0", &mut lines);
            let class = notifier.report(Nanos::from_secs(second), 1).flows[0].class;
            assert_eq!(class, if second < 60 { Class::Transient } else { Class::Stuck }, "second {second}");
        }
        assert_eq!(lines.messages(), 3);
        let stuck: Vec<&String> = lines.0.iter().filter(|line| line.contains("INV_SPI_STUCK")).collect();
        assert_eq!(stuck.len(), 1, "{stuck:?}");
        assert!(stuck[0].contains("10.1.1.1") && stuck[0].contains("0xB761863E"), "{stuck:?}");
    }

    #[test]
    fn what_is_left_out_is_summed_up_once_a_minute() {
        let mut lines = Lines::default();
        let mut notifier = Notifier::new(NotifyConfig::default());
        notifier.on_event(Nanos::from_secs(1), &event(0xB761_863E), "net0", &mut lines);
        notifier.tick(Nanos::from_secs(30), 1000, &mut lines);
        assert_eq!(lines.0.len(), 1);
        notifier.tick(Nanos::from_secs(60), 5000, &mut lines);
        assert_eq!(
            lines.0[1],
            "%NF-4-INV_SPI_SUPPRESSED: 5000 packets with an invalid SPI, 4999 of them without a message of their own (1 printed); 1 flows tracked, 0 evicted: nf-ctl show invalid-spi"
        );
        notifier.tick(Nanos::from_secs(120), 5000, &mut lines);
        assert_eq!(lines.0.len(), 2, "nothing new, nothing to say");
    }

    #[test]
    fn a_flow_is_forgotten_after_a_while() {
        let mut lines = Lines::default();
        let mut notifier = Notifier::new(NotifyConfig::default());
        notifier.on_event(Nanos::from_secs(1), &event(0x1000), "net0", &mut lines);
        notifier.tick(Nanos::from_secs(602), 1, &mut lines);
        assert_eq!(notifier.report(Nanos::from_secs(602), 10).flows, []);
    }

    proptest! {
        /// However events come, a flow has a message an interval at most, and all flows together keep to the budget.
        #[test]
        fn limits_hold(events in prop::collection::vec((0u64..20, 0u32..40), 1..500), budget in 4u32..30) {
            let config = NotifyConfig { budget_per_min: budget, max_flows: 16, ..NotifyConfig::default() };
            let mut notifier = Notifier::new(config);
            let mut now = 0;
            let mut printed: Vec<(u64, String)> = Vec::new();
            for (wait, spi) in events {
                now += wait;
                let mut lines = Lines::default();
                notifier.on_event(Nanos::from_secs(now), &event(0x1000 + spi), "net0", &mut lines);
                printed.extend(lines.0.into_iter().filter(|line| line.contains("RECVD_PKT_INV_SPI")).map(|line| (now, line)));
                prop_assert!(notifier.report(Nanos(0), 100).flows.len() <= 16);
            }
            // A full bucket and a minute's refill.
            for (i, (at, _)) in printed.iter().enumerate() {
                let within = printed.iter().skip(i).take_while(|(later, _)| later - at < 60).count();
                prop_assert!(within <= 2 * budget as usize, "{} messages in a minute", within);
            }
        }
    }
}
