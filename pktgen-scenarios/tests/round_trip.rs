//! What this crate encapsulates, nf-core decapsulates: any algorithm, mode, outer header and payload, in memory.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::IpAddr;
use std::path::Path;

use nf_core::batch::{Batch, Fate};
use nf_core::config::{Config, PortRole};
use nf_core::control::controller::Controller;
use nf_core::net::NetPort;
use nf_core::notify::FanOut;
use nf_core::packet::Packet;
use nf_core::plugin::Registry;
use nf_core::types::{Nanos, PortIndex};
use nf_core::wire::ethernet::MacAddr;
use pktgen_scenarios::outer::Outer;
use pktgen_scenarios::packet;
use pktgen_scenarios::random::Random;
use pktgen_scenarios::scenario::{LOCAL_V4, LOCAL_V6, PEER_V4, PEER_V6};
use pktgen_scenarios::seal::{ALGORITHMS, IPV4, IPV6, Sa};
use proptest::prelude::*;

const HEADROOM: usize = 128;

/// The frame that comes out for one that goes in, if one does.
fn decapsulate(sa: &Sa, frame: &[u8]) -> Option<Vec<u8>> {
    let config = Config::parse(&sa.to_toml(), Path::new("nf.toml")).unwrap();
    let port = |role| ("net".to_owned(), NetPort::new(role, MacAddr::default(), None));
    let ports = vec![port(PortRole::Unprotected), port(PortRole::Protected)];
    let (_, mut cores) = Controller::new(&config, Registry::builtin(), ports, 1, FanOut::default()).unwrap();
    let mut buffer = [&[0; HEADROOM][..], frame].concat();
    let mut batch = Batch::default();
    let packet = Packet::new(&mut buffer, HEADROOM..HEADROOM + frame.len(), PortIndex(0)).unwrap();
    let lane = batch.push(packet).unwrap();
    cores[0].process(Nanos(1), &mut batch);
    match batch.fate(lane) {
        Fate::Send(_) => Some(batch.packet(lane).data().to_vec()),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_encapsulated_is_decapsulated(
        algorithm in prop::sample::select(ALGORITHMS),
        (tunnel, esn, v6, inner_v6, in_udp) in any::<(bool, bool, bool, bool, bool)>(),
        tags in 0usize..3, extensions in prop::collection::vec(prop::sample::select(vec![60u8, 43]), 0..4),
        payload in prop::collection::vec(any::<u8>(), 0..1500), tfc in 0usize..300, seq in 1u64..0x7FFF_FFFF,
        spi in 0x100u32.., seed: u64, damage in prop::option::of((any::<prop::sample::Index>(), 1u8..)),
    ) {
        let (src, dst) = if v6 { (PEER_V6, LOCAL_V6) } else { (PEER_V4, LOCAL_V4) };
        let mut sa = Sa::new(spi, src, dst, algorithm, &mut Random::new(seed));
        (sa.tunnel, sa.esn, sa.udp) = (tunnel, esn, in_udp);
        let outer = Outer {
            vlans: (0..tags).map(|tag| tag as u16 + 1).collect(),
            extensions: if v6 && tunnel { extensions } else { Vec::new() },
            udp: in_udp.then_some(4500),
            ..Outer::new(src, dst)
        };
        let (next_header, inside, expected, tfc) = if tunnel {
            let (src, dst): (IpAddr, IpAddr) = if inner_v6 { (LOCAL_V6, PEER_V6) } else { (LOCAL_V4, PEER_V4) };
            let inner = packet::ip(src, dst, 0, 64, 17, &packet::udp(src, dst, (1, 2), &payload));
            let sent_on = packet::forwarded(&inner, 0);
            (if inner_v6 { IPV6 } else { IPV4 }, inner, sent_on, tfc)
        } else {
            // The end of a transport-mode packet is told by nothing but ESP: there can be no padding behind it.
            let datagram = packet::udp(src, dst, (1, 2), &payload);
            let whole = packet::ip(src, dst, 0, 64, 17, &datagram);
            (17, datagram, whole, 0)
        };
        let mut esp = sa.seal_at(seq, next_header, &inside, tfc);
        if let Some((at, flip)) = damage {
            // SPI and sequence number aside, which change what is looked up: any damaged octet must be noticed.
            let at = 8 + at.index(esp.len() - 8);
            esp[at] ^= flip;
            prop_assert_eq!(decapsulate(&sa, &outer.esp(&esp)), None);
        } else {
            let out = decapsulate(&sa, &outer.esp(&esp));
            prop_assert!(out.is_some(), "{:?}", sa);
            prop_assert_eq!(out.unwrap().split_off(14), expected);
        }
    }
}
