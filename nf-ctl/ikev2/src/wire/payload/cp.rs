//! Configuration and EAP payloads (RFC 7296 3.15, 3.16).

use std::borrow::Cow;
use std::fmt;

use crate::wire::error::{EmitError, ParseError, Place, Problem};
use crate::wire::octets::{Reader, Writer};
use crate::wire::registry::{CfgAttributeType, CfgType, EapCode, PayloadType};

/// The attributes that are taken of a CP payload.
pub const MAX_CFG_ATTRIBUTES: usize = 256;

/// A CP payload: addresses and the like that one side asks of the other.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cp<'a> {
    /// Its direction.
    pub kind: CfgType,
    /// What is asked for, or given.
    pub attributes: Vec<CfgAttribute<'a>>,
}

/// An attribute of a CP payload.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CfgAttribute<'a> {
    /// Which, below 32768.
    pub kind: CfgAttributeType,
    /// Its value; empty in a request for any.
    pub value: Cow<'a, [u8]>,
}

/// The bit beside an attribute's type: sent as 0, ignored.
const RESERVED: u16 = 0x8000;

impl<'a> Cp<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Cp<'a>, ParseError> {
        let mut reader = Reader::new(body, Place::Payload(PayloadType::CP));
        let kind = CfgType(reader.u8()?);
        let _reserved: [u8; 3] = reader.array()?;
        let mut attributes = Vec::new();
        while !reader.is_empty() {
            if attributes.len() == MAX_CFG_ATTRIBUTES {
                return Err(reader.error(Problem::TooMany { what: "attributes", limit: MAX_CFG_ATTRIBUTES }));
            }
            let (kind, length) = (CfgAttributeType(reader.u16()? & !RESERVED), reader.u16()?);
            attributes.push(CfgAttribute { kind, value: reader.take(length.into())?.into() });
        }
        Ok(Cp { kind, attributes })
    }

    pub(super) fn emit(&self, to: &mut Writer) -> Result<(), EmitError> {
        to.u8(self.kind.0);
        to.bytes(&[0; 3]);
        for attribute in &self.attributes {
            to.u16(attribute.kind.0 & !RESERVED);
            let length = to.length_of_rest();
            to.bytes(&attribute.value);
            to.end(length, "octets in an attribute")?;
        }
        Ok(())
    }
}

/// An EAP payload: one EAP packet (RFC 3748 4).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Eap<'a> {
    /// Its kind.
    pub code: EapCode,
    /// What a response repeats of its request.
    pub identifier: u8,
    /// The type and what belongs to it; empty in Success and Failure.
    pub data: Cow<'a, [u8]>,
}

impl fmt::Debug for Eap<'_> {
    /// Without the data, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eap")
            .field("code", &self.code)
            .field("identifier", &self.identifier)
            .field("octets", &self.data.len())
            .finish()
    }
}

impl<'a> Eap<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Eap<'a>, ParseError> {
        let mut reader = Reader::new(body, Place::Payload(PayloadType::EAP));
        let (code, identifier, length) = (EapCode(reader.u8()?), reader.u8()?, reader.u16()?);
        let data = reader.body(length, 4)?.into();
        reader.finish()?;
        Ok(Eap { code, identifier, data })
    }

    pub(super) fn emit(&self, to: &mut Writer) -> Result<(), EmitError> {
        to.u8(self.code.0);
        to.u8(self.identifier);
        let length = to.length(2);
        to.bytes(&self.data);
        to.end(length, "octets in an EAP packet")
    }
}
