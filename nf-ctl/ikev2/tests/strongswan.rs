//! Messages of strongSwan: read, compared with what strongSwan says is in them, and written again to the octet.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes256Gcm, KeyInit};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use common::recording::{Recording, Sample};
use hmac::{Hmac, Mac};
use ikev2::wire::*;

/// The cipher of an IKE SA, put together from primitives here so that nothing is shared with the code under test.
trait Cipher {
    const LAYOUT: SkLayout;
    fn open(sample: &Sample, parts: SkParts<'_>) -> Vec<u8>;
    fn seal(sample: &Sample, iv: &[u8], frame: SkFrame) -> Vec<u8>;
}

/// AES-256-GCM with an ICV of 16 octets (RFC 5282).
struct Gcm;

impl Gcm {
    fn cipher_and_nonce(sample: &Sample, iv: &[u8]) -> (Aes256Gcm, [u8; 12]) {
        let (key, salt) = sample.key("SK_e").split_at(32);
        let nonce: Vec<u8> = [salt, iv].concat();
        (Aes256Gcm::new_from_slice(key).unwrap(), nonce.try_into().unwrap())
    }
}

impl Cipher for Gcm {
    const LAYOUT: SkLayout = SkLayout { iv: 8, block: 1, icv: 16 };

    fn open(sample: &Sample, parts: SkParts<'_>) -> Vec<u8> {
        let (cipher, nonce) = Gcm::cipher_and_nonce(sample, parts.iv);
        let mut text = parts.ciphertext.to_vec();
        let buffer = InOutBuf::from(&mut text[..]);
        let tag = parts.icv.try_into().unwrap();
        cipher.decrypt_inout_detached(&nonce.into(), parts.aad, buffer, tag).unwrap();
        text
    }

    fn seal(sample: &Sample, iv: &[u8], mut frame: SkFrame) -> Vec<u8> {
        let (cipher, nonce) = Gcm::cipher_and_nonce(sample, iv);
        let parts = frame.parts_mut();
        parts.iv.copy_from_slice(iv);
        let buffer = InOutBuf::from(parts.text);
        let tag = cipher.encrypt_inout_detached(&nonce.into(), parts.aad, buffer).unwrap();
        parts.icv.copy_from_slice(&tag);
        frame.into_message()
    }
}

/// AES-128-CBC with HMAC-SHA2-256-128 (RFC 7296 3.14).
struct CbcHmac;

impl CbcHmac {
    fn icv(sample: &Sample, authenticated: &[u8]) -> [u8; 16] {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(sample.key("SK_a")).unwrap();
        mac.update(authenticated);
        *mac.finalize().into_bytes().first_chunk().unwrap()
    }
}

impl Cipher for CbcHmac {
    const LAYOUT: SkLayout = SkLayout { iv: 16, block: 16, icv: 16 };

    fn open(sample: &Sample, parts: SkParts<'_>) -> Vec<u8> {
        assert_eq!(parts.icv, CbcHmac::icv(sample, parts.authenticated));
        let mut cipher = cbc::Decryptor::<aes::Aes128>::new_from_slices(sample.key("SK_e"), parts.iv).unwrap();
        let mut text = parts.ciphertext.to_vec();
        text.chunks_mut(16).for_each(|block| cipher.decrypt_block(block.try_into().unwrap()));
        text
    }

