//! The connections, and how they change while IKE SAs live.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::Endpoint;
use crate::config::{ConfigError, Connection, Difference};
use crate::context::Cx;
use crate::event::{Failure, IkeId};
use crate::sa::{IkeSa, Phase};

/// What differs between the connections that there are and others, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnectionChanges {
    /// Those that come.
    pub added: Vec<String>,
    /// Those with other settings, see [`Difference::Settings`].
    pub adjusted: Vec<String>,
    /// Those with other terms, see [`Difference::Terms`].
    pub changed: Vec<String>,
    /// Those that go.
    pub removed: Vec<String>,
}

/// What becomes of a connection that an IKE SA has.
enum Fate {
    /// It stays, with these settings.
    Stays(Arc<Connection>),
    /// Its IKE SAs end.
    Ends(Failure),
}

impl Endpoint {
    /// Adds a connection. Where several fit a peer, the one that was added first comes first.
    pub fn add_connection(&mut self, connection: Connection) -> Result<(), ConfigError> {
        connection.check()?;
        if self.connections.iter().any(|known| known.name == connection.name) {
            return Err(ConfigError::DuplicateName(connection.name));
        }
        self.connections.push(Arc::new(connection));
        Ok(())
    }

    /// What [`set_connections`](Self::set_connections) would change.
    ///
    /// # Errors
    /// One of the connections can't be used, or two have the same name.
    pub fn compare_connections(&self, new: &[Connection]) -> Result<ConnectionChanges, ConfigError> {
        let mut names = HashSet::new();
        let mut changes = ConnectionChanges::default();
        for connection in new {
            connection.check()?;
            if !names.insert(connection.name.as_str()) {
                return Err(ConfigError::DuplicateName(connection.name.clone()));
            }
            let known = self.connections.iter().find(|known| known.name == connection.name);
            match known.map(|known| known.compare(connection)) {
                None => changes.added.push(connection.name.clone()),
                Some(Difference::None) => {}
                Some(Difference::Settings) => changes.adjusted.push(connection.name.clone()),
                Some(Difference::Terms) => changes.changed.push(connection.name.clone()),
            }
        }
        let gone = self.connections.iter().filter(|known| !names.contains(known.name.as_str()));
        changes.removed = gone.map(|known| known.name.clone()).collect();
        Ok(changes)
    }

    /// Puts these connections, in this order, in place of those that there are: all of them, or none where one can't be used.
    ///
    /// IKE SAs of a connection that stays as it is live on, and so do those of one that has other settings: liveness checks
    /// follow them at once, lifetimes with the next rekey. Those of a connection that goes, or has other terms, end: at once
    /// for the driver, by [`Event::ChildDown`](crate::Event::ChildDown) and [`Event::IkeDown`](crate::Event::IkeDown), and
    /// the peer gets a DELETE. The driver begins anew, where it wants to.
    ///
    /// # Errors
    /// As [`compare_connections`](Self::compare_connections); nothing has changed then.
    pub fn set_connections(&mut self, now: Instant, new: Vec<Connection>) -> Result<ConnectionChanges, ConfigError> {
        let changes = self.compare_connections(&new)?;
        let mut old: HashMap<String, Arc<Connection>> =
            self.connections.drain(..).map(|connection| (connection.name.clone(), connection)).collect();
        let mut fates = HashMap::new();
        for connection in new {
            let known = old.remove(&connection.name);
            let difference = known.as_ref().map(|known| known.compare(&connection));
            let connection = match (known, difference) {
                (Some(known), Some(Difference::None)) => known,
                _ => Arc::new(connection),
            };
            let fate = match difference {
                Some(Difference::Terms) => Fate::Ends(Failure::ConnectionChanged),
                _ => Fate::Stays(Arc::clone(&connection)),
            };
            fates.insert(connection.name.clone(), fate);
            self.connections.push(connection);
        }
        let mut ids: Vec<IkeId> = self.sas.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.with_sa(now, id, |sa, cx| follow(sa, cx, &fates));
        }
        Ok(changes)
    }
}

/// Has an IKE SA follow its connection.
fn follow(sa: &mut IkeSa, cx: &mut Cx<'_>, fates: &HashMap<String, Fate>) {
    if let Phase::HalfOpen(answered) = &mut sa.phase {
        answered.candidates.retain_mut(|candidate| match fates.get(&candidate.name) {
            Some(Fate::Stays(connection)) => {
                *candidate = Arc::clone(connection);
                true
            }
            Some(Fate::Ends(_)) | None => false,
        });
        match answered.candidates.first() {
            Some(first) => sa.connection = Arc::clone(first),
            None => sa.close(cx, Failure::ConnectionRemoved),
        }
        return;
    }
    match fates.get(&sa.connection.name) {
        Some(Fate::Stays(connection)) => sa.connection = Arc::clone(connection),
        Some(Fate::Ends(reason)) => sa.retire(cx, reason.clone()),
        None => sa.retire(cx, Failure::ConnectionRemoved),
    }
}
