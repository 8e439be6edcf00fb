//! Reserved SPIs: larval SAs, from the control thread's side.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use super::{ControlError, Controller, tell_all};
use crate::control::proto::EventReport;
use crate::core::Command;
use crate::sa::larval::{Reservation, ReservationId};
use crate::types::{Nanos, Spi};

/// The longest time for which an SPI may be reserved, in seconds: more than any IKE exchange takes.
pub(super) const MAX_RESERVATION_S: u64 = 3600;

/// Tries to find a random SPI that is free. With the largest table, one in a thousand is taken.
const SPI_TRIES: u64 = 64;

/// A reserved SPI.
#[derive(Clone, Copy, Debug)]
pub struct StoredReservation {
    /// What the cores have of it.
    pub reservation: Reservation,
    /// When it was made.
    pub made: Nanos,
    /// When it runs out.
    pub until: Nanos,
}

pub(super) fn reservation_order(reservation: &Reservation) -> (Spi, IpAddr, Option<IpAddr>) {
    (reservation.spi, reservation.dst, reservation.src)
}

impl Controller {
    /// Reserves an SPI, the given one or one that is in use nowhere, for an SA that is on its way: no packet on it is
    /// unknown to any core when this returns.
    pub fn reserve(
        &mut self,
        dst: IpAddr,
        src: Option<IpAddr>,
        spi: Option<Spi>,
        lifetime_s: u64,
    ) -> Result<Spi, ControlError> {
        if !(1..=MAX_RESERVATION_S).contains(&lifetime_s) {
            return Err(ControlError::ReservationLifetime(lifetime_s));
        }
        let spi = match spi {
            Some(spi) if !spi.is_assignable() => return Err(ControlError::SpiNotAssignable(spi)),
            Some(spi) => spi,
            None => self.free_spi()?,
        };
        let overlaps = |other: Option<IpAddr>| src.is_none() || other.is_none() || src == other;
        let taken = |user| ControlError::SpiTaken { spi, dst, user };
        if self.sas_with(spi).map(|stored| stored.sa.key()).any(|key| key.dst == dst && overlaps(Some(key.src))) {
            return Err(taken("an SA"));
        }
        let is_reserved =
            |stored: &StoredReservation| stored.reservation.dst == dst && overlaps(stored.reservation.src);
        if self.reservations_of(spi).any(is_reserved) {
            return Err(taken("another reservation"));
        }
        // A deleted SA's place is taken over with its key.
        if src.and_then(|src| self.deleted.remove(&(spi, dst, src))).is_none() {
            self.make_room()?;
        }
        let mut change = self.own(dst);
        let reservation = Reservation { id: ReservationId(self.next_reservation), spi, dst, src };
        self.next_reservation += 1;
        let until = Nanos(self.now.0.saturating_add(Nanos::from_secs(lifetime_s).0));
        let stored = StoredReservation { reservation, made: self.now, until };
        self.reservations.insert(reservation_order(&reservation), stored);
        change.push(Box::new(move |_| Command::Reserve(reservation)));
        self.apply(change)?;
        Ok(spi)
    }

    /// An SPI that no SA, reservation or memory of a deleted SA has, at whatever address. It can't be guessed from
    /// outside, so that nobody can fill what is held for it.
    fn free_spi(&self) -> Result<Spi, ControlError> {
        let random = RandomState::new();
        let mut tries = (0..SPI_TRIES).map(|number| Spi(random.hash_one(number) as u32));
        let lowest = IpAddr::from([0; 4]);
        let deleted =
            |spi: Spi| self.deleted.range((spi, lowest, lowest)..).next().is_some_and(|(key, _)| key.0 == spi);
        let free = |spi: &Spi| {
            spi.is_assignable()
                && self.sas_with(*spi).next().is_none()
                && self.reservations_of(*spi).next().is_none()
                && !deleted(*spi)
        };
        tries.find(free).ok_or(ControlError::SadFull(self.capacity))
    }

    pub(super) fn reservations_of(&self, spi: Spi) -> impl Iterator<Item = &StoredReservation> {
        let first = (spi, IpAddr::from([0; 4]), None);
        self.reservations.range(first..).take_while(move |(key, _)| key.0 == spi).map(|(_, stored)| stored)
    }

    /// All reserved SPIs.
    pub fn reservations(&self) -> impl ExactSizeIterator<Item = &StoredReservation> {
        self.reservations.values()
    }

    /// The reservation of that SPI and, where given, those addresses.
    pub fn find_reservation(
        &self,
        spi: Spi,
        dst: Option<IpAddr>,
        src: Option<IpAddr>,
    ) -> Result<&StoredReservation, ControlError> {
        let fits = |stored: &&StoredReservation| {
            let reservation = &stored.reservation;
            dst.is_none_or(|dst| dst == reservation.dst) && src.is_none_or(|src| reservation.src == Some(src))
        };
        let mut found = self.reservations_of(spi).filter(fits);
        match (found.next(), found.count()) {
            (Some(stored), 0) => Ok(stored),
            (Some(_), more) => Err(ControlError::AmbiguousSa { spi, count: more + 1 }),
            (None, _) => Err(ControlError::NotReserved { spi, dst, src }),
        }
    }

    /// Gives a reserved SPI back; what the cores hold for it is dropped.
    pub fn release(&mut self, spi: Spi, dst: Option<IpAddr>, src: Option<IpAddr>) -> Result<(), ControlError> {
        let reservation = self.find_reservation(spi, dst, src)?.reservation;
        self.reservations.remove(&reservation_order(&reservation));
        self.apply(vec![Box::new(move |_| Command::Release(reservation))])
    }

    pub(super) fn expire_reservations(&mut self) {
        let (cores, subscribers, now) = (&mut self.cores, &mut self.subscribers, self.now);
        self.reservations.retain(|_, stored| {
            let Reservation { spi, dst, src, .. } = stored.reservation;
            if stored.until > now || !tell_all(cores, || Command::Release(stored.reservation)) {
                return true;
            }
            tracing::warn!(%spi, %dst, src = src.map(tracing::field::display), "a reserved SPI ran out before its SA came");
            subscribers.publish(&EventReport::SaReservationExpired { spi, dst, src, at_ns: now.0 });
            false
        });
    }
}
