//! The Internet checksum (RFC 1071) and its update in place (RFC 1624).

/// The ones' complement sum of a slice, an odd last octet padded with zero, not yet folded.
#[inline]
pub fn sum(octets: &[u8]) -> u64 {
    let (words, rest) = octets.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let mut last = [0; 4];
    for (place, octet) in last.iter_mut().zip(rest) {
        *place = *octet;
    }
    sum += u64::from(u32::from_be_bytes(last));
    sum
}

/// Folds a sum to 16 bits.
#[inline]
pub const fn fold(sum: u64) -> u16 {
    let (half, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let half = half.wrapping_add(carry as u32);
    // Of the sum of a number and itself with its halves swapped, the upper half is the sum of both halves, with the carry
    // of the lower one, which is the same, added in.
    (half.wrapping_add(half.rotate_left(16)) >> 16) as u16
}

/// The checksum over a slice: what goes into a header whose checksum field is zero.
#[inline]
pub fn checksum(octets: &[u8]) -> u16 {
    !fold(sum(octets))
}

/// Whether a header with its checksum in place is sound.
#[inline]
pub fn is_valid(octets: &[u8]) -> bool {
    // Nearly all IPv4 headers have this length: no loop then, and no swapping of octets, which changes a ones' complement
    // sum only by swapping its own (RFC 1071 2).
    match octets.as_chunks::<4>() {
        ([a, b, c, d, e], []) => {
            let words = [*a, *b, *c, *d, *e].map(|word| u64::from(u32::from_ne_bytes(word)));
            fold(words.into_iter().sum()) == 0xFFFF
        }
        _ => fold(sum(octets)) == 0xFFFF,
    }
}

/// The checksum after one 16-bit word under it has changed (RFC 1624 equation 3).
#[inline]
pub const fn update(checksum: u16, before: u16, after: u16) -> u16 {
    let sum = !checksum as u32 + !before as u32 + after as u32;
    let sum = (sum >> 16) + (sum & 0xFFFF);
    !((sum >> 16) + (sum & 0xFFFF)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Straight from RFC 1071, 16 bits at a time.
    fn naive(octets: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in octets.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum >> 16) + (sum & 0xFFFF);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7])), 0xDDF2);
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_sum(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(checksum(&octets), naive(&octets));
        }

        #[test]
        fn an_update_equals_a_new_sum(mut words in prop::collection::vec(any::<u16>(), 1..40), at: prop::sample::Index, after: u16) {
            // A header is never all zero, and neither zero is told apart from the other by receivers otherwise.
            words.push(0x4500);
            let at = at.index(words.len() - 1);
            let octets = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
            let before = std::mem::replace(&mut words[at], after);
            let mut old = words.clone();
            old[at] = before;
            prop_assert_eq!(update(checksum(&octets(&old)), before, after), checksum(&octets(&words)));
        }
    }
}
