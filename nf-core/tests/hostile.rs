//! Packets that nobody should send: no octets make the pipeline panic, and each packet is accounted for.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Fixture, Nf, fixtures};
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

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
