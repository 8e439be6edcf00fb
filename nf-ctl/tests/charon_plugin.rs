//! charon owns IKE at the head-end, and its SAs are nf-core's by the plugin kernel-nf-core; the peer is a charon by itself.
//! It needs root: `make test` runs it where it is root, and says so where it isn't.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
mod lab;

use std::io::Write;
use std::time::Duration;

use common::Daemon;
use lab::Lab;
use lab::charon::Charon as IkeDaemon;
use lab::connection::{Connection, Side};
use lab::traffic::{Capture, Ping, Pinged};
use nf_core::control::client::Client;
use nf_core::control::proto::{EventKind, EventReport};
use nf_ctl::backend::IkeBackend;
use nf_ctl::vici::Charon;

/// Both gateways, with a connection that both know.
struct Tunnel {
    peer: IkeDaemon,
    head: IkeDaemon,
    nf_core: Daemon,
    inside: Capture,
    lab: Lab,
}

impl Tunnel {
    fn new(change: impl Fn(&mut Connection)) -> Tunnel {
        let lab = Lab::new();
        let nf_core = lab.nf_core("");
        let (peer, head) = (lab.peer_charon(), lab.head_charon_on(&nf_core));
        peer.load(&[Connection::new(Side::Peer).with(&change)]);
        head.load(&[Connection::new(Side::Head).with(&change)]);
        let inside = lab.watch_inside();
        Tunnel { peer, head, nf_core, inside, lab }
    }

    /// The state of everything, for a test that fails.
    fn state(&self) -> String {
        let sas = self.nf_core.ctl(&["sa", "list"]);
        format!(
            "nf-core's SAs:\n{}\nits log:\n{}\nthe head-end's charon:\n{}\n{}\nthe peer's:\n{}",
            String::from_utf8_lossy(&sas.stdout),
            self.nf_core.log(),
            self.head.list_sas(),
            self.head.log(),
            self.peer.list_sas()
        )
    }

    fn wait_pings(&self, more: usize) {
        let wanted = self.inside.echo_requests().len() + more;
        let arrived = || (self.inside.echo_requests().len() >= wanted).then_some(());
        lab::wait_for("pings inside", arrived, || self.state());
    }

    /// Ends the pings and waits until all have arrived, in order.
    fn none_lost(&self, ping: Ping) {
        let sent = ping.stop().sent as usize;
        lab::wait_for("the last ping", || (self.inside.echo_requests().len() >= sent).then_some(()), || self.state());
        let numbers = self.inside.echo_requests();
        assert!(numbers.iter().copied().eq(1..=sent as u32), "{sent} sent; arrived: {numbers:?}\n{}", self.state());
    }
}

/// What is fetched, in octets.
const FILE: usize = 300_000;
const FAST: Duration = Duration::from_millis(5);
const SLOW: Duration = Duration::from_millis(20);

#[test]
#[ignore = "needs root"]
fn a_tunnel_comes_up_from_either_side_and_goes() {
    let tunnel = Tunnel::new(|_| ());
    let ping = tunnel.lab.ping(FAST);
    for initiator in [&tunnel.peer, &tunnel.head] {
        initiator.initiate("gw");
        tunnel.wait_pings(20);
        let sas = tunnel.nf_core.ok(&["sa", "list"]);
        assert!(sas.contains("10.10.1.1") && sas.contains("esp-gcm 128"), "{sas}");
        // charon tells what nf-core counts.
        let shown = tunnel.head.list_sas();
        let counted = shown.lines().find(|line| line.trim_start().starts_with("in ")).unwrap_or_default();
        assert!(counted.contains("packets") && !counted.contains(" 0 packets"), "{shown}");
        initiator.ok(&["--terminate", "--ike", "gw"]);
        let gone = || {
            let list = tunnel.nf_core.ok(&["--json", "sa", "list"]);
            (serde_json::from_str::<serde_json::Value>(&list).unwrap().as_array().unwrap().is_empty()).then_some(())
        };
        lab::wait_for("the SAs to go", gone, || tunnel.state());
    }
    drop(ping);
}

