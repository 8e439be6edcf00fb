//! Packets with false source addresses, as an attacker sends them.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses its part of this")]

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::netns::Namespace;

/// IP packets that are written header and all (IPPROTO_RAW).
const RAW: i32 = 255;

/// Runs something on a thread inside a namespace, with a socket for packets with any source address.
fn inside<T: Send>(namespace: &Namespace, run: impl FnOnce(&Socket) -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{}", namespace.name())).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
            run(&Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW))).unwrap())
        });
        thread.join().unwrap()
    })
}

fn packet(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    // The kernel fills in the checksum.
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

/// Sends so many ESP packets on SPIs that nobody has: every other one from the peer's address, the others from anywhere.
pub fn unknown_spis(from: &Namespace, peer: Ipv4Addr, head: Ipv4Addr, count: u32) -> u32 {
    inside(from, |socket| {
        let to = SocketAddr::new(head.into(), 0).into();
        // A generator as good as any here (Knuth's).
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        let mut sent = 0;
        for n in 0..count {
            let src = if n % 2 == 0 { peer } else { Ipv4Addr::from(0xC000_0000 | (random() >> 3)) };
            let spi = 0x100 | random();
            let payload = [&spi.to_be_bytes()[..], &n.to_be_bytes(), &[0x5a; 48]].concat();
            sent += u32::from(socket.send_to(&packet(src, head, 50, &payload), &to).is_ok());
        }
        sent
    })
}

/// Sends an IKE message to the head-end's port 4500, as if it came from the peer's.
pub fn ike(from: &Namespace, peer: Ipv4Addr, head: Ipv4Addr, message: &[u8]) {
    inside(from, |socket| {
        let length = u16::try_from(8 + 4 + message.len()).unwrap().to_be_bytes();
        // Without a checksum, as UDP over IPv4 may be.
        let udp = [&4500u16.to_be_bytes()[..], &4500u16.to_be_bytes(), &length, &[0; 2], &[0; 4], message].concat();
        socket.send_to(&packet(peer, head, 17, &udp), &SocketAddr::new(head.into(), 0).into()).unwrap();
    });
}
