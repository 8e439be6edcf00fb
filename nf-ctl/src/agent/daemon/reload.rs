//! A changed nf.toml, taken over while IKE SAs live: the difference, all of it or nothing.

use std::time::Instant;

use nf_core::config::{Agent as AgentTable, Config, Control, changed};
use nf_core::control::audit::Outcome;

use super::{Agent, AgentError, bind, refuse_second_endpoint, system};
use crate::agent::daemon_link::DaemonLink;
use crate::agent::peers::{self, Peer};
use crate::agent::proto::Reloaded;

impl Agent {
    /// Reads the configuration file again, and takes over what has changed; with `check` only says what that would be.
    ///
    /// # Errors
    /// Why nothing was changed, in a sentence.
    pub(super) fn reload(&mut self, check: bool) -> Result<Reloaded, String> {
        let reloaded = self.try_reload(check).map_err(|error| format!("the agent has changed nothing: {error}"))?;
        if !check {
            tracing::info!(file = %self.path.display(), ?reloaded, "configuration reloaded");
        }
        Ok(reloaded)
    }

    /// As the request `reload`, by SIGHUP: the outcome is in the log and in the record of changes.
    pub(super) fn reload_by_signal(&mut self) {
        let (result, error) = match self.reload(false) {
            Ok(_) => (Outcome::Done, None),
            Err(error) => (Outcome::Failed, Some(error)),
        };
        if let Some(error) = &error {
            tracing::error!("reload by SIGHUP: {error}");
        }
        self.audit.note(None, "reload by SIGHUP".to_owned(), result, error);
    }

    /// Whatever can fail comes first.
    fn try_reload(&mut self, check: bool) -> Result<Reloaded, AgentError> {
        let (config, (peers, connections)) = Config::load_with(&self.path, peers::check)?;
        let (fixed, settings) = differences(&self.config, &config);
        if !fixed.is_empty() {
            return Err(AgentError::NeedsRestart(fixed.join(", ")));
        }
        let report = self.coordinator.compare(&peers, &connections).map_err(AgentError::Connections)?;
        let report = Reloaded { settings, ..report };
        let is_new = |name: &String| report.peers_added.contains(name) || report.peers_changed.contains(name);
        let new: Vec<_> = connections.iter().filter(|connection| is_new(&connection.name)).cloned().collect();
        refuse_second_endpoint(&config, &new)?;
        let sockets = bind(&connections, &self.sockets)?;
        if check {
            return Ok(report);
        }
        let link = match peers.iter().any(Peer::is_by_daemon) && !self.coordinator.has_daemon_link() {
            true => Some(DaemonLink::start(&config.agent.vici_socket, &self.daemon_news).map_err(system("no thread"))?),
            false => None,
        };
        self.listen(sockets)?;
        let now = Instant::now();
        self.coordinator.reload(now, &config, peers, connections, &report, link).map_err(AgentError::Connections)?;
        self.config = config;
        Ok(report)
    }
}

/// Fields that have changed and need a restart; and tables and fields that have changed and need none.
fn differences(old: &Config, new: &Config) -> (Vec<&'static str>, Vec<String>) {
    // All fields of the agent's by name: whoever adds one says here what becomes of it.
    let AgentTable { socket, delete_on_exit, qcd_secret_file, vici_socket } = &old.agent;
    let Control { socket: core_socket, access, audit_file } = &old.control;
    let fixed = [
        ("[control] socket", *core_socket == new.control.socket),
        ("[control] group", access.group == new.control.access.group),
        ("[control] mode", access.mode == new.control.access.mode),
        ("[control] admins", access.admins == new.control.access.admins),
        ("[control] audit_file", *audit_file == new.control.audit_file),
        ("[agent] socket", *socket == new.agent.socket),
        ("[agent] qcd_secret_file", *qcd_secret_file == new.agent.qcd_secret_file),
        ("[agent] vici_socket", *vici_socket == new.agent.vici_socket),
    ];
    let settings = [
        ("[agent] delete_on_exit", *delete_on_exit == new.agent.delete_on_exit),
        ("[recovery]", old.recovery == new.recovery),
    ];
    (changed(&fixed), changed(&settings).into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_can_change_and_what_needs_a_restart_is_told_apart() {
        let parse = |text: &str| Config::parse(text, Path::new("nf.toml")).unwrap();
        let of = |text: &str| differences(&parse(""), &parse(text));
        let text = "[agent]\nsocket = \"/a\"\nvici_socket = \"/b\"\n[control]\nsocket = \"/c\"\nmode = \"0600\"\n";
        let wanted = ["[control] socket", "[control] mode", "[agent] socket", "[agent] vici_socket"];
        assert_eq!(of(text), (wanted.to_vec(), vec![]));
        let text = "[agent]\ndelete_on_exit = false\n[recovery]\nbudget_burst = 100\n[notify]\nbudget_per_min = 1\n";
        assert_eq!(of(text), (vec![], vec!["[agent] delete_on_exit".to_owned(), "[recovery]".to_owned()]));
    }
}
