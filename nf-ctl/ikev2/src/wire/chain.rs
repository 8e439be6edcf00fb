//! Payloads one after another, each with the generic header (RFC 7296 3.2).

use super::error::{EmitError, ParseError, Place, Problem};
use super::octets::{Reader, Writer};
use super::payload::{Auth, Cert, CertReq, Delete, Id, Ke, Nonce, Notify, Payload, Sa, Ts};
use super::registry::{NotifyType, PayloadType};

/// The payloads that are taken of a message.
pub const MAX_PAYLOADS: usize = 256;

const CRITICAL: u8 = 0x80;

/// The payloads of a message, or what an SK payload holds, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Payloads<'a> {
    list: Vec<Payload<'a>>,
}

/// The octets of payloads, and the type of the first, which stands elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The type of the first payload; [`PayloadType::NONE`] if there is none.
    pub first: PayloadType,
    /// All payloads.
    pub octets: Vec<u8>,
}

impl<'a> Payloads<'a> {
    /// What an SK payload held, without its padding.
    pub fn parse(first: PayloadType, octets: &'a [u8]) -> Result<Payloads<'a>, ParseError> {
        let mut payloads = Payloads::default();
        let mut links = Links::new(first, octets);
        while let Some(link) = links.next()? {
            payloads.add(&link)?;
        }
        Ok(payloads)
    }

    /// Adds a payload that was received.
    pub(super) fn add(&mut self, link: &Link<'a>) -> Result<(), ParseError> {
        let place = Place::Payload(link.kind);
        if matches!(link.kind, PayloadType::SK | PayloadType::SKF) {
            return Err(ParseError { place, problem: Problem::Misplaced });
        }
        if self.list.len() == MAX_PAYLOADS {
            let problem = Problem::TooMany { what: "payloads", limit: MAX_PAYLOADS };
            return Err(ParseError { place: Place::Chain, problem });
        }
        let payload = Payload::parse(link.kind, link.critical, link.body)?;
        if !payload.may_repeat() && self.list.iter().any(|other| other.kind() == link.kind) {
            return Err(ParseError { place, problem: Problem::Repeated });
        }
        self.list.push(payload);
        Ok(())
    }

    /// The octets to send, or to encrypt.
    pub fn emit(&self) -> Result<Chain, EmitError> {
        let mut writer = Writer::default();
        let first = self.emit_to(PayloadType::NONE, &mut writer)?;
        Ok(Chain { first, octets: writer.into_vec() })
    }

    /// Writes the payloads, the last one announcing a payload of type `after`. Gives the type of the first.
    pub(super) fn emit_to(&self, after: PayloadType, to: &mut Writer) -> Result<PayloadType, EmitError> {
        let mut payloads = self.list.iter().peekable();
        let first = payloads.peek().map_or(after, |payload| payload.kind());
        while let Some(payload) = payloads.next() {
            to.u8(payloads.peek().map_or(after, |next| next.kind()).0);
            to.u8(0);
            let length = to.length(2);
            payload.emit(to)?;
            to.end(length, "octets in a payload")?;
        }
        Ok(first)
    }

    /// Adds a payload at the end.
    pub fn push(&mut self, payload: Payload<'a>) {
        self.list.push(payload);
    }

    /// The payloads in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Payload<'a>> {
        self.list.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The notifies of a type.
    pub fn notifies(&self, kind: NotifyType) -> impl Iterator<Item = &Notify<'a>> {
        self.all_notifies().filter(move |notify| notify.kind == kind)
    }

    /// The first notify of a type.
    pub fn notify(&self, kind: NotifyType) -> Option<&Notify<'a>> {
        self.notifies(kind).next()
    }

    /// The first notify that reports an error.
    pub fn error(&self) -> Option<&Notify<'a>> {
        self.all_notifies().find(|notify| notify.kind.is_error())
    }
}

