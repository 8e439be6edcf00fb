//! The daemon: ports opened, workers launched, the control thread's loop, and the way down.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dpdk_rs::{
    Eal, LcoreHandle, Mempool, Port, PortConfig, RssTypes, RxOffloads, RxQueue, SocketId, StartedPort, TxQueue,
};

use super::clock::Clock;
use super::device::{self, PciAddress, Tree};
use super::holding::Holding;
use super::host::{Host, Tap};
use super::numa::{self, FramePools};
use super::reassembly::Reassembler;
use super::spread::Spreader;
use super::watchdog::Watchdog;
use super::worker::{Output, Pools, Queues, Worker};
use super::{Error, cryptodev, eal, log, telemetry};
use crate::config::{self, Config, Control, Idle, PortRole};
use crate::control::controller::Controller;
use crate::control::handler::{ConfigFile, Daemon, Platform};
use crate::control::proto::PortReport;
use crate::control::server::{ControlServer, Limits};
use crate::hooks::{Hooks, Runner, Sources};
use crate::metrics::{self, Metrics};
use crate::net::NetPort;
use crate::plugin::Registry;
use crate::process;
use crate::state::{Keeper, Opened};
use crate::systemd::Supervisor;
use crate::types::PortIndex;
use crate::wire::ethernet::MacAddr;

/// How often the control thread does what is due.
const TICK: Duration = Duration::from_millis(50);
/// How often it looks whether a core has something to tell, if no request comes: recovery begins with that. A core tells
/// it without a system call, so the control thread must look; this often costs it less than a hundredth of a CPU.
const LOOK: Duration = Duration::from_millis(2);
/// Empty rounds before a core that may sleep does.
const ROUNDS_BEFORE_SLEEP: u32 = 1000;
/// How long it sleeps.
const SLEEP: Duration = Duration::from_micros(50);
/// A port with its queues, as it was opened.
struct OpenPort {
    role: PortRole,
    port: StartedPort,
    rx: Vec<RxQueue>,
    tx: Vec<TxQueue>,
    next_hop: Option<MacAddr>,
    mtu: u16,
    stands_for: Option<PortIndex>,
}

impl OpenPort {
    fn mac(&self) -> MacAddr {
        MacAddr(self.port.info().mac.0)
    }
}

/// What signals ask for.
struct Signals {
    /// SIGTERM and SIGINT: the end.
    stop: Arc<AtomicBool>,
    /// SIGHUP: the configuration read again.
    reload: Arc<AtomicBool>,
}

struct Dpdk(Vec<(PortRole, usize, StartedPort)>);

impl Platform for Dpdk {
    fn dpdk_version(&self) -> String {
        Eal::version()
    }

    fn ports(&self) -> Vec<PortReport> {
        let report = |(role, rx_queues, port): &(PortRole, usize, StartedPort)| {
            let (info, stats) = (port.info(), port.stats().unwrap_or_default());
            PortReport {
                name: port.name().to_owned(),
                role: role.to_string(),
                driver: info.driver.clone(),
                mac: MacAddr(info.mac.0).to_string(),
                link_up: port.link().is_ok_and(|link| link.up),
                rx_queues: *rx_queues,
                rx_offloads: port.rx_offloads().names(),
                tx_offloads: port.tx_offloads().names(),
                rx_packets: stats.ipackets,
                tx_packets: stats.opackets,
                rx_missed: stats.imissed,
                rx_errors: stats.ierrors,
                rx_no_buffer: stats.rx_nombuf,
                tx_errors: stats.oerrors,
            }
        };
        self.0.iter().map(report).collect()
    }
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from starting; nothing stays behind then.
pub fn run(path: &Path, registry: Registry) -> Result<(), Error> {
    // Before the first key is read.
    let dumps = process::forbid_core_dumps();
    let config = Config::load(path)?;
    log::init(&config.notify)?;
    if let Err(error) = dumps {
        tracing::warn!("core dumps can't be switched off ({error}): one of this process would hold keys");
    }
    if !config.ports.iter().any(|port| port.role == PortRole::Unprotected) {
        let problem =
            format!("{}: there is no [[port]] with role = \"unprotected\", so no packet could come in", path.display());
        return Err(Error::Unusable(problem));
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| Error::Unusable(format!("signals can't be caught: {error}")))?;
    }
    let reload = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&reload))
        .map_err(|error| Error::Unusable(format!("signals can't be caught: {error}")))?;
    // First of all: a second instance must not touch the ports.
    let Control { socket, access, audit_file } = config.control.clone();
    let server = ControlServer::bind_for(&socket, Limits::default(), access, audit_file)?;
    let state = config.state.as_ref().map(|state| Keeper::open(state, config.sad.capacity, dpdk_rs::map_words));
    let state = state.transpose()?;

    check_devices(&config, &Tree::default())?;
    let eal = Eal::init(eal::daemon_args(&config.eal, &config.crypto, &config.control.socket)?)?;
    let file = ConfigFile { path: path.to_owned(), config };
    let served = serve(eal, file, registry, &server, state, &Signals { stop, reload });
    eal::shut_down(eal);
    served
}

