//! What outlives nf-core when it is killed, and what a successor refuses.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use common::{Nf, Peer, number};
use nf_core::config::Config;
use nf_core::control::controller::Controller;
use nf_core::core::Core;
use nf_core::drop::DropReason;
use nf_core::state::{Keeper, KeyPlace, Opened, StateConfig, StateError};
use nf_core::types::{Nanos, Spi};
use proptest::prelude::*;
use serde_json::json;

/// A directory in a tmpfs, with a state file's place in it and another one for the key.
struct Home {
    dir: tempfile::TempDir,
    key: KeyPlace,
}

impl Home {
    fn new() -> Home {
        let dir = tempfile::Builder::new().prefix("nf-state-").tempdir_in("/dev/shm").unwrap();
        let key = KeyPlace::Directory(dir.path().join("key"));
        Home { dir, key }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("run").join("state")
    }

    fn config(&self) -> StateConfig {
        StateConfig { file: self.file(), key: self.key.clone() }
    }

    fn open(&self) -> Result<Opened, StateError> {
        Keeper::open(&self.config(), 1000, dpdk_rs::map_words)
    }

    /// An nf-core that keeps its state here, and how many SAs it has restored. Dropping it is a kill: nothing is written
    /// or removed.
    fn start(&self, config: &str, cores: usize) -> (Nf, usize) {
        let mut nf = Nf::new(config, cores);
        let restored = keep(&mut nf.controller, self.open().unwrap(), &mut nf.cores);
        (nf, restored)
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("run")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn marks(&self) -> PathBuf {
        let marks = self.files().into_iter().find(|name| name.ends_with(".marks")).unwrap();
        self.dir.path().join("run").join(marks)
    }
}

fn keep(controller: &mut Controller, opened: Opened, cores: &mut [Core]) -> usize {
    controller.keep_state_with(opened, cores).unwrap()
}

/// Adds an SA, and lets the control thread write it even where the machine is slow.
fn add(nf: &mut Nf, peer: &Peer, more: &serde_json::Value) {
    let params = peer.params_with(more);
    nf.control(|controller| controller.add_sa(params)).unwrap();
    settle(nf);
}

fn settle(nf: &mut Nf) {
    for _ in 0..1000 {
        nf.tick(Nanos(nf.now.0 + 1));
        if nf.controller.is_state_written() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the state isn't written");
}

fn numbers(nf: &mut Nf) -> Vec<u64> {
    std::mem::take(&mut nf.output).iter().map(|frame| number(frame)).collect()
}

/// The SA in nf.toml.
fn toml(peer: &Peer) -> String {
    format!(
        "[[sa]]\nspi = {}\nsrc = \"10.1.1.1\"\ndst = \"10.10.1.2\"\nmode = \"tunnel\"\nalg = \"aes-gcm-16\"\nkey = \"{}\"\n",
        peer.spi,
        hex::encode(peer.key)
    )
}

#[test]
fn a_killed_nf_core_comes_back_with_its_sas_and_takes_nothing_twice() {
    let home = Home::new();
    let mut peer = Peer::new(0x1234_5678);
    let (mut nf, restored) = home.start("", 1);
    assert_eq!(restored, 0);
    add(&mut nf, &peer, &json!({"peer": "branch"}));
    let sent: Vec<_> = (0..500).map(|_| peer.next()).collect();
    // Nothing is written after this: the numbers are in the marks alone.
    nf.receive(sent[..400].iter().map(Vec::as_slice));
    assert_eq!(numbers(&mut nf).len(), 400);
    drop(nf);

    let (mut nf, restored) = home.start("", 1);
    assert_eq!(restored, 1);
    nf.receive(sent.iter().map(Vec::as_slice));
    assert_eq!(numbers(&mut nf), (401..=500).collect::<Vec<_>>(), "all but replays, and not one lost");
    assert_eq!(nf.counters().drops(DropReason::Replay).packets, 400);
    let stored = nf.controller.find_sa(Spi(peer.spi), None, None).unwrap();
    assert_eq!((stored.params.peer.as_deref(), stored.sa.totals().packets), (Some("branch"), 500));

    // As it should, an end leaves nothing.
    nf.controller.discard_state();
    assert_eq!(home.files(), Vec::<String>::new());
    assert_eq!(fs::read_dir(home.dir.path().join("key")).unwrap().count(), 0);
    assert_eq!(home.start("", 1).1, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever comes in whatever order on whatever core, and whenever nf-core is killed: no number is taken twice, and
    /// one that is higher than all before is taken.
    #[test]
    fn no_number_is_taken_in_two_lives(
        esn in any::<bool>(),
        window in prop_oneof![Just(32u32), Just(64), Just(1024)],
        bursts in prop::collection::vec((0usize..2, prop::collection::vec(0u64..300, 1..64), 0u8..8), 1..40),
    ) {
        let home = Home::new();
        let mut peer = Peer::new(0x1234_5678);
        peer.esn = esn;
        let (mut nf, _) = home.start("", 2);
        add(&mut nf, &peer, &json!({"replay_window": window}));
        let mut taken = BTreeSet::new();
        let mut base = 1;
        for (core, offsets, then) in bursts {
            let mut frames: Vec<_> = offsets.iter().map(|offset| peer.packet(base + offset)).collect();
            // The next number that nobody has used comes in each burst.
            let fresh = base + 300;
            frames.push(peer.packet(fresh));
            nf.receive_burst(core, &frames.iter().map(Vec::as_slice).collect::<Vec<_>>()[..frames.len().min(64)]);
            for number in numbers(&mut nf) {
                prop_assert!(taken.insert(number), "{} was taken twice", number);
            }
            if frames.len() <= 64 {
                prop_assert!(taken.contains(&fresh));
            }
            base += 100;
            match then {
                0 => {
                    drop(nf);
                    let (next, restored) = home.start("", 2);
                    prop_assert_eq!(restored, 1);
                    nf = next;
                    let again: Vec<_> = taken.iter().map(|number| peer.packet(*number)).collect();
                    for burst in again.chunks(64) {
                        nf.receive_burst(core, &burst.iter().map(Vec::as_slice).collect::<Vec<_>>());
                    }
                    prop_assert_eq!(numbers(&mut nf), Vec::<u64>::new(), "replays of all that was taken");
                }
                1 => {
                    let later = Nanos(nf.now.0 + Nanos::SECOND);
                    nf.tick(later);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_deleted_sa_stays_deleted_even_if_an_old_file_is_put_back() {
    let home = Home::new();
    let (gone, left) = (Peer::new(0x1111_1111), Peer::new(0x2222_2222));
    let (mut nf, _) = home.start("", 1);
    add(&mut nf, &gone, &json!({}));
    add(&mut nf, &left, &json!({}));
    let old = fs::read(home.file()).unwrap();
    nf.control(|controller| controller.delete_sa(Spi(gone.spi), None, None)).unwrap();
    drop(nf);
    fs::write(home.file(), old).unwrap();
    let (nf, restored) = home.start("", 1);
    assert_eq!(restored, 1);
    assert!(nf.controller.find_sa(Spi(gone.spi), None, None).is_err());
    assert!(nf.controller.find_sa(Spi(left.spi), None, None).is_ok());
}

#[test]
fn an_sa_of_nf_toml_comes_back_behind_what_it_has_taken() {
    let home = Home::new();
    let mut peer = Peer::new(0x1234_5678);
    let sent: Vec<_> = (0..10).map(|_| peer.next()).collect();
    let (mut nf, _) = home.start(&toml(&peer), 1);
    nf.receive(sent.iter().map(Vec::as_slice));
    assert_eq!(numbers(&mut nf).len(), 10);
    drop(nf);
    let (mut nf, restored) = home.start(&toml(&peer), 1);
    assert_eq!(restored, 0, "nf.toml names it");
    nf.receive(sent.iter().map(Vec::as_slice));
    assert_eq!(numbers(&mut nf), Vec::<u64>::new());
    // Deleted and killed: nf.toml brings it back, its window doesn't forget.
    nf.control(|controller| controller.delete_sa(Spi(peer.spi), None, None)).unwrap();
    settle(&mut nf);
    drop(nf);
    let (mut nf, _) = home.start(&toml(&peer), 1);
    nf.receive(sent.iter().map(Vec::as_slice));
    assert_eq!(numbers(&mut nf), Vec::<u64>::new());
    let next = peer.next();
    nf.receive([next.as_slice()]);
    assert_eq!(numbers(&mut nf), [11]);
    drop(nf);
    // With another key it is another SA.
    let mut other = Peer { key: [0x11; 20], seq: 0, ..peer.clone() };
    let (mut nf, _) = home.start(&toml(&other), 1);
    let first = other.next();
    nf.receive([first.as_slice()]);
    assert_eq!(numbers(&mut nf), [1]);
    drop(nf);
    // And what nf.toml names no more is gone.
    let (nf, restored) = home.start("", 1);
    assert_eq!((restored, nf.controller.sas().len()), (0, 0));
}

/// What a reload has added is nf.toml's as much as what was there at the start.
#[test]
fn an_sa_that_a_reload_added_is_nf_tomls() {
    let home = Home::new();
    let (mut peer, by_hand) = (Peer::new(0x1111_1111), Peer::new(0x2222_2222));
    let parse = |text: &str| Config::parse(text, Path::new("nf.toml")).unwrap();
    let (none, one) = (parse(""), parse(&toml(&peer)));
    let sent: Vec<_> = (0..10).map(|_| peer.next()).collect();
    let (mut nf, _) = home.start("", 1);
    add(&mut nf, &by_hand, &json!({}));
    nf.control(|controller| controller.reload(&none, &one)).unwrap();
    settle(&mut nf);
    nf.receive(sent.iter().map(Vec::as_slice));
    assert_eq!(numbers(&mut nf).len(), 10);
    drop(nf);
    // Killed, with nf.toml as it was then: the SA is there behind its numbers.
    let (mut nf, restored) = home.start(&toml(&peer), 1);
    assert_eq!((restored, nf.controller.sas().len()), (1, 2));
    nf.receive(sent.iter().map(Vec::as_slice));
    assert_eq!(numbers(&mut nf), Vec::<u64>::new());
    // Killed once more, and nf.toml has been changed meanwhile: it names the SA no more.
    drop(nf);
    let (nf, restored) = home.start("", 1);
    assert_eq!((restored, nf.controller.sas().len()), (1, 1));
    assert!(nf.controller.find_sa(Spi(by_hand.spi), None, None).is_ok(), "what was added by hand stays");
}

/// SAs of nf.toml that come and go by reloads leave nothing behind: the places among the marks don't run out.
#[test]
fn reloads_without_end_use_up_no_place() {
    let home = Home::new();
    let peer = Peer::new(0x1111_1111);
    let other = Peer { key: [0x11; 20], ..peer.clone() };
    let parse = |text: &str| Config::parse(text, Path::new("nf.toml")).unwrap();
    let steps = [parse(""), parse(&toml(&peer)), parse(&toml(&other))];
    let (mut nf, _) = home.start("", 1);
    // More than twice the places that there are for a thousand SAs.
    for round in 0..2500usize {
        let (from, to) = (&steps[round % 3], &steps[(round + 1) % 3]);
        nf.control(|controller| controller.reload(from, to)).unwrap();
        if round % 100 == 0 {
            settle(&mut nf);
        }
    }
    nf.control(|controller| controller.reload(&steps[1], &steps[0])).unwrap();
    add(&mut nf, &peer, &json!({}));
    assert_eq!(home.start_again_restores(nf), 1, "there was a place for it");
}

#[test]
fn a_lifetime_goes_on() {
    let home = Home::new();
    let mut peer = Peer::new(0x1234_5678);
    let (mut nf, _) = home.start("", 1);
    add(&mut nf, &peer, &json!({"lifetime": {"soft": {"packets": 8}, "hard": {"packets": 10}}}));
    let sent: Vec<_> = (0..12).map(|_| peer.next()).collect();
    nf.receive(sent[..9].iter().map(Vec::as_slice));
    drop(nf);
    let (mut nf, _) = home.start("", 1);
    let stored = nf.controller.find_sa(Spi(peer.spi), None, None).unwrap();
    assert!(stored.sa.phase().get().is_some(), "the soft limit is reached already");
    nf.receive([sent[9].as_slice()]);
    nf.receive([sent[10].as_slice()]);
    assert_eq!(numbers(&mut nf), [10], "the hard limit counts what came before the kill");
    drop(nf);
    let (mut nf, _) = home.start("", 1);
    nf.receive([sent[11].as_slice()]);
    assert_eq!(numbers(&mut nf), Vec::<u64>::new());
}

#[test]
fn no_key_is_in_the_files() {
    let home = Home::new();
    let marker = b"thisIsAMarkerKey0123";
    let peer = Peer { key: *marker, ..Peer::new(0x1234_5678) };
    let (mut nf, _) = home.start("", 1);
    add(&mut nf, &peer, &json!({}));
    for name in home.files() {
        let path = home.dir.path().join("run").join(name);
        let octets = fs::read(&path).unwrap();
        let found = |what: &[u8]| octets.windows(what.len()).any(|window| window == what);
        assert!(!found(&marker[..8]) && !found(&hex::encode(marker).as_bytes()[..16]), "{path:?}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600, "{path:?}");
    }
    assert_eq!(home.start_again_restores(nf), 1);
}

impl Home {
    fn start_again_restores(&self, nf: Nf) -> usize {
        drop(nf);
        self.start("", 1).1
    }

    /// A state with an SA in it, whose nf-core was killed.
    fn with_state() -> Home {
        let home = Home::new();
        let (mut nf, _) = home.start("", 1);
        add(&mut nf, &Peer::new(0x1234_5678), &json!({}));
        home
    }

    /// Whether a successor refuses the state. It works all the same.
    fn is_refused(&self) -> bool {
        let opened = self.open().unwrap();
        opened.predecessor.is_none()
    }
}

#[test]
fn a_state_that_is_not_exactly_what_was_left_is_refused() {
    let home = Home::with_state();
    let (file, marks) = (home.file(), home.marks());
    let (state, marked) = (fs::read(&file).unwrap(), fs::read(&marks).unwrap());
    let sound = || {
        fs::write(&file, &state).unwrap();
        fs::write(&marks, &marked).unwrap();
    };
    assert!(!home.is_refused());
    for length in 0..state.len() {
        fs::write(&file, &state[..length]).unwrap();
        assert!(home.is_refused(), "cut to {length}");
    }
    for place in 0..state.len() {
        let mut damaged = state.clone();
        damaged[place] ^= 1 << (place % 8);
        fs::write(&file, &damaged).unwrap();
        assert!(home.is_refused(), "octet {place}");
    }
    fs::write(&file, [&state[..], &[0]].concat()).unwrap();
    assert!(home.is_refused(), "longer");
    sound();
    for length in [0, 8, 64, 100] {
        fs::write(&marks, &marked[..length]).unwrap();
        assert!(home.is_refused(), "marks cut to {length}");
    }
    let mut others = marked.clone();
    others[9] ^= 1;
    fs::write(&marks, others).unwrap();
    assert!(home.is_refused(), "marks of another process");
    fs::remove_file(&marks).unwrap();
    assert!(home.is_refused(), "no marks");
    fs::write(&marks, &marked).unwrap();
    fs::set_permissions(&marks, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!home.is_refused());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(home.is_refused(), "others may read it");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    match chown(&file, Some(12_345), None) {
        Ok(()) => {
            assert!(home.is_refused(), "another owner");
            chown(&file, Some(0), None).unwrap();
        }
        Err(_) => eprintln!("NOT RUN: a state file of another owner: only root can make one"),
    }
    assert!(!home.is_refused());
    let elsewhere = home.dir.path().join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    assert!(home.is_refused(), "a link");
    fs::rename(&elsewhere, &file).unwrap();
    let KeyPlace::Directory(keys) = &home.key else { panic!() };
    fs::remove_dir_all(keys).unwrap();
    assert!(home.is_refused(), "no key");
}

/// A refused state is gone with the first write: it can't come back at the next start, when it would be older still.
#[test]
fn a_refused_state_is_replaced() {
    let home = Home::with_state();
    let state = fs::read(home.file()).unwrap();
    fs::write(home.file(), &state[..state.len() - 1]).unwrap();
    let (nf, restored) = home.start("", 1);
    assert_eq!(restored, 0);
    assert_ne!(fs::read(home.file()).unwrap(), state[..state.len() - 1]);
    assert_eq!(home.files().iter().filter(|name| name.ends_with(".marks")).count(), 1, "{:?}", home.files());
    let KeyPlace::Directory(keys) = &home.key else { panic!() };
    assert_eq!(fs::read_dir(keys).unwrap().count(), 1);
    assert_eq!(home.start_again_restores(nf), 0);
}

fn refusal(config: &StateConfig) -> String {
    match Keeper::open(config, 10, dpdk_rs::map_words) {
        Ok(_) => panic!("{config:?} is taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_state_is_kept_safely_or_not_at_all() {
    let home = Home::new();
    let config = home.config();
    let on = |file: &Path| StateConfig { file: file.to_owned(), ..config.clone() };
    let disk = Path::new(env!("CARGO_TARGET_TMPDIR"));
    assert!(refusal(&on(&disk.join("state"))).contains("isn't in a tmpfs, and keys don't belong on a disk"));
    assert!(refusal(&on(Path::new("state"))).contains("isn't an absolute path"));
    assert!(refusal(&on(Path::new("/dev/shm/state"))).contains("can be written to by others"));
    assert!(refusal(&on(Path::new("/nonexistent/below/state"))).contains("can't be made"));
    let beside = StateConfig { key: KeyPlace::Directory(home.dir.path().join("run")), ..config.clone() };
    assert!(refusal(&beside).contains("name another directory"));

    let first = home.open().unwrap();
    assert!(refusal(&config).contains("another nf-core keeps its state there"));
    drop(first);
    assert!(home.open().is_ok());
    let full = Keeper::open(&config, usize::MAX >> 8, dpdk_rs::map_words).err().unwrap().to_string();
    assert!(full.contains("lower [sad] capacity"), "{full}");
}

/// A tmpfs that is full costs the state, not the traffic, and what is written once there is room is what is there then.
#[test]
fn a_state_that_cannot_be_written_is_written_later() {
    let home = Home::new();
    let mut peer = Peer::new(0x1111_1111);
    let (mut nf, _) = home.start("", 1);
    add(&mut nf, &peer, &json!({}));
    // What the file is written as first can't be made: something is in the way that can't be removed.
    let obstacle = home.dir.path().join("run/state.new");
    fs::create_dir_all(obstacle.join("inside")).unwrap();
    let other = Peer::new(0x2222_2222);
    nf.control(|controller| controller.add_sa(other.params())).unwrap();
    assert!(!nf.controller.is_state_written());
    let packet = peer.next();
    nf.receive([packet.as_slice()]);
    assert_eq!(numbers(&mut nf), [1]);
    // Killed now, the SA that was written is there, and behind what it has taken since.
    drop(nf);
    fs::remove_dir_all(&obstacle).unwrap();
    let (mut nf, restored) = home.start("", 1);
    assert_eq!(restored, 1);
    nf.receive([packet.as_slice()]);
    assert_eq!(numbers(&mut nf), Vec::<u64>::new());
    // Where not even the first write succeeds, the state of before is out of the way: it would be out of date.
    drop(nf);
    fs::create_dir_all(obstacle.join("inside")).unwrap();
    let (nf, restored) = home.start("", 1);
    assert_eq!(restored, 1);
    assert!(!home.file().exists());
    drop(nf);
    fs::remove_dir_all(&obstacle).unwrap();
    assert_eq!(home.start("", 1).1, 0);
}

/// The default place of the key.
#[test]
fn the_keyring_keeps_the_key_from_one_life_to_the_next() {
    let mut home = Home::new();
    home.key = KeyPlace::Keyring;
    match home.open() {
        Err(StateError::Key(why)) => {
            eprintln!("NOT RUN: a key in the user's keyring: {why}");
            return;
        }
        opened => drop(opened.unwrap()),
    }
    let (mut nf, _) = home.start("", 1);
    add(&mut nf, &Peer::new(0x1234_5678), &json!({}));
    drop(nf);
    let (mut nf, restored) = home.start("", 1);
    assert_eq!(restored, 1);
    nf.controller.discard_state();
    drop(nf);
    assert_eq!(home.start("", 1).1, 0);
}
