//! The program `pktgen-scenarios`: writes named ESP traffic, and plays it through nf-core.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use pktgen_scenarios::bench;
use pktgen_scenarios::run::{self, Outcome, RunError};
use pktgen_scenarios::scenario::Scenario;
use pktgen_scenarios::scenarios;

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
    /// Play a scenario, or `all`, through `nf-core replay`, and compare counters, packets and messages.
    Run {
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
    },
    /// Measure the throughput of nf-core and of ipsec-secgw, in turn, on the same capture and core.
    Bench(Bench),
}

#[derive(Args)]
struct Bench {
    /// nf-core; else the one beside this program, else the one in PATH.
    #[arg(long)]
    nf_core: Option<PathBuf>,
    /// DPDK's ipsec-secgw (scripts/build-secgw.sh makes it); without it nf-core is measured alone.
    #[arg(long)]
    secgw: Option<PathBuf>,
    /// A directory for captures, configurations and logs.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// The CPU that both run on.
    #[arg(long, default_value_t = 0)]
    cpu: u16,
    /// Fewer cases, shorter.
    #[arg(long)]
    quick: bool,
    /// Writes the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Puts the figures, with those of nf-core's benchmark from `--memory`, into a page.
    #[arg(long, requires = "memory")]
    page: Option<PathBuf>,
    /// What nf-core's benchmark `memory` has written with `--json`.
    #[arg(long)]
    memory: Option<PathBuf>,
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
                    println!("{}", serde_json::json!({"name": scenario.name, "about": scenario.about}));
                } else {
                    println!("{:<12} {}", scenario.name, scenario.about);
                }
            }
            Ok(true)
        }
        Command::Gen { name, out, size } => {
            let (files, expected) = run::generate(find(&name)?, &out, size.packets, size.seed).map_err(text)?;
            println!("{}: {} frames; {}", files.frames.display(), expected.rx, files.config.display());
            Ok(true)
        }
        Command::Run { name, nf_core, keep, json, size } => {
            let nf_core = nf_core.unwrap_or_else(beside);
            let chosen = if name == "all" { scenarios::ALL.iter().collect() } else { vec![find(&name)?] };
            let mut passed = true;
            for scenario in chosen {
                let outcome = play(scenario, &size, &nf_core, keep.as_deref())?;
                passed &= outcome.passed();
                if json {
                    println!("{}", serde_json::to_string(&outcome).unwrap_or_default());
                } else {
                    print(&outcome);
                }
            }
            Ok(passed)
        }
        Command::Bench(bench) => {
            let options = bench::Options {
                nf_core: bench.nf_core.unwrap_or_else(beside),
                secgw: bench.secgw,
                dir: bench.dir,
                cpu: bench.cpu,
                quick: bench.quick,
            };
            let rows = bench::run(&options, |row| println!("{row}")).map_err(|error| error.to_string())?;
            if let Some(path) = bench.json {
                let json = serde_json::to_vec_pretty(&rows).map_err(|error| error.to_string())?;
                std::fs::write(&path, json).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            if let (Some(page), Some(memory)) = (bench.page, bench.memory) {
                let text = std::fs::read(&memory).map_err(|error| format!("{}: {error}", memory.display()))?;
                let figures =
                    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", memory.display()))?;
                bench::report::write(&page, &rows, &figures)?;
            }
            Ok(true)
        }
    }
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

fn play(scenario: &Scenario, size: &Size, nf_core: &Path, keep: Option<&Path>) -> Result<Outcome, String> {
    let temporary = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let dir = keep.map_or_else(|| temporary.path().to_owned(), |keep| keep.join(scenario.name));
    let (files, expected) =
        run::generate(scenario, &dir, size.packets, size.seed).map_err(|error| error.to_string())?;
    run::run(scenario, &files, &expected, nf_core).map_err(|error| format!("{}: {error}", scenario.name))
}

fn print(outcome: &Outcome) {
    println!("{}: {}", outcome.scenario, if outcome.passed() { "passed" } else { "FAILED" });
    for (what, expected, got) in outcome.numbers.iter().filter(|(_, expected, got)| (*expected, *got) != (0, 0)) {
        let mark = if expected == got { "" } else { "  <-- differs" };
        println!("  {what:<52} expected {expected:>9}  got {got:>9}{mark}");
    }
    for difference in &outcome.differences {
        println!("  {difference}");
    }
}
