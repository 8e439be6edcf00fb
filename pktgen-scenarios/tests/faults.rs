//! Each named scenario fails on an implementation that has its fault.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::faulty_nf_core;
use pktgen_scenarios::link::Generator;
use pktgen_scenarios::{play, run, scenarios};

/// A scenario, and a fault of `examples/faulty-nf-core.rs` that it must find.
const FOUND: &[(&str, &str)] = &[
    ("CSCsl68327", "early-switch"),
    ("CSCtr14840", "early-switch"),
    ("CSCty30063", "not-held"),
    ("CSCvn31824", "early-packet-deletes"),
    ("CSCvp16730", "spi-ff"),
    ("CSCsq59183", "natt-silent"),
    ("spi-other-destination", "lookup-by-spi"),
    ("spi-two-peers", "lookup-without-source"),
    ("sa-replaced", "window-of-the-spi"),
    ("esn-roll-over", "window-of-the-spi"),
    ("seq-exhausted", "last-number-unused"),
];

#[test]
fn each_named_scenario_finds_its_fault() {
    let faulty = faulty_nf_core();
    let mut generator = Generator::start().unwrap();
    for (name, fault) in FOUND {
        let scenario = scenarios::find(name).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut generated = run::generate(scenario, dir.path(), 64, 3).unwrap();
        generated.config += &format!(
            "\n[[plugin]]\ninstance = \"fault\"\nplugin = \"fault\"\nsettings = {{ fault = \"{fault}\" }}\n\
             bind = [{{ gate = \"esp-input\" }}]\n"
        );
        let outcome = if generated.steps.is_empty() {
            std::fs::write(&generated.files.config, &generated.config).unwrap();
            run::replay(&generated, &faulty).unwrap()
        } else {
            play::play(&generated, &faulty, &mut generator).unwrap()
        };
        assert!(!outcome.passed(), "{name} passes on an implementation with the fault {fault}: {outcome:#?}");
    }
}
