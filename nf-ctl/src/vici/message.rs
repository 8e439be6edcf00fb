//! charon's messages as it sends them, and what they mean to the agent.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};

use nf_core::types::Spi;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::backend::{ChildSa, ChildState, Connection, IkeSa, IkeSpis, IkeState};

/// What a command came to.
#[derive(Deserialize, Debug)]
pub(super) struct Outcome {
    pub(super) success: bool,
    #[serde(default)]
    pub(super) errmsg: Option<String>,
    /// SAs that a terminate or rekey was about.
    #[serde(default)]
    pub(super) matches: Option<u32>,
}

/// A line of charon's log about a command.
#[derive(Deserialize, Debug)]
pub(super) struct LogLine {
    pub(super) msg: String,
}

/// A message that has one section, named after a connection: `{ gw = { .. } }`; and beside it whether something came up.
#[derive(Debug)]
pub(super) struct Named<T> {
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) content: T,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Named<T>, D::Error> {
        struct Section<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Section<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a section named after a connection")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let (mut up, mut section) = (false, None);
                while let Some(key) = map.next_key::<String>()? {
                    // `up` is a value; a connection may not be called so, as VICI couldn't tell them apart either.
                    match key.as_str() {
                        "up" => up = map.next_value()?,
                        _ if section.is_none() => section = Some((key, map.next_value()?)),
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                let (name, content) = section.ok_or_else(|| de::Error::custom("it names no connection"))?;
                Ok(Named { name, up, content })
            }
        }

        deserializer.deserialize_map(Section(PhantomData))
    }
}

/// An IKE SA of list-sa, ike-updown, child-updown, child-rekey.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RawIke<C = BTreeMap<String, RawChild>> {
    pub(super) uniqueid: u32,
    version: u8,
    state: String,
    // Text: serde_vici isn't a human-readable format to serde, so an address would be read as octets.
    local_host: String,
    local_port: u16,
    #[serde(default)]
    local_id: String,
    remote_host: String,
    remote_port: u16,
    #[serde(default)]
    remote_id: String,
    #[serde(default)]
    initiator: bool,
    initiator_spi: String,
    responder_spi: String,
    #[serde(default)]
    established: u64,
    #[serde(default)]
    rekey_time: Option<u64>,
    #[serde(default)]
    reauth_time: Option<u64>,
    #[serde(default = "none")]
    pub(super) child_sas: Option<C>,
}

fn none<T>() -> Option<T> {
    None
}

/// A CHILD_SA of these.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RawChild {
    name: String,
    pub(super) uniqueid: u32,
    state: String,
    mode: String,
    #[serde(default)]
    encap: bool,
    #[serde(default)]
    spi_in: Option<String>,
    #[serde(default)]
    spi_out: Option<String>,
    #[serde(default)]
    bytes_in: u64,
    #[serde(default)]
    packets_in: u64,
    #[serde(default)]
    rekey_time: Option<u64>,
    #[serde(default)]
    install_time: u64,
    #[serde(default)]
    local_ts: Vec<String>,
    #[serde(default)]
    remote_ts: Vec<String>,
}

/// The CHILD_SA of child-rekey.
#[derive(Deserialize, Debug)]
pub(super) struct RawRekeyed {
    pub(super) old: RawChild,
    pub(super) new: RawChild,
}

impl<C> RawIke<C> {
    pub(super) fn is_at(&self, local: IpAddr) -> bool {
        address(&self.local_host) == Ok(local)
    }

