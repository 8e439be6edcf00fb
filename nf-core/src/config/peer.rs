//! `[[peer]]`: who may have a tunnel with us, and how to speak IKE with him.
//!
//! nf-core itself needs none of it: it is for `nf-ctl agent`, which reads the same file. Proposals and identities are
//! checked there, by who speaks IKE.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

use super::raw::within;
use crate::policy::Selector;
use crate::prefix::Prefix;
use crate::sa::spec::{FieldError, Mode, address, names, selectors};

names! {
    /// What kind of configuration a peer has, in Cisco's terms.
    PeerKind "kind" {
        /// A crypto map with the peer's address.
        StaticMap = "static-map",
        /// A crypto map for any peer.
        DynamicMap = "dynamic-map",
        /// A static virtual tunnel interface.
        Svti = "svti",
        /// Point-to-point GRE with tunnel protection.
        GreP2p = "gre-p2p",
        /// Multipoint GRE, the peer mapped statically in NHRP.
        MgreStatic = "mgre-static",
        /// Multipoint GRE, the peer known by NHRP registration.
        MgreDynamic = "mgre-dynamic",
        /// An EzVPN client.
        EzvpnClient = "ezvpn-client",
    }
}

impl PeerKind {
    /// Whether the peer's address is explicit in the configuration, so that an IKE SA may be started to it.
    pub const fn may_initiate(self) -> bool {
        match self {
            PeerKind::StaticMap | PeerKind::Svti | PeerKind::GreP2p | PeerKind::MgreStatic => true,
            PeerKind::DynamicMap | PeerKind::MgreDynamic | PeerKind::EzvpnClient => false,
        }
    }
}

names! {
    /// The version of IKE.
    IkeVersion "ike" {
        /// IKEv1 (RFC 2409).
        V1 = "v1",
        /// IKEv2 (RFC 7296).
        V2 = "v2",
    }
}

names! {
    /// Who speaks IKE with a peer.
    Backend "backend" {
        /// `nf-ctl agent` itself.
        Embedded = "embedded",
        /// strongSwan's daemon, which is asked over VICI.
        Vici = "vici",
    }
}

names! {
    /// When ESP is put into UDP (RFC 3948).
    EspOverUdp "encap" {
        /// Where there is a NAT on the way (RFC 7296 2.23).
        Auto = "auto",
        /// Always, for networks that let no ESP through.
        Udp = "udp",
    }
}

names! {
    /// What happens when the agent starts, and when it loses a tunnel.
    StartAction "start" {
        /// Nothing: the peer starts, or invalid-SPI recovery, or the operator.
        OnDemand = "on-demand",
        /// The agent starts it, and again when it ends.
        Always = "always",
    }
}

/// Seconds after which SAs are rekeyed; an SA ends a tenth later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetimes {
    /// IKE SAs.
    pub ike_s: u64,
    /// CHILD_SAs.
    pub child_s: u64,
}

/// A peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its address, or the network that it may come from.
    pub address: Option<Prefix>,
    /// Our address towards it; any of `[[local]]` if not given.
    pub local_address: Option<IpAddr>,
    /// Its kind.
    pub kind: PeerKind,
    /// Its IKE.
    pub ike: IkeVersion,
    /// Who speaks it.
    pub backend: Backend,
    /// With [`Backend::Vici`]: the connection's name in swanctl.conf; else the peer's.
    pub connection: Option<String>,
    /// When IKE is started.
    pub start: StartAction,
    /// The file with the pre-shared key.
    pub psk_file: Option<PathBuf>,
    /// Our certificate, a file in PEM.
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    pub key_file: Option<PathBuf>,
    /// The authority that has signed the peer's certificate.
    pub ca_file: Option<PathBuf>,
    /// Our identity towards it.
    pub local_id: Option<String>,
    /// Its identity.
    pub remote_id: Option<String>,
    /// Algorithms of the IKE SA, such as `aes128gcm16-prfsha256-x25519`, the best first.
    pub ike_proposals: Vec<String>,
    /// Algorithms of CHILD_SAs, such as `aes128gcm16-x25519`.
    pub esp_proposals: Vec<String>,
    /// Traffic selectors of our side.
    pub local_ts: Box<[Selector]>,
    /// Those of the peer's.
    pub remote_ts: Box<[Selector]>,
    /// Tunnel or transport mode.
    pub mode: Mode,
    /// Whether ESP goes in UDP.
    pub encap: EspOverUdp,
    /// Seconds without a message after which the peer is asked for a sign of life; 0 for never.
    pub dpd_s: u64,
    /// When SAs are rekeyed.
    pub lifetimes: Lifetimes,
}