    fn seal(sample: &Sample, iv: &[u8], mut frame: SkFrame) -> Vec<u8> {
        let parts = frame.parts_mut();
        parts.iv.copy_from_slice(iv);
        let mut cipher = cbc::Encryptor::<aes::Aes128>::new_from_slices(sample.key("SK_e"), iv).unwrap();
        parts.text.chunks_mut(16).for_each(|block| cipher.encrypt_block(block.try_into().unwrap()));
        let (authenticated, icv) = frame.authenticated_and_icv();
        icv.copy_from_slice(&CbcHmac::icv(sample, authenticated));
        frame.into_message()
    }
}

/// Reads every message: those in the clear have to be written again to the octet, encrypted ones have to hold what strongSwan
/// logged, and to be laid out and encrypted again to the octet. Gives the payloads of each whole message.
fn read_all<C: Cipher>(recording: &Recording) -> Vec<(Header, Chain)> {
    let mut reassembly = Reassembly::default();
    let mut whole = Vec::new();
    for sample in &recording.samples {
        let name = &sample.name;
        let message = Message::parse(&sample.octets).unwrap();
        let header = message.header;
        assert_eq!(header.flags.response, name.ends_with("response"), "{name}");
        let Some(sk) = message.sk else {
            assert_eq!(emit(&header, &message.payloads).unwrap(), sample.octets, "{name}");
            whole.push((header, message.payloads.emit().unwrap()));
            continue;
        };
        assert!(message.payloads.is_empty(), "{name}");
        let parts = sk.parts(C::LAYOUT).unwrap();
        let text = C::open(sample, parts);
        let inside = strip_padding(&text).unwrap();
        assert_eq!(inside, sample.inside, "{name}");
        let chain = Chain { first: sk.first, octets: inside.to_vec() };
        match sk.fragment {
            None => {
                let mut frame = SkFrame::new(&header, &chain, C::LAYOUT).unwrap();
                // What padding consists of is the sender's choice, so it is taken from there.
                frame.parts_mut().text.copy_from_slice(&text);
                assert_eq!(C::seal(sample, parts.iv, frame), sample.octets, "{name}");
                whole.push((header, chain));
            }
            Some(fragment) => {
                if let Some(chain) = reassembly.add(header.message_id, fragment, sk.first, inside).unwrap() {
                    whole.push((header, chain));
                }
            }
        }
    }
    for (header, chain) in &whole {
        let payloads = Payloads::parse(chain.first, &chain.octets).unwrap();
        assert_eq!(payloads.emit().unwrap(), *chain, "{header:?}");
    }
    whole
}

/// The payloads of the messages of an exchange: request, response, request of the next one, and so on.
fn of(messages: &[(Header, Chain)], exchange: ExchangeType) -> Vec<Payloads<'_>> {
    let matching = messages.iter().filter(|(header, _)| header.exchange == exchange);
    matching.map(|(_, chain)| Payloads::parse(chain.first, &chain.octets).unwrap()).collect()
}

/// The types of payloads as strongSwan's log lists them.
fn listed(payloads: &Payloads<'_>) -> String {
    let names = payloads.iter().map(|payload| match payload {
        Payload::Notify(notify) => notify.kind.to_string(),
        other => other.kind().to_string(),
    });
    names.collect::<Vec<_>>().join(" ")
}

fn proposals(payloads: &Payloads<'_>) -> Vec<String> {
    payloads.sa().unwrap().proposals.iter().map(Proposal::to_string).collect()
}

fn selectors(ts: Option<&Ts>) -> Vec<String> {
    ts.unwrap().ip().map(IpSelector::to_string).collect()
}

#[test]
fn an_ike_sa_with_a_shared_key() {
    let recording = Recording::parse(include_str!("samples/strongswan-psk-gcm.txt"));
    assert_eq!(recording.samples.len(), 16);
    let messages = read_all::<Gcm>(&recording);

    let init = of(&messages, ExchangeType::IKE_SA_INIT);
    assert_eq!(
        listed(&init[0]),
        "SA KE Ni, Nr NAT_DETECTION_SOURCE_IP NAT_DETECTION_DESTINATION_IP IKEV2_FRAGMENTATION_SUPPORTED \
         SIGNATURE_HASH_ALGORITHMS REDIRECT_SUPPORTED"
    );
    let suite = ["IKE: ENCR_AES_GCM_16/256, PRF_HMAC_SHA2_256, Curve25519"];
    assert_eq!(proposals(&init[0]), suite);
    assert_eq!(proposals(&init[1]), suite);
    let ke = init[0].ke().unwrap();
    assert_eq!((ke.group, ke.data.len()), (DhGroup::CURVE25519, 32));
    assert_eq!(init[0].nonce().unwrap().0.len(), 32);
    let hashes: Vec<_> = init[0].notify(NotifyType::SIGNATURE_HASH_ALGORITHMS).unwrap().hash_algorithms().collect();
    let sha2 = [HashAlgorithm::SHA2_256, HashAlgorithm::SHA2_384, HashAlgorithm::SHA2_512, HashAlgorithm::IDENTITY];
    assert_eq!(hashes, sha2);
    assert!(init[0].error().is_none());

    let auth = of(&messages, ExchangeType::IKE_AUTH);
    assert_eq!(
        listed(&auth[0]),
        "IDi INITIAL_CONTACT IDr AUTH SA TSi TSr MOBIKE_SUPPORTED NO_ADDITIONAL_ADDRESSES MULTIPLE_AUTH_SUPPORTED \
         EAP_ONLY_AUTHENTICATION IKEV2_MESSAGE_ID_SYNC_SUPPORTED"
    );
    assert_eq!(auth[0].id_i().unwrap().to_string(), "a.example");
    assert_eq!(auth[1].id_r().unwrap().to_string(), "b.example");
    assert_eq!(auth[0].auth().unwrap().method, AuthMethod::SHARED_KEY);
    assert_eq!(
        proposals(&auth[0]),
        [
            "ESP: ENCR_AES_GCM_16/256, No Extended Sequence Numbers",
            "ESP: ENCR_AES_CBC/128, AUTH_HMAC_SHA2_256_128, No Extended Sequence Numbers",
        ]
    );
    assert_eq!(selectors(auth[0].ts_i()), ["198.51.100.0-198.51.100.255"]);
    assert_eq!(selectors(auth[0].ts_r()), ["203.0.113.0-203.0.113.255"]);

    // The CHILD_SA is rekeyed: the notify names the initiator's SPI, and so does the Delete that follows.
    let child = of(&messages, ExchangeType::CREATE_CHILD_SA);
    let old = auth[0].sa().unwrap().proposals[0].spi.clone();
    let rekeyed = child[0].notify(NotifyType::REKEY_SA).unwrap();
    assert_eq!((rekeyed.protocol, &rekeyed.spi), (ProtocolId::ESP, &old));
    let informational = of(&messages, ExchangeType::INFORMATIONAL);
    let Spi::Child(old) = old else { panic!("{old:?}") };
    assert_eq!(informational[0].deletes().collect::<Vec<_>>(), [&Delete::esp(old)]);

    // Then the IKE SA, whose proposals carry SPIs of 8 octets.
    assert_eq!(listed(&child[2]), "SA Ni, Nr KE");
    assert!(matches!(child[2].sa().unwrap().proposals[0].spi, Spi::Ike(spi) if !spi.is_zero()));
    assert_eq!(informational[4].deletes().collect::<Vec<_>>(), [&Delete::IkeSa]);
}

