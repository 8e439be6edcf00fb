//! The network function without DPDK: frames in, frames out, in memory.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test binary uses its part of this; a failed unwrap is a failed test"
)]

pub mod device;
pub mod pcap;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use aes_gcm::Aes128Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit, Nonce};
use nf_core::batch::{Batch, Fate};
use nf_core::config::{Config, PortRole};
use nf_core::control::controller::Controller;
use nf_core::control::handler::Platform;
use nf_core::control::proto::PortReport;
use nf_core::core::Core;
use nf_core::counters::Snapshot;
use nf_core::drop::DropReason;
use nf_core::holding::{Held, HoldQueue};
use nf_core::lanes::BURST;
use nf_core::lookaside::{Returned, Ticket};
use nf_core::net::NetPort;
use nf_core::notify::FanOut;
use nf_core::packet::Packet;
use nf_core::plugin::Registry;
use nf_core::sa::larval::Settled;
use nf_core::sa::spec::{SaParams, SaSpec};
use nf_core::types::{Nanos, PortIndex};
use nf_core::wire::ethernet::MacAddr;

/// A platform without ports, for a daemon in memory.
pub struct NoPorts;

impl Platform for NoPorts {
    fn dpdk_version(&self) -> String {
        "none".to_owned()
    }

    fn ports(&self) -> Vec<PortReport> {
        Vec::new()
    }
}

/// Room in front of a frame, as DPDK leaves it in an mbuf.
const HEADROOM: usize = 128;
/// Room behind it.
const TAILROOM: usize = 128;

/// The addresses of a gateway's ports, unprotected and protected, and of the routers behind them.
pub const MACS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 1, 0]), MacAddr([2, 0, 0, 0, 1, 1])];
pub const ROUTERS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 2, 0]), MacAddr([2, 0, 0, 0, 2, 1])];

/// A network function with an unprotected port 0 and a protected port 1.
pub struct Nf {
    pub controller: Controller,
    pub cores: Vec<Core>,
    /// What each core holds for larval SAs.
    pub holding: Vec<HoldQueue<Vec<u8>>>,
    pub now: Nanos,
    pub output: Vec<Vec<u8>>,
}

impl Nf {
    pub fn new(config: &str, cores: usize) -> Nf {
        Nf::with_registry(config, cores, Registry::builtin())
    }

    pub fn with_registry(config: &str, cores: usize, registry: Registry) -> Nf {
        Nf::build(config, cores, registry, FanOut::default())
    }

    pub fn with_sinks(config: &str, sinks: FanOut) -> Nf {
        Nf::build(config, 1, Registry::builtin(), sinks)
    }

    /// With ports of these roles in place of the usual two.
    pub fn with_ports(config: &str, roles: &[PortRole]) -> Nf {
        Nf::build_with(config, 1, Registry::builtin(), FanOut::default(), roles)
    }

    /// With these ports, each called `net-` and its role.
    pub fn with_net_ports(config: &str, ports: Vec<NetPort>) -> Nf {
        let config = Config::parse(config, Path::new("nf.toml")).unwrap();
        let ports = ports.into_iter().map(|port| (format!("net-{}", port.role), port)).collect();
        Nf::assemble(&config, 1, Registry::builtin(), FanOut::default(), ports)
    }

    fn build(config: &str, cores: usize, registry: Registry, sinks: FanOut) -> Nf {
        Nf::build_with(config, cores, registry, sinks, &[PortRole::Unprotected, PortRole::Protected])
    }

    fn build_with(config: &str, cores: usize, registry: Registry, sinks: FanOut, roles: &[PortRole]) -> Nf {
        let config = Config::parse(config, Path::new("nf.toml")).unwrap();
        let port = |role: &PortRole| (format!("net-{role}"), NetPort::new(*role, MacAddr::default(), None));
        Nf::assemble(&config, cores, registry, sinks, roles.iter().map(port).collect())
    }

