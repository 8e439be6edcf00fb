//! nf.toml: read, checked, and turned into types that can't be wrong.
//!
//! Every error is one line for an operator: file, line, table, field, what is wrong and what would be right. It never
//! quotes the line itself, which may hold a key; its [`Excerpt`] does, with whatever may be a key masked.

mod diff;
mod excerpt;
mod hooks;
mod lines;
mod peer;
mod raw;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::Value;
use zeroize::Zeroizing;

use crate::control::access::Access;
use crate::crypto::EngineChoice;
use crate::holding::HoldLimits;
use crate::hooks::{Hook, SnapshotConfig};
use crate::metrics::MetricsConfig;
use crate::notify::NotifyConfig;
use crate::plugin::{Filter, Gate};
use crate::prefix::Prefix;
use crate::sa::spec::{FieldError, SaParams, names};
use crate::spd::Policy;
use crate::state::StateConfig;
use crate::types::Nanos;
use crate::wire::ethernet::MacAddr;

pub use diff::{Differences, changed};
pub use excerpt::Excerpt;
pub use peer::{Backend, EspOverUdp, IkeVersion, Lifetimes, Peer, PeerKind, StartAction};
pub use raw::FilterSpec;

/// The whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `[eal]`
    pub eal: Eal,
    /// `[control]`
    pub control: Control,
    /// `[metrics]`
    pub metrics: MetricsConfig,
    /// `[notify]`
    pub notify: Notify,
    /// `[recovery]`
    pub recovery: Recovery,
    /// `[agent]`
    pub agent: Agent,
    /// `[crypto]`
    pub crypto: Crypto,
    /// `[sad]`
    pub sad: Sad,
    /// `[reassembly]`
    pub reassembly: Reassembly,
    /// `[[port]]`
    pub ports: Vec<Port>,
    /// `[[local]]`
    pub local: Vec<Local>,
    /// `[[route]]`
    pub routes: Vec<Route>,
    /// `[[neighbour]]`
    pub neighbours: Vec<Neighbour>,
    /// `[[peer]]`
    pub peers: Vec<Peer>,
    /// `[[sa]]`
    pub sas: Vec<SaParams>,
    /// `[[policy]]`
    pub policies: Vec<Policy>,
    /// `[[plugin]]`
    pub plugins: Vec<Plugin>,
    /// `[[event]]`
    pub events: Vec<Hook>,
    /// `[snapshot]`
    pub snapshot: SnapshotConfig,
    /// `[state]`; without it nothing outlives the process.
    pub state: Option<StateConfig>,
}

/// DPDK's environment and the worker cores.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Eal {
    /// Arguments for EAL, such as `--no-huge` or `--vdev=net_null0`.
    pub args: Vec<String>,
    /// CPUs that workers run on, one each.
    pub cores: Vec<u16>,
    /// Packet buffers.
    pub mbufs: u32,
    /// What a worker does when there is no traffic.
    pub idle: Idle,
    /// Whether workers hand ESP on to each other.
    pub spread: Spread,
}

impl Default for Eal {
    fn default() -> Self {
        Eal { args: Vec::new(), cores: vec![0], mbufs: 8192, idle: Idle::Spin, spread: Spread::Auto }
    }
}

names! {
    /// What a worker does when there is no traffic.
    Idle "idle" {
        /// Polls on: least delay, a core's full power.
        Spin = "spin",
        /// Sleeps some microseconds: for virtual ports on shared machines.
        Sleep = "sleep",
    }
}

names! {
    /// Whether the worker that receives ESP hands it on to the other workers. SAs are shared by all of them either way.
    Spread "spread" {
        /// It does everything itself: packets keep their order.
        Off = "off",
        /// It hands on, in bursts and in turn, what it doesn't keep up with.
        Auto = "auto",
        /// It hands on whatever it receives, in turn.
        On = "on",
    }
}

impl Spread {
    /// The least replay window that an SA needs with so many workers: a packet that is handed on is overtaken by what the
    /// other workers do meanwhile. None where nothing is handed on.
    pub fn least_window(self, workers: usize) -> Option<u32> {
        // What may wait for each of them, and as much again for one that the machine keeps from its work for a moment.
        const PER_WORKER: u32 = 512;
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        (self != Spread::Off && workers > 1).then(|| workers.saturating_mul(PER_WORKER))
    }
}

