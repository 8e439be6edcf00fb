//! nf.toml as it is written, before it is checked.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::hooks::{self, RawHook, RawSnapshot};
use super::lines::{Place, line_at, span_of};
use super::peer::RawPeer;
use super::{
    Agent, Bind, Config, Control, Crypto, CryptoDevice, Eal, Local, Neighbour, Notify, Plugin, Port, PortRole,
    Reassembly, Recovery,
};
use super::{Route, Sad, TableError};
use crate::control::access::Access;
use crate::crypto::EngineChoice;
use crate::holding::HoldLimits;
use crate::metrics::MetricsConfig;
use crate::plugin::{Filter, Gate};
use crate::policy::{Selector, Selectors};
use crate::prefix::Prefix;
use crate::sa::spec::{FieldError, SaSpec, address, selectors};
use crate::spd::{Policy, PolicyAction};
use crate::state::{KeyPlace, StateConfig};
use crate::types::{Nanos, Spi};
use crate::wire::ethernet::MacAddr;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    eal: RawEal,
    control: RawControl,
    metrics: RawMetrics,
    notify: RawNotify,
    recovery: RawRecovery,
    agent: RawAgent,
    crypto: RawCrypto,
    sad: RawSad,
    reassembly: RawReassembly,
    port: Vec<RawPort>,
    local: Vec<RawLocal>,
    route: Vec<RawRoute>,
    neighbour: Vec<RawNeighbour>,
    peer: Vec<RawPeer>,
    sa: Vec<SaSpec>,
    policy: Vec<RawPolicy>,
    plugin: Vec<RawPlugin>,
    event: Vec<RawHook>,
    snapshot: RawSnapshot,
    state: Option<RawState>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawEal {
    args: Vec<String>,
    cores: Option<Vec<i64>>,
    mbufs: Option<i64>,
    idle: Option<String>,
    spread: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawControl {
    socket: Option<PathBuf>,
    group: Option<String>,
    mode: Option<String>,
    admins: Option<Vec<String>>,
    audit_file: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawMetrics {
    listen: Option<String>,
    per_sa: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawNotify {
    inv_spi_interval_s: Option<i64>,
    budget_per_min: Option<i64>,
    max_flows: Option<i64>,
    input_interface: bool,
    syslog: Option<String>,
    journald: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawRecovery {
    invalid_spi_recovery: bool,
    budget_per_min: Option<i64>,
    budget_burst: Option<i64>,
    back_off_s: Option<i64>,
    back_off_max_s: Option<i64>,
    hint_interval_s: Option<i64>,
    rekey_grace_s: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawAgent {
    socket: Option<PathBuf>,
    delete_on_exit: Option<bool>,
    qcd_secret_file: Option<PathBuf>,
    vici_socket: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawCrypto {
    engine: Option<String>,
    device: Option<String>,
    device_depth: Option<i64>,
    device_sessions: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawSad {
    capacity: Option<i64>,
    deleted_memory_s: Option<i64>,
    larval_spi_packets: Option<i64>,
    larval_packets: Option<i64>,
    larval_octets: Option<i64>,
    larval_age_ms: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawReassembly {
    enabled: Option<bool>,
    max_flows: Option<i64>,
    timeout_ms: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawState {
    file: PathBuf,
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPort {
    name: String,
    role: String,
    #[serde(rename = "for")]
    stands_for: Option<String>,
    next_hop_mac: Option<String>,
    mac: Option<String>,
    promiscuous: Option<bool>,
    #[serde(default)]
    addresses: Vec<String>,
    rx_queues: Option<i64>,
    mtu: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLocal {
    address: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoute {
    dst: String,
    via: Option<String>,
    port: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNeighbour {
    address: String,
    mac: String,
    port: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    #[serde(default)]
    src: Vec<String>,
    #[serde(default)]
    dst: Vec<String>,
    action: String,
    peer: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlugin {
    instance: String,
    plugin: String,
    #[serde(default)]
    settings: Value,
    bind: Vec<RawBind>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBind {
    gate: String,
    #[serde(default)]
    filter: FilterSpec,
    #[serde(default = "default_priority")]
    priority: u16,
}

fn default_priority() -> u16 {
    100
}

/// A filter as text. What is left out holds for every packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterSpec {
    /// Source network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src: Option<String>,
    /// Destination network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst: Option<String>,
    /// Upper-layer protocol: a number, or `icmp`, `tcp`, `udp`, `esp`, `icmpv6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Source port or range, `4500` or `1024-65535`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_port: Option<String>,
    /// Destination port or range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_port: Option<String>,
    /// SPI or range, `0x100-0x1FF`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spi: Option<String>,
}

impl FilterSpec {
    /// Checks every field.
    pub fn validate(&self) -> Result<Filter, FieldError> {
        let network = |field: &'static str, text: &Option<String>| {
            text.as_ref().map(|text| text.parse().map_err(|error| FieldError::new(field, error))).transpose()
        };
        Ok(Filter {
            src: network("filter.src", &self.src)?,
            dst: network("filter.dst", &self.dst)?,
            protocol: self.protocol.as_deref().map(protocol).transpose()?,
            src_port: range("filter.src_port", &self.src_port)?,
            dst_port: range("filter.dst_port", &self.dst_port)?,
            spi: range::<Spi>("filter.spi", &self.spi)?,
        })
    }
}

fn protocol(text: &str) -> Result<u8, FieldError> {
    match text {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "esp" => Ok(50),
        "icmpv6" => Ok(58),
        number => number.parse().map_err(|_| {
            let message =
                format_args!("`{text}` is neither a number up to 255 nor icmp, tcp, udp, esp or icmpv6").to_string();
            FieldError::new("filter.protocol", message)
        }),
    }
}

pub(super) fn range<T: FromStr + PartialOrd + Copy>(
    field: &'static str,
    text: &Option<String>,
) -> Result<Option<RangeInclusive<T>>, FieldError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse::<T>(), last.trim().parse::<T>()) {
        (Ok(first), Ok(last)) if first <= last => Ok(Some(first..=last)),
        _ => {
            let message = format_args!("`{text}` is neither a number nor a range such as 256-511").to_string();
            Err(FieldError::new(field, message))
        }
    }
}

/// The octets that it is about, and a message.
pub(super) type Refusal = (Option<Range<usize>>, String);

pub(super) fn parse(text: &str) -> Result<Config, Refusal> {
    let raw: RawConfig = toml::from_str(text).map_err(|error| {
        // Only the message: the whole error quotes the line, which may hold a key.
        (error.span(), error.message().replace('\n', "; "))
    })?;
    Checker { text }.config(raw)
}

/// A field of a table that somebody else has found wrong, as an error about a place of the text.
pub(super) fn refused(text: &str, error: TableError) -> Refusal {
    let TableError { table, number, error } = error;
    Checker { text }.at(table, Some(number), error)
}

/// Turns errors about fields into errors about places of the text.
struct Checker<'t> {
    text: &'t str,
}

impl Checker<'_> {
    fn at(&self, table: &str, number: Option<usize>, error: FieldError) -> Refusal {
        let span = span_of(self.text, Place { table, number, field: error.field });
        let name = match number {
            Some(number) => format!("[[{table}]] #{}", number + 1),
            None => format!("[{table}]"),
        };
        (span, format!("{name} {}: {}", error.field, error.message))
    }

    fn table<T>(&self, table: &str, checked: Result<T, FieldError>) -> Result<T, Refusal> {
        checked.map_err(|error| self.at(table, None, error))
    }

    fn tables<R, T>(
        &self,
        table: &str,
        raw: Vec<R>,
        check: impl Fn(R) -> Result<T, FieldError>,
    ) -> Result<Vec<T>, Refusal> {
        let numbered = raw.into_iter().enumerate();
        numbered.map(|(number, raw)| check(raw).map_err(|error| self.at(table, Some(number), error))).collect()
    }

    /// Refuses the second of two tables that have the same of something.
    fn distinct<T, K: Eq + Hash>(
        &self,
        (table, field): (&str, &'static str),
        items: &[T],
        key: impl Fn(&T) -> K,
        show: impl Fn(&T) -> String,
    ) -> Result<(), Refusal> {
        let mut seen = HashMap::new();
        for (number, item) in items.iter().enumerate() {
            if let Some(first) = seen.insert(key(item), number) {
                let span = span_of(self.text, Place { table, number: Some(first), field });
                let line = span.map(|span| format!(" in line {}", line_at(self.text, span.start))).unwrap_or_default();
                let message =
                    format!("{} is taken by [[{table}]] #{}{line}; each needs its own", show(item), first + 1);
                return Err(self.at(table, Some(number), FieldError { field, message }));
            }
        }
        Ok(())
    }

    /// Refuses exception ports that stand for what they can't.
    fn stand_ins(&self, ports: &[Port]) -> Result<(), Refusal> {
        for (number, port) in ports.iter().enumerate() {
            let Some(of) = &port.stands_for else {
                continue;
            };
            let earlier = ports.iter().take(number).find(|other| other.stands_for.as_ref() == Some(of));
            let problem = if port.role != PortRole::Exception {
                "only a port with role = \"exception\" stands for another".to_owned()
            } else if !ports.iter().any(|other| other.name == *of && other.role != PortRole::Exception) {
                format!("`{of}` isn't a [[port]] of another role")
            } else if let Some(earlier) = earlier {
                format!("`{}` stands for `{of}` already", earlier.name)
            } else {
                continue;
            };
            return Err(self.at("port", Some(number), FieldError::new("for", problem)));
        }
        Ok(())
    }

    fn config(&self, raw: RawConfig) -> Result<Config, Refusal> {
        let eal = self.table("eal", eal(raw.eal))?;
        let syslog = raw.notify.syslog.is_some();
        let ports = self.tables("port", raw.port, port)?;
        self.stand_ins(&ports)?;
        let config = Config {
            control: self.table("control", control(raw.control))?,
            metrics: self.table("metrics", metrics(raw.metrics))?,
            notify: self.table("notify", notify(raw.notify))?,
            recovery: self.table("recovery", recovery(raw.recovery))?,
            agent: agent(raw.agent),
            crypto: self.table("crypto", crypto(raw.crypto))?,
            sad: self.table("sad", sad(raw.sad, &eal))?,
            eal,
            reassembly: self.table("reassembly", reassembly(raw.reassembly))?,
            routes: self.tables("route", raw.route, |raw| route(raw, &ports))?,
            neighbours: self.tables("neighbour", raw.neighbour, |raw| neighbour(raw, &ports))?,
            ports,
            local: self.tables("local", raw.local, |raw| Ok(Local { address: address("address", &raw.address)? }))?,
            peers: self.tables("peer", raw.peer, RawPeer::check)?,
            sas: self.tables("sa", raw.sa, |raw| raw.validate())?,
            policies: self.tables("policy", raw.policy, policy)?,
            plugins: self.tables("plugin", raw.plugin, plugin)?,
            events: self.tables("event", raw.event, |raw| hooks::hook(raw, syslog))?,
            snapshot: self.table("snapshot", hooks::snapshot(raw.snapshot))?,
            state: raw.state.map(|raw| self.table("state", state(raw))).transpose()?,
        };
        let quoted = |name: &str| format!("`{name}`");
        self.distinct(("port", "name"), &config.ports, |port| port.name.clone(), |port| quoted(&port.name))?;
        self.distinct(("peer", "name"), &config.peers, |peer| peer.name.clone(), |peer| quoted(&peer.name))?;
        self.distinct(("event", "name"), &config.events, |hook| hook.name.clone(), |hook| quoted(&hook.name))?;
        self.distinct(("plugin", "instance"), &config.plugins, |p| p.instance.clone(), |p| quoted(&p.instance))?;
        self.distinct(
            ("sa", "spi"),
            &config.sas,
            |sa| sa.key(),
            |sa| format!("{} from {} to {}", sa.spi, sa.src, sa.dst),
        )?;
        Ok(config)
    }
}

/// A number within bounds, or the default.
pub(super) fn within<T: TryFrom<i64> + Display + PartialOrd>(
    field: &'static str,
    number: Option<i64>,
    bounds: RangeInclusive<T>,
    default: T,
) -> Result<T, FieldError> {
    let Some(number) = number else {
        return Ok(default);
    };
    T::try_from(number).ok().filter(|number| bounds.contains(number)).ok_or_else(|| {
        let message = format_args!("{number} isn't within {} to {}", bounds.start(), bounds.end()).to_string();
        FieldError::new(field, message)
    })
}

fn eal(raw: RawEal) -> Result<Eal, FieldError> {
    let default = Eal::default();
    let cores = match raw.cores {
        None => default.cores,
        Some(cores) if cores.is_empty() => return Err(FieldError::new("cores", "is empty; name at least one CPU")),
        Some(cores) => {
            let mut checked = Vec::with_capacity(cores.len());
            for cpu in cores {
                let cpu = within("cores", Some(cpu), 0..=1023u16, 0)?;
                if checked.contains(&cpu) {
                    let message = format_args!("names CPU {cpu} twice; each worker needs its own").to_string();
                    return Err(FieldError::new("cores", message));
                }
                checked.push(cpu);
            }
            checked
        }
    };
    Ok(Eal {
        args: raw.args,
        cores,
        mbufs: within("mbufs", raw.mbufs, 1024..=16_777_216, default.mbufs)?,
        idle: raw.idle.map_or(Ok(default.idle), |idle| idle.parse())?,
        spread: raw.spread.map_or(Ok(default.spread), |spread| spread.parse())?,
    })
}

fn control(raw: RawControl) -> Result<Control, FieldError> {
    let default = Control::default();
    let admins = raw.admins.map(|admins| admins.iter().map(|admin| admin.parse()).collect::<Result<Vec<_>, _>>());
    let access = Access {
        group: raw.group.map(|group| group.parse()).transpose()?,
        mode: raw.mode.map(|mode| permissions(&mode)).transpose()?.unwrap_or(default.access.mode),
        admins: admins.transpose()?,
    };
    if access.mode & 0o002 != 0 && access.admins.is_none() {
        let message = "lets every user of the host change everything; name those who may in `admins`";
        return Err(FieldError::new("mode", message));
    }
    Ok(Control { socket: raw.socket.unwrap_or(default.socket), access, audit_file: raw.audit_file })
}

fn permissions(text: &str) -> Result<u32, FieldError> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600);
    let message =
        || format_args!("`{text}` isn't such as \"0660\": in octal, read and write for the owner").to_string();
    mode.ok_or_else(|| FieldError::new("mode", message()))
}

fn metrics(raw: RawMetrics) -> Result<MetricsConfig, FieldError> {
    let address = |text: String| {
        text.parse().map_err(|_| {
            let message = format_args!("`{text}` isn't an address with a port, such as 127.0.0.1:9273").to_string();
            FieldError::new("listen", message)
        })
    };
    Ok(MetricsConfig {
        listen: raw.listen.map(address).transpose()?,
        per_sa: within("per_sa", raw.per_sa, 0..=10_000, 0)?,
    })
}

fn notify(raw: RawNotify) -> Result<Notify, FieldError> {
    let default = Notify::default();
    Ok(Notify {
        inv_spi_interval_s: within(
            "inv_spi_interval_s",
            raw.inv_spi_interval_s,
            1..=86_400,
            default.inv_spi_interval_s,
        )?,
        budget_per_min: within("budget_per_min", raw.budget_per_min, 1..=1_000_000, default.budget_per_min)?,
        max_flows: within("max_flows", raw.max_flows, 16..=1_000_000, default.max_flows)?,
        input_interface: raw.input_interface,
        syslog: raw.syslog.map(|target| target.parse()).transpose()?,
        journald: raw.journald,
    })
}

fn recovery(raw: RawRecovery) -> Result<Recovery, FieldError> {
    let default = Recovery::default();
    let recovery = Recovery {
        invalid_spi_recovery: raw.invalid_spi_recovery,
        budget_per_min: within("budget_per_min", raw.budget_per_min, 1..=1_000_000, default.budget_per_min)?,
        // One recovery in the worst case needs 32.
        budget_burst: within("budget_burst", raw.budget_burst, 32..=1_000_000, default.budget_burst)?,
        back_off_s: within("back_off_s", raw.back_off_s, 1..=3600, default.back_off_s)?,
        back_off_max_s: within("back_off_max_s", raw.back_off_max_s, 1..=86_400, default.back_off_max_s)?,
        hint_interval_s: within("hint_interval_s", raw.hint_interval_s, 1..=86_400, default.hint_interval_s)?,
        rekey_grace_s: within("rekey_grace_s", raw.rekey_grace_s, 0..=3600, default.rekey_grace_s)?,
    };
    if recovery.back_off_max_s < recovery.back_off_s {
        let message = format_args!("is shorter than back_off_s = {}", recovery.back_off_s).to_string();
        return Err(FieldError::new("back_off_max_s", message));
    }
    Ok(recovery)
}

fn agent(raw: RawAgent) -> Agent {
    let default = Agent::default();
    Agent {
        socket: raw.socket.unwrap_or(default.socket),
        delete_on_exit: raw.delete_on_exit.unwrap_or(default.delete_on_exit),
        qcd_secret_file: raw.qcd_secret_file,
        vici_socket: raw.vici_socket.unwrap_or(default.vici_socket),
    }
}

fn crypto(raw: RawCrypto) -> Result<Crypto, FieldError> {
    let engine =
        raw.engine.map(|engine| engine.parse().map_err(|error| FieldError::new("engine", error))).transpose()?;
    let engine = engine.unwrap_or_default();
    let fields = [
        ("device", raw.device.is_some()),
        ("device_depth", raw.device_depth.is_some()),
        ("device_sessions", raw.device_sessions.is_some()),
    ];
    if engine != EngineChoice::Cryptodev {
        return match fields.into_iter().find(|(_, given)| *given) {
            Some((field, _)) => {
                Err(FieldError::new(field, format!("is for engine = \"cryptodev\", and the engine is `{engine}`")))
            }
            None => Ok(Crypto { engine, device: None }),
        };
    }
    let name = raw.device.ok_or_else(|| {
        FieldError::new("engine", "cryptodev needs a device: name it, such as device = \"crypto_aesni_mb0\"")
    })?;
    let depth = within("device_depth", raw.device_depth, 16..=32_768, CryptoDevice::DEPTH)?;
    if !depth.is_power_of_two() {
        return Err(FieldError::new("device_depth", format!("{depth} isn't a power of two, such as 1024")));
    }
    let sessions = within("device_sessions", raw.device_sessions, 1..=1_000_000, CryptoDevice::SESSIONS)?;
    Ok(Crypto { engine, device: Some(CryptoDevice { name, depth, sessions }) })
}

fn sad(raw: RawSad, eal: &Eal) -> Result<Sad, FieldError> {
    let default = Sad::default();
    // What is held is missing from the pool that packets are received into: half of it must be left, whatever is held.
    let share = eal.mbufs as usize / eal.cores.len().max(1) / 2;
    let packets = default.larval.packets.min(share);
    let packets = within("larval_packets", raw.larval_packets, 0..=share, packets).map_err(|mut error| {
        error.message += ", half of [eal] mbufs for each core; raise mbufs";
        error
    })?;
    let spi_packets = default.larval.spi_packets.min(packets);
    Ok(Sad {
        capacity: within("capacity", raw.capacity, 1..=4_000_000, default.capacity)?,
        deleted_memory_s: within("deleted_memory_s", raw.deleted_memory_s, 0..=86_400, default.deleted_memory_s)?,
        larval: HoldLimits {
            spi_packets: within("larval_spi_packets", raw.larval_spi_packets, 0..=packets, spi_packets)?,
            packets,
            octets: within("larval_octets", raw.larval_octets, 0..=1 << 30, default.larval.octets)?,
            age: Nanos::from_millis(within("larval_age_ms", raw.larval_age_ms, 1..=60_000, 2000)?).0,
        },
    })
}

fn reassembly(raw: RawReassembly) -> Result<Reassembly, FieldError> {
    let default = Reassembly::default();
    Ok(Reassembly {
        enabled: raw.enabled.unwrap_or(default.enabled),
        max_flows: within("max_flows", raw.max_flows, 16..=1_048_576, default.max_flows)?,
        timeout_ms: within("timeout_ms", raw.timeout_ms, 10..=60_000, default.timeout_ms)?,
    })
}

fn state(raw: RawState) -> Result<StateConfig, FieldError> {
    Ok(StateConfig { file: raw.file, key: raw.key.map_or(Ok(KeyPlace::default()), |key| key.parse())? })
}

fn port(raw: RawPort) -> Result<Port, FieldError> {
    let mac = |field, text: String| text.parse::<MacAddr>().map_err(|error| FieldError::new(field, error));
    Ok(Port {
        name: raw.name,
        role: raw.role.parse()?,
        stands_for: raw.stands_for,
        next_hop_mac: raw.next_hop_mac.map(|text| mac("next_hop_mac", text)).transpose()?,
        mac: raw.mac.map(|text| mac("mac", text)).transpose()?,
        promiscuous: raw.promiscuous.unwrap_or(true),
        addresses: raw.addresses.iter().map(|text| address("addresses", text)).collect::<Result<_, _>>()?,
        rx_queues: raw.rx_queues.map(|n| within("rx_queues", Some(n), 1..=256, 1)).transpose()?,
        mtu: raw.mtu.map(|mtu| within("mtu", Some(mtu), 68..=65_000, 1500)).transpose()?,
    })
}

fn named_port(name: String, ports: &[Port]) -> Result<String, FieldError> {
    match ports.iter().any(|port| port.name == name) {
        true => Ok(name),
        false => Err(FieldError::new("port", format_args!("there is no [[port]] `{name}`"))),
    }
}

fn route(raw: RawRoute, ports: &[Port]) -> Result<Route, FieldError> {
    let dst = raw.dst.parse::<Prefix>().map_err(|error| FieldError::new("dst", error))?;
    let via = raw.via.map(|via| address("via", &via)).transpose()?;
    if let Some(via) = via.filter(|via| via.is_ipv4() != dst.address().is_ipv4()) {
        return Err(FieldError::new("via", format_args!("{via} is of the other IP version than {dst}")));
    }
    Ok(Route { dst, via, port: named_port(raw.port, ports)? })
}

fn neighbour(raw: RawNeighbour, ports: &[Port]) -> Result<Neighbour, FieldError> {
    Ok(Neighbour {
        address: address("address", &raw.address)?,
        mac: raw.mac.parse().map_err(|error| FieldError::new("mac", error))?,
        port: named_port(raw.port, ports)?,
    })
}

fn policy(raw: RawPolicy) -> Result<Policy, FieldError> {
    let selectors = Selectors { src: selectors("src", &raw.src)?, dst: selectors("dst", &raw.dst)? };
    // Neither list covers an address of the other's IP version.
    let versions = |list: &[Selector]| {
        [true, false].map(|v4| list.iter().any(|selector| selector.network.address().is_ipv4() == v4))
    };
    let (src, dst) = (versions(&selectors.src), versions(&selectors.dst));
    if !raw.src.is_empty() && !raw.dst.is_empty() && !src.iter().zip(dst).any(|(src, dst)| *src && dst) {
        return Err(FieldError::new("dst", "has no network of the IP version of those in src: no packet fits"));
    }
    // A packet has one protocol: what src and dst name must agree for one pair of them.
    let protocols = |list: &[Selector]| list.iter().map(|selector| selector.upper.protocol()).collect::<Vec<_>>();
    let (src, dst) = (protocols(&selectors.src), protocols(&selectors.dst));
    let agree = |src: &u8| dst.iter().any(|dst| *src == 0 || *dst == 0 || src == dst);
    if !src.is_empty() && !dst.is_empty() && !src.iter().any(agree) {
        return Err(FieldError::new("dst", "names other protocols than src: no packet fits"));
    }
    let action = raw.action.parse()?;
    if raw.peer.is_some() && action != PolicyAction::Protect {
        return Err(FieldError::new("peer", "is for policies with action = \"protect\""));
    }
    Ok(Policy { selectors, action, peer: raw.peer })
}

fn plugin(raw: RawPlugin) -> Result<Plugin, FieldError> {
    let bind = raw.bind.into_iter().map(|bind| {
        Ok(Bind {
            gate: bind.gate.parse::<Gate>().map_err(|error| FieldError::new("bind", error))?,
            filter: bind.filter.validate().map_err(|error| FieldError::new("bind", error))?,
            priority: bind.priority,
        })
    });
    Ok(Plugin {
        bind: bind.collect::<Result<_, FieldError>>()?,
        instance: raw.instance,
        plugin: raw.plugin,
        settings: raw.settings,
    })
}
