//! Programs under test: started, measured in turn, ended.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nf_core::control::client::Client;
use nf_core::control::proto::Request;
use nf_core::stage::RuntimeReport;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::telemetry::Telemetry;
use super::traffic::Traffic;
use super::{BenchError, Options};

/// How long a program may take to get ready: a thousand SAs, and memory without hugepages.
const START: Duration = Duration::from_secs(60);
/// An interval over which packets are counted.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long a program that goes on has until they are: what it works on is back in the cache, and the burst during which it
/// was stopped is over.
const SETTLE: Duration = Duration::from_millis(15);
/// Packet buffers: net_pcap holds a thousand frames and more in some.
const MBUFS: u32 = 32_768;
/// The crypto device that nf-core is measured with.
const DEVICE: &str = "crypto_aesni_mb0";

/// The ways in which ipsec-secgw can do its work on CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SecgwMode {
    /// librte_ipsec, the crypto device called synchronously.
    CpuCrypto,
    /// librte_ipsec, the crypto device's queues polled.
    Lookaside,
    /// ipsec-secgw's own code from before librte_ipsec.
    Legacy,
}

impl SecgwMode {
    pub(super) const ALL: [SecgwMode; 3] = [SecgwMode::CpuCrypto, SecgwMode::Lookaside, SecgwMode::Legacy];

    fn name(self) -> &'static str {
        match self {
            SecgwMode::CpuCrypto => "cpu-crypto",
            SecgwMode::Lookaside => "librte_ipsec",
            SecgwMode::Legacy => "legacy",
        }
    }

    /// Of an SA in the configuration file.
    fn sa_type(self) -> &'static str {
        if self == SecgwMode::CpuCrypto { "type cpu-crypto" } else { "type no-offload" }
    }

    fn device(self) -> &'static str {
        if self == SecgwMode::CpuCrypto { "crypto_aesni_gcm0" } else { "crypto_aesni_mb0" }
    }
}

