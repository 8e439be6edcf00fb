//! Routing between ports: what came out of a tunnel, and what passes through.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Nf, Peer};
use nf_core::config::PortRole::{Exception, Protected, Unprotected};
use nf_core::drop::DropReason;
use nf_core::net::NetPort;
use nf_core::route::{HostAddress, HostTables, Neighbour, Route, Target};
use nf_core::types::{Nanos, PortIndex};
use nf_core::wire::ethernet::MacAddr;
use nf_core::wire::{checksum, ipv4};

const WAN: PortIndex = PortIndex(0);
const LAN: PortIndex = PortIndex(1);
const HOST: PortIndex = PortIndex(2);

/// Two ports with routes to both sides. The peer's packets are from 192.168.1.7 to 172.16.0.9.
const PORTS: &str = r#"
[[port]]
name = "net-unprotected"
role = "unprotected"
[[port]]
name = "net-protected"
role = "protected"
[[local]]
address = "10.10.1.2"
"#;

fn route(dst: &str, via: Option<&str>, port: &str) -> String {
    let via = via.map(|via| format!("via = \"{via}\"\n")).unwrap_or_default();
    format!("[[route]]\ndst = \"{dst}\"\n{via}port = \"net-{port}\"\n")
}

fn neighbour(address: &str, last: u8, port: &str) -> String {
    format!("[[neighbour]]\naddress = \"{address}\"\nmac = \"02:00:00:00:00:{last:02x}\"\nport = \"net-{port}\"\n")
}

/// With the host's stack behind both ports.
const WAN_HOST: PortIndex = PortIndex(2);
const LAN_HOST: PortIndex = PortIndex(3);

fn nf_with_taps(more: &[String]) -> Nf {
    let port = |role, stands_for| NetPort { stands_for, ..NetPort::new(role, MacAddr::default(), None) };
    let ports =
        [port(Unprotected, None), port(Protected, None), port(Exception, Some(WAN)), port(Exception, Some(LAN))];
    Nf::with_net_ports(&[PORTS, &more.concat()].concat(), ports.to_vec())
}

fn nf(more: &[String], peer: &Peer) -> Nf {
    let mut nf = Nf::with_ports(&[PORTS, &more.concat()].concat(), &[Unprotected, Protected, Exception]);
    let params = peer.params();
    nf.control(|controller| controller.add_sa(params)).unwrap();
    nf
}

/// A frame to a port's address, which is zero in these tests.
fn frame(packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xDD] };
    let mut frame = [&[0; 6][..], &[2, 0, 0, 0, 0, 0x77], &ethertype, packet].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

