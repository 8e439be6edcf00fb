//! Packets that a crypto device opens in its own time. The device here is the portable engine, which does them when the
//! test says so.

use std::any::Any;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use crate::batch::{Batch, Fate};
use crate::config::{Config, PortRole};
use crate::control::controller::Controller;
use crate::core::{Command, Core, Retired};
use crate::crypto::{Engine, OpenJob, Opener, Portable, SealJob};
use crate::drop::DropReason;
use crate::lookaside::{Opened, Ticket, Verdict};
use crate::net::NetPort;
use crate::notify::FanOut;
use crate::packet::Packet;
use crate::plugin::Registry;
use crate::sa::inbound::Sa;
use crate::sa::spec::{SaParams, SaSpec};
use crate::types::{Nanos, PortIndex};
use crate::wire::ethernet::MacAddr;
use crate::wire::ipv4;

/// Where a frame begins in its buffer.
const ROOM: usize = 128;

/// What a device needs to open an SA's packets: here all that it takes to do so.
struct Session(Box<dyn Opener>);

impl Opener for Session {
    fn open_burst(&self, _jobs: &mut [OpenJob<'_>]) {
        panic!("the core opens nothing that a device is to open");
    }

    fn device(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.0)
    }
}

/// A core, what controls it, and the packets that its device has.
struct Machine {
    _control: Controller,
    core: Core,
    in_flight: VecDeque<(Vec<u8>, Ticket)>,
}

fn params(spi: u32) -> SaParams {
    let spec: SaSpec = serde_json::from_value(serde_json::json!({
        "spi": spi, "src": "10.1.1.1", "dst": "10.10.1.2", "mode": "tunnel", "alg": "aes-gcm-16", "key": "5a".repeat(20),
    }))
    .unwrap();
    spec.validate().unwrap()
}

fn sa(spi: u32, id: u32) -> Arc<Sa> {
    let mut sa = Sa::new(&params(spi), id, &Portable, 1).unwrap();
    sa.opener = Box::new(Session(sa.opener));
    Arc::new(sa)
}

/// A frame of an SA, with a tunnelled packet.
fn frame(spi: u32, seq: u32) -> Vec<u8> {
    let mut inner =
        vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 253, 0, 0, 192, 168, 1, 7, 172, 16, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0];
    ipv4::refresh_checksum(&mut inner);
    let mut esp = [&spi.to_be_bytes()[..], &seq.to_be_bytes(), &[0; 8], &inner, &[1, 2, 2, 4], &[0; 16]].concat();
    let iv = u64::from(seq).to_be_bytes();
    let mut jobs = [SealJob::new(&mut esp, 0, &iv)];
    Portable.prepare_seal(&params(spi).transform).unwrap().seal_burst(&mut jobs);
    assert!(jobs[0].sealed());
    let mut outer = vec![0x45, 0, 0, 20 + esp.len() as u8, 0, 0, 0, 0, 64, 50, 0, 0, 10, 1, 1, 1, 10, 10, 1, 2];
    ipv4::refresh_checksum(&mut outer);
    [&[2; 6][..], &[6; 6], &[8, 0], &outer, &esp].concat()
}

fn batch(buffers: &mut [Vec<u8>]) -> Batch<'_> {
    let mut batch = Batch::default();
    for buffer in buffers {
        let end = buffer.len();
        batch.push(Packet::new(buffer, ROOM..end, PortIndex(0)).unwrap()).unwrap();
    }
    batch
}

impl Machine {
    fn new(sas: impl IntoIterator<Item = Arc<Sa>>) -> Machine {
        let config = Config::parse("[[local]]\naddress = \"10.10.1.2\"\n", Path::new("nf.toml")).unwrap();
        let port = |role| (String::new(), NetPort::new(role, MacAddr([2; 6]), Some(MacAddr([4; 6]))));
        let ports = [PortRole::Unprotected, PortRole::Protected].map(port).into();
        let made = Controller::new(&config, Registry::builtin(), ports, 1, FanOut::default());
        let (control, mut cores) = made.unwrap();
        let mut core = cores.remove(0);
        core.use_lookaside();
        sas.into_iter().for_each(|sa| core.apply_at_start(Command::InstallSa(sa)));
        Machine { _control: control, core, in_flight: VecDeque::new() }
    }

