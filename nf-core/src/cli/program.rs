//! What `nf-core` does.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

use super::args::{Cli, Command};
use crate::config::{Config, Excerpt};
use crate::plugin::Registry;
use crate::runtime::{self, Replay};

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
    match (Config::load(config), json) {
        (Ok(_), true) => println!("{}", json!({"file": config, "ok": true})),
        (Ok(_), false) => println!("{}: ok", config.display()),
        (Err(error), true) => {
            let mut report = json!({"file": config, "ok": false, "message": error.message()});
            if let Some(Excerpt { line, column, text, .. }) = error.excerpt() {
                report["line"] = (*line).into();
                report["column"] = (*column).into();
                report["excerpt"] = text.as_str().into();
            }
            println!("{report}");
            return ExitCode::FAILURE;
        }
        (Err(error), false) => {
            eprintln!("nf-core: {error}");
            if let Some(excerpt) = error.excerpt() {
                eprintln!("{excerpt}");
            }
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
