//! One tunnel on one receive queue, as most NICs deliver it, spread by nf-core over two cores: how fast, and in which
//! order what was inside comes out.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use nf_core::control::proto::Request;
use nf_core::counters::Report;
use nf_core::stage::RuntimeReport;
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use serde::Serialize;

use super::order::Order;
use super::program::{self, Gateway};
use super::traffic::{Mix, Traffic};
use super::{BenchError, Case, Measured, Options};
use crate::daemon::{Daemon, Start};
use crate::outer::Outer;
use crate::packet;
use crate::random::Random;
use crate::run::RunError;
use crate::scenario::{LOCAL_V4, PEER_V4};
use crate::seal::{AES_128_GCM, IPV4, Sa};

/// One SA on one and on two cores.
#[derive(Clone, Debug, Serialize)]
pub struct Spreading {
    /// The worker that receives does everything.
    pub one_core: Measured,
    /// It hands bursts on to a second one.
    pub two_cores: Measured,
    /// The order of a pass over a capture in which all packets are numbered, with replay protection.
    pub order: Order,
}

impl fmt::Display for Spreading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, two) = (self.one_core.sent, self.two_cores.sent);
        write!(
            f,
            "one SA on one queue: one core {:.2} Mpps, spread over two {:.2} Mpps, ratio {:.2}; {:.2} % late, by {} \
             packets at most",
            one / 1e6,
            two / 1e6,
            two / one,
            self.order.late_percent(),
            self.order.extent
        )
    }
}

/// Measures on `options.cpu` and a second CPU, for so long each.
pub(super) fn measure(options: &Options, second: u16, time: Duration) -> Result<Spreading, BenchError> {
    let case = Case { size: "512", octets: &[512], sas: 1, mix: Mix::Good };
    let traffic = Traffic::write(&options.dir, &case)?;
    let gateways = [Gateway::NfCore(&options.nf_core), Gateway::NfCoreSpread(&options.nf_core, second)];
    let mut measured = program::measure(&gateways, &traffic, options, time)?;
    let (two_cores, one_core) = (measured.remove(1), measured.remove(0));
    let pass = Pass { nf_core: &options.nf_core, dir: &options.dir, cpus: [options.cpu, second], packets: 100_000 };
    let passed = pass.run().map_err(|error| BenchError::Program {
        program: "nf-core".to_owned(),
        problem: format!("spreads no tunnel: {error}"),
        log: options.dir.join("nf-core.log"),
    })?;
    Ok(Spreading { one_core, two_cores, order: passed.order })
}

/// One pass over a capture of numbered packets on one SA, which two workers share.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'p> {
    /// nf-core.
    pub nf_core: &'p Path,
    /// A directory for captures, configuration and log.
    pub dir: &'p Path,
    /// The workers' CPUs. The first one receives everything.
    pub cpus: [u16; 2],
    /// How many packets.
    pub packets: u32,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Passed {
    /// The order in which the packets were sent.
    pub order: Order,
    /// Numbers of packets that came out more than once.
    pub repeated: usize,
    /// nf-core's counters.
    pub counters: Report,
    /// Its cores' stages.
    pub runtime: Vec<RuntimeReport>,
}

