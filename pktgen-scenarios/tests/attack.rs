//! Attacks on a running nf-core, and ports and buffers that fail it: valid traffic and the control socket stay usable.
//!
//! In `make test` a little of each, for what is counted: no frame is sent before the one before it has room, so valid traffic
//! must come out whole, however slow the machine is. `make bench-attack` has more, at a rate, for the figures in
//! docs/reliability.md.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::nf_core;
use dpdk_rs::Burst;
use nf_core::control::proto::Request;
use nf_core::counters::Report;
use nf_core::notify::NotifyReport;
use pktgen_scenarios::daemon::{Control, Daemon, Start, accounted};
use pktgen_scenarios::link::{BURST, Generator, Link, RingSize, allowed_cpus};
use pktgen_scenarios::outer::Outer;
use pktgen_scenarios::packet;
use pktgen_scenarios::random::Random;
use pktgen_scenarios::scenario::{LOCAL_V4, PEER_V4};
use pktgen_scenarios::seal::{AES_128_GCM, IPV4, Sa};

/// Frames of the attacker for each valid one.
const PER_VALID: usize = 5;
/// How long what is under way may take to come to its end: fragments are given up after half a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// A number from the environment.
fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// A packet inside, of 200 octets.
fn inner(src: [u8; 4]) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = (src.into(), [198, 19, 0, 1].into());
    packet::ip(src, dst, 0, 64, 17, &packet::udp(src, dst, (7, 7), &[0; 172]))
}

fn anybody(random: &mut Random) -> Outer {
    Outer::new(IpAddr::from((random.word() as u32 | 0x0100_0000).to_be_bytes()), LOCAL_V4)
}

/// Makes a frame to go behind the valid one with that place. The SA is one that the attacker has.
type MakeFrame = fn(&mut Random, valid: &[Vec<u8>], place: usize, hostile: &mut Sa) -> Vec<u8>;

/// Frames of a kind, and the indices under which nf-core drops them.
struct Attack {
    name: &'static str,
    frame: MakeFrame,
    dropped_as: &'static [u16],
}

const ATTACKS: [Attack; 6] = [
    Attack {
        name: "unknown SPIs",
        frame: |random, _, _, _| {
            let mut esp = (random.word() as u32 | 0x8000_0000).to_be_bytes().to_vec();
            esp.extend(random.octets(60));
            anybody(random).esp(&esp)
        },
        dropped_as: &[4],
    },
    Attack {
        name: "replays",
        frame: |random, valid, place, _| valid[random.below(place + 1)].clone(),
        dropped_as: &[19],
    },
    Attack {
        name: "bad ICVs",
        frame: |random, valid, place, _| {
            let mut frame = valid[place].clone();
            // A number that was taken, or one that would move the window far beyond all that follow.
            if random.word().is_multiple_of(2) {
                frame[38..40].copy_from_slice(&[0xFF, 0]);
            }
            *frame.last_mut().unwrap() ^= 1;
            frame
        },
        dropped_as: &[19, 62],
    },
    Attack {
        name: "fragments",
        frame: |random, _, _, _| {
            let payload = random.octets(256);
            anybody(random).fragments(50, &payload, 128).swap_remove(0)
        },
        dropped_as: &[70, 209],
    },
    Attack {
        name: "IKE_SA_INIT",
        frame: |random, _, _, _| {
            let from = anybody(random);
            let mut message = random.octets(8);
            message.extend([0; 8]);
            message.extend([33, 0x20, 34, 0x08, 0, 0, 0, 0, 0, 0, 1, 0]);
            message.extend(random.octets(228));
            from.datagram(17, &packet::udp(from.src, LOCAL_V4, (500, 500), &message))
        },
        dropped_as: &[214],
    },
    Attack {
        name: "inner packets outside the selectors",
        frame: |_, _, _, hostile| Outer::new(hostile.src, LOCAL_V4).esp(&hostile.seal(IPV4, &inner([203, 0, 113, 9]))),
        dropped_as: &[30],
    },
];

/// What came of a mix.
#[derive(Debug)]
struct Measured {
    offered: usize,
    delivered: usize,
    seconds: f64,
    answers: Vec<Duration>,
    events: u64,
    messages: u64,
}

