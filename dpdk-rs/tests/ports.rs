//! Packets through ports: what goes in comes out, and what is wrong is said clearly.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use common::{attach, bytes, drain, eal, packet, pool, read_pcap, start, unique, write_pcap};
use dpdk_rs::{Burst, Error, NotWritable, Port, PortConfig, RxOffloads, TxOffloads, ports};

/// Frames of rising length with distinct contents.
fn frames(count: usize, len: impl Fn(usize) -> usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| (0..len(i)).map(|j| (i * 31 + j * 7) as u8).collect()).collect()
}

#[test]
fn pcap_to_pcap_is_byte_identical_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let sent = frames(300, |i| 60 + i * 4);
    write_pcap(&from, &sent);
    let pool = pool(2176);
    let port = attach("net_pcap", &format!("rx_pcap={},tx_pcap={}", from.display(), to.display()));
    let (port, mut rx, mut tx) = start(&port, &pool);

    let mut burst = Burst::<32>::new();
    let mut total = 0;
    while rx.recv(&mut burst) > 0 {
        for packet in &mut burst {
            assert_eq!(packet.port(), Some(port.id()));
            let (buffer, data) = packet.buffer_mut().unwrap();
            assert_eq!(buffer.len(), 2176);
            assert_eq!(buffer[data].to_vec(), sent[total]);
            total += 1;
        }
        assert_eq!(tx.send(&mut burst), burst.capacity().min(total - (total - 1) / 32 * 32));
        assert!(burst.is_empty());
    }
    assert_eq!(total, 300);
    let stats = port.stats().unwrap();
    assert_eq!((stats.ipackets, stats.opackets), (300, 300));
    assert!(port.link().unwrap().up);
    port.stop(vec![rx], vec![tx]).unwrap();
    assert_eq!(read_pcap(&to), sent);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn jumbo_frames_are_chains_and_can_be_linearised() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("in.pcap");
    let sent = frames(3, |i| 4000 + i * 2000);
    write_pcap(&from, &sent);
    let (small, large) = (pool(1152), pool(9216 + 128));
    let port = attach("net_pcap", &format!("rx_pcap={}", from.display()));
    let (port, mut rx, tx) = start(&port, &small);

    let packets = drain(&mut rx);
    assert_eq!(packets.len(), 3);
    for (mut packet, sent) in packets.into_iter().zip(&sent) {
        assert!(!packet.is_contiguous());
        assert!(packet.is_exclusive());
        assert_eq!(packet.pkt_len(), sent.len());
        assert_eq!(usize::from(packet.nb_segs()), packet.segments().count());
        assert_eq!(&bytes(&packet), sent);
        assert_eq!(packet.buffer_mut().err(), Some(NotWritable::Chained));
        assert_eq!(packet.set_data(128, 10), Err(NotWritable::Chained));

        let packet = packet.linearise_into(&small).unwrap_err();
        assert_eq!(&bytes(&packet), sent);
        let before = large.in_use();
        let packet = packet.linearise_into(&large).unwrap();
        assert_eq!(large.in_use(), before + 1);
        assert!(packet.is_contiguous());
        assert_eq!(packet.data(), sent);
        assert_eq!(packet.port(), Some(port.id()));
    }
    port.stop(vec![rx], vec![tx]).unwrap();
    assert_eq!((small.in_use(), large.in_use()), (0, 0));
}

#[test]
fn chains_are_trimmed_over_segments() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("in.pcap");
    let sent = frames(1, |_| 5000);
    write_pcap(&from, &sent);
    let pool = pool(1152);
    let port = attach("net_pcap", &format!("rx_pcap={}", from.display()));
    let (_port, mut rx, _tx) = start(&port, &pool);
    let mut packet = drain(&mut rx).pop().unwrap();
    let segments = packet.nb_segs();

    packet.trim(3000).unwrap();
    assert_eq!(bytes(&packet), sent[0][..2000]);
    assert!(packet.nb_segs() < segments);
    assert_eq!(pool.in_use(), usize::from(packet.nb_segs()));
    packet.adj(14).unwrap();
    assert_eq!(bytes(&packet), sent[0][14..2000]);
    assert_eq!(packet.pkt_len(), 1986);
    assert_eq!(packet.truncate(1987), Err(NotWritable::OutOfBounds));
    packet.truncate(0).unwrap();
    assert_eq!((packet.pkt_len(), packet.nb_segs()), (0, 1));
}

