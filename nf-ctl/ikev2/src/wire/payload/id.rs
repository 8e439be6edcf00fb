//! Identities: IDi and IDr payloads (RFC 7296 3.5).

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::error::{ParseError, Place};
use crate::wire::octets::{Reader, Writer};
use crate::wire::registry::{IdType, PayloadType};

/// Who a peer says it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Id<'a> {
    /// What kind of name.
    pub kind: IdType,
    /// The name.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Id<'a> {
    /// An identity.
    pub fn new(kind: IdType, data: impl Into<Cow<'a, [u8]>>) -> Id<'a> {
        Id { kind, data: data.into() }
    }

    /// The same, without borrowing from a message.
    pub fn into_owned(self) -> Id<'static> {
        Id::new(self.kind, self.data.into_owned())
    }

    /// The payload without its generic header: what the AUTH payload signs through the PRF (RFC 7296 2.15).
    pub fn body(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.emit(&mut writer);
        writer.into_vec()
    }

    pub(super) fn parse(body: &'a [u8], payload: PayloadType) -> Result<Id<'a>, ParseError> {
        let mut reader = Reader::new(body, Place::Payload(payload));
        let kind = IdType(reader.u8()?);
        let _reserved: [u8; 3] = reader.array()?;
        Ok(Id::new(kind, reader.rest()))
    }

    pub(super) fn emit(&self, to: &mut Writer) {
        to.u8(self.kind.0);
        to.bytes(&[0; 3]);
        to.bytes(&self.data);
    }
}

impl fmt::Display for Id<'_> {
    /// A name or an address as such, all else in hex; safe to print whatever the peer sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            IdType::FQDN | IdType::RFC822_ADDR => {
                return write!(f, "{}", self.data.escape_ascii());
            }
            IdType::IPV4_ADDR => {
                if let Ok(octets) = <[u8; 4]>::try_from(&*self.data) {
                    return Ipv4Addr::from(octets).fmt(f);
                }
            }
            IdType::IPV6_ADDR => {
                if let Ok(octets) = <[u8; 16]>::try_from(&*self.data) {
                    return Ipv6Addr::from(octets).fmt(f);
                }
            }
            _ => {}
        }
        write!(f, "{}:", self.kind)?;
        self.data.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_printed_by_their_kind_and_harmlessly() {
        for (kind, data, printed) in [
            (IdType::FQDN, &b"hub.example"[..], "hub.example"),
            (IdType::RFC822_ADDR, b"ops@\x1b[31mhub", r"ops@\x1b[31mhub"),
            (IdType::IPV4_ADDR, &[10, 10, 1, 2], "10.10.1.2"),
            (IdType::IPV4_ADDR, &[10, 10, 1], "ID_IPV4_ADDR:0a0a01"),
            (IdType::IPV6_ADDR, &[0xfe; 16], "fefe:fefe:fefe:fefe:fefe:fefe:fefe:fefe"),
            (IdType::KEY_ID, &[0xab, 0xcd], "ID_KEY_ID:abcd"),
            (IdType(201), &[], "IdType(201):"),
        ] {
            assert_eq!(Id::new(kind, data).to_string(), printed);
        }
    }
}
