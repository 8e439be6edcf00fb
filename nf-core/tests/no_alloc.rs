//! A core may not allocate: bursts of every kind go through one while the allocator counts.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Range;

use arrayvec::ArrayVec;
use common::device::work;
use common::{Fixture, Nf, Peer, fixtures};
use nf_core::batch::{Batch, Fate};
use nf_core::holding::Held;
use nf_core::lanes::BURST;
use nf_core::lookaside::Returned;
use nf_core::packet::Packet;
use nf_core::sa::spec::SaSpec;
use nf_core::types::{Nanos, PortIndex, Spi};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it is; counting touches no memory of the heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps to the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and frees of this thread while `work` runs.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn the_allocator_counts() {
    assert!(allocations(|| drop(vec![1])) >= 2);
}

/// A batch of frames, each behind room for 128 octets.
fn received(buffers: &mut [Vec<u8>]) -> Batch<'_> {
    let mut batch = Batch::default();
    for buffer in buffers {
        let frame = 128..buffer.len();
        batch.push(Packet::new(buffer, frame, PortIndex(0)).unwrap()).unwrap();
    }
    batch
}

#[test]
fn no_burst_makes_a_core_allocate() {
    for name in fixtures() {
        let fixture = Fixture::load(&name);
        let mut nf = Nf::new(&fixture.config, 1);
        let core = &mut nf.cores[0];
        for round in 0..3 {
            for frames in fixture.frames.chunks(BURST) {
                let mut buffers: Vec<Vec<u8>> = frames.iter().map(|frame| [&[0; 128][..], frame].concat()).collect();
                let count = allocations(|| {
                    let mut batch = received(&mut buffers);
                    core.poll_commands();
                    core.process(Nanos::from_secs(round), &mut batch);
                });
                assert_eq!(count, 0, "{name}, round {round}");
            }
        }
    }
}

/// Holding early packets takes memory that was set aside at the start, and so does letting them go and giving them up.
#[test]
fn holding_packets_does_not_make_a_core_allocate() {
    let mut nf = Nf::new("[sad]\nlarval_spi_packets = 300\nlarval_packets = 300\n", 1);
    let mut peer = Peer::new(0x1000);
    for _ in 0..3 {
        nf.control(|control| control.reserve([10, 10, 1, 2].into(), None, Some(Spi(peer.spi)), 30)).unwrap();
        let mut frames: Vec<Vec<u8>> = (0..BURST * 6).map(|_| [&[0; 128][..], &peer.next()].concat()).collect();
        let (core, holding) = (&mut nf.cores[0], &mut nf.holding[0]);
        let mut refused = Vec::with_capacity(frames.len());
        let mut reservation = None;
        for burst in frames.chunks_mut(BURST) {
            // What a worker keeps is its mbuf; here it is a vector, made beforehand.
            let mut spare: Vec<Vec<u8>> = burst.to_vec();
            let count = allocations(|| {
                let mut batch = received(burst);
                core.process(Nanos(1), &mut batch);
                for lane in batch.lanes() {
                    assert_eq!(batch.fate(lane), Fate::Hold);
                    reservation = batch.reservation(lane);
                    let buffer = std::mem::take(&mut spare[lane.index()]);
                    let held = Held { octets: buffer.len(), buffer, port: PortIndex(0), at: Nanos(1) };
                    if let Err(held) = holding.hold(reservation.unwrap(), held) {
                        refused.push(held);
                    }
                }
            });
            assert_eq!(count, 0, "to hold");
        }
        assert_eq!((holding.len(), refused.len()), (300, BURST * 6 - 300));
        let mut out = Vec::with_capacity(300);
        let count = allocations(|| {
            out.extend(std::iter::from_fn(|| holding.pop(reservation.unwrap())).take(200));
            holding.expire(Nanos::from_secs(60), |held| out.push(held));
        });
        assert_eq!((count, out.len()), (0, 300), "to let go and to give up");
        nf.control(|control| control.release(Spi(peer.spi), None, None)).unwrap();
    }
}

