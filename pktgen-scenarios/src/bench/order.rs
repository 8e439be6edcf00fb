//! In which order numbered packets arrive (RFC 4737).

use serde::Serialize;

/// How far packets are from the order in which they were sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Order {
    /// Packets that arrived.
    pub packets: u64,
    /// Packets with a smaller number than one before them (RFC 4737 3.3).
    pub late: u64,
    /// The most packets that one came too late by, counted from the first with a greater number (RFC 4737 4.2.1).
    pub extent: u64,
}

impl Order {
    /// Of the packets with these numbers, in the order of their arrival.
    pub fn of(numbers: impl IntoIterator<Item = u64>) -> Order {
        let mut order = Order::default();
        // The packets that were the highest so far, ascending: place and number.
        let mut highest: Vec<(u64, u64)> = Vec::new();
        for (place, number) in (0..).zip(numbers) {
            order.packets += 1;
            if highest.last().is_none_or(|(_, before)| number > *before) {
                highest.push((place, number));
                continue;
            }
            order.late += 1;
            let first = highest.partition_point(|(_, before)| *before < number);
            let extent = highest.get(first).map_or(0, |(before, _)| place - before);
            order.extent = order.extent.max(extent);
        }
        order
    }

    /// Late packets of 100.
    pub fn late_percent(&self) -> f64 {
        if self.packets == 0 { 0.0 } else { self.late as f64 * 100.0 / self.packets as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_in_order_are_not_late() {
        assert_eq!(Order::of(1..=1000), Order { packets: 1000, late: 0, extent: 0 });
        assert_eq!(Order::of([1, 2, 5, 6, 9]).late, 0, "what is lost makes nothing late");
        assert_eq!(Order::of([]).late_percent(), 0.0);
    }

    #[test]
    fn the_extent_is_counted_from_the_first_that_overtook() {
        // RFC 4737 4.2.2's example: 1 2 3 7 8 9 10 4 5 6 11 has 4, 5 and 6 late, by 4, 5 and 6 places.
        let order = Order::of([1, 2, 3, 7, 8, 9, 10, 4, 5, 6, 11]);
        assert_eq!(order, Order { packets: 11, late: 3, extent: 6 });
        assert!((order.late_percent() - 300.0 / 11.0).abs() < 1e-9);
        assert_eq!(Order::of([2, 1]), Order { packets: 2, late: 1, extent: 1 });
    }
}
