//! SAs are replaced in time, whoever begins, even if both do, and in any weather.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use ikev2::config::Lifetime;
use ikev2::wire::ChildSpi;
use ikev2::{ChildDownReason, CommandId, Connection, Failure, Outcome};
use proptest::prelude::*;
use support::{A, B, Net, Weather};

const SECOND: Duration = Duration::from_secs(1);

fn connected(seed: u64, change: impl Fn(usize, &mut Connection)) -> Net {
    let mut net = Net::pair(seed, change);
    net.connect();
    net.run_for(SECOND);
    net.assert_mirrored();
    net
}

fn only_child(net: &Net, side: usize) -> ChildSpi {
    let mut spis = net.peers[side].sad.keys();
    let spi = ChildSpi(*spis.next().unwrap());
    assert!(spis.next().is_none(), "more than one CHILD_SA");
    spi
}

fn rekey_child(net: &mut Net, side: usize) -> CommandId {
    let spi = only_child(net, side);
    let ike = net.peers[side].established()[0];
    net.peers[side].endpoint.rekey_child(net.now, ike, spi).unwrap()
}

fn rekey_ike(net: &mut Net, side: usize) -> CommandId {
    let ike = net.peers[side].established()[0];
    net.peers[side].endpoint.rekey_ike(net.now, ike).unwrap()
}

/// A packet of either side finds an SA at the other: some CHILD_SA is installed on both.
fn traffic_flows(net: &Net) -> bool {
    net.peers[A].sad.values().any(|child| net.peers[B].sad.contains_key(&child.outbound_spi.0))
}

fn run_with_traffic(net: &mut Net, duration: Duration) {
    let until = net.now + duration;
    while net.step(until) {
        assert!(traffic_flows(net), "no CHILD_SA that both have");
    }
}

/// In fair weather both sides come to have one of each, and the same.
fn comes_to_rest(net: &mut Net) {
    net.weather = Weather::FAIR;
    net.run_for(100 * SECOND);
    net.run_until(60 * SECOND, "it comes to rest", |net| net.peers[A].sad.len() == 1 && net.peers[B].sad.len() == 1);
    net.run_for(2 * SECOND);
    net.assert_mirrored();
    assert_eq!(net.peers[A].established().len(), 1);
}

#[test]
fn either_side_replaces_the_child_sa() {
    for (side, esp) in [(A, "aes128gcm16"), (B, "aes128gcm16"), (A, "aes128gcm16-x25519"), (B, "aes256-sha256-ecp384")]
    {
        let mut net = connected(1, |_, connection| connection.esp_proposals = vec![esp.parse().unwrap()]);
        let old = only_child(&net, side);
        let command = rekey_child(&mut net, side);
        run_with_traffic(&mut net, 5 * SECOND);
        let Some(Ok(Outcome::ChildCreated(new))) = net.peers[side].result(command) else { panic!() };
        assert_ne!(*new, old);
        assert_eq!(only_child(&net, side), *new);
        assert_eq!(net.peers[side].downs, [(old, ChildDownReason::Rekeyed)]);
        assert_eq!(net.peers[1 - side].downs[0].1, ChildDownReason::Rekeyed);
        net.assert_mirrored();
    }
}

#[test]
fn the_group_for_fresh_keys_is_agreed_on() {
    let mut net = connected(2, |side, connection| {
        let proposal = if side == A { "aes128gcm16-x25519-ecp256" } else { "aes128gcm16-ecp256" };
        connection.esp_proposals = vec![proposal.parse().unwrap()];
    });
    let command = rekey_child(&mut net, A);
    run_with_traffic(&mut net, 5 * SECOND);
    assert!(matches!(net.peers[A].result(command), Some(Ok(_))));
    net.assert_mirrored();
}

#[test]
fn either_side_replaces_the_ike_sa() {
    for side in [A, B] {
        let mut net = connected(3, |_, _| {});
        let (old, child) = (net.peers[side].established()[0], only_child(&net, side));
        let command = rekey_ike(&mut net, side);
        run_with_traffic(&mut net, 5 * SECOND);
        let Some(Ok(Outcome::IkeRekeyed(new))) = net.peers[side].result(command) else { panic!() };
        assert_eq!(net.peers[side].established(), [*new]);
        assert_ne!(*new, old);
        assert_eq!(only_child(&net, side), child, "the CHILD_SA stays");
        assert_eq!(net.peers[side].ike_downs(), [Failure::Rekeyed]);
        assert_eq!(net.peers[1 - side].ike_downs(), [Failure::Rekeyed]);
        net.assert_mirrored();
        // The new one works, from both sides, and can be replaced again.
        for side in [A, B] {
            rekey_child(&mut net, side);
            run_with_traffic(&mut net, 5 * SECOND);
            rekey_ike(&mut net, side);
            run_with_traffic(&mut net, 5 * SECOND);
            net.assert_mirrored();
        }
    }
}

