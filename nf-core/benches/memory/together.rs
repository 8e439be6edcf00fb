//! One SA on two cores: on a shared window, and handed over to one of them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use crossbeam::queue::ArrayQueue;
use dpdk_rs::Tsc;
use nf_core::core::Core;
use nf_core::crypto::Engine;
use nf_core::lanes::BURST;

use crate::lap::{self, Filled};
use crate::results::Together;
use crate::traffic::{Frames, SIZE_512, Traffic};

/// Bursts of a lap.
const BURSTS: usize = 512;
/// Wide enough for the distance of two cores that take bursts in turn.
const WINDOW: u32 = 4096;
/// Bursts that may wait for the other core.
const RING: usize = 16;

/// Measures all three; the best of `laps` each.
pub(crate) fn compare(engine: &dyn Engine, laps: usize) -> Together {
    let traffic = Traffic::new(engine, 1, BURSTS * BURST, SIZE_512, WINDOW);
    let (_control, mut cores) = lap::network_function(2, 1024);
    let [first, second] = cores.as_mut_slice() else {
        unreachable!("two cores were asked for");
    };
    let packets = traffic.frames.len() as f64;
    let mut together = Together {
        one_core: f64::INFINITY,
        shared: f64::INFINITY,
        pinned: f64::INFINITY,
        overtaken_percent: 0.0,
        overtaken_by: 0,
    };
    for _ in 0..laps {
        let fresh = |cores: [&mut Core; 2]| {
            let sas: Vec<_> = traffic.fresh_sas(engine, 2).collect();
            cores.into_iter().for_each(|core| lap::install(core, sas.iter().cloned()));
        };
        fresh([first, second]);
        let turns = in_turn(&mut [first], &traffic.frames);
        together.one_core = together.one_core.min(turns.clocks as f64 / packets);

        fresh([first, second]);
        let Turns { clocks, sent, order } = in_turn(&mut [first, second], &traffic.frames);
        // A packet that is refused costs little, so a lap counts only with all of them.
        if sent as f64 == packets && (clocks as f64 / packets) < together.shared {
            together.shared = clocks as f64 / packets;
            (together.overtaken_percent, together.overtaken_by) = overtaken(&order);
        }

        fresh([first, second]);
        together.pinned = together.pinned.min(handed_over(second, &traffic.frames) as f64 / packets);
    }
    together
}

/// What a lap of cores that take bursts in turn took.
struct Turns {
    /// From when the first one began to when the last one was done.
    clocks: u64,
    /// Packets that left. A core that is kept from its CPU for long finds the window past its burst.
    sent: u64,
    /// The bursts' places in the order in which they were done.
    order: Vec<u64>,
}

/// Each core takes the next burst when it is done with its last one. They take the time themselves: a thread that waited for them
/// would get a CPU, where they have them all, when they are well under way.
fn in_turn(cores: &mut [&mut Core], frames: &Frames) -> Turns {
    let (next, done, ready) = (AtomicU64::new(0), AtomicU64::new(0), AtomicUsize::new(0));
    let places: Vec<AtomicU64> = (0..BURSTS).map(|_| AtomicU64::new(0)).collect();
    let all = cores.len();
    let turn = |core: &mut Core| {
        let mut buffer = Filled::new();
        let mut sent = 0;
        ready.fetch_add(1, Ordering::Relaxed);
        while ready.load(Ordering::Relaxed) < all {
            std::hint::spin_loop();
        }
        let begun = Tsc::now();
        loop {
            let burst = next.fetch_add(1, Ordering::Relaxed);
            if burst >= BURSTS as u64 {
                return (begun, Tsc::now(), sent);
            }
            let first = burst as usize * BURST;
            buffer.fill((first..first + BURST).filter_map(|index| frames.get(index)));
            sent += buffer.process(core);
            let place = done.fetch_add(1, Ordering::Relaxed);
            places[burst as usize].store(place, Ordering::Relaxed);
        }
    };
    let (begun, ended, sent) = thread::scope(|scope| {
        let threads: Vec<_> = cores.iter_mut().map(|core| scope.spawn(|| turn(core))).collect();
        threads.into_iter().fold((u64::MAX, 0, 0), |(first, last, all), thread| {
            let (begun, ended, sent) = thread.join().expect("a core of the bench ends by itself");
            (first.min(begun.0), last.max(ended.0), all + sent)
        })
    });
    Turns { clocks: ended - begun, sent, order: places.into_iter().map(AtomicU64::into_inner).collect() }
}

/// How many bursts of 100 were done after a later one, and by how many places at most. `places` has for each burst its
/// place in the order in which they were done.
fn overtaken(places: &[u64]) -> (f64, u64) {
    let late = places.iter().enumerate().map(|(burst, place)| place.saturating_sub(burst as u64));
    let (count, most) = late.fold((0, 0), |(count, most), late| (count + u64::from(late > 0), u64::max(most, late)));
    (count as f64 * 100.0 / places.len() as f64, most)
}

/// One thread fills buffers and hands them over; the other one's core does the rest. Gives the wall clocks.
fn handed_over(core: &mut Core, frames: &Frames) -> u64 {
    let ring: Arc<ArrayQueue<Filled>> = Arc::new(ArrayQueue::new(RING));
    let free: Arc<ArrayQueue<Filled>> = Arc::new(ArrayQueue::new(RING));
    for _ in 0..RING {
        assert!(free.push(Filled::new()).is_ok(), "the queue has room for all");
    }
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            barrier.wait();
            for burst in 0..BURSTS {
                let mut buffer = loop {
                    match free.pop() {
                        Some(buffer) => break buffer,
                        None => std::hint::spin_loop(),
                    }
                };
                buffer.fill((burst * BURST..(burst + 1) * BURST).filter_map(|index| frames.get(index)));
                assert!(ring.push(buffer).is_ok(), "there are no more buffers than places");
            }
        });
        barrier.wait();
        let before = Tsc::now();
        let mut left = BURSTS;
        while left > 0 {
            let Some(mut buffer) = ring.pop() else {
                std::hint::spin_loop();
                continue;
            };
            assert_eq!(buffer.process(core), BURST as u64, "every packet is good");
            left -= 1;
            assert!(free.push(buffer).is_ok(), "the queue has room for all");
        }
        Tsc::now().cycles_since(before)
    })
}