    fn assemble(config: &Config, cores: usize, registry: Registry, sinks: FanOut, ports: Vec<(String, NetPort)>) -> Nf {
        Nf::of(config, Controller::new(config, registry, ports, cores, sinks).unwrap())
    }

    fn of(config: &Config, (controller, cores): (Controller, Vec<Core>)) -> Nf {
        let holding = cores.iter().map(|_| HoldQueue::new(config.sad.larval)).collect();
        Nf { controller, cores, holding, now: Nanos(1), output: Vec::new() }
    }

    /// With an address and a router for each of the usual two ports, so that packets are forwarded both ways.
    pub fn gateway(config: &str, cores: usize) -> Nf {
        let config = Config::parse(config, Path::new("nf.toml")).unwrap();
        Nf::assemble(&config, cores, Registry::builtin(), FanOut::default(), gateway_ports())
    }

    /// A gateway with one core, whose packets a crypto device opens and seals.
    pub fn gateway_by_device(config: &str) -> Nf {
        let config = Config::parse(config, Path::new("nf.toml")).unwrap();
        let made = Controller::with_engine(
            Box::new(device::Device),
            &config,
            Registry::builtin(),
            gateway_ports(),
            1,
            FanOut::default(),
        );
        let mut nf = Nf::of(&config, made.unwrap());
        nf.cores[0].use_lookaside();
        nf
    }

    /// One burst after the other through core 0, from port 0.
    pub fn receive<'f>(&mut self, frames: impl IntoIterator<Item = &'f [u8]>) {
        let frames: Vec<&[u8]> = frames.into_iter().collect();
        for burst in frames.chunks(BURST) {
            self.receive_burst(0, burst);
        }
    }

    /// One burst through a core, from port 0.
    pub fn receive_burst(&mut self, core: usize, frames: &[&[u8]]) {
        let sent = self.receive_on(PortIndex(0), core, frames);
        self.output.extend(sent.into_iter().map(|(_, frame)| frame));
    }

    /// One burst through a core; gives what leaves, and on which port. What was held for an SA that is there now goes
    /// first.
    pub fn receive_on(&mut self, port: PortIndex, core: usize, frames: &[&[u8]]) -> Vec<(PortIndex, Vec<u8>)> {
        let mut sent = self.poll(core);
        for frame in frames {
            self.cores[core].counters().rx().add(1, frame.len() as u64);
        }
        sent.extend(self.process(port, core, frames));
        sent
    }

    /// Lets a core apply what the control thread has sent, as a worker does between bursts; gives what leaves.
    pub fn poll(&mut self, core: usize) -> Vec<(PortIndex, Vec<u8>)> {
        poll(&mut self.cores[core], &mut self.holding[core], self.now)
    }

    /// Has the control thread make a change while the cores work; what leaves meanwhile is appended to the output.
    pub fn control<T: Send>(&mut self, change: impl FnOnce(&mut Controller) -> T + Send) -> T {
        let Nf { controller, cores, holding, now, output } = self;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let control = scope.spawn(|| {
                let outcome = change(controller);
                done.store(true, Ordering::Release);
                outcome
            });
            loop {
                let last = done.load(Ordering::Acquire);
                for (core, holding) in cores.iter_mut().zip(holding.iter_mut()) {
                    output.extend(poll(core, holding, *now).into_iter().map(|(_, frame)| frame));
                }
                if last || control.is_finished() {
                    break control.join().unwrap();
                }
                std::thread::yield_now();
            }
        })
    }

    fn process(&mut self, port: PortIndex, core: usize, frames: &[&[u8]]) -> Vec<(PortIndex, Vec<u8>)> {
        process(&mut self.cores[core], &mut self.holding[core], self.now, port, frames, Entry::Received)
    }

    /// Lets the control thread do its work at a later time.
    pub fn tick(&mut self, now: Nanos) {
        self.now = now;
        self.controller.tick(now);
    }

    pub fn counters(&self) -> Snapshot {
        self.controller.counters()
    }
}

