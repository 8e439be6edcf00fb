use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;

/// Ports that the kernel chooses.
const ANY: Ports = Ports { ike: 0, nat: 0 };
/// As long as it may take until a datagram is there. It's never waited for the absence of one.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running endpoint. Ended when dropped.
struct Running {
    sockets: Arc<IkeSockets>,
    thread: Option<JoinHandle<io::Result<()>>>,
    received: Receiver<Datagram>,
}

impl Running {
    fn start(addresses: &[IpAddr], room: usize) -> Running {
        let (sender, received) = sync_channel(room);
        Running::deliver_to(addresses, sender, received)
    }

    fn deliver_to(addresses: &[IpAddr], sender: SyncSender<Datagram>, received: Receiver<Datagram>) -> Running {
        let sockets = Arc::new(IkeSockets::bind(addresses, ANY).unwrap());
        let receiving = Arc::clone(&sockets);
        let thread = std::thread::spawn(move || receiving.receive(|datagram| sender.try_send(datagram).is_ok()));
        Running { sockets, thread: Some(thread), received }
    }

    /// Both ports of the address that comes at this place.
    fn ports(&self, at: usize) -> (SocketAddr, SocketAddr) {
        let locals: Vec<SocketAddr> = self.sockets.locals().collect();
        (locals[2 * at], locals[2 * at + 1])
    }

    fn next(&self) -> Datagram {
        self.received.recv_timeout(PATIENCE).unwrap()
    }

    fn end(mut self) -> Counters {
        self.sockets.stop();
        self.thread.take().unwrap().join().unwrap().unwrap();
        self.sockets.counters()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.sockets.stop();
    }
}

/// The loopback addresses that there are.
fn loopback() -> Vec<IpAddr> {
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    match UdpSocket::bind((v6, 0)) {
        Ok(_) => addresses.push(v6),
        // Not eprintln!, which is only shown when a test fails.
        Err(error) => drop(writeln!(std::io::stderr(), "NOT RUN: UDP over IPv6, as this host has no ::1 ({error})")),
    }
    addresses
}

fn message(content: u8) -> Vec<u8> {
    vec![content; ikev2::wire::HEADER_LEN]
}

/// How many datagrams the kernel dropped at a socket: the last column of /proc/net/udp and udp6.
fn kernel_drops(local: SocketAddr) -> u64 {
    // Words of 32 bits in hex, each as the host has it in memory.
    let (file, address) = match local.ip() {
        IpAddr::V4(address) => ("udp", format!("{:08X}", u32::from_ne_bytes(address.octets()))),
        IpAddr::V6(address) => {
            let octets = address.octets();
            let words = octets.as_chunks().0.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word)));
            ("udp6", words.collect())
        }
    };
    let at = format!("{address}:{:04X}", local.port());
    let sockets = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    let line = sockets.lines().find(|line| line.split_whitespace().nth(1) == Some(&at)).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

#[test]
fn messages_come_and_go_with_the_marker_on_one_port() {
    for address in loopback() {
        let running = Running::start(&[address], 8);
        let peer = UdpSocket::bind((address, 0)).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let remote = peer.local_addr().unwrap();
        let (plain, marked) = running.ports(0);
        let marker = [&NON_ESP_MARKER[..], &message(2)].concat();
        for (local, on_the_wire, content) in [(plain, message(1), 1), (marked, marker, 2)] {
            peer.send_to(&on_the_wire, local).unwrap();
            assert_eq!(running.next(), Datagram { local, remote, message: message(content) });
            running.sockets.send(local, remote, &message(content)).unwrap();
            let mut buffer = [0; 100];
            let (octets, from) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!((from, &buffer[..octets]), (local, &on_the_wire[..]));
        }
        assert_eq!(running.end(), Counters { received: 2, ..Counters::default() });
    }
}

#[test]
fn the_kernel_drops_what_is_no_ike_on_the_port_with_the_marker() {
    for address in loopback() {
        let running = Running::start(&[address], 8);
        let peer = UdpSocket::bind((address, 0)).unwrap();
        let (plain, marked) = running.ports(0);
        let esp = [&[0xb7, 0x61, 0x86, 0x3e][..], &message(3)].concat();
        let short = [&NON_ESP_MARKER[..], &message(3)[1..]].concat();
        let dropped = [&esp[..], &[0xff], &short, &[], &NON_ESP_MARKER[..]];
        for datagram in dropped {
            peer.send_to(datagram, marked).unwrap();
        }
        // Datagrams of one sender to one socket stay in order.
        peer.send_to(&[&NON_ESP_MARKER[..], &message(4)].concat(), marked).unwrap();
        assert_eq!(running.next().message, message(4));
        assert_eq!(kernel_drops(marked), dropped.len() as u64);
        // The other port takes anything: it's for the endpoint to say what is wrong with it.
        peer.send_to(&[0xff], plain).unwrap();
        assert_eq!(running.next().message, [0xff]);
        assert_eq!(kernel_drops(plain), 0);
        assert_eq!(running.end(), Counters { received: 2, ..Counters::default() });
    }
}

