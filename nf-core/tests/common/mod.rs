//! The network function without DPDK: frames in, frames out, in memory.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test binary uses its part of this; a failed unwrap is a failed test"
)]

use std::path::{Path, PathBuf};

use nf_core::batch::{Batch, Fate};
use nf_core::config::{Config, PortRole};
use nf_core::control::controller::Controller;
use nf_core::core::Core;
use nf_core::counters::Snapshot;
use nf_core::drop::DropReason;
use nf_core::lanes::BURST;
use nf_core::net::NetPort;
use nf_core::notify::FanOut;
use nf_core::packet::Packet;
use nf_core::plugin::Registry;
use nf_core::types::{Nanos, PortIndex};
use nf_core::wire::ethernet::MacAddr;

/// Room in front of a frame, as DPDK leaves it in an mbuf.
const HEADROOM: usize = 128;

/// A network function with an unprotected port 0 and a protected port 1.
pub struct Nf {
    pub controller: Controller,
    pub cores: Vec<Core>,
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

    fn build(config: &str, cores: usize, registry: Registry, sinks: FanOut) -> Nf {
        Nf::build_with(config, cores, registry, sinks, &[PortRole::Unprotected, PortRole::Protected])
    }

    fn build_with(config: &str, cores: usize, registry: Registry, sinks: FanOut, roles: &[PortRole]) -> Nf {
        let config = Config::parse(config, Path::new("nf.toml")).unwrap();
        let port =
            |role: &PortRole| (format!("net-{role}"), NetPort { role: *role, mac: MacAddr::default(), next_hop: None });
        let ports = roles.iter().map(port).collect();
        let (controller, cores) = Controller::new(&config, registry, ports, cores, sinks).unwrap();
        Nf { controller, cores, now: Nanos(1), output: Vec::new() }
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

    /// One burst through a core; gives what leaves, and on which port.
    pub fn receive_on(&mut self, port: PortIndex, core: usize, frames: &[&[u8]]) -> Vec<(PortIndex, Vec<u8>)> {
        let mut sent = Vec::new();
        let core = &mut self.cores[core];
        core.poll_commands();
        let mut buffers: Vec<Vec<u8>> = frames.iter().map(|frame| [&[0; HEADROOM][..], frame].concat()).collect();
        let mut batch = Batch::default();
        for (buffer, frame) in buffers.iter_mut().zip(frames) {
            let packet = Packet::new(buffer, HEADROOM..HEADROOM + frame.len(), port).unwrap();
            core.counters().rx().add(1, frame.len() as u64);
            batch.push(packet).unwrap();
        }
        core.process(self.now, &mut batch);
        for lane in batch.lanes() {
            let frame = batch.packet(lane).data();
            match batch.fate(lane) {
                Fate::Send(port) => {
                    core.counters().tx().add(1, frame.len() as u64);
                    sent.push((port, frame.to_vec()));
                }
                // There is no reassembler here.
                Fate::Reassemble => core.counters().drops(DropReason::FragmentV4).add(1, frame.len() as u64),
                Fate::Dropped(_) | Fate::Consumed(_) => {}
                Fate::Pending => panic!("a packet without a fate"),
            }
        }
        sent
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

/// The frames of a capture.
pub fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = pcap_file::pcap::PcapReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        frames.push(packet.unwrap().data.into_owned());
    }
    frames
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
            frames: read_pcap(&fixture_dir().join(format!("{name}.pcap"))),
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
