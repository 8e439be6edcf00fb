//! Where a core's clocks go: for each stage of the pipeline how often it ran, on how many packets, and for how long.
//!
//! A core reads the time-stamp counter once between two stages, some twenty times a burst: with full bursts that is less
//! than ten clocks a packet, so it is always on.

use serde::{Deserialize, Serialize};

use crate::counters::Count;
use crate::cpu;

/// A stage, in the order in which a burst goes through them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Stage {
    /// The driver's receive function, and the burst's making.
    Receive,
    /// ESP handed on to other workers.
    Spread,
    /// All headers read.
    Parse,
    /// Plugins of the gate ingress.
    Ingress,
    /// What is for us, and what isn't.
    Classify,
    /// Decapsulation: SPI to SA.
    Locate,
    /// Decapsulation: lengths, and the replay window's first look.
    Admit,
    /// Decapsulation: verified and decrypted by the crypto engine.
    Open,
    /// Packets taken back from the crypto device, where one opens and seals them.
    Device,
    /// Decapsulation: the replay window takes the numbers.
    Commit,
    /// Decapsulation: padding, policy, ECN; the outer headers go.
    Strip,
    /// Other plugins of the gate esp-input.
    EspInput,
    /// Plugins of the gate post-decap.
    PostDecap,
    /// TTL, output port, Ethernet header.
    Forward,
    /// Plugins of the gate egress.
    Egress,
    /// Fates counted, and plugins of the gate drop.
    Account,
    /// Packets sorted by port, and the driver's transmit function.
    Transmit,
}

impl Stage {
    /// All of them.
    pub const ALL: [Stage; 17] = [
        Stage::Receive,
        Stage::Spread,
        Stage::Parse,
        Stage::Ingress,
        Stage::Classify,
        Stage::Locate,
        Stage::Admit,
        Stage::Open,
        Stage::Device,
        Stage::Commit,
        Stage::Strip,
        Stage::EspInput,
        Stage::PostDecap,
        Stage::Forward,
        Stage::Egress,
        Stage::Account,
        Stage::Transmit,
    ];

    /// The name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Receive => "receive",
            Stage::Spread => "spread",
            Stage::Parse => "parse",
            Stage::Ingress => "ingress",
            Stage::Classify => "classify",
            Stage::Locate => "decap-locate",
            Stage::Admit => "decap-admit",
            Stage::Open => "decap-open",
            Stage::Device => "crypto-device",
            Stage::Commit => "decap-commit",
            Stage::Strip => "decap-strip",
            Stage::EspInput => "esp-input",
            Stage::PostDecap => "post-decap",
            Stage::Forward => "forward",
            Stage::Egress => "egress",
            Stage::Account => "account",
            Stage::Transmit => "transmit",
        }
    }
}

/// One stage on one core.
#[derive(Debug, Default)]
struct StageCounter {
    bursts: Count,
    packets: Count,
    clocks: Count,
}

/// All stages of one core, written by it alone.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct StageCounters {
    stages: [StageCounter; Stage::ALL.len()],
    polls: Count,
    empty_polls: Count,
    empty_clocks: Count,
    handed_on: Count,
    kept: Count,
    taken_over: Count,
}

impl StageCounters {
    /// A stage ran once, on that many packets, and took that many clocks.
    #[inline]
    pub fn add(&self, stage: Stage, packets: usize, clocks: u64) {
        let counter = &self.stages[stage as usize];
        counter.bursts.add(1);
        counter.packets.add(packets as u64);
        counter.clocks.add(clocks);
    }

    /// A round over all receive queues that found nothing, and how long it took.
    #[inline]
    pub fn empty_poll(&self, clocks: u64) {
        self.polls.add(1);
        self.empty_polls.add(1);
        self.empty_clocks.add(clocks);
    }

    /// A round over all receive queues that found packets.
    #[inline]
    pub fn busy_poll(&self) {
        self.polls.add(1);
    }

    /// Rounds so far.
    pub fn polls(&self) -> u64 {
        self.polls.get()
    }

    /// So many packets were handed on to another worker; so many more were kept, as its ring was full.
    #[inline]
    pub fn handed_on(&self, packets: usize, kept: usize) {
        self.handed_on.add(packets as u64);
        self.kept.add(kept as u64);
    }

    /// So many packets were taken over from another worker.
    #[inline]
    pub fn taken_over(&self, packets: usize) {
        self.taken_over.add(packets as u64);
    }

    /// A copy of all numbers now.
    pub fn report(&self) -> RuntimeReport {
        let stage = |stage: Stage| {
            let counter = &self.stages[stage as usize];
            StageReport {
                stage: stage.name().to_owned(),
                bursts: counter.bursts.get(),
                packets: counter.packets.get(),
                clocks: counter.clocks.get(),
            }
        };
        RuntimeReport {
            polls: self.polls.get(),
            empty_polls: self.empty_polls.get(),
            empty_clocks: self.empty_clocks.get(),
            handed_on: self.handed_on.get(),
            kept: self.kept.get(),
            taken_over: self.taken_over.get(),
            stages: Stage::ALL.into_iter().map(stage).collect(),
        }
    }
}

