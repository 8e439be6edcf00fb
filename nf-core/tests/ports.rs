//! Which port a packet leaves on, by the port that it came in on and by what it is.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Fixture, Nf};
use nf_core::config::PortRole::{Exception, Protected, Unprotected};
use nf_core::drop::DropReason;
use nf_core::types::PortIndex;

const WAN: PortIndex = PortIndex(0);
const LAN: PortIndex = PortIndex(1);
const HOST: PortIndex = PortIndex(2);

fn arp() -> Vec<u8> {
    [&[0xFF; 12][..], &[0x08, 0x06], &[0; 46]].concat()
}

fn leaves(nf: &mut Nf, from: PortIndex, frame: &[u8]) -> Vec<PortIndex> {
    nf.receive_on(from, 0, &[frame]).into_iter().map(|(port, _)| port).collect()
}

#[test]
fn the_hosts_own_traffic_goes_to_its_stack_and_back() {
    let fixture = Fixture::load("v4-tunnel-gcm128");
    let mut nf = Nf::with_ports(&fixture.config, &[Unprotected, Protected, Exception]);
    assert_eq!(leaves(&mut nf, WAN, &arp()), [HOST]);
    assert_eq!(leaves(&mut nf, LAN, &arp()), [HOST]);
    assert_eq!(leaves(&mut nf, HOST, &arp()), [WAN]);
    // The frame goes up as it came.
    assert_eq!(nf.receive_on(WAN, 0, &[&arp()])[0].1, arp());
    assert!(nf.counters().is_conserved());
}

#[test]
fn decapsulated_packets_leave_by_mode() {
    let tunnel = Fixture::load("v4-tunnel-gcm128");
    let mut nf = Nf::with_ports(&tunnel.config, &[Unprotected, Protected, Exception]);
    assert_eq!(leaves(&mut nf, WAN, &tunnel.frames[0]), [LAN]);
    let transport = Fixture::load("v4-transport-gcm128");
    let mut nf = Nf::with_ports(&transport.config, &[Unprotected, Protected, Exception]);
    assert_eq!(leaves(&mut nf, WAN, &transport.frames[0]), [HOST], "it is for the host itself");
}

#[test]
fn esp_that_passes_through_is_the_hosts_to_route() {
    let fixture = Fixture::load("v4-tunnel-gcm128");
    let config = "[[local]]\naddress = \"192.0.2.1\"\n";
    let mut nf = Nf::with_ports(config, &[Unprotected, Protected, Exception]);
    assert_eq!(leaves(&mut nf, WAN, &fixture.frames[0]), [HOST]);
    let mut nf = Nf::with_ports(config, &[Unprotected, Protected]);
    assert_eq!(leaves(&mut nf, WAN, &fixture.frames[0]), []);
    assert_eq!(nf.counters().drops(DropReason::TransitUnknownSpiV4).packets, 1);
}

#[test]
fn esp_from_the_wrong_side_is_refused() {
    let fixture = Fixture::load("v4-tunnel-gcm128");
    let mut nf = Nf::with_ports(&fixture.config, &[Unprotected, Protected, Exception]);
    assert_eq!(leaves(&mut nf, LAN, &fixture.frames[0]), []);
    assert_eq!(nf.counters().drops(DropReason::NotEnabledV4).packets, 1);
}

#[test]
fn without_a_protected_port_there_is_no_way_out() {
    let fixture = Fixture::load("v4-tunnel-gcm128");
    let mut nf = Nf::with_ports(&fixture.config, &[Unprotected]);
    assert_eq!(leaves(&mut nf, WAN, &fixture.frames[0]), []);
    assert_eq!(nf.counters().drops(DropReason::NoRoute).packets, 1);
}

/// An SA's destination is one of our addresses, whatever `[[local]]` says.
#[test]
fn an_sas_destination_is_local() {
    let fixture = Fixture::load("v4-tunnel-gcm128");
    let sa = &fixture.config[fixture.config.find("[[sa]]").unwrap()..];
    let mut nf = Nf::with_ports(&format!("[[local]]\naddress = \"192.0.2.1\"\n{sa}"), &[Unprotected, Protected]);
    assert_eq!(leaves(&mut nf, WAN, &fixture.frames[0]), [LAN]);
}
