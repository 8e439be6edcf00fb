//! Plays a scenario against a running nf-core: frames into its unprotected port, what comes out of its protected port
//! into a capture, and the scenario's requests to its control socket on the way.
//!
//! No frame is lost between the two: the generator waits where a ring is full, and never has more packets on their way
//! back than a ring can hold.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use dpdk_rs::{Burst, Mbuf};
use nf_core::control::client::ClientError;
use nf_core::control::proto::Request;
use nf_core::counters::Report;
use nf_core::notify::NotifyReport;
use pcap_file::PcapError;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use serde_json::Value;

use crate::daemon::{Control, Daemon, Start, accounted};
use crate::link::{BURST, Generator, Link, PLACE, RingSize, allowed_cpus};
use crate::run::{Generated, Outcome, RunError};
use crate::scenario::{Expected, Step, UnknownFlow};

/// How long nothing may move before it counts as lost, or nf-core as stuck.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a packet that must come out may take while others wait for it.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// Places that packets on their way back may take: half of what a ring has.
const UNDER_WAY: u64 = RingSize::DEFAULT_PLACES as u64 / 2;

/// Plays a written scenario against an nf-core that is started for it.
///
/// # Errors
/// [`RunError`] for all that keeps it from being played to its end; what comes out wrong is in the outcome.
pub fn play(scenario: &Generated, nf_core: &Path, generator: &mut Generator) -> Result<Outcome, RunError> {
    let dir = scenario.files.frames.parent().unwrap_or(Path::new("."));
    let mut link = generator.link(dir, RingSize::DEFAULT)?;
    let (eal_args, ports) = link.nf_core();
    let config = ports + "\n" + &scenario.config;
    let cpu = allowed_cpus().last().copied().unwrap_or_default();
    let mut daemon = Daemon::start(&Start {
        nf_core,
        dir,
        eal_args: &eal_args,
        cpus: &[cpu],
        spread: None,
        spin: false,
        config: &config,
    })?;
    daemon.wait_for_ports(&link)?;
    let control = daemon.control();
    let played = std::thread::scope(|scope| {
        let (steps, inbox) = mpsc::channel();
        let (outbox, answers) = mpsc::channel();
        let conductor = &control;
        scope.spawn(move || conduct(conductor, &inbox, &outbox));
        Player {
            generator,
            link: &mut link,
            daemon: &mut daemon,
            control: &control,
            conductor: Conductor { steps, answers },
            outputs: Outputs::open(scenario)?,
            wrong: Vec::new(),
        }
        .play(scenario)
    });
    // nf-core goes before the ports do: what it polls is shared memory.
    let log = daemon.stop();
    let closed = link.close();
    let Played { report, wrong, flows } = played?;
    closed?;
    let mut outcome = Outcome::new(scenario, &report, &log?)?;
    outcome.differences.extend(wrong);
    outcome.differences.extend(compare_flows(&scenario.expected, &flows));
    Ok(outcome)
}

/// What has become of a scenario, besides the packets.
struct Played {
    report: Report,
    wrong: Vec<String>,
    flows: BTreeSet<UnknownFlow>,
}

/// Makes the requests of steps, one after the other, each when nf-core has received the frames before it. Frames go on
/// meanwhile, as far as the step lets them.
fn conduct(control: &Control, steps: &Receiver<Step>, answers: &Sender<Answer>) {
    for step in steps {
        let answer = match wait_for_receipt(control, step.after) {
            Ok(received) if received >= step.after => match control.call_json(&step.request) {
                Ok(()) => Answer::Done,
                Err(ClientError::Refused(why)) => Answer::Refused(why),
                Err(error) => Answer::Failed(error),
            },
            Ok(received) => Answer::NotReceived { received },
            Err(error) => Answer::Failed(error),
        };
        if answers.send(answer).is_err() {
            return;
        }
    }
}

/// Waits until nf-core has received as many frames, for so long as it may take; gives how many it has received.
fn wait_for_receipt(control: &Control, frames: u64) -> Result<u64, ClientError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let received = control.counters()?.rx.packets;
        if received >= frames || Instant::now() > deadline {
            return Ok(received);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// What became of a step.
enum Answer {
    Done,
    Refused(String),
    /// The frames before it have not all been received.
    NotReceived {
        received: u64,
    },
    Failed(ClientError),
}

/// The thread that makes requests, seen from the one that sends frames.
struct Conductor {
    steps: Sender<Step>,
    answers: Receiver<Answer>,
}

/// Frames that go and come.
struct Player<'p> {
    generator: &'p Generator,
    link: &'p mut Link,
    daemon: &'p mut Daemon,
    control: &'p Control,
    conductor: Conductor,
    outputs: Outputs,
    /// What is wrong so far, a line each.
    wrong: Vec<String>,
}

