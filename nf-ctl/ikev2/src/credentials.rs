//! Proofs of identity: AUTH payloads made and verified (RFC 7296 2.15).

use subtle::ConstantTimeEq;

use crate::config::{Auth, Connection};
use crate::crypto::keys::IkeKeys;
use crate::event::{AuthProblem, Failure};
use crate::wire::{self, AuthMethod, HashAlgorithm, Payload};

/// The hashes that we verify signatures with (RFC 7427 4).
pub(crate) const SIGNATURE_HASHES: &[HashAlgorithm] =
    &[HashAlgorithm::SHA2_256, HashAlgorithm::SHA2_384, HashAlgorithm::SHA2_512];

/// Our proof for a connection.
pub(crate) fn prove(connection: &Connection, keys: &IkeKeys, octets: &[u8]) -> Result<Payload<'static>, Failure> {
    match &connection.auth {
        Auth::Psk(psk) => {
            let mac = keys.psk_auth(psk, octets);
            Ok(Payload::Auth(wire::Auth::new(AuthMethod::SHARED_KEY, mac.expose().to_vec())))
        }
    }
}

/// Checks the peer's proof.
pub(crate) fn verify(
    connection: &Connection,
    keys: &IkeKeys,
    octets: &[u8],
    auth: &wire::Auth<'_>,
) -> Result<(), AuthProblem> {
    match (&connection.auth, auth.method) {
        (Auth::Psk(psk), AuthMethod::SHARED_KEY) => {
            let mac = keys.psk_auth(psk, octets);
            bool::from(mac.expose().ct_eq(&auth.data)).then_some(()).ok_or(AuthProblem::PskMismatch)
        }
        (Auth::Psk(_), method) => Err(AuthProblem::Method(method.to_string())),
    }
}

/// The CERTREQ payload, where the peer has to show a certificate.
pub(crate) fn certificate_request(connection: &Connection) -> Option<Payload<'static>> {
    match &connection.auth {
        Auth::Psk(_) => None,
    }
}
