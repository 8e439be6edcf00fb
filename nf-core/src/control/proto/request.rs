//! What a client asks.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::error::Category;

use super::EventKind;
use crate::config::FilterSpec;
use crate::control::audit::quoted;
use crate::sa::spec::SaSpec;
use crate::types::Spi;

/// A request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, for a moment")]
pub enum Request {
    /// Who is there: [`Status`](super::Status).
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
    /// Reserves an SPI for an SA that is on its way, which makes it larval: [`Reserved`](super::Reserved). `sa-add` with the SPI and the
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
    /// All SAs: a list of [`SaReport`](super::SaReport).
    SaList {},
    /// One SA: [`SaReport`](super::SaReport).
    SaShow {
        /// Which.
        #[serde(flatten)]
        sa: SaName,
    },
    /// Plugins, instances, bindings: [`PluginReport`](super::PluginReport).
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
    /// Takes over what has changed in the configuration file: [`Reloaded`](crate::control::controller::Reloaded).
    Reload {},
    /// The last changes that were asked for: a list of [`AuditEntry`](crate::control::audit::AuditEntry), the oldest first.
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
    /// Events from now on: [`Subscribed`](super::Subscribed), then an [`EventLine`](super::EventLine) for each. The connection takes no further request.
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
    const AFTER_NAME: [&str; 2] = ["`, expected ", "`, there are no "];
    const OURS: [&str; 3] = ["missing field `", "duplicate field `", "invalid IP address syntax"];
    if let Some(kind) = QUOTING.iter().find(|kind| message.starts_with(**kind)) {
        // The value itself may read like serde's words: what follows the last of them is serde's.
        return match message.rsplit_once(", expected ") {
            Some((_, expected)) => format!("{kind}, expected {expected}"),
            None => (*kind).to_owned(),
        };
    }
    for start in NAMING {
        let Some(quoted) = message.strip_prefix(start) else { continue };
        // The name may read like serde's words too, and have backticks.
        if let Some(end) = AFTER_NAME.iter().filter_map(|words| quoted.rfind(words)).max() {
            let (name, rest) = quoted.split_at(end);
            // A key that stands in the place of a name has digits.
            let is_name = name.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'-'));
            let name = if is_name { name } else { ".." };
            return format!("{start}{name}{rest}");
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
            ("unknown field `a`b2\n`, expected `spi`", "unknown field `..`, expected `spi`"),
            ("unknown field `a`, expected b2`, there are no fields", "unknown field `..`, there are no fields"),
            ("missing field `spi`", "missing field `spi`"),
            ("bad key a1b2", "a field has a value that isn't allowed"),
        ] {
            assert_eq!(without_values(message), wanted);
        }
    }
}
