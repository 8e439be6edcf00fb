//! A plugin that writes packets to a pcapng file, or keeps the last ones in memory for a snapshot: dropped ones with their
//! reason, or those of any other gate.
//!
//! Bounded in every way: a core copies at most `snaplen` octets of a packet into a record that was made beforehand, and
//! skips the packet where no record is free; the control thread writes the records away, and stops at `packets`, or keeps
//! the last `memory` of them.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::queue::ArrayQueue;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::{DataLink, PcapError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::batch::{Batch, Fate};
use crate::core::CoreCx;
use crate::drop::DropReason;
use crate::lanes::Lanes;
use crate::plugin::{Gate, Instance, Plugin, PluginControl, PluginError, PluginKind};
use crate::types::Nanos;

/// Records that a core may have filled before the control thread comes by.
const RECORDS_PER_CORE: usize = 256;

/// The longest part of a packet that can be kept.
const MAX_SNAPLEN: usize = 2048;

/// The most packets that are kept in memory.
const MAX_MEMORY: usize = 65_536;

/// The capture plugin.
pub struct CapturePlugin;

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
struct Settings {
    file: Option<PathBuf>,
    memory: Option<usize>,
    #[serde(default = "default_snaplen")]
    snaplen: usize,
    #[serde(default = "default_packets")]
    packets: u64,
}

fn default_snaplen() -> usize {
    256
}

fn default_packets() -> u64 {
    10_000
}

impl PluginKind for CapturePlugin {
    fn name(&self) -> &'static str {
        "capture"
    }

    fn about(&self) -> &'static str {
        "writes packets to a pcapng file, or keeps the last ones in memory; settings: file, snaplen=256, packets=10000, memory"
    }

    fn gates(&self) -> &'static [Gate] {
        &[Gate::Ingress, Gate::EspInput, Gate::Egress, Gate::Drop]
    }

    fn create(&self, settings: &Value, cores: usize) -> Result<Instance, PluginError> {
        let refuse = |setting: &str, problem: String| PluginError::Setting { setting: setting.to_owned(), problem };
        let settings = Settings::deserialize(settings)
            .map_err(|error| refuse("file, snaplen, packets, memory", error.to_string()))?;
        if !(1..=MAX_SNAPLEN).contains(&settings.snaplen) {
            return Err(refuse("snaplen", format!("{} isn't within 1 to {MAX_SNAPLEN} octets", settings.snaplen)));
        }
        let store = match (&settings.file, settings.memory) {
            (Some(file), None) => {
                let writer = open(file, settings.snaplen);
                Store::File(writer.map_err(|error| refuse("file", format!("{}: {}", file.display(), reason(&error))))?)
            }
            (None, Some(packets)) if (1..=MAX_MEMORY).contains(&packets) => Store::Memory(VecDeque::new(), packets),
            (None, Some(packets)) => {
                return Err(refuse("memory", format!("{packets} isn't within 1 to {MAX_MEMORY} packets")));
            }
            _ => return Err(refuse("file", "give either `file`, or `memory` with a number of packets".to_owned())),
        };
        let queues: Vec<Arc<Records>> = (0..cores).map(|_| Arc::new(Records::new(settings.snaplen))).collect();
        let parts = queues.iter().map(|records| Box::new(Capture(Arc::clone(records))) as Box<dyn Plugin>).collect();
        let control = CaptureControl { store: Some(store), settings, queues, written: 0, error: None };
        Ok(Instance { cores: parts, control: Box::new(control) })
    }
}

/// A packet, or its beginning.
struct Record {
    octets: Box<[u8]>,
    kept: usize,
    whole: usize,
    at: Nanos,
    reason: Option<DropReason>,
}

/// The records that a core and the control thread hand to and fro.
struct Records {
    free: ArrayQueue<Box<Record>>,
    full: ArrayQueue<Box<Record>>,
    missed: AtomicU64,
}