fn udp(src: &str, dst: &str, ttl: u8, payload: usize) -> Vec<u8> {
    let (src, dst): (std::net::IpAddr, std::net::IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let datagram =
        [&[0x03, 0xE8, 0x00, 0x35][..], &(8 + payload as u16).to_be_bytes(), &[0, 0], &vec![0x5A; payload]].concat();
    match (src, dst) {
        (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => {
            let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, ttl, 17, 0, 0];
            packet.extend([src.octets(), dst.octets()].concat());
            let len = packet.len() + datagram.len();
            ipv4::set_total_length(&mut packet, len);
            [packet, datagram].concat()
        }
        (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((datagram.len() as u16).to_be_bytes());
            packet.extend([17, ttl]);
            packet.extend([src.octets(), dst.octets()].concat());
            [packet, datagram].concat()
        }
        _ => unreachable!("both addresses are of one version"),
    }
}

fn drops(nf: &Nf, why: DropReason) -> u64 {
    assert!(nf.counters().is_conserved());
    nf.counters().drops(why).packets
}

#[test]
fn the_longest_route_and_its_neighbour_are_taken() {
    let mut peer = Peer::new(0x1000);
    let mut nf = nf(
        &[
            route("0.0.0.0/0", Some("10.3.0.1"), "unprotected"),
            route("172.16.0.0/12", Some("10.2.0.254"), "protected"),
            neighbour("10.2.0.254", 0xFE, "protected"),
            neighbour("10.2.0.254", 0xEE, "unprotected"),
        ],
        &peer,
    );
    let sent = nf.receive_on(WAN, 0, &[&peer.next(), &peer.next()]);
    assert_eq!(sent.len(), 2);
    for (port, frame) in sent {
        assert_eq!((port, &frame[..6]), (LAN, &[2, 0, 0, 0, 0, 0xFE][..]));
        assert_eq!(frame[14 + 8], 63, "one hop less");
        assert!(checksum::is_valid(&frame[14..34]));
    }
    assert!(nf.counters().is_conserved());
}

#[test]
fn hosts_on_the_link_are_neighbours_themselves() {
    let mut peer = Peer::new(0x1000);
    let tables = [route("172.16.0.0/24", None, "protected"), neighbour("172.16.0.9", 9, "protected")];
    let mut nf = nf(&tables, &peer);
    let sent = nf.receive_on(WAN, 0, &[&peer.next()]);
    assert_eq!(sent[0].1[..6], [2, 0, 0, 0, 0, 9]);
}

#[test]
fn without_a_neighbour_or_a_route_packets_have_a_reason_of_their_own() {
    let mut peer = Peer::new(0x1000);
    let mut unresolved = nf(&[route("172.16.0.0/24", None, "protected")], &peer);
    assert_eq!(unresolved.receive_on(WAN, 0, &[&peer.next()]), []);
    assert_eq!(drops(&unresolved, DropReason::NoNeighbour), 1);

    let mut unrouted = nf(&[route("172.17.0.0/16", None, "protected")], &peer);
    assert_eq!(unrouted.receive_on(WAN, 0, &[&peer.next()]), []);
    assert_eq!(drops(&unrouted, DropReason::NoRoute), 1);
}

#[test]
fn what_is_for_us_inside_a_tunnel_goes_to_the_host() {
    let mut peer = Peer::new(0x1000);
    let more = ["[[local]]\naddress = \"172.16.0.9\"\n".to_owned(), route("172.16.0.0/24", None, "protected")];
    let mut nf = nf(&more, &peer);
    let sent = nf.receive_on(WAN, 0, &[&peer.next()]);
    assert_eq!((sent[0].0, sent[0].1[14 + 8]), (HOST, 64), "it is at its end, and not forwarded");
}

#[test]
fn nothing_leaves_outside_that_is_not_protected() {
    let mut peer = Peer::new(0x1000);
    let tables = [
        route("172.16.0.0/24", None, "unprotected"),
        neighbour("172.16.0.9", 9, "unprotected"),
        route("172.17.0.0/24", None, "protected"),
        neighbour("172.17.0.9", 9, "protected"),
    ];
    let mut nf = nf(&tables, &peer);
    // Out of one tunnel, to be put into another.
    assert_eq!(nf.receive_on(WAN, 0, &[&peer.next()]), []);
    assert_eq!(drops(&nf, DropReason::ClearOutput), 1);
    let inside = frame(&udp("172.17.0.9", "172.16.0.9", 64, 8));
    assert_eq!(nf.receive_on(LAN, 0, &[&inside]), []);
    assert_eq!(drops(&nf, DropReason::ClearOutput), 2);
    assert_eq!(nf.counters().report().global["IpsecDenyDrop"].packets, 2);
}

#[test]
fn clear_packets_from_outside_do_not_get_in() {
    let peer = Peer::new(0x1000);
    let mut nf = nf(&[route("172.16.0.0/24", None, "protected"), neighbour("172.16.0.9", 9, "protected")], &peer);
    let outside = frame(&udp("203.0.113.1", "172.16.0.9", 64, 8));
    assert_eq!(nf.receive_on(WAN, 0, &[&outside]), []);
    assert_eq!(drops(&nf, DropReason::ClearInput), 1);
    // What is for the host, or for somebody else, is the host's to judge.
    for dst in ["10.10.1.2", "203.0.113.9", "224.0.0.1"] {
        let sent = nf.receive_on(WAN, 0, &[&frame(&udp("203.0.113.1", dst, 64, 8))]);
        assert_eq!(sent[0].0, HOST, "{dst}");
    }
}

#[test]
fn packets_pass_from_one_protected_network_to_another() {
    let peer = Peer::new(0x1000);
    let tables = [
        route("172.16.0.0/24", Some("172.17.0.1"), "protected"),
        neighbour("172.17.0.1", 1, "protected"),
        route("2001:db8:1::/48", Some("fe80::1"), "protected"),
        neighbour("fe80::1", 2, "protected"),
    ];
    let mut nf = nf(&tables, &peer);
    for (src, dst, mac) in [("172.17.0.9", "172.16.0.9", 1), ("2001:db8::9", "2001:db8:1::9", 2)] {
        let packet = udp(src, dst, 64, 8);
        let sent = nf.receive_on(LAN, 0, &[&frame(&packet)]);
        let (port, out) = &sent[0];
        assert_eq!((*port, &out[..6], out.len()), (LAN, &[2, 0, 0, 0, 0, mac][..], 14 + packet.len()));
        assert_eq!(out[14 + if src.contains(':') { 7 } else { 8 }], 63);
        assert_eq!(out[14 + packet.len() - 8..], packet[packet.len() - 8..]);
        let last = frame(&udp(src, dst, 1, 8));
        assert_eq!(nf.receive_on(LAN, 0, &[&last]), []);
    }
    assert_eq!(drops(&nf, DropReason::TtlExpired), 2);
}

#[test]
fn a_router_forwards_what_is_sent_to_it_alone() {
    let peer = Peer::new(0x1000);
    let mut nf =
        nf(&[route("0.0.0.0/0", Some("172.17.0.1"), "protected"), neighbour("172.17.0.1", 1, "protected")], &peer);
    // In promiscuous mode a port sees what a switch floods.
    let mut flooded = frame(&udp("172.17.0.9", "172.16.0.9", 64, 8));
    flooded[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x42]);
    assert_eq!(nf.receive_on(LAN, 0, &[&flooded])[0].0, HOST);
    for dst in ["224.0.0.5", "255.255.255.255", "169.254.1.1", "10.10.1.2", "127.0.0.1", "0.0.0.0"] {
        assert_eq!(nf.receive_on(LAN, 0, &[&frame(&udp("172.17.0.9", dst, 64, 8))])[0].0, HOST, "{dst}");
    }
}

