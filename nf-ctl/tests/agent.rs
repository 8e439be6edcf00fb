//! The agent with its own IKE, against a real charon: tunnels from either side, rekeys, restarts, refusals, floods. It needs
//! root: `make test` runs it where it is root, and says so where it isn't.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
mod headend;
mod lab;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use headend::HeadEnd;
use lab::charon::{Charon, KeyType};
use lab::connection::{Auth, Connection, Side};
use lab::traffic::{Capture, Ping};
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
fn certificates_prove_who_is_who() {
    for keys in [KeyType::Ecdsa, KeyType::Rsa] {
        let lab = Lab::new();
        let pki = lab.pki(keys);
        let charon = lab.peer_charon();
        pki.give_to(&charon, Side::Peer);
        charon.load(&[Connection::new(Side::Peer).with(|c| c.auth = Auth::Certificates)]);
        let key = pki.key(Side::Head);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let peer = format!(
            "kind = \"svti\"\ncert_file = \"{}\"\nkey_file = \"{}\"\nca_file = \"{}\"\n{}",
            pki.certificate(Side::Head).display(),
            key.display(),
            pki.ca().display(),
            headend::EMBEDDED.replace("psk_file = \"{psk}\"\n", ""),
        );
        let mut head = HeadEnd::without_agent(&lab, &peer, headend::RECOVERY);
        head.start_agent(&lab);
        head.ok(&["ike", "initiate", "branch"]);
        charon.wait_children(1);
        head.ok(&["ike", "delete", "branch"]);
        charon.wait_children(0);
        charon.initiate("gw");
        charon.wait_children(1);
    }
}

/// Ends the pings and looks for each of them. The first may have gone before the tunnel was watched.
fn nothing_lost(ping: Ping, inside: &Capture, head: &HeadEnd) {
    let sent = ping.stop().sent;
    let wanted: Vec<u32> = (1..=sent).collect();
    let last = || inside.echo_requests().last().copied().filter(|last| *last >= sent);
    wait_for("the last ping", last, || head.log());
    let seen = inside.echo_requests();
    let lost: Vec<&u32> = wanted.iter().filter(|number| !seen.contains(number)).collect();
    assert!(lost.iter().all(|number| **number < 3), "lost {lost:?} of {sent}\n{}", head.log());
}

/// We begin a tunnel, and pings of the peer's go through it, at that interval.
fn begin_traffic(lab: &Lab, head: &HeadEnd, interval: Duration) -> (Capture, Ping) {
    head.ok(&["ike", "initiate", "branch"]);
    let inside = lab.watch_inside();
    let ping = lab.ping(interval);
    wait_traffic(&inside, "traffic");
    (inside, ping)
}

#[test]
#[ignore = "needs root"]
fn rekeys_from_either_side_lose_no_packet() {
    let lab = Lab::new();
    let charon = charon(&lab, |_| ());
    let head = HeadEnd::start(&lab, "kind = \"svti\"");
    let (inside, ping) = begin_traffic(&lab, &head, Duration::from_millis(5));
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
    nothing_lost(ping, &inside, &head);
    wait_for("the old SAs to go", || (head.sas() == 1).then_some(()), || head.log());
}

/// Both ways: the first packet to be protected brings the tunnel up, pings from either side are answered, and a rekey from
/// either side costs none of them.
#[test]
#[ignore = "needs root"]
fn a_tunnel_works_both_ways_and_rekeys_lose_no_answer() {
    let lab = Lab::new();
    let charon = charon(&lab, |_| ());
    let more = headend::RECOVERY.to_owned() + &lab.route_to_branch();
    let head = HeadEnd::start_with(&lab, "kind = \"svti\"", &more);
    let outwards = lab.ping_outwards(Duration::from_millis(100));
    charon.wait_children(1);
    wait_for("the outbound SA", || (head.sas_of("out") == 1).then_some(()), || head.log());
    assert!(head.ok(&["show", "recovery"]).contains("traffic to be protected"));
    let early = outwards.stop();
    assert!(early.answered <= early.sent);

    // Whoever pings from now on is answered, always.
    let pings = [lab.ping_outwards(Duration::from_millis(10)), lab.ping(Duration::from_millis(10))];
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(500));
        charon.ok(&["--rekey", "--child", "net"]);
        charon.wait_children(1);
        std::thread::sleep(Duration::from_millis(500));
        head.ok(&["recover", "branch"]);
        charon.wait_children(1);
        std::thread::sleep(Duration::from_millis(500));
        charon.ok(&["--rekey", "--ike", "gw"]);
        charon.wait_children(1);
    }
    std::thread::sleep(Duration::from_millis(500));
    for pinged in pings.map(Ping::stop) {
        // The last one may not have been answered yet.
        assert!(pinged.sent > 300 && pinged.answered + 1 >= pinged.sent, "{pinged:?}\n{}", head.log());
    }
    wait_for("the old SAs to go", || (head.sas_of("out") == 1 && head.sas() == 1).then_some(()), || head.log());
    let shown = head.ok(&["show", "crypto", "ipsec", "sa"]);
    assert!(!shown.contains("#pkts encaps: 0,") && shown.contains("#send errors 0"), "{shown}");
    assert!(head.ok(&["sa", "list"]).lines().any(|line| line.contains(" out 10.10.1.2")));
    head.ok(&["ike", "delete", "branch"]);
    charon.wait_children(0);
    wait_for("nf-core to have no SA", || (head.sas_of("out") + head.sas() == 0).then_some(()), || head.log());
    head.check_no_secret();
}

