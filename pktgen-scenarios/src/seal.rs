//! ESP encapsulation (RFC 4303 3.3).

use std::fmt::Write;
use std::net::IpAddr;

use aes::cipher::{BlockModeEncrypt, KeyIvInit};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::AesGcm;
use aes_gcm::aead::consts::{U8, U12};
use aes_gcm::aead::{AeadInOut, KeyInit, Nonce};
use chacha20poly1305::ChaCha20Poly1305;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};

use crate::random::Random;

/// ESP next header of IPv4 in tunnel mode.
pub const IPV4: u8 = 4;
/// ESP next header of IPv6 in tunnel mode.
pub const IPV6: u8 = 41;
/// ESP next header of a dummy packet.
pub const DUMMY: u8 = 59;

/// How an SA protects its packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Algorithm {
    /// `alg` in nf.toml.
    pub cipher: &'static str,
    /// Octets of the key, salt included.
    pub key_len: usize,
    /// `auth` in nf.toml, if the cipher needs it.
    pub auth: Option<&'static str>,
}

const fn aead(cipher: &'static str, key_len: usize) -> Algorithm {
    Algorithm { cipher, key_len, auth: None }
}

const fn with_hmac(cipher: &'static str, key_len: usize, auth: &'static str) -> Algorithm {
    Algorithm { cipher, key_len, auth: Some(auth) }
}

/// AES-GCM with a 128-bit key.
pub const AES_128_GCM: Algorithm = aead("aes-gcm-16", 20);

/// Every algorithm.
pub const ALGORITHMS: &[Algorithm] = &[
    AES_128_GCM,
    aead("aes-gcm-16", 28),
    aead("aes-gcm-16", 36),
    aead("aes-gcm-12", 20),
    aead("aes-gcm-8", 36),
    aead("chacha20-poly1305", 36),
    with_hmac("aes-cbc", 16, "hmac-sha1-96"),
    with_hmac("aes-cbc", 24, "hmac-sha256-128"),
    with_hmac("aes-cbc", 32, "hmac-sha384-192"),
    with_hmac("aes-cbc", 32, "hmac-sha512-256"),
    with_hmac("null", 0, "hmac-sha1-96"),
    with_hmac("null", 0, "hmac-sha256-128"),
    with_hmac("aes-cbc", 32, "hmac-sha256-128"),
];

/// An outbound SA: the peer's side of one that the network function has inbound.
#[derive(Clone, Debug)]
pub struct Sa {
    /// SPI.
    pub spi: u32,
    /// Outer source.
    pub src: IpAddr,
    /// Outer destination.
    pub dst: IpAddr,
    /// Tunnel or transport mode.
    pub tunnel: bool,
    /// In UDP or not.
    pub udp: bool,
    /// How packets are protected.
    pub algorithm: Algorithm,
    /// Extended sequence numbers.
    pub esn: bool,
    /// The receiver's replay window.
    pub replay_window: u32,
    /// The receiver's selectors, source and destination; empty for any.
    pub selectors: (Vec<String>, Vec<String>),
    /// The number of the last packet.
    pub seq: u64,
    key: Vec<u8>,
    auth_key: Vec<u8>,
}

impl Sa {
    /// An SA in tunnel mode with keys from `random`.
    pub fn new(spi: u32, src: IpAddr, dst: IpAddr, algorithm: Algorithm, random: &mut Random) -> Sa {
        let auth_len = match algorithm.auth {
            Some("hmac-sha1-96") => 20,
            Some("hmac-sha256-128") => 32,
            Some("hmac-sha384-192") => 48,
            Some(_) => 64,
            None => 0,
        };
        Sa {
            spi,
            src,
            dst,
            tunnel: true,
            udp: false,
            algorithm,
            esn: false,
            replay_window: 64,
            selectors: (Vec::new(), Vec::new()),
            seq: 0,
            key: random.octets(algorithm.key_len),
            auth_key: random.octets(auth_len),
        }
    }

    /// The receiver's side, as the control socket's `sa-add` takes it.
    pub fn to_json(&self) -> Value {
        let mut sa = json!({
            "spi": format!("{:#010X}", self.spi),
            "src": self.src,
            "dst": self.dst,
            "mode": if self.tunnel { "tunnel" } else { "transport" },
            "alg": self.algorithm.cipher,
            "key": hex::encode(&self.key),
            "esn": self.esn,
            "replay_window": self.replay_window,
            "encap": if self.udp { "udp" } else { "none" },
        });
        if let Some(auth) = self.algorithm.auth {
            sa["auth"] = json!(auth);
            sa["auth_key"] = json!(hex::encode(&self.auth_key));
        }
        if self.selectors != (Vec::new(), Vec::new()) {
            sa["selectors"] = json!({ "src": self.selectors.0, "dst": self.selectors.1 });
        }
        sa
    }

