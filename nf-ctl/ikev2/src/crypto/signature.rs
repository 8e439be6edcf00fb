//! Signatures: ECDSA with P-256 and P-384, RSA with PKCS #1 v1.5 and PSS, over SHA-2; as certificates and AUTH payloads
//! have them (RFC 7427, RFC 4754).

use std::fmt;

use p256::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use p256::elliptic_curve::pkcs8::{DecodePrivateKey, SecretDocument};
use rand_core::CryptoRng;
use rsa::pkcs1::{DecodeRsaPrivateKey, DecodeRsaPublicKey, EncodeRsaPublicKey};
use rsa::traits::PublicKeyParts;
use rsa::{Pkcs1v15Sign, Pss};
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::scrub::scrubbed;
use crate::wire::HashAlgorithm;

/// A hash function of signatures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    const ALL: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];

    /// The number in the registry of RFC 7427.
    fn id(self) -> HashAlgorithm {
        match self {
            Hash::Sha256 => HashAlgorithm::SHA2_256,
            Hash::Sha384 => HashAlgorithm::SHA2_384,
            Hash::Sha512 => HashAlgorithm::SHA2_512,
        }
    }

    fn digest(self, message: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha256 => Sha256::digest(message).to_vec(),
            Hash::Sha384 => Sha384::digest(message).to_vec(),
            Hash::Sha512 => Sha512::digest(message).to_vec(),
        }
    }
}

/// How a signature is made of a hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scheme {
    EcdsaP256,
    EcdsaP384,
    RsaPkcs1,
    RsaPss,
}

/// A signature algorithm, as the library that validates chains of certificates wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Algorithm {
    pub scheme: Scheme,
    pub hash: Hash,
}

/// All of them.
pub(crate) const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    &Algorithm { scheme: Scheme::EcdsaP256, hash: Hash::Sha256 },
    &Algorithm { scheme: Scheme::EcdsaP256, hash: Hash::Sha384 },
    &Algorithm { scheme: Scheme::EcdsaP256, hash: Hash::Sha512 },
    &Algorithm { scheme: Scheme::EcdsaP384, hash: Hash::Sha256 },
    &Algorithm { scheme: Scheme::EcdsaP384, hash: Hash::Sha384 },
    &Algorithm { scheme: Scheme::EcdsaP384, hash: Hash::Sha512 },
    &Algorithm { scheme: Scheme::RsaPkcs1, hash: Hash::Sha256 },
    &Algorithm { scheme: Scheme::RsaPkcs1, hash: Hash::Sha384 },
    &Algorithm { scheme: Scheme::RsaPkcs1, hash: Hash::Sha512 },
    &Algorithm { scheme: Scheme::RsaPss, hash: Hash::Sha256 },
    &Algorithm { scheme: Scheme::RsaPss, hash: Hash::Sha384 },
    &Algorithm { scheme: Scheme::RsaPss, hash: Hash::Sha512 },
];

/// Shorter RSA keys aren't taken (RFC 8247 4.1 asks for 2048 bits).
const MIN_RSA_BITS: u32 = 2048;

impl SignatureVerificationAlgorithm for Algorithm {
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        self.verify(public_key, &self.hash.digest(message), signature).ok_or(InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        match self.scheme {
            Scheme::EcdsaP256 => alg_id::ECDSA_P256,
            Scheme::EcdsaP384 => alg_id::ECDSA_P384,
            Scheme::RsaPkcs1 | Scheme::RsaPss => alg_id::RSA_ENCRYPTION,
        }
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        match (self.scheme, self.hash) {
            (Scheme::EcdsaP256 | Scheme::EcdsaP384, Hash::Sha256) => alg_id::ECDSA_SHA256,
            (Scheme::EcdsaP256 | Scheme::EcdsaP384, Hash::Sha384) => alg_id::ECDSA_SHA384,
            (Scheme::EcdsaP256 | Scheme::EcdsaP384, Hash::Sha512) => alg_id::ECDSA_SHA512,
            (Scheme::RsaPkcs1, Hash::Sha256) => alg_id::RSA_PKCS1_SHA256,
            (Scheme::RsaPkcs1, Hash::Sha384) => alg_id::RSA_PKCS1_SHA384,
            (Scheme::RsaPkcs1, Hash::Sha512) => alg_id::RSA_PKCS1_SHA512,
            (Scheme::RsaPss, Hash::Sha256) => alg_id::RSA_PSS_SHA256,
            (Scheme::RsaPss, Hash::Sha384) => alg_id::RSA_PSS_SHA384,
            (Scheme::RsaPss, Hash::Sha512) => alg_id::RSA_PSS_SHA512,
        }
    }
}

