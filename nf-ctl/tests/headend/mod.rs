//! nf-core and its agent in the laboratory's head-end.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test binary uses its part of this; a failed unwrap is a failed test"
)]

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::common::{Daemon, nf_core};
use crate::lab::{HEAD, Lab, PEER, wait_for};

/// What both sides know.
pub const PSK: &str = "a secret of this test only";

/// nf-core and the agent.
pub struct HeadEnd {
    pub core: Daemon,
    agent: Option<Child>,
    credentials: tempfile::TempDir,
}

impl HeadEnd {
    /// Starts both; `peer` has further fields of the `[[peer]]` called branch.
    pub fn start(lab: &Lab, peer: &str) -> HeadEnd {
        HeadEnd::start_with(lab, peer, "")
    }

    /// As [`HeadEnd::start`], with more lines in the configuration.
    pub fn start_with(lab: &Lab, peer: &str, more: &str) -> HeadEnd {
        let credentials = tempfile::tempdir().unwrap();
        let psk = credentials.path().join("psk");
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&psk).unwrap();
        std::io::Write::write_all(&mut file, PSK.as_bytes()).unwrap();
        let address = if peer.contains("address =") { "" } else { &format!("address = \"{PEER}\"") };
        let recovery = if more.contains("[recovery]") { "" } else { "[recovery]\ninvalid_spi_recovery = true" };
        let core = lab.nf_core(&format!(
            r#"
{recovery}
{more}
[agent]
socket = "{{dir}}/agent.sock"
vici_socket = "{{dir}}/none.vici"
[[peer]]
name = "branch"
{address}
psk_file = "{psk}"
local_id = "hub.example"
remote_id = "branch.example"
local_ts = ["10.2.0.1/32"]
remote_ts = ["10.1.0.1/32"]
{peer}
"#,
            psk = psk.display(),
        ));
        let mut head = HeadEnd { core, agent: None, credentials };
        head.start_agent(lab);
        head
    }

    fn start_agent(&mut self, lab: &Lab) {
        let dir = self.core.dir.path();
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("agent.log")).unwrap();
        let child = lab
            .head
            .command(env!("CARGO_BIN_EXE_nf-ctl"))
            .args(["agent", "--config"])
            .arg(dir.join("nf.toml"))
            .env("NF_LOG", "debug")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(child);
        let connected = || self.ctl(&["ike", "status"]).status.success().then(|| self.ok(&["ike", "status"]));
        let connected = || connected().filter(|said| said.contains("nf-core: connected"));
        wait_for("the agent", connected, || self.log());
    }

    /// Kills the agent: it can't say goodbye.
    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// Ends the agent as systemd would.
    pub fn stop_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            crate::lab::traffic::signal(&agent, "TERM");
            wait_for("the agent to end", || agent.try_wait().unwrap(), || self.log());
        }
    }

    /// Kills the agent, if it runs, and starts it anew.
    pub fn restart_agent(&mut self, lab: &Lab) {
        self.kill_agent();
        self.start_agent(lab);
    }

    /// Kills nf-core and starts it anew.
    pub fn restart_core(&mut self, lab: &Lab) {
        self.kill_core();
        self.spawn_core(lab);
        wait_for("nf-core", || self.ctl(&["show", "status"]).status.success().then_some(()), || self.log());
    }

    /// Kills nf-core.
    pub fn kill_core(&mut self) {
        self.core.child.kill().unwrap();
        self.core.child.wait().unwrap();
    }

    /// Starts nf-core anew; doesn't wait for it.
    pub fn spawn_core(&mut self, lab: &Lab) {
        let dir = self.core.dir.path();
        let log = fs::OpenOptions::new().append(true).open(dir.join("log")).unwrap();
        let mut command = lab.head.command(nf_core());
        command.args(["run", "--config"]).arg(dir.join("nf.toml")).stdout(Stdio::null()).stderr(log);
        self.core.child = command.spawn().unwrap();
    }

    /// Runs nf-ctl.
    pub fn ctl(&self, args: &[&str]) -> Output {
        let dir = self.core.dir.path();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nf-ctl"));
        command.arg("--socket").arg(dir.join("nf.sock")).arg("--agent-socket").arg(dir.join("agent.sock"));
        command.args(args).output().unwrap()
    }

    /// As [`HeadEnd::ctl`], which has to succeed; gives what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// As [`HeadEnd::ctl`], which has to be refused; gives what it said.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", self.log());
        String::from_utf8(output.stderr).unwrap()
    }

    /// How many mature SAs nf-core has.
    pub fn sas(&self) -> usize {
        let list: serde_json::Value = serde_json::from_str(&self.ok(&["--json", "sa", "list"])).unwrap();
        list.as_array().unwrap().iter().filter(|sa| sa["state"] == "mature").count()
    }

    /// Both logs.
    pub fn log(&self) -> String {
        let agent = fs::read_to_string(self.core.dir.path().join("agent.log")).unwrap_or_default();
        format!("nf-core:\n{}\nagent:\n{agent}", self.core.log())
    }

    /// No secret is in any log or output.
    pub fn check_no_secret(&self) {
        let all = [self.log(), self.ok(&["show", "recovery"]), self.ok(&["--json", "ike", "status"])].concat();
        assert!(!all.contains(PSK), "the pre-shared key was shown");
    }
}

impl Drop for HeadEnd {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let _ = &self.credentials;
    }
}

/// A script that sends so many ESP-in-UDP packets on SPIs that nobody has, so many milliseconds apart, from the peer's
/// address.
pub fn unknown_spis(count: u32, pause_ms: u32) -> String {
    let pause = Duration::from_millis(u64::from(pause_ms)).as_secs_f32();
    let payload = "\\xb7\\x61\\x86\\x3e\\x00\\x00\\x00\\x01".to_owned() + &"\\x5a".repeat(56);
    format!("for i in $(seq {count}); do printf '{payload}' > /dev/udp/{HEAD}/4500; sleep {pause}; done")
}