    /// The receiver's side as an `[[sa]]` table of nf.toml.
    pub fn to_toml(&self) -> String {
        let mut text = String::from("[[sa]]\n");
        for (field, value) in self.to_json().as_object().into_iter().flatten() {
            // JSON's strings, numbers, booleans and lists are TOML as they are.
            let value = match value {
                Value::Object(table) => {
                    let fields: Vec<String> = table.iter().map(|(field, value)| format!("{field} = {value}")).collect();
                    format!("{{ {} }}", fields.join(", "))
                }
                plain => plain.to_string(),
            };
            let _ = writeln!(text, "{field} = {value}");
        }
        text
    }

    /// The cipher's key, for AEADs with the salt behind it.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Seals a packet under the next sequence number.
    pub fn seal(&mut self, next_header: u8, payload: &[u8]) -> Vec<u8> {
        self.seq += 1;
        self.seal_at(self.seq, next_header, payload, 0)
    }

    /// Seals a packet under a number, with that many octets of traffic flow confidentiality padding. Gives ESP from the
    /// SPI to the ICV.
    pub fn seal_at(&self, seq: u64, next_header: u8, payload: &[u8], tfc: usize) -> Vec<u8> {
        let (iv_len, block) = match self.algorithm.cipher {
            "aes-cbc" => (16, 16),
            "null" => (0, 4),
            _ => (8, 4),
        };
        let mut esp = self.spi.to_be_bytes().to_vec();
        esp.extend((seq as u32).to_be_bytes());
        let iv = match iv_len {
            16 => Random::new(seq ^ u64::from(self.spi)).octets(16),
            8 => seq.to_be_bytes().to_vec(),
            _ => Vec::new(),
        };
        esp.extend(&iv);
        let start = esp.len();
        esp.extend(payload);
        esp.extend(std::iter::repeat_n(0, tfc));
        let padding = (block - (esp.len() - start + 2) % block) % block;
        esp.extend(1..=padding as u8);
        esp.extend([padding as u8, next_header]);

        let icv = self.protect(seq, &mut esp, start, &iv);
        esp.extend(icv);
        esp
    }

    /// Encrypts what lies behind `start`; gives the ICV.
    fn protect(&self, seq: u64, esp: &mut [u8], start: usize, iv: &[u8]) -> Vec<u8> {
        match (self.algorithm.cipher, self.key.len()) {
            ("aes-gcm-16", 20) => self.aead::<AesGcm<Aes128, U12>>(seq, esp, start, iv),
            ("aes-gcm-16", 28) => self.aead::<AesGcm<Aes192, U12>>(seq, esp, start, iv),
            ("aes-gcm-16", _) => self.aead::<AesGcm<Aes256, U12>>(seq, esp, start, iv),
            ("aes-gcm-12", _) => self.aead::<AesGcm<Aes128, U12, U12>>(seq, esp, start, iv),
            ("aes-gcm-8", _) => self.aead::<AesGcm<Aes256, U12, U8>>(seq, esp, start, iv),
            ("chacha20-poly1305", _) => self.aead::<ChaCha20Poly1305>(seq, esp, start, iv),
            (cipher, key_len) => {
                if cipher == "aes-cbc" {
                    let body = esp.get_mut(start..).unwrap_or_default();
                    match key_len {
                        16 => cbc::<cbc::Encryptor<Aes128>>(&self.key, iv, body),
                        24 => cbc::<cbc::Encryptor<Aes192>>(&self.key, iv, body),
                        _ => cbc::<cbc::Encryptor<Aes256>>(&self.key, iv, body),
                    }
                }
                match self.algorithm.auth {
                    Some("hmac-sha1-96") => self.hmac::<Hmac<Sha1>>(seq, esp, 12),
                    Some("hmac-sha256-128") => self.hmac::<Hmac<Sha256>>(seq, esp, 16),
                    Some("hmac-sha384-192") => self.hmac::<Hmac<Sha384>>(seq, esp, 24),
                    _ => self.hmac::<Hmac<Sha512>>(seq, esp, 32),
                }
            }
        }
    }

    fn aead<C: AeadInOut<NonceSize = U12> + KeyInit>(
        &self,
        seq: u64,
        esp: &mut [u8],
        start: usize,
        iv: &[u8],
    ) -> Vec<u8> {
        let (key, salt) = self.key.split_at(self.key.len() - 4);
        let (header, body) = esp.split_at_mut(start);
        let additional =
            if self.esn { [&self.spi.to_be_bytes()[..], &seq.to_be_bytes()].concat() } else { header[..8].to_vec() };
        let nonce = [salt, iv].concat();
        let sealed = C::new_from_slice(key)
            .ok()
            .zip(Nonce::<C>::try_from(nonce.as_slice()).ok())
            .and_then(|(cipher, nonce)| cipher.encrypt_inout_detached(&nonce, &additional, body.into()).ok());
        sealed.map(|tag| tag.to_vec()).unwrap_or_default()
    }

