//! The figures, as JSON and as text.

use std::fmt;

use dpdk_rs::Tsc;
use nf_core::stage::RuntimeReport;
use serde::Serialize;

use crate::lap::Lap;

/// Clocks of the time-stamp counter for a packet.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Clocks {
    pub(crate) least: f64,
    pub(crate) median: f64,
}

impl Clocks {
    pub(crate) fn of(laps: &[Lap]) -> Clocks {
        let mut clocks: Vec<f64> = laps.iter().map(|lap| lap.per_packet()).collect();
        clocks.sort_by(f64::total_cmp);
        Clocks { least: clocks[0], median: clocks[clocks.len() / 2] }
    }
}

impl fmt::Display for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.1} clocks a packet (median {:.1})", self.least, self.median)
    }
}

/// A core that does nothing but decapsulate.
#[derive(Debug, Serialize)]
pub(crate) struct Decap {
    pub(crate) sas: usize,
    pub(crate) size: String,
    pub(crate) clocks: Clocks,
    /// Clocks a packet of each stage, in the fastest lap.
    pub(crate) stages: Vec<(String, f64)>,
}

impl fmt::Display for Decap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages: Vec<String> = self.stages.iter().map(|(name, clocks)| format!("{name} {clocks:.1}")).collect();
        write!(f, "{:>7} SAs, {:>4} octets: {}\n        {}", self.sas, self.size, self.clocks, stages.join(", "))
    }
}

/// AES-CBC and HMAC by two engines, in turn.
#[derive(Debug, Serialize)]
pub(crate) struct Chained {
    pub(crate) auth: String,
    pub(crate) sas: usize,
    pub(crate) size: String,
    /// By RustCrypto, one packet after the other.
    pub(crate) portable: Clocks,
    /// By libipsec-mb, several at once.
    pub(crate) together: Clocks,
}

impl fmt::Display for Chained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Chained { auth, sas, size, portable, together } = self;
        let ratio = portable.least / together.least;
        write!(
            f,
            "{sas:>7} SAs, {size:>4} octets, aes-cbc, {auth}: aes-gcm {portable}, ipsec-mb {together}, {ratio:.2} times"
        )
    }
}

/// Packets on unknown SPIs.
#[derive(Debug, Serialize)]
pub(crate) struct Flood {
    pub(crate) unknown_per_good: usize,
    pub(crate) good: Clocks,
    pub(crate) unknown: Clocks,
    pub(crate) mixed: Clocks,
}

impl Flood {
    /// The clocks for a good packet with its share of the flood, over those that both take one by one: above 1, the
    /// flood costs more than its own packets.
    fn ratio(&self) -> f64 {
        let packets = 1.0 + self.unknown_per_good as f64;
        self.mixed.least * packets / (self.good.least + self.unknown.least * self.unknown_per_good as f64)
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "unknown SPI:       {}", self.unknown)?;
        write!(
            f,
            "{} unknown to one good packet: {}, {:.2} of both one by one",
            self.unknown_per_good,
            self.mixed,
            self.ratio()
        )
    }
}

/// Many SAs.
#[derive(Debug, Serialize)]
pub(crate) struct Scale {
    pub(crate) sas: usize,
    pub(crate) clocks: Clocks,
    /// Clocks a packet of the stage that finds the SA.
    pub(crate) locate: f64,
    /// Resident memory that an SA adds, its keys and its place in the core's table included.
    pub(crate) octets_per_sa: Option<f64>,
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7} SAs at random: {}, look-up {:.1}", self.sas, self.clocks, self.locate)?;
        self.octets_per_sa.map_or(Ok(()), |octets| write!(f, ", {octets:.0} octets an SA"))
    }
}

/// One SA on one core and on two.
#[derive(Debug, Serialize)]
pub(crate) struct Together {
    /// Wall clocks a packet, the copying of frames into buffers included.
    pub(crate) one_core: f64,
    /// Two cores take bursts in turn and share the SA's window.
    pub(crate) shared: f64,
    /// One core receives and hands bursts to the other, which alone has the SA.
    pub(crate) pinned: f64,
    /// Of 100 bursts on the shared window, how many were done after a later one.
    pub(crate) overtaken_percent: f64,
    /// By how many bursts at most.
    pub(crate) overtaken_by: u64,
}

impl fmt::Display for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "one SA, wall clocks a packet: one core {:.1}; two cores on a shared window {:.1} ({:.2} times); handed over to \
             one core {:.1} ({:.2} times); bursts overtaken {:.2} %, by {} at most",
            self.one_core,
            self.shared,
            self.one_core / self.shared,
            self.pinned,
            self.one_core / self.pinned,
            self.overtaken_percent,
            self.overtaken_by
        )
    }
}

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    cpu: String,
    cpus: usize,
    kernel: String,
    dpdk: String,
    clocks_per_second: f64,
    engine: String,
    pub(crate) decap: Vec<Decap>,
    pub(crate) chained: Vec<Chained>,
    pub(crate) flood: Option<Flood>,
    pub(crate) scale: Vec<Scale>,
    pub(crate) together: Option<Together>,
}

impl Results {
    pub(crate) fn of_this_machine(engine: &str) -> Results {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        let (started, before) = (std::time::Instant::now(), Tsc::now());
        std::thread::sleep(std::time::Duration::from_millis(100));
        let clocks_per_second = Tsc::now().cycles_since(before) as f64 / started.elapsed().as_secs_f64();
        Results {
            cpu: cpu.trim_start_matches(['\t', ' ', ':']).to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            dpdk: dpdk_rs::Eal::version(),
            clocks_per_second,
            engine: engine.to_owned(),
            decap: Vec::new(),
            chained: Vec::new(),
            flood: None,
            scale: Vec::new(),
            together: None,
        }
    }

    /// Prints a figure and keeps it.
    pub(crate) fn add<T: fmt::Display>(&mut self, list: impl FnOnce(&mut Results) -> &mut Vec<T>, figure: T) {
        println!("{figure}");
        list(self).push(figure);
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {:.0} MHz time-stamp counter, engine {}", self.cpu, self.clocks_per_second / 1e6, self.engine)
    }
}

/// Clocks a packet of each stage between two reports.
pub(crate) fn stages(before: &RuntimeReport, after: &RuntimeReport) -> Vec<(String, f64)> {
    let stages = after.stages_since(before);
    stages.iter().map(|stage| (stage.stage.clone(), stage.clocks_per_packet())).collect()
}

/// Resident memory of this process.
pub(crate) fn resident_octets() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * 4096
}