fn rekeys_lose_nothing(version: u8) {
    let tunnel = Tunnel::new(|c| {
        c.version = version;
        c.proposals = "aes128-sha256-ecp256".to_owned();
    });
    tunnel.peer.initiate("gw");
    let ping = tunnel.lab.ping(FAST);
    tunnel.wait_pings(20);
    for side in [&tunnel.peer, &tunnel.head] {
        for what in ["--child", "--ike"] {
            // IKEv1 has no rekeying of its own for the IKE SA.
            if version == 1 && what == "--ike" {
                continue;
            }
            let name = if what == "--child" { "net" } else { "gw" };
            side.ok(&["--rekey", what, name]);
            tunnel.wait_pings(100);
        }
    }
    tunnel.none_lost(ping);
}

#[test]
#[ignore = "needs root"]
fn rekeys_from_either_side_lose_nothing() {
    rekeys_lose_nothing(2);
}

#[test]
#[ignore = "needs root"]
fn rekeys_of_ikev1_lose_nothing() {
    rekeys_lose_nothing(1);
}

/// nf-core counts the packets, charon rekeys; and charon's own timer does the same by seconds.
#[test]
#[ignore = "needs root"]
fn lifetimes_are_kept_without_a_loss() {
    for by_packets in [true, false] {
        let tunnel = Tunnel::new(|c| {
            if c.local == Side::Head {
                c.child_limits = match by_packets {
                    true => "rekey_time = 0s\nrekey_packets = 200\nlife_packets = 100000\nrand_packets = 0".to_owned(),
                    false => "rekey_time = 2s\nlife_time = 60s\nrand_time = 0s".to_owned(),
                };
            }
        });
        tunnel.peer.initiate("gw");
        let ping = tunnel.lab.ping(FAST);
        tunnel.head.wait_log("creating rekey job for CHILD_SA");
        tunnel.head.wait_log("closing CHILD_SA");
        tunnel.wait_pings(20);
        tunnel.none_lost(ping);
    }
}

#[test]
#[ignore = "needs root"]
fn every_transform_works() {
    let tunnel = Tunnel::new(|_| ());
    for (esp, name) in [
        ("aes256gcm16", "esp-gcm 256"),
        ("aes128gcm12", "esp-gcm 128"),
        ("aes192gcm8", "esp-gcm 192"),
        ("chacha20poly1305", "chacha"),
        ("aes128-sha1", "esp-aes"),
        ("aes256-sha256", "sha256"),
        ("aes192-sha384", "sha384"),
        ("aes256-sha512", "sha512"),
    ] {
        for (charon, side) in [(&tunnel.peer, Side::Peer), (&tunnel.head, Side::Head)] {
            charon.load(&[Connection::new(side).with(|c| c.esp_proposals = esp.to_owned())]);
        }
        tunnel.peer.initiate("gw");
        let ping = tunnel.lab.ping(FAST);
        tunnel.wait_pings(5);
        drop(ping);
        let sas = tunnel.nf_core.ok(&["sa", "list"]);
        assert!(sas.contains(name), "{esp}: {sas}");
        tunnel.peer.ok(&["--terminate", "--ike", "gw"]);
    }
}

#[test]
#[ignore = "needs root"]
fn an_nf_core_that_was_killed_gets_new_sas() {
    for version in [2, 1] {
        let mut tunnel = Tunnel::new(|c| {
            c.version = version;
            c.proposals = "aes128-sha256-ecp256".to_owned();
        });
        tunnel.peer.initiate("gw");
        let _ping = tunnel.lab.ping(FAST);
        tunnel.wait_pings(20);
        tunnel.lab.restart_nf_core(&mut tunnel.nf_core);
        tunnel.wait_pings(20);
    }
}

