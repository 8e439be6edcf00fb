//! A plugin that writes packets to a pcapng file: dropped ones with their reason, or those of any other gate.
//!
//! Bounded in every way: a core copies at most `snaplen` octets of a packet into a record that was made beforehand, and
//! skips the packet where no record is free; the control thread writes the records away, and stops at `packets`.

use std::borrow::Cow;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::queue::ArrayQueue;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::{DataLink, PcapError};
use serde::Deserialize;
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

/// The capture plugin.
pub struct CapturePlugin;

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
struct Settings {
    file: PathBuf,
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
        "writes packets to a pcapng file, at the gate `drop` with the reason; settings: file, snaplen=256, packets=10000"
    }

    fn gates(&self) -> &'static [Gate] {
        &[Gate::Ingress, Gate::EspInput, Gate::Egress, Gate::Drop]
    }

    fn create(&self, settings: &Value, cores: usize) -> Result<Instance, PluginError> {
        let refuse = |setting: &str, problem: String| PluginError::Setting { setting: setting.to_owned(), problem };
        let settings =
            Settings::deserialize(settings).map_err(|error| refuse("file, snaplen, packets", error.to_string()))?;
        if !(1..=MAX_SNAPLEN).contains(&settings.snaplen) {
            return Err(refuse("snaplen", format!("{} isn't within 1 to {MAX_SNAPLEN} octets", settings.snaplen)));
        }
        let writer =
            open(&settings).map_err(|error| refuse("file", format!("{}: {error}", settings.file.display())))?;
        let queues: Vec<Arc<Records>> = (0..cores).map(|_| Arc::new(Records::new(settings.snaplen))).collect();
        let parts = queues.iter().map(|records| Box::new(Capture(Arc::clone(records))) as Box<dyn Plugin>).collect();
        let control = CaptureControl { writer: Some(writer), settings, queues, written: 0, error: None };
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

struct CaptureControl {
    settings: Settings,
    queues: Vec<Arc<Records>>,
    /// None once the file is full or has failed.
    writer: Option<Writer>,
    written: u64,
    error: Option<String>,
}

fn open(settings: &Settings) -> Result<Writer, PcapError> {
    let file = File::create(&settings.file).map_err(PcapError::IoError)?;
    let mut writer = PcapNgWriter::new(BufWriter::new(file))?;
    let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, settings.snaplen as u32);
    interface.options.push(InterfaceDescriptionOption::IfTsResol(9));
    writer.write_pcapng_block(interface)?;
    Ok(writer)
}

impl CaptureControl {
    fn write(writer: &mut Writer, record: &Record, epoch: Duration) -> Result<(), PcapError> {
        let mut block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: epoch + Duration::from_nanos(record.at.0),
            original_len: record.whole as u32,
            data: Cow::Borrowed(record.octets.get(..record.kept).unwrap_or_default()),
            options: Vec::new(),
        };
        if let Some(reason) = record.reason {
            let info = reason.info();
            let comment = format!("{} {}: {}", info.index, info.name, info.meaning);
            block.options.push(EnhancedPacketOption::Comment(Cow::Owned(comment)));
        }
        writer.write_pcapng_block(block)?;
        Ok(())
    }
}

impl PluginControl for CaptureControl {
    fn poll(&mut self, now: Nanos) {
        // The wall clock's time of the process's time 0.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = wall.saturating_sub(Duration::from_nanos(now.0));
        for records in &self.queues {
            while let Some(record) = records.full.pop() {
                if let Some(writer) = &mut self.writer {
                    match Self::write(writer, &record, epoch) {
                        Ok(()) => self.written += 1,
                        Err(error) => {
                            self.error = Some(error.to_string());
                            self.writer = None;
                        }
                    }
                } else {
                    records.missed.fetch_add(1, Relaxed);
                }
                let _ = records.free.push(record);
                if self.written >= self.settings.packets {
                    // Dropping it flushes it.
                    self.writer = None;
                }
            }
        }
        if let Some(writer) = &mut self.writer {
            use std::io::Write;
            if let Err(error) = writer.get_mut().flush() {
                self.error = Some(error.to_string());
                self.writer = None;
            }
        }
    }

    fn status(&self) -> Value {
        json!({
            "file": self.settings.file,
            "snaplen": self.settings.snaplen,
            "packets": self.settings.packets,
            "written": self.written,
            "missed": self.queues.iter().map(|records| records.missed.load(Relaxed)).sum::<u64>(),
            "error": self.error,
        })
    }
}
