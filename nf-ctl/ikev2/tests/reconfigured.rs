//! Connections come, change and go while IKE SAs live, at any moment of any exchange.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use ikev2::config::Lifetime;
use ikev2::wire::ChildSpi;
use ikev2::{ChildDownReason, Connection, ConnectionChanges, Event, Failure};
use proptest::prelude::*;
use support::{A, B, Net, Weather, connection, psk};

const SECOND: Duration = Duration::from_secs(1);

/// A connection of A's to a peer that isn't there.
fn another() -> Connection {
    Connection { name: "c".to_owned(), local_id: "c.example.org".parse().unwrap(), ..connection(A) }
}

fn set(net: &mut Net, side: usize, connections: Vec<Connection>) -> ConnectionChanges {
    let now = net.now;
    net.peers[side].endpoint.set_connections(now, connections).unwrap()
}

fn connected(seed: u64) -> Net {
    let mut net = Net::pair(seed, |_, _| {});
    net.connect();
    net.run_for(SECOND);
    net.assert_mirrored();
    net
}

fn is_over(net: &Net, side: usize) -> bool {
    net.peers[side].sad.is_empty() && net.peers[side].endpoint.ike_sas().count() == 0
}

#[test]
fn what_stays_as_it_is_keeps_its_ike_sa() {
    let mut net = connected(1);
    let before = (net.peers[A].established(), net.peers[A].sent, net.peers[A].sad.keys().copied().collect::<Vec<_>>());
    let changes = set(&mut net, A, vec![another(), connection(A)]);
    assert_eq!(changes, ConnectionChanges { added: vec!["c".into()], ..ConnectionChanges::default() });
    let changes = set(&mut net, A, vec![connection(A)]);
    assert_eq!(changes, ConnectionChanges { removed: vec!["c".into()], ..ConnectionChanges::default() });
    net.collect();
    let after = (net.peers[A].established(), net.peers[A].sent, net.peers[A].sad.keys().copied().collect::<Vec<_>>());
    assert_eq!(before, after, "no message, and the same SAs");
}

#[test]
fn settings_change_in_place() {
    let mut net = connected(2);
    let ike = net.peers[A].established();
    let lifetime = Lifetime { rekey: 50 * SECOND, jitter: SECOND, hard: 60 * SECOND };
    let new = Connection { dpd: Some(2 * SECOND), child_lifetime: lifetime, ..connection(A) };
    let changes = set(&mut net, A, vec![new]);
    assert_eq!(changes, ConnectionChanges { adjusted: vec!["b".into()], ..ConnectionChanges::default() });
    // Liveness checks come more often at once; the CHILD_SA that there is has its time, its successor less.
    let sent = net.peers[A].sent;
    net.run_for(10 * SECOND);
    assert!((3..=6).contains(&(net.peers[A].sent - sent)), "{} checks in 10 s", net.peers[A].sent - sent);
    net.run_for(60 * SECOND);
    assert!(net.peers[A].downs.is_empty(), "{:?}", net.peers[A].downs);
    let spi = ChildSpi(*net.peers[A].sad.keys().next().unwrap());
    let now = net.now;
    net.peers[A].endpoint.rekey_child(now, ike[0], spi).unwrap();
    net.run_for(60 * SECOND);
    assert_eq!(net.peers[A].downs.len(), 2, "rekeyed by hand, and by time");
    net.run_for(5 * SECOND);
    assert_eq!(net.peers[A].established(), ike);
    net.assert_mirrored();
}

#[test]
fn one_that_goes_is_deleted_with_its_children() {
    let mut net = connected(3);
    let (ike, child) = (net.peers[A].established()[0], *net.peers[A].sad.keys().next().unwrap());
    let changes = set(&mut net, A, Vec::new());
    assert_eq!(changes.removed, ["b"]);
    // For the driver it is over before anything is sent.
    let sent = net.peers[A].sent;
    net.collect();
    assert_eq!(net.peers[A].downs, [(ChildSpi(child), ChildDownReason::Reconfigured)]);
    assert_eq!((net.peers[A].ike_downs(), net.peers[A].sent), (vec![Failure::ConnectionRemoved], sent + 1));
    assert!(net.peers[A].endpoint.liveness(net.now, ike).is_err());
    net.run_for(SECOND);
    assert!(is_over(&net, A) && is_over(&net, B));
    assert_eq!(net.peers[B].ike_downs(), [Failure::DeletedByPeer]);
    assert_eq!(net.peers[A].ike_downs().len(), 1, "told once");
    // And it can't come back from either side.
    let now = net.now;
    assert!(net.peers[A].endpoint.initiate(now, "b", true).is_err());
    net.peers[B].endpoint.initiate(now, "a", true).unwrap();
    net.run_for(SECOND);
    assert!(net.peers[A].sad.is_empty() && net.peers[B].sad.is_empty());
}

