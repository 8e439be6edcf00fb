//! nf-core with faults of the field: a plugin in front of decapsulation, bound as any plugin of a third party.
//!
//! The tests show with it that each named scenario fails on an implementation that has its fault. In nf.toml:
//! ```toml
//! [[plugin]]
//! instance = "fault"
//! plugin = "fault"
//! settings = { fault = "spi-ff" }
//! bind = [{ gate = "esp-input" }]
//! ```

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::process::ExitCode;

use nf_core::batch::Batch;
use nf_core::core::CoreCx;
use nf_core::drop::DropReason;
use nf_core::lanes::Lanes;
use nf_core::plugin::{Gate, Instance, Plugin, PluginError, PluginKind, Registry};
use nf_core::sa::table::Lookup;
use nf_core::types::Spi;
use serde_json::Value;

/// What a fault sees of a packet.
struct Seen {
    spi: Spi,
    src: IpAddr,
    dst: IpAddr,
    seq: u32,
    in_udp: bool,
    /// Whether its SA is installed.
    mature: bool,
}

/// Packets that a faulty implementation loses, and under which name.
type Fault = Box<dyn FnMut(&Seen) -> Option<DropReason> + Send>;
/// A fault's name, and what makes one for a core.
type NamedFault = (&'static str, fn() -> Fault);

/// Each fault, and how an implementation behaves that has it.
const FAULTS: &[NamedFault] = &[
    ("spi-ff", || Box::new(|seen| (seen.spi.0 >> 24 == 0xFF).then_some(DropReason::UnknownSpiV4))),
    ("natt-silent", || Box::new(|seen| (seen.in_udp && !seen.mature).then_some(DropReason::UnknownSpiV4))),
    // Looks an SA up by its SPI alone: who came first has it.
    ("lookup-by-spi", || {
        let mut first = HashMap::new();
        Box::new(move |seen| (*first.entry(seen.spi).or_insert(seen.dst) != seen.dst).then_some(DropReason::AuthFailed))
    }),
    ("lookup-without-source", || {
        let mut first = HashMap::new();
        Box::new(move |seen| {
            (*first.entry((seen.spi, seen.dst)).or_insert(seen.src) != seen.src).then_some(DropReason::AuthFailed)
        })
    }),
    // A window of 32-bit numbers that belongs to the SPI, not to the SA.
    ("window-of-the-spi", || {
        let mut highest = HashMap::new();
        Box::new(move |seen| {
            let highest = highest.entry((seen.spi, seen.dst, seen.src)).or_insert(seen.seq);
            let old = seen.seq < highest.saturating_sub(64);
            *highest = (*highest).max(seen.seq);
            old.then_some(DropReason::Replay)
        })
    }),
    ("last-number-unused", || Box::new(|seen| (seen.seq == u32::MAX).then_some(DropReason::Replay))),
    // The old SA goes with the first packet on a new one.
    ("early-switch", || {
        let mut last: HashMap<IpAddr, (Spi, HashSet<Spi>)> = HashMap::new();
        Box::new(move |seen| {
            let (current, gone) = last.entry(seen.src).or_insert_with(|| (seen.spi, HashSet::new()));
            if *current != seen.spi && !gone.contains(&seen.spi) {
                gone.insert(*current);
                *current = seen.spi;
            }
            gone.contains(&seen.spi).then_some(DropReason::InvalidSaV4)
        })
    }),
    // Packets that come before their SA are lost.
    ("not-held", || Box::new(|seen| (!seen.mature).then_some(DropReason::UnknownSpiV4))),
    // And worse: they take the SA along that comes after them.
    ("early-packet-deletes", || {
        let mut early = HashSet::new();
        Box::new(move |seen| {
            if !seen.mature {
                early.insert(seen.spi);
            }
            early.contains(&seen.spi).then_some(DropReason::InvalidSaV4)
        })
    }),
];

impl Plugin for FaultOnCore {
    fn process(&mut self, core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
        for lane in lanes {
            let packet = batch.packet(lane);
            let (headers, frame) = (packet.headers(), packet.data());
            let (Some(spi), Some(src), Some(dst)) = (headers.spi(), headers.src(frame), headers.dst(frame)) else {
                continue;
            };
            let seen = Seen {
                spi,
                src,
                dst,
                seq: headers.seq_low().unwrap_or_default(),
                in_udp: headers.udp_ports(frame).is_some(),
                mature: matches!(core.sad.lookup(spi, dst, src), Lookup::Found(_)),
            };
            if let Some(why) = (self.0)(&seen) {
                batch.drop(lane, why);
            }
        }
    }
}

/// A core's part.
struct FaultOnCore(Fault);

struct FaultKind;

impl PluginKind for FaultKind {
    fn name(&self) -> &'static str {
        "fault"
    }

    fn about(&self) -> &'static str {
        "has a fault of the field"
    }

    fn gates(&self) -> &'static [Gate] {
        &[Gate::EspInput]
    }

    fn create(&self, settings: &Value, cores: usize) -> Result<Instance, PluginError> {
        let name = settings["fault"].as_str().unwrap_or_default();
        let Some((_, fault)) = FAULTS.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = FAULTS.iter().map(|(name, _)| *name).collect();
            let problem = format!("there is no fault `{name}`; there are {}", names.join(", "));
            return Err(PluginError::Setting { setting: "fault".into(), problem });
        };
        let part = || Box::new(FaultOnCore(fault())) as Box<dyn Plugin>;
        Ok(Instance { cores: (0..cores).map(|_| part()).collect(), control: Box::new(()) })
    }
}

fn main() -> ExitCode {
    let mut registry = Registry::builtin();
    registry.register(Box::new(FaultKind));
    nf_core::cli::main(registry)
}
