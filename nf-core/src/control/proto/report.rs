//! What a client is told when it asks.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::EventKind;
use crate::sa::inbound::SaTotals;
use crate::sa::lifetime::Lifetime;
use crate::sa::spec::{Direction, SelectorSpec};
use crate::types::Spi;

/// What a daemon of before has, which doesn't say.
fn default_direction() -> String {
    Direction::In.to_string()
}

/// The daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`](super::VERSION) of the daemon.
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
    /// What it does on receipt, by DPDK's names.
    #[serde(default)]
    pub rx_offloads: Vec<String>,
    /// What it does on sending.
    #[serde(default)]
    pub tx_offloads: Vec<String>,
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

/// An SA, without its keys. Of a larval SA only SPI, addresses, state and age are known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SaReport {
    /// SPI.
    pub spi: Spi,
    /// `in`: packets come in on it; `out`: they go out on it.
    #[serde(default = "default_direction")]
    pub direction: String,
    /// Outer source; none where an SPI is reserved for whatever source.
    pub src: Option<IpAddr>,
    /// Outer destination.
    pub dst: IpAddr,
    /// The peer's name, if the SA was given one.
    #[serde(default)]
    pub peer: Option<String>,
    /// Where authentic packets come from, once there are any; followed for SAs in UDP.
    #[serde(default)]
    pub source: Option<Endpoint>,
    /// Outbound: where packets go to, the peer's address and in UDP its port. It changes where the SA follows another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Endpoint>,
    /// Outbound: octets of the largest outer packet that the path takes, where the operator or a router has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
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
    /// `larval`: reserved, the keys are on their way; `mature`; or `dying`: to be rekeyed, a soft limit is reached.
    pub state: String,
    /// Seconds since it was installed, or reserved.
    pub age_s: u64,
    /// How long it may be used.
    #[serde(default)]
    pub lifetime: Lifetime,
    /// Inbound the highest authentic sequence number, outbound the highest that was used.
    pub highest_seq: Option<u64>,
    /// What has come in on it, or gone out.
    #[serde(flatten)]
    pub totals: SaTotals,
}

impl SaReport {
    /// Of an SPI that is reserved: what IKE hasn't agreed on yet is empty.
    pub fn larval(spi: Spi, src: Option<IpAddr>, dst: IpAddr, age_s: u64) -> SaReport {
        SaReport {
            spi,
            direction: default_direction(),
            src,
            dst,
            peer: None,
            source: None,
            destination: None,
            path_mtu: None,
            mode: String::new(),
            encap: String::new(),
            transform: String::new(),
            esn: false,
            replay_window: 0,
            selectors: SelectorSpec::default(),
            state: "larval".to_owned(),
            age_s,
            lifetime: Lifetime::default(),
            highest_seq: None,
            totals: SaTotals::default(),
        }
    }
}

/// A reserved SPI.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reserved {
    /// The SPI.
    pub spi: Spi,
}

/// The answer to [`Request::Subscribe`](super::Request::Subscribe).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Subscribed {
    /// The kinds of events that come.
    pub kinds: Vec<EventKind>,
    /// The time of the daemon's clock, to which `at_ns` of the events relates.
    pub now_ns: u64,
}

/// Where a peer is, as its packets show it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its outer address.
    pub address: IpAddr,
    /// Its UDP port; none without UDP, or where no packet has shown it yet.
    pub port: Option<u16>,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => std::net::SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
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