impl Measured {
    fn print(&self, name: &str, without: &Measured) {
        let mut answers = self.answers.clone();
        answers.sort_unstable();
        let answer = |part: usize| answers[(answers.len() - 1) * part / 100].as_secs_f64() * 1000.0;
        let share = |measured: &Measured| measured.delivered as f64 * 100.0 / measured.offered as f64;
        eprintln!(
            "| {name} | {:.0} | {:.2} % ({:.2} %) | {:.1} ms, {:.1} ms | {} | {} |",
            self.delivered as f64 / self.seconds,
            share(self),
            share(without),
            answer(50),
            answer(100),
            self.events,
            self.messages
        );
    }
}

/// A running nf-core, and the generator's ports that it is connected to.
struct Bench<'g> {
    generator: &'g Generator,
    link: Link,
    daemon: Daemon,
    control: Control,
    random: Random,
    spi: u32,
    /// Frames that nf-core was sent.
    sent: u64,
}

impl<'g> Bench<'g> {
    fn start(generator: &'g mut Generator, dir: &Path, max_flows: u32) -> Bench<'g> {
        let link = generator.link(dir, RingSize::DEFAULT).unwrap();
        let (eal_args, ports) = link.nf_core();
        let config = format!(
            "{ports}\n[reassembly]\ntimeout_ms = 500\nmax_flows = {max_flows}\n[[local]]\naddress = \"{LOCAL_V4}\"\n"
        );
        let cpus = allowed_cpus();
        let start = Start {
            nf_core: &nf_core(),
            dir,
            eal_args: &eal_args,
            cpus: &cpus[cpus.len() - 1..],
            spread: None,
            spin: false,
            config: &config,
        };
        let mut daemon = Daemon::start(&start).unwrap();
        daemon.wait_for_ports(&link).unwrap();
        let control = daemon.control();
        Bench { generator, link, daemon, control, random: Random::new(7), spi: 0x2000_0000, sent: 0 }
    }

    fn stop(self) -> String {
        let log = self.daemon.stop().unwrap();
        self.link.close().unwrap();
        log
    }

    /// An SA that nf-core has, too.
    fn sa(&mut self, selectors: (Vec<String>, Vec<String>)) -> Sa {
        self.spi += 1;
        let mut sa = Sa::new(self.spi, PEER_V4, LOCAL_V4, AES_128_GCM, &mut self.random);
        sa.selectors = selectors;
        self.control.call_json(&serde_json::json!({"op": "sa-add", "sa": sa.to_json()})).unwrap();
        sa
    }

    fn valid(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut sa = self.sa(Default::default());
        (0..count).map(|_| Outer::new(PEER_V4, LOCAL_V4).esp(&sa.seal(IPV4, &inner([198, 18, 0, 1])))).collect()
    }

    fn flows(&self) -> NotifyReport {
        self.control.call(&Request::InvalidSpi { limit: 0 }).unwrap()
    }

    /// Takes what comes out of the protected port; gives how many that were.
    fn receive(&mut self) -> usize {
        let mut burst = Burst::<BURST>::new();
        self.link.lan.recv(&mut burst)
    }

    /// Sends frames, and receives meanwhile unless `deaf`; gives how many came out. Waits for room where `wait`, else drops.
    fn send<'f>(&mut self, frames: impl IntoIterator<Item = &'f [u8]>, wait: bool, deaf: bool) -> usize {
        let mut received = 0;
        let deadline = Instant::now() + PATIENCE;
        let mut burst = Burst::<BURST>::new();
        let mut frames = frames.into_iter().peekable();
        while frames.peek().is_some() || !burst.is_empty() {
            while !burst.is_full()
                && let Some(frame) = frames.peek()
                && let Some(packet) = self.generator.packet(frame)
            {
                drop(burst.push(packet));
                frames.next();
            }
            self.sent += self.link.wan.send(&mut burst) as u64;
            if !wait {
                burst.clear();
            }
            if !deaf {
                received += self.receive();
            }
            assert!(Instant::now() < deadline, "the ring to nf-core stays full");
        }
        received
    }

