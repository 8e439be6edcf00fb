//! `nf-ctl agent`, `nf-ctl recover`, `nf-ctl ike`: IKE, by the agent.

use std::thread;
use std::time::{Duration, Instant};

use nf_core::control::client::{Client, ClientError};
use nf_ctl::agent::proto::{AGENT, IkeReport, Request, Started, Status, Task};

use crate::args::{Cli, IkeCommand};
use crate::{Error, crypto_show, render};

/// How long the agent may take for an answer.
const PATIENCE: Duration = Duration::from_secs(25);
/// How long a task may take: longer than any exchange.
const TASK: Duration = Duration::from_secs(60);
/// How often a task is asked for.
const POLL: Duration = Duration::from_millis(10);

/// A connection to the agent.
pub(crate) fn connect(cli: &Cli) -> Result<Client, Error> {
    Ok(Client::connect_to(&AGENT, &cli.agent_socket, PATIENCE)?)
}

/// Carries out `ike COMMAND`.
pub(crate) fn run(cli: &Cli, command: &IkeCommand) -> Result<String, Error> {
    match command {
        IkeCommand::Initiate { peer } => task(cli, &Request::IkeInitiate { peer: peer.clone() }),
        IkeCommand::Delete { peer } => task(cli, &Request::IkeDelete { peer: peer.clone() }),
        IkeCommand::Dpd { peer } => task(cli, &Request::IkeDpd { peer: peer.clone() }),
        IkeCommand::Status { peer } => status(cli, peer.as_deref()),
    }
}

/// Has the agent do something, and waits for its end.
pub(crate) fn task(cli: &Cli, request: &Request) -> Result<String, Error> {
    let mut agent = connect(cli)?;
    let Started { task } = agent.call(request)?;
    let deadline = Instant::now() + TASK;
    let text = loop {
        match agent.call(&Request::Task { task })? {
            Task::Done { text } => break text,
            Task::Failed { text } => return Err(ClientError::Refused(text).into()),
            Task::Running if Instant::now() >= deadline => {
                let seconds = TASK.as_secs();
                let text = format!("there is no end of it after {seconds} s; `nf-ctl show recovery` may tell more");
                return Err(ClientError::Refused(text).into());
            }
            Task::Running => thread::sleep(POLL),
        }
    };
    Ok(if cli.json { render::json(&Task::Done { text }) } else { format!("{text}\n") })
}

fn status(cli: &Cli, peer: Option<&str>) -> Result<String, Error> {
    let mut agent = connect(cli)?;
    let mut status: Status = agent.call(&Request::Status {})?;
    let ikes: Vec<IkeReport> = agent.call(&Request::IkeSas { peer: peer.map(str::to_owned) })?;
    status.peers.retain(|report| peer.is_none_or(|peer| peer == report.peer));
    Ok(if cli.json { render::json(&(&status, &ikes)) } else { crypto_show::ike_status(&status, &ikes) })
}

/// All IKE SAs.
pub(crate) fn list(cli: &Cli) -> Result<Vec<IkeReport>, Error> {
    Ok(connect(cli)?.call(&Request::IkeSas { peer: None })?)
}