    /// The IKE SA without its CHILD_SAs.
    pub(super) fn ike(&self, connection: &str) -> Result<IkeSa, String> {
        Ok(IkeSa {
            connection: connection.to_owned(),
            spis: IkeSpis { initiator: hex(&self.initiator_spi)?, responder: hex(&self.responder_spi)? },
            version: self.version,
            state: match self.state.as_str() {
                "CREATED" | "CONNECTING" => IkeState::Connecting,
                // A passive one is another node's of a cluster.
                "ESTABLISHED" | "PASSIVE" => IkeState::Established,
                "REKEYING" => IkeState::Rekeying,
                "REKEYED" | "DELETING" | "DESTROYING" => IkeState::Closing,
                other => return Err(format!("an IKE SA in the state `{other}`")),
            },
            local: SocketAddr::new(address(&self.local_host)?, self.local_port),
            remote: SocketAddr::new(address(&self.remote_host)?, self.remote_port),
            local_id: self.local_id.clone(),
            remote_id: self.remote_id.clone(),
            initiator: self.initiator,
            age_s: self.established,
            rekey_in_s: [self.rekey_time, self.reauth_time].into_iter().flatten().min(),
            children: Vec::new(),
        })
    }
}

impl RawIke {
    /// The IKE SA with its CHILD_SAs.
    pub(super) fn whole(&self, connection: &str) -> Result<IkeSa, String> {
        let children = self.child_sas.iter().flat_map(BTreeMap::values).map(RawChild::child);
        Ok(IkeSa { children: children.collect::<Result<_, _>>()?, ..self.ike(connection)? })
    }
}

impl RawChild {
    pub(super) fn child(&self) -> Result<ChildSa, String> {
        Ok(ChildSa {
            name: self.name.clone(),
            state: match self.state.as_str() {
                "CREATED" | "ROUTED" | "INSTALLING" | "RETRYING" => ChildState::Installing,
                "INSTALLED" | "UPDATING" => ChildState::Installed,
                "REKEYING" => ChildState::Rekeying,
                "REKEYED" | "DELETING" | "DELETED" | "DESTROYING" => ChildState::Closing,
                other => return Err(format!("a CHILD_SA in the state `{other}`")),
            },
            mode: self.mode.to_lowercase(),
            encap: self.encap,
            spi_in: self.spi_in()?,
            spi_out: self.spi_out.as_deref().map(spi).transpose()?,
            local_ts: self.local_ts.clone(),
            remote_ts: self.remote_ts.clone(),
            packets_in: self.packets_in,
            octets_in: self.bytes_in,
            age_s: self.install_time,
            rekey_in_s: self.rekey_time,
        })
    }

    pub(super) fn spi_in(&self) -> Result<Option<Spi>, String> {
        self.spi_in.as_deref().map(spi).transpose()
    }
}

fn spi(text: &str) -> Result<Spi, String> {
    u32::from_str_radix(text, 16).map(Spi).map_err(|_| format!("`{text}` in the place of an SPI"))
}

/// A link-local address comes with its interface, as in `fe80::1%eth0`.
fn address(text: &str) -> Result<IpAddr, String> {
    let (address, _) = text.split_once('%').unwrap_or((text, ""));
    address.parse().map_err(|_| format!("`{text}` in the place of an address"))
}

fn hex(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|_| format!("`{text}` in the place of an IKE SPI"))
}

/// A connection of list-conn. Its authentication rounds have names of the daemon's making, `local-1` and so on.
#[derive(Debug, Default)]
pub(super) struct RawConnection(pub(super) Connection);

impl<'de> Deserialize<'de> for RawConnection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawConnection, D::Error> {
        #[derive(Deserialize)]
        struct Round {
            #[serde(default)]
            id: Option<String>,
        }

        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = RawConnection;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a connection")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawConnection, A::Error> {
                let mut found = Connection::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "local_addrs" => found.local_addrs = map.next_value()?,
                        "remote_addrs" => found.remote_addrs = map.next_value()?,
                        "version" => {
                            found.version = match map.next_value::<String>()?.as_str() {
                                "IKEv1" => Some(1),
                                "IKEv2" => Some(2),
                                _ => None,
                            }
                        }
                        "children" => {
                            found.children = map.next_value::<BTreeMap<String, IgnoredAny>>()?.into_keys().collect();
                        }
                        round if round.starts_with("local") => found.local_ids.extend(map.next_value::<Round>()?.id),
                        round if round.starts_with("remote") => found.remote_ids.extend(map.next_value::<Round>()?.id),
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(RawConnection(found))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}
