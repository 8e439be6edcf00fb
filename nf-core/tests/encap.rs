//! Encapsulation: what one network function seals, another one opens.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::Duration;

use common::{MACS, Nf, Peer, ROUTERS, ipv4};
use nf_core::control::proto::{EventKind, EventReport};
use nf_core::control::subscribers::{Next, Subscription};
use nf_core::drop::DropReason;
use nf_core::lanes::BURST;
use nf_core::route::{HostAddress, HostTables, Route, Target};
use nf_core::sa::spec::{SaParams, SaSpec};
use nf_core::types::{Nanos, PortIndex, Spi};
use nf_core::wire::{checksum, ethernet};
use proptest::prelude::*;
use serde_json::{Value, json};

const OUTSIDE: PortIndex = PortIndex(0);
const INSIDE: PortIndex = PortIndex(1);

const HEAD: &str = "[[local]]\naddress = \"10.10.1.2\"\n[[local]]\naddress = \"2001:db8::2\"\n";
const BRANCH: &str = "[[local]]\naddress = \"10.1.1.1\"\n[[local]]\naddress = \"2001:db8::1\"\n";

/// An SA from the head end to the branch.
fn spec(spi: u32, more: &Value) -> Value {
    let mut spec = json!({
        "spi": spi, "src": "10.10.1.2", "dst": "10.1.1.1", "mode": "tunnel", "alg": "aes-gcm-16",
        "key": "5a".repeat(20), "replay_window": 4096,
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    spec
}

fn params(spec: &Value, direction: &str) -> SaParams {
    let mut spec = spec.clone();
    spec["direction"] = direction.into();
    for field in ["peer_port", "follows", "df", "path_mtu"] {
        if direction == "in" {
            spec.as_object_mut().unwrap().remove(field);
        }
    }
    serde_json::from_value::<SaSpec>(spec).unwrap().validate().unwrap()
}

/// A head end and a branch, with an SA from the one to the other.
struct Pair {
    head: Nf,
    branch: Nf,
}

impl Pair {
    fn new(specs: &[Value]) -> Pair {
        Pair { head: Nf::gateway(HEAD, 1), branch: Nf::gateway(BRANCH, 1) }.with(specs)
    }

    /// One whose cores open and seal, and one that has crypto devices do it.
    fn each(specs: &[Value]) -> [Pair; 2] {
        let by_device = Pair { head: Nf::gateway_by_device(HEAD), branch: Nf::gateway_by_device(BRANCH) };
        [Pair::new(specs), by_device.with(specs)]
    }

    fn with(mut self, specs: &[Value]) -> Pair {
        specs.iter().for_each(|spec| self.add(spec));
        self
    }

    fn add(&mut self, spec: &Value) {
        self.branch.control(|control| control.add_sa(params(spec, "in"))).unwrap();
        self.head.control(|control| control.add_sa(params(spec, "out"))).unwrap();
    }

    /// Packets from the head end's protected network, sealed; the frames on the wire between the two.
    fn seal(&mut self, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        seal(&mut self.head, 0, packets)
    }

    /// Frames on the wire, opened by the branch; the packets that it sends on.
    fn open(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for burst in frames.chunks(BURST) {
            let burst: Vec<&[u8]> = burst.iter().map(Vec::as_slice).collect();
            for (port, frame) in self.branch.receive_on(OUTSIDE, 0, &burst) {
                assert_eq!((port, &frame[..6]), (INSIDE, &ROUTERS[1].0[..]));
                out.push(frame[ethernet::HEADER_LEN..].to_vec());
            }
        }
        out
    }

    fn counts(&self, reason: DropReason) -> u64 {
        self.head.counters().drops(reason).packets
    }
}

fn seal(head: &mut Nf, core: usize, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let frames: Vec<Vec<u8>> = packets.iter().map(|packet| frame(packet)).collect();
    let mut out = Vec::new();
    for burst in frames.chunks(BURST) {
        let burst: Vec<&[u8]> = burst.iter().map(Vec::as_slice).collect();
        for (port, frame) in head.receive_on(INSIDE, core, &burst) {
            assert_eq!((port, &frame[..6], &frame[6..12]), (OUTSIDE, &ROUTERS[0].0[..], &MACS[0].0[..]));
            out.push(frame);
        }
    }
    out
}

/// A packet as a host behind the head end sends it to its router.
fn frame(packet: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xDD] };
    let mut frame = [&MACS[1].0[..], &[2, 0, 0, 0, 9, 9], &ethertype, packet].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

fn inner(payload: &[u8]) -> Vec<u8> {
    ipv4([172, 16, 0, 9], [192, 168, 1, 7], 253, payload)
}

/// A numbered packet.
fn numbered(number: u32) -> Vec<u8> {
    inner(&number.to_be_bytes())
}

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[20..24].try_into().unwrap())
}