    /// A burst is received, and the device takes what is for it; gives the fates.
    fn receive(&mut self, frames: &[Vec<u8>]) -> Vec<Fate> {
        let mut buffers: Vec<Vec<u8>> = frames.iter().map(|frame| [&[0; ROOM][..], frame].concat()).collect();
        let mut batch = batch(&mut buffers);
        self.core.counters().rx().add(frames.len() as u64, 0);
        self.core.process(Nanos(1), &mut batch);
        let fates: Vec<Fate> = batch.lanes().map(|lane| batch.fate(lane)).collect();
        let mut tickets = batch.take_tickets().into_iter();
        drop(batch);
        for (buffer, fate) in buffers.into_iter().zip(&fates) {
            if *fate == Fate::Open {
                self.in_flight.push_back((buffer, tickets.next().unwrap()));
                self.core.counters().flights().submit(1);
            }
        }
        assert!(tickets.next().is_none(), "a ticket for each packet that the device is to open, and no more");
        self.assert_conserved();
        fates
    }

    /// The device gives the packets back that it has had longest; gives the sequence numbers of those that leave, and the
    /// fates of the others.
    fn give_back(&mut self, count: usize, verdict: impl Fn(bool) -> Verdict) -> (Vec<u64>, Vec<Fate>) {
        let (mut buffers, opened): (Vec<Vec<u8>>, Vec<Opened>) = self
            .in_flight
            .drain(..count)
            .map(|(mut buffer, ticket)| {
                let esp = ticket.headers.esp_range();
                let opener = ticket.sa.opener.device().unwrap().downcast_ref::<Box<dyn Opener>>().unwrap();
                let mut jobs = [OpenJob::new(&mut buffer[ROOM..][esp], ticket.seq.high())];
                opener.open_burst(&mut jobs);
                let verdict = verdict(jobs[0].opened());
                (buffer, Opened { ticket, verdict })
            })
            .unzip();
        let mut batch = batch(&mut buffers);
        self.core.counters().flights().give_back(count as u64);
        self.core.complete(Nanos(2), &mut batch, &opened);
        let (mut sent, mut others) = (Vec::new(), Vec::new());
        for (lane, opened) in batch.lanes().into_iter().zip(&opened) {
            match batch.fate(lane) {
                Fate::Send(_) => sent.push(opened.ticket.seq.0),
                other => others.push(other),
            }
        }
        self.core.counters().tx().add(sent.len() as u64, 0);
        self.assert_conserved();
        (sent, others)
    }

    fn assert_conserved(&self) {
        let counters = self.core.counters().snapshot();
        assert!(counters.is_conserved(), "{counters:?}");
        assert_eq!(counters.in_flight, self.in_flight.len() as u64);
    }

    /// What the core has given up to be freed.
    fn retired(&self) -> Vec<u32> {
        std::iter::from_fn(|| self.core.link().retired.pop())
            .map(|retired| match retired {
                Retired::Sa(sa) => sa.id,
                _ => panic!("only SAs are exchanged here"),
            })
            .collect()
    }

    fn command(&mut self, command: Command) {
        assert!(self.core.link().commands.push(command).is_ok());
        self.core.poll_commands();
    }
}

fn honest(opened: bool) -> Verdict {
    if opened { Verdict::Authentic } else { Verdict::Forged }
}

#[test]
fn packets_go_out_to_the_device_and_on_when_they_are_back() {
    let mut machine = Machine::new([sa(0x1000, 1), sa(0x2000, 2)]);
    let frames: Vec<Vec<u8>> = (1..=4).flat_map(|seq| [frame(0x1000, seq), frame(0x2000, seq + 10)]).collect();
    assert_eq!(machine.receive(&frames), [Fate::Open; 8]);
    assert_eq!(machine.receive(&[frame(0x3000, 1)]), [Fate::Dropped(DropReason::UnknownSpiV4)]);
    assert_eq!(machine.give_back(3, honest), (vec![1, 11, 2], vec![]));
    assert_eq!(machine.give_back(5, honest), (vec![12, 3, 13, 4, 14], vec![]));
}