/// A peer as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeer {
    name: String,
    address: Option<String>,
    local_address: Option<String>,
    kind: String,
    ike: Option<String>,
    backend: Option<String>,
    connection: Option<String>,
    start: Option<String>,
    psk_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    local_id: Option<String>,
    remote_id: Option<String>,
    #[serde(default)]
    ike_proposals: Vec<String>,
    #[serde(default)]
    esp_proposals: Vec<String>,
    #[serde(default)]
    local_ts: Vec<String>,
    #[serde(default)]
    remote_ts: Vec<String>,
    mode: Option<String>,
    encap: Option<String>,
    dpd_s: Option<i64>,
    ike_lifetime_s: Option<i64>,
    child_lifetime_s: Option<i64>,
}

/// A name, or its default.
fn named<T: FromStr<Err = FieldError>>(name: Option<&str>, default: T) -> Result<T, FieldError> {
    name.map_or(Ok(default), str::parse)
}

impl RawPeer {
    pub(super) fn check(self) -> Result<Peer, FieldError> {
        self.check_backend()?;
        let network = self.address.as_ref().map(|text| text.parse().map_err(|error| FieldError::new("address", error)));
        let local = self.local_address.as_ref().map(|text| address("local_address", text));
        let lifetime = |field, seconds, default| within(field, seconds, 60..=864_000, default);
        let peer = Peer {
            address: network.transpose()?,
            local_address: local.transpose()?,
            kind: self.kind.parse()?,
            ike: named(self.ike.as_deref(), IkeVersion::V2)?,
            backend: named(self.backend.as_deref(), Backend::Embedded)?,
            start: named(self.start.as_deref(), StartAction::OnDemand)?,
            local_ts: selectors("local_ts", &self.local_ts)?,
            remote_ts: selectors("remote_ts", &self.remote_ts)?,
            mode: named(self.mode.as_deref(), Mode::Tunnel)?,
            encap: named(self.encap.as_deref(), EspOverUdp::Auto)?,
            dpd_s: within("dpd_s", self.dpd_s, 0..=86_400, 30)?,
            lifetimes: Lifetimes {
                ike_s: lifetime("ike_lifetime_s", self.ike_lifetime_s, 14_400)?,
                child_s: lifetime("child_lifetime_s", self.child_lifetime_s, 3600)?,
            },
            name: self.name,
            connection: self.connection,
            psk_file: self.psk_file,
            cert_file: self.cert_file,
            key_file: self.key_file,
            ca_file: self.ca_file,
            local_id: self.local_id,
            remote_id: self.remote_id,
            ike_proposals: self.ike_proposals,
            esp_proposals: self.esp_proposals,
        };
        if peer.kind.may_initiate() && peer.address.is_none() {
            let message = format_args!("is missing; a peer of the kind {} has one", peer.kind).to_string();
            return Err(FieldError::new("address", message));
        }
        if peer.start == StartAction::Always
            && !(peer.kind.may_initiate() && peer.address.is_some_and(Prefix::is_single))
        {
            let message = "`always` needs a peer of a static kind with a single address; use `on-demand`";
            return Err(FieldError::new("start", message));
        }
        Ok(peer)
    }