/// The two ports of a gateway.
fn gateway_ports() -> Vec<(String, NetPort)> {
    let roles = [PortRole::Unprotected, PortRole::Protected];
    let ports = roles.into_iter().zip(MACS.into_iter().zip(ROUTERS)).map(|(role, (mac, router))| {
        (format!("net-{role}"), NetPort { mtu: 1500, ..NetPort::new(role, mac, Some(router)) })
    });
    ports.collect()
}

/// What a worker does between two bursts.
fn poll(core: &mut Core, holding: &mut HoldQueue<Vec<u8>>, now: Nanos) -> Vec<(PortIndex, Vec<u8>)> {
    core.poll_commands();
    let mut sent = Vec::new();
    for settled in core.take_settled() {
        match settled {
            Settled::Matured(id) => {
                let held: Vec<_> = std::iter::from_fn(|| holding.pop(id)).collect();
                for burst in held.chunks(BURST) {
                    let frames: Vec<&[u8]> = burst.iter().map(|held| held.buffer.as_slice()).collect();
                    sent.extend(process(core, holding, now, burst[0].port, &frames, Entry::Held));
                }
            }
            Settled::Gone(id) => {
                while let Some(held) = holding.pop(id) {
                    core.counters().drops(DropReason::LarvalTimeout).add(1, held.octets as u64);
                }
            }
        }
    }
    holding.expire(now, |held| core.counters().drops(DropReason::LarvalTimeout).add(1, held.octets as u64));
    sent
}

/// Where a burst enters.
#[derive(Clone, Copy)]
enum Entry {
    Received,
    Held,
    Own,
}

/// What a worker does with a burst.
fn process(
    core: &mut Core,
    holding: &mut HoldQueue<Vec<u8>>,
    now: Nanos,
    port: PortIndex,
    frames: &[&[u8]],
    entry: Entry,
) -> Vec<(PortIndex, Vec<u8>)> {
    let mut sent = Vec::new();
    let mut buffers: Vec<Vec<u8>> = frames.iter().map(|frame| in_room(frame)).collect();
    let mut batch = Batch::default();
    for (buffer, frame) in buffers.iter_mut().zip(frames) {
        let packet = Packet::new(buffer, HEADROOM..HEADROOM + frame.len(), port).unwrap();
        batch.push(packet).unwrap();
    }
    match entry {
        Entry::Received => core.process(now, &mut batch),
        Entry::Held => core.resume(now, &mut batch),
        Entry::Own => core.originate(now, &mut batch),
    }
    let mut in_flight = settle(core, holding, now, port, &mut batch, &mut sent);
    // The device gives back what it has before anything else comes.
    while !in_flight.is_empty() {
        let work = |(mut frame, ticket): (Vec<u8>, Ticket)| {
            let verdict = device::work(&mut frame, &ticket);
            (frame, Returned { ticket, verdict })
        };
        let (frames, returned): (Vec<_>, Vec<_>) = in_flight.into_iter().map(work).unzip();
        let mut buffers: Vec<Vec<u8>> = frames.iter().map(|frame| in_room(frame)).collect();
        let mut batch = Batch::default();
        for ((buffer, frame), Returned { ticket, .. }) in buffers.iter_mut().zip(&frames).zip(&returned) {
            batch.push(Packet::new(buffer, HEADROOM..HEADROOM + frame.len(), ticket.port).unwrap()).unwrap();
        }
        core.counters().flights().give_back(returned.len() as u64);
        core.complete(now, &mut batch, &returned);
        in_flight = settle(core, holding, now, port, &mut batch, &mut sent);
    }
    let mut errors = Vec::new();
    while let Some((frame, port)) = core.errors().take() {
        errors.push((frame.to_vec(), port));
    }
    for (frame, port) in errors {
        sent.extend(process(core, holding, now, port, &[&frame], Entry::Own));
    }
    sent
}

