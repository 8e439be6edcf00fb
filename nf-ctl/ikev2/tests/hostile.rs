//! What strangers, floods, lost state and long certificates can do to an endpoint, and what they can't.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use ikev2::wire::{
    self, ChildSpi, Delete, ExchangeType, Flags, Header, IkeSpi, Message, MessageId, Notify, NotifyType, Payload,
    Payloads, Version,
};
use ikev2::{EndpointConfig, Event, Failure, Notice, Outcome, Transmit};
use proptest::prelude::*;
use support::{A, B, Net, address, psk};

const SECOND: Duration = Duration::from_secs(1);

fn connected(seed: u64) -> Net {
    let mut net = Net::pair(seed, |_, connection| connection.dpd = None);
    net.connect();
    net.run_for(SECOND);
    net
}

fn header(spis: (IkeSpi, IkeSpi), exchange: ExchangeType, initiator: bool, response: bool, id: u32) -> Header {
    let flags = Flags { initiator, response, ..Flags::default() };
    Header {
        initiator_spi: spis.0,
        responder_spi: spis.1,
        version: Version::V2,
        exchange,
        flags,
        message_id: MessageId(id),
    }
}

fn plain(header: &Header, payloads: Vec<Payload<'_>>) -> Vec<u8> {
    wire::emit(header, &payloads.into()).unwrap()
}

/// A datagram to B that claims to come from A.
fn from_a(payload: Vec<u8>) -> Transmit {
    Transmit { local: address("10.0.0.1:500"), remote: address("10.0.0.2:500"), payload }
}

fn notices(net: &Net, side: usize) -> Vec<&Notice> {
    let log = net.peers[side].log.iter();
    log.filter_map(|event| if let Event::Notice(notice) = event { Some(notice) } else { None }).collect()
}

fn spis(net: &Net) -> (IkeSpi, IkeSpi) {
    net.peers[B].endpoint.ike_sas().next().unwrap().spis
}

#[test]
fn unprotected_deletes_and_notifies_change_nothing() {
    let mut net = connected(1);
    let spis = spis(&net);
    let child = *net.peers[A].sad.keys().next().unwrap();
    let sent = net.peers[B].sent;
    for id in 0..5 {
        for response in [false, true] {
            for payload in [
                Payload::Delete(Delete::IkeSa),
                Payload::Delete(Delete::esp(ChildSpi(child))),
                Payload::Notify(Notify::new(NotifyType::AUTHENTICATION_FAILED)),
                Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)),
                Payload::Notify(Notify::invalid_spi(ChildSpi(child))),
            ] {
                for kind in [ExchangeType::INFORMATIONAL, ExchangeType::IKE_AUTH, ExchangeType::CREATE_CHILD_SA] {
                    net.post(from_a(plain(&header(spis, kind, true, response, id), vec![payload.clone()])));
                }
            }
        }
    }
    net.run_for(60 * SECOND);
    net.assert_mirrored();
    assert_eq!(net.peers[B].established().len(), 1);
    assert_eq!(net.peers[B].sent, sent, "and nothing is answered");
}

#[test]
fn the_whole_conversation_again_changes_nothing() {
    let mut net = connected(2);
    let ike = net.peers[A].established()[0];
    net.peers[A].endpoint.create_child(net.now, ike).unwrap();
    net.run_for(SECOND);
    let (children, trace) = (net.peers[B].sad.len(), net.trace.clone());
    for _ in 0..3 {
        for (_, datagram) in &trace {
            net.post(datagram.clone());
        }
        net.run_for(SECOND);
    }
    net.run_for(60 * SECOND);
    assert_eq!(net.peers[B].sad.len(), children);
    assert_eq!((net.peers[A].established().len(), net.peers[B].established().len()), (1, 1));
    net.assert_mirrored();
}

#[test]
fn the_last_request_again_gets_the_same_response() {
    let mut net = connected(3);
    let ike = net.peers[A].established()[0];
    net.peers[A].endpoint.liveness(net.now, ike).unwrap();
    net.run_for(SECOND);
    let (request, response) = (net.trace[net.trace.len() - 2].1.clone(), net.trace[net.trace.len() - 1].1.clone());
    net.post(request.clone());
    net.run_for(SECOND);
    assert_eq!(net.trace.last().unwrap().1, response);
    // With an octet changed it is nobody's.
    let count = net.trace.len();
    let mut forged = request;
    *forged.payload.last_mut().unwrap() ^= 1;
    net.post(forged);
    net.run_for(SECOND);
    assert_eq!(net.trace.len(), count);
}

