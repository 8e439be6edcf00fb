//! IPv4 headers (RFC 791), changed in place. Functions on a packet that is too short do nothing: the caller has parsed
//! it before.

use std::net::Ipv4Addr;

use super::{IpVersion, checksum, put_u16, u16_at};

/// Octets of a header without options.
pub const MIN_HEADER_LEN: usize = 20;

/// The first octet of a header without options: version and header length.
pub(crate) const PLAIN: u8 = 0x45;

/// Offsets of fields.
pub(crate) mod field {
    pub(crate) const TOS: usize = 1;
    pub(crate) const TOTAL_LEN: usize = 2;
    pub(crate) const ID: usize = 4;
    pub(crate) const FRAGMENT: usize = 6;
    pub(crate) const TTL: usize = 8;
    pub(crate) const PROTOCOL: usize = 9;
    pub(crate) const CHECKSUM: usize = 10;
    pub(crate) const SRC: usize = 12;
    pub(crate) const DST: usize = 16;
}

/// Bits of the fragment field.
pub(crate) mod fragment {
    /// Routers must not fragment the packet.
    pub(crate) const DONT: u16 = 0x4000;
    /// More fragments follow.
    pub(crate) const MORE: u16 = 0x2000;
    /// The offset, in units of 8 octets.
    pub(crate) const OFFSET: u16 = 0x1FFF;
}

/// Octets of both addresses of a header.
const ADDRESSES_LEN: usize = 8;

/// Source and destination of a packet as they stand in its header, to be copied and compared as one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Addresses([u8; ADDRESSES_LEN]);

impl Addresses {
    /// In the place of those that a packet of another version has.
    pub(crate) const NONE: Addresses = Addresses([0; ADDRESSES_LEN]);

    #[inline(always)]
    pub(crate) fn of(header: &[u8; MIN_HEADER_LEN]) -> Addresses {
        Addresses(header.last_chunk().copied().unwrap_or_default())
    }

    #[inline]
    pub(crate) const fn between(src: Ipv4Addr, dst: Ipv4Addr) -> Addresses {
        let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (src.octets(), dst.octets());
        Addresses([s0, s1, s2, s3, d0, d1, d2, d3])
    }

    #[inline]
    pub(crate) const fn src(self) -> Ipv4Addr {
        let [a, b, c, d, ..] = self.0;
        Ipv4Addr::new(a, b, c, d)
    }

    #[inline]
    pub(crate) const fn dst(self) -> Ipv4Addr {
        let [.., a, b, c, d] = self.0;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Both as a number that tells one pair from another.
    #[inline]
    pub(crate) const fn word(self) -> u64 {
        u64::from_ne_bytes(self.0)
    }
}

/// The header's length as it claims, at least 20 octets.
#[inline]
pub(crate) fn header_len(packet: &[u8]) -> Option<usize> {
    let len = usize::from(packet.first()? & 0x0F) * 4;
    (len >= MIN_HEADER_LEN).then_some(len)
}

/// Whether the packet is of IPv4 and its sender lets routers fragment it.
pub fn may_be_fragmented(packet: &[u8]) -> bool {
    IpVersion::of(packet) == Some(IpVersion::V4) && !dont_fragment(packet)
}

/// Sets the total length and makes the header checksum anew.
pub fn set_total_length(packet: &mut [u8], len: usize) {
    put_u16(packet, field::TOTAL_LEN, u16::try_from(len).unwrap_or(u16::MAX));
    refresh_checksum(packet);
}

/// Whether routers must not fragment the packet.
#[inline]
pub fn dont_fragment(packet: &[u8]) -> bool {
    u16_at(packet, field::FRAGMENT).is_some_and(|word| word & fragment::DONT != 0)
}

/// Sets what an outer header has of each packet; the checksum is left for [`set_total_length`].
#[inline]
pub(crate) fn set_tos_id_df(packet: &mut [u8], tos: u8, id: u16, dont_fragment: bool) {
    if let Some(place) = packet.get_mut(field::TOS) {
        *place = tos;
    }
    put_u16(packet, field::ID, id);
    put_u16(packet, field::FRAGMENT, if dont_fragment { fragment::DONT } else { 0 });
}

/// Makes the header checksum anew.
pub fn refresh_checksum(packet: &mut [u8]) {
    put_u16(packet, field::CHECKSUM, 0);
    let sum = header_len(packet).and_then(|len| packet.get(..len)).map(checksum::checksum);
    if let Some(sum) = sum {
        put_u16(packet, field::CHECKSUM, sum);
    }
}

/// Takes one hop off the TTL. False, and nothing changed, if the packet may not be forwarded any more.
#[inline]
#[must_use]
pub fn decrement_ttl(packet: &mut [u8]) -> bool {
    let Some(header) = packet.first_chunk_mut::<MIN_HEADER_LEN>().filter(|header| header[field::TTL] > 1) else {
        return false;
    };
    header[field::TTL] -= 1;
    // Of a word's values before and after the update takes the difference alone: that of the TTL's, here as 1 and 0.
    change_checksum(header, 0x0100, 0);
    true
}

/// Sets the ECN bits (RFC 3168 5).
#[inline]
pub fn set_ecn(packet: &mut [u8], ecn: u8) {
    if let Some(header) = packet.first_chunk_mut::<MIN_HEADER_LEN>() {
        let before = u16::from_be_bytes([header[0], header[field::TOS]]);
        let after = before & !3 | u16::from(ecn & 3);
        header[field::TOS] = after as u8;
        change_checksum(header, before, after);
    }
}

/// Changes the checksum as one word under it has changed.
#[inline]
fn change_checksum(header: &mut [u8; MIN_HEADER_LEN], before: u16, after: u16) {
    let sum = u16::from_be_bytes([header[field::CHECKSUM], header[field::CHECKSUM + 1]]);
    let [high, low] = checksum::update(sum, before, after).to_be_bytes();
    (header[field::CHECKSUM], header[field::CHECKSUM + 1]) = (high, low);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(octets: [u8; 20]) -> [u8; 20] {
        let mut header = octets;
        header[0] = 0x45;
        refresh_checksum(&mut header);
        header
    }

    proptest! {
        #[test]
        fn changes_keep_the_checksum_sound(octets: [u8; 20], ecn in 0u8..4, len in 20usize..65536) {
            let mut packet = header(octets);
            prop_assert!(checksum::is_valid(&packet));
            set_ecn(&mut packet, ecn);
            prop_assert_eq!((packet[1] & 3, packet[1] >> 2), (ecn, octets[1] >> 2));
            prop_assert!(checksum::is_valid(&packet));
            prop_assert_eq!(decrement_ttl(&mut packet), octets[8] > 1);
            prop_assert_eq!(packet[8], if octets[8] > 1 { octets[8] - 1 } else { octets[8] });
            prop_assert!(checksum::is_valid(&packet));
            set_total_length(&mut packet, len);
            prop_assert_eq!(u16_at(&packet, 2), Some(len as u16));
            prop_assert!(checksum::is_valid(&packet));
        }

        #[test]
        fn a_packet_that_is_too_short_does_no_harm(mut octets in prop::collection::vec(any::<u8>(), 0..20)) {
            set_total_length(&mut octets, 20);
            set_ecn(&mut octets, 3);
            let _ = decrement_ttl(&mut octets);
        }
    }
}