    fn hmac<M: Mac + KeyInit>(&self, seq: u64, esp: &[u8], icv_len: usize) -> Vec<u8> {
        let Ok(mac) = <M as KeyInit>::new_from_slice(&self.auth_key) else {
            return Vec::new();
        };
        let mac = mac.chain_update(esp);
        let mac = if self.esn { mac.chain_update(((seq >> 32) as u32).to_be_bytes()) } else { mac };
        let mut icv = mac.finalize().into_bytes().to_vec();
        icv.truncate(icv_len);
        icv
    }
}

fn cbc<E: KeyIvInit + BlockModeEncrypt>(key: &[u8], iv: &[u8], body: &mut [u8]) {
    if let Ok(mut encryptor) = E::new_from_slices(key, iv) {
        let (blocks, _) = aes::cipher::Array::slice_as_chunks_mut(body);
        encryptor.encrypt_blocks(blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first packet of the captures' `v4-tunnel-gcm128`, which scapy has made: same key, same IV, same octets.
    #[test]
    fn another_implementation_makes_the_same_octets() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../nf-core/tests/fixtures/");
        for (name, algorithm) in [
            ("v4-tunnel-gcm128", AES_128_GCM),
            ("v4-tunnel-gcm256", aead("aes-gcm-16", 36)),
            ("v4-tunnel-chacha20", aead("chacha20-poly1305", 36)),
            ("v4-tunnel-cbc256-sha256", with_hmac("aes-cbc", 32, "hmac-sha256-128")),
            ("v4-tunnel-null-sha256", with_hmac("null", 0, "hmac-sha256-128")),
        ] {
            let json: serde_json::Value =
                serde_json::from_slice(&std::fs::read(format!("{dir}{name}.json")).unwrap()).unwrap();
            let text = |key: &str| json["sas"][0][key].as_str().unwrap_or_default().to_owned();
            let mut sa = Sa::new(
                json["sas"][0]["spi"].as_u64().unwrap() as u32,
                text("src").parse().unwrap(),
                text("dst").parse().unwrap(),
                algorithm,
                &mut Random::new(0),
            );
            sa.key = hex::decode(text("key")).unwrap();
            sa.auth_key = hex::decode(text("auth_key")).unwrap();
            let capture = std::fs::File::open(format!("{dir}{name}.pcap")).unwrap();
            let mut reader = pcap_file::pcap::PcapReader::new(capture).unwrap();
            let frame = reader.next_packet().unwrap().unwrap().data.into_owned();
            let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
            let esp = &frame[34..14 + total];
            let inner = hex::decode(json["expect"]["inner"][0].as_str().unwrap()).unwrap();

            // Ours with scapy's IV in place of our own.
            let iv_len = if algorithm.cipher == "aes-cbc" {
                16
            } else if algorithm.cipher == "null" {
                0
            } else {
                8
            };
            let iv = &esp[8..8 + iv_len];
            let seq = u64::from(u32::from_be_bytes(esp[4..8].try_into().unwrap()));
            let block = if iv_len == 16 { 16 } else { 4 };
            let padding = (block - (inner.len() + 2) % block) % block;
            let mut ours = esp[..8 + iv_len].to_vec();
            ours.extend(&inner);
            ours.extend(1..=padding as u8);
            ours.extend([padding as u8, IPV4]);
            let icv = sa.protect(seq, &mut ours, 8 + iv_len, iv);
            ours.extend(icv);
            assert_eq!(hex::encode(ours), hex::encode(esp), "{name}");
        }
    }

    #[test]
    fn padding_fills_the_block() {
        let (src, dst) = ("10.1.1.1".parse().unwrap(), "10.10.1.2".parse().unwrap());
        for algorithm in ALGORITHMS {
            let mut sa = Sa::new(256, src, dst, *algorithm, &mut Random::new(1));
            let icv = match (algorithm.cipher, algorithm.auth) {
                ("aes-gcm-8", _) => 8,
                ("aes-gcm-12", _) | (_, Some("hmac-sha1-96")) => 12,
                (_, Some("hmac-sha384-192")) => 24,
                (_, Some("hmac-sha512-256")) => 32,
                _ => 16,
            };
            let (iv, block) = if algorithm.cipher == "aes-cbc" {
                (16, 16)
            } else {
                (if algorithm.cipher == "null" { 0 } else { 8 }, 4)
            };
            for len in 0..40 {
                let esp = sa.seal(DUMMY, &vec![7; len]);
                assert_eq!((esp.len() - 8 - iv - icv) % block, 0, "{algorithm:?} {len}");
                assert!(esp.len() - 8 - iv - icv >= len + 2);
            }
        }
    }
}
