//! What `nf-ctl` and `nf-core` say to each other: a line of JSON each way, over a Unix stream socket.
//!
//! ```text
//! > {"op":"sa-show","spi":305419896}
//! < {"error":"there is no SA with SPI 0x12345678(305419896); `nf-ctl sa list` shows those that there are"}
//! > {"op":"counters"}
//! < {"ok":{"rx":{"packets":17,"octets":2210},...}}
//! ```
//!
//! `subscribe` turns a connection into a stream of events, a line each, which ends with the connection:
//!
//! ```text
//! > {"op":"subscribe","kinds":["invalid-spi"]}
//! < {"ok":{"kinds":["invalid-spi"],"now_ns":5000000000}}
//! < {"event":{"kind":"invalid-spi","spi":3076621886,"src":"10.1.1.1","dst":"10.10.1.2","udp_ports":null,...}}
//! ```
//!
//! Each request gets exactly one response, in order, and a connection serves any number of them. Requests are strict, an
//! unknown field is refused, so that a misspelt option isn't lost. Responses are lenient: a client skips fields that it
//! doesn't know, so fields may be added without a new [`VERSION`]. Keys go in and never come out.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::error::Category;

use super::audit::quoted;
use crate::config::FilterSpec;
use crate::notify::Class;
use crate::sa::inbound::SaTotals;
use crate::sa::lifetime::{Lifetime, Limit, Unit};
use crate::sa::spec::{Direction, SaSpec, SelectorSpec};
use crate::types::Spi;

/// The version of the protocol. It grows with each change that an older peer would misread. It stands in [`Status`],
/// which is what a client asks for first.
pub const VERSION: u32 = 1;

/// The longest request, in octets, its newline included. A longer one is answered by an error, and the connection ends.
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
    /// Where each core's clocks go, since the start: a list of [`RuntimeReport`](crate::stage::RuntimeReport).
    Runtime {},
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
    /// Reserves an SPI for an SA that is on its way, which makes it larval: [`Reserved`]. `sa-add` with the SPI and the
    /// destination makes it mature.
    SaReserve {
        /// Outer destination: one of our addresses.
        dst: IpAddr,
        /// Outer source, where the peer's address is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        src: Option<IpAddr>,
        /// The SPI; without one, one that is in use nowhere.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spi: Option<Spi>,
        /// Seconds after which an SPI that has not become an SA is free again.
        #[serde(default = "default_lifetime_s")]
        lifetime_s: u64,
    },
    /// Gives a reserved SPI back.
    SaRelease {
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
    /// Takes over what has changed in the configuration file: [`Reloaded`](super::controller::Reloaded).
    Reload {},
    /// The last changes that were asked for: a list of [`AuditEntry`](super::audit::AuditEntry), the oldest first.
    Audit {
        /// Entries at most.
        limit: usize,
    },
    /// What is known of invalid SPIs: [`NotifyReport`](crate::notify::NotifyReport).
    InvalidSpi {
        /// Flows at most.
        limit: usize,
    },
    /// The last packets that instances of the capture plugin keep in memory: a list of
    /// [`RecordedPacket`](crate::capture::RecordedPacket).
    RecordedPackets {},
    /// Tells that the recovery of a peer has failed: the agent says so, and it becomes an event.
    RecoveryFailed {
        /// The peer's name.
        peer: String,
        /// Its address, if known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        src: Option<IpAddr>,
        /// The invalid SPI, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spi: Option<Spi>,
        /// Why, in a sentence.
        reason: String,
    },
    /// The hooks: a list of [`HookReport`](crate::hooks::HookReport).
    EventList {},
    /// What hooks have done: a list of [`HookRun`](crate::hooks::HookRun), the latest first.
    EventHistory {
        /// Runs at most.
        limit: usize,
    },
    /// Has a hook do what it does, with an event that is made up: [`HookStarted`](crate::hooks::HookStarted).
    EventTest {
        /// The hook's name.
        name: String,
    },
    /// Events from now on: [`Subscribed`], then an [`EventLine`] for each. The connection takes no further request.
    Subscribe {
        /// Which; all if none is named.
        #[serde(default)]
        kinds: Vec<EventKind>,
    },
}

