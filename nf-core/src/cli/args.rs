//! The arguments of `nf-core`: also its manual page and completions are made of them, where there is no DPDK.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// ESP termination network function on DPDK.
///
/// Exit codes: 0 done, 1 it could not be done, 2 the command line is wrong.
#[derive(Parser)]
#[command(version, about)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
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