#[test]
fn one_with_other_terms_is_negotiated_anew() {
    type Change = fn(&mut Connection);
    let changes: [(&str, Change); 7] = [
        ("secret", |connection| connection.auth = psk("another secret")),
        ("identity", |connection| {
            let of_a = connection.name == "b";
            let id = if of_a { &mut connection.local_id } else { connection.remote_id.as_mut().unwrap() };
            *id = "new.example.org".parse().unwrap();
        }),
        ("IKE proposals", |c| c.ike_proposals = vec!["aes256gcm16-prfsha384-ecp384".parse().unwrap()]),
        ("ESP proposals", |c| c.esp_proposals = vec!["aes256gcm16-noesn".parse().unwrap()]),
        ("selectors", |connection| {
            let of_a = connection.name == "b";
            let ts = if of_a { &mut connection.local_ts } else { &mut connection.remote_ts };
            *ts = vec!["10.3.0.0/16".parse().unwrap()];
        }),
        ("mode", |connection| {
            connection.mode = ikev2::config::Mode::Transport;
            connection.local_ts = vec![ikev2::selector::Selector::Dynamic];
            connection.remote_ts = vec![ikev2::selector::Selector::Dynamic];
        }),
        ("encapsulation", |connection| connection.force_encap = true),
    ];
    for (number, (what, change)) in changes.into_iter().enumerate() {
        let mut net = connected(10 + number as u64);
        let old = *net.peers[A].sad.keys().next().unwrap();
        for side in [A, B] {
            let mut new = connection(side);
            change(&mut new);
            let name = new.name.clone();
            assert_eq!(set(&mut net, side, vec![new]).changed, [name], "{what}");
        }
        assert_eq!(net.peers[A].endpoint.ike_sas().filter(|sa| sa.established).count(), 0, "{what}");
        net.connect();
        net.run_for(SECOND);
        net.assert_mirrored();
        assert!(!net.peers[A].sad.contains_key(&old) && net.peers[A].sad.len() == 1, "{what}");
        assert_eq!(net.peers[A].endpoint.ike_sas().count(), 1, "{what}: the old one is gone");
    }
}

#[test]
fn a_connection_that_cannot_be_used_changes_nothing() {
    let mut net = connected(4);
    let now = net.now;
    for (bad, wanted) in [
        (vec![Connection { auth: psk(""), ..another() }], "connection 'c': the pre-shared key is empty; give one"),
        (vec![connection(A), connection(A)], "connection 'b' is there already; give each connection a name of its own"),
    ] {
        let error = net.peers[A].endpoint.set_connections(now, bad).unwrap_err();
        assert_eq!(error.to_string(), wanted);
    }
    net.run_for(SECOND);
    assert!(net.peers[A].ike_downs().is_empty() && net.peers[A].established().len() == 1);
    assert!(set(&mut net, A, vec![connection(A)]) == ConnectionChanges::default(), "it is there as before");
}

