//! A daemon for the tests of the command line: the real server and protocol, with a network function that has always
//! seen the same traffic. Only SAs and the clearing of counters are real, so that their effect can be seen.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nf_core::control::audit::{AuditEntry, Outcome};
use nf_core::control::controller::Reloaded;
use nf_core::control::proto::{
    BindingReport, Endpoint, EventKind, EventReport, InstanceReport, InvalidSpiEvent, PluginKindReport, PluginReport,
    PortReport, Request, Reserved, Response, SaId, SaName, SaReport, Status, Subscribed, VERSION,
};
use nf_core::control::server::{ControlServer, Handler, Reply, Server};
use nf_core::control::subscribers::Subscribers;
use nf_core::counters::{Consumed, CoreCounters, Snapshot};
use nf_core::drop::DropReason;
use nf_core::hooks::{ActionReport, HookError, HookReport, HookRun, HookStarted};
use nf_core::notify::{Class, FlowReport, NotifyReport};
use nf_core::sa::inbound::SaTotals;
use nf_core::sa::lifetime::{Limit, Unit};
use nf_core::sa::spec::SaSpec;
use nf_core::stage::{RuntimeReport, Stage, StageCounters};
use nf_core::types::Spi;
use nf_ctl::agent::proto as agent;

/// The network function behind the socket.
struct Desk {
    cores: [CoreCounters; 2],
    baseline: Snapshot,
    sas: Vec<SaReport>,
}

impl Desk {
    fn new() -> Desk {
        let cores = [CoreCounters::default(), CoreCounters::default()];
        cores[0].rx().add(64_600, 9_302_400);
        cores[0].drops(DropReason::UnknownSpiV4).add(64_574, 9_298_656);
        cores[0].consumed(Consumed::NatKeepalive).add(6, 258);
        cores[0].tx().add(20, 1_840);
        cores[1].rx().add(1_000_042, 144_006_048);
        cores[1].drops(DropReason::Replay).add(42, 6_048);
        cores[1].tx().add(999_998, 91_999_816);
        let mut desk = Desk { cores, baseline: Snapshot::default(), sas: Vec::new() };
        let sa = serde_json::json!({
            "spi": "0x12345678", "src": "10.1.1.1", "dst": "10.10.1.2", "mode": "tunnel", "alg": "aes-gcm-16",
            "key": "5a".repeat(20), "selectors": {"src": ["192.168.1.0/24"], "dst": ["192.168.2.0/24"]}, "peer": "branch-1",
            "lifetime": {"soft": {"seconds": 3500, "bytes": 4_000_000_000u64}, "hard": {"seconds": 7200}},
        });
        desk.add(&serde_json::from_value(sa).unwrap()).unwrap();
        let sa = desk.sas.last_mut().unwrap();
        sa.state = "dying".to_owned();
        (sa.age_s, sa.highest_seq, sa.totals.packets, sa.totals.octets) =
            (3_600, Some(1_000_060), 1_000_018, 132_002_376);
        (sa.totals.replay_duplicate, sa.totals.replay_late) = (40, 2);
        desk
    }

    fn add(&mut self, spec: &SaSpec) -> Result<(), String> {
        let params = spec.validate().map_err(|error| error.to_string())?;
        if self
            .sas
            .iter()
            .any(|sa| (sa.spi, sa.src, sa.dst) == (params.spi, Some(params.src), params.dst) && sa.state != "larval")
        {
            return Err(format!("an SA with SPI {} from {} to {} exists", params.spi, params.src, params.dst));
        }
        self.sas.retain(|sa| sa.state != "larval" || (sa.spi, sa.dst) != (params.spi, params.dst));
        self.sas.push(SaReport {
            direction: "in".into(),
            spi: params.spi,
            src: Some(params.src),
            dst: params.dst,
            peer: params.peer,
            source: None,
            destination: None,
            path_mtu: None,
            mode: params.mode.to_string(),
            encap: params.encap.to_string(),
            transform: params.transform.name(),
            esn: params.transform.esn(),
            replay_window: params.replay_window.get(),
            selectors: spec.selectors.clone(),
            state: "mature".to_owned(),
            lifetime: params.lifetime,
            age_s: 0,
            highest_seq: None,
            totals: SaTotals::default(),
        });
        Ok(())
    }

    /// As if the first free SPI were always the same.
    fn reserve(&mut self, dst: IpAddr, src: Option<IpAddr>, spi: Option<Spi>) -> Reserved {
        let spi = spi.unwrap_or(Spi(0xC3A1_5D02));
        self.sas.push(SaReport::larval(spi, src, dst, 2));
        Reserved { spi }
    }

