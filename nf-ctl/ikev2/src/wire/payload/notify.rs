//! Notify and Delete payloads (RFC 7296 3.10, 3.11).

use std::borrow::Cow;

use crate::wire::error::{EmitError, ParseError, Place, Problem};
use crate::wire::octets::{Reader, Writer, octet};
use crate::wire::registry::{DhGroup, HashAlgorithm, NotifyType, PayloadType, ProtocolId};
use crate::wire::spi::{ChildSpi, Spi};

/// Something to tell the peer.
///
/// Whatever the type, a protocol with no SPI and an SPI of any size are taken: a peer that is strict about them and answers
/// INVALID_SYNTAX tears down a healthy SA (Cisco CSCvd40554).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Notify<'a> {
    /// The protocol of the SA that it is about; [`ProtocolId::NONE`] where that is the IKE SA it comes over, or none.
    pub protocol: ProtocolId,
    /// The SA that it is about.
    pub spi: Spi,
    /// What it says.
    pub kind: NotifyType,
    /// What belongs to it, depending on the type.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Notify<'a> {
    /// A notify without SPI and data.
    pub fn new(kind: NotifyType) -> Notify<'a> {
        Notify { protocol: ProtocolId::NONE, spi: Spi::None, kind, data: Cow::Borrowed(&[]) }
    }

    /// A notify with data and without SPI.
    pub fn with_data(kind: NotifyType, data: impl Into<Cow<'a, [u8]>>) -> Notify<'a> {
        Notify { data: data.into(), ..Notify::new(kind) }
    }

    /// A notify about an SA of ESP or AH, such as REKEY_SA and CHILD_SA_NOT_FOUND.
    pub fn about(kind: NotifyType, protocol: ProtocolId, spi: ChildSpi) -> Notify<'a> {
        Notify { protocol, spi: spi.into(), ..Notify::new(kind) }
    }

    /// INVALID_SPI, which carries the SPI of the packet as data and not as its SPI (RFC 7296 1.5).
    pub fn invalid_spi(spi: ChildSpi) -> Notify<'a> {
        Notify::with_data(NotifyType::INVALID_SPI, spi.0.to_be_bytes().to_vec())
    }

    /// INVALID_KE_PAYLOAD, with the method that would have been right (RFC 7296 1.2).
    pub fn invalid_ke(group: DhGroup) -> Notify<'a> {
        Notify::with_data(NotifyType::INVALID_KE_PAYLOAD, group.0.to_be_bytes().to_vec())
    }

    /// SIGNATURE_HASH_ALGORITHMS (RFC 7427 4).
    pub fn signature_hashes(algorithms: &[HashAlgorithm]) -> Notify<'a> {
        let data: Vec<u8> = algorithms.iter().flat_map(|algorithm| algorithm.0.to_be_bytes()).collect();
        Notify::with_data(NotifyType::SIGNATURE_HASH_ALGORITHMS, data)
    }

    /// The SPI that INVALID_SPI complains about.
    pub fn spi_of_packet(&self) -> Option<ChildSpi> {
        let spi = <[u8; 4]>::try_from(&*self.data).ok()?;
        (self.kind == NotifyType::INVALID_SPI).then_some(ChildSpi(u32::from_be_bytes(spi)))
    }

    /// The method that INVALID_KE_PAYLOAD asks for.
    pub fn wanted_group(&self) -> Option<DhGroup> {
        let group = <[u8; 2]>::try_from(&*self.data).ok()?;
        (self.kind == NotifyType::INVALID_KE_PAYLOAD).then_some(DhGroup(u16::from_be_bytes(group)))
    }

    /// The hashes that SIGNATURE_HASH_ALGORITHMS lists.
    pub fn hash_algorithms(&self) -> impl Iterator<Item = HashAlgorithm> {
        let listed: &[u8] = if self.kind == NotifyType::SIGNATURE_HASH_ALGORITHMS { &self.data } else { &[] };
        listed.as_chunks().0.iter().map(|number| HashAlgorithm(u16::from_be_bytes(*number)))
    }

    pub(super) fn parse(body: &'a [u8]) -> Result<Notify<'a>, ParseError> {
        let mut reader = Reader::new(body, Place::Payload(PayloadType::NOTIFY));
        let (protocol, spi_size, kind) = (ProtocolId(reader.u8()?), reader.u8()?, NotifyType(reader.u16()?));
        let spi = Spi::from_octets(reader.take(spi_size.into())?);
        Ok(Notify { protocol, spi, kind, data: reader.rest().into() })
    }

    pub(super) fn emit(&self, to: &mut Writer) -> Result<(), EmitError> {
        to.u8(self.protocol.0);
        self.spi.with_octets(|spi| {
            to.u8(octet(spi.len(), "octets in an SPI")?);
            to.u16(self.kind.0);
            to.bytes(spi);
            Ok(())
        })?;
        to.bytes(&self.data);
        Ok(())
    }
}

