//! What a client is told as it happens.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Endpoint;
use crate::notify::Class;
use crate::sa::lifetime::{Limit, Unit};
use crate::types::Spi;

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// What can be subscribed to.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum EventKind {
            $($(#[$doc])* $variant,)*
        }

        impl EventKind {
            /// All of them.
            pub const ALL: &'static [EventKind] = &[$(EventKind::$variant,)*];

            /// The name on the socket and on the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(EventKind::$variant => $name,)*
                }
            }
        }

        impl std::str::FromStr for EventKind {
            type Err = String;

            fn from_str(name: &str) -> Result<EventKind, String> {
                let known = EventKind::ALL.iter().copied();
                known.clone().find(|kind| kind.name() == name).ok_or_else(|| {
                    let names = known.map(EventKind::name).collect::<Vec<_>>().join(", ");
                    format!("there is no kind of event `{name}`; there are {names}")
                })
            }
        }
    };
}

event_kinds! {
    /// A packet on an SPI that no SA has.
    InvalidSpi "invalid-spi",
    /// The first authentic packet on an SA.
    SaFirstPacket "sa-first-packet",
    /// An SA has reached a limit of its lifetime.
    SaLifetime "sa-lifetime",
    /// An SA's source address or port has changed.
    SaAddressChanged "sa-address-changed",
    /// Packets of an SA came again, or too late for its replay window.
    SaReplay "sa-replay",
    /// Packets on an SA whose integrity check value is wrong.
    SaAuthFailure "sa-auth-failure",
    /// A reserved SPI ran out before it became an SA.
    SaReservationExpired "sa-reservation-expired",
    /// The recovery of a peer has failed.
    RecoveryFailed "recovery-failed",
    /// A packet is to be protected, and there is no SA.
    SaWanted "sa-wanted",
}

/// A line of the event stream.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventLine {
    /// An event.
    Event(EventReport),
    /// The last line: why the stream ends.
    Error(String),
}

/// An event. `at_ns` is the time at which it was seen, in nanoseconds of the daemon's clock, which begins with the daemon
/// and never jumps.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EventReport {
    /// Packets on an SPI that no SA has: of each flow the first one, then at most one event a second.
    InvalidSpi(InvalidSpiEvent),
    /// The first authentic packet on an SA: the peer uses it.
    SaFirstPacket {
        /// The SA.
        #[serde(flatten)]
        sa: SaId,
        /// When.
        at_ns: u64,
    },
    /// An SA has reached a limit of its lifetime: at a soft one it is to be rekeyed, at a hard one it is deleted.
    SaLifetime {
        /// The SA.
        #[serde(flatten)]
        sa: SaId,
        /// Soft or hard.
        limit: Limit,
        /// Of what.
        unit: Unit,
        /// When.
        at_ns: u64,
    },
    /// Packets of an SA were refused as replays: at most one event a second for an SA.
    SaReplay {
        /// The SA.
        #[serde(flatten)]
        sa: SaId,
        /// Packets since the last such event.
        packets: u64,
        /// When it was noticed.
        at_ns: u64,
    },
    /// Packets on an SA were not authentic: at most one event a second for an SA.
    SaAuthFailure {
        /// The SA.
        #[serde(flatten)]
        sa: SaId,
        /// Packets since the last such event.
        packets: u64,
        /// When it was noticed.
        at_ns: u64,
    },
    /// The newest authentic packet of an SA came from another address or port than the one before: a NAT has
    /// changed its mapping, or the peer has moved.
    SaAddressChanged {
        /// The SA, with the source that it was installed with.
        #[serde(flatten)]
        sa: SaId,
        /// Where packets came from before.
        from: Endpoint,
        /// Where they come from now.
        to: Endpoint,
        /// When.
        at_ns: u64,
    },
    /// A reserved SPI ran out before it became an SA. It is free again.
    SaReservationExpired {
        /// SPI.
        spi: Spi,
        /// Outer destination.
        dst: IpAddr,
        /// Outer source, if the reservation named one.
        src: Option<IpAddr>,
        /// When.
        at_ns: u64,
    },
    /// The recovery of a peer has failed, as the agent says.
    RecoveryFailed {
        /// The peer's name.
        peer: String,
        /// Its address, if known.
        src: Option<IpAddr>,
        /// The invalid SPI, if there was one.
        spi: Option<Spi>,
        /// Why.
        reason: String,
        /// When the agent said so.
        at_ns: u64,
    },
    /// Packets that a policy protects found no SA: of each flow the first one, then at most one event a second.
    SaWanted {
        /// The peer whose SA is wanted, if the policy names one.
        peer: Option<String>,
        /// Inner source.
        src: IpAddr,
        /// Inner destination.
        dst: IpAddr,
        /// Packets of the flow since its last event, as far as cores have counted them apart: at least one.
        packets: u64,
        /// When.
        at_ns: u64,
    },
    /// The subscriber was too slow: so many events were lost for it.
    Lost {
        /// How many.
        count: u64,
    },
    /// An event that this release doesn't know.
    #[serde(other)]
    Unknown,
}

