//! Authentication by certificates. The certificates come from strongSwan's pki; see certificates/make.sh.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ikev2::config::{Auth, ConfigError};
use ikev2::crypto::certificate::{Authorities, CertificateError, LocalCertificate};
use ikev2::crypto::signature::KeyError;
use ikev2::wire::{self, Header, Message, NotifyType, Payload, Payloads};
use ikev2::{Connection, Event, Failure, Notice, Outcome, Transmit};
use support::{A, B, Net};

const SECOND: Duration = Duration::from_secs(1);

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/certificates/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn auth(name: &str, authority: &str, pss: bool) -> Auth {
    let local = LocalCertificate::from_pem(&file(&format!("{name}.pem")), &file(&format!("{name}.key")), pss).unwrap();
    let authorities = Authorities::from_pem(&file(&format!("{authority}.pem"))).unwrap();
    Auth::Certificates { local: Arc::new(local), authorities: Arc::new(authorities) }
}

/// A certificate of that kind on each side.
fn with(kind: &str, pss: bool) -> impl Fn(usize, &mut Connection) {
    move |side, connection| {
        let name = ["a", "b"][side];
        connection.auth = auth(&format!("{kind}-{name}"), &format!("{kind}-ca"), pss);
    }
}

fn attempt(net: &mut Net) -> Result<Outcome, Failure> {
    let (command, _) = net.peers[A].endpoint.initiate(net.now, "b", true).unwrap();
    net.run_until(60 * SECOND, "the attempt ends", |net| net.peers[A].result(command).is_some());
    net.run_for(10 * SECOND);
    net.peers[A].result(command).unwrap().clone()
}

fn refused(net: &Net) -> String {
    let refusal = net.peers[B].log.iter().find_map(|event| match event {
        Event::Notice(Notice::Refused { reason, .. }) => Some(reason.to_string()),
        _ => None,
    });
    refusal.expect("B refused")
}

#[test]
fn ecdsa_and_rsa() {
    for (kind, pss) in [("ecdsa", false), ("rsa", false), ("rsa", true)] {
        let mut net = Net::pair(1, with(kind, pss));
        let up = attempt(&mut net);
        assert!(matches!(up, Ok(Outcome::Established(_))), "{kind} {pss}: {up:?}");
        net.assert_mirrored();
    }
}

#[test]
fn all_names_of_a_certificate_are_identities() {
    for name in ["a@example.org", "10.0.0.1", "C=CH, O=Test, CN=a", "A.example.ORG"] {
        let mut net = Net::pair(2, |side, connection| {
            with("ecdsa", false)(side, connection);
            match side {
                A => connection.local_id = name.parse().unwrap(),
                _ => connection.remote_id = Some(name.parse().unwrap()),
            }
        });
        assert!(attempt(&mut net).is_ok(), "{name}: {}", refused(&net));
    }
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let mut net = Net::pair(3, |side, connection| {
        with("ecdsa", false)(side, connection);
        if side == A {
            connection.auth = auth("stranger-a", "ecdsa-ca", false);
        }
    });
    assert_eq!(attempt(&mut net), Err(Failure::RefusedByPeer));
    assert!(refused(&net).contains("none of the configured authorities issued its certificate"), "{}", refused(&net));
    // The initiator refuses the responder in the same way, and tells it.
    let mut net = Net::pair(4, |side, connection| {
        with("ecdsa", false)(side, connection);
        if side == A {
            connection.auth = auth("ecdsa-a", "stranger-ca", false);
        }
    });
    let failure = attempt(&mut net).unwrap_err();
    assert!(failure.to_string().starts_with("authentication of peer 'b.example.org' failed"), "{failure}");
    assert!(net.peers[B].established().is_empty());
    assert_eq!(net.peers[B].ike_downs(), [Failure::RefusedByPeer]);
    net.assert_mirrored();
}

