//! The UDP side of IKE on its real ports, in network namespaces of their own, with a charon as peer and as rival. It needs root:
//! `make test` runs it where it is root, and says so where it isn't.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
mod lab;

use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use ikev2::wire::{ExchangeType, Flags, Header, IkeSpi, Message, Notify, NotifyType, Payload, emit};
use lab::connection::{Connection, Side};
use lab::netns::Namespace;
use lab::{HEAD, Lab, PATIENCE, PEER};
use nf_ctl::agent::udp::{BindError, Counters, Datagram, IkeSockets, Ports};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Does something on a thread inside a namespace. Sockets that are made there stay there.
fn inside<T: Send>(namespace: &Namespace, task: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{}", namespace.name())).unwrap();
    let thread = move || {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
        task()
    };
    std::thread::scope(|scope| scope.spawn(thread).join().unwrap())
}

fn bind(namespace: &Namespace, addresses: &[&str]) -> Result<IkeSockets, BindError> {
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    inside(namespace, || IkeSockets::bind(&addresses, Ports::default()))
}

/// Runs a test while an endpoint receives, then ends it.
fn receiving<T>(sockets: &IkeSockets, test: impl FnOnce(&Receiver<Datagram>) -> T) -> T {
    let (sender, received) = sync_channel(64);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || sockets.receive(|datagram| sender.try_send(datagram).is_ok()));
        // The thread has to end even where the test fails, or the scope waits for it forever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&received)));
        sockets.stop();
        thread.join().unwrap().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A peer with addresses of both families talks to each address and port of the head-end.
#[test]
#[ignore = "needs root"]
fn each_address_and_port_answers_for_itself() {
    let lab = Lab::new();
    lab.head.sh("ip addr add 10.10.1.22/24 dev wan; ip addr add 2001:db8::2/64 dev wan nodad");
    lab.peer.sh("ip addr add 2001:db8::1/64 dev wan nodad");
    let addresses = [HEAD, "10.10.1.22", "2001:db8::2"];
    let sockets = bind(&lab.head, &addresses).unwrap();
    let locals: Vec<SocketAddr> = sockets.locals().collect();
    assert_eq!(locals.len(), 6);
    receiving(&sockets, |received| {
        for (number, local) in locals.iter().enumerate() {
            let from: IpAddr = if local.is_ipv4() { PEER } else { "2001:db8::1" }.parse().unwrap();
            let peer = inside(&lab.peer, || UdpSocket::bind((from, 0))).unwrap();
            peer.set_read_timeout(Some(PATIENCE)).unwrap();
            let message = vec![number as u8; 28];
            let marker = if local.port() == 4500 { &[0; 4][..] } else { &[] };
            peer.send_to(&[marker, &message].concat(), local).unwrap();
            let datagram = received.recv_timeout(PATIENCE).unwrap();
            assert_eq!((datagram.local, datagram.remote), (*local, peer.local_addr().unwrap()));
            assert_eq!(datagram.message, message);
            sockets.send(datagram.local, datagram.remote, &message).unwrap();
            let mut answer = [0; 64];
            let (octets, answered_by) = peer.recv_from(&mut answer).unwrap();
            assert_eq!((answered_by, &answer[..octets]), (*local, &[marker, &message].concat()[..]));
        }
    });
    assert_eq!(sockets.counters(), Counters { received: 6, ..Counters::default() });
}

/// charon asks for an IKE SA, is asked for a cookie, and asks again with it: its messages arrive, and ours do.
#[test]
#[ignore = "needs root"]
fn a_real_peer_is_heard_and_answered() {
    let lab = Lab::new();
    let mut charon = lab.peer_charon();
    charon.load(&[Connection::new(Side::Peer)]);
    let sockets = bind(&lab.head, &[HEAD]).unwrap();
    std::thread::scope(|scope| {
        // It succeeds as little as the head-end has an IKE endpoint.
        scope.spawn(|| charon.swanctl(&["--initiate", "--child", "net", "--timeout", "10"]));
        receiving(&sockets, |received| {
            let first = received.recv_timeout(PATIENCE).unwrap();
            assert_eq!(
                (first.local.to_string(), first.remote.to_string()),
                (format!("{HEAD}:500"), format!("{PEER}:500"))
            );
            let request = Message::parse(&first.message).unwrap();
            assert_eq!((request.header.exchange, request.payloads.len() > 3), (ExchangeType::IKE_SA_INIT, true));
            assert!(request.payloads.notify(NotifyType::COOKIE).is_none());

            let cookie = b"a cookie of a test";
            let flags = Flags { response: true, ..Flags::default() };
            let header = Header { flags, responder_spi: IkeSpi::ZERO, ..request.header };
            let notify = Payload::Notify(Notify::with_data(NotifyType::COOKIE, &cookie[..]));
            let answer = emit(&header, &vec![notify].into()).unwrap();
            sockets.send(first.local, first.remote, &answer).unwrap();

            // It may have repeated the first one meanwhile.
            loop {
                let next = received.recv_timeout(PATIENCE).unwrap();
                let request = Message::parse(&next.message).unwrap();
                if let Some(notify) = request.payloads.notify(NotifyType::COOKIE) {
                    assert_eq!(*notify.data, cookie[..]);
                    break;
                }
            }
        });
        charon.ok(&["--terminate", "--ike", "gw", "--force", "--timeout", "10"]);
    });
    charon.kill();
}

/// Two IKE endpoints on one host would take each other's messages: the second is refused, and told who is first.
#[test]
#[ignore = "needs root"]
fn a_daemon_that_lives_is_not_disturbed() {
    let lab = Lab::new();
    let mut charon = lab.head_charon();
    let error = bind(&lab.head, &[HEAD]).unwrap_err();
    let expected = format!("can't listen on UDP {HEAD}:500: charon (pid {}) holds UDP ", charon.pid());
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert!(error.to_string().ends_with("stop it, or let it speak IKE with backend = \"vici\""), "{error}");
    charon.stop();
    bind(&lab.head, &[HEAD]).unwrap();
}

/// What a peer can send at any rate costs the process nothing: a million octets of ESP don't wake it.
#[test]
#[ignore = "needs root"]
fn a_burst_of_esp_is_the_kernels_to_drop() {
    let lab = Lab::new();
    let sockets = bind(&lab.head, &[HEAD]).unwrap();
    let local: SocketAddr = format!("{HEAD}:4500").parse().unwrap();
    let peer = inside(&lab.peer, || UdpSocket::bind((PEER, 4500))).unwrap();
    receiving(&sockets, |received| {
        let esp = [0xb7; 1000];
        for _ in 0..1000 {
            peer.send_to(&esp, local).unwrap();
        }
        peer.send_to(&[&[0; 4][..], &[9; 28]].concat(), local).unwrap();
        assert_eq!(received.recv_timeout(PATIENCE).unwrap().message, [9; 28]);
        assert!(received.recv_timeout(Duration::ZERO).is_err());
    });
    assert_eq!(sockets.counters(), Counters { received: 1, ..Counters::default() });
    let dropped = lab.head.sh("awk '$2 ~ /:1194$/ { print $NF }' /proc/net/udp");
    assert_eq!(dropped.trim(), "1000", "what the kernel dropped at port 4500");
}
