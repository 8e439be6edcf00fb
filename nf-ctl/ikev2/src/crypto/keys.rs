//! From the Diffie-Hellman secret to an IKE SA's keys (RFC 7296 2.14, 2.18), and AUTH data by a shared secret (2.15).

use super::cipher::{IkeCipher, Protection};
use super::dh::DhGroup;
use super::integrity::Integrity;
use super::prf::Prf;
use super::secret::Secret;

/// The algorithms of an IKE SA, as negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IkeSuite {
    /// Encryption.
    pub cipher: IkeCipher,
    /// Integrity: present just where the cipher isn't an AEAD.
    pub integrity: Option<Integrity>,
    /// Pseudorandom function.
    pub prf: Prf,
    /// Diffie-Hellman group.
    pub group: DhGroup,
}

impl std::fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.cipher)?;
        if let Some(integrity) = self.integrity {
            write!(f, "-{integrity}")?;
        }
        write!(f, "-{}-{}", self.prf, self.group)
    }
}

/// Which end of the IKE SA we are: who sent its first message, whoever begins later exchanges.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// We sent the first message.
    Initiator,
    /// The peer did.
    Responder,
}

/// What all keys of an IKE SA are derived from, beside the secret.
#[derive(Clone, Copy, Debug)]
pub struct Seed<'a> {
    /// Ni, without its payload header.
    pub nonce_i: &'a [u8],
    /// Nr.
    pub nonce_r: &'a [u8],
    /// The initiator's SPI.
    pub spi_i: &'a [u8; 8],
    /// The responder's SPI.
    pub spi_r: &'a [u8; 8],
}

/// The keys of an IKE SA, from the side of one of its ends.
#[derive(Debug)]
pub struct IkeKeys {
    /// The function that they were derived with.
    pub prf: Prf,
    /// SK_d: for the keys of CHILD_SAs and of the IKE SA that replaces this one.
    pub sk_d: Secret,
    /// Our SK_p.
    pub sk_p_local: Secret,
    /// The peer's SK_p.
    pub sk_p_remote: Secret,
    /// What we seal with.
    pub outbound: Protection,
    /// What we open with.
    pub inbound: Protection,
}

impl IkeKeys {
    /// The first keys: `SKEYSEED = prf(Ni | Nr, g^ir)`.
    pub fn initial(suite: IkeSuite, role: Role, shared: &Secret, seed: Seed<'_>) -> Self {
        let nonces = Secret::new([seed.nonce_i, seed.nonce_r].concat());
        let skeyseed = suite.prf.compute(nonces.expose(), &[shared.expose()]);
        Self::derive(suite, role, &skeyseed, seed)
    }

    /// The keys of the SA that replaces this one: `SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr)` with the old SA's
    /// function (RFC 7296 2.18).
    pub fn rekeyed(&self, suite: IkeSuite, role: Role, shared: &Secret, seed: Seed<'_>) -> Self {
        let skeyseed = self.prf.compute(self.sk_d.expose(), &[shared.expose(), seed.nonce_i, seed.nonce_r]);
        Self::derive(suite, role, &skeyseed, seed)
    }

    fn derive(suite: IkeSuite, role: Role, skeyseed: &Secret, seed: Seed<'_>) -> Self {
        let prf_len = suite.prf.output_len();
        let auth_len = suite.integrity.map_or(0, Integrity::key_len);
        let encr_len = suite.cipher.key_material_len();
        let total = 3 * prf_len + 2 * auth_len + 2 * encr_len;
        let stream = suite.prf.expand(skeyseed.expose(), &[seed.nonce_i, seed.nonce_r, seed.spi_i, seed.spi_r], total);
        let mut rest = stream.expose();
        let mut take = |len: usize| {
            let (head, tail) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            rest = tail;
            Secret::from(head)
        };
        let sk_d = take(prf_len);
        let (sk_ai, sk_ar) = (take(auth_len), take(auth_len));
        let (sk_ei, sk_er) = (take(encr_len), take(encr_len));
        let (sk_pi, sk_pr) = (take(prf_len), take(prf_len));
        let initiator = Protection::new(suite.cipher, suite.integrity, sk_ei, sk_ai);
        let responder = Protection::new(suite.cipher, suite.integrity, sk_er, sk_ar);
        let ((outbound, sk_p_local), (inbound, sk_p_remote)) = match role {
            Role::Initiator => ((initiator, sk_pi), (responder, sk_pr)),
            Role::Responder => ((responder, sk_pr), (initiator, sk_pi)),
        };
        IkeKeys { prf: suite.prf, sk_d, sk_p_local, sk_p_remote, outbound, inbound }
    }

