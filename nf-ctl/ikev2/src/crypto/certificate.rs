//! X.509 certificates: our own, the authorities that are trusted, and the check of a peer's (RFC 5280, RFC 4945).

use std::fmt;
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sha1::{Digest, Sha1};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::signature::{ALGORITHMS, KeyError, PrivateKey, der_sequence};
use crate::identity::Identity;
use crate::wire::IdType;

/// A certificate of ours, with its private key and the certificates between it and an authority.
pub struct LocalCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    pss: bool,
}

/// Certificates of the authorities that may vouch for a peer.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorities {
    anchors: Vec<TrustAnchor<'static>>,
    key_hashes: Vec<[u8; 20]>,
}

/// Why certificates or a key can't be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CertificateError {
    /// No certificate in a text.
    #[error("there is no certificate in PEM (BEGIN CERTIFICATE)")]
    None,
    /// A certificate can't be read.
    #[error("certificate {number} can't be read: {problem}")]
    Invalid {
        /// Which, from 1.
        number: usize,
        /// Why.
        problem: String,
    },
    /// A key can't be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// They don't belong together.
    #[error("the private key isn't that of the first certificate; put our own certificate first, its chain after it")]
    Mismatch,
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut found = Vec::new();
    for (at, certificate) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        let invalid = |problem: String| CertificateError::Invalid { number: at + 1, problem };
        let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
        x509_cert::Certificate::from_der(&certificate).map_err(|error| invalid(error.to_string()))?;
        found.push(certificate);
    }
    if found.is_empty() { Err(CertificateError::None) } else { Ok(found) }
}

impl LocalCertificate {
    /// Reads our certificate, followed by its chain if there is one, and its key. `pss` chooses the padding of RSA
    /// signatures: PSS, or PKCS #1 v1.5, which more peers know.
    pub fn from_pem(certificates_pem: &str, key_pem: &str, pss: bool) -> Result<Self, CertificateError> {
        let chain = certificates(certificates_pem)?;
        let key = PrivateKey::from_pem(key_pem)?;
        let own = chain.first().ok_or(CertificateError::None)?;
        let parsed = EndEntityCert::try_from(own)
            .map_err(|error| CertificateError::Invalid { number: 1, problem: error.to_string() })?;
        if !parsed.subject_public_key_info().ends_with(&key.public_key()) {
            return Err(CertificateError::Mismatch);
        }
        Ok(LocalCertificate { chain, key, pss })
    }

    /// The identity that is the certificate's subject.
    pub fn subject(&self) -> Option<Identity> {
        let own = EndEntityCert::try_from(self.chain.first()?).ok()?;
        Some(Identity::distinguished_name(&der_sequence(own.subject())))
    }

    pub(crate) fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().map(|certificate| certificate.as_ref())
    }

    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
    }

    pub(crate) fn pss(&self) -> bool {
        self.pss
    }

    /// True where the certificate names the identity.
    pub fn names(&self, identity: &Identity) -> bool {
        self.chain.first().is_some_and(|own| names(own, identity))
    }
}

/// The key is that of the first certificate: where the chains are equal the keys are.
impl PartialEq for LocalCertificate {
    fn eq(&self, other: &LocalCertificate) -> bool {
        (&self.chain, self.pss) == (&other.chain, other.pss)
    }
}

impl Eq for LocalCertificate {}

impl fmt::Debug for LocalCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCertificate")
            .field("subject", &self.subject())
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Authorities {
    /// Reads the authorities' certificates.
    pub fn from_pem(pem: &str) -> Result<Self, CertificateError> {
        let mut authorities = Authorities { anchors: Vec::new(), key_hashes: Vec::new() };
        for (at, certificate) in certificates(pem)?.iter().enumerate() {
            let anchor = webpki::anchor_from_trusted_cert(certificate)
                .map_err(|error| CertificateError::Invalid { number: at + 1, problem: error.to_string() })?
                .to_owned();
            authorities.key_hashes.push(Sha1::digest(webpki::spki_for_anchor(&anchor)).into());
            authorities.anchors.push(anchor);
        }
        Ok(authorities)
    }

    /// The SHA-1 hashes of their public keys, one after another, for CERTREQ (RFC 7296 3.7).
    pub(crate) fn key_hashes(&self) -> Vec<u8> {
        self.key_hashes.concat()
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.anchors.len())
    }
}