#[test]
fn each_port_has_a_way_to_the_host_and_back() {
    let mut nf = nf_with_taps(&[]);
    let arp = [&[0xFF; 12][..], &[0x08, 0x06], &[0; 46]].concat();
    for (port, host) in [(WAN, WAN_HOST), (LAN, LAN_HOST)] {
        // Unchanged, whatever it is: the host's frames aren't routed.
        for frame in [arp.clone(), frame(&udp("203.0.113.1", "10.10.1.2", 1, 8))] {
            assert_eq!(nf.receive_on(port, 0, &[&frame]), [(host, frame.clone())]);
            assert_eq!(nf.receive_on(host, 0, &[&frame]), [(port, frame)]);
        }
    }
    assert!(nf.counters().is_conserved());
}

#[test]
fn the_hosts_tables_are_the_cores() {
    let mut peer = Peer::new(0x1000);
    let mut nf = nf_with_taps(&[route("172.16.0.0/16", Some("10.9.0.9"), "protected")]);
    let params = peer.params();
    nf.control(|controller| controller.add_sa(params)).unwrap();
    let via = |via: &str| Target::Port { port: LAN, via: Some(via.parse().unwrap()) };
    let neighbour = |address: &str, last| Neighbour {
        address: address.parse().unwrap(),
        mac: MacAddr([2, 0, 0, 0, 0, last]),
        port: LAN,
    };
    let mut tables = HostTables {
        routes: vec![
            Route { dst: "172.16.0.0/24".parse().unwrap(), target: via("10.9.0.1") },
            // The configuration has another way for this one.
            Route { dst: "172.16.0.0/16".parse().unwrap(), target: Target::Nowhere },
        ],
        neighbours: vec![neighbour("10.9.0.9", 9)],
        addresses: vec![HostAddress { address: "10.9.0.254".parse().unwrap(), port: Some(LAN) }],
    };
    nf.controller.set_host_tables(tables.clone());
    assert_eq!(nf.receive_on(WAN, 0, &[&peer.next(), &peer.next()]), []);
    assert_eq!(drops(&nf, DropReason::NoNeighbour), 2);
    nf.tick(Nanos(10));
    let asked = (LAN, "10.9.0.1".parse().unwrap());
    assert_eq!(nf.controller.take_unresolved(), [asked], "once, as both go the same way");

    tables.neighbours.push(neighbour("10.9.0.1", 1));
    nf.controller.set_host_tables(tables.clone());
    assert_eq!(nf.receive_on(WAN, 0, &[&peer.next()])[0].1[..6], [2, 0, 0, 0, 0, 1]);
    // An address of the host is its own, from wherever it is reached.
    let to_host = frame(&udp("172.16.0.9", "10.9.0.254", 64, 8));
    assert_eq!(nf.receive_on(LAN, 0, &[&to_host])[0].0, LAN_HOST);

    tables.routes.remove(0);
    nf.controller.set_host_tables(tables);
    assert_eq!(nf.receive_on(WAN, 0, &[&peer.next()])[0].1[..6], [2, 0, 0, 0, 0, 9], "by the configuration's route");
}

