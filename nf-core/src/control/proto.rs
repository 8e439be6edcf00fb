//! The control protocol: one JSON value a line, over a Unix stream socket.
//!
//! The server speaks first, with a line that is either [`Response::Hello`] or, when it takes no more clients,
//! [`Response::Error`]. Then each request line gets exactly one response line, in order. A connection serves any number
//! of requests.
//!
//! ```text
//! < {"type":"hello","data":{"protocol":1,"version":"0.1.0"}}
//! > {"op":"sa-del","spi":3076621886}
//! < {"type":"error","data":{"code":"sa-not-found","message":"..."}}
//! ```
//!
//! Requests are strict, an unknown field is refused, so that a misspelt option isn't lost. Responses are lenient: a
//! client skips fields that it doesn't know, so fields may be added to them without a new [`PROTOCOL`].
//!
//! Keys go in, in [`Request::SaAdd`], and never come out.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::error::Category;

use crate::counters::{Report, Tally};
use crate::notify::NotifyReport;
use crate::sa::spec::{FilterSpec, SaSpec, SelectorSpec};
use crate::types::{CoreId, PortIndex, Spi};

/// The version of the protocol. It grows with each change that an older peer would misread.
pub const PROTOCOL: u32 = 1;

/// The longest request line, in octets, its newline included.
pub const MAX_REQUEST: usize = 1 << 20;

/// What a client may ask. A request has an `op` and that op's own fields, no others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// All counters, summed over the cores, since the last clear. Answer: [`Response::Counters`].
    Counters {},
    /// As [`Request::Counters`]; the next reading starts from zero. Answer: [`Response::Counters`].
    CountersClear {},
    /// The counters of each core. Answer: [`Response::CoreCounters`].
    CoreCounters {},
    /// Installs an SA on every core. Answer, once every core has it: [`Response::SaAdded`].
    SaAdd {
        /// The SA, with its keys.
        sa: SaSpec,
    },
    /// Removes an SA from every core. Answer: [`Response::SaDeleted`].
    SaDel {
        /// The SPI.
        spi: Spi,
        /// The SA's destination; needed where several SAs have the SPI.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dst: Option<IpAddr>,
        /// The SA's source; needed where several SAs have the SPI and the destination.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        src: Option<IpAddr>,
    },
    /// All SAs. Answer: [`Response::Sas`].
    SaList {},
    /// The SAs with one SPI: usually one, several if they differ in their addresses. Answer: [`Response::Sas`] with at
    /// least one, or the error [`ErrorCode::SaNotFound`].
    SaShow {
        /// The SPI.
        spi: Spi,
        /// Only SAs with this destination.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dst: Option<IpAddr>,
        /// Only SAs with this source.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        src: Option<IpAddr>,
    },
    /// The kinds of plugins, their instances and what is bound where. Answer: [`Response::Plugins`].
    PluginList {},
    /// Binds an instance of a plugin to a gate, and creates the instance if there is none of that name. Answer:
    /// [`Response::PluginBound`].
    PluginBind {
        /// The kind of plugin.
        plugin: String,
        /// The instance's name.
        instance: String,
        /// The gate's name, such as `esp-input`.
        gate: String,
        /// The packets that go through the instance; without fields, all of them.
        #[serde(default)]
        filter: FilterSpec,
        /// Bindings of a gate are asked in ascending order of this.
        #[serde(default)]
        priority: u16,
        /// The instance's own configuration, if this creates it.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        settings: Value,
    },
    /// Takes an instance off a gate, or off all of them. An instance that is bound nowhere any more is destroyed.
    /// Answer: [`Response::PluginUnbound`].
    PluginUnbind {
        /// The instance's name.
        instance: String,
        /// The gate's name; all gates without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gate: Option<String>,
    },
    /// The flows with invalid SPIs and the totals of their reports. Answer: [`Response::InvSpi`].
    InvSpi {
        /// At most so many flows, those with most packets first.
        limit: usize,
    },
    /// What runs here. Answer: [`Response::Status`].
    Status {},
}

impl Request {
    /// Reads a request from its line, with or without the newline.
    ///
    /// # Errors
    /// Says what is wrong with the line. What the line has in the place of a value isn't repeated, as it may be a key.
    pub fn decode(line: &[u8]) -> Result<Request, ErrorReport> {
        let refuse = |why: String| {
            let message = format!("the request can't be read: {why}");
            ErrorReport { code: ErrorCode::BadRequest, message }
        };
        let text = std::str::from_utf8(line)
            .map_err(|error| refuse(format!("octet {} isn't UTF-8", error.valid_up_to().saturating_add(1))))?;
        // Serde would take an array for an object with its fields in order.
        if text.trim_start().starts_with('[') {
            return Err(refuse("an array, expected an object".to_owned()));
        }
        serde_json::from_str(text).map_err(|error| {
            refuse(match error.classify() {
                Category::Data => without_values(&error.to_string()),
                Category::Syntax | Category::Eof | Category::Io => format!("not JSON, {error}"),
            })
        })
    }
}