#[test]
fn a_certificate_has_to_name_the_peer() {
    let mut net = Net::pair(5, |side, connection| {
        with("ecdsa", false)(side, connection);
        if side == B {
            connection.remote_id = None;
        } else {
            connection.auth = support::psk("x");
            connection.local_id = "b.example.org".parse().unwrap();
        }
    });
    // A can't even be configured to claim a name that its certificate hasn't.
    let mut liar = support::connection(A);
    liar.name = "liar".into();
    liar.auth = auth("ecdsa-a", "ecdsa-ca", false);
    liar.local_id = "b.example.org".parse().unwrap();
    let error = net.peers[A].endpoint.add_connection(liar).unwrap_err();
    assert!(matches!(error, ConfigError::Conflict { .. }) && error.to_string().contains("doesn't name local_id"));
    // Nor does a secret help where a certificate is asked for.
    assert_eq!(attempt(&mut net), Err(Failure::RefusedByPeer));
    assert!(refused(&net).contains("another method"), "{}", refused(&net));
}

#[test]
fn certificates_have_their_time() {
    for (year, what) in [(2050_u64, "has expired"), (2001, "isn't valid yet")] {
        let mut net = Net::pair(6, with("rsa", false));
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs((year - 1970) * 365 * 86_400);
        net.peers[B].endpoint.set_wall_clock(net.now, wall);
        assert_eq!(attempt(&mut net), Err(Failure::RefusedByPeer));
        assert!(refused(&net).contains(what), "{}", refused(&net));
    }
}

/// Takes SIGNATURE_HASH_ALGORITHMS out of what both say; AUTH still signs what was sent, so both sides get the same.
fn without_rfc7427(datagram: &[u8]) -> Option<Vec<u8>> {
    let message = Message::parse(datagram).ok()?;
    message.payloads.notify(NotifyType::SIGNATURE_HASH_ALGORITHMS)?;
    let rest = message
        .payloads
        .iter()
        .filter(|payload| !matches!(payload, Payload::Notify(n) if n.kind == NotifyType::SIGNATURE_HASH_ALGORITHMS));
    wire::emit(&message.header, &Payloads::from(rest.cloned().collect::<Vec<_>>())).ok()
}

#[test]
fn a_message_that_was_changed_breaks_the_signature() {
    for kind in ["ecdsa", "rsa"] {
        let mut net = Net::pair(7, with(kind, false));
        net.meddler = Some(Box::new(|side, sent| {
            let changed = if side == A { without_rfc7427(&sent.payload) } else { None };
            vec![Transmit { payload: changed.unwrap_or_else(|| sent.payload.clone()), ..sent.clone() }]
        }));
        let failure = attempt(&mut net).unwrap_err();
        match kind {
            // A knows no hash that B could verify, as B's answer doesn't name any.
            "rsa" => assert_eq!(failure, Failure::NoSignatureInCommon),
            // RFC 4754 needs none; but what B signs and sees isn't what A sent.
            _ => assert_eq!(failure, Failure::RefusedByPeer),
        }
        net.assert_mirrored();
    }
}

#[test]
fn long_certificate_messages_are_fragmented_and_survive_loss() {
    let mut net = Net::pair(8, |side, connection| {
        with("rsa", false)(side, connection);
        connection.fragment_size = 500;
    });
    net.weather.loss = 20;
    net.connect();
    net.run_for(60 * SECOND);
    net.assert_mirrored();
    // IKE_SA_INIT, of message ID 0, can't be fragmented.
    let later = net.trace.iter().filter(|(_, sent)| Header::parse(&sent.payload).unwrap().message_id.0 != 0);
    assert!(later.clone().count() > 4);
    let longest = later.map(|(_, sent)| sent.payload.len()).max().unwrap();
    assert!((400..=500).contains(&longest), "{longest}");
}

#[test]
fn errors_in_files_say_what_to_do() {
    let (pem, key) = (file("ecdsa-a.pem"), file("ecdsa-a.key"));
    let error = |pem: &str, key: &str| LocalCertificate::from_pem(pem, key, false).unwrap_err();
    assert_eq!(error(&pem, &file("ecdsa-b.key")), CertificateError::Mismatch);
    assert_eq!(error("", &key), CertificateError::None);
    assert_eq!(error(&pem, "hunter2"), CertificateError::Key(KeyError::Unknown));
    let broken = pem.replacen("MII", "MIX", 1);
    assert!(matches!(error(&broken, &key), CertificateError::Invalid { number: 1, .. }));
    assert_eq!(Authorities::from_pem("").unwrap_err(), CertificateError::None);
    let text = format!("{:?}", auth("rsa-a", "rsa-ca", false));
    assert!(text.contains("C=CH, O=Test, CN=a") && text.contains("PrivateKey(RSA)"), "{text}");
}
