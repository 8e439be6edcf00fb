//! The UDP side of an IKE endpoint: ports 500 and 4500 of each local address.
//!
//! One socket is bound for each address and port, so a datagram's local address is that of its socket, and an answer
//! leaves from where the question came to. On port 4500 IKE messages carry the non-ESP marker (RFC 7296 2.23, RFC 3948
//! 2.2): it's added and taken off here. ESP and NAT keepalives, which share that port, are dropped by the kernel
//! before they cost this process anything.
//!
//! There is no `unsafe` here: sockets, the filter and poll(2) come from socket2 and rustix.

mod error;
mod filter;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use socket2::{Domain, Protocol, Socket, Type};

pub use error::{BindError, SendError};

/// The longest IKE message that is sent or taken, in octets. A longer one is sent in fragments (RFC 7383).
pub const MAX_MESSAGE: usize = 16 * 1024;

/// What tells IKE from ESP on port 4500: an SPI that no ESP packet has (RFC 3948 2.2).
const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// The kernel's buffer of a socket, in octets: some hundred IKE_SA_INIT requests may wait while one is answered.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// So many datagrams are taken from a socket before the next one has its turn.
const BURST: usize = 32;

/// The ports of an IKE endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// For messages as they are: 500.
    pub ike: u16,
    /// For messages with the non-ESP marker, behind and through NATs: 4500.
    pub nat: u16,
}

impl Default for Ports {
    fn default() -> Ports {
        Ports { ike: 500, nat: 4500 }
    }
}

/// An IKE message that was received, without the non-ESP marker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Where it came to.
    pub local: SocketAddr,
    /// Where it came from.
    pub remote: SocketAddr,
    /// The message, at most [`MAX_MESSAGE`] octets.
    pub message: Vec<u8>,
}

/// What became of the datagrams so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Taken by the receiver.
    pub received: u64,
    /// Dropped, as the receiver had no room for them.
    pub overrun: u64,
    /// Dropped: too long, or on port 4500 without the non-ESP marker. What the kernel drops isn't among them.
    pub refused: u64,
    /// Errors of the sockets, such as a network that is down.
    pub errors: u64,
}

/// The sockets of an IKE endpoint.
#[derive(Debug)]
pub struct IkeSockets {
    sockets: Vec<IkeSocket>,
    stop: OwnedFd,
    received: AtomicU64,
    overrun: AtomicU64,
    refused: AtomicU64,
    errors: AtomicU64,
}

#[derive(Debug)]
struct IkeSocket {
    socket: UdpSocket,
    local: SocketAddr,
    /// Whether messages carry the non-ESP marker.
    marker: bool,
}

