//! Diffie-Hellman groups (transform type 4) and the exchange itself.

use std::fmt;

use p256::NistP256;
use p256::elliptic_curve::ecdh::diffie_hellman;
use p256::elliptic_curve::sec1::{FromSec1Point, ModulusSize, ToSec1Point};
use p256::elliptic_curve::{AffinePoint, CurveArithmetic, FieldBytesSize, Generate, PublicKey, SecretKey};
use p384::NistP384;
use rand_core::CryptoRng;
use x25519_dalek::StaticSecret;

use super::modp;
use super::scrub::scrubbed;
use super::secret::Secret;

/// A Diffie-Hellman group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DhGroup {
    /// Curve25519 (RFC 8031).
    X25519,
    /// The 256-bit random ECP group (RFC 5903).
    Ecp256,
    /// The 384-bit random ECP group (RFC 5903).
    Ecp384,
    /// The 2048-bit MODP group (RFC 3526).
    Modp2048,
}

impl DhGroup {
    /// Every group, in the order in which they are preferred.
    pub const ALL: [DhGroup; 4] = [DhGroup::X25519, DhGroup::Ecp256, DhGroup::Ecp384, DhGroup::Modp2048];

    /// The number in the registry "Transform Type 4".
    pub const fn transform_id(self) -> u16 {
        match self {
            DhGroup::X25519 => 31,
            DhGroup::Ecp256 => 19,
            DhGroup::Ecp384 => 20,
            DhGroup::Modp2048 => 14,
        }
    }

    /// The group of that number, where it is one of ours.
    pub fn from_transform_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.transform_id() == id)
    }
}

impl fmt::Display for DhGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DhGroup::X25519 => "x25519",
            DhGroup::Ecp256 => "ecp256",
            DhGroup::Ecp384 => "ecp384",
            DhGroup::Modp2048 => "modp2048",
        })
    }
}

/// The peer's public value isn't an element of the group that gives a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the peer's public value isn't valid for {0}")]
pub struct InvalidPublicValue(pub DhGroup);

/// Our half of an exchange: a private value, used for one exchange only, and the public value for the KE payload.
pub struct KeyExchange {
    private: Private,
    public: Vec<u8>,
}

/// The curves' own types wipe themselves when dropped; so does [`modp::Exponent`]. Boxed, each stays where it was made: a move
/// would leave a copy.
enum Private {
    X25519(Box<StaticSecret>),
    Ecp256(Box<SecretKey<NistP256>>),
    Ecp384(Box<SecretKey<NistP384>>),
    Modp2048(Box<modp::Exponent>),
}

impl KeyExchange {
    /// Chooses a private value.
    pub fn generate(group: DhGroup, rng: &mut dyn CryptoRng) -> Self {
        scrubbed(|| {
            match group {
                DhGroup::X25519 => Private::X25519(Box::new(StaticSecret::random_from_rng(rng))),
                DhGroup::Ecp256 => Private::Ecp256(Box::new(SecretKey::generate_from_rng(rng))),
                DhGroup::Ecp384 => Private::Ecp384(Box::new(SecretKey::generate_from_rng(rng))),
                DhGroup::Modp2048 => Private::Modp2048(Box::new(modp::Exponent::generate(rng))),
            }
            .into()
        })
    }

    /// The group.
    pub fn group(&self) -> DhGroup {
        match self.private {
            Private::X25519(_) => DhGroup::X25519,
            Private::Ecp256(_) => DhGroup::Ecp256,
            Private::Ecp384(_) => DhGroup::Ecp384,
            Private::Modp2048(_) => DhGroup::Modp2048,
        }
    }

    /// The octets of the KE payload's data.
    pub fn public_value(&self) -> &[u8] {
        &self.public
    }

    /// The shared secret `g^ir`, checked as RFC 6989 and RFC 8031 ask.
    pub fn agree(&self, peer: &[u8]) -> Result<Secret, InvalidPublicValue> {
        let secret = scrubbed(|| match &self.private {
            Private::X25519(secret) => <[u8; 32]>::try_from(peer)
                .ok()
                .map(|peer| secret.diffie_hellman(&x25519_dalek::PublicKey::from(peer)))
                // A point of small order would give a secret that anybody knows: RFC 8031 3.2.
                .filter(|shared| shared.was_contributory())
                .map(|shared| Secret::from(&shared.as_bytes()[..])),
            Private::Ecp256(secret) => ecp_agree(secret, peer),
            Private::Ecp384(secret) => ecp_agree(secret, peer),
            Private::Modp2048(exponent) => exponent.agree(peer),
        });
        secret.ok_or(InvalidPublicValue(self.group()))
    }
}

