//! The highest rate that nf-core takes without losing a frame, by frame size (RFC 2544 26.1), over virtual ports.

mod frames;
mod plot;
mod report;
mod search;
mod trial;

use std::path::Path;

pub use frames::{FrameSize, algorithm};
pub use plot::svg;
pub use report::{Limit, Report, Row};
pub use search::Search;
pub use trial::Trial;

use crate::daemon::{Daemon, Start};
use crate::link::{Generator, RingSize, allowed_cpus, pin};
use crate::run::RunError;
use crate::seal::Algorithm;
use frames::Frames;
use trial::Order;

/// Frames of the trial that finds out how fast the generator is.
const FLAT_OUT: usize = 100_000;

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Frame sizes.
    pub sizes: Vec<FrameSize>,
    /// How the SAs protect their packets.
    pub algorithm: Algorithm,
    /// SAs that share the traffic.
    pub sas: u32,
    /// Their replay windows; 0 for none, and for frames that are sent again and again.
    pub replay_window: u32,
    /// nf-core's crypto engine, by its name in nf.toml.
    pub engine: String,
    /// Seconds of a trial.
    pub trial_s: f64,
    /// The search.
    pub search: Search,
    /// Frames a second at most; else as fast as the generator can.
    pub max_pps: Option<f64>,
    /// Places of the rings between the two.
    pub ring: RingSize,
    /// Octets that the frames of a size may take.
    pub memory: usize,
    /// The CPUs of nf-core's worker and of the generator; else the last and the first that there are.
    pub cpus: (Option<usize>, Option<usize>),
}

/// Measures all sizes. `progress` gets a line for each trial.
///
/// # Errors
/// [`RunError`] for all that keeps it from coming to a result.
pub fn run(options: &Options, nf_core: &Path, dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<Report, RunError> {
    let cpus = allowed_cpus();
    let nf_cpu = options.cpus.0.or(cpus.last().copied()).unwrap_or_default();
    let generator_cpu = options.cpus.1.or(cpus.first().copied()).unwrap_or_default();
    if nf_cpu == generator_cpu {
        progress(&format!("nf-core and the generator share CPU {nf_cpu}: this measures how they are scheduled"));
    }
    let mut generator = Generator::start()?;
    let mut link = generator.link(dir, options.ring)?;
    let (eal_args, ports) = link.nf_core();
    let config = format!("{ports}\n[crypto]\nengine = {:?}\n", options.engine);
    let start = Start { nf_core, dir, eal_args: &eal_args, cpus: &[nf_cpu], spread: None, spin: true, config: &config };
    let mut daemon = Daemon::start(&start)?;
    daemon.wait_for_ports(&link)?;
    pin(generator_cpu)
        .map_err(|error| RunError::Failed(format!("the generator can't run on CPU {generator_cpu}: {error}")))?;
    let control = daemon.control();
    let mut rows = Vec::new();
    for size in &options.sizes {
        let mut frames = Frames::new(*size, options.algorithm, options.sas, options.replay_window, options.memory);
        let mut bench = |order: Order, frames: &mut Frames, trials: &mut Vec<Trial>| -> Result<(), RunError> {
            let trial = trial::trial(order, frames, &generator, &mut link, &control)?;
            progress(&format!("{size}: trial {}: {trial}", trials.len() + 1));
            trials.push(trial);
            Ok(())
        };
        rows.push(measure(options, *size, &mut frames, &mut bench)?);
    }
    // nf-core goes before the ports do: what it polls is shared memory.
    let status: nf_core::control::proto::Status = control.call(&nf_core::control::proto::Request::Status {})?;
    daemon.stop()?;
    link.close()?;
    Ok(Report::new(options, &status, (nf_cpu, generator_cpu), rows))
}

/// Makes a trial and keeps what became of it.
type Bench<'b> = &'b mut dyn FnMut(Order, &mut Frames, &mut Vec<Trial>) -> Result<(), RunError>;

/// The search for one size.
fn measure(options: &Options, size: FrameSize, frames: &mut Frames, bench: Bench<'_>) -> Result<Row, RunError> {
    let mut trials = Vec::new();
    let max = match options.max_pps {
        Some(max) => max,
        None => {
            frames.seal(FLAT_OUT);
            bench(Order { frames: frames.count() as u64, rate: None }, frames, &mut trials)?;
            trials.last().map_or(0.0, |trial| trial.offered_pps)
        }
    };
    let first = trials.len();
    let found = options.search.highest(max, |rate| {
        let wanted = (rate * options.trial_s).ceil().max(1.0) as usize;
        // Without a replay window the same frames will do again; with one a trial ends with the last that fits into memory.
        let count = if options.replay_window == 0 {
            wanted
        } else {
            frames.seal(wanted);
            wanted.min(frames.count())
        };
        bench(Order { frames: count as u64, rate: Some(rate) }, frames, &mut trials)?;
        Ok::<bool, RunError>(trials.last().is_some_and(|trial| trial.lost() == 0 && trial.contradictions.is_empty()))
    })?;
    let tried = trials.split_off(first.min(trials.len()));
    Ok(Row::new(size, frames.mean_octets(), found, (trials.pop(), tried)))
}