    fn find(&self, name: SaName) -> Result<usize, String> {
        let fits = |sa: &SaReport| {
            sa.spi == name.spi
                && name.dst.is_none_or(|dst| dst == sa.dst)
                && name.src.is_none_or(|src| Some(src) == sa.src)
        };
        let found = self.sas.iter().position(fits);
        found
            .ok_or_else(|| format!("there is no SA with SPI {}; `nf-ctl sa list` shows those that there are", name.spi))
    }
}

impl Handler for Desk {
    fn handle(&mut self, request: Request) -> Reply {
        let done = |result: Result<(), String>| result.map_or_else(Response::Error, Response::ok);
        let response = match request {
            Request::Subscribe { kinds } => {
                let kinds = if kinds.is_empty() { EventKind::ALL.to_vec() } else { kinds };
                // Each subscriber sees the same, and then the end.
                let mut subscribers = Subscribers::default();
                let subscription = subscribers.add(kinds.clone());
                events().iter().for_each(|event| subscribers.publish(event));
                return Reply::Events(Subscribed { kinds, now_ns: 0 }, subscription);
            }
            Request::SaReserve { dst, src, spi, .. } => Response::ok(self.reserve(dst, src, spi)),
            Request::SaRelease { sa } => done(self.find(sa).map(|place| drop(self.sas.remove(place)))),
            Request::Status {} => Response::ok(status(self.sas.len())),
            Request::Counters {} => Response::ok(Snapshot::sum(&self.cores).since(&self.baseline).report()),
            Request::CountersClear {} => {
                let before = std::mem::replace(&mut self.baseline, Snapshot::sum(&self.cores));
                Response::ok(self.baseline.since(&before).report())
            }
            Request::CoreCounters {} => {
                Response::ok(self.cores.iter().map(|core| core.snapshot().report()).collect::<Vec<_>>())
            }
            Request::Runtime {} => Response::ok([runtime()]),
            Request::SaAdd { sa } => done(self.add(&sa)),
            Request::SaDel { sa } => done(self.find(sa).map(|place| drop(self.sas.remove(place)))),
            Request::SaList {} => Response::ok(&self.sas),
            Request::SaShow { sa } => {
                self.find(sa).map_or_else(Response::Error, |place| Response::ok(self.sas.get(place)))
            }
            Request::PluginList {} => Response::ok(plugins()),
            Request::PluginBind { plugin, .. } if plugin != "capture" => {
                Response::Error(format!("there is no plugin `{plugin}`; there are capture, decap"))
            }
            // Said back, so that a test can see what came.
            Request::PluginBind { instance, gate, filter, priority, settings, .. } if instance == "echo" => {
                Response::Error(serde_json::json!([gate, filter, priority, settings]).to_string())
            }
            Request::PluginBind { .. } | Request::PluginUnbind { .. } => Response::ok(()),
            Request::RecordedPackets {} => Response::ok([(); 0]),
            Request::RecoveryFailed { .. } => Response::ok(()),
            Request::EventList {} => Response::ok(hooks()),
            Request::EventHistory { limit } => Response::ok(runs().into_iter().take(limit).collect::<Vec<_>>()),
            Request::EventTest { name } if name == "black-hole" => Response::ok(HookStarted { run: 2 }),
            Request::EventTest { name } => Response::Error(HookError::NoSuchHook(name).to_string()),
            Request::Reload {} => Response::ok(Reloaded {
                sas_added: 1,
                sas_changed: 1,
                instances_added: vec!["cap".to_owned()],
                settings: vec!["[notify]".to_owned()],
                for_agent: vec!["[[peer]]".to_owned()],
                ..Reloaded::default()
            }),
            Request::Audit { limit } => Response::ok(audit(limit)),
            Request::InvalidSpi { limit } => Response::ok(invalid_spi(limit)),
        };
        response.into()
    }
}

fn audit_entry(time: &str, program: &str, request: &str, result: Outcome, error: Option<&str>) -> AuditEntry {
    AuditEntry {
        time: time.to_owned(),
        program: program.to_owned(),
        uid: Some(1000),
        user: Some("alice".to_owned()),
        pid: Some(4242),
        request: request.to_owned(),
        result,
        error: error.map(str::to_owned),
    }
}

