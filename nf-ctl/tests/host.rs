//! nf-core with the host's stack behind its ports: ARP, ping, IKE, routes and neighbours, in network namespaces. It needs
//! root: `make test` runs it where it is root, and says so where it isn't.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
mod lab;

use std::time::Duration;

use common::Daemon;
use lab::connection::{Connection, Side};
use lab::netns::Namespace;
use lab::{BRANCH, GATEWAY, HEAD, INSIDE, Lab, PEER, wait_for};

/// Tries a command in a namespace until it succeeds.
fn until(namespace: &Namespace, script: &str, daemon: &Daemon) -> String {
    lab::until(namespace, script, || format!("{}\n{}", daemon.log(), daemon.ok(&["show", "counters"])))
}

fn link(lab: &Lab, interface: &str, file: &str) -> String {
    lab.head.sh(&format!("cat /sys/class/net/{interface}/{file}")).trim().to_owned()
}

#[test]
#[ignore = "needs root"]
fn the_hosts_stack_answers_behind_the_port() {
    let lab = Lab::new();
    let nf_core = lab.nf_core_as_host("mtu = 1400");
    for (interface, of, mtu) in [("wan-host", "wan", "1500"), ("lan-host", "lan", "1400")] {
        assert_eq!(link(&lab, interface, "address"), link(&lab, of, "address"));
        assert_eq!(link(&lab, interface, "mtu"), mtu);
    }
    // ARP, ICMP and TCP, from either side and from the host.
    until(&lab.peer, &format!("ping -c 1 -W 1 {HEAD}"), &nf_core);
    until(&lab.inside, &format!("ping -c 1 -W 1 {GATEWAY}"), &nf_core);
    until(&lab.head, &format!("ping -c 1 -W 1 {PEER}"), &nf_core);
    let server =
        format!("import socket; s = socket.create_server((\"{HEAD}\", 8080)); s.accept()[0].sendall(b\"here\")");
    let mut server = lab.head.command("python3").args(["-c", &server]).spawn().unwrap();
    let said = until(&lab.peer, &format!("cat < /dev/tcp/{HEAD}/8080"), &nf_core);
    assert_eq!(said, "here");
    server.wait().unwrap();
    let seen = lab.peer.sh(&format!("ip neigh show {HEAD}"));
    assert!(seen.contains(&link(&lab, "wan", "address")), "the host goes by the port's address: {seen}");
    assert!(nf_core.stop().0.success());
}

/// What comes out of a tunnel follows the host's routes, and its neighbours are found.
#[test]
#[ignore = "needs root"]
fn a_tunnel_by_the_hosts_charon_and_routes() {
    let lab = Lab::new();
    let nf_core = lab.nf_core_as_host("");
    let (peer, head) = (lab.peer_charon(), lab.head_charon_on(&nf_core));
    peer.load(&[Connection::new(Side::Peer)]);
    head.load(&[Connection::new(Side::Head)]);
    peer.initiate("gw");
    let inside = lab.watch_inside();
    let ping = lab.ping(Duration::from_millis(20));
    let state =
        || format!("{}\n{}\n{}", nf_core.ok(&["show", "counters"]), nf_core.log(), lab.head.sh("ip neigh; ip route"));
    wait_for("pings inside", || (inside.echo_requests().len() > 10).then_some(()), state);
    assert!(nf_core.dropped(220) >= 1, "the first one found no neighbour");
    // The host changes its mind, and the cores with it.
    lab.head.sh(&format!("ip route add blackhole {INSIDE}/32"));
    wait_for("no route", || (nf_core.dropped(213) > 0).then_some(()), state);
    lab.head.sh(&format!("ip route del blackhole {INSIDE}/32"));
    let before = inside.echo_requests().len();
    wait_for("the route again", || (inside.echo_requests().len() > before + 5).then_some(()), state);
    drop(ping);
}

/// The address of the peer's gateway for the branch's host.
const BRANCH_GATEWAY: &str = "10.1.0.254";
/// What is fetched, in octets.
const FILE: usize = 300_000;