/// The control socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Control {
    /// Its path.
    pub socket: PathBuf,
    /// Who may use it, and the agent's.
    pub access: Access,
    /// The file in which changes are recorded.
    pub audit_file: Option<PathBuf>,
}

impl Default for Control {
    fn default() -> Self {
        Control { socket: PathBuf::from("/run/nf-core/nf-core.sock"), access: Access::default(), audit_file: None }
    }
}

/// Reports of invalid SPIs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notify {
    /// Seconds between two messages about the same flow.
    pub inv_spi_interval_s: u64,
    /// Messages a minute over all flows.
    pub budget_per_min: u32,
    /// Flows that are remembered.
    pub max_flows: usize,
    /// Whether messages end in `, input interface=NAME`.
    pub input_interface: bool,
    /// Where to send syslog messages (RFC 5424).
    pub syslog: Option<SyslogTarget>,
    /// Whether to write to the systemd journal.
    pub journald: bool,
}

impl Default for Notify {
    fn default() -> Self {
        Notify {
            inv_spi_interval_s: 60,
            budget_per_min: 120,
            max_flows: 4096,
            input_interface: false,
            syslog: None,
            journald: false,
        }
    }
}

impl Notify {
    /// The limits of the messages.
    pub fn limits(&self) -> NotifyConfig {
        NotifyConfig {
            interval: Nanos::from_secs(self.inv_spi_interval_s).0,
            budget_per_min: self.budget_per_min,
            max_flows: self.max_flows,
            input_interface: self.input_interface,
        }
    }
}

/// Where a syslog daemon listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SyslogTarget {
    /// A datagram socket, `unix:/dev/log`.
    Unix(PathBuf),
    /// UDP, `udp:192.0.2.1:514` (RFC 5426).
    Udp(SocketAddr),
}

impl FromStr for SyslogTarget {
    type Err = FieldError;

    fn from_str(text: &str) -> Result<SyslogTarget, FieldError> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            return Ok(SyslogTarget::Unix(path.into()));
        }
        if let Some(Ok(address)) = text.strip_prefix("udp:").map(str::parse) {
            return Ok(SyslogTarget::Udp(address));
        }
        let message =
            format_args!("`{text}` is neither `unix:/PATH`, such as unix:/dev/log, nor `udp:ADDRESS:PORT`").to_string();
        Err(FieldError::new("syslog", message))
    }
}

/// Recovery from invalid SPIs, by `nf-ctl agent`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovery {
    /// Whether a new IKE SA may be started because of an invalid SPI; off by default, as on IOS.
    pub invalid_spi_recovery: bool,
    /// IKE messages a minute that all recoveries may send.
    pub budget_per_min: u32,
    /// IKE messages that they may send at once.
    pub budget_burst: u32,
    /// Seconds between the first recovery of a peer and its second; then it doubles.
    pub back_off_s: u64,
    /// Seconds between two recoveries of a peer, at most.
    pub back_off_max_s: u64,
    /// Seconds between two unprotected hints to the same host.
    pub hint_interval_s: u64,
    /// Seconds for which an SPI that was rekeyed or deleted is left alone.
    pub rekey_grace_s: u64,
}

impl Default for Recovery {
    fn default() -> Self {
        Recovery {
            invalid_spi_recovery: false,
            budget_per_min: 600,
            budget_burst: 200,
            back_off_s: 1,
            back_off_max_s: 60,
            hint_interval_s: 10,
            rekey_grace_s: 10,
        }
    }
}

/// `nf-ctl agent`, which speaks IKE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agent {
    /// Its control socket.
    pub socket: PathBuf,
    /// Whether IKE SAs are deleted when it is ended by SIGTERM, so that peers notice at once.
    pub delete_on_exit: bool,
    /// The file with the secret that tokens for quick crash detection are made from (RFC 6290); without it none are.
    pub qcd_secret_file: Option<PathBuf>,
    /// The VICI socket of strongSwan's daemon, for peers with `backend = "vici"`.
    pub vici_socket: PathBuf,
}

