//! Packets that come before their SA does (CSCty30063, CSCvn31824): on every order of reservation, packets, installation,
//! deletion and time, each packet has the fate that a plain model says, and what comes out is in order.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::net::IpAddr;

use common::{Nf, Peer, number};
use nf_core::control::controller::ControlError;
use nf_core::drop::DropReason;
use nf_core::types::{Nanos, Spi};
use proptest::prelude::*;

const CONFIG: &str = "[sad]\ncapacity = 64\nlarval_spi_packets = 4\nlarval_packets = 16\nlarval_age_ms = 500\ndeleted_memory_s = 10\n\
                      [[local]]\naddress = \"10.10.1.2\"\n";
const SPI: u32 = 0xFF00_0001;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// IKE reserves the SPI, with or without the peer's address.
    Reserve { src: bool },
    /// The peer sends its next packet.
    Packet,
    /// IKE installs the SA.
    Install,
    /// IKE deletes it.
    Delete,
    /// IKE gives the reservation back.
    Release,
    /// So many milliseconds pass.
    Wait(u64),
}

/// What must be, seen from outside.
#[derive(Default)]
struct Model {
    now: u64,
    /// The SA is there.
    mature: bool,
    /// The end of the reservation, in milliseconds, and whether it is of this source.
    larval: Option<(u64, bool)>,
    /// What is held: number and time.
    held: Vec<(u64, u64)>,
    /// Until when the SA is remembered as deleted.
    deleted: Option<u64>,
    sent: Vec<u64>,
    unknown: u64,
    invalid: u64,
    timeout: u64,
    full: u64,
}

const RESERVED_MS: u64 = 2000;

impl Model {
    fn packet(&mut self, number: u64) {
        if self.mature {
            self.sent.push(number);
        } else if self.larval.is_some() {
            if self.held.len() < 4 {
                self.held.push((number, self.now));
            } else {
                self.full += 1;
            }
        } else if self.deleted.is_some() {
            self.invalid += 1;
        } else {
            self.unknown += 1;
        }
    }

    fn drop_held(&mut self, which: impl Fn(u64) -> bool) {
        let before = self.held.len();
        self.held.retain(|(_, at)| !which(*at));
        self.timeout += (before - self.held.len()) as u64;
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now += milliseconds;
        let now = self.now;
        self.drop_held(|at| now - at >= 500);
        if self.larval.is_some_and(|(until, _)| until <= now) {
            self.larval = None;
            self.drop_held(|_| true);
        }
        self.deleted = self.deleted.filter(|until| *until > now);
    }
}

fn play(steps: &[Step]) {
    let mut nf = Nf::new(CONFIG, 1);
    let mut peer = Peer::new(SPI);
    let mut model = Model { now: 1000, ..Model::default() };
    nf.tick(Nanos::from_millis(model.now));
    let (dst, src): (IpAddr, IpAddr) = (peer.dst.into(), peer.src.into());
    for step in steps {
        match *step {
            Step::Reserve { src: named } => {
                let outcome = nf
                    .control(|control| control.reserve(dst, named.then_some(src), Some(Spi(SPI)), RESERVED_MS / 1000));
                let free = !model.mature && model.larval.is_none();
                assert_eq!(outcome.is_ok(), free, "{outcome:?}: {steps:?}");
                if free {
                    model.larval = Some((model.now + RESERVED_MS, named));
                    // A reservation of the very SA takes its memory over; one for any peer goes before it.
                    model.deleted = model.deleted.filter(|_| !named);
                }
            }
            Step::Packet => {
                let frame = peer.next();
                nf.receive([frame.as_slice()]);
                model.packet(peer.seq);
            }
            Step::Install => {
                let params = peer.params();
                let outcome = nf.control(|control| control.add_sa(params));
                assert_eq!(outcome.is_ok(), !model.mature, "{outcome:?}: {steps:?}");
                (model.mature, model.larval, model.deleted) = (true, None, None);
                model.sent.extend(model.held.drain(..).map(|(number, _)| number));
            }
            Step::Delete => {
                let outcome = nf.control(|control| control.delete_sa(Spi(SPI), Some(dst), None));
                assert_eq!(outcome.is_ok(), model.mature, "{outcome:?}: {steps:?}");
                if model.mature {
                    model.mature = false;
                    model.deleted = Some(model.now + 10_000);
                }
            }
            Step::Release => {
                let outcome = nf.control(|control| control.release(Spi(SPI), Some(dst), None));
                assert_eq!(outcome.is_ok(), model.larval.is_some(), "{outcome:?}: {steps:?}");
                model.larval = None;
                model.drop_held(|_| true);
            }
            Step::Wait(milliseconds) => {
                model.wait(milliseconds);
                nf.tick(Nanos::from_millis(model.now));
                nf.poll(0);
            }
        }
        let counters = nf.counters();
        let drops = |reason| counters.drops(reason).packets;
        assert_eq!(nf.output.iter().map(|frame| number(frame)).collect::<Vec<_>>(), model.sent, "{steps:?}");
        assert_eq!(
            (
                drops(DropReason::UnknownSpiV4),
                drops(DropReason::InvalidSaV4),
                drops(DropReason::LarvalTimeout),
                drops(DropReason::LarvalFull)
            ),
            (model.unknown, model.invalid, model.timeout, model.full),
            "{steps:?}"
        );
        // Received = forwarded + consumed + drops + under way.
        assert_eq!(nf.holding[0].len(), model.held.len(), "{steps:?}");
        let ended = counters.tx.packets + counters.consumed_total().packets + counters.drops_total().packets;
        assert_eq!(counters.rx.packets, ended + model.held.len() as u64, "{steps:?}");
    }
    // An early packet is never the reason of an alarm.
    nf.tick(Nanos::from_millis(model.now));
    let flows = nf.controller.notifier().report(nf.now, 10).flows;
    assert_eq!(flows.is_empty(), model.unknown == 0, "{steps:?}");
}

