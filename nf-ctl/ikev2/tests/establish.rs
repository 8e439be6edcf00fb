//! IKE SAs come up, or say why not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use ikev2::config::{Mode, RemoteAddress};
use ikev2::wire::{ExchangeType, Header};
use ikev2::{CommandError, Event, Failure, Notice, Outcome};
use support::{A, B, Net, psk};

const SECOND: Duration = Duration::from_secs(1);

/// A tries; gives what became of it.
fn attempt(net: &mut Net) -> Result<Outcome, Failure> {
    let (command, _) = net.peers[A].endpoint.initiate(net.now, "b", true).unwrap();
    net.run_until(600 * SECOND, "the attempt ends", |net| net.peers[A].result(command).is_some());
    let result = net.peers[A].result(command).unwrap().clone();
    // What is left of the goodbye.
    net.run_for(10 * SECOND);
    result
}

/// What B noted about refused peers.
fn refused(net: &Net) -> Vec<String> {
    let log = net.peers[B].log.iter();
    log.filter_map(|event| match event {
        Event::Notice(Notice::Refused { reason, .. } | Notice::ChildRefused { reason, .. }) => Some(reason.to_string()),
        _ => None,
    })
    .collect()
}

#[test]
fn two_exchanges_make_an_ike_sa_and_a_child_sa() {
    let mut net = Net::pair(1, |_, _| {});
    net.connect();
    net.run_for(SECOND);
    net.assert_mirrored();
    assert_eq!(net.peers[A].established().len(), 1);
    assert_eq!(net.peers[A].sad.len(), 1);
    assert_eq!(net.trace.len(), 4, "IKE_SA_INIT and IKE_AUTH, request and response");
    let child = net.peers[B].sad.values().next().unwrap();
    assert_eq!(child.local_ts[0].to_string(), "10.2.0.0-10.2.255.255");
    assert!(!child.udp_encap);
}

#[test]
fn every_suite_works() {
    for (ike, esp) in [
        ("aes128gcm16-prfsha256-x25519", "aes128gcm16-esn"),
        ("aes256gcm16-prfsha384-ecp384", "aes256gcm12"),
        ("aes192gcm16-prfsha512-ecp256", "aes256gcm8-noesn"),
        ("aes256-sha512-modp2048", "chacha20poly1305"),
        ("aes128-sha256-x25519", "aes256-sha1"),
        ("aes192-sha384-prfsha256-x25519", "null-sha512-esn-noesn"),
    ] {
        let mut net = Net::pair(2, |_, connection| {
            connection.ike_proposals = vec![ike.parse().unwrap()];
            connection.esp_proposals = vec![esp.parse().unwrap()];
        });
        net.connect();
        net.run_for(SECOND);
        net.assert_mirrored();
        assert_eq!(net.peers[A].sad.len(), 1, "{ike} {esp}");
    }
}

#[test]
fn another_group_costs_a_round_trip() {
    let mut net = Net::pair(3, |side, connection| {
        let proposal = if side == A { "aes128gcm16-prfsha256-x25519-ecp384" } else { "aes128gcm16-prfsha256-ecp384" };
        connection.ike_proposals = vec![proposal.parse().unwrap()];
    });
    net.connect();
    net.run_for(SECOND);
    net.assert_mirrored();
    assert_eq!(net.trace.len(), 6);
}

#[test]
fn a_nat_moves_everything_to_port_4500() {
    for forced in [A, B] {
        let mut net = Net::pair(4, |side, connection| connection.force_encap = side == forced);
        net.connect();
        net.run_for(SECOND);
        net.assert_mirrored();
        let child = net.peers[B].sad.values().next().unwrap();
        assert!(child.udp_encap);
        assert_eq!((child.local.port(), child.remote.port()), (4500, 4500));
        let ports = |exchange| {
            let of = net.trace.iter().filter(|(_, sent)| Header::parse(&sent.payload).unwrap().exchange == exchange);
            of.map(|(_, sent)| (sent.local.port(), sent.remote.port())).collect::<Vec<_>>()
        };
        assert_eq!(ports(ExchangeType::IKE_SA_INIT), [(500, 500); 2]);
        assert_eq!(ports(ExchangeType::IKE_AUTH), [(4500, 4500); 2]);
    }
}

