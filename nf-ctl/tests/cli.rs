//! `nf-ctl` as a process, against a daemon on a real socket: what it prints, and how it ends.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod canned;

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use canned::Daemon;
use nf_core::counters::Report;
use serde_json::{Value, json};

const DROPS: &str = "nf-ctl show platform hardware qfp active statistics drop";
const FEATURES: &str = "nf-ctl show platform hardware qfp active feature ipsec datapath drops";

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// How a refused command ends: its code, and what it says after its name.
fn refusal(output: &Output) -> (i32, String) {
    assert!(output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    (output.status.code().unwrap(), text.trim_end().trim_start_matches("nf-ctl: ").to_owned())
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

#[test]
fn drops_are_counted_filtered_and_cleared() {
    let daemon = Daemon::new();
    let all = stdout(&daemon.shell(DROPS));
    assert_eq!(all.lines().count(), 3 + 7);
    // As scripts in the field do it: by white space.
    let field = |text: &str, name: &str, column: usize| {
        let row = text.lines().find(|line| line.contains(name)).unwrap();
        row.split_whitespace().nth(column).unwrap().to_owned()
    };
    assert_eq!((field(&all, "IpsecInput", 1), field(&all, "IpsecInput", 2)), ("64616".into(), "9304704".into()));
    let features = stdout(&daemon.shell(FEATURES));
    assert_eq!(field(&features, "IN_US_V4_PKT_SA_NOT_FOUND_SPI", 2), "64574");
    assert_eq!(features.lines().count(), 3 + 2, "only what isn't zero");

    let one = all.lines().find(|line| line.contains("IpsecInput")).unwrap().to_owned() + "\n";
    for form in [r"\| include Input", "'| include Input'", r"\| i ^IpsecIn.+[1-9]", "'|inc IpsecInput '"] {
        assert_eq!(stdout(&daemon.shell(&format!("{DROPS} {form}"))), one, "{form}");
    }
    assert_eq!(stdout(&daemon.shell(r"nf-ctl sh plat hard qfp act stat drop \| include Input")), one);
    assert_eq!(stdout(&daemon.shell(&format!("{DROPS} '| include input'"))), "", "patterns tell the case");
    let excluded = stdout(&daemon.shell(&format!("{DROPS} '| exclude 0|--'")));
    assert_eq!(excluded.lines().next().unwrap().split_whitespace().next(), Some("Global"), "headers are lines, too");
    let counted = stdout(&daemon.shell(&format!("{DROPS} '| count ^Ipsec'")));
    assert_eq!(counted, "Number of lines which match regexp = 7\n");

    let last = stdout(&daemon.shell(&format!("{DROPS} clear")));
    assert_eq!(last, all, "what was counted until now");
    let after = stdout(&daemon.shell(DROPS));
    assert_eq!(field(&after, "IpsecInput", 1), "0");
}

#[test]
fn json_is_the_counters_interface() {
    let daemon = Daemon::new();
    for command in [DROPS, FEATURES, "nf-ctl show counters"] {
        for line in [format!("{command} --json"), command.replacen("nf-ctl", "nf-ctl --json", 1)] {
            let json = json(&daemon.shell(&line));
            assert_eq!(json["global"]["IpsecInput"], json!({"packets": 64_616, "octets": 9_304_704}));
            assert_eq!(json["feature"][2]["index"], 4);
            assert_eq!(json["feature"][2]["packets"], 64_574);
            let report: Report = serde_json::from_value(json).unwrap();
            assert_eq!(report.rx.packets, 1_064_642);
        }
    }
    // A file of counters is shown as those of a daemon are.
    stdout(&daemon.shell(&format!("{DROPS} --json > stats.json")));
    let live = stdout(&daemon.shell(FEATURES));
    assert_eq!(stdout(&daemon.shell(&format!("{FEATURES} --stats-file stats.json --socket /nonexistent"))), live);
    for line in [format!("{DROPS} clear --stats-file stats.json"), "nf-ctl show sa --stats-file stats.json".to_owned()]
    {
        assert_eq!(refusal(&daemon.shell(&line)).0, 2);
    }
}

#[test]
fn every_report_is_json_on_demand() {
    let daemon = Daemon::new();
    let ask = |command: &str| json(&daemon.shell(&format!("nf-ctl {command} --json")));
    assert_eq!(ask("show status")["pid"], 4711);
    assert_eq!(ask("show interfaces")[1]["name"], "lan");
    assert_eq!(ask("show sa"), ask("sa list"));
    assert_eq!(ask("sa show 0x12345678")["packets"], 1_000_018);
    assert_eq!(ask("plugin list")["instances"][0]["plugin"], "decap");
    assert_eq!(ask("show invalid-spi")["flows"].as_array().unwrap().len(), 2);
    assert_eq!(ask("show invalid-spi --limit 1")["flows"].as_array().unwrap().len(), 1);
    assert_eq!(ask("show audit")[3]["result"], "denied");
    assert_eq!(ask("explain 4")[0]["name"], "IN_US_V4_PKT_SA_NOT_FOUND_SPI");
    assert_eq!(ask("reload")["sas_changed"], 1);
    assert_eq!(ask("show counters")["cores"][1]["rx"]["packets"], 1_000_042);
}

#[test]
fn an_sa_comes_from_options_a_file_or_standard_input_and_goes() {
    let daemon = Daemon::new();
    let key = "0123456789abcdef0123456789abcdef01234567";
    let write = |name: &str, text: &str, mode| {
        let path = daemon.directory().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("key", &format!("{key}\n"), 0o600);
    write("open", key, 0o644);
    let table = |spi| {
        format!("[[sa]]\nspi = {spi}\nsrc = '10.1.1.1'\ndst = '10.10.1.2'\nmode = 'tunnel'\nalg = 'aes-gcm-16'\n")
    };
    write("sa.toml", &format!("{}key = '{key}'\n{}key_file = 'key'\n", table(257), table(258)), 0o600);
    let options = "--src 10.1.1.1 --dst 10.10.1.2 --mode tunnel --alg aes-gcm-16";
    let quiet = |line: &str| assert_eq!(stdout(&daemon.shell(line)), "", "{line}");
    quiet(&format!("nf-ctl sa add --spi 256 {options} --key-file key --esn --replay-window 1024 --encap udp"));
    quiet("nf-ctl sa add --file sa.toml");
    let json = json!({
        "spi": 259, "src": "10.1.1.1", "dst": "10.10.1.2", "mode": "transport", "alg": "aes-cbc",
        "key": "00".repeat(16), "auth": "hmac-sha256-128", "auth_key": "00".repeat(32),
    });
    quiet(&format!("echo '{json}' | nf-ctl sa add --file -"));

    let shown = self::json(&daemon.shell("nf-ctl sa show 0x100 --json"));
    assert_eq!((&shown["esn"], &shown["replay_window"], &shown["encap"]), (&json!(true), &json!(1024), &json!("udp")));
    let list = stdout(&daemon.shell("nf-ctl sa list"));
    assert_eq!(list.lines().count(), 1 + 5, "{list}");
    let everything =
        [list, stdout(&daemon.shell("nf-ctl sa list --json")), stdout(&daemon.shell("nf-ctl sa show 257"))];
    assert!(everything.iter().all(|text| !text.contains("0123456789abcdef")), "no key is shown");

    quiet("nf-ctl sa del 0x100 --dst 10.10.1.2 --src 10.1.1.1");
    let (code, message) = refusal(&daemon.shell("nf-ctl sa del 256"));
    assert_eq!(code, 1);
    assert!(message.starts_with("there is no SA with SPI 0x00000100(256)"), "{message}");

    // Of several SAs in a file, it is said which were added.
    write("more.toml", &format!("{0}key = '{key}'\n{1}key = '{key}'\n", table(260), table(257)), 0o600);
    let (code, message) = refusal(&daemon.shell("nf-ctl sa add --file more.toml"));
    assert_eq!(code, 1);
    assert!(message.ends_with("exists; this is SA 2 of 2, those before it were added"), "{message}");
    stdout(&daemon.shell("nf-ctl sa show 260"));

    // One that is wrong is found before any is sent.
    write("bad.toml", &format!("{0}key = '{key}'\n{1}key = '{key}00'\n", table(261), table(262)), 0o600);
    let (code, message) = refusal(&daemon.shell("nf-ctl sa add --file bad.toml"));
    assert_eq!(code, 2);
    assert!(message.starts_with("key: "), "{message}");
    assert_eq!(refusal(&daemon.shell("nf-ctl sa show 261")).0, 1);

    for (line, code, wanted) in [
        (format!("nf-ctl sa add --spi 263 {options} --key-file open"), 2, "others than its owner may access it"),
        (format!("nf-ctl sa add --spi 263 {options} --key-file none"), 2, "No such file"),
        (format!("nf-ctl sa add --spi 263 {options} --key {key}"), 2, "seen by every user of the host"),
        (format!("nf-ctl sa add --spi 263 {options} --key={key}"), 2, "seen by every user of the host"),
        (format!("nf-ctl sa add --spi 263 {options}"), 2, "key: is missing"),
        (format!("echo 'key = \"{key}' | nf-ctl sa add --file -"), 3, "neither TOML nor JSON, line 1"),
        ("nf-ctl sa add --file none.toml".to_owned(), 3, "none.toml: No such file"),
        ("nf-ctl sa add --spi 263".to_owned(), 2, "--src"),
        ("nf-ctl sa show 0x1FFFFFFFF".to_owned(), 2, "invalid value"),
    ] {
        let (ended, message) = refusal(&daemon.shell(&line));
        assert_eq!(ended, code, "{line}: {message}");
        assert!(message.contains(wanted) && !message.contains(key), "{line}: {message}");
    }
}

#[test]
fn plugins_are_bound_with_filter_and_settings() {
    let daemon = Daemon::new();
    let line = "nf-ctl plugin bind capture --instance echo --gate drop --priority 7 \
                --filter src=10.0.0.0/8,dst=2001:db8::/32,protocol=udp,spi=0x100-0x1ff \
                --set file=/tmp/drops.pcapng --set packets=100";
    let (code, came) = refusal(&daemon.shell(line));
    assert_eq!(code, 1);
    let came: Value = serde_json::from_str(&came).unwrap();
    let filter = &came[1];
    assert_eq!((&came[0], &came[2]), (&json!("drop"), &json!(7)));
    assert_eq!((&filter["src"], &filter["spi"]), (&json!("10.0.0.0/8"), &json!("0x100-0x1ff")));
    assert_eq!((&filter["dst"], &filter["protocol"]), (&json!("2001:db8::/32"), &json!("udp")));
    assert_eq!(came[3], json!({"file": "/tmp/drops.pcapng", "packets": 100}));

    assert_eq!(stdout(&daemon.shell("nf-ctl plugin bind capture --instance cap --gate drop")), "");
    assert_eq!(stdout(&daemon.shell("nf-ctl plugin unbind cap --gate drop")), "");
    let (code, message) = refusal(&daemon.shell("nf-ctl plugin bind magic --instance m --gate drop"));
    assert_eq!((code, message.as_str()), (1, "there is no plugin `magic`; there are capture, decap"));
    for filter in ["colour=red", "src=10.0.0.1/8", "spi", "spi=x"] {
        let line = format!("nf-ctl plugin bind capture --instance cap --gate drop --filter {filter}");
        assert_eq!(refusal(&daemon.shell(&line)).0, 2, "{filter}");
    }
}

#[test]
fn mistakes_end_with_2_and_no_daemon_with_3() {
    let daemon = Daemon::new();
    for (line, code, wanted) in [
        ("nf-ctl show plat hard", 2, "incomplete command: behind `show plat hard` goes qfp"),
        ("nf-ctl show s", 2, "`s` may stand for sa or status"),
        ("nf-ctl show colour", 2, "not `colour`"),
        ("nf-ctl show status now", 2, "nothing goes behind `show status`"),
        ("nf-ctl show status --limit 3", 2, "--limit is for `show invalid-spi`, `show recovery` and `show audit` only"),
        ("nf-ctl show status '| include ('", 2, "isn't a pattern"),
        ("nf-ctl show status '| begin x'", 2, "use include, exclude or count"),
        ("nf-ctl show status --json '| include x'", 2, "leave out the filter, or --json"),
        ("nf-ctl show", 2, "WORDS"),
        ("nf-ctl", 2, "Usage"),
        ("nf-ctl frobnicate", 2, "unrecognized subcommand"),
        ("nf-ctl --socket /nonexistent/nf.sock show status", 3, "no nf-core at /nonexistent/nf.sock: there is no such"),
        ("nf-ctl show status --socket /nonexistent/nf.sock", 3, "no nf-core at /nonexistent/nf.sock: there is no such"),
        ("nf-ctl show counters --stats-file none.json", 3, "none.json: No such file"),
    ] {
        let (ended, message) = refusal(&daemon.shell(line));
        assert_eq!(ended, code, "{line}: {message}");
        assert!(message.contains(wanted), "{line}: {message}");
    }
}

#[test]
fn errors_are_json_on_demand() {
    let daemon = Daemon::new();
    for (line, code, wanted) in [
        ("nf-ctl --json sa show 0x100", 1, "there is no SA with SPI"),
        ("nf-ctl show s --json", 2, "`s` may stand for sa or status"),
        ("nf-ctl --json frobnicate", 2, "unrecognized subcommand 'frobnicate'"),
        ("nf-ctl --json sa add --spi 263", 2, "required arguments were not provided: --src"),
        ("nf-ctl --json --socket /nonexistent/nf.sock show status", 3, "no nf-core at /nonexistent/nf.sock"),
        ("nf-ctl --json explain weather", 2, "there is no drop reason `weather`"),
    ] {
        let output = daemon.shell(line);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{line}");
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error["code"], code, "{line}");
        assert!(error["error"].as_str().unwrap().contains(wanted), "{line}: {error}");
    }
}

#[test]
fn who_has_seen_enough_may_leave() {
    let daemon = Daemon::new();
    // A reader that is gone before anything is written: nf-ctl's own exit code goes to a file.
    let line = format!("(sleep 0.2; {FEATURES} all 2> errors; echo $? > code) | true; sleep 1; cat code errors");
    assert_eq!(stdout(&daemon.shell(&line)), "0\n");
    let output = daemon.shell(&format!("{DROPS} > /dev/full"));
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stderr).unwrap().contains("can't write the output"));
}
