//! Router plugins, after Decasper, Dittia, Parulkar and Plattner, "Router Plugins" (SIGCOMM 1998).
//!
//! The pipeline has [gates](Gate). A *plugin* ([`PluginKind`]) is code registered by name. An *instance* of it has its
//! own settings, and a [`Plugin`] for each core, so that no two cores share memory. A *binding* ties an instance to a
//! gate and a [`Filter`]. Bindings change at run time, between two bursts, without losing a packet.
//!
//! A plugin handles a whole burst and gives each packet a verdict: on to another gate, consumed, or dropped with a
//! reason. A packet that it leaves alone goes on to the gate's next binding, and in the end on its usual way.

mod filter;
mod gates;
mod registry;

pub use filter::Filter;
pub use gates::{Binding, GateTable, Gates, InstanceSlot};
pub use registry::{Instance, PluginControl, PluginError, PluginKind, Registry};

use std::fmt;
use std::str::FromStr;

use crate::batch::Batch;
use crate::core::CoreCx;
use crate::lanes::Lanes;
use crate::stage::Stage;

/// A point of the pipeline at which instances may be bound. A packet goes through them in this order; it can't go back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Gate {
    /// Every packet, headers parsed.
    Ingress,
    /// ESP to us, plain or in UDP. The decapsulation plugin is bound here.
    EspInput,
    /// Decapsulated packets: the frame begins with the inner IP header.
    PostDecap,
    /// Packets about to be sent, with their new Ethernet header.
    Egress,
    /// Packets that were dropped by the pipeline, before their buffers are freed. Verdicts have no effect here. A packet
    /// that was decrypted before it was dropped is seen decrypted; headers are as received.
    Drop,
}

impl Gate {
    /// The number of gates, for tables with an entry for each.
    pub const COUNT: usize = Self::ALL.len();
    /// All gates, in the order in which packets go through them.
    pub const ALL: &'static [Gate] = &[Gate::Ingress, Gate::EspInput, Gate::PostDecap, Gate::Egress, Gate::Drop];

    /// The name in configuration and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Gate::Ingress => "ingress",
            Gate::EspInput => "esp-input",
            Gate::PostDecap => "post-decap",
            Gate::Egress => "egress",
            Gate::Drop => "drop",
        }
    }

    /// The stage under which the time of the gate's plugins is booked.
    #[inline]
    pub(crate) const fn stage(self) -> Stage {
        match self {
            Gate::Ingress => Stage::Ingress,
            Gate::EspInput => Stage::EspInput,
            Gate::PostDecap => Stage::PostDecap,
            Gate::Egress => Stage::Egress,
            Gate::Drop => Stage::Account,
        }
    }

    /// As an index into a table with an entry per gate.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no gate of that name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no gate `{0}`; the gates are ingress, esp-input, post-decap, egress and drop")]
pub struct UnknownGate(String);

impl FromStr for Gate {
    type Err = UnknownGate;

    fn from_str(name: &str) -> Result<Gate, UnknownGate> {
        Gate::ALL.iter().copied().find(|gate| gate.name() == name).ok_or_else(|| UnknownGate(name.to_owned()))
    }
}

/// The part of an instance that runs on a core. It may not allocate, lock, log or make a system call.
pub trait Plugin: Send {
    /// Handles the packets in `lanes`, all of which are in `batch`, wait at a gate that the instance is bound to and
    /// match its filter. Each may be dropped, consumed, transmitted or sent to a later gate; what is left alone goes
    /// on as if the instance weren't there.
    fn process(&mut self, core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes);

    /// Whether it may hold packets ([`Batch::hold`]) or have a crypto device seal them ([`Batch::submit`]). They come back to
    /// it, and not to what is bound before it: what has seen a packet once doesn't see it again.
    fn holds(&self) -> bool {
        false
    }
}