/// Either program.
pub(super) enum Gateway<'p> {
    NfCore(&'p Path),
    /// nf-core that hands what one core doesn't keep up with on to a second one, on this CPU.
    NfCoreSpread(&'p Path, u16),
    /// nf-core that has its packets opened by a crypto device: libipsec-mb, but through rte_cryptodev.
    NfCoreDevice(&'p Path),
    Secgw(&'p Path, SecgwMode),
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// How the program did its work.
    pub mode: String,
    /// Packets a second taken from the port, in the best interval: what the core can take, as the source is never empty.
    pub received: f64,
    /// Packets a second sent, in the same interval.
    pub sent: f64,
    /// Packets a second taken, in the median interval.
    pub median: f64,
    /// Clocks a packet of each stage, of nf-core alone.
    pub stages: Vec<(String, f64)>,
}

/// A running program, ended when it goes. It is stopped but while it is measured.
struct Running<'g> {
    gateway: &'g Gateway<'g>,
    child: Child,
    runtime_dir: PathBuf,
    files: Files,
}

/// Where a program's output goes and, of nf-core, where it is asked.
struct Files {
    log: PathBuf,
    config: PathBuf,
    socket: PathBuf,
}

/// What a program has counted since its start.
struct Reading {
    at: Instant,
    received: u64,
    sent: u64,
    runtime: Option<RuntimeReport>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Neither has anything to lose, and ipsec-secgw may wait for ports that never end. An error means that it has
        // ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.runtime_dir);
    }
}

impl Running<'_> {
    fn failed(&self, problem: String) -> BenchError {
        BenchError::Program { program: self.gateway.name(), problem, log: self.files.log.clone() }
    }

    /// Waits until packets flow.
    fn wait(&mut self) -> Result<Telemetry, BenchError> {
        let socket = self.runtime_dir.join("dpdk_telemetry.v2");
        let deadline = Instant::now() + START;
        loop {
            // Its ports are there before they are started: packets must flow.
            if let Ok(mut telemetry) = Telemetry::connect(&socket)
                && telemetry.packets(0).is_ok_and(|(received, _)| received > 0)
            {
                return Ok(telemetry);
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(format!("ended at once, {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.failed(format!("hasn't received a packet within {} s", START.as_secs())));
            }
            sleep(Duration::from_millis(50));
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), BenchError> {
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|error| self.failed(format!("can't be stopped and continued: {error}")))
    }

    fn read(&self, telemetry: &mut Telemetry) -> Result<Reading, BenchError> {
        let read = telemetry.packets(0).and_then(|(received, _)| Ok((received, telemetry.packets(1)?.1)));
        let at = Instant::now();
        let (received, sent) = read.map_err(|error| self.failed(format!("can't be asked: {error}")))?;
        let runtime = match self.gateway {
            Gateway::Secgw(..) => None,
            _ => Some(runtime(&self.files.socket).map_err(|error| self.failed(error))?),
        };
        Ok(Reading { at, received, sent, runtime })
    }

    /// Lets it run for an interval.
    fn turn(&self, telemetry: &mut Telemetry) -> Result<Interval, BenchError> {
        self.signal(Signal::CONT)?;
        sleep(SETTLE);
        let before = self.read(telemetry)?;
        sleep(INTERVAL);
        let after = self.read(telemetry)?;
        self.signal(Signal::STOP)?;
        let seconds = (after.at - before.at).as_secs_f64();
        let rate = |after: u64, before: u64| after.saturating_sub(before) as f64 / seconds;
        Ok(Interval {
            received: rate(after.received, before.received),
            sent: rate(after.sent, before.sent),
            stages: before
                .runtime
                .zip(after.runtime)
                .map(|(before, after)| stages(&before, &after))
                .unwrap_or_default(),
        })
    }
}

/// Packets a second in one interval, and clocks a packet of nf-core's stages.
#[derive(Default)]
struct Interval {
    received: f64,
    sent: f64,
    stages: Vec<(String, f64)>,
}

/// Runs programs on the same traffic, in turn, an interval of each at a time, until each had `time`; gives what was measured
/// of each, in their order. Whatever else slows the machine down for a while slows down all of them.
pub(super) fn measure(
    gateways: &[Gateway<'_>],
    traffic: &Traffic,
    options: &Options,
    time: Duration,
) -> Result<Vec<Measured>, BenchError> {
    let mut programs = Vec::new();
    for (number, gateway) in gateways.iter().enumerate() {
        let mut running = gateway.start(number, traffic, options)?;
        let telemetry = running.wait()?;
        running.signal(Signal::STOP)?;
        programs.push((running, telemetry, Vec::new()));
    }
    let mut left = time;
    while !left.is_zero() {
        for (running, telemetry, intervals) in &mut programs {
            intervals.push(running.turn(telemetry)?);
        }
        left = left.saturating_sub(INTERVAL);
    }
    Ok(programs.into_iter().map(|(running, _, intervals)| Measured::of(running.gateway, intervals)).collect())
}

impl Measured {
    fn of(gateway: &Gateway<'_>, intervals: Vec<Interval>) -> Measured {
        let mode = match gateway {
            Gateway::Secgw(_, mode) => mode.name().to_owned(),
            _ => gateway.name(),
        };
        let mut rates: Vec<f64> = intervals.iter().map(|interval| interval.received).collect();
        rates.sort_by(f64::total_cmp);
        let median = rates.get(rates.len() / 2).copied().unwrap_or_default();
        let best = intervals.into_iter().max_by(|a, b| a.received.total_cmp(&b.received));
        let Interval { received, sent, stages } = best.unwrap_or_default();
        Measured { mode, received, sent, median, stages }
    }
}

impl Gateway<'_> {
    fn name(&self) -> String {
        match self {
            Gateway::NfCore(_) => "nf-core".to_owned(),
            Gateway::NfCoreSpread(..) => "nf-core on two cores".to_owned(),
            Gateway::NfCoreDevice(_) => format!("nf-core with {DEVICE}"),
            Gateway::Secgw(_, mode) => format!("ipsec-secgw ({})", mode.name()),
        }
    }

    fn cpus(&self, options: &Options) -> Vec<u16> {
        match self {
            Gateway::NfCoreSpread(_, second) => vec![options.cpu, *second],
            Gateway::NfCore(_) | Gateway::NfCoreDevice(_) | Gateway::Secgw(..) => vec![options.cpu],
        }
    }

    /// Each worker needs a transmit queue of each port, and net_pcap has as many as it has files to write.
    fn unused_outputs(&self) -> &'static str {
        match self {
            Gateway::NfCoreSpread(..) => ",tx_pcap=/dev/null,tx_pcap=/dev/null",
            Gateway::NfCore(_) | Gateway::NfCoreDevice(_) | Gateway::Secgw(..) => "",
        }
    }

    /// nf-core's crypto engine, where it isn't the usual one.
    fn engine(&self) -> String {
        match self {
            Gateway::NfCoreDevice(_) => format!("[crypto]\nengine = \"cryptodev\"\ndevice = \"{DEVICE}\"\n\n"),
            Gateway::NfCore(_) | Gateway::NfCoreSpread(..) | Gateway::Secgw(..) => String::new(),
        }
    }

    fn start(&self, number: usize, traffic: &Traffic, options: &Options) -> Result<Running<'_>, BenchError> {
        let file = |name: &str| options.dir.join(format!("{number}-{name}"));
        let files = Files { log: file("log.txt"), config: file("config"), socket: file("nf.sock") };
        let prefix = format!("nf-bench-{}-{number}", std::process::id());
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| BenchError::Io { path, error }
        };
        let output = File::create(&files.log).map_err(io(&files.log))?;
        let errors = output.try_clone().map_err(io(&files.log))?;
        let eal = [
            "--no-huge".to_owned(),
            "-m".to_owned(),
            "1024".to_owned(),
            "--no-pci".to_owned(),
            format!("--file-prefix={prefix}"),
            format!("--vdev=net_pcap0,rx_pcap={},infinite_rx=1{}", traffic.capture.display(), self.unused_outputs()),
            // It would otherwise receive, for ever.
            "--vdev=net_null0,no-rx=1".to_owned(),
        ];
        let mut command = match self {
            Gateway::NfCore(program) | Gateway::NfCoreSpread(program, _) | Gateway::NfCoreDevice(program) => {
                let text = format!(
                    "[eal]\nargs = {eal:?}\ncores = {:?}\nmbufs = {MBUFS}\n\n[control]\nsocket = {:?}\n\n{}\
                     [[port]]\nname = \"net_pcap0\"\nrole = \"unprotected\"\n\n\
                     [[port]]\nname = \"net_null0\"\nrole = \"protected\"\nnext_hop_mac = \"02:00:00:00:00:08\"\n\n{}",
                    self.cpus(options),
                    files.socket,
                    self.engine(),
                    traffic.sas_toml
                );
                std::fs::write(&files.config, text).map_err(io(&files.config))?;
                let mut command = Command::new(program);
                command.arg("run").arg("--config").arg(&files.config);
                command
            }
            Gateway::Secgw(program, mode) => {
                let text = traffic.secgw.replace("{type}", mode.sa_type());
                std::fs::write(&files.config, text).map_err(io(&files.config))?;
                let mut command = Command::new(program);
                command.args(eal).arg(format!("--lcores=0@{}", options.cpu)).arg(format!("--vdev={}", mode.device()));
                command.args(["--", "-p", "0x3", "-u", "0x1", "-P", "--config", "(0,0,0),(1,0,0)", "-s"]);
                command.arg(MBUFS.to_string()).arg("-f").arg(&files.config);
                if *mode != SecgwMode::Legacy {
                    command.arg("-l");
                }
                command
            }
        };
        let failed = |error| BenchError::Program {
            program: self.name(),
            problem: format!("can't be started: {error}"),
            log: files.log.clone(),
        };
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().map_err(failed)?;
        Ok(Running { gateway: self, child, runtime_dir: runtime_dir().join(prefix), files })
    }
}

/// Where DPDK puts the directory of a program.
fn runtime_dir() -> PathBuf {
    match std::env::var_os("RUNTIME_DIRECTORY") {
        Some(given) => PathBuf::from(given).join("dpdk"),
        None => PathBuf::from("/var/run/dpdk"),
    }
}

/// Where the clocks of nf-core's first core have gone since its start.
fn runtime(socket: &Path) -> Result<RuntimeReport, String> {
    let cores: Vec<RuntimeReport> = Client::connect(socket)
        .and_then(|mut client| client.call(&Request::Runtime {}))
        .map_err(|error| error.to_string())?;
    Ok(cores.into_iter().next().unwrap_or_default())
}

/// Clocks a packet of each stage between two reports.
fn stages(before: &RuntimeReport, after: &RuntimeReport) -> Vec<(String, f64)> {
    let stages = after.stages_since(before);
    // Over all packets: a stage that sees few of them costs the others nothing.
    let all = stages.iter().map(|stage| stage.packets).max().unwrap_or_default() as f64;
    stages.into_iter().map(|stage| (stage.stage, stage.clocks as f64 / all)).collect()
}
