//! Where the fields of an ESP packet are.

use std::ops::Range;

/// Octets of the ESP header: SPI and sequence number (RFC 4303 2).
pub const HEADER_LEN: usize = 8;

/// Octets of the trailer that every payload ends with: Pad Length and Next Header (RFC 4303 2.5, 2.6).
pub const TRAILER_LEN: usize = 2;

/// The least alignment of the payload (RFC 4303 2.4).
const MIN_BLOCK: usize = 4;

/// Octet counts of the fields around the payload of an ESP packet, as an SA's transform lays them out (RFC 4303 2):
/// header, IV, payload (data, padding and trailer, all encrypted), ICV.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The IV at the start of the Payload Data field; 0 where the transform has none.
    pub iv_len: u8,
    /// The ICV at the end of the packet.
    pub icv_len: u8,
    /// What the payload's length is a multiple of: the cipher's block, and never less than the 4 octets of RFC 4303 2.4.
    /// A power of two.
    pub block: u8,
}

/// The fields of one packet.
pub(super) struct Fields<'a> {
    pub(super) header: &'a [u8; HEADER_LEN],
    pub(super) iv: &'a mut [u8],
    pub(super) payload: &'a mut [u8],
    pub(super) icv: &'a mut [u8],
}

impl Layout {
    /// The length in octets of the shortest packet that can be valid: one whose payload is padding and trailer alone.
    pub const fn min_esp_len(self) -> usize {
        // The trailer fits into one block.
        const { assert!(TRAILER_LEN <= MIN_BLOCK) };
        HEADER_LEN + self.iv_len as usize + self.block as usize + self.icv_len as usize
    }

    /// Where the payload is in a packet of `esp_len` octets, counted from the SPI; `None` for a packet that is too
    /// short, or whose payload isn't aligned as RFC 4303 2.4 demands. Such a packet can't be valid.
    pub const fn payload_range(self, esp_len: usize) -> Option<Range<usize>> {
        if esp_len < self.min_esp_len() {
            return None;
        }
        let start = HEADER_LEN + self.iv_len as usize;
        let end = esp_len - self.icv_len as usize;
        // No division here: this is asked several times for each packet.
        if (end - start) & (self.block as usize - 1) == 0 { Some(start..end) } else { None }
    }

    /// The octets of padding behind so many octets of data, so that the payload is whole blocks (RFC 4303 2.4).
    #[inline]
    pub const fn padding(self, data: usize) -> usize {
        (data + TRAILER_LEN).wrapping_neg() & (self.block as usize - 1)
    }

    /// Octets of the packet, from the SPI to the ICV, around so many octets of data.
    #[inline]
    pub const fn esp_len(self, data: usize) -> usize {
        HEADER_LEN + self.iv_len as usize + data + self.padding(data) + TRAILER_LEN + self.icv_len as usize
    }

    /// The most data that a packet of `room` octets, from the SPI to the ICV, has room for.
    pub const fn data_within(self, room: usize) -> usize {
        let around = HEADER_LEN + self.iv_len as usize + self.icv_len as usize;
        (room.saturating_sub(around) & !(self.block as usize - 1)).saturating_sub(TRAILER_LEN)
    }

    /// Takes a packet apart; `None` under the same conditions as [`Layout::payload_range`].
    pub(super) fn split(self, esp: &mut [u8]) -> Option<Fields<'_>> {
        let range = self.payload_range(esp.len())?;
        let (head, icv) = esp.split_at_mut_checked(range.end)?;
        let (head, payload) = head.split_at_mut_checked(range.start)?;
        let (header, iv) = head.split_first_chunk_mut::<HEADER_LEN>()?;
        Some(Fields { header, iv, payload, icv })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GCM: Layout = Layout { iv_len: 8, icv_len: 16, block: 4 };
    const CBC_SHA1: Layout = Layout { iv_len: 16, icv_len: 12, block: 16 };

    #[test]
    fn the_shortest_packet_is_header_iv_one_block_and_icv() {
        assert_eq!(GCM.min_esp_len(), 8 + 8 + 4 + 16);
        assert_eq!(CBC_SHA1.min_esp_len(), 8 + 16 + 16 + 12);
        for layout in [GCM, CBC_SHA1] {
            let shortest = layout.min_esp_len();
            assert_eq!(layout.payload_range(shortest).map(|range| range.len()), Some(usize::from(layout.block)));
            assert!((0..shortest).all(|len| layout.payload_range(len).is_none()));
        }
    }

    #[test]
    fn a_payload_off_its_alignment_has_no_range() {
        assert_eq!(CBC_SHA1.payload_range(8 + 16 + 32 + 12), Some(24..56));
        assert!((1..16).all(|extra| CBC_SHA1.payload_range(8 + 16 + 32 + 12 + extra).is_none()));
        assert_eq!(GCM.payload_range(8 + 8 + 40 + 16), Some(16..56));
        assert!((1..4).all(|extra| GCM.payload_range(8 + 8 + 40 + 16 + extra).is_none()));
    }

    #[test]
    fn data_and_packet_lengths_are_each_others_reverse() {
        for layout in [GCM, CBC_SHA1, Layout { iv_len: 0, icv_len: 32, block: 4 }] {
            for data in 0..200 {
                let len = layout.esp_len(data);
                assert!(layout.payload_range(len).is_some(), "{layout:?}, {data}");
                assert!(layout.padding(data) < usize::from(layout.block));
                assert!(layout.data_within(len) >= data && layout.data_within(len - 1) < data.max(1));
                assert!(layout.esp_len(layout.data_within(len + 7)) <= len + 7);
            }
        }
        assert_eq!(CBC_SHA1.data_within(20), 0);
    }

    #[test]
    fn split_gives_every_octet_to_exactly_one_field() {
        let mut esp: Vec<u8> = (0..60).collect();
        let fields = GCM.split(&mut esp).unwrap();
        let joined = [&fields.header[..], fields.iv, fields.payload, fields.icv].concat();
        assert_eq!(joined, (0..60).collect::<Vec<u8>>());
        assert_eq!((fields.iv.len(), fields.payload.len(), fields.icv.len()), (8, 28, 16));
        assert!(GCM.split(&mut esp[..35]).is_none());
    }
}