/// A Delete payload: SAs that the sender no longer has, by the sender's inbound SPIs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Delete {
    /// The IKE SA that the message came over, and with it all of its CHILD_SAs.
    IkeSa,
    /// CHILD_SAs.
    Children {
        /// ESP or AH.
        protocol: ProtocolId,
        /// Which. At most 65535.
        spis: Vec<ChildSpi>,
    },
    /// SAs of a protocol that isn't known here.
    Other {
        /// Which.
        protocol: ProtocolId,
        /// The octets of one SPI.
        spi_size: u8,
        /// Number of SPIs.
        count: u16,
        /// The SPIs, one after another.
        spis: Box<[u8]>,
    },
}

impl Delete {
    /// The deletion of one ESP SA.
    pub fn esp(spi: ChildSpi) -> Delete {
        Delete::Children { protocol: ProtocolId::ESP, spis: vec![spi] }
    }

    pub(super) fn parse(body: &[u8]) -> Result<Delete, ParseError> {
        let mut reader = Reader::new(body, Place::Payload(PayloadType::DELETE));
        let (protocol, spi_size, count) = (ProtocolId(reader.u8()?), reader.u8()?, reader.u16()?);
        let wrong_size =
            |expected| Err(reader.error(Problem::Value { field: "SPI Size", value: spi_size.into(), expected }));
        match (protocol, spi_size) {
            (ProtocolId::IKE, 0) => {
                reader.finish()?;
                Ok(Delete::IkeSa)
            }
            (ProtocolId::IKE, _) => wrong_size("0 for an IKE SA"),
            (ProtocolId::ESP | ProtocolId::AH, 4) => {
                let spis = reader.take(usize::from(count) * 4)?.as_chunks().0;
                reader.finish()?;
                let spis = spis.iter().map(|spi| ChildSpi(u32::from_be_bytes(*spi))).collect();
                Ok(Delete::Children { protocol, spis })
            }
            (ProtocolId::ESP | ProtocolId::AH, _) => wrong_size("4 for ESP and AH"),
            _ => {
                let spis = reader.take(usize::from(count) * usize::from(spi_size))?.into();
                reader.finish()?;
                Ok(Delete::Other { protocol, spi_size, count, spis })
            }
        }
    }

    pub(super) fn emit(&self, to: &mut Writer) -> Result<(), EmitError> {
        match self {
            Delete::IkeSa => {
                to.u8(ProtocolId::IKE.0);
                to.u8(0);
                to.u16(0);
            }
            Delete::Children { protocol, spis } => {
                let (count, limit) = (spis.len(), usize::from(u16::MAX));
                let number = u16::try_from(count).map_err(|_| EmitError { what: "SPIs to delete", count, limit })?;
                to.u8(protocol.0);
                to.u8(4);
                to.u16(number);
                spis.iter().for_each(|spi| to.u32(spi.0));
            }
            Delete::Other { protocol, spi_size, count, spis } => {
                to.u8(protocol.0);
                to.u8(*spi_size);
                to.u16(*count);
                to.bytes(spis);
            }
        }
        Ok(())
    }
}
