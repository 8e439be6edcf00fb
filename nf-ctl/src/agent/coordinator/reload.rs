//! Other peers and settings of recovery, taken over while IKE SAs live.

use std::time::Instant;

use ikev2::Connection;
use ikev2::config::ConfigError;
use nf_core::config::Config;

use super::{Coordinator, Purpose};
use crate::agent::daemon_link::DaemonLink;
use crate::agent::peers::{self, Peer};
use crate::agent::proto::Reloaded;
use crate::recovery::PeerId;

impl Coordinator {
    /// What [`Coordinator::reload`] would change about peers.
    ///
    /// # Errors
    /// A connection can't be used.
    pub fn compare(&self, peers: &[Peer], connections: &[Connection]) -> Result<Reloaded, ConfigError> {
        let of_ike = self.endpoint.compare_connections(connections)?;
        let mut report = Reloaded::default();
        for peer in peers {
            let name = &peer.config.name;
            let before = self.peers.find(name).and_then(|id| self.peers.get(id));
            let Some(before) = before else {
                report.peers_added.push(name.clone());
                continue;
            };
            let other_daemon = before.is_by_daemon() != peer.is_by_daemon()
                || (peer.is_by_daemon() && before.connection() != peer.connection());
            // Those that come are of peers that no IKE could be spoken with before.
            if other_daemon || [&of_ike.changed, &of_ike.added].iter().any(|list| list.contains(name)) {
                report.peers_changed.push(name.clone());
            } else if before.config != peer.config || of_ike.adjusted.contains(name) {
                report.peers_adjusted.push(name.clone());
            }
        }
        let stays = |name: &str| peers.iter().any(|peer| peer.config.name == name);
        let gone = self.peers.iter().filter(|(_, before)| !stays(&before.config.name));
        report.peers_removed = gone.map(|(_, before)| before.config.name.clone()).collect();
        Ok(report)
    }

    /// Takes over the peers of a configuration, with the connections of those with whom IKE is spoken here, and its settings of
    /// recovery; `report` is what [`Coordinator::compare`] says of them. A peer that stays as it is keeps its SAs; with one that is changed in what is negotiated IKE begins anew,
    /// where it had begun; what there is with one that is gone is deleted. `link` is for peers of strongSwan's daemon, where
    /// there was none before.
    ///
    /// # Errors
    /// As [`Coordinator::compare`]; nothing has changed then.
    pub fn reload(
        &mut self,
        now: Instant,
        config: &Config,
        peers: Vec<Peer>,
        connections: Vec<Connection>,
        report: &Reloaded,
        link: Option<DaemonLink>,
    ) -> Result<(), ConfigError> {
        let ids = |names: &[String]| names.iter().filter_map(|name| self.peers.find(name)).collect::<Vec<_>>();
        let (changed, removed) = (ids(&report.peers_changed), ids(&report.peers_removed));
        let begun: Vec<PeerId> = changed.iter().copied().filter(|peer| self.has_begun(*peer)).collect();

        self.endpoint.set_connections(now, connections)?;
        // While the peers have their names: their SAs go, and recoveries that are under way end.
        self.settle(now);
        for peer in changed.iter().chain(&removed) {
            for sa in self.ledger.lingering_of(*peer) {
                self.remove(sa);
            }
            // The daemon's own SAs are its own affair.
            for (ike, ..) in self.daemon.sas.extract_if(.., |(_, of, _)| of == peer) {
                self.engine.ike_down(now, ike);
            }
        }
        self.peers.set(peers);
        self.engine.set_policy(now, peers::policy(config, &self.peers));
        if link.is_some() {
            self.daemon.link = link;
        }
        self.settle(now);
        let orphans = self.recoveries.extract_if(.., |(peer, _)| removed.contains(peer));
        for (_, task) in orphans.collect::<Vec<_>>() {
            self.tasks.end(task, Err("the peer was taken out of nf.toml".to_owned()));
        }

        for peer in begun {
            self.engine.negotiate_anew(now, peer);
        }
        self.engine.handle_timeout(now);
        self.settle(now);
        Ok(())
    }

    /// Whether there is an IKE SA of our own with a peer, or one is being made.
    fn has_begun(&self, peer: PeerId) -> bool {
        let is_for = |purpose: Purpose| matches!(purpose, Purpose::Recovery(site) if site.peer == peer);
        self.ledger.ikes(Some(peer)).next().is_some() || self.commands.values().any(|waiting| is_for(waiting.purpose))
    }

    /// Whether strongSwan's daemon is spoken to.
    pub fn has_daemon_link(&self) -> bool {
        self.daemon.link.is_some()
    }
}