/// The SAs of one end, in and out.
fn sas(own: &str, other: &str, spis: [u32; 2], own_net: &str, other_net: &str) -> String {
    let [incoming, outgoing] = spis;
    let sa = |spi: u32, direction: &str, [src, dst]: [&str; 2], [inner_src, inner_dst]: [&str; 2]| {
        let key = format!("{spi:08x}").repeat(5);
        format!(
            r#"
[[sa]]
spi = {spi}
direction = "{direction}"
src = "{src}"
dst = "{dst}"
mode = "tunnel"
alg = "aes-gcm-16"
key = "{key}"
selectors = {{ src = ["{inner_src}"], dst = ["{inner_dst}"] }}
"#
        )
    };
    sa(incoming, "in", [other, own], [other_net, own_net]) + &sa(outgoing, "out", [own, other], [own_net, other_net])
}

/// Two nf-cores, a host behind each, and a file that one fetches from the other: both ways through the tunnel, with what
/// routers do for hosts that know nothing of it.
#[test]
#[ignore = "needs root"]
fn a_file_is_fetched_through_a_tunnel_both_ways() {
    const INSIDE_NET: &str = "10.2.0.0/24";
    const BRANCH_NET: &str = "10.1.0.0/24";
    let lab = Lab::new();
    let branch = Namespace::new("branch");
    lab.peer.join(&branch, "lan");
    lab.peer.sh("ip addr flush dev lo scope global");
    branch.sh(&format!("ip addr add {BRANCH}/24 dev lan; ip route add default via {BRANCH_GATEWAY}"));
    lab.inside.sh(&format!("ip route add default via {GATEWAY}"));
    Lab::checksums(&[&lab.peer, &lab.head, &lab.inside, &branch]);
    let head = Lab::router(&lab.head, HEAD, GATEWAY, &sas(HEAD, PEER, [0x1001, 0x1002], INSIDE_NET, BRANCH_NET));
    let peer = Lab::router(&lab.peer, PEER, BRANCH_GATEWAY, &sas(PEER, HEAD, [0x1002, 0x1001], BRANCH_NET, INSIDE_NET));
    lab.head.sh(&format!("ip route add {BRANCH_NET} via {PEER}"));
    lab.peer.sh(&format!("ip route add {INSIDE_NET} via {HEAD}"));

    let server = lab.serve_inside(FILE);
    until(&branch, &format!("ping -c 1 -W 1 {INSIDE}"), &head);

    // TCP's packets fill the MTU and may not be cut: the server is told what the tunnel takes.
    let fetched = until(&branch, &server.fetch(""), &head);
    assert_eq!(fetched.trim(), FILE.to_string(), "{}", head.ok(&["show", "counters"]));
    assert!(head.dropped(48) > 0, "the first full packet was too long: {}", head.ok(&["show", "counters"]));
    assert!(lab.inside.sh(&format!("ip route get {BRANCH}")).contains("mtu 14"), "the server knows the path's MTU");
    // What may be cut is cut on its way out, and is whole again at the other end.
    let cut = |daemon: &Daemon| daemon.counters()["originated"]["packets"].as_u64().unwrap();
    let before = cut(&peer);
    until(&branch, &format!("ping -c 1 -W 1 -M dont -s 1472 {INSIDE}"), &peer);
    assert!(cut(&peer) > before, "1500 octets and what ESP adds are two fragments");
    // A hop that is too far is told by the router that it ends at.
    let expired = branch.command("ping").args(["-c", "1", "-W", "2", "-t", "1", INSIDE]).output().unwrap();
    let said = String::from_utf8_lossy(&expired.stdout).into_owned();
    assert!(said.contains(&format!("From {BRANCH_GATEWAY}")) && said.contains("Time to live exceeded"), "{said}");
    for daemon in [head, peer] {
        let counters = daemon.counters();
        assert_eq!(daemon.dropped(223), 0, "nothing tried to leave in clear: {counters}");
        assert!(daemon.stop().0.success());
    }
}
