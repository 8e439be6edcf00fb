//! AUTH payloads (RFC 7296 3.8, RFC 7427 3).

use std::borrow::Cow;
use std::fmt;

use crate::wire::error::{EmitError, ParseError, Place};
use crate::wire::octets::{Reader, Writer, octet};
use crate::wire::registry::{AuthMethod, PayloadType};

/// The proof that a peer is who it says.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Auth<'a> {
    /// How.
    pub method: AuthMethod,
    /// The MAC or signature; for [`AuthMethod::DIGITAL_SIGNATURE`] see [`DigitalSignature`].
    pub data: Cow<'a, [u8]>,
}

impl fmt::Debug for Auth<'_> {
    /// Without the data: a MAC of a weak shared key can be searched for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("method", &self.method).field("octets", &self.data.len()).finish()
    }
}

impl<'a> Auth<'a> {
    /// A proof.
    pub fn new(method: AuthMethod, data: impl Into<Cow<'a, [u8]>>) -> Auth<'a> {
        Auth { method, data: data.into() }
    }

    /// The two parts of a proof by [`AuthMethod::DIGITAL_SIGNATURE`].
    pub fn digital_signature(&self) -> Result<DigitalSignature<'_>, ParseError> {
        let mut reader = Reader::new(&self.data, Place::Payload(PayloadType::AUTH));
        let length = reader.u8()?;
        Ok(DigitalSignature { algorithm: reader.take(length.into())?, signature: reader.rest() })
    }

    pub(super) fn parse(body: &'a [u8]) -> Result<Auth<'a>, ParseError> {
        let mut reader = Reader::new(body, Place::Payload(PayloadType::AUTH));
        let method = AuthMethod(reader.u8()?);
        let _reserved: [u8; 3] = reader.array()?;
        Ok(Auth::new(method, reader.rest()))
    }

    pub(super) fn emit(&self, to: &mut Writer) {
        to.u8(self.method.0);
        to.bytes(&[0; 3]);
        to.bytes(&self.data);
    }
}

/// A signature that names its algorithm (RFC 7427 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DigitalSignature<'a> {
    /// The AlgorithmIdentifier, DER.
    pub algorithm: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
}

impl DigitalSignature<'_> {
    /// The payload that carries it.
    pub fn to_auth(&self) -> Result<Auth<'static>, EmitError> {
        let mut data = vec![octet(self.algorithm.len(), "octets in an AlgorithmIdentifier")?];
        data.extend_from_slice(self.algorithm);
        data.extend_from_slice(self.signature);
        Ok(Auth::new(AuthMethod::DIGITAL_SIGNATURE, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_not_printed() {
        let auth = Auth::new(AuthMethod::SHARED_KEY, vec![0xab; 32]);
        assert_eq!(format!("{auth:?}"), "Auth { method: Shared Key Message Integrity Code, octets: 32 }");
    }

    #[test]
    fn a_signature_names_its_algorithm_or_is_refused() {
        let signature = DigitalSignature { algorithm: &[0x30, 0], signature: &[1, 2, 3] };
        let auth = signature.to_auth().unwrap();
        assert_eq!(auth.digital_signature(), Ok(signature));
        let short = Auth::new(AuthMethod::DIGITAL_SIGNATURE, vec![3, 0x30, 0]);
        let error = short.digital_signature().unwrap_err().to_string();
        assert_eq!(error, "payload AUTH: 3 more octets are needed where 2 are left");
        let long = DigitalSignature { algorithm: &[0; 256], signature: &[] };
        assert!(long.to_auth().is_err());
    }
}
