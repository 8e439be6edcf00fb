//! Algorithms of ESP SAs and the keying material of CHILD_SAs (RFC 7296 2.17).

use std::fmt;

use super::cipher::{AesKey, ENCR_AES_CBC};
use super::dh::DhGroup;
use super::integrity::Integrity;
use super::keys::{IkeKeys, Role};
use super::secret::Secret;

/// How much of AES-GCM's tag is on the wire (RFC 4106 6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GcmIcv {
    /// 8 octets.
    Octets8,
    /// 12 octets.
    Octets12,
    /// 16 octets.
    Octets16,
}

/// An encryption algorithm of ESP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EspCipher {
    /// AES-GCM (RFC 4106).
    AesGcm(AesKey, GcmIcv),
    /// AES-CBC (RFC 3602).
    AesCbc(AesKey),
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
    /// None (RFC 2410): integrity only.
    Null,
}

/// Octets of salt after an AEAD's key.
const SALT_LEN: usize = 4;

impl EspCipher {
    /// The number in the registry "Transform Type 1".
    pub const fn transform_id(self) -> u16 {
        match self {
            EspCipher::AesGcm(_, GcmIcv::Octets8) => 18,
            EspCipher::AesGcm(_, GcmIcv::Octets12) => 19,
            EspCipher::AesGcm(_, GcmIcv::Octets16) => 20,
            EspCipher::AesCbc(_) => ENCR_AES_CBC,
            EspCipher::ChaCha20Poly1305 => 28,
            EspCipher::Null => 11,
        }
    }

    /// The key length attribute, for ciphers that have one.
    pub const fn key_bits(self) -> Option<u16> {
        match self {
            EspCipher::AesGcm(key, _) | EspCipher::AesCbc(key) => Some(key.bits()),
            EspCipher::ChaCha20Poly1305 | EspCipher::Null => None,
        }
    }

    /// The cipher of that number and key length attribute, where it is one of ours.
    pub fn from_transform(id: u16, key_bits: Option<u16>) -> Option<Self> {
        let aes = || AesKey::from_bits(key_bits?);
        match id {
            18 => Some(EspCipher::AesGcm(aes()?, GcmIcv::Octets8)),
            19 => Some(EspCipher::AesGcm(aes()?, GcmIcv::Octets12)),
            20 => Some(EspCipher::AesGcm(aes()?, GcmIcv::Octets16)),
            ENCR_AES_CBC => Some(EspCipher::AesCbc(aes()?)),
            28 => key_bits.is_none().then_some(EspCipher::ChaCha20Poly1305),
            11 => key_bits.is_none().then_some(EspCipher::Null),
            _ => None,
        }
    }

    /// True where the cipher authenticates as well.
    pub const fn is_aead(self) -> bool {
        matches!(self, EspCipher::AesGcm(..) | EspCipher::ChaCha20Poly1305)
    }

    /// Octets of key, an AEAD's salt included.
    pub const fn key_material_len(self) -> usize {
        match self {
            EspCipher::AesGcm(key, _) => key.octets() + SALT_LEN,
            EspCipher::AesCbc(key) => key.octets(),
            EspCipher::ChaCha20Poly1305 => 32 + SALT_LEN,
            EspCipher::Null => 0,
        }
    }
}

impl fmt::Display for EspCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EspCipher::AesGcm(key, icv) => {
                let icv = match icv {
                    GcmIcv::Octets8 => 8,
                    GcmIcv::Octets12 => 12,
                    GcmIcv::Octets16 => 16,
                };
                write!(f, "aes{}gcm{icv}", key.bits())
            }
            EspCipher::AesCbc(key) => write!(f, "aes{}", key.bits()),
            EspCipher::ChaCha20Poly1305 => f.write_str("chacha20poly1305"),
            EspCipher::Null => f.write_str("null"),
        }
    }
}

/// The algorithms of a CHILD_SA, as negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EspSuite {
    /// Encryption.
    pub cipher: EspCipher,
    /// Integrity: present just where the cipher isn't an AEAD.
    pub integrity: Option<Integrity>,
    /// Extended sequence numbers of 64 bits (RFC 4303 2.2.1).
    pub esn: bool,
    /// The group of a fresh Diffie-Hellman exchange (perfect forward secrecy). Never there in IKE_AUTH.
    pub group: Option<DhGroup>,
}

impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cipher)?;
        if let Some(integrity) = self.integrity {
            write!(f, "-{integrity}")?;
        }
        if let Some(group) = self.group {
            write!(f, "-{group}")?;
        }
        if self.esn { f.write_str("-esn") } else { Ok(()) }
    }
}