impl Algorithm {
    fn verify(self, public_key: &[u8], digest: &[u8], signature: &[u8]) -> Option<()> {
        match self.scheme {
            Scheme::EcdsaP256 => {
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(public_key).ok()?;
                key.verify_prehash(digest, &p256::ecdsa::Signature::from_der(signature).ok()?).ok()
            }
            Scheme::EcdsaP384 => {
                let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(public_key).ok()?;
                key.verify_prehash(digest, &p384::ecdsa::Signature::from_der(signature).ok()?).ok()
            }
            Scheme::RsaPkcs1 | Scheme::RsaPss => {
                let key = rsa::PublicKey::from_pkcs1_der(public_key).ok()?;
                if key.n().bit_width() < MIN_RSA_BITS {
                    return None;
                }
                match (self.scheme, self.hash) {
                    (Scheme::RsaPss, Hash::Sha256) => key.verify(Pss::<Sha256>::new(), digest, signature),
                    (Scheme::RsaPss, Hash::Sha384) => key.verify(Pss::<Sha384>::new(), digest, signature),
                    (Scheme::RsaPss, Hash::Sha512) => key.verify(Pss::<Sha512>::new(), digest, signature),
                    (_, hash) => key.verify(pkcs1(hash), digest, signature),
                }
                .ok()
            }
        }
    }

    /// The AlgorithmIdentifier as AUTH payloads have it: a whole SEQUENCE.
    fn identifier(self) -> Vec<u8> {
        der_sequence(&self.signature_alg_id())
    }
}

/// The content of a SEQUENCE with a header before it.
pub(crate) fn der_sequence(content: &[u8]) -> Vec<u8> {
    let mut der = vec![0x30];
    match u8::try_from(content.len()) {
        Ok(short @ ..0x80) => der.push(short),
        Ok(long) => der.extend([0x81, long]),
        Err(_) => {
            let length = content.len().to_be_bytes();
            let length: Vec<u8> = length.into_iter().skip_while(|octet| *octet == 0).collect();
            der.push(0x80 | length.len() as u8);
            der.extend(length);
        }
    }
    der.extend_from_slice(content);
    der
}

/// The algorithms that an AlgorithmIdentifier of an AUTH payload can mean: one for each kind of key.
pub(crate) fn algorithms_of(identifier: &[u8]) -> impl Iterator<Item = &'static dyn SignatureVerificationAlgorithm> {
    ALGORITHMS.iter().copied().filter(move |algorithm| der_sequence(&algorithm.signature_alg_id()) == identifier)
}

/// A private key. Its parts wipe themselves when dropped, and stay where they were made until then.
pub struct PrivateKey(Kind);

enum Kind {
    P256(Box<p256::ecdsa::SigningKey>),
    P384(Box<p384::ecdsa::SigningKey>),
    Rsa(Box<rsa::PrivateKey>),
}

impl From<p256::SecretKey> for PrivateKey {
    fn from(key: p256::SecretKey) -> Self {
        PrivateKey(Kind::P256(Box::new(key.into())))
    }
}

impl From<p384::SecretKey> for PrivateKey {
    fn from(key: p384::SecretKey) -> Self {
        PrivateKey(Kind::P384(Box::new(key.into())))
    }
}

/// A text isn't a private key that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// Not recognised.
    #[error(
        "no private key that is known here: give an ECDSA key on P-256 or P-384, or an RSA key, in PEM (PRIVATE KEY, EC \
         PRIVATE KEY or RSA PRIVATE KEY), without a passphrase"
    )]
    Unknown,
    /// Too short.
    #[error("the RSA key has {0} bits; use 2048 or more")]
    Short(u32),
}

/// A signature for an AUTH payload.
pub(crate) struct Signed {
    /// The AlgorithmIdentifier, DER.
    pub algorithm: Vec<u8>,
    pub signature: Vec<u8>,
}