/// The daemon's life. All that DPDK gives is gone when it ends.
fn serve(
    eal: Eal,
    file: ConfigFile,
    registry: Registry,
    server: &ControlServer,
    state: Option<Opened>,
    signals: &Signals,
) -> Result<(), Error> {
    let config = &file.config;
    let stop = &signals.stop;
    let clock = Clock::new(eal);
    let big = Mempool::create(eal, "big", eal::BIG_MBUFS, 0, eal::BIG_DATA_ROOM, SocketId::ANY)?;
    let mut frames = FramePools::new(eal, config.eal.mbufs);
    let workers = config.eal.cores.len();
    let mut ports =
        config.ports.iter().map(|port| open(eal, port, workers, &mut frames)).collect::<Result<Vec<_>, Error>>()?;
    let nodes: Vec<_> = eal.worker_lcores().iter().map(|lcore| eal.socket_of(*lcore)).collect();
    warn_of_remote(&ports, &config.eal.cores.iter().copied().zip(nodes).collect::<Vec<_>>());

    for (open, port) in ports.iter_mut().zip(&config.ports) {
        open.stands_for = port.stands_for.as_ref().and_then(|name| index_of(config, name));
    }
    let net_ports = ports.iter().zip(&config.ports).map(|(open, port)| {
        let (mtu, stands_for, addresses) = (open.mtu, open.stands_for, port.addresses.clone());
        let port = NetPort::new(open.role, open.mac(), open.next_hop);
        (open.port.name().to_owned(), NetPort { mtu, stands_for, addresses, ..port })
    });
    let (engine, mut devices) = cryptodev::engine(eal, &config.crypto, workers)?;
    let sinks = log::sinks(&config.notify);
    let (mut controller, mut cores) =
        Controller::with_engine(engine, config, registry, net_ports.collect(), workers, sinks)?;
    if let Some(opened) = state {
        controller.keep_state_with(opened, &mut cores)?;
    }

    let host = start_host(&ports)?;
    if let Some(tables) = host.as_ref().and_then(Host::take_tables) {
        controller.set_host_tables(tables);
    }

    // All workers are made before the first is launched: one that can't be made leaves nothing running.
    let mut made = Vec::with_capacity(workers);
    let rx_queues: Vec<usize> = ports.iter().map(|open| open.rx.len()).collect();
    let shares: Vec<_> = (1..=workers).rev().map(|left| share(&mut ports, left)).collect();
    let receives =
        |worker: &usize, port| shares.get(*worker).is_some_and(|share| share.iter().any(|(it, _)| *it == port));
    let receivers: Vec<_> = (0u8..)
        .zip(&ports)
        .filter(|(_, open)| open.role == PortRole::Unprotected)
        .map(|(number, _)| PortIndex(number))
        .map(|port| (port, (0..workers).filter(|worker| receives(worker, port)).collect()))
        .collect();
    let spreaders = Spreader::mesh(eal, config.eal.spread, workers, &receivers)?;
    for (((core, lcore), rx), spreader) in cores.into_iter().zip(eal.worker_lcores()).zip(shares).zip(spreaders) {
        let tx = ports.iter_mut().map(|open| open.tx.pop().map(Output::new)).collect();
        let queues = Queues { rx, tx, spreader, device: devices.pop() };
        let reassembler = if config.reassembly.enabled {
            Some(Reassembler::new(eal, config, workers, clock, big.clone())?)
        } else {
            None
        };
        let holding = Holding::new(config.sad.larval, clock);
        let near = frames.nearest(eal.socket_of(*lcore));
        let pools = Pools { frames: near.unwrap_or_else(|| big.clone()), big: big.clone() };
        made.push((*lcore, Worker::new(core, clock, queues, pools, reassembler, holding)));
    }
    let _metrics = serve_metrics(config)?;
    telemetry::register_all(eal, &config.control.socket)?;
    let launch = |(lcore, worker)| {
        let (stop, idle) = (Arc::clone(stop), config.eal.idle);
        eal.launch(lcore, move || work(worker, &stop, idle))
    };
    let handles = made.into_iter().map(launch).collect::<Result<Vec<_>, _>>()?;
    let links = Links::new(&ports);
    let platform =
        Dpdk(ports.into_iter().zip(rx_queues).map(|(open, queues)| (open.role, queues, open.port)).collect());
    // Ended last, so that it sees what happens until then.
    let _hooks = run_hooks(config, &mut controller)?;
    tracing::info!(
        workers,
        sas = controller.sas().len(),
        socket = %config.control.socket.display(),
        dpdk = Eal::version(),
        "nf-core runs"
    );
    let daemon = Daemon { controller, platform, audit: server.audit(), file };
    control(daemon, server, clock, signals, handles, Around { host, links })
}

