//! One trial: frames at a rate, and what became of them, counted here and by nf-core.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dpdk_rs::{Burst, Mbuf};
use nf_core::control::client::ClientError;
use nf_core::counters::Report;
use serde::Serialize;
use serde_json::json;

use super::frames::Frames;
use crate::daemon::{Control, accounted};
use crate::link::{BURST, Generator, Link};
use crate::run::RunError;

/// Frames that may be made up for at once after the generator was kept from its work. More would be a burst of a kind
/// that the rate doesn't have; the schedule is moved instead, and the rate that was really offered is what counts.
const CATCH_UP: u64 = 256;
/// Bursts that are received for each that is sent.
const RECEIVE: usize = 4;
/// How long the last frames may be on their way (RFC 2544 23 d).
const RESIDUE: Duration = Duration::from_secs(2);

/// What a trial is to be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Order {
    /// Frames.
    pub frames: u64,
    /// Frames a second; none for as fast as the generator can.
    pub rate: Option<f64>,
}

/// What became of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Trial {
    /// Frames a second that were asked for; none for as fast as the generator can.
    pub asked_pps: Option<f64>,
    /// Frames offered to nf-core's port.
    pub offered: u64,
    /// Seconds that this took.
    pub seconds: f64,
    /// Frames a second, really.
    pub offered_pps: f64,
    /// Frames for which the ring to nf-core had no room: what a NIC counts as missed.
    pub missed: u64,
    /// Frames that came out.
    pub received: u64,
    /// Frames that nf-core dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// What doesn't add up between the generator's counts and nf-core's; empty if all does.
    pub contradictions: Vec<String>,
}

impl Trial {
    /// Frames offered that didn't come out.
    pub fn lost(&self) -> u64 {
        self.offered.saturating_sub(self.received)
    }

    /// Whether the generator offered what was asked of it, but for a hundredth.
    pub fn kept_pace(&self) -> bool {
        self.asked_pps.is_none_or(|asked| self.offered_pps >= asked * 0.99)
    }
}

/// Puts the SAs in place anew, so that their windows begin at the first number again.
fn install(control: &Control, frames: &Frames) -> Result<(), ClientError> {
    for sa in frames.sas() {
        match control.call_json(&json!({"op": "sa-del", "spi": sa.spi, "dst": sa.dst, "src": sa.src})) {
            // Not there before the first trial.
            Ok(()) | Err(ClientError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        control.call_json(&json!({"op": "sa-add", "sa": sa.to_json()}))?;
    }
    Ok(())
}

/// Makes a trial.
///
/// # Errors
/// nf-core that doesn't answer.
pub fn trial(
    order: Order,
    frames: &Frames,
    generator: &Generator,
    link: &mut Link,
    control: &Control,
) -> Result<Trial, RunError> {
    install(control, frames)?;
    let before = control.counters()?;
    let mut burst = Burst::<BURST>::new();
    let mut sink = Sink::default();
    let (mut offered, mut missed, mut starved) = (0u64, 0u64, false);
    let start = Instant::now();
    let mut moved = Duration::ZERO;
    while offered < order.frames {
        let mut due = order.frames;
        if let Some(rate) = order.rate {
            let elapsed = start.elapsed().saturating_sub(moved);
            due = due.min((elapsed.as_secs_f64() * rate) as u64 + 1);
            let behind = due.saturating_sub(offered);
            if behind > CATCH_UP || starved {
                let excess = behind.saturating_sub(CATCH_UP);
                moved += Duration::from_secs_f64(excess as f64 / rate);
                due -= excess;
            }
        }
        starved = false;
        for _ in 0..due.saturating_sub(offered).min(BURST as u64) {
            // A buffer that isn't free is the generator's fault, not a loss: it makes up for that or moves on.
            let Some(packet) = generator.packet(frames.get(offered as usize)) else {
                starved = true;
                break;
            };
            offered += 1;
            drop(burst.push(packet));
        }
        link.wan.send(&mut burst);
        missed += burst.len() as u64;
        burst.clear();
        for _ in 0..RECEIVE {
            if sink.receive(link) < BURST {
                break;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let after = residue(link, &mut sink, control, before.rx.packets + offered - missed)?;
    let offered_pps = if seconds > 0.0 { offered as f64 / seconds } else { 0.0 };
    Ok(Trial {
        asked_pps: order.rate,
        offered,
        seconds,
        offered_pps,
        missed,
        received: sink.packets,
        dropped: dropped(&before, &after),
        contradictions: contradictions(&before, &after, offered - missed, &sink),
    })
}

/// What comes out.
#[derive(Default)]
struct Sink {
    packets: u64,
    octets: u64,
}

impl Sink {
    fn receive(&mut self, link: &mut Link) -> usize {
        let mut burst = Burst::<BURST>::new();
        let count = link.lan.recv(&mut burst);
        self.packets += count as u64;
        self.octets += burst.as_slice().iter().map(Mbuf::pkt_len).sum::<usize>() as u64;
        count
    }
}

/// Takes the last frames, until nf-core has none under way, or none has come for long enough. Gives its counters.
fn residue(link: &mut Link, sink: &mut Sink, control: &Control, expected: u64) -> Result<Report, RunError> {
    let mut since = Instant::now();
    loop {
        while sink.receive(link) > 0 {
            since = Instant::now();
        }
        let report = control.counters()?;
        let settled = report.rx.packets >= expected && accounted(&report) == report.rx.packets;
        // What it counts as sent is in the ring.
        while sink.receive(link) > 0 {}
        if settled || since.elapsed() > RESIDUE {
            return Ok(report);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Drops between two reports, by reason.
fn dropped(before: &Report, after: &Report) -> BTreeMap<String, u64> {
    let rows = after.feature.iter().map(|row| {
        let earlier = before.feature(row.index).map_or(0, |row| row.packets);
        (row.name.to_string(), row.packets.saturating_sub(earlier))
    });
    rows.filter(|(_, packets)| *packets > 0).collect()
}

/// Where the generator's counts and nf-core's differ.
fn contradictions(before: &Report, after: &Report, sent: u64, sink: &Sink) -> Vec<String> {
    let received = after.rx.packets.wrapping_sub(before.rx.packets);
    let forwarded = after.tx.packets.wrapping_sub(before.tx.packets);
    let octets = after.tx.octets.wrapping_sub(before.tx.octets);
    let accounted = accounted(after).wrapping_sub(accounted(before));
    [
        ("frames sent, frames that nf-core has received", sent, received),
        ("frames that nf-core has received, frames that it accounts for", received, accounted),
        ("packets that nf-core has sent, packets received", forwarded, sink.packets),
        ("octets that nf-core has sent, octets received", octets, sink.octets),
    ]
    .into_iter()
    .filter(|(_, a, b)| a != b)
    .map(|(what, a, b)| format!("{what}: {a} and {b}"))
    .collect()
}