#[test]
fn hints_lead_to_a_question_and_no_more_than_one_in_a_while() {
    let mut net = connected(4);
    let outbound = net.peers[B].sad.values().next().unwrap().outbound_spi;
    let hint = |n: u64| {
        let spis = (IkeSpi(n.to_be_bytes()), IkeSpi::ZERO);
        let hint = vec![Payload::Notify(Notify::invalid_spi(outbound))];
        from_a(plain(&header(spis, ExchangeType::INFORMATIONAL, true, false, 0), hint))
    };
    let sent = net.peers[B].sent;
    for n in 1..=1000 {
        net.post(hint(n));
    }
    net.run_for(5 * SECOND);
    assert_eq!(net.peers[B].sent, sent + 1, "one question for a thousand hints");
    let checked = |notice: &&&Notice| matches!(notice, Notice::InvalidSpiHint { checking: Some(_), .. });
    assert_eq!(notices(&net, B).iter().filter(checked).count(), 1);
    net.run_for(10 * SECOND);
    net.post(hint(1001));
    net.run_for(5 * SECOND);
    assert_eq!(net.peers[B].sent, sent + 2);
    net.assert_mirrored();

    // A hint of ours is one, and a budget keeps it.
    let (a, b) = (address("10.0.0.1:500"), address("10.0.0.2:500"));
    net.run_for(20 * SECOND);
    let hints = (0..1000).filter(|_| net.peers[A].endpoint.send_invalid_spi_hint(net.now, a, b, outbound)).count();
    assert_eq!(hints, 20);
    net.run_for(5 * SECOND);
    assert_eq!(net.peers[B].sent, sent + 3);
}

#[test]
fn an_authenticated_invalid_spi_is_noted() {
    let mut net = connected(5);
    let ike = net.peers[A].established()[0];
    let command = net.peers[A].endpoint.notify_invalid_spi(net.now, ike, ChildSpi(0x0bad_cafe)).unwrap();
    let unknown = net.peers[A].endpoint.delete_child(net.now, ike, vec![ChildSpi(0x0bad_cafe)]).unwrap();
    net.run_for(SECOND);
    assert_eq!(net.peers[A].result(command), Some(&Ok(Outcome::Notified)));
    assert_eq!(net.peers[A].result(unknown), Some(&Ok(Outcome::Deleted)));
    let noted = |notice: &&Notice| matches!(notice, Notice::PeerMissesSpi { spi: ChildSpi(0x0bad_cafe), .. });
    assert!(notices(&net, B).iter().any(noted));
    net.assert_mirrored();
}

/// A has lost everything but the secret for its tokens.
fn restart_a(net: &mut Net, config: EndpointConfig) {
    let mut fresh = support::Peer::new("10.0.0.1", 4242, config, net.now);
    let mut connection = support::connection(A);
    connection.dpd = None;
    fresh.endpoint.add_connection(connection).unwrap();
    net.peers[A] = fresh;
}

#[test]
fn a_token_proves_that_the_peer_has_lost_its_state() {
    let mut net = connected(6);
    restart_a(&mut net, support::config(6));
    let ike = net.peers[B].established()[0];
    let command = net.peers[B].endpoint.liveness(net.now, ike).unwrap();
    net.run_for(SECOND);
    assert_eq!(net.peers[B].ike_downs(), [Failure::PeerLostState]);
    assert_eq!(net.peers[B].result(command), Some(&Err(Failure::PeerLostState)));
    assert!(net.peers[B].sad.is_empty());
}

#[test]
fn a_wrong_token_proves_nothing() {
    for config in [support::config(99), EndpointConfig::default()] {
        let mut net = connected(7);
        restart_a(&mut net, config);
        let ike = net.peers[B].established()[0];
        net.peers[B].endpoint.liveness(net.now, ike).unwrap();
        net.run_for(30 * SECOND);
        assert_eq!(net.peers[B].established(), [ike], "only silence can end it");
        assert!(notices(&net, B).iter().any(|notice| matches!(notice, Notice::InvalidIkeSpiHint { .. })));
        net.run_for(200 * SECOND);
        assert!(matches!(net.peers[B].ike_downs()[..], [Failure::NoResponse { .. }]));
    }
}

