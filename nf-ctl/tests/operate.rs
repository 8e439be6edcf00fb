//! A running nf-core as an operator sees and changes it: metrics, telemetry, reload, roles, the record of changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Daemon, fixture};
use nf_core::drop::DropReason;
use nf_core::metrics::{Family, Kind};
use serde_json::{Value, json};

const CAPTURE: &str = "v4-tunnel-gcm128";

/// The capture, played over and over.
fn looping(more: &str) -> String {
    common::looping(&fixture(&format!("{CAPTURE}.pcap")), more)
}

/// The capture's SA as a table, without replay protection as the capture comes again and again.
fn sa_table(peer: &str) -> String {
    let text = fs::read_to_string(fixture(&format!("{CAPTURE}.json"))).unwrap();
    let mut sa = serde_json::from_str::<Value>(&text).unwrap()["sas"][0].clone();
    sa["replay_window"] = 0.into();
    sa["peer"] = peer.into();
    let fields = sa.as_object().unwrap().iter().filter(|(_, value)| !value.is_object());
    format!("[[sa]]\n{}", fields.map(|(key, value)| format!("{key} = {value}\n")).collect::<String>())
}

fn get(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: nf-core\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{reply}");
    body.to_owned()
}

/// Prometheus' own parser for OpenMetrics; prints all samples as `[[name, labels, value], ..]`.
const PARSER: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
print(json.dumps([[s.name, s.labels, s.value] for f in text_string_to_metric_families(sys.stdin.read()) for s in f.samples]))
";

