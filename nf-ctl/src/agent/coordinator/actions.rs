//! What recovery decides is carried out here, as exchanges that have an end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ikev2::wire::ChildSpi;
use ikev2::{CommandError, CommandId, Endpoint, Failure};

use super::{Coordinator, Purpose, Waiting};
use crate::agent::daemon_link::Job;
use crate::recovery::{Action, IkeId, Outcome, Site, Unknown};

/// For so long a liveness check of a recovery may take: three requests.
const LIVENESS: Duration = Duration::from_millis(2500);
/// For so long an exchange of a recovery may take: four requests.
const EXCHANGE: Duration = Duration::from_millis(4500);
/// For so long the exchanges of a new IKE SA may take.
const INITIATION: Duration = Duration::from_millis(5500);

impl Coordinator {
    pub(super) fn carry_out(&mut self, now: Instant, action: Action) {
        match action {
            Action::CheckLiveness { site, .. } if self.is_by_daemon(site.peer) => {
                // There is no such request; what follows shows whether the IKE SA lives.
                self.engine.outcome(now, site, Outcome::Done, 0);
            }
            Action::CheckLiveness { site, ike } => {
                self.exchange(now, Purpose::Recovery(site), ike, LIVENESS, |endpoint, ike| endpoint.liveness(now, ike));
            }
            Action::MakeChild { site, replaces, .. } if self.is_by_daemon(site.peer) => {
                let job = match (replaces, self.daemon_ike(site.peer)) {
                    (Some(spi), Some(ike)) => Job::RekeyChild { spi, local: ike.local.ip() },
                    _ => self.daemon_initiation(site.peer),
                };
                self.submit(now, Purpose::Recovery(site), site.address, job);
            }
            Action::MakeChild { site, ike, replaces } => {
                self.exchange(now, Purpose::Recovery(site), ike, EXCHANGE, |endpoint, ike| match replaces {
                    Some(spi) => endpoint.rekey_child(now, ike, ChildSpi(spi.0)),
                    None => endpoint.create_child(now, ike),
                });
            }
            Action::Delete { site, ike, spis } => {
                let spis = spis.into_iter().map(|spi| ChildSpi(spi.0)).collect();
                self.exchange(now, Purpose::Recovery(site), ike, EXCHANGE, |endpoint, ike| {
                    endpoint.delete_child(now, ike, spis)
                });
            }
            Action::Initiate { site } if self.is_by_daemon(site.peer) => {
                let job = self.daemon_initiation(site.peer);
                self.submit(now, Purpose::Recovery(site), site.address, job);
            }
            Action::Initiate { site } => self.initiate(now, site),
            Action::Hint { site, packet } => self.hint(now, site, &packet),
            Action::Abandon { ike } => self.abandon(now, ike),
        }
    }

    /// Begins an exchange over an IKE SA.
    pub(super) fn exchange(
        &mut self,
        now: Instant,
        purpose: Purpose,
        ike: IkeId,
        time: Duration,
        begin: impl FnOnce(&mut Endpoint, ikev2::IkeId) -> Result<CommandId, CommandError>,
    ) {
        let found = self.numbers.iter().find(|(_, number)| **number == ike).map(|(id, _)| *id);
        let remote = self.ledger.ike(ike).map(|entry| entry.report.remote.ip());
        let (Some(id), Some(remote)) = (found, remote) else {
            self.finish(now, purpose, Err("the IKE SA is gone".to_owned()), false, 0);
            return;
        };
        match begin(&mut self.endpoint, id) {
            Ok(command) => {
                let deadline = now + time;
                let waiting = Waiting { purpose, ike: Some(id), remote, sent: 0, since: now, deadline };
                self.commands.insert(command, waiting);
            }
            Err(error) => self.finish(now, purpose, Err(error.to_string()), false, 0),
        }
    }

    pub(super) fn initiate(&mut self, now: Instant, site: Site) {
        let purpose = Purpose::Recovery(site);
        let Some(peer) = self.peers.get(site.peer) else {
            return;
        };
        if let Some(problem) = peer.problem.clone() {
            self.finish(now, purpose, Err(problem), false, 0);
            return;
        }
        match self.endpoint.initiate(now, &peer.config.name, true) {
            Ok((command, ike)) => {
                let deadline = now + INITIATION;
                let waiting = Waiting { purpose, ike: Some(ike), remote: site.address, sent: 0, since: now, deadline };
                self.commands.insert(command, waiting);
            }
            Err(error) => self.finish(now, purpose, Err(error.to_string()), false, 0),
        }
    }

    pub(super) fn hint(&mut self, now: Instant, site: Site, packet: &Unknown) {
        // To where the packet came from (RFC 7296 1.5): behind a NAT only that port leads to the peer.
        let (remote_port, local_port) = packet.udp_ports.unwrap_or((500, 500));
        let local = SocketAddr::new(packet.dst, local_port);
        let remote = SocketAddr::new(site.address, remote_port);
        if !self.endpoint.send_invalid_spi_hint(now, local, remote, ChildSpi(packet.spi.0)) {
            tracing::debug!(%remote, "no hint: too many unprotected messages");
        }
    }

    pub(super) fn abandon(&mut self, now: Instant, ike: IkeId) {
        if let Some((_, peer, sa)) = self.daemon.sas.iter().find(|(id, ..)| *id == ike) {
            let (spis, peer) = (sa.spis, *peer);
            tracing::info!(peer = self.name(peer), "the IKE daemon is to drop a dead IKE SA");
            if let Some(link) = &mut self.daemon.link
                && let Err(why) = link.submit(Job::Terminate { ike: spis })
            {
                tracing::warn!("{why}");
            }
            return;
        }
        if let Some(id) = self.numbers.iter().find(|(_, number)| **number == ike).map(|(id, _)| *id) {
            self.endpoint.abandon(now, id);
        }
    }

    /// An exchange has taken too long.
    pub(super) fn late(&mut self, now: Instant, waiting: Waiting) {
        let seconds = now.saturating_duration_since(waiting.since).as_secs_f32();
        let why = format!("the peer doesn't answer, {} requests in {seconds:.1} s", waiting.sent);
        // What is still being established is given up with it.
        if let Some(ike) = waiting.ike
            && !self.numbers.contains_key(&ike)
        {
            self.endpoint.abandon(now, ike);
        }
        self.finish(now, waiting.purpose, Err(why), true, waiting.sent);
    }

    pub(super) fn ended(&mut self, now: Instant, waiting: Waiting, result: Result<(), Failure>) {
        let silent = matches!(result, Err(Failure::NoResponse { .. } | Failure::PeerLostState));
        self.finish(now, waiting.purpose, result.map_err(|failure| failure.to_string()), silent, waiting.sent);
    }

    pub(super) fn finish(
        &mut self,
        now: Instant,
        purpose: Purpose,
        result: Result<(), String>,
        silent: bool,
        sent: u32,
    ) {
        match purpose {
            Purpose::Recovery(site) => {
                let outcome = match result {
                    Ok(()) => Outcome::Done,
                    Err(why) if silent => Outcome::NoAnswer(why),
                    Err(why) => Outcome::Failed(why),
                };
                self.engine.outcome(now, site, outcome, sent);
            }
            Purpose::Task(task) => self.tasks.end(task, result.map(|()| "the peer has answered".to_owned())),
        }
    }
}