/// A getter for a kind of payload that a message has at most once.
macro_rules! one {
    ($($(#[$doc:meta])* $name:ident: $variant:ident($kind:ty);)*) => {
        impl<'a> Payloads<'a> {
            $(
                $(#[$doc])*
                pub fn $name(&self) -> Option<&$kind> {
                    self.list.iter().find_map(|payload| match payload {
                        Payload::$variant(found) => Some(found),
                        _ => None,
                    })
                }
            )*
        }
    };
}

one! {
    /// The SA payload.
    sa: Sa(Sa);
    /// The KE payload.
    ke: Ke(Ke<'a>);
    /// The nonce.
    nonce: Nonce(Nonce<'a>);
    /// The initiator's identity.
    id_i: IdI(Id<'a>);
    /// The responder's identity.
    id_r: IdR(Id<'a>);
    /// The AUTH payload.
    auth: Auth(Auth<'a>);
    /// The initiator's traffic selectors.
    ts_i: TsI(Ts);
    /// The responder's traffic selectors.
    ts_r: TsR(Ts);
}

/// An iterator over a kind of payload that a message may have more than once.
macro_rules! several {
    ($($(#[$doc:meta])* $name:ident: $variant:ident($kind:ty);)*) => {
        impl<'a> Payloads<'a> {
            $(
                $(#[$doc])*
                pub fn $name(&self) -> impl Iterator<Item = &$kind> {
                    self.list.iter().filter_map(|payload| match payload {
                        Payload::$variant(found) => Some(found),
                        _ => None,
                    })
                }
            )*
        }
    };
}

several! {
    /// The certificates, the peer's own first.
    certs: Cert(Cert<'a>);
    /// The requests for certificates.
    cert_requests: CertReq(CertReq<'a>);
    /// All notifies.
    all_notifies: Notify(Notify<'a>);
    /// The Delete payloads.
    deletes: Delete(Delete);
}

impl<'a> From<Vec<Payload<'a>>> for Payloads<'a> {
    fn from(list: Vec<Payload<'a>>) -> Payloads<'a> {
        Payloads { list }
    }
}

impl<'a> Extend<Payload<'a>> for Payloads<'a> {
    fn extend<I: IntoIterator<Item = Payload<'a>>>(&mut self, payloads: I) {
        self.list.extend(payloads);
    }
}

impl<'p, 'a> IntoIterator for &'p Payloads<'a> {
    type Item = &'p Payload<'a>;
    type IntoIter = std::slice::Iter<'p, Payload<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A payload before a look at its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link<'a> {
    pub(super) kind: PayloadType,
    pub(super) critical: bool,
    pub(super) body: &'a [u8],
    /// The type of the payload after it. In an SK payload the type of the first one inside.
    pub(super) next: PayloadType,
}

/// The generic headers of a chain, one after another.
#[derive(Debug)]
pub(super) struct Links<'a> {
    next: PayloadType,
    rest: &'a [u8],
}

impl<'a> Links<'a> {
    pub(super) fn new(first: PayloadType, octets: &'a [u8]) -> Links<'a> {
        Links { next: first, rest: octets }
    }

    /// The next payload; none at the end of the chain, which has to be the end of the octets.
    pub(super) fn next(&mut self) -> Result<Option<Link<'a>>, ParseError> {
        let kind = self.next;
        if kind == PayloadType::NONE {
            Reader::new(self.rest, Place::Chain).finish()?;
            return Ok(None);
        }
        let mut reader = Reader::new(self.rest, Place::Payload(kind));
        let (next, flags, length) = (PayloadType(reader.u8()?), reader.u8()?, reader.u16()?);
        let body = reader.body(length, 4)?;
        self.rest = reader.rest();
        // What SK holds begins with the type that its header names: nothing can follow it outside.
        self.next = match kind {
            PayloadType::SK | PayloadType::SKF => PayloadType::NONE,
            _ => next,
        };
        Ok(Some(Link { kind, critical: flags & CRITICAL != 0, body, next }))
    }
}