impl Request {
    /// Reads a request from its line, with or without the newline.
    ///
    /// # Errors
    /// Says what is wrong with the line, in one sentence. What the line has in the place of a value isn't repeated, as it
    /// may be a key.
    pub fn decode(line: &[u8]) -> Result<Request, String> {
        let refuse = |why: &str| format!("the request can't be understood: {why}");
        let text = std::str::from_utf8(line)
            .map_err(|error| refuse(&format!("octet {} isn't UTF-8", error.valid_up_to().saturating_add(1))))?;
        // Serde would take an array for an object with its fields in order.
        if text.trim_start().starts_with('[') {
            return Err(refuse("it is an array, not an object"));
        }
        serde_json::from_str(text).map_err(|error| match error.classify() {
            Category::Data => refuse(&without_values(&error.to_string())),
            Category::Syntax | Category::Eof | Category::Io => refuse(&format!("it isn't JSON, {error}")),
        })
    }
}

impl Request {
    /// What the request changes, for the record of changes; none where it only looks. Nothing of it is a secret: what a
    /// client has put into the wrong place may be one, so texts are shown only as what they ought to be.
    pub fn change(&self) -> Option<String> {
        let name = |SaName { spi, dst, src }: &SaName| {
            let part =
                |word: &str, address: &Option<IpAddr>| address.map(|a| format!(" {word} {a}")).unwrap_or_default();
            format!("{spi}{}{}", part("to", dst), part("from", src))
        };
        let text = match self {
            Request::Status {}
            | Request::Counters {}
            | Request::CoreCounters {}
            | Request::Runtime {}
            | Request::SaList {}
            | Request::SaShow { .. }
            | Request::PluginList {}
            | Request::InvalidSpi { .. }
            | Request::Audit { .. }
            | Request::EventList {}
            | Request::EventHistory { .. }
            | Request::Subscribe { .. } => return None,
            Request::CountersClear {} => "counters-clear".to_owned(),
            Request::Reload {} => "reload".to_owned(),
            Request::SaAdd { sa } => {
                let spi = sa.spi.parse::<Spi>().map_or_else(|_| "..".to_owned(), |spi| spi.to_string());
                let address = |text: &str| text.parse::<IpAddr>().map_or_else(|_| "..".to_owned(), |a| a.to_string());
                format!("sa-add {spi} to {} from {}", address(&sa.dst), address(&sa.src))
            }
            Request::SaDel { sa } => format!("sa-del {}", name(sa)),
            Request::SaReserve { dst, src, spi, .. } => {
                let spi = spi.map_or_else(|| "any SPI".to_owned(), |spi| spi.to_string());
                let src = src.map(|src| format!(" from {src}")).unwrap_or_default();
                format!("sa-reserve {spi} to {dst}{src}")
            }
            Request::SaRelease { sa } => format!("sa-release {}", name(sa)),
            // Settings are the plugin's own, and may be anything.
            Request::PluginBind { plugin, instance, gate, .. } => {
                format!("plugin-bind {} of {} to {}", quoted(instance), quoted(plugin), quoted(gate))
            }
            Request::PluginUnbind { instance, gate } => {
                let gate = gate.as_deref().map_or_else(|| "all gates".to_owned(), quoted);
                format!("plugin-unbind {} from {gate}", quoted(instance))
            }
            // It changes nothing, but shows what is inside of packets.
            Request::RecordedPackets {} => "recorded-packets".to_owned(),
            Request::RecoveryFailed { peer, .. } => format!("recovery-failed {}", quoted(peer)),
            Request::EventTest { name } => format!("event-test {}", quoted(name)),
        };
        Some(text)
    }
}

