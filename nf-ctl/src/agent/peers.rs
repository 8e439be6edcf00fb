//! The peers of nf.toml, as IKE and recovery want them.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ikev2::config::{Auth, Lifetime, Mode, RemoteAddress};
use ikev2::crypto::certificate::{Authorities, LocalCertificate};
use ikev2::crypto::secret::Secret;
use ikev2::selector::Selector;
use ikev2::{Connection, Identity};
use nf_core::config::{self, Backend, Config, EspOverUdp, IkeVersion, StartAction};
use nf_core::prefix::Prefix;

use super::credentials::{read_private, read_psk};
use crate::recovery::{Limits, PeerRule, Policy};

/// Offered and accepted where a peer has none of its own: what is fast here first, what is old nowhere.
const IKE_PROPOSALS: &[&str] = &[
    "aes128gcm16-aes256gcm16-prfsha256-prfsha384-x25519-ecp256-ecp384-modp2048",
    "aes128-aes256-sha256-sha384-prfsha256-prfsha384-x25519-ecp256-ecp384-modp2048",
];
const ESP_PROPOSALS: &[&str] = &["aes128gcm16-aes256gcm16", "aes128-aes256-sha256-sha384"];

/// A peer.
#[derive(Debug)]
pub struct Peer {
    /// As configured.
    pub config: config::Peer,
    /// Why no IKE can be spoken with it.
    pub problem: Option<String>,
}

impl Peer {
    /// The name of its connection at strongSwan's daemon.
    pub fn connection(&self) -> &str {
        self.config.connection.as_deref().unwrap_or(&self.config.name)
    }

    /// Whether strongSwan's daemon speaks IKE with it.
    pub fn is_by_daemon(&self) -> bool {
        self.config.backend == Backend::Vici
    }
}

/// The recovery policy of a configuration.
pub fn policy(config: &Config) -> Policy {
    let recovery = &config.recovery;
    Policy {
        invalid_spi_recovery: recovery.invalid_spi_recovery,
        limits: Limits {
            budget_per_min: recovery.budget_per_min,
            budget_burst: recovery.budget_burst,
            back_off_first: Duration::from_secs(recovery.back_off_s),
            back_off_longest: Duration::from_secs(recovery.back_off_max_s),
            hint_interval: Duration::from_secs(recovery.hint_interval_s),
            grace: Duration::from_secs(recovery.rekey_grace_s),
            fresh: Duration::from_secs(1),
        },
        peers: config
            .peers
            .iter()
            .map(|peer| PeerRule {
                kind: peer.kind,
                address: peer.address,
                local_address: peer.local_address,
                keep_up: peer.start == StartAction::Always,
                by_daemon: peer.backend == Backend::Vici,
            })
            .collect(),
    }
}

/// The peers, and the connections of those with whom IKE is spoken here.
pub fn load(config: &Config) -> (Vec<Peer>, Vec<Connection>) {
    let mut connections = Vec::new();
    let peers = config.peers.iter().map(|peer| {
        let problem = match peer.backend {
            Backend::Vici => None,
            Backend::Embedded => match connection(config, peer) {
                Ok(connection) => {
                    connections.push(connection);
                    None
                }
                Err(problem) => Some(problem),
            },
        };
        Peer { config: peer.clone(), problem }
    });
    (peers.collect(), connections)
}

/// The connection of a peer; else the field that is wrong, and why.
fn connection(config: &Config, peer: &config::Peer) -> Result<Connection, String> {
    if peer.ike == IkeVersion::V1 {
        return Err("ike: v1 isn't spoken here; set backend = \"vici\" and let strongSwan speak it".to_owned());
    }
    let local = local_address(config, peer)?;
    let remote = match peer.address {
        Some(address) if address.is_single() => RemoteAddress::Host(address.address()),
        Some(network) => RemoteAddress::Networks(vec![range(network)?]),
        None => RemoteAddress::Networks(vec![range(Prefix::any(local.is_ipv4()))?]),
    };
    let identity = |field: &str, text: &Option<String>| {
        text.as_ref().map(|text| text.parse::<Identity>().map_err(|error| format!("{field}: {error}"))).transpose()
    };
    let local_id = identity("local_id", &peer.local_id)?.unwrap_or_else(|| Identity::address(local));
    let auth = auth(peer)?;
    let mut connection = Connection::new(&peer.name, local, remote, local_id, auth);
    connection.remote_id = match (identity("remote_id", &peer.remote_id)?, peer.address) {
        (None, Some(address)) if address.is_single() => Some(Identity::address(address.address())),
        (remote_id, _) => remote_id,
    };
    connection.ike_proposals = proposals("ike_proposals", &peer.ike_proposals, IKE_PROPOSALS)?;
    connection.esp_proposals = proposals("esp_proposals", &peer.esp_proposals, ESP_PROPOSALS)?;
    connection.local_ts = selectors("local_ts", &peer.local_ts, peer.mode, local.is_ipv4())?;
    connection.remote_ts = selectors("remote_ts", &peer.remote_ts, peer.mode, local.is_ipv4())?;
    connection.mode = match peer.mode {
        nf_core::sa::spec::Mode::Tunnel => Mode::Tunnel,
        nf_core::sa::spec::Mode::Transport => Mode::Transport,
    };
    connection.ike_lifetime = lifetime(peer.lifetimes.ike_s);
    connection.child_lifetime = lifetime(peer.lifetimes.child_s);
    connection.dpd = (peer.dpd_s > 0).then(|| Duration::from_secs(peer.dpd_s));
    connection.force_encap = peer.encap == EspOverUdp::Udp;
    connection.may_initiate = peer.kind.may_initiate() && peer.address.is_some_and(Prefix::is_single);
    Ok(connection)
}

