//! Works the secrets of two endpoints out from their messages and their seeds.

use std::collections::{BTreeMap, BTreeSet};

use ikev2::crypto::cipher::{AesKey, IkeCipher};
use ikev2::crypto::dh::{DhGroup, KeyExchange};
use ikev2::crypto::integrity::Integrity;
use ikev2::crypto::keys::{IkeKeys, IkeSuite, Role, Seed};
use ikev2::crypto::prf::Prf;
use ikev2::crypto::secret::Secret;
use ikev2::wire::{ExchangeType, Header, IkeSpi, Message, Payloads, Spi};
use p256::elliptic_curve::pkcs8::DecodePrivateKey as _;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use rsa::traits::PrivateKeyParts;

use crate::freed::beginning;
use crate::support::{A, Net};

/// What the proposal of the test stands for.
const SUITE: IkeSuite = IkeSuite {
    cipher: IkeCipher::AesCbc(AesKey::Bits256),
    integrity: Some(Integrity::HmacSha256_128),
    prf: Prf::HmacSha384,
    group: DhGroup::X25519,
};

/// Words of a generator that are gone through for a private value.
const WORDS: u128 = 1024;

/// The private value behind a public one, by the end that has made it, and its octets.
fn private(seed: u64, side: usize, public: &[u8]) -> (KeyExchange, [u8; 32]) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed * 2 + side as u64);
    for word in 0..WORDS {
        rng.set_word_pos(word);
        let exchange = KeyExchange::generate(DhGroup::X25519, &mut rng);
        if exchange.public_value() == public {
            let mut octets = [0; 32];
            rng.set_word_pos(word);
            rng.fill_bytes(&mut octets);
            return (exchange, octets);
        }
    }
    panic!("no private value of end {side} within {WORDS} words");
}

/// What one side of an exchange has shown.
struct Half {
    side: usize,
    public: Option<Vec<u8>>,
    nonce: Option<Vec<u8>>,
    /// The SPI of the IKE SA that is made.
    spi: Option<IkeSpi>,
}

impl Half {
    fn of(side: usize, header: &Header, payloads: &Payloads<'_>) -> Half {
        let spi = match header.exchange {
            ExchangeType::IKE_SA_INIT if header.flags.response => Some(header.responder_spi),
            ExchangeType::IKE_SA_INIT => Some(header.initiator_spi),
            _ => payloads.sa().and_then(|sa| match sa.proposals.first()?.spi {
                Spi::Ike(spi) => Some(spi),
                _ => None,
            }),
        };
        let (ke, nonce) = (payloads.ke(), payloads.nonce());
        Half { side, public: ke.map(|ke| ke.data.to_vec()), nonce: nonce.map(|nonce| nonce.0.to_vec()), spi }
    }
}

/// The keys of an IKE SA from either end, by its SPIs.
type Keys = BTreeMap<(IkeSpi, IkeSpi), [IkeKeys; 2]>;

