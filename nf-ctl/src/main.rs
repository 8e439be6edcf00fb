//! `nf-ctl`: the operator's command line.

mod args;
mod crypto_show;
mod event;
mod explain;
mod ike;
mod manual;
mod monitor;
mod pipe;
mod reload;
mod render;
mod sa;
mod show;
mod tech_support;
mod top;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nf_core::control::client::{Client, ClientError};
use nf_core::control::proto::Request;
use nf_core::sa::spec::FieldError;
use nf_ctl::agent::daemon::{self, AgentError};
use nf_ctl::agent::proto;
use nf_ctl::xfrm::{self, MirrorError};

use args::{Cli, Command, MirrorSource, PluginCommand};

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
    /// The kernel can't be listened to.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// A hook's test went wrong.
    #[error("{failed} of the hook's actions failed\n{}", text.trim_end())]
    HookFailed {
        /// How many.
        failed: usize,
        /// The run.
        text: String,
    },
    /// The agent can't run.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Of several SAs, some were added and one was not.
    #[error("{error}; this is SA {number} of {count}, those before it were added")]
    Partly {
        /// Why.
        error: ClientError,
        /// Its place in the file, from 1.
        number: usize,
        /// The SAs in the file.
        count: usize,
    },
}

impl Error {
    /// 1: refused by the daemon, or the agent can't run. 2: the command line is wrong. 3: no daemon, or a file or the
    /// kernel that can't be read.
    fn code(&self) -> u8 {
        match self {
            Error::Agent(_) | Error::HookFailed { .. } => 1,
            Error::Client(ClientError::Refused(_)) | Error::Partly { error: ClientError::Refused(_), .. } => 1,
            Error::Usage(_) | Error::Field(_) => 2,
            Error::Client(_) | Error::File(_) | Error::Mirror(_) | Error::Partly { .. } => 3,
        }
    }

    /// What is said of it on stderr.
    fn complaint(&self, json: bool) -> String {
        if json {
            return format!("{}\n", serde_json::json!({"error": self.to_string(), "code": self.code()}));
        }
        format!("nf-ctl: {self}\n")
    }
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // Also where the rest of the command line can't be understood.
    let json = args.iter().any(|arg| arg == "--json");
    let (printed, mut code) = match output(args, json) {
        Ok(text) => (print(std::io::stdout().lock(), &text), ExitCode::SUCCESS),
        Err(error) => (print(std::io::stderr().lock(), &error.complaint(json)), ExitCode::from(error.code())),
    };
    if let Err(error) = printed {
        // If this can't be printed either, the exit code has to do.
        let _ = print(std::io::stderr().lock(), &format!("nf-ctl: can't write the output: {error}\n"));
        code = ExitCode::from(3);
    }
    code
}

/// Writes all of a text. Whoever reads it, `head` for one, may have seen enough: that is no error.
fn print(mut to: impl Write, text: &str) -> std::io::Result<()> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// What a command line puts out.
fn output(args: Vec<OsString>, json: bool) -> Result<String, Error> {
    let (args, pipe) = pipe::split(args)?;
    args::refuse_keys(&args)?;
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        // Help and the version are no errors.
        Err(error) if json && error.use_stderr() => return Err(Error::Usage(first_paragraph(&error.to_string()))),
        Err(error) => error.exit(),
    };
    if pipe.is_some() && matches!(cli.command, Command::Monitor { .. } | Command::Mirror { .. } | Command::Top) {
        return Err(Error::Usage("this command has no end to filter up to: use grep".to_owned()));
    }
    if pipe.is_some() && cli.json {
        return Err(Error::Usage("--json is for programs: leave out the filter, or --json".to_owned()));
    }
    let text = run(&cli)?;
    Ok(pipe.map_or_else(|| text.clone(), |pipe| pipe.apply(&text)))
}

/// What clap says of a mistake, without the usage behind it.
fn first_paragraph(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    paragraph.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Carries a command out; gives what to print.
fn run(cli: &Cli) -> Result<String, Error> {
    match &cli.command {
        Command::Show { words, limit } => show::run(cli, words, *limit),
        Command::Explain { reason } => explain::run(cli, reason.as_deref()),
        Command::Sa { command } => sa::run(cli, command),
        Command::Event { command } => event::run(cli, command),
        Command::Agent { config } => {
            daemon::run(config)?;
            Ok(String::new())
        }
        Command::Reload { program } => reload::run(cli, *program),
        Command::Top => top::run(cli).map(|()| String::new()),
        Command::Completions { shell } => Ok(manual::completions(*shell)),
        Command::Man { directory } => manual::pages(directory).map(|()| String::new()),
        Command::Recover { peer } => ike::task(cli, &proto::Request::Recover { peer: peer.clone() }),
        Command::Ike { command } => ike::run(cli, command),
        Command::Plugin { command } => plugin(cli, command),
        // It prints as it goes.
        Command::Monitor { kinds, count } => monitor::run(cli, kinds, *count).map(|()| String::new()),
        Command::Mirror { source: MirrorSource::Xfrm { local, resync } } => {
            // A line that nobody reads is no reason to end.
            let mut log = |line: &str| drop(print(std::io::stderr().lock(), &format!("nf-ctl: {line}\n")));
            let ended = xfrm::run(&cli.socket, local.clone(), Duration::from_secs(*resync), &mut log);
            ended.map(|never| match never {}).map_err(Error::from)
        }
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
