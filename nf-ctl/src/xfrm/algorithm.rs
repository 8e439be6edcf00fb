//! The kernel's names of algorithms (net/xfrm/xfrm_algo.c) in nf-core's words.

use netlink_packet_xfrm::XfrmAttrs;
use nf_core::sa::spec::Secret;
use zeroize::Zeroizing;

/// The algorithms and keys of an SA, as in `[[sa]]`.
#[derive(Debug)]
pub(super) struct Transform {
    pub(super) alg: &'static str,
    pub(super) key: Option<Secret>,
    pub(super) auth: Option<&'static str>,
    pub(super) auth_key: Option<Secret>,
}

/// Reads them from an SA's attributes.
///
/// # Errors
/// Names what nf-core doesn't have, and what it has.
pub(super) fn transform(attributes: &[XfrmAttrs]) -> Result<Transform, String> {
    let (mut cipher, mut auth, mut old_auth) = (None, None, None);
    for attribute in attributes {
        match attribute {
            XfrmAttrs::EncryptionAlgAead(aead) => {
                let name = name(&aead.alg_name);
                let alg = match (name.as_str(), aead.alg_icv_len) {
                    ("rfc4106(gcm(aes))", 128) => "aes-gcm-16",
                    ("rfc4106(gcm(aes))", 96) => "aes-gcm-12",
                    ("rfc4106(gcm(aes))", 64) => "aes-gcm-8",
                    ("rfc7539esp(chacha20,poly1305)", 128) => "chacha20-poly1305",
                    (_, bits) => {
                        return Err(format!(
                            "nf-core has no {name} with an ICV of {bits} bits: of AEADs it has AES-GCM (rfc4106) and \
                             ChaCha20-Poly1305 (rfc7539esp); change the daemon's ESP proposals"
                        ));
                    }
                };
                cipher = Some((alg, key(&aead.alg_key, aead.alg_key_len)?));
            }
            XfrmAttrs::EncryptionAlg(encryption) => {
                let name = name(&encryption.alg_name);
                cipher = Some(match name.as_str() {
                    "cbc(aes)" => ("aes-cbc", key(&encryption.alg_key, encryption.alg_key_len)?),
                    "ecb(cipher_null)" | "cipher_null" => ("null", None),
                    _ => {
                        return Err(format!(
                            "nf-core has no {name}: it has cbc(aes) and ecb(cipher_null); change the daemon's ESP proposals"
                        ));
                    }
                });
            }
            XfrmAttrs::AuthenticationAlgTrunc(integrity) => {
                let name = name(&integrity.alg_name);
                auth = Some((
                    known_integrity(&name, integrity.alg_trunc_len)?,
                    key(&integrity.alg_key, integrity.alg_key_len)?,
                ));
            }
            // Of daemons that know no truncation; beside the one with truncation the kernel sends it as well. Its lengths
            // are the kernel's defaults, of which 96 bits of SHA-256 are a draft's.
            XfrmAttrs::AuthenticationAlg(integrity) => {
                let name = name(&integrity.alg_name);
                let bits = match name.as_str() {
                    "hmac(sha384)" => 192,
                    "hmac(sha512)" => 256,
                    _ => 96,
                };
                old_auth = Some((name, bits, key(&integrity.alg_key, integrity.alg_key_len)?));
            }
            _ => {}
        }
    }
    if let (None, Some((name, bits, key))) = (&auth, old_auth) {
        auth = Some((known_integrity(&name, bits)?, key));
    }
    let Some((alg, key)) = cipher else { return Err("it comes without a cipher".to_owned()) };
    let (auth, auth_key) = auth.unzip();
    Ok(Transform { alg, key, auth, auth_key: auth_key.flatten() })
}

fn known_integrity(name: &str, bits: u32) -> Result<&'static str, String> {
    match (name, bits) {
        ("hmac(sha1)", 96) => Ok("hmac-sha1-96"),
        ("hmac(sha256)", 128) => Ok("hmac-sha256-128"),
        ("hmac(sha384)", 192) => Ok("hmac-sha384-192"),
        ("hmac(sha512)", 256) => Ok("hmac-sha512-256"),
        _ => Err(format!(
            "nf-core has no {name} truncated to {bits} bits: it has hmac(sha1) at 96, hmac(sha256) at 128, hmac(sha384) at \
             192, hmac(sha512) at 256; change the daemon's ESP proposals"
        )),
    }
}

/// A name ends at its first zero octet.
fn name(octets: &[u8]) -> String {
    let octets = octets.split(|octet| *octet == 0).next().unwrap_or_default();
    String::from_utf8_lossy(octets).into_owned()
}