/// The beginnings of all secrets of the IKE SAs, and of what was agreed on for CHILD_SAs.
pub fn secrets(net: &Net, seed: u64) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let mut keys = Keys::new();
    // By IKE SA and who asks: both sides may at once, and over two that follow each other.
    let mut asked: BTreeMap<(IkeSpi, usize), Half> = BTreeMap::new();
    for (side, datagram) in &net.trace {
        let header = Header::parse(&datagram.payload).unwrap();
        let message = Message::parse(&datagram.payload).unwrap();
        let spis = (header.initiator_spi, header.responder_spi);
        let content;
        let half = match &message.sk {
            None => Half::of(*side, &header, &message.payloads),
            Some(sk) => {
                // Opened as its receiver does.
                let [initiator, responder] = &keys[&spis];
                let receiver = if header.flags.initiator { responder } else { initiator };
                content = receiver.inbound.open(sk).unwrap();
                Half::of(*side, &header, &Payloads::parse(sk.first, &content).unwrap())
            }
        };
        if !header.flags.response {
            asked.insert((spis.0, *side), half);
            continue;
        }
        let asked = asked.remove(&(spis.0, 1 - *side)).unwrap();
        let (Some(public), Some(theirs)) = (&asked.public, &half.public) else { continue };
        let (ours, octets) = private(seed, asked.side, public);
        let shared = ours.agree(theirs).unwrap();
        found.extend([&octets, &private(seed, half.side, theirs).1].map(|octets| beginning(octets)));
        found.insert(beginning(shared.expose()));
        let (Some(spi_i), Some(spi_r)) = (asked.spi, half.spi) else { continue };
        let (nonce_i, nonce_r) = (asked.nonce.unwrap(), half.nonce.unwrap());
        let seed = Seed { nonce_i: &nonce_i, nonce_r: &nonce_r, spi_i: &spi_i.0, spi_r: &spi_r.0 };
        let old = keys.get(&spis).map(|[initiator, _]| initiator);
        found.extend(stream(old, &shared, seed));
        let both = [Role::Initiator, Role::Responder].map(|role| match old {
            Some(old) => old.rekeyed(SUITE, role, &shared, seed),
            None => IkeKeys::initial(SUITE, role, &shared, seed),
        });
        assert_eq!(asked.side, A, "A begins IKE SAs");
        keys.insert((spi_i, spi_r), both);
    }
    found
}

/// SKEYSEED, SK_d, SK_ai, SK_ar, SK_ei, SK_er, SK_pi, SK_pr (RFC 7296 2.14, 2.18).
fn stream(old: Option<&IkeKeys>, shared: &Secret, seed: Seed<'_>) -> Vec<u64> {
    let prf = SUITE.prf;
    let skeyseed = match old {
        Some(old) => prf.compute(old.sk_d.expose(), &[shared.expose(), seed.nonce_i, seed.nonce_r]),
        None => prf.compute(&[seed.nonce_i, seed.nonce_r].concat(), &[shared.expose()]),
    };
    let (prf_len, auth_len, encr_len) = (prf.output_len(), 32, 32);
    let lengths = [prf_len, auth_len, auth_len, encr_len, encr_len, prf_len, prf_len];
    let parts = [seed.nonce_i, seed.nonce_r, seed.spi_i, seed.spi_r];
    let all = prf.expand(skeyseed.expose(), &parts, lengths.iter().sum());
    let mut at = 0;
    let mut beginnings = vec![beginning(skeyseed.expose())];
    for length in lengths {
        beginnings.push(beginning(&all.expose()[at..]));
        at += length;
    }
    beginnings
}

/// The beginnings of what is secret in a private key, in the orders of octets in which it may lie in memory.
pub fn private_key(pem: &str) -> Vec<u64> {
    let p256 = p256::SecretKey::from_pkcs8_pem(pem).or_else(|_| p256::SecretKey::from_sec1_pem(pem));
    let p384 = p384::SecretKey::from_pkcs8_pem(pem).or_else(|_| p384::SecretKey::from_sec1_pem(pem));
    let rsa = rsa::PrivateKey::from_pkcs8_pem(pem).or_else(|_| rsa::pkcs1::DecodeRsaPrivateKey::from_pkcs1_pem(pem));
    let numbers = match (p256, p384, rsa) {
        (Ok(key), ..) => vec![key.to_bytes().to_vec()],
        (_, Ok(key), _) => vec![key.to_bytes().to_vec()],
        (.., key) => {
            let key: rsa::PrivateKey = key.unwrap();
            // Not its primes: the library leaves those of each signature in freed memory (SECURITY.md).
            vec![key.d().to_be_bytes().to_vec()]
        }
    };
    let orders = |number: &Vec<u8>| {
        let forwards = number.iter().copied().skip_while(|octet| *octet == 0).collect::<Vec<_>>();
        let backwards = number.iter().rev().copied().collect::<Vec<_>>();
        [beginning(&forwards), beginning(&backwards)]
    };
    numbers.iter().flat_map(orders).collect()
}