#[test]
fn tokens_are_renewed_when_the_ike_sa_is_rekeyed() {
    for side in [A, B] {
        let mut net = connected(8);
        let ike = net.peers[side].established()[0];
        net.peers[side].endpoint.rekey_ike(net.now, ike).unwrap();
        net.run_for(5 * SECOND);
        restart_a(&mut net, support::config(8));
        let ike = net.peers[B].established()[0];
        net.peers[B].endpoint.liveness(net.now, ike).unwrap();
        net.run_for(SECOND);
        assert_eq!(net.peers[B].ike_downs().last(), Some(&Failure::PeerLostState), "{}", net.history(20));
    }
}

#[test]
fn answers_to_strangers_keep_a_budget() {
    let mut net = connected(9);
    let stray =
        net.trace.iter().find(|(_, sent)| Message::parse(&sent.payload).unwrap().sk.is_some()).unwrap().1.clone();
    let sent = net.peers[B].sent;
    for n in 0_u64..10_000 {
        let mut stray = stray.clone();
        stray.payload[..8].copy_from_slice(&n.to_be_bytes());
        net.post(Transmit { local: address("10.9.9.9:500"), ..stray });
    }
    net.run_for(SECOND);
    let answers = net.peers[B].sent - sent;
    assert!(answers <= 40, "{answers} answers");
    net.assert_mirrored();
}

#[test]
fn initial_contact_heals_a_peer_that_kept_what_we_lost() {
    let mut net = connected(10);
    restart_a(&mut net, support::config(10));
    let stale = net.peers[B].established();
    net.connect();
    net.run_for(20 * SECOND);
    assert_eq!(net.peers[B].established().len(), 1);
    assert_ne!(net.peers[B].established(), stale);
    assert_eq!(net.peers[B].ike_downs(), [Failure::InitialContact]);
    assert!(notices(&net, B).iter().any(|notice| matches!(notice, Notice::SupersededBy { .. })));
    net.assert_mirrored();
}

/// A side is killed and started anew.
fn restart(net: &mut Net, side: usize, seed: u64) {
    let address = ["10.0.0.1", "10.0.0.2"][side];
    let mut fresh = support::Peer::new(address, seed, support::config(seed), net.now);
    fresh.endpoint.add_connection(support::connection(side)).unwrap();
    net.peers[side] = fresh;
}

/// Killed after any datagram of the first exchanges, of a rekey or of a deletion, and started anew: INITIAL_CONTACT heals it.
#[test]
fn an_end_at_any_step_is_healed_by_the_next_beginning() {
    for (what, steps) in (0..4).flat_map(|what| (0..10).map(move |steps| (what, steps))) {
        let seed = 100 * what + steps;
        let mut net = if what == 0 { Net::pair(seed, |_, _| {}) } else { connected(seed) };
        let ike = net.peers[A].established().first().copied();
        let child = net.peers[A].sad.keys().next().map(|spi| ChildSpi(*spi));
        let endpoint = &mut net.peers[A].endpoint;
        match (what, ike, child) {
            (1, Some(ike), Some(child)) => drop(endpoint.rekey_child(net.now, ike, child).unwrap()),
            (2, Some(ike), _) => drop(endpoint.rekey_ike(net.now, ike).unwrap()),
            (3, Some(ike), Some(child)) => drop(endpoint.delete_child(net.now, ike, vec![child]).unwrap()),
            _ => drop(endpoint.initiate(net.now, "b", true).unwrap()),
        }
        for _ in 0..steps {
            net.step(net.now + SECOND);
        }
        restart(&mut net, A, 7000 + seed);
        net.connect();
        net.run_for(300 * SECOND);
        assert_eq!(net.peers[B].established().len(), 1, "{what}, killed after {steps} steps: {}", net.history(20));
        net.assert_mirrored();
    }
}

