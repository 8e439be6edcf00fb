//! Metrics for Prometheus and its like: OpenMetrics text at a local HTTP address, where `[metrics] listen` asks for it.
//!
//! It runs on threads of its own, and asks for what it exposes over the control sockets, as any other client does: no
//! core hears of it, and the control thread at most once a second, however many ask.

mod exposition;
mod http;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::control::client::{Client, ClientError, Daemon};
use crate::control::proto::{PortReport, Request, SaReport, Status};
use crate::counters::{Report, Tally};
use crate::notify::NotifyReport;
use crate::stage::{RuntimeReport, StageReport};

use exposition::Exposition;
use http::Server;

pub use exposition::{Family, Kind};

/// For so long what was collected is served again.
const FRESH: Duration = Duration::from_secs(1);
/// How long nf-core may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the agent may: it need not be there.
const AGENT_PATIENCE: Duration = Duration::from_secs(1);

/// The agent, with the version of its protocol that is read here.
static AGENT: Daemon = Daemon {
    program: "nf-ctl agent",
    start: "nf-ctl agent",
    option: "--agent-socket",
    setting: "[agent] socket",
    version: 1,
};

/// `[metrics]`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MetricsConfig {
    /// Where to listen; without it there are no metrics.
    pub listen: Option<SocketAddr>,
    /// SAs at most of which each has metrics of its own; where there are more, none has.
    pub per_sa: usize,
}

/// Who is asked.
#[derive(Clone, Debug)]
pub struct Sources {
    /// nf-core's control socket.
    pub socket: PathBuf,
    /// The agent's.
    pub agent: PathBuf,
}

/// The metrics, served. Dropping it ends that.
pub struct Metrics(Server);

impl Metrics {
    /// Starts to serve metrics.
    ///
    /// # Errors
    /// The address can't be listened at, or there is no room for a thread.
    pub fn start(listen: SocketAddr, per_sa: usize, sources: Sources) -> io::Result<Metrics> {
        let kept: Mutex<Option<(Instant, Arc<str>)>> = Mutex::new(None);
        let page = move || {
            // Whoever comes meanwhile waits, and has what this one collects.
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, text)) = kept.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
                return Ok(Arc::clone(text));
            }
            let text: Arc<str> = collect(&sources, per_sa)?.into();
            *kept = Some((Instant::now(), Arc::clone(&text)));
            Ok(text)
        };
        Server::start(listen, Arc::new(page)).map(Metrics)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

/// What the agent says of itself, as far as it is exposed.
#[derive(Deserialize)]
struct AgentStatus {
    peers: Vec<AgentPeer>,
}

#[derive(Deserialize)]
struct AgentPeer {
    peer: String,
    ike_sas: f64,
    child_sas: f64,
}

#[derive(Deserialize)]
struct AgentRecovery {
    budget_left: f64,
    #[serde(default)]
    totals: BTreeMap<String, f64>,
}

/// What a family shows of a report.
type Number<T> = fn(&T) -> u64;

/// Asks all sources.
fn collect(sources: &Sources, per_sa: usize) -> Result<String, String> {
    let mut client = Client::connect_within(&sources.socket, PATIENCE).map_err(|error| error.to_string())?;
    let mut text = Exposition::default();
    let status: Status = ask(&mut client, &Request::Status {})?;
    let Status { version, dpdk, engine, .. } = &status;
    text.family(Family::Build, [([version.clone(), dpdk.clone(), engine.clone()], 1.0)]);
    text.single(Family::Uptime, status.uptime_s as f64);
    cores(&mut text, &ask::<Vec<Report>>(&mut client, &Request::CoreCounters {})?);
    stages(&mut text, &ask::<Vec<RuntimeReport>>(&mut client, &Request::Runtime {})?);
    ports(&mut text, &status.ports);
    text.single(Family::Sas, status.sas as f64);
    if (1..=per_sa).contains(&status.sas) {
        let mut list: Vec<SaReport> = ask(&mut client, &Request::SaList {})?;
        list.retain(|sa| sa.state != "larval");
        sas(&mut text, &list);
    }
    invalid_spis(&mut text, &ask::<NotifyReport>(&mut client, &Request::InvalidSpi { limit: 0 })?);
    agent(&mut text, &sources.agent);
    Ok(text.finish())
}

fn ask<T: DeserializeOwned>(client: &mut Client, request: &Request) -> Result<T, String> {
    client.call(request).map_err(|error| error.to_string())
}

