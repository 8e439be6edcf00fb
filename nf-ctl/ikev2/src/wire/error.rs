//! What can be wrong with a message.

use std::fmt;
use std::net::IpAddr;

use super::header::Version;
use super::payload::Notify;
use super::registry::{NotifyType, PayloadType};

/// Why a message can't be used: for a line in the log, and for the notify to answer with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ParseError {
    /// Where.
    pub place: Place,
    /// What.
    pub problem: Problem,
}

impl ParseError {
    /// The notify to answer a request with (RFC 7296 2.21, 2.5). Whether to answer at all is the state machine's decision: never to a
    /// response, and beyond IKE_SA_INIT only to what was authenticated.
    pub fn notify(&self) -> Notify<'static> {
        match (self.problem, self.place) {
            (Problem::MajorVersion(_), _) => Notify::new(NotifyType::INVALID_MAJOR_VERSION),
            (Problem::UnsupportedCritical, Place::Payload(kind)) => {
                Notify::with_data(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind.0])
            }
            _ => Notify::new(NotifyType::INVALID_SYNTAX),
        }
    }
}

/// The part of a message that is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The IKE header.
    Header,
    /// The order or number of payloads.
    Chain,
    /// A payload.
    Payload(PayloadType),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Header => f.write_str("IKE header"),
            Place::Chain => f.write_str("payloads"),
            Place::Payload(kind) => write!(f, "payload {kind}"),
        }
    }
}

/// What is wrong. All numbers of octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Problem {
    /// It ends too early.
    #[error("{needed} more octets are needed where {found} are left")]
    Short {
        /// What the next field needs.
        needed: usize,
        /// What is there.
        found: usize,
    },
    /// A length field can't be right.
    #[error("a length of {declared} octets is declared where {}", possible(*least, *there))]
    Length {
        /// What the field says.
        declared: u32,
        /// The least that it could say.
        least: usize,
        /// The most that it could say.
        there: usize,
    },
    /// It goes on after its end.
    #[error("{octets} octets follow after its end")]
    Trailing {
        /// How many.
        octets: usize,
    },
    /// A version of IKE that isn't 2.
    #[error("IKE version {0}, where only 2 is spoken")]
    MajorVersion(Version),
    /// A payload that must be understood, and isn't.
    #[error("marked as critical, and its type is unknown")]
    UnsupportedCritical,
    /// More of something than anybody needs.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Of what, in the plural.
        what: &'static str,
        /// How many are taken.
        limit: usize,
    },
    /// A payload that makes sense once.
    #[error("more than one in a message")]
    Repeated,
    /// SK or SKF where it may not stand: inside another, or before others.
    #[error("it must be the last payload of a message that isn't encrypted yet")]
    Misplaced,
    /// A field with a value that can't be.
    #[error("{field} is {value}, and has to be {expected}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// What it could say.
        expected: &'static str,
    },
    /// A traffic selector that ends before it begins.
    #[error("a traffic selector reaches from {start} to {end}, which is less")]
    Inverted {
        /// Its first address.
        start: IpAddr,
        /// Its last address.
        end: IpAddr,
    },
}

fn possible(least: usize, there: usize) -> String {
    if least == there { format!("{there} are there") } else { format!("{least} to {there} are possible") }
}

/// What can't be sent, as the field that counts it can't say so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("can't send {count} {what}: the limit is {limit}")]
pub struct EmitError {
    /// What there is too much of.
    pub what: &'static str,
    /// How much of it.
    pub count: usize,
    /// The most that the field can say.
    pub limit: usize,
}
