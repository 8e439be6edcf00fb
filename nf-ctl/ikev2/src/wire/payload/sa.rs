//! SA payloads: proposals and their transforms (RFC 7296 3.3).

use std::fmt;

use crate::wire::error::{EmitError, ParseError, Place, Problem};
use crate::wire::octets::{Reader, Writer, octet};
use crate::wire::registry::{
    AttributeType, DhGroup, EncrId, EsnId, IntegId, PayloadType, PrfId, ProtocolId, TransformType,
};
use crate::wire::spi::Spi;

/// The proposals that are taken of an SA payload.
pub const MAX_PROPOSALS: usize = 64;
/// The transforms that are taken of an SA payload, in all proposals together.
pub const MAX_TRANSFORMS: usize = 1024;
/// The attributes that are taken of a transform.
pub const MAX_ATTRIBUTES: usize = 4;

/// An SA payload: what is proposed, or the one that was chosen.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Sa {
    /// The proposals, the preferred one first.
    pub proposals: Vec<Proposal>,
}

/// A proposal: of each type of transform one is to be chosen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Proposal {
    /// Its number, from 1. The answer repeats the number of the chosen one.
    pub number: u8,
    /// What the SA is for.
    pub protocol: ProtocolId,
    /// The sender's inbound SPI. None in IKE_SA_INIT.
    pub spi: Spi,
    /// The transforms, of each type the preferred one first.
    pub transforms: Vec<Transform>,
}

/// An algorithm, or another property of an SA.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Transform {
    /// Which.
    pub id: TransformId,
    /// The length of the key, for algorithms with a choice. Bits.
    pub key_length: Option<u16>,
    /// Attributes that aren't known here. A transform that has any may not be chosen (RFC 7296 3.3.6).
    pub unknown_attributes: Vec<Attribute>,
}

/// A transform's identifier, which means something only together with its type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TransformId {
    /// Encryption.
    Encr(EncrId),
    /// Pseudorandom function.
    Prf(PrfId),
    /// Integrity.
    Integ(IntegId),
    /// Key exchange.
    Dh(DhGroup),
    /// Extended sequence numbers.
    Esn(EsnId),
    /// Of a type that isn't known here. A proposal that has any may not be chosen (RFC 7296 3.3.6).
    Other(TransformType, u16),
}

/// An attribute that isn't known here.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Attribute {
    /// Its type, below 32768.
    pub kind: AttributeType,
    /// Its value.
    pub value: AttributeValue,
}

/// The value of an attribute, in one of its two forms.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum AttributeValue {
    /// In place of a length.
    Short(u16),
    /// With a length.
    Long(Box<[u8]>),
}

impl TransformId {
    /// What it decides.
    pub fn kind(self) -> TransformType {
        match self {
            TransformId::Encr(_) => TransformType::ENCR,
            TransformId::Prf(_) => TransformType::PRF,
            TransformId::Integ(_) => TransformType::INTEG,
            TransformId::Dh(_) => TransformType::DH,
            TransformId::Esn(_) => TransformType::ESN,
            TransformId::Other(kind, _) => kind,
        }
    }

    fn new(kind: TransformType, id: u16) -> TransformId {
        match kind {
            TransformType::ENCR => TransformId::Encr(EncrId(id)),
            TransformType::PRF => TransformId::Prf(PrfId(id)),
            TransformType::INTEG => TransformId::Integ(IntegId(id)),
            TransformType::DH => TransformId::Dh(DhGroup(id)),
            TransformType::ESN => TransformId::Esn(EsnId(id)),
            other => TransformId::Other(other, id),
        }
    }

    fn number(self) -> u16 {
        match self {
            TransformId::Encr(id) => id.0,
            TransformId::Prf(id) => id.0,
            TransformId::Integ(id) => id.0,
            TransformId::Dh(id) => id.0,
            TransformId::Esn(id) => id.0,
            TransformId::Other(_, id) => id,
        }
    }
}