fn in_room(frame: &[u8]) -> Vec<u8> {
    [&[0; HEADROOM][..], frame, &[0; TAILROOM]].concat()
}

/// What whoever owns the buffers does with the packets of a burst that a core is done with; gives those that a crypto device
/// is to do.
fn settle(
    core: &mut Core,
    holding: &mut HoldQueue<Vec<u8>>,
    now: Nanos,
    port: PortIndex,
    batch: &mut Batch<'_>,
    sent: &mut Vec<(PortIndex, Vec<u8>)>,
) -> Vec<(Vec<u8>, Ticket)> {
    let mut tickets = batch.take_tickets().into_iter();
    let mut in_flight = Vec::new();
    for lane in batch.lanes() {
        let frame = batch.packet(lane).data();
        match batch.fate(lane) {
            Fate::Send(port) => {
                core.counters().tx().add(1, frame.len() as u64);
                sent.push((port, frame.to_vec()));
            }
            Fate::Fragment { port, mtu } => {
                let (link, packet) = frame.split_at(14);
                let before = sent.len();
                let send = |header: &[u8], payload: &[u8]| sent.push((port, [link, header, payload].concat()));
                let count = nf_core::fragment::split(packet, mtu.into(), send).unwrap();
                core.counters().originated().add(count as u64 - 1, 0);
                for (_, fragment) in &sent[before..] {
                    core.counters().tx().add(1, fragment.len() as u64);
                }
            }
            // There is no reassembler here.
            Fate::Reassemble => core.counters().drops(DropReason::FragmentV4).add(1, frame.len() as u64),
            Fate::Hold => {
                let held = Held { buffer: frame.to_vec(), octets: frame.len(), port, at: now };
                if let Err(held) = holding.hold(batch.reservation(lane).unwrap(), held) {
                    core.counters().drops(DropReason::LarvalFull).add(1, held.octets as u64);
                }
            }
            Fate::Dropped(_) | Fate::Consumed(_) => {}
            Fate::Submit => {
                core.counters().flights().submit(1);
                in_flight.push((frame.to_vec(), tickets.next().unwrap()));
            }
            Fate::Pending => panic!("a packet without a fate"),
        }
    }
    in_flight
}

/// A peer with an SA of AES-GCM: what it sends, and what the network function must know of it.
#[derive(Clone)]
pub struct Peer {
    pub spi: u32,
    pub src: [u8; 4],
    pub dst: [u8; 4],
    pub key: [u8; 20],
    pub esn: bool,
    /// In UDP from this port to 4500.
    pub udp: Option<u16>,
    /// The number of the last packet.
    pub seq: u64,
}

impl Peer {
    pub fn new(spi: u32) -> Peer {
        Peer { spi, src: [10, 1, 1, 1], dst: [10, 10, 1, 2], key: [0x5A; 20], esn: false, udp: None, seq: 0 }
    }