/// The number of the port with a name.
fn index_of(config: &Config, name: &str) -> Option<PortIndex> {
    config.ports.iter().position(|port| port.name == name).map(|index| PortIndex(index as u8))
}

/// Sets the host's side of exception ports up, if any stands for a port.
fn start_host(ports: &[OpenPort]) -> Result<Option<Host>, Error> {
    let taps: Vec<Tap> = ports
        .iter()
        .filter_map(|open| {
            let of = open.stands_for?;
            let stood_for = ports.get(of.index())?;
            let (name, interface) = (open.port.name().to_owned(), open.port.info().interface);
            Some(Tap { name, interface, of, mac: stood_for.mac(), mtu: stood_for.mtu })
        })
        .collect();
    if taps.is_empty() { Ok(None) } else { Host::start(&taps).map(Some) }
}

/// What of the machine the control thread looks after.
struct Around {
    host: Option<Host>,
    links: Links,
}

impl Around {
    /// Takes what the host knows, and gives it what the cores want to know.
    fn mirror(&mut self, controller: &mut Controller) {
        let unresolved = controller.take_unresolved();
        let Some(host) = &self.host else {
            return;
        };
        for (port, address) in unresolved {
            host.resolve(port, address);
        }
        if let Some(tables) = host.take_tables() {
            controller.set_host_tables(tables);
        }
    }

    /// Looks at the ports' links.
    fn watch_links(&mut self, platform: &Dpdk) {
        for (index, (_, _, port)) in platform.0.iter().enumerate() {
            let Ok(link) = port.link() else {
                continue;
            };
            let index = PortIndex(index as u8);
            if self.links.note(index, link.up) {
                let speed = link.mbit_per_s.map_or_else(|| "unknown".to_owned(), |speed| format!("{speed} Mbit/s"));
                match link.up {
                    true => tracing::info!(port = port.name(), speed, "link up"),
                    false => tracing::warn!(port = port.name(), "link down: check cable, switch port and peer"),
                }
            }
            if let Some(host) = &mut self.host {
                host.follow_link(index, link.up);
            }
        }
    }
}

/// The state of each port's link, as it was seen last.
struct Links(Vec<Option<bool>>);

impl Links {
    fn new(ports: &[OpenPort]) -> Links {
        Links(vec![None; ports.len()])
    }

    /// Notes a state; whether it is news.
    fn note(&mut self, port: PortIndex, up: bool) -> bool {
        self.0.get_mut(port.index()).is_some_and(|link| link.replace(up) != Some(up))
    }
}

