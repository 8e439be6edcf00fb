//! KE and nonce payloads (RFC 7296 3.4, 3.9).

use std::borrow::Cow;

use crate::wire::error::{ParseError, Place, Problem};
use crate::wire::octets::{Reader, Writer};
use crate::wire::registry::{DhGroup, PayloadType};

/// A KE payload: one side's public value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ke<'a> {
    /// The method, or group, that it is of.
    pub group: DhGroup,
    /// The value, in the form that the method defines.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Ke<'a> {
    /// A public value.
    pub fn new(group: DhGroup, data: impl Into<Cow<'a, [u8]>>) -> Ke<'a> {
        Ke { group, data: data.into() }
    }

    pub(super) fn parse(body: &'a [u8]) -> Result<Ke<'a>, ParseError> {
        let mut reader = Reader::new(body, Place::Payload(PayloadType::KE));
        let group = DhGroup(reader.u16()?);
        let _reserved = reader.u16()?;
        Ok(Ke::new(group, reader.rest()))
    }

    pub(super) fn emit(&self, to: &mut Writer) {
        to.u16(self.group.0);
        to.u16(0);
        to.bytes(&self.data);
    }
}

/// A nonce: 16 to 256 octets.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Nonce<'a>(pub Cow<'a, [u8]>);

impl<'a> Nonce<'a> {
    /// The fewest octets of a nonce.
    pub const MIN_LEN: usize = 16;
    /// The most octets of a nonce.
    pub const MAX_LEN: usize = 256;

    /// A nonce.
    pub fn new(octets: impl Into<Cow<'a, [u8]>>) -> Nonce<'a> {
        Nonce(octets.into())
    }

    pub(super) fn parse(body: &'a [u8]) -> Result<Nonce<'a>, ParseError> {
        if !(Nonce::MIN_LEN..=Nonce::MAX_LEN).contains(&body.len()) {
            return Err(ParseError {
                place: Place::Payload(PayloadType::NONCE),
                problem: Problem::Value {
                    field: "number of octets",
                    value: body.len() as u64,
                    expected: "16 to 256 (RFC 7296 3.9)",
                },
            });
        }
        Ok(Nonce::new(body))
    }
}