/// The other rekeys are asked for; this one comes with time, before the shortest lifetime ends.
#[test]
#[ignore = "needs root"]
fn the_agent_rekeys_its_ike_sa_and_loses_no_packet() {
    let lab = Lab::new();
    let charon = charon(&lab, |_| ());
    let head = HeadEnd::start(&lab, "kind = \"svti\"\nike_lifetime_s = 60");
    head.ok(&["ike", "initiate", "branch"]);
    let spis = || {
        let shown: serde_json::Value =
            serde_json::from_str(&head.ok(&["show", "crypto", "ikev2", "sa", "--json"])).unwrap();
        shown[0]["initiator_spi"].clone()
    };
    let first = spis();
    assert!(first.is_string(), "{first}");
    let inside = lab.watch_inside();
    let ping = lab.ping(Duration::from_millis(20));
    wait_traffic(&inside, "traffic");
    wait_for("the rekey of the IKE SA by us", || (spis() != first).then_some(()), || head.log());
    charon.wait_children(1);
    wait_traffic(&inside, "traffic after the rekey");
    nothing_lost(ping, &inside, &head);
}

/// Traffic flows, by one tunnel on both sides, and nothing is left of those before.
fn wait_one_tunnel(head: &HeadEnd, charon: &Charon, inside: &Capture, what: &str) {
    wait_traffic(inside, what);
    charon.wait_children(1);
    wait_for("the old SAs to go", || (head.sas() == 1).then_some(()), || head.log());
}

/// nf-core and the agent are killed and started anew. Nobody helps.
fn traffic_comes_back(change: impl FnOnce(&mut Connection), kills: &[&str]) {
    let lab = Lab::new();
    let charon = charon(&lab, change);
    let mut head = HeadEnd::start(&lab, "kind = \"svti\"");
    let (inside, _ping) = begin_traffic(&lab, &head, Duration::from_millis(20));
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
        wait_one_tunnel(&head, &charon, &inside, &format!("traffic after {kill} was killed"));
    }
    head.check_no_secret();
}

#[test]
#[ignore = "needs root"]
fn traffic_comes_back_after_sigkill() {
    traffic_comes_back(|c| c.dpd_delay_s = 30, &["both", "nf-core", "agent", "both"]);
}

/// The agent is killed while it speaks with the peer, a little later each time: whatever it had done by then, its successor
/// comes to one tunnel. In `nf-ctl/ikev2/tests/hostile.rs` it is every step; here it is charon, sockets and nf-core.
#[test]
#[ignore = "needs root"]
fn an_agent_killed_in_the_middle_of_an_exchange_comes_back() {
    let lab = Lab::new();
    let charon = charon(&lab, |_| ());
    let mut head = HeadEnd::start(&lab, "kind = \"svti\"");
    let inside = lab.watch_inside();
    let _ping = lab.ping(Duration::from_millis(20));
    for delay_ms in [0, 3, 6, 10, 15, 25, 40, 80] {
        let args: &[&str] =
            if head.ikes().is_empty() { &["ike", "initiate", "branch"] } else { &["recover", "branch"] };
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| head.ctl(args));
            std::thread::sleep(Duration::from_millis(delay_ms));
            // Its answer is lost with it, or came before.
            drop(asked);
        });
        head.restart_agent(&lab);
        wait_one_tunnel(&head, &charon, &inside, &format!("traffic after a kill {delay_ms} ms into {args:?}"));
    }
    head.check_no_secret();
}

