//! The program `pktgen-scenarios`: writes named ESP traffic, and plays it through nf-core.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use pktgen_scenarios::bench;
use pktgen_scenarios::link::{self, Generator, RingSize, allowed_cpus};
use pktgen_scenarios::run::{self, Generated, Outcome, RunError};
use pktgen_scenarios::scenario::Scenario;
use pktgen_scenarios::scenarios;
use pktgen_scenarios::seal::Algorithm;
use pktgen_scenarios::throughput::{self, FrameSize};
use pktgen_scenarios::{export, play};

/// Named ESP traffic with its expected result.
///
/// Exit codes: 0 all is as expected, 1 it isn't, 2 it could not be found out.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the scenarios.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write a scenario's capture, nf.toml and expected result into a directory.
    Gen {
        /// The scenario.
        name: String,
        /// The directory.
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        size: Size,
    },
    /// Play a scenario, or `all`, through nf-core, and compare counters, packets and messages: through `nf-core replay`, or
    /// through `nf-core run` if it makes requests on the way.
    Run(Play),
    /// Play a scenario, or `all`, between two virtual ports through `nf-core run`, and compare as well.
    Play(Play),
    /// Write a scenario for Pktgen-DPDK: captures, Lua scripts, and a shell script that plays them against nf-core.
    Export {
        /// The scenario, or `all`, each into a directory of its name.
        name: String,
        /// The directory.
        #[arg(long)]
        out: PathBuf,
        /// Percent of the link's rate.
        #[arg(long, default_value_t = 1.0, value_parser = rate)]
        rate: f64,
        /// Pktgen's port towards nf-core's unprotected port.
        #[arg(long, default_value_t = 0)]
        tx_port: u16,
        /// Pktgen's port towards nf-core's protected port.
        #[arg(long, default_value_t = 1)]
        rx_port: u16,
        #[command(flatten)]
        size: Size,
    },
    /// Find the highest rate without loss for each frame size (RFC 2544), between two virtual ports through `nf-core run`.
    Throughput(Throughput),
    /// Measure the packet rates of nf-core and of DPDK's ipsec-secgw, in turn, on the same capture and core.
    Bench(Bench),
}

#[derive(Args)]
struct Bench {
    /// nf-core; else the one beside this program, else the one in PATH.
    #[arg(long)]
    nf_core: Option<PathBuf>,
    /// ipsec-secgw, as scripts/build-secgw.sh builds it; without it nf-core is measured alone.
    #[arg(long)]
    secgw: Option<PathBuf>,
    /// A directory for captures, configurations and logs.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// The CPU that both run on.
    #[arg(long, default_value_t = 0)]
    cpu: u16,
    /// Seconds for which each program is measured in each case.
    #[arg(long)]
    seconds: Option<f64>,
    /// Fewer cases, shorter.
    #[arg(long)]
    quick: bool,
    /// Writes the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Puts the figures, with those from `--memory`, into a page.
    #[arg(long, requires = "memory")]
    page: Option<PathBuf>,
    /// What nf-core's benchmark `memory` has written with `--json`.
    #[arg(long)]
    memory: Option<PathBuf>,
}

#[derive(Args)]
struct Play {
    /// The scenario.
    name: String,
    /// The program; else the one beside this program, else the one in PATH.
    #[arg(long)]
    nf_core: Option<PathBuf>,
    /// Keep captures and counters in a directory.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    size: Size,
}

#[derive(Args)]
struct Throughput {
    /// Frame sizes: octets on the protected side, FCS included, or imix.
    #[arg(long, value_delimiter = ',', default_value = FrameSize::DEFAULT)]
    sizes: Vec<FrameSize>,
    /// Cipher with the bits of its key, and integrity algorithm, such as aes-cbc/256/hmac-sha256-128.
    #[arg(long, value_parser = throughput::algorithm, default_value = "aes-gcm-16/128")]
    algorithm: Algorithm,
    /// SAs that share the traffic.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    sas: u32,
    /// Packets of the replay windows, 32 to 65536. With 0, for none, frames are sent again and again, and trials can last as
    /// long as one likes; else a trial ends when the frames that fit into --memory-mb have been sent once.
    #[arg(long, default_value_t = 64)]
    replay_window: u32,
    /// nf-core's crypto engine.
    #[arg(long, default_value = "auto")]
    engine: String,
    /// Seconds of a trial. RFC 2544 24 asks for 60 at least.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    trial_s: f64,
    /// How often a rate must pass to be the result.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeats: u32,
    /// Where the search ends: the difference between a rate that passes and one that doesn't, in percent.
    #[arg(long, default_value_t = 2.0, value_parser = percent)]
    resolution: f64,
    /// Trials of a size at most.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_trials: u32,
    /// Frames a second at most; else as many as the generator can.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max_pps: Option<u32>,
    /// Places of the rings to and from nf-core, rounded up to a power of two.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(64..=16_384))]
    ring: u32,
    /// Megabytes that the frames of a size may take.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    memory_mb: u32,
    /// The CPU of nf-core's worker; else the last that there is.
    #[arg(long)]
    nf_core_cpu: Option<usize>,
    /// The CPU of the generator; else the first that there is.
    #[arg(long)]
    generator_cpu: Option<usize>,
    /// The program; else the one beside this program, else the one in PATH.
    #[arg(long)]
    nf_core: Option<PathBuf>,
    /// Print JSON, with all trials.
    #[arg(long)]
    json: bool,
    /// Draw the result into a file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.01..=3600.0).contains(number));
    number.ok_or_else(|| "give seconds from 0.01 to 3600".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.001..=100.0).contains(number));
    number.ok_or_else(|| "give percent from 0.001 to 100".to_owned())
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.01..=50.0).contains(number));
    number.ok_or_else(|| "give percent from 0.01 to 50".to_owned())
}

