//! The end of SAs: limits, sequence numbers, and SPIs that come again.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::Duration;

use common::{Nf, Peer, number};
use nf_core::control::proto::EventReport;
use nf_core::control::subscribers::{Next, Subscription};
use nf_core::drop::DropReason;
use nf_core::sa::lifetime::{Limit, Unit};
use nf_core::types::{Nanos, Spi};
use serde_json::json;

fn add(nf: &mut Nf, peer: &Peer, more: serde_json::Value) {
    let params = peer.params_with(&more);
    nf.control(|control| control.add_sa(params)).unwrap();
}

fn delete(nf: &mut Nf, peer: &Peer) {
    let (spi, dst, src) = (Spi(peer.spi), peer.dst.into(), peer.src.into());
    nf.control(|control| control.delete_sa(spi, Some(dst), Some(src))).unwrap();
}

fn send(nf: &mut Nf, peer: &mut Peer, count: usize) {
    let frames: Vec<Vec<u8>> = (0..count).map(|_| peer.next()).collect();
    nf.receive(frames.iter().map(Vec::as_slice));
}

fn subscribe(nf: &mut Nf) -> Subscription {
    nf.controller.subscribe(Vec::new()).1
}

/// The limits that were reported, and of what.
fn limits(events: &Subscription) -> Vec<(Limit, Unit)> {
    let all = std::iter::from_fn(|| match events.next(Duration::ZERO) {
        Next::Event(event) => Some(event),
        Next::Nothing | Next::End => None,
    });
    all.filter_map(|event| match event {
        EventReport::SaLifetime { limit, unit, .. } => Some((limit, unit)),
        _ => None,
    })
    .collect()
}

fn drops(nf: &Nf, reason: DropReason) -> u64 {
    nf.counters().drops(reason).packets
}

#[test]
fn a_limit_on_packets_is_not_overrun_by_more_than_a_burst() {
    let mut nf = Nf::new("", 1);
    let events = subscribe(&mut nf);
    let mut peer = Peer::new(0x1000);
    add(&mut nf, &peer, json!({"lifetime": {"soft": {"packets": 100}, "hard": {"packets": 200}}}));
    send(&mut nf, &mut peer, 99);
    nf.tick(Nanos::from_secs(1));
    assert_eq!(limits(&events), []);
    send(&mut nf, &mut peer, 1);
    nf.tick(Nanos::from_secs(1));
    assert_eq!(limits(&events), [(Limit::Soft, Unit::Packets)]);
    assert!(nf.controller.sas().next().unwrap().sa.phase().get().is_some(), "dying, and still there");
    // More than is allowed, without the control thread's having a say.
    send(&mut nf, &mut peer, 1000);
    let sent = nf.output.len();
    assert!((200..264).contains(&sent), "{sent} packets");
    assert_eq!(drops(&nf, DropReason::InvalidSaV4), 1100 - sent as u64);
    nf.tick(Nanos::from_secs(2));
    assert_eq!(limits(&events), [(Limit::Hard, Unit::Packets)]);
    assert_eq!(nf.controller.sas().len(), 0, "deleted");
    send(&mut nf, &mut peer, 10);
    assert_eq!(drops(&nf, DropReason::InvalidSaV4), 1110 - sent as u64);
    assert_eq!(drops(&nf, DropReason::UnknownSpiV4), 0, "late packets are no alarm");
    assert!(nf.counters().is_conserved());
    // And the SPI may be used again.
    add(&mut nf, &peer, json!({}));
    send(&mut nf, &mut peer, 1);
    assert_eq!(nf.output.len(), sent + 1);
}

#[test]
fn a_limit_on_octets_counts_the_payload_of_authentic_packets() {
    let mut nf = Nf::new("", 1);
    let events = subscribe(&mut nf);
    let mut peer = Peer::new(0x1000);
    add(&mut nf, &peer, json!({"lifetime": {"hard": {"bytes": 320}}}));
    let first = peer.next();
    nf.receive([first.as_slice()]);
    let octets = nf.controller.sas().next().unwrap().sa.totals().octets;
    assert_eq!(octets, 32, "28 of the inner packet, padding and trailer");
    // Neither replays nor forged packets age it.
    let mut forged = peer.packet(7);
    forged[60] ^= 1;
    for _ in 0..100 {
        nf.receive([first.as_slice(), forged.as_slice()]);
    }
    assert_eq!(nf.controller.sas().next().unwrap().sa.totals().octets, octets);
    nf.tick(Nanos::from_secs(1));
    assert_eq!(limits(&events), []);
    for _ in 0..12 {
        let next = peer.next();
        nf.receive([next.as_slice()]);
    }
    assert_eq!(nf.output.len(), 10, "ten packets of 32 octets");
    nf.tick(Nanos::from_secs(2));
    assert_eq!(limits(&events), [(Limit::Hard, Unit::Bytes)]);
}