#[test]
fn null_port_moves_packets_both_ways() {
    let pool = pool(2176);
    let port = attach("net_null", "size=64");
    let (port, mut rx, mut tx) = start(&port, &pool);
    let mut burst = Burst::<8>::new();
    assert_eq!(rx.recv(&mut burst), 8);
    assert!(burst.is_full());
    assert!(burst.iter().all(|packet| packet.data().len() == 64));
    assert_eq!(tx.send(&mut burst), 8);
    assert!(burst.is_empty());
    assert!(port.active_rss().is_empty());
    drop((port, rx, tx));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn ring_port_loops_back_and_keeps_the_buffer() {
    let pool = pool(2176);
    let port = attach("net_ring", "");
    let (port, mut rx, mut tx) = start(&port, &pool);
    let mut burst = Burst::<4>::new();
    burst.push(packet(&pool, b"one")).unwrap();
    burst.push(packet(&pool, b"two")).unwrap();
    assert_eq!(tx.send(&mut burst), 2);
    let packets = drain(&mut rx);
    assert_eq!(packets.iter().map(|p| p.data().to_vec()).collect::<Vec<_>>(), [b"one", b"two"]);
    drop(packets);
    port.stop(vec![rx], vec![tx]).unwrap();
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_port_has_one_owner_at_a_time() {
    let pool = pool(2176);
    let port = attach("net_null", "");
    let owner = port.configure(&PortConfig::default(), &pool).unwrap();
    let error = port.configure(&PortConfig::default(), &pool).unwrap_err();
    assert!(matches!(&error, Error::PortBusy { port: name } if name == port.name()), "{error}");
    assert!(error.to_string().contains(port.name()));
    assert!(matches!(eal().detach_vdev(port.name()), Err(Error::PortBusy { .. })));

    let (started, mut rx, tx) = owner.start().unwrap();
    assert!(matches!(port.configure(&PortConfig::default(), &pool), Err(Error::PortBusy { .. })));
    // A queue held back keeps the port running and owned.
    let held = rx.pop().unwrap();
    let error = started.stop(rx, tx).unwrap_err();
    assert!(matches!(error, Error::QueuesHeld { missing: 1, .. }), "{error}");
    assert!(matches!(port.configure(&PortConfig::default(), &pool), Err(Error::PortBusy { .. })));
    drop(held);

    drop(port.configure(&PortConfig::default(), &pool).unwrap().start().unwrap());
    eal().detach_vdev(port.name()).unwrap();
    assert!(matches!(Port::by_name(eal(), port.name()), Err(Error::UnknownPort { .. })));
    assert!(port.info().is_err());
}

#[test]
fn an_unknown_port_lists_those_that_exist() {
    let known = attach("net_null", "");
    assert!(ports(eal()).iter().any(|port| port.name() == known.name()));
    let error = Port::by_name(eal(), "net_nowhere").unwrap_err().to_string();
    assert!(error.contains("\"net_nowhere\""), "{error}");
    assert!(error.contains(known.name()), "{error}");
    assert!(error.contains("--vdev=net_nowhere"), "{error}");
}

#[test]
fn what_a_driver_lacks_is_named_before_it_is_configured() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("in.pcap");
    write_pcap(&from, &[]);
    let pool = pool(2176);
    let port = attach("net_pcap", &format!("rx_pcap={}", from.display()));
    let info = port.info().unwrap();
    assert_eq!((info.driver.as_str(), info.max_rx_queues), ("net_pcap", 1));

    let config = PortConfig { rx_offloads: RxOffloads::IPV4_CHECKSUM, ..PortConfig::default() };
    let error = port.configure(&config, &pool).unwrap_err().to_string();
    assert!(error.contains(port.name()) && error.contains("net_pcap") && error.contains("IPV4_CKSUM"), "{error}");

    let config = PortConfig { tx_offloads: TxOffloads::UDP_CHECKSUM, ..PortConfig::default() };
    let error = port.configure(&config, &pool).unwrap_err().to_string();
    assert!(error.contains("UDP_CKSUM"), "{error}");

    let config = PortConfig { rx_queues: 2, ..PortConfig::default() };
    let error = port.configure(&config, &pool).unwrap_err();
    assert!(matches!(error, Error::OutOfRange { what: "receive queues", asked: 2, max: 1, .. }), "{error}");

    let config = PortConfig { mtu: Some(65535), ..PortConfig::default() };
    assert_eq!(port.configure(&config, &pool).is_ok(), info.max_mtu == 65535);

    // RSS is a wish, promiscuous mode is what such a port does anyway.
    let config = PortConfig { rss: true, promiscuous: true, ..PortConfig::default() };
    let (started, ..) = port.configure(&config, &pool).unwrap().start().unwrap();
    assert!(started.active_rss().is_empty());
}

#[test]
fn several_pcap_queues_have_one_owner_each() {
    let dir = tempfile::tempdir().unwrap();
    let sent = frames(20, |_| 100);
    let mut args = Vec::new();
    for (i, half) in sent.chunks(10).enumerate() {
        let path = dir.path().join(format!("{i}.pcap"));
        write_pcap(&path, half);
        args.push(format!("rx_pcap={}", path.display()));
    }
    let pool = pool(2176);
    let port = attach("net_pcap", &args.join(","));
    let config = PortConfig { rx_queues: 2, tx_queues: 1, rss: true, ..PortConfig::default() };
    let info = port.info().unwrap();
    assert_eq!(info.max_rx_queues, 2);
    let config = PortConfig { tx_queues: info.max_tx_queues.min(config.tx_queues), ..config };
    let (_port, rx, _tx) = port.configure(&config, &pool).unwrap().start().unwrap();
    let received: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = rx
            .into_iter()
            .map(|mut queue| scope.spawn(move || drain(&mut queue).iter().map(bytes).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(received, sent);
}

#[test]
fn a_missing_capture_is_an_error() {
    let name = unique("net_pcap");
    let error = eal().attach_vdev(&name, "rx_pcap=/does/not/exist.pcap").unwrap_err();
    assert!(error.to_string().contains(&name), "{error}");
    assert!(Port::by_name(eal(), &name).is_err());
    assert!(matches!(eal().detach_vdev("net_null_none"), Err(Error::Hotplug { operation: "detached", .. })));
}

#[test]
fn a_frame_longer_than_16_bits_has_a_true_length() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("in.pcap");
    write_pcap(&from, &frames(1, |_| 70_000));
    let pool = pool(2176);
    let port = attach("net_pcap", &format!("rx_pcap={}", from.display()));
    let (_port, mut rx, _tx) = start(&port, &pool);
    let packets = drain(&mut rx);
    assert_eq!(packets.len(), 1);
    for packet in packets {
        assert_eq!(packet.pkt_len(), packet.segments().map(<[u8]>::len).sum::<usize>());
    }
}

#[test]
fn chains_stay_in_the_burst_where_the_driver_does_not_take_them() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("in.pcap");
    write_pcap(&from, &frames(3, |i| if i == 1 { 3000 } else { 100 }));
    let pool = pool(1152);
    let source = attach("net_pcap", &format!("rx_pcap={}", from.display()));
    let (_source, mut rx, _) = start(&source, &pool);
    let (_sink, _, mut tx) = start(&attach("net_null", ""), &pool);
    let mut burst = Burst::<8>::new();
    assert_eq!(rx.recv(&mut burst), 3);
    let chains: Vec<bool> = burst.iter().map(|packet| !packet.is_contiguous()).collect();
    assert_eq!(chains, [false, true, false]);
    if tx.takes_chains() {
        assert_eq!(tx.send(&mut burst), 3);
    } else {
        assert_eq!(tx.send(&mut burst), 1);
        assert_eq!((burst.len(), tx.send(&mut burst)), (2, 0));
        drop(burst.swap_remove(0));
        assert_eq!(tx.send(&mut burst), 1);
    }
    assert!(burst.is_empty());
    assert_eq!(pool.in_use(), 0);
}
