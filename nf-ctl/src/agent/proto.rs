//! What `nf-ctl` and its agent say to each other: lines of JSON over a Unix stream socket, as with nf-core
//! ([`nf_core::control::proto`]).
//!
//! What takes time, such as an IKE exchange, is answered at once by the number of a task, which is asked for until it has
//! ended:
//!
//! ```text
//! > {"op":"ike-initiate","peer":"branch"}
//! < {"ok":{"task":7}}
//! > {"op":"task","task":7}
//! < {"ok":{"state":"done","text":"IKE SA with 10.1.1.1 is up"}}
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use nf_core::control::audit::quoted;
use nf_core::control::client::Daemon;
use nf_core::control::server::{Owner, Protocol};
use nf_core::types::Spi;
use serde::{Deserialize, Serialize};

/// The version of the protocol, as in [`nf_core::control::proto::VERSION`].
pub const VERSION: u32 = 1;

/// A request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who is there: [`Status`].
    Status {},
    /// What was decided about invalid SPIs: [`RecoveryReport`].
    Recovery {
        /// Decisions at most, the newest ones.
        limit: usize,
    },
    /// The IKE SAs with their CHILD_SAs: a list of [`IkeReport`].
    IkeSas {
        /// Of this peer only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
    },
    /// Recover a peer now: [`Started`].
    Recover {
        /// The peer's name.
        peer: String,
    },
    /// Start an IKE SA with a peer that has none: [`Started`].
    IkeInitiate {
        /// The peer's name.
        peer: String,
    },
    /// Delete the IKE SAs with a peer: [`Started`].
    IkeDelete {
        /// The peer's name.
        peer: String,
    },
    /// Ask a peer for a sign of life: [`Started`].
    IkeDpd {
        /// The peer's name.
        peer: String,
    },
    /// Take over what has changed in the configuration file: [`Reloaded`].
    Reload {
        /// Only look whether it can be taken over, and what would change.
        #[serde(default)]
        check: bool,
    },
    /// The last changes that were asked for: a list of [`AuditEntry`](nf_core::control::audit::AuditEntry).
    Audit {
        /// Entries at most.
        limit: usize,
    },
    /// What has become of a task: [`Task`].
    Task {
        /// Its number.
        task: u64,
    },
}

/// A task that was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Started {
    /// Its number.
    pub task: u64,
}

/// What a reload of the agent changed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Peers that came.
    pub peers_added: Vec<String>,
    /// Peers with other settings, whose SAs went on.
    pub peers_adjusted: Vec<String>,
    /// Peers with whom something else is negotiated now: their SAs have ended, and IKE begins anew.
    pub peers_changed: Vec<String>,
    /// Peers that went, and their SAs with them.
    pub peers_removed: Vec<String>,
    /// Tables and fields that were taken over as a whole.
    pub settings: Vec<String>,
}

/// What has become of a task.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Task {
    /// It goes on.
    Running,
    /// It has ended well.
    Done {
        /// What was achieved.
        text: String,
    },
    /// It has ended without a result.
    Failed {
        /// Why.
        text: String,
    },
}

/// The agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`] of the agent.
    pub protocol: u32,
    /// Its release.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Whether nf-core can be reached; why not.
    pub nf_core: Result<(), String>,
    /// The peers.
    pub peers: Vec<PeerReport>,
}

/// A peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its name.
    pub peer: String,
    /// Its kind.
    pub kind: String,
    /// Who speaks IKE with it.
    pub backend: String,
    /// Where it may come from.
    pub address: Option<String>,
    /// IKE SAs.
    pub ike_sas: usize,
    /// CHILD_SAs.
    pub child_sas: usize,
    /// Why no IKE can be spoken with it.
    pub problem: Option<String>,
}

/// Invalid-SPI recovery.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecoveryReport {
    /// `[recovery] invalid_spi_recovery`
    pub invalid_spi_recovery: bool,
    /// IKE messages that may be sent at this moment; negative when too many were sent.
    pub budget_left: i64,
    /// IKE messages that may be sent at once.
    pub budget_burst: u32,
    /// IKE messages that may be sent a minute.
    pub budget_per_min: u32,
    /// How often each action was decided since the start.
    #[serde(default)]
    pub totals: BTreeMap<String, u64>,
    /// The decisions, the oldest first.
    pub decisions: Vec<DecisionReport>,
}

/// A decision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DecisionReport {
    /// Milliseconds ago when it was taken first.
    pub first_ms: u64,
    /// Milliseconds ago when it was taken last.
    pub last_ms: u64,
    /// How often it was taken in a row.
    pub count: u64,
    /// The peer; none for a source that is no peer's.
    pub peer: Option<String>,
    /// The far end's address.
    pub address: Option<IpAddr>,
    /// The SPI, where one gave rise to it.
    pub spi: Option<Spi>,
    /// What gave rise to it.
    pub trigger: String,
    /// What is done, in a word.
    pub action: String,
    /// Why, or how it ended.
    pub reason: String,
}

