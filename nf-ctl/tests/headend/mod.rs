//! nf-core and its agent in the laboratory's head-end.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test binary uses its part of this; a failed unwrap is a failed test"
)]

pub mod flood;

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::common::Daemon;
use crate::lab::{HEAD, Lab, PEER, wait_for};

/// What both sides know.
pub const PSK: &str = "a secret of this test only";

/// What turns recovery on.
pub const RECOVERY: &str = "[recovery]\ninvalid_spi_recovery = true";

/// How the agent itself speaks IKE with the peer.
pub const EMBEDDED: &str = r#"
psk_file = "{psk}"
local_id = "hub.example"
remote_id = "branch.example"
local_ts = ["10.2.0.1/32"]
remote_ts = ["10.1.0.1/32"]
"#;

/// nf-core and the agent.
pub struct HeadEnd {
    pub core: Daemon,
    agent: Option<Child>,
    /// Gone with this.
    credentials: tempfile::TempDir,
}

impl HeadEnd {
    /// Starts both; `peer` has further fields of the `[[peer]]` called branch.
    pub fn start(lab: &Lab, peer: &str) -> HeadEnd {
        HeadEnd::start_with(lab, peer, RECOVERY)
    }

    /// As [`HeadEnd::start`], with these lines in the configuration in place of what turns recovery on.
    pub fn start_with(lab: &Lab, peer: &str, more: &str) -> HeadEnd {
        let mut head = HeadEnd::without_agent(lab, &format!("{EMBEDDED}{peer}"), more);
        head.start_agent(lab);
        head
    }

    /// Starts nf-core alone; `{psk}` in the fields of the `[[peer]]` stands for the key's file.
    pub fn without_agent(lab: &Lab, peer: &str, more: &str) -> HeadEnd {
        let credentials = tempfile::tempdir().unwrap();
        let psk = credentials.path().join("psk");
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&psk).unwrap();
        std::io::Write::write_all(&mut file, PSK.as_bytes()).unwrap();
        let address = if peer.contains("\naddress =") { String::new() } else { format!("address = \"{PEER}\"\n") };
        let peer = peer.replace("{psk}", &psk.display().to_string());
        let core = lab.nf_core(&format!(
            "{more}\n[agent]\nsocket = \"{{dir}}/agent.sock\"\nvici_socket = \"{{dir}}/charon.vici\"\n[[peer]]\nname = \"branch\"\n{address}{peer}\n"
        ));
        HeadEnd { core, agent: None, credentials }
    }

    /// Starts the agent and waits until it has found nf-core.
    pub fn start_agent(&mut self, lab: &Lab) {
        let dir = self.core.dir.path();
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("agent.log")).unwrap();
        let child = self.agent_command(lab).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.agent = Some(child);
        let connected = || self.ctl(&["ike", "status"]).status.success().then(|| self.ok(&["ike", "status"]));
        let connected = || connected().filter(|said| said.contains("nf-core: connected"));
        wait_for("the agent", connected, || self.log());
    }

    /// Where the agent looks for strongSwan's daemon.
    pub fn vici_socket(&self) -> PathBuf {
        self.core.dir.path().join("charon.vici")
    }

    /// The agent's command line.
    pub fn agent_command(&self, lab: &Lab) -> Command {
        let mut command = lab.head.command(env!("CARGO_BIN_EXE_nf-ctl"));
        command.args(["agent", "--config"]).arg(self.core.dir.path().join("nf.toml")).env("NF_LOG", "debug");
        command
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
        lab.restart_nf_core(&mut self.core);
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

    /// The IKE SAs, as JSON.
    pub fn ikes(&self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.ok(&["--json", "show", "crypto", "ikev2", "sa"])).unwrap()
    }

    /// How many mature inbound SAs nf-core has.
    pub fn sas(&self) -> usize {
        self.sas_of("in")
    }

    /// How many mature SAs nf-core has of a direction.
    pub fn sas_of(&self, direction: &str) -> usize {
        let list: serde_json::Value = serde_json::from_str(&self.ok(&["--json", "sa", "list"])).unwrap();
        let counts = |sa: &&serde_json::Value| sa["state"] == "mature" && sa["direction"] == direction;
        list.as_array().unwrap().iter().filter(counts).count()
    }

    /// Changes nf.toml.
    pub fn edit(&self, change: impl FnOnce(String) -> String) {
        let path = self.core.dir.path().join("nf.toml");
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    }

    /// Has another pre-shared key.
    pub fn write_psk(&self, psk: &str) {
        fs::write(self.credentials.path().join("psk"), psk).unwrap();
    }

    /// Sends the agent a signal, `HUP` for one.
    pub fn signal_agent(&self, name: &str) {
        crate::lab::traffic::signal(self.agent.as_ref().unwrap(), name);
    }

    /// Both logs.
    pub fn log(&self) -> String {
        let agent = fs::read_to_string(self.core.dir.path().join("agent.log")).unwrap_or_default();
        format!("nf-core:\n{}\nagent:\n{agent}", self.core.log())
    }

    /// No secret is in any log, output or file of the programs, as it is or in hex.
    pub fn check_no_secret(&self) {
        let commands: [&[&str]; 8] = [
            &["show", "recovery"],
            &["--json", "ike", "status"],
            &["--json", "show", "crypto", "ikev2", "sa"],
            &["show", "crypto", "ipsec", "sa", "detail"],
            &["--json", "sa", "list"],
            &["event", "history"],
            &["recovery", "log"],
            &["show", "audit"],
        ];
        let shown = commands.map(|args| {
            let output = self.ctl(args);
            [output.stdout, output.stderr].concat()
        });
        let files = fs::read_dir(self.core.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let written = files.filter(|path| path.is_file()).map(|path| fs::read(path).unwrap());
        let hex: String = PSK.bytes().map(|octet| format!("{octet:02x}")).collect();
        for text in shown.into_iter().chain(written) {
            let found = |what: &[u8]| text.windows(what.len()).any(|window| window.eq_ignore_ascii_case(what));
            assert!(!found(PSK.as_bytes()) && !found(&hex.as_bytes()[..16]), "the pre-shared key was shown");
        }
    }
}

impl Drop for HeadEnd {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

/// A script that sends so many ESP-in-UDP packets on SPIs that nobody has, so many milliseconds apart, from the peer's
/// address.
pub fn unknown_spis(count: u32, pause_ms: u32) -> String {
    let pause = Duration::from_millis(u64::from(pause_ms)).as_secs_f32();
    let payload = "\\xb7\\x61\\x86\\x3e\\x00\\x00\\x00\\x01".to_owned() + &"\\x5a".repeat(56);
    format!("for i in $(seq {count}); do printf '{payload}' > /dev/udp/{HEAD}/4500; sleep {pause}; done")
}