/// Cuts out of a message of serde's what it quotes from the input, except names: for whoever reads what may hold keys.
pub fn without_values(message: &str) -> String {
    const QUOTING: [&str; 3] = ["invalid type", "invalid value", "invalid length"];
    const NAMING: [&str; 2] = ["unknown variant `", "unknown field `"];
    const OURS: [&str; 3] = ["missing field `", "duplicate field `", "invalid IP address syntax"];
    if let Some(kind) = QUOTING.iter().find(|kind| message.starts_with(**kind)) {
        // The value itself may read like serde's words: what follows the last of them is serde's.
        return match message.rsplit_once(", expected ") {
            Some((_, expected)) => format!("{kind}, expected {expected}"),
            None => (*kind).to_owned(),
        };
    }
    for start in NAMING {
        if let Some((name, rest)) = message.strip_prefix(start).and_then(|rest| rest.split_once('`')) {
            // A key that stands in the place of a name has digits.
            let is_name = name.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'-'));
            let name = if is_name { name } else { ".." };
            return format!("{start}{name}`{rest}");
        }
    }
    // Messages of our own types don't quote secrets; others can't be known.
    match OURS.iter().chain(&["expected "]).any(|start| message.starts_with(start)) {
        true => message.to_owned(),
        false => "a field has a value that isn't allowed".to_owned(),
    }
}

fn default_priority() -> u16 {
    100
}

/// What a daemon of before has, which doesn't say.
fn default_direction() -> String {
    Direction::In.to_string()
}

fn default_lifetime_s() -> u64 {
    30
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

/// The answer to [`Request::Subscribe`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Subscribed {
    /// The kinds of events that come.
    pub kinds: Vec<EventKind>,
    /// The time of the daemon's clock, to which `at_ns` of the events relates.
    pub now_ns: u64,
}

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// What can be subscribed to.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum EventKind {
            $($(#[$doc])* $variant,)*
        }

        impl EventKind {
            /// All of them.
            pub const ALL: &'static [EventKind] = &[$(EventKind::$variant,)*];

            /// The name on the socket and on the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(EventKind::$variant => $name,)*
                }
            }
        }

        impl std::str::FromStr for EventKind {
            type Err = String;

            fn from_str(name: &str) -> Result<EventKind, String> {
                let known = EventKind::ALL.iter().copied();
                known.clone().find(|kind| kind.name() == name).ok_or_else(|| {
                    let names = known.map(EventKind::name).collect::<Vec<_>>().join(", ");
                    format!("there is no kind of event `{name}`; there are {names}")
                })
            }
        }
    };
}

event_kinds! {
    /// A packet on an SPI that no SA has.
    InvalidSpi "invalid-spi",
    /// The first authentic packet on an SA.
    SaFirstPacket "sa-first-packet",
    /// An SA has reached a limit of its lifetime.
    SaLifetime "sa-lifetime",
    /// An SA's source address or port has changed.
    SaAddressChanged "sa-address-changed",
    /// Packets of an SA came again, or too late for its replay window.
    SaReplay "sa-replay",
    /// Packets on an SA whose integrity check value is wrong.
    SaAuthFailure "sa-auth-failure",
    /// A reserved SPI ran out before it became an SA.
    SaReservationExpired "sa-reservation-expired",
    /// The recovery of a peer has failed.
    RecoveryFailed "recovery-failed",
    /// A packet is to be protected, and there is no SA.
    SaWanted "sa-wanted",
}

/// A line of the event stream.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventLine {
    /// An event.
    Event(EventReport),
    /// The last line: why the stream ends.
    Error(String),
}

