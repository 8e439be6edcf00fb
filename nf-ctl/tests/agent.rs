//! The agent with its own IKE, against a real charon: tunnels from either side, rekeys, restarts, refusals, floods. It needs
//! root: `make test` runs it where it is root, and says so where it isn't.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
mod headend;
mod lab;

use std::time::Duration;

use headend::HeadEnd;
use lab::charon::Charon;
use lab::connection::{Connection, Side};
use lab::traffic::Capture;
use lab::{Lab, wait_for};

/// Waits for pings that come out of the tunnel after those that have come so far.
fn wait_traffic(inside: &Capture, what: &str) {
    let before = inside.echo_requests().len();
    let more = || (inside.echo_requests().len() > before + 5).then_some(());
    wait_for(what, more, || format!("{:?}", inside.echo_requests()));
}

/// The peer's charon, with its connection loaded.
fn charon(lab: &Lab, change: impl FnOnce(&mut Connection)) -> Charon {
    let charon = lab.peer_charon();
    charon.load(&[Connection::new(Side::Peer).with(change)]);
    charon
}

#[test]
#[ignore = "needs root"]
fn a_tunnel_comes_up_from_either_side() {
    let lab = Lab::new();
    let charon = charon(&lab, |_| ());
    let head = HeadEnd::start(&lab, "kind = \"svti\"");
    let inside = lab.watch_inside();
    let _ping = lab.ping(Duration::from_millis(20));

    let said = head.ok(&["ike", "initiate", "branch"]);
    assert!(said.starts_with("recovered after"), "{said}");
    wait_traffic(&inside, "traffic of a tunnel that we started");
    assert!(head.refused(&["ike", "initiate", "branch"]).contains("there is an IKE SA with branch"));
    assert_eq!(head.ok(&["ike", "dpd", "branch"]), "the peer has answered\n");
    let shown = head.ok(&["show", "crypto", "ikev2", "sa"]);
    assert!(shown.contains("10.10.1.2/4500") && shown.contains("READY") && shown.contains("branch.example"), "{shown}");
    let shown = head.ok(&["show", "crypto", "ipsec", "sa", "detail"]);
    assert!(shown.contains("local  ident (addr/mask/prot/port): (10.2.0.1/255.255.255.255/0/0)"), "{shown}");
    assert!(shown.contains("current_peer 10.10.1.1 port 4500") && shown.contains("Tunnel UDP-Encaps"), "{shown}");
    head.ok(&["ike", "delete", "branch"]);
    charon.wait_children(0);
    wait_for("nf-core to have no SA", || (head.sas() == 0).then_some(()), || head.log());

    charon.initiate("gw");
    wait_traffic(&inside, "traffic of a tunnel that the peer started");
    let shown = head.ok(&["show", "crypto", "isakmp", "sa"]);
    assert!(shown.contains("10.10.1.2       10.10.1.1       READY"), "{shown}");
    head.check_no_secret();
}

#[test]
#[ignore = "needs root"]
fn rekeys_from_either_side_lose_no_packet() {
    let lab = Lab::new();
    let charon = charon(&lab, |_| ());
    let head = HeadEnd::start(&lab, "kind = \"svti\"");
    head.ok(&["ike", "initiate", "branch"]);
    let inside = lab.watch_inside();
    let ping = lab.ping(Duration::from_millis(5));
    wait_traffic(&inside, "traffic");
    for _ in 0..3 {
        charon.ok(&["--rekey", "--child", "net"]);
        charon.wait_children(1);
        wait_traffic(&inside, "traffic after a rekey of the CHILD_SA by the peer");
        head.ok(&["recover", "branch"]);
        charon.wait_children(1);
        wait_traffic(&inside, "traffic after a rekey of the CHILD_SA by us");
        charon.ok(&["--rekey", "--ike", "gw"]);
        charon.wait_children(1);
        wait_traffic(&inside, "traffic after a rekey of the IKE SA by the peer");
    }
    let sent = ping.stop().sent;
    let wanted: Vec<u32> = (1..=sent).collect();
    let last = || inside.echo_requests().last().copied().filter(|last| *last >= sent);
    wait_for("the last ping", last, || head.log());
    let seen = inside.echo_requests();
    let lost: Vec<&u32> = wanted.iter().filter(|number| !seen.contains(number)).collect();
    assert!(lost.iter().all(|number| **number < 3), "lost {lost:?} of {sent}\n{}", head.log());
    wait_for("the old SAs to go", || (head.sas() == 1).then_some(()), || head.log());
}

/// nf-core and the agent are killed and started anew. Nobody helps.
fn traffic_comes_back(change: impl FnOnce(&mut Connection), kills: &[&str]) {
    let lab = Lab::new();
    let charon = charon(&lab, change);
    let mut head = HeadEnd::start(&lab, "kind = \"svti\"");
    head.ok(&["ike", "initiate", "branch"]);
    let inside = lab.watch_inside();
    let _ping = lab.ping(Duration::from_millis(20));
    wait_traffic(&inside, "traffic");
    for kill in kills {
        match *kill {
            "nf-core" => head.restart_core(&lab),
            "agent" => head.restart_agent(&lab),
            _ => {
                head.kill_agent();
                head.restart_core(&lab);
                head.restart_agent(&lab);
            }
        }
        wait_traffic(&inside, &format!("traffic after {kill} was killed"));
        charon.wait_children(1);
        wait_for("the old SAs to go", || (head.sas() == 1).then_some(()), || head.log());
    }
    head.check_no_secret();
}

#[test]
#[ignore = "needs root"]
fn traffic_comes_back_after_sigkill() {
    traffic_comes_back(|c| c.dpd_delay_s = 30, &["both", "nf-core", "agent", "both"]);
}

#[test]
#[ignore = "needs root"]
fn traffic_comes_back_where_the_peer_has_no_dead_peer_detection() {
    traffic_comes_back(|c| c.dpd_delay_s = 0, &["both"]);
}

#[test]
#[ignore = "needs root"]
fn what_goes_wrong_is_said_and_not_repeated_in_a_storm() {
    for (more, change, wanted) in [
        ("kind = \"svti\"", "psk", "the peer refused our authentication"),
        ("kind = \"svti\"", "id", "the peer refused our authentication"),
        (
            "kind = \"svti\"\nike_proposals = [\"aes256gcm16-prfsha384-ecp384\"]",
            "",
            "no proposal chosen for the IKE SA",
        ),
        ("kind = \"svti\"\nesp_proposals = [\"aes256gcm16\"]", "", "no proposal chosen for the CHILD_SA"),
        ("kind = \"svti\"", "gone", "the peer doesn't answer"),
    ] {
        let lab = Lab::new();
        let mut charon = charon(&lab, |c| match change {
            "psk" => c.auth = lab::connection::Auth::Psk("another secret".to_owned()),
            "id" => c.local_id = "somebody.example".to_owned(),
            _ => {}
        });
        if change == "gone" {
            charon.kill();
        }
        let head = HeadEnd::start(&lab, more);
        let ike = lab.watch_ike();
        // Packets on an SPI that nobody knows, 50 a second for 5 s.
        lab.peer.sh(&headend::unknown_spis(250, 20));
        wait_for(
            wanted,
            || head.ok(&["show", "recovery"]).contains(wanted).then_some(()),
            || head.ok(&["show", "recovery"]),
        );
        let ours = ike
            .seen()
            .iter()
            .filter(|seen| seen.text.contains("10.10.1.2.") && seen.text.contains("> 10.10.1.1"))
            .count();
        assert!(ours <= 40, "{ours} messages of ours: {:#?}", ike.seen());
        head.check_no_secret();
    }
}