#[test]
fn selectors_are_narrowed() {
    let mut net = Net::pair(5, |side, connection| {
        if side == A {
            connection.local_ts = vec!["0.0.0.0/0".parse().unwrap()];
            connection.remote_ts = vec!["10.2.7.0/24".parse().unwrap()];
        }
    });
    net.connect();
    net.run_for(SECOND);
    net.assert_mirrored();
    let child = net.peers[A].sad.values().next().unwrap();
    assert_eq!(child.local_ts[0].to_string(), "10.1.0.0-10.1.255.255");
    assert_eq!(child.remote_ts[0].to_string(), "10.2.7.0-10.2.7.255");
}

#[test]
fn transport_mode() {
    for forced in [false, true] {
        let mut net = Net::pair(6, |_, connection| {
            connection.mode = Mode::Transport;
            connection.local_ts = vec!["dynamic".parse().unwrap()];
            connection.remote_ts = vec!["dynamic".parse().unwrap()];
            connection.force_encap = forced;
        });
        net.connect();
        net.run_for(SECOND);
        net.assert_mirrored();
        let child = net.peers[A].sad.values().next().unwrap();
        assert_eq!((child.mode, child.udp_encap), (Mode::Transport, forced));
        assert_eq!(child.remote_ts[0].to_string(), "10.0.0.2");
    }
}

#[test]
fn a_wrong_secret_is_told_on_both_sides() {
    let mut net = Net::pair(7, |side, connection| {
        if side == B {
            connection.auth = psk("another secret");
        }
    });
    assert_eq!(attempt(&mut net), Err(Failure::RefusedByPeer));
    assert_eq!(refused(&net), ["authentication of peer 'a.example.org' failed: its pre-shared key differs from ours"]);
    assert!(net.peers[A].established().is_empty() && net.peers[B].established().is_empty());
    net.run_for(60 * SECOND);
    assert_eq!(net.peers[B].endpoint.half_open(), 0);
    net.assert_mirrored();
}

#[test]
fn a_wrong_identity_is_told_on_both_sides() {
    let mut net = Net::pair(8, |side, connection| {
        if side == B {
            connection.remote_id = Some("c.example.org".parse().unwrap());
        }
    });
    assert_eq!(attempt(&mut net), Err(Failure::RefusedByPeer));
    assert_eq!(
        refused(&net),
        ["authentication of peer 'a.example.org' failed: the connection expects 'c.example.org'"]
    );
    // The responder isn't who the initiator wants.
    let mut net = Net::pair(9, |side, connection| {
        if side == A {
            connection.remote_id = None;
        } else {
            connection.local_id = "x.example.org".parse().unwrap();
        }
    });
    assert!(attempt(&mut net).is_ok());
    let mut net = Net::pair(10, |side, connection| {
        if side == A {
            connection.remote_id = Some("c.example.org".parse().unwrap());
        }
    });
    assert_eq!(attempt(&mut net), Err(Failure::RefusedByPeer));
    assert!(
        refused(&net)[0].starts_with("no connection is configured for 10.0.0.2 with 10.0.0.1"),
        "{:?}",
        refused(&net)
    );
}

#[test]
fn an_initiator_that_refuses_the_responder_says_so() {
    // B believes A, and A doesn't believe B: only a middle with two secrets could bring that about, or a bug.
    let mut net = Net::pair(11, |side, connection| {
        if side == A {
            connection.remote_id = None;
        }
    });
    let mut connection = support::connection(A);
    connection.name = "strict".into();
    connection.remote_id = Some("10.0.0.2".parse().unwrap());
    net.peers[A].endpoint.add_connection(connection).unwrap();
    let mut other = support::connection(B);
    other.name = "by address".into();
    other.local_id = "10.0.0.2".parse().unwrap();
    other.auth = psk("a secret of both");
    net.peers[B].endpoint.add_connection(other).unwrap();
    let (command, _) = net.peers[A].endpoint.initiate(net.now, "strict", false).unwrap();
    net.run_for(5 * SECOND);
    assert!(matches!(net.peers[A].result(command), Some(Ok(Outcome::Established(_)))), "IDr chooses the connection");
    net.assert_mirrored();
}

