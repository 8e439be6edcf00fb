//! A running nf-core, operated by nf-ctl.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test binary uses its part of this; a failed unwrap is a failed test"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long the daemon may take to start, to stop, or to come to a result.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program nf-core of this build: with the whole workspace's features, or it would be compiled once more.
pub fn nf_core() -> PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let built = Command::new(cargo).args(["build", "-q", "--workspace", "--bin", "nf-core"]).status().unwrap();
    assert!(built.success(), "nf-core doesn't build");
    Path::new(env!("CARGO_BIN_EXE_nf-ctl")).with_file_name("nf-core")
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../nf-core/tests/fixtures").join(name)
}

/// A capture played over and over on one port, decapsulated packets to nowhere on the other, and further tables. One core.
pub fn looping(capture: &Path, more: &str) -> String {
    format!(
        r#"
[eal]
args = ["--no-huge", "--no-pci", "-m", "256", "--vdev=net_pcap0,rx_pcap={},infinite_rx=1,tx_pcap={{dir}}/unused.pcap", "--vdev=net_null0,no-rx=1"]
idle = "sleep"
[[port]]
name = "net_pcap0"
role = "unprotected"
[[port]]
name = "net_null0"
role = "protected"
[[local]]
address = "10.10.1.2"
{more}
"#,
        capture.display()
    )
}

/// A running nf-core.
pub struct Daemon {
    pub child: Child,
    pub dir: tempfile::TempDir,
}

impl Daemon {
    /// Starts it with this configuration, in which `{dir}` stands for a directory of its own.
    pub fn start(config: &str) -> Daemon {
        Daemon::start_by(&mut Command::new(nf_core()), config)
    }

    /// Starts it by a command that ends in its name.
    pub fn start_by(command: &mut Command, config: &str) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().to_str().unwrap();
        let text = format!("[control]\nsocket = \"{here}/nf.sock\"\n{}", config.replace("{dir}", here));
        fs::write(dir.path().join("nf.toml"), text).unwrap();
        let mut daemon = Daemon { child: spawn(command, dir.path()), dir };
        daemon.wait_started();
        daemon
    }

    /// Kills it, and starts it anew with the same configuration by a command that ends in its name.
    pub fn restart_by(&mut self, command: &mut Command) {
        self.kill();
        self.child = spawn(command, self.dir.path());
        self.wait_started();
    }

    /// Ends it without a chance to clean up.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn wait_started(&mut self) {
        self.wait("it to start", |daemon| {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("nf-core ended ({status}): {}", daemon.log());
            }
            daemon.ctl(&["show", "status"]).status.success()
        });
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("nf.sock")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Daemon) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn ctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nf-ctl"));
        command.arg("--socket").arg(self.dir.path().join("nf.sock")).args(args).output().unwrap()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn counters(&self) -> Value {
        serde_json::from_str(&self.ok(&["--json", "show", "counters"])).unwrap()
    }

    pub fn dropped(&self, index: u64) -> u64 {
        let counters = self.counters();
        let rows = counters["feature"].as_array().unwrap();
        rows.iter().find(|row| row["index"] == index).unwrap()["packets"].as_u64().unwrap()
    }

    /// Ends it as systemd would; gives what is left in its directory.
    pub fn stop(mut self) -> (ExitStatus, Vec<String>) {
        // The shell's own `kill`: a bare system has no other.
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let mut status = None;
        self.wait("it to stop", |daemon| {
            status = daemon.child.try_wait().unwrap();
            status.is_some()
        });
        let left = fs::read_dir(self.dir.path()).unwrap();
        let mut left: Vec<String> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        (status.unwrap(), left)
    }
}

/// Runs nf-core with the configuration in a directory; it logs to the end of the log there.
fn spawn(command: &mut Command, dir: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let command = command.args(["run", "--config"]).arg(dir.join("nf.toml"));
    command.stderr(log).stdout(Stdio::null()).spawn().unwrap()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
