//! The device here is the portable engine, which does packets when the test says so.

#[path = "../../tests/common/device.rs"]
#[allow(unreachable_pub, reason = "tests in tests/ have it as well")]
mod device;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use self::device::Device;
use crate::batch::{Batch, Fate};
use crate::config::{Config, PortRole};
use crate::control::controller::Controller;
use crate::core::{Command, Core, CoreCx, Retired};
use crate::crypto::{Engine, OpenJob, Portable, SealJob};
use crate::drop::DropReason;
use crate::lanes::Lanes;
use crate::lookaside::{Returned, Ticket, Verdict};
use crate::net::NetPort;
use crate::notify::FanOut;
use crate::packet::Packet;
use crate::plugin::{Binding, Filter, Gate, GateTable, InstanceSlot, Plugin, Registry};
use crate::sa::inbound::Sa;
use crate::sa::outbound::OutboundSa;
use crate::sa::spec::{SaParams, SaSpec};
use crate::spd::Spd;
use crate::types::{Nanos, PortIndex};
use crate::wire::ethernet::MacAddr;
use crate::wire::{Inner, checksum, ipv4, ipv6, transport};

/// Where a frame begins in its buffer, and what is behind it.
const ROOM: usize = 128;
const OUTSIDE: PortIndex = PortIndex(0);
const INSIDE: PortIndex = PortIndex(1);

/// Some of what comes out of tunnels goes into others.
const CONFIG: &str = "[[local]]\naddress = \"10.10.1.2\"\n\
                      [[port]]\nname = \"unprotected\"\nrole = \"unprotected\"\n\
                      [[route]]\ndst = \"172.17.0.0/16\"\nport = \"unprotected\"\n";

/// A packet that the device has, and where in its buffer it lies.
struct InFlight {
    buffer: Vec<u8>,
    frame: Range<usize>,
    ticket: Ticket,
}

/// A core, what controls it, and the packets that its device has.
struct Machine {
    _control: Controller,
    core: Core,
    in_flight: VecDeque<InFlight>,
    /// The frames that have left, and those that are to be cut to so many octets.
    sent: Vec<Vec<u8>>,
    to_cut: Vec<(Vec<u8>, u16)>,
}

fn params(spi: u32) -> SaParams {
    params_of(serde_json::json!({"spi": spi, "src": "10.1.1.1", "dst": "10.10.1.2"}))
}

fn params_of(mut spec: serde_json::Value) -> SaParams {
    for (field, value) in [("mode", "tunnel".to_owned()), ("alg", "aes-gcm-16".to_owned()), ("key", "5a".repeat(20))] {
        spec[field] = value.into();
    }
    serde_json::from_value::<SaSpec>(spec).unwrap().validate().unwrap()
}

fn sa(spi: u32, id: u32) -> Arc<Sa> {
    Arc::new(Sa::new(&params(spi), id, &Device, 1).unwrap())
}