#[test]
fn an_ike_sa_with_certificates_in_fragments() {
    let recording = Recording::parse(include_str!("samples/strongswan-cert-cbc-fragments.txt"));
    assert_eq!(recording.samples.len(), 20);
    let messages = read_all::<CbcHmac>(&recording);

    // Two fragments became one message, twice.
    assert_eq!(messages.len(), 18);

    let init = of(&messages, ExchangeType::IKE_SA_INIT);
    assert_eq!(init[0].ke().unwrap().group, DhGroup::MODP_2048);
    assert_eq!(listed(&init[1]), "INVALID_KE_PAYLOAD");
    assert_eq!(init[1].error().unwrap().wanted_group(), Some(DhGroup::CURVE25519));
    assert_eq!(init[2].ke().unwrap().group, DhGroup::CURVE25519);
    assert_eq!(proposals(&init[3]), ["IKE: ENCR_AES_CBC/128, AUTH_HMAC_SHA2_256_128, PRF_HMAC_SHA2_256, Curve25519"]);

    let auth = of(&messages, ExchangeType::IKE_AUTH);
    assert_eq!(
        listed(&auth[0]),
        "IDi CERT INITIAL_CONTACT CERTREQ IDr AUTH SA TSi TSr MOBIKE_SUPPORTED NO_ADDITIONAL_ADDRESSES \
         MULTIPLE_AUTH_SUPPORTED EAP_ONLY_AUTHENTICATION IKEV2_MESSAGE_ID_SYNC_SUPPORTED"
    );
    assert_eq!(listed(&auth[1]), "IDr CERT AUTH SA TSi TSr MOBIKE_SUPPORTED NO_ADDITIONAL_ADDRESSES");
    let cert = auth[0].certs().next().unwrap();
    assert_eq!((cert.encoding, &cert.data[..2]), (CertEncoding::X509_SIGNATURE, &[0x30, 0x82][..]));
    assert_eq!(auth[0].cert_requests().next().unwrap().key_hashes().count(), 1);

    // ecdsa-with-SHA256 (RFC 7427 A.3.2), and a signature that is an ASN.1 SEQUENCE.
    let auth = auth[1].auth().unwrap();
    assert_eq!(auth.method, AuthMethod::DIGITAL_SIGNATURE);
    let signature = auth.digital_signature().unwrap();
    assert_eq!(hex::encode(signature.algorithm), "300a06082a8648ce3d040302");
    assert_eq!(signature.signature[0], 0x30);
    assert_eq!(signature.to_auth().unwrap(), *auth);
}
