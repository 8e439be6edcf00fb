//! Packets on a larval SPI, held until its SA matures.
//!
//! Memory is set aside when the queue is made: a core that holds, releases or gives up a packet never allocates. Three
//! limits keep a peer, or whoever guesses a reserved SPI, from taking all packet buffers: packets of one reservation,
//! packets and octets in all. A fourth, the age, bounds how late a packet may come out.

use std::collections::HashMap;

use crate::sa::larval::ReservationId;
use crate::types::{Nanos, PortIndex};

/// How much a core holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldLimits {
    /// Packets of one reservation.
    pub spi_packets: usize,
    /// Packets in all.
    pub packets: usize,
    /// Octets of frames in all.
    pub octets: usize,
    /// Nanoseconds that a packet may be held.
    pub age: u64,
}

/// A held packet, in whatever buffer it lies.
#[derive(Debug)]
pub struct Held<B> {
    /// The packet.
    pub buffer: B,
    /// Octets of its frame.
    pub octets: usize,
    /// The port that it was received on.
    pub port: PortIndex,
    /// When it was received.
    pub at: Nanos,
}

/// One packet's place.
#[derive(Debug)]
struct Slot<B> {
    held: Option<Held<B>>,
    /// The slot of the reservation's next packet, or the next free slot.
    next: Option<usize>,
}

/// The packets of one reservation, oldest first. There is one packet at least.
#[derive(Clone, Copy, Debug)]
struct List {
    first: usize,
    last: usize,
    packets: usize,
}

/// A core's held packets.
#[derive(Debug)]
pub struct HoldQueue<B> {
    limits: HoldLimits,
    store: Store<B>,
    lists: HashMap<ReservationId, List>,
}

/// The places, with those that are free chained up.
#[derive(Debug)]
struct Store<B> {
    slots: Box<[Slot<B>]>,
    free: Option<usize>,
    packets: usize,
    octets: usize,
}

impl<B> Store<B> {
    fn put(&mut self, held: Held<B>) -> Result<usize, Held<B>> {
        let Some((at, slot)) = self.free.and_then(|at| Some((at, self.slots.get_mut(at)?))) else {
            return Err(held);
        };
        self.free = slot.next.take();
        self.packets += 1;
        self.octets += held.octets;
        slot.held = Some(held);
        Ok(at)
    }

    /// Takes what lies in a slot; gives it with the slot behind.
    fn take(&mut self, at: usize) -> (Option<Held<B>>, Option<usize>) {
        let Some(slot) = self.slots.get_mut(at) else {
            return (None, None);
        };
        let (held, next) = (slot.held.take(), std::mem::replace(&mut slot.next, self.free));
        self.free = Some(at);
        if let Some(held) = &held {
            self.packets -= 1;
            self.octets -= held.octets;
        }
        (held, next)
    }

    fn since(&self, at: usize) -> Option<Nanos> {
        self.slots.get(at)?.held.as_ref().map(|held| held.at)
    }
}

impl List {
    /// Takes the oldest packet. Afterwards the list is gone if `packets` is 0.
    fn pop<B>(&mut self, store: &mut Store<B>) -> Option<Held<B>> {
        let (held, next) = store.take(self.first);
        self.packets -= 1;
        self.first = next.unwrap_or(self.last);
        held
    }
}

impl<B> HoldQueue<B> {
    /// An empty queue, with room for all that the limits allow.
    pub fn new(limits: HoldLimits) -> HoldQueue<B> {
        let count = limits.packets;
        let next = |at: usize| (at + 1 < count).then_some(at + 1);
        let slots = (0..count).map(|at| Slot { held: None, next: next(at) }).collect();
        let store = Store { slots, free: (count > 0).then_some(0), packets: 0, octets: 0 };
        // Twice as large, for hashbrown clears the marks of removed entries in place only while at most half is taken.
        HoldQueue { limits, store, lists: HashMap::with_capacity(2 * count) }
    }

    /// Holds a packet; gives it back where a limit is reached.
    pub fn hold(&mut self, id: ReservationId, held: Held<B>) -> Result<(), Held<B>> {
        let limits = &self.limits;
        let list = self.lists.get_mut(&id);
        if self.store.octets + held.octets > limits.octets
            || list.as_ref().is_some_and(|list| list.packets >= limits.spi_packets)
        {
            return Err(held);
        }
        let at = self.store.put(held)?;
        match list {
            Some(list) => {
                if let Some(last) = self.store.slots.get_mut(list.last) {
                    last.next = Some(at);
                }
                list.last = at;
                list.packets += 1;
            }
            None => drop(self.lists.insert(id, List { first: at, last: at, packets: 1 })),
        }
        Ok(())
    }

    /// Takes a reservation's oldest packet.
    pub fn pop(&mut self, id: ReservationId) -> Option<Held<B>> {
        let list = self.lists.get_mut(&id)?;
        let held = list.pop(&mut self.store);
        if list.packets == 0 {
            self.lists.remove(&id);
        }
        held
    }

