//! Reserved SPIs, events and hooks of a running nf-core, operated by nf-ctl, on virtual ports.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{Daemon, fixture, looping};
use serde_json::Value;

fn sa() -> Value {
    let text = fs::read_to_string(fixture("v4-tunnel-gcm128.json")).unwrap();
    let mut sa = serde_json::from_str::<Value>(&text).unwrap()["sas"][0].clone();
    // The capture comes again and again.
    sa["replay_window"] = 0.into();
    sa["peer"] = "branch".into();
    sa
}

/// CSCty30063 on the way that IKE takes: the SPI reserved, packets on it, then the SA. The events come as it happens.
#[test]
fn packets_on_a_reserved_spi_wait_for_their_sa() {
    let mut daemon = Daemon::start(&looping(
        &fixture("v4-tunnel-gcm128.pcap"),
        "[sad]\nlarval_spi_packets = 8\nlarval_age_ms = 60000\n",
    ));
    daemon.wait("unknown SPIs", |daemon| daemon.dropped(4) > 100);
    let mut monitor = Command::new(env!("CARGO_BIN_EXE_nf-ctl"))
        .arg("--socket")
        .arg(daemon.dir.path().join("nf.sock"))
        .args(["--json", "monitor"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
    let mut events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let invalid = events.next().unwrap();
    assert_eq!((&invalid["kind"], &invalid["src"]), (&"invalid-spi".into(), &"10.1.1.1".into()));

    let sa = sa();
    let spi = sa["spi"].as_u64().unwrap().to_string();
    let reserved = daemon.ok(&["sa", "reserve", "--dst", "10.10.1.2", "--spi", &spi, "--lifetime", "600"]);
    assert_eq!(reserved, format!("0x{:08X}\n", sa["spi"].as_u64().unwrap()));
    let unknown = daemon.dropped(4);
    // Eight are held, and what is more than that has a reason of its own.
    daemon.wait("a full queue", |daemon| daemon.dropped(218) > 1000);
    assert_eq!(daemon.dropped(4), unknown, "early is not unknown");
    assert!(daemon.ok(&["sa", "show", &spi]).contains("state: larval"));

    let file = daemon.dir.path().join("sa.json");
    fs::write(&file, sa.to_string()).unwrap();
    daemon.ok(&["sa", "add", "--file", file.to_str().unwrap()]);
    let full = daemon.dropped(218);
    let sent = |daemon: &Daemon| daemon.counters()["tx"]["packets"].as_u64().unwrap();
    daemon.wait("decapsulated packets", |daemon| sent(daemon) > 1000);
    assert_eq!((daemon.dropped(4), daemon.dropped(217), daemon.dropped(218)), (unknown, 0, full));
    let first = events.find(|event| event["kind"] == "sa-first-packet").unwrap();
    assert_eq!((&first["spi"], &first["peer"]), (&sa["spi"], &"branch".into()));

    // Nothing is left over: each packet that was received is accounted for, the eight among them.
    daemon.ok(&["sa", "del", &spi]);
    assert!(daemon.stop().0.success());
    let last = monitor.wait_with_output().unwrap();
    assert_eq!(last.status.code(), Some(1), "the daemon has said that it ends");
}

#[test]
fn a_hook_keeps_evidence_and_calls_for_help() {
    let hooks = r#"
[snapshot]
directory = "{dir}/snapshots"
keep = 2
[[event]]
name = "black-hole"
on = "invalid-spi"
match = { src = "10.1.1.0/24" }
count = 50
cool_down_s = 86400
snapshot = true
command = ["/bin/sh", "-c", "cp $NF_SNAPSHOT/event.json $0", "{dir}/called"]
[[event]]
name = "fails"
on = "recovery-failed"
command = ["/bin/false"]
[[event]]
name = "elsewhere"
on = "invalid-spi"
match = { src = "192.0.2.0/24" }
snapshot = true
"#;
    let mut daemon = Daemon::start(&looping(&fixture("v4-tunnel-gcm128.pcap"), hooks));
    let called = daemon.dir.path().join("called");
    daemon.wait("the command", |_| called.exists());
    daemon.wait("the run's end", |daemon| !daemon.ok(&["event", "history"]).contains("under way"));
    let history = daemon.ok(&["event", "history"]);
    assert!(history.starts_with("run 1 of hook black-hole\n") && history.contains("snapshot: done: "), "{history}");

    let snapshots = || {
        let entries = fs::read_dir(daemon.dir.path().join("snapshots")).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let first = snapshots();
    assert_eq!(first.len(), 1);
    let read = |name: &str| serde_json::from_slice::<Value>(&fs::read(first[0].join(name)).unwrap()).unwrap();
    assert_eq!(fs::read(&called).unwrap(), fs::read(first[0].join("event.json")).unwrap());
    assert_eq!(read("event.json")["kind"], "invalid-spi");
    assert!(read("counters.json")["global"]["IpsecInput"]["packets"].as_u64().unwrap() > 0);
    assert_eq!(read("sas.json"), Value::Array(Vec::new()));
    assert_eq!(read("invalid-spi.json")["flows"][0]["src"], "10.1.1.1");
    assert!(read("recovery.json")["unavailable"].is_string(), "no agent runs here, and the snapshot says so");
    // The dropped packets themselves, each with its reason.
    let capture = fs::read(first[0].join("drops.pcapng")).unwrap();
    assert_eq!(capture[..4], [0x0A, 0x0D, 0x0D, 0x0A]);
    let text = String::from_utf8_lossy(&capture);
    assert!(text.contains("4 IN_US_V4_PKT_SA_NOT_FOUND_SPI: No SA has the packet's SPI"), "no drop is in it");

    let tested = daemon.ok(&["event", "test", "black-hole"]);
    assert!(tested.contains("of hook black-hole, a test") && tested.contains("command: done"), "{tested}");
    daemon.ok(&["event", "test", "black-hole"]);
    assert_eq!(snapshots().len(), 2, "no more are kept than may be");
    assert!(!snapshots().contains(&first[0]), "the oldest has gone");
    let failed = daemon.ctl(&["event", "test", "fails"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("command: FAILED: /bin/false ended with"), "{failed:?}");

    let listed = daemon.ok(&["event", "list"]);
    let ran = |name: &str, times: u64| {
        let line = listed.lines().find(|line| line.starts_with(&format!("hook {name}: "))).unwrap_or_default();
        assert!(line.ends_with(&format!("ran {times} times")), "{listed}");
    };
    ran("black-hole", 3);
    ran("fails", 1);
    ran("elsewhere", 0);
    assert!(daemon.stop().0.success());
}
