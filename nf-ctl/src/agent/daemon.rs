//! The agent as a process: its sockets, its threads, its clock, its beginning and end.

mod reload;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{Receiver, Sender, bounded, select_biased};
use ikev2::crypto::secret::Secret;
use ikev2::{Connection, Endpoint, EndpointConfig, Transmit};
use nf_core::config::{Config, ConfigError, Control};
use nf_core::control::audit::Audit;
use nf_core::control::proto::Response;
use nf_core::control::server::{Call, Handler, Limits, Reply, Server, ServerError};
use nf_core::systemd::Supervisor;

use tracing_subscriber::EnvFilter;

use super::coordinator::{Coordinator, SpiSource};
use super::credentials::read_or_make;
use super::daemon_link::{DaemonLink, DaemonNews};
use super::muffle::Muffle;
use super::peers::{self, Peer, Peers};
use super::proto::{Request, Started, Status, VERSION};
use super::sad::{self, Sad};
use super::tasks::TaskId;
use super::udp::{BindError, Datagram, IkeSockets, Ports};
use crate::detect;
use crate::recovery::PeerId;

/// Datagrams that wait. What is more than that is lost, as in a network.
const DATAGRAMS: usize = 1024;
/// Datagrams that are handled before anything else has its turn again.
const BATCH: usize = 64;
/// News that wait; their sender waits, too.
const NEWS: usize = 4096;
/// How long the peers have to answer the DELETEs at the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// The longest pause of the main loop.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is told that messages can't be sent.
const SEND_ERRORS: Duration = Duration::from_secs(10);

/// Why the agent can't run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its control socket.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// An IKE daemon is in the way.
    #[error("peer `{peer}`: {conflict}")]
    Conflict {
        /// Of which peer.
        peer: String,
        /// What is in the way, and what to do.
        conflict: detect::Conflict,
    },
    /// A port of IKE can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The secret of quick crash detection.
    #[error("[agent] qcd_secret_file: {0}")]
    Secret(String),
    /// A connection can't be used.
    #[error("peer `{0}`: {1}")]
    Connection(String, ikev2::config::ConfigError),
    /// One of them can't be used; it is named.
    #[error(transparent)]
    Connections(ikev2::config::ConfigError),
    /// Fields that are read at the start alone.
    #[error("{0} can't be changed while the agent runs: put back what was there, or start it anew")]
    NeedsRestart(String),
    /// The system refuses something.
    #[error("{what}: {error}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> AgentError {
    move |error| AgentError::System { what, error }
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// [`AgentError`], if it can't start.
pub fn run(path: &Path) -> Result<(), AgentError> {
    log();
    // Before the first key is read.
    if let Err(error) = nf_core::process::forbid_core_dumps() {
        tracing::warn!("core dumps can't be switched off ({error}): one of this process would hold keys");
    }
    let config = Config::load(path)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // The second one ends the process whatever it does.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(system("signals can't be caught"))?;
    }
    let reload = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&reload))
        .map_err(system("signals can't be caught"))?;
    // First of all: a second instance must not touch the ports.
    let Control { access, audit_file, .. } = config.control.clone();
    let server: Server<Request> = Server::bind_for(&config.agent.socket, Limits::default(), access, audit_file)?;
    let (peers, connections) = peers::load(&config);
    for peer in &peers {
        if let Some(problem) = &peer.problem {
            tracing::warn!(peer = peer.config.name, "IKE can't be spoken with it: {problem}");
        }
    }
    refuse_second_endpoint(&config, &connections)?;
    let sockets = bind(&connections, &[])?;
    let now = Instant::now();
    let sad = Arc::new(Mutex::new(Sad::new(&config.control.socket)));
    let rng = ikev2::system_rng().map_err(|error| AgentError::System {
        what: "the system gives no random numbers",
        error: io::Error::other(error.to_string()),
    })?;
    let spis = Box::new(SpiSource(Arc::clone(&sad)));
    let qcd_secret =
        config.agent.qcd_secret_file.as_deref().map(read_or_make).transpose().map_err(AgentError::Secret)?;
    let qcd_secret = qcd_secret.map(|secret| Secret::from(secret.as_slice()));
    let mut endpoint =
        Endpoint::new(EndpointConfig { qcd_secret, ..EndpointConfig::default() }, rng, spis, now, SystemTime::now());
    for connection in connections {
        let name = connection.name.clone();
        endpoint.add_connection(connection).map_err(|error| AgentError::Connection(name, error))?;
    }

    let (core_sender, core) = bounded(NEWS);
    let (daemon_sender, daemon_news) = bounded(NEWS);
    let link = match peers.iter().any(Peer::is_by_daemon) {
        true => Some(DaemonLink::start(&config.agent.vici_socket, &daemon_sender).map_err(system("no thread"))?),
        false => None,
    };
    let (datagram_sender, datagrams) = bounded(DATAGRAMS);
    let ended = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (path, ended) = (config.control.socket.clone(), Arc::clone(&ended));
        spawn(move || sad::watch(&path, &core_sender, &ended))?
    };
    let mut numbered = Peers::default();
    numbered.set(peers);
    let policy = peers::policy(&config, &numbered);
    let mut agent = Agent {
        coordinator: Coordinator::new(now, numbered, policy, endpoint, sad, link),
        audit: server.audit(),
        sockets: Vec::new(),
        received: datagram_sender,
        daemon_news: daemon_sender,
        send_errors: Muffle::new(SEND_ERRORS),
        started: now,
        path: path.to_owned(),
        config,
    };
    agent.listen(sockets)?;
    let config = &agent.config;
    tracing::info!(peers = config.peers.len(), socket = %config.agent.socket.display(), "the agent runs");

    let supervisor = Supervisor::from_env();
    supervisor.ready(&format!("{} peers", config.peers.len()));
    let inputs = Inputs { datagrams, core, daemon_news, calls: server.calls().clone() };
    agent.coordinator.timeout(now);
    while !stop.load(Ordering::Relaxed) {
        if reload.swap(false, Ordering::Relaxed) {
            agent.reload_by_signal();
        }
        agent.turn(&inputs);
    }
    supervisor.stopping();
    if agent.config.agent.delete_on_exit {
        agent.say_goodbye(&inputs);
    }
    tracing::info!("the agent ends");
    ended.store(true, Ordering::Relaxed);
    for Listening { sockets, thread } in agent.sockets.drain(..) {
        sockets.stop();
        let _ = thread.join();
    }
    drop((agent, inputs));
    let _ = watcher.join();
    Ok(())
}

