//! A whole message.

use super::chain::{Links, Payloads};
use super::error::{EmitError, ParseError};
use super::header::{HEADER_LEN, Header, RawHeader};
use super::octets::Writer;
use super::registry::PayloadType;
use super::sk::Sk;

/// A message as it was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// Its header.
    pub header: Header,
    /// The payloads outside of SK. Beyond IKE_SA_INIT nothing in them was authenticated.
    pub payloads: Payloads<'a>,
    /// The encrypted part, or a fragment of it.
    pub sk: Option<Sk<'a>>,
}

impl<'a> Message<'a> {
    /// The message in a datagram, without the non-ESP marker.
    pub fn parse(datagram: &'a [u8]) -> Result<Message<'a>, ParseError> {
        let RawHeader { header, first, .. } = RawHeader::of_message(datagram)?;
        let mut message = Message { header, payloads: Payloads::default(), sk: None };
        let mut links = Links::new(first, datagram.get(HEADER_LEN..).unwrap_or_default());
        while let Some(link) = links.next()? {
            match link.kind {
                PayloadType::SK | PayloadType::SKF => message.sk = Some(Sk::parse(datagram, &link)?),
                _ => message.payloads.add(&link)?,
            }
        }
        Ok(message)
    }
}

/// A message without encryption, ready to be sent.
pub fn emit(header: &Header, payloads: &Payloads<'_>) -> Result<Vec<u8>, EmitError> {
    let chain = payloads.emit()?;
    let length = HEADER_LEN + chain.octets.len();
    let counted = u32::try_from(length).map_err(|_| EmitError {
        what: "octets in a message",
        count: length,
        limit: u32::MAX as usize,
    })?;
    let mut writer = Writer::default();
    header.emit(chain.first, counted, &mut writer);
    writer.bytes(&chain.octets);
    Ok(writer.into_vec())
}