fn samples(text: &str) -> Vec<(String, Value, f64)> {
    // Debian's python, which has Debian's modules.
    let mut parser = Command::new("/usr/bin/python3")
        .args(["-c", PARSER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 and python3-prometheus-client are there: make deps-test");
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = parser.wait_with_output().unwrap();
    assert!(output.status.success(), "not OpenMetrics, or no python3-prometheus-client (make deps-test):\n{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn metrics_are_openmetrics_and_agree_with_the_counters() {
    let mut daemon = Daemon::start(&looping("[metrics]\nlisten = '127.0.0.1:0'\nper_sa = 10\n"));
    daemon.wait("unknown SPIs", |daemon| daemon.dropped(4) > 1000);
    let sa = daemon.dir.path().join("sa.toml");
    fs::write(&sa, sa_table("branch \"7\"")).unwrap();
    daemon.ok(&["sa", "add", "--file", sa.to_str().unwrap()]);
    let log = daemon.log();
    let (_, rest) = log.split_once("address=").unwrap();
    let address = rest.split_whitespace().next().unwrap().to_owned();

    let (before, text, after) = (daemon.dropped(4) as f64, get(&address), daemon.dropped(4) as f64);
    let samples = samples(&text);
    let value = |name: &str, label: &str, wanted: &str| {
        let found = samples.iter().find(|(sample, labels, _)| sample == name && labels[label] == wanted);
        found.unwrap_or_else(|| panic!("no {name}{{{label}={wanted:?}}} in\n{text}")).2
    };
    let unknown = value("nf_core_dropped_packets_total", "reason", "IN_US_V4_PKT_SA_NOT_FOUND_SPI");
    assert!((before..=after).contains(&unknown), "{before} {unknown} {after}");
    for reason in DropReason::ALL {
        value("nf_core_dropped_packets_total", "index", &reason.info().index.to_string());
    }
    assert!(value("nf_core_received_packets_total", "core", "0") >= unknown);
    assert!(value("nf_core_stage_clocks_total", "stage", "parse") > 0.0);
    assert_eq!(value("nf_core_sa_auth_failed_packets_total", "peer", "branch \"7\""), 0.0);
    assert_eq!(value("nf_core_port_up", "role", "unprotected"), 1.0);
    assert_eq!(value("nf_core_invalid_spi_flows", "class", "stuck"), 0.0);
    assert!(samples.iter().any(|(name, _, up)| name == "nf_agent_up" && *up == 0.0), "no agent runs here");
    // A client that sends nothing is nobody's loss.
    let _silent = TcpStream::connect(&address).unwrap();
    assert!(get(&address).ends_with("# EOF\n"));
    assert!(daemon.stop().0.success());
}

/// The dashboard asks for nothing that isn't there.
#[test]
fn each_metric_of_the_dashboard_exists() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/grafana/nf-core.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut asked = Vec::new();
    let mut queries = 0;
    for target in
        dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array()).flatten()
    {
        let query = target["expr"].as_str().unwrap();
        queries += 1;
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        asked.extend(words.filter(|word| word.starts_with("nf_")).map(str::to_owned));
    }
    assert!(queries >= 10 && asked.len() >= queries, "{queries} {asked:?}");
    let exposed: Vec<String> = Family::ALL
        .iter()
        .map(|family| match family.kind() {
            Kind::Counter => format!("{}_total", family.name()),
            Kind::Gauge => family.name().to_owned(),
            Kind::Info => format!("{}_info", family.name()),
        })
        .collect();
    for metric in asked {
        assert!(exposed.contains(&metric), "{metric}");
    }
}

#[test]
fn dpdk_telemetry_knows_nf_core() {
    let mut daemon = Daemon::start(&looping(&sa_table("branch")));
    daemon.wait("packets", |daemon| daemon.counters()["tx"]["packets"].as_u64().unwrap() > 1000);
    // DPDK's client, as Debian has it. The socket is in the runtime directory, which is named after the control socket.
    let pid = daemon.child.id();
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let ours = |path: &&str| path.contains("/nf-core-") && path.contains("dpdk_telemetry.v2");
    let prefixes = sockets.lines().filter_map(|line| line.split_whitespace().last()).filter(ours);
    let mut answered = None;
    for path in prefixes {
        let prefix = Path::new(path).parent().unwrap().file_name().unwrap().to_str().unwrap();
        let ask = |commands: &str| {
            let mut client = Command::new("dpdk-telemetry.py")
                .args(["-f", prefix])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("dpdk-telemetry.py is there: make deps-test");
            client.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
            String::from_utf8(client.wait_with_output().unwrap().stdout).unwrap()
        };
        let info: String = ask("/info\nquit\n").split_whitespace().collect();
        if info.contains(&format!("\"pid\":{pid},")) || info.contains(&format!("\"pid\":{pid}}}")) {
            answered =
                Some(ask("/nf_core/stats\n/nf_core/drops\n/nf_core/sas\n/nf_core/sas,0x1\n/nf_core/sas,ab\nquit\n"));
        }
    }
    let answered = answered.unwrap_or_else(|| panic!("no telemetry socket of {pid} in\n{sockets}"));
    let answers: String = answered.split_whitespace().collect();
    assert!(answers.contains("\"rx_packets\":") && answers.contains("\"sas\":1"), "{answered}");
    assert!(answers.contains("\"IN_US_V4_PKT_SA_NOT_FOUND_SPI\":0"), "{answered}");
    assert!(answered.contains("there is no SA with SPI 0x00000001(1)"), "{answered}");
    assert!(answered.contains("the parameter isn't an SPI"), "{answered}");
    assert!(daemon.stop().0.success());
}

/// What a reload can bring and take away.
const ONE_OF_EACH: &str = r#"
[[plugin]]
instance = "cap"
plugin = "capture"
settings = { memory = 4 }
bind = [{ gate = "egress" }]
[[route]]
dst = "0.0.0.0/0"
via = "10.99.0.1"
port = "net_null0"
[[neighbour]]
address = "10.99.0.1"
mac = "02:00:00:00:99:01"
port = "net_null0"
[[policy]]
dst = ["192.168.77.0/24"]
action = "protect"
[[sa]]
spi = 0x7777
direction = "out"
src = "10.10.1.2"
dst = "203.0.113.77"
mode = "tunnel"
alg = "aes-gcm-16"
key = "7777777777777777777777777777777777777777"
[[event]]
name = "replays"
on = "replay"
command = ["/bin/true"]
"#;

#[test]
fn a_reload_under_traffic_loses_no_packet() {
    let mut daemon = Daemon::start(&looping(&sa_table("one")));
    let sent = |daemon: &Daemon| daemon.counters()["tx"]["packets"].as_u64().unwrap();
    let file = daemon.dir.path().join("nf.toml");
    let original = fs::read_to_string(&file).unwrap();
    let mut last = 0;
    for round in 0..6 {
        daemon.wait("more packets", |daemon| sent(daemon) > last + 1000);
        last = sent(&daemon);
        // The same key under another name: the SA is exchanged in place. And one of everything comes and goes.
        let renamed = original.replace("\"one\"", &format!("\"peer-{round}\""));
        let comes = round % 2 == 0;
        fs::write(&file, renamed + if comes { ONE_OF_EACH } else { "" }).unwrap();
        if round < 5 {
            let told = daemon.ok(&["reload"]);
            let (added, removed) = (u8::from(comes), u8::from(!comes));
            assert!(told.contains(&format!("SAs: {added} added, 1 changed, {removed} removed")), "{told}");
            assert!(told.contains("taken over: [[policy]], [[route]], [[neighbour]], [[event]]"), "{told}");
            assert_eq!(daemon.ok(&["event", "list"]).contains("hook replays"), comes);
        } else {
            let kill = format!("kill -HUP {}", daemon.child.id());
            assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
            daemon.wait("the reload by SIGHUP", |daemon| daemon.ok(&["sa", "list"]).contains("peer-5"));
        }
    }
    let before = sent(&daemon);
    daemon.wait("more packets", |daemon| sent(daemon) > before + 1000);
    let drops: Vec<Value> = serde_json::from_value(daemon.counters()["feature"].clone()).unwrap();
    let dropped: Vec<&Value> = drops.iter().filter(|row| row["packets"] != 0).collect();
    assert!(dropped.is_empty(), "{dropped:?}");

    fs::write(&file, original.replace("idle = \"sleep\"", "idle = \"spin\"")).unwrap();
    let refused = daemon.ctl(&["--json", "reload"]);
    assert_eq!(refused.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&refused.stderr).unwrap();
    assert_eq!(error["code"], 1);
    assert!(error["error"].as_str().unwrap().contains("[eal] idle can't change while nf-core runs"), "{error}");
    assert!(daemon.stop().0.success());
}

#[test]
fn who_may_only_look_changes_nothing_and_is_recorded() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: roles of other users: only root can be another user");
        return;
    }
    const NOBODY: u32 = 65_534;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Where another user may run it.
    let program = dir.path().join("nf-ctl");
    fs::copy(env!("CARGO_BIN_EXE_nf-ctl"), &program).unwrap();
    let control = "mode = \"0666\"\ngroup = \"0\"\nadmins = [\"%4711\"]\naudit_file = \"{dir}/audit.jsonl\"\n";
    let daemon = Daemon::start(&format!("{control}{}", looping("")));
    fs::set_permissions(daemon.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let ctl = |group: u32, args: &[&str]| {
        Command::new(&program).uid(NOBODY).gid(group).arg("--socket").arg(daemon.socket()).args(args).output().unwrap()
    };
    assert!(ctl(NOBODY, &["show", "status"]).status.success());
    let refused = ctl(NOBODY, &["show", "platform", "hardware", "qfp", "active", "statistics", "drop", "clear"]);
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8(refused.stderr).unwrap();
    let wanted = "nf-ctl: user 65534 may look at nf-core and change nothing; [control] admins names who may\n";
    assert_eq!(message, wanted);
    assert!(
        ctl(4711, &["plugin", "bind", "capture", "--instance", "cap", "--gate", "drop", "--set", "memory=4"])
            .status
            .success()
    );
    daemon.ok(&["plugin", "unbind", "cap"]);

    let shown: Vec<Value> = serde_json::from_str(&daemon.ok(&["--json", "show", "audit"])).unwrap();
    let entries: Vec<(&Value, &Value, &Value)> =
        shown.iter().map(|entry| (&entry["uid"], &entry["request"], &entry["result"])).collect();
    let (nobody, root) = (&json!(NOBODY), &json!(0));
    assert_eq!(
        entries,
        [
            (nobody, &json!("counters-clear"), &json!("denied")),
            (nobody, &json!("plugin-bind \"cap\" of \"capture\" to \"drop\""), &json!("done")),
            (root, &json!("plugin-unbind \"cap\" from all gates"), &json!("done")),
        ]
    );
    let file = fs::read_to_string(daemon.dir.path().join("audit.jsonl")).unwrap();
    let written: Vec<Value> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(written, shown);
    let mode = fs::metadata(daemon.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
}
