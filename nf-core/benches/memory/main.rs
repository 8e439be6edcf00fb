//! What nf-core itself costs: sealed frames from memory through a whole core, from parsing to a fate, without any driver.
//!
//! Every figure is the least of many laps, as what is above it is the machine's other work; the median is beside it. SAs
//! and their replay windows are new in each lap.
#![allow(missing_docs, clippy::expect_used, reason = "a program that measures ends where it can't")]

mod function;
mod lap;
mod results;
mod together;
mod traffic;

use std::path::PathBuf;

use clap::Parser;
use lap::{Buffers, Lap};
use nf_core::control::controller::Controller;
use nf_core::core::Core;
use nf_core::crypto::{self, Engine, EngineChoice};
use nf_core::lanes::BURST;
use results::{Chained, Clocks, Decap, Flood, Results, Scale};
use traffic::{CBC_SHA1, CBC_SHA256, CBC_SHA512, IMIX, SIZE_64, SIZE_512, SIZE_1400, Sizes, Suite, Traffic};

/// Packets of a lap with few SAs: short, so that some laps are left alone by the machine's other work.
const LAP: usize = 1024;
/// In how many parts the laps of a case are run, between those of others: a machine that is slow for seconds isn't so for one
/// case alone.
const ROUNDS: usize = 10;
/// The least packets of each SA, as its first one is an event.
const PER_SA: usize = 16;

#[derive(Parser)]
struct Options {
    /// The engine.
    #[arg(long, default_value = "auto")]
    engine: EngineChoice,
    /// Fewer laps, and at most 10,000 SAs.
    #[arg(long)]
    quick: bool,
    /// Decapsulation alone, of packets of this size: 64, 512, 1400 or IMIX.
    #[arg(long)]
    size: Option<String>,
    /// Decapsulation alone, with this many SAs: 1 or 1000.
    #[arg(long)]
    sas: Option<usize>,
    /// AES-CBC and HMAC alone, by the engines aes-gcm and ipsec-mb in turn.
    #[arg(long)]
    chained: bool,
    /// Laps of each figure; a few are enough to try it, or to count instructions under callgrind.
    #[arg(long)]
    laps: Option<usize>,
    /// Writes the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let engine = crypto::select(options.engine).expect("the engine");
    let laps = options.laps.unwrap_or(if options.quick { 200 } else { 2000 }).max(1);
    let mut results = Results::of_this_machine(engine.name());
    println!("{results}");
    if options.chained {
        for suite in [CBC_SHA1, CBC_SHA256, CBC_SHA512] {
            for (sas, sizes) in [(1, SIZE_64), (1, SIZE_512), (1, SIZE_1400), (1000, SIZE_64), (1000, SIZE_1400)] {
                results.add(|r| &mut r.chained, chained(suite, sas, sizes, laps));
            }
        }
        return;
    }
    let mut cases: Vec<Case> = [1, 1000]
        .into_iter()
        .flat_map(|sas| [SIZE_64, SIZE_512, SIZE_1400, IMIX].map(|sizes| (sas, sizes)))
        .filter(|(sas, sizes)| {
            options.size.as_ref().is_none_or(|only| only == sizes.name) && options.sas.is_none_or(|only| only == *sas)
        })
        .map(|(sas, sizes)| Case::new(&*engine, sas, sizes))
        .collect();
    for _ in 0..ROUNDS {
        cases.iter_mut().for_each(|case| case.run(&*engine, laps.div_ceil(ROUNDS)));
    }
    cases.into_iter().for_each(|case| results.add(|r| &mut r.decap, case.figures()));
    if options.size.is_some() || options.sas.is_some() {
        return;
    }
    let flood = flood(&*engine, laps);
    println!("{flood}");
    results.flood = Some(flood);
    let most = if options.quick { 10_000 } else { 1_000_000 };
    for sas in [1, 10, 100, 1000, 10_000, 100_000, 1_000_000].into_iter().filter(|sas| *sas <= most) {
        results.add(|r| &mut r.scale, scale(&*engine, sas, laps));
    }
    let together = together::compare(&*engine, laps.min(if options.quick { 10 } else { 40 }));
    println!("{together}");
    results.together = Some(together);
    if let Some(path) = options.json {
        let json = serde_json::to_vec_pretty(&results).expect("JSON");
        std::fs::write(&path, json).expect("a place for the figures");
    }
}

/// A lap with new SAs, of whose packets every one is good.
fn good_lap(core: &mut Core, buffers: &mut Buffers, traffic: &Traffic, engine: &dyn Engine) -> Lap {
    lap::install(core, traffic.fresh_sas(engine, 1));
    let lap = lap::lap(core, buffers, &traffic.frames, BURST);
    assert_eq!(lap.sent, lap.packets, "every packet is good");
    lap
}

/// Decapsulation of one kind of traffic.
struct Case {
    sas: usize,
    sizes: Sizes,
    traffic: Traffic,
    core: Core,
    _control: Controller,
    buffers: Buffers,
    laps: Vec<Lap>,
    /// The fastest lap, with what each of its stages took.
    best: Option<(Lap, Vec<(String, f64)>)>,
}

