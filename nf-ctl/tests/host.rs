//! nf-core with the host's stack behind its ports: ARP, ping, IKE, routes and neighbours, in network namespaces. It needs
//! root: `make test` runs it where it is root, and says so where it isn't.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
mod lab;

use std::time::Duration;

use common::Daemon;
use lab::connection::{Connection, Side};
use lab::{GATEWAY, HEAD, INSIDE, Lab, PEER, wait_for};

/// Tries a command in a namespace until it succeeds.
fn until(namespace: &lab::netns::Namespace, script: &str, daemon: &Daemon) -> String {
    let run = || {
        let output = namespace.command("bash").args(["-ec", script]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    };
    let counters = || daemon.ok(&["show", "counters"]);
    wait_for(script, run, || format!("{}\n{}", daemon.log(), counters()))
}

fn link(lab: &Lab, interface: &str, file: &str) -> String {
    lab.head.sh(&format!("cat /sys/class/net/{interface}/{file}")).trim().to_owned()
}

#[test]
#[ignore = "needs root"]
fn the_hosts_stack_answers_behind_the_port() {
    let lab = Lab::new();
    let nf_core = lab.nf_core_as_host("");
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