/// Ports with an MTU and addresses, and routes to both networks.
fn nf_with_addresses() -> Nf {
    let port = |role, addresses: &[&str]| NetPort {
        mtu: 1400,
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ..NetPort::new(role, MacAddr::default(), None)
    };
    let ports = [port(Unprotected, &["10.10.1.2"]), port(Protected, &["172.17.0.254", "fe80::254", "2001:db8::254"])];
    let tables = [
        route("172.16.0.0/16", Some("172.17.0.1"), "protected"),
        route("172.17.0.0/24", None, "protected"),
        neighbour("172.17.0.1", 1, "protected"),
        neighbour("172.17.0.9", 9, "protected"),
        route("2001:db8::/64", None, "protected"),
        route("2001:db8:1::/48", Some("2001:db8::1"), "protected"),
        neighbour("2001:db8::1", 2, "protected"),
        neighbour("2001:db8::9", 0x19, "protected"),
    ];
    Nf::with_net_ports(&[PORTS, &tables.concat()].concat(), ports.to_vec())
}

/// The ICMP error in a frame: who sent it, type and code, the word behind them, and what it quotes.
fn icmp(frame: &[u8]) -> (String, [u8; 2], u32, Vec<u8>) {
    let packet = &frame[14..];
    let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
    if packet[0] >> 4 == 4 {
        assert_eq!((packet[9], packet[8]), (1, 64));
        assert!(checksum::is_valid(&packet[..20]) && checksum::is_valid(&packet[20..]));
        assert!(packet.len() <= 576);
        let src = <[u8; 4]>::try_from(&packet[12..16]).unwrap();
        (std::net::Ipv4Addr::from(src).to_string(), [packet[20], packet[21]], word(24), packet[28..].to_vec())
    } else {
        assert_eq!(packet[6], 58);
        assert!(packet.len() <= 1280);
        let pseudo_header = [&packet[8..40], &[0, 0, packet[4], packet[5], 0, 0, 0, 58]].concat();
        assert_eq!(checksum::fold(checksum::sum(&pseudo_header) + checksum::sum(&packet[40..])), 0xFFFF);
        let src = <[u8; 16]>::try_from(&packet[8..24]).unwrap();
        (std::net::Ipv6Addr::from(src).to_string(), [packet[40], packet[41]], word(44), packet[48..].to_vec())
    }
}

