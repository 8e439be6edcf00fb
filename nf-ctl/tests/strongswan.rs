//! strongSwan on both sides, without nf-core: what the laboratory is worth, and what recovery has to be compared with.
//! It needs root: `make test` runs it where it is root, and says so where it isn't.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
mod lab;

use std::time::Duration;

use lab::Lab;
use lab::charon::KeyType;
use lab::connection::{Auth, Connection, Side};

#[test]
#[ignore = "needs root"]
fn two_charons_have_a_tunnel() {
    let lab = Lab::new();
    let (peer, head) = (lab.peer_charon(), lab.head_charon());
    peer.load(&[Connection::new(Side::Peer)]);
    head.load(&[Connection::new(Side::Head)]);
    let esp = lab.watch_esp();
    peer.initiate("gw");
    head.wait_children(1);
    let ping = lab.ping(Duration::from_millis(20));
    esp.wait("50 packets of ESP", |seen| seen.number("seq=0x") == Some(50));
    let pinged = ping.stop();
    assert!(pinged.sent >= 50 && pinged.answered + 1 >= pinged.sent, "{pinged:?}");
}

#[test]
#[ignore = "needs root"]
fn certificates_and_ikev1_work_as_well() {
    for keys in [KeyType::Ecdsa, KeyType::Rsa] {
        let lab = Lab::new();
        let pki = lab.pki(keys);
        let (peer, head) = (lab.peer_charon(), lab.head_charon());
        for (charon, side) in [(&peer, Side::Peer), (&head, Side::Head)] {
            pki.give_to(charon, side);
            let connection = Connection::new(side).with(|c| {
                c.auth = Auth::Certificates;
                c.version = if keys == KeyType::Ecdsa { 2 } else { 1 };
                c.proposals = "aes128-sha256-ecp256".to_owned();
            });
            charon.load(&[connection]);
        }
        head.initiate("gw");
        peer.wait_children(1);
        let version = if keys == KeyType::Ecdsa { "IKEv2" } else { "IKEv1" };
        assert!(peer.list_sas().contains(version), "{}", peer.list_sas());
    }
}