/// An IKE SA.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IkeReport {
    /// Its number.
    pub id: u64,
    /// The peer.
    pub peer: String,
    /// Its backend.
    pub backend: String,
    /// 1 or 2.
    pub version: u8,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Who we are.
    pub local_id: String,
    /// Who the peer is.
    pub remote_id: String,
    /// Whether we have started it.
    pub initiator: bool,
    /// The initiator's SPI in hex.
    pub initiator_spi: String,
    /// The responder's.
    pub responder_spi: String,
    /// Its algorithms.
    pub algorithms: String,
    /// Whether a NAT is before us, before the peer.
    pub nat: (bool, bool),
    /// Seconds since it was established.
    pub age_s: u64,
    /// Seconds after which it is rekeyed.
    pub lifetime_s: u64,
    /// Its CHILD_SAs.
    pub children: Vec<ChildReport>,
}

/// A CHILD_SA.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChildReport {
    /// The SPI of packets to us.
    pub inbound_spi: Spi,
    /// The SPI of packets to the peer.
    pub outbound_spi: Spi,
    /// `tunnel` or `transport`.
    pub mode: String,
    /// `none` or `udp`.
    pub encap: String,
    /// Its algorithms.
    pub transform: String,
    /// The traffic on our side.
    pub local_ts: Vec<String>,
    /// The traffic on the peer's side.
    pub remote_ts: Vec<String>,
    /// Seconds since it was installed.
    pub age_s: u64,
    /// Seconds after which it is rekeyed.
    pub lifetime_s: u64,
    /// Whether an authentic packet has come in on it.
    pub used: bool,
}

/// The agent, as its clients name it.
pub static AGENT: Daemon = Daemon {
    program: "nf-ctl agent",
    start: "nf-ctl agent --config nf.toml",
    option: "--agent-socket",
    setting: "[agent] socket",
    version: VERSION,
};

impl Protocol for Request {
    const OWNER: Owner = Owner { program: "nf-ctl agent", setting: "[agent] socket" };

    fn decode(line: &[u8]) -> Result<Request, String> {
        serde_json::from_slice(line).map_err(|error| format!("the request can't be understood: {error}"))
    }

    fn change(&self) -> Option<String> {
        let (word, peer) = match self {
            Request::Status {}
            | Request::Recovery { .. }
            | Request::IkeSas { .. }
            | Request::Task { .. }
            | Request::Audit { .. } => return None,
            // Where it can't be, nothing else is asked for.
            Request::Reload { check: true } => return Some("reload, to see whether it can be".to_owned()),
            Request::Reload { check: false } => return Some("reload".to_owned()),
            Request::Recover { peer } => ("recover", peer),
            Request::IkeInitiate { peer } => ("ike-initiate", peer),
            Request::IkeDelete { peer } => ("ike-delete", peer),
            Request::IkeDpd { peer } => ("ike-dpd", peer),
        };
        Some(format!("{word} {}", quoted(peer)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_and_tasks_are_lines_of_this_shape() {
        for (request, wanted) in [
            (Request::Status {}, json!({"op": "status"})),
            (Request::Recovery { limit: 9 }, json!({"op": "recovery", "limit": 9})),
            (Request::IkeSas { peer: None }, json!({"op": "ike-sas"})),
            (Request::Recover { peer: "b".into() }, json!({"op": "recover", "peer": "b"})),
            (Request::IkeInitiate { peer: "b".into() }, json!({"op": "ike-initiate", "peer": "b"})),
            (Request::IkeDelete { peer: "b".into() }, json!({"op": "ike-delete", "peer": "b"})),
            (Request::IkeDpd { peer: "b".into() }, json!({"op": "ike-dpd", "peer": "b"})),
            (Request::Reload { check: true }, json!({"op": "reload", "check": true})),
            (Request::Task { task: 7 }, json!({"op": "task", "task": 7})),
        ] {
            assert_eq!(serde_json::to_value(&request).unwrap(), wanted);
            assert_eq!(Request::decode(wanted.to_string().as_bytes()), Ok(request));
        }
        let error = Request::decode(br#"{"op":"recover","peer":"b","now":true}"#).unwrap_err();
        assert!(error.starts_with("the request can't be understood: unknown field `now`"), "{error}");
        let task = Task::Done { text: "up".into() };
        assert_eq!(serde_json::to_value(task).unwrap(), json!({"state": "done", "text": "up"}));
        assert_eq!(serde_json::to_value(Task::Running).unwrap(), json!({"state": "running"}));
    }
}
