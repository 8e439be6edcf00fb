//! What the operator asks for.

use std::time::{Duration, Instant};

use ikev2::{CommandError, CommandId, Endpoint};

use super::{Coordinator, Purpose};
use crate::agent::daemon_link::Job;
use crate::agent::tasks::TaskId;
use crate::recovery::{IkeId, PeerId};

/// For so long what the operator asked for may take.
const BY_HAND: Duration = Duration::from_secs(15);

impl Coordinator {
    /// The peer of that name.
    ///
    /// # Errors
    /// There is none; those that there are.
    pub fn find(&self, name: &str) -> Result<PeerId, String> {
        self.peers.find(name).ok_or_else(|| {
            let names: Vec<&str> = self.peers.iter().map(|(_, peer)| peer.config.name.as_str()).collect();
            match names.as_slice() {
                [] => format!("there is no [[peer]] `{name}`: the agent's configuration has none"),
                names => format!("there is no [[peer]] `{name}`; there are {}", names.join(", ")),
            }
        })
    }

    /// Recovers a peer.
    ///
    /// # Errors
    /// Why not, in a sentence.
    pub fn recover(&mut self, now: Instant, peer: PeerId) -> Result<TaskId, String> {
        self.engine.recover(now, peer).map_err(|refusal| refusal.to_string())?;
        let task = self.tasks.start();
        self.recoveries.push((peer, task));
        self.settle(now);
        Ok(task)
    }

    /// Starts an IKE SA with a peer that has none.
    ///
    /// # Errors
    /// As [`Coordinator::recover`].
    pub fn initiate_by_hand(&mut self, now: Instant, peer: PeerId) -> Result<TaskId, String> {
        if !self.ike_numbers(peer).is_empty() {
            let name = self.name(peer);
            return Err(format!("there is an IKE SA with {name}; `nf-ctl recover {name}` renews what is over it"));
        }
        self.recover(now, peer)
    }

    /// Deletes the IKE SAs with a peer.
    ///
    /// # Errors
    /// As [`Coordinator::recover`].
    pub fn delete_by_hand(&mut self, now: Instant, peer: PeerId) -> Result<TaskId, String> {
        let of_daemon: Vec<_> = self.daemon.sas.iter().filter(|(_, of, _)| *of == peer).cloned().collect();
        let task = self.over_each_ike(now, peer, |endpoint, ike| endpoint.delete_ike(now, ike))?;
        for (_, _, sa) in of_daemon {
            self.submit(now, Purpose::Task(task), sa.remote.ip(), Job::Terminate { ike: sa.spis });
        }
        Ok(task)
    }

    /// Asks a peer for a sign of life.
    ///
    /// # Errors
    /// As [`Coordinator::recover`].
    pub fn dpd_by_hand(&mut self, now: Instant, peer: PeerId) -> Result<TaskId, String> {
        if self.is_by_daemon(peer) {
            return Err(
                "the IKE daemon can't be asked for a liveness check; its own dead peer detection does it".to_owned()
            );
        }
        self.over_each_ike(now, peer, |endpoint, ike| endpoint.liveness(now, ike))
    }

    pub(super) fn over_each_ike(
        &mut self,
        now: Instant,
        peer: PeerId,
        begin: impl Fn(&mut Endpoint, ikev2::IkeId) -> Result<CommandId, CommandError>,
    ) -> Result<TaskId, String> {
        if self.ike_numbers(peer).is_empty() {
            return Err(format!("there is no IKE SA with {}", self.name(peer)));
        }
        let task = self.tasks.start();
        for ike in self.ledger.ikes(Some(peer)).map(|(id, _)| id).collect::<Vec<_>>() {
            self.exchange(now, Purpose::Task(task), ike, BY_HAND, &begin);
        }
        self.settle(now);
        Ok(task)
    }

    pub(super) fn ike_numbers(&self, peer: PeerId) -> Vec<IkeId> {
        let ours = self.ledger.ikes(Some(peer)).map(|(id, _)| id);
        let daemons = self.daemon.sas.iter().filter(|(_, of, _)| *of == peer).map(|(id, ..)| *id);
        ours.chain(daemons).collect()
    }
}