/// What is wrong with a peer's certificate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CertificateProblem {
    /// None was sent.
    #[error("it sent no certificate")]
    Missing,
    /// It isn't one.
    #[error("its certificate can't be read")]
    Unreadable,
    /// None of our authorities vouches for it.
    #[error("none of the configured authorities issued its certificate; add its CA, or have it renewed by one that is")]
    UnknownIssuer,
    /// Too late.
    #[error("its certificate has expired; renew it, and check the clock")]
    Expired,
    /// Too early.
    #[error("its certificate isn't valid yet; check the clock on both sides")]
    NotYetValid,
    /// Something else.
    #[error("its certificate is refused: {0}")]
    Refused(String),
    /// It is somebody else's.
    #[error(
        "its certificate doesn't name it; give the certificate a subjectAltName with the identity that the peer uses"
    )]
    OtherName,
    /// The signature is wrong.
    #[error("its signature is wrong: its private key isn't that of its certificate")]
    Signature,
    /// An algorithm of the signature.
    #[error("it signs with an algorithm that isn't known here; use ECDSA (P-256, P-384) or RSA with SHA-2")]
    Algorithm,
}

impl From<webpki::Error> for CertificateProblem {
    fn from(error: webpki::Error) -> Self {
        match error {
            webpki::Error::UnknownIssuer => CertificateProblem::UnknownIssuer,
            webpki::Error::CertExpired { .. } => CertificateProblem::Expired,
            webpki::Error::CertNotValidYet { .. } => CertificateProblem::NotYetValid,
            webpki::Error::BadDer => CertificateProblem::Unreadable,
            other => CertificateProblem::Refused(other.to_string()),
        }
    }
}

/// Any purpose will do: authorities for TLS servers are used for gateways, and the identity has to match anyway.
struct AnyPurpose;

impl ExtendedKeyUsageValidator for AnyPurpose {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// More certificates than that aren't looked at.
const MAX_CHAIN: usize = 8;

/// What a peer sent, checked up to an authority, and for its identity.
pub(crate) struct PeerCertificate<'a>(CertificateDer<'a>);

impl<'a> PeerCertificate<'a> {
    /// The first certificate is the peer's, the others may be between it and an authority. `now` is the time since 1970.
    pub fn check(
        sent: &[&'a [u8]],
        authorities: &Authorities,
        identity: &Identity,
        now: Duration,
    ) -> Result<Self, CertificateProblem> {
        let (own, rest) = sent.split_first().ok_or(CertificateProblem::Missing)?;
        let own = CertificateDer::from(*own);
        let rest: Vec<_> = rest.iter().take(MAX_CHAIN).map(|der| CertificateDer::from(*der)).collect();
        let certificate = EndEntityCert::try_from(&own)?;
        let now = UnixTime::since_unix_epoch(now);
        certificate.verify_for_usage(ALGORITHMS, &authorities.anchors, &rest, now, AnyPurpose, None, None)?;
        if !names(&own, identity) {
            return Err(CertificateProblem::OtherName);
        }
        Ok(PeerCertificate(own))
    }

    /// Checks a signature with the certificate's key.
    pub fn verify(
        &self,
        algorithm: &dyn rustls_pki_types::SignatureVerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        EndEntityCert::try_from(&self.0)
            .is_ok_and(|certificate| certificate.verify_signature(algorithm, message, signature).is_ok())
    }
}

/// True where a certificate's subject or one of its alternative names is the identity.
fn names(certificate: &CertificateDer<'_>, identity: &Identity) -> bool {
    let Ok(parsed) = x509_cert::Certificate::from_der(certificate) else { return false };
    if identity.kind() == IdType::DER_ASN1_DN {
        let subject = EndEntityCert::try_from(certificate).map(|own| der_sequence(own.subject()));
        return subject.is_ok_and(|subject| Identity::distinguished_name(&subject).matches(identity));
    }
    let Ok(Some((_, SubjectAltName(names)))) = parsed.tbs_certificate().get_extension::<SubjectAltName>() else {
        return false;
    };
    names.iter().any(|name| match (name, identity.kind()) {
        (GeneralName::DnsName(name), IdType::FQDN) => name.as_bytes().eq_ignore_ascii_case(identity.data()),
        (GeneralName::Rfc822Name(name), IdType::RFC822_ADDR) => name.as_bytes().eq_ignore_ascii_case(identity.data()),
        (GeneralName::IpAddress(address), IdType::IPV4_ADDR | IdType::IPV6_ADDR) => {
            address.as_bytes() == identity.data()
        }
        _ => false,
    })
}