#[test]
fn both_lose_everything_at_once() {
    for (seed, delay) in [(30, 0), (31, 4), (32, 11), (33, 40)] {
        let mut net = connected(seed);
        restart(&mut net, A, 8000 + seed);
        restart(&mut net, B, 9000 + seed);
        net.peers[A].endpoint.initiate(net.now, "b", true).unwrap();
        net.run_for(Duration::from_millis(delay));
        net.peers[B].endpoint.initiate(net.now, "a", true).unwrap();
        net.run_for(300 * SECOND);
        assert!(!net.peers[A].established().is_empty(), "{}", net.history(20));
        net.assert_mirrored();
    }
}

#[test]
fn without_initial_contact_earlier_ike_sas_stay() {
    let mut net = connected(11);
    let (command, _) = net.peers[A].endpoint.initiate(net.now, "b", false).unwrap();
    net.run_for(5 * SECOND);
    assert!(matches!(net.peers[A].result(command), Some(Ok(_))));
    assert_eq!(net.peers[B].established().len(), 2);
    net.assert_mirrored();
}

#[test]
fn initial_contact_of_one_identity_leaves_the_others_alone() {
    let mut net = connected(12);
    let mut ours = support::connection(A);
    ours.name = "as another".into();
    ours.local_id = "other.example.org".parse().unwrap();
    net.peers[A].endpoint.add_connection(ours).unwrap();
    let mut theirs = support::connection(B);
    theirs.name = "another".into();
    theirs.remote_id = Some("other.example.org".parse().unwrap());
    net.peers[B].endpoint.add_connection(theirs).unwrap();
    net.peers[A].endpoint.initiate(net.now, "as another", true).unwrap();
    net.run_for(5 * SECOND);
    assert_eq!(net.peers[B].established().len(), 2);
    net.assert_mirrored();
}

#[test]
fn both_begin_at_once() {
    for (seed, delay) in [(13, 0), (14, 3), (15, 6), (16, 12), (17, 18), (18, 25)] {
        let mut net = Net::pair(seed, |_, _| {});
        net.peers[A].endpoint.initiate(net.now, "b", true).unwrap();
        net.run_for(Duration::from_millis(delay));
        net.peers[B].endpoint.initiate(net.now, "a", true).unwrap();
        net.run_for(60 * SECOND);
        assert!(!net.peers[A].established().is_empty());
        net.assert_mirrored();
    }
}

#[test]
fn a_flood_of_first_messages_is_bounded_by_cookies() {
    let mut net = Net::pair(20, |_, _| {});
    let first = {
        let mut other = Net::pair(21, |_, _| {});
        other.peers[A].endpoint.initiate(other.now, "b", true).unwrap();
        other.collect();
        other.trace[0].1.clone()
    };
    for n in 1_u64..=2000 {
        let mut spoofed = first.clone();
        spoofed.payload[..8].copy_from_slice(&n.to_be_bytes());
        net.post(Transmit { local: address("10.0.0.1:500"), ..spoofed });
    }
    net.run_for(Duration::from_millis(100));
    let half_open = net.peers[B].endpoint.half_open();
    assert_eq!(half_open, EndpointConfig::default().cookie_threshold, "the rest would have to show a cookie");
    // An honest peer does, at the price of a round trip.
    let before = net.trace.len();
    net.connect();
    net.run_for(SECOND);
    let asked = net.trace[before..]
        .iter()
        .filter_map(|(_, sent)| Message::parse(&sent.payload).ok())
        .any(|message| message.payloads.notify(NotifyType::COOKIE).is_some());
    assert!(asked);
    net.run_for(60 * SECOND);
    assert_eq!(net.peers[B].endpoint.half_open(), 0, "half-open IKE SAs are forgotten");
    net.assert_mirrored();
}

#[test]
fn half_open_ike_sas_have_a_limit() {
    let mut net = Net::pair(22, |_, _| {});
    let limits = EndpointConfig { cookie_threshold: usize::MAX, max_half_open: 50, ..EndpointConfig::default() };
    let mut strict = support::Peer::new("10.0.0.2", 77, limits, net.now);
    strict.endpoint.add_connection(support::connection(B)).unwrap();
    net.peers[B] = strict;
    for _ in 0..200 {
        net.peers[A].endpoint.initiate(net.now, "b", false).unwrap();
    }
    // IKE_AUTH never comes.
    net.meddler = Some(Box::new(|_, sent| {
        let header = Header::parse(&sent.payload).unwrap();
        if header.exchange == ExchangeType::IKE_SA_INIT { vec![sent.clone()] } else { Vec::new() }
    }));
    net.run_for(SECOND);
    assert_eq!(net.peers[B].endpoint.half_open(), 50);
    assert_eq!(net.peers[B].endpoint.poll_event().map(|event| format!("{event:?}")), None);
}

