//! Throughput: nf-core and DPDK's own ipsec-secgw, in turn, on the same capture, core and driver.
//!
//! Frames come from net_pcap, which holds the capture in memory and plays it for ever, and go to net_null. Replay
//! protection is off on both sides, as the same sequence numbers come again and again. Packets are counted by DPDK, for
//! both programs in the same way, and read over its telemetry socket. All programs of a case are there at once, each of them
//! stopped but while it is measured, a tenth of a second at a time in turn. The figure is the best of these intervals:
//! anything else that runs on the machine can only make one worse.

pub mod order;
mod program;
pub mod report;
pub mod spread;
mod telemetry;
mod traffic;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

pub use program::Measured;
use program::{Gateway, SecgwMode};
use spread::Spreading;
use traffic::{Mix, Traffic};

/// Why a comparison could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file can't be written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A capture can't be written.
    #[error("the capture can't be written: {0}")]
    Capture(#[from] pcap_file::PcapError),
    /// A program can't be started, or ended before it was asked to.
    #[error("{program} {problem}; its output is in {}", .log.display())]
    Program {
        /// Which.
        program: String,
        /// What happened.
        problem: String,
        /// Where its output is.
        log: PathBuf,
    },
}

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// nf-core.
    pub nf_core: PathBuf,
    /// ipsec-secgw, built without its demand for receive checksums; none to measure nf-core alone.
    pub secgw: Option<PathBuf>,
    /// A directory for captures, configurations and logs.
    pub dir: PathBuf,
    /// The CPU that both run on.
    pub cpu: u16,
    /// A second CPU, which a tunnel is spread to; none to leave that out.
    pub second_cpu: Option<u16>,
    /// Fewer cases, shorter.
    pub quick: bool,
    /// How long each program is measured, if not as long as usual.
    pub time: Option<Duration>,
}

/// All that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Beside ipsec-secgw.
    pub rows: Vec<Row>,
    /// By a crypto device.
    pub devices: Vec<ByDevice>,
    /// One SA on two cores.
    pub spreading: Option<Spreading>,
}

/// Packets of one kind.
#[derive(Clone, Copy, Debug)]
struct Case {
    size: &'static str,
    octets: &'static [usize],
    sas: usize,
    mix: Mix,
}

/// Seven short packets to four middling ones and one long one.
const IMIX: &[usize] = &[64, 576, 64, 64, 576, 64, 1400, 64, 576, 64, 576, 64];

/// Lengths of inner packets.
const SIZES: [(&str, &[usize]); 4] = [("64", &[64]), ("512", &[512]), ("1400", &[1400]), ("IMIX", IMIX)];

fn cases(quick: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for sas in [1, 1000] {
        for (size, octets) in SIZES {
            if !quick || sas == 1 && size != "512" || size == "64" {
                cases.push(Case { size, octets, sas, mix: Mix::Good });
            }
        }
    }
    cases.push(Case { size: "64", octets: &[64], sas: 1, mix: Mix::Unknown });
    cases.push(Case { size: "64", octets: &[64], sas: 1, mix: Mix::Flood });
    cases
}

/// One case on both programs. Rates are packets a second.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Octets of the inner packets.
    pub size: String,
    /// SAs, visited in turn.
    pub sas: usize,
    /// What the packets are.
    pub mix: String,
    /// nf-core.
    pub nf_core: Measured,
    /// The better of ipsec-secgw's modes.
    pub secgw: Option<Measured>,
    /// nf-core's packets to ipsec-secgw's.
    pub ratio: Option<f64>,
}

impl Row {
    /// nf-core's clocks a packet: in the driver, in the crypto engine, and in nf-core itself.
    fn shares(&self) -> (f64, f64, f64) {
        let stage = |name: &str| self.nf_core.stages.iter().find(|(stage, _)| stage == name).map_or(0.0, |s| s.1);
        let all: f64 = self.nf_core.stages.iter().map(|(_, clocks)| clocks).sum();
        let (driver, crypto) = (stage("receive") + stage("transmit"), stage("decap-open"));
        (driver, crypto, all - driver - crypto)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5} octets, {:>4} SAs, {:<8}", self.size, self.sas, self.mix)?;
        write!(f, " nf-core {:6.2} Mpps", self.nf_core.received / 1e6)?;
        if let (Some(secgw), Some(ratio)) = (&self.secgw, self.ratio) {
            write!(f, ", ipsec-secgw {:6.2} Mpps ({}), ratio {ratio:.2}", secgw.received / 1e6, secgw.mode)?;
        }
        let (driver, crypto, rest) = self.shares();
        write!(f, "; clocks: driver {driver:.0}, crypto {crypto:.0}, all else {rest:.0}")
    }
}

/// What it costs nf-core that a crypto device opens packets, where the device is the CPU again. Rates are packets a second.
#[derive(Clone, Debug, Serialize)]
pub struct ByDevice {
    /// Octets of the inner packets.
    pub size: String,
    /// By nf-core's usual engine.
    pub usual: Measured,
    /// By the device.
    pub device: Measured,
}

impl ByDevice {
    /// Packets sent with the device to those sent without.
    fn ratio(&self) -> f64 {
        self.device.sent / self.usual.sent
    }
}

impl fmt::Display for ByDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, usual) = (self.device.sent / 1e6, self.usual.sent / 1e6);
        write!(
            f,
            "{:>5} octets, {}: {device:.2} Mpps, by the usual engine {usual:.2} Mpps",
            self.size, self.device.mode
        )?;
        write!(f, ", ratio {:.2}", self.ratio())
    }
}

/// Measures every case, and calls `done` with each figure as it comes.
///
/// # Errors
/// A program that doesn't start or that ends, or a file that can't be written.
pub fn run(options: &Options, mut done: impl FnMut(&dyn fmt::Display)) -> Result<Figures, BenchError> {
    std::fs::create_dir_all(&options.dir).map_err(|error| BenchError::Io { path: options.dir.clone(), error })?;
    let usual = if options.quick { Duration::from_millis(1500) } else { Duration::from_secs(5) };
    let time = options.time.unwrap_or(usual);
    let (mut rows, mut devices) = (Vec::new(), Vec::new());
    for case in cases(options.quick) {
        let traffic = Traffic::write(&options.dir, &case)?;
        let mut gateways = vec![Gateway::NfCore(&options.nf_core)];
        if let Some(secgw) = &options.secgw {
            gateways.extend(SecgwMode::ALL.map(|mode| Gateway::Secgw(secgw, mode)));
        }
        let by_device = case.sas == 1 && case.mix == Mix::Good && case.octets.len() == 1;
        if by_device {
            gateways.push(Gateway::NfCoreDevice(&options.nf_core));
        }
        let mut measured = program::measure(&gateways, &traffic, options, time)?;
        let device = if by_device { measured.pop() } else { None };
        let nf_core = measured.remove(0);
        let secgw = measured.into_iter().max_by(|a, b| a.received.total_cmp(&b.received));
        let ratio = secgw.as_ref().map(|secgw| nf_core.received / secgw.received);
        let row =
            Row { size: case.size.to_owned(), sas: case.sas, mix: case.mix.name().to_owned(), nf_core, secgw, ratio };
        done(&row);
        if let Some(device) = device {
            let by_device = ByDevice { size: row.size.clone(), usual: row.nf_core.clone(), device };
            done(&by_device);
            devices.push(by_device);
        }
        rows.push(row);
    }
    let spreading = options.second_cpu.map(|second| spread::measure(options, second, time)).transpose()?;
    if let Some(spreading) = &spreading {
        done(spreading);
    }
    Ok(Figures { rows, devices, spreading })
}