/// Tells each stage's time from the next one's.
#[derive(Debug)]
pub struct Stopwatch<'c> {
    counters: &'c StageCounters,
    since: u64,
}

impl<'c> Stopwatch<'c> {
    /// Starts now.
    #[inline]
    pub fn start(counters: &'c StageCounters) -> Stopwatch<'c> {
        Stopwatch { counters, since: cpu::clocks() }
    }

    /// A stage ends, and the next one begins. One that had no packets isn't counted, and its time goes to the next.
    #[inline]
    pub fn lap(&mut self, stage: Stage, packets: usize) {
        if packets == 0 {
            return;
        }
        let now = cpu::clocks();
        self.counters.add(stage, packets, now.saturating_sub(self.since));
        self.since = now;
    }
}

/// A core's stages, in counts since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RuntimeReport {
    /// Rounds over all receive queues.
    pub polls: u64,
    /// Those that found nothing.
    pub empty_polls: u64,
    /// The clocks that those took.
    pub empty_clocks: u64,
    /// Packets that it received and handed on to other workers, which book them as received.
    #[serde(default)]
    pub handed_on: u64,
    /// Packets that it was to hand on and did itself, as the other worker had too much waiting already.
    #[serde(default)]
    pub kept: u64,
    /// Packets that it took over from other workers.
    #[serde(default)]
    pub taken_over: u64,
    /// Its stages.
    pub stages: Vec<StageReport>,
}

/// A stage on a core, in counts since the start.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StageReport {
    /// Its name.
    pub stage: String,
    /// How often it ran.
    pub bursts: u64,
    /// On how many packets.
    pub packets: u64,
    /// Clocks of the time-stamp counter that it took.
    pub clocks: u64,
}

impl RuntimeReport {
    /// What the stages that had packets did between an earlier report of the same core and this one.
    pub fn stages_since(&self, earlier: &RuntimeReport) -> Vec<StageReport> {
        let between = |(now, then): (&StageReport, &StageReport)| StageReport {
            stage: now.stage.clone(),
            bursts: now.bursts.saturating_sub(then.bursts),
            packets: now.packets.saturating_sub(then.packets),
            clocks: now.clocks.saturating_sub(then.clocks),
        };
        self.stages.iter().zip(&earlier.stages).map(between).filter(|stage| stage.packets > 0).collect()
    }
}

impl StageReport {
    /// Clocks a packet; 0 where there were none.
    pub fn clocks_per_packet(&self) -> f64 {
        ratio(self.clocks, self.packets)
    }

    /// Packets a burst; 0 where there were none.
    pub fn packets_per_burst(&self) -> f64 {
        ratio(self.packets, self.bursts)
    }
}

fn ratio(of: u64, to: u64) -> f64 {
    if to == 0 { 0.0 } else { of as f64 / to as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_its_own_place_and_name() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
            assert!(Stage::ALL.into_iter().filter(|other| other.name() == stage.name()).count() == 1);
        }
    }

    #[test]
    fn laps_are_booked_by_stage_and_empty_ones_not_at_all() {
        let counters = StageCounters::default();
        let mut watch = Stopwatch::start(&counters);
        watch.lap(Stage::Parse, 64);
        watch.lap(Stage::Parse, 16);
        watch.lap(Stage::Open, 0);
        let report = counters.report();
        let parse = report.stages.iter().find(|stage| stage.stage == "parse").unwrap();
        assert_eq!((parse.bursts, parse.packets, parse.packets_per_burst()), (2, 80, 40.0));
        let open = report.stages.iter().find(|stage| stage.stage == "decap-open").unwrap();
        assert_eq!((open.bursts, open.packets, open.clocks, open.clocks_per_packet()), (0, 0, 0, 0.0));
    }

    #[test]
    fn between_two_reports_only_stages_with_packets_count() {
        let counters = StageCounters::default();
        counters.add(Stage::Receive, 64, 640);
        let before = counters.report();
        counters.add(Stage::Parse, 32, 96);
        counters.add(Stage::Parse, 16, 48);
        let parse = StageReport { stage: "parse".to_owned(), bursts: 2, packets: 48, clocks: 144 };
        assert_eq!(counters.report().stages_since(&before), [parse]);
    }

    #[test]
    fn empty_rounds_are_told_from_busy_ones() {
        let counters = StageCounters::default();
        counters.busy_poll();
        counters.empty_poll(100);
        counters.empty_poll(50);
        let report = counters.report();
        assert_eq!((report.polls, report.empty_polls, report.empty_clocks), (3, 2, 150));
    }
}