fn local_address(config: &Config, peer: &config::Peer) -> Result<IpAddr, String> {
    let fits = |address: &IpAddr| peer.address.is_none_or(|network| network.address().is_ipv4() == address.is_ipv4());
    match peer.local_address {
        Some(address) if !fits(&address) => {
            Err(format!("local_address: {address} isn't of the same IP version as the peer's address"))
        }
        Some(address) => Ok(address),
        None => config
            .local
            .iter()
            .map(|local| local.address)
            .find(fits)
            .ok_or_else(|| "local_address: is missing, and no [[local]] has an address that would do".to_owned()),
    }
}

fn auth(peer: &config::Peer) -> Result<Auth, String> {
    match (&peer.psk_file, &peer.cert_file, &peer.key_file, &peer.ca_file) {
        (Some(psk), ..) => {
            let psk = read_psk(psk).map_err(|error| format!("psk_file: {error}"))?;
            Ok(Auth::Psk(Secret::from(psk.as_slice())))
        }
        (None, Some(cert), Some(key), Some(ca)) => {
            let key = read_private(key).map_err(|error| format!("key_file: {error}"))?;
            let key = std::str::from_utf8(&key).map_err(|_| "key_file: isn't PEM".to_owned())?;
            let local = LocalCertificate::from_pem(&read_pem("cert_file", cert)?, key, false);
            let local = local.map_err(|error| format!("cert_file, key_file: {error}"))?;
            let authorities =
                Authorities::from_pem(&read_pem("ca_file", ca)?).map_err(|error| format!("ca_file: {error}"))?;
            Ok(Auth::Certificates { local: Arc::new(local), authorities: Arc::new(authorities) })
        }
        _ => Err("psk_file: is missing, and there is no cert_file: IKE needs one of them".to_owned()),
    }
}

fn read_pem(field: &str, path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{field}: {}: {error}", path.display()))
}

fn proposals<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &str,
    given: &[String],
    default: &[&str],
) -> Result<Vec<T>, String> {
    let parse = |text: &str| text.parse().map_err(|error| format!("{field}: {error}"));
    if given.is_empty() {
        return default.iter().map(|text| parse(text)).collect();
    }
    given.iter().map(|text| parse(text)).collect()
}

fn selectors(
    field: &str,
    given: &[nf_core::policy::Selector],
    mode: nf_core::sa::spec::Mode,
    is_ipv4: bool,
) -> Result<Vec<Selector>, String> {
    let parse = |text: &str| text.parse().map_err(|error| format!("{field}: {error}"));
    match given {
        [] if mode == nf_core::sa::spec::Mode::Transport => Ok(vec![Selector::Dynamic]),
        [] => Ok(vec![parse(&Prefix::any(is_ipv4).to_string())?]),
        given => given.iter().map(|selector| parse(&selector.to_string())).collect(),
    }
}

fn range(network: Prefix) -> Result<ikev2::wire::AddressRange, String> {
    ikev2::wire::AddressRange::prefix(network.address(), network.length())
        .ok_or_else(|| format!("address: {network} is no network"))
}

/// Rekeyed after `seconds` less up to a tenth, ended a tenth later.
fn lifetime(seconds: u64) -> Lifetime {
    let rekey = Duration::from_secs(seconds);
    Lifetime { rekey, jitter: rekey / 10, hard: rekey + rekey / 10 }
}