/// Cuts out of a message of serde's what it quotes from the input, except names of fields.
fn without_values(message: &str) -> String {
    const QUOTING: [&str; 4] = ["invalid type", "invalid value", "invalid length", "unknown variant"];
    const HARMLESS: [&str; 3] = ["missing field `", "duplicate field `", "invalid IP address syntax"];
    if let Some(kind) = QUOTING.iter().find(|kind| message.starts_with(**kind)) {
        return match message.rsplit_once(", expected ") {
            Some((_, expected)) => format!("{kind}, expected {expected}"),
            None => (*kind).to_owned(),
        };
    }
    if let Some((field, rest)) = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        // A key in the place of a field's name has digits.
        return match field.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'-')) {
            true => format!("unknown field `{field}`{rest}"),
            false => format!("unknown field{rest}"),
        };
    }
    match HARMLESS.iter().any(|start| message.starts_with(start)) {
        true => message.to_owned(),
        false => "a field has a value that isn't allowed".to_owned(),
    }
}

/// A line from the server.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
pub enum Response {
    /// The first line of a connection.
    Hello(Hello),
    /// The request was not carried out, or the server can't serve this client.
    Error(ErrorReport),
    /// To [`Request::Counters`] and [`Request::CountersClear`].
    Counters(Report),
    /// To [`Request::CoreCounters`], ascending by core.
    CoreCounters(Vec<CoreReport>),
    /// To [`Request::SaAdd`].
    SaAdded(SaId),
    /// To [`Request::SaDel`].
    SaDeleted(SaId),
    /// To [`Request::SaList`] and [`Request::SaShow`], ascending by SPI, destination and source.
    Sas(Vec<SaReport>),
    /// To [`Request::PluginList`].
    Plugins(PluginReport),
    /// To [`Request::PluginBind`].
    PluginBound(PluginBound),
    /// To [`Request::PluginUnbind`].
    PluginUnbound(PluginUnbound),
    /// To [`Request::InvSpi`].
    InvSpi(NotifyReport),
    /// To [`Request::Status`].
    Status(Status),
}

impl Response {
    /// An error response.
    pub fn error(code: ErrorCode, message: impl Into<String>) -> Response {
        Response::Error(ErrorReport { code, message: message.into() })
    }
}

/// Who speaks. This stays as it is in all versions of the protocol, so that each can tell the others.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The server's [`PROTOCOL`].
    pub protocol: u32,
    /// The server's release.
    pub version: String,
}

/// Why a request was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorReport {
    /// For programs.
    pub code: ErrorCode,
    /// For people: one sentence that says what is wrong and what to do.
    pub message: String,
}

/// The kinds of errors. Their names are part of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The line isn't a request: not UTF-8, not JSON, an unknown op or field, a value of the wrong type.
    BadRequest,
    /// The line is longer than [`MAX_REQUEST`].
    RequestTooLong,
    /// The client took too long to send a request; the connection is closed.
    Timeout,
    /// The server has all the clients that it takes; the connection is closed.
    TooManyClients,
    /// The control thread did not answer in time. The request may still be carried out.
    Busy,
    /// The network function is about to end.
    ShuttingDown,
    /// A value is understood but not allowed, such as a key of the wrong length or an unknown gate.
    Invalid,
    /// There is an SA with this SPI and these addresses already.
    SaExists,
    /// No SA has this SPI and these addresses.
    SaNotFound,
    /// Several SAs have this SPI: the addresses must be given.
    SaAmbiguous,
    /// A table or queue is full.
    NoRoom,
    /// There is no plugin of this kind.
    PluginNotFound,
    /// There is no instance of this name, or it isn't bound to this gate.
    InstanceNotFound,
    /// The name is taken by an instance of another plugin, or the instance is bound to this gate already.
    InstanceExists,
    /// The server can't do this here, for want of a feature or a device.
    Unsupported,
    /// A fault of the server's own; its log says more.
    Internal,
    /// A code of a newer server.
    #[serde(other)]
    Other,
}

/// The counters of one core.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CoreReport {
    /// The core's place among the workers.
    pub core: CoreId,
    /// Its CPU number, the lcore of DPDK.
    pub lcore: u32,
    /// Its counters, cleared along with the sum.
    pub counters: Report,
}

/// What tells an SA from all others.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SaId {
    /// The SPI.
    pub spi: Spi,
    /// The outer source address.
    pub src: IpAddr,
    /// The outer destination address.
    pub dst: IpAddr,
}