/// nf-core and charon are gone at once: nobody has an SA but the peer, which does nothing by itself. What the agent does with
/// the backend "vici": nf-core tells of the invalid SPI, charon is asked to initiate.
#[test]
#[ignore = "needs root"]
fn a_head_end_that_lost_everything_is_back_by_vici() {
    for version in [2, 1] {
        let change = |c: &mut Connection| {
            c.version = version;
            c.proposals = "aes128-sha256-ecp256".to_owned();
        };
        let mut tunnel = Tunnel::new(change);
        tunnel.peer.initiate("gw");
        let _ping = tunnel.lab.ping(FAST);
        tunnel.wait_pings(20);
        tunnel.head.kill();
        tunnel.lab.restart_nf_core(&mut tunnel.nf_core);
        tunnel.head.restart(&tunnel.lab.head);
        tunnel.head.load(&[Connection::new(Side::Head).with(change)]);
        let mut charon = Charon::new(&tunnel.head.vici_socket());
        assert_eq!(charon.sas(None).unwrap(), []);

        let client = Client::connect(&tunnel.nf_core.socket()).unwrap();
        let mut events = client.subscribe(&[EventKind::InvalidSpi]).unwrap();
        match events.next(Some(lab::PATIENCE)).unwrap() {
            Some(EventReport::InvalidSpi(event)) => assert_eq!(event.src.to_string(), lab::PEER),
            other => panic!("{other:?}"),
        }
        charon.initiate("gw", lab::PATIENCE).unwrap();
        tunnel.wait_pings(20);
        assert_eq!(charon.sas(Some("gw")).unwrap().len(), 1);
    }
}

#[test]
#[ignore = "needs root"]
fn a_charon_that_was_killed_leaves_the_traffic_alone() {
    let mut tunnel = Tunnel::new(|c| c.unique = "replace".to_owned());
    tunnel.peer.initiate("gw");
    let ping = tunnel.lab.ping(FAST);
    tunnel.wait_pings(20);
    tunnel.head.kill();
    tunnel.wait_pings(20);
    tunnel.head.restart(&tunnel.lab.head);
    tunnel.head.load(&[Connection::new(Side::Head).with(|c| c.unique = "replace".to_owned())]);
    tunnel.wait_pings(20);
    let numbers = tunnel.inside.echo_requests();
    assert!(
        numbers.iter().copied().eq(1..=numbers.len() as u32),
        "none is lost so far: {numbers:?}\n{}",
        tunnel.state()
    );
    // It knows nothing of the tunnel; a new one takes its place. The peer drops the old one first, with what is under way.
    tunnel.head.initiate("gw");
    tunnel.peer.wait_children(1);
    tunnel.wait_pings(20);
    drop(ping);
}