/// nf-core is killed under traffic and started anew: its SAs are there, and the agent and the peer notice nothing. Tells how many
/// packets that costs, and how long nothing came through.
#[test]
#[ignore = "needs root"]
fn a_kill_of_nf_core_costs_the_packets_of_a_moment() {
    let memory = tempfile::Builder::new().prefix("nf-kill-").tempdir_in("/dev/shm").unwrap();
    let here = memory.path().display();
    let lab = Lab::new();
    let charon = charon(&lab, |_| ());
    let state = format!("{}\n[state]\nfile = \"{here}/run/state\"\nkey = \"{here}/key\"", headend::RECOVERY);
    let mut head = HeadEnd::start_with(&lab, "kind = \"svti\"", &state);
    let (inside, ping) = begin_traffic(&lab, &head, Duration::from_millis(2));
    let before = head.ikes();
    for _ in 0..3 {
        head.restart_core(&lab);
        wait_traffic(&inside, "traffic after nf-core was killed");
        std::thread::sleep(Duration::from_millis(200));
    }
    let sent = ping.stop().sent;
    let seen = inside.seen();
    let pings: Vec<_> = seen.iter().filter(|seen| seen.text.contains("echo request")).collect();
    let gaps: Vec<_> = pings
        .windows(2)
        .filter_map(|pair| {
            let lost = pair[1].number("seq ")?.wrapping_sub(pair[0].number("seq ")? + 1);
            (lost > 0).then(|| format!("{lost} packets in {} ms", (pair[1].at - pair[0].at).as_millis()))
        })
        .collect();
    println!("nf-core killed three times while {sent} pings were sent: lost {}", gaps.join(", "));
    let numbers = inside.echo_requests();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "none came twice: {numbers:?}");
    let same = |ikes: &[serde_json::Value]| ikes.iter().map(|ike| ike["initiator_spi"].clone()).collect::<Vec<_>>();
    assert_eq!(same(&head.ikes()), same(&before), "no IKE was needed\n{}", head.log());
    assert_eq!(head.core.log().matches("its SAs are restored").count(), 3, "{}", head.log());
    charon.wait_children(1);
    head.check_no_secret();
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
            "psk" => c.auth = Auth::Psk("another secret".to_owned()),
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

#[test]
#[ignore = "needs root"]
fn a_dynamic_peer_comes_back_by_its_own_dead_peer_detection() {
    let lab = Lab::new();
    let charon = lab.peer_charon_with("retransmit_tries = 1\nretransmit_timeout = 1.0");
    charon.load(&[Connection::new(Side::Peer).with(|c| {
        // Long enough for a hint to come first.
        c.dpd_delay_s = 10;
        c.dpd_action = "restart".to_owned();
    })]);
    let mut head = HeadEnd::start(&lab, "kind = \"dynamic-map\"\naddress = \"10.10.1.0/24\"");
    assert!(head.refused(&["ike", "initiate", "branch"]).contains("its kind dynamic-map rules out starting one"));
    charon.initiate("gw");
    let inside = lab.watch_inside();
    let _ping = lab.ping(Duration::from_millis(20));
    wait_traffic(&inside, "traffic");
    head.kill_agent();
    head.restart_core(&lab);
    head.restart_agent(&lab);
    let hinted = || head.ok(&["show", "recovery"]).contains("unprotected INVALID_SPI, a hint").then_some(());
    wait_for("a hint", hinted, || head.log());
    assert!(!head.ok(&["show", "recovery"]).contains("new IKE SA"), "no initiation");
    wait_traffic(&inside, "traffic after the peer's dead peer detection");
    // What strongSwan makes of the hint.
    let log = charon.log();
    let about = log.lines().filter(|line| line.contains("INVAL_SPI") || line.contains("unprotected"));
    println!("charon about the hint: {:#?}", about.collect::<Vec<_>>());
}

