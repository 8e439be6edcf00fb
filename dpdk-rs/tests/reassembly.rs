//! Fragments in any order, missing, repeated, overlapping and malicious.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap is a failed test")]

/// What the fuzz target holds true.
#[path = "../fuzz/src/check.rs"]
mod check;
mod common;

use std::time::Duration;

use common::{bytes, eal, packet, pool, write_pcap};
use dpdk_rs::{DeathReason, FragTable, Mbuf, Mempool, Outcome, Rejection, SocketId, Tsc};

const L2: usize = 14;
const TIMEOUT: Duration = Duration::from_secs(1);

fn table(flows: u32) -> FragTable {
    FragTable::new(eal(), flows, TIMEOUT, SocketId::ANY).unwrap()
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 13 + i / 256) as u8).collect()
}

/// An Ethernet frame with an IPv4 header, whose checksum is left out.
fn v4_raw(id: u16, total_len: u16, flags_offset: u16, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xee; 12];
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend(total_len.to_be_bytes());
    frame.extend(id.to_be_bytes());
    frame.extend(flags_offset.to_be_bytes());
    frame.extend([64, 50, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(data);
    frame
}

fn v4(id: u16, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    assert_eq!(offset % 8, 0);
    v4_raw(id, (20 + data.len()) as u16, (offset / 8) as u16 | u16::from(more) << 13, data)
}

fn v6_raw(id: u32, payload_len: u16, next: u8, offset_more: u16, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xee; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(payload_len.to_be_bytes());
    frame.extend([next, 64]);
    frame.extend([0x20; 16]);
    frame.extend([0x30; 16]);
    frame.extend([50, 0]);
    frame.extend(offset_more.to_be_bytes());
    frame.extend(id.to_be_bytes());
    frame.extend(data);
    frame
}

fn v6(id: u32, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    v6_raw(id, (8 + data.len()) as u16, 44, offset as u16 | u16::from(more), data)
}

fn complete(outcome: Outcome) -> Mbuf {
    match outcome {
        Outcome::Complete(packet) => packet,
        other => panic!("not complete: {other:?}"),
    }
}

fn assert_held(outcome: Outcome) {
    assert!(matches!(outcome, Outcome::Held), "{outcome:?}");
}

#[track_caller]
fn assert_rejected(outcome: Outcome, why: Rejection) {
    assert!(matches!(&outcome, Outcome::Rejected(_, reason) if *reason == why), "{outcome:?} is not {why:?}");
}

fn dead(table: &mut FragTable) -> Vec<DeathReason> {
    table.drain_dead().map(|(reason, _)| reason).collect()
}

/// RFC 1071 over the IPv4 header: 0xffff if it is right.
fn ones_sum(header: &[u8]) -> u32 {
    let mut sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[test]
fn v4_completes_in_every_order() {
    let pool = pool(2176);
    let data = payload(3000);
    let pieces = [(0, 1000), (1000, 1800), (1800, 2600), (2600, 3000)];
    let orders: [[usize; 4]; 6] = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1], [3, 0, 1, 2], [0, 3, 2, 1]];
    let mut table = table(16);
    for (id, order) in (0_u16..).zip(orders) {
        let mut whole = None;
        for (n, piece) in order.into_iter().enumerate() {
            let (from, to) = pieces[piece];
            let mut frame = v4(id, from, to < 3000, &data[from..to]);
            // Ethernet pads short frames; that must not end up in the datagram.
            frame.extend([0xaa; 6]);
            let outcome = table.insert_v4(packet(&pool, &frame), Tsc(1), L2);
            if n < 3 { assert_held(outcome) } else { whole = Some(complete(outcome)) }
        }
        let whole = whole.unwrap();
        assert_eq!(whole.nb_segs(), 4);
        let frame = bytes(&whole);
        assert_eq!(whole.pkt_len(), frame.len());
        assert_eq!(frame[..L2], v4(id, 0, true, &[])[..L2]);
        assert_eq!(frame[L2 + 2..L2 + 4], 3020_u16.to_be_bytes());
        assert_eq!(frame[L2 + 6..L2 + 8], [0, 0]);
        assert_eq!(ones_sum(&frame[L2..L2 + 20]), 0xffff);
        assert_eq!(frame[L2 + 20..], data);
    }
    assert!(dead(&mut table).is_empty());
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn v6_completes_and_loses_its_fragment_header() {
    let pool = pool(2176);
    let data = payload(2400);
    let mut table = table(16);
    for (id, order) in [[0, 1, 2], [2, 1, 0], [1, 0, 2]].into_iter().enumerate() {
        let mut outcomes = order.into_iter().map(|piece| {
            let (from, to) = (piece * 800, piece * 800 + 800);
            let frame = v6(id as u32, from, to < 2400, &data[from..to]);
            table.insert_v6(packet(&pool, &frame), Tsc(1), L2)
        });
        assert_held(outcomes.next().unwrap());
        assert_held(outcomes.next().unwrap());
        let frame = bytes(&complete(outcomes.next().unwrap()));
        assert_eq!(frame[..12], [0xee; 12]);
        assert_eq!(frame[12..18], [0x86, 0xdd, 0x60, 0, 0, 0]);
        assert_eq!(frame[L2 + 4..L2 + 6], 2400_u16.to_be_bytes());
        assert_eq!(frame[L2 + 6], 50);
        assert_eq!(frame[L2 + 40..], data);
    }
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn datagrams_are_kept_apart() {
    let pool = pool(2176);
    let mut table = table(16);
    let (a, b) = (payload(16), vec![7; 16]);
    assert_held(table.insert_v4(packet(&pool, &v4(1, 0, true, &a[..8])), Tsc(1), L2));
    assert_held(table.insert_v4(packet(&pool, &v4(2, 0, true, &b[..8])), Tsc(1), L2));
    assert_held(table.insert_v6(packet(&pool, &v6(1, 0, true, &b[..8])), Tsc(1), L2));
    let whole = complete(table.insert_v4(packet(&pool, &v4(2, 8, false, &b[8..])), Tsc(1), L2));
    assert_eq!(bytes(&whole)[L2 + 20..], b);
    drop(whole);
    let whole = complete(table.insert_v4(packet(&pool, &v4(1, 8, false, &a[8..])), Tsc(1), L2));
    assert_eq!(bytes(&whole)[L2 + 20..], a);
    drop(whole);
    assert_eq!(pool.in_use(), 1);
    drop(table);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_repeated_end_kills_its_datagram() {
    let pool = pool(2176);
    for (offset, more) in [(0, true), (64, false)] {
        let mut table = table(16);
        let frame = v4(9, offset, more, &payload(64));
        assert_held(table.insert_v4(packet(&pool, &frame), Tsc(1), L2));
        assert!(matches!(table.insert_v4(packet(&pool, &frame), Tsc(1), L2), Outcome::Dead));
        assert_eq!(dead(&mut table), [DeathReason::Inconsistent; 2]);
        assert_eq!(pool.in_use(), 0);
    }
}

#[test]
fn an_overlap_kills_its_datagram() {
    let pool = pool(2176);
    let mut table = table(16);
    // Teardrop: the second fragment starts within the first.
    assert_held(table.insert_v4(packet(&pool, &v4(1, 0, true, &payload(64))), Tsc(1), L2));
    assert!(matches!(table.insert_v4(packet(&pool, &v4(1, 32, false, &payload(24))), Tsc(1), L2), Outcome::Dead));
    assert_eq!(dead(&mut table), [DeathReason::Inconsistent; 2]);
    // The same sum of lengths as a whole datagram, but with a hole and a repetition.
    assert_held(table.insert_v6(packet(&pool, &v6(2, 0, true, &payload(8))), Tsc(1), L2));
    assert_held(table.insert_v6(packet(&pool, &v6(2, 8, true, &payload(8))), Tsc(1), L2));
    assert_held(table.insert_v6(packet(&pool, &v6(2, 8, true, &payload(8))), Tsc(1), L2));
    assert!(matches!(table.insert_v6(packet(&pool, &v6(2, 24, false, &payload(8))), Tsc(1), L2), Outcome::Dead));
    assert_eq!(dead(&mut table), [DeathReason::Inconsistent; 4]);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn too_many_pieces_kill_their_datagram() {
    let pool = pool(2176);
    let mut table = table(16);
    let mut held = 0;
    let last = loop {
        match table.insert_v4(packet(&pool, &v4(1, 8 + held * 8, true, &payload(8))), Tsc(1), L2) {
            Outcome::Held if held < 100 => held += 1,
            other => break other,
        }
    };
    assert!(matches!(last, Outcome::Dead), "{last:?}");
    assert_eq!(dead(&mut table), vec![DeathReason::Inconsistent; held + 1]);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn what_does_not_complete_in_time_is_handed_back() {
    let pool = pool(2176);
    let mut table = table(64);
    let cycles = eal().tsc_hz().cycles(TIMEOUT);
    for id in 0..40 {
        assert_held(table.insert_v4(packet(&pool, &v4(id, 0, true, &payload(64))), Tsc(1), L2));
        assert_held(table.insert_v4(packet(&pool, &v4(id, 64, true, &payload(64))), Tsc(1), L2));
    }
    table.expire(Tsc(cycles));
    assert!(dead(&mut table).is_empty());
    assert_eq!(pool.in_use(), 80);
    table.expire(Tsc(cycles + 2));
    assert_eq!(dead(&mut table), [DeathReason::Expired; 80]);
    assert_eq!(pool.in_use(), 0);

    // A late fragment starts anew; the insert expires the old ones by itself.
    assert_held(table.insert_v4(packet(&pool, &v4(1, 0, true, &payload(64))), Tsc(cycles * 2), L2));
    let late = v4(1, 64, false, &payload(64));
    assert_held(table.insert_v4(packet(&pool, &late), Tsc(cycles * 4), L2));
    assert_eq!(dead(&mut table), [DeathReason::Expired]);
    drop(table);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_full_table_hands_the_newcomer_back() {
    let pool = pool(2176);
    let mut table = table(4);
    for id in 0..4 {
        assert_held(table.insert_v4(packet(&pool, &v4(id, 0, true, &payload(64))), Tsc(1), L2));
    }
    assert!(matches!(table.insert_v4(packet(&pool, &v4(4, 0, true, &payload(64))), Tsc(1), L2), Outcome::Dead));
    assert_eq!(dead(&mut table), [DeathReason::TableFull]);
    let whole = complete(table.insert_v4(packet(&pool, &v4(2, 64, false, &payload(64))), Tsc(1), L2));
    drop(whole);
    assert_held(table.insert_v4(packet(&pool, &v4(4, 0, true, &payload(64))), Tsc(1), L2));
    assert!(FragTable::new(eal(), 0, TIMEOUT, SocketId::ANY).is_err());
    assert!(FragTable::new(eal(), u32::MAX, TIMEOUT, SocketId::ANY).is_err());
}

#[test]
fn lying_v4_headers_are_rejected() {
    let pool = pool(2176);
    let mut table = table(16);
    let mut v4 = |frame: &[u8], l2: usize, why| {
        let outcome = table.insert_v4(packet(&pool, frame), Tsc(1), l2);
        assert_rejected(outcome, why);
    };
    let data = payload(64);
    let good = v4_raw(1, 84, 0x2000, &data);
    for len in 0..L2 + 20 {
        v4(&good[..len], L2, Rejection::Truncated);
    }
    v4(&good[..L2 + 83], L2, Rejection::Truncated);
    v4(&good, good.len() + 1, Rejection::Truncated);
    v4(&good, 128, Rejection::Malformed);
    v4(&good, usize::MAX, Rejection::Malformed);
    v4(&v4_raw(1, 84, 0, &data), L2, Rejection::NotAFragment);
    v4(&v4_raw(1, 84, 0x4000, &data), L2, Rejection::NotAFragment);
    v4(&v4_raw(1, 20, 0x2000, &data), L2, Rejection::BadLength);
    v4(&v4_raw(1, 19, 0x2000, &data), L2, Rejection::Malformed);
    v4(&v4_raw(1, 83, 0x2000, &data), L2, Rejection::BadLength);
    v4(&v4_raw(1, 0, 0x2001, &data), L2, Rejection::Malformed);
    // Ping of death: ends beyond what the length field can say.
    v4(&v4_raw(1, 84, 0x1fff, &data), L2, Rejection::TooLong);
    let mut version = good.clone();
    version[L2] = 0x65;
    v4(&version, L2, Rejection::Malformed);
    version[L2] = 0x44;
    v4(&version, L2, Rejection::Malformed);
    version[L2] = 0x4f;
    v4(&version[..L2 + 59], L2, Rejection::Truncated);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn lying_v6_headers_are_rejected() {
    let pool = pool(2176);
    let mut table = table(16);
    let mut v6 = |frame: &[u8], l2: usize, why| {
        let outcome = table.insert_v6(packet(&pool, frame), Tsc(1), l2);
        assert_rejected(outcome, why);
    };
    let data = payload(64);
    let good = v6_raw(1, 72, 44, 1, &data);
    for len in 0..L2 + 48 {
        v6(&good[..len], L2, Rejection::Truncated);
    }
    v6(&good[..L2 + 48 + 63], L2, Rejection::Truncated);
    v6(&good, 128, Rejection::Malformed);
    v6(&v6_raw(1, 72, 0, 1, &data), L2, Rejection::ExtensionHeaders);
    v6(&v6_raw(1, 72, 44, 0, &data), L2, Rejection::NotAFragment);
    v6(&v6_raw(1, 8, 44, 1, &data), L2, Rejection::BadLength);
    v6(&v6_raw(1, 7, 44, 1, &data), L2, Rejection::Malformed);
    v6(&v6_raw(1, 0, 44, 1, &data), L2, Rejection::Malformed);
    v6(&v6_raw(1, 71, 44, 1, &data), L2, Rejection::BadLength);
    v6(&v6_raw(1, 72, 44, 0xfff8, &data), L2, Rejection::TooLong);
    let mut version = good;
    version[L2] = 0x40;
    v6(&version, L2, Rejection::Malformed);
    assert_eq!(pool.in_use(), 0);
}

/// The largest datagram that is let through has a length field that did not wrap.
#[test]
fn the_longest_datagram_completes() {
    let pool = pool(16384);
    let mut table = table(16);
    let data = payload(65_535 - 60);
    let mut at = 0;
    let mut whole = None;
    while at < data.len() {
        let end = (at + 16_000).min(data.len());
        match table.insert_v4(packet(&pool, &v4(1, at, end < data.len(), &data[at..end])), Tsc(1), L2) {
            Outcome::Held => {}
            other => whole = Some(complete(other)),
        }
        at = end;
    }
    let frame = bytes(&whole.unwrap());
    assert_eq!(frame[L2 + 2..L2 + 4], (data.len() as u16 + 20).to_be_bytes());
    assert_eq!(frame[L2 + 20..], data);
}

/// Random fragments of few datagrams, valid or not, and what earlier runs of the fuzz target have found.
#[test]
fn what_the_fuzz_target_holds_true() {
    let pool =
        Mempool::create(eal(), &common::unique("pool"), check::MOST_FRAGMENTS, 0, check::DATA_ROOM, SocketId::ANY);
    let pool = pool.unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    let (mut complete, mut dead, mut rejected) = (0, 0, 0);
    for _ in 0..400 {
        // Offsets of which many meet, and little time between.
        let fragment = |_| [random(), random(), random() % 4, random() / 32, random(), random() / 128];
        let seen = check::reassembly(eal(), &pool, (0..100).map(fragment).collect::<Vec<_>>().as_flattened());
        complete += seen.complete;
        dead += seen.dead;
        rejected += seen.rejected;
    }
    assert!(complete > 100 && dead > 1000 && rejected > 1000, "{complete} {dead} {rejected}");
    let fuzz = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for directory in ["seeds", "found"] {
        let files: Vec<_> = std::fs::read_dir(fuzz.join(directory).join("reassembly")).unwrap().collect();
        assert!(!files.is_empty(), "{directory} has none");
        for file in files {
            check::reassembly(eal(), &pool, &std::fs::read(file.unwrap().path()).unwrap());
        }
    }
}

/// Fragments that are chains themselves, as a driver delivers them with small buffers, are to be linearised first.
#[test]
fn fragments_are_of_one_segment() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("in.pcap");
    let data = payload(4000);
    let padded = [v4(1, 2000, false, &data[2000..]), vec![0; 300]].concat();
    write_pcap(&from, &[v4(1, 0, true, &data[..2000]), padded]);
    let pool = pool(128 + 256);
    let large = common::pool(9000);
    let port = common::attach("net_pcap", &format!("rx_pcap={}", from.display()));
    let (_port, mut rx, _tx) = common::start(&port, &pool);
    let mut table = table(16);
    let mut linear = |chain: Mbuf| match table.insert_v4(chain, Tsc(1), L2) {
        Outcome::Rejected(chain, Rejection::Chained) => {
            table.insert_v4(chain.linearise_into(&large).unwrap(), Tsc(1), L2)
        }
        other => panic!("{other:?}"),
    };
    let [first, last] = <[Mbuf; 2]>::try_from(common::drain(&mut rx)).unwrap();
    assert_held(linear(first));
    let whole = complete(linear(last)).linearise_into(&large).unwrap();
    assert_eq!(whole.data()[L2 + 20..], data);
    assert_eq!(pool.in_use(), 0);
}

/// What the library has chained already when it finds a hole comes back as it was, each fragment for itself.
#[test]
fn a_hole_gives_every_fragment_back() {
    let pool = pool(2176);
    let mut table = table(16);
    let data = payload(8);
    // As many octets as the datagram has, but one piece is there twice and another is missing.
    let v4 = [v4(1, 0, true, &data), v4(1, 16, true, &data), v4(1, 16, true, &data), v4(1, 24, false, &data)];
    let v6 = [v6(1, 0, true, &data), v6(1, 16, true, &data), v6(1, 16, true, &data), v6(1, 24, false, &data)];
    for (is_v6, frames) in [(false, v4), (true, v6)] {
        let mut insert = |frame: &[u8]| match is_v6 {
            true => table.insert_v6(packet(&pool, frame), Tsc(1), L2),
            false => table.insert_v4(packet(&pool, frame), Tsc(1), L2),
        };
        let (last, others) = frames.split_last().unwrap();
        others.iter().for_each(|frame| assert_held(insert(frame)));
        assert!(matches!(insert(last), Outcome::Dead));
        let mut dead: Vec<_> = table.drain_dead().map(|(_, packet)| (packet.nb_segs(), bytes(&packet))).collect();
        dead.sort();
        let mut expected: Vec<_> = frames.iter().map(|frame| (1, frame.clone())).collect();
        expected.sort();
        assert_eq!(dead, expected);
        assert_eq!(pool.in_use(), 0);
    }
}
