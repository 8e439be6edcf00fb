//! The IKE header (RFC 7296 3.1).

use std::fmt;

use super::error::{ParseError, Place, Problem};
use super::octets::{Reader, Writer};
use super::registry::{ExchangeType, PayloadType};
use super::spi::IkeSpi;

/// The octets of an IKE header.
pub const HEADER_LEN: usize = 28;

/// The version of a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Version {
    /// 2, for IKEv2.
    pub major: u8,
    /// 0; another is taken as well.
    pub minor: u8,
}

impl Version {
    /// IKEv2.
    pub const V2: Version = Version { major: 2, minor: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The number of a request, and of the response to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MessageId(pub u32);

impl MessageId {
    /// The number after this one. None when they are used up: the IKE SA has to be rekeyed before (RFC 7296 2.2).
    pub fn next(self) -> Option<MessageId> {
        self.0.checked_add(1).map(MessageId)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The flags of a message. Reserved ones are ignored when received and not sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flags {
    /// The sender is the original initiator of the IKE SA.
    pub initiator: bool,
    /// The sender speaks a higher major version as well.
    pub higher_version: bool,
    /// The message answers the request with the same number.
    pub response: bool,
}

impl Flags {
    const INITIATOR: u8 = 0x08;
    const VERSION: u8 = 0x10;
    const RESPONSE: u8 = 0x20;

    fn from_octet(octet: u8) -> Flags {
        Flags {
            initiator: octet & Flags::INITIATOR != 0,
            higher_version: octet & Flags::VERSION != 0,
            response: octet & Flags::RESPONSE != 0,
        }
    }

    fn octet(self) -> u8 {
        let bit = |set, bit| if set { bit } else { 0 };
        bit(self.initiator, Flags::INITIATOR)
            | bit(self.higher_version, Flags::VERSION)
            | bit(self.response, Flags::RESPONSE)
    }
}

/// The header of a message, without what follows from its payloads: their first type and the length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Header {
    /// The SPI that the original initiator chose.
    pub initiator_spi: IkeSpi,
    /// The SPI that the original responder chose; zero in the first request.
    pub responder_spi: IkeSpi,
    /// The version.
    pub version: Version,
    /// The kind of exchange.
    pub exchange: ExchangeType,
    /// The flags.
    pub flags: Flags,
    /// The number of the request.
    pub message_id: MessageId,
}

impl Header {
    /// The header of a datagram, without looking at what follows: enough to find the IKE SA, or to see that there is none.
    ///
    /// Nothing is refused but a datagram shorter than a header, so that a message of another version can be answered.
    pub fn parse(datagram: &[u8]) -> Result<Header, ParseError> {
        RawHeader::parse(datagram).map(|raw| raw.header)
    }

    pub(super) fn emit(&self, first: PayloadType, length: u32, to: &mut Writer) {
        to.bytes(&self.initiator_spi.0);
        to.bytes(&self.responder_spi.0);
        to.u8(first.0);
        to.u8(self.version.major << 4 | self.version.minor & 0x0f);
        to.u8(self.exchange.0);
        to.u8(self.flags.octet());
        to.u32(self.message_id.0);
        to.u32(length);
    }
}

/// All fields of a header.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawHeader {
    pub(super) header: Header,
    pub(super) first: PayloadType,
    length: u32,
}

impl RawHeader {
    fn parse(datagram: &[u8]) -> Result<RawHeader, ParseError> {
        let mut reader = Reader::new(datagram, Place::Header);
        let initiator_spi = IkeSpi(reader.array()?);
        let responder_spi = IkeSpi(reader.array()?);
        let first = PayloadType(reader.u8()?);
        let version = reader.u8()?;
        let exchange = ExchangeType(reader.u8()?);
        let flags = Flags::from_octet(reader.u8()?);
        let message_id = MessageId(reader.u32()?);
        let length = reader.u32()?;
        let version = Version { major: version >> 4, minor: version & 0x0f };
        let header = Header { initiator_spi, responder_spi, version, exchange, flags, message_id };
        Ok(RawHeader { header, first, length })
    }

    /// The header of a whole message of IKEv2: its length has to be the datagram's.
    pub(super) fn of_message(datagram: &[u8]) -> Result<RawHeader, ParseError> {
        let raw = RawHeader::parse(datagram)?;
        let error = |problem| Err(ParseError { place: Place::Header, problem });
        if raw.header.version.major != Version::V2.major {
            return error(Problem::MajorVersion(raw.header.version));
        }
        if usize::try_from(raw.length) != Ok(datagram.len()) {
            return error(Problem::Length { declared: raw.length, least: datagram.len(), there: datagram.len() });
        }
        Ok(raw)
    }
}
