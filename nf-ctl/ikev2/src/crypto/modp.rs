//! The 2048-bit MODP group (RFC 3526 3): powers of two modulo a safe prime, in constant time.

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U256, U2048};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::secret::Secret;

/// Octets of an element.
const LEN: usize = 256;

/// The prime of RFC 3526 3.
const PRIME: Odd<U2048> = Odd::<U2048>::from_be_hex(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
     EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
     83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
     15728E5A8AACAA68FFFFFFFFFFFFFFFF",
);

const PARAMS: FixedMontyParams<{ U2048::LIMBS }> = FixedMontyParams::new_vartime(PRIME);

/// A private exponent of 256 bits: more than twice the group's strength of about 112 bits, which is all that a longer
/// one could add to (RFC 3526 8, NIST SP 800-56A 5.6.1.1.1).
pub(super) struct Exponent(Zeroizing<U256>);

impl Exponent {
    pub(super) fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut octets = Zeroizing::new([0; 32]);
        rng.fill_bytes(octets.as_mut_slice());
        Exponent(Zeroizing::new(U256::from_be_slice(octets.as_slice())))
    }

    pub(super) fn public_value(&self) -> Vec<u8> {
        self.power_of(&U2048::from_u8(2)).expose().to_vec()
    }

    /// `None` unless the value lies in 2..=p-2: the others generate a group of at most two elements (RFC 6989 2.1).
    pub(super) fn agree(&self, peer: &[u8]) -> Option<Secret> {
        if peer.len() != LEN {
            return None;
        }
        let peer = U2048::from_be_slice(peer);
        let last = PRIME.get().wrapping_sub(&U2048::ONE);
        (peer > U2048::ONE && peer < last).then(|| self.power_of(&peer))
    }

    fn power_of(&self, base: &U2048) -> Secret {
        let power = Zeroizing::new(FixedMontyForm::new(base, &PARAMS).pow(&self.0).retrieve());
        Secret::from(power.to_be_bytes().as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exponent(value: u8) -> Exponent {
        Exponent(Zeroizing::new(U256::from_u8(value)))
    }

    #[test]
    fn small_powers() {
        let octets = exponent(9).public_value();
        assert_eq!(octets.len(), LEN);
        assert_eq!(&octets[LEN - 2..], [2, 0]);
        let mut three = vec![0; LEN];
        three[LEN - 1] = 3;
        assert_eq!(exponent(5).agree(&three).unwrap().expose()[LEN - 1], 243);
    }

    /// The private exponents' product is what counts: (2^a)^b = (2^b)^a, with 2^(p-1) = 1 as a check of the prime.
    #[test]
    fn the_prime_is_prime_to_fermat() {
        let one =
            FixedMontyForm::new(&U2048::from_u8(2), &PARAMS).pow(&PRIME.get().wrapping_sub(&U2048::ONE)).retrieve();
        assert_eq!(one, U2048::ONE);
    }

    #[test]
    fn degenerate_values_are_refused() {
        let octets = |value: U2048| value.to_be_bytes().as_ref().to_vec();
        let prime = PRIME.get();
        for bad in [U2048::ZERO, U2048::ONE, prime.wrapping_sub(&U2048::ONE), prime, U2048::MAX] {
            assert!(exponent(7).agree(&octets(bad)).is_none());
        }
        assert!(exponent(7).agree(&octets(prime.wrapping_sub(&U2048::from_u8(2)))).is_some());
        assert!(exponent(7).agree(&[2]).is_none());
    }
}