    /// The SA as `sa-add` wants it, with other fields in addition.
    pub fn spec(&self, more: &serde_json::Value) -> SaSpec {
        let mut spec = serde_json::json!({
            "spi": self.spi, "src": Ipv4Addr::from(self.src).to_string(), "dst": Ipv4Addr::from(self.dst).to_string(),
            "mode": "tunnel", "alg": "aes-gcm-16", "key": hex::encode(self.key), "esn": self.esn,
            "encap": if self.udp.is_some() { "udp" } else { "none" },
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    /// The SA as a table of nf.toml.
    pub fn to_toml(&self) -> String {
        let (src, dst) = (Ipv4Addr::from(self.src), Ipv4Addr::from(self.dst));
        let (spi, key, esn) = (self.spi, hex::encode(self.key), self.esn);
        format!(
            "[[sa]]\nspi = {spi}\nsrc = \"{src}\"\ndst = \"{dst}\"\nmode = \"tunnel\"\nalg = \"aes-gcm-16\"\n\
             key = \"{key}\"\nesn = {esn}\n"
        )
    }

    pub fn params(&self) -> SaParams {
        self.params_with(&serde_json::Value::Null)
    }

    pub fn params_with(&self, more: &serde_json::Value) -> SaParams {
        self.spec(more).validate().unwrap()
    }

    /// The next packet: an Ethernet frame, and in its innermost payload its sequence number.
    pub fn next(&mut self) -> Vec<u8> {
        self.seq += 1;
        self.packet(self.seq)
    }

    /// The packet of a number.
    pub fn packet(&self, seq: u64) -> Vec<u8> {
        let payload = seq.to_be_bytes();
        let inner = ipv4([192, 168, 1, 7], [172, 16, 0, 9], 253, &payload);
        let mut esp = [&self.spi.to_be_bytes()[..], &(seq as u32).to_be_bytes(), &seq.to_be_bytes()].concat();
        let additional = match self.esn {
            true => [&self.spi.to_be_bytes()[..], &seq.to_be_bytes()].concat(),
            false => esp[..8].to_vec(),
        };
        let nonce = [&self.key[16..], &seq.to_be_bytes()].concat();
        let mut body = inner;
        let padding = (4 - (body.len() + 2) % 4) % 4;
        body.extend(1..=padding as u8);
        body.extend([padding as u8, 4]);
        let cipher = Aes128Gcm::new_from_slice(&self.key[..16]).unwrap();
        let nonce = Nonce::<Aes128Gcm>::try_from(nonce.as_slice()).unwrap();
        let tag = cipher.encrypt_inout_detached(&nonce, &additional, body.as_mut_slice().into()).unwrap();
        esp.extend(body);
        esp.extend(tag);
        let (protocol, payload) = match self.udp {
            None => (50, esp),
            Some(port) => {
                let len = esp.len() as u16 + 8;
                let header = [port.to_be_bytes(), 4500u16.to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
                (17, [header, esp].concat())
            }
        };
        let outer = ipv4(self.src, self.dst, protocol, &payload);
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend(outer);
        frame.resize(frame.len().max(60), 0);
        frame
    }
}

/// The number that a decapsulated packet of [`Peer::packet`] carries.
pub fn number(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[34..42].try_into().unwrap())
}

pub fn ipv4(src: [u8; 4], dst: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet.extend(src);
    packet.extend(dst);
    nf_core::wire::ipv4::refresh_checksum(&mut packet);
    packet.extend(payload);
    packet
}

/// The fixtures' names.
pub fn fixtures() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(fixture_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 30, "the fixtures are missing: {names:?}");
    names
}

pub fn fixture_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A fixture: an nf.toml, frames in arrival order, and what must come of them.
pub struct Fixture {
    pub name: String,
    pub config: String,
    pub frames: Vec<Vec<u8>>,
    pub inner: Vec<Vec<u8>>,
    pub drops: Vec<(String, u64)>,
}

impl Fixture {
    pub fn load(name: &str) -> Fixture {
        let text = std::fs::read_to_string(fixture_dir().join(format!("{name}.json"))).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut config = String::new();
        for address in json["local"].as_array().unwrap() {
            config += &format!("[[local]]\naddress = {address}\n");
        }
        for sa in json["sas"].as_array().unwrap() {
            config += "[[sa]]\n";
            for (key, value) in sa.as_object().unwrap() {
                config += &format!("{key} = {}\n", toml_value(value));
            }
        }
        let expect = &json["expect"];
        Fixture {
            name: name.to_owned(),
            config,
            frames: pcap::read_pcap(&fixture_dir().join(format!("{name}.pcap"))),
            inner: expect["inner"]
                .as_array()
                .unwrap()
                .iter()
                .map(|hex| hex::decode(hex.as_str().unwrap()).unwrap())
                .collect(),
            drops: expect["drops"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(kind, count)| (kind.clone(), count.as_u64().unwrap()))
                .collect(),
        }
    }

    /// Holds frames that came out against what must come out.
    pub fn check_output(&self, output: &[Vec<u8>]) {
        assert_eq!(output.len(), self.inner.len(), "{}: packets out", self.name);
        for (number, (frame, expected)) in output.iter().zip(&self.inner).enumerate() {
            let ethertype = match expected[0] >> 4 {
                4 => [0x08, 0x00],
                _ => [0x86, 0xDD],
            };
            assert_eq!(frame[12..14], ethertype, "{} #{number}", self.name);
            let got = comparable(&frame[14..14 + expected.len().min(frame.len() - 14)]);
            assert_eq!(hex::encode(got), hex::encode(comparable(expected)), "{} #{number}", self.name);
        }
    }

    /// Holds counters against what must be counted; every drop must be one that is expected.
    pub fn check_counters(&self, counters: &Snapshot) {
        let count = |reasons: &[DropReason]| reasons.iter().map(|reason| counters.drops(*reason).packets).sum::<u64>();
        for (kind, expected) in &self.drops {
            let got = match kind.as_str() {
                "unknown_spi" => count(&[DropReason::UnknownSpiV4, DropReason::UnknownSpiV6]),
                "replay" => count(&[DropReason::Replay]),
                "auth_failure" => count(&[DropReason::AuthFailed]),
                other => panic!("{}: unknown kind of drop {other}", self.name),
            };
            assert_eq!(got, *expected, "{}: {kind}", self.name);
        }
        let expected: u64 = self.drops.iter().map(|(_, count)| count).sum();
        assert_eq!(counters.drops_total().packets, expected, "{}: drops in all", self.name);
        assert_eq!(counters.rx.packets, self.frames.len() as u64, "{}: received", self.name);
        assert_eq!(counters.tx.packets, self.inner.len() as u64, "{}: sent", self.name);
        assert!(counters.is_conserved(), "{}: {counters:?}", self.name);
    }
}

fn toml_value(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(table) => {
            let entries: Vec<String> =
                table.iter().map(|(key, value)| format!("{key} = {}", toml_value(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// An IP packet without what may rightly change on the way: TTL or hop limit, ECN, and the header checksum over them.
fn comparable(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    match packet[0] >> 4 {
        4 => {
            packet[1] &= !3;
            packet[8] = 0;
            packet[10..12].fill(0);
        }
        _ => {
            packet[1] &= !0x30;
            packet[7] = 0;
        }
    }
    packet
}

/// A burst through a core, which may run on a thread of its own; what is sent, and on which port.
pub fn through(core: &mut Core, now: Nanos, port: PortIndex, frames: &[Vec<u8>]) -> Vec<(PortIndex, Vec<u8>)> {
    through_with_room(core, now, port, frames, HEADROOM, TAILROOM)
}

/// The same with so much room in front of each frame and behind it.
pub fn through_with_room(
    core: &mut Core,
    now: Nanos,
    port: PortIndex,
    frames: &[Vec<u8>],
    headroom: usize,
    tailroom: usize,
) -> Vec<(PortIndex, Vec<u8>)> {
    core.poll_commands();
    let mut buffers: Vec<Vec<u8>> =
        frames.iter().map(|frame| [&vec![0; headroom][..], frame, &vec![0; tailroom]].concat()).collect();
    let mut batch = Batch::default();
    for (buffer, frame) in buffers.iter_mut().zip(frames) {
        core.counters().rx().add(1, frame.len() as u64);
        batch.push(Packet::new(buffer, headroom..headroom + frame.len(), port).unwrap()).unwrap();
    }
    core.process(now, &mut batch);
    let mut sent = Vec::new();
    for lane in batch.lanes() {
        if let Fate::Send(port) = batch.fate(lane) {
            let frame = batch.packet(lane).data().to_vec();
            core.counters().tx().add(1, frame.len() as u64);
            sent.push((port, frame));
        }
    }
    sent
}
