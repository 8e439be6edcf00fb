//! The shared replay window under loom, which tries every interleaving of a few cores and every value that their relaxed
//! loads may see: no number is accepted twice, and none is lost that nothing speaks against.
//!
//! Run by `make loom`: `RUSTFLAGS="--cfg loom" cargo test -p nf-core --no-default-features --test replay_loom --release`.
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use loom::sync::Arc;
use loom::thread;
use nf_core::sa::replay::{Refused, ReplayWindow, WindowSize};
use nf_core::types::SeqNo;

fn window(next: u64) -> ReplayWindow {
    ReplayWindow::resume_from(WindowSize::try_from(32).unwrap(), true, SeqNo(next))
}

/// Commits a burst as a core does; gives the numbers that were accepted, and why others weren't.
fn commit(window: &ReplayWindow, numbers: &[u64]) -> (Vec<u64>, Vec<Refused>) {
    let seqs: Vec<SeqNo> = numbers.iter().copied().map(SeqNo).collect();
    let mut accepted = vec![true; numbers.len()];
    let mut refused = Vec::new();
    window.commit_run(&seqs, |index, why| {
        accepted[index] = false;
        refused.push(why);
    });
    let numbers = numbers.iter().zip(accepted).filter(|(_, accepted)| *accepted).map(|(number, _)| *number);
    (numbers.collect(), refused)
}

/// Two cores commit their bursts at once. Gives what each accepted, in every interleaving, to `judge`.
fn race(next: u64, bursts: [&'static [u64]; 2], judge: fn([Vec<u64>; 2], [Vec<Refused>; 2], &ReplayWindow)) {
    loom::model(move || {
        let shared = Arc::new(window(next));
        let other = Arc::clone(&shared);
        let handle = thread::spawn(move || commit(&other, bursts[1]));
        let (first, first_refused) = commit(&shared, bursts[0]);
        let (second, second_refused) = handle.join().unwrap();
        judge([first, second], [first_refused, second_refused], &shared);
    });
}

fn times(accepted: &[Vec<u64>; 2], number: u64) -> usize {
    accepted.iter().flatten().filter(|one| **one == number).count()
}

#[test]
fn of_two_copies_one_is_accepted() {
    race(1, [&[7], &[7]], |accepted, refused, window| {
        assert_eq!(times(&accepted, 7), 1);
        assert_eq!(refused.concat(), [Refused::Duplicate]);
        assert_eq!(window.highest(), Some(SeqNo(7)));
    });
}

#[test]
fn neighbours_in_one_word_are_all_accepted() {
    race(1, [&[1, 3, 5], &[2, 4, 6]], |accepted, refused, window| {
        assert_eq!(accepted.concat().len(), 6);
        assert!(refused.concat().is_empty());
        assert_eq!(window.highest(), Some(SeqNo(6)));
    });
}

#[test]
fn bursts_that_overlap_over_two_words_share_each_number_out() {
    race(1, [&[14, 15, 16, 17], &[15, 16, 18]], |accepted, refused, window| {
        for number in 14..=18 {
            assert_eq!(times(&accepted, number), 1, "{number}");
        }
        assert_eq!(refused.concat(), [Refused::Duplicate, Refused::Duplicate]);
        assert_eq!(window.highest(), Some(SeqNo(18)));
    });
}

/// The ring has four words, so block 4 takes block 0's place: a late number races with the one that forgets it.
#[test]
fn a_jump_that_takes_a_words_place_revives_nothing() {
    race(10, [&[64], &[9, 10]], |accepted, _, window| {
        assert_eq!(times(&accepted, 64), 1);
        assert_eq!(times(&accepted, 9), 0, "everything below 10 counts as received");
        assert!(times(&accepted, 10) <= 1);
        assert_eq!(window.highest(), Some(SeqNo(64)));
        assert_eq!(window.commit(SeqNo(10)), Err(Refused::TooOld));
        assert_eq!(window.commit(SeqNo(64)), Err(Refused::Duplicate));
    });
}

#[test]
fn what_was_accepted_is_a_replay_for_every_later_look() {
    loom::model(|| {
        let shared = Arc::new(window(1));
        let other = Arc::clone(&shared);
        let handle = thread::spawn(move || other.commit(SeqNo(20)));
        let checked = shared.check(20);
        let committed = checked.and_then(|seq| shared.commit(seq));
        let accepted = usize::from(committed.is_ok()) + usize::from(handle.join().unwrap().is_ok());
        assert_eq!(accepted, 1);
        assert_eq!(shared.check(20), Err(Refused::Duplicate));
    });
}

#[test]
fn three_cores_accept_a_number_once() {
    let mut model = loom::model::Builder::new();
    // Bounds the time: every interleaving with up to three forced changes of thread.
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Arc::new(window(1));
        let spawn = |numbers: &'static [u64]| {
            let window = Arc::clone(&shared);
            thread::spawn(move || commit(&window, numbers).0)
        };
        let handles = [spawn(&[3, 17]), spawn(&[17, 3])];
        let mut accepted = commit(&shared, &[17]).0;
        accepted.extend(handles.into_iter().flat_map(|handle| handle.join().unwrap()));
        accepted.sort_unstable();
        assert_eq!(accepted, [3, 17]);
    });
}