#[test]
fn no_common_algorithms() {
    let mut net = Net::pair(12, |side, connection| {
        let proposal = if side == A { "aes128gcm16-prfsha256-x25519" } else { "aes256-sha512-modp2048" };
        connection.ike_proposals = vec![proposal.parse().unwrap()];
    });
    let failure = attempt(&mut net).unwrap_err();
    assert!(failure.to_string().starts_with("no proposal chosen for the IKE SA"), "{failure}");
    assert!(refused(&net)[0].starts_with("no proposal chosen for the IKE SA"));
    assert_eq!(net.trace.len(), 2);

    let mut net = Net::pair(13, |side, connection| {
        let proposal = if side == A { "aes128gcm16" } else { "aes256-sha256" };
        connection.esp_proposals = vec![proposal.parse().unwrap()];
    });
    let failure = attempt(&mut net).unwrap_err();
    assert!(failure.to_string().starts_with("no proposal chosen for the CHILD_SA"), "{failure}");
    assert!(net.peers[A].established().is_empty(), "never an IKE SA without a CHILD_SA");
    assert!(net.peers[B].established().is_empty(), "and the peer is told");
    net.assert_mirrored();
}

#[test]
fn no_common_traffic() {
    let mut net = Net::pair(14, |side, connection| {
        if side == A {
            connection.remote_ts = vec!["10.9.0.0/16".parse().unwrap()];
        }
    });
    assert_eq!(attempt(&mut net), Err(Failure::TsUnacceptable));
    net.assert_mirrored();
}

#[test]
fn modes_have_to_agree() {
    for transport in [A, B] {
        let mut net = Net::pair(15, |side, connection| {
            if side == transport {
                connection.mode = Mode::Transport;
            }
        });
        assert!(attempt(&mut net).is_err());
        assert!(net.peers[A].sad.is_empty() && net.peers[B].sad.is_empty());
        net.assert_mirrored();
    }
}

#[test]
fn a_dead_peer_is_given_up() {
    let mut net = Net::pair(16, |_, _| {});
    net.meddler = Some(Box::new(|_, _| Vec::new()));
    let failure = attempt(&mut net).unwrap_err();
    let Failure::NoResponse { tries, waited } = &failure else { panic!("{failure}") };
    assert_eq!(*tries, 11);
    assert!((60 * SECOND..180 * SECOND).contains(waited), "{waited:?}");
    assert!(failure.to_string().contains("doesn't answer after 11 tries in"), "{failure}");
    assert_eq!(net.trace.len(), 11, "no storm");
    net.assert_mirrored();
}

#[test]
fn a_peer_that_is_no_connection_is_refused() {
    let mut net = Net::pair(17, |side, connection| {
        if side == B {
            connection.remote = RemoteAddress::Host("10.0.0.9".parse().unwrap());
        }
    });
    assert_eq!(attempt(&mut net), Err(Failure::NoProposalChosen(ikev2::SaKind::Ike)));
    assert!(refused(&net)[0].starts_with("no connection is configured for 10.0.0.2 with 10.0.0.1"));
}

#[test]
fn a_dynamic_peer_has_to_begin() {
    let mut net = Net::pair(18, |side, connection| {
        if side == B {
            let network = ikev2::wire::AddressRange::prefix("10.0.0.0".parse().unwrap(), 24).unwrap();
            connection.remote = RemoteAddress::Networks(vec![network]);
            connection.may_initiate = false;
        }
    });
    let error = net.peers[B].endpoint.initiate(net.now, "a", true).unwrap_err();
    assert_eq!(error, CommandError::MayNotInitiate("a".into()));
    assert!(attempt(&mut net).is_ok());
    net.assert_mirrored();
}

#[test]
fn without_spis_nothing_comes_up() {
    for side in [A, B] {
        let mut net = Net::pair(19, |_, _| {});
        net.peers[side].reserved.lock().unwrap().exhausted = true;
        let failure = attempt(&mut net).unwrap_err();
        match side {
            A => assert!(matches!(failure, Failure::NoSpi(_)), "{failure}"),
            _ => assert!(refused(&net)[0].contains("no SPI could be reserved"), "{:?}", refused(&net)),
        }
        net.assert_mirrored();
    }
}

#[test]
fn debug_output_shows_no_secret() {
    let connection = support::connection(A);
    let text = format!("{connection:?}");
    assert!(text.contains("Secret(16 octets)") && !text.contains("a secret of both"), "{text}");
}