/// An event. `at_ns` is the time at which it was seen, in nanoseconds of the daemon's clock, which begins with the daemon
/// and never jumps.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EventReport {
    /// Packets on an SPI that no SA has: of each flow the first one, then at most one event a second.
    InvalidSpi(InvalidSpiEvent),
    /// The first authentic packet on an SA: the peer uses it.
    SaFirstPacket {
        /// The SA.
        #[serde(flatten)]
        sa: SaId,
        /// When.
        at_ns: u64,
    },
    /// An SA has reached a limit of its lifetime: at a soft one it is to be rekeyed, at a hard one it is deleted.
    SaLifetime {
        /// The SA.
        #[serde(flatten)]
        sa: SaId,
        /// Soft or hard.
        limit: Limit,
        /// Of what.
        unit: Unit,
        /// When.
        at_ns: u64,
    },
    /// Packets of an SA were refused as replays: at most one event a second for an SA.
    SaReplay {
        /// The SA.
        #[serde(flatten)]
        sa: SaId,
        /// Packets since the last such event.
        packets: u64,
        /// When it was noticed.
        at_ns: u64,
    },
    /// Packets on an SA were not authentic: at most one event a second for an SA.
    SaAuthFailure {
        /// The SA.
        #[serde(flatten)]
        sa: SaId,
        /// Packets since the last such event.
        packets: u64,
        /// When it was noticed.
        at_ns: u64,
    },
    /// The newest authentic packet of an SA came from another address or port than the one before: a NAT has
    /// changed its mapping, or the peer has moved.
    SaAddressChanged {
        /// The SA, with the source that it was installed with.
        #[serde(flatten)]
        sa: SaId,
        /// Where packets came from before.
        from: Endpoint,
        /// Where they come from now.
        to: Endpoint,
        /// When.
        at_ns: u64,
    },
    /// A reserved SPI ran out before it became an SA. It is free again.
    SaReservationExpired {
        /// SPI.
        spi: Spi,
        /// Outer destination.
        dst: IpAddr,
        /// Outer source, if the reservation named one.
        src: Option<IpAddr>,
        /// When.
        at_ns: u64,
    },
    /// The recovery of a peer has failed, as the agent says.
    RecoveryFailed {
        /// The peer's name.
        peer: String,
        /// Its address, if known.
        src: Option<IpAddr>,
        /// The invalid SPI, if there was one.
        spi: Option<Spi>,
        /// Why.
        reason: String,
        /// When the agent said so.
        at_ns: u64,
    },
    /// Packets that a policy protects found no SA: of each flow the first one, then at most one event a second.
    SaWanted {
        /// The peer whose SA is wanted, if the policy names one.
        peer: Option<String>,
        /// Inner source.
        src: IpAddr,
        /// Inner destination.
        dst: IpAddr,
        /// Packets of the flow since its last event, as far as cores have counted them apart: at least one.
        packets: u64,
        /// When.
        at_ns: u64,
    },
    /// The subscriber was too slow: so many events were lost for it.
    Lost {
        /// How many.
        count: u64,
    },
    /// An event that this release doesn't know.
    #[serde(other)]
    Unknown,
}

impl EventReport {
    /// What can be subscribed to, to get this; none for what comes unasked.
    pub const fn kind(&self) -> Option<EventKind> {
        match self {
            EventReport::InvalidSpi(_) => Some(EventKind::InvalidSpi),
            EventReport::SaFirstPacket { .. } => Some(EventKind::SaFirstPacket),
            EventReport::SaLifetime { .. } => Some(EventKind::SaLifetime),
            EventReport::SaAddressChanged { .. } => Some(EventKind::SaAddressChanged),
            EventReport::SaReplay { .. } => Some(EventKind::SaReplay),
            EventReport::SaAuthFailure { .. } => Some(EventKind::SaAuthFailure),
            EventReport::SaReservationExpired { .. } => Some(EventKind::SaReservationExpired),
            EventReport::RecoveryFailed { .. } => Some(EventKind::RecoveryFailed),
            EventReport::SaWanted { .. } => Some(EventKind::SaWanted),
            EventReport::Lost { .. } | EventReport::Unknown => None,
        }
    }