impl Default for Agent {
    fn default() -> Self {
        Agent {
            socket: PathBuf::from("/run/nf-core/nf-agent.sock"),
            delete_on_exit: true,
            qcd_secret_file: None,
            vici_socket: PathBuf::from("/run/charon.vici"),
        }
    }
}

/// Cryptography.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Crypto {
    /// The engine.
    pub engine: EngineChoice,
    /// The crypto device of the engine `cryptodev`, which has one, as no other engine has.
    pub device: Option<CryptoDevice>,
}

/// A crypto device of DPDK.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CryptoDevice {
    /// DPDK's name of it: a virtual one's, or a PCI address with the driver's suffix.
    pub name: String,
    /// Packets of each worker that it may have at a time; a power of two.
    pub depth: u16,
    /// SAs that it may have at a time.
    pub sessions: u32,
}

impl CryptoDevice {
    /// [`CryptoDevice::depth`] where the configuration says nothing.
    pub const DEPTH: u16 = 1024;
    /// [`CryptoDevice::sessions`] where the configuration says nothing.
    pub const SESSIONS: u32 = 8192;
}

/// The SA database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sad {
    /// SAs at most, counting deleted ones that are still remembered.
    pub capacity: usize,
    /// Seconds for which a deleted SA is remembered.
    pub deleted_memory_s: u64,
    /// How much each core holds for larval SAs.
    pub larval: HoldLimits,
}

impl Default for Sad {
    fn default() -> Self {
        let larval = HoldLimits { spi_packets: 512, packets: 2048, octets: 4 << 20, age: 2 * Nanos::SECOND };
        Sad { capacity: 65_536, deleted_memory_s: 30, larval }
    }
}

/// Reassembly of outer fragments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reassembly {
    /// Whether fragments are reassembled; else they are dropped.
    pub enabled: bool,
    /// Datagrams that may be incomplete at a time, for each core.
    pub max_flows: u32,
    /// Milliseconds that a datagram may stay incomplete.
    pub timeout_ms: u64,
}

impl Default for Reassembly {
    fn default() -> Self {
        Reassembly { enabled: true, max_flows: 1024, timeout_ms: 2000 }
    }
}

names! {
    /// What a port is for.
    PortRole "role" {
        /// Towards the peers: ESP comes in here.
        Unprotected = "unprotected",
        /// Towards the protected network: decapsulated packets leave here.
        Protected = "protected",
        /// To the host's own stack: IKE, ARP and all else that isn't ours.
        Exception = "exception",
    }
}

/// A port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// DPDK's name of it: a vdev's, or a PCI address.
    pub name: String,
    /// What it is for.
    pub role: PortRole,
    /// Of an exception port: the name of the port for which the host's interface behind it stands.
    pub stands_for: Option<String>,
    /// Destination of the frames that leave on it; without one they keep the addresses that they came with.
    pub next_hop_mac: Option<MacAddr>,
    /// Its Ethernet address; without it the device's own.
    pub mac: Option<MacAddr>,
    /// Whether it takes frames for any Ethernet address.
    pub promiscuous: bool,
    /// Addresses of ours on its link, where the host has none there.
    pub addresses: Vec<IpAddr>,
    /// Receive queues; without it one for each core, as far as the port can.
    pub rx_queues: Option<u16>,
    /// The largest IP packet; without it the driver's default.
    pub mtu: Option<u16>,
}

/// An address of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Local {
    /// The address.
    pub address: IpAddr,
}

/// A way to a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The network.
    pub dst: Prefix,
    /// The router to send to; none for a network on the port's link.
    pub via: Option<IpAddr>,
    /// The port's name.
    pub port: String,
}

/// The Ethernet address of a host on a port's link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// The port's name.
    pub port: String,
}

/// A plugin instance and its bindings.
#[derive(Clone, PartialEq, Debug)]
pub struct Plugin {
    /// The instance's name.
    pub instance: String,
    /// The plugin's name.
    pub plugin: String,
    /// The instance's settings.
    pub settings: Value,
    /// Where it is bound.
    pub bind: Vec<Bind>,
}

/// A binding of a plugin instance.
#[derive(Clone, PartialEq, Debug)]
pub struct Bind {
    /// The gate.
    pub gate: Gate,
    /// The packets.
    pub filter: Filter,
    /// Lower ones are run first.
    pub priority: u16,
}

