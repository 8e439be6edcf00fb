//! `nf-ctl reload`: one file, two programs that take it over.

use std::fmt::Write as _;
use std::io::ErrorKind;

use nf_core::control::client::{Client, ClientError};
use nf_core::control::controller::Reloaded as CoreReloaded;
use nf_core::control::proto;
use nf_ctl::agent::proto::{AGENT, Reloaded as AgentReloaded, Request};
use serde::Serialize;

use crate::args::{Cli, Reloads};
use crate::{Error, ike, render};

/// What came of it. The fields of nf-core are on the outside, where they have always been.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    #[serde(flatten)]
    core: Option<CoreReloaded>,
    /// None where the agent doesn't run, or wasn't asked.
    agent: Option<AgentReloaded>,
}

/// Carries it out. Where both are asked nothing is begun before the agent has said that it can take its part over.
pub(crate) fn run(cli: &Cli, program: Option<Reloads>) -> Result<String, Error> {
    let mut agent = match program {
        Some(Reloads::NfCore) => None,
        Some(Reloads::Agent) => Some(ike::connect(cli)?),
        None => running_agent(cli)?,
    };
    let mut outcome = Outcome::default();
    if program != Some(Reloads::Agent) {
        if let Some(agent) = &mut agent {
            agent.call::<AgentReloaded>(&Request::Reload { check: true })?;
        }
        outcome.core = Some(Client::connect(&cli.socket)?.call(&proto::Request::Reload {})?);
    }
    if let Some(agent) = &mut agent {
        outcome.agent = Some(agent.call(&Request::Reload { check: false })?);
    }
    Ok(if cli.json { render::json(&outcome) } else { text(&outcome) })
}

/// The agent; none where it doesn't run.
fn running_agent(cli: &Cli) -> Result<Option<Client>, Error> {
    match ike::connect(cli) {
        Ok(client) => Ok(Some(client)),
        Err(Error::Client(ClientError::Connect { error, daemon, .. }))
            if *daemon == AGENT && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn text(outcome: &Outcome) -> String {
    let mut out = String::new();
    let mut line = |what: &str, names: &[String]| {
        if !names.is_empty() {
            let _ = writeln!(out, "{what}: {}", names.join(", "));
        }
    };
    if let Some(core) = &outcome.core {
        let CoreReloaded { sas_added, sas_changed, sas_removed, .. } = core;
        if sas_added + sas_changed + sas_removed > 0 {
            line(
                "SAs",
                &[format!("{sas_added} added"), format!("{sas_changed} changed"), format!("{sas_removed} removed")],
            );
        }
        line("plugin instances added", &core.instances_added);
        line("plugin instances changed", &core.instances_changed);
        line("plugin instances removed", &core.instances_removed);
        line("taken over", &core.settings);
        if outcome.agent.is_none() {
            line("changed for the agent, which wasn't asked or doesn't run", &core.for_agent);
        }
    }
    if let Some(agent) = &outcome.agent {
        line("peers added", &agent.peers_added);
        line("peers with other settings, whose SAs go on", &agent.peers_adjusted);
        line("peers negotiated anew", &agent.peers_changed);
        line("peers removed", &agent.peers_removed);
        line("taken over by the agent", &agent.settings);
    }
    if out.is_empty() { "nothing has changed\n".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_what_has_changed_and_for_whom() {
        let core = CoreReloaded {
            sas_added: 1,
            sas_changed: 1,
            instances_added: vec!["cap".into()],
            settings: vec!["[notify]".into()],
            for_agent: vec!["[[peer]]".into()],
            ..CoreReloaded::default()
        };
        let mut outcome = Outcome { core: Some(core), agent: None };
        assert_eq!(
            text(&outcome),
            "SAs: 1 added, 1 changed, 0 removed\nplugin instances added: cap\ntaken over: [notify]\n\
             changed for the agent, which wasn't asked or doesn't run: [[peer]]\n"
        );
        outcome.core = Some(CoreReloaded { for_agent: vec!["[[peer]]".into()], ..CoreReloaded::default() });
        outcome.agent = Some(AgentReloaded {
            peers_added: vec!["b".into(), "c".into()],
            peers_changed: vec!["d".into()],
            settings: vec!["[recovery]".into()],
            ..AgentReloaded::default()
        });
        assert_eq!(
            text(&outcome),
            "peers added: b, c\npeers negotiated anew: d\ntaken over by the agent: [recovery]\n"
        );
        let json = serde_json::to_value(&outcome).unwrap();
        assert_eq!((&json["sas_added"], &json["agent"]["peers_added"][1]), (&0.into(), &"c".into()));
        outcome.agent = Some(AgentReloaded::default());
        assert_eq!(text(&outcome), "nothing has changed\n");
    }
}