#[test]
fn senders_are_told_why_their_packets_end() {
    let mut nf = nf_with_addresses();
    let mut df = udp("172.17.0.9", "172.16.0.9", 64, 1400);
    df[6] = 0x40;
    ipv4::refresh_checksum(&mut df);
    let mut df_forwarded = df.clone();
    assert!(ipv4::decrement_ttl(&mut df_forwarded));
    let mut v6_forwarded = udp("2001:db8::9", "2001:db8:1::9", 64, 1400);
    v6_forwarded[7] = 63;
    let cases = [
        (udp("172.17.0.9", "172.16.0.9", 1, 8), None, [11, 0], 0),
        (udp("172.17.0.9", "192.0.2.1", 64, 8), None, [3, 0], 0),
        (df, Some(df_forwarded), [3, 4], 1400),
        (udp("2001:db8::9", "2001:db8:1::9", 1, 8), None, [3, 0], 0),
        (udp("2001:db8::9", "2001:db8:2::9", 64, 8), None, [1, 0], 0),
        (udp("2001:db8::9", "2001:db8:1::9", 64, 1400), Some(v6_forwarded), [2, 0], 1400),
    ];
    for (number, (packet, quoted, kind, word)) in cases.iter().enumerate() {
        let sent = nf.receive_on(LAN, 0, &[&frame(packet)]);
        let [(port, error)] = sent.as_slice() else { panic!("case {number}: {sent:?}") };
        let is_v4 = packet[0] >> 4 == 4;
        let (src, found, found_word, quote) = icmp(error);
        assert_eq!((*port, error[5]), (LAN, if is_v4 { 9 } else { 0x19 }), "case {number}: to the sender");
        assert_eq!(src, if is_v4 { "172.17.0.254" } else { "2001:db8::254" }, "case {number}");
        assert_eq!((found, found_word), (*kind, *word), "case {number}");
        let expected = quoted.as_ref().unwrap_or(packet);
        assert_eq!(quote, expected[..expected.len().min(if is_v4 { 548 } else { 1232 })], "case {number}");
    }
    let counters = nf.counters();
    assert!(counters.is_conserved());
    assert_eq!(counters.originated.packets, 6);
    for why in [DropReason::TtlExpired, DropReason::NoRoute, DropReason::MtuExceeded] {
        assert_eq!(counters.drops(why).packets, 2, "{why:?}");
    }
}

/// A host that doesn't answer is asked for a while before anybody is told that it can't be reached.
#[test]
fn senders_are_told_of_hosts_that_do_not_answer() {
    let mut nf = nf_with_addresses();
    for (packet, kind) in
        [(udp("172.17.0.9", "172.17.0.77", 64, 8), [3, 1]), (udp("2001:db8::9", "2001:db8::77", 64, 8), [1, 3])]
    {
        let start = nf.now.0;
        for second in 0..3 {
            nf.now = Nanos(start + second * Nanos::SECOND);
            assert_eq!(nf.receive_on(LAN, 0, &[&frame(&packet)]), [], "second {second}");
        }
        nf.now = Nanos(start + 3 * Nanos::SECOND);
        let sent = nf.receive_on(LAN, 0, &[&frame(&packet)]);
        assert_eq!(sent.iter().map(|(_, error)| icmp(error).1).collect::<Vec<_>>(), [kind]);
    }
    assert_eq!(drops(&nf, DropReason::NoNeighbour), 8);
}