    /// The octets that we sign or MAC: our first message, the peer's nonce, `prf(SK_p, RestOfInitIDPayload)`.
    pub fn signed_octets_local(&self, message: &[u8], peer_nonce: &[u8], id: &[u8]) -> Vec<u8> {
        self.signed_octets(&self.sk_p_local, message, peer_nonce, id)
    }

    /// The octets that the peer signs or MACs: its first message, our nonce, its ID.
    pub fn signed_octets_remote(&self, message: &[u8], our_nonce: &[u8], id: &[u8]) -> Vec<u8> {
        self.signed_octets(&self.sk_p_remote, message, our_nonce, id)
    }

    fn signed_octets(&self, sk_p: &Secret, message: &[u8], nonce: &[u8], id: &[u8]) -> Vec<u8> {
        let maced_id = self.prf.compute(sk_p.expose(), &[id]);
        [message, nonce, maced_id.expose()].concat()
    }

    /// AUTH data by a shared secret: `prf(prf(secret, "Key Pad for IKEv2"), octets)`.
    pub fn psk_auth(&self, psk: &Secret, signed_octets: &[u8]) -> Secret {
        let key = self.prf.compute(psk.expose(), &[b"Key Pad for IKEv2"]);
        self.prf.compute(key.expose(), &[signed_octets])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::cipher::AesKey;

    fn suite() -> IkeSuite {
        IkeSuite {
            cipher: IkeCipher::AesCbc(AesKey::Bits256),
            integrity: Some(Integrity::HmacSha256_128),
            prf: Prf::HmacSha384,
            group: DhGroup::X25519,
        }
    }

    const SEED: Seed<'_> = Seed { nonce_i: &[1; 32], nonce_r: &[2; 32], spi_i: &[3; 8], spi_r: &[4; 8] };

    #[test]
    fn the_ends_mirror_each_other() {
        let shared = Secret::new(vec![9; 32]);
        let initiator = IkeKeys::initial(suite(), Role::Initiator, &shared, SEED);
        let responder = IkeKeys::initial(suite(), Role::Responder, &shared, SEED);
        assert_eq!(initiator.sk_p_local.expose(), responder.sk_p_remote.expose());
        assert_ne!(initiator.sk_p_local.expose(), initiator.sk_p_remote.expose());
        let psk = Secret::from(&b"secret"[..]);
        let ours = initiator.psk_auth(&psk, &initiator.signed_octets_local(b"message", b"nonce", b"id"));
        let theirs = responder.psk_auth(&psk, &responder.signed_octets_remote(b"message", b"nonce", b"id"));
        assert_eq!(ours.expose(), theirs.expose());
    }

    #[test]
    fn a_rekeyed_sa_has_other_keys() {
        let shared = Secret::new(vec![9; 32]);
        let old = IkeKeys::initial(suite(), Role::Initiator, &shared, SEED);
        let new = old.rekeyed(suite(), Role::Initiator, &shared, SEED);
        assert_eq!(new.sk_d.len(), 48);
        assert_ne!(old.sk_d.expose(), new.sk_d.expose());
    }

    #[test]
    fn debug_shows_no_key() {
        let keys = IkeKeys::initial(suite(), Role::Initiator, &Secret::new(vec![9; 32]), SEED);
        let text = format!("{keys:?}");
        assert!(text.contains("Secret(48 octets)"), "{text}");
        assert!(!text.contains('['), "{text}");
    }
}
