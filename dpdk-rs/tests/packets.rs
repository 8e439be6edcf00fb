//! Packets, bursts, pools and rings: nothing is lost, nothing is freed twice.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::thread;

use common::{eal, packet, pool, unique};
use dpdk_rs::{Burst, ChecksumStatus, Error, HEADROOM, MbufRing, Mempool, NotWritable, SocketId, prefetch_read};

#[test]
fn a_pool_counts_what_is_out() {
    let pool = pool(2176);
    assert_eq!((pool.in_use(), pool.available()), (0, 511));
    let one = pool.alloc().unwrap();
    assert_eq!((pool.in_use(), pool.available()), (1, 510));
    drop(one);
    assert_eq!(pool.in_use(), 0);

    let mut all = Vec::new();
    while let Some(packet) = pool.alloc() {
        all.push(packet);
    }
    assert_eq!((all.len(), pool.available()), (511, 0));
    let mut burst = Burst::<4>::new();
    assert!(!pool.alloc_bulk(&mut burst, 1));
    drop(all);
    assert!(pool.alloc_bulk(&mut burst, 3));
    assert!(!pool.alloc_bulk(&mut burst, 2));
    assert!(pool.alloc_bulk(&mut burst, 1));
    assert_eq!((burst.len(), pool.in_use()), (4, 4));
    drop(burst);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn pools_that_cannot_be_made_are_errors() {
    let pool = pool(2176);
    let error = Mempool::create(eal(), pool.name(), 511, 0, 2176, SocketId::ANY).unwrap_err();
    assert!(error.to_string().contains("taken"), "{error}");
    for (count, cache, data_room) in
        [(511, 0, HEADROOM), (511, 513, 2176), (0, 0, 2176), (u32::MAX / 4, 0, 60000), (u32::MAX, 0, 129)]
    {
        let error = Mempool::create(eal(), &unique("bad"), count, cache, data_room, SocketId::ANY).unwrap_err();
        assert!(matches!(error, Error::PoolFailed { .. }), "{error}");
    }
    let error = Mempool::create(eal(), "a\0b", 511, 0, 2176, SocketId::ANY).unwrap_err();
    assert!(matches!(error, Error::Nul { what: "pool name", .. }), "{error}");
}

#[test]
fn the_buffer_of_a_packet_is_lent_whole_and_zeroed() {
    let pool = pool(1024);
    let mut all = Vec::new();
    while let Some(mut packet) = pool.alloc() {
        let (buffer, data) = packet.buffer_mut().unwrap();
        assert_eq!((buffer.len(), data), (1024, 128..128));
        assert!(buffer.iter().all(|byte| *byte == 0));
        all.push(packet);
    }
    assert_eq!(all.len(), 511);
}

#[test]
fn data_moves_within_its_buffer_and_not_beyond() {
    let pool = pool(1024);
    let mut packet = packet(&pool, b"0123456789");
    assert_eq!((packet.pkt_len(), packet.headroom(), packet.tailroom()), (10, 128, 1024 - 138));
    packet.adj(2).unwrap();
    packet.trim(3).unwrap();
    assert_eq!(packet.data(), b"23456");
    packet.prepend(2).unwrap().copy_from_slice(b"ab");
    packet.append(1).unwrap().copy_from_slice(b"z");
    assert_eq!(packet.data(), b"ab23456z");
    packet.data_mut().unwrap()[0] = b'A';

    let (buffer, data) = packet.buffer_mut().unwrap();
    let start = data.start - 100;
    buffer[start..start + 4].copy_from_slice(b"moved".get(..4).unwrap());
    packet.set_data(start, 4).unwrap();
    assert_eq!((packet.data(), packet.pkt_len()), (&b"move"[..], 4));

    packet.set_data(0, 1024).unwrap();
    assert_eq!((packet.headroom(), packet.tailroom()), (0, 0));
    assert_eq!(packet.append(1).err(), Some(NotWritable::OutOfBounds));
    assert_eq!(packet.prepend(1).err(), Some(NotWritable::OutOfBounds));
    packet.set_data(1024, 0).unwrap();
    assert_eq!(packet.adj(1), Err(NotWritable::OutOfBounds));
    assert_eq!(packet.trim(1), Err(NotWritable::OutOfBounds));
    for (off, len) in [(0, 1025), (1024, 1), (1025, 0), (65536, 0), (0, 65536), (usize::MAX, 1), (1, usize::MAX)] {
        assert_eq!(packet.set_data(off, len), Err(NotWritable::OutOfBounds), "{off} {len}");
    }
    assert_eq!(packet.append(usize::MAX).err(), Some(NotWritable::OutOfBounds));
    assert_eq!(packet.data_range(), 1024..1024);
    prefetch_read(&packet);
    packet.prefetch();
}

#[test]
fn a_fresh_packet_has_no_metadata() {
    let packet = packet(&pool(1024), b"x");
    assert_eq!((packet.port(), packet.rss_hash(), packet.stripped_vlan()), (None, None, None));
    assert_eq!((packet.ip_checksum(), packet.l4_checksum()), (ChecksumStatus::Unknown, ChecksumStatus::Unknown));
    assert!(packet.is_exclusive() && packet.is_contiguous());
}

#[test]
fn a_burst_keeps_order_and_frees_what_is_left() {
    let pool = pool(1024);
    let mut burst = Burst::<8>::new();
    for i in 0..8 {
        burst.push(packet(&pool, &[i])).unwrap();
    }
    let refused = burst.push(packet(&pool, &[8])).unwrap_err();
    assert_eq!((refused.data(), burst.is_full()), (&[8][..], true));
    drop(refused);

    let first = |burst: &Burst<8>| burst.iter().map(|packet| packet.data()[0]).collect::<Vec<_>>();
    assert_eq!(burst.swap_remove(1).unwrap().data(), [1]);
    assert_eq!(first(&burst), [0, 7, 2, 3, 4, 5, 6]);
    assert!(burst.swap_remove(7).is_none());
    assert_eq!(burst.pop().unwrap().data(), [6]);
    assert_eq!(burst.swap_remove(5).unwrap().data(), [5]);
    assert_eq!(pool.in_use(), 5);

    // All buffers at once.
    let mut buffers: Vec<_> = burst.iter_mut().map(|packet| packet.buffer_mut().unwrap()).collect();
    for (buffer, data) in &mut buffers {
        buffer[data.start] += 10;
    }
    assert_eq!(first(&burst), [10, 17, 12, 13, 14]);

    let mut drain = burst.drain();
    assert_eq!(drain.len(), 5);
    assert_eq!(drain.next().unwrap().data(), [10]);
    drop(drain);
    assert_eq!((burst.len(), pool.in_use()), (0, 0));
    assert!(burst.pop().is_none());

    burst.push(packet(&pool, &[1])).unwrap();
    burst.clear();
    assert_eq!(pool.in_use(), 0);
    burst.push(packet(&pool, &[2])).unwrap();
    std::mem::forget(burst.drain());
    assert!(burst.is_empty());
    assert_eq!(pool.in_use(), 1);
}

#[test]
fn a_ring_hands_packets_over_in_order() {
    const COUNT: u32 = 20_000;
    let pool = pool(256);
    let (mut producer, mut consumer) = MbufRing::create(eal(), &unique("ring"), 100, SocketId::ANY).unwrap();
    assert_eq!(producer.capacity(), 100);
    let from = pool.clone();
    let sender = thread::spawn(move || {
        let mut burst = Burst::<32>::new();
        let mut next = 0;
        while next < COUNT || !burst.is_empty() {
            while next < COUNT && !burst.is_full() {
                let Some(mut packet) = from.alloc() else { break };
                packet.append(4).unwrap().copy_from_slice(&next.to_be_bytes());
                if burst.push(packet).is_ok() {
                    next += 1;
                }
            }
            if producer.enqueue(&mut burst) == 0 {
                thread::yield_now();
            }
        }
    });
    let mut burst = Burst::<16>::new();
    let mut expected = 0_u32;
    while expected < COUNT {
        if consumer.dequeue(&mut burst) == 0 {
            thread::yield_now();
        }
        for packet in burst.drain() {
            assert_eq!(packet.data(), expected.to_be_bytes());
            expected += 1;
        }
    }
    sender.join().unwrap();
    assert!(consumer.is_abandoned() && consumer.is_empty());
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_full_ring_leaves_the_rest_and_a_dropped_one_frees_all() {
    let pool = pool(256);
    let name = unique("ring");
    let (mut producer, mut consumer) = MbufRing::create(eal(), &name, 5, SocketId::ANY).unwrap();
    let error = MbufRing::create(eal(), &name, 5, SocketId::ANY).unwrap_err();
    assert!(matches!(error, Error::RingFailed { .. }), "{error}");
    let mut burst = Burst::<8>::new();
    for i in 0..8 {
        burst.push(packet(&pool, &[i])).unwrap();
    }
    assert_eq!(producer.enqueue(&mut burst), 5);
    assert_eq!(burst.iter().map(|packet| packet.data()[0]).collect::<Vec<_>>(), [5, 6, 7]);
    assert_eq!(producer.enqueue(&mut burst), 0);
    let mut out = Burst::<2>::new();
    assert_eq!((consumer.dequeue(&mut out), consumer.len()), (2, 3));
    assert_eq!(out.iter().map(|packet| packet.data()[0]).collect::<Vec<_>>(), [0, 1]);
    drop((burst, out));
    assert_eq!(pool.in_use(), 3);
    drop(consumer);
    assert_eq!((pool.in_use(), producer.is_abandoned()), (3, true));
    drop(producer);
    assert_eq!(pool.in_use(), 0);
    // The name is free again.
    drop(MbufRing::create(eal(), &name, 5, SocketId::ANY).unwrap());
    assert!(MbufRing::create(eal(), &name, 0, SocketId::ANY).is_err());
    assert!(MbufRing::create(eal(), &name, u32::MAX, SocketId::ANY).is_err());
}
