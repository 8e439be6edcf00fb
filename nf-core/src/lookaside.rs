//! Packets that a crypto device opens in its own time.
//!
//! Decapsulation hands a packet out once it is admitted, with a [`Ticket`], and takes it back with the device's
//! [`Verdict`] before its sequence number is committed. In between the packet is *in flight*: it belongs to whoever owns
//! its buffer. A core's packets come back in the order in which they were submitted.
//!
//! An SA that is deleted or replaced stays with the core until the last packet that was submitted before is back
//! (`Leaving`): so a core never frees one, and no packet of a change is lost.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::counters::Flights;
use crate::sa::inbound::Sa;
use crate::types::{PortIndex, SeqNo};
use crate::wire::Headers;

/// What decapsulation knows of a packet in flight.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The SA that the packet was admitted on.
    pub sa: Arc<Sa>,
    /// Its whole sequence number.
    pub seq: SeqNo,
    /// Its outer headers.
    pub headers: Headers,
    /// The port that it was received on.
    pub port: PortIndex,
}

/// What a device made of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The ICV is right, and the plaintext in place.
    Authentic,
    /// The ICV is wrong.
    Forged,
    /// The device could not do it.
    Failed,
}

/// A packet that has come back.
#[derive(Clone, Debug)]
pub struct Opened {
    /// As it was submitted.
    pub ticket: Ticket,
    /// What the device made of it.
    pub verdict: Verdict,
}

/// SAs that a core has no more use for once the packets are back that are in flight now.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    /// Each with how many packets had been submitted when it left.
    sas: VecDeque<(u64, Arc<Sa>)>,
    limit: usize,
}

impl Leaving {
    /// With room for so many.
    pub(crate) fn with_capacity(limit: usize) -> Leaving {
        Leaving { sas: VecDeque::with_capacity(limit), limit }
    }

    /// Whether it has no room left.
    pub(crate) fn is_full(&self) -> bool {
        self.sas.len() >= self.limit
    }

    /// Keeps an SA if packets are in flight; else gives it back.
    pub(crate) fn keep(&mut self, sa: Arc<Sa>, flights: &Flights) -> Option<Arc<Sa>> {
        if flights.in_flight() == 0 || self.is_full() {
            return Some(sa);
        }
        self.sas.push_back((flights.submitted(), sa));
        None
    }

    /// Takes the SA that has been kept longest, if no packet in flight can be one of its own.
    pub(crate) fn take(&mut self, flights: &Flights) -> Option<Arc<Sa>> {
        let (submitted, _) = self.sas.front()?;
        if flights.returned() < *submitted {
            return None;
        }
        self.sas.pop_front().map(|(_, sa)| sa)
    }
}
