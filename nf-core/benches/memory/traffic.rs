//! Sealed frames and the SAs that open them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use nf_core::crypto::{Engine, SealJob};
use nf_core::sa::inbound::Sa;
use nf_core::sa::spec::{SaParams, SaSpec};

/// The first SPI; the others follow.
const FIRST_SPI: u32 = 0x1000;
/// Octets of Ethernet header and outer IPv4 header.
const OUTER_LEN: usize = 14 + 20;
/// SPI and sequence number.
const ESP_HEADER_LEN: usize = 8;

/// The lengths of inner packets, in turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) name: &'static str,
    pub(crate) octets: &'static [usize],
}

pub(crate) const SIZE_64: Sizes = Sizes { name: "64", octets: &[64] };
pub(crate) const SIZE_512: Sizes = Sizes { name: "512", octets: &[512] };
pub(crate) const SIZE_1400: Sizes = Sizes { name: "1400", octets: &[1400] };
/// Seven short packets to four middling ones and one long one.
pub(crate) const IMIX: Sizes = Sizes { name: "IMIX", octets: &[64, 576, 64, 64, 576, 64, 1400, 64, 576, 64, 576, 64] };

/// Algorithms of an SA, as nf.toml names them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suite {
    pub(crate) alg: &'static str,
    key_octets: u32,
    /// The integrity algorithm and the octets of its key.
    pub(crate) auth: Option<(&'static str, u32)>,
}

pub(crate) const GCM: Suite = Suite { alg: "aes-gcm-16", key_octets: 20, auth: None };
pub(crate) const CBC_SHA1: Suite = Suite { alg: "aes-cbc", key_octets: 16, auth: Some(("hmac-sha1-96", 20)) };
pub(crate) const CBC_SHA256: Suite = Suite { auth: Some(("hmac-sha256-128", 32)), ..CBC_SHA1 };
pub(crate) const CBC_SHA512: Suite = Suite { auth: Some(("hmac-sha512-256", 64)), ..CBC_SHA1 };

/// Frames one behind the other.
pub(crate) struct Frames {
    octets: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    pub(crate) fn new() -> Frames {
        Frames { octets: Vec::new(), ends: vec![0] }
    }

    pub(crate) fn push(&mut self, frame: &[u8]) {
        self.octets.extend_from_slice(frame);
        self.ends.push(self.octets.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len() - 1
    }

    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        self.octets.get(*self.ends.get(index)?..*self.ends.get(index + 1)?)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.ends.windows(2).map(|ends| &self.octets[ends[0]..ends[1]])
    }
}

/// SAs, each with keys of its own, and as many frames for each as are asked for.
pub(crate) struct Traffic {
    params: Vec<SaParams>,
    pub(crate) frames: Frames,
}

impl Traffic {
    /// `per_sa` frames by AES-GCM for each of `sas` SAs, visited in turn: no two neighbours are of one SA where there are
    /// several.
    pub(crate) fn new(engine: &dyn Engine, sas: usize, per_sa: usize, sizes: Sizes, window: u32) -> Traffic {
        Traffic::by(GCM, engine, sas, per_sa, sizes, window)
    }

    /// The same by other algorithms.
    pub(crate) fn by(
        suite: Suite,
        engine: &dyn Engine,
        sas: usize,
        per_sa: usize,
        sizes: Sizes,
        window: u32,
    ) -> Traffic {
        let params: Vec<SaParams> = (0..sas as u32).map(|n| params(suite, n, window)).collect();
        let sealers: Vec<_> =
            params.iter().map(|params| engine.prepare_seal(&params.transform).expect("the algorithms")).collect();
        let mut frames = Frames::new();
        let mut number = 0;
        for round in 0..per_sa {
            for (sealer, params) in sealers.iter().zip(&params) {
                let len = sizes.octets[number % sizes.octets.len()];
                number += 1;
                let mut frame = frame(params, round as u32 + 1, len);
                let iv = (round as u128 + 1).to_be_bytes();
                let iv = &iv[iv.len() - usize::from(params.transform.layout().iv_len)..];
                let mut jobs = [SealJob::new(&mut frame[OUTER_LEN..], 0, iv)];
                sealer.seal_burst(&mut jobs);
                assert!(jobs[0].sealed());
                frames.push(&frame);
            }
        }
        Traffic { params, frames }
    }