#[test]
fn a_further_child_sa() {
    let mut net = connected(4, |_, _| {});
    let ike = net.peers[B].established()[0];
    let command = net.peers[B].endpoint.create_child(net.now, ike).unwrap();
    net.run_for(SECOND);
    assert!(matches!(net.peers[B].result(command), Some(Ok(Outcome::ChildCreated(_)))));
    assert_eq!(net.peers[A].sad.len(), 2);
    net.assert_mirrored();
}

#[test]
fn both_replace_the_child_sa_at_once() {
    for seed in 0..20 {
        let mut net = connected(seed, |_, _| {});
        let commands = [A, B].map(|side| (side, rekey_child(&mut net, side)));
        run_with_traffic(&mut net, 30 * SECOND);
        for (side, command) in commands {
            let Some(Ok(Outcome::ChildCreated(new))) = net.peers[side].result(command) else {
                panic!("{:?}", net.peers[side].results)
            };
            assert_eq!(only_child(&net, side), *new);
        }
        let redundant = [A, B]
            .map(|side| net.peers[side].downs.iter().filter(|(_, why)| *why == ChildDownReason::Redundant).count());
        assert_eq!(redundant.iter().sum::<usize>(), 1, "one of the two deletes what it made");
        net.assert_mirrored();
    }
}

#[test]
fn both_replace_the_ike_sa_at_once() {
    for seed in 0..20 {
        let mut net = connected(seed, |_, _| {});
        let commands = [A, B].map(|side| (side, rekey_ike(&mut net, side)));
        run_with_traffic(&mut net, 30 * SECOND);
        for (side, command) in commands {
            let Some(Ok(Outcome::IkeRekeyed(new))) = net.peers[side].result(command) else {
                panic!("{:?}", net.peers[side].results)
            };
            assert_eq!(net.peers[side].established(), [*new]);
            assert_eq!(net.peers[side].endpoint.ike_sas().count(), 1, "nothing is left over");
        }
        net.assert_mirrored();
    }
}

#[test]
fn one_replaces_the_ike_sa_while_the_other_replaces_the_child_sa() {
    for seed in 0..20 {
        let mut net = connected(seed, |_, _| {});
        let ike = rekey_ike(&mut net, A);
        let child = rekey_child(&mut net, B);
        run_with_traffic(&mut net, 60 * SECOND);
        assert!(matches!(net.peers[A].result(ike), Some(Ok(_))), "{:?}", net.peers[A].results);
        assert!(matches!(net.peers[B].result(child), Some(Ok(_))), "{:?}", net.peers[B].results);
        only_child(&net, A);
        net.assert_mirrored();
    }
}

#[test]
fn one_deletes_the_child_sa_while_the_other_replaces_it() {
    for seed in 0..10 {
        let mut net = connected(seed, |_, _| {});
        let (ike, spi) = (net.peers[A].established()[0], only_child(&net, A));
        net.peers[A].endpoint.delete_child(net.now, ike, vec![spi]).unwrap();
        rekey_child(&mut net, B);
        net.run_for(30 * SECOND);
        net.assert_mirrored();
    }
}

#[test]
fn both_delete_the_same() {
    let mut net = connected(5, |_, _| {});
    for side in [A, B] {
        let (ike, spi) = (net.peers[side].established()[0], only_child(&net, side));
        net.peers[side].endpoint.delete_child(net.now, ike, vec![spi]).unwrap();
    }
    net.run_for(5 * SECOND);
    assert!(net.peers[A].sad.is_empty());
    net.assert_mirrored();
    for side in [A, B] {
        let ike = net.peers[side].established()[0];
        net.peers[side].endpoint.delete_ike(net.now, ike).unwrap();
    }
    net.run_for(5 * SECOND);
    assert_eq!(net.peers[A].endpoint.ike_sas().count() + net.peers[B].endpoint.ike_sas().count(), 0);
}

/// What is deleted while it is replaced is gone with what replaces it, on both sides, whoever does which (RFC 7296 2.25).
fn delete_in_the_middle_of_a_rekey(rekeying: &[usize], weather: Weather, pauses: impl Iterator<Item = u64> + Clone) {
    for (deleting, pause) in [A, B].into_iter().flat_map(|side| pauses.clone().map(move |pause| (side, pause))) {
        let case = format!("{rekeying:?} rekey, {deleting} deletes after {pause} ms");
        let mut net = connected(pause, |_, _| {});
        net.weather = weather;
        for side in rekeying {
            rekey_ike(&mut net, *side);
        }
        net.run_for(Duration::from_millis(pause));
        let ike = net.peers[deleting].established()[0];
        let command = net.peers[deleting].endpoint.delete_ike(net.now, ike).unwrap();
        net.run_for(200 * SECOND);
        match net.peers[deleting].result(command) {
            Some(Ok(Outcome::Deleted)) => {}
            // On a bad line a farewell isn't repeated until it has an answer.
            Some(Err(Failure::Deleted)) if weather.loss > 0 => {}
            other => panic!("{case}: {other:?}"),
        }
        for peer in &net.peers {
            assert_eq!(peer.endpoint.ike_sas().count(), 0, "{case}");
            assert!(peer.sad.is_empty(), "{case}");
        }
        net.assert_mirrored();
    }
}

