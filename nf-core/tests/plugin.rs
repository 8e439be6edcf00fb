//! Somebody else's plugin, bound and unbound under traffic; and the capture plugin.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::BufReader;

use common::pcap::read_pcap;
use common::{Fixture, Nf, fixture_dir};
use nf_core::batch::Batch;
use nf_core::control::controller::{Bind, ControlError, Controller};
use nf_core::core::CoreCx;
use nf_core::drop::DropReason;
use nf_core::lanes::Lanes;
use nf_core::plugin::{Filter, Gate, Instance, Plugin, PluginError, PluginKind, Registry};
use nf_core::types::Nanos;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::{Value, json};

/// Refuses packets longer than a limit.
struct Limit(usize);

impl Plugin for Limit {
    fn process(&mut self, _core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
        for lane in lanes {
            if batch.packet(lane).data().len() > self.0 {
                batch.drop(lane, DropReason::Plugin);
            }
        }
    }
}

struct LimitKind;

impl PluginKind for LimitKind {
    fn name(&self) -> &'static str {
        "limit"
    }

    fn about(&self) -> &'static str {
        "drops packets longer than `octets`"
    }

    fn gates(&self) -> &'static [Gate] {
        &[Gate::Ingress, Gate::PostDecap]
    }

    fn create(&self, settings: &Value, cores: usize) -> Result<Instance, PluginError> {
        let octets = settings["octets"].as_u64().ok_or_else(|| PluginError::Setting {
            setting: "octets".into(),
            problem: "give the longest packet that may pass, such as octets = 1400".into(),
        })?;
        let part = || Box::new(Limit(octets as usize)) as Box<dyn Plugin>;
        Ok(Instance { cores: (0..cores).map(|_| part()).collect(), control: Box::new(()) })
    }
}

fn nf(fixture: &Fixture) -> Nf {
    let mut registry = Registry::builtin();
    registry.register(Box::new(LimitKind));
    Nf::with_registry(&fixture.config, 1, registry)
}

/// Runs a change while another thread plays the core, as changes wait for the cores.
fn change<T: Send>(nf: &mut Nf, change: impl FnOnce(&mut Controller) -> T + Send) -> T {
    let (controller, core) = (&mut nf.controller, &mut nf.cores[0]);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                core.poll_commands();
            }
        });
        let outcome = change(controller);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome
    })
}

fn bind(
    nf: &mut Nf,
    plugin: &str,
    instance: &str,
    gate: Gate,
    filter: Filter,
    settings: Value,
) -> Result<(), ControlError> {
    let bind = Bind { plugin, instance, gate, filter, priority: 100, settings: &settings };
    change(nf, |controller| controller.bind(bind))
}

#[test]
fn a_plugin_is_bound_and_unbound_at_run_time() {
    let fixture = Fixture::load("v4-tunnel-gcm128");
    let long = fixture.inner.iter().filter(|packet| packet.len() > 100).count() as u64;
    assert!(long > 0 && long < fixture.inner.len() as u64);

    let mut nf = nf(&fixture);
    let error = bind(&mut nf, "limit", "l", Gate::PostDecap, Filter::default(), Value::Null).unwrap_err();
    assert_eq!(error.to_string(), "setting `octets`: give the longest packet that may pass, such as octets = 1400");
    let error = bind(&mut nf, "limit", "l", Gate::Egress, Filter::default(), json!({"octets": 100})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "plugin `limit` can't be bound to the gate egress; it can be bound to: ingress, post-decap"
    );

    bind(&mut nf, "limit", "l", Gate::PostDecap, Filter::default(), json!({"octets": 100})).unwrap();
    nf.receive(fixture.frames.iter().map(Vec::as_slice));
    assert_eq!(nf.counters().drops(DropReason::Plugin).packets, long);
    assert_eq!(nf.output.len() as u64, fixture.inner.len() as u64 - long);
    assert!(nf.counters().is_conserved());

    let unbound = change(&mut nf, |controller| controller.unbind("l", None));
    unbound.unwrap();
    assert!(change(&mut nf, |controller| controller.unbind("l", None)).is_err(), "it is gone");
    assert_eq!(nf.controller.instances().map(|(name, _)| name.to_owned()).collect::<Vec<_>>(), ["decap", "encap"]);
}

#[test]
fn a_filter_picks_the_packets() {
    let fixture = Fixture::load("v4-tunnel-gcm128");
    let mut nf = nf(&fixture);
    let elsewhere = Filter { src: Some("203.0.113.0/24".parse().unwrap()), ..Filter::default() };
    bind(&mut nf, "limit", "l", Gate::Ingress, elsewhere, json!({"octets": 1})).unwrap();
    nf.receive(fixture.frames.iter().map(Vec::as_slice));
    fixture.check_output(&nf.output);
}

#[test]
fn without_decapsulation_esp_is_dropped_under_its_own_reason() {
    let fixture = Fixture::load("v6-tunnel-gcm128");
    let mut nf = nf(&fixture);
    change(&mut nf, |controller| controller.unbind("decap", None)).unwrap();
    nf.receive(fixture.frames.iter().map(Vec::as_slice));
    assert_eq!(nf.counters().drops(DropReason::NotEnabledV6).packets, fixture.frames.len() as u64);
    bind(&mut nf, "decap", "decap", Gate::EspInput, Filter::default(), Value::Null).unwrap();
    nf.receive(fixture.frames.iter().map(Vec::as_slice));
    fixture.check_output(&nf.output);
}

#[test]
fn dropped_packets_are_captured_with_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("drops.pcapng");
    let fixture = Fixture::load("replay-gcm128");
    let mut nf = nf(&fixture);
    let settings = json!({"file": file, "snaplen": 64, "packets": 3});
    bind(&mut nf, "capture", "cap", Gate::Drop, Filter::default(), settings).unwrap();
    nf.receive(fixture.frames.iter().map(Vec::as_slice));
    nf.tick(Nanos::from_secs(1));
    assert_eq!(nf.counters().drops(DropReason::Replay).packets, 5);

    let status = nf.controller.instances().find(|(name, _)| *name == "cap").unwrap().1.status();
    assert_eq!((status["written"].clone(), status["missed"].clone()), (json!(3), json!(2)));
    let mut reader = PcapNgReader::new(BufReader::new(std::fs::File::open(&file).unwrap())).unwrap();
    let mut packets = 0;
    let frames = read_pcap(&fixture_dir().join("replay-gcm128.pcap"));
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            packets += 1;
            assert_eq!(packet.data.len(), 64.min(packet.original_len as usize));
            // Headers are as received; what was decrypted before it was found to be a replay is seen decrypted.
            let headers = &packet.data[..42];
            assert!(frames.iter().any(|frame| frame.starts_with(headers)));
            let comment = format!("{:?}", packet.options);
            assert!(comment.contains("19 IN_CD_SW_IPSEC_ANTI_REPLAY_FAIL"), "{comment}");
        }
    }
    assert_eq!(packets, 3);
}

#[test]
fn a_capture_that_cannot_be_written_says_why() {
    let fixture = Fixture::load("v4-tunnel-gcm128");
    let mut nf = nf(&fixture);
    for (settings, expected) in [
        (json!({"file": "/nonexistent/drops.pcapng"}), "setting `file`: /nonexistent/drops.pcapng: "),
        (json!({"file": "/tmp/x", "snaplen": 0}), "setting `snaplen`: 0 isn't within 1 to 2048 octets"),
        (json!({"colour": "red"}), "unknown field `colour`"),
    ] {
        let bound = bind(&mut nf, "capture", "cap", Gate::Drop, Filter::default(), settings);
        let error = bound.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
