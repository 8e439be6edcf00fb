//! A running nf-core that the generator has started for itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nf_core::control::client::{Client, ClientError, NF_CORE};
use nf_core::control::proto::{Request, Status};
use nf_core::counters::Report;
use rustix::process::{Pid, Signal};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::link::Link;
use crate::run::RunError;

/// How long it may take to start, to stop, or to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How nf-core is started.
pub struct Start<'s> {
    /// The program.
    pub nf_core: &'s Path,
    /// Where its socket, its configuration and its log go.
    pub dir: &'s Path,
    /// Arguments of EAL.
    pub eal_args: &'s [String],
    /// The workers' CPUs.
    pub cpus: &'s [usize],
    /// `[eal] spread`, if it isn't the default.
    pub spread: Option<&'s str>,
    /// Whether a worker polls all the time; else it sleeps a little when idle.
    pub spin: bool,
    /// The rest of nf.toml.
    pub config: &'s str,
}

/// A running nf-core. It ends with this.
pub struct Daemon {
    child: Child,
    control: Control,
    log: PathBuf,
}

impl Daemon {
    /// Starts it, and waits until it answers.
    ///
    /// # Errors
    /// [`RunError::Start`], or [`RunError::Failed`] in its own words.
    pub fn start(start: &Start<'_>) -> Result<Daemon, RunError> {
        let (config, log) = (start.dir.join("nf-run.toml"), start.dir.join("nf-core.log"));
        let socket = start.dir.join("nf.sock");
        let idle = if start.spin { "spin" } else { "sleep" };
        let spread = start.spread.map(|spread| format!("spread = \"{spread}\"\n")).unwrap_or_default();
        let text = format!(
            "[eal]\nargs = {:?}\ncores = {:?}\nidle = \"{idle}\"\n{spread}\n[control]\nsocket = {:?}\n\n{}",
            start.eal_args, start.cpus, socket, start.config
        );
        std::fs::write(&config, text).map_err(RunError::io(&config))?;
        let stderr = File::create(&log).map_err(RunError::io(&log))?;
        let child = Command::new(start.nf_core)
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(|error| RunError::Start { path: start.nf_core.to_owned(), error })?;
        let mut daemon = Daemon { child, control: Control(socket), log };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match daemon.control.counters() {
                Ok(_) => return Ok(daemon),
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(_) => daemon.check()?,
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its control socket.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Waits until it has connected to the generator's ports. Each end learns of the connection by itself, and drops what
    /// it is to send before.
    ///
    /// # Errors
    /// [`RunError::Failed`] if it has ended, [`RunError::Stalled`].
    pub fn wait_for_ports(&mut self, link: &Link) -> Result<(), RunError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.check()?;
            if link.is_up()? {
                let status: Status = self.control.call(&Request::Status {})?;
                if status.ports.iter().all(|port| port.link_up) {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                return Err(self.stalled("nf-core to connect to the generator's ports".to_owned(), PATIENCE));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sees that it still runs.
    ///
    /// # Errors
    /// [`RunError::Failed`] with the end of its log.
    pub fn check(&mut self) -> Result<(), RunError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(RunError::Failed(format!("nf-core ended ({status}); its log ends in: {}", self.tail())))
            }
            Err(error) => Err(RunError::Failed(format!("it isn't known whether nf-core runs: {error}"))),
        }
    }

    /// The error that it kept us waiting.
    pub fn stalled(&self, what: String, patience: Duration) -> RunError {
        RunError::Stalled { what, patience, log: self.tail() }
    }

    /// Ends it as systemd would, and gives its log.
    ///
    /// # Errors
    /// [`RunError::Failed`] if it fails at that.
    pub fn stop(mut self) -> Result<String, RunError> {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // One that has ended already is found out below.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => {
                    let log = std::fs::read(&self.log).map_err(RunError::io(&self.log))?;
                    return Ok(String::from_utf8_lossy(&log).into_owned());
                }
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Ok(None) => return Err(self.stalled("it to end".to_owned(), PATIENCE)),
                Ok(Some(_)) | Err(_) => return Err(self.check().err().unwrap_or(RunError::Failed(self.tail()))),
            }
        }
    }

    /// The last lines of its log.
    fn tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(5)).copied().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Neither has an effect after `stop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The control socket. Each call is a connection of its own: nf-core closes those that are idle for long.
#[derive(Clone, Debug)]
pub struct Control(PathBuf);

impl Control {
    /// Makes a request and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`]: refused, or not answered.
    pub fn call<T: DeserializeOwned>(&self, request: &Request) -> Result<T, ClientError> {
        Client::connect(&self.0)?.call(request)
    }

    /// Makes a request that is there as JSON.
    ///
    /// # Errors
    /// [`ClientError`]: refused, not answered, or no request.
    pub fn call_json(&self, request: &Value) -> Result<(), ClientError> {
        let request = Request::decode(request.to_string().as_bytes()).map_err(|why| ClientError::Protocol {
            daemon: &NF_CORE,
            path: self.0.clone(),
            why,
        })?;
        self.call::<Value>(&request).map(drop)
    }

    /// All counters.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn counters(&self) -> Result<Report, ClientError> {
        self.call(&Request::Counters {})
    }
}

/// Packets that a report accounts for: sent, consumed or dropped.
pub fn accounted(report: &Report) -> u64 {
    let consumed: u64 = report.consumed.values().map(|tally| tally.packets).sum();
    report.tx.packets + consumed + report.feature.iter().map(|row| row.packets).sum::<u64>()
}