/// RFC 1812 4.3.2.7, RFC 4443 2.4(e).
#[test]
fn there_are_no_errors_about_errors_groups_and_fragments() {
    let mut nf = nf_with_addresses();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = udp("172.17.0.9", "172.16.0.9", 1, 8);
        change(&mut packet);
        ipv4::refresh_checksum(&mut packet);
        packet
    };
    let icmp = |kind: u8| with(&move |packet| (packet[9], packet[20]) = (1, kind));
    let mut silent = vec![
        with(&|packet| packet[7] = 1),
        with(&|packet| packet[6] = 0x20),
        with(&|packet| packet[12] = 224),
        with(&|packet| packet[12..16].fill(0)),
        with(&|packet| packet[12] = 127),
    ];
    silent.extend([3, 5, 11, 12].map(icmp));
    let mut v6 = udp("2001:db8::9", "2001:db8:1::9", 1, 8);
    (v6[6], v6[40]) = (58, 2);
    silent.push(v6.clone());
    for packet in &silent {
        assert_eq!(nf.receive_on(LAN, 0, &[&frame(packet)]), [], "{packet:?}");
    }
    // A ping is a query.
    v6[40] = 128;
    for packet in [icmp(8), v6] {
        assert_eq!(nf.receive_on(LAN, 0, &[&frame(&packet)]).len(), 1);
    }
    assert_eq!(drops(&nf, DropReason::TtlExpired), silent.len() as u64 + 2);
}

#[test]
fn errors_are_limited_in_rate() {
    let mut nf = nf_with_addresses();
    let expired = frame(&udp("172.17.0.9", "172.16.0.9", 1, 8));
    let mut sent = |now: Nanos| {
        nf.now = now;
        (0..40).map(|_| nf.receive_on(LAN, 0, &[&expired]).len()).sum::<usize>()
    };
    assert_eq!(sent(Nanos(1)), 20);
    assert_eq!(sent(Nanos(1 + Nanos::SECOND / 10)), 10, "a hundred a second");
    assert_eq!(drops(&nf, DropReason::TtlExpired), 80);
    // A burst of them is bounded by the places as well.
    let mut nf = nf_with_addresses();
    assert_eq!(nf.receive_on(LAN, 0, &[expired.as_slice(); 64]).len(), 8);
}

#[test]
fn what_may_be_cut_is_cut() {
    let mut nf = nf_with_addresses();
    let packet = udp("172.17.0.9", "172.16.0.9", 64, 3000);
    let sent = nf.receive_on(LAN, 0, &[&frame(&packet)]);
    let lengths: Vec<usize> = sent.iter().map(|(_, frame)| frame.len() - 14).collect();
    assert_eq!(lengths, [1396, 1396, 20 + 256]);
    assert!(sent.iter().all(|(port, frame)| *port == LAN && frame[..6] == [2, 0, 0, 0, 0, 1] && frame[22] == 63));
    let payload: Vec<u8> = sent.iter().flat_map(|(_, frame)| frame[34..].to_vec()).collect();
    assert_eq!(payload, packet[20..]);
    assert!(nf.counters().is_conserved());
    assert_eq!((nf.counters().originated.packets, nf.counters().tx.packets), (2, 3));
}

/// What came out of a tunnel has its answer go back into one, or nowhere.
#[test]
fn errors_about_tunnelled_packets_do_not_leave_in_clear() {
    let peer = Peer::new(0x1000);
    let port = |role, address: &str| NetPort {
        addresses: vec![address.parse().unwrap()],
        ..NetPort::new(role, MacAddr::default(), None)
    };
    let tables = [route("192.168.1.0/24", Some("10.10.1.1"), "unprotected"), neighbour("10.10.1.1", 1, "unprotected")];
    let ports = vec![port(Unprotected, "10.10.1.2"), port(Protected, "172.17.0.254")];
    let mut nf = Nf::with_net_ports(&[PORTS, &tables.concat()].concat(), ports);
    let (mut peer, params) = (peer.clone(), peer.params());
    nf.control(|controller| controller.add_sa(params)).unwrap();
    assert_eq!(nf.receive_on(WAN, 0, &[&peer.next()]), []);
    assert_eq!((drops(&nf, DropReason::NoRoute), drops(&nf, DropReason::ClearOutput)), (1, 1));
    assert_eq!(nf.counters().originated.packets, 1);
}