/// A configuration that can't be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    file: PathBuf,
    excerpt: Option<Excerpt>,
    message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line() {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    fn at((span, message): raw::Refusal, text: &str, file: &Path) -> ConfigError {
        ConfigError { file: file.to_owned(), excerpt: span.map(|span| Excerpt::of(text, span)), message }
    }

    /// The line, counted from 1, where the error has one.
    pub fn line(&self) -> Option<usize> {
        self.excerpt.as_ref().map(|excerpt| excerpt.line)
    }

    /// The line itself, where the error has one.
    pub fn excerpt(&self) -> Option<&Excerpt> {
        self.excerpt.as_ref()
    }

    /// What is wrong, without file and line.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// What is wrong with one of the tables `[[table]]`, found by somebody who knows more about it than is checked here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableError {
    /// The tables' name.
    pub table: &'static str,
    /// Which of them, from 0.
    pub number: usize,
    /// The field, and what is wrong with it.
    pub error: FieldError,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Config::load_with(path, |_| Ok(())).map(|(config, ())| config)
    }

    /// Reads and checks a file, and has somebody else make something of it, whose errors get the line as well.
    ///
    /// # Errors
    /// The file can't be used.
    pub fn load_with<T>(
        path: &Path,
        make: impl FnOnce(&Config) -> Result<T, TableError>,
    ) -> Result<(Config, T), ConfigError> {
        let error = |message: String| ConfigError { file: path.to_owned(), excerpt: None, message };
        // It may have keys in it.
        let octets = std::fs::read(path).map(Zeroizing::new).map_err(|e| {
            error(match e.kind() {
                std::io::ErrorKind::NotFound => "there is no such file; name one with --config".to_owned(),
                std::io::ErrorKind::PermissionDenied => {
                    "may not be read by this user; check its permissions".to_owned()
                }
                std::io::ErrorKind::IsADirectory => "is a directory; name the file in it".to_owned(),
                _ => format!("can't be read: {e}"),
            })
        })?;
        let text = std::str::from_utf8(&octets).map_err(|e| {
            let at = e.valid_up_to();
            // Each octet that isn't text becomes one character at least: those before stay where they are.
            let text = Zeroizing::new(String::from_utf8_lossy(&octets).into_owned());
            ConfigError {
                file: path.to_owned(),
                excerpt: Some(Excerpt::of(&text, at..at + 1)),
                message: "holds octets that aren't UTF-8 text".to_owned(),
            }
        })?;
        let config = Config::parse(text, path)?;
        match make(&config) {
            Ok(made) => Ok((config, made)),
            Err(refused) => Err(ConfigError::at(raw::refused(text, refused), text, path)),
        }
    }

    /// Checks a text; `file` is for messages.
    pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
        raw::parse(text).map_err(|refusal| ConfigError::at(refusal, text, file))
    }
}

