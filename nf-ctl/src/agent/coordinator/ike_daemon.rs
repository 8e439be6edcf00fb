//! Peers with whom strongSwan's daemon speaks IKE: what it has, and what it is asked for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use super::{Coordinator, Purpose, Waiting};
use crate::agent::daemon_link::{DaemonLink, Job, JobId};
use crate::agent::peers::Peer;
use crate::backend;
use crate::recovery::{IkeId, PeerId};

/// The daemon's IKE SAs, as it listed them last.
#[derive(Debug, Default)]
pub(super) struct DaemonSas {
    pub(super) link: Option<DaemonLink>,
    pub(super) problem: Option<String>,
    pub(super) sas: Vec<(IkeId, PeerId, backend::IkeSa)>,
    pub(super) jobs: HashMap<JobId, Waiting>,
}

impl Coordinator {
    pub(super) fn is_by_daemon(&self, peer: PeerId) -> bool {
        self.peers.get(peer).is_some_and(Peer::is_by_daemon)
    }

    pub(super) fn daemon_ike(&self, peer: PeerId) -> Option<&backend::IkeSa> {
        self.daemon.sas.iter().rev().find(|(_, of, _)| *of == peer).map(|(_, _, sa)| sa)
    }

    pub(super) fn daemon_initiation(&self, peer: PeerId) -> Job {
        let connection = self.peers.get(peer).map_or("", Peer::connection);
        Job::Initiate { connection: connection.to_owned() }
    }

    pub(super) fn submit(&mut self, now: Instant, purpose: Purpose, remote: IpAddr, job: Job) {
        let submitted = match &mut self.daemon.link {
            Some(link) => link.submit(job),
            None => Err("there is no IKE daemon".to_owned()),
        };
        match submitted {
            Ok(id) => {
                // The threads keep to a time of their own.
                let waiting = Waiting { purpose, ike: None, remote, sent: 0, since: now, deadline: now };
                self.daemon.jobs.insert(id, waiting);
            }
            Err(why) => self.finish(now, purpose, Err(why), false, 0),
        }
    }

    pub(super) fn daemon_done(&mut self, now: Instant, job: JobId, result: Result<(), backend::BackendError>) {
        if let Some(waiting) = self.daemon.jobs.remove(&job) {
            // What the daemon sends is its own affair, and so are its limits.
            self.finish(now, waiting.purpose, result.map_err(|error| error.to_string()), false, 0);
        } else if let Err(error) = result {
            tracing::warn!("{error}");
        }
    }

    /// Compares the daemon's SAs with those of before.
    pub(super) fn daemon_sas(&mut self, now: Instant, list: Vec<backend::IkeSa>) {
        let before = std::mem::take(&mut self.daemon.sas);
        let usable =
            |sa: &backend::IkeSa| matches!(sa.state, backend::IkeState::Established | backend::IkeState::Rekeying);
        for sa in list.into_iter().filter(usable) {
            let mut peers = self.peers.iter();
            let of = peers.find(|(_, peer)| peer.is_by_daemon() && peer.connection() == sa.connection);
            let Some((peer, _)) = of else {
                continue;
            };
            let known = before.iter().find(|(_, _, old)| old.spis == sa.spis);
            let id = known.map(|(id, ..)| *id).unwrap_or_else(|| {
                self.last_number += 1;
                let id = IkeId(self.last_number);
                self.engine.ike_up(now, id, peer, sa.remote);
                id
            });
            for spi in sa.children.iter().filter_map(|child| child.spi_in) {
                let is_new =
                    known.is_none_or(|(_, _, old)| !old.children.iter().any(|child| child.spi_in == Some(spi)));
                if is_new {
                    self.engine.child_up(id, spi);
                }
            }
            let gone = known.into_iter().flat_map(|(_, _, old)| &old.children).filter_map(|child| child.spi_in);
            for spi in gone.filter(|spi| !sa.children.iter().any(|child| child.spi_in == Some(*spi))) {
                self.engine.child_down(now, id, spi);
            }
            self.daemon.sas.push((id, peer, sa));
        }
        for (id, ..) in before.iter().filter(|(id, ..)| !self.daemon.sas.iter().any(|(now, ..)| now == id)) {
            self.engine.ike_down(now, *id);
        }
        if !self.daemon.sas.is_empty() {
            self.daemon.problem = None;
        }
    }
}