    /// When it was seen, in nanoseconds of the daemon's clock; 0 for what has no time.
    pub const fn at_ns(&self) -> u64 {
        match self {
            EventReport::InvalidSpi(InvalidSpiEvent { at_ns, .. })
            | EventReport::SaFirstPacket { at_ns, .. }
            | EventReport::SaLifetime { at_ns, .. }
            | EventReport::SaReplay { at_ns, .. }
            | EventReport::SaAuthFailure { at_ns, .. }
            | EventReport::SaAddressChanged { at_ns, .. }
            | EventReport::SaReservationExpired { at_ns, .. }
            | EventReport::RecoveryFailed { at_ns, .. }
            | EventReport::SaWanted { at_ns, .. } => *at_ns,
            EventReport::Lost { .. } | EventReport::Unknown => 0,
        }
    }
}

/// Packets on an SPI that no SA has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InvalidSpiEvent {
    /// SPI.
    pub spi: Spi,
    /// Outer source.
    pub src: IpAddr,
    /// Outer destination.
    pub dst: IpAddr,
    /// UDP ports of the last packet, source first, if it came in UDP.
    pub udp_ports: Option<(u16, u16)>,
    /// Whether it passes or the peer is stuck.
    pub class: Class,
    /// Packets of the flow since its last event, as far as cores have counted them apart: at least one.
    pub packets: u64,
    /// The sequence number of the last packet.
    pub seq: u32,
    /// The port that it came in on.
    pub interface: String,
    /// When.
    pub at_ns: u64,
}

