//! Several threads commit overlapping numbers to one window: no number may be accepted twice.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Barrier;
use std::sync::atomic::{AtomicU8, Ordering};

use nf_core::sa::replay::{ReplayWindow, WindowSize};
use nf_core::types::SeqNo;

const NUMBERS: u64 = 200_000;
const THREADS: u64 = 4;

fn race(size: u32, run: usize) {
    let window = ReplayWindow::new(WindowSize::try_from(size).unwrap(), true);
    let accepted: Vec<AtomicU8> = (0..=NUMBERS).map(|_| AtomicU8::new(0)).collect();
    let barrier = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (window, accepted, barrier) = (&window, &accepted, &barrier);
            scope.spawn(move || {
                barrier.wait();
                // All threads go over all numbers, each a little displaced, so that they meet in the same words.
                let numbers: Vec<SeqNo> = (1..=NUMBERS).map(|n| SeqNo((n ^ thread).clamp(1, NUMBERS))).collect();
                let mut verdicts = vec![Ok(()); run];
                for seqs in numbers.chunks(run) {
                    window.commit_run(seqs, &mut verdicts);
                    for (seq, verdict) in seqs.iter().zip(&verdicts) {
                        if verdict.is_ok() {
                            accepted[seq.0 as usize].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let twice = accepted.iter().filter(|count| count.load(Ordering::Relaxed) > 1).count();
    let once = accepted.iter().filter(|count| count.load(Ordering::Relaxed) == 1).count();
    assert_eq!(twice, 0, "window {size}, runs of {run}");
    // Whichever thread leads is never refused, so nearly all numbers are accepted by someone.
    assert!(once as u64 > NUMBERS / 2, "window {size}, runs of {run}: only {once} of {NUMBERS} accepted");
    assert_eq!(window.highest(), Some(SeqNo(NUMBERS)));
}

#[test]
fn no_number_is_accepted_twice_singly() {
    race(64, 1);
}

#[test]
fn no_number_is_accepted_twice_in_bursts() {
    race(64, 32);
    race(1024, 64);
}