    /// Visits the SAs in an order without any pattern, another one in each round. Each SA's frames stay in order.
    pub(crate) fn shuffle(&mut self) {
        let mut order: Vec<usize> = (0..self.frames.len()).collect();
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        for round in order.chunks_mut(self.params.len()) {
            for last in (1..round.len()).rev() {
                // Marsaglia's xorshift64.
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                round.swap(last, (random % (last as u64 + 1)) as usize);
            }
        }
        let mut frames = Frames::new();
        order.into_iter().filter_map(|index| self.frames.get(index)).for_each(|frame| frames.push(frame));
        self.frames = frames;
    }

    /// Puts that many frames on unknown SPIs in front of each frame.
    pub(crate) fn flooded(&self, unknown_per_good: usize) -> Frames {
        let mut frames = Frames::new();
        let mut spi = 0x8000_0000_u32;
        for good in self.frames.iter() {
            for _ in 0..unknown_per_good {
                let mut bad = good.to_vec();
                bad[OUTER_LEN..OUTER_LEN + 4].copy_from_slice(&spi.to_be_bytes());
                frames.push(&bad);
                spi = spi.wrapping_add(0x0101) | 0x8000_0000;
            }
            frames.push(good);
        }
        frames
    }

    /// The same frames on SPIs that no SA has.
    pub(crate) fn unknown(&self) -> Frames {
        let mut frames = Frames::new();
        for (number, good) in self.frames.iter().enumerate() {
            let mut bad = good.to_vec();
            bad[OUTER_LEN..OUTER_LEN + 4].copy_from_slice(&(0x8000_0000 + number as u32 * 17).to_be_bytes());
            frames.push(&bad);
        }
        frames
    }

    /// The SAs with their windows as new.
    pub(crate) fn fresh_sas(&self, engine: &dyn Engine, cores: usize) -> impl Iterator<Item = Arc<Sa>> {
        self.params
            .iter()
            .enumerate()
            .map(move |(id, params)| Arc::new(Sa::new(params, id as u32 + 1, engine, cores).expect("the algorithms")))
    }
}

fn params(suite: Suite, number: u32, window: u32) -> SaParams {
    // Keys that differ; their quality doesn't matter here.
    let key = |octets: u32| -> String {
        (0..octets / 4).map(|word| format!("{:08x}", (number + 1).wrapping_mul(0x9E37_79B1 ^ word))).collect()
    };
    let spec: SaSpec = serde_json::from_value(serde_json::json!({
        "spi": FIRST_SPI + number, "src": "10.1.1.1", "dst": "10.10.1.2", "mode": "tunnel", "replay_window": window,
        "alg": suite.alg, "key": key(suite.key_octets),
        "auth": suite.auth.map(|(auth, _)| auth), "auth_key": suite.auth.map(|(_, octets)| key(octets)),
        "selectors": {"src": ["192.168.0.0/16"], "dst": ["172.16.0.0/12"]},
    }))
    .expect("a sound SA");
    spec.validate().expect("a sound SA")
}

/// An Ethernet frame with the ESP packet not yet sealed.
fn frame(params: &SaParams, seq: u32, inner_len: usize) -> Vec<u8> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (params.key().src, params.key().dst) else {
        unreachable!("the addresses are IPv4 ones");
    };
    let mut payload = ipv4(Ipv4Addr::new(192, 168, 1, 7), Ipv4Addr::new(172, 16, 0, 9), 17, inner_len);
    payload.resize(inner_len, 0xA5);
    let layout = params.transform.layout();
    let (iv_len, icv_len) = (usize::from(layout.iv_len), usize::from(layout.icv_len));
    let esp_len = layout.esp_len(inner_len);
    let pad = esp_len - ESP_HEADER_LEN - iv_len - inner_len - 2 - icv_len;
    payload.extend((1..=pad as u8).chain([pad as u8, 4]));
    let mut frame = vec![0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00];
    frame.extend(ipv4(src, dst, 50, 20 + esp_len));
    frame.extend(params.key().spi.0.to_be_bytes());
    frame.extend(seq.to_be_bytes());
    frame.resize(frame.len() + iv_len, 0);
    frame.extend(payload);
    frame.resize(frame.len() + icv_len, 0);
    frame
}

fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, total_len: usize) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((total_len as u16).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    header.extend(src.octets());
    header.extend(dst.octets());
    nf_core::wire::ipv4::refresh_checksum(&mut header);
    header
}