impl From<Private> for KeyExchange {
    fn from(private: Private) -> Self {
        let public = match &private {
            Private::X25519(secret) => x25519_dalek::PublicKey::from(secret.as_ref()).to_bytes().to_vec(),
            Private::Ecp256(secret) => ecp_public(&secret.public_key()),
            Private::Ecp384(secret) => ecp_public(&secret.public_key()),
            Private::Modp2048(exponent) => exponent.public_value(),
        };
        KeyExchange { private, public }
    }
}

impl fmt::Debug for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyExchange").field("group", &self.group()).finish_non_exhaustive()
    }
}

/// The first octet of an uncompressed point in SEC 1; RFC 5903 leaves it out.
const UNCOMPRESSED: u8 = 4;

fn ecp_public<C>(public: &PublicKey<C>) -> Vec<u8>
where
    C: CurveArithmetic,
    FieldBytesSize<C>: ModulusSize,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
{
    public.to_sec1_point(false).as_bytes().iter().skip(1).copied().collect()
}

/// The x coordinate alone is the secret (RFC 5903 7); a point off the curve is refused by the parser.
fn ecp_agree<C>(secret: &SecretKey<C>, peer: &[u8]) -> Option<Secret>
where
    C: CurveArithmetic,
    FieldBytesSize<C>: ModulusSize,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
{
    let mut point = vec![UNCOMPRESSED];
    point.extend_from_slice(peer);
    let peer = PublicKey::<C>::from_sec1_bytes(&point).ok()?;
    let shared = diffie_hellman(secret.to_nonzero_scalar(), peer.as_affine());
    Some(Secret::from(shared.raw_secret_bytes().as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    #[test]
    fn both_sides_agree_in_every_group() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for (group, len, secret_len) in [
            (DhGroup::X25519, 32, 32),
            (DhGroup::Ecp256, 64, 32),
            (DhGroup::Ecp384, 96, 48),
            (DhGroup::Modp2048, 256, 256),
        ] {
            let ours = KeyExchange::generate(group, &mut rng);
            let theirs = KeyExchange::generate(group, &mut rng);
            assert_eq!((ours.group(), ours.public_value().len()), (group, len));
            let secret = ours.agree(theirs.public_value()).unwrap();
            assert_eq!(secret.len(), secret_len);
            assert_eq!(secret.expose(), theirs.agree(ours.public_value()).unwrap().expose());
        }
    }

    #[test]
    fn values_that_give_no_secret_are_refused() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        for group in DhGroup::ALL {
            let ours = KeyExchange::generate(group, &mut rng);
            let len = ours.public_value().len();
            let mut too_long = ours.public_value().to_vec();
            too_long.push(0);
            // All zeros: the point of order 4 of Curve25519, no point of the NIST curves, 0 modulo the prime.
            for bad in [&vec![0; len], &vec![], &vec![1; len - 1], &too_long] {
                assert_eq!(ours.agree(bad).unwrap_err(), InvalidPublicValue(group), "{bad:02x?}");
            }
        }
    }

    /// RFC 5903 8.1: i, r and g^ir of the 256-bit group.
    #[test]
    fn ecp256_of_rfc5903() {
        let half = |private: &str| {
            KeyExchange::from(Private::Ecp256(Box::new(SecretKey::from_slice(&hex::decode(private).unwrap()).unwrap())))
        };
        let ours = half("C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433");
        let theirs = half("C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53");
        assert_eq!(
            hex::encode_upper(ours.public_value()),
            "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180\
             5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3"
        );
        assert_eq!(
            hex::encode_upper(ours.agree(theirs.public_value()).unwrap().expose()),
            "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE"
        );
    }

    /// RFC 7748 6.1.
    #[test]
    fn x25519_of_rfc7748() {
        let half = |private: &str| {
            let private: [u8; 32] = hex::decode(private).unwrap().try_into().unwrap();
            KeyExchange::from(Private::X25519(Box::new(StaticSecret::from(private))))
        };
        let alice = half("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let bob = half("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        assert_eq!(hex::encode(bob.public_value()), "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        assert_eq!(
            hex::encode(alice.agree(bob.public_value()).unwrap().expose()),
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
        );
    }
}