/// An outbound SA for packets to 192.168.`net`.0/24.
fn outbound(spi: u32, net: u8, more: &serde_json::Value) -> Arc<OutboundSa> {
    let mut spec = serde_json::json!({
        "spi": spi, "direction": "out", "src": "10.10.1.2", "dst": "10.1.1.1",
        "selectors": {"src": [], "dst": [format!("192.168.{net}.0/24")]},
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    Arc::new(OutboundSa::new(&params_of(spec), spi, &Device, 1).unwrap())
}

fn spd(sas: &[Arc<OutboundSa>]) -> Command {
    Command::SetSpd(Arc::new(Spd::new(&[], sas)))
}

/// A packet from the protected network to 192.168.`net`.7, with so many octets behind its header.
fn plain(net: u8, octets: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 253, 0, 0, 172, 16, 0, 9, 192, 168, net, 7];
    packet.resize(20 + octets, net);
    ipv4::set_total_length(&mut packet, 20 + octets);
    ipv4::refresh_checksum(&mut packet);
    [&[2; 6][..], &[6; 6], &[8, 0], &packet].concat()
}

/// The SPIs and sequence numbers of ESP over IPv4.
fn numbers(frames: &[Vec<u8>]) -> Vec<(u32, u32)> {
    let word = |frame: &Vec<u8>, at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    frames.iter().map(|frame| (word(frame, 34), word(frame, 38))).collect()
}

/// A frame of an SA, with a tunnelled packet.
fn frame(spi: u32, seq: u32) -> Vec<u8> {
    frame_of(spi, seq, 64, [172, 16, 0, 9])
}

fn frame_of(spi: u32, seq: u32, ttl: u8, [a, b, c, d]: [u8; 4]) -> Vec<u8> {
    let mut inner =
        vec![0x45, 0, 0, 28, 0, 0, 0, 0, ttl, 253, 0, 0, 192, 168, 1, 7, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
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

impl Machine {
    fn new(sas: impl IntoIterator<Item = Arc<Sa>>) -> Machine {
        let config = Config::parse(CONFIG, Path::new("nf.toml")).unwrap();
        let port = |role: PortRole| {
            let addresses = vec![IpAddr::from([172, 16, 0, if role == PortRole::Protected { 1 } else { 2 }])];
            let port = NetPort { addresses, ..NetPort::new(role, MacAddr([2; 6]), Some(MacAddr([4; 6]))) };
            (role.to_string(), port)
        };
        let ports = [PortRole::Unprotected, PortRole::Protected].map(port).into();
        let made = Controller::new(&config, Registry::builtin(), ports, 1, FanOut::default());
        let (control, mut cores) = made.unwrap();
        let mut core = cores.remove(0);
        core.use_lookaside();
        sas.into_iter().for_each(|sa| core.apply_at_start(Command::InstallSa(sa)));
        Machine { _control: control, core, in_flight: VecDeque::new(), sent: Vec::new(), to_cut: Vec::new() }
    }

    fn sealing(sas: &[Arc<OutboundSa>]) -> Machine {
        let mut machine = Machine::new([]);
        machine.core.apply_at_start(spd(sas));
        machine
    }

    /// A burst is received from outside, and the device takes what is for it; gives the fates.
    fn receive(&mut self, frames: &[Vec<u8>]) -> Vec<Fate> {
        self.receive_on(&frames.iter().map(|frame| (OUTSIDE, frame.clone())).collect::<Vec<_>>())
    }

    /// Packets from the protected network.
    fn forward(&mut self, frames: &[Vec<u8>]) -> Vec<Fate> {
        self.receive_on(&frames.iter().map(|frame| (INSIDE, frame.clone())).collect::<Vec<_>>())
    }

    fn receive_on(&mut self, frames: &[(PortIndex, Vec<u8>)]) -> Vec<Fate> {
        for (_, frame) in frames {
            self.core.counters().rx().add(1, frame.len() as u64);
        }
        self.run(frames, Core::process)
    }

    /// ICMP errors that wait are sent.
    fn originate(&mut self) -> Vec<Fate> {
        let mut frames = Vec::new();
        while let Some((frame, port)) = self.core.errors().take() {
            frames.push((port, frame.to_vec()));
        }
        self.run(&frames, Core::originate)
    }

    /// A burst goes into the core at one of its entries, and the device takes what is for it; gives the fates.
    fn run(&mut self, frames: &[(PortIndex, Vec<u8>)], entry: fn(&mut Core, Nanos, &mut Batch<'_>)) -> Vec<Fate> {
        let mut buffers: Vec<Vec<u8>> =
            frames.iter().map(|(_, frame)| [&[0; ROOM][..], frame, &[0; ROOM]].concat()).collect();
        let mut batch = Batch::default();
        for (buffer, (port, frame)) in buffers.iter_mut().zip(frames) {
            batch.push(Packet::new(buffer, ROOM..ROOM + frame.len(), *port).unwrap()).unwrap();
        }
        entry(&mut self.core, Nanos(1), &mut batch);
        let left = Left::of(batch);
        self.act(buffers, left)
    }

    /// The device gives back those packets that it has had longest; gives the sequence numbers of those that leave, and the
    /// fates of the others.
    fn give_back(&mut self, count: usize, tell: impl Fn(Verdict) -> Verdict) -> (Vec<u64>, Vec<Fate>) {
        let mut done: Vec<InFlight> = self.in_flight.drain(..count).collect();
        let returned: Vec<Returned> = done
            .iter_mut()
            .map(|InFlight { buffer, frame, ticket }| {
                let verdict = tell(device::work(&mut buffer[frame.clone()], ticket));
                Returned { ticket: ticket.clone(), verdict }
            })
            .collect();
        let mut buffers: Vec<Vec<u8>> = done.iter_mut().map(|packet| std::mem::take(&mut packet.buffer)).collect();
        let mut batch = Batch::default();
        for (buffer, InFlight { frame, ticket, .. }) in buffers.iter_mut().zip(&done) {
            batch.push(Packet::new(buffer, frame.clone(), ticket.port).unwrap()).unwrap();
        }
        self.core.counters().flights().give_back(count as u64);
        self.core.complete(Nanos(2), &mut batch, &returned);
        let left = Left::of(batch);
        let fates = self.act(buffers, left);
        let (mut sent, mut others) = (Vec::new(), Vec::new());
        for (fate, returned) in fates.into_iter().zip(&returned) {
            match fate {
                Fate::Send(_) => sent.push(returned.ticket.seq.0),
                other => others.push(other),
            }
        }
        (sent, others)
    }

    /// What whoever owns the buffers does with them; gives the fates.
    fn act(&mut self, buffers: Vec<Vec<u8>>, Left { fates, frames, tickets }: Left) -> Vec<Fate> {
        let counters = self.core.counters();
        let mut tickets = tickets.into_iter();
        for ((buffer, frame), fate) in buffers.into_iter().zip(frames).zip(&fates) {
            match fate {
                Fate::Submit => {
                    self.in_flight.push_back(InFlight { buffer, frame, ticket: tickets.next().unwrap() });
                    counters.flights().submit(1);
                }
                Fate::Send(_) => {
                    counters.tx().add(1, frame.len() as u64);
                    self.sent.push(buffer[frame].to_vec());
                }
                Fate::Fragment { mtu, .. } => {
                    counters.tx().add(1, frame.len() as u64);
                    self.to_cut.push((buffer[frame].to_vec(), *mtu));
                }
                _ => {}
            }
        }
        assert!(tickets.next().is_none(), "a ticket for each packet that the device is to do, and no more");
        self.assert_conserved();
        fates
    }

    fn assert_conserved(&self) {
        let counters = self.core.counters().snapshot();
        assert!(counters.is_conserved(), "{counters:?}");
        assert_eq!(counters.in_flight, self.in_flight.len() as u64);
    }

    /// What the core has given up to be freed: inbound SAs by their number, policies by how many SAs they have.
    fn retired(&self) -> Vec<u32> {
        std::iter::from_fn(|| self.core.link().retired.pop())
            .map(|retired| match retired {
                Retired::Sa(sa) => sa.id,
                Retired::Spd(spd) => spd.len() as u32,
                _ => panic!("nothing else is exchanged here"),
            })
            .collect()
    }

    fn command(&mut self, command: Command) {
        assert!(self.core.link().commands.push(command).is_ok());
        self.core.poll_commands();
    }
}

/// What a core leaves to whoever owns the buffers.
struct Left {
    fates: Vec<Fate>,
    frames: Vec<Range<usize>>,
    tickets: Vec<Ticket>,
}

impl Left {
    fn of(mut batch: Batch<'_>) -> Left {
        Left {
            fates: batch.lanes().map(|lane| batch.fate(lane)).collect(),
            frames: batch.lanes().map(|lane| batch.packet(lane).range()).collect(),
            tickets: batch.take_tickets().into_iter().collect(),
        }
    }
}

/// A device that tells the truth.
fn honest(verdict: Verdict) -> Verdict {
    verdict
}

#[test]
fn packets_go_out_to_the_device_and_on_when_they_are_back() {
    let mut machine = Machine::new([sa(0x1000, 1), sa(0x2000, 2)]);
    let frames: Vec<Vec<u8>> = (1..=4).flat_map(|seq| [frame(0x1000, seq), frame(0x2000, seq + 10)]).collect();
    assert_eq!(machine.receive(&frames), [Fate::Submit; 8]);
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
    assert_eq!(machine.receive(&burst), [Fate::Submit; 4]);
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

#[test]
fn packets_are_built_go_out_to_the_device_and_leave_when_they_are_back() {
    let sas = [outbound(0x1000, 1, &serde_json::Value::Null), outbound(0x2000, 2, &serde_json::Value::Null)];
    let mut machine = Machine::sealing(&sas);
    let packets: Vec<Vec<u8>> = (0..4).flat_map(|n| [plain(2, 20 + n), plain(1, 30 + n)]).collect();
    assert_eq!(machine.forward(&packets), [Fate::Submit; 8]);
    assert_eq!(machine.forward(&[plain(3, 20)]), [Fate::Dropped(DropReason::ClearOutput)], "no SA takes it");
    assert_eq!((sas[0].totals().packets, sas[0].highest().map(|seq| seq.0)), (0, Some(4)), "none is sealed yet");
    assert_eq!(machine.give_back(3, honest), (vec![1, 1, 2], vec![]));
    assert_eq!(machine.give_back(5, honest), (vec![2, 3, 3, 4, 4], vec![]));
    let expected: Vec<(u32, u32)> = (1..=4).flat_map(|seq| [(0x2000, seq), (0x1000, seq)]).collect();
    assert_eq!(numbers(&machine.sent), expected, "in the order in which they came");

    // What came out of the device is what another engine opens, and a hop has been taken off.
    let opener = Portable.prepare(&params(0x1000).transform).unwrap();
    for (mut frame, packet) in machine.sent.drain(..).zip(packets) {
        assert_eq!((&frame[..6], &frame[12..14], &frame[30..34]), (&[4; 6][..], &[8, 0][..], &[10, 1, 1, 1][..]));
        let mut jobs = [OpenJob::new(&mut frame[34..], 0)];
        opener.open_burst(&mut jobs);
        assert!(jobs[0].opened());
        let mut inner = packet[14..].to_vec();
        inner[8] -= 1;
        ipv4::refresh_checksum(&mut inner);
        assert_eq!(frame[50..50 + inner.len()], inner);
    }
    let totals = sas[0].totals();
    assert_eq!((totals.packets, totals.refused), (4, 0));
    assert_eq!(totals.octets, [30, 31, 32, 33].map(|n: u64| (20 + n + 2).next_multiple_of(4)).iter().sum::<u64>());
}

#[test]
fn a_burst_of_both_directions_goes_in_and_comes_back_in_its_order() {
    let mut machine = Machine::new([sa(0x1000, 1)]);
    machine.core.apply_at_start(spd(&[outbound(0x2000, 1, &serde_json::Value::Null)]));
    let burst: Vec<(PortIndex, Vec<u8>)> =
        (1..=4).flat_map(|seq| [(INSIDE, plain(1, 40)), (OUTSIDE, frame(0x1000, seq + 10))]).collect();
    assert_eq!(machine.receive_on(&burst), [Fate::Submit; 8]);
    assert_eq!(machine.give_back(8, honest), (vec![1, 11, 2, 12, 3, 13, 4, 14], vec![]));
}

/// From one tunnel into another: to the device, back, to the device again.
#[test]
fn what_the_device_has_opened_it_seals_again() {
    let mut machine = Machine::new([sa(0x1000, 1)]);
    let out = serde_json::json!({"selectors": {"src": [], "dst": ["172.17.0.0/16"]}, "dst": "10.1.1.9"});
    machine.core.apply_at_start(spd(&[outbound(0x2000, 0, &out)]));
    let frames = [1, 2].map(|seq| frame_of(0x1000, seq, 64, [172, 17, 0, 9]));
    assert_eq!(machine.receive(&frames), [Fate::Submit; 2]);
    assert_eq!(machine.give_back(2, honest), (vec![], vec![Fate::Submit; 2]));
    assert_eq!(machine.give_back(2, honest), (vec![1, 2], vec![]));
    assert_eq!(numbers(&machine.sent), [(0x2000, 1), (0x2000, 2)]);
}

#[test]
fn what_the_device_cannot_seal_is_dropped_and_its_number_is_used_up() {
    let sa = outbound(0x1000, 1, &serde_json::Value::Null);
    let mut machine = Machine::sealing(&[Arc::clone(&sa)]);
    machine.forward(&[plain(1, 20), plain(1, 20)]);
    let dropped = vec![Fate::Dropped(DropReason::OutCryptoError)];
    assert_eq!(machine.give_back(1, |_| Verdict::Failed), (vec![], dropped.clone()));
    assert_eq!(machine.give_back(1, |_| Verdict::Forged), (vec![], dropped));
    machine.forward(&[plain(1, 20)]);
    assert_eq!(machine.give_back(1, honest).0, [3]);
    assert_eq!((sa.totals().packets, sa.totals().refused), (1, 2));

    // The drop is booked with the octets that were received, whatever the packet has become.
    let counted = machine.core.counters().drops(DropReason::OutCryptoError).read();
    assert_eq!((counted.packets, counted.octets), (2, 2 * plain(1, 20).len() as u64));
    machine.forward(&[plain(1, 20)]);
    let ticket = machine.in_flight.pop_front().unwrap().ticket;
    machine.core.counters().flights().give_back(1);
    machine.core.not_submitted(&ticket, DropReason::CryptoQueueFull);
    let counted = machine.core.counters().drops(DropReason::CryptoQueueFull).read();
    assert_eq!((counted.packets, counted.octets, sa.totals().refused), (1, plain(1, 20).len() as u64, 3));
    machine.assert_conserved();
}

#[test]
fn an_outbound_sa_stays_until_its_last_packet_is_back() {
    let sas = [outbound(0x1000, 1, &serde_json::Value::Null), outbound(0x2000, 1, &serde_json::Value::Null)];
    let mut machine = Machine::sealing(&sas[..1]);
    machine.forward(&[plain(1, 20), plain(1, 20)]);
    machine.command(spd(&sas));
    assert_eq!(machine.forward(&[plain(1, 20)]), [Fate::Submit], "by its successor");
    machine.command(spd(&[]));
    assert_eq!(machine.forward(&[plain(1, 20)]), [Fate::Dropped(DropReason::ClearOutput)]);
    assert_eq!(machine.retired(), [0; 0], "packets of both policies are in flight");
    let [first, second] = sas.map(|sa| Arc::downgrade(&sa));
    assert!(first.upgrade().is_some() && second.upgrade().is_some());
    machine.give_back(1, honest);
    machine.core.poll_commands();
    assert_eq!(machine.retired(), [0; 0]);
    machine.give_back(1, honest);
    machine.core.poll_commands();
    assert_eq!(machine.retired(), [1]);
    machine.give_back(1, honest);
    assert!(second.upgrade().is_some(), "the core doesn't free it");
    machine.core.poll_commands();
    assert_eq!(machine.retired(), [1]);
    assert!(first.upgrade().is_none() && second.upgrade().is_none());
    assert_eq!(numbers(&machine.sent), [(0x1000, 1), (0x1000, 2), (0x2000, 1)], "no packet of the change is lost");
    machine.command(spd(&[]));
    assert_eq!(machine.retired(), [0], "with nothing in flight a policy goes at once");
}

#[test]
fn changes_wait_where_too_many_policies_are_leaving() {
    let sa = outbound(0x1000, 1, &serde_json::Value::Null);
    let mut machine = Machine::sealing(&[Arc::clone(&sa)]);
    machine.forward(&[plain(1, 20)]);
    for _ in 0..super::LEAVING_POLICIES {
        machine.command(spd(&[Arc::clone(&sa)]));
    }
    machine.command(spd(&[]));
    assert_eq!(machine.core.link().commands.len(), 1, "it waits");
    machine.give_back(1, honest);
    machine.core.poll_commands();
    assert_eq!(machine.retired().len(), super::LEAVING_POLICIES + 1);
    assert_eq!(machine.forward(&[plain(1, 20)]), [Fate::Dropped(DropReason::ClearOutput)]);
}

/// A packet in flight is one that was sealed already: it goes to where the peer was, and over a limit.
#[test]
fn what_is_in_flight_leaves_as_it_was_built() {
    let sa = outbound(0x1000, 1, &serde_json::json!({"encap": "udp", "lifetime": {"hard": {"packets": 3}}}));
    let moved = Arc::new(sa.moved(IpAddr::from([10, 1, 1, 9]), 61_000).unwrap());
    let mut machine = Machine::sealing(&[sa]);
    machine.forward(&vec![plain(1, 20); 2]);
    machine.command(spd(&[Arc::clone(&moved)]));
    assert_eq!(machine.forward(&vec![plain(1, 20); 3]), [Fate::Submit; 3]);
    assert_eq!(machine.give_back(3, honest), (vec![1, 2, 3], vec![]));
    assert!(moved.phase().is_over(), "three have gone");
    assert_eq!(machine.forward(&[plain(1, 20)]), [Fate::Dropped(DropReason::OutInvalidSaV4)]);
    assert_eq!(machine.give_back(2, honest), (vec![4, 5], vec![]));
    let to: Vec<(u8, u16)> =
        machine.sent.iter().map(|frame| (frame[33], u16::from_be_bytes([frame[36], frame[37]]))).collect();
    assert_eq!(to, [(1, 4500), (1, 4500), (9, 61_000), (9, 61_000), (9, 61_000)]);
    assert_eq!(moved.totals().packets, 5);
}

#[test]
fn what_comes_after_sealing_comes_after_it_with_a_device_too() {
    let v6 = serde_json::json!({"src": "2001:db8::2", "dst": "2001:db8::1", "encap": "udp", "path_mtu": 1280});
    let mut machine = Machine::sealing(&[outbound(0x1000, 1, &v6)]);
    machine.forward(&[plain(1, 20), plain(1, 1300)]);
    let (sent, others) = machine.give_back(2, honest);
    assert_eq!((sent, &others[..]), (vec![1], &[Fate::Fragment { port: OUTSIDE, mtu: 1280 }][..]));
    let (long, _) = &machine.to_cut[0];
    // The checksum of UDP over IPv6 is over the ciphertext.
    for frame in [&machine.sent[0], long] {
        assert_eq!((&frame[12..15], frame[20]), (&[0x86, 0xDD, 0x60][..], 17));
        let (datagram, inner) = (&frame[14..], Inner::parse(&frame[14..]).unwrap());
        let mut again = datagram.to_vec();
        transport::refresh_checksum(&mut again, &inner);
        assert_eq!(again, datagram);
        let pseudo = checksum::sum(&datagram[ipv6::field::SRC..40]) + 17 + (datagram.len() - 40) as u64;
        assert_eq!(checksum::fold(checksum::sum(&datagram[40..]) + pseudo), 0xFFFF);
    }
}

/// The error about a packet that came by a tunnel goes back by a tunnel.
#[test]
fn errors_of_this_host_are_sealed_by_the_device() {
    let mut machine = Machine::new([sa(0x1000, 1)]);
    machine.core.apply_at_start(spd(&[outbound(0x2000, 1, &serde_json::Value::Null)]));
    machine.receive(&[frame_of(0x1000, 1, 1, [172, 16, 0, 9])]);
    assert_eq!(machine.give_back(1, honest), (vec![], vec![Fate::Dropped(DropReason::TtlExpired)]));
    assert_eq!(machine.originate(), [Fate::Submit]);
    assert_eq!(machine.give_back(1, honest).0, [1]);
    assert_eq!(numbers(&machine.sent), [(0x2000, 1)]);
}

/// Counts what it sees.
struct Count(Arc<AtomicU64>);

impl Plugin for Count {
    fn process(&mut self, _core: &mut CoreCx<'_>, _batch: &mut Batch<'_>, lanes: Lanes) {
        self.0.fetch_add(lanes.len() as u64, Relaxed);
    }
}

#[test]
fn plugins_of_the_gate_see_a_packet_once_before_it_is_sealed_or_after() {
    let mut machine = Machine::sealing(&[outbound(0x1000, 1, &serde_json::Value::Null)]);
    let slots: Vec<InstanceSlot> = InstanceSlot::all().take(3).collect();
    let counts = [Arc::default(), Arc::default()];
    let encap = Registry::builtin().get("encap").unwrap().create(&serde_json::json!({}), 1).unwrap().cores.remove(0);
    let [before, after] = counts.each_ref().map(|count| Box::new(Count(Arc::clone(count))) as Box<dyn Plugin>);
    let mut table = GateTable::default();
    for (slot, instance) in slots.into_iter().zip([before, encap, after]) {
        machine.core.apply_at_start(Command::SetInstance(slot, Some(instance)));
        table.push(Gate::Egress, Binding { filter: Filter::default(), slot });
    }
    machine.core.apply_at_start(Command::SetGates(Box::new(table)));
    let seen = || counts.each_ref().map(|count| count.load(Relaxed));
    machine.forward(&vec![plain(1, 20); 5]);
    assert_eq!(seen(), [5, 0]);
    assert_eq!(machine.give_back(5, honest).0, [1, 2, 3, 4, 5]);
    assert_eq!(seen(), [5, 5]);
}