impl PrivateKey {
    /// Reads a key in PEM: PKCS #8, or the older forms of EC and RSA keys.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        scrubbed(|| Self::read(pem))
    }

    fn read(pem: &str) -> Result<Self, KeyError> {
        // The libraries' own ways from PEM leave the key in freed memory; this document wipes itself.
        let (label, der) = SecretDocument::from_pem(pem).map_err(|_| KeyError::Unknown)?;
        let der = der.as_bytes();
        let rsa = match label {
            "PRIVATE KEY" => {
                if let Ok(key) = p256::SecretKey::from_pkcs8_der(der) {
                    return Ok(key.into());
                }
                if let Ok(key) = p384::SecretKey::from_pkcs8_der(der) {
                    return Ok(key.into());
                }
                rsa::PrivateKey::from_pkcs8_der(der).ok()
            }
            "EC PRIVATE KEY" => {
                return p256::SecretKey::from_sec1_der(der)
                    .map(PrivateKey::from)
                    .or_else(|_| p384::SecretKey::from_sec1_der(der).map(PrivateKey::from))
                    .map_err(|_| KeyError::Unknown);
            }
            "RSA PRIVATE KEY" => rsa::PrivateKey::from_pkcs1_der(der).ok(),
            _ => None,
        };
        let key = rsa.ok_or(KeyError::Unknown)?;
        let bits = key.n().bit_width();
        if bits < MIN_RSA_BITS {
            return Err(KeyError::Short(bits));
        }
        Ok(PrivateKey(Kind::Rsa(Box::new(key))))
    }

    /// The public key's octets, as a certificate's subjectPublicKey has them.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        match &self.0 {
            Kind::P256(key) => key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            Kind::P384(key) => key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            Kind::Rsa(key) => key.to_public_key().to_pkcs1_der().map(|der| der.as_bytes().to_vec()).unwrap_or_default(),
        }
    }

    /// Signs with a hash that the peer knows, and one of the key's strength where it can be chosen. `None` where there is
    /// no such hash.
    pub(crate) fn sign(
        &self,
        message: &[u8],
        known: &[HashAlgorithm],
        pss: bool,
        rng: &mut dyn CryptoRng,
    ) -> Option<Signed> {
        let (scheme, wanted) = match &self.0 {
            Kind::P256(_) => (Scheme::EcdsaP256, Hash::Sha256),
            Kind::P384(_) => (Scheme::EcdsaP384, Hash::Sha384),
            Kind::Rsa(_) if pss => (Scheme::RsaPss, Hash::Sha256),
            Kind::Rsa(_) => (Scheme::RsaPkcs1, Hash::Sha256),
        };
        let hash = std::iter::once(wanted).chain(Hash::ALL).find(|hash| known.contains(&hash.id()))?;
        let algorithm = Algorithm { scheme, hash };
        let digest = hash.digest(message);
        let signature = scrubbed(|| match &self.0 {
            Kind::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign_prehash(&digest).ok()?;
                Some(signature.to_der().as_bytes().to_vec())
            }
            Kind::P384(key) => {
                let signature: p384::ecdsa::Signature = key.sign_prehash(&digest).ok()?;
                Some(signature.to_der().as_bytes().to_vec())
            }
            Kind::Rsa(key) => sign_rsa(key, algorithm, &digest, rng),
        })?;
        Some(Signed { algorithm: algorithm.identifier(), signature })
    }

    /// Signs as RFC 4754 has it, for peers that don't know RFC 7427: SHA-256 with P-256, SHA-384 with P-384, r and s one
    /// after the other. `None` for RSA, which had only SHA-1 then.
    pub(crate) fn sign_rfc4754(&self, message: &[u8]) -> Option<(crate::wire::AuthMethod, Vec<u8>)> {
        scrubbed(|| match &self.0 {
            Kind::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign_prehash(&Hash::Sha256.digest(message)).ok()?;
                Some((crate::wire::AuthMethod::ECDSA_P256, signature.to_bytes().to_vec()))
            }
            Kind::P384(key) => {
                let signature: p384::ecdsa::Signature = key.sign_prehash(&Hash::Sha384.digest(message)).ok()?;
                Some((crate::wire::AuthMethod::ECDSA_P384, signature.to_bytes().to_vec()))
            }
            Kind::Rsa(_) => None,
        })
    }
}

fn pkcs1(hash: Hash) -> Pkcs1v15Sign {
    match hash {
        Hash::Sha256 => Pkcs1v15Sign::new::<Sha256>(),
        Hash::Sha384 => Pkcs1v15Sign::new::<Sha384>(),
        Hash::Sha512 => Pkcs1v15Sign::new::<Sha512>(),
    }
}

/// With blinding, so that the time it takes tells nothing of the key.
fn sign_rsa(key: &rsa::PrivateKey, algorithm: Algorithm, digest: &[u8], rng: &mut dyn CryptoRng) -> Option<Vec<u8>> {
    match (algorithm.scheme, algorithm.hash) {
        (Scheme::RsaPss, Hash::Sha256) => key.sign_with_rng(rng, Pss::<Sha256>::new(), digest),
        (Scheme::RsaPss, Hash::Sha384) => key.sign_with_rng(rng, Pss::<Sha384>::new(), digest),
        (Scheme::RsaPss, Hash::Sha512) => key.sign_with_rng(rng, Pss::<Sha512>::new(), digest),
        (_, hash) => key.sign_with_rng(rng, pkcs1(hash), digest),
    }
    .ok()
}

