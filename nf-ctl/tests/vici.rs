//! The VICI backend against real charons. It needs root: `make test` runs it where it is root, and says so where it isn't.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

/// What the fuzz targets hold true.
#[path = "../fuzz/src/lib.rs"]
mod checks;
mod common;
mod lab;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::charon::Charon as Daemon;
use lab::connection::{Auth, Connection, Side};
use lab::{HEAD, Lab, PATIENCE};
use nf_ctl::backend::{BackendError, ChildState, Event, IkeBackend, IkeSa, IkeState};
use nf_ctl::detect;
use nf_ctl::vici::{Charon, Events};

fn at_head() -> IpAddr {
    HEAD.parse().unwrap()
}

/// The next event that is wanted; others on the way don't matter.
fn wait_event<T>(events: &mut Events, what: &str, wanted: impl Fn(Event) -> Option<T>) -> T {
    let mut passed = Vec::new();
    while let Some(event) = events.next(PATIENCE).unwrap() {
        passed.push(format!("{event:?}"));
        if let Some(found) = wanted(event) {
            return found;
        }
    }
    panic!("no {what} among {passed:#?}");
}

fn installed(sa: &IkeSa) -> Vec<&nf_ctl::backend::ChildSa> {
    sa.children.iter().filter(|child| child.state == ChildState::Installed).collect()
}

/// The peer's charon and the head-end's, which know of each other.
fn pair(lab: &Lab, version: u8) -> (Daemon, Daemon) {
    let (peer, head) = (lab.peer_charon(), lab.head_charon());
    for (charon, side) in [(&peer, Side::Peer), (&head, Side::Head)] {
        let connection = Connection::new(side).with(|c| {
            c.version = version;
            c.proposals = "aes128-sha256-ecp256".to_owned();
            c.esp_proposals = "aes128gcm16,aes128-sha256".to_owned();
        });
        charon.load(&[connection]);
    }
    (peer, head)
}

fn sas_come_change_and_go(version: u8) {
    let lab = Lab::new();
    let (peer, head) = pair(&lab, version);
    let mut charon = Charon::new(&head.vici_socket());
    let mut events = Events::subscribe(&head.vici_socket()).unwrap();
    assert_eq!(charon.version().unwrap().daemon, "charon");

    let connections = charon.connections().unwrap();
    let [connection] = &connections[..] else { panic!("{connections:?}") };
    assert_eq!((connection.name.as_str(), connection.version), ("gw", Some(version)));
    assert_eq!(
        (&connection.local_addrs[..], &connection.remote_addrs[..]),
        (&["10.10.1.2".to_owned()][..], &["10.10.1.1".to_owned()][..])
    );
    assert_eq!(connection.local_ids, ["hub.example"]);
    assert_eq!(connection.remote_ids, ["branch.example"]);
    assert_eq!(connection.children, ["net"]);
    assert_eq!(charon.sas(None).unwrap(), []);

    charon.initiate("gw", PATIENCE).unwrap();
    let up = wait_event(&mut events, "IKE SA up", |event| match event {
        Event::IkeUp(sa) => Some(sa),
        _ => None,
    });
    let child = wait_event(&mut events, "CHILD_SA up", |event| match event {
        Event::ChildUp(sa) => sa.children.into_iter().next(),
        _ => None,
    });
    let sas = charon.sas(Some("gw")).unwrap();
    let [sa] = &sas[..] else { panic!("{sas:?}") };
    assert_eq!((sa.spis, sa.version, sa.state), (up.spis, version, IkeState::Established));
    assert_eq!((sa.local_id.as_str(), sa.remote_id.as_str(), sa.initiator), ("hub.example", "branch.example", true));
    let [only] = installed(sa)[..] else { panic!("{sa:?}") };
    assert_eq!((only.spi_in, only.spi_out), (child.spi_in, child.spi_out));
    assert_eq!((&only.local_ts[..], only.encap), (&["10.2.0.1/32".to_owned()][..], true));
    assert_eq!(charon.sas(Some("other")).unwrap(), []);

    // A new CHILD_SA in the place of the old one.
    let spi = child.spi_in.unwrap();
    charon.rekey_child(spi, at_head()).unwrap();
    let new = wait_event(&mut events, "CHILD_SA rekeyed", |event| match event {
        Event::ChildRekeyed { ike, old } if old.spi_in == Some(spi) => ike.children.into_iter().next(),
        _ => None,
    });
    let new = new.spi_in.unwrap();
    assert_ne!(new, spi);
    lab::wait_for(
        "the new CHILD_SA alone",
        || {
            let sas = charon.sas(None).unwrap();
            (installed(&sas[0]).iter().map(|child| child.spi_in).collect::<Vec<_>>() == [Some(new)]).then_some(())
        },
        || head.list_sas(),
    );

    let absent = charon.rekey_child(spi, "192.0.2.1".parse().unwrap()).unwrap_err();
    assert!(matches!(absent, BackendError::NoSa { .. }), "{absent}");

    // IKEv1 has no rekeying of its own for the IKE SA: it authenticates anew.
    if version == 2 {
        charon.rekey_ike(sa.spis).unwrap();
        lab::wait_for(
            "a new IKE SA with the old one's child",
            || {
                let sas = charon.sas(None).unwrap();
                let found = sas.iter().any(|new| new.spis != sa.spis && installed(new).len() == 1);
                (sas.len() == 1 && found).then_some(())
            },
            || head.list_sas(),
        );
    }

    charon.terminate_child(new, at_head(), PATIENCE).unwrap();
    wait_event(&mut events, "CHILD_SA down", |event| match event {
        Event::ChildDown(sa) if sa.children.iter().any(|child| child.spi_in == Some(new)) => Some(()),
        _ => None,
    });
    // With IKEv1 the peer keeps the CHILD_SA that was replaced until its lifetime ends.
    lab::wait_for("the peer to lose it", || (!peer.list_sas().contains("INSTALLED")).then_some(()), || peer.list_sas());
    let left = charon.sas(None).unwrap();
    charon.terminate_ike(left[0].spis, PATIENCE).unwrap();
    wait_event(&mut events, "IKE SA down", |event| matches!(event, Event::IkeDown(_)).then_some(()));
    assert_eq!(charon.sas(None).unwrap(), []);
}

