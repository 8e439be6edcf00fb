//! An SA as an operator, a file or IKE asks for it, and the check that makes a sound one of it.

use std::fmt;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};
use zeroize::Zeroizing;

use crate::crypto::{Integrity, Transform, TransformError};
use crate::policy::{Selector, Selectors};
use crate::sa::inbound::SaKey;
use crate::sa::lifetime::Lifetime;
use crate::sa::replay::WindowSize;
use crate::types::Spi;
use crate::wire::udp::NAT_T_PORT;

/// A value that doesn't do, by the name of its field. The message says what is wrong and what would be right, and holds
/// no octet of a key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl FieldError {
    /// An error about a field.
    pub fn new(field: &'static str, message: impl fmt::Display) -> FieldError {
        FieldError { field, message: message.to_string() }
    }
}

/// What somebody has written, for a message: not if it may be a key that has come into the wrong field.
pub(crate) struct Quoted<'t>(pub &'t str);

/// No address, name or number of ours has so many hex digits in a row, and no key has fewer.
const KEY_LIKE: usize = 16;

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_key_like = self.0.split(|c: char| !c.is_ascii_hexdigit()).any(|run| run.len() >= KEY_LIKE);
        if is_key_like { f.write_str("what looks like a key") } else { write!(f, "`{}`", self.0) }
    }
}

/// The longest name of a peer, in octets.
const MAX_PEER: usize = 255;

/// The raw form of an SA: an `[[sa]]` table of nf.toml, or what `nf-ctl sa add` sends. Keys are zeroised when it is
/// dropped, and not shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaSpec {
    /// SPI: a number, or a string such as "0xB761863E".
    #[serde(deserialize_with = "number_or_string")]
    pub spi: String,
    /// `in`: packets come in on it; `out`: they go out on it.
    #[serde(default = "default_direction", skip_serializing_if = "is_inbound")]
    pub direction: String,
    /// Outer source address: inbound the peer's, outbound ours.
    pub src: String,
    /// Outer destination address: inbound ours, outbound the peer's.
    pub dst: String,
    /// `tunnel` or `transport`.
    pub mode: String,
    /// The cipher.
    pub alg: String,
    /// The cipher's key in hex, for AEADs followed by the 4-octet salt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// A file that holds `key` instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The integrity algorithm, where the cipher doesn't authenticate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<String>,
    /// Its key in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_key: Option<Secret>,
    /// Extended sequence numbers.
    #[serde(default)]
    pub esn: bool,
    /// Packets of the anti-replay window; 0 for none.
    #[serde(default = "default_replay_window")]
    pub replay_window: u32,
    /// `none` or `udp`.
    #[serde(default = "default_encap")]
    pub encap: String,
    /// Outbound, with `encap = "udp"`: the peer's UDP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_port: Option<u16>,
    /// Outbound, tunnel mode, with `encap = "udp"`: the SPI of the inbound SA from the same peer. Where that one's authentic
    /// packets come from, this one's go to.
    #[serde(default, deserialize_with = "maybe_number_or_string", skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
    /// Outbound, tunnel mode: what the outer IPv4 header says of fragmentation: `copy`, `set` or `clear`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub df: Option<String>,
    /// Outbound: octets of the largest outer packet that the path takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
    /// What may be inside; empty for anything.
    #[serde(default)]
    pub selectors: SelectorSpec,
    /// The peer's name, for displays and events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// How long it may be used.
    #[serde(default, skip_serializing_if = "Lifetime::is_none")]
    pub lifetime: Lifetime,
}

/// Inner networks, each with protocol and ports in brackets if it is for those alone, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectorSpec {
    /// Inner source networks.
    #[serde(default)]
    pub src: Vec<String>,
    /// Inner destination networks.
    #[serde(default)]
    pub dst: Vec<String>,
}

fn default_direction() -> String {
    Direction::In.as_str().to_owned()
}

fn is_inbound(direction: &String) -> bool {
    direction == Direction::In.as_str()
}

fn default_replay_window() -> u32 {
    64
}

fn default_encap() -> String {
    Encap::None.as_str().to_owned()
}

fn number_or_string<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number or a string such as \"0xB761863E\"")]
    enum Either {
        Number(i64),
        Text(String),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Number(number) => number.to_string(),
        Either::Text(text) => text,
    })
}

fn maybe_number_or_string<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    number_or_string(deserializer).map(Some)
}

/// Text that is zeroised when dropped and never shown.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct Secret(#[serde(serialize_with = "expose")] Zeroizing<String>);

