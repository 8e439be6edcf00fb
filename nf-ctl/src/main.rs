//! `nf-ctl`: the operator's command line.

mod args;
mod pipe;
mod render;
mod sa;
mod show;

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use nf_core::control::client::{Client, ClientError};
use nf_core::control::proto::Request;
use nf_core::sa::spec::FieldError;

use args::{Cli, Command, PluginCommand};

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// A field of an SA or filter is wrong.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The daemon isn't there, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file can't be used.
    #[error("{0}")]
    File(String),
}

impl Error {
    /// 1: refused by the daemon. 2: the command line is wrong. 3: no daemon, or a file that can't be read.
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Error::Client(ClientError::Refused(_)) => 1,
            Error::Usage(_) | Error::Field(_) => 2,
            Error::Client(_) | Error::File(_) => 3,
        })
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            // Whoever reads, `head` for one, may have seen enough.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                eprintln!("nf-ctl: can't write the output: {error}");
                ExitCode::from(3)
            }
            _ => ExitCode::SUCCESS,
        },
        Err(error) => {
            eprintln!("nf-ctl: {error}");
            error.exit_code()
        }
    }
}

/// Carries a command out; gives what to print.
fn run(cli: &Cli) -> Result<String, Error> {
    match &cli.command {
        Command::Show { words } => show::run(cli, words),
        Command::Sa { command } => sa::run(cli, command),
        Command::Plugin { command } => plugin(cli, command),
    }
}

fn plugin(cli: &Cli, command: &PluginCommand) -> Result<String, Error> {
    let mut client = Client::connect(&cli.socket)?;
    match command {
        PluginCommand::List => {
            let report = client.call(&Request::PluginList {})?;
            Ok(if cli.json { render::json(&report) } else { render::plugins(&report) })
        }
        PluginCommand::Bind { plugin, instance, gate, filter, priority, set } => {
            let request = Request::PluginBind {
                plugin: plugin.clone(),
                instance: instance.clone(),
                gate: gate.clone(),
                filter: args::filter(filter.as_deref().unwrap_or_default())?,
                priority: *priority,
                settings: args::settings(set)?,
            };
            client.call::<()>(&request)?;
            Ok(String::new())
        }
        PluginCommand::Unbind { instance, gate } => {
            client.call::<()>(&Request::PluginUnbind { instance: instance.clone(), gate: gate.clone() })?;
            Ok(String::new())
        }
    }
}

/// A file's text.
fn read(path: &Path) -> Result<String, Error> {
    let text =
        if path == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    text.map_err(|error| Error::File(format!("{}: {error}", path.display())))
}