fn audit(limit: usize) -> Vec<AuditEntry> {
    let taken = "an SA with SPI 0x00001000(4096) from 10.1.1.1 to 10.10.1.2 exists";
    let add = "sa-add 0x00001000(4096) to 10.10.1.2 from 10.1.1.1";
    let mut entries = vec![
        audit_entry("2026-11-25T19:00:00.000Z", "nf-core", add, Outcome::Done, None),
        audit_entry("2026-11-25T19:00:01.250Z", "nf-core", add, Outcome::Failed, Some(taken)),
        audit_entry("2026-11-25T19:00:03.000Z", "nf-core", "counters-clear", Outcome::Denied, None),
    ];
    entries.drain(..entries.len().saturating_sub(limit));
    entries
}

fn runtime() -> RuntimeReport {
    let stages = StageCounters::default();
    for _ in 0..1000 {
        stages.add(Stage::Receive, 40, 2_400);
        stages.add(Stage::Parse, 40, 640);
        stages.add(Stage::Open, 38, 6_400);
        stages.empty_poll(60);
        stages.busy_poll();
    }
    stages.report()
}

fn events() -> Vec<EventReport> {
    let (src, dst): (IpAddr, IpAddr) = ("198.51.100.7".parse().unwrap(), "10.10.1.2".parse().unwrap());
    let sa = SaId { spi: Spi(0x1234_5678), src, dst, peer: Some("branch-7".to_owned()) };
    let port = |port| Endpoint { address: src, port: Some(port) };
    let invalid = InvalidSpiEvent {
        spi: Spi(0x1DB7_3BBB),
        src,
        dst,
        udp_ports: Some((61_234, 4500)),
        class: Class::Transient,
        packets: 1,
        seq: 7041,
        interface: "wan".to_owned(),
        at_ns: 86_400_250_117_000,
    };
    vec![
        EventReport::InvalidSpi(invalid.clone()),
        EventReport::InvalidSpi(InvalidSpiEvent { packets: 998, seq: 8039, at_ns: 86_401_250_118_000, ..invalid }),
        EventReport::SaFirstPacket { sa: sa.clone(), at_ns: 86_401_262_004_000 },
        EventReport::SaLifetime { sa: sa.clone(), limit: Limit::Soft, unit: Unit::Seconds, at_ns: 86_402_000_000_000 },
        EventReport::SaReplay { sa: sa.clone(), packets: 12, at_ns: 86_410_050_000_000 },
        EventReport::SaAddressChanged { sa, from: port(61_234), to: port(1025), at_ns: 86_455_000_009_000 },
    ]
}

fn hooks() -> Vec<HookReport> {
    let hook = |name: &str, on: &str, subject: &str, count, actions: &[&str], runs| HookReport {
        name: name.to_owned(),
        on: on.to_owned(),
        subject: subject.to_owned(),
        count,
        period_s: 60,
        cool_down_s: 300,
        actions: actions.iter().map(|action| (*action).to_owned()).collect(),
        runs,
    };
    vec![
        hook("black-hole", "stuck", "", 1, &["snapshot", "command /usr/local/bin/page --team vpn"], 2),
        hook("replays", "replay", "peer branch-7", 1000, &["syslog"], 0),
    ]
}

fn runs() -> Vec<HookRun> {
    let action = |action: &str, note: &str| ActionReport { action: action.to_owned(), ok: true, note: note.to_owned() };
    let actions = |number| {
        vec![
            action("snapshot", &format!("/var/lib/nf-core/snapshots/179552122725{number}-black-hole-{number}")),
            action("command", "/usr/local/bin/page ended well"),
        ]
    };
    let run = |number, test, event| HookRun {
        run: number,
        hook: "black-hole".to_owned(),
        test,
        event,
        actions: actions(number),
        done: true,
    };
    let event = |src: &str, spi, packets, interface: &str, at_ns| {
        EventReport::InvalidSpi(InvalidSpiEvent {
            spi: Spi(spi),
            src: src.parse().unwrap(),
            dst: "10.10.1.2".parse().unwrap(),
            udp_ports: None,
            class: Class::Stuck,
            packets,
            seq: 1,
            interface: interface.to_owned(),
            at_ns,
        })
    };
    vec![
        run(2, true, event("192.0.2.1", 256, 1, "test", 86_460_000_000_000)),
        run(1, false, event("10.1.1.1", 0xB761_863E, 1000, "wan", 86_280_400_000_000)),
    ]
}

