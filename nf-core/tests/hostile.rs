//! Packets that nobody should send: no octets make the pipeline panic, and each packet is accounted for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap is a failed test")]

/// What the fuzz targets hold true.
#[path = "../fuzz/src/checks.rs"]
mod checks;
mod common;

use common::{Fixture, Nf, Peer, fixtures, number};
use proptest::prelude::*;

#[test]
fn every_truncation_of_every_kind_of_packet_is_accounted_for() {
    for name in fixtures() {
        let fixture = Fixture::load(&name);
        let mut nf = Nf::new(&fixture.config, 1);
        let frame = fixture.frames.iter().min_by_key(|frame| frame.len()).unwrap();
        // Without Ethernet padding no octet may be missed.
        nf.receive((0..frame.len()).map(|len| &frame[..len]));
        assert!(nf.counters().is_conserved(), "{name}");
    }
}

#[test]
fn every_damaged_octet_behind_the_ip_header_is_refused() {
    for name in fixtures() {
        let fixture = Fixture::load(&name);
        if !fixture.drops.is_empty() || fixture.config.contains("\"udp\"") {
            continue;
        }
        let frame = fixture.frames.iter().min_by_key(|frame| frame.len()).unwrap();
        // Ethernet padding isn't authenticated; the fixtures have none behind the shortest of these.
        let start = frame.len().saturating_sub(32);
        let mut nf = Nf::new(&fixture.config, 1);
        for at in start..frame.len() {
            let mut damaged = frame.clone();
            damaged[at] ^= 0x40;
            nf.receive([damaged.as_slice()]);
        }
        let decapsulated = nf.output.len();
        assert_eq!(decapsulated, 0, "{name}: a damaged packet came out");
        assert!(nf.counters().is_conserved(), "{name}");
    }
}

/// A fuzz target.
type Check = fn(&[u8]);

/// The seeds of the fuzz targets, and each with some damage, and what earlier runs have found: what `make fuzz` begins with holds in
/// every test run.
#[test]
fn the_seeds_of_the_fuzz_targets_hold() {
    let fuzz = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let (seeds, found) = (fuzz.join("seeds"), fuzz.join("found"));
    let targets: [(&str, Check); 4] =
        [("frame", checks::frame), ("decap", checks::decap), ("control", checks::control), ("config", checks::config)];
    for (target, check) in targets {
        let files: Vec<_> = std::fs::read_dir(found.join(target)).unwrap().collect();
        assert!(files.len() > 10, "{target}: {} inputs", files.len());
        for file in files {
            check(&std::fs::read(file.unwrap().path()).unwrap());
        }
        let files: Vec<_> = std::fs::read_dir(seeds.join(target)).unwrap().collect();
        assert!(!files.is_empty(), "{target} has no seed");
        for file in files {
            let seed = std::fs::read(file.unwrap().path()).unwrap();
            check(&seed);
            let step = (seed.len() / 16).max(1);
            for at in (0..seed.len()).step_by(step) {
                check(&seed[..at]);
                let mut damaged = seed.clone();
                damaged[at] ^= 1 << (at % 8);
                check(&damaged);
            }
        }
    }
}

/// Packets of a peer over a bad line: which are lost, come twice, come late, are damaged. Shares in percent.
fn line(shares: [u32; 4], rolls: &[(u32, u32, u32, u32, usize)]) -> (Vec<Vec<u8>>, Vec<u64>) {
    let [loss, twice, late, damage] = shares;
    let mut peer = Peer::new(0x1234_5678);
    let (mut frames, mut whole) = (Vec::new(), Vec::new());
    for (number, (lost, again, behind, damaged, place)) in rolls.iter().enumerate() {
        let mut frame = peer.next();
        if *lost < loss {
            continue;
        }
        if *damaged < damage {
            // Behind the IP header: one that is damaged there may be anything.
            let at = 34 + place % 40;
            frame[at] ^= 0x10;
        } else {
            whole.push(peer.seq);
        }
        let at = if *behind < late { number + 1 + place % 60 } else { number };
        frames.push((at, frame.clone()));
        if *again < twice {
            frames.push((at + place % 30, frame));
        }
    }
    frames.sort_by_key(|(at, _)| *at);
    (frames.into_iter().map(|(_, frame)| frame).collect(), whole)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Up to a fifth of all packets is lost, duplicated, overtaken or damaged: each that arrives whole comes out, once.
    #[test]
    fn a_bad_line_costs_what_it_loses_and_nothing_else(
        shares in prop::array::uniform4(1u32..=20),
        rolls in prop::collection::vec((0u32..100, 0u32..100, 0u32..100, 0u32..100, any::<usize>()), 1..400),
    ) {
        let (frames, whole) = line(shares, &rolls);
        let mut nf = Nf::new("", 1);
        let params = Peer::new(0x1234_5678).params_with(&serde_json::json!({"replay_window": 1024}));
        nf.control(|controller| controller.add_sa(params)).unwrap();
        nf.receive(frames.iter().map(Vec::as_slice));
        let mut out: Vec<u64> = nf.output.iter().map(|frame| number(frame)).collect();
        out.sort_unstable();
        prop_assert_eq!(out, whole);
        prop_assert!(nf.counters().is_conserved());
        prop_assert_eq!(nf.counters().rx.packets, frames.len() as u64);
    }

    #[test]
    fn random_octets_are_accounted_for(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..65)) {
        let mut nf = Nf::new("", 1);
        nf.receive(frames.iter().map(Vec::as_slice));
        prop_assert!(nf.counters().is_conserved());
        prop_assert_eq!(nf.counters().rx.packets, frames.len() as u64);
    }

    #[test]
    fn damaged_packets_are_accounted_for(
        pick: prop::sample::Index,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..40),
    ) {
        let names = fixtures();
        let fixture = Fixture::load(&names[pick.index(names.len())]);
        let mut frames = fixture.frames.clone();
        for (frame, at, value) in damage {
            let frame = frame.index(frames.len());
            let at = at.index(frames[frame].len());
            frames[frame][at] = value;
        }
        let mut nf = Nf::new(&fixture.config, 1);
        nf.receive(frames.iter().map(Vec::as_slice));
        prop_assert!(nf.counters().is_conserved());
    }
}