/// Up to an exchange's last message the peer doesn't know of the change, and counts on what comes out.
#[test]
fn what_is_under_way_ends_as_well() {
    type Begin = fn(&mut Net) -> ikev2::CommandId;
    let rekey_child: Begin = |net| {
        let (ike, spi) = (net.peers[A].established()[0], *net.peers[A].sad.keys().next().unwrap());
        net.peers[A].endpoint.rekey_child(net.now, ike, ChildSpi(spi)).unwrap()
    };
    let rekey_ike: Begin = |net| {
        let ike = net.peers[A].established()[0];
        net.peers[A].endpoint.rekey_ike(net.now, ike).unwrap()
    };
    let liveness: Begin = |net| {
        let ike = net.peers[A].established()[0];
        net.peers[A].endpoint.liveness(net.now, ike).unwrap()
    };
    let begin_anew: Begin = |net| {
        set(net, A, Vec::new());
        net.run_for(SECOND);
        set(net, A, vec![connection(A)]);
        net.peers[A].endpoint.initiate(net.now, "b", true).unwrap().0
    };
    for (number, begin) in [rekey_child, rekey_ike, liveness, begin_anew].into_iter().enumerate() {
        // A datagram is on its way for 5 ms: after 2 the request is, after 7 the answer, after 12 IKE_AUTH.
        for millis in [0, 2, 7, 12, 17] {
            let mut net = connected(20 + number as u64);
            let command = begin(&mut net);
            net.run_for(Duration::from_millis(millis));
            set(&mut net, A, Vec::new());
            net.collect();
            assert!(net.peers[A].sad.is_empty(), "{number} after {millis} ms");
            assert!(net.peers[A].result(command).is_some(), "{number} after {millis} ms: the command has ended");
            // Should the peer have answered nothing but IKE_SA_INIT, it forgets that by itself.
            net.run_for(35 * SECOND);
            assert!(is_over(&net, A) && is_over(&net, B), "{number} after {millis} ms");
            assert_eq!(net.peers[B].endpoint.half_open(), 0);
            for peer in &net.peers {
                assert!(peer.reserved.lock().unwrap().open.is_empty(), "{number} after {millis} ms: an SPI hangs");
            }
        }
    }
}

/// A peer that has begun is not let in by what isn't configured any more.
#[test]
fn a_peer_that_has_not_proved_itself_has_to_begin_anew() {
    for keep in [true, false] {
        let mut net = Net::pair(5, |_, _| {});
        let now = net.now;
        net.peers[A].endpoint.initiate(now, "b", true).unwrap();
        // IKE_SA_INIT is answered, IKE_AUTH isn't there yet.
        net.run_for(Duration::from_millis(12));
        assert_eq!(net.peers[B].endpoint.half_open(), 1);
        let auth = if keep { connection(B).auth } else { psk("another secret") };
        set(&mut net, B, vec![Connection { auth, dpd: None, ..connection(B) }]);
        net.run_for(SECOND);
        assert_eq!(net.peers[B].established().len(), usize::from(keep), "keep: {keep}");
        assert_eq!(net.peers[B].sad.len(), usize::from(keep));
    }
}

/// A peer that doesn't answer holds nothing up.
#[test]
fn a_dead_peer_is_given_up_soon() {
    let mut net = connected(6);
    net.weather = Weather { loss: 100, ..Weather::FAIR };
    let ike = net.peers[A].established()[0];
    net.peers[A].endpoint.liveness(net.now, ike).unwrap();
    net.run_for(SECOND);
    set(&mut net, A, Vec::new());
    net.run_for(60 * SECOND);
    assert!(is_over(&net, A));
    let downs = net.peers[A].log.iter().filter(|event| matches!(event, Event::IkeDown { .. }));
    assert_eq!(downs.count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever goes on and whatever the weather: after a change on both sides there is one tunnel by the new terms, and
    /// nothing is left of the old ones.
    #[test]
    fn a_change_at_any_moment_comes_to_rest(
        seed in 0..100_000u64,
        rekeys in prop::collection::vec((0..2usize, any::<bool>(), 0..800u64), 0..4),
        first in 0..2usize,
        pauses in [0..1500u64, 0..1500u64],
    ) {
        let mut net = connected(seed);
        net.weather = Weather::FOUL;
        for (side, ike, pause) in rekeys {
            let Some(id) = net.peers[side].established().first().copied() else { continue };
            let now = net.now;
            if ike {
                net.peers[side].endpoint.rekey_ike(now, id).unwrap();
            } else if let Some(spi) = net.peers[side].sad.keys().next().copied() {
                net.peers[side].endpoint.rekey_child(now, id, ChildSpi(spi)).unwrap();
            }
            net.run_for(Duration::from_millis(pause));
        }
        for (side, pause) in [first, 1 - first].into_iter().zip(pauses) {
            net.run_for(Duration::from_millis(pause));
            set(&mut net, side, vec![Connection { auth: psk("another secret"), ..connection(side) }]);
            net.collect();
            prop_assert!(net.peers[side].sad.is_empty());
        }
        net.weather = Weather::FAIR;
        // As a driver does that wants the tunnel.
        net.connect();
        net.run_for(200 * SECOND);
        prop_assert_eq!(net.peers[A].established().len(), 1);
        prop_assert_eq!(net.peers[A].endpoint.ike_sas().count(), 1);
        prop_assert_eq!(net.peers[B].endpoint.ike_sas().count(), 1);
        net.assert_mirrored();
    }
}
