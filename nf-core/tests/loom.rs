//! What cores share without locks under loom, which tries every interleaving of a few cores and every value that their relaxed
//! loads may see: replay windows, sequence numbers of outbound SAs, what is told once. The queues between cores and control thread
//! are crossbeam's, and what a core counts it alone writes: nothing in them is left to try.
//!
//! Run by `make loom`.
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use loom::sync::Arc;
use loom::thread;
use nf_core::crypto::Portable;
use nf_core::sa::inbound::{Progress, Sa};
use nf_core::sa::lifetime::{Limit, Phase, Unit};
use nf_core::sa::outbound::OutboundSa;
use nf_core::sa::path_mtu::PathMtu;
use nf_core::sa::replay::{Refused, ReplayWindow, WindowSize};
use nf_core::sa::spec::{SaParams, SaSpec};
use nf_core::types::{Nanos, SeqNo};

fn window(next: u64) -> ReplayWindow {
    ReplayWindow::resume_from(WindowSize::try_from(32).unwrap(), true, SeqNo(next))
}

/// Commits a burst as a core does; gives the numbers that were accepted, and why others weren't.
fn commit(window: &ReplayWindow, numbers: &[u64]) -> (Vec<u64>, Vec<Refused>) {
    let seqs: Vec<SeqNo> = numbers.iter().copied().map(SeqNo).collect();
    let mut accepted = vec![true; numbers.len()];
    let mut refused = Vec::new();
    window.commit_run(seqs.iter().copied(), |index, why| {
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

fn params(direction: &str) -> SaParams {
    let spec = serde_json::json!({
        "spi": 0x1000, "direction": direction, "src": "10.1.1.1", "dst": "10.10.1.2", "mode": "tunnel", "alg": "aes-gcm-16",
        "key": "00".repeat(20),
    });
    serde_json::from_value::<SaSpec>(spec).unwrap().validate().unwrap()
}

/// Two cores take blocks of numbers of an SA that has come as far as `used`; what each got goes to `judge`.
fn share_out(used: u64, blocks: [&'static [usize]; 2], judge: fn([Vec<u64>; 2], &OutboundSa)) {
    let params = std::sync::Arc::new(params("out"));
    loom::model(move || {
        let progress = Progress { highest: SeqNo(used), ..Progress::default() };
        let sa = Arc::new(OutboundSa::resume(&params, 1, &Portable, 2, progress).unwrap());
        let take = |sa: &OutboundSa, blocks: &[usize]| {
            blocks.iter().flat_map(|count| sa.take_numbers(*count)).collect::<Vec<u64>>()
        };
        let other = Arc::clone(&sa);
        let handle = thread::spawn(move || take(&other, blocks[1]));
        let first = take(&sa, blocks[0]);
        judge([first, handle.join().unwrap()], &sa);
    });
}

#[test]
fn no_two_cores_get_a_number() {
    share_out(0, [&[2, 3], &[1, 4]], |taken, sa| {
        let mut all = taken.concat();
        all.sort_unstable();
        assert_eq!(all, (1..=10).collect::<Vec<u64>>());
        assert_eq!(sa.highest(), Some(SeqNo(10)));
    });
}

#[test]
fn at_the_end_of_the_numbers_none_is_given_twice_and_none_too_many() {
    const LAST: u64 = u32::MAX as u64;
    share_out(LAST - 3, [&[2, 2], &[2, 2]], |taken, sa| {
        let mut all = taken.concat();
        all.sort_unstable();
        assert_eq!(all, (LAST - 2..=LAST).collect::<Vec<u64>>());
        assert_eq!(sa.highest(), Some(SeqNo(LAST)));
    });
}

#[test]
fn a_limit_is_told_once() {
    loom::model(|| {
        let phase = Arc::new(Phase::default());
        let other = Arc::clone(&phase);
        let handle =
            thread::spawn(move || [other.reach(Limit::Soft, Unit::Packets), other.reach(Limit::Hard, Unit::Bytes)]);
        let here = [phase.reach(Limit::Soft, Unit::Bytes), phase.reach(Limit::Hard, Unit::Sequence)];
        let there = handle.join().unwrap();
        assert_eq!([here[1], there[1]].iter().filter(|told| **told).count(), 1, "the hard one, once");
        assert!(
            [here[0], there[0]].iter().filter(|told| **told).count() <= 1,
            "the soft one, or a worse one before it"
        );
        assert!(phase.is_over());
    });
}

#[test]
fn the_first_packet_of_an_sa_is_told_once() {
    let params = std::sync::Arc::new(params("in"));
    loom::model(move || {
        let sa = Arc::new(Sa::new(&params, 1, &Portable, 2).unwrap());
        let other = Arc::clone(&sa);
        let handle = thread::spawn(move || other.note_use());
        let told = [sa.note_use(), handle.join().unwrap()];
        assert_eq!(told.iter().filter(|told| **told).count(), 1);
        assert!(sa.is_used());
    });
}

#[test]
fn of_two_routers_the_one_with_the_smaller_mtu_is_heard() {
    loom::model(|| {
        let now = Nanos::from_secs(1);
        let path = Arc::new(PathMtu::default());
        let other = Arc::clone(&path);
        let handle = thread::spawn(move || other.lower(1400, now));
        assert!(path.lower(1300, now), "nobody says less");
        let seen = path.get(now);
        handle.join().unwrap();
        assert_eq!((seen, path.get(now)), (Some(1300), Some(1300)));
        assert!(!path.lower(1400, now));
    });
}
