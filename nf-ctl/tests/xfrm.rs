//! `nf-ctl mirror xfrm` against the kernel's XFRM. It needs root: `make test` runs it where it is root, and says so where
//! it isn't.
//!
//! A kernel without ESP reserves SPIs and takes policies, but no SA: where that is so, messages about SAs are tested on octets
//! alone (`nf_ctl::xfrm::message`), and this test says so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
mod lab;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use common::Daemon;
use lab::Lab;
use serde_json::Value;

struct Mirror {
    child: Child,
    log: PathBuf,
}

impl Mirror {
    fn start(lab: &Lab, nf_core: &Daemon) -> Mirror {
        let log = nf_core.dir.path().join("mirror.log");
        let child = lab
            .head
            .command(env!("CARGO_BIN_EXE_nf-ctl"))
            .arg("--socket")
            .arg(nf_core.socket())
            .args(["mirror", "xfrm", "--resync", "1"])
            .stderr(fs::File::create(&log).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mirror = Mirror { child, log };
        mirror.wait("mirroring the kernel's SAs into nf-core");
        mirror
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn wait(&self, line: &str) {
        lab::wait_for(line, || self.log().contains(line).then_some(()), || self.log());
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sas(nf_core: &Daemon) -> Vec<(u64, String)> {
    let list: Value = serde_json::from_str(&nf_core.ok(&["--json", "sa", "list"])).unwrap();
    let each = |sa: &Value| (sa["spi"].as_u64().unwrap(), sa["state"].as_str().unwrap().to_owned());
    list.as_array().unwrap().iter().map(each).collect()
}

fn wait_sas(nf_core: &Daemon, mirror: &Mirror, wanted: &[(u64, String)]) {
    lab::wait_for(
        "nf-core's SAs",
        || (sas(nf_core) == wanted).then_some(()),
        || format!("{:?}\n{}", sas(nf_core), mirror.log()),
    );
}

/// Reserves an SPI at the kernel, as an IKE daemon does, and gives it.
fn allocate(lab: &Lab, dst: &str) -> u64 {
    let printed = lab.head.sh(&format!("ip xfrm state allocspi src 10.10.1.1 dst {dst} proto esp mode tunnel"));
    let hex = printed.split_once("spi 0x").unwrap().1.split_whitespace().next().unwrap();
    u64::from_str_radix(hex, 16).unwrap()
}

#[test]
#[ignore = "needs root"]
fn spis_that_the_kernel_reserves_are_larval_in_nf_core() {
    let lab = Lab::new();
    let mut nf_core = lab.nf_core("");
    // One before the mirror starts, one while it runs; that of another host's address is outbound.
    let before = allocate(&lab, "10.10.1.2");
    // Policies are dumped and told as well, and no kernel needs ESP for them.
    let policy = "ip xfrm policy add src 10.2.0.0/24 dst 10.1.0.0/24 dir out tmpl src 10.10.1.2 dst 10.10.1.1 proto esp mode tunnel";
    lab.head.sh(policy);
    let mirror = Mirror::start(&lab, &nf_core);
    let larval = |spis: &[u64]| {
        let mut all: Vec<_> = spis.iter().map(|spi| (*spi, "larval".to_owned())).collect();
        all.sort();
        all
    };
    wait_sas(&nf_core, &mirror, &larval(&[before]));
    let during = allocate(&lab, "10.10.1.2");
    let outbound = allocate(&lab, "10.10.1.1");
    wait_sas(&nf_core, &mirror, &larval(&[before, during]));

    // A deletion is told by the kernel.
    lab.head.sh(&format!("ip xfrm state delete src 10.10.1.1 dst 10.10.1.2 proto esp spi {before:#x}"));
    wait_sas(&nf_core, &mirror, &larval(&[during]));

    // nf-core is killed, and gets them again.
    nf_core.kill();
    mirror.wait("nf-core is gone");
    lab.restart_nf_core(&mut nf_core);
    wait_sas(&nf_core, &mirror, &larval(&[during]));

    lab.head.sh("ip xfrm policy flush; ip xfrm state flush");
    wait_sas(&nf_core, &mirror, &[]);
    assert!(!mirror.log().contains("isn't XFRM"), "{}", mirror.log());
    assert!(!mirror.log().contains(&format!("{outbound:X}")), "{}", mirror.log());
}

#[test]
#[ignore = "needs root"]
fn sas_that_the_kernel_has_are_in_nf_core() {
    let lab = Lab::new();
    let key = "0x0102030405060708090a0b0c0d0e0f1011121314";
    let add = format!(
        "ip xfrm state add src 10.10.1.1 dst 10.10.1.2 proto esp spi 0x1234 mode tunnel replay-window 64 \
         aead 'rfc4106(gcm(aes))' {key} 128"
    );
    let mut nf_core = lab.nf_core("");
    let mirror = Mirror::start(&lab, &nf_core);
    if !lab.head.command("sh").args(["-c", &add]).output().unwrap().status.success() {
        // Not eprintln!, which is only shown when a test fails.
        let _ = writeln!(
            std::io::stderr(),
            "NOT RUN: SAs of the kernel in nf-core: this kernel has no ESP (modprobe esp4); reserved SPIs were tested"
        );
        return;
    }
    wait_sas(&nf_core, &mirror, &[(0x1234, "mature".to_owned())]);
    // An outbound one waits for its policy.
    let tunnel = "src 10.10.1.2 dst 10.10.1.1 proto esp";
    lab.head
        .sh(&format!("ip xfrm state add {tunnel} spi 0x5678 reqid 7 mode tunnel aead 'rfc4106(gcm(aes))' {key} 128"));
    lab.head
        .sh(&format!("ip xfrm policy add src 10.2.0.0/24 dst 10.1.0.0/24 dir out tmpl {tunnel} mode tunnel reqid 7"));
    wait_sas(&nf_core, &mirror, &[(0x1234, "mature".to_owned()), (0x5678, "mature".to_owned())]);
    let out = nf_core.ok(&["sa", "show", "0x5678"]);
    assert!(out.contains("10.2.0.0/24") && out.contains("10.1.0.0/24"), "{out}");
    assert!(!mirror.log().contains("010203"), "no key is logged");
    // With its replay window gone it isn't installed again.
    lab.restart_nf_core(&mut nf_core);
    mirror.wait("asked its IKE daemon to rekey it");
    assert_eq!(sas(&nf_core), []);
    lab.head.sh("ip xfrm state flush");
}

#[test]
#[ignore = "needs root"]
fn who_may_not_listen_is_told_so() {
    // The kernel is asked first: no nf-core is needed.
    let output = std::process::Command::new("setpriv")
        .args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", env!("CARGO_BIN_EXE_nf-ctl")])
        .args(["--socket", "/nonexistent/nf.sock", "mirror", "xfrm"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("run as root, or with CAP_NET_ADMIN"), "{said}");
}
