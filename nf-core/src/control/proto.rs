//! What `nf-ctl` and `nf-core` say to each other: a line of JSON each way, over a Unix stream socket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::FilterSpec;
use crate::sa::inbound::SaTotals;
use crate::sa::spec::{SaSpec, SelectorSpec};
use crate::types::Spi;

/// The version of the protocol. A client of another version is told so by [`Status`].
pub const VERSION: u32 = 1;

/// The longest line, in octets. A longer one is answered by an error, and the connection ends.
pub const MAX_LINE: usize = 1 << 20;

/// A request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, for a moment")]
pub enum Request {
    /// Who is there: [`Status`].
    Status {},
    /// All counters: [`Report`](crate::counters::Report).
    Counters {},
    /// All counters, which then begin at zero: [`Report`](crate::counters::Report).
    CountersClear {},
    /// Counters of each core since the start: a list of [`Report`](crate::counters::Report).
    CoreCounters {},
    /// Adds an SA.
    SaAdd {
        /// The SA.
        sa: Box<SaSpec>,
    },
    /// Deletes an SA.
    SaDel {
        /// Which.
        #[serde(flatten)]
        sa: SaName,
    },
    /// All SAs: a list of [`SaReport`].
    SaList {},
    /// One SA: [`SaReport`].
    SaShow {
        /// Which.
        #[serde(flatten)]
        sa: SaName,
    },
    /// Plugins, instances, bindings: [`PluginReport`].
    PluginList {},
    /// Binds an instance of a plugin, and makes it if there is none of that name.
    PluginBind {
        /// The plugin.
        plugin: String,
        /// The instance.
        instance: String,
        /// The gate.
        gate: String,
        /// The packets.
        #[serde(default)]
        filter: FilterSpec,
        /// Lower ones are run first.
        #[serde(default = "default_priority")]
        priority: u16,
        /// Settings of a new instance.
        #[serde(default)]
        settings: Value,
    },
    /// Unbinds an instance from a gate or from all; without bindings it goes.
    PluginUnbind {
        /// The instance.
        instance: String,
        /// The gate; all if none is named.
        #[serde(default)]
        gate: Option<String>,
    },
    /// What is known of invalid SPIs: [`NotifyReport`](crate::notify::NotifyReport).
    InvalidSpi {
        /// Flows at most.
        limit: usize,
    },
}

fn default_priority() -> u16 {
    100
}

/// An SA by its SPI, and by its addresses where several have that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SaName {
    /// SPI.
    pub spi: Spi,
    /// Outer destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpAddr>,
    /// Outer source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<IpAddr>,
}

/// The answer to a request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// Done; what was asked for, or null.
    Ok(Value),
    /// Not done; one sentence with the remedy.
    Error(String),
}

impl Response {
    /// An answer with content.
    pub fn ok(content: impl Serialize) -> Response {
        match serde_json::to_value(content) {
            Ok(content) => Response::Ok(content),
            Err(error) => Response::Error(format!("the answer can't be written as JSON: {error}")),
        }
    }
}

/// The daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`] of the daemon.
    pub protocol: u32,
    /// nf-core's version.
    pub version: String,
    /// DPDK's version.
    pub dpdk: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Worker cores.
    pub cores: usize,
    /// The crypto engine.
    pub engine: String,
    /// SAs.
    pub sas: usize,
    /// Ports.
    pub ports: Vec<PortReport>,
}

/// A port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortReport {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: String,
    /// Its driver.
    pub driver: String,
    /// Its Ethernet address.
    pub mac: String,
    /// Whether its link is up.
    pub link_up: bool,
    /// Receive queues.
    pub rx_queues: usize,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets lost because no core took them in time.
    pub rx_missed: u64,
    /// Damaged packets.
    pub rx_errors: u64,
    /// Packets lost because no buffer was free.
    pub rx_no_buffer: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

/// An SA, without its keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SaReport {
    /// SPI.
    pub spi: Spi,
    /// Outer source.
    pub src: IpAddr,
    /// Outer destination.
    pub dst: IpAddr,
    /// `tunnel` or `transport`.
    pub mode: String,
    /// `none` or `udp`.
    pub encap: String,
    /// Its algorithms.
    pub transform: String,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Packets of the anti-replay window.
    pub replay_window: u32,
    /// What may be inside.
    pub selectors: SelectorSpec,
    /// `mature`.
    pub state: String,
    /// Seconds since it was installed.
    pub age_s: u64,
    /// The highest authentic sequence number.
    pub highest_seq: Option<u64>,
    /// What has come in on it.
    #[serde(flatten)]
    pub totals: SaTotals,
}

/// Plugins.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PluginReport {
    /// The plugins of this build.
    pub plugins: Vec<PluginKindReport>,
    /// Their instances.
    pub instances: Vec<InstanceReport>,
}

/// A plugin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PluginKindReport {
    /// Its name.
    pub name: String,
    /// What it does.
    pub about: String,
    /// Where it can be bound.
    pub gates: Vec<String>,
}

/// An instance of a plugin.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Its name.
    pub instance: String,
    /// Its plugin.
    pub plugin: String,
    /// Where it is bound.
    pub bindings: Vec<BindingReport>,
    /// What the plugin says of it.
    pub status: Value,
}

/// A binding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BindingReport {
    /// The gate.
    pub gate: String,
    /// Lower ones are run first.
    pub priority: u16,
    /// The packets; `any` for all.
    pub filter: String,
}