#[test]
fn seconds_pass_by_the_monotonic_clock_whatever_it_does() {
    let mut nf = Nf::new("", 1);
    let events = subscribe(&mut nf);
    let mut peer = Peer::new(0x1000);
    nf.tick(Nanos::from_secs(1000));
    add(&mut nf, &peer, json!({"lifetime": {"soft": {"seconds": 60}, "hard": {"seconds": 90}}}));
    nf.tick(Nanos::from_secs(1059));
    assert_eq!(limits(&events), []);
    // A clock that goes back, which a TSC doesn't, must do no harm all the same.
    nf.tick(Nanos::from_secs(3));
    send(&mut nf, &mut peer, 1);
    nf.tick(Nanos::from_secs(1060));
    assert_eq!(limits(&events), [(Limit::Soft, Unit::Seconds)]);
    nf.tick(Nanos::from_secs(1061));
    assert_eq!(limits(&events), [], "told once");
    send(&mut nf, &mut peer, 1);
    assert_eq!(nf.output.len(), 2);
    // A machine that slept: everything is due at once, and happens once.
    nf.tick(Nanos::from_secs(1_000_000));
    assert_eq!(limits(&events), [(Limit::Hard, Unit::Seconds)]);
    assert_eq!(nf.controller.sas().len(), 0);
    nf.tick(Nanos(u64::MAX));
    assert_eq!(limits(&events), []);
}

#[test]
fn an_sa_deleted_before_its_time_is_not_reported() {
    let mut nf = Nf::new("", 1);
    let events = subscribe(&mut nf);
    let peer = Peer::new(0x1000);
    let lifetime = json!({"lifetime": {"soft": {"seconds": 60}, "hard": {"seconds": 90}}});
    add(&mut nf, &peer, lifetime.clone());
    delete(&mut nf, &peer);
    nf.tick(Nanos::from_secs(50));
    add(&mut nf, &peer, lifetime);
    nf.tick(Nanos::from_secs(95));
    assert_eq!(limits(&events), [], "another SA under the same key has its own time");
    nf.tick(Nanos::from_secs(141));
    assert_eq!(limits(&events), [(Limit::Soft, Unit::Seconds), (Limit::Hard, Unit::Seconds)]);
}

#[test]
fn sequence_numbers_run_out_without_esn() {
    let mut nf = Nf::new("", 1);
    let events = subscribe(&mut nf);
    let peer = Peer::new(0x1000);
    add(&mut nf, &peer, json!({}));
    for (seq, wanted) in [
        (0xEFFF_FFF0, vec![]),
        (0xF000_0000, vec![(Limit::Soft, Unit::Sequence)]),
        (0xFFFF_FFFE, vec![]),
        (0xFFFF_FFFF, vec![(Limit::Hard, Unit::Sequence)]),
    ] {
        let frame = peer.packet(seq);
        nf.receive([frame.as_slice()]);
        nf.controller.take_events(Nanos::from_secs(1));
        assert_eq!(limits(&events), wanted, "{seq:#x}");
    }
    assert_eq!(nf.output.len(), 4, "the last number is a number like others");
    let again = peer.packet(1);
    nf.receive([again.as_slice()]);
    assert_eq!((nf.output.len(), drops(&nf, DropReason::InvalidSaV4)), (4, 1), "they don't begin anew");
}

#[test]
fn extended_sequence_numbers_roll_over() {
    let mut nf = Nf::new("", 1);
    let events = subscribe(&mut nf);
    let mut peer = Peer { esn: true, ..Peer::new(0x1000) };
    add(&mut nf, &peer, json!({}));
    // To the end of three low halves, by leaps that a sender's loss could make.
    let mut expected = Vec::new();
    for high in 0..3u64 {
        for low in [0x4000_0000, 0x8000_0000, 0xC000_0000, 0xFFFF_FF00] {
            peer.seq = high << 32 | low;
            let frame = peer.packet(peer.seq);
            nf.receive([frame.as_slice()]);
            expected.push(peer.seq);
        }
        // Across the border, every one of them.
        send(&mut nf, &mut peer, 512);
        expected.extend(peer.seq - 511..=peer.seq);
        // Late ones from before it, of which one is a replay now.
        let (late, seen) = (peer.packet(peer.seq - 40), peer.packet(peer.seq));
        nf.receive([late.as_slice(), seen.as_slice()]);
    }
    assert!(nf.output.iter().map(|frame| number(frame)).eq(expected));
    assert_eq!(drops(&nf, DropReason::Replay), 6);
    nf.tick(Nanos::from_secs(1));
    assert_eq!(limits(&events), [], "2^64 isn't near");
}

