//! One pass over a capture: net_pcap in, net_pcap out, in order, without hugepages, devices or privileges.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dpdk_rs::{Eal, Mempool, Port, PortConfig, SocketId};

use super::clock::Clock;
use super::cryptodev::{self, DeviceQueue};
use super::holding::Holding;
use super::reassembly::Reassembler;
use super::spread::Spreader;
use super::worker::{Output, Pools, Queues, Worker};
use super::{Error, eal, log};
use crate::config::{Config, PortRole};
use crate::control::controller::Controller;
use crate::core::Core;
use crate::counters::Snapshot;
use crate::net::NetPort;
use crate::plugin::Registry;
use crate::types::PortIndex;
use crate::wire::ethernet::MacAddr;

/// The virtual port that reads one capture and writes the other.
const PORT: &str = "net_pcap0";
/// Octets of a pcap file's header.
const FILE_HEADER: u64 = 24;
/// Octets of a packet's header in a pcap file.
const RECORD_HEADER: usize = 16;

/// What to play.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The configuration. Its ports and EAL arguments are for the daemon and play no part.
    pub config: PathBuf,
    /// The capture to read, with Ethernet frames.
    pub input: PathBuf,
    /// The capture to write: decapsulated packets.
    pub output: PathBuf,
    /// A file to write the counters to, as JSON.
    pub stats_json: Option<PathBuf>,
}

/// Plays a capture through the network function; gives the counters.
///
/// # Errors
/// A file that can't be read or written, a configuration that is wrong, or DPDK's refusal.
pub fn replay(replay: &Replay, registry: Registry) -> Result<Snapshot, Error> {
    let config = Config::load(&replay.config)?;
    log::init(&config.notify)?;
    let input = open_capture(&replay.input)?;
    let eal = Eal::init(eal::replay_args(&config))?;
    let played = play(eal, &config, registry, replay, &input);
    eal::shut_down(eal);
    let Played { counters, mut output, mut stats } = played?;

    if let Some(Created { file, path, .. }) = &mut stats {
        serde_json::to_writer_pretty(file, &counters.report()).map_err(|error| failed(path, &error))?;
    }
    if let Some(record) = cut_off(&input) {
        let path = replay.input.display();
        tracing::warn!("{path} ends inside packet {record}: it was cut off, and only what comes before was played");
    }
    output.keep();
    stats.iter_mut().for_each(Created::keep);
    Ok(counters)
}

/// What a pass has come to.
struct Played {
    counters: Snapshot,
    output: Created,
    stats: Option<Created>,
}

/// The pass, with what it needs. All that DPDK gives is gone when it ends.
fn play(eal: Eal, config: &Config, registry: Registry, replay: &Replay, input: &File) -> Result<Played, Error> {
    let port = |role| (PORT.to_owned(), NetPort::new(role, MacAddr::default(), None));
    let ports = vec![port(PortRole::Unprotected), port(PortRole::Protected)];
    let (engine, devices) = cryptodev::engine(eal, &config.crypto, 1)?;
    let sinks = log::sinks(&config.notify);
    let (mut controller, cores) = Controller::with_engine(engine, config, registry, ports, 1, sinks)?;
    // Created before the work, so that it isn't for nothing.
    let output = Created::new(&replay.output, input)?;
    let stats = replay.stats_json.as_deref().map(|path| Created::new(path, input)).transpose()?;
    let core = cores.into_iter().zip(devices.into_iter().map(Some).chain([None])).next();
    pass(eal, config, &mut controller, core, (input, &output.file))?;
    Ok(Played { counters: controller.counters(), output, stats })
}

/// The pass itself, by a core with its queue of a crypto device.
fn pass(
    eal: Eal,
    config: &Config,
    controller: &mut Controller,
    core: Option<(Core, Option<DeviceQueue>)>,
    (input, output): (&File, &File),
) -> Result<(), Error> {
    let clock = Clock::new(eal);
    let pool = Mempool::create(eal, "frames", config.eal.mbufs, 256, eal::DATA_ROOM, SocketId::ANY)?;
    let big = Mempool::create(eal, "big", eal::BIG_MBUFS, 0, eal::BIG_DATA_ROOM, SocketId::ANY)?;
    let reassembler =
        if config.reassembly.enabled { Some(Reassembler::new(eal, config, 1, clock, big.clone())?) } else { None };
    // By descriptor, since the names of files may hold what a device's arguments can't.
    let fd = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
    eal.attach_vdev(PORT, &format!("rx_pcap={},tx_pcap={}", fd(input), fd(output)))?;
    let (_port, rx, tx) = Port::by_name(eal, PORT)?.configure(&PortConfig::default(), &pool)?.start()?;
    // Both roles are the one port's: packets come in by the first, and leave by the second.
    let rx = rx.into_iter().map(|queue| (PortIndex(0), queue)).collect();
    let outputs = vec![None, tx.into_iter().next().map(Output::new)];
    let pools = Pools { frames: pool.clone(), big };
    if let Some((core, device)) = core {
        let holding = Holding::new(config.sad.larval, clock);
        let queues = Queues { rx, tx: outputs, spreader: Spreader::alone(), device };
        let mut worker = Worker::new(core, clock, queues, pools, reassembler, holding);
        loop {
            if worker.poll() > 0 {
                controller.tick(clock.now());
                continue;
            }
            // A capture has no pauses: an empty round is its end, unless fragments that wait hold all buffers.
            let starved = pool.available() == 0;
            worker.finish();
            if !starved || pool.available() == 0 {
                break;
            }
        }
    }
    controller.finish(clock.now());
    Ok(())
}

