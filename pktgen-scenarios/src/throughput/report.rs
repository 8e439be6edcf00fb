//! The result: as JSON, as a table, as a line for each trial.

use std::fmt;

use nf_core::control::proto::Status;
use serde::Serialize;

use super::Options;
use super::frames::FrameSize;
use super::trial::Trial;

/// What kept the rate from being higher.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// nf-core lost frames at a higher rate.
    NfCore,
    /// The generator can't offer more, or was told not to.
    Generator,
}

/// One frame size.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// The size as it was asked for.
    pub size: String,
    /// Octets of a frame on the protected side, FCS included, on average.
    pub octets: f64,
    /// Octets of a frame with ESP, FCS included, on average.
    pub esp_octets: f64,
    /// Frames a second without loss: the lowest that was really offered at the rate that was found. None if there is no
    /// such rate.
    pub pps: Option<f64>,
    /// That, in 10^9 bits a second of frames on the protected side, FCS included, preamble and gap not.
    pub gbit_per_s: Option<f64>,
    /// What kept it from being higher.
    pub limit: Limit,
    /// The trial as fast as the generator can, unless a highest rate was given.
    pub flat_out: Option<Trial>,
    /// The trials of the search.
    pub trials: Vec<Trial>,
}

impl Row {
    /// The row of a size, by its mean octets, the rate that was found and the trials.
    pub fn new(
        size: FrameSize,
        (octets, esp_octets): (f64, f64),
        found: Option<f64>,
        (flat_out, trials): (Option<Trial>, Vec<Trial>),
    ) -> Row {
        let at_found = |trial: &&Trial| found.is_some() && trial.asked_pps == found && trial.lost() == 0;
        let pps = trials.iter().filter(at_found).map(|trial| trial.offered_pps).reduce(f64::min);
        // Loss above the rate that was found is nf-core's limit, if the generator kept pace there.
        let lossy = trials.iter().any(|trial| trial.lost() > 0 && trial.asked_pps > found);
        let kept_pace = trials.iter().filter(at_found).all(|trial| trial.kept_pace());
        Row {
            size: size.to_string(),
            octets,
            esp_octets,
            pps,
            gbit_per_s: pps.map(|pps| pps * octets * 8.0 / 1e9),
            limit: if lossy && kept_pace { Limit::NfCore } else { Limit::Generator },
            flat_out,
            trials,
        }
    }

    /// Whether all counts agree in each trial.
    pub fn adds_up(&self) -> bool {
        self.trials.iter().chain(&self.flat_out).all(|trial| trial.contradictions.is_empty())
    }
}

/// All sizes, and under which conditions.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// nf-core's version.
    pub nf_core: String,
    /// DPDK's version.
    pub dpdk: String,
    /// The crypto engine.
    pub engine: String,
    /// The SAs' cipher and integrity algorithm.
    pub algorithm: String,
    /// SAs.
    pub sas: u32,
    /// Their replay windows.
    pub replay_window: u32,
    /// Places of the rings.
    pub ring: u32,
    /// Seconds of a trial, unless memory shortened it.
    pub trial_s: f64,
    /// How often the rate passed.
    pub repeats: u32,
    /// The part of a rate that the search can't tell.
    pub resolution: f64,
    /// The CPU of nf-core's worker.
    pub nf_core_cpu: usize,
    /// The CPU of the generator.
    pub generator_cpu: usize,
    /// The sizes.
    pub rows: Vec<Row>,
}

impl Report {
    /// A report on measurements.
    pub fn new(options: &Options, status: &Status, cpus: (usize, usize), rows: Vec<Row>) -> Report {
        let auth = options.algorithm.auth.map(|auth| format!(" {auth}")).unwrap_or_default();
        Report {
            nf_core: status.version.clone(),
            dpdk: status.dpdk.clone(),
            engine: status.engine.clone(),
            algorithm: format!("{}{auth}", options.algorithm.cipher),
            sas: options.sas,
            replay_window: options.replay_window,
            ring: options.ring.places(),
            trial_s: options.trial_s,
            repeats: options.search.repeats,
            resolution: options.search.resolution,
            nf_core_cpu: cpus.0,
            generator_cpu: cpus.1,
            rows,
        }
    }