    /// Each backend has its fields: one that has no effect is a mistake.
    fn check_backend(&self) -> Result<(), FieldError> {
        let is_vici = named(self.backend.as_deref(), Backend::Embedded)? == Backend::Vici;
        let of_embedded = [
            ("psk_file", self.psk_file.is_some()),
            ("cert_file", self.cert_file.is_some()),
            ("key_file", self.key_file.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("local_id", self.local_id.is_some()),
            ("remote_id", self.remote_id.is_some()),
            ("ike_proposals", !self.ike_proposals.is_empty()),
            ("esp_proposals", !self.esp_proposals.is_empty()),
            ("local_ts", !self.local_ts.is_empty()),
            ("remote_ts", !self.remote_ts.is_empty()),
            ("mode", self.mode.is_some()),
            ("encap", self.encap.is_some()),
            ("dpd_s", self.dpd_s.is_some()),
            ("ike_lifetime_s", self.ike_lifetime_s.is_some()),
            ("child_lifetime_s", self.child_lifetime_s.is_some()),
        ];
        if is_vici && let Some((field, _)) = of_embedded.iter().find(|(_, given)| *given) {
            return Err(FieldError::new(field, "has no effect with backend = \"vici\"; set it in swanctl.conf"));
        }
        if !is_vici && self.connection.is_some() {
            return Err(FieldError::new("connection", "has no effect without backend = \"vici\""));
        }
        if self.psk_file.is_some() && self.cert_file.is_some() {
            return Err(FieldError::new("cert_file", "is given beside `psk_file`; leave out one"));
        }
        let (cert, key, ca) = (self.cert_file.is_some(), self.key_file.is_some(), self.ca_file.is_some());
        for (field, given) in [("cert_file", cert), ("key_file", key), ("ca_file", ca)] {
            if (cert || key || ca) && !given {
                return Err(FieldError::new(field, "is missing; certificates need cert_file, key_file and ca_file"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    fn peer(text: &str) -> Result<Peer, String> {
        let text = format!("[[peer]]\nname = \"branch\"\n{text}");
        let config = Config::parse(&text, Path::new("nf.toml")).map_err(|error| error.to_string())?;
        Ok(config.peers[0].clone())
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let peer = peer("kind = \"svti\"\naddress = \"10.1.1.1\"\n").unwrap();
        assert_eq!((peer.ike, peer.backend, peer.start), (IkeVersion::V2, Backend::Embedded, StartAction::OnDemand));
        assert_eq!((peer.mode, peer.encap, peer.dpd_s), (Mode::Tunnel, EspOverUdp::Auto, 30));
        assert_eq!(peer.lifetimes, Lifetimes { ike_s: 14_400, child_s: 3600 });
        assert!(peer.local_ts.is_empty() && peer.ike_proposals.is_empty());
    }

    #[test]
    fn all_fields_are_read() {
        let text = r#"
kind = "gre-p2p"
address = "10.1.1.1"
local_address = "10.10.1.2"
ike = "v2"
backend = "embedded"
start = "always"
cert_file = "/etc/nf-core/head.pem"
key_file = "/etc/nf-core/head.key"
ca_file = "/etc/nf-core/ca.pem"
local_id = "head.example"
remote_id = "branch.example"
ike_proposals = ["aes128gcm16-prfsha256-x25519"]
esp_proposals = ["aes128gcm16"]
local_ts = ["10.2.0.0/16"]
remote_ts = ["10.1.0.0/16", "2001:db8::/32"]
mode = "transport"
encap = "udp"
dpd_s = 0
ike_lifetime_s = 600
child_lifetime_s = 60
"#;
        let peer = peer(text).unwrap();
        assert_eq!(peer.remote_ts.len(), 2);
        assert_eq!((peer.start, peer.mode, peer.encap), (StartAction::Always, Mode::Transport, EspOverUdp::Udp));
        assert_eq!((peer.dpd_s, peer.lifetimes), (0, Lifetimes { ike_s: 600, child_s: 60 }));
        assert!(!peer.kind.as_str().is_empty() && peer.local_address.is_some());
    }

    #[test]
    fn mistakes_are_named_by_line() {
        let svti = "kind = \"svti\"\naddress = \"10.1.1.1\"\n";
        for (text, wanted) in [
            (
                "kind = \"svti\"\n".to_owned(),
                "nf.toml:1: [[peer]] #1 address: is missing; a peer of the kind svti has one",
            ),
            (
                format!("{svti}connection = \"b\"\n"),
                "nf.toml:5: [[peer]] #1 connection: has no effect without backend = \"vici\"",
            ),
            (
                format!("{svti}backend = \"vici\"\ndpd_s = 3\n"),
                "nf.toml:6: [[peer]] #1 dpd_s: has no effect with backend = \"vici\"; set it in swanctl.conf",
            ),
            (
                format!("{svti}cert_file = \"c\"\npsk_file = \"p\"\n"),
                "nf.toml:5: [[peer]] #1 cert_file: is given beside `psk_file`; leave out one",
            ),
            (
                format!("{svti}cert_file = \"c\"\nkey_file = \"k\"\n"),
                "nf.toml:1: [[peer]] #1 ca_file: is missing; certificates need cert_file, key_file and ca_file",
            ),
            (
                format!("{svti}child_lifetime_s = 5\n"),
                "nf.toml:5: [[peer]] #1 child_lifetime_s: 5 isn't within 60 to 864000",
            ),
            (
                "kind = \"dynamic-map\"\nstart = \"always\"\n".to_owned(),
                "nf.toml:4: [[peer]] #1 start: `always` needs a peer of a static kind with a single address; use `on-demand`",
            ),
            (
                format!("{svti}mode = \"beet\"\n"),
                "nf.toml:5: [[peer]] #1 mode: `beet` isn't one of `tunnel`, `transport`",
            ),
            (format!("{svti}local_ts = [\"10.0.0\"]\n"), "nf.toml:5: [[peer]] #1 local_ts: "),
            (
                "kind = \"svti\"\naddress = \"10.1.1.1\"\n[recovery]\nback_off_s = 9\nback_off_max_s = 8\n".to_owned(),
                "nf.toml:7: [recovery] back_off_max_s: is shorter than back_off_s = 9",
            ),
        ] {
            let error = peer(&text).unwrap_err();
            assert!(error.starts_with(wanted), "{error}\n{wanted}");
        }
    }
}