impl Records {
    fn new(snaplen: usize) -> Records {
        let free = ArrayQueue::new(RECORDS_PER_CORE);
        for _ in 0..RECORDS_PER_CORE {
            let octets = vec![0; snaplen].into_boxed_slice();
            // There is room for exactly this many.
            let _ = free.push(Box::new(Record { octets, kept: 0, whole: 0, at: Nanos(0), reason: None }));
        }
        Records { free, full: ArrayQueue::new(RECORDS_PER_CORE), missed: AtomicU64::new(0) }
    }
}

/// A core's part.
struct Capture(Arc<Records>);

impl Plugin for Capture {
    fn process(&mut self, core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
        for lane in lanes {
            let Some(mut record) = self.0.free.pop() else {
                self.0.missed.fetch_add(1, Relaxed);
                continue;
            };
            let frame = batch.packet(lane).data();
            record.whole = frame.len();
            record.kept = frame.len().min(record.octets.len());
            if let (Some(to), Some(from)) = (record.octets.get_mut(..record.kept), frame.get(..record.kept)) {
                to.copy_from_slice(from);
            }
            record.at = core.now;
            record.reason = match batch.fate(lane) {
                Fate::Dropped(reason) => Some(reason),
                _ => None,
            };
            // There is room for every record that exists.
            let _ = self.0.full.push(record);
        }
    }
}

type Writer = PcapNgWriter<BufWriter<File>>;

/// Where packets go.
enum Store {
    File(Writer),
    /// The last so many.
    Memory(VecDeque<RecordedPacket>, usize),
}

/// A packet that was kept, or its beginning.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecordedPacket {
    /// When it was received, in nanoseconds of the daemon's clock.
    pub at_ns: u64,
    /// Octets of the whole frame.
    pub octets: usize,
    /// The drop index and why it was dropped, if it was.
    pub dropped: Option<(u16, String)>,
    /// The frame's beginning, in hex.
    pub data: String,
}

struct CaptureControl {
    settings: Settings,
    queues: Vec<Arc<Records>>,
    /// None once the file is full or has failed.
    store: Option<Store>,
    written: u64,
    error: Option<String>,
}

/// Begins a pcapng file of Ethernet frames.
fn open(file: &Path, snaplen: usize) -> Result<Writer, PcapError> {
    let file = File::create(file).map_err(PcapError::IoError)?;
    let mut writer = PcapNgWriter::new(BufWriter::new(file))?;
    let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, snaplen as u32);
    interface.options.push(InterfaceDescriptionOption::IfTsResol(9));
    writer.write_pcapng_block(interface)?;
    Ok(writer)
}