impl IkeSockets {
    /// Binds both ports of each address.
    ///
    /// # Errors
    /// When there is no address, or a port can't be had: another IKE daemon, which must not be disturbed, is named.
    pub fn bind(addresses: &[IpAddr], ports: Ports) -> Result<IkeSockets, BindError> {
        if addresses.is_empty() {
            return Err(BindError::NoAddress);
        }
        let mut sockets: Vec<IkeSocket> = Vec::new();
        for (at, address) in addresses.iter().enumerate() {
            if addresses.iter().take(at).any(|before| before == address) {
                continue;
            }
            for (port, marker) in [(ports.ike, false), (ports.nat, true)] {
                let local = SocketAddr::new(*address, port);
                sockets.push(IkeSocket::bind(local, marker).map_err(|error| BindError::new(local, error))?);
            }
        }
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| BindError::System(error.into()))?;
        let zero = AtomicU64::default;
        Ok(IkeSockets { sockets, stop, received: zero(), overrun: zero(), refused: zero(), errors: zero() })
    }

    /// The addresses and ports that are bound.
    pub fn locals(&self) -> impl Iterator<Item = SocketAddr> {
        self.sockets.iter().map(|socket| socket.local)
    }

    /// Sends a message; from the port for it with the non-ESP marker.
    ///
    /// # Errors
    /// When there is no such local address, the message is too long, or the kernel refuses. A message that is lost further
    /// on is none.
    pub fn send(&self, local: SocketAddr, remote: SocketAddr, message: &[u8]) -> Result<(), SendError> {
        let socket = self.sockets.iter().find(|socket| socket.local == local).ok_or(SendError::NotLocal { local })?;
        if message.len() > MAX_MESSAGE {
            return Err(SendError::TooLong { remote, octets: message.len() });
        }
        let sent = if socket.marker {
            socket.socket.send_to(&[&NON_ESP_MARKER, message].concat(), remote)
        } else {
            socket.socket.send_to(message, remote)
        };
        match sent {
            Ok(_) => Ok(()),
            Err(error) => Err(SendError::Refused { local, remote, error }),
        }
    }

    /// Receives until [`stop`](Self::stop), on a thread of its own. `deliver` gets each message and says whether it had
    /// room for it: it should not wait, as meanwhile the kernel's buffers fill up.
    ///
    /// # Errors
    /// When poll(2) fails, for lack of memory.
    pub fn receive(&self, mut deliver: impl FnMut(Datagram) -> bool) -> io::Result<()> {
        // One octet more tells a message that is too long.
        let mut buffer = vec![0; NON_ESP_MARKER.len() + MAX_MESSAGE + 1];
        let mut polled: Vec<PollFd<'_>> = std::iter::once(PollFd::new(&self.stop, PollFlags::IN))
            .chain(self.sockets.iter().map(|socket| PollFd::new(&socket.socket, PollFlags::IN)))
            .collect();
        loop {
            match poll(&mut polled, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let mut ready = polled.iter().map(|polled| !polled.revents().is_empty());
            if ready.next() == Some(true) {
                return Ok(());
            }
            for (socket, _) in self.sockets.iter().zip(ready).filter(|(_, ready)| *ready) {
                self.drain(socket, &mut buffer, &mut deliver);
            }
        }
    }

    /// Takes what waits at a socket, but no more than a burst.
    fn drain(&self, socket: &IkeSocket, buffer: &mut [u8], deliver: &mut impl FnMut(Datagram) -> bool) {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        for _ in 0..BURST {
            let (datagram, remote) = match socket.socket.recv_from(buffer) {
                Ok((octets, remote)) => (buffer.get(..octets).unwrap_or_default(), remote),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => {
                    count(&self.errors);
                    return;
                }
            };
            let message = if socket.marker { datagram.strip_prefix(&NON_ESP_MARKER) } else { Some(datagram) };
            match message {
                Some(message) if message.len() <= MAX_MESSAGE => {
                    let taken = deliver(Datagram { local: socket.local, remote, message: message.to_vec() });
                    count(if taken { &self.received } else { &self.overrun });
                }
                _ => {
                    count(&self.refused);
                }
            }
        }
    }

    /// Ends [`receive`](Self::receive), now and for good.
    pub fn stop(&self) {
        // It fails only where so many stops wait already that the counter is full.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }

    /// What became of the datagrams so far.
    pub fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            received: read(&self.received),
            overrun: read(&self.overrun),
            refused: read(&self.refused),
            errors: read(&self.errors),
        }
    }
}

impl IkeSocket {
    fn bind(local: SocketAddr, marker: bool) -> io::Result<IkeSocket> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if marker {
            // Before it's bound, so that nothing slips in.
            socket.attach_filter(&filter::MARKED_IKE)?;
        }
        // The kernel may grant less: that costs datagrams in a flood, and nothing else.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        socket.set_nonblocking(true)?;
        socket.bind(&local.into())?;
        let socket = UdpSocket::from(socket);
        // As asked for, unless the port was 0.
        let local = socket.local_addr()?;
        Ok(IkeSocket { socket, local, marker })
    }
}

#[cfg(test)]
mod tests;