fn failed(path: &Path, problem: &dyn std::fmt::Display) -> Error {
    Error::File { path: path.to_owned(), problem: problem.to_string() }
}

/// Opens a capture and sees that it is one, with Ethernet frames.
fn open_capture(path: &Path) -> Result<File, Error> {
    let mut file = File::open(path).map_err(|error| failed(path, &error))?;
    let mut header = Vec::new();
    file.by_ref().take(FILE_HEADER).read_to_end(&mut header).map_err(|error| failed(path, &error))?;
    let word = |at: usize| header.get(at..).and_then(|rest| rest.first_chunk::<4>()).copied();
    let number = match word(0) {
        // pcapng names the link type per interface, behind its section header.
        Some([0x0A, 0x0D, 0x0D, 0x0A]) => return Ok(file),
        magic => magic.and_then(byte_order).ok_or_else(|| failed(path, &"isn't a pcap or pcapng file"))?,
    };
    let link = word(20).map(number);
    match link.map(|link| link & 0xFFFF) {
        Some(1) => Ok(file),
        Some(other) => Err(failed(path, &format_args!("holds frames of link type {other}; only Ethernet (1) will do"))),
        None => Err(failed(path, &"ends inside its header")),
    }
}

/// How a pcap file that begins so has its numbers, with times in microseconds or nanoseconds.
fn byte_order(magic: [u8; 4]) -> Option<fn([u8; 4]) -> u32> {
    match magic {
        [0xD4, 0xC3, 0xB2, 0xA1] | [0x4D, 0x3C, 0xB2, 0xA1] => Some(u32::from_le_bytes),
        [0xA1, 0xB2, 0xC3, 0xD4] | [0xA1, 0xB2, 0x3C, 0x4D] => Some(u32::from_be_bytes),
        _ => None,
    }
}

/// The number, from 1, of the packet in which a pcap file ends too early. The reader of net_pcap passes over that in
/// silence. Of pcapng files and pipes nothing is said.
fn cut_off(mut file: &File) -> Option<u64> {
    let size = file.metadata().ok().filter(|data| data.is_file())?.len();
    let mut magic = [0; 4];
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut magic)).ok()?;
    let number = byte_order(magic)?;
    let mut reader = BufReader::new(file);
    let mut at = reader.seek(SeekFrom::Start(FILE_HEADER)).ok()?;
    let mut record = 0;
    while at < size {
        record += 1;
        let mut header = [0; RECORD_HEADER];
        if reader.read_exact(&mut header).is_err() {
            return Some(record);
        }
        let [.., a, b, c, d, _, _, _, _] = header;
        let octets = number([a, b, c, d]);
        reader.seek_relative(octets.into()).ok()?;
        at += RECORD_HEADER as u64 + u64::from(octets);
    }
    (at > size).then_some(record)
}

/// A file that is to be written. Unless it is kept, it goes again if it wasn't there before.
struct Created {
    path: PathBuf,
    file: File,
    new: bool,
}

impl Created {
    /// Creates a file, but not over the one that is read.
    fn new(path: &Path, input: &File) -> Result<Created, Error> {
        let new = !path.exists();
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(path).map_err(|error| failed(path, &error))?;
        let created = Created { path: path.to_owned(), file, new };
        let identity = |file: &File| file.metadata().map(|data| (data.dev(), data.ino(), data.is_file()));
        match (identity(input), identity(&created.file)) {
            (Ok(input), Ok(output)) if input == output => {
                Err(failed(path, &"is the capture that is read; write to another file"))
            }
            // Only a regular file has something to be cut off.
            (_, Ok((_, _, true))) => created.file.set_len(0).map(|()| created).map_err(|error| failed(path, &error)),
            _ => Ok(created),
        }
    }

    fn keep(&mut self) {
        self.new = false;
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if self.new {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