/// Why a file can't be written; that of the operating system, where the library only says that there is one.
fn reason(error: &PcapError) -> String {
    match error {
        PcapError::IoError(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// Writes a frame, or its beginning, of which there were `whole` octets.
fn write(
    writer: &mut Writer,
    time: Duration,
    data: &[u8],
    whole: usize,
    comment: Option<String>,
) -> Result<(), PcapError> {
    let mut block = EnhancedPacketBlock {
        interface_id: 0,
        timestamp: time,
        original_len: whole as u32,
        data: Cow::Borrowed(data),
        options: Vec::new(),
    };
    block.options.extend(comment.map(|comment| EnhancedPacketOption::Comment(Cow::Owned(comment))));
    writer.write_pcapng_block(block)?;
    Ok(())
}

fn comment(reason: DropReason) -> String {
    let info = reason.info();
    format!("{} {}: {}", info.index, info.name, info.meaning)
}

/// Writes recorded packets to a pcapng file. `epoch` is the wall clock's time at the daemon's time 0.
///
/// # Errors
/// The file can't be written.
pub fn write_recorded(file: &Path, packets: &[RecordedPacket], epoch: Duration) -> Result<(), PcapError> {
    let mut writer = open(file, MAX_SNAPLEN)?;
    for packet in packets {
        let data = hex::decode(&packet.data).unwrap_or_default();
        let comment = packet.dropped.as_ref().map(|(_, why)| why.clone());
        write(&mut writer, epoch + Duration::from_nanos(packet.at_ns), &data, packet.octets, comment)?;
    }
    writer.get_mut().flush().map_err(PcapError::IoError)
}

/// The wall clock's time at the daemon's time 0.
pub fn epoch(now: Nanos) -> Duration {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    wall.saturating_sub(Duration::from_nanos(now.0))
}

impl CaptureControl {
    fn take(&mut self, record: &Record, epoch: Duration) {
        let data = record.octets.get(..record.kept).unwrap_or_default();
        match &mut self.store {
            Some(Store::File(writer)) => {
                let time = epoch + Duration::from_nanos(record.at.0);
                match write(writer, time, data, record.whole, record.reason.map(comment)) {
                    Ok(()) => self.written += 1,
                    Err(error) => {
                        self.error = Some(reason(&error));
                        self.store = None;
                    }
                }
                if self.written >= self.settings.packets {
                    // Dropping it flushes it.
                    self.store = None;
                }
            }
            Some(Store::Memory(packets, max)) => {
                if packets.len() >= *max {
                    packets.pop_front();
                }
                packets.push_back(RecordedPacket {
                    at_ns: record.at.0,
                    octets: record.whole,
                    dropped: record.reason.map(|reason| (reason.info().index, comment(reason))),
                    data: hex::encode(data),
                });
                self.written += 1;
            }
            None => {}
        }
    }
}

impl PluginControl for CaptureControl {
    fn poll(&mut self, now: Nanos) {
        let epoch = epoch(now);
        for queue in 0..self.queues.len() {
            let Some(records) = self.queues.get(queue).map(Arc::clone) else {
                break;
            };
            // No more than there can be at once: under a flood a core fills records as fast as they are written away.
            for _ in 0..RECORDS_PER_CORE {
                let Some(record) = records.full.pop() else {
                    break;
                };
                if self.store.is_none() {
                    records.missed.fetch_add(1, Relaxed);
                }
                self.take(&record, epoch);
                let _ = records.free.push(record);
            }
        }
        if let Some(Store::File(writer)) = &mut self.store
            && let Err(error) = writer.get_mut().flush()
        {
            self.error = Some(error.to_string());
            self.store = None;
        }
    }

    fn status(&self) -> Value {
        json!({
            "file": self.settings.file,
            "memory": self.settings.memory,
            "snaplen": self.settings.snaplen,
            "packets": self.settings.packets,
            "written": self.written,
            "missed": self.queues.iter().map(|records| records.missed.load(Relaxed)).sum::<u64>(),
            "error": self.error,
        })
    }

    fn recorded(&self) -> Vec<RecordedPacket> {
        match &self.store {
            Some(Store::Memory(packets, _)) => packets.iter().cloned().collect(),
            Some(Store::File(_)) | None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    #[test]
    fn a_core_that_never_stops_recording_does_not_hold_the_control_thread() {
        let records = Arc::new(Records::new(64));
        let settings = Settings { file: None, memory: Some(16), snaplen: 64, packets: 10 };
        let store = Some(Store::Memory(VecDeque::new(), 16));
        let queues = vec![Arc::clone(&records)];
        let mut control = CaptureControl { settings, queues, store, written: 0, error: None };
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    match records.free.pop() {
                        Some(record) => assert!(records.full.push(record).is_ok(), "there is room for every record"),
                        None => thread::yield_now(),
                    }
                }
            });
            while control.written == 0 {
                control.poll(Nanos(0));
            }
            for _ in 0..16 {
                let before = control.written;
                control.poll(Nanos(0));
                assert!(control.written - before <= RECORDS_PER_CORE as u64);
            }
            stop.store(true, Relaxed);
        });
        assert_eq!(records.free.len() + records.full.len(), RECORDS_PER_CORE, "no record is lost");
    }
}