#[test]
fn a_datagrams_local_address_is_the_one_it_came_to() {
    let addresses = [IpAddr::from([127, 0, 0, 2]), IpAddr::from([127, 0, 0, 3]), IpAddr::from([127, 0, 0, 2])];
    let running = Running::start(&addresses, 8);
    assert_eq!(running.sockets.locals().count(), 4, "an address that is given twice is bound once");
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    for at in [1, 0] {
        let (local, _) = running.ports(at);
        assert_eq!(local.ip(), addresses[at]);
        peer.send_to(&message(5), local).unwrap();
        assert_eq!(running.next().local, local);
    }
}

#[test]
fn a_receiver_without_room_costs_datagrams_and_nothing_else() {
    let (sender, received) = sync_channel(1);
    let running = Running::deliver_to(&[Ipv4Addr::LOCALHOST.into()], sender, received);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (local, _) = running.ports(0);
    while running.sockets.counters().overrun == 0 {
        peer.send_to(&message(6), local).unwrap();
        std::thread::yield_now();
    }
    assert_eq!(running.sockets.counters().received, 1);
    running.next();
}

#[test]
fn messages_are_as_long_as_allowed_and_no_longer() {
    let running = Running::start(&[Ipv4Addr::LOCALHOST.into()], 8);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let remote = peer.local_addr().unwrap();
    let (plain, marked) = running.ports(0);
    let longest = vec![7; MAX_MESSAGE];
    for (local, marker) in [(plain, &[][..]), (marked, &NON_ESP_MARKER)] {
        peer.send_to(&[marker, &longest, &[7]].concat(), local).unwrap();
        peer.send_to(&[marker, &longest].concat(), local).unwrap();
        assert_eq!(running.next().message, longest);
        running.sockets.send(local, remote, &longest).unwrap();
    }
    let error = running.sockets.send(plain, remote, &[0; MAX_MESSAGE + 1]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "can't send 16385 octets to {remote} at once: 16384 is the limit; does the peer support fragmentation?"
        )
    );
    assert_eq!(running.end(), Counters { received: 2, refused: 2, ..Counters::default() });
}

#[test]
fn what_cannot_be_bound_is_explained() {
    assert_eq!(
        IkeSockets::bind(&[], ANY).unwrap_err().to_string(),
        "there is no local address to speak IKE on: add a [[local]] table with its address"
    );
    // An address for documentation (RFC 5737), which no host has.
    let error = IkeSockets::bind(&[[192, 0, 2, 77].into()], ANY).unwrap_err();
    assert!(matches!(error, BindError::NotLocal { .. }), "{error:?}");
    assert!(error.to_string().starts_with("can't listen on UDP 192.0.2.77:0: 192.0.2.77 is no address of this host"));
    // A port that isn't one of IKE's, so nobody looks for who has it.
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = Ports { ike: other.local_addr().unwrap().port(), nat: 0 };
    let error = IkeSockets::bind(&[Ipv4Addr::LOCALHOST.into()], taken).unwrap_err();
    assert!(error.to_string().contains(&format!("`ss -ulpn 'sport = :{}'`", taken.ike)), "{error}");
}

#[test]
fn what_cannot_be_sent_is_explained() {
    let sockets = IkeSockets::bind(&[Ipv4Addr::LOCALHOST.into()], ANY).unwrap();
    let local = sockets.locals().next().unwrap();
    let remote = "127.0.0.1:500".parse().unwrap();
    let error = sockets.send("127.0.0.1:1".parse().unwrap(), remote, &message(8)).unwrap_err();
    assert_eq!(error.to_string(), "can't send from UDP 127.0.0.1:1: it's not a port of this endpoint");
    // From loopback nothing leaves the host.
    let error = sockets.send(local, "192.0.2.77:500".parse().unwrap(), &message(8)).unwrap_err();
    assert!(matches!(error, SendError::Refused { .. }), "{error:?}");
    assert!(error.to_string().starts_with(&format!("can't send from {local} to 192.0.2.77:500: ")), "{error}");
}

#[test]
fn a_stop_before_the_start_is_a_stop() {
    let sockets = IkeSockets::bind(&[Ipv4Addr::LOCALHOST.into()], ANY).unwrap();
    sockets.stop();
    sockets.stop();
    sockets.receive(|_| true).unwrap();
}
