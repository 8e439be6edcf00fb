//! Which events a hook acts on, and how often.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::control::proto::{EventReport, InvalidSpiEvent, SaId};
use crate::notify::Class;
use crate::prefix::Prefix;
use crate::sa::spec::{FieldError, names};
use crate::types::{Nanos, Spi};

names! {
    /// What a hook acts on.
    Trigger "on" {
        /// Packets on an SPI that no SA has.
        InvalidSpi = "invalid-spi",
        /// Such packets for so long that the peer is black-holed.
        Stuck = "stuck",
        /// Packets refused as replays.
        Replay = "replay",
        /// Packets with a wrong ICV.
        AuthFailure = "auth-failure",
        /// A soft or hard limit of an SA.
        Lifetime = "lifetime",
        /// A recovery that the agent has given up.
        RecoveryFailed = "recovery-failed",
    }
}

/// A hook: on what, how much of it, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// The events.
    pub on: Trigger,
    /// Of whom.
    pub subject: Subject,
    /// Packets, or events where an event stands for no packets, within the period.
    pub count: u64,
    /// Nanoseconds.
    pub period: u64,
    /// Nanoseconds after a run in which nothing counts.
    pub cool_down: u64,
    /// What to do.
    pub actions: Actions,
}

/// Whose events count. What is left out holds for all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subject {
    /// The peer's name.
    pub peer: Option<String>,
    /// Outer sources.
    pub src: Option<Prefix>,
    /// Outer destinations.
    pub dst: Option<Prefix>,
    /// SPIs.
    pub spi: Option<RangeInclusive<Spi>>,
}

/// What a hook does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actions {
    /// Writes down counters, SAs, the recovery log and the last dropped packets.
    pub snapshot: bool,
    /// Runs a program with these arguments; none if empty.
    pub command: Vec<String>,
    /// Posts the event to this address.
    pub webhook: Option<String>,
    /// Sends a message to syslog.
    pub syslog: bool,
    /// How long a command or webhook may take.
    pub timeout: Duration,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spi = self.spi.as_ref().map(|range| match (range.start(), range.end()) {
            (first, last) if first == last => format!("spi 0x{:08X}", first.0),
            (first, last) => format!("spi 0x{:08X}-0x{:08X}", first.0, last.0),
        });
        let peer = self.peer.as_ref().map(|peer| format!("peer {peer}"));
        let (src, dst) = (self.src.map(|src| format!("src {src}")), self.dst.map(|dst| format!("dst {dst}")));
        let parts: Vec<String> = [peer, src, dst, spi].into_iter().flatten().collect();
        f.write_str(&parts.join(", "))
    }
}

impl Actions {
    /// What is done, in order, for display.
    pub fn names(&self) -> Vec<String> {
        let command = (!self.command.is_empty()).then(|| format!("command {}", self.command.join(" ")));
        let webhook = self.webhook.as_ref().map(|url| format!("webhook {url}"));
        let (snapshot, syslog) =
            (self.snapshot.then(|| "snapshot".to_owned()), self.syslog.then(|| "syslog".to_owned()));
        [snapshot, syslog, webhook, command].into_iter().flatten().collect()
    }
}

/// What an event says of its subject.
#[derive(Clone, Copy, Default)]
pub(super) struct Facts<'e> {
    pub(super) peer: Option<&'e str>,
    pub(super) src: Option<IpAddr>,
    pub(super) dst: Option<IpAddr>,
    pub(super) spi: Option<Spi>,
    pub(super) packets: Option<u64>,
}

