//! Ethernet headers (IEEE 802.3) and VLAN tags (IEEE 802.1Q).

use std::fmt;
use std::str::FromStr;

use super::u16_at;

/// Octets of a header without tags.
pub const HEADER_LEN: usize = 14;
pub(super) const TYPE_AT: usize = 12;
const TAG_LEN: usize = 4;
/// As many tags as a carrier adds to a customer's (802.1ad).
const MAX_TAGS: usize = 2;

/// EtherTypes.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86DD;
    /// A VLAN tag (802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// A provider's VLAN tag (802.1ad).
    pub const QINQ: u16 = 0x88A8;
    /// A provider's VLAN tag before 802.1ad.
    pub const QINQ_OLD: u16 = 0x9100;
}

/// The EtherType behind all VLAN tags, and where its payload begins. None where the frame is cut short or has more
/// than two tags.
#[inline]
pub fn payload(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = TYPE_AT;
    for _ in 0..=MAX_TAGS {
        match u16_at(frame, at)? {
            ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD => at += TAG_LEN,
            ethertype => return Some((ethertype, at + 2)),
        }
    }
    None
}

/// A header without tags.
#[inline]
pub fn header(MacPair([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]): MacPair, ethertype: u16) -> [u8; HEADER_LEN] {
    let [high, low] = ethertype.to_be_bytes();
    [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, high, low]
}

/// The two addresses of a header, as they stand in it: copied as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MacPair([u8; 2 * MacAddr::LEN]);

impl MacPair {
    /// The addresses of a frame from `src` to `dst`.
    pub const fn new(dst: MacAddr, src: MacAddr) -> MacPair {
        let ([d0, d1, d2, d3, d4, d5], [s0, s1, s2, s3, s4, s5]) = (dst.0, src.0);
        MacPair([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5])
    }

    /// Those of a frame; zeros where it is shorter than they are.
    #[inline]
    pub fn of(frame: &[u8]) -> MacPair {
        MacPair(frame.first_chunk().copied().unwrap_or_default())
    }

    /// The destination.
    pub const fn dst(self) -> MacAddr {
        let [d0, d1, d2, d3, d4, d5, ..] = self.0;
        MacAddr([d0, d1, d2, d3, d4, d5])
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct MacAddr(pub [u8; MacAddr::LEN]);

impl MacAddr {
    /// Octets of an address.
    pub const LEN: usize = 6;
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text isn't an Ethernet address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` isn't an Ethernet address; one looks like 02:00:00:00:00:01")]
pub struct BadMacAddr(String);

impl FromStr for MacAddr {
    type Err = BadMacAddr;

    fn from_str(text: &str) -> Result<MacAddr, BadMacAddr> {
        let bad = || BadMacAddr(text.to_owned());
        let octet = |part: &str| match part.len() {
            2 if !part.starts_with('+') => u8::from_str_radix(part, 16).ok(),
            _ => None,
        };
        let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
        octets.and_then(|octets| octets.try_into().ok()).map(MacAddr).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_two_tags_are_passed() {
        for tags in 0..=3 {
            let mut frame = vec![0; 12];
            frame.extend([0x81, 0x00, 0x00, 0x64].repeat(tags));
            frame.extend([0x08, 0x00]);
            assert_eq!(payload(&frame), (tags <= 2).then_some((ethertype::IPV4, 14 + 4 * tags)), "{tags} tags");
        }
    }

    #[test]
    fn a_frame_that_ends_in_its_header_is_refused() {
        let mut frame = vec![0; 12];
        frame.extend([0x88, 0xA8, 0x00, 0x64, 0x81, 0x00, 0x00, 0x65, 0x86, 0xDD]);
        assert_eq!(payload(&frame), Some((ethertype::IPV6, frame.len())));
        for len in 0..frame.len() {
            assert_eq!(payload(&frame[..len]), None, "{len} octets");
        }
    }

    #[test]
    fn an_address_reads_as_it_prints() {
        let mac = MacAddr([0x02, 0, 0, 0xAB, 0xCD, 0xEF]);
        assert_eq!(mac.to_string(), "02:00:00:ab:cd:ef");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "02-00-00-00-00-00",
            "+2:00:00:00:00:00",
            "02:00:00:00:00:0g",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_header_is_written_in_wire_order() {
        let macs = MacPair::new(MacAddr([1; 6]), MacAddr([2; 6]));
        let header = header(macs, ethertype::IPV4);
        assert_eq!(header, [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0]);
        assert_eq!((MacPair::of(&header), macs.dst()), (macs, MacAddr([1; 6])));
        assert_eq!(MacPair::of(&header[..11]), MacPair::default());
    }
}