#[derive(Args)]
struct Size {
    /// How many packets, about; what comes between them is more.
    #[arg(long, default_value_t = 240)]
    packets: usize,
    /// Another number makes other keys and payloads.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Prints a line. Whoever reads it, `head` for one, may have seen enough: that is no error.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn main() -> ExitCode {
    match carry_out(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("pktgen-scenarios: {message}");
            ExitCode::from(2)
        }
    }
}

fn carry_out(command: Command) -> Result<bool, String> {
    let text = |error: RunError| error.to_string();
    match command {
        Command::List { json } => {
            for scenario in scenarios::ALL {
                if json {
                    say(format_args!("{}", serde_json::json!({"name": scenario.name, "about": scenario.about})));
                } else {
                    say(format_args!("{:<21} {}", scenario.name, scenario.about));
                }
            }
            Ok(true)
        }
        Command::Gen { name, out, size } => {
            let Generated { files, expected, .. } =
                run::generate(find(&name)?, &out, size.packets, size.seed).map_err(text)?;
            say(format_args!("{}: {} frames; {}", files.frames.display(), expected.rx, files.config.display()));
            Ok(true)
        }
        Command::Run(play) => play_all(&play, Way::Capture),
        Command::Play(play) => play_all(&play, Way::Ports),
        Command::Throughput(asked) => measure(asked),
        Command::Export { name, out, rate, tx_port, rx_port, size } => {
            let options = export::Options { rate, tx_port, rx_port };
            for scenario in chosen(&name)? {
                let dir = if name == "all" { out.join(scenario.name) } else { out.clone() };
                let generated = run::generate(scenario, &dir, size.packets, size.seed).map_err(text)?;
                let exported = export::export(&generated, scenario.about, &dir, options).map_err(text)?;
                say(format_args!("{}: {} frames", exported.script.display(), generated.expected.rx));
                if exported.too_long > 0 {
                    eprintln!(
                        "{}: Pktgen would cut {} frames down to {} octets: not all of it will pass",
                        scenario.name,
                        exported.too_long,
                        export::LONGEST
                    );
                }
            }
            Ok(true)
        }
        Command::Bench(asked) => compare(asked),
    }
}

fn compare(asked: Bench) -> Result<bool, String> {
    let options = bench::Options {
        nf_core: asked.nf_core.unwrap_or_else(beside),
        secgw: asked.secgw,
        dir: asked.dir,
        cpu: asked.cpu,
        second_cpu: allowed_cpus().into_iter().find_map(|cpu| u16::try_from(cpu).ok().filter(|cpu| *cpu != asked.cpu)),
        quick: asked.quick,
        time: asked.seconds.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.1, 3600.0))),
    };
    if options.second_cpu.is_none() {
        say(format_args!("one CPU only: an SA on two cores isn't measured"));
    }
    let figures = bench::run(&options, |figure| say(format_args!("{figure}"))).map_err(|error| error.to_string())?;
    if let Some(path) = asked.json {
        let json = serde_json::to_vec_pretty(&figures).map_err(|error| error.to_string())?;
        std::fs::write(&path, json).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let (Some(page), Some(memory)) = (asked.page, asked.memory) {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", memory.display());
        let text = std::fs::read(&memory).map_err(|error| failed(&error))?;
        let memory = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
        bench::report::write(&page, &figures, &memory)?;
    }
    Ok(true)
}