/// Pings from the inside host are answered through a tunnel of charon's, and a rekey costs none of the answers. Then the peer
/// fetches a file from a server there.
#[test]
#[ignore = "needs root"]
fn a_tunnel_of_charon_works_both_ways() {
    let lab = Lab::new();
    let nf_core = lab.nf_core(&lab.route_to_branch().replace("peer = \"branch\"\n", ""));
    let (peer, head) = (lab.peer_charon(), lab.head_charon_on(&nf_core));
    peer.load(&[Connection::new(Side::Peer)]);
    head.load(&[Connection::new(Side::Head)]);
    head.initiate("gw");
    peer.wait_children(1);
    let ping = lab.ping_outwards(Duration::from_millis(10));
    for side in [&peer, &head] {
        for (what, name) in [("--child", "net"), ("--ike", "gw")] {
            std::thread::sleep(Duration::from_millis(500));
            side.ok(&["--rekey", what, name]);
            peer.wait_children(1);
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    let pinged = ping.stop();
    // The last one may not have been answered yet.
    assert!(pinged.sent > 100 && pinged.answered + 1 >= pinged.sent, "{pinged:?}\n{}\n{}", head.log(), nf_core.log());
    let sas = nf_core.ok(&["sa", "list"]);
    assert!(sas.lines().any(|line| line.contains(" out 10.10.1.2")), "{sas}");
    Lab::checksums(&[&lab.inside]);
    let server = lab.serve_inside(FILE);
    let state = || format!("{}\n{}", nf_core.log(), nf_core.ok(&["show", "counters"]));
    let fetched = lab::until(&lab.peer, &server.fetch(&format!("--interface {}", lab::BRANCH)), state);
    assert_eq!(fetched.trim(), FILE.to_string());
    let shown = head.list_sas();
    let counted = shown.lines().find(|line| line.trim_start().starts_with("out ")).unwrap_or_default();
    assert!(counted.contains("packets") && !counted.contains(" 0 packets"), "{shown}");
    head.ok(&["--terminate", "--ike", "gw"]);
    let gone = || (nf_core.ok(&["--json", "sa", "list"]).trim() == "[]").then_some(());
    lab::wait_for("the SAs to go", gone, || head.log());
}

/// The peer is behind a NAT, whose mapping changes under the tunnel: the answers follow, and so does the next SA.
#[test]
#[ignore = "needs root"]
fn answers_follow_a_peer_behind_a_nat() {
    let lab = Lab::new();
    // The peer's namespace is the NAT as well: its packets leave with ports of this range.
    let map = |ports: &str| {
        let rules = format!(
            "flush ruleset; table ip nat {{ chain post {{ type nat hook postrouting priority srcnat;
             oifname wan meta l4proto udp masquerade to :{ports}; }}; }}"
        );
        lab.peer.command("nft").arg(rules).output().unwrap()
    };
    let mapped = map("40000-40099");
    if !mapped.status.success() {
        // Not eprintln!, which is only shown when a test fails.
        let why = String::from_utf8_lossy(&mapped.stderr);
        let _ = writeln!(std::io::stderr(), "NOT RUN: a peer behind a NAT: this kernel has none (nft_masq): {why}");
        return;
    }
    let nf_core = lab.nf_core(&lab.route_to_branch().replace("peer = \"branch\"\n", ""));
    let (peer, head) = (lab.peer_charon(), lab.head_charon_on(&nf_core));
    peer.load(&[Connection::new(Side::Peer)]);
    head.load(&[Connection::new(Side::Head)]);
    peer.initiate("gw");
    let outbound = || {
        let sas: serde_json::Value = serde_json::from_str(&nf_core.ok(&["--json", "sa", "list"])).unwrap();
        let mut all = sas.as_array().unwrap().iter().filter(|sa| sa["direction"] == "out");
        let newest = all.next_back().unwrap_or_else(|| panic!("{sas}"));
        (newest["spi"].as_u64().unwrap(), newest["destination"]["port"].as_u64().unwrap())
    };
    let state = || format!("{}\n{}", head.log(), nf_core.log());
    let ping = |from_inside: bool| {
        let ping = if from_inside { lab.ping_outwards(SLOW) } else { lab.ping(SLOW) };
        std::thread::sleep(Duration::from_millis(500));
        let Pinged { sent, answered } = ping.stop();
        // The last ones may not have been answered yet.
        assert!(sent > 10 && answered + 3 >= sent, "{answered} of {sent}: {}", state());
    };
    let (first, port) = outbound();
    assert!((40_000..40_100).contains(&port), "{port}");
    let remember = |seconds| {
        let timeout = "net.netfilter.nf_conntrack_udp_timeout";
        lab.peer.sh(&format!("sysctl -qw {timeout}={seconds} {timeout}_stream={seconds}"));
    };
    remember(2);
    ping(true);

    // The NAT forgets the mapping, and makes another one of the peer's next packet.
    assert!(map("50000-50099").status.success());
    let forgotten = || lab.peer.sh("grep -c 'sport=4500 ' /proc/net/nf_conntrack || true").trim() == "0";
    lab::wait_for("the NAT to forget", || forgotten().then_some(()), state);
    remember(60);
    ping(false);
    let (same, moved) = outbound();
    assert!(same == first && (50_000..50_100).contains(&moved), "{moved}");
    assert!(nf_core.log().contains("the peer has moved: the outbound SA follows"), "{}", state());
    ping(true);

    // charon hears of the other port by IKE; the SA stays, and the one after it follows as well.
    peer.ok(&["--rekey", "--child", "net"]);
    lab::wait_for("the new SA", || (outbound().0 != first).then_some(()), state);
    peer.wait_children(1);
    ping(true);
    assert!((50_000..50_100).contains(&outbound().1));
}