impl fmt::Display for TransformId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransformId::Encr(id) => id.fmt(f),
            TransformId::Prf(id) => id.fmt(f),
            TransformId::Integ(id) => id.fmt(f),
            TransformId::Dh(id) => id.fmt(f),
            TransformId::Esn(id) => id.fmt(f),
            TransformId::Other(kind, id) => write!(f, "{kind}:{id}"),
        }
    }
}

impl Transform {
    /// A transform without attributes.
    pub fn new(id: TransformId) -> Transform {
        Transform { id, key_length: None, unknown_attributes: Vec::new() }
    }

    /// The same with a key length, in bits.
    pub fn with_key_length(self, bits: u16) -> Transform {
        Transform { key_length: Some(bits), ..self }
    }

    fn parse(kind: TransformType, id: u16, attributes: &[u8]) -> Result<Transform, ParseError> {
        let mut transform = Transform::new(TransformId::new(kind, id));
        let mut reader = sa_reader(attributes);
        let mut count = 0;
        while !reader.is_empty() {
            count += 1;
            if count > MAX_ATTRIBUTES {
                return Err(reader.error(Problem::TooMany { what: "attributes in a transform", limit: MAX_ATTRIBUTES }));
            }
            let (kind, short) = (reader.u16()?, reader.u16()?);
            let value = match kind & SHORT {
                0 => AttributeValue::Long(reader.take(short.into())?.into()),
                _ => AttributeValue::Short(short),
            };
            let kind = AttributeType(kind & !SHORT);
            match value {
                AttributeValue::Short(bits) if kind == AttributeType::KEY_LENGTH && transform.key_length.is_none() => {
                    transform.key_length = Some(bits);
                }
                value => transform.unknown_attributes.push(Attribute { kind, value }),
            }
        }
        Ok(transform)
    }

    fn emit(&self, last: bool, to: &mut Writer) -> Result<(), EmitError> {
        to.u8(if last { 0 } else { MORE_TRANSFORMS });
        to.u8(0);
        let length = to.length(2);
        to.u8(self.id.kind().0);
        to.u8(0);
        to.u16(self.id.number());
        if let Some(bits) = self.key_length {
            to.u16(SHORT | AttributeType::KEY_LENGTH.0);
            to.u16(bits);
        }
        for attribute in &self.unknown_attributes {
            match &attribute.value {
                AttributeValue::Short(value) => {
                    to.u16(SHORT | attribute.kind.0);
                    to.u16(*value);
                }
                AttributeValue::Long(value) => {
                    to.u16(attribute.kind.0 & !SHORT);
                    let length = to.length_of_rest();
                    to.bytes(value);
                    to.end(length, "octets in an attribute")?;
                }
            }
        }
        to.end(length, "octets in a transform")
    }
}

impl fmt::Display for Transform {
    /// As in `ENCR_AES_GCM_16/256`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)?;
        if let Some(bits) = self.key_length {
            write!(f, "/{bits}")?;
        }
        if !self.unknown_attributes.is_empty() {
            f.write_str("/unknown attribute")?;
        }
        Ok(())
    }
}

impl Proposal {
    fn emit(&self, last: bool, to: &mut Writer) -> Result<(), EmitError> {
        to.u8(if last { 0 } else { MORE_PROPOSALS });
        to.u8(0);
        let length = to.length(2);
        to.u8(self.number);
        to.u8(self.protocol.0);
        self.spi.with_octets(|spi| {
            to.u8(octet(spi.len(), "octets in an SPI")?);
            to.u8(octet(self.transforms.len(), "transforms in a proposal")?);
            to.bytes(spi);
            Ok(())
        })?;
        for (at, transform) in self.transforms.iter().enumerate() {
            transform.emit(at + 1 == self.transforms.len(), to)?;
        }
        to.end(length, "octets in a proposal")
    }
}