/// One of `left` workers' share of the receive queues that are left: as equal as can be. With fewer queues than workers the
/// last ones have none.
fn share(ports: &mut [OpenPort], left: usize) -> Vec<(PortIndex, RxQueue)> {
    let mut share = Vec::new();
    for (number, open) in (0u8..).zip(ports) {
        let count = open.rx.len().div_ceil(left);
        share.extend(open.rx.drain(..count).map(|queue| (PortIndex(number), queue)));
    }
    share
}

/// Starts to run hooks: those that there are, and those that a reload brings.
fn run_hooks(config: &Config, controller: &mut Controller) -> Result<Runner, Error> {
    let hooks = Arc::clone(controller.hooks());
    let (_, events) = controller.subscribe(Hooks::kinds());
    let sources = Sources { socket: config.control.socket.clone(), agent: config.agent.socket.clone() };
    let runner = Runner::start(hooks, events, sources);
    runner.map_err(|error| Error::Unusable(format!("no thread for [[event]] can be started: {error}")))
}

/// Starts to serve metrics, if they are asked for.
fn serve_metrics(config: &Config) -> Result<Option<Metrics>, Error> {
    let Some(listen) = config.metrics.listen else {
        return Ok(None);
    };
    let sources = metrics::Sources { socket: config.control.socket.clone(), agent: config.agent.socket.clone() };
    let metrics = Metrics::start(listen, config.metrics.per_sa, sources).map_err(|error| {
        Error::Unusable(format!(
            "[metrics] listen: can't listen at {listen}: {error}; name a free address of this host"
        ))
    })?;
    tracing::info!(address = %metrics.address(), "metrics are served at /metrics");
    Ok(Some(metrics))
}

/// The control thread's loop, and the way down.
fn control(
    mut daemon: Daemon<Dpdk>,
    server: &ControlServer,
    clock: Clock,
    Signals { stop, reload }: &Signals,
    handles: Vec<LcoreHandle<()>>,
    mut around: Around,
) -> Result<(), Error> {
    let mut watchdog = Watchdog::new(Supervisor::from_env());
    let status = format!("{} workers, {} SAs", handles.len(), daemon.controller.sas().len());
    watchdog.supervisor.ready(&status);
    let mut next_tick = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        server.serve(&mut daemon, LOOK);
        if reload.swap(false, Ordering::Relaxed) {
            daemon.reload_by_signal();
        }
        if daemon.controller.has_events() {
            daemon.controller.take_events(clock.now());
        }
        around.mirror(&mut daemon.controller);
        if Instant::now() < next_tick {
            continue;
        }
        next_tick = Instant::now() + TICK;
        daemon.controller.tick(clock.now());
        watchdog.tick(daemon.controller.rounds());
        around.watch_links(&daemon.platform);
        // A worker ends only when it is told to, or when it panics; the panic's message is on stderr.
        if let Some(dead) = handles.iter().find(|handle| handle.is_finished() && !stop.load(Ordering::Relaxed)) {
            tracing::error!(lcore = ?dead.lcore(), "a worker has died; ending, to be started anew");
            stop.store(true, Ordering::Relaxed);
        }
    }
    watchdog.supervisor.stopping();
    tracing::info!("nf-core stops");
    let ended = handles.into_iter().map(LcoreHandle::join).collect::<Vec<_>>();
    daemon.controller.finish(clock.now());
    ended.into_iter().collect::<Result<(), _>>()?;
    // Only now: where a worker has died, a successor takes the SAs over.
    daemon.controller.discard_state();
    Ok(())
}

/// A worker core's loop.
fn work(mut worker: Worker, stop: &AtomicBool, idle: Idle) {
    let mut empty = 0u32;
    while !stop.load(Ordering::Relaxed) {
        if worker.poll() > 0 {
            empty = 0;
            continue;
        }
        empty = empty.saturating_add(1);
        if idle == Idle::Sleep && empty > ROUNDS_BEFORE_SLEEP {
            std::thread::sleep(SLEEP);
        } else {
            std::hint::spin_loop();
        }
    }
    worker.finish();
}

/// Sees whether DPDK can have the network cards that are named.
fn check_devices(config: &Config, tree: &Tree) -> Result<(), Error> {
    for port in &config.ports {
        let Some(address) = PciAddress::of(&port.name) else {
            continue;
        };
        let problem = if config.eal.args.iter().any(|arg| arg == "--no-pci") {
            Err("[eal] args has --no-pci, so no network card is there; leave it out".to_owned())
        } else {
            device::check(tree, &address)
        };
        problem.map_err(|problem| Error::Unusable(format!("the port `{}`: {problem}", port.name)))?;
    }
    Ok(())
}

