//! The payloads: one type for each.
//!
//! A payload that was parsed borrows its octets from the message. One that is to be sent may borrow or own them.

use std::borrow::Cow;

mod auth;
mod cert;
mod cp;
mod id;
mod ke;
mod notify;
mod sa;
mod ts;

pub use auth::{Auth, DigitalSignature};
pub use cert::{Cert, CertReq};
pub use cp::{CfgAttribute, Cp, Eap, MAX_CFG_ATTRIBUTES};
pub use id::Id;
pub use ke::{Ke, Nonce};
pub use notify::{Delete, Notify};
pub use sa::{
    Attribute, AttributeValue, MAX_ATTRIBUTES, MAX_PROPOSALS, MAX_TRANSFORMS, Proposal, Sa, Transform, TransformId,
};
pub use ts::{AddressRange, IpSelector, TrafficSelector, Ts};

use super::error::{EmitError, ParseError, Place, Problem};
use super::octets::Writer;
use super::registry::PayloadType;

/// A payload that isn't encryption (RFC 7296 3.3 to 3.16).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Payload<'a> {
    /// Proposals, or the chosen one.
    Sa(Sa),
    /// A public value.
    Ke(Ke<'a>),
    /// The initiator's identity.
    IdI(Id<'a>),
    /// The responder's identity.
    IdR(Id<'a>),
    /// A certificate.
    Cert(Cert<'a>),
    /// A request for certificates.
    CertReq(CertReq<'a>),
    /// A proof of identity.
    Auth(Auth<'a>),
    /// A nonce.
    Nonce(Nonce<'a>),
    /// An error or a status.
    Notify(Notify<'a>),
    /// SAs that are gone.
    Delete(Delete),
    /// What the sender runs, or can do (RFC 7296 3.12).
    VendorId(Cow<'a, [u8]>),
    /// The initiator's traffic selectors.
    TsI(Ts),
    /// The responder's traffic selectors.
    TsR(Ts),
    /// Configuration.
    Cp(Cp<'a>),
    /// EAP.
    Eap(Eap<'a>),
    /// A type that isn't known here, to be skipped (RFC 7296 2.5).
    Unknown(Unknown<'a>),
}

/// A payload of a type that isn't known here.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Unknown<'a> {
    /// Its type.
    pub kind: PayloadType,
    /// Its content.
    pub body: Cow<'a, [u8]>,
}

impl<'a> Payload<'a> {
    /// Its type.
    pub fn kind(&self) -> PayloadType {
        match self {
            Payload::Sa(_) => PayloadType::SA,
            Payload::Ke(_) => PayloadType::KE,
            Payload::IdI(_) => PayloadType::IDI,
            Payload::IdR(_) => PayloadType::IDR,
            Payload::Cert(_) => PayloadType::CERT,
            Payload::CertReq(_) => PayloadType::CERTREQ,
            Payload::Auth(_) => PayloadType::AUTH,
            Payload::Nonce(_) => PayloadType::NONCE,
            Payload::Notify(_) => PayloadType::NOTIFY,
            Payload::Delete(_) => PayloadType::DELETE,
            Payload::VendorId(_) => PayloadType::VENDOR_ID,
            Payload::TsI(_) => PayloadType::TSI,
            Payload::TsR(_) => PayloadType::TSR,
            Payload::Cp(_) => PayloadType::CP,
            Payload::Eap(_) => PayloadType::EAP,
            Payload::Unknown(unknown) => unknown.kind,
        }
    }

    /// Whether a message may have more than one.
    pub(super) fn may_repeat(&self) -> bool {
        matches!(
            self,
            Payload::Cert(_)
                | Payload::CertReq(_)
                | Payload::Notify(_)
                | Payload::Delete(_)
                | Payload::VendorId(_)
                | Payload::Unknown(_)
        )
    }

    /// The payload with this body. The critical bit counts only for types that aren't known (RFC 7296 2.5).
    pub(super) fn parse(kind: PayloadType, critical: bool, body: &'a [u8]) -> Result<Payload<'a>, ParseError> {
        Ok(match kind {
            PayloadType::SA => Payload::Sa(Sa::parse(body)?),
            PayloadType::KE => Payload::Ke(Ke::parse(body)?),
            PayloadType::IDI => Payload::IdI(Id::parse(body, kind)?),
            PayloadType::IDR => Payload::IdR(Id::parse(body, kind)?),
            PayloadType::CERT => Payload::Cert(Cert::parse(body)?),
            PayloadType::CERTREQ => Payload::CertReq(CertReq::parse(body)?),
            PayloadType::AUTH => Payload::Auth(Auth::parse(body)?),
            PayloadType::NONCE => Payload::Nonce(Nonce::parse(body)?),
            PayloadType::NOTIFY => Payload::Notify(Notify::parse(body)?),
            PayloadType::DELETE => Payload::Delete(Delete::parse(body)?),
            PayloadType::VENDOR_ID => Payload::VendorId(body.into()),
            PayloadType::TSI => Payload::TsI(Ts::parse(body, kind)?),
            PayloadType::TSR => Payload::TsR(Ts::parse(body, kind)?),
            PayloadType::CP => Payload::Cp(Cp::parse(body)?),
            PayloadType::EAP => Payload::Eap(Eap::parse(body)?),
            _ if critical => {
                return Err(ParseError { place: Place::Payload(kind), problem: Problem::UnsupportedCritical });
            }
            _ => Payload::Unknown(Unknown { kind, body: body.into() }),
        })
    }

    pub(super) fn emit(&self, to: &mut Writer) -> Result<(), EmitError> {
        match self {
            Payload::Sa(sa) => sa.emit(to)?,
            Payload::Ke(ke) => ke.emit(to),
            Payload::IdI(id) | Payload::IdR(id) => id.emit(to),
            Payload::Cert(cert) => cert.emit(to),
            Payload::CertReq(request) => request.emit(to),
            Payload::Auth(auth) => auth.emit(to),
            Payload::Nonce(nonce) => to.bytes(&nonce.0),
            Payload::Notify(notify) => notify.emit(to)?,
            Payload::Delete(delete) => delete.emit(to)?,
            Payload::VendorId(id) => to.bytes(id),
            Payload::TsI(ts) | Payload::TsR(ts) => ts.emit(to)?,
            Payload::Cp(cp) => cp.emit(to)?,
            Payload::Eap(eap) => eap.emit(to)?,
            Payload::Unknown(unknown) => to.bytes(&unknown.body),
        }
        Ok(())
    }
}
