//! Frames of a size, or a mix of sizes, sealed ahead of the trials: sealing takes longer than sending.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::outer::Outer;
use crate::packet;
use crate::random::Random;
use crate::scenario::{LOCAL_V4, PEER_V4};
use crate::seal::{ALGORITHMS, Algorithm, IPV4, Sa};

/// Octets of an Ethernet header and of the frame check sequence, which virtual ports don't carry.
pub const ETHERNET: usize = 14 + 4;
/// The smallest and the largest Ethernet frame, FCS included. All of the latter's are inner IP packets of an MTU of 9,000.
const SIZES: std::ops::RangeInclusive<usize> = 64..=9018;
/// 7:4:1, the usual mix.
const IMIX: [usize; 12] = [64, 594, 64, 594, 64, 64, 1518, 594, 64, 64, 594, 64];
/// The first of the SPIs.
const SPI: u32 = 0xC0DE_0000;

/// What RFC 2544 calls a frame size: octets of the Ethernet frame on the protected side, FCS included; the frame on the
/// other side has ESP in addition. Or a mix of three.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameSize {
    /// All of one size.
    Octets(usize),
    /// 7:4:1 of 64, 594 and 1,518 octets.
    Imix,
}

impl FrameSize {
    /// The sizes of RFC 2544 9.1, and the mix.
    pub const DEFAULT: &'static str = "64,128,256,512,1024,1280,1518,imix";

    fn pattern(&self) -> &[usize] {
        match self {
            FrameSize::Octets(octets) => std::slice::from_ref(octets),
            FrameSize::Imix => &IMIX,
        }
    }
}

impl FromStr for FrameSize {
    type Err = String;

    fn from_str(text: &str) -> Result<FrameSize, String> {
        if text.eq_ignore_ascii_case("imix") {
            return Ok(FrameSize::Imix);
        }
        let octets = text.parse().ok().filter(|octets| SIZES.contains(octets));
        octets.map(FrameSize::Octets).ok_or_else(|| {
            format!("`{text}` is neither imix nor a frame size within {} to {} octets", SIZES.start(), SIZES.end())
        })
    }
}

impl fmt::Display for FrameSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameSize::Octets(octets) => octets.fmt(f),
            FrameSize::Imix => f.write_str("imix"),
        }
    }
}

/// How SAs protect their packets, by its names in nf.toml, such as `aes-gcm-16/128` or `aes-cbc/256/hmac-sha256-128`.
///
/// # Errors
/// Lists those that there are.
pub fn algorithm(text: &str) -> Result<Algorithm, String> {
    let name = |algorithm: &Algorithm| {
        // The salt is part of an AEAD's key.
        let salt = if algorithm.auth.is_none() { 4 } else { 0 };
        let bits = (algorithm.key_len.saturating_sub(salt)) * 8;
        let auth = algorithm.auth.map(|auth| format!("/{auth}")).unwrap_or_default();
        format!("{}/{bits}{auth}", algorithm.cipher)
    };
    ALGORITHMS.iter().find(|algorithm| name(algorithm) == text).copied().ok_or_else(|| {
        let names: Vec<String> = ALGORITHMS.iter().map(name).collect();
        format!("there is no `{text}`; there are {}", names.join(", "))
    })
}

/// Sealed frames, one after the other, in turn of several SAs.
pub struct Frames {
    size: FrameSize,
    sas: Vec<Sa>,
    random: Random,
    outer: Outer,
    octets: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
    /// Octets at most.
    limit: usize,
}

impl Frames {
    /// None yet; `limit` is how many octets they may take.
    pub fn new(size: FrameSize, algorithm: Algorithm, sas: u32, replay_window: u32, limit: usize) -> Frames {
        let mut random = Random::new(2544);
        let sas = (0..sas)
            .map(|number| {
                let mut sa = Sa::new(SPI + number, PEER_V4, LOCAL_V4, algorithm, &mut random);
                sa.replay_window = replay_window;
                sa
            })
            .collect();
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        Frames { size, sas, random, outer, octets: Vec::new(), ends: Vec::new(), limit }
    }