/// What kernel-libipsec can't have as a peer: each charon installs into an nf-core of its own.
#[test]
#[ignore = "needs root"]
fn what_was_negotiated_is_what_nf_core_has() {
    let lab = Lab::new();
    let (nf_core, far) = (lab.nf_core(""), lab.idle_nf_core());
    let (peer, head) = (lab.peer_charon_on(&far), lab.head_charon_on(&nf_core));
    for (charon, side) in [(&peer, Side::Peer), (&head, Side::Head)] {
        let connection = Connection::new(side).with(|c| {
            c.esp_proposals = "aes256-sha256-esn".to_owned();
            c.child_more = "replay_window = 4096".to_owned();
            let wide = |ts: &str| if ts == side.subnet() { ts.to_owned() } else { format!("{ts},10.64.0.0/10") };
            (c.local_ts, c.remote_ts) = match side {
                Side::Head => (c.local_ts.clone(), wide(&c.remote_ts)),
                Side::Peer => (format!("{},10.64.0.0/10", c.local_ts), c.remote_ts.clone()),
            };
        });
        charon.load(&[connection]);
    }
    peer.initiate("gw");
    let sas: serde_json::Value = serde_json::from_str(&nf_core.ok(&["--json", "sa", "list"])).unwrap();
    let inbound = sas.as_array().unwrap().iter().find(|sa| sa["dst"] == "10.10.1.2").unwrap_or_else(|| panic!("{sas}"));
    assert_eq!(
        (&inbound["src"], &inbound["encap"], &inbound["mode"]),
        (&"10.10.1.1".into(), &"none".into(), &"tunnel".into())
    );
    assert_eq!((&inbound["esn"], &inbound["replay_window"]), (&true.into(), &4096.into()), "{sas}");
    let selectors = serde_json::json!({"src": ["10.1.0.1/32", "10.64.0.0/10"], "dst": ["10.2.0.1/32"]});
    assert_eq!(inbound["selectors"], selectors, "{sas}");
    let shown = head.list_sas();
    let spi = format!("in  {:08x}", inbound["spi"].as_u64().unwrap());
    assert!(shown.contains(&spi), "{spi} in {shown}");
}

#[test]
#[ignore = "needs root"]
fn what_nf_core_cannot_do_is_said_and_refused() {
    let tunnel = Tunnel::new(|_| ());
    for (change, reason) in [
        (("esp_proposals", "aes128ctr-sha256"), "nf-core has no AES_CTR"),
        (("esp_proposals", "aes128-md5"), "nf-core has no AES_CBC with HMAC_MD5_96"),
        (("local_ts", "10.2.0.1-10.2.0.6"), "nf-core's selectors are networks, and 10.2.0.1..10.2.0.6 isn't one"),
    ] {
        for (charon, side) in [(&tunnel.peer, Side::Peer), (&tunnel.head, Side::Head)] {
            let connection = Connection::new(side).with(|c| match change {
                ("esp_proposals", proposals) => c.esp_proposals = proposals.to_owned(),
                (_, range) if side == Side::Head => c.local_ts = range.to_owned(),
                (_, range) => c.remote_ts = range.to_owned(),
            });
            charon.load(&[connection]);
        }
        let refused = tunnel.head.swanctl(&["--initiate", "--ike", "gw", "--child", "net"]);
        assert!(!refused.status.success(), "{change:?}");
        tunnel.head.wait_log(reason);
        tunnel.head.swanctl(&["--terminate", "--ike", "gw"]);
    }
}
