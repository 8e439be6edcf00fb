//! A program under test: started, measured, ended.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nf_core::control::client::Client;
use nf_core::control::proto::Request;
use nf_core::stage::RuntimeReport;
use serde::Serialize;

use super::telemetry::Telemetry;
use super::traffic::Traffic;
use super::{BenchError, Options};

/// How long a program may take to get ready: a thousand SAs, and memory without hugepages.
const START: Duration = Duration::from_secs(60);
/// An interval over which packets are counted.
const INTERVAL: Duration = Duration::from_millis(250);
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

/// A running program, ended when it goes.
struct Running {
    child: Child,
    runtime_dir: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Neither has anything to lose, and ipsec-secgw may wait for ports that never end. An error means that it has
        // ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.runtime_dir);
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

    /// Runs it on the traffic for a while.
    pub(super) fn measure(&self, traffic: &Traffic, options: &Options, time: Duration) -> Result<Measured, BenchError> {
        let log = options.dir.join("log.txt");
        let socket = options.dir.join("nf.sock");
        let failed = |problem: String| BenchError::Program { program: self.name(), problem, log: log.clone() };
        let prefix = format!("nf-bench-{}", std::process::id());
        let mut running = self.start(traffic, options, &prefix, &log, &socket)?;
        let telemetry = running.runtime_dir.join("dpdk_telemetry.v2");
        let deadline = Instant::now() + START;
        let mut telemetry = loop {
            // Its ports are there before they are started: packets must flow.
            if let Ok(mut telemetry) = Telemetry::connect(&telemetry)
                && telemetry.packets(0).is_ok_and(|(received, _)| received > 0)
            {
                break telemetry;
            }
            if let Ok(Some(status)) = running.child.try_wait() {
                return Err(failed(format!("ended at once, {status}")));
            }
            if Instant::now() > deadline {
                return Err(failed(format!("hasn't received a packet within {} s", START.as_secs())));
            }
            sleep(Duration::from_millis(50));
        };
        let counted = count(&mut telemetry, time).map_err(|error| failed(format!("can't be asked: {error}")))?;
        let mut rates: Vec<f64> = counted.iter().map(|(received, _)| *received).collect();
        rates.sort_by(f64::total_cmp);
        let (received, sent) = counted.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default();
        let median = rates.get(rates.len() / 2).copied().unwrap_or_default();
        let (mode, stages) = match self {
            Gateway::Secgw(_, mode) => (mode.name().to_owned(), Vec::new()),
            _ => (self.name(), stages(&socket).map_err(failed)?),
        };
        Ok(Measured { mode, received, sent, median, stages })
    }

    fn start(
        &self,
        traffic: &Traffic,
        options: &Options,
        prefix: &str,
        log: &Path,
        socket: &Path,
    ) -> Result<Running, BenchError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| BenchError::Io { path, error }
        };
        let output = File::create(log).map_err(io(log))?;
        let errors = output.try_clone().map_err(io(log))?;
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
                let config = options.dir.join("nf.toml");
                let text = format!(
                    "[eal]\nargs = {eal:?}\ncores = {:?}\nmbufs = {MBUFS}\n\n[control]\nsocket = {socket:?}\n\n{}\
                     [[port]]\nname = \"net_pcap0\"\nrole = \"unprotected\"\n\n\
                     [[port]]\nname = \"net_null0\"\nrole = \"protected\"\nnext_hop_mac = \"02:00:00:00:00:08\"\n\n{}",
                    self.cpus(options),
                    self.engine(),
                    traffic.sas_toml
                );
                std::fs::write(&config, text).map_err(io(&config))?;
                let mut command = Command::new(program);
                command.arg("run").arg("--config").arg(config);
                command
            }
            Gateway::Secgw(program, mode) => {
                let config = options.dir.join("secgw.cfg");
                std::fs::write(&config, traffic.secgw.replace("{type}", mode.sa_type())).map_err(io(&config))?;
                let mut command = Command::new(program);
                command.args(eal).arg(format!("--lcores=0@{}", options.cpu)).arg(format!("--vdev={}", mode.device()));
                command.args(["--", "-p", "0x3", "-u", "0x1", "-P", "--config", "(0,0,0),(1,0,0)", "-s"]);
                command.arg(MBUFS.to_string()).arg("-f").arg(config);
                if *mode != SecgwMode::Legacy {
                    command.arg("-l");
                }
                command
            }
        };
        let failed = |error| BenchError::Program {
            program: self.name(),
            problem: format!("can't be started: {error}"),
            log: log.to_owned(),
        };
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().map_err(failed)?;
        Ok(Running { child, runtime_dir: runtime_dir().join(prefix) })
    }
}

/// Where DPDK puts the directory of a program.
fn runtime_dir() -> PathBuf {
    match std::env::var_os("RUNTIME_DIRECTORY") {
        Some(given) => PathBuf::from(given).join("dpdk"),
        None => PathBuf::from("/var/run/dpdk"),
    }
}

/// Packets a second, received and sent, in each interval.
fn count(telemetry: &mut Telemetry, time: Duration) -> io::Result<Vec<(f64, f64)>> {
    let read = |telemetry: &mut Telemetry| -> io::Result<(Instant, u64, u64)> {
        let (received, _) = telemetry.packets(0)?;
        let (_, sent) = telemetry.packets(1)?;
        Ok((Instant::now(), received, sent))
    };
    let end = Instant::now() + time;
    let mut before = read(telemetry)?;
    let mut rates = Vec::new();
    while Instant::now() < end {
        sleep(INTERVAL);
        let now = read(telemetry)?;
        let seconds = (now.0 - before.0).as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        rates.push((rate(now.1, before.1), rate(now.2, before.2)));
        before = now;
    }
    Ok(rates)
}

/// Where nf-core's clocks go, since its start.
fn stages(socket: &Path) -> Result<Vec<(String, f64)>, String> {
    let text = |error: nf_core::control::client::ClientError| error.to_string();
    let cores: Vec<RuntimeReport> =
        Client::connect(socket).and_then(|mut c| c.call(&Request::Runtime {})).map_err(text)?;
    let core = cores.into_iter().next().unwrap_or_default();
    // Over all packets: a stage that sees few of them costs the others nothing.
    let all = core.stages.iter().map(|stage| stage.packets).max().unwrap_or_default().max(1);
    let stages = core.stages.into_iter().filter(|stage| stage.packets > 0);
    Ok(stages.map(|stage| (stage.stage, stage.clocks as f64 / all as f64)).collect())
}