/// Where an SA is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SaState {
    /// The SPI is reserved, the key isn't there yet.
    Larval,
    /// In use.
    Mature,
    /// In use beyond its soft lifetime: its successor should be there by now.
    Dying,
}

impl SaState {
    /// The name in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            SaState::Larval => "larval",
            SaState::Mature => "mature",
            SaState::Dying => "dying",
        }
    }
}

/// An SA as it is shown. It has no key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SaReport {
    /// SPI and addresses.
    #[serde(flatten)]
    pub id: SaId,
    /// `tunnel` or `transport`.
    pub mode: String,
    /// `none` or `udp` (RFC 3948).
    pub encap: String,
    /// The cipher with its sizes in bits and its ICV in octets, such as `esp-gcm 128 icv 16`.
    pub transform: String,
    /// The integrity algorithm, where the cipher isn't an AEAD, such as `esp-sha256-hmac`.
    pub integrity: Option<String>,
    /// Whether sequence numbers have 64 bits (RFC 4303 2.2.1).
    pub esn: bool,
    /// The size of the anti-replay window in packets; 0 is off.
    pub replay_window: u32,
    /// The inner addresses that the SA may carry (RFC 4301 4.4.1.1).
    pub selectors: SelectorSpec,
    /// Where it is in its life.
    pub state: SaState,
    /// Packets that were decapsulated.
    pub packets: u64,
    /// Their octets, as received, without FCS.
    pub octets: u64,
    /// The highest sequence number that was authenticated.
    pub highest_seq: u64,
    /// Packets inside the replay window whose number was seen before.
    pub replay_duplicate: u64,
    /// Packets whose number lies left of the replay window.
    pub replay_late: u64,
    /// Packets whose ICV was wrong.
    pub auth_failed: u64,
    /// Packets whose inner addresses the selectors don't allow (RFC 4301 5.2).
    pub policy_failed: u64,
    /// Seconds since it was installed.
    pub age_s: u64,
}

/// Plugins and where they are bound.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PluginReport {
    /// The kinds that can be bound, by name.
    pub plugins: Vec<PluginKind>,
    /// The instances, by name.
    pub instances: Vec<PluginInstance>,
    /// The gates in the order in which a packet meets them.
    pub gates: Vec<GateReport>,
}

/// A kind of plugin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PluginKind {
    /// The name by which it is bound.
    pub name: String,
    /// What it does, in one sentence.
    pub summary: String,
    /// The gates that it can be bound to.
    pub gates: Vec<String>,
}

/// An instance of a plugin.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PluginInstance {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub plugin: String,
    /// Its configuration.
    pub settings: Value,
}

/// What is bound to one gate.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GateReport {
    /// The gate's name.
    pub gate: String,
    /// The bindings, in the order in which they are asked.
    pub bindings: Vec<BindingReport>,
}

/// A binding of an instance to a gate.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BindingReport {
    /// The instance's name.
    pub instance: String,
    /// Its place: bindings are asked in ascending order of this.
    pub priority: u16,
    /// The packets that go through it.
    pub filter: FilterSpec,
}

/// A binding was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PluginBound {
    /// The instance's name.
    pub instance: String,
    /// The gate's name.
    pub gate: String,
    /// Whether the instance is new.
    pub created: bool,
}

/// Bindings were removed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PluginUnbound {
    /// The instance's name.
    pub instance: String,
    /// The gates that it was taken off.
    pub gates: Vec<String>,
    /// Whether that was the last of its bindings, so that it is gone.
    pub destroyed: bool,
}

/// What runs here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The release of the network function.
    pub version: String,
    /// The release of DPDK that it runs on.
    pub dpdk: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The name of the crypto engine in use.
    pub crypto: String,
    /// The CPU numbers of the workers, by [`CoreId`].
    pub cores: Vec<u32>,
    /// The ports, by [`PortIndex`].
    pub ports: Vec<PortReport>,
    /// The number of SAs.
    pub sas: u64,
}