#[test]
fn a_deletion_in_the_middle_of_a_rekey_leaves_no_ike_sa() {
    // A datagram takes 5 ms: from before the request's arrival to after the old IKE SA's end.
    for rekeying in [&[A][..], &[B], &[A, B]] {
        delete_in_the_middle_of_a_rekey(rekeying, Weather::FAIR, 0..25);
    }
}

#[test]
fn a_deletion_in_the_middle_of_a_rekey_leaves_no_ike_sa_in_foul_weather() {
    for rekeying in [&[A][..], &[B], &[A, B]] {
        delete_in_the_middle_of_a_rekey(rekeying, Weather::FOUL, (0..1500).step_by(25));
    }
}

/// Lifetimes of minutes, so that an hour holds many.
fn short_lives(_: usize, connection: &mut Connection) {
    connection.child_lifetime = Lifetime { rekey: 60 * SECOND, jitter: 5 * SECOND, hard: 160 * SECOND };
    connection.ike_lifetime = Lifetime { rekey: 200 * SECOND, jitter: 20 * SECOND, hard: 400 * SECOND };
}

#[test]
fn lifetimes_are_kept_without_a_gap() {
    let mut net = connected(6, short_lives);
    run_with_traffic(&mut net, 3600 * SECOND);
    // Wait for a moment when nothing is under way.
    net.run_for(10 * SECOND);
    net.assert_mirrored();
    let children = net.peers[A].downs.len();
    assert!((3600 / 60..=2 * 3600 / 50).contains(&(children as u64)), "{children} CHILD_SAs in an hour");
    assert!(net.peers[A].downs.iter().all(|(_, why)| *why != ChildDownReason::Expired));
    assert_eq!(net.peers[A].established().len(), 1);
}

#[test]
fn a_child_sa_that_cannot_be_replaced_ends() {
    let mut net = connected(7, short_lives);
    net.meddler = Some(Box::new(|_, _| Vec::new()));
    net.run_for(200 * SECOND);
    for side in [A, B] {
        assert!(net.peers[side].sad.is_empty());
        assert!(net.peers[side].established().is_empty());
        assert!(
            matches!(net.peers[side].ike_downs()[..], [Failure::NoResponse { .. }]),
            "{:?}",
            net.peers[side].ike_downs()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// An hour of loss, duplicates and reordering, with both sides replacing all they have: what both have at the end is
    /// the same, and there always was something to send with.
    #[test]
    fn in_foul_weather(seed in any::<u64>()) {
        let mut net = Net::pair(seed & 0xffff, short_lives);
        net.weather = Weather::FOUL;
        net.connect();
        net.run_until(60 * SECOND, "the responder has it as well", traffic_flows);
        run_with_traffic(&mut net, 1800 * SECOND);
        comes_to_rest(&mut net);
    }

    /// Both sides do whatever they like, at any time.
    #[test]
    fn any_commands_leave_both_sides_alike(
        seed in 0_u64..1000,
        foul in any::<bool>(),
        commands in prop::collection::vec((0_usize..2, 0_usize..6, 0_u64..300), 1..20),
    ) {
        let mut net = connected(seed, |_, connection| {
            connection.esp_proposals = vec!["aes128gcm16-x25519".parse().unwrap()];
        });
        if foul {
            net.weather = Weather::FOUL;
        }
        for (side, what, pause) in commands {
            let peer = &mut net.peers[side];
            let (Some(ike), spi) = (peer.established().first().copied(), peer.sad.keys().next().map(|spi| ChildSpi(*spi)))
            else { break };
            let spi = spi.unwrap_or(ChildSpi(0xffff_0001));
            let endpoint = &mut peer.endpoint;
            match what {
                0 => endpoint.create_child(net.now, ike),
                1 | 2 => endpoint.rekey_child(net.now, ike, spi),
                3 => endpoint.rekey_ike(net.now, ike),
                4 => endpoint.delete_child(net.now, ike, vec![spi]),
                _ => endpoint.liveness(net.now, ike),
            }.unwrap();
            net.run_for(Duration::from_millis(pause));
        }
        net.weather = Weather::FAIR;
        net.run_for(200 * SECOND);
        net.assert_mirrored();
        assert_eq!(net.peers[A].established().len(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// Up to a fifth of all datagrams is damaged: that is no worse than if they were lost.
    #[test]
    fn on_a_line_that_damages(seed in any::<u64>(), damage in 1_u32..=20) {
        let mut net = Net::pair(seed & 0xffff, short_lives);
        net.connect();
        net.run_until(60 * SECOND, "the responder has it as well", traffic_flows);
        net.weather.damage = damage;
        run_with_traffic(&mut net, 600 * SECOND);
        comes_to_rest(&mut net);
    }
}