/// Keys of one direction of a CHILD_SA.
#[derive(Clone, Debug)]
pub struct EspKeys {
    /// Encryption: the key, followed by 4 octets of salt for an AEAD.
    pub encryption: Secret,
    /// Integrity: empty with an AEAD.
    pub integrity: Secret,
}

/// Keys of both directions, from the side of one end.
#[derive(Clone, Debug)]
pub struct ChildKeys {
    /// For packets to us.
    pub inbound: EspKeys,
    /// For packets from us.
    pub outbound: EspKeys,
}

impl IkeKeys {
    /// `KEYMAT = prf+(SK_d, [g^ir |] Ni | Nr)`: the nonces, and where given the secret, of the exchange that makes the
    /// CHILD_SA. `role` is ours in that exchange, not in the IKE SA's first.
    pub fn child_keys(
        &self,
        suite: EspSuite,
        role: Role,
        shared: Option<&Secret>,
        nonce_i: &[u8],
        nonce_r: &[u8],
    ) -> ChildKeys {
        let encr_len = suite.cipher.key_material_len();
        let auth_len = suite.integrity.map_or(0, Integrity::key_len);
        let shared = shared.map_or(&[][..], Secret::expose);
        let stream = self.prf.expand(self.sk_d.expose(), &[shared, nonce_i, nonce_r], 2 * (encr_len + auth_len));
        let mut rest = stream.expose();
        let mut take = |len: usize| {
            let (head, tail) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            rest = tail;
            Secret::from(head)
        };
        // The initiator's outbound direction comes first, in each direction encryption before integrity.
        let from_initiator = EspKeys { encryption: take(encr_len), integrity: take(auth_len) };
        let from_responder = EspKeys { encryption: take(encr_len), integrity: take(auth_len) };
        match role {
            Role::Initiator => ChildKeys { outbound: from_initiator, inbound: from_responder },
            Role::Responder => ChildKeys { outbound: from_responder, inbound: from_initiator },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::cipher::IkeCipher;
    use crate::crypto::keys::{IkeSuite, Seed};
    use crate::crypto::prf::Prf;

    fn keys() -> IkeKeys {
        let suite = IkeSuite {
            cipher: IkeCipher::AesGcm16(AesKey::Bits128),
            integrity: None,
            prf: Prf::HmacSha256,
            group: DhGroup::X25519,
        };
        let seed = Seed { nonce_i: &[1; 32], nonce_r: &[2; 32], spi_i: &[3; 8], spi_r: &[4; 8] };
        IkeKeys::initial(suite, Role::Initiator, &Secret::new(vec![5; 32]), seed)
    }

    #[test]
    fn every_cipher_keeps_its_number_and_gets_keys_of_its_length() {
        let icvs = [GcmIcv::Octets8, GcmIcv::Octets12, GcmIcv::Octets16];
        let mut ciphers = vec![EspCipher::ChaCha20Poly1305, EspCipher::Null];
        for key in AesKey::ALL {
            ciphers.extend(icvs.map(|icv| EspCipher::AesGcm(key, icv)));
            ciphers.push(EspCipher::AesCbc(key));
        }
        let keys = keys();
        for cipher in ciphers {
            assert_eq!(EspCipher::from_transform(cipher.transform_id(), cipher.key_bits()), Some(cipher));
            let integrity = (!cipher.is_aead()).then_some(Integrity::HmacSha512_256);
            let suite = EspSuite { cipher, integrity, esn: false, group: None };
            let ours = keys.child_keys(suite, Role::Initiator, None, b"ni", b"nr");
            let theirs = keys.child_keys(suite, Role::Responder, None, b"ni", b"nr");
            assert_eq!(ours.outbound.encryption.len(), cipher.key_material_len());
            assert_eq!(ours.outbound.integrity.len(), if cipher.is_aead() { 0 } else { 64 });
            assert_eq!(ours.outbound.encryption.expose(), theirs.inbound.encryption.expose());
            assert_eq!(ours.inbound.integrity.expose(), theirs.outbound.integrity.expose());
        }
    }

    #[test]
    fn a_fresh_exchange_changes_the_keys() {
        let suite = EspSuite { cipher: EspCipher::ChaCha20Poly1305, integrity: None, esn: true, group: None };
        let keys = keys();
        let without = keys.child_keys(suite, Role::Initiator, None, b"ni", b"nr");
        let with = keys.child_keys(suite, Role::Initiator, Some(&Secret::new(vec![1; 32])), b"ni", b"nr");
        assert_ne!(without.inbound.encryption.expose(), with.inbound.encryption.expose());
    }
}
