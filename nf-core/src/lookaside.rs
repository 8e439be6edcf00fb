//! Packets that a crypto device opens or seals in its own time.
//!
//! Decapsulation hands a packet out once it is admitted, and takes it back with the device's [`Verdict`] before its sequence
//! number is committed; encapsulation does once it is built, and takes it back before it is routed. A [`Ticket`] goes with
//! it. In between the packet is *in flight*: it belongs to whoever owns its buffer. A core's packets come back in the order
//! in which they were submitted.
//!
//! An SA that is deleted or replaced stays with the core until the last packet that was submitted before is back
//! (`Leaving`), an outbound one with the whole policy that it was part of: so a core never frees one, and no packet of a
//! change is lost.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::core::Retired;
use crate::counters::Flights;
use crate::drop::DropReason;
use crate::sa::inbound::Sa;
use crate::sa::outbound::OutboundSa;
use crate::types::{PortIndex, SeqNo};
use crate::wire::Headers;
use crate::wire::ethernet::MacPair;

/// What is known of a packet in flight.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The port that it was received on.
    pub port: PortIndex,
    /// Octets of the frame as it was received.
    pub received: u32,
    /// Its whole sequence number.
    pub seq: SeqNo,
    /// What the device does with it.
    pub task: Task,
}

/// What a device does with a packet, and what goes on with it afterwards.
#[derive(Clone, Debug)]
pub enum Task {
    /// Verifies and decrypts it.
    Open {
        /// The SA that it was admitted on.
        sa: Arc<Sa>,
        /// Its outer headers.
        headers: Headers,
    },
    /// Encrypts it and makes the ICV. The frame begins with the outer IP header.
    Seal {
        /// The SA that it goes by.
        sa: Arc<OutboundSa>,
        /// Where ESP begins in the frame.
        esp_at: u16,
        /// The addresses of the Ethernet header that it was received with.
        macs: MacPair,
        /// Octets of the largest IP packet in which it may leave.
        mtu: u16,
    },
}

impl Task {
    /// Why a packet is dropped with which the device can't do that.
    pub fn failure(&self) -> DropReason {
        match self {
            Task::Open { .. } => DropReason::CryptoError,
            Task::Seal { .. } => DropReason::OutCryptoError,
        }
    }
}

/// What a device made of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is authentic, and the plaintext in place; or it is encrypted, with its ICV.
    Done,
    /// The ICV is wrong.
    Forged,
    /// The device could not do it.
    Failed,
}

/// A packet that has come back.
#[derive(Clone, Debug)]
pub struct Returned {
    /// As it was submitted.
    pub ticket: Ticket,
    /// What the device made of it.
    pub verdict: Verdict,
}

/// How many policies may be leaving: where a device hangs they are not to fill the memory, and one of many SAs has tens of
/// megabytes.
const LEAVING_POLICIES: usize = 16;

/// What a core has no more use for once the packets are back that are in flight now.
#[derive(Default)]
pub(crate) struct Leaving {
    /// Each with how many packets had been submitted when it left.
    queue: VecDeque<(u64, Retired)>,
    /// How many of them are policies.
    policies: usize,
    limit: usize,
}

impl Leaving {
    /// With room for so many.
    pub(crate) fn with_capacity(limit: usize) -> Leaving {
        Leaving { queue: VecDeque::with_capacity(limit), policies: 0, limit }
    }

    /// Whether it has no room left.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() >= self.limit || self.policies >= LEAVING_POLICIES
    }

    /// Keeps what SAs are part of if packets are in flight; else gives it back.
    pub(crate) fn keep(&mut self, retired: Retired, flights: &Flights) -> Option<Retired> {
        match retired {
            Retired::Sa(_) | Retired::Spd(_) if flights.in_flight() > 0 && !self.is_full() => {
                self.policies += usize::from(matches!(retired, Retired::Spd(_)));
                self.queue.push_back((flights.submitted(), retired));
                None
            }
            _ => Some(retired),
        }
    }

    /// Takes what has been kept longest, if no packet in flight can be of an SA of it.
    pub(crate) fn take(&mut self, flights: &Flights) -> Option<Retired> {
        let (submitted, _) = self.queue.front()?;
        if flights.returned() < *submitted {
            return None;
        }
        let (_, retired) = self.queue.pop_front()?;
        self.policies -= usize::from(matches!(retired, Retired::Spd(_)));
        Some(retired)
    }
}