#[test]
#[ignore = "needs root"]
fn ikev2_sas_come_change_and_go() {
    sas_come_change_and_go(2);
}

#[test]
#[ignore = "needs root"]
fn ikev1_sas_come_change_and_go() {
    sas_come_change_and_go(1);
}

#[test]
#[ignore = "needs root"]
fn failures_have_their_reason() {
    let lab = Lab::new();
    let (mut peer, mut head) = pair(&lab, 2);
    let mut charon = Charon::new(&head.vici_socket());
    let mut events = Events::subscribe(&head.vici_socket()).unwrap();

    let unknown = charon.initiate("hub", PATIENCE).unwrap_err().to_string();
    assert_eq!(unknown, "the IKE daemon has no connection `hub`; it has `gw`");

    let secret = Auth::Psk("another secret".to_owned());
    peer.load(&[Connection::new(Side::Peer).with(|c| {
        c.auth = secret;
        c.proposals = "aes128-sha256-ecp256".to_owned();
    })]);
    let psk = charon.initiate("gw", PATIENCE).unwrap_err().to_string();
    assert!(psk.contains("could not initiate gw, CHILD_SA net") && psk.contains("AUTHENTICATION_FAILED"), "{psk}");

    peer.load(&[Connection::new(Side::Peer).with(|c| c.proposals = "aes256-sha512-modp4096".to_owned())]);
    let proposal = charon.initiate("gw", PATIENCE).unwrap_err().to_string();
    assert!(proposal.contains("NO_PROPOSAL_CHOSEN"), "{proposal}");

    // A peer that is gone is waited for no longer than asked. The kernel must not answer for it.
    peer.kill();
    lab.peer.sh("ip link set wan down");
    let gone = charon.initiate("gw", Duration::from_millis(300)).unwrap_err();
    assert!(matches!(gone, BackendError::Failed { .. }), "{gone}");

    head.kill();
    let broken = charon.sas(None).unwrap_err();
    assert!(matches!(broken, BackendError::Broken { .. }), "{broken}");
    let ended = loop {
        match events.next(PATIENCE) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("charon's end isn't noticed"),
            Err(error) => break error,
        }
    };
    assert!(ended.to_string().contains("it closed the connection"), "{ended}");
    let none = charon.sas(None).unwrap_err().to_string();
    assert!(none.contains("nobody listens there; start strongSwan"), "{none}");

    // It is found again when it is back.
    head.restart(&lab.head);
    assert_eq!(charon.sas(None).unwrap(), []);
}

#[test]
#[ignore = "needs root"]
fn a_living_daemon_is_found_with_its_identities() {
    let lab = Lab::new();
    let (_peer, mut head) = pair(&lab, 2);
    // The namespace is seen through the daemon's own eyes: this process lives in another.
    let network = PathBuf::from(format!("/proc/{}/net", head.pid()));
    let found = detect::find(&network, &[]).unwrap();
    let [daemon] = &found[..] else { panic!("{found:?}") };
    assert_eq!((daemon.pid, daemon.program.as_deref()), (Some(head.pid()), Some("charon")));
    assert_eq!(daemon.vici.as_deref(), Some(head.vici_socket().as_path()));
    for port in [500, 4500] {
        assert!(daemon.udp.contains(&SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)), "{:?}", daemon.udp);
    }

    let ours = detect::Endpoint { local: at_head(), local_id: "hub.example", remote_id: "branch.example" };
    let identity = detect::conflict(&found, ours).unwrap().to_string();
    let wanted = format!("charon (pid {}) speaks IKE as `hub.example` with `branch.example`", head.pid());
    assert!(identity.starts_with(&wanted) && identity.contains("connection = \"gw\""), "{identity}");
    let other = detect::Endpoint { remote_id: "other.example", ..ours };
    let port = detect::conflict(&found, other).unwrap().to_string();
    assert!(port.starts_with(&format!("charon (pid {}) holds UDP 0.0.0.0:500: stop it", head.pid())), "{port}");

    // In a network namespace of its own a daemon holds no port of ours, but its identity all the same.
    let elsewhere = detect::find(Path::new(detect::OWN_NETWORK), &[head.vici_socket()]).unwrap();
    let identity = detect::conflict(&elsewhere, ours).unwrap();
    assert!(matches!(identity, detect::Conflict::Identity { .. }), "{identity}");

    head.kill();
    let socket = head.vici_socket();
    let gone = detect::find(Path::new(detect::OWN_NETWORK), std::slice::from_ref(&socket)).unwrap();
    assert!(gone.iter().all(|daemon| daemon.vici.as_ref() != Some(&socket)), "{gone:?}");
}

/// What `make fuzz` begins with holds in every test run.
#[test]
fn the_seeds_of_the_fuzz_targets_hold() {
    let fuzz = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (target, check) in [("vici", checks::vici as fn(&[u8])), ("xfrm", checks::xfrm)] {
        let mut inputs = 0;
        for of in ["seeds", "found"] {
            for file in std::fs::read_dir(fuzz.join(of).join(target)).unwrap() {
                check(&std::fs::read(file.unwrap().path()).unwrap());
                inputs += 1;
            }
        }
        assert!(inputs > 10, "{target}: {inputs} inputs");
    }
}