#[test]
fn every_order_of_a_rekey() {
    let mut steps =
        [Step::Reserve { src: true }, Step::Packet, Step::Install, Step::Packet, Step::Delete, Step::Packet];
    let mut orders = 0;
    // Heap's algorithm: each permutation once.
    let mut counters = [0; 6];
    play(&steps);
    let mut i = 0;
    while i < steps.len() {
        if counters[i] < i {
            steps.swap(if i % 2 == 0 { 0 } else { counters[i] }, i);
            play(&steps);
            orders += 1;
            counters[i] += 1;
            i = 0;
        } else {
            counters[i] = 0;
            i += 1;
        }
    }
    assert_eq!(orders, 719, "and the one at the start");
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any::<bool>().prop_map(|src| Step::Reserve { src }),
        6 => Just(Step::Packet),
        2 => Just(Step::Install),
        1 => Just(Step::Delete),
        1 => Just(Step::Release),
        2 => (1u64..3000).prop_map(Step::Wait),
        1 => (3000u64..20_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_order_with_time(steps in prop::collection::vec(step(), 1..40)) {
        play(&steps);
    }
}

/// CSCsl68327, CSCtr14840: a rekey under full bursts. The peer goes over to the new SA before it is installed, while the
/// last packets on the old one are still coming in.
#[test]
fn a_rekey_at_full_rate_loses_and_reorders_nothing() {
    let mut nf = Nf::new("[sad]\nlarval_spi_packets = 1024\n", 1);
    let mut old = Peer::new(0x1000);
    let params = old.params();
    nf.control(|control| control.add_sa(params)).unwrap();
    let mut expected = Vec::new();
    for rekey in 0..20u8 {
        let spi = nf.control(|control| control.reserve(old.dst.into(), None, None, 30)).unwrap();
        let mut new = Peer { key: [rekey; 20], ..Peer::new(spi.0) };
        let early_from = new.seq + 1;
        for _ in 0..500 {
            let (last, first) = (old.next(), new.next());
            nf.receive([last.as_slice(), first.as_slice()]);
            expected.push(old.seq);
        }
        assert_eq!(nf.holding[0].len(), 500);
        let params = new.params();
        nf.control(|control| control.add_sa(params)).unwrap();
        expected.extend(early_from..=new.seq);
        let later: Vec<Vec<u8>> = (0..500).map(|_| new.next()).collect();
        nf.receive(later.iter().map(Vec::as_slice));
        expected.extend(new.seq - 499..=new.seq);
        let gone = Spi(old.spi);
        nf.control(|control| control.delete_sa(gone, None, None)).unwrap();
        old = new;
    }
    assert!(nf.output.iter().map(|frame| number(frame)).eq(expected));
    assert_eq!(nf.counters().drops_total().packets, 0);
    assert!(nf.counters().is_conserved());
}

/// CSCvp16730: no SPI is special but those that the RFC reserves.
#[test]
fn every_spi_can_be_reserved_and_used() {
    let mut nf = Nf::new("", 1);
    let reserve =
        |nf: &mut Nf, spi| nf.control(|control| control.reserve([10, 10, 1, 2].into(), None, Some(Spi(spi)), 30));
    for spi in [0x100, 0x101, 0x7FFF_FFFF, 0x8000_0000, 0xFEFF_FFFF, 0xFF00_0000, 0xFF00_0001, 0xFFFF_FFFE, u32::MAX] {
        for udp in [None, Some(4500)] {
            reserve(&mut nf, spi).unwrap();
            let mut peer = Peer { udp, ..Peer::new(spi) };
            let early = peer.next();
            nf.receive([early.as_slice()]);
            let params = peer.params();
            nf.control(|control| control.add_sa(params)).unwrap();
            let next = peer.next();
            nf.receive([next.as_slice()]);
            assert_eq!(nf.output.drain(..).map(|frame| number(&frame)).collect::<Vec<_>>(), [1, 2], "{spi:#x}");
            nf.control(|control| control.delete_sa(Spi(spi), None, None)).unwrap();
        }
    }
    for spi in [0, 1, 0xFF] {
        assert!(matches!(reserve(&mut nf, spi), Err(ControlError::SpiNotAssignable(Spi(bad))) if bad == spi));
        let frame = Peer::new(spi).next();
        nf.receive([frame.as_slice()]);
    }
    let drops = |reason| nf.counters().drops(reason).packets;
    assert_eq!((drops(DropReason::SpiZero), drops(DropReason::SpiReserved)), (1, 2));
}

#[test]
fn random_spis_are_distinct_and_assignable() {
    let mut nf = Nf::new("", 1);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..500 {
        let spi = nf.control(|control| control.reserve([10, 10, 1, 2].into(), None, None, 30)).unwrap();
        assert!(spi.is_assignable() && seen.insert(spi), "{spi}");
    }
    assert_eq!(nf.controller.reservations().len(), 500);
    nf.tick(Nanos::from_secs(31));
    assert_eq!(nf.controller.reservations().len(), 0, "all have run out");
}

#[test]
fn what_cannot_be_reserved_is_refused_with_the_remedy() {
    let mut nf = Nf::new("[sad]\ncapacity = 2\n", 1);
    let peer = Peer::new(0x1000);
    let (dst, src, other): (IpAddr, IpAddr, IpAddr) = (peer.dst.into(), peer.src.into(), [10, 1, 1, 9].into());
    let params = peer.params();
    nf.control(|control| control.add_sa(params)).unwrap();
    let refusal = |nf: &mut Nf, src, spi, lifetime| {
        nf.control(|control| control.reserve(dst, src, spi, lifetime)).unwrap_err().to_string()
    };
    let taken = "spi: 0x00001000(4096) to 10.10.1.2 is in use by an SA; leave the SPI out to be given a free one";
    assert_eq!(refusal(&mut nf, None, Some(Spi(0x1000)), 30), taken);
    assert_eq!(refusal(&mut nf, Some(src), Some(Spi(0x1000)), 30), taken);
    assert_eq!(refusal(&mut nf, None, None, 0), "lifetime_s: 0 isn't within 1 to 3600");
    // Another peer may have the same SPI.
    nf.control(|control| control.reserve(dst, Some(other), Some(Spi(0x1000)), 30)).unwrap();
    assert!(refusal(&mut nf, None, None, 30).starts_with("there is no room for more than 2 SAs"));
    let gone = nf.control(|control| control.release(Spi(0x1001), None, None)).unwrap_err().to_string();
    assert_eq!(gone, "SPI 0x00001001(4097) isn't reserved; `nf-ctl sa list` shows what is");
    nf.control(|control| control.release(Spi(0x1000), None, None)).unwrap();
    nf.control(|control| control.reserve(dst, None, None, 30)).unwrap();
}

/// What was seen by a plugin before decapsulation isn't seen by it again when the packet is let go.
#[test]
fn a_held_packet_passes_each_gate_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("in.pcapng");
    let capture = |gate| {
        format!(
            "[[plugin]]\ninstance = \"{gate}\"\nplugin = \"capture\"\nsettings = {{ file = \"{}-{gate}\" }}\n\
             bind = [{{ gate = \"{gate}\" }}]\n",
            file.display()
        )
    };
    let mut nf = Nf::new(&(capture("ingress") + &capture("esp-input")), 1);
    let mut peer = Peer::new(0x1000);
    nf.control(|control| control.reserve([10, 10, 1, 2].into(), None, Some(Spi(0x1000)), 30)).unwrap();
    let frames: Vec<Vec<u8>> = (0..3).map(|_| peer.next()).collect();
    nf.receive(frames.iter().map(Vec::as_slice));
    let params = peer.params();
    nf.control(|control| control.add_sa(params)).unwrap();
    nf.poll(0);
    assert_eq!(nf.output.len(), 3);
    nf.tick(Nanos::from_secs(1));
    let captures: Vec<_> = nf.controller.instances().filter(|(_, instance)| instance.plugin == "capture").collect();
    assert_eq!(captures.len(), 2);
    for (name, instance) in captures {
        assert_eq!(instance.status()["written"], 3, "{name}");
    }
}