/// A key in hex; none where there is none, as for the NULL cipher.
fn key(octets: &[u8], bits: u32) -> Result<Option<Secret>, String> {
    let octets = octets.get(..bits.div_ceil(8) as usize).ok_or("its key is shorter than it says")?;
    match octets {
        [] => Ok(None),
        // Lockdown (security/lockdown, "xfrm SA secret") puts zeros in the place of all keys.
        octets if octets.iter().all(|octet| *octet == 0) => {
            Err("the kernel keeps its key to itself: leave lockdown=confidentiality, or use charon's plugin".to_owned())
        }
        octets => {
            let mut digits = Zeroizing::new(vec![0; octets.len().saturating_mul(2)]);
            hex::encode_to_slice(octets, &mut digits).map_err(|error| error.to_string())?;
            let digits = std::str::from_utf8(&digits).map_err(|error| error.to_string())?;
            Ok(Some(Secret::new(digits.to_owned())))
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_xfrm::{Alg, AlgAead, AlgAuth};

    use super::*;

    pub(super) fn named(name: &str) -> [u8; 64] {
        let mut octets = [0; 64];
        octets[..name.len()].copy_from_slice(name.as_bytes());
        octets
    }

    fn aead(name: &str, key: usize, bits: u32) -> XfrmAttrs {
        XfrmAttrs::EncryptionAlgAead(AlgAead {
            alg_name: named(name),
            alg_key_len: key as u32 * 8,
            alg_icv_len: bits,
            alg_key: vec![0x5a; key],
        })
    }

    fn cipher(name: &str, key: usize) -> XfrmAttrs {
        XfrmAttrs::EncryptionAlg(Alg { alg_name: named(name), alg_key_len: key as u32 * 8, alg_key: vec![0x5a; key] })
    }

    fn auth(name: &str, key: usize, bits: u32) -> XfrmAttrs {
        XfrmAttrs::AuthenticationAlgTrunc(AlgAuth {
            alg_name: named(name),
            alg_key_len: key as u32 * 8,
            alg_trunc_len: bits,
            alg_key: vec![0xa5; key],
        })
    }

    fn old_auth(name: &str, key: usize) -> XfrmAttrs {
        XfrmAttrs::AuthenticationAlg(Alg {
            alg_name: named(name),
            alg_key_len: key as u32 * 8,
            alg_key: vec![0xa5; key],
        })
    }

    #[test]
    fn what_nf_core_has_is_named_in_its_words() {
        for (attributes, alg, integrity) in [
            (vec![aead("rfc4106(gcm(aes))", 20, 128)], "aes-gcm-16", None),
            (vec![aead("rfc4106(gcm(aes))", 28, 96)], "aes-gcm-12", None),
            (vec![aead("rfc4106(gcm(aes))", 36, 64)], "aes-gcm-8", None),
            (vec![aead("rfc7539esp(chacha20,poly1305)", 36, 128)], "chacha20-poly1305", None),
            (vec![auth("hmac(sha1)", 20, 96), cipher("cbc(aes)", 16)], "aes-cbc", Some("hmac-sha1-96")),
            (vec![auth("hmac(sha256)", 32, 128), cipher("cbc(aes)", 32)], "aes-cbc", Some("hmac-sha256-128")),
            (vec![auth("hmac(sha384)", 48, 192), cipher("cbc(aes)", 24)], "aes-cbc", Some("hmac-sha384-192")),
            (vec![cipher("ecb(cipher_null)", 0), auth("hmac(sha512)", 64, 256)], "null", Some("hmac-sha512-256")),
            (vec![old_auth("hmac(sha1)", 20), cipher("cbc(aes)", 16)], "aes-cbc", Some("hmac-sha1-96")),
            (
                vec![old_auth("hmac(sha256)", 32), auth("hmac(sha256)", 32, 128), cipher("cbc(aes)", 16)],
                "aes-cbc",
                Some("hmac-sha256-128"),
            ),
        ] {
            let transform = transform(&attributes).unwrap();
            assert_eq!((transform.alg, transform.auth), (alg, integrity));
            assert_eq!((transform.key.is_some(), transform.auth_key.is_some()), (alg != "null", integrity.is_some()));
        }
    }

    #[test]
    fn what_it_does_not_have_is_named_with_what_it_has() {
        let refused = |attributes: &[XfrmAttrs]| transform(attributes).unwrap_err();
        let ccm = refused(&[aead("rfc4309(ccm(aes))", 19, 128)]);
        assert!(
            ccm.starts_with("nf-core has no rfc4309(ccm(aes)) with an ICV of 128 bits: of AEADs it has AES-GCM"),
            "{ccm}"
        );
        let des = refused(&[cipher("cbc(des3_ede)", 24), auth("hmac(sha1)", 20, 96)]);
        assert!(des.contains("no cbc(des3_ede): it has cbc(aes)"), "{des}");
        let short = refused(&[cipher("cbc(aes)", 16), auth("hmac(sha256)", 32, 96)]);
        assert!(short.contains("no hmac(sha256) truncated to 96 bits"), "{short}");
        assert_eq!(refused(&[cipher("cbc(aes)", 16), old_auth("hmac(sha256)", 32)]), short);
        assert_eq!(refused(&[auth("hmac(sha1)", 20, 96)]), "it comes without a cipher");
    }

    #[test]
    fn a_key_that_the_kernel_hides_or_cuts_off_is_no_key() {
        let hidden =
            XfrmAttrs::EncryptionAlg(Alg { alg_name: named("cbc(aes)"), alg_key_len: 128, alg_key: vec![0; 16] });
        assert!(transform(&[hidden]).unwrap_err().contains("lockdown"));
        let cut = XfrmAttrs::EncryptionAlg(Alg { alg_name: named("cbc(aes)"), alg_key_len: 256, alg_key: vec![1; 16] });
        assert_eq!(transform(&[cut]).unwrap_err(), "its key is shorter than it says");
    }
}