    fn receive_all(&mut self) -> usize {
        std::iter::from_fn(|| Some(self.receive()).filter(|count| *count > 0)).sum()
    }

    /// Waits until nf-core has no packet under way; gives its counters. Does `meanwhile` again and again.
    fn drained(&mut self, mut meanwhile: impl FnMut(&mut Self)) -> Report {
        let deadline = Instant::now() + PATIENCE;
        loop {
            meanwhile(self);
            let report = self.control.counters().unwrap();
            if report.rx.packets == self.sent && accounted(&report) == self.sent {
                return report;
            }
            assert!(Instant::now() < deadline, "{} were sent: {report:?}", self.sent);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Receives until nf-core has no packet under way; gives its counters and how many packets came out.
    fn settle(&mut self) -> (Report, usize) {
        let mut received = 0;
        let report = self.drained(|bench| received += bench.receive_all());
        // What counts as sent is in the ring.
        (report, received + self.receive_all())
    }

    /// Valid frames, behind each those of the attacker, and the control socket asked all the time.
    fn mix(&mut self, valid: &[Vec<u8>], attack: &[Vec<u8>], pps: Option<usize>) -> Measured {
        let (flows, done, control) = (self.flows(), AtomicBool::new(false), self.control.clone());
        std::thread::scope(|scope| {
            let answers = scope.spawn(|| {
                let mut answers = Vec::new();
                while !done.load(Ordering::Relaxed) || answers.is_empty() {
                    let asked = Instant::now();
                    control.counters().unwrap();
                    answers.push(asked.elapsed());
                    std::thread::sleep(Duration::from_millis(5));
                }
                answers
            });
            let (start, mut delivered) = (Instant::now(), 0);
            for (place, frame) in valid.iter().enumerate() {
                let theirs = attack.chunks(PER_VALID).nth(place).unwrap_or_default();
                let group = [frame].into_iter().chain(theirs).map(Vec::as_slice);
                delivered += self.send(group, pps.is_none(), false);
                // What comes out must find room, or it is dropped: nobody is further ahead than half a ring.
                let deadline = Instant::now() + PATIENCE;
                while pps.is_none() && place > delivered + RingSize::DEFAULT_PLACES as usize / 2 {
                    delivered += self.receive();
                    assert!(Instant::now() < deadline, "{place} sent, {delivered} came out");
                }
                let due = pps.map(|pps| start + Duration::from_secs_f64(place as f64 / pps as f64));
                while due.is_some_and(|due| Instant::now() < due) {
                    delivered += self.receive();
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            done.store(true, Ordering::Relaxed);
            let (_, late) = self.settle();
            let now = self.flows();
            Measured {
                offered: valid.len(),
                delivered: delivered + late,
                seconds,
                answers: answers.join().unwrap(),
                events: now.events - flows.events,
                messages: now.messages - flows.messages,
            }
        })
    }
}

/// Clients that say nothing, that say too much, and that read nothing. They are cut off in the end, or with this.
fn bad_clients(socket: &Path) -> Vec<UnixStream> {
    let mut clients: Vec<UnixStream> = (0..24).map(|_| UnixStream::connect(socket).unwrap()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let said = match number % 3 {
            0 => client.write_all(b"{\"op\":"),
            1 => client.write_all(&vec![b'x'; 4 << 20]),
            _ => client.write_all(&b"{\"op\":\"counters\"}\n".repeat(2000)),
        };
        // Those that say too much are cut off while they do.
        assert!(said.is_ok() || number % 3 > 0, "{said:?}");
    }
    clients
}

fn attacks(bench: &mut Bench<'_>, socket: &Path) {
    let (count, pps) = (number("ATTACK_FRAMES").unwrap_or(2000), number("ATTACK_PPS"));
    eprintln!(
        "| attack | valid packets/s | delivered (without) | answers: half in, slowest | events | messages |\n|---|---|---|---|---|---|"
    );
    let valid = bench.valid(count);
    let alone = bench.mix(&valid, &[], pps);
    alone.print("none", &alone);
    let whole = |measured: &Measured, name: &str| {
        if pps.is_none() {
            assert_eq!(measured.delivered, count, "{name}: valid packets are missing");
        }
    };
    whole(&alone, "none");
    for Attack { name, frame, dropped_as } in ATTACKS {
        let valid = bench.valid(count);
        let mut hostile = bench.sa((vec!["198.18.0.0/16".to_owned()], vec!["198.19.0.0/16".to_owned()]));
        let mut random = Random::new(11);
        let attack: Vec<Vec<u8>> =
            (0..count * PER_VALID).map(|number| frame(&mut random, &valid, number / PER_VALID, &mut hostile)).collect();
        let before = bench.control.counters().unwrap();
        let measured = bench.mix(&valid, &attack, pps);
        measured.print(name, &alone);
        let after = bench.control.counters().unwrap();
        whole(&measured, name);
        let mut dropped = 0;
        for row in &after.feature {
            let packets = row.packets - before.feature(row.index).unwrap().packets;
            assert!(packets == 0 || dropped_as.contains(&row.index), "{name}: {packets} dropped as {}", row.name);
            dropped += packets;
        }
        if pps.is_none() {
            assert_eq!(dropped, attack.len() as u64, "{name}: not all of the attack is dropped");
        }
        // However many there are, and however long it takes: a core tells of a thousand a second.
        let most = (1000.0 * (measured.seconds + 2.0)) as u64;
        assert!(measured.events <= most && measured.messages <= 120 + 4, "{name}: {measured:?}");
    }
    let clients = bad_clients(socket);
    let valid = bench.valid(count);
    let measured = bench.mix(&valid, &[], pps);
    measured.print("control clients that are slow or say too much", &alone);
    whole(&measured, "clients");
    drop(clients);
}

/// Nobody takes what nf-core sends: the transmit queue is full. What it doesn't take is dropped and counted, and once somebody
/// reads again all is as before.
fn full_transmit_queue(bench: &mut Bench<'_>) {
    let count = 3 * RingSize::DEFAULT_PLACES as usize;
    let before = bench.control.counters().unwrap();
    let valid = bench.valid(count);
    bench.send(valid.iter().map(Vec::as_slice), true, true);
    let stuck = bench.drained(|_| {});
    let refused = stuck.feature(215).unwrap().packets - before.feature(215).unwrap().packets;
    let sent = stuck.tx.packets - before.tx.packets;
    assert!(refused > 0 && sent + refused == count as u64, "{sent} sent, {refused} refused");
    let (_, received) = bench.settle();
    assert_eq!(received as u64, sent, "what counts as sent comes out");
    // Far more than there are buffers: none was lost.
    let valid = bench.valid(8192);
    assert_eq!(bench.mix(&valid, &[], None).delivered, valid.len());
}

/// Fragments that never become whole, more than there are packet buffers (8,192): they get a part of these, and valid traffic
/// goes on.
fn few_buffers(bench: &mut Bench<'_>) {
    let mut random = Random::new(13);
    let attack: Vec<Vec<u8>> =
        (0..20_000).map(|_| anybody(&mut random).fragments(50, &random.octets(256), 128).swap_remove(0)).collect();
    let valid = bench.valid(attack.len() / PER_VALID);
    let measured = bench.mix(&valid, &attack, None);
    assert_eq!(measured.delivered, valid.len());
    let report = bench.control.counters().unwrap();
    let dropped = |index| report.feature(index).unwrap().packets;
    assert_eq!(dropped(70) + dropped(209), attack.len() as u64, "{report:?}");
    assert!(dropped(70) > 0, "there were more than may be held");
}

#[test]
fn valid_traffic_and_the_control_socket_outlive_attacks_and_faults() {
    let mut generator = Generator::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(&mut generator, dir.path(), 1024);
    attacks(&mut bench, &dir.path().join("nf.sock"));
    full_transmit_queue(&mut bench);
    let log = bench.stop();
    let lines = log.lines().count();
    assert!(lines < 400, "{lines} lines in the log");

    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(&mut generator, dir.path(), 16_384);
    few_buffers(&mut bench);
    bench.stop();
}
