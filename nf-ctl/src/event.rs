//! `nf-ctl event`: the hooks of nf.toml.

use std::fmt::Write;
use std::time::{Duration, Instant};

use nf_core::control::client::Client;
use nf_core::control::proto::Request;
use nf_core::hooks::{HookReport, HookRun, HookStarted};

use crate::args::{Cli, EventCommand};
use crate::{Error, monitor, render};

/// How long a test may take: its actions have limits of their own, five minutes at most.
const PATIENCE: Duration = Duration::from_secs(330);
/// How often it is looked whether a test has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Carries a command out.
pub(crate) fn run(cli: &Cli, command: &EventCommand) -> Result<String, Error> {
    let mut client = Client::connect(&cli.socket)?;
    match command {
        EventCommand::List => {
            let hooks: Vec<HookReport> = client.call(&Request::EventList {})?;
            Ok(if cli.json { render::json(&hooks) } else { list(&hooks) })
        }
        EventCommand::History { limit } => {
            let runs: Vec<HookRun> = client.call(&Request::EventHistory { limit: *limit })?;
            Ok(if cli.json { render::json(&runs) } else { runs.iter().map(text).collect() })
        }
        EventCommand::Test { name } => {
            let started: HookStarted = client.call(&Request::EventTest { name: name.clone() })?;
            let run = ended(&mut client, started.run)?;
            let failed = run.actions.iter().filter(|action| !action.ok).count();
            if failed > 0 {
                return Err(Error::HookFailed { failed, text: text(&run) });
            }
            Ok(if cli.json { render::json(&run) } else { text(&run) })
        }
    }
}

/// Waits for a run to end.
fn ended(client: &mut Client, run: u64) -> Result<HookRun, Error> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let runs: Vec<HookRun> = client.call(&Request::EventHistory { limit: usize::MAX })?;
        if let Some(found) = runs.into_iter().find(|found| found.run == run && found.done) {
            return Ok(found);
        }
        std::thread::sleep(LOOK);
    }
    Err(Error::Usage(format!("run {run} hasn't ended; `nf-ctl event history` tells when it has")))
}

fn list(hooks: &[HookReport]) -> String {
    let mut out = String::new();
    for hook in hooks {
        let subject = if hook.subject.is_empty() { "any" } else { &hook.subject };
        // Writing to a string can't fail.
        let _ = writeln!(
            out,
            "hook {}: on {} of {subject}, {} within {} s, then none for {} s; ran {} times",
            hook.name, hook.on, hook.count, hook.period_s, hook.cool_down_s, hook.runs
        );
        for action in &hook.actions {
            let _ = writeln!(out, "  {action}");
        }
    }
    out
}

fn text(run: &HookRun) -> String {
    let (test, state) = (if run.test { ", a test" } else { "" }, if run.done { "" } else { ", under way" });
    let mut out = format!("run {} of hook {}{test}{state}\n  {}\n", run.run, run.hook, monitor::text(&run.event));
    for action in &run.actions {
        let outcome = if action.ok { "done" } else { "FAILED" };
        let _ = writeln!(out, "  {}: {outcome}: {}", action.action, action.note);
    }
    out
}