/// Logs to stderr, as nf-core does; `NF_LOG=debug` tells more.
fn log() {
    let filter = EnvFilter::try_from_env("NF_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A second initialisation, as in tests, leaves the first in place.
    let _ = tracing_subscriber::fmt().with_writer(io::stderr).with_target(false).with_env_filter(filter).try_init();
}

fn spawn(run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, AgentError> {
    thread::Builder::new().name("nf-agent".to_owned()).spawn(run).map_err(system("no thread"))
}

/// Refuses to be a second IKE endpoint beside a living one.
fn refuse_second_endpoint(config: &Config, connections: &[Connection]) -> Result<(), AgentError> {
    if connections.is_empty() {
        return Ok(());
    }
    let vici: Vec<_> =
        config.agent.vici_socket.exists().then(|| config.agent.vici_socket.clone()).into_iter().collect();
    let daemons = detect::find(Path::new(detect::OWN_NETWORK), &vici).map_err(system("the sockets can't be listed"))?;
    for connection in connections {
        let (local_id, remote_id) = (
            connection.local_id.to_string(),
            connection.remote_id.as_ref().map_or_else(String::new, ToString::to_string),
        );
        let endpoint = detect::Endpoint { local: connection.local, local_id: &local_id, remote_id: &remote_id };
        if let Some(conflict) = detect::conflict(&daemons, endpoint) {
            return Err(AgentError::Conflict { peer: connection.name.clone(), conflict });
        }
    }
    Ok(())
}

/// The sockets of all addresses of ours that connections have; none where all are bound.
fn bind(connections: &[Connection], bound: &[Listening]) -> Result<Option<IkeSockets>, AgentError> {
    let is_bound =
        |address: &IpAddr| bound.iter().any(|listening| listening.sockets.locals().any(|local| local.ip() == *address));
    let local = connections.iter().map(|connection| connection.local);
    let addresses: Vec<IpAddr> = local.filter(|address| !is_bound(address)).collect();
    if addresses.is_empty() {
        return Ok(None);
    }
    Ok(Some(IkeSockets::bind(&addresses, Ports::default())?))
}

/// Sockets of IKE, with the thread that receives by them.
struct Listening {
    sockets: Arc<IkeSockets>,
    thread: JoinHandle<()>,
}

/// What comes in.
struct Inputs {
    datagrams: Receiver<Datagram>,
    core: Receiver<sad::CoreNews>,
    daemon_news: Receiver<DaemonNews>,
    calls: Receiver<Call<Request>>,
}

/// The main thread's state.
struct Agent {
    coordinator: Coordinator,
    sockets: Vec<Listening>,
    /// Where their datagrams go.
    received: Sender<Datagram>,
    /// Where news of strongSwan's daemon go.
    daemon_news: Sender<DaemonNews>,
    audit: Arc<Audit>,
    send_errors: Muffle,
    started: Instant,
    /// nf.toml, and what was in it.
    path: PathBuf,
    config: Config,
}

impl Agent {
    /// Receives by further sockets.
    fn listen(&mut self, sockets: Option<IkeSockets>) -> Result<(), AgentError> {
        let Some(sockets) = sockets.map(Arc::new) else {
            return Ok(());
        };
        let (receiver, received) = (Arc::clone(&sockets), self.received.clone());
        let thread = spawn(move || {
            // When the queue is full a datagram is lost, as in a network.
            if let Err(error) = receiver.receive(|datagram| received.try_send(datagram).is_ok()) {
                tracing::error!(%error, "IKE messages can't be received any more: start the agent anew");
            }
        })?;
        self.sockets.push(Listening { sockets, thread });
        Ok(())
    }

    /// Waits for something to do and does it.
    fn turn(&mut self, inputs: &Inputs) {
        let now = Instant::now();
        let wait = self.coordinator.next_timeout(now).map_or(PAUSE, |at| at.saturating_duration_since(now)).min(PAUSE);
        let calls = inputs.calls.clone();
        select_biased! {
            recv(inputs.core) -> news => if let Ok(news) = news {
                self.coordinator.core_news(Instant::now(), news);
            },
            recv(inputs.datagrams) -> datagram => {
                let more = std::iter::from_fn(|| inputs.datagrams.try_recv().ok());
                for Datagram { local, remote, message } in datagram.into_iter().chain(more).take(BATCH) {
                    self.coordinator.datagram(Instant::now(), local, remote, &message);
                }
            },
            recv(inputs.daemon_news) -> news => if let Ok(news) = news {
                self.coordinator.daemon_news(Instant::now(), news);
            },
            recv(calls) -> call => if let Ok(call) = call {
                call.answer(self);
            },
            default(wait) => {}
        }
        self.coordinator.timeout(Instant::now());
        self.transmit();
    }

    fn transmit(&mut self) {
        while let Some(Transmit { local, remote, payload }) = self.coordinator.poll_transmit() {
            let mut sockets = self.sockets.iter().map(|listening| &listening.sockets);
            let Some(sockets) = sockets.find(|sockets| sockets.locals().any(|bound| bound == local)) else {
                continue;
            };
            if let Err(error) = sockets.send(local, remote, &payload) {
                // As good as lost on the way; it is repeated.
                match self.send_errors.tell(Instant::now()) {
                    Some(0) => tracing::warn!("{error}"),
                    Some(untold) => tracing::warn!(untold, "{error}"),
                    None => tracing::debug!("{error}"),
                }
            }
        }
    }

    /// Deletes all IKE SAs, so that peers don't have to find out by themselves.
    fn say_goodbye(&mut self, inputs: &Inputs) {
        let deadline = Instant::now() + FAREWELL;
        self.coordinator.delete_all(Instant::now());
        self.transmit();
        while !self.coordinator.is_empty() && Instant::now() < deadline {
            self.turn(inputs);
        }
        self.coordinator.remove_all();
    }

    fn status(&self) -> Status {
        Status {
            protocol: VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            nf_core: self.coordinator.nf_core(),
            peers: self.coordinator.peer_reports(),
        }
    }
}

impl Handler<Request> for Agent {
    fn handle(&mut self, request: Request) -> Reply {
        let now = Instant::now();
        let coordinator = &mut self.coordinator;
        let mut started =
            |peer: &str, begin: fn(&mut Coordinator, Instant, PeerId) -> Result<TaskId, String>| match coordinator
                .find(peer)
                .and_then(|id| begin(coordinator, now, id))
            {
                Ok(TaskId(task)) => Response::ok(Started { task }),
                Err(why) => Response::Error(why),
            };
        let response = match request {
            Request::Status {} => Response::ok(self.status()),
            Request::Recovery { limit } => Response::ok(coordinator.recovery_report(now, limit)),
            Request::IkeSas { peer } => match peer.map(|peer| coordinator.find(&peer)).transpose() {
                Ok(peer) => Response::ok(coordinator.ike_reports(peer, now)),
                Err(why) => Response::Error(why),
            },
            Request::Audit { limit } => Response::ok(self.audit.last(limit)),
            Request::Reload { check } => match self.reload(check) {
                Ok(reloaded) => Response::ok(reloaded),
                Err(why) => Response::Error(why),
            },
            Request::Recover { peer } => started(&peer, Coordinator::recover),
            Request::IkeInitiate { peer } => started(&peer, Coordinator::initiate_by_hand),
            Request::IkeDelete { peer } => started(&peer, Coordinator::delete_by_hand),
            Request::IkeDpd { peer } => started(&peer, Coordinator::dpd_by_hand),
            Request::Task { task } => match coordinator.tasks().get(TaskId(task)) {
                Some(task) => Response::ok(task),
                None => Response::Error(format!("there is no task {task}, or not any more")),
            },
        };
        response.into()
    }
}