#[cfg(test)]
mod tests {
    use crate::spd::PolicyAction;
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &str = r#"
[eal]
args = ["--no-huge", "-m", "256"]
cores = [0, 1]
idle = "sleep"

[control]
socket = "/tmp/nf.sock"

[notify]
inv_spi_interval_s = 30
syslog = "unix:/dev/log"

[recovery]
invalid_spi_recovery = true

[crypto]
engine = "aes-gcm"

[[port]]
name = "net_pcap0"
role = "unprotected"

[[port]]
name = "net_null0"
role = "protected"
next_hop_mac = "02:00:00:00:00:01"

[[local]]
address = "10.10.1.2"

[[peer]]
name = "branch"
address = "10.1.1.1"
kind = "svti"
psk_file = "/etc/nf-core/branch.psk"
local_id = "head.example"
remote_id = "branch.example"

[[sa]]
spi = 0xB761863E
src = "10.1.1.1"
dst = "10.10.1.2"
mode = "tunnel"
alg = "aes-gcm-16"
key = "a1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4"
selectors = { src = ["192.168.0.0/16"], dst = [] }

[[plugin]]
instance = "cap"
plugin = "capture"
settings = { file = "/tmp/drops.pcapng" }
bind = [{ gate = "drop", filter = { spi = "0x100-0x1ff" }, priority = 5 }]
"#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("nf.toml"))
    }

    fn refusal(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_sample_is_read_in_full() {
        let config = parse(SAMPLE).unwrap();
        assert_eq!(config.eal.cores, [0, 1]);
        assert_eq!(config.eal.idle, Idle::Sleep);
        assert_eq!(config.notify.syslog, Some(SyslogTarget::Unix("/dev/log".into())));
        assert_eq!(config.notify.budget_per_min, 120);
        assert!(config.recovery.invalid_spi_recovery);
        assert_eq!(config.crypto.engine, EngineChoice::AesGcm);
        assert_eq!(config.ports[1].next_hop_mac, Some(MacAddr([2, 0, 0, 0, 0, 1])));
        assert_eq!(config.peers[0].kind, PeerKind::Svti);
        assert_eq!(config.sas[0].spi.0, 0xB761_863E);
        assert_eq!(config.plugins[0].bind[0].gate, Gate::Drop);
        assert_eq!(
            config.plugins[0].bind[0].filter.spi.as_ref().map(|r| (r.start().0, r.end().0)),
            Some((0x100, 0x1FF))
        );
    }

    #[test]
    fn the_sample_in_the_docs_is_sound() {
        let docs = include_str!("../../../docs/configuration.md");
        let (_, section) = docs.split_once("## On virtual ports\n```toml\n").unwrap();
        let (sample, _) = section.split_once("```").unwrap();
        let config = parse(sample).unwrap();
        assert_eq!((config.ports.len(), config.sas.len()), (2, 1));
        // That of bare metal; its SAs' keys are in files.
        let docs = include_str!("../../../docs/deployment.md");
        let sample = docs.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let config = parse(sample).unwrap();
        assert_eq!((config.ports.len(), config.ports[3].stands_for.as_deref()), (4, Some("0000:01:00.1")));
    }

    #[test]
    fn an_empty_file_is_all_defaults() {
        let config = parse("").unwrap();
        assert_eq!((config.eal.cores, config.notify.inv_spi_interval_s), (vec![0], 60));
        assert!(!config.recovery.invalid_spi_recovery);
    }

    #[test]
    fn errors_name_file_line_table_and_field() {
        let edit = |from: &str, to: &str| {
            assert!(SAMPLE.contains(from), "{from}");
            refusal(&SAMPLE.replacen(from, to, 1))
        };
        let cases = [
            ("cores = [0, 1]", "cores = []", "nf.toml:4: [eal] cores: is empty; name at least one CPU"),
            (
                "cores = [0, 1]",
                "cores = [1, 1]",
                "nf.toml:4: [eal] cores: names CPU 1 twice; each worker needs its own",
            ),
            ("idle = \"sleep\"", "idle = \"nap\"", "nf.toml:5: [eal] idle: `nap` isn't one of `spin`, `sleep`"),
            (
                "inv_spi_interval_s = 30",
                "inv_spi_interval_s = 0",
                "nf.toml:11: [notify] inv_spi_interval_s: 0 isn't within 1 to 86400",
            ),
            (
                "socket = \"/tmp/nf.sock\"",
                "mode = \"0666\"",
                "nf.toml:8: [control] mode: lets every user of the host change everything; name those who may in `admins`",
            ),
            (
                "socket = \"/tmp/nf.sock\"",
                "admins = [\"%\"]",
                "nf.toml:8: [control] admins: names a user as `alice` or `1000`, a group as `%netops` or `%1000`",
            ),
            (
                "[notify]\n",
                "[metrics]\nlisten = \"localhost\"\n[notify]\n",
                "nf.toml:11: [metrics] listen: `localhost` isn't an address with a port, such as 127.0.0.1:9273",
            ),
            (
                "unix:/dev/log",
                "/dev/log",
                "nf.toml:12: [notify] syslog: `/dev/log` is neither `unix:/PATH`, such as unix:/dev/log, nor `udp:ADDRESS:PORT`",
            ),
            (
                "engine = \"aes-gcm\"",
                "engine = \"gpu\"",
                "nf.toml:18: [crypto] engine: there is no crypto engine `gpu`; use `auto`, `aes-gcm`, `ipsec-mb`, `ring` or `cryptodev`",
            ),
            (
                "engine = \"aes-gcm\"",
                "engine = \"cryptodev\"",
                "nf.toml:18: [crypto] engine: cryptodev needs a device: name it, such as device = \"crypto_aesni_mb0\"",
            ),
            (
                "engine = \"aes-gcm\"",
                "engine = \"cryptodev\"\ndevice = \"crypto_aesni_mb0\"\ndevice_depth = 1000",
                "nf.toml:20: [crypto] device_depth: 1000 isn't a power of two, such as 1024",
            ),
            (
                "engine = \"aes-gcm\"",
                "engine = \"ring\"\ndevice = \"crypto_aesni_mb0\"",
                "nf.toml:19: [crypto] device: is for engine = \"cryptodev\", and the engine is `ring`",
            ),
            (
                "role = \"protected\"",
                "role = \"inside\"",
                "nf.toml:26: [[port]] #2 role: `inside` isn't one of `unprotected`, `protected`, `exception`",
            ),
            (
                "name = \"net_null0\"",
                "name = \"net_pcap0\"",
                "nf.toml:25: [[port]] #2 name: `net_pcap0` is taken by [[port]] #1 in line 21; each needs its own",
            ),
            (
                "address = \"10.10.1.2\"",
                "address = \"10.10.1\"",
                "nf.toml:30: [[local]] #1 address: `10.10.1` isn't an IP address",
            ),
            (
                "spi = 0xB761863E",
                "spi = 255",
                "nf.toml:41: [[sa]] #1 spi: 255 is reserved (RFC 4303 2.1); use 256 to 4294967295",
            ),
            ("key = \"a1b2c3d4a1b2c3d4", "key = \"zz", "nf.toml:46: [[sa]] #1 key: character 1 isn't a hex digit"),
            (
                "dst = []",
                "dst = [\"192.168.1.1/24\"]",
                "nf.toml:47: [[sa]] #1 selectors.dst: `192.168.1.1/24` has bits set behind its length; the network is 192.168.1.0/24",
            ),
            (
                "gate = \"drop\"",
                "gate = \"exit\"",
                "nf.toml:53: [[plugin]] #1 bind: there is no gate `exit`; the gates are ingress, esp-input, post-decap, egress and drop",
            ),
        ];
        for (from, to, expected) in cases {
            assert_eq!(edit(from, to), expected);
        }
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_refused_by_line() {
        assert_eq!(
            refusal("[eal]\ncores = [0]\ncolour = 1\n"),
            "nf.toml:3: unknown field `colour`, expected one of `args`, `cores`, `mbufs`, `idle`, `spread`"
        );
        assert_eq!(refusal("[eal]\ncores = 3\n"), "nf.toml:2: invalid type: integer `3`, expected a sequence");
        assert!(refusal("\n[nonsense]\n").starts_with("nf.toml:2: unknown field `nonsense`"));
    }

    #[test]
    fn an_excerpt_shows_the_place() {
        let shown =
            |from: &str, to: &str| parse(&SAMPLE.replacen(from, to, 1)).unwrap_err().excerpt().unwrap().to_string();
        let wanted = "   |\n26 | role = \"inside\"\n   | ^^^^^^^^^^^^^^^";
        assert_eq!(shown("role = \"protected\"", "role = \"inside\""), wanted);
        let wanted = "  |\n4 | colour = 1\n  | ^^^^^^";
        assert_eq!(shown("cores = [0, 1]", "colour = 1"), wanted);
        let wanted = format!("   |\n46 | key ={}\n   | {}", "*".repeat(43), "^".repeat(48));
        assert_eq!(shown("key = \"a1b2", "key = \"g1b2"), wanted);
    }

    #[test]
    fn two_sas_with_the_same_key_are_refused() {
        let sa = &SAMPLE[SAMPLE.find("[[sa]]").unwrap()..SAMPLE.find("[[plugin]]").unwrap()];
        assert_eq!(
            refusal(&format!("{sa}{sa}")),
            "nf.toml:11: [[sa]] #2 spi: 0xB761863E(3076621886) from 10.1.1.1 to 10.10.1.2 is taken by [[sa]] #1 in line 2; each needs its own"
        );
    }

    #[test]
    fn an_exception_port_may_stand_for_another() {
        let taps = |first: &str, second: &str| {
            format!("{SAMPLE}\n[[port]]\nname = \"net_tap0\"\n{first}\n[[port]]\nname = \"net_tap1\"\n{second}\n")
        };
        let exception = |of: &str| format!("role = \"exception\"\nfor = \"{of}\"");
        let config = parse(&taps(&exception("net_pcap0"), &exception("net_null0"))).unwrap();
        assert_eq!(config.ports[2].stands_for.as_deref(), Some("net_pcap0"));
        let refused = |first: &str, second: &str| {
            let refusal = refusal(&taps(first, second));
            refusal.split_once("[[port]] ").unwrap().1.to_owned()
        };
        let (wan, lan) = (exception("net_pcap0"), exception("net_null0"));
        assert_eq!(
            refused("role = \"protected\"\nfor = \"net_pcap0\"", &lan),
            "#3 for: only a port with role = \"exception\" stands for another"
        );
        assert_eq!(refused(&wan, &exception("net_tap0")), "#4 for: `net_tap0` isn't a [[port]] of another role");
        assert_eq!(refused(&wan, &wan), "#4 for: `net_tap0` stands for `net_pcap0` already");
    }

    #[test]
    fn routes_and_neighbours_name_a_port() {
        let tables = "[[route]]\ndst = \"10.2.0.0/16\"\nvia = \"10.3.0.1\"\nport = \"net_null0\"\n\
                      [[neighbour]]\naddress = \"10.3.0.1\"\nmac = \"02:00:00:00:00:07\"\nport = \"net_null0\"\n";
        let config = parse(&format!("{tables}{SAMPLE}")).unwrap();
        let port = || "net_null0".to_owned();
        let (dst, via) = ("10.2.0.0/16".parse().unwrap(), "10.3.0.1".parse().unwrap());
        assert_eq!(config.routes, [Route { dst, via: Some(via), port: port() }]);
        assert_eq!(config.neighbours, [Neighbour { address: via, mac: MacAddr([2, 0, 0, 0, 0, 7]), port: port() }]);
        let cases = [
            ("port = \"net_null0\"", "port = \"lan\"", "nf.toml:4: [[route]] #1 port: there is no [[port]] `lan`"),
            (
                "via = \"10.3.0.1\"",
                "via = \"fe80::1\"",
                "nf.toml:3: [[route]] #1 via: fe80::1 is of the other IP version than 10.2.0.0/16",
            ),
            (
                "dst = \"10.2.0.0/16\"",
                "dst = \"10.2.0.1/16\"",
                "nf.toml:2: [[route]] #1 dst: `10.2.0.1/16` has bits set behind its length; the network is 10.2.0.0/16",
            ),
            (
                "mac = \"02:00:00:00:00:07\"",
                "mac = \"02:00\"",
                "nf.toml:7: [[neighbour]] #1 mac: `02:00` isn't an Ethernet address; one looks like 02:00:00:00:00:01",
            ),
        ];
        for (from, to, expected) in cases {
            assert_eq!(refusal(&format!("{}{SAMPLE}", tables.replacen(from, to, 1))), expected);
        }
    }

    #[test]
    fn policies_are_read_in_their_order() {
        let text = "[[policy]]\nsrc = [\"172.16.0.0/16\"]\ndst = [\"10.1.0.0/16\", \"2001:db8::/32\"]\n\
                    action = \"protect\"\npeer = \"branch\"\n[[policy]]\naction = \"bypass\"\n";
        let config = parse(text).unwrap();
        let actions: Vec<_> = config.policies.iter().map(|policy| policy.action).collect();
        assert_eq!(actions, [PolicyAction::Protect, PolicyAction::Bypass]);
        assert_eq!((config.policies[0].selectors.dst.len(), config.policies[0].peer.as_deref()), (2, Some("branch")));
        for (from, to, expected) in [
            (
                "\"bypass\"",
                "\"permit\"",
                "nf.toml:7: [[policy]] #2 action: `permit` isn't one of `protect`, `bypass`, `discard`",
            ),
            ("\"protect\"", "\"discard\"", "nf.toml:5: [[policy]] #1 peer: is for policies with action = \"protect\""),
            (
                "172.16.0.0/16",
                "172.16.0.0/8",
                "nf.toml:2: [[policy]] #1 src: `172.16.0.0/8` has bits set behind its length; the network is 172.0.0.0/8",
            ),
            (
                "\"10.1.0.0/16\", ",
                "",
                "nf.toml:3: [[policy]] #1 dst: has no network of the IP version of those in src: no packet fits",
            ),
        ] {
            assert_eq!(refusal(&text.replacen(from, to, 1)), expected);
        }
    }

    #[test]
    fn no_error_shows_a_key() {
        let secret = "a1b2c3d4";
        for (from, to) in [
            ("key = \"a1b2c3d4", "key = \"\na1b2c3d4"),
            ("a1b2c3d4\"\nselectors", "a1b2c3d4\nselectors"),
            ("key = \"a1b2c3d4", "key = \"g1b2c3d4a1b2c3d4"),
            ("key = \"a1b2c3d4", "kex = \"a1b2c3d4"),
            ("alg = \"aes-gcm-16\"", "alg = \"aes-gcm-16\"\nkey = 1"),
        ] {
            let text = SAMPLE.replacen(from, to, 1);
            assert_ne!(text, SAMPLE);
            let excerpt = parse(&text).unwrap_err().excerpt().map(ToString::to_string);
            let shown = format!("{} {:?} {excerpt:?}", refusal(&text), parse(&text));
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(!format!("{:?}", parse(SAMPLE).unwrap()).contains(secret));
    }

    #[test]
    fn files_that_cannot_be_read_say_why() {
        let dir = tempfile::tempdir().unwrap();
        let load = |path: &Path| Config::load(path).unwrap_err().to_string();
        let missing = dir.path().join("none.toml");
        assert!(load(&missing).ends_with("none.toml: there is no such file; name one with --config"));
        assert!(load(dir.path()).ends_with(": is a directory; name the file in it"));
        let binary = dir.path().join("binary.toml");
        std::fs::write(&binary, b"# one\n\xFF\n").unwrap();
        assert!(load(&binary).ends_with("binary.toml:2: holds octets that aren't UTF-8 text"));
    }

    /// What the agent finds wrong with a `[[peer]]`, for one.
    #[test]
    fn somebody_elses_errors_have_a_line_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nf.toml");
        let peer = |name: &str| format!("[[peer]]\nname = \"{name}\"\nkind = \"dynamic-map\"\npsk_file = \"{name}\"\n");
        std::fs::write(&path, peer("a") + &peer("b")).unwrap();
        let names = |config: &Config| config.peers.iter().map(|peer| peer.name.clone()).collect::<Vec<_>>();
        let (config, made) = Config::load_with(&path, |config| Ok(names(config))).unwrap();
        assert_eq!((config.peers.len(), made), (2, vec!["a".to_owned(), "b".to_owned()]));
        let refuse = |field| TableError { table: "peer", number: 1, error: FieldError::new(field, "isn't there") };
        for (field, wanted) in [
            ("psk_file", ":8: [[peer]] #2 psk_file: isn't there"),
            ("local_id", ":5: [[peer]] #2 local_id: isn't there"),
        ] {
            let error = Config::load_with(&path, |_| Err::<(), _>(refuse(field))).unwrap_err();
            assert!(error.to_string().ends_with(wanted), "{error}");
        }
    }

    #[test]
    fn peer_kinds_follow_the_table() {
        for (kind, may) in [("static-map", true), ("svti", true), ("gre-p2p", true), ("mgre-static", true)] {
            assert_eq!(kind.parse::<PeerKind>().map(PeerKind::may_initiate), Ok(may));
        }
        for kind in ["dynamic-map", "mgre-dynamic", "ezvpn-client"] {
            assert_eq!(kind.parse::<PeerKind>().map(PeerKind::may_initiate), Ok(false));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn no_damage_makes_it_panic(at: prop::sample::Index, len in 0usize..8, junk in "[\\[\\]{}\"'=.,#\\n0-9a-z -]{0,8}") {
            let start = at.index(SAMPLE.len());
            let end = (start + len).min(SAMPLE.len());
            let _ = parse(&format!("{}{junk}{}", &SAMPLE[..start], &SAMPLE[end..]));
        }
    }
}
