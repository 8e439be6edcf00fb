//! Certificates and requests for them (RFC 7296 3.6, 3.7).

use std::borrow::Cow;

use crate::wire::error::{ParseError, Place};
use crate::wire::octets::{Reader, Writer};
use crate::wire::registry::{CertEncoding, PayloadType};

/// A CERT payload.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cert<'a> {
    /// What it holds.
    pub encoding: CertEncoding,
    /// The certificate; for [`CertEncoding::X509_SIGNATURE`] DER.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Cert<'a> {
    /// A certificate.
    pub fn new(encoding: CertEncoding, data: impl Into<Cow<'a, [u8]>>) -> Cert<'a> {
        Cert { encoding, data: data.into() }
    }

    pub(super) fn parse(body: &'a [u8]) -> Result<Cert<'a>, ParseError> {
        let mut reader = Reader::new(body, Place::Payload(PayloadType::CERT));
        Ok(Cert::new(CertEncoding(reader.u8()?), reader.rest()))
    }

    pub(super) fn emit(&self, to: &mut Writer) {
        to.u8(self.encoding.0);
        to.bytes(&self.data);
    }
}

/// A CERTREQ payload.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CertReq<'a> {
    /// What is asked for.
    pub encoding: CertEncoding,
    /// For X.509 the SHA-1 hashes of the trusted authorities' public keys, 20 octets each, one after another. None: any will do.
    pub authorities: Cow<'a, [u8]>,
}

impl<'a> CertReq<'a> {
    /// A request.
    pub fn new(encoding: CertEncoding, authorities: impl Into<Cow<'a, [u8]>>) -> CertReq<'a> {
        CertReq { encoding, authorities: authorities.into() }
    }

    /// The SHA-1 hashes of the authorities' public keys.
    pub fn key_hashes(&self) -> impl Iterator<Item = &[u8; 20]> {
        self.authorities.as_chunks().0.iter()
    }

    pub(super) fn parse(body: &'a [u8]) -> Result<CertReq<'a>, ParseError> {
        let mut reader = Reader::new(body, Place::Payload(PayloadType::CERTREQ));
        Ok(CertReq::new(CertEncoding(reader.u8()?), reader.rest()))
    }

    pub(super) fn emit(&self, to: &mut Writer) {
        to.u8(self.encoding.0);
        to.bytes(&self.authorities);
    }
}
