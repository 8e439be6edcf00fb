//! The peers of nf.toml, as IKE and recovery want them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ikev2::config::{Auth, Lifetime, Mode, RemoteAddress};
use ikev2::crypto::certificate::{Authorities, LocalCertificate};
use ikev2::crypto::secret::Secret;
use ikev2::selector::Selector;
use ikev2::{Connection, Identity};
use nf_core::config::{self, Backend, Config, EspOverUdp, IkeVersion, StartAction, TableError};
use nf_core::prefix::Prefix;
use nf_core::sa::spec::FieldError;

use super::credentials::{read_private, read_psk};
use crate::recovery::{Limits, PeerId, PeerRule, Policy};

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

/// The peers that there are, by numbers that outlive a reload.
#[derive(Debug, Default)]
pub struct Peers {
    /// The names of all peers that there have ever been: a number is a place in it.
    names: Vec<String>,
    present: BTreeMap<PeerId, Peer>,
    /// In the order of nf.toml.
    order: Vec<PeerId>,
}

impl Peers {
    /// Puts other peers in place of those that there are. Who has the same name has the same number.
    pub fn set(&mut self, peers: Vec<Peer>) {
        self.present.clear();
        self.order.clear();
        for peer in peers {
            let known = self.names.iter().position(|name| *name == peer.config.name);
            let place = known.unwrap_or_else(|| {
                self.names.push(peer.config.name.clone());
                self.names.len() - 1
            });
            self.order.push(PeerId(place));
            self.present.insert(PeerId(place), peer);
        }
    }

    /// A peer.
    pub fn get(&self, id: PeerId) -> Option<&Peer> {
        self.present.get(&id)
    }

    /// All of them, in the order of nf.toml.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.order.iter().filter_map(|id| Some((*id, self.get(*id)?)))
    }

    /// The peer of that name.
    pub fn find(&self, name: &str) -> Option<PeerId> {
        self.iter().find(|(_, peer)| peer.config.name == name).map(|(id, _)| id)
    }

    /// The name of a peer, or of one that there was.
    pub fn name(&self, id: PeerId) -> &str {
        self.names.get(id.0).map_or("unknown", String::as_str)
    }
}

/// The recovery policy of a configuration, with the numbers of its peers.
pub fn policy(config: &Config, peers: &Peers) -> Policy {
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
        peers: peers
            .iter()
            .enumerate()
            .map(|(place, (id, peer))| {
                let rule = PeerRule {
                    place,
                    kind: peer.config.kind,
                    address: peer.config.address,
                    local_address: peer.config.local_address,
                    keep_up: peer.config.start == StartAction::Always,
                    by_daemon: peer.is_by_daemon(),
                };
                (id, rule)
            })
            .collect(),
    }
}

/// The peers, and the connections of those with whom IKE is spoken here, where each of them can be used.
///
/// # Errors
/// The first field of a peer that can't be used.
pub fn check(config: &Config) -> Result<(Vec<Peer>, Vec<Connection>), TableError> {
    let mut connections = Vec::new();
    for (number, peer) in config.peers.iter().enumerate().filter(|(_, peer)| peer.backend == Backend::Embedded) {
        connections.push(connection(config, peer).map_err(|error| TableError { table: "peer", number, error })?);
    }
    let peers = config.peers.iter().map(|peer| Peer { config: peer.clone(), problem: None });
    Ok((peers.collect(), connections))
}

/// The peers, and the connections of those with whom IKE is spoken here. One that can't be used keeps nobody from the others.
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
                Err(problem) => Some(problem.to_string()),
            },
        };
        Peer { config: peer.clone(), problem }
    });
    (peers.collect(), connections)
}