impl Case {
    fn new(engine: &dyn Engine, sas: usize, sizes: Sizes) -> Case {
        let traffic = Traffic::new(engine, sas, (LAP / sas).max(PER_SA), sizes, 64);
        let (control, mut cores) = lap::network_function(1, sas.max(1024));
        let (core, buffers) = (cores.remove(0), Buffers::new());
        Case { sas, sizes, traffic, core, _control: control, buffers, laps: Vec::new(), best: None }
    }

    fn run(&mut self, engine: &dyn Engine, laps: usize) {
        for _ in 0..(laps * LAP / self.traffic.frames.len()).max(1) {
            let before = self.core.stages().report();
            let lap = good_lap(&mut self.core, &mut self.buffers, &self.traffic, engine);
            self.laps.push(lap);
            if self.best.as_ref().is_none_or(|(best, _)| lap.per_packet() < best.per_packet()) {
                self.best = Some((lap, results::stages(&before, &self.core.stages().report())));
            }
        }
    }

    fn figures(self) -> Decap {
        let stages = self.best.map(|(_, stages)| stages).unwrap_or_default();
        Decap { sas: self.sas, size: self.sizes.name.to_owned(), clocks: Clocks::of(&self.laps), stages }
    }
}

/// Packets by AES-CBC and HMAC, by either engine in turn.
fn chained(suite: Suite, sas: usize, sizes: Sizes, laps: usize) -> Chained {
    let engines =
        [EngineChoice::AesGcm, EngineChoice::IpsecMb].map(|choice| crypto::select(choice).expect("the engine"));
    let traffic = Traffic::by(suite, &*engines[0], sas, (LAP / sas).max(PER_SA), sizes, 64);
    let (_control, mut cores) = lap::network_function(1, sas.max(1024));
    let core = &mut cores[0];
    let mut buffers = Buffers::new();
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..(laps * LAP / traffic.frames.len()).max(1) {
        for (engine, all) in engines.iter().zip(&mut all) {
            all.push(good_lap(core, &mut buffers, &traffic, &**engine));
        }
    }
    let [portable, together] = all.map(|laps| Clocks::of(&laps));
    let auth = suite.auth.map_or("", |(auth, _)| auth).to_owned();
    Chained { auth, sas, size: sizes.name.to_owned(), portable, together }
}

/// Good packets among ten times as many on unknown SPIs, beside either alone.
fn flood(engine: &dyn Engine, laps: usize) -> Flood {
    const UNKNOWN_PER_GOOD: usize = 10;
    let traffic = Traffic::new(engine, 1, LAP, SIZE_64, 64);
    let (unknown, mixed) = (traffic.unknown(), traffic.flooded(UNKNOWN_PER_GOOD));
    let (_control, mut cores) = lap::network_function(1, 1024);
    let core = &mut cores[0];
    let mut buffers = Buffers::new();
    let mut run = |frames: &traffic::Frames, good: u64| {
        let run = |_| {
            lap::install(core, traffic.fresh_sas(engine, 1));
            let lap = lap::lap(core, &mut buffers, frames, BURST);
            assert_eq!(lap.sent, good, "the flood costs no good packet");
            lap
        };
        Clocks::of(&(0..laps).map(run).collect::<Vec<_>>())
    };
    let good = run(&traffic.frames, LAP as u64);
    let unknown = run(&unknown, 0);
    let mixed = run(&mixed, LAP as u64);
    Flood { unknown_per_good: UNKNOWN_PER_GOOD, good, unknown, mixed }
}

/// One packet after the other on ever more SAs, in an order without any pattern.
fn scale(engine: &dyn Engine, sas: usize, laps: usize) -> Scale {
    let laps = (2_000_000 / sas.max(LAP)).clamp(5, 500).min(laps);
    let mut traffic = Traffic::new(engine, sas, LAP.div_ceil(sas), SIZE_64, 64);
    traffic.shuffle();
    let (_control, mut cores) = lap::network_function(1, sas.max(1024));
    let core = &mut cores[0];
    let mut buffers = Buffers::new();
    let before = results::resident_octets();
    lap::install(core, traffic.fresh_sas(engine, 1));
    let octets_per_sa = results::resident_octets().saturating_sub(before) as f64 / sas as f64;
    let mut all = Vec::new();
    let mut locate = f64::INFINITY;
    for _ in 0..laps {
        let before = core.stages().report();
        all.push(good_lap(core, &mut buffers, &traffic, engine));
        let stages = results::stages(&before, &core.stages().report());
        let found = stages.iter().find(|(stage, _)| stage == "decap-locate").map_or(0.0, |(_, clocks)| *clocks);
        locate = locate.min(found);
    }
    // With few SAs the table and the allocator's own needs would be counted as theirs.
    Scale { sas, clocks: Clocks::of(&all), locate, octets_per_sa: (sas >= 10_000).then_some(octets_per_sa) }
}
