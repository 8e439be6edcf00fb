//! Proofs of identity: AUTH payloads made and verified (RFC 7296 2.15, RFC 7427).

use std::time::Duration;

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;

use crate::config::{Auth, Connection};
use crate::crypto::certificate::{Authorities, CertificateProblem, LocalCertificate, PeerCertificate};
use crate::crypto::keys::IkeKeys;
use crate::crypto::signature::{algorithms_of, from_rfc4754};
use crate::event::{AuthProblem, Failure};
use crate::identity::Identity;
use crate::wire::{self, AuthMethod, Cert, CertEncoding, CertReq, DigitalSignature, HashAlgorithm, Payload, Payloads};

/// The hashes that we verify signatures with (RFC 7427 4).
pub(crate) const SIGNATURE_HASHES: &[HashAlgorithm] =
    &[HashAlgorithm::SHA2_256, HashAlgorithm::SHA2_384, HashAlgorithm::SHA2_512];

/// Our proof for a connection: the AUTH payload, and the CERT payloads before it. `hashes` are those that the peer can
/// verify; none if it doesn't know RFC 7427.
pub(crate) fn prove(
    connection: &Connection,
    keys: &IkeKeys,
    octets: &[u8],
    hashes: &[HashAlgorithm],
    rng: &mut dyn CryptoRng,
) -> Result<Vec<Payload<'static>>, Failure> {
    match &connection.auth {
        Auth::Psk(psk) => {
            let mac = keys.psk_auth(psk, octets);
            Ok(vec![Payload::Auth(wire::Auth::new(AuthMethod::SHARED_KEY, mac.expose().to_vec()))])
        }
        Auth::Certificates { local, .. } => {
            let auth = sign(local, octets, hashes, rng)?;
            let certificate = |der: &[u8]| Payload::Cert(Cert::new(CertEncoding::X509_SIGNATURE, der.to_vec()));
            let mut payloads: Vec<_> = local.chain().map(certificate).collect();
            payloads.push(Payload::Auth(auth));
            Ok(payloads)
        }
    }
}

fn sign(
    local: &LocalCertificate,
    octets: &[u8],
    hashes: &[HashAlgorithm],
    rng: &mut dyn CryptoRng,
) -> Result<wire::Auth<'static>, Failure> {
    if hashes.is_empty() {
        let (method, signature) = local.key().sign_rfc4754(octets).ok_or(Failure::NoSignatureInCommon)?;
        return Ok(wire::Auth::new(method, signature));
    }
    let signed = local.key().sign(octets, hashes, local.pss(), rng).ok_or(Failure::NoSignatureInCommon)?;
    DigitalSignature { algorithm: &signed.algorithm, signature: &signed.signature }
        .to_auth()
        .map_err(|error| Failure::Internal(error.to_string()))
}

/// What a peer proves itself with.
pub(crate) struct Proof<'a> {
    pub identity: &'a Identity,
    pub auth: &'a wire::Auth<'a>,
    /// Its message, for the certificates.
    pub payloads: &'a Payloads<'a>,
    /// The time since 1970.
    pub unix_time: Duration,
}

/// Checks the peer's proof.
pub(crate) fn verify(
    connection: &Connection,
    keys: &IkeKeys,
    octets: &[u8],
    proof: &Proof<'_>,
) -> Result<(), AuthProblem> {
    match (&connection.auth, proof.auth.method) {
        (Auth::Psk(psk), AuthMethod::SHARED_KEY) => {
            let mac = keys.psk_auth(psk, octets);
            bool::from(mac.expose().ct_eq(&proof.auth.data)).then_some(()).ok_or(AuthProblem::PskMismatch)
        }
        (
            Auth::Certificates { authorities, .. },
            AuthMethod::DIGITAL_SIGNATURE | AuthMethod::ECDSA_P256 | AuthMethod::ECDSA_P384,
        ) => Ok(verify_signature(authorities, octets, proof)?),
        (Auth::Psk(_) | Auth::Certificates { .. }, method) => Err(AuthProblem::Method(method.to_string())),
    }
}

fn verify_signature(authorities: &Authorities, octets: &[u8], proof: &Proof<'_>) -> Result<(), CertificateProblem> {
    let certificates = proof.payloads.certs().filter(|cert| cert.encoding == CertEncoding::X509_SIGNATURE);
    let certificates: Vec<&[u8]> = certificates.map(|cert| cert.data.as_ref()).collect();
    let certificate = PeerCertificate::check(&certificates, authorities, proof.identity, proof.unix_time)?;
    let verified = match proof.auth.method {
        AuthMethod::DIGITAL_SIGNATURE => {
            let signed = proof.auth.digital_signature().map_err(|_| CertificateProblem::Signature)?;
            let mut algorithms = algorithms_of(signed.algorithm).peekable();
            if algorithms.peek().is_none() {
                return Err(CertificateProblem::Algorithm);
            }
            // The same identifier stands for ECDSA on either curve: the certificate decides.
            algorithms.any(|algorithm| certificate.verify(algorithm, octets, signed.signature))
        }
        method => from_rfc4754(method, &proof.auth.data)
            .is_some_and(|(algorithm, signature)| certificate.verify(algorithm, octets, &signature)),
    };
    verified.then_some(()).ok_or(CertificateProblem::Signature)
}

/// The CERTREQ payload, where the peer has to show a certificate.
pub(crate) fn certificate_request(connection: &Connection) -> Option<Payload<'static>> {
    match &connection.auth {
        Auth::Psk(_) => None,
        Auth::Certificates { authorities, .. } => {
            Some(Payload::CertReq(CertReq::new(CertEncoding::X509_SIGNATURE, authorities.key_hashes())))
        }
    }
}
