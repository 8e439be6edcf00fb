//! Captures made by another implementation, decapsulated without DPDK. tests/replay.rs plays them through the program.

mod common;

use common::{Fixture, Nf, fixtures};

#[test]
fn every_fixture_decapsulates() {
    for name in fixtures() {
        let fixture = Fixture::load(&name);
        let mut nf = Nf::new(&fixture.config, 1);
        nf.receive(fixture.frames.iter().map(Vec::as_slice));
        fixture.check_output(&nf.output);
        fixture.check_counters(&nf.counters());
    }
}

/// The same, a packet at a time: what a burst holds together must make no difference.
#[test]
fn every_fixture_decapsulates_packet_by_packet() {
    for name in fixtures() {
        let fixture = Fixture::load(&name);
        let mut nf = Nf::new(&fixture.config, 1);
        for frame in &fixture.frames {
            nf.receive([frame.as_slice()]);
        }
        fixture.check_output(&nf.output);
        fixture.check_counters(&nf.counters());
    }
}

/// Two cores share the SAs: a packet that came on one is a replay on the other.
#[test]
fn a_replay_on_another_core_is_refused() {
    for name in fixtures() {
        let fixture = Fixture::load(&name);
        // Windows as the fixtures have them: where bursts are handed on they are wider.
        let mut nf = Nf::new(&format!("[eal]\nspread = \"off\"\n{}", fixture.config), 2);
        for burst in fixture.frames.chunks(32) {
            let burst: Vec<&[u8]> = burst.iter().map(Vec::as_slice).collect();
            nf.receive_burst(0, &burst);
        }
        fixture.check_output(&nf.output);
        nf.output.clear();
        for burst in fixture.frames.chunks(32) {
            let burst: Vec<&[u8]> = burst.iter().map(Vec::as_slice).collect();
            nf.receive_burst(1, &burst);
        }
        assert_eq!(nf.output.len(), 0, "{name}: accepted again");
        assert!(nf.counters().is_conserved(), "{name}");
    }
}
