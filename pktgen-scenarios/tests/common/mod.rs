//! The programs of this build.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part; a failed unwrap is a failed test")]

use std::path::PathBuf;
use std::process::Command;

/// The program nf-core.
pub(crate) fn nf_core() -> PathBuf {
    build(&["--bin", "nf-core"]);
    profile_dir().join("nf-core")
}

/// The program nf-ctl.
pub(crate) fn nf_ctl() -> PathBuf {
    build(&["--bin", "nf-ctl"]);
    profile_dir().join("nf-ctl")
}

/// nf-core with faults: `examples/faulty-nf-core.rs`.
pub(crate) fn faulty_nf_core() -> PathBuf {
    build(&["--example", "faulty-nf-core"]);
    profile_dir().join("examples/faulty-nf-core")
}

/// With the whole workspace's features, or what is built already would be compiled once more.
fn build(what: &[&str]) {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let built = Command::new(cargo).args(["build", "-q", "--workspace"]).args(what).status().unwrap();
    assert!(built.success(), "cargo build {what:?} fails");
}

/// This test's program is target/PROFILE/deps/NAME-HASH.
fn profile_dir() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    deps.parent().unwrap().parent().unwrap().to_owned()
}
