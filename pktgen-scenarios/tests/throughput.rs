//! `pktgen-scenarios throughput` against nf-core of this build: what it counts, not how fast it is.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::process::Command;

use common::nf_core;
use serde_json::Value;

#[test]
fn frames_offered_received_and_lost_add_up_with_nf_cores_counters() {
    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("plot.svg");
    let sizes = ["64", "1518", "imix"];
    let measured = Command::new(env!("CARGO_BIN_EXE_pktgen-scenarios"))
        .args(["throughput", "--json", "--sizes", &sizes.join(","), "--sas", "3", "--trial-s", "0.05"])
        .args(["--max-pps", "20000", "--resolution", "30", "--repeats", "2", "--max-trials", "8", "--svg"])
        .arg(&plot)
        .arg("--nf-core")
        .arg(nf_core())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&measured.stderr);
    // 1 is for a machine so busy that no rate is without loss. What is counted must agree even so.
    assert!(matches!(measured.status.code(), Some(0 | 1)), "{errors}");
    let report: Value = serde_json::from_slice(&measured.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["size"].as_str().unwrap()).collect::<Vec<_>>(), sizes);
    let mut trials = 0;
    for row in rows {
        for trial in row["trials"].as_array().unwrap() {
            let count = |name: &str| trial[name].as_u64().unwrap();
            assert_eq!(trial["contradictions"], Value::Array(Vec::new()), "{trial}");
            let dropped: u64 =
                trial["dropped"].as_object().unwrap().values().map(|packets| packets.as_u64().unwrap()).sum();
            assert_eq!(count("offered"), count("received") + count("missed") + dropped, "{trial}");
            assert!(count("offered") > 0, "{trial}");
            trials += 1;
        }
        let of_row = row["trials"].as_array().unwrap().len();
        assert!((1..=8).contains(&of_row), "{row}");
        if let Some(pps) = row["pps"].as_f64() {
            assert!(pps > 0.0 && pps <= 20_000.0 * 1.01, "{row}");
        }
    }
    // A line of progress for each.
    assert_eq!(errors.lines().filter(|line| line.contains(": trial ")).count(), trials, "{errors}");
    let plot = std::fs::read_to_string(plot).unwrap();
    assert!(plot.starts_with("<svg") && plot.contains("imix") && plot.contains("Gbit/s"), "{plot}");
}

#[test]
fn options_out_of_bounds_are_refused_by_name() {
    for (option, value, remedy) in [
        ("--sizes", "63", "64 to 9018"),
        ("--algorithm", "des", "aes-gcm-16/128"),
        ("--trial-s", "0", "0.01 to 3600"),
        ("--resolution", "99", "0.01 to 50"),
        ("--ring", "1", "64..=16384"),
    ] {
        let program = env!("CARGO_BIN_EXE_pktgen-scenarios");
        let refused = Command::new(program).args(["throughput", option, value]).output().unwrap();
        let text = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2));
        assert!(text.contains(option) && text.contains(remedy), "{text}");
    }
}
