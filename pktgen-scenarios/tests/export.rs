//! What is exported for Pktgen-DPDK. Pktgen itself isn't to be had here: docs/pktgen.md says what this shows and what not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{nf_core, nf_ctl};
use pktgen_scenarios::daemon::{Daemon, Start};
use pktgen_scenarios::export::{self, Exported, Options};
use pktgen_scenarios::link::allowed_cpus;
use pktgen_scenarios::run::{self, Generated};
use pktgen_scenarios::scenario::Scenario;
use pktgen_scenarios::scenarios;

const OPTIONS: Options = Options { rate: 1.5, tx_port: 0, rx_port: 1 };

fn export(scenario: &Scenario, dir: &Path) -> (Generated, Exported) {
    let generated = run::generate(scenario, dir, 24, 1).unwrap();
    let exported = export::export(&generated, scenario.about, dir, OPTIONS).unwrap();
    (generated, exported)
}

/// Runs a Lua script with Pktgen's functions, in its directory, as if so many packets had come back.
fn lua(script: &Path, received: u64) -> Output {
    let pktgen = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pktgen.lua");
    let mut command = Command::new("lua5.4");
    command.current_dir(script.parent().unwrap()).arg(pktgen).arg(script).arg(received.to_string());
    command.output().unwrap_or_else(|error| panic!("lua5.4: {error}; scripts/deps.sh installs it"))
}

/// The number behind `local NAME = ` in a script.
fn local(script: &Path, name: &str) -> u64 {
    let text = std::fs::read_to_string(script).unwrap();
    let rest = text.split(&format!("local {name} = ")).nth(1).unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn every_scenario_exports_to_scripts_that_send_each_frame_once() {
    for scenario in scenarios::ALL {
        let dir = tempfile::tempdir().unwrap();
        let (generated, exported) = export(scenario, dir.path());
        let (mut frames, mut expected) = (0, 0);
        for script in &exported.lua {
            let (of_script, comes_out) = (local(script, "frames"), local(script, "expected"));
            let capture = std::fs::File::open(script.with_extension("pcap")).unwrap();
            let mut reader = pcap_file::pcap::PcapReader::new(capture).unwrap();
            let mut in_capture = 0;
            while let Some(packet) = reader.next_packet() {
                packet.unwrap();
                in_capture += 1;
            }
            assert_eq!(of_script, in_capture, "{}", script.display());
            frames += of_script;
            expected += comes_out;

            let result = script.with_extension("result");
            let good = lua(script, comes_out);
            assert!(good.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&good.stderr));
            assert!(std::fs::read_to_string(&result).unwrap().contains(": passed: "), "{}", script.display());
            let bad = lua(script, comes_out + 1);
            assert!(bad.status.success());
            assert!(std::fs::read_to_string(&result).unwrap().contains(": FAILED: "), "{}", script.display());
        }
        assert_eq!(frames, generated.expected.rx, "{}", scenario.name);
        // Held packets leave between two stretches, which Pktgen can't see; the shell script says how many.
        let text = std::fs::read_to_string(&exported.script).unwrap();
        let unseen = text.lines().filter_map(|line| line.strip_prefix("# ")?.split_once(" packets leave here"));
        let unseen: u64 = unseen.map(|(count, _)| count.parse::<u64>().unwrap()).sum();
        assert_eq!(expected + unseen, generated.expected.tx, "{}", scenario.name);
        assert_eq!(unseen > 0, ["CSCty30063", "CSCvn31824"].contains(&scenario.name), "{}", scenario.name);
        assert_eq!(exported.too_long > 0, scenario.name == "jumbo", "{}", scenario.name);
    }
}

/// The shell script's requests, made by the real nf-ctl to a real nf-core; in Pktgen's place stands its table of
/// functions.
#[test]
fn the_shell_scripts_requests_are_taken() {
    let (nf_core, nf_ctl) = (nf_core(), nf_ctl());
    for scenario in scenarios::ALL {
        let dir = tempfile::tempdir().unwrap();
        let (generated, exported) = export(scenario, dir.path());
        if generated.steps.is_empty() {
            assert!(!std::fs::read_to_string(&exported.script).unwrap().contains("nf-ctl "), "{}", scenario.name);
            continue;
        }
        let pktgen = dir.path().join("pktgen");
        let stub = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pktgen.lua");
        // Gets: -P -s PORT:PCAP -f LUA.
        let text = format!(
            "set -eu\n[ \"$1 $2 $4\" = '-P -s -f' ] && [ \"${{3#*:}}\" = \"${{5%.lua}}.pcap\" ] && [ -e \"${{3#*:}}\" ]\n\
             lua5.4 {stub} \"$5\" \"$(sed -n 's/^local expected = \\([0-9]*\\).*/\\1/p' \"$5\")\"\n"
        );
        std::fs::write(&pktgen, text).unwrap();
        let eal_args =
            ["--no-huge", "--no-pci", "--no-telemetry", "--vdev=net_ring0", "--vdev=net_ring1"].map(str::to_owned);
        let file_prefix = format!("--file-prefix=pktgen-export-{}", std::process::id());
        let config = format!(
            "[[port]]\nname = \"net_ring0\"\nrole = \"unprotected\"\n\n[[port]]\nname = \"net_ring1\"\nrole = \"protected\"\n\n{}",
            generated.config
        );
        let start = Start {
            nf_core: &nf_core,
            dir: dir.path(),
            eal_args: &[&eal_args[..], &[file_prefix]].concat(),
            cpus: &allowed_cpus()[..1],
            spread: None,
            spin: false,
            config: &config,
        };
        let daemon = Daemon::start(&start).unwrap();
        let path = format!("{}:{}", nf_ctl.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let played = Command::new("sh")
            .arg(&exported.script)
            .env("PATH", path)
            .env("PKTGEN", format!("sh {}", pktgen.display()))
            .env("NF_CTL_SOCKET", dir.path().join("nf.sock"))
            .output()
            .unwrap();
        let text = [&played.stdout[..], &played.stderr].concat();
        assert!(played.status.success(), "{}: {}", scenario.name, String::from_utf8_lossy(&text));
        daemon.stop().unwrap();
    }
}
