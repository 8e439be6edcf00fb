//! Several cores commit the same numbers to one replay window at once. Whatever the interleaving, a number is accepted
//! at most once, and exactly once where the window is wide enough to refuse none.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nf_core::sa::replay::{Refused, ReplayWindow, WindowSize};
use nf_core::types::SeqNo;

/// Each test stops after the round in which this has passed.
const TIME_LIMIT: Duration = Duration::from_millis(400);
/// A test that does fewer rounds has proven nothing.
const MIN_ROUNDS: usize = 20;
/// The numbers of one round, over which all threads go at once.
const PER_ROUND: usize = 2048;

/// Marsaglia's xorshift64: a repeatable order, different per thread.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// How a thread goes through the numbers of a round.
#[derive(Clone, Copy)]
enum Order {
    /// One by one, neighbours swapped over up to 40 places.
    Shuffled,
    /// In bursts of up to 64 in order, each overlapping the burst before.
    Bursts,
    /// One by one, only every third number from this one on. With three threads each number comes once, and the threads
    /// race for the words with nothing but fresh numbers.
    Third(usize),
}

/// What one round found: how often each of its numbers was accepted, and the refusals.
struct Tally {
    accepted: Vec<AtomicU8>,
    refused: Mutex<Vec<Refused>>,
}

impl Tally {
    fn new() -> Self {
        Tally { accepted: (0..PER_ROUND).map(|_| AtomicU8::new(0)).collect(), refused: Mutex::new(vec![]) }
    }
}

/// Commits the round's numbers, which begin at `first`.
fn commit_round(window: &ReplayWindow, first: u64, order: Order, random: &mut Random, tally: &Tally) {
    let mut refusals = vec![];
    let mut highest = None;
    let mut commit = |seqs: &[SeqNo]| {
        let mut accepted = [true; 64];
        window.commit_run(seqs.iter().copied(), |index, why| {
            accepted[index] = false;
            refusals.push(why);
        });
        for (seq, _) in seqs.iter().zip(accepted).filter(|(_, accepted)| *accepted) {
            tally.accepted[(seq.0 - first) as usize].fetch_add(1, Ordering::Relaxed);
        }
        let highest_now = window.highest();
        assert!(highest_now >= highest, "the head went back from {highest:?} to {highest_now:?}");
        highest = highest_now;
    };
    let mut seqs: Vec<SeqNo> = (first..).take(PER_ROUND).map(SeqNo).collect();
    match order {
        Order::Third(offset) => seqs.iter().skip(offset).step_by(3).for_each(|&seq| commit(&[seq])),
        Order::Shuffled => {
            for here in 0..PER_ROUND {
                seqs.swap(here, (here + random.below(40)).min(PER_ROUND - 1));
            }
            seqs.iter().for_each(|&seq| commit(&[seq]));
        }
        Order::Bursts => {
            let mut from = 0;
            while from < PER_ROUND {
                let to = (from + 1 + random.below(64)).min(PER_ROUND);
                commit(&seqs[from.saturating_sub(random.below(8)).max(to.saturating_sub(64))..to]);
                from = to;
            }
        }
    }
    tally.refused.lock().unwrap().extend(refusals);
}

/// Runs rounds on one window until the time is up, each on the numbers after the last round's, and hands every round's
/// tally to `judge`. Round by round, because threads that run freely would drift apart and never meet.
fn contend(window: &ReplayWindow, first: u64, orders: &[Order], judge: impl Fn(u64, &Tally)) {
    let started = Instant::now();
    let mut randoms: Vec<Random> =
        (1..).take(orders.len()).map(|i| Random(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(i))).collect();
    let mut first = first;
    let mut rounds = 0;
    while rounds < MIN_ROUNDS || started.elapsed() < TIME_LIMIT {
        let tally = Tally::new();
        let barrier = Barrier::new(orders.len());
        thread::scope(|scope| {
            for (&order, random) in orders.iter().zip(&mut randoms) {
                let (tally, barrier) = (&tally, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    commit_round(window, first, order, random, tally);
                });
            }
        });
        judge(first, &tally);
        first += PER_ROUND as u64;
        assert_eq!(window.highest(), Some(SeqNo(first - 1)));
        rounds += 1;
    }
}

fn window(packets: u32, next: u64) -> ReplayWindow {
    ReplayWindow::resume_from(WindowSize::try_from(packets).unwrap(), true, SeqNo(next))
}

/// For windows wider than a round, where nothing is ever too old.
fn exactly_once(first: u64, tally: &Tally) {
    for (seq, accepted) in (first..).zip(&tally.accepted) {
        assert_eq!(accepted.load(Ordering::Relaxed), 1, "number {seq}");
    }
    assert!(tally.refused.lock().unwrap().iter().all(|&why| why == Refused::Duplicate));
}

/// For windows narrower than the threads' distance: late numbers may be lost, but none comes twice.
fn at_most_once(first: u64, tally: &Tally) {
    for (seq, accepted) in (first..).zip(&tally.accepted) {
        assert!(accepted.load(Ordering::Relaxed) <= 1, "number {seq} was accepted twice");
    }
}

#[test]
fn numbers_that_come_once_are_all_accepted() {
    let orders = [Order::Third(0), Order::Third(1), Order::Third(2)];
    contend(&window(4096, 1), 1, &orders, |first, tally| {
        exactly_once(first, tally);
        assert_eq!(*tally.refused.lock().unwrap(), []);
    });
}

#[test]
fn bursts_in_a_wide_window_are_accepted_exactly_once() {
    let orders = [Order::Bursts, Order::Bursts, Order::Shuffled, Order::Shuffled];
    // The rounds cross into the second epoch.
    let first = (1 << 32) - 10 * PER_ROUND as u64 - 5;
    contend(&window(65_536, first), first, &orders, exactly_once);
}

#[test]
fn in_the_smallest_window_nothing_is_accepted_twice() {
    contend(&window(32, 1), 1, &[Order::Shuffled, Order::Shuffled, Order::Bursts], at_most_once);
}

#[test]
fn two_cores_with_bursts_accept_nothing_twice() {
    contend(&window(64, 1), 1, &[Order::Bursts, Order::Bursts], at_most_once);
}