pub(super) fn facts(event: &EventReport) -> Facts<'_> {
    fn of_sa(sa: &SaId) -> Facts<'_> {
        Facts { peer: sa.peer.as_deref(), src: Some(sa.src), dst: Some(sa.dst), spi: Some(sa.spi), packets: None }
    }
    match event {
        EventReport::InvalidSpi(InvalidSpiEvent { spi, src, dst, packets, .. }) => {
            Facts { peer: None, src: Some(*src), dst: Some(*dst), spi: Some(*spi), packets: Some(*packets) }
        }
        EventReport::SaReplay { sa, packets, .. } | EventReport::SaAuthFailure { sa, packets, .. } => {
            Facts { packets: Some(*packets), ..of_sa(sa) }
        }
        EventReport::SaFirstPacket { sa, .. }
        | EventReport::SaLifetime { sa, .. }
        | EventReport::SaAddressChanged { sa, .. } => of_sa(sa),
        EventReport::SaReservationExpired { spi, dst, src, .. } => {
            Facts { src: *src, dst: Some(*dst), spi: Some(*spi), ..Facts::default() }
        }
        EventReport::RecoveryFailed { peer, src, spi, .. } => {
            Facts { peer: Some(peer), src: *src, spi: *spi, ..Facts::default() }
        }
        // Its addresses are the inner ones, by which nobody picks a peer.
        EventReport::SaWanted { peer, packets, .. } => {
            Facts { peer: peer.as_deref(), packets: Some(*packets), ..Facts::default() }
        }
        EventReport::Lost { .. } | EventReport::Unknown => Facts::default(),
    }
}

impl Hook {
    /// How much an event counts: 0 if it isn't the hook's.
    fn weight(&self, event: &EventReport) -> u64 {
        let triggers = match event {
            EventReport::InvalidSpi(event) => {
                self.on == Trigger::InvalidSpi || (self.on == Trigger::Stuck && event.class == Class::Stuck)
            }
            EventReport::SaReplay { .. } => self.on == Trigger::Replay,
            EventReport::SaAuthFailure { .. } => self.on == Trigger::AuthFailure,
            EventReport::SaLifetime { .. } => self.on == Trigger::Lifetime,
            EventReport::RecoveryFailed { .. } => self.on == Trigger::RecoveryFailed,
            _ => false,
        };
        let facts = facts(event);
        let Subject { peer, src, dst, spi } = &self.subject;
        let fits = peer.as_ref().is_none_or(|peer| facts.peer == Some(peer))
            && src.is_none_or(|net| facts.src.is_some_and(|src| net.contains(src)))
            && dst.is_none_or(|net| facts.dst.is_some_and(|dst| net.contains(dst)))
            && spi.as_ref().is_none_or(|range| facts.spi.is_some_and(|spi| range.contains(&spi)));
        if triggers && fits { facts.packets.unwrap_or(1) } else { 0 }
    }
}

/// What has happened of a hook's events within its period.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// When, and how much; what is close together is one entry.
    seen: VecDeque<(Nanos, u64)>,
    ran: Option<Nanos>,
}

/// Entries of a period.
const GRAIN: u64 = 64;

impl Window {
    /// Counts an event; true if the hook is to run for it.
    pub(super) fn offer(&mut self, hook: &Hook, event: &EventReport) -> bool {
        let (weight, now) = (hook.weight(event), Nanos(event.at_ns()));
        if weight == 0 || self.ran.is_some_and(|ran| now.since(ran) < hook.cool_down) {
            return false;
        }
        self.seen.retain(|(at, _)| now.since(*at) < hook.period);
        match self.seen.back_mut() {
            Some((at, sum)) if now.since(*at) < hook.period / GRAIN => *sum = sum.saturating_add(weight),
            _ => self.seen.push_back((now, weight)),
        }
        let sum = self.seen.iter().fold(0u64, |sum, (_, weight)| sum.saturating_add(*weight));
        if sum < hook.count {
            return false;
        }
        self.seen.clear();
        self.ran = Some(now);
        true
    }
}