#[test]
#[ignore = "needs root"]
fn a_million_false_packets_and_forged_messages_change_nothing() {
    let lab = Lab::new();
    let charon = charon(&lab, |_| ());
    let head = HeadEnd::start_with(
        &lab,
        "kind = \"svti\"",
        "[recovery]\ninvalid_spi_recovery = true\nbudget_per_min = 60\nbudget_burst = 40",
    );
    head.ok(&["ike", "initiate", "branch"]);
    let inside = lab.watch_inside();
    let _ping = lab.ping(Duration::from_millis(50));
    wait_traffic(&inside, "traffic");
    let before = head.ikes();
    let ike = lab.watch_ike();
    let start = std::time::Instant::now();
    let (peer, hub) = (lab::PEER.parse().unwrap(), lab::HEAD.parse().unwrap());
    let sent = headend::flood::unknown_spis(&lab.peer, peer, hub, 1_000_000);
    assert!(sent > 900_000, "{sent}");

    // DELETE of the IKE SA, INVALID_SPI and INVALID_IKE_SPI in its name, none of them protected.
    let spis =
        ["initiator_spi", "responder_spi"].map(|name| u64::from_str_radix(before[0][name].as_str().unwrap(), 16));
    let header = |next: u8, payload: &[u8]| {
        let length = u32::try_from(28 + payload.len()).unwrap();
        let spis = spis.clone().map(|spi| spi.unwrap().to_be_bytes()).concat();
        [&spis[..], &[next, 0x20, 37, 0x00], &[0; 4], &length.to_be_bytes(), payload].concat()
    };
    let delete = header(42, &[0, 0, 0, 8, 1, 0, 0, 0]);
    let invalid_spi = header(41, &[0, 0, 0, 12, 0, 0, 0, 11, 0xb7, 0x61, 0x86, 0x3e]);
    let invalid_ike_spi = header(41, &[0, 0, 0, 8, 0, 0, 0, 4]);
    for message in [delete, invalid_spi, invalid_ike_spi] {
        for _ in 0..100 {
            headend::flood::ike(&lab.peer, peer, hub, &message);
        }
    }
    wait_traffic(&inside, "traffic after the flood");
    let ours = ike.seen().iter().filter(|seen| seen.text.contains(&format!("IP {}.", lab::HEAD))).count();
    let granted = 40 + usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    println!("{sent} false packets, {} dropped by nf-core; {ours} IKE messages of {granted}", head.core.dropped(4));
    assert!(ours <= granted, "{ours} of {granted}: {:#?}", ike.seen());
    assert!(head.core.dropped(4) > 1000, "nf-core saw next to nothing of it");
    let after = head.ikes();
    assert_eq!(after[0]["initiator_spi"], before[0]["initiator_spi"], "{}", head.log());
    charon.wait_children(1);
    head.check_no_secret();
}

#[test]
#[ignore = "needs root"]
fn beside_a_living_daemon_the_agent_refuses_to_run() {
    let lab = Lab::new();
    let peer = lab.peer_charon();
    peer.load(&[Connection::new(Side::Peer)]);
    let daemon = lab.head_charon();
    daemon.load(&[Connection::new(Side::Head)]);
    let head = HeadEnd::without_agent(&lab, &format!("{}kind = \"svti\"", headend::EMBEDDED), headend::RECOVERY);
    let output = head.agent_command(&lab).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("charon (pid ") && said.contains("backend = \"vici\""), "{said}");
}

#[test]
#[ignore = "needs root"]
fn a_second_agent_is_refused_and_sigterm_says_goodbye() {
    let lab = Lab::new();
    let charon = charon(&lab, |_| ());
    let mut head = HeadEnd::start(&lab, "kind = \"svti\"\nstart = \"always\"");
    charon.wait_children(1);
    let second = head.agent_command(&lab).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(
        said.contains("another nf-ctl agent (pid ") && said.contains("set [agent] socket to another path"),
        "{said}"
    );
    head.stop_agent();
    charon.wait_children(0);
    assert_eq!(head.sas(), 0, "{}", head.log());
    head.start_agent(&lab);
    charon.wait_children(1);
}