#[test]
fn what_is_wrong_falls_out_when_it_is_back() {
    let the_sa = sa(0x1000, 1);
    let mut machine = Machine::new([Arc::clone(&the_sa)]);
    let mut forged = frame(0x1000, 2);
    *forged.last_mut().unwrap() ^= 1;
    // The same number twice in flight: the window has seen neither.
    let burst = [frame(0x1000, 1), frame(0x1000, 1), forged, frame(0x1000, 3)];
    assert_eq!(machine.receive(&burst), [Fate::Open; 4]);
    let dropped = [DropReason::Replay, DropReason::AuthFailed].map(Fate::Dropped).to_vec();
    assert_eq!(machine.give_back(4, honest), (vec![1, 3], dropped));
    assert_eq!(machine.receive(&burst[..1]), [Fate::Dropped(DropReason::Replay)]);

    machine.receive(&[frame(0x1000, 4)]);
    let failed = Fate::Dropped(DropReason::CryptoError);
    assert_eq!(machine.give_back(1, |_| Verdict::Failed), (vec![], vec![failed]));
    let totals = the_sa.totals();
    assert_eq!((totals.packets, totals.replay_duplicate, totals.auth_failed), (2, 2, 1));
    // What the device could not do wasn't committed: the number is still good.
    machine.receive(&[frame(0x1000, 4)]);
    assert_eq!(machine.give_back(1, honest).0, [4]);
}

#[test]
fn an_sa_stays_until_its_last_packet_is_back() {
    let mut machine = Machine::new([sa(0x1000, 1), sa(0x2000, 2)]);
    machine.receive(&[frame(0x1000, 1), frame(0x2000, 1), frame(0x1000, 2)]);
    let key = params(0x1000).key();
    machine.command(Command::DeleteSa(key));
    assert_eq!(machine.receive(&[frame(0x1000, 3)]), [Fate::Dropped(DropReason::InvalidSaV4)]);
    machine.receive(&[frame(0x2000, 2)]);
    machine.command(Command::InstallSa(sa(0x2000, 3)));
    assert_eq!(machine.retired(), [0; 0], "both have packets in flight");
    // What was admitted before the change is delivered.
    assert_eq!(machine.give_back(2, honest), (vec![1, 1], vec![]));
    machine.core.poll_commands();
    assert_eq!(machine.retired(), [0; 0]);
    assert_eq!(machine.give_back(1, honest), (vec![2], vec![]));
    machine.core.poll_commands();
    assert_eq!(machine.retired(), [1], "its last packet is back");
    assert_eq!(machine.give_back(1, honest), (vec![2], vec![]));
    machine.core.poll_commands();
    assert_eq!(machine.retired(), [2]);
    machine.command(Command::DeleteSa(params(0x2000).key()));
    assert_eq!(machine.retired(), [3], "with nothing in flight an SA goes at once");
}

#[test]
fn changes_wait_where_too_many_sas_are_leaving() {
    let mut machine = Machine::new([sa(0x1000, 0)]);
    machine.receive(&[frame(0x1000, 1)]);
    let all = crate::core::QUEUE_LENGTH as u32;
    for id in 1..=all {
        machine.command(Command::InstallSa(sa(0x1000, id)));
    }
    assert!(machine.core.link().commands.is_empty());
    machine.command(Command::InstallSa(sa(0x1000, all + 1)));
    assert_eq!(machine.core.link().commands.len(), 1, "it waits");
    assert_eq!(machine.give_back(1, honest).0, [1]);
    machine.core.poll_commands();
    let retired = machine.retired();
    machine.core.poll_commands();
    let rest = machine.retired();
    assert_eq!([retired, rest].concat(), (0..=all).collect::<Vec<u32>>());
}
