//! Network namespaces that a test makes and leaves nothing of.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// What all names begin with; the process that made a namespace comes next.
const PREFIX: &str = "nf-lab";

/// A network namespace, gone when it is dropped.
#[derive(Debug)]
pub struct Namespace(String);

impl Namespace {
    /// Makes one with its loopback interface up. `role` tells it from others of the same test.
    pub fn new(role: &str) -> Namespace {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_orphans();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}-{role}", std::process::id());
        let made = ip(&["netns", "add", &name]);
        assert!(made.status.success(), "network namespaces need root: {}", String::from_utf8_lossy(&made.stderr));
        let namespace = Namespace(name);
        namespace.sh("ip link set lo up");
        namespace
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    /// A command that runs a program inside. The program dies with the thread that starts it, so that a killed test
    /// leaves no daemon.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, "setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    /// Runs a script inside to its end; gives what it printed.
    pub fn sh(&self, script: &str) -> String {
        let output = self.command("bash").args(["-ec", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Joins two namespaces by a cable; both of its ends are up and have the same name.
    pub fn join(&self, other: &Namespace, interface: &str) {
        let made = ip(&[
            "link", "add", interface, "netns", &self.0, "type", "veth", "peer", "name", interface, "netns", &other.0,
        ]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for end in [self, other] {
            end.sh(&format!("ip link set {interface} up"));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.0]);
    }
}

fn ip(args: &[&str]) -> Output {
    Command::new("ip").args(args).output().unwrap()
}

/// Removes the namespaces of tests that were killed.
fn remove_orphans() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            ip(&["netns", "del", &name]);
        }
    }
}