impl Pass<'_> {
    /// Runs it.
    ///
    /// # Errors
    /// nf-core can't be started, ends, or doesn't come to an end of its work; a file can't be written or read.
    pub fn run(&self) -> Result<Passed, RunError> {
        let capture = self.dir.join("numbered.pcap");
        let sa = self.write(&capture)?;
        // Each worker sends on a queue of its own, and each queue writes a file of its own.
        let outputs = [self.dir.join("sent-0.pcap"), self.dir.join("sent-1.pcap")];
        let null = "tx_pcap=/dev/null,tx_pcap=/dev/null";
        let eal_args = [
            "--no-huge".to_owned(),
            "--no-pci".to_owned(),
            "-m".to_owned(),
            "256".to_owned(),
            "--no-telemetry".to_owned(),
            format!("--vdev=net_pcap0,rx_pcap={},{null}", capture.display()),
            format!("--vdev=net_pcap1,tx_pcap={},tx_pcap={}", outputs[0].display(), outputs[1].display()),
        ];
        let config = format!(
            "[[port]]\nname = \"net_pcap0\"\nrole = \"unprotected\"\nrx_queues = 1\n\n\
             [[port]]\nname = \"net_pcap1\"\nrole = \"protected\"\nnext_hop_mac = \"02:00:00:00:00:08\"\n\n{}",
            sa.to_toml()
        );
        let start = Start {
            nf_core: self.nf_core,
            dir: self.dir,
            eal_args: &eal_args,
            cpus: &self.cpus.map(usize::from),
            spread: Some("on"),
            spin: false,
            config: &config,
        };
        let mut daemon = Daemon::start(&start)?;
        let control = daemon.control();
        let patience = Duration::from_secs(60);
        let deadline = std::time::Instant::now() + patience;
        let counters = loop {
            daemon.check()?;
            let counters = control.counters()?;
            let dropped: u64 = counters.feature.iter().map(|row| row.packets).sum();
            if counters.tx.packets + dropped >= u64::from(self.packets) {
                break counters;
            }
            if std::time::Instant::now() > deadline {
                return Err(daemon.stalled(format!("{} packets to pass", self.packets), patience));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let runtime = control.call(&Request::Runtime {})?;
        // The captures are complete once it has closed them.
        daemon.stop()?;
        let mut sent: Vec<(Duration, u64)> = Vec::new();
        for output in &outputs {
            sent.extend(numbers(output)?);
        }
        // A stable sort: a queue's packets stay in its order, whatever the clock's resolution.
        sent.sort_by_key(|(at, _)| *at);
        let order = Order::of(sent.iter().map(|(_, number)| *number));
        let mut distinct: Vec<u64> = sent.into_iter().map(|(_, number)| number).collect();
        distinct.sort_unstable();
        let before = distinct.len();
        distinct.dedup();
        Ok(Passed { order, repeated: before - distinct.len(), counters, runtime })
    }

    /// Writes the capture; gives its SA.
    fn write(&self, capture: &Path) -> Result<Sa, RunError> {
        let file = File::create(capture).map_err(RunError::io(capture))?;
        let failed = |error| RunError::Capture { path: capture.to_owned(), error };
        let mut writer = PcapWriter::new(BufWriter::new(file)).map_err(failed)?;
        let mut sa = Sa::new(0x1000, PEER_V4, LOCAL_V4, AES_128_GCM, &mut Random::new(11));
        // Nothing is to be lost where the machine keeps one of the workers from its work.
        sa.replay_window = 65_536;
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        let (src, dst) = (IpAddr::from([192, 168, 1, 7]), IpAddr::V4(Ipv4Addr::new(172, 16, 0, 9)));
        for number in 0..self.packets {
            let payload = [&number.to_be_bytes()[..], &[0xA5; 60]].concat();
            let inner = packet::ip(src, dst, 0, 64, 17, &packet::udp(src, dst, (5000, 6000), &payload));
            let frame = outer.esp(&sa.seal(IPV4, &inner));
            writer.write_packet(&PcapPacket::new(Duration::ZERO, frame.len() as u32, &frame)).map_err(failed)?;
        }
        Ok(sa)
    }
}

/// Octets in front of the number: Ethernet, IPv4 and UDP headers.
const NUMBER_AT: usize = 14 + 20 + 8;

/// The packets' numbers in a capture, and when they were sent.
fn numbers(path: &Path) -> Result<Vec<(Duration, u64)>, RunError> {
    let file = File::open(path).map_err(RunError::io(path))?;
    let failed = |error| RunError::Capture { path: path.to_owned(), error };
    let mut reader = PcapReader::new(BufReader::new(file)).map_err(failed)?;
    let mut numbers = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(failed)?;
        let number = packet.data.get(NUMBER_AT..).and_then(|rest| rest.first_chunk::<4>());
        numbers.push((packet.timestamp, number.map_or(u64::MAX, |number| u32::from_be_bytes(*number).into())));
    }
    Ok(numbers)
}
