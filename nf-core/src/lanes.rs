//! A set of packets of one burst, as bits.

use std::ops::{BitAnd, BitOr, BitOrAssign, Sub, SubAssign};

/// The most packets that are worked on at once: what one `rx_burst` asks for, and a bit each in [`Lanes`].
pub const BURST: usize = 64;

/// A packet's place in its burst: 0 to [`BURST`] - 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lane(u8);

impl Lane {
    /// The lane with this number; none from [`BURST`] on.
    pub const fn new(index: usize) -> Option<Lane> {
        if index < BURST { Some(Lane(index as u8)) } else { None }
    }

    /// As an index into a table with an entry per lane.
    #[inline]
    pub const fn index(self) -> usize {
        (self.0 as usize) % BURST
    }
}

/// A set of lanes. Iterates in arrival order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lanes(u64);

impl Lanes {
    /// No lane.
    pub const NONE: Lanes = Lanes(0);

    /// The first `count` lanes; all of them from [`BURST`] on.
    pub const fn first_n(count: usize) -> Lanes {
        if count >= BURST { Lanes(u64::MAX) } else { Lanes((1 << count) - 1) }
    }

    /// Adds one.
    #[inline]
    pub fn insert(&mut self, lane: Lane) {
        self.0 |= 1 << lane.index();
    }

    /// Takes one out.
    #[inline]
    pub fn remove(&mut self, lane: Lane) {
        self.0 &= !(1 << lane.index());
    }

    /// Those from this lane on.
    #[inline]
    pub const fn starting_at(self, first: Lane) -> Lanes {
        Lanes(self.0 & u64::MAX << first.index())
    }

    /// Whether it is in the set.
    #[inline]
    pub const fn contains(self, lane: Lane) -> bool {
        self.0 & (1 << lane.index()) != 0
    }

    /// Whether the set is empty.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lane that is alone in the set; none where there are several, or no lane.
    #[inline]
    pub fn only(mut self) -> Option<Lane> {
        self.next().filter(|_| self.is_empty())
    }

    /// How many there are.
    #[inline]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl Iterator for Lanes {
    type Item = Lane;

    #[inline]
    fn next(&mut self) -> Option<Lane> {
        if self.0 == 0 {
            return None;
        }
        let lane = self.0.trailing_zeros() as u8;
        self.0 &= self.0 - 1;
        Some(Lane(lane))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = Lanes::len(*self);
        (left, Some(left))
    }
}

impl Extend<Lane> for Lanes {
    #[inline]
    fn extend<I: IntoIterator<Item = Lane>>(&mut self, lanes: I) {
        lanes.into_iter().for_each(|lane| self.insert(lane));
    }
}

impl FromIterator<Lane> for Lanes {
    fn from_iter<I: IntoIterator<Item = Lane>>(lanes: I) -> Lanes {
        let mut set = Lanes::NONE;
        set.extend(lanes);
        set
    }
}

impl BitOr for Lanes {
    type Output = Lanes;

    fn bitor(self, other: Lanes) -> Lanes {
        Lanes(self.0 | other.0)
    }
}

impl BitOrAssign for Lanes {
    fn bitor_assign(&mut self, other: Lanes) {
        self.0 |= other.0;
    }
}

impl BitAnd for Lanes {
    type Output = Lanes;

    fn bitand(self, other: Lanes) -> Lanes {
        Lanes(self.0 & other.0)
    }
}

/// The lanes of the first set that aren't in the second.
impl Sub for Lanes {
    type Output = Lanes;

    fn sub(self, other: Lanes) -> Lanes {
        Lanes(self.0 & !other.0)
    }
}

impl SubAssign for Lanes {
    fn sub_assign(&mut self, other: Lanes) {
        self.0 &= !other.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_iterate_in_order() {
        let lanes: Lanes = [5, 0, 63].into_iter().filter_map(Lane::new).collect();
        assert_eq!(lanes.map(Lane::index).collect::<Vec<_>>(), [0, 5, 63]);
        assert_eq!(lanes.len(), 3);
    }

    #[test]
    fn first_n_covers_the_whole_burst() {
        assert_eq!(Lanes::first_n(0), Lanes::NONE);
        assert_eq!(Lanes::first_n(3).len(), 3);
        assert_eq!(Lanes::first_n(BURST).len(), BURST);
        assert_eq!(Lanes::first_n(BURST + 1).len(), BURST);
        assert_eq!(Lane::new(BURST), None);
    }

    #[test]
    fn those_from_a_lane_on_are_it_and_later_ones() {
        let lanes: Lanes = [0, 5, 63].into_iter().filter_map(Lane::new).collect();
        let from = |index| lanes.starting_at(Lane::new(index).unwrap()).map(Lane::index).collect::<Vec<_>>();
        assert_eq!([from(0), from(5), from(6)], [vec![0, 5, 63], vec![5, 63], vec![63]]);
    }

    #[test]
    fn only_one_is_only() {
        assert_eq!(Lanes::first_n(1).only(), Lane::new(0));
        assert_eq!([Lanes::NONE, Lanes::first_n(2)].map(Lanes::only), [None, None]);
    }

    #[test]
    fn difference_takes_out_only_what_is_in_both() {
        let a = Lanes::first_n(4);
        let b: Lanes = [1, 9].into_iter().filter_map(Lane::new).collect();
        assert_eq!((a - b).map(Lane::index).collect::<Vec<_>>(), [0, 2, 3]);
    }
}