fn cores(text: &mut Exposition, cores: &[Report]) {
    let dropped: Number<Report> = |core| core.feature.iter().map(|row| row.packets).sum();
    let by_core: [(Family, Number<Report>); 7] = [
        (Family::Received, |core| core.rx.packets),
        (Family::ReceivedOctets, |core| core.rx.octets),
        (Family::Sent, |core| core.tx.packets),
        (Family::SentOctets, |core| core.tx.octets),
        (Family::CoreDropped, dropped),
        (Family::EventsLost, |core| core.events_lost),
        (Family::InFlight, |core| core.in_flight),
    ];
    for (family, number) in by_core {
        text.family(family, numbered(cores).map(|(id, core)| ([id], number(core) as f64)));
    }
    let mut consumed: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut drops: BTreeMap<(u16, &str), Tally> = BTreeMap::new();
    for core in cores {
        for (cause, tally) in &core.consumed {
            let sum = consumed.entry(cause).or_default();
            *sum = *sum + *tally;
        }
        for row in &core.feature {
            let sum = drops.entry((row.index, &row.name)).or_default();
            *sum = *sum + Tally { packets: row.packets, octets: row.octets };
        }
    }
    text.family(Family::Consumed, consumed.iter().map(|(cause, sum)| ([(*cause).to_owned()], sum.packets as f64)));
    let labels = |(index, name): &(u16, &str)| [index.to_string(), (*name).to_owned()];
    text.family(Family::Dropped, drops.iter().map(|(reason, sum)| (labels(reason), sum.packets as f64)));
    text.family(Family::DroppedOctets, drops.iter().map(|(reason, sum)| (labels(reason), sum.octets as f64)));
}

fn numbered<T>(list: &[T]) -> impl Iterator<Item = (String, &T)> {
    list.iter().enumerate().map(|(number, item)| (number.to_string(), item))
}

fn stages(text: &mut Exposition, cores: &[RuntimeReport]) {
    text.family(Family::Polls, numbered(cores).map(|(id, core)| ([id], core.polls as f64)));
    text.family(Family::EmptyPolls, numbered(cores).map(|(id, core)| ([id], core.empty_polls as f64)));
    let by_stage: [(Family, Number<StageReport>); 2] =
        [(Family::StagePackets, |stage| stage.packets), (Family::StageClocks, |stage| stage.clocks)];
    for (family, number) in by_stage {
        let samples = numbered(cores).flat_map(|(id, core)| {
            core.stages.iter().map(move |stage| ([id.clone(), stage.stage.clone()], number(stage) as f64))
        });
        text.family(family, samples);
    }
}

fn ports(text: &mut Exposition, ports: &[PortReport]) {
    let by_port: [(Family, Number<PortReport>); 7] = [
        (Family::PortUp, |port| u64::from(port.link_up)),
        (Family::PortReceived, |port| port.rx_packets),
        (Family::PortSent, |port| port.tx_packets),
        (Family::PortMissed, |port| port.rx_missed),
        (Family::PortNoBuffer, |port| port.rx_no_buffer),
        (Family::PortRxErrors, |port| port.rx_errors),
        (Family::PortTxErrors, |port| port.tx_errors),
    ];
    for (family, number) in by_port {
        text.family(family, ports.iter().map(|port| ([port.name.clone(), port.role.clone()], number(port) as f64)));
    }
}

fn sas(text: &mut Exposition, sas: &[SaReport]) {
    let by_sa: [(Family, Number<SaReport>); 5] = [
        (Family::SaPackets, |sa| sa.totals.packets),
        (Family::SaOctets, |sa| sa.totals.octets),
        (Family::SaReplays, |sa| sa.totals.replay_duplicate.wrapping_add(sa.totals.replay_late)),
        (Family::SaAuthFailures, |sa| sa.totals.auth_failed),
        (Family::SaRefused, |sa| sa.totals.refused),
    ];
    for (family, number) in by_sa {
        let samples = sas.iter().map(|sa| {
            let src = sa.src.map(|src| src.to_string()).unwrap_or_default();
            let peer = sa.peer.clone().unwrap_or_default();
            let labels = [format!("{:#010x}", sa.spi.0), sa.direction.clone(), src, sa.dst.to_string(), peer];
            (labels, number(sa) as f64)
        });
        text.family(family, samples);
    }
}

fn invalid_spis(text: &mut Exposition, report: &NotifyReport) {
    text.single(Family::InvalidSpiPackets, report.packets as f64);
    text.single(Family::InvalidSpiEvents, report.events as f64);
    text.single(Family::InvalidSpiMessages, report.messages as f64);
    let transient = report.flows_tracked.saturating_sub(report.flows_stuck);
    let by_class = [("stuck", report.flows_stuck), ("transient", transient)];
    text.family(Family::InvalidSpiFlows, by_class.map(|(class, flows)| ([class.to_owned()], flows as f64)));
    text.single(Family::InvalidSpiEvicted, report.flows_evicted as f64);
}

/// Asks the agent. Where none runs, that is all that is said of it.
fn agent(text: &mut Exposition, socket: &Path) {
    let Ok((status, recovery)) = ask_agent(socket) else {
        text.single(Family::AgentUp, 0.0);
        return;
    };
    text.single(Family::AgentUp, 1.0);
    text.family(Family::AgentIkeSas, status.peers.iter().map(|peer| ([peer.peer.clone()], peer.ike_sas)));
    text.family(Family::AgentChildSas, status.peers.iter().map(|peer| ([peer.peer.clone()], peer.child_sas)));
    text.single(Family::RecoveryBudget, recovery.budget_left);
    text.family(Family::RecoveryDecisions, recovery.totals.into_iter().map(|(action, times)| ([action], times)));
}

fn ask_agent(socket: &Path) -> Result<(AgentStatus, AgentRecovery), ClientError> {
    let mut client = Client::connect_to(&AGENT, socket, AGENT_PATIENCE)?;
    let status = client.call(&json!({"op": "status"}))?;
    Ok((status, client.call(&json!({"op": "recovery", "limit": 0}))?))
}