/// Packets go out to a device to be opened, out again to be sealed, and come back, and their SAs leave meanwhile.
#[test]
fn a_crypto_device_does_not_make_a_core_allocate() {
    let config = "[[port]]\nname = \"net-unprotected\"\nrole = \"unprotected\"\n\
                  [[route]]\ndst = \"0.0.0.0/0\"\nport = \"net-unprotected\"\n";
    let mut nf = Nf::gateway_by_device(config);
    for round in 0..4 {
        let mut peer = Peer::new(0x1000);
        let out = serde_json::json!({
            "spi": 0x2000, "direction": "out", "src": "10.10.1.2", "dst": "10.3.3.3", "mode": "tunnel",
            "alg": "aes-gcm-16", "key": "66".repeat(20),
        });
        let out = serde_json::from_value::<SaSpec>(out).unwrap().validate().unwrap();
        nf.control(|control| [peer.params(), out].map(|params| control.add_sa(params).unwrap()));
        let mut buffers: Vec<Vec<u8>> = (0..BURST).map(|_| [&[0; 128][..], &peer.next(), &[0; 128]].concat()).collect();
        let mut frames: Vec<Range<usize>> = buffers.iter().map(|buffer| 128..buffer.len() - 128).collect();
        let mut returned: ArrayVec<Returned, BURST> = ArrayVec::new();
        for pass in ["to open", "to seal", "to send"] {
            let (core, mut tickets, mut sent) = (&mut nf.cores[0], ArrayVec::new(), 0);
            let count = allocations(|| {
                let mut batch = Batch::default();
                for (buffer, frame) in buffers.iter_mut().zip(&frames) {
                    batch.push(Packet::new(buffer, frame.clone(), PortIndex(0)).unwrap()).unwrap();
                }
                core.counters().flights().give_back(returned.len() as u64);
                match pass {
                    "to open" => core.process(Nanos(1), &mut batch),
                    _ => core.complete(Nanos(2), &mut batch, &returned),
                }
                tickets = batch.take_tickets();
                core.counters().flights().submit(tickets.len() as u64);
                sent = batch.lanes().filter(|lane| matches!(batch.fate(*lane), Fate::Send(_))).count();
                batch.lanes().zip(&mut frames).for_each(|(lane, frame)| *frame = batch.packet(lane).range());
                returned.clear();
                core.poll_commands();
            });
            let expected = if pass == "to send" { (0, 0, BURST) } else { (0, BURST, 0) };
            assert_eq!((count, tickets.len(), sent), expected, "{pass}, round {round}");
            for (ticket, (buffer, frame)) in tickets.into_iter().zip(buffers.iter_mut().zip(&frames)) {
                let verdict = work(&mut buffer[frame.clone()], &ticket);
                returned.push(Returned { ticket, verdict });
            }
            let leaving = [("to open", 0x1000), ("to seal", 0x2000)].into_iter().find(|(when, _)| *when == pass);
            if let Some((_, spi)) = leaving {
                nf.control(|control| control.delete_sa(Spi(spi), None, None)).unwrap();
            }
        }
    }
}

/// Encapsulation: by SAs with and without a block cipher, in UDP over IPv6, and of packets that find no SA.
#[test]
fn encapsulation_does_not_make_a_core_allocate() {
    let policy = "[[policy]]\ndst = [\"192.168.3.0/24\"]\naction = \"protect\"\n";
    let sa = |spi: u32, net: u32, more: &str| {
        format!(
            "[[sa]]\nspi = {spi}\ndirection = \"out\"\nmode = \"tunnel\"\n\
             selectors = {{ dst = [\"192.168.{net}.0/24\"] }}\n{more}\n"
        )
    };
    let v4 = "src = \"10.10.1.2\"\ndst = \"10.1.1.1\"";
    let v6 = "src = \"2001:db8::2\"\ndst = \"2001:db8::1\"\nencap = \"udp\"";
    let gcm = format!("alg = \"aes-gcm-16\"\nkey = \"{}\"", "5a".repeat(20));
    let cbc = format!(
        "alg = \"aes-cbc\"\nkey = \"{}\"\nauth = \"hmac-sha256-128\"\nauth_key = \"{}\"",
        "5a".repeat(16),
        "a5".repeat(32)
    );
    let config = [policy.to_owned(), sa(256, 0, &format!("{v4}\n{gcm}")), sa(257, 1, &format!("{v6}\n{cbc}"))].concat();
    let mut nf = Nf::gateway(&config, 1);
    let core = &mut nf.cores[0];
    let frames: Vec<Vec<u8>> = (0..BURST as u8)
        .map(|n| {
            let packet = common::ipv4([172, 16, 0, 9], [192, 168, n % 4, n], 253, &[n; 50]);
            [&common::MACS[1].0[..], &[2; 6], &[8, 0], &packet].concat()
        })
        .collect();
    for round in 0..3 {
        let mut buffers: Vec<Vec<u8>> = frames.iter().map(|frame| [&[0; 128][..], frame, &[0; 128]].concat()).collect();
        let mut sent = 0;
        let count = allocations(|| {
            let mut batch = Batch::default();
            for buffer in &mut buffers {
                let frame = 128..buffer.len() - 128;
                batch.push(Packet::new(buffer, frame, PortIndex(1)).unwrap()).unwrap();
            }
            core.process(Nanos::from_secs(round), &mut batch);
            sent = batch.lanes().filter(|lane| matches!(batch.fate(*lane), Fate::Send(_))).count();
        });
        assert_eq!((count, sent), (0, BURST / 2), "round {round}");
    }
}
