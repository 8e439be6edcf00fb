//! Every scenario through the program nf-core.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::nf_core;
use pktgen_scenarios::run;
use pktgen_scenarios::scenarios;

#[test]
fn every_scenario_comes_out_as_it_must() {
    let nf_core = nf_core();
    for scenario in scenarios::ALL {
        let dir = tempfile::tempdir().unwrap();
        let generated = run::generate(scenario, dir.path(), 240, 7).unwrap();
        // Those with steps need a running nf-core: the next test.
        if generated.steps.is_empty() {
            let outcome = run::replay(&generated, &nf_core).unwrap();
            assert!(outcome.passed(), "{outcome:#?}");
        }
    }
}

/// Every algorithm, length and fault by a crypto device: as this crate has sealed it, and as by the other engines.
#[test]
fn scenarios_come_out_as_they_must_by_a_crypto_device() {
    let nf_core = nf_core();
    for name in ["algorithms", "imix", "mixed", "bad-icv", "replay", "natt", "v6", "hidden", "esn-roll-over"] {
        let dir = tempfile::tempdir().unwrap();
        let generated = run::generate(scenarios::find(name).unwrap(), dir.path(), 480, 11).unwrap();
        let device = "[crypto]\nengine = \"cryptodev\"\ndevice = \"crypto_aesni_mb0\"\n";
        std::fs::write(&generated.files.config, format!("{device}{}", generated.config)).unwrap();
        let outcome = run::replay(&generated, &nf_core).unwrap();
        assert!(outcome.passed(), "{outcome:#?}");
    }
}

/// By the program, since a process can start DPDK only once.
#[test]
fn every_scenario_comes_out_as_it_must_over_virtual_ports() {
    let program = env!("CARGO_BIN_EXE_pktgen-scenarios");
    let played = Command::new(program).args(["play", "all", "--json", "--nf-core"]).arg(nf_core()).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&played.stdout), String::from_utf8_lossy(&played.stderr));
    assert!(played.status.success(), "{text}{errors}");
    assert_eq!(text.lines().count(), scenarios::ALL.len() - 1, "{text}{errors}");
    assert!(errors.contains("jumbo: NOT PLAYED"), "{errors}");
}

#[test]
fn the_program_says_what_differs() {
    let nf_core = nf_core();
    let program = env!("CARGO_BIN_EXE_pktgen-scenarios");
    let good = Command::new(program).args(["run", "mixed", "--nf-core"]).arg(&nf_core).output().unwrap();
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stdout));
    assert!(String::from_utf8_lossy(&good.stdout).starts_with("mixed: passed\n"));

    // An nf-core that counts nothing: exit code 0, no packets, no counters.
    let dir = tempfile::tempdir().unwrap();
    let idle = dir.path().join("idle");
    std::fs::write(&idle, "#!/bin/sh\ncp \"$6\" \"$7\"\necho '{\"rx\":{\"packets\":0,\"octets\":0},\"tx\":{\"packets\":0,\"octets\":0},\"consumed\":{},\"global\":{},\"feature\":[],\"events_lost\":0}' >\"$5\"\n").unwrap();
    std::fs::set_permissions(&idle, std::fs::Permissions::from_mode(0o755)).unwrap();
    let bad = Command::new(program).args(["run", "mixed", "--nf-core"]).arg(&idle).output().unwrap();
    let text = String::from_utf8_lossy(&bad.stdout).into_owned();
    assert_eq!(bad.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&bad.stderr));
    assert!(
        text.contains("<-- differs") && text.contains("missing message:") && text.contains("packet 1 differs"),
        "{text}"
    );

    let none = Command::new(program).args(["run", "mixed", "--nf-core", "/nonexistent/nf-core"]).output().unwrap();
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&none.stderr).contains("can't be started"), "{none:?}");
    let unknown = Command::new(program).args(["run", "nonsense"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
}