#[test]
fn silence_is_noticed() {
    let mut net = Net::pair(23, |_, _| {});
    net.connect();
    net.meddler = Some(Box::new(|side, sent| if side == B { Vec::new() } else { vec![sent.clone()] }));
    let since = net.now;
    net.run_until(300 * SECOND, "A gives B up", |net| net.peers[A].established().is_empty());
    assert!(net.now - since > 30 * SECOND);
    assert!(matches!(net.peers[A].ike_downs()[..], [Failure::NoResponse { .. }]));
    assert!(net.peers[A].sad.is_empty());
}

#[test]
fn a_peer_that_is_heard_is_not_asked() {
    let mut net = Net::pair(24, |side, connection| connection.dpd = (side == A).then_some(30 * SECOND));
    net.connect();
    let sent = net.peers[A].sent;
    for _ in 0..20 {
        let ike = net.peers[B].established()[0];
        net.peers[B].endpoint.liveness(net.now, ike).unwrap();
        net.run_for(20 * SECOND);
    }
    assert_eq!(net.peers[A].sent, sent + 20, "answers, and no questions");
}

#[test]
fn a_peer_behind_a_nat_may_move() {
    let mut net = Net::pair(25, |side, connection| connection.force_encap = side == A);
    net.connect();
    net.run_for(SECOND);
    // A NAT gives A another port.
    net.meddler = Some(Box::new(|side, sent| {
        let mut moved = sent.clone();
        if side == A {
            moved.local.set_port(33_333);
        } else {
            assert_eq!(sent.remote.port(), 33_333, "B answers where the request came from");
            moved.remote.set_port(4500);
        }
        vec![moved]
    }));
    let ike = net.peers[A].established()[0];
    let command = net.peers[A].endpoint.liveness(net.now, ike).unwrap();
    net.run_for(SECOND);
    assert_eq!(net.peers[A].result(command), Some(&Ok(Outcome::Alive)));
    let moved = |notice: &&&Notice| matches!(notice, Notice::AddressChanged { remote, .. } if *remote == address("10.0.0.1:33333"));
    assert_eq!(notices(&net, B).iter().filter(moved).count(), 1);
}

#[test]
fn a_peer_without_a_nat_cannot_be_moved() {
    let mut net = connected(26);
    let ike = net.peers[A].established()[0];
    net.peers[A].endpoint.liveness(net.now, ike).unwrap();
    net.meddler = Some(Box::new(|side, sent| {
        let mut moved = sent.clone();
        if side == A {
            moved.local = address("10.6.6.6:500");
        }
        vec![moved]
    }));
    net.run_for(SECOND);
    assert_eq!(net.peers[B].endpoint.ike_sas().next().unwrap().remote, address("10.0.0.1:500"));
}

#[test]
fn long_messages_go_in_fragments() {
    let long: Vec<_> = (0..100).map(|i| format!("10.1.{i}.0/24").parse().unwrap()).collect();
    let mut net = Net::pair(27, |side, connection| {
        if side == A {
            connection.local_ts = long.clone();
        }
        connection.fragment_size = 400;
    });
    net.weather.duplicates = 30;
    net.connect();
    net.run_for(SECOND);
    net.assert_mirrored();
    let (_, longest) = net.trace.iter().max_by_key(|(_, sent)| sent.payload.len()).unwrap();
    assert!(longest.payload.len() <= 400, "{}", longest.payload.len());
    let fragments = net.trace.iter().filter(|(side, sent)| {
        *side == A && Message::parse(&sent.payload).unwrap().sk.is_some_and(|sk| sk.fragment.is_some())
    });
    assert!(fragments.count() >= 4);
    assert_eq!(net.peers[B].sad.values().next().unwrap().remote_ts.len(), 100);
}