    /// Whether each size has a rate and all counts agree.
    pub fn is_complete(&self) -> bool {
        self.rows.iter().all(|row| row.pps.is_some() && row.adds_up())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "nf-core {}, {}, engine {}; {} x {}, replay window {}; rings of {}; CPU {} against CPU {}",
            self.nf_core,
            self.dpdk,
            self.engine,
            self.sas,
            self.algorithm,
            self.replay_window,
            self.ring,
            self.nf_core_cpu,
            self.generator_cpu
        )?;
        writeln!(
            f,
            "{:<6} {:>10} {:>12} {:>10}  {:<10} {:>7}",
            "frame", "with ESP", "frames/s", "Gbit/s", "limit", "trials"
        )?;
        for row in &self.rows {
            let (pps, gbit) = match (row.pps, row.gbit_per_s) {
                (Some(pps), Some(gbit)) => (grouped(pps), format!("{gbit:.3}")),
                _ => ("none".to_owned(), "-".to_owned()),
            };
            let limit = match row.limit {
                Limit::NfCore => "nf-core",
                Limit::Generator => "generator",
            };
            writeln!(
                f,
                "{:<6} {:>10.0} {pps:>12} {gbit:>10}  {limit:<10} {:>7}",
                row.size,
                row.esp_octets,
                row.trials.len()
            )?;
        }
        for row in &self.rows {
            for contradiction in row.trials.iter().chain(&row.flat_out).flat_map(|trial| &trial.contradictions) {
                writeln!(f, "{}: counts contradict each other: {contradiction}", row.size)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = self.asked_pps.map_or("as fast as can be".to_owned(), |pps| format!("{} frames/s", grouped(pps)));
        write!(f, "{asked} for {:.2} s: {} offered, {} lost", self.seconds, grouped(self.offered as f64), self.lost())?;
        if self.missed > 0 {
            write!(f, "; {} found the ring full", self.missed)?;
        }
        for (reason, packets) in &self.dropped {
            write!(f, "; {packets} dropped as {reason}")?;
        }
        if !self.kept_pace() {
            write!(f, "; the generator was slower, at {} frames/s", grouped(self.offered_pps))?;
        }
        for contradiction in &self.contradictions {
            write!(f, "; {contradiction}")?;
        }
        Ok(())
    }
}

/// A number of frames with its thousands apart.
fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    pub(crate) fn trial(asked: f64, offered_pps: f64, lost: u64) -> Trial {
        Trial {
            asked_pps: Some(asked),
            offered: 1000,
            seconds: 1000.0 / offered_pps,
            offered_pps,
            missed: lost,
            received: 1000 - lost,
            dropped: BTreeMap::new(),
            contradictions: Vec::new(),
        }
    }

    fn row(found: Option<f64>, trials: Vec<Trial>) -> Row {
        Row::new(FrameSize::Octets(64), (64.0, 114.0), found, (None, trials))
    }

    #[test]
    fn the_rate_is_what_was_really_offered() {
        let found = row(Some(1e6), vec![trial(2e6, 2e6, 5), trial(1e6, 999_500.0, 0), trial(1e6, 1e6, 0)]);
        assert_eq!(found.pps, Some(999_500.0));
        assert_eq!(found.gbit_per_s, Some(999_500.0 * 64.0 * 8.0 / 1e9));
        assert_eq!(found.limit, Limit::NfCore);
        assert_eq!(row(None, vec![trial(1e6, 1e6, 1)]).pps, None);
    }

    #[test]
    fn a_generator_that_is_too_slow_is_the_limit() {
        assert_eq!(row(Some(2e6), vec![trial(2e6, 2e6, 0)]).limit, Limit::Generator);
        assert_eq!(row(Some(1e6), vec![trial(2e6, 2e6, 5), trial(1e6, 7e5, 0)]).limit, Limit::Generator);
    }

    #[test]
    fn trials_and_numbers_read_well() {
        assert_eq!(grouped(1_234_567.0), "1,234,567");
        assert_eq!(grouped(999.0), "999");
        let mut trial = trial(1e6, 8e5, 3);
        trial.dropped.insert("NF_TX_FULL".to_owned(), 2);
        assert_eq!(
            trial.to_string(),
            "1,000,000 frames/s for 0.00 s: 1,000 offered, 3 lost; 3 found the ring full; 2 dropped as NF_TX_FULL; the \
             generator was slower, at 800,000 frames/s"
        );
    }
}
