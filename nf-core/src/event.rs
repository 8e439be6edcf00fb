//! What a core tells the control thread: fixed-size events over a bounded queue.

use std::net::IpAddr;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::types::{CoreId, Nanos, PortIndex, Spi};

/// Events that may wait for the control thread, for each core. It comes by some ten times a second, and the core's
/// limiter lets a thousand through a second.
const QUEUE_LENGTH: usize = 2048;

/// An event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A packet to us on an SPI that no SA has.
    InvalidSpi(InvalidSpi),
}

/// A packet on an unknown SPI: what RFC 4303 4 wants in an audit record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidSpi {
    /// The SPI.
    pub spi: Spi,
    /// The sequence number on the wire.
    pub seq: u32,
    /// The outer source address.
    pub src: IpAddr,
    /// The outer destination address.
    pub dst: IpAddr,
    /// Source and destination port, if it came in UDP.
    pub udp_ports: Option<(u16, u16)>,
    /// The port that it was received on.
    pub port: PortIndex,
    /// The core that received it.
    pub core: CoreId,
    /// When.
    pub at: Nanos,
}

/// A queue from a core to the control thread.
pub fn channel() -> (EventSender, EventReceiver) {
    let queue = Arc::new(ArrayQueue::new(QUEUE_LENGTH));
    (EventSender(Arc::clone(&queue)), EventReceiver(queue))
}

/// The core's end.
#[derive(Debug)]
pub struct EventSender(Arc<ArrayQueue<Event>>);

impl EventSender {
    /// Sends an event; false where the queue is full and the event is lost.
    #[inline]
    pub fn send(&mut self, event: Event) -> bool {
        self.0.push(event).is_ok()
    }
}

/// The control thread's end.
#[derive(Debug)]
pub struct EventReceiver(Arc<ArrayQueue<Event>>);

impl EventReceiver {
    /// Takes the oldest event.
    pub fn recv(&self) -> Option<Event> {
        self.0.pop()
    }
}