/// An event as the hook's trigger brings it, for a test of its actions.
pub(super) fn made_up(on: Trigger, at: Nanos) -> EventReport {
    use crate::sa::lifetime::{Limit, Unit};
    // Addresses for documentation (RFC 5737): nobody's.
    let (src, dst) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([198, 51, 100, 1]));
    let (spi, at_ns) = (Spi::MIN, at.0);
    let sa = SaId { spi, src, dst, peer: Some("test".to_owned()) };
    let class = if on == Trigger::Stuck { Class::Stuck } else { Class::Transient };
    match on {
        Trigger::InvalidSpi | Trigger::Stuck => EventReport::InvalidSpi(InvalidSpiEvent {
            spi,
            src,
            dst,
            udp_ports: None,
            class,
            packets: 1,
            seq: 1,
            interface: "test".to_owned(),
            at_ns,
        }),
        Trigger::Replay => EventReport::SaReplay { sa, packets: 1, at_ns },
        Trigger::AuthFailure => EventReport::SaAuthFailure { sa, packets: 1, at_ns },
        Trigger::Lifetime => EventReport::SaLifetime { sa, limit: Limit::Soft, unit: Unit::Seconds, at_ns },
        Trigger::RecoveryFailed => {
            let reason = "a test".to_owned();
            EventReport::RecoveryFailed { peer: "test".to_owned(), src: Some(src), spi: Some(spi), reason, at_ns }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(on: Trigger, count: u64) -> Hook {
        let actions = Actions {
            snapshot: false,
            command: Vec::new(),
            webhook: None,
            syslog: true,
            timeout: Duration::from_secs(1),
        };
        let (period, cool_down) = (Nanos::from_secs(10).0, Nanos::from_secs(60).0);
        Hook { name: "test".to_owned(), on, subject: Subject::default(), count, period, cool_down, actions }
    }

    fn runs(hook: &Hook, seconds: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut window = Window::default();
        let at = |second| made_up(hook.on, Nanos::from_secs(second));
        seconds.into_iter().filter(|second| window.offer(hook, &at(*second))).collect()
    }

    #[test]
    fn each_trigger_has_its_events() {
        for on in ["invalid-spi", "stuck", "replay", "auth-failure", "lifetime", "recovery-failed"] {
            let on: Trigger = on.parse().unwrap();
            for other in ["invalid-spi", "stuck", "replay", "auth-failure", "lifetime", "recovery-failed"] {
                let event = made_up(other.parse().unwrap(), Nanos(0));
                let wanted = on.as_str() == other || (on == Trigger::InvalidSpi && other == "stuck");
                assert_eq!(hook(on, 1).weight(&event) > 0, wanted, "{on} {other}");
            }
        }
    }

    #[test]
    fn so_many_within_the_period_and_then_a_pause() {
        assert_eq!(runs(&hook(Trigger::Replay, 3), [0, 5, 9]), [9]);
        assert_eq!(runs(&hook(Trigger::Replay, 3), [0, 5, 11, 16, 22]), [0u64; 0], "never three in ten seconds");
        assert_eq!(runs(&hook(Trigger::Replay, 1), [0, 1, 59, 60, 61]), [0, 60], "cool-down");
        let steady = runs(&hook(Trigger::Replay, 5), 0..600);
        assert!(steady.windows(2).all(|pair| pair[1] - pair[0] >= 60) && steady.len() >= 9, "{steady:?}");
    }

    #[test]
    fn packets_count_where_an_event_stands_for_several() {
        let event = |packets, second| match made_up(Trigger::AuthFailure, Nanos::from_secs(second)) {
            EventReport::SaAuthFailure { sa, at_ns, .. } => EventReport::SaAuthFailure { sa, packets, at_ns },
            other => other,
        };
        let (hook, mut window) = (hook(Trigger::AuthFailure, 1000), Window::default());
        assert!(!window.offer(&hook, &event(600, 0)));
        assert!(window.offer(&hook, &event(400, 1)));
    }

    #[test]
    fn memory_is_bounded_however_fast_events_come() {
        let (hook, mut window) = (hook(Trigger::Replay, u64::MAX), Window::default());
        for at in 0..100_000 {
            window.offer(&hook, &made_up(Trigger::Replay, Nanos(at * 10_000_000)));
            assert!(window.seen.len() <= GRAIN as usize + 1);
        }
    }

    #[test]
    fn the_subject_decides() {
        let event = made_up(Trigger::Replay, Nanos(0));
        let with = |subject| Hook { subject, ..hook(Trigger::Replay, 1) }.weight(&event);
        assert_eq!(with(Subject { peer: Some("test".to_owned()), ..Subject::default() }), 1);
        assert_eq!(with(Subject { peer: Some("other".to_owned()), ..Subject::default() }), 0);
        assert_eq!(with(Subject { src: "192.0.2.0/24".parse().ok(), ..Subject::default() }), 1);
        assert_eq!(with(Subject { dst: "192.0.2.0/24".parse().ok(), ..Subject::default() }), 0);
        assert_eq!(with(Subject { spi: Some(Spi(0x101)..=Spi(0x1FF)), ..Subject::default() }), 0);
    }
}
