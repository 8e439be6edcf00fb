//! A scenario: frames, and what must come of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use nf_core::counters::Consumed;
use nf_core::drop::DropReason;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use pcap_file::{DataLink, PcapError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::outer::Outer;
use crate::packet;
use crate::random::Random;
use crate::seal::{IPV4, IPV6, Sa};

/// The peer's address in scenarios.
pub const PEER_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 1, 1));
/// Our address in scenarios.
pub const LOCAL_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 10, 1, 2));
/// The peer's IPv6 address in scenarios.
pub const PEER_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xDB8, 1, 0, 0, 0, 0, 1));
/// Our IPv6 address in scenarios.
pub const LOCAL_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xDB8, 2, 0, 0, 0, 0, 2));

/// Time between two frames of a capture.
const GAP: Duration = Duration::from_micros(10);

/// Named traffic.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Writes some `packets` packets, and what must come of them.
    pub write: fn(&mut Writer, packets: usize) -> Result<(), PcapError>,
}

/// What must come of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// This IP packet leaves.
    Sent(Vec<u8>),
    /// It ends as consumed.
    Consumed(Consumed),
    /// It is dropped.
    Dropped(DropReason),
    /// It is a fragment of a datagram whose outcome is that of its last fragment.
    Held,
}

/// What must come of all frames.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Expected {
    /// Frames in.
    pub rx: u64,
    /// Packets out.
    pub tx: u64,
    /// Packets consumed, by cause.
    pub consumed: BTreeMap<String, u64>,
    /// Packets dropped, by drop index.
    pub drops: BTreeMap<u16, u64>,
    /// Messages about invalid SPIs, each of which must be printed once.
    pub messages: BTreeSet<String>,
    /// What a running nf-core must know of invalid SPIs, besides the messages.
    pub flows: BTreeSet<UnknownFlow>,
}

/// Packets on an SPI that no SA has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct UnknownFlow {
    /// Outer source address.
    pub src: IpAddr,
    /// Outer destination address.
    pub dst: IpAddr,
    /// SPI.
    pub spi: u32,
    /// UDP ports of the last packet, source first, if it came in UDP.
    pub udp_ports: Option<(u16, u16)>,
}

impl fmt::Display for UnknownFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnknownFlow { src, dst, spi, udp_ports } = self;
        write!(f, "SPI {spi:#010X} from {src} to {dst}")?;
        match udp_ports {
            Some((from, to)) => write!(f, ", UDP ports {from} and {to}"),
            None => Ok(()),
        }
    }
}

/// A request to the control socket while frames are under way. A scenario that has some needs a running nf-core.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// The request, as the control socket takes it.
    pub request: Value,
    /// It is made when nf-core has received so many frames.
    pub after: u64,
    /// No more than so many frames are sent before it is answered.
    pub until: u64,
}

/// Takes a scenario's frames: into a capture, with the expected output into another. Memory doesn't grow with them.
pub struct Writer {
    frames: PcapWriter<BufWriter<File>>,
    outputs: PcapWriter<BufWriter<File>>,
    /// Octets of the longest frame that must come out.
    longest: usize,
    time: Duration,
    /// The SAs and local addresses of the scenario, for its nf.toml.
    sas: Vec<String>,
    local: Vec<IpAddr>,
    steps: Vec<Step>,
    expected: Expected,
    held: u64,
    /// Packets of frames that came before their SA.
    early: Vec<Vec<u8>>,
    /// Numbers for keys and payloads.
    pub random: Random,
}

impl Writer {
    /// Writes frames to one file and expected packets to another.
    pub fn create(frames: &Path, outputs: &Path, seed: u64) -> Result<Writer, PcapError> {
        let open = |path: &Path| -> Result<_, PcapError> {
            let file = BufWriter::new(File::create(path).map_err(PcapError::IoError)?);
            let header = pcap_file::pcap::PcapHeader { datalink: DataLink::ETHERNET, ..Default::default() };
            PcapWriter::with_header(file, header)
        };
        Ok(Writer {
            frames: open(frames)?,
            outputs: open(outputs)?,
            longest: 0,
            time: Duration::ZERO,
            sas: Vec::new(),
            local: vec![LOCAL_V4, LOCAL_V6],
            steps: Vec::new(),
            expected: Expected::default(),
            held: 0,
            early: Vec::new(),
            random: Random::new(seed),
        })
    }

    /// Declares an SA to the network function.
    pub fn install(&mut self, sa: &Sa) {
        self.sas.push(sa.to_toml());
    }

    /// Declares another address of the network function.
    pub fn local(&mut self, address: IpAddr) {
        self.local.push(address);
    }

    /// Makes a request between two frames: nf-core has received those before, and none that comes after.
    pub fn request(&mut self, request: Value) {
        let now = self.expected.rx;
        self.steps.push(Step { request, after: now, until: now });
    }

    /// Makes a request when nf-core has received the frames before it, while frames go on: those up to
    /// [`Writer::answered`] may be sent before the answer is there.
    pub fn request_under_way(&mut self, request: Value) {
        self.steps.push(Step { request, after: self.expected.rx, until: u64::MAX });
    }

    /// From here on all requests have been answered.
    pub fn answered(&mut self) {
        let now = self.expected.rx;
        for step in self.steps.iter_mut().filter(|step| step.until == u64::MAX) {
            step.until = now;
        }
    }

