//! The command line of `nf-core`. A program with plugins of its own calls [`main`] with a registry that has them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;

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
        /// Print JSON: `{"file":..,"ok":true}`, or with `"ok":false` the error's message, line, column and excerpt.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the program. Its exit code is 0 if all went well, 1 if not, 2 if the command line is wrong.
pub fn main(registry: Registry) -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run { config } => runtime::run(&config, registry),
        Command::Replay { config, stats_json, input, output } => {
            runtime::replay(&Replay { config, input, output, stats_json }, registry).map(|_| ())
        }
        Command::Check { config, json } => return check(&config, json),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nf-core: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Checks a configuration: 0 if it is sound, 1 if not.
fn check(config: &Path, json: bool) -> ExitCode {
    let checked = Config::load(config);
    if json {
        let mut report = json!({"file": config, "ok": checked.is_ok()});
        if let Err(error) = &checked {
            report["message"] = error.message().into();
            if let Some(excerpt) = error.excerpt() {
                report["line"] = excerpt.line.into();
                report["column"] = excerpt.column.into();
                report["excerpt"] = excerpt.text.as_str().into();
            }
        }
        println!("{report}");
    }
    match checked {
        Ok(_) if json => ExitCode::SUCCESS,
        Ok(_) => {
            println!("{}: ok", config.display());
            ExitCode::SUCCESS
        }
        Err(_) if json => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("nf-core: {error}");
            if let Some(excerpt) = error.excerpt() {
                eprintln!("{excerpt}");
            }
            ExitCode::FAILURE
        }
    }
}