impl fmt::Display for Proposal {
    /// As in `ESP: ENCR_AES_GCM_16/256, No Extended Sequence Numbers`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.protocol)?;
        for (at, transform) in self.transforms.iter().enumerate() {
            write!(f, "{}{transform}", if at == 0 { " " } else { ", " })?;
        }
        Ok(())
    }
}

/// "Last Substruc" of a proposal that is followed by another.
const MORE_PROPOSALS: u8 = 2;
/// "Last Substruc" of a transform that is followed by another.
const MORE_TRANSFORMS: u8 = 3;
/// The bit of an attribute's type that says that the value stands in place of the length.
const SHORT: u16 = 0x8000;

fn sa_reader(octets: &[u8]) -> Reader<'_> {
    Reader::new(octets, Place::Payload(PayloadType::SA))
}

/// Whether more substructures follow. The field has to agree with what is there.
fn more(reader: &Reader<'_>, field: u8, more: u8, there: bool) -> Result<(), ParseError> {
    if field == if there { more } else { 0 } {
        return Ok(());
    }
    let expected = match (there, more) {
        (false, _) => "0, as none follows",
        (true, MORE_PROPOSALS) => "2, as another proposal follows",
        (true, _) => "3, as another transform follows",
    };
    Err(reader.error(Problem::Value { field: "Last Substruc", value: field.into(), expected }))
}

impl Sa {
    pub(super) fn parse(body: &[u8]) -> Result<Sa, ParseError> {
        let mut reader = sa_reader(body);
        let mut proposals = Vec::new();
        let mut budget = MAX_TRANSFORMS;
        while !reader.is_empty() {
            if proposals.len() == MAX_PROPOSALS {
                return Err(reader.error(Problem::TooMany { what: "proposals", limit: MAX_PROPOSALS }));
            }
            let (last, _reserved, length) = (reader.u8()?, reader.u8()?, reader.u16()?);
            let mut inner = sa_reader(reader.body(length, 4)?);
            more(&reader, last, MORE_PROPOSALS, !reader.is_empty())?;
            let (number, protocol) = (inner.u8()?, ProtocolId(inner.u8()?));
            let (spi_size, count) = (inner.u8()?, inner.u8()?);
            let spi = Spi::from_octets(inner.take(spi_size.into())?);
            let transforms = transforms(inner, count, &mut budget)?;
            proposals.push(Proposal { number, protocol, spi, transforms });
        }
        if proposals.is_empty() {
            return Err(reader.error(Problem::Value { field: "number of proposals", value: 0, expected: "1 or more" }));
        }
        Ok(Sa { proposals })
    }

    pub(super) fn emit(&self, to: &mut Writer) -> Result<(), EmitError> {
        for (at, proposal) in self.proposals.iter().enumerate() {
            proposal.emit(at + 1 == self.proposals.len(), to)?;
        }
        Ok(())
    }
}

fn transforms(mut reader: Reader<'_>, count: u8, budget: &mut usize) -> Result<Vec<Transform>, ParseError> {
    let mut transforms = Vec::new();
    while !reader.is_empty() {
        *budget = budget
            .checked_sub(1)
            .ok_or_else(|| reader.error(Problem::TooMany { what: "transforms", limit: MAX_TRANSFORMS }))?;
        let (last, _reserved, length) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let mut inner = sa_reader(reader.body(length, 4)?);
        more(&reader, last, MORE_TRANSFORMS, !reader.is_empty())?;
        let (kind, _reserved, id) = (TransformType(inner.u8()?), inner.u8()?, inner.u16()?);
        transforms.push(Transform::parse(kind, id, inner.rest())?);
    }
    if transforms.len() != usize::from(count) {
        return Err(reader.error(Problem::Value {
            field: "Num Transforms",
            value: count.into(),
            expected: "the number of transforms that are there",
        }));
    }
    Ok(transforms)
}