impl Player<'_> {
    fn play(mut self, scenario: &Generated) -> Result<Played, RunError> {
        let path = &scenario.files.frames;
        let capture = |error| RunError::Capture { path: path.clone(), error };
        let mut frames = open(path)?;
        let mut steps = scenario.steps.iter().peekable();
        let mut waiting: Vec<&Step> = Vec::new();
        let mut sent = 0u64;
        let mut burst = Burst::<BURST>::new();
        loop {
            // Requests begin and end at frame numbers, so a burst ends where one is due.
            while let Some(step) = steps.next_if(|step| step.after == sent) {
                self.flush(&mut burst)?;
                // The other end lives as long as this.
                let _ = self.conductor.steps.send(step.clone());
                waiting.push(step);
                self.wait_for_answers(&mut waiting, sent)?;
            }
            if waiting.iter().any(|step| step.until == sent) {
                self.flush(&mut burst)?;
                self.wait_for_answers(&mut waiting, sent)?;
            }
            let Some(frame) = frames.next_packet() else { break };
            let frame = frame.map_err(capture)?;
            self.outputs.due_until(frame.timestamp)?;
            self.push(&mut burst, &frame.data)?;
            sent += 1;
        }
        self.flush(&mut burst)?;
        let report = self.wait_for_the_end(sent)?;
        let limit = scenario.expected.flows.len() + 1;
        let known: NotifyReport = self.control.call(&Request::InvalidSpi { limit })?;
        let flows = known.flows.into_iter().map(|flow| UnknownFlow {
            src: flow.src,
            dst: flow.dst,
            spi: flow.spi.0,
            udp_ports: flow.udp_ports,
        });
        self.outputs.close()?;
        Ok(Played { report, wrong: self.wrong, flows: flows.collect() })
    }

    /// Adds a frame to the burst, and sends the burst when it is full.
    fn push(&mut self, burst: &mut Burst<BURST>, frame: &[u8]) -> Result<(), RunError> {
        let mut since = Instant::now();
        let mut packet = self.generator.packet(frame);
        while packet.is_none() {
            // Buffers come back when nf-core has taken what is sent.
            self.flush(burst)?;
            since = self.pause(since, || "a free packet buffer".to_owned())?;
            packet = self.generator.packet(frame);
        }
        if let Some(packet) = packet
            && let Err(packet) = burst.push(packet)
        {
            self.flush(burst)?;
            drop(burst.push(packet));
        }
        Ok(())
    }

    /// Sends all of a burst, when so few packets are on their way back that all of its own will find room.
    fn flush(&mut self, burst: &mut Burst<BURST>) -> Result<(), RunError> {
        let mut since = Instant::now();
        while self.outputs.under_way() > UNDER_WAY {
            if self.receive()? > 0 {
                since = Instant::now();
            } else if since.elapsed() > LOST_AFTER {
                self.outputs.give_up();
            } else {
                std::thread::yield_now();
            }
        }
        since = Instant::now();
        while !burst.is_empty() {
            if self.link.wan.send(burst) + self.receive()? > 0 {
                since = Instant::now();
            } else {
                since = self.pause(since, || "nf-core to take a frame".to_owned())?;
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<usize, RunError> {
        let mut burst = Burst::<BURST>::new();
        let count = self.link.lan.recv(&mut burst);
        for packet in burst.iter() {
            self.outputs.take(packet)?;
        }
        Ok(count)
    }

    /// A moment's rest for others that want the CPU; an error when nothing has moved since too long ago.
    fn pause(&mut self, since: Instant, what: impl FnOnce() -> String) -> Result<Instant, RunError> {
        if since.elapsed() > PATIENCE {
            return Err(self.daemon.stalled(what(), PATIENCE));
        }
        std::thread::sleep(Duration::from_micros(50));
        self.daemon.check()?;
        Ok(since)
    }

    /// Takes the answers that are there; waits for those that must be there before the next frame.
    fn wait_for_answers(&mut self, waiting: &mut Vec<&Step>, sent: u64) -> Result<(), RunError> {
        let mut since = Instant::now();
        loop {
            match self.conductor.answers.try_recv() {
                Ok(answer) => {
                    let step = waiting.remove(0);
                    match answer {
                        Answer::Done => {}
                        Answer::Refused(why) => {
                            let request = step.request.get("op").and_then(Value::as_str).unwrap_or_default();
                            self.wrong.push(format!("nf-core refuses {request} behind frame {}: {why}", step.after));
                        }
                        Answer::NotReceived { received } => {
                            let what = format!("nf-core to receive {} frames; it has {received}", step.after);
                            return Err(self.daemon.stalled(what, PATIENCE));
                        }
                        Answer::Failed(error) => return Err(error.into()),
                    }
                    since = Instant::now();
                }
                Err(TryRecvError::Empty) if waiting.iter().all(|step| step.until > sent) => return Ok(()),
                Err(TryRecvError::Empty) => {
                    if self.receive()? == 0 {
                        since = self.pause(since, || "the answer to a request".to_owned())?;
                    }
                }
                Err(TryRecvError::Disconnected) => {
                    return Err(self.daemon.stalled("the answer to a request".to_owned(), since.elapsed()));
                }
            }
        }
    }

    /// Waits until each frame is accounted for and what was sent on has arrived.
    fn wait_for_the_end(&mut self, sent: u64) -> Result<Report, RunError> {
        let mut since = Instant::now();
        loop {
            if self.receive()? > 0 {
                since = Instant::now();
                continue;
            }
            let report = self.control.counters()?;
            let ended = accounted(&report);
            if report.rx.packets == sent && ended == sent && self.outputs.taken >= report.tx.packets {
                return Ok(report);
            }
            if since.elapsed() > PATIENCE {
                let (received, taken) = (report.rx.packets, self.outputs.taken);
                self.wrong.push(format!(
                    "of {sent} frames nf-core has received {received} and accounts for {ended}; of {} packets that it \
                     has sent {taken} arrived",
                    report.tx.packets
                ));
                return Ok(report);
            }
            std::thread::sleep(Duration::from_millis(2));
            self.daemon.check()?;
        }
    }
}

/// What must come out and what has come out, by place in the ring back.
struct Outputs {
    expected: PcapReader<BufReader<File>>,
    /// The output that comes next, by its time and its places; none before the first look.
    next: Option<(Duration, u64)>,
    /// Places of what must have been sent by now, and of what has arrived.
    due: u64,
    arrived: u64,
    /// Packets that have arrived.
    taken: u64,
    got: PcapWriter<BufWriter<File>>,
    /// The captures: what must come out, what has.
    paths: (PathBuf, PathBuf),
}

impl Outputs {
    fn open(scenario: &Generated) -> Result<Outputs, RunError> {
        let paths = (scenario.files.outputs.clone(), scenario.files.got.clone());
        let file = BufWriter::new(File::create(&paths.1).map_err(RunError::io(&paths.1))?);
        let header = PcapHeader { snaplen: 1 << 18, ..PcapHeader::default() };
        let got = PcapWriter::with_header(file, header)
            .map_err(|error| RunError::Capture { path: paths.1.clone(), error })?;
        let expected = open(&paths.0)?;
        Ok(Outputs { expected, next: None, due: 0, arrived: 0, taken: 0, got, paths })
    }

    /// Counts what must come out of frames up to a time: an output has the time of the frame that it is of.
    fn due_until(&mut self, time: Duration) -> Result<(), RunError> {
        loop {
            match self.next {
                Some((at, places)) if at <= time => self.due += places,
                Some(_) => return Ok(()),
                None => {}
            }
            let Some(packet) = self.expected.next_packet() else {
                self.next = Some((Duration::MAX, 0));
                return Ok(());
            };
            let packet = packet.map_err(|error| RunError::Capture { path: self.paths.0.clone(), error })?;
            self.next = Some((packet.timestamp, places(packet.data.len())));
        }
    }

    fn take(&mut self, packet: &Mbuf) -> Result<(), RunError> {
        let octets: Vec<u8> = packet.segments().flatten().copied().collect();
        self.arrived += places(octets.len());
        self.taken += 1;
        let record = PcapPacket::new(Duration::ZERO, octets.len() as u32, &octets);
        let error = |error| RunError::Capture { path: self.paths.1.clone(), error };
        self.got.write_packet(&record).map(drop).map_err(error)
    }

    fn under_way(&self) -> u64 {
        self.due.saturating_sub(self.arrived)
    }

    /// Waits no longer for what has not arrived.
    fn give_up(&mut self) {
        self.due = self.arrived;
    }

    fn close(self) -> Result<(), RunError> {
        self.got.into_writer().flush().map_err(RunError::io(&self.paths.1))
    }
}

fn places(octets: usize) -> u64 {
    octets.div_ceil(PLACE).max(1) as u64
}

fn open(path: &Path) -> Result<PcapReader<BufReader<File>>, RunError> {
    let error = |error| RunError::Capture { path: path.to_owned(), error };
    let file = File::open(path).map_err(|e| error(PcapError::IoError(e)))?;
    PcapReader::new(BufReader::new(file)).map_err(error)
}

/// What nf-core must know of unknown SPIs, addresses and ports included.
fn compare_flows(expected: &Expected, got: &BTreeSet<UnknownFlow>) -> Vec<String> {
    let missing = expected.flows.difference(got).map(|flow| format!("nf-core doesn't report {flow}"));
    let more = got.difference(&expected.flows).map(|flow| format!("nf-core reports {flow}, which was not sent"));
    missing.chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_compared_with_their_ports() {
        let flow = UnknownFlow {
            src: "198.51.100.7".parse().unwrap(),
            dst: "10.10.1.2".parse().unwrap(),
            spi: 0xB761_863E,
            udp_ports: Some((61_000, 4500)),
        };
        let expected = Expected { flows: BTreeSet::from([flow.clone()]), ..Expected::default() };
        assert_eq!(compare_flows(&expected, &expected.flows), [""; 0]);
        assert_eq!(
            compare_flows(&expected, &BTreeSet::new()),
            ["nf-core doesn't report SPI 0xB761863E from 198.51.100.7 to 10.10.1.2, UDP ports 61000 and 4500"]
        );
        let without_ports = UnknownFlow { udp_ports: None, ..flow };
        assert_eq!(compare_flows(&expected, &BTreeSet::from([without_ports])).len(), 2);
    }
}
