//! The command line of `nf-core`. A program with plugins of its own calls [`main`] with a registry that has them.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::plugin::Registry;
use crate::runtime::{self, Replay};

/// ESP termination network function on DPDK.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run as a daemon; SIGTERM ends it.
    Run {
        /// The configuration.
        #[arg(long, default_value = "/etc/nf-core/nf.toml")]
        config: PathBuf,
    },
    /// Play a capture through the network function, once, and end.
    Replay {
        /// The configuration: SAs, addresses and limits; its ports play no part.
        #[arg(long)]
        config: PathBuf,
        /// Write the counters to this file, as JSON.
        #[arg(long, value_name = "FILE")]
        stats_json: Option<PathBuf>,
        /// The capture to read.
        #[arg(value_name = "IN.pcap")]
        input: PathBuf,
        /// The capture to write.
        #[arg(value_name = "OUT.pcap")]
        output: PathBuf,
    },
    /// Check a configuration and say what is wrong with it.
    Check {
        /// The configuration.
        #[arg(long, default_value = "/etc/nf-core/nf.toml")]
        config: PathBuf,
    },
}

/// Runs the program. Its exit code is 0 if all went well, 1 if not, 2 if the command line is wrong.
pub fn main(registry: Registry) -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run { config } => runtime::run(&config, registry),
        Command::Replay { config, stats_json, input, output } => {
            runtime::replay(&Replay { config, input, output, stats_json }, registry).map(|_| ())
        }
        Command::Check { config } => {
            Config::load(&config).map(|_| println!("{}: ok", config.display())).map_err(Into::into)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nf-core: {error}");
            ExitCode::FAILURE
        }
    }
}