fn inner6(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, 253, 64];
    packet.extend("2001:db8:16::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
    packet.extend("2001:db8:192::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
    packet.extend(payload);
    packet
}

/// As the packet leaves the second of two routers.
fn two_hops_later(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    match packet[0] >> 4 {
        4 => {
            packet[8] -= 2;
            nf_core::wire::ipv4::refresh_checksum(&mut packet);
        }
        _ => packet[7] -= 2,
    }
    packet
}

fn next(events: &Subscription) -> Option<EventReport> {
    match events.next(Duration::ZERO) {
        Next::Event(event) => Some(event),
        _ => None,
    }
}

const HMAC: [(&str, usize); 4] =
    [("hmac-sha1-96", 20), ("hmac-sha256-128", 32), ("hmac-sha384-192", 48), ("hmac-sha512-256", 64)];

/// All transforms that there are.
fn transforms() -> Vec<Value> {
    let mut all = Vec::new();
    for alg in ["aes-gcm-16", "aes-gcm-12", "aes-gcm-8"] {
        all.extend([20, 28, 36].map(|len| json!({"alg": alg, "key": "5a".repeat(len)})));
    }
    all.push(json!({"alg": "chacha20-poly1305", "key": "5a".repeat(36)}));
    for (auth, len) in HMAC {
        let auth_key = "a5".repeat(len);
        all.extend(
            [16, 24, 32]
                .map(|len| json!({"alg": "aes-cbc", "key": "5a".repeat(len), "auth": auth, "auth_key": auth_key})),
        );
        all.push(json!({"alg": "null", "key": null, "auth": auth, "auth_key": auth_key}));
    }
    all
}

#[test]
fn every_transform_is_opened_by_the_other_end() {
    let packets: Vec<Vec<u8>> = (0..40).map(|len| inner(&vec![0xAB; len * 3])).chain([inner6(&[7; 33])]).collect();
    for engine in ["auto", "aes-gcm", "device"] {
        for transform in transforms() {
            for esn in [false, true] {
                let mut spec = spec(0x1000, &transform);
                spec["esn"] = esn.into();
                let head = match engine {
                    "device" => Nf::gateway_by_device(HEAD),
                    _ => Nf::gateway(&format!("{HEAD}[crypto]\nengine = \"{engine}\"\n"), 1),
                };
                let mut pair = Pair { head, branch: Nf::gateway(BRANCH, 1) };
                pair.add(&spec);
                let sealed = pair.seal(&packets);
                assert_eq!(sealed.len(), packets.len(), "{spec}");
                let opened = pair.open(&sealed);
                assert!(opened.iter().zip(&packets).all(|(got, sent)| *got == two_hops_later(sent)), "{spec}");
                assert_eq!(opened.len(), packets.len(), "{spec}: {:?}", pair.branch.counters());
                assert!(pair.head.counters().is_conserved() && pair.branch.counters().is_conserved());
            }
        }
    }
}

#[test]
fn outer_headers_of_both_versions_and_udp_arrive() {
    let v6 = json!({"src": "2001:db8::2", "dst": "2001:db8::1"});
    for addresses in [Value::Null, v6] {
        for encap in ["none", "udp"] {
            let mut spec = spec(0x1000, &addresses);
            spec["encap"] = encap.into();
            for mut pair in Pair::each(&[spec]) {
                let packets = [inner(b"four"), inner6(b"six")];
                let sealed = pair.seal(&packets);
                for frame in &sealed {
                    let headers = nf_core::wire::parse(frame).unwrap();
                    assert_eq!(headers.spi(), Some(Spi(0x1000)));
                    assert_eq!(headers.udp_ports(frame), (encap == "udp").then_some((4500, 4500)));
                    if encap == "udp" {
                        let l4 = headers.l3() + headers.l3_len();
                        let sum = u16::from_be_bytes(frame[l4 + 6..l4 + 8].try_into().unwrap());
                        // IPv6 demands a checksum, which covers the addresses as well.
                        let pseudo = checksum::sum(&frame[headers.l3() + 8..l4]) + 17 + (frame.len() - l4) as u64;
                        let is_valid = checksum::fold(checksum::sum(&frame[l4..]) + pseudo) == 0xFFFF;
                        assert!(if addresses.is_null() { sum == 0 } else { sum != 0 && is_valid });
                    }
                }
                let opened = pair.open(&sealed);
                assert_eq!(opened, packets.clone().map(|packet| two_hops_later(&packet)), "{addresses} {encap}");
            }
        }
    }
}

#[test]
fn transport_mode_keeps_the_header() {
    let between = ipv4([10, 10, 1, 2], [10, 1, 1, 1], 253, b"from end to end");
    let pairs = ["none", "udp"].map(|encap| Pair::each(&[spec(0x1000, &json!({"mode": "transport", "encap": encap}))]));
    for mut pair in pairs.into_iter().flatten() {
        let foreign = numbered(1);
        let mut fragment = between.clone();
        fragment[6] = 0x20;
        nf_core::wire::ipv4::refresh_checksum(&mut fragment);
        let sealed = pair.seal(&[between.clone(), foreign, fragment]);
        assert_eq!((sealed.len(), pair.counts(DropReason::OutPolicyV4)), (1, 2), "not between the two ends, not whole");
        let mut expected = between.clone();
        // Transport mode is for the host behind the second network function: no hop there.
        expected[8] -= 1;
        nf_core::wire::ipv4::refresh_checksum(&mut expected);
        assert_eq!(pair.open(&sealed), [expected]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_packet_comes_out_as_it_went_in(
        payload in prop::collection::vec(any::<u8>(), 0..1380),
        tos: u8, id: u16, df: bool, ttl in 3u8..=255, transform in 0usize..26, udp: bool, v6: bool, by_device: bool,
    ) {
        let transform = &transforms()[transform];
        let mut spec = spec(0x1000, transform);
        spec["encap"] = if udp { "udp" } else { "none" }.into();
        if v6 {
            spec["src"] = "2001:db8::2".into();
            spec["dst"] = "2001:db8::1".into();
        }
        let mut packet = inner(&payload);
        packet[1] = tos;
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[6] = if df { 0x40 } else { 0 };
        packet[8] = ttl;
        nf_core::wire::ipv4::refresh_checksum(&mut packet);
        let [by_core, device] = Pair::each(&[spec]);
        let mut pair = if by_device { device } else { by_core };
        let sealed = pair.seal(std::slice::from_ref(&packet));
        prop_assert_eq!(sealed.len(), 1);
        let frame = &sealed[0];
        let headers = nf_core::wire::parse(frame).unwrap();
        prop_assert_eq!(headers.tos(), tos, "DSCP and ECN");
        if !v6 {
            prop_assert_eq!(frame[20] & 0x40 != 0, df);
        }
        prop_assert_eq!(pair.open(&sealed), [two_hops_later(&packet)]);
    }
}

#[test]
fn packets_of_several_sas_keep_their_order() {
    let to = |net: &str| json!({"selectors": {"src": [], "dst": [net]}, "key": "77".repeat(20)});
    let specs: Vec<Value> = (0..5).map(|n| spec(0x1000 + n, &to(&format!("192.168.{n}.0/24")))).collect();
    let mut pair = Pair::new(&specs);
    let packets: Vec<Vec<u8>> =
        (0..500u32).map(|n| ipv4([172, 16, 0, 9], [192, 168, (n % 5) as u8, 7], 253, &n.to_be_bytes())).collect();
    let sealed = pair.seal(&packets);
    for (n, frame) in sealed.iter().enumerate() {
        let headers = nf_core::wire::parse(frame).unwrap();
        assert_eq!((headers.spi(), headers.seq_low()), (Some(Spi(0x1000 + n as u32 % 5)), Some(n as u32 / 5 + 1)));
    }
    let opened: Vec<u32> = pair.open(&sealed).iter().map(|packet| number(packet)).collect();
    assert!(opened.iter().copied().eq(0..500));
}

/// Two cores, on threads of their own, take numbers of the same SA: the other end refuses none as a replay.
#[test]
fn cores_share_an_sa_without_using_a_number_twice() {
    let mut head = Nf::gateway(HEAD, 2);
    let spec = spec(0x1000, &json!({"replay_window": 65536}));
    head.control(|control| control.add_sa(params(&spec, "out"))).unwrap();
    let frames: Vec<Vec<u8>> = (0..2000).map(|n| frame(&numbered(n))).collect();
    let now = head.now;
    let sealed: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = head
            .cores
            .iter_mut()
            .zip(frames.chunks(1000))
            .map(|(core, frames)| {
                scope.spawn(move || {
                    frames.chunks(BURST).flat_map(|burst| common::through(core, now, INSIDE, burst)).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).map(|(_, frame)| frame).collect()
    });
    let mut pair = Pair { head, branch: Nf::gateway(BRANCH, 1) };
    pair.branch.control(|control| control.add_sa(params(&spec, "in"))).unwrap();
    assert_eq!(pair.open(&sealed).len(), 2000, "{:?}", pair.branch.counters());
    let totals = pair.head.controller.sas().next().unwrap().sa.totals();
    assert_eq!(totals.packets, 2000);
}

#[test]
fn the_policy_decides_about_what_leaves() {
    let policies = "[[policy]]\ndst = [\"192.168.1.0/24\"]\naction = \"protect\"\npeer = \"branch\"\n\
                    [[policy]]\ndst = [\"192.168.2.0/24\"]\naction = \"bypass\"\n\
                    [[policy]]\ndst = [\"192.168.3.0/24\"]\naction = \"discard\"\n";
    let mut head = Nf::gateway(&format!("{HEAD}{policies}"), 1);
    let (_, events) = head.controller.subscribe(vec![EventKind::SaWanted]);
    let to = |net: u8| ipv4([172, 16, 0, 9], [192, 168, net, 7], 253, b"data");
    let sent = seal(&mut head, 0, &[to(1), to(2), to(3), to(4), to(1)]);
    assert_eq!(sent.len(), 1);
    let mut clear = to(2);
    clear[8] -= 1;
    nf_core::wire::ipv4::refresh_checksum(&mut clear);
    assert_eq!(sent[0][ethernet::HEADER_LEN..], clear, "in clear");
    let counters = head.counters();
    for (reason, packets) in
        [(DropReason::OutIkeV4, 2), (DropReason::OutDenyV4, 1), (DropReason::ClearOutput, 1), (DropReason::NoRoute, 0)]
    {
        assert_eq!(counters.drops(reason).packets, packets, "{reason:?}");
    }
    assert!(counters.is_conserved());
    head.tick(Nanos(5));
    let wanted = |at_ns| EventReport::SaWanted {
        peer: Some("branch".into()),
        src: [172, 16, 0, 9].into(),
        dst: [192, 168, 1, 7].into(),
        packets: 1,
        at_ns,
    };
    assert_eq!(next(&events), Some(wanted(1)));
    assert_eq!(next(&events), None, "a flow asks once a second");

    // Of another peer it doesn't help, of the right one it does.
    let other = spec(0x1001, &json!({"peer": "other", "selectors": {"dst": ["192.168.0.0/16"]}}));
    head.control(|control| control.add_sa(params(&other, "out"))).unwrap();
    assert_eq!(seal(&mut head, 0, &[to(1), to(4)]).len(), 1);
    let own = spec(0x1000, &json!({"peer": "branch", "selectors": {"dst": ["192.168.0.0/16"]}}));
    head.control(|control| control.add_sa(params(&own, "out"))).unwrap();
    let spis = |frames: Vec<Vec<u8>>| -> Vec<Option<Spi>> {
        frames.iter().map(|frame| nf_core::wire::parse(frame).unwrap().spi()).collect()
    };
    assert_eq!(spis(seal(&mut head, 0, &[to(1), to(3)])), [Some(Spi(0x1000))]);
    head.control(|control| control.delete_sa(Spi(0x1000), None, None)).unwrap();
    assert!(seal(&mut head, 0, &[to(1)]).is_empty());
}

/// Make before break: whichever SA a packet goes by, the other end has it.
#[test]
fn no_packet_is_lost_at_a_rekey() {
    let mut pair = Pair::new(&[spec(0x1000, &Value::Null)]);
    let mut sent = 0..;
    let mut burst = || -> Vec<Vec<u8>> { sent.by_ref().take(40).map(numbered).collect() };
    let mut wire = Vec::new();
    for generation in 1..10u32 {
        wire.extend(pair.seal(&burst()));
        pair.add(&spec(0x1000 + generation, &json!({"key": format!("{generation:02x}").repeat(20)})));
        wire.extend(pair.seal(&burst()));
        let last = nf_core::wire::parse(wire.last().unwrap()).unwrap();
        assert_eq!(last.spi(), Some(Spi(0x1000 + generation)), "the newest takes over");
        pair.head.control(|control| control.delete_sa(Spi(0x0FFF + generation), None, None)).unwrap();
        wire.extend(pair.seal(&burst()));
    }
    let opened: Vec<u32> = pair.open(&wire).iter().map(|packet| number(packet)).collect();
    assert!(opened.iter().copied().eq(0..9 * 120), "{:?}", pair.branch.counters());
    assert_eq!(pair.head.controller.sas().len(), 1);
}

#[test]
fn a_packet_that_the_path_does_not_take_is_not_sent() {
    let mut pair = Pair::new(&[spec(0x1000, &json!({"path_mtu": 1000}))]);
    let with_df = |len: usize| {
        let mut packet = inner(&vec![0; len - 20]);
        packet[6] = 0x40;
        nf_core::wire::ipv4::refresh_checksum(&mut packet);
        packet
    };
    // Outer header 20, SPI and number 8, IV 8, trailer 2 and ICV 16 around a multiple of four.
    let sealed = pair.seal(&[with_df(946), with_df(947)]);
    assert_eq!(sealed.iter().map(|frame| frame.len() - ethernet::HEADER_LEN).collect::<Vec<_>>(), [1000]);
    assert_eq!(pair.counts(DropReason::OutDfSet), 1);
    assert_eq!(pair.head.controller.sas().next().unwrap().sa.totals().refused, 1);
    // Its sender hears of it, from a head end with an address there.
    let sender = std::net::IpAddr::from(<[u8; 4]>::try_from(&with_df(947)[12..16]).unwrap());
    pair.head.controller.set_host_tables(HostTables {
        routes: vec![Route { dst: sender.into(), target: Target::Port { port: INSIDE, via: None } }],
        addresses: vec![HostAddress { address: "10.2.0.254".parse().unwrap(), port: Some(INSIDE) }],
        ..HostTables::default()
    });
    let told = pair.head.receive_on(INSIDE, 0, &[&frame(&with_df(947))]);
    let [(INSIDE, error)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(
        (&error[30..34], &error[34..36], &error[40..42]),
        (&with_df(947)[12..16], &[3, 4][..], &946u16.to_be_bytes()[..])
    );
    // The operator may have it fragmented instead; then only the port's MTU counts.
    for (df, flag) in [("clear", 0), ("set", 0x40)] {
        let mut pair = Pair::new(&[spec(0x1000, &json!({"df": df}))]);
        let sealed = pair.seal(&[with_df(946)]);
        assert_eq!(sealed[0][20] & 0x40, flag, "{df}");
        assert_eq!(pair.open(&sealed), [two_hops_later(&with_df(946))]);
    }
}

#[test]
fn a_buffer_without_room_costs_the_packet_and_nothing_else() {
    let mut pair = Pair::new(&[spec(
        0x1000,
        &json!({"alg": "aes-cbc", "key": "5a".repeat(16), "auth": "hmac-sha512-256",
        "auth_key": "a5".repeat(64)}),
    )]);
    let frames = [frame(&numbered(1)), frame(&numbered(2))];
    for (headroom, tailroom) in [(30, 128), (128, 10), (128, 128)] {
        common::through_with_room(&mut pair.head.cores[0], Nanos(1), INSIDE, &frames, headroom, tailroom);
    }
    let counters = pair.head.counters();
    assert_eq!((counters.drops(DropReason::OutNoRoom).packets, counters.drops_total().packets), (4, 4));
}

#[test]
fn lifetimes_end_an_outbound_sa() {
    let lifetime = json!({"lifetime": {"soft": {"packets": 3}, "hard": {"packets": 100}}});
    let mut pair = Pair::new(&[spec(0x1000, &lifetime)]);
    let (_, events) = pair.head.controller.subscribe(vec![EventKind::SaLifetime]);
    assert_eq!(pair.seal(&[numbered(1), numbered(2), numbered(3)]).len(), 3);
    pair.head.tick(Nanos(5));
    assert!(matches!(next(&events), Some(EventReport::SaLifetime { sa, .. }) if sa.spi == Spi(0x1000)));
    let many: Vec<Vec<u8>> = (0..300).map(numbered).collect();
    let sealed = pair.seal(&many).len();
    assert!((97..97 + BURST).contains(&sealed), "a hard limit is overrun by a burst at most: {sealed}");
    assert_eq!(pair.counts(DropReason::OutInvalidSaV4), 300 - sealed as u64);
    pair.head.tick(Nanos(6));
    assert!(matches!(next(&events), Some(EventReport::SaLifetime { .. })));
    pair.head.poll(0);
    assert_eq!(pair.head.controller.sas().len(), 0);
    assert!(pair.seal(&many[..1]).is_empty());
    assert_eq!(pair.counts(DropReason::ClearOutput), 1, "nothing is said of the packet any more");
}

/// A hub: what comes out of one tunnel goes into another one.
#[test]
fn from_one_branch_to_another() {
    let outside = "[[port]]\nname = \"net-unprotected\"\nrole = \"unprotected\"\n\
                   [[route]]\ndst = \"0.0.0.0/0\"\nport = \"net-unprotected\"\n";
    let mut pair = Pair { head: Nf::gateway(HEAD, 1), branch: Nf::gateway(&format!("{BRANCH}{outside}"), 1) };
    pair.add(&spec(0x1000, &Value::Null));
    let onwards = spec(0x2000, &json!({"src": "10.1.1.1", "dst": "10.3.3.3", "key": "66".repeat(20)}));
    pair.branch.control(|control| control.add_sa(params(&onwards, "out"))).unwrap();
    let sealed = pair.seal(&[numbered(7)]);
    let burst: Vec<&[u8]> = sealed.iter().map(Vec::as_slice).collect();
    let sent = pair.branch.receive_on(OUTSIDE, 0, &burst);
    let headers = nf_core::wire::parse(&sent[0].1).unwrap();
    assert_eq!((sent[0].0, headers.spi(), headers.seq_low()), (OUTSIDE, Some(Spi(0x2000)), Some(1)));
    let mut third = Nf::gateway("[[local]]\naddress = \"10.3.3.3\"\n", 1);
    third.control(|control| control.add_sa(params(&onwards, "in"))).unwrap();
    let out = third.receive_on(OUTSIDE, 0, &[&sent[0].1]);
    assert_eq!(number(&out[0].1[ethernet::HEADER_LEN..]), 7);
}

/// Where the sealed packets of a head end go to: address and UDP port.
fn goes_to(sealed: &[Vec<u8>]) -> Vec<(std::net::IpAddr, u16)> {
    let to = |frame: &Vec<u8>| {
        let number = |at: usize| u16::from_be_bytes(frame[at..at + 2].try_into().unwrap());
        assert_eq!((frame[23], number(34)), (17, 4500));
        (<[u8; 4]>::try_from(&frame[30..34]).unwrap().into(), number(36))
    };
    sealed.iter().map(to).collect()
}

#[test]
fn an_outbound_sa_follows_the_peer_behind_its_nat() {
    let mut head = Nf::gateway(HEAD, 1);
    let mut peer = Peer { udp: Some(4500), ..Peer::new(0x2000) };
    head.control(|control| control.add_sa(peer.params())).unwrap();
    let pair = json!({"encap": "udp", "follows": 0x2000});
    head.control(|control| control.add_sa(params(&spec(0x1000, &pair), "out"))).unwrap();
    let alone = json!({"encap": "udp", "key": "66".repeat(20), "selectors": {"dst": ["192.168.9.0/24"]}});
    head.control(|control| control.add_sa(params(&spec(0x1001, &alone), "out"))).unwrap();
    let first_home = ("10.1.1.1".parse().unwrap(), 4500);
    let mut now = 0;
    let mut after = |head: &mut Nf, frame: &[u8]| {
        head.receive_on(OUTSIDE, 0, &[frame]);
        now += Nanos::SECOND;
        head.tick(Nanos(now));
        head.poll(0);
        goes_to(&seal(head, 0, &[numbered(0)]))
    };
    assert_eq!(goes_to(&seal(&mut head, 0, &[numbered(0)])), [first_home]);
    let overtaken = peer.next();
    assert_eq!(after(&mut head, &peer.next()), [first_home]);
    // The NAT has another mapping, and then another address.
    (peer.udp, peer.src) = (Some(61_000), [10, 1, 1, 1]);
    assert_eq!(after(&mut head, &peer.next()), [("10.1.1.1".parse().unwrap(), 61_000)]);
    peer.src = [198, 51, 100, 7];
    let newest = peer.next();
    let there = [("198.51.100.7".parse().unwrap(), 61_000)];
    assert_eq!(after(&mut head, &newest), there);
    assert_eq!(goes_to(&seal(&mut head, 0, &[ipv4([172, 16, 0, 9], [192, 168, 9, 1], 253, b"")])), [first_home]);
    // A packet that was overtaken, a replay and a forged one from elsewhere move nothing.
    assert_eq!(after(&mut head, &overtaken), there);
    let mut elsewhere = Peer { src: [203, 0, 113, 66], ..peer.clone() };
    assert_eq!(after(&mut head, &elsewhere.packet(peer.seq)), there);
    elsewhere.key = [0; 20];
    assert_eq!(after(&mut head, &elsewhere.packet(peer.seq + 1)), there);
    let totals = head.controller.find_sa(Spi(0x2000), None, None).unwrap().sa.totals();
    assert_eq!((totals.replay_duplicate, totals.auth_failed), (1, 1));
    // The numbers went on, and the SA is still found by what it was made with.
    let last = seal(&mut head, 0, &[numbered(0)]);
    assert_eq!(last[0][42..50], [0, 0, 0x10, 0, 0, 0, 0, 8]);
    // Its successor begins where the peer is.
    let rekeyed = spec(0x1002, &json!({"encap": "udp", "follows": 0x2000, "key": "77".repeat(20)}));
    head.control(|control| control.add_sa(params(&rekeyed, "out"))).unwrap();
    assert_eq!(goes_to(&seal(&mut head, 0, &[numbered(0)])), there);
    let at = Some("10.1.1.1".parse().unwrap());
    head.control(|control| control.delete_sa(Spi(0x1000), at, None)).unwrap();
}

/// An ICMP message to the head end that a packet of its was too big, as a router on the way sends it.
fn too_big(sealed: &[u8], mtu: u16) -> Vec<u8> {
    let quoted = &sealed[ethernet::HEADER_LEN..ethernet::HEADER_LEN + 64];
    let v6 = quoted[0] >> 4 == 6;
    let mut icmp = if v6 { vec![2, 0, 0, 0, 0, 0] } else { vec![3, 4, 0, 0, 0, 0] };
    icmp.extend(mtu.to_be_bytes());
    icmp.extend(quoted);
    let packet = if v6 {
        let (router, us) = ("2001:db8::99".parse::<std::net::Ipv6Addr>().unwrap().octets(), &quoted[8..24]);
        let pseudo = checksum::sum(&router) + checksum::sum(us) + 58 + icmp.len() as u64;
        let sum = !checksum::fold(checksum::sum(&icmp) + pseudo);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        [&[0x60, 0, 0, 0, 0, icmp.len() as u8, 58, 64][..], &router, us, &icmp].concat()
    } else {
        let sum = checksum::checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        ipv4([192, 0, 2, 99], quoted[12..16].try_into().unwrap(), 1, &icmp)
    };
    let mut frame = frame(&packet);
    frame[..6].copy_from_slice(&MACS[0].0);
    frame
}

#[test]
fn a_router_on_the_path_lowers_its_mtu_for_a_while() {
    let with_df = |len: usize| {
        let mut packet = inner(&vec![0; len - 20]);
        packet[6] = 0x40;
        nf_core::wire::ipv4::refresh_checksum(&mut packet);
        packet
    };
    for encap in ["none", "udp"] {
        let mut pair = Pair::new(&[spec(0x1000, &json!({"encap": encap}))]);
        let longest = pair.seal(&[with_df(1400)]);
        let mut strange = longest[0].clone();
        strange[ethernet::HEADER_LEN + 20 + if encap == "udp" { 8 } else { 0 }] ^= 1;
        for message in [too_big(&strange, 1000), too_big(&longest[0], 1500), too_big(&longest[0], 9000)] {
            pair.head.receive_on(OUTSIDE, 0, &[&message]);
            assert_eq!(pair.seal(&[with_df(1400)]).len(), 1, "no SA of ours, or nothing new");
        }
        pair.head.receive_on(OUTSIDE, 0, &[&too_big(&longest[0], 1200)]);
        pair.head.receive_on(OUTSIDE, 0, &[&too_big(&longest[0], 1300)]);
        let overhead = longest[0].len() - ethernet::HEADER_LEN - 1400;
        let fits = (1200 - overhead) / 4 * 4 - 2;
        assert_eq!(pair.seal(&[with_df(fits), with_df(1201), inner(&[0; 1300])]).len(), 2, "what has DF must fit");
        assert_eq!(pair.counts(DropReason::OutDfSet), 1);
        let shown = |pair: &Pair, now| match &pair.head.controller.sas().next().unwrap().sa {
            nf_core::control::controller::InstalledSa::Out(sa) => sa.path_mtu(now),
            nf_core::control::controller::InstalledSa::In(_) => None,
        };
        assert_eq!(shown(&pair, Nanos(1)), Some(1200));
        pair.head.receive_on(OUTSIDE, 0, &[&too_big(&longest[0], 68)]);
        assert_eq!(shown(&pair, Nanos(1)), Some(576));
        pair.head.tick(Nanos::from_secs(601));
        assert_eq!(pair.seal(&[with_df(1400)]).len(), 1, "ten minutes later a longer one tries the path again");
        assert_eq!(pair.counts(DropReason::NotForUs), 6, "the host's stack would have had the messages");
    }
    let mut fixed = Pair::new(&[spec(0x1000, &json!({"path_mtu": 1450}))]);
    let longest = fixed.seal(&[with_df(1380)]);
    fixed.head.receive_on(OUTSIDE, 0, &[&too_big(&longest[0], 1200)]);
    assert_eq!(fixed.seal(&[with_df(1380)]).len(), 1, "the operator knows better");
}

#[test]
fn over_ipv6_the_head_end_itself_cuts_what_may_be_cut() {
    let v6 = json!({"src": "2001:db8::2", "dst": "2001:db8::1"});
    let whole = |frames: &[Vec<u8>]| {
        let payload: Vec<u8> = frames.iter().flat_map(|frame| frame[62..].to_vec()).collect();
        let mut frame = [&frames[0][..54], &payload].concat();
        frame[20] = frames[0][54];
        frame[18..20].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        frame
    };
    let spec = |encap: &str| {
        let mut spec = spec(0x1000, &v6);
        spec["encap"] = encap.into();
        spec
    };
    for mut pair in ["none", "udp"].into_iter().flat_map(|encap| Pair::each(&[spec(encap)])) {
        let short = pair.seal(&[numbered(1)]);
        pair.head.receive_on(OUTSIDE, 0, &[&too_big(&short[0], 1280)]);
        let mut small6 = inner6(&[]);
        small6.resize(1280, 7);
        small6[4..6].copy_from_slice(&1240u16.to_be_bytes());
        let mut large6 = small6.clone();
        large6.resize(1290, 7);
        large6[4..6].copy_from_slice(&1250u16.to_be_bytes());
        for packet in [inner(&[7; 1300]), small6] {
            let fragments = pair.seal(std::slice::from_ref(&packet));
            assert_eq!(fragments.len(), 2);
            assert!(fragments.iter().all(|frame| frame.len() <= 1280 + ethernet::HEADER_LEN && frame[20] == 44));
            assert_eq!(pair.open(&[whole(&fragments)]), [two_hops_later(&packet)]);
        }
        assert!(pair.seal(&[large6]).is_empty(), "its sender can send less");
        assert_eq!(pair.counts(DropReason::OutDfSet), 1);
        assert!(pair.head.counters().is_conserved());
    }
}

#[test]
fn protocols_and_ports_decide_at_both_ends() {
    let udp = |port: u16| {
        let payload = [&[0, 9][..], &port.to_be_bytes(), &[0, 8, 0, 0]].concat();
        ipv4([172, 16, 0, 9], [192, 168, 1, 7], 17, &payload)
    };
    let selector = |ports: &str| json!({"selectors": {"src": [], "dst": [format!("192.168.1.0/24[udp/{ports}]")]}});
    let policy = "[[policy]]\ndst = [\"192.168.1.0/24[udp]\"]\naction = \"discard\"\n";
    let mut pair = Pair { head: Nf::gateway(&format!("{HEAD}{policy}"), 1), branch: Nf::gateway(BRANCH, 1) };
    pair.head.control(|control| control.add_sa(params(&spec(0x1000, &selector("53-54")), "out"))).unwrap();
    pair.branch.control(|control| control.add_sa(params(&spec(0x1000, &selector("53")), "in"))).unwrap();
    let sealed = pair.seal(&[udp(53), udp(54), udp(55), numbered(1)]);
    assert_eq!(sealed.len(), 2);
    assert_eq!((pair.counts(DropReason::OutDenyV4), pair.counts(DropReason::ClearOutput)), (1, 1));
    assert_eq!(pair.open(&sealed), [two_hops_later(&udp(53))]);
    assert_eq!(pair.branch.counters().drops(DropReason::PolicyV4).packets, 1, "the peer sends what wasn't agreed on");
}
