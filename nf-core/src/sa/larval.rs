//! Larval SAs: an SPI that was given to a peer while the keys are still being agreed on.
//!
//! A peer may send on its new SPI before IKE has installed the SA here: that packet is early, not wrong. So the SPI is
//! reserved on the cores before the peer hears of it, and what comes on it is held ([`HoldQueue`](crate::holding)) until
//! the SA matures.

use std::net::IpAddr;

use crate::sa::inbound::SaKey;
use crate::types::Spi;

/// Tells a reservation from every other one of the process, also from a later one of the same SPI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReservationId(pub u64);

/// A reserved SPI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// Its number.
    pub id: ReservationId,
    /// The SPI.
    pub spi: Spi,
    /// Outer destination: one of our addresses.
    pub dst: IpAddr,
    /// Outer source, where the peer's address is known: a responder behind a load balancer, say, may not know it yet.
    pub src: Option<IpAddr>,
}

impl Reservation {
    /// Whether this is the SA that the reservation was made for.
    pub fn is_for(&self, key: &SaKey) -> bool {
        self.spi == key.spi && self.dst == key.dst && self.src.is_none_or(|src| src == key.src)
    }
}

/// What has become of a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// Its SA is there: what is held for it can be decapsulated.
    Matured(ReservationId),
    /// It was given back or ran out: what is held for it is lost.
    Gone(ReservationId),
}