#[test]
fn an_spi_used_again_for_another_destination_is_another_sa() {
    let mut nf = Nf::new("[[local]]\naddress = \"10.10.1.2\"\n[[local]]\naddress = \"10.10.1.3\"\n", 1);
    let mut first = Peer::new(0x1000);
    let mut second = Peer { dst: [10, 10, 1, 3], key: [7; 20], ..Peer::new(0x1000) };
    add(&mut nf, &first, json!({}));
    send(&mut nf, &mut first, 1);
    send(&mut nf, &mut second, 1);
    assert_eq!(drops(&nf, DropReason::UnknownSpiV4), 1, "the SA of one address isn't found by another");
    add(&mut nf, &second, json!({}));
    second.seq = 0;
    send(&mut nf, &mut first, 9);
    send(&mut nf, &mut second, 10);
    assert_eq!(nf.output.len(), 20, "each with its own window");
    delete(&mut nf, &first);
    send(&mut nf, &mut first, 1);
    send(&mut nf, &mut second, 1);
    assert_eq!((nf.output.len(), drops(&nf, DropReason::InvalidSaV4)), (21, 1));
}

#[test]
fn two_peers_may_have_the_same_spi() {
    let mut nf = Nf::new("", 1);
    let mut first = Peer::new(0x1000);
    let mut second = Peer { src: [10, 1, 1, 2], key: [7; 20], ..Peer::new(0x1000) };
    add(&mut nf, &first, json!({"lifetime": {"hard": {"packets": 5}}}));
    add(&mut nf, &second, json!({}));
    for _ in 0..10 {
        send(&mut nf, &mut first, 1);
        send(&mut nf, &mut second, 1);
    }
    assert_eq!(nf.output.len(), 15, "the end of one isn't the other's");
    nf.tick(Nanos::from_secs(1));
    send(&mut nf, &mut first, 1);
    send(&mut nf, &mut second, 1);
    assert_eq!((nf.output.len(), drops(&nf, DropReason::InvalidSaV4)), (16, 6));
    assert_eq!(drops(&nf, DropReason::AuthFailed), 0, "no packet was tried with the other's key");
}

#[test]
fn a_replay_over_a_replaced_sa_is_refused() {
    let mut nf = Nf::new("", 1);
    let mut old = Peer::new(0x1000);
    add(&mut nf, &old, json!({}));
    let recorded: Vec<Vec<u8>> = (0..20).map(|_| old.next()).collect();
    nf.receive(recorded.iter().map(Vec::as_slice));
    assert_eq!(nf.output.len(), 20);
    delete(&mut nf, &old);
    nf.receive(recorded.iter().map(Vec::as_slice));
    assert_eq!(drops(&nf, DropReason::InvalidSaV4), 20);
    // The same SPI with new keys: the window is empty, so it is the ICV that tells.
    let mut new = Peer { key: [9; 20], ..Peer::new(0x1000) };
    add(&mut nf, &new, json!({}));
    nf.receive(recorded.iter().map(Vec::as_slice));
    assert_eq!((nf.output.len(), drops(&nf, DropReason::AuthFailed)), (20, 20));
    send(&mut nf, &mut new, 5);
    assert_eq!(nf.output.len(), 25, "none of its numbers was used up by forged packets");
    nf.receive(recorded.iter().map(Vec::as_slice));
    assert_eq!(drops(&nf, DropReason::AuthFailed) + drops(&nf, DropReason::Replay), 40);
}

#[test]
fn replays_and_forged_packets_are_events_once_a_second() {
    let mut nf = Nf::new("", 1);
    let (_, events) = nf.controller.subscribe(vec!["sa-replay".parse().unwrap(), "sa-auth-failure".parse().unwrap()]);
    let mut peer = Peer::new(0x1000);
    add(&mut nf, &peer, json!({"peer": "branch"}));
    let frame = peer.next();
    let mut forged = peer.packet(9);
    forged[60] ^= 1;
    for milliseconds in (1000..4000).step_by(50) {
        nf.receive([frame.as_slice(), forged.as_slice()]);
        nf.tick(Nanos::from_millis(milliseconds));
    }
    let mut replays = Vec::new();
    let mut failures = Vec::new();
    while let Next::Event(event) = events.next(Duration::ZERO) {
        match event {
            EventReport::SaReplay { sa, packets, .. } => {
                assert_eq!(sa.peer.as_deref(), Some("branch"));
                replays.push(packets);
            }
            EventReport::SaAuthFailure { packets, .. } => failures.push(packets),
            other => unreachable!("{other:?}"),
        }
    }
    assert!((2..=4).contains(&replays.len()) && (2..=4).contains(&failures.len()), "{replays:?} {failures:?}");
    let totals = nf.controller.sas().next().unwrap().sa.totals();
    assert!(replays.iter().sum::<u64>() > 30 && totals.replay_duplicate == 59, "{replays:?}");
}
