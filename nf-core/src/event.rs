//! What a core tells the control thread: fixed-size events over a bounded queue.

use std::net::IpAddr;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::sa::inbound::SaKey;
use crate::sa::lifetime::{Limit, Unit};
use crate::spd::PolicyId;
use crate::types::{CoreId, Nanos, PortIndex, Spi};

/// Events that may wait for the control thread, for each core. It comes by every few milliseconds, and the core's limiter
/// lets a thousand invalid SPIs through a second.
const QUEUE_LENGTH: usize = 2048;

/// An event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A packet to us on an SPI that no SA has.
    InvalidSpi(InvalidSpi),
    /// The first authentic packet on an SA.
    FirstPacket {
        /// The SA.
        sa: SaRef,
        /// When.
        at: Nanos,
    },
    /// The newest authentic packet on an SA came from elsewhere than the newest before it.
    SourceChanged {
        /// The SA.
        sa: SaRef,
        /// Its outer source address.
        address: IpAddr,
        /// Its UDP source port, if it came in UDP.
        port: Option<u16>,
        /// When.
        at: Nanos,
    },
    /// The Ethernet address of a next hop isn't known.
    Unresolved {
        /// The port on whose link it is.
        port: PortIndex,
        /// Its address.
        address: IpAddr,
    },
    /// Traffic has reached a limit of an SA.
    LimitReached {
        /// The SA.
        sa: SaRef,
        /// Soft or hard.
        limit: Limit,
        /// Of what.
        unit: Unit,
        /// When.
        at: Nanos,
    },
    /// A packet that is to be protected, for which there is no SA.
    SaWanted(SaWanted),
    /// A router has said that the path of an outbound SA takes less than was known.
    PathMtu {
        /// The SA.
        sa: SaRef,
        /// Octets of the largest outer packet.
        mtu: u16,
    },
}

/// A packet that is to be protected, for which there is no SA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SaWanted {
    /// The policy that asks for it.
    pub policy: PolicyId,
    /// The packet's source.
    pub src: IpAddr,
    /// The packet's destination.
    pub dst: IpAddr,
    /// Packets of the flow since its last event, this one included.
    pub packets: u32,
    /// When.
    pub at: Nanos,
}

/// An SA, by its key, and by its number: an SA that was replaced under the same key has another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SaRef {
    /// The key.
    pub key: SaKey,
    /// [`Sa::id`](crate::sa::inbound::Sa::id).
    pub id: u32,
}

/// A packet on an unknown SPI: what RFC 4303 4 wants in an audit record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidSpi {
    /// The SPI.
    pub spi: Spi,
    /// Packets of the flow since its last event, this one included.
    pub packets: u32,
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
    /// Whether there is one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the oldest event.
    pub fn recv(&self) -> Option<Event> {
        self.0.pop()
    }
}