/// The file changes, the agent doesn't end: what stays as it is keeps its SAs, all else is as the file says.
#[test]
#[ignore = "needs root"]
fn a_reload_takes_over_peers_credentials_and_recovery() {
    let lab = Lab::new();
    let charon = charon(&lab, |_| ());
    let head = HeadEnd::start(&lab, "kind = \"svti\"");
    let (inside, _ping) = begin_traffic(&lab, &head, Duration::from_millis(20));
    let spis = || head.ikes().iter().map(|ike| ike["initiator_spi"].to_string()).collect::<Vec<_>>();
    let first = spis();
    assert_eq!(head.ok(&["reload"]), "nothing has changed\n");

    // A file that can't be used changes nothing, in nf-core neither, and says where it is wrong.
    let line = |head: &HeadEnd, field: &str| {
        let text = fs::read_to_string(head.core.dir.path().join("nf.toml")).unwrap();
        text.lines().position(|line| line.starts_with(field)).unwrap() + 1
    };
    let with_hash = |text: String| text.replace("[recovery]", "[notify]\nbudget_per_min = 7\n[recovery]");
    head.edit(|text| with_hash(text.replace("/psk\"", "/nowhere\"")));
    let refused = head.refused(&["reload"]);
    let wanted = format!("nf.toml:{}: [[peer]] #1 psk_file: ", line(&head, "psk_file"));
    assert!(refused.contains("the agent has changed nothing: ") && refused.contains(&wanted), "{refused}");
    head.edit(|text| text.replace("/nowhere\"", "/psk\"").replace("/agent.sock", "/other.sock"));
    let refused = head.refused(&["reload"]);
    assert!(refused.contains("[agent] socket can't be changed while the agent runs"), "{refused}");
    head.edit(|text| text.replace("/other.sock", "/agent.sock"));
    assert_eq!((head.ok(&["reload"]), spis()), ("taken over: [notify]\n".to_owned(), first.clone()));

    head.edit(|text| text.replace("invalid_spi_recovery = true", "invalid_spi_recovery = false") + "dpd_s = 7\n");
    let told = head.ok(&["reload"]);
    assert_eq!(told, "peers with other settings, whose SAs go on: branch\ntaken over by the agent: [recovery]\n");
    assert!(head.ok(&["show", "recovery"]).contains("disabled"), "{}", head.ok(&["show", "recovery"]));
    assert_eq!(spis(), first);
    wait_traffic(&inside, "traffic after reloads that don't concern it");

    // The file is the same, what it names isn't.
    charon.load(&[Connection::new(Side::Peer).with(|c| c.auth = Auth::Psk("another secret of this test".to_owned()))]);
    head.write_psk("another secret of this test");
    assert_eq!(head.ok(&["reload"]), "peers negotiated anew: branch\n");
    wait_one_tunnel(&head, &charon, &inside, "traffic by the new secret");
    assert_ne!(spis(), first);
    let second = spis();
    assert_eq!(head.ok(&["reload", "agent"]), "nothing has changed\n");
    assert_eq!(spis(), second);

    let mut taken = String::new();
    head.edit(|text| {
        let at = text.find("[[peer]]").unwrap();
        taken = text[at..].to_owned();
        text[..at].to_owned()
    });
    assert_eq!(head.ok(&["reload"]), "peers removed: branch\n");
    charon.wait_children(0);
    assert_eq!((head.sas(), head.sas_of("out"), head.ikes().len()), (0, 0, 0), "{}", head.log());
    assert!(head.refused(&["recover", "branch"]).contains("the agent's configuration has none"));

    head.edit(|text| text + &taken + "start = \"always\"\n");
    head.signal_agent("HUP");
    wait_one_tunnel(&head, &charon, &inside, "traffic with a peer that came by SIGHUP");
    let audit = head.ok(&["show", "audit"]);
    let recorded = |what| audit.lines().any(|line| line.contains("nf-ctl agent") && line.ends_with(what));
    assert!(recorded("done    reload") && recorded("done    reload by SIGHUP"), "{audit}");
    assert!(audit.contains("failed  reload, to see whether it can be: the agent has changed nothing: "), "{audit}");
    head.check_no_secret();
}

#[test]
#[ignore = "needs root"]
fn strongswan_as_the_daemon_is_asked_over_vici() {
    let lab = Lab::new();
    let peer = charon(&lab, |_| ());
    let mut head =
        HeadEnd::without_agent(&lab, "kind = \"svti\"\nbackend = \"vici\"\nconnection = \"gw\"", headend::RECOVERY);
    let mut daemon = lab.head_charon_on(&head.core);
    daemon.load(&[Connection::new(Side::Head)]);
    std::os::unix::fs::symlink(daemon.vici_socket(), head.vici_socket()).unwrap();
    head.start_agent(&lab);
    let inside = lab.watch_inside();
    let _ping = lab.ping(Duration::from_millis(20));
    head.ok(&["ike", "initiate", "branch"]);
    wait_traffic(&inside, "traffic");
    let listed = || (head.ikes().len() == 1 && head.ok(&["ike", "status"]).contains("vici")).then_some(());
    wait_for("the daemon's IKE SA in the agent's list", listed, || head.log());
    head.ok(&["recover", "branch"]);
    wait_traffic(&inside, "traffic after a rekey that the agent asked for");
    // nf-core loses the SAs: the agent has the daemon make new ones.
    head.restart_core(&lab);
    wait_traffic(&inside, "traffic after nf-core was killed");
    head.ok(&["ike", "delete", "branch"]);
    peer.wait_children(0);
    daemon.kill();
    let noticed = || head.ok(&["ike", "status"]).contains("no IKE daemon at").then_some(());
    wait_for("the agent to notice", noticed, || head.ok(&["ike", "status"]));
}