impl EventReport {
    /// What can be subscribed to, to get this; none for what comes unasked.
    pub const fn kind(&self) -> Option<EventKind> {
        match self {
            EventReport::InvalidSpi(_) => Some(EventKind::InvalidSpi),
            EventReport::SaFirstPacket { .. } => Some(EventKind::SaFirstPacket),
            EventReport::SaLifetime { .. } => Some(EventKind::SaLifetime),
            EventReport::SaAddressChanged { .. } => Some(EventKind::SaAddressChanged),
            EventReport::SaReplay { .. } => Some(EventKind::SaReplay),
            EventReport::SaAuthFailure { .. } => Some(EventKind::SaAuthFailure),
            EventReport::SaReservationExpired { .. } => Some(EventKind::SaReservationExpired),
            EventReport::RecoveryFailed { .. } => Some(EventKind::RecoveryFailed),
            EventReport::SaWanted { .. } => Some(EventKind::SaWanted),
            EventReport::Lost { .. } | EventReport::Unknown => None,
        }
    }

    /// When it was seen, in nanoseconds of the daemon's clock; 0 for what has no time.
    pub const fn at_ns(&self) -> u64 {
        match self {
            EventReport::InvalidSpi(InvalidSpiEvent { at_ns, .. })
            | EventReport::SaFirstPacket { at_ns, .. }
            | EventReport::SaLifetime { at_ns, .. }
            | EventReport::SaReplay { at_ns, .. }
            | EventReport::SaAuthFailure { at_ns, .. }
            | EventReport::SaAddressChanged { at_ns, .. }
            | EventReport::SaReservationExpired { at_ns, .. }
            | EventReport::RecoveryFailed { at_ns, .. }
            | EventReport::SaWanted { at_ns, .. } => *at_ns,
            EventReport::Lost { .. } | EventReport::Unknown => 0,
        }
    }
}

/// Packets on an SPI that no SA has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InvalidSpiEvent {
    /// SPI.
    pub spi: Spi,
    /// Outer source.
    pub src: IpAddr,
    /// Outer destination.
    pub dst: IpAddr,
    /// UDP ports of the last packet, source first, if it came in UDP.
    pub udp_ports: Option<(u16, u16)>,
    /// Whether it passes or the peer is stuck.
    pub class: Class,
    /// Packets of the flow since its last event, as far as cores have counted them apart: at least one.
    pub packets: u64,
    /// The sequence number of the last packet.
    pub seq: u32,
    /// The port that it came in on.
    pub interface: String,
    /// When.
    pub at_ns: u64,
}

/// An SA, as events name it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SaId {
    /// SPI.
    pub spi: Spi,
    /// Outer source.
    pub src: IpAddr,
    /// Outer destination.
    pub dst: IpAddr,
    /// The peer's name, if the SA has one.
    #[serde(default)]
    pub peer: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_lines_of_this_shape() {
        let (src, dst): (IpAddr, IpAddr) = ("10.1.1.1".parse().unwrap(), "10.10.1.2".parse().unwrap());
        let sa = SaId { spi: Spi(256), src, dst, peer: Some("branch".to_owned()) };
        let invalid = InvalidSpiEvent {
            spi: Spi(256),
            src,
            dst,
            udp_ports: Some((61000, 4500)),
            class: Class::Transient,
            packets: 7,
            seq: 1,
            interface: "wan".to_owned(),
            at_ns: 5,
        };
        let (from, to) = (Endpoint { address: src, port: None }, Endpoint { address: dst, port: Some(4500) });
        for (event, wanted) in [
            (
                EventReport::InvalidSpi(invalid),
                json!({"kind": "invalid-spi", "spi": 256, "src": "10.1.1.1", "dst": "10.10.1.2", "udp_ports": [61000, 4500],
                       "class": "transient", "packets": 7, "seq": 1, "interface": "wan", "at_ns": 5}),
            ),
            (
                EventReport::SaFirstPacket { sa: sa.clone(), at_ns: 5 },
                json!({"kind": "sa-first-packet", "spi": 256, "src": "10.1.1.1", "dst": "10.10.1.2", "peer": "branch",
                       "at_ns": 5}),
            ),
            (
                EventReport::SaLifetime { sa: sa.clone(), limit: Limit::Soft, unit: Unit::Bytes, at_ns: 5 },
                json!({"kind": "sa-lifetime", "spi": 256, "src": "10.1.1.1", "dst": "10.10.1.2", "peer": "branch",
                       "limit": "soft", "unit": "bytes", "at_ns": 5}),
            ),
            (
                EventReport::SaReplay { sa: sa.clone(), packets: 9, at_ns: 5 },
                json!({"kind": "sa-replay", "spi": 256, "src": "10.1.1.1", "dst": "10.10.1.2", "peer": "branch",
                       "packets": 9, "at_ns": 5}),
            ),
            (
                EventReport::SaAddressChanged { sa, from, to, at_ns: 5 },
                json!({"kind": "sa-address-changed", "spi": 256, "src": "10.1.1.1", "dst": "10.10.1.2", "peer": "branch",
                       "from": {"address": "10.1.1.1", "port": null}, "to": {"address": "10.10.1.2", "port": 4500},
                       "at_ns": 5}),
            ),
            (
                EventReport::SaReservationExpired { spi: Spi(256), dst, src: None, at_ns: 5 },
                json!({"kind": "sa-reservation-expired", "spi": 256, "dst": "10.10.1.2", "src": null, "at_ns": 5}),
            ),
            (EventReport::Lost { count: 3 }, json!({"kind": "lost", "count": 3})),
        ] {
            let line = serde_json::to_value(EventLine::Event(event.clone())).unwrap();
            assert_eq!(line, json!({"event": wanted}));
            assert_eq!(serde_json::from_value::<EventLine>(line).unwrap(), EventLine::Event(event));
        }
        let newer = json!({"event": {"kind": "of-a-later-release", "field": 1}});
        assert_eq!(serde_json::from_value::<EventLine>(newer).unwrap(), EventLine::Event(EventReport::Unknown));
    }
}