    /// Adds a frame and what must come of it.
    pub fn push(&mut self, frame: &[u8], outcome: Outcome) -> Result<(), PcapError> {
        self.time += GAP;
        self.frames.write_packet(&PcapPacket::new(self.time, frame.len() as u32, frame))?;
        let expected = &mut self.expected;
        expected.rx += 1;
        let mut consumed =
            |why: Consumed, count: u64| *expected.consumed.entry(why.name().to_owned()).or_default() += count;
        if outcome != Outcome::Held && self.held > 0 {
            // The fragments that became part of this one's datagram.
            consumed(Consumed::Fragment, self.held);
            self.held = 0;
        }
        match outcome {
            Outcome::Sent(packet) => {
                self.output(self.time, &sent(frame, &packet))?;
            }
            Outcome::Consumed(why) => consumed(why, 1),
            Outcome::Dropped(why) => *expected.drops.entry(why.info().index).or_default() += 1,
            Outcome::Held => self.held += 1,
        }
        Ok(())
    }

    /// Adds a frame whose packet leaves at [`Writer::release_early`], and not before.
    pub fn push_early(&mut self, frame: &[u8], packet: Vec<u8>) -> Result<(), PcapError> {
        self.early.push(sent(frame, &packet));
        // It is counted as received now, and as sent then.
        self.push(frame, Outcome::Held)?;
        self.held -= 1;
        Ok(())
    }

    /// Here the packets of early frames leave, in their order.
    pub fn release_early(&mut self) -> Result<(), PcapError> {
        // Between two frames, which tells them from what the frame before makes leave at once.
        let time = self.time + GAP / 2;
        for out in std::mem::take(&mut self.early) {
            self.output(time, &out)?;
        }
        Ok(())
    }

    fn output(&mut self, time: Duration, frame: &[u8]) -> Result<(), PcapError> {
        self.expected.tx += 1;
        self.longest = self.longest.max(frame.len());
        self.outputs.write_packet(&PcapPacket::new(time, frame.len() as u32, frame)).map(drop)
    }

    /// Adds a frame on an SPI that no SA has, with its message.
    pub fn push_unknown(&mut self, outer: &Outer, spi: u32) -> Result<(), PcapError> {
        let esp = [&spi.to_be_bytes()[..], &1u32.to_be_bytes(), &self.random.octets(64)].concat();
        self.expected.messages.insert(format!(
            "%CRYPTO-4-RECVD_PKT_INV_SPI: decaps: rec'd IPSEC packet has invalid spi for destaddr={}, prot=50, \
             spi=0x{spi:08X}({spi}), srcaddr={}",
            outer.dst, outer.src
        ));
        // The report has the ports of the flow's last packet.
        let udp_ports = outer.udp.map(|port| (port, 4500));
        let flow = UnknownFlow { src: outer.src, dst: outer.dst, spi, udp_ports };
        self.expected.flows.retain(|known| (known.src, known.dst, known.spi) != (flow.src, flow.dst, flow.spi));
        self.expected.flows.insert(flow);
        let reason = if outer.dst.is_ipv4() { DropReason::UnknownSpiV4 } else { DropReason::UnknownSpiV6 };
        self.push(&outer.esp(&esp), Outcome::Dropped(reason))
    }

    /// An inner packet with a random payload of that many octets in all, headers included.
    pub fn inner(&mut self, v6: bool, len: usize) -> Vec<u8> {
        let (src, dst): (IpAddr, IpAddr) = if v6 {
            (IpAddr::from([0x2001, 0xDB8, 0xA, 0, 0, 0, 0, 1]), IpAddr::from([0x2001, 0xDB8, 0xB, 0, 0, 0, 0, 1]))
        } else {
            (IpAddr::from([192, 168, 1, 7]), IpAddr::from([172, 16, 0, 9]))
        };
        let headers = if v6 { 48 } else { 28 };
        let payload = self.random.octets(len.saturating_sub(headers));
        packet::ip(src, dst, 0, 64, 17, &packet::udp(src, dst, (5000, 6000), &payload))
    }

    /// Adds an inner packet of that length, sealed by a tunnel-mode SA, which must come out.
    pub fn push_valid(&mut self, sa: &mut Sa, outer: &Outer, v6: bool, len: usize) -> Result<Vec<u8>, PcapError> {
        let inner = self.inner(v6, len);
        let esp = sa.seal(if v6 { IPV6 } else { IPV4 }, &inner);
        let frame = outer.esp(&esp);
        self.push(&frame, Outcome::Sent(packet::forwarded(&inner, 0)))?;
        Ok(frame)
    }

    /// The scenario's nf.toml, its steps, what must come of it, and octets of the longest frame that must come out.
    pub fn finish(mut self) -> Result<(String, Vec<Step>, Expected, usize), PcapError> {
        self.answered();
        for writer in [self.frames, self.outputs] {
            writer.into_writer().flush().map_err(PcapError::IoError)?;
        }
        let mut config = String::new();
        for address in &self.local {
            config += &format!("[[local]]\naddress = \"{address}\"\n\n");
        }
        Ok((config + &self.sas.join("\n"), self.steps, self.expected, self.longest))
    }
}

/// The frame that a packet of a received frame leaves in.
fn sent(frame: &[u8], packet: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xDD] };
    [&frame[..12], &ethertype, packet].concat()
}

impl Expected {
    /// Whether each frame is accounted for.
    pub fn is_conserved(&self) -> bool {
        self.rx == self.tx + self.consumed.values().sum::<u64>() + self.drops.values().sum::<u64>()
    }
}