/// Only for the control socket, over which `nf-ctl sa add` sends it.
fn expose<S: serde::Serializer>(secret: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret)
}

impl Secret {
    /// Takes a text as a secret.
    pub fn new(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }

    /// The octets that the text writes in hex. The error tells where it goes wrong, and nothing of the text.
    fn decode(&self, field: &'static str) -> Result<Zeroizing<Vec<u8>>, FieldError> {
        let text = self.0.trim();
        let text = text.strip_prefix("0x").unwrap_or(text);
        unhex(text).map_err(|error| match error {
            hex::FromHexError::InvalidHexCharacter { index, .. } => {
                FieldError::new(field, format_args!("character {} isn't a hex digit", index + 1))
            }
            hex::FromHexError::OddLength | hex::FromHexError::InvalidStringLength => {
                FieldError::new(field, "has an odd number of hex digits; each octet takes two")
            }
        })
    }
}

/// Decodes hex into memory that is set aside at once: a vector that grows leaves the key's beginning behind.
pub fn unhex(text: &str) -> Result<Zeroizing<Vec<u8>>, hex::FromHexError> {
    let mut octets = Zeroizing::new(vec![0; text.len() / 2]);
    hex::decode_to_slice(text, &mut octets)?;
    Ok(octets)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        /// Tells what was found by its kind: serde's own messages quote the value.
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string of hex digits")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret::new(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Secret, E> {
                Ok(Secret::new(text))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
                Err(E::custom("expected a string of hex digits, found a number: put it in quotes"))
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
                self.visit_i64(0)
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
                self.visit_i64(0)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

macro_rules! names {
    ($(#[$doc:meta])* $type:ident $field:literal { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $type {
            /// The name in nf.toml.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($type::$variant => $name,)*
                }
            }
        }

        impl FromStr for $type {
            type Err = FieldError;

            fn from_str(name: &str) -> Result<$type, FieldError> {
                match name {
                    $($name => Ok($type::$variant),)*
                    _ => {
                        let names = [$($name),*].join("`, `");
                        Err(FieldError::new($field, format_args!("{} isn't one of `{names}`", $crate::sa::spec::Quoted(name))))
                    }
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use names;

names! {
    /// Which way packets go on an SA.
    Direction "direction" {
        /// To us: decapsulation.
        In = "in",
        /// To the peer: encapsulation.
        Out = "out",
    }
}

names! {
    /// What a tunnel's outer IPv4 header says of fragmentation (RFC 4301 8.1).
    Df "df" {
        /// What the inner packet says; an IPv6 packet is never fragmented on its way.
        Copy = "copy",
        /// Not to be fragmented.
        Set = "set",
        /// Routers may fragment it.
        Clear = "clear",
    }
}

names! {
    /// What ESP protects (RFC 4301 3.2).
    Mode "mode" {
        /// Whole packets behind an outer header.
        Tunnel = "tunnel",
        /// The payload of the packet that it is in.
        Transport = "transport",
    }
}

names! {
    /// What ESP travels in.
    Encap "encap" {
        /// IP.
        None = "none",
        /// UDP (RFC 3948).
        Udp = "udp",
    }
}

/// A sound SA, ready to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SaParams {
    /// SPI.
    pub spi: Spi,
    /// Which way packets go.
    pub direction: Direction,
    /// Outer source address.
    pub src: IpAddr,
    /// Outer destination address.
    pub dst: IpAddr,
    /// Tunnel or transport mode.
    pub mode: Mode,
    /// The encapsulation that was agreed.
    pub encap: Encap,
    /// Outbound: the peer's UDP port.
    pub peer_port: u16,
    /// Outbound: the inbound SA, from the peer's address to ours, whose packets show where the peer is.
    pub follows: Option<Spi>,
    /// Outbound: the outer DF bit.
    pub df: Df,
    /// Outbound: octets of the largest outer packet that the path takes, if that is known.
    pub path_mtu: Option<u16>,
    /// Algorithms and keys.
    pub transform: Transform,
    /// Packets of the anti-replay window.
    pub replay_window: WindowSize,
    /// What may be inside.
    pub selectors: Selectors,
    /// The peer's name, if it was given one.
    pub peer: Option<String>,
    /// How long it may be used.
    pub lifetime: Lifetime,
}

impl SaParams {
    /// What the SA is found by.
    pub fn key(&self) -> SaKey {
        SaKey { spi: self.spi, dst: self.dst, src: self.src }
    }

    /// The outer address that is ours.
    pub fn local(&self) -> IpAddr {
        match self.direction {
            Direction::In => self.dst,
            Direction::Out => self.src,
        }
    }

    /// Whether packets may come on it twice: it is inbound and has no replay window.
    pub fn takes_replays(&self) -> bool {
        self.direction == Direction::In && self.replay_window.get() == 0
    }
}

/// The smallest path MTU that an SA can have: what every link of IPv4 carries, less would leave no room for a packet
/// (RFC 791 3.2).
const MIN_PATH_MTU: u16 = 576;

impl SaSpec {
    /// Checks every field, and reads `key_file`.
    pub fn validate(&self) -> Result<SaParams, FieldError> {
        let (src, dst) = (address("src", &self.src)?, address("dst", &self.dst)?);
        if src.is_ipv4() != dst.is_ipv4() {
            return Err(FieldError::new("dst", format_args!("{dst} isn't of the same IP version as src = {src}")));
        }
        let direction = self.direction.parse()?;
        self.refuse_what_is_outbound(direction)?;
        let (mode, encap) = (self.mode.parse()?, self.encap.parse()?);
        Ok(SaParams {
            spi: spi("spi", &self.spi)?,
            direction,
            src,
            dst,
            mode,
            encap,
            peer_port: match self.peer_port {
                Some(0) => return Err(FieldError::new("peer_port", "0 isn't a port; use 1 to 65535")),
                port => port.unwrap_or(NAT_T_PORT),
            },
            follows: match &self.follows {
                Some(_) if (mode, encap) != (Mode::Tunnel, Encap::Udp) => {
                    let message =
                        "is for SAs with mode = \"tunnel\" and encap = \"udp\": only behind a NAT does a peer move";
                    return Err(FieldError::new("follows", message));
                }
                follows => follows.as_deref().map(|text| spi("follows", text)).transpose()?,
            },
            df: self.df.as_deref().map_or(Ok(Df::Copy), str::parse)?,
            path_mtu: match self.path_mtu {
                Some(mtu) if mtu < MIN_PATH_MTU => {
                    let message = format!("{mtu} isn't within {MIN_PATH_MTU} to {}", u16::MAX);
                    return Err(FieldError::new("path_mtu", message));
                }
                mtu => mtu,
            },
            transform: self.transform()?,
            replay_window: self.replay_window.try_into().map_err(|error| FieldError::new("replay_window", error))?,
            selectors: Selectors {
                src: selectors("selectors.src", &self.selectors.src)?,
                dst: selectors("selectors.dst", &self.selectors.dst)?,
            },
            peer: self.peer()?,
            lifetime: self.lifetime.check().map(|()| self.lifetime)?,
        })
    }

    fn refuse_what_is_outbound(&self, direction: Direction) -> Result<(), FieldError> {
        let given = [
            ("peer_port", self.peer_port.is_some()),
            ("follows", self.follows.is_some()),
            ("df", self.df.is_some()),
            ("path_mtu", self.path_mtu.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given && direction == Direction::In) {
            Some((field, _)) => Err(FieldError::new(field, "is for SAs with direction = \"out\"")),
            None => Ok(()),
        }
    }

    fn peer(&self) -> Result<Option<String>, FieldError> {
        match &self.peer {
            Some(name) if name.is_empty() || name.len() > MAX_PEER || name.chars().any(char::is_control) => {
                let message = format_args!("isn't 1 to {MAX_PEER} octets of text on one line").to_string();
                Err(FieldError::new("peer", message))
            }
            peer => Ok(peer.clone()),
        }
    }

    fn transform(&self) -> Result<Transform, FieldError> {
        let cipher = self.alg.parse().map_err(|error: TransformError| FieldError::new("alg", error))?;
        let key = match (&self.key, &self.key_file) {
            (Some(key), None) => key.decode("key")?,
            (None, Some(path)) => read_secret(path).and_then(|secret| secret.decode("key_file"))?,
            (None, None) if self.alg == "null" => Zeroizing::default(),
            (None, None) => return Err(FieldError::new("key", "is missing; give `key` or `key_file`")),
            (Some(_), Some(_)) => return Err(FieldError::new("key_file", "is given beside `key`; leave out one")),
        };
        let integrity = self.auth.as_deref().map(Integrity::from_str).transpose();
        let integrity = integrity.map_err(|error| FieldError::new("auth", error))?;
        let auth_key = self.auth_key.as_ref().map(|key| key.decode("auth_key")).transpose()?;
        let auth = match (integrity, &auth_key) {
            (Some(integrity), Some(key)) => Some((integrity, key.as_slice())),
            (None, None) => None,
            (Some(_), None) => return Err(FieldError::new("auth_key", "is missing; `auth` needs a key")),
            (None, Some(_)) => return Err(FieldError::new("auth", "is missing; `auth_key` is given without it")),
        };
        Transform::new(cipher, &key, auth, self.esn).map_err(|error| {
            let field = match error {
                TransformError::KeyLength { .. } => "key",
                TransformError::AuthKeyLength { .. } => "auth_key",
                _ => "auth",
            };
            FieldError::new(field, error)
        })
    }
}

fn spi(field: &'static str, text: &str) -> Result<Spi, FieldError> {
    let number = |_| format!("{} isn't a number of 32 bits, decimal or with 0x in hex", Quoted(text));
    let spi: Spi = text.parse().map_err(number).map_err(|message| FieldError::new(field, message))?;
    if spi.is_assignable() {
        return Ok(spi);
    }
    let message = format!("{} is reserved (RFC 4303 2.1); use 256 to 4294967295", spi.0);
    Err(FieldError::new(field, message))
}

pub(crate) fn address(field: &'static str, text: &str) -> Result<IpAddr, FieldError> {
    text.parse().map_err(|_| FieldError::new(field, format_args!("{} isn't an IP address", Quoted(text))))
}

pub(crate) fn selectors(field: &'static str, list: &[String]) -> Result<Box<[Selector]>, FieldError> {
    list.iter().map(|text| text.parse().map_err(|error| FieldError::new(field, error))).collect()
}

/// Reads a file that holds a secret, and insists that nobody else can.
pub fn read_secret(path: &Path) -> Result<Secret, FieldError> {
    let error = |problem: &dyn fmt::Display| FieldError::new("key_file", format_args!("{}: {problem}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|e| error(&e))?;
    if !metadata.is_file() {
        return Err(error(&"isn't a regular file"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(error(&"others than its owner may access it; run: chmod 600 on it"));
    }
    // An AES-256 key is 72 digits long; nothing larger is a key.
    if metadata.len() > 4096 {
        return Err(error(&"is too large to hold a key in hex"));
    }
    std::fs::read_to_string(path).map(Secret::new).map_err(|e| error(&e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn spec(change: impl FnOnce(&mut serde_json::Value)) -> Result<SaSpec, serde_json::Error> {
        let mut json = serde_json::json!({
            "spi": 3_076_621_886u32, "src": "10.1.1.1", "dst": "10.10.1.2", "mode": "tunnel",
            "alg": "aes-gcm-16", "key": "5a".repeat(20),
        });
        change(&mut json);
        serde_json::from_value(json)
    }

    fn refusal(change: impl FnOnce(&mut serde_json::Value)) -> String {
        spec(change).unwrap().validate().unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_those_of_the_interface() {
        let params = spec(|_| ()).unwrap().validate().unwrap();
        assert_eq!((params.spi, params.mode, params.encap), (Spi(0xB761_863E), Mode::Tunnel, Encap::None));
        assert_eq!((params.replay_window.get(), params.transform.esn()), (64, false));
        assert_eq!(params.selectors, Selectors::default());
    }

    #[test]
    fn an_spi_may_be_text() {
        let params = spec(|sa| sa["spi"] = "0xFF000001".into()).unwrap().validate().unwrap();
        assert_eq!(params.spi, Spi(0xFF00_0001));
    }

    #[test]
    fn each_bad_field_is_named_with_its_mend() {
        let cases: [(&str, serde_json::Value, &str); 11] = [
            ("spi", 255.into(), "spi: 255 is reserved (RFC 4303 2.1); use 256 to 4294967295"),
            ("spi", (-1).into(), "spi: `-1` isn't a number of 32 bits, decimal or with 0x in hex"),
            ("src", "10.1.1".into(), "src: `10.1.1` isn't an IP address"),
            ("src", "2001:db8::1".into(), "dst: 10.10.1.2 isn't of the same IP version as src = 2001:db8::1"),
            ("mode", "beet".into(), "mode: `beet` isn't one of `tunnel`, `transport`"),
            ("encap", "tcp".into(), "encap: `tcp` isn't one of `none`, `udp`"),
            (
                "replay_window",
                16.into(),
                "replay_window: a replay window of 16 packets isn't possible: set 32 to 65536, or 0 to switch replay protection off",
            ),
            ("key", "5a5".into(), "key: has an odd number of hex digits; each octet takes two"),
            ("key", "5a5g".into(), "key: character 4 isn't a hex digit"),
            ("auth_key", "00".into(), "auth: is missing; `auth_key` is given without it"),
            (
                "selectors",
                serde_json::json!({"src": ["10.0.0.1/8"]}),
                "selectors.src: `10.0.0.1/8` has bits set behind its length; the network is 10.0.0.0/8",
            ),
        ];
        for (field, value, expected) in cases {
            assert_eq!(refusal(|sa| sa[field] = value), expected);
        }
    }

    #[test]
    fn outbound_sas_have_fields_of_their_own() {
        let outbound = |sa: &mut serde_json::Value| sa["direction"] = "out".into();
        let params = spec(outbound).unwrap().validate().unwrap();
        assert_eq!((params.direction, params.df, params.path_mtu), (Direction::Out, Df::Copy, None));
        assert_eq!((params.peer_port, params.local()), (4500, params.src));
        for (field, value, expected) in [
            ("peer_port", 0.into(), "peer_port: 0 isn't a port; use 1 to 65535"),
            ("df", "keep".into(), "df: `keep` isn't one of `copy`, `set`, `clear`"),
            ("path_mtu", 575.into(), "path_mtu: 575 isn't within 576 to 65535"),
            ("direction", "both".into(), "direction: `both` isn't one of `in`, `out`"),
        ] {
            let refused: (&str, serde_json::Value) = (field, value);
            assert_eq!(
                refusal(|sa| {
                    outbound(sa);
                    sa[refused.0] = refused.1;
                }),
                expected
            );
        }
        for (field, value) in [("peer_port", 4500.into()), ("df", "set".into()), ("path_mtu", 1400.into())] {
            let value: serde_json::Value = value;
            let expected = format!("{field}: is for SAs with direction = \"out\"");
            assert_eq!(refusal(|sa| sa[field] = value), expected);
        }
        let text = serde_json::to_string(&spec(|_| ()).unwrap()).unwrap();
        assert!(!text.contains("direction"), "a daemon of before takes an inbound SA: {text}");
    }

    #[test]
    fn algorithm_and_keys_must_fit() {
        assert!(refusal(|sa| sa["alg"] = "aes-cbc".into()).starts_with("key: aes-cbc takes a key of 16 or 24 or 32"));
        let cbc = |sa: &mut serde_json::Value| {
            sa["alg"] = "aes-cbc".into();
            sa["key"] = "00".repeat(16).into();
        };
        assert!(refusal(cbc).starts_with("auth: aes-cbc doesn't authenticate"));
        let no_key = |sa: &mut serde_json::Value| {
            cbc(sa);
            sa["auth"] = "hmac-sha1-96".into();
        };
        assert_eq!(refusal(no_key), "auth_key: is missing; `auth` needs a key");
        assert_eq!(refusal(|sa| sa["key"] = serde_json::Value::Null), "key: is missing; give `key` or `key_file`");
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        let error = spec(|sa| sa["colour"] = "red".into()).unwrap_err().to_string();
        assert!(error.contains("unknown field `colour`"), "{error}");
    }

    #[test]
    fn no_key_is_shown() {
        let secret = "a1b2c3d4".repeat(5);
        let shown = format!("{:?}", spec(|sa| sa["key"] = secret.clone().into()).unwrap());
        assert!(!shown.contains("a1b2"), "{shown}");
        let number = spec(|sa| sa["key"] = 12_345_678.into()).unwrap_err().to_string();
        assert!(!number.contains("12345678"), "{number}");
    }

    #[test]
    fn a_key_in_the_wrong_field_is_not_shown() {
        let secret = "a1b2c3d4".repeat(5);
        for field in ["spi", "src", "dst", "mode", "alg", "encap", "auth"] {
            let shown = refusal(|sa| sa[field] = secret.clone().into());
            assert!(shown.contains(field) && !shown.contains("a1b2"), "{shown}");
        }
        let shown = refusal(|sa| sa["selectors"] = serde_json::json!({"src": [secret]}));
        assert!(shown.starts_with("selectors.src: what looks like a key isn't a network"), "{shown}");
        assert_eq!(refusal(|sa| sa["mode"] = "tunel".into()), "mode: `tunel` isn't one of `tunnel`, `transport`");
    }

    #[test]
    fn a_key_file_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, format!("{}\n", "5a".repeat(20))).unwrap();
        let with_file = |sa: &mut serde_json::Value| {
            sa["key"] = serde_json::Value::Null;
            sa["key_file"] = path.to_str().unwrap().into();
        };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(refusal(with_file).ends_with("others than its owner may access it; run: chmod 600 on it"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(spec(with_file).unwrap().validate().is_ok());
        std::fs::remove_file(&path).unwrap();
        assert!(refusal(with_file).contains("No such file"));
    }
}