fn measure(asked: Throughput) -> Result<bool, String> {
    let options = throughput::Options {
        sizes: asked.sizes,
        algorithm: asked.algorithm,
        sas: asked.sas,
        replay_window: asked.replay_window,
        engine: asked.engine,
        trial_s: asked.trial_s,
        search: throughput::Search {
            resolution: asked.resolution / 100.0,
            repeats: asked.repeats,
            max_trials: asked.max_trials,
        },
        max_pps: asked.max_pps.map(f64::from),
        ring: RingSize::with_places(asked.ring),
        memory: asked.memory_mb as usize * 1_000_000,
        cpus: (asked.nf_core_cpu, asked.generator_cpu),
    };
    let dir = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let nf_core = asked.nf_core.unwrap_or_else(beside);
    let mut progress = |line: &str| eprintln!("{line}");
    let report = throughput::run(&options, &nf_core, dir.path(), &mut progress).map_err(|error| error.to_string())?;
    if asked.json {
        say(format_args!("{}", serde_json::to_string(&report).map_err(|error| error.to_string())?));
    } else {
        print!("{report}");
    }
    if let Some(path) = asked.svg {
        std::fs::write(&path, throughput::svg(&report)?).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(report.is_complete())
}

/// How frames get to nf-core.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As a capture, unless the scenario needs a running nf-core.
    Capture,
    /// Over virtual ports.
    Ports,
}

fn play_all(play: &Play, way: Way) -> Result<bool, String> {
    let nf_core = play.nf_core.clone().unwrap_or_else(beside);
    let mut generator = None;
    let mut passed = true;
    for scenario in chosen(&play.name)? {
        let outcome = play_one(scenario, play, way, &nf_core, &mut generator)
            .map_err(|error| format!("{}: {error}", scenario.name))?;
        let Some(outcome) = outcome else {
            eprintln!(
                "{}: NOT PLAYED: its packets are longer than the MTU of virtual ports; as a capture: pktgen-scenarios run {0}",
                scenario.name
            );
            continue;
        };
        passed &= outcome.passed();
        if play.json {
            say(format_args!("{}", serde_json::to_string(&outcome).unwrap_or_default()));
        } else {
            print(&outcome);
        }
    }
    Ok(passed)
}

/// None where the packets that must come out are longer than virtual ports take.
fn play_one(
    scenario: &Scenario,
    play: &Play,
    way: Way,
    nf_core: &Path,
    generator: &mut Option<Generator>,
) -> Result<Option<Outcome>, RunError> {
    let temporary = tempfile::tempdir().map_err(|error| RunError::Io { path: std::env::temp_dir(), error })?;
    let dir = play.keep.as_ref().map_or_else(|| temporary.path().to_owned(), |keep| keep.join(scenario.name));
    let generated = run::generate(scenario, &dir, play.size.packets, play.size.seed)?;
    if way == Way::Capture && generated.steps.is_empty() {
        return run::replay(&generated, nf_core).map(Some);
    }
    if way == Way::Ports && generated.longest > link::LONGEST {
        return Ok(None);
    }
    // Once for all scenarios: a process can start DPDK only once.
    let generator = match generator {
        Some(generator) => generator,
        none => none.insert(Generator::start()?),
    };
    play::play(&generated, nf_core, generator).map(Some)
}

/// The scenario of that name, or all.
fn chosen(name: &str) -> Result<Vec<&'static Scenario>, String> {
    if name == "all" { Ok(scenarios::ALL.iter().collect()) } else { Ok(vec![find(name)?]) }
}

fn find(name: &str) -> Result<&'static Scenario, String> {
    scenarios::find(name).ok_or_else(|| {
        let names = scenarios::ALL.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
        format!("there is no scenario `{name}`; there are {names}, and `all`")
    })
}

/// nf-core beside this program, else whichever is in PATH.
fn beside() -> PathBuf {
    let sibling = std::env::current_exe().ok().map(|program| program.with_file_name("nf-core"));
    sibling.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("nf-core"))
}

fn print(outcome: &Outcome) {
    say(format_args!("{}: {}", outcome.scenario, if outcome.passed() { "passed" } else { "FAILED" }));
    for (what, expected, got) in outcome.numbers.iter().filter(|(_, expected, got)| (*expected, *got) != (0, 0)) {
        let mark = if expected == got { "" } else { "  <-- differs" };
        say(format_args!("  {what:<52} expected {expected:>9}  got {got:>9}{mark}"));
    }
    for difference in &outcome.differences {
        say(format_args!("  {difference}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_of_the_documentation_are_understood() {
        let page = include_str!("../../docs/pktgen.md");
        let commands: Vec<_> = page.lines().filter(|line| line.starts_with("pktgen-scenarios ")).collect();
        assert!(commands.len() >= 10, "{commands:?}");
        for command in commands {
            let parsed = Cli::try_parse_from(command.split_whitespace()).unwrap_or_else(|e| panic!("{command}: {e}"));
            if let Command::Gen { name, .. } | Command::Export { name, .. } = &parsed.command {
                assert!(chosen(name).is_ok(), "{command}");
            }
            if let Command::Run(play) | Command::Play(play) = &parsed.command {
                assert!(chosen(&play.name).is_ok(), "{command}");
            }
        }
    }

    #[test]
    fn unknown_names_list_those_that_there_are() {
        let error = chosen("nonsense").err().unwrap_or_default();
        assert!(error.contains("CSCvp16730") && error.contains("`all`"), "{error}");
        assert!(chosen("cscVP16730").is_ok());
    }
}