fn status(sas: usize) -> Status {
    let port = |name: &str, role: &str, mac: &str| PortReport {
        name: name.to_owned(),
        role: role.to_owned(),
        driver: "net_ice".to_owned(),
        mac: mac.to_owned(),
        link_up: true,
        rx_queues: 2,
        rx_offloads: vec!["IPV4_CKSUM".to_owned()],
        tx_offloads: vec!["MULTI_SEGS".to_owned()],
        rx_packets: 0,
        tx_packets: 0,
        rx_missed: 0,
        rx_errors: 0,
        rx_no_buffer: 0,
        tx_errors: 0,
    };
    Status {
        protocol: VERSION,
        version: "0.1.0".to_owned(),
        dpdk: "DPDK 22.11.11".to_owned(),
        pid: 4711,
        uptime_s: 86_400,
        cores: 2,
        engine: "aes-gcm".to_owned(),
        sas,
        ports: vec![
            PortReport { rx_packets: 1_064_642, ..port("wan", "unprotected", "02:00:00:00:00:01") },
            PortReport { tx_packets: 1_000_018, link_up: true, ..port("lan", "protected", "02:00:00:00:00:02") },
        ],
    }
}

fn plugins() -> PluginReport {
    let kind = |name: &str, about: &str, gates: &[&str]| PluginKindReport {
        name: name.to_owned(),
        about: about.to_owned(),
        gates: gates.iter().map(|gate| (*gate).to_owned()).collect(),
    };
    PluginReport {
        plugins: vec![
            kind("capture", "writes packets to a pcapng file", &["ingress", "post-decap", "egress", "drop"]),
            kind("decap", "decapsulates ESP", &["esp-input"]),
        ],
        instances: vec![InstanceReport {
            instance: "decap".to_owned(),
            plugin: "decap".to_owned(),
            bindings: vec![BindingReport { gate: "esp-input".to_owned(), priority: 1000, filter: "any".to_owned() }],
            status: serde_json::Value::Null,
        }],
    }
}

fn invalid_spi(limit: usize) -> NotifyReport {
    let flow = |src: &str, spi, class, first_seen_s, events, messages| FlowReport {
        src: src.parse().unwrap(),
        dst: "10.10.1.2".parse().unwrap(),
        spi: Spi(spi),
        udp_ports: None,
        class,
        first_seen_s,
        last_seen_s: 1,
        packets: events,
        events,
        messages,
    };
    let mut flows = vec![
        flow("10.1.1.1", 0xB761_863E, Class::Stuck, 180, 181, 4),
        FlowReport { udp_ports: Some((61_234, 4500)), ..flow("198.51.100.7", 0x1DB7_3BBB, Class::Transient, 2, 1, 1) },
    ];
    flows.truncate(limit);
    NotifyReport {
        packets: 64_574,
        events: 182,
        messages: 5,
        flows_tracked: 2,
        flows_stuck: 1,
        flows_evicted: 0,
        flows,
    }
}

/// An agent that always has the same tunnel.
struct AgentDesk;

impl Handler<agent::Request> for AgentDesk {
    fn handle(&mut self, request: agent::Request) -> Reply {
        let response = match request {
            agent::Request::Status {} => Response::ok(agent_status()),
            agent::Request::Audit { .. } => Response::ok([audit_entry(
                "2026-11-25T19:00:02.500Z",
                "nf-ctl agent",
                "recover \"branch\"",
                Outcome::Done,
                None,
            )]),
            agent::Request::IkeSas { peer } if peer.as_deref().is_none_or(|peer| peer == "branch") => {
                Response::ok([ike_sa()])
            }
            agent::Request::Recovery { limit } => Response::ok(recovery(limit)),
            agent::Request::Reload { .. } => Response::ok(agent::Reloaded {
                peers_added: vec!["branch-8".to_owned()],
                peers_adjusted: vec!["branch-7".to_owned()],
                settings: vec!["[recovery]".to_owned()],
                ..agent::Reloaded::default()
            }),
            agent::Request::IkeDpd { .. } | agent::Request::Recover { .. } => Response::ok(agent::Started { task: 1 }),
            agent::Request::IkeDelete { .. } => Response::ok(agent::Started { task: 2 }),
            agent::Request::Task { task: 1 } => {
                Response::ok(agent::Task::Done { text: "the peer has answered".to_owned() })
            }
            agent::Request::Task { .. } => {
                Response::ok(agent::Task::Failed { text: "the peer doesn't answer, 6 requests in 15.0 s".to_owned() })
            }
            agent::Request::IkeInitiate { peer } => Response::Error(format!(
                "there is an IKE SA with {peer}; `nf-ctl recover {peer}` renews what is over it"
            )),
            agent::Request::IkeSas { .. } => Response::Error("there is no [[peer]] `hub`; there are branch".to_owned()),
        };
        response.into()
    }
}