/// A signature as RFC 4754 has it, in the form that is verified here: the algorithm, and the DER of r and s.
pub(crate) fn from_rfc4754(
    method: crate::wire::AuthMethod,
    signature: &[u8],
) -> Option<(&'static dyn SignatureVerificationAlgorithm, Vec<u8>)> {
    const P256: &Algorithm = &Algorithm { scheme: Scheme::EcdsaP256, hash: Hash::Sha256 };
    const P384: &Algorithm = &Algorithm { scheme: Scheme::EcdsaP384, hash: Hash::Sha384 };
    match method {
        crate::wire::AuthMethod::ECDSA_P256 => {
            let signature = p256::ecdsa::Signature::from_slice(signature).ok()?;
            Some((P256, signature.to_der().as_bytes().to_vec()))
        }
        crate::wire::AuthMethod::ECDSA_P384 => {
            let signature = p384::ecdsa::Signature::from_slice(signature).ok()?;
            Some((P384, signature.to_der().as_bytes().to_vec()))
        }
        _ => None,
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::P256(_) => "PrivateKey(P-256)",
            Kind::P384(_) => "PrivateKey(P-384)",
            Kind::Rsa(_) => "PrivateKey(RSA)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p256::elliptic_curve::Generate;
    use p256::pkcs8::EncodePrivateKey;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn keys(rng: &mut ChaCha20Rng) -> Vec<PrivateKey> {
        vec![
            p256::SecretKey::generate_from_rng(rng).into(),
            p384::SecretKey::generate_from_rng(rng).into(),
            PrivateKey::from_pem(include_str!("../../tests/certificates/rsa-a.key")).unwrap(),
        ]
    }

    fn verifies(key: &PrivateKey, message: &[u8], signed: &Signed) -> bool {
        algorithms_of(&signed.algorithm)
            .any(|algorithm| algorithm.verify_signature(&key.public_key(), message, &signed.signature).is_ok())
    }

    #[test]
    fn what_is_signed_verifies_and_nothing_else() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for key in keys(&mut rng) {
            for hash in Hash::ALL {
                for pss in [false, true] {
                    let mut signed = key.sign(b"message", &[hash.id()], pss, &mut rng).unwrap();
                    assert!(verifies(&key, b"message", &signed), "{key:?} {hash:?} {pss}");
                    assert!(!verifies(&key, b"massage", &signed));
                    *signed.signature.last_mut().unwrap() ^= 1;
                    assert!(!verifies(&key, b"message", &signed));
                }
            }
            assert!(key.sign(b"message", &[HashAlgorithm::SHA1], false, &mut rng).is_none());
        }
    }

    #[test]
    fn the_older_form_verifies_as_well() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        for key in keys(&mut rng) {
            let Some((method, signature)) = key.sign_rfc4754(b"message") else {
                assert!(matches!(key.0, Kind::Rsa(_)));
                continue;
            };
            let (algorithm, der) = from_rfc4754(method, &signature).unwrap();
            assert!(algorithm.verify_signature(&key.public_key(), b"message", &der).is_ok());
            assert!(from_rfc4754(method, &signature[1..]).is_none());
        }
    }

    #[test]
    fn keys_come_in_pem() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let key = p256::SecretKey::generate_from_rng(&mut rng);
        let pem = key.to_pkcs8_pem(Default::default()).unwrap();
        assert_eq!(format!("{:?}", PrivateKey::from_pem(&pem).unwrap()), "PrivateKey(P-256)");
        let pem = key.to_sec1_pem(Default::default()).unwrap();
        assert_eq!(format!("{:?}", PrivateKey::from_pem(&pem).unwrap()), "PrivateKey(P-256)");
        assert_eq!(PrivateKey::from_pem("hunter2").unwrap_err(), KeyError::Unknown);
    }

    /// RFC 7427 appendix A.3.2.
    #[test]
    fn identifiers_are_those_of_rfc7427() {
        let of = |scheme, hash| hex::encode(Algorithm { scheme, hash }.identifier());
        assert_eq!(of(Scheme::EcdsaP256, Hash::Sha256), "300a06082a8648ce3d040302");
        assert_eq!(of(Scheme::RsaPkcs1, Hash::Sha256), "300d06092a864886f70d01010b0500");
        assert!(algorithms_of(&[0x30, 0]).next().is_none());
        assert_eq!(der_sequence(&[0; 200])[..3], [0x30, 0x81, 200]);
        assert_eq!(der_sequence(&[0; 300])[..4], [0x30, 0x82, 1, 44]);
    }
}