    /// Gives up packets that were held for too long.
    pub fn expire(&mut self, now: Nanos, mut give_up: impl FnMut(Held<B>)) {
        if self.is_empty() {
            return;
        }
        let HoldQueue { limits, store, lists } = self;
        lists.retain(|_, list| {
            while list.packets > 0 && store.since(list.first).is_none_or(|at| now.since(at) >= limits.age) {
                list.pop(store).into_iter().for_each(&mut give_up);
            }
            list.packets > 0
        });
    }

    /// Gives up everything.
    pub fn clear(&mut self, mut give_up: impl FnMut(Held<B>)) {
        for (_, mut list) in self.lists.drain() {
            while list.packets > 0 {
                list.pop(&mut self.store).into_iter().for_each(&mut give_up);
            }
        }
    }

    /// Packets that are held.
    pub fn len(&self) -> usize {
        self.store.packets
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.store.packets == 0
    }

    /// Octets that are held.
    pub fn octets(&self) -> usize {
        self.store.octets
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    const LIMITS: HoldLimits = HoldLimits { spi_packets: 4, packets: 8, octets: 1000, age: 100 };

    fn held(number: u32, octets: usize, at: u64) -> Held<u32> {
        Held { buffer: number, octets, port: PortIndex(0), at: Nanos(at) }
    }

    fn pop_all(queue: &mut HoldQueue<u32>, id: u64) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop(ReservationId(id))).map(|held| held.buffer).collect()
    }

    #[test]
    fn packets_come_out_in_order_by_reservation() {
        let mut queue = HoldQueue::new(LIMITS);
        for (number, id) in [(1, 7), (2, 8), (3, 7), (4, 7), (5, 8)] {
            queue.hold(ReservationId(id), held(number, 10, 0)).unwrap();
        }
        assert_eq!(pop_all(&mut queue, 7), [1, 3, 4]);
        assert!(pop_all(&mut queue, 9).is_empty());
        assert_eq!(pop_all(&mut queue, 8), [2, 5]);
        assert_eq!((queue.len(), queue.octets()), (0, 0));
    }

    #[test]
    fn each_limit_holds() {
        let mut queue = HoldQueue::new(LIMITS);
        let fill = |queue: &mut HoldQueue<u32>, id, octets| {
            (0..20).filter(|n| queue.hold(ReservationId(id), held(*n, octets, 0)).is_ok()).count()
        };
        assert_eq!(fill(&mut queue, 1, 1), 4, "of one SPI");
        assert_eq!(fill(&mut queue, 2, 1) + fill(&mut queue, 3, 1), 4, "in all");
        let mut queue = HoldQueue::new(LIMITS);
        assert_eq!(fill(&mut queue, 1, 400), 2, "octets");
        let mut queue = HoldQueue::new(HoldLimits { packets: 0, ..LIMITS });
        assert_eq!(fill(&mut queue, 1, 1), 0, "none is held where none may be");
    }

    /// Miri takes a minute for more.
    const MOST_STEPS: usize = if cfg!(miri) { 40 } else { 400 };

    proptest! {
        /// Against a plain model: whatever comes in which order, each packet comes out once, in its order.
        #[test]
        fn nothing_is_lost_or_reordered(steps in prop::collection::vec((0u8..8, 0u64..4, 1usize..300), 1..MOST_STEPS)) {
            let mut queue = HoldQueue::new(LIMITS);
            let capacity = queue.lists.capacity();
            let mut model = BTreeMap::<u64, VecDeque<(u32, usize, u64)>>::new();
            let mut now = 0;
            for (number, (step, id, octets)) in steps.into_iter().enumerate() {
                let number = number as u32;
                now += 9;
                let (packets, all): (usize, usize) =
                    model.values().flatten().fold((0, 0), |(count, sum), entry| (count + 1, sum + entry.1));
                match step {
                    0..=4 => {
                        let list = model.entry(id).or_default();
                        let fits = list.len() < 4 && packets < 8 && all + octets <= 1000;
                        prop_assert_eq!(queue.hold(ReservationId(id), held(number, octets, now)).is_ok(), fits);
                        if fits {
                            list.push_back((number, octets, now));
                        }
                    }
                    5 => {
                        let popped = queue.pop(ReservationId(id)).map(|held| held.buffer);
                        let wanted = model.get_mut(&id).and_then(VecDeque::pop_front).map(|(number, ..)| number);
                        prop_assert_eq!(popped, wanted);
                    }
                    6 => {
                        let mut gone = Vec::new();
                        queue.expire(Nanos(now), |held| gone.push(held.buffer));
                        gone.sort_unstable();
                        let mut wanted: Vec<u32> =
                            model.values().flatten().filter(|(.., at)| now - at >= 100).map(|(n, ..)| *n).collect();
                        wanted.sort_unstable();
                        prop_assert_eq!(gone, wanted);
                        model.values_mut().for_each(|list| list.retain(|(.., at)| now - at < 100));
                    }
                    _ if number.is_multiple_of(7) => {
                        let mut count = 0;
                        queue.clear(|_| count += 1);
                        prop_assert_eq!(count, packets);
                        model.clear();
                    }
                    _ => {}
                }
                prop_assert_eq!(queue.len(), model.values().map(VecDeque::len).sum::<usize>());
                prop_assert_eq!(queue.lists.capacity(), capacity, "it never grows");
            }
        }
    }
}