/// A port. Its counters are those of the device, since it was started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortReport {
    /// Its place in the configuration.
    pub index: PortIndex,
    /// Its name.
    pub name: String,
    /// `unprotected`, `protected` or `exception`.
    pub role: String,
    /// The DPDK driver.
    pub driver: String,
    /// The MAC address, as `02:00:00:00:00:01`.
    pub mac: String,
    /// Whether the link is up.
    pub link_up: bool,
    /// Its speed in Mbit/s, where the driver knows it.
    pub speed_mbps: Option<u32>,
    /// Received.
    pub rx: Tally,
    /// Sent.
    pub tx: Tally,
    /// Packets that the device dropped because no core fetched them in time.
    pub rx_missed: u64,
    /// Packets that the device received broken.
    pub rx_errors: u64,
    /// Packets that found no free buffer.
    pub rx_no_buffer: u64,
    /// Packets that the device failed to send.
    pub tx_errors: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::counters::Snapshot;

    fn same(request: &Request, wanted: Value) {
        let line = serde_json::to_string(request).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), wanted);
        let read = Request::decode(line.as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), wanted);
    }

    #[test]
    fn requests_are_lines_of_this_shape() {
        same(&Request::Counters {}, json!({"op": "counters"}));
        same(&Request::CountersClear {}, json!({"op": "counters-clear"}));
        same(&Request::CoreCounters {}, json!({"op": "core-counters"}));
        same(&Request::SaList {}, json!({"op": "sa-list"}));
        same(&Request::PluginList {}, json!({"op": "plugin-list"}));
        same(&Request::Status {}, json!({"op": "status"}));
        same(&Request::InvSpi { limit: 20 }, json!({"op": "inv-spi", "limit": 20}));
        let spi = Spi(0xB761_863E);
        same(&Request::SaDel { spi, dst: None, src: None }, json!({"op": "sa-del", "spi": 3_076_621_886u32}));
        let dst = Some("2001:db8::1".parse().unwrap());
        same(
            &Request::SaShow { spi: Spi(256), dst, src: None },
            json!({"op": "sa-show", "spi": 256, "dst": "2001:db8::1"}),
        );
        let (instance, gate) = ("cap".to_owned(), "post-decap".to_owned());
        let unbind = Request::PluginUnbind { instance: instance.clone(), gate: Some(gate.clone()) };
        same(&unbind, json!({"op": "plugin-unbind", "instance": "cap", "gate": "post-decap"}));
        let bind = Request::PluginBind {
            plugin: "capture".to_owned(),
            instance,
            gate,
            filter: FilterSpec::default(),
            priority: 10,
            settings: json!({"file": "/tmp/x.pcapng"}),
        };
        let wanted = json!({
            "op": "plugin-bind", "plugin": "capture", "instance": "cap", "gate": "post-decap", "filter": {},
            "priority": 10, "settings": {"file": "/tmp/x.pcapng"},
        });
        same(&bind, wanted);
    }

    #[test]
    fn what_may_be_left_out_may_be_left_out() {
        let line = br#"{"op":"plugin-bind","plugin":"capture","instance":"cap","gate":"egress"}"#;
        let Ok(Request::PluginBind { filter, priority, settings, .. }) = Request::decode(line) else {
            panic!("not read as plugin-bind")
        };
        assert_eq!((filter, priority, settings), (FilterSpec::default(), 0, Value::Null));
    }

    #[test]
    fn a_message_of_serdes_loses_its_values_and_keeps_its_sense() {
        for (message, wanted) in [
            ("invalid type: string \"a1b2\", expected u64", "invalid type, expected u64"),
            (
                "invalid type: string \"a, expected b2\", expected u64 at line 1 column 3",
                "invalid type, expected u64 at line 1 column 3",
            ),
            ("unknown variant `a1b2`, there are no variants", "unknown variant"),
            ("unknown field `colour`, expected `spi` or `dst`", "unknown field `colour`, expected `spi` or `dst`"),
            ("unknown field `a1b2`, expected `spi`", "unknown field, expected `spi`"),
            ("missing field `spi`", "missing field `spi`"),
            ("bad key a1b2", "a field has a value that isn't allowed"),
        ] {
            assert_eq!(without_values(message), wanted);
        }
    }

    #[test]
    fn responses_are_lines_of_this_shape() {
        let hello = Response::Hello(Hello { protocol: 1, version: "0.1.0".to_owned() });
        let line = serde_json::to_string(&hello).unwrap();
        assert_eq!(line, r#"{"type":"hello","data":{"protocol":1,"version":"0.1.0"}}"#);
        assert_eq!(serde_json::from_str::<Response>(&line).unwrap(), hello);

        let counters = Response::Counters(Snapshot::default().report());
        let line = serde_json::to_string(&counters).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Response>(&line).unwrap(), counters);

        let error = Response::error(ErrorCode::SaNotFound, "no");
        let line = serde_json::to_string(&error).unwrap();
        assert_eq!(line, r#"{"type":"error","data":{"code":"sa-not-found","message":"no"}}"#);
    }

    #[test]
    fn a_newer_servers_fields_and_codes_are_read() {
        let line = r#"{"type":"error","data":{"code":"too-cold","message":"no","celsius":-3},"id":7}"#;
        let wanted = Response::error(ErrorCode::Other, "no");
        assert_eq!(serde_json::from_str::<Response>(line).unwrap(), wanted);
    }
}