fn agent_status() -> agent::Status {
    agent::Status {
        protocol: agent::VERSION,
        version: "0.1.0".to_owned(),
        pid: 4712,
        uptime_s: 86_000,
        nf_core: Ok(()),
        peers: vec![agent::PeerReport {
            peer: "branch".to_owned(),
            kind: "svti".to_owned(),
            backend: "embedded".to_owned(),
            address: Some("10.1.1.1".to_owned()),
            ike_sas: 1,
            child_sas: 1,
            problem: None,
        }],
    }
}

fn ike_sa() -> agent::IkeReport {
    agent::IkeReport {
        id: 7,
        peer: "branch".to_owned(),
        backend: "embedded".to_owned(),
        version: 2,
        local: "10.10.1.2:500".parse().unwrap(),
        remote: "10.1.1.1:500".parse().unwrap(),
        local_id: "head.example".to_owned(),
        remote_id: "branch.example".to_owned(),
        initiator: true,
        initiator_spi: "0123456789abcdef".to_owned(),
        responder_spi: "fedcba9876543210".to_owned(),
        algorithms: "Encr: aes128gcm16, PRF: prfsha256, Hash: None, DH Grp: x25519".to_owned(),
        nat: (false, false),
        age_s: 3_600,
        lifetime_s: 14_400,
        children: vec![agent::ChildReport {
            inbound_spi: Spi(0x1234_5678),
            outbound_spi: Spi(0xC0DE_0001),
            mode: "tunnel".to_owned(),
            encap: "none".to_owned(),
            transform: "aes128gcm16".to_owned(),
            local_ts: vec!["192.168.2.0/24".to_owned()],
            remote_ts: vec!["192.168.1.0/24".to_owned()],
            age_s: 3_600,
            lifetime_s: 7_200,
            used: true,
        }],
    }
}

fn recovery(limit: usize) -> agent::RecoveryReport {
    let decision = |ms, count, peer: Option<&str>, address: &str, action: &str, reason: &str| agent::DecisionReport {
        first_ms: ms,
        last_ms: ms,
        count,
        peer: peer.map(str::to_owned),
        address: address.parse().ok(),
        spi: Some(Spi(0xB761_863E)),
        trigger: "invalid SPI 0xB761863E(3076621886)".to_owned(),
        action: action.to_owned(),
        reason: reason.to_owned(),
    };
    let mut decisions = vec![
        decision(9_000, 64_574, None, "203.0.113.9", "none", "the source is no [[peer]]: counted, never answered"),
        decision(
            3_014,
            1,
            Some("branch"),
            "10.1.1.1",
            "initiate",
            "no IKE SA with the peer: new IKE SA with INITIAL_CONTACT",
        ),
        decision(
            3_005,
            1,
            Some("branch"),
            "10.1.1.1",
            "delete",
            "DELETE over the IKE SA for SPI 0xB761863E(3076621886)",
        ),
        decision(3_001, 1, Some("branch"), "10.1.1.1", "recovered", "done after 12.7 ms"),
    ];
    decisions.drain(..decisions.len().saturating_sub(limit));
    agent::RecoveryReport {
        invalid_spi_recovery: true,
        budget_left: 197,
        budget_burst: 200,
        budget_per_min: 600,
        totals: [("none".to_owned(), 64_574), ("initiate".to_owned(), 1), ("delete".to_owned(), 1)].into(),
        decisions,
    }
}

/// The daemon, running. It ends when this is dropped.
pub struct Daemon {
    directory: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    control: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts it.
    pub fn new() -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let server = ControlServer::bind(&directory.path().join("nf.sock")).unwrap();
        let agent: Server<agent::Request> = Server::bind(&directory.path().join("nf-agent.sock")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let control = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut desk = Desk::new();
                while !stop.load(Ordering::Relaxed) {
                    server.serve(&mut desk, Duration::from_millis(2));
                    agent.serve(&mut AgentDesk, Duration::from_millis(2));
                }
            }
        });
        Daemon { directory, stop, control: Some(control) }
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("nf.sock")
    }

    /// A directory for files of a test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a line of shell, in the daemon's directory, for which `nf-ctl` finds the daemon.
    pub fn shell(&self, line: &str) -> Output {
        let binaries = Path::new(env!("CARGO_BIN_EXE_nf-ctl")).parent().unwrap();
        Command::new("sh")
            .args(["-c", line])
            .current_dir(self.directory())
            .env("PATH", format!("{}:/usr/bin:/bin", binaries.display()))
            .env("NF_CTL_SOCKET", self.socket())
            .env("NF_CTL_AGENT_SOCKET", self.directory().join("nf-agent.sock"))
            .output()
            .unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
    }
}