    /// The SAs that they are sealed by.
    pub fn sas(&self) -> &[Sa] {
        &self.sas
    }

    /// Seals frames until there are `count`, or no more would fit.
    pub fn seal(&mut self, count: usize) {
        let (src, dst): (IpAddr, IpAddr) = ([198, 18, 0, 1].into(), [198, 19, 0, 1].into());
        let pattern = self.size.pattern();
        while self.ends.len() < count {
            let number = self.ends.len();
            let Some(size) = pattern.get(number % pattern.len()) else { return };
            let payload = self.random.octets(size.saturating_sub(ETHERNET + 28));
            let datagram = packet::udp(src, dst, (7, 7), &payload);
            let inner = packet::ip(src, dst, 0, 64, 17, &datagram);
            let turn = number % self.sas.len().max(1);
            let Some(sa) = self.sas.get_mut(turn) else { return };
            let frame = self.outer.esp(&sa.seal(IPV4, &inner));
            if !self.octets.is_empty() && self.octets.len() + frame.len() > self.limit {
                // Its number is not used, and may be again.
                sa.seq -= 1;
                return;
            }
            self.octets.extend(frame);
            self.ends.push(self.octets.len());
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// A frame by its number; after the last one they begin anew.
    pub fn get(&self, number: usize) -> &[u8] {
        let number = number % self.ends.len().max(1);
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or_default();
        self.ends.get(number).and_then(|end| self.octets.get(start..*end)).unwrap_or_default()
    }

    /// Octets of a frame on average, FCS included: on the protected side, and with ESP.
    pub fn mean_octets(&self) -> (f64, f64) {
        let pattern = self.size.pattern();
        let plain = pattern.iter().sum::<usize>() as f64 / pattern.len().max(1) as f64;
        (plain, self.octets.len() as f64 / self.ends.len().max(1) as f64 + 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_protected_side() {
        let frames = |size: &str| {
            let mut frames = Frames::new(size.parse().unwrap(), ALGORITHMS[0], 2, 64, 1 << 20);
            frames.seal(24);
            frames
        };
        // Outer header, SPI and number, IV, inner packet with two octets of trailer and padding to four, ICV, FCS.
        for (size, inner) in [("64", 46), ("1518", 1500)] {
            let esp = 14 + 20 + 8 + 8 + (inner + 2usize).next_multiple_of(4) + 16 + 4;
            assert_eq!(frames(size).mean_octets(), (size.parse().unwrap(), esp as f64));
        }
        let mix = frames("imix");
        assert_eq!(mix.mean_octets().0, (7 * 64 + 4 * 594 + 1518) as f64 / 12.0);
        let spis: Vec<u8> = (0..4).map(|number| mix.get(number)[14 + 20 + 3]).collect();
        assert_eq!(spis, [0, 1, 0, 1]);
        assert_eq!(mix.get(24), mix.get(0));
    }

    #[test]
    fn frames_take_no_more_memory_than_they_may() {
        let mut frames = Frames::new(FrameSize::Octets(64), ALGORITHMS[0], 1, 64, 10_000);
        frames.seal(1_000_000);
        assert!(frames.octets.len() <= 10_000 && frames.count() > 80, "{}", frames.count());
        let before = frames.count();
        frames.seal(1_000_000);
        assert_eq!(frames.count(), before);
        assert_eq!(frames.sas()[0].seq, before as u64);
    }

    #[test]
    fn names_are_checked() {
        assert_eq!("IMIX".parse(), Ok(FrameSize::Imix));
        assert!("63".parse::<FrameSize>().unwrap_err().contains("64 to 9018"));
        assert_eq!(algorithm("aes-gcm-16/128").unwrap(), ALGORITHMS[0]);
        assert_eq!(algorithm("aes-cbc/256/hmac-sha512-256").unwrap().key_len, 32);
        assert!(algorithm("des").unwrap_err().contains("chacha20-poly1305/256"));
    }
}
