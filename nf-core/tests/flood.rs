//! A million packets on random SPIs from random sources: memory, log and events stay within their limits, and nothing is
//! forgotten in the count.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::Nf;
use nf_core::control::proto::{EventKind, EventReport};
use nf_core::control::subscribers::Next;
use nf_core::notify::{Class, FanOut, Notice, Sink};
use nf_core::types::{Nanos, Spi};
use nf_core::wire::ipv4;

const PACKETS: u64 = 1_000_000;
const BUDGET: usize = 50;
const MAX_FLOWS: usize = 2048;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Sink for Lines {
    fn emit(&mut self, notice: &Notice) {
        self.0.lock().unwrap().push(notice.line.clone());
    }
}

/// SplitMix64: numbers without a pattern, the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn esp(src: u32, spi: u32) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 60, 0, 0, 0, 0, 64, 50, 0, 0];
    packet.extend(src.to_be_bytes());
    packet.extend([10, 10, 1, 2]);
    ipv4::refresh_checksum(&mut packet);
    packet.extend(spi.to_be_bytes());
    packet.extend([0; 36]);
    [&[0; 12][..], &[0x08, 0x00], &packet].concat()
}

#[test]
fn a_flood_of_unknown_spis_stays_within_its_limits() {
    let lines = Lines::default();
    let mut sinks = FanOut::default();
    sinks.push(Box::new(lines.clone()));
    let config =
        format!("[notify]\nbudget_per_min = {BUDGET}\nmax_flows = {MAX_FLOWS}\n[[local]]\naddress = \"10.10.1.2\"\n");
    let mut nf = Nf::with_sinks(&config, sinks);

    // A subscriber that reads as fast as it can, and one that doesn't read at all.
    let (_, events) = nf.controller.subscribe(vec![EventKind::InvalidSpi]);
    let (_, asleep) = nf.controller.subscribe(Vec::new());
    let (mut published, mut of_stuck) = (0u64, Vec::new());

    // 10,000 packets a second for 100 seconds; in each second one of a peer that is stuck.
    let mut random = Random(1);
    let stuck = esp(0x0A01_0101, 0xB761_863E);
    let mut sent = 0;
    for step in 0..10_000u64 {
        nf.tick(Nanos(step * Nanos::SECOND / 100));
        let mut frames: Vec<Vec<u8>> =
            (0..PACKETS / 10_000).map(|_| esp(random.next() as u32, (random.next() as u32).max(256))).collect();
        if step % 100 == 0 {
            frames[0] = stuck.clone();
        }
        sent += frames.len() as u64;
        nf.receive(frames.iter().map(Vec::as_slice));
        assert!(nf.controller.notifier().report(nf.now, 0).flows_tracked <= MAX_FLOWS);
        while let Next::Event(EventReport::InvalidSpi(event)) = events.next(Duration::ZERO) {
            published += 1;
            if event.spi == Spi(0xB761_863E) {
                of_stuck.push(event.packets);
            }
        }
    }
    nf.controller.finish(Nanos::from_secs(100));
    assert_eq!(sent, PACKETS);

    let counters = nf.counters();
    assert!(counters.is_conserved());
    assert_eq!(counters.drops(nf_core::drop::DropReason::UnknownSpiV4).packets, PACKETS);

    let report = nf.controller.notifier().report(nf.now, MAX_FLOWS);
    // The bucket's thousand and a thousand a second; what the queue turned away is counted.
    assert!(report.events + counters.events_lost <= 1000 + 100 * 1000, "{} events", report.events);
    assert_eq!(report.packets, PACKETS);

    // Subscribers hear of no more than that, and of the peer that is really stuck each second.
    assert!(published <= report.events, "{published} events");
    assert!(of_stuck.len() >= 90, "{} events of the stuck peer", of_stuck.len());
    assert!(of_stuck.iter().sum::<u64>() <= 100, "it has sent a hundred packets");
    let Next::Event(EventReport::Lost { count }) = asleep.next(Duration::ZERO) else {
        unreachable!("nothing was lost for the one that sleeps")
    };
    assert!(count > 0 && count <= report.events, "{count} of {} lost", report.events);

    let lines = lines.0.lock().unwrap();
    let messages = lines.iter().filter(|line| line.contains("RECVD_PKT_INV_SPI")).count();
    // A full bucket, and what 100 seconds refill.
    assert!(messages <= BUDGET + BUDGET * 100 / 60 + 1, "{messages} messages");
    assert!(messages >= BUDGET / 2, "{messages} messages");
    assert!(lines.len() <= messages + 10, "{} lines beside the messages", lines.len() - messages);

    // What was left out is told, to the packet.
    let summaries: Vec<&String> = lines.iter().filter(|line| line.contains("INV_SPI_SUPPRESSED")).collect();
    let told: u64 = summaries
        .iter()
        .map(|line| line.split("SUPPRESSED: ").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(told, PACKETS, "{summaries:?}");

    // The peer that is really stuck was not lost in the noise.
    let peer = report.flows.iter().find(|flow| flow.spi == Spi(0xB761_863E)).expect("the stuck flow");
    assert_eq!(peer.class, Class::Stuck);
    assert!(lines.iter().any(|line| line.contains("INV_SPI_STUCK: peer 10.1.1.1 ")), "{lines:?}");
}