/// The connection of a peer; else the field that is wrong, and why.
fn connection(config: &Config, peer: &config::Peer) -> Result<Connection, FieldError> {
    if peer.ike == IkeVersion::V1 {
        let problem = "v1 isn't spoken here; set backend = \"vici\" and let strongSwan speak it";
        return Err(FieldError::new("ike", problem));
    }
    let local = local_address(config, peer)?;
    let remote = match peer.address {
        Some(address) if address.is_single() => RemoteAddress::Host(address.address()),
        Some(network) => RemoteAddress::Networks(vec![range(network)?]),
        None => RemoteAddress::Networks(vec![range(Prefix::any(local.is_ipv4()))?]),
    };
    let identity = |field, text: &Option<String>| {
        text.as_ref().map(|text| text.parse::<Identity>().map_err(|error| FieldError::new(field, error))).transpose()
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

fn local_address(config: &Config, peer: &config::Peer) -> Result<IpAddr, FieldError> {
    let error = |problem: &dyn Display| FieldError::new("local_address", problem);
    let fits = |address: &IpAddr| peer.address.is_none_or(|network| network.address().is_ipv4() == address.is_ipv4());
    match peer.local_address {
        Some(address) if !fits(&address) => {
            Err(error(&format_args!("{address} isn't of the same IP version as the peer's address")))
        }
        Some(address) => Ok(address),
        None => config
            .local
            .iter()
            .map(|local| local.address)
            .find(fits)
            .ok_or_else(|| error(&"is missing, and no [[local]] has an address that would do")),
    }
}

fn auth(peer: &config::Peer) -> Result<Auth, FieldError> {
    match (&peer.psk_file, &peer.cert_file, &peer.key_file, &peer.ca_file) {
        (Some(psk), ..) => {
            let psk = read_psk(psk).map_err(|error| FieldError::new("psk_file", error))?;
            Ok(Auth::Psk(Secret::from(psk.as_slice())))
        }
        (None, Some(cert), Some(key), Some(ca)) => {
            let key = read_private(key).map_err(|error| FieldError::new("key_file", error))?;
            let key = std::str::from_utf8(&key).map_err(|_| FieldError::new("key_file", "isn't PEM"))?;
            let local = LocalCertificate::from_pem(&read_pem("cert_file", cert)?, key, false);
            let local = local.map_err(|error| FieldError::new("cert_file", format_args!("with key_file: {error}")))?;
            let authorities =
                Authorities::from_pem(&read_pem("ca_file", ca)?).map_err(|error| FieldError::new("ca_file", error))?;
            Ok(Auth::Certificates { local: Arc::new(local), authorities: Arc::new(authorities) })
        }
        _ => Err(FieldError::new("psk_file", "is missing, and there is no cert_file: IKE needs one of them")),
    }
}

fn read_pem(field: &'static str, path: &Path) -> Result<String, FieldError> {
    let error = |error| FieldError::new(field, format_args!("{}: {error}", path.display()));
    std::fs::read_to_string(path).map_err(error)
}

fn proposals<T: std::str::FromStr<Err: Display>>(
    field: &'static str,
    given: &[String],
    default: &[&str],
) -> Result<Vec<T>, FieldError> {
    let parse = |text: &str| text.parse().map_err(|error| FieldError::new(field, error));
    if given.is_empty() {
        return default.iter().map(|text| parse(text)).collect();
    }
    given.iter().map(|text| parse(text)).collect()
}

fn selectors(
    field: &'static str,
    given: &[nf_core::policy::Selector],
    mode: nf_core::sa::spec::Mode,
    is_ipv4: bool,
) -> Result<Vec<Selector>, FieldError> {
    let parse = |text: &str| text.parse().map_err(|error| FieldError::new(field, error));
    match given {
        [] if mode == nf_core::sa::spec::Mode::Transport => Ok(vec![Selector::Dynamic]),
        [] => Ok(vec![parse(&Prefix::any(is_ipv4).to_string())?]),
        given => given.iter().map(|selector| parse(&selector.to_string())).collect(),
    }
}

fn range(network: Prefix) -> Result<ikev2::wire::AddressRange, FieldError> {
    ikev2::wire::AddressRange::prefix(network.address(), network.length())
        .ok_or_else(|| FieldError::new("address", format_args!("{network} is no network")))
}

/// Rekeyed after `seconds` less up to a tenth, ended a tenth later.
fn lifetime(seconds: u64) -> Lifetime {
    let rekey = Duration::from_secs(seconds);
    Lifetime { rekey, jitter: rekey / 10, hard: rekey + rekey / 10 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(peers: &[(&str, &str)]) -> Config {
        let tables = peers.iter().map(|(name, more)| {
            format!("[[peer]]\nname = \"{name}\"\nkind = \"svti\"\naddress = \"10.1.1.1\"\n{more}")
        });
        let text = "[[local]]\naddress = \"10.10.1.2\"\n".to_owned() + &tables.collect::<String>();
        Config::parse(&text, Path::new("nf.toml")).unwrap()
    }

    fn vici(names: &[&str]) -> Config {
        config(&names.iter().map(|name| (*name, "backend = \"vici\"\n")).collect::<Vec<_>>())
    }

    #[test]
    fn a_peer_keeps_its_number_wherever_it_stands() {
        let mut peers = Peers::default();
        let mut set = |names: &[&str]| {
            peers.set(check(&vici(names)).unwrap().0);
            peers.iter().map(|(id, peer)| (id.0, peer.config.name.clone())).collect::<Vec<_>>()
        };
        assert_eq!(set(&["a", "b"]), [(0, "a".to_owned()), (1, "b".to_owned())]);
        assert_eq!(set(&["c", "b"]), [(2, "c".to_owned()), (1, "b".to_owned())]);
        assert_eq!(set(&["a", "c"]), [(0, "a".to_owned()), (2, "c".to_owned())]);
        assert_eq!((peers.find("b"), peers.name(PeerId(1)), peers.name(PeerId(7))), (None, "b", "unknown"));
        let places = policy(&vici(&["a", "c"]), &peers).peers.into_iter().map(|(id, rule)| (id.0, rule.place));
        assert_eq!(places.collect::<Vec<_>>(), [(0, 0), (2, 1)]);
    }

    #[test]
    fn what_is_wrong_with_a_peer_has_a_field() {
        for (more, field) in [
            ("", "psk_file"),
            ("psk_file = \"/nowhere/psk\"\n", "psk_file"),
            ("psk_file = \"/nowhere/psk\"\nlocal_id = \"\"\n", "local_id"),
            ("cert_file = \"/nowhere\"\nkey_file = \"/nowhere/key\"\nca_file = \"/nowhere\"\n", "key_file"),
            ("ike = \"v1\"\npsk_file = \"/nowhere/psk\"\n", "ike"),
            ("local_address = \"2001:db8::1\"\npsk_file = \"/nowhere/psk\"\n", "local_address"),
        ] {
            let config = config(&[("a", "backend = \"vici\"\n"), ("b", more)]);
            let TableError { table, number, error } = check(&config).unwrap_err();
            assert_eq!((table, number, error.field), ("peer", 1, field), "{error}");
            // At the start it keeps nobody else out.
            let (peers, connections) = load(&config);
            assert_eq!((peers.len(), connections.len()), (2, 0));
            assert_eq!(peers[1].problem.as_ref(), Some(&error.to_string()));
        }
    }
}