/// An SA, as events name it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SaId {
    /// SPI.
    pub spi: Spi,
    /// Outer source.
    pub src: IpAddr,
    /// Outer destination.
    pub dst: IpAddr,
    /// The peer's name, if the SA has one.
    #[serde(default)]
    pub peer: Option<String>,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn same(request: &Request, wanted: Value) {
        let line = serde_json::to_string(request).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), wanted);
        let read = Request::decode(line.as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), wanted);
    }

    #[test]
    fn requests_are_lines_of_this_shape() {
        same(&Request::Status {}, json!({"op": "status"}));
        same(&Request::Counters {}, json!({"op": "counters"}));
        same(&Request::CountersClear {}, json!({"op": "counters-clear"}));
        same(&Request::CoreCounters {}, json!({"op": "core-counters"}));
        same(&Request::Runtime {}, json!({"op": "runtime"}));
        same(&Request::SaList {}, json!({"op": "sa-list"}));
        same(&Request::PluginList {}, json!({"op": "plugin-list"}));
        same(&Request::InvalidSpi { limit: 20 }, json!({"op": "invalid-spi", "limit": 20}));
        let sa = SaName { spi: Spi(0xB761_863E), dst: None, src: None };
        same(&Request::SaDel { sa }, json!({"op": "sa-del", "spi": 3_076_621_886u32}));
        let sa = SaName { dst: Some("2001:db8::1".parse().unwrap()), ..sa };
        same(&Request::SaShow { sa }, json!({"op": "sa-show", "spi": 3_076_621_886u32, "dst": "2001:db8::1"}));
        let reserve = Request::SaReserve { dst: "10.10.1.2".parse().unwrap(), src: None, spi: None, lifetime_s: 30 };
        same(&reserve, json!({"op": "sa-reserve", "dst": "10.10.1.2", "lifetime_s": 30}));
        let sa = SaName { spi: Spi(256), dst: None, src: None };
        same(&Request::SaRelease { sa }, json!({"op": "sa-release", "spi": 256}));
        let subscribe = Request::Subscribe { kinds: EventKind::ALL.to_vec() };
        let kinds: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
        same(&subscribe, json!({"op": "subscribe", "kinds": kinds}));
        let unbind = Request::PluginUnbind { instance: "cap".to_owned(), gate: Some("egress".to_owned()) };
        same(&unbind, json!({"op": "plugin-unbind", "instance": "cap", "gate": "egress"}));
    }

    #[test]
    fn an_sa_goes_over_the_socket_with_its_key() {
        let sa = json!({
            "spi": "256", "src": "10.1.1.1", "dst": "10.10.1.2", "mode": "tunnel", "alg": "aes-gcm-16",
            "key": "5a".repeat(20), "esn": true, "replay_window": 64, "encap": "none",
            "selectors": {"src": ["10.0.0.0/8"], "dst": []},
        });
        let line = json!({"op": "sa-add", "sa": sa}).to_string();
        let request = Request::decode(line.as_bytes()).unwrap();
        assert!(!format!("{request:?}").contains("5a5a"), "{request:?}");
        same(&request, json!({"op": "sa-add", "sa": sa}));
    }

    #[test]
    fn changes_are_told_from_looks_and_show_no_key() {
        assert_eq!(Request::Status {}.change(), None);
        assert_eq!(Request::Subscribe { kinds: Vec::new() }.change(), None);
        assert_eq!(Request::CountersClear {}.change().as_deref(), Some("counters-clear"));
        let sa = json!({"spi": "256", "src": "a1b2c3d4", "dst": "10.10.1.2", "mode": "a1b2c3d4", "alg": "a1b2c3d4", "key": "a1b2c3d4"});
        let add = Request::SaAdd { sa: Box::new(serde_json::from_value(sa).unwrap()) };
        assert_eq!(add.change().as_deref(), Some("sa-add 0x00000100(256) to 10.10.1.2 from .."));
        let bind =
            br#"{"op":"plugin-bind","plugin":"capture","instance":"a\nb","gate":"egress","settings":{"a1b2":1}}"#;
        let bind = Request::decode(bind).unwrap();
        assert_eq!(bind.change().as_deref(), Some("plugin-bind \"a\\nb\" of \"capture\" to \"egress\""));
    }

    #[test]
    fn what_may_be_left_out_may_be_left_out() {
        let line = br#"{"op":"plugin-bind","plugin":"capture","instance":"cap","gate":"egress"}"#;
        let Ok(Request::PluginBind { filter, priority, settings, .. }) = Request::decode(line) else {
            panic!("not read as plugin-bind")
        };
        assert_eq!((filter.validate().unwrap().to_string().as_str(), priority, settings), ("any", 100, Value::Null));
    }

    #[test]
    fn a_misplaced_key_is_not_repeated() {
        let key = "0123456789abcdef0123456789abcdef01234567";
        let sa = json!({
            "spi": 256, "src": "10.1.1.1", "dst": "10.10.1.2", "mode": "tunnel", "alg": "aes-gcm-16", "key": "5a",
        });
        for place in ["spi", "src", "key", "auth_key", "esn", "replay_window", "selectors", key] {
            for value in [json!(key), json!([key]), json!({key: key}), json!(1_234_567_890_123_456_789u64)] {
                let mut sa = sa.clone();
                sa[place] = value.clone();
                let line = json!({"op": "sa-add", "sa": sa}).to_string();
                if let Err(message) = Request::decode(line.as_bytes()) {
                    assert!(!message.contains("0123456789abcdef"), "{place}: {message}");
                    assert!(!message.contains("12345678901"), "{place}: {message}");
                    assert!(message.len() < 400, "{message}");
                }
            }
        }
        assert!(Request::decode(json!({"op": key}).to_string().as_bytes()).is_err_and(|m| !m.contains(key)));
    }

    #[test]
    fn a_message_of_serdes_loses_its_values_and_keeps_its_sense() {
        for (message, wanted) in [
            ("invalid type: string \"a1b2\", expected u64", "invalid type, expected u64"),
            ("invalid value: string \"a, expected b2\", expected u64", "invalid value, expected u64"),
            ("unknown variant `a1b2`, there are no variants", "unknown variant `..`, there are no variants"),
            ("unknown field `colour`, expected `spi` or `dst`", "unknown field `colour`, expected `spi` or `dst`"),
            ("unknown field `a1b2`, expected `spi`", "unknown field `..`, expected `spi`"),
            ("missing field `spi`", "missing field `spi`"),
            ("bad key a1b2", "a field has a value that isn't allowed"),
        ] {
            assert_eq!(without_values(message), wanted);
        }
    }

    #[test]
    fn events_are_lines_of_this_shape() {
        let (src, dst): (IpAddr, IpAddr) = ("10.1.1.1".parse().unwrap(), "10.10.1.2".parse().unwrap());
        let sa = SaId { spi: Spi(256), src, dst, peer: Some("branch".to_owned()) };
        let invalid = InvalidSpiEvent {
            spi: Spi(256),
            src,
            dst,
            udp_ports: Some((61000, 4500)),
            class: Class::Transient,
            packets: 7,
            seq: 1,
            interface: "wan".to_owned(),
            at_ns: 5,
        };
        let (from, to) = (Endpoint { address: src, port: None }, Endpoint { address: dst, port: Some(4500) });
        for (event, wanted) in [
            (
                EventReport::InvalidSpi(invalid),
                json!({"kind": "invalid-spi", "spi": 256, "src": "10.1.1.1", "dst": "10.10.1.2", "udp_ports": [61000, 4500],
                       "class": "transient", "packets": 7, "seq": 1, "interface": "wan", "at_ns": 5}),
            ),
            (
                EventReport::SaFirstPacket { sa: sa.clone(), at_ns: 5 },
                json!({"kind": "sa-first-packet", "spi": 256, "src": "10.1.1.1", "dst": "10.10.1.2", "peer": "branch",
                       "at_ns": 5}),
            ),
            (
                EventReport::SaLifetime { sa: sa.clone(), limit: Limit::Soft, unit: Unit::Bytes, at_ns: 5 },
                json!({"kind": "sa-lifetime", "spi": 256, "src": "10.1.1.1", "dst": "10.10.1.2", "peer": "branch",
                       "limit": "soft", "unit": "bytes", "at_ns": 5}),
            ),
            (
                EventReport::SaReplay { sa: sa.clone(), packets: 9, at_ns: 5 },
                json!({"kind": "sa-replay", "spi": 256, "src": "10.1.1.1", "dst": "10.10.1.2", "peer": "branch",
                       "packets": 9, "at_ns": 5}),
            ),
            (
                EventReport::SaAddressChanged { sa, from, to, at_ns: 5 },
                json!({"kind": "sa-address-changed", "spi": 256, "src": "10.1.1.1", "dst": "10.10.1.2", "peer": "branch",
                       "from": {"address": "10.1.1.1", "port": null}, "to": {"address": "10.10.1.2", "port": 4500},
                       "at_ns": 5}),
            ),
            (
                EventReport::SaReservationExpired { spi: Spi(256), dst, src: None, at_ns: 5 },
                json!({"kind": "sa-reservation-expired", "spi": 256, "dst": "10.10.1.2", "src": null, "at_ns": 5}),
            ),
            (EventReport::Lost { count: 3 }, json!({"kind": "lost", "count": 3})),
        ] {
            let line = serde_json::to_value(EventLine::Event(event.clone())).unwrap();
            assert_eq!(line, json!({"event": wanted}));
            assert_eq!(serde_json::from_value::<EventLine>(line).unwrap(), EventLine::Event(event));
        }
        let newer = json!({"event": {"kind": "of-a-later-release", "field": 1}});
        assert_eq!(serde_json::from_value::<EventLine>(newer).unwrap(), EventLine::Event(EventReport::Unknown));
    }

    #[test]
    fn responses_are_lines_of_this_shape() {
        for (response, wanted) in [
            (Response::ok(()), r#"{"ok":null}"#),
            (Response::ok([1, 2]), r#"{"ok":[1,2]}"#),
            (Response::Error("no".to_owned()), r#"{"error":"no"}"#),
        ] {
            let line = serde_json::to_string(&response).unwrap();
            assert_eq!(line, wanted);
            assert_eq!(serde_json::from_str::<Response>(&line).unwrap(), response);
        }
    }
}