/// Says which workers are far from a port.
fn warn_of_remote(ports: &[OpenPort], workers: &[(u16, SocketId)]) {
    for open in ports {
        let node = open.port.info().socket;
        let remote = numa::remote(node, workers);
        if !remote.is_empty() {
            tracing::warn!(port = open.port.name(), node = node.id(), cpus = ?remote,
                "these [eal] cores are on another NUMA node than the port, which costs throughput: choose cores of its node \
                 (`lscpu` shows which)");
        }
    }
}

/// What of that which a port announces it is asked to do on receipt.
///
/// That is the IPv4 header checksum. UDP's and TCP's would serve nobody: ESP in UDP is vouched for by its ICV and has none as a
/// rule (RFC 3948 2.1), the host's stack checks what is the host's, and a virtio port that is asked for them hands over packets
/// without any, which a router must not pass on.
fn rx_offloads(role: PortRole, announced: RxOffloads) -> RxOffloads {
    match role {
        PortRole::Unprotected | PortRole::Protected if announced.contains(RxOffloads::IPV4_CHECKSUM) => {
            RxOffloads::IPV4_CHECKSUM
        }
        // What the host sends was summed by the host.
        PortRole::Unprotected | PortRole::Protected | PortRole::Exception => RxOffloads::NONE,
    }
}

fn open(eal: Eal, config: &config::Port, workers: usize, frames: &mut FramePools) -> Result<OpenPort, Error> {
    let port = Port::by_name(eal, &config.name)?;
    let info = port.info()?;
    let workers = u16::try_from(workers).unwrap_or(u16::MAX);
    if info.max_tx_queues < workers {
        return Err(Error::Unusable(format!(
            "the port `{}` (driver {}) has {} transmit queues, and each of the {workers} workers needs one; name fewer \
             [eal] cores, or give the device more (net_af_packet: qpairs={workers})",
            config.name, info.driver, info.max_tx_queues
        )));
    }
    let spread = if !info.rss_types.is_empty() || info.max_rx_queues < workers {
        info.max_rx_queues.min(workers)
    } else {
        workers
    };
    let rx_queues = config.rx_queues.unwrap_or(spread);
    let rss = rx_queues > 1;
    let port_config = PortConfig {
        rx_offloads: rx_offloads(config.role, info.rx_offloads),
        rx_queues,
        tx_queues: workers,
        mtu: config.mtu,
        promiscuous: config.promiscuous,
        rss,
        ..PortConfig::default()
    };
    let (mut port, rx, tx) = port.configure(&port_config, &frames.near(info.socket)?)?.start()?;
    if let Some(mac) = config.mac {
        port.set_mac(dpdk_rs::MacAddr(mac.0))?;
    }
    if rss {
        let hashed = port.active_rss().names().join(", ");
        tracing::info!(port = config.name, queues = rx_queues, hashed, "packets are spread over receive queues");
    }
    if rss && !port.active_rss().intersects(RssTypes::ESP) {
        tracing::warn!(
            port = config.name,
            "the port's hash doesn't cover the SPI: all ESP between two addresses lands on one queue; [eal] spread says what \
             becomes of it"
        );
    }
    let mtu = port.mtu()?;
    Ok(OpenPort { role: config.role, port, rx, tx, next_hop: config.next_hop_mac, mtu, stands_for: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_asked_for_what_they_announce_and_no_more() {
        let all = RxOffloads::IPV4_CHECKSUM | RxOffloads::UDP_CHECKSUM | RxOffloads::TCP_CHECKSUM;
        for role in [PortRole::Unprotected, PortRole::Protected] {
            assert_eq!(rx_offloads(role, all), RxOffloads::IPV4_CHECKSUM);
            assert_eq!(rx_offloads(role, RxOffloads::UDP_CHECKSUM), RxOffloads::NONE);
        }
        assert_eq!(rx_offloads(PortRole::Exception, all), RxOffloads::NONE);
    }
}