#[test]
fn another_version_of_ike_is_told_ours() {
    let mut net = connected(28);
    let mut header = header((IkeSpi([7; 8]), IkeSpi::ZERO), ExchangeType::IKE_SA_INIT, true, false, 0);
    header.version = Version { major: 3, minor: 0 };
    let sent = net.peers[B].sent;
    net.post(from_a(plain(&header, Vec::new())));
    net.run_for(SECOND);
    assert_eq!(net.peers[B].sent, sent + 1);
    let answer = Message::parse(&net.trace.last().unwrap().1.payload).unwrap();
    assert!(answer.payloads.notify(NotifyType::INVALID_MAJOR_VERSION).is_some());
    // Version 1 has another form: nobody there would understand.
    header.version = Version { major: 1, minor: 0 };
    net.post(from_a(plain(&header, Vec::new())));
    net.run_for(SECOND);
    assert_eq!(net.peers[B].sent, sent + 1);
}

#[test]
fn unknown_payloads_and_notifies_are_passed_over() {
    let mut net = Net::pair(29, |_, _| {});
    net.meddler = Some(Box::new(|side, sent| {
        let message = Message::parse(&sent.payload).unwrap();
        if side != A || message.header.exchange != ExchangeType::IKE_SA_INIT {
            return vec![sent.clone()];
        }
        // Changing the message would break AUTH, which signs it: only the response is looked at here.
        let mut payloads: Vec<Payload<'_>> = message.payloads.iter().cloned().collect();
        payloads.push(Payload::Notify(Notify::with_data(NotifyType(40_001), vec![1, 2, 3])));
        payloads.push(Payload::Notify(Notify::with_data(NotifyType(9_999), vec![1, 2, 3])));
        let payload = wire::emit(&message.header, &Payloads::from(payloads)).unwrap();
        vec![Transmit { payload, ..sent.clone() }]
    }));
    net.peers[A].endpoint.initiate(net.now, "b", true).unwrap();
    net.run_for(SECOND);
    let answer = Message::parse(&net.trace[1].1.payload).unwrap();
    assert!(answer.payloads.sa().is_some(), "unknown errors in a request are passed over");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is changed in whichever message on its way, both sides end up alike, and with an honest network again they
    /// can go on.
    #[test]
    fn forged_messages_do_no_harm(
        seed in 0_u64..500,
        forgeries in prop::collection::vec((0_usize..12, any::<prop::sample::Index>(), 1_u8..=255), 0..12),
    ) {
        let mut net = Net::pair(seed, |_, _| {});
        let mut count = 0;
        net.meddler = Some(Box::new(move |_, sent| {
            count += 1;
            let mut out = vec![];
            for (_, at, mask) in forgeries.iter().filter(|(nth, ..)| *nth + 1 == count) {
                let mut forged = sent.clone();
                let index = at.index(forged.payload.len());
                forged.payload[index] ^= mask;
                out.push(forged);
            }
            // The honest one comes after the forged ones.
            out.push(sent.clone());
            out
        }));
        let (command, _) = net.peers[A].endpoint.initiate(net.now, "b", true).unwrap();
        net.run_for(300 * SECOND);
        prop_assert!(net.peers[A].result(command).is_some());
        net.meddler = None;
        net.connect();
        net.run_for(60 * SECOND);
        net.assert_mirrored();
    }

    /// Octets of any kind to any port: no panic, no state, and no answer worth amplifying.
    #[test]
    fn noise_is_ignored(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..50)) {
        let mut net = Net::pair(31, |_, _| {});
        for noise in datagrams {
            net.post(from_a(noise));
        }
        net.run_for(SECOND);
        prop_assert_eq!(net.peers[B].endpoint.half_open(), 0);
        prop_assert_eq!(net.peers[B].endpoint.ike_sas().count(), 0);
    }
}

#[test]
fn a_second_wrong_secret_is_no_oracle() {
    // After a refusal the same IKE SA can't be used for another guess.
    let mut net = Net::pair(32, |side, connection| {
        if side == A {
            connection.auth = psk("a guess");
        }
    });
    net.peers[A].endpoint.initiate(net.now, "b", true).unwrap();
    net.run_for(SECOND);
    let guess = net.trace.iter().rev().find(|(side, _)| *side == A).unwrap().1.clone();
    let sent = net.peers[B].sent;
    net.post(guess);
    net.run_for(SECOND);
    assert_eq!(net.peers[B].sent, sent + 1, "the same refusal again");
    assert!(net.peers[B].established().is_empty());
}
