//! One core's table of inbound SAs: the SAD of RFC 4301 4.4.2 as far as a core needs it.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::cpu;
use crate::sa::inbound::{Sa, SaKey};
use crate::sa::larval::{Reservation, ReservationId};
use crate::types::Spi;

/// What the table knows of a packet's SA.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'t> {
    /// It is there.
    Found(&'t Sa),
    /// Its SPI is reserved, the SA is on its way.
    Larval(ReservationId),
    /// It was deleted a moment ago.
    Deleted,
    /// Never heard of it.
    Unknown,
}

/// On a cache line of its own: to compare it costs one.
#[repr(align(64))]
struct Entry {
    spi: Spi,
    dst: IpAddr,
    /// None in a reservation for any peer.
    src: Option<IpAddr>,
    state: State,
}

enum State {
    Mature(Arc<Sa>),
    Larval(ReservationId),
    /// Until the entry is forgotten.
    Deleted,
}

impl Entry {
    fn has(&self, key: &SaKey) -> bool {
        self.spi == key.spi && self.dst == key.dst && self.src == Some(key.src)
    }

    /// What the entry is to a packet, and how well it fits one from `src`: of several entries the best one is the
    /// packet's. An exact SA or reservation goes first; then a reservation for any peer, as the packet may be the first
    /// of its SA; then an exact SA that was deleted; then what another source has, which NAT may have made of the peer's.
    #[inline]
    fn rank(&self, src: IpAddr) -> (u8, Lookup<'_>) {
        let exact = self.src == Some(src);
        match &self.state {
            State::Mature(sa) => (if exact { 7 } else { 3 }, Lookup::Found(sa)),
            State::Larval(id) => (
                if exact {
                    6
                } else if self.src.is_none() {
                    5
                } else {
                    2
                },
                Lookup::Larval(*id),
            ),
            State::Deleted => (if exact { 4 } else { 1 }, Lookup::Deleted),
        }
    }
}

/// The rank of an exact SA, which nothing can beat.
const BEST: u8 = 7;

/// A look-up that has begun: the first entry that may be the one.
#[derive(Clone, Copy, Default)]
pub struct Probe<'t>(Option<&'t Entry>);

/// What an installation has changed.
#[derive(Debug, Default)]
pub struct Installed {
    /// The SA that had the same key.
    pub replaced: Option<Arc<Sa>>,
    /// The reservation that has become this SA.
    pub matured: Option<ReservationId>,
}

/// A core's SAs by SPI. Its room is set at the start, so that no core ever allocates.
pub struct SaTable {
    entries: HashTable<Entry>,
    limit: usize,
    seed: u64,
}

impl SaTable {
    /// A table for that many SAs, counting reservations and those that are deleted and not yet forgotten.
    pub fn with_capacity(limit: usize) -> SaTable {
        // Removed entries leave marks behind, and hashbrown clears them by rehashing in place only while the table is
        // at most half full; fuller, it would allocate a larger one, here on a core.
        let entries = HashTable::with_capacity(limit.saturating_mul(2));
        SaTable { entries, limit, seed: RandomState::new().hash_one(0) }
    }

    /// One multiplication and a fold: SPIs are chosen by us, so a packet can't add to a chain, only walk one. The seed
    /// keeps a peer that learns many SPIs from telling where they lie.
    #[inline]
    fn hash(seed: u64, spi: Spi) -> u64 {
        let product = u128::from(seed ^ u64::from(spi.0)) * 0x9E37_79B9_7F4A_7C15;
        (product >> 64) as u64 ^ product as u64
    }

    /// Finds the SA of a packet: SPI, destination and source where there is one, else SPI and destination
    /// (RFC 4301 4.1). A peer behind a NAT that has moved is still found by the latter.
    #[inline(never)]
    pub fn lookup(&self, spi: Spi, dst: IpAddr, src: IpAddr) -> Lookup<'_> {
        let mut best = (0, Lookup::Unknown);
        for entry in self.entries.iter_hash(Self::hash(self.seed, spi)) {
            if entry.spi != spi || entry.dst != dst {
                continue;
            }
            let found = entry.rank(src);
            if found.0 == BEST {
                return found.1;
            }
            if found.0 > best.0 {
                best = found;
            }
        }
        best.1
    }

    /// Begins to look up an SPI, and asks for the memory that [`SaTable::resolve`] will read.
    #[inline]
    pub fn probe(&self, spi: Spi) -> Probe<'_> {
        let first = self.entries.find(Self::hash(self.seed, spi), |_| true);
        if let Some(entry) = first {
            cpu::prefetch(entry);
        }
        Probe(first)
    }

    /// Ends what [`SaTable::probe`] has begun for the same SPI, as [`SaTable::lookup`] would.
    #[inline]
    pub fn resolve<'t>(&'t self, probe: Probe<'t>, spi: Spi, dst: IpAddr, src: IpAddr) -> Lookup<'t> {
        // Most SPIs that nobody has end here, and nearly all others with the first entry.
        let Some(first) = probe.0 else {
            return Lookup::Unknown;
        };
        if first.spi == spi
            && first.dst == dst
            && let (BEST, found) = first.rank(src)
        {
            return found;
        }
        self.lookup(spi, dst, src)
    }

    /// A share in the SA with a key.
    pub fn share(&self, key: &SaKey) -> Option<Arc<Sa>> {
        let is_it = |entry: &Entry| entry.has(key);
        match &self.entries.find(Self::hash(self.seed, key.spi), is_it)?.state {
            State::Mature(sa) => Some(Arc::clone(sa)),
            State::Larval(_) | State::Deleted => None,
        }
    }

    /// Puts an SA in; tells which one had the same key, and which reservation this ends. With no room left the new one
    /// comes back as an error.
    pub fn install(&mut self, sa: Arc<Sa>) -> Result<Installed, Arc<Sa>> {
        let key = sa.key;
        let hash = Self::hash(self.seed, key.spi);
        let is_reservation =
            |entry: &Entry| entry.spi == key.spi && entry.dst == key.dst && entry.src.is_none_or(|src| src == key.src);
        let matured = self.take_larval(hash, is_reservation);
        if let Some(entry) = self.entries.find_mut(hash, |entry| entry.has(&key)) {
            let replaced = match std::mem::replace(&mut entry.state, State::Mature(sa)) {
                State::Mature(replaced) => Some(replaced),
                State::Larval(_) | State::Deleted => None,
            };
            return Ok(Installed { replaced, matured });
        }
        // A reservation's room is free now.
        if self.entries.len() >= self.limit {
            return Err(sa);
        }
        self.insert(hash, Entry { spi: key.spi, dst: key.dst, src: Some(key.src), state: State::Mature(sa) });
        Ok(Installed { replaced: None, matured })
    }

    /// Reserves an SPI; false where there is no room left or the SA is there already.
    pub fn reserve(&mut self, reservation: &Reservation) -> bool {
        let Reservation { id, spi, dst, src } = *reservation;
        let hash = Self::hash(self.seed, spi);
        if let Some(entry) = self.entries.find_mut(hash, |entry| (entry.spi, entry.dst, entry.src) == (spi, dst, src)) {
            let free = !matches!(entry.state, State::Mature(_));
            if free {
                entry.state = State::Larval(id);
            }
            return free;
        }
        let room = self.entries.len() < self.limit;
        if room {
            self.insert(hash, Entry { spi, dst, src, state: State::Larval(id) });
        }
        room
    }

    /// Ends a reservation that has not become an SA.
    pub fn release(&mut self, reservation: &Reservation) {
        let hash = Self::hash(self.seed, reservation.spi);
        self.take_larval(hash, |entry| matches!(entry.state, State::Larval(id) if id == reservation.id));
    }

    fn take_larval(&mut self, hash: u64, mut is_it: impl FnMut(&Entry) -> bool) -> Option<ReservationId> {
        let is_it = |entry: &Entry| matches!(entry.state, State::Larval(_)) && is_it(entry);
        match self.entries.find_entry(hash, is_it).ok()?.remove().0.state {
            State::Larval(id) => Some(id),
            State::Mature(_) | State::Deleted => None,
        }
    }

    fn insert(&mut self, hash: u64, entry: Entry) {
        let seed = self.seed;
        self.entries.insert_unique(hash, entry, |entry| Self::hash(seed, entry.spi));
    }

    /// Takes an SA out, and remembers that it was there.
    pub fn delete(&mut self, key: &SaKey) -> Option<Arc<Sa>> {
        let is_it = |entry: &Entry| matches!(entry.state, State::Mature(_)) && entry.has(key);
        let entry = self.entries.find_mut(Self::hash(self.seed, key.spi), is_it)?;
        match std::mem::replace(&mut entry.state, State::Deleted) {
            State::Mature(sa) => Some(sa),
            State::Larval(_) | State::Deleted => None,
        }
    }

    /// Forgets a deleted SA. One that is there again is left alone.
    pub fn forget(&mut self, key: &SaKey) {
        let hash = Self::hash(self.seed, key.spi);
        let is_it = |entry: &Entry| matches!(entry.state, State::Deleted) && entry.has(key);
        if let Ok(entry) = self.entries.find_entry(hash, is_it) {
            entry.remove();
        }
    }

    /// SAs, reservations, and deleted ones that are not yet forgotten.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Portable;
    use crate::sa::spec::SaSpec;

    fn sa(id: u32, spi: u32, src: &str, dst: &str) -> Arc<Sa> {
        let spec: SaSpec = serde_json::from_value(serde_json::json!({
            "spi": spi, "src": src, "dst": dst, "mode": "tunnel", "alg": "aes-gcm-16", "key": "00".repeat(20),
        }))
        .unwrap();
        Arc::new(Sa::new(&spec.validate().unwrap(), id, &Portable, 1).unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn found(table: &SaTable, spi: u32, dst: &str, src: &str) -> Option<u32> {
        match table.lookup(Spi(spi), ip(dst), ip(src)) {
            Lookup::Found(sa) => Some(sa.id),
            Lookup::Larval(_) | Lookup::Deleted | Lookup::Unknown => None,
        }
    }

    #[test]
    fn spi_destination_and_source_decide() {
        let mut table = SaTable::with_capacity(8);
        for sa in [
            sa(1, 0x1000, "10.1.1.1", "10.10.1.2"),
            sa(2, 0x1000, "10.1.1.1", "10.10.1.3"),
            sa(3, 0x1000, "10.1.1.2", "10.10.1.2"),
            sa(4, 0x1001, "10.1.1.1", "10.10.1.2"),
        ] {
            assert!(table.install(sa).unwrap().replaced.is_none());
        }
        assert_eq!(found(&table, 0x1000, "10.10.1.2", "10.1.1.1"), Some(1));
        assert_eq!(found(&table, 0x1000, "10.10.1.3", "10.1.1.1"), Some(2));
        assert_eq!(found(&table, 0x1000, "10.10.1.2", "10.1.1.2"), Some(3));
        assert_eq!(found(&table, 0x1001, "10.10.1.2", "203.0.113.9"), Some(4), "moved behind a NAT");
        assert_eq!(found(&table, 0x1001, "10.10.1.3", "10.1.1.1"), None, "another address of ours");
        assert_eq!(found(&table, 0x1002, "10.10.1.2", "10.1.1.1"), None);
    }

    #[test]
    fn a_deleted_sa_is_remembered_until_it_is_forgotten() {
        let mut table = SaTable::with_capacity(2);
        let old = sa(1, 0x1000, "10.1.1.1", "10.10.1.2");
        let key = old.key;
        table.install(old).unwrap();
        assert_eq!(table.delete(&key).map(|sa| sa.id), Some(1));
        assert!(table.delete(&key).is_none());
        assert!(matches!(table.lookup(key.spi, key.dst, key.src), Lookup::Deleted));
        // The same key may come back, and what is there isn't forgotten.
        table.install(sa(2, 0x1000, "10.1.1.1", "10.10.1.2")).unwrap();
        table.forget(&key);
        assert_eq!(found(&table, 0x1000, "10.10.1.2", "10.1.1.1"), Some(2));
        table.delete(&key);
        table.forget(&key);
        assert!(matches!(table.lookup(key.spi, key.dst, key.src), Lookup::Unknown));
        assert!(table.is_empty());
    }

    #[test]
    fn a_full_table_gives_the_sa_back() {
        let mut table = SaTable::with_capacity(1);
        table.install(sa(1, 0x1000, "10.1.1.1", "10.10.1.2")).unwrap();
        let refused = table.install(sa(2, 0x1001, "10.1.1.1", "10.10.1.2")).unwrap_err();
        assert_eq!(refused.id, 2);
        let replaced = table.install(sa(3, 0x1000, "10.1.1.1", "10.10.1.2")).unwrap();
        assert_eq!(replaced.replaced.map(|sa| sa.id), Some(1));
    }

    fn reservation(id: u64, spi: u32, src: Option<&str>, dst: &str) -> Reservation {
        Reservation { id: ReservationId(id), spi: Spi(spi), dst: ip(dst), src: src.map(ip) }
    }

    fn larval(table: &SaTable, spi: u32, dst: &str, src: &str) -> Option<u64> {
        match table.lookup(Spi(spi), ip(dst), ip(src)) {
            Lookup::Larval(id) => Some(id.0),
            Lookup::Found(_) | Lookup::Deleted | Lookup::Unknown => None,
        }
    }

    #[test]
    fn a_reservation_becomes_the_sa_it_is_for() {
        for src in [None, Some("10.1.1.1")] {
            let mut table = SaTable::with_capacity(1);
            assert!(table.reserve(&reservation(5, 0x1000, src, "10.10.1.2")));
            assert_eq!(larval(&table, 0x1000, "10.10.1.2", "10.1.1.1"), Some(5));
            assert_eq!(larval(&table, 0x1000, "10.10.1.2", "203.0.113.9"), Some(5), "NAT may change the source");
            assert_eq!(larval(&table, 0x1000, "10.10.1.3", "10.1.1.1"), None, "another address of ours");
            assert!(!table.reserve(&reservation(6, 0x1001, src, "10.10.1.2")), "no room");
            let installed = table.install(sa(1, 0x1000, "10.1.1.1", "10.10.1.2")).unwrap();
            assert_eq!(installed.matured, Some(ReservationId(5)));
            assert_eq!(found(&table, 0x1000, "10.10.1.2", "10.1.1.1"), Some(1));
            assert!(!table.reserve(&reservation(6, 0x1000, Some("10.1.1.1"), "10.10.1.2")), "it is an SA");
            table.release(&reservation(5, 0x1000, src, "10.10.1.2"));
            assert_eq!(found(&table, 0x1000, "10.10.1.2", "10.1.1.1"), Some(1), "what has matured can't be released");
        }
    }

    #[test]
    fn a_released_reservation_is_as_if_it_had_never_been() {
        let mut table = SaTable::with_capacity(8);
        let first = reservation(1, 0x1000, None, "10.10.1.2");
        table.reserve(&first);
        table.reserve(&reservation(2, 0x1000, None, "10.10.1.2"));
        table.release(&first);
        assert_eq!(larval(&table, 0x1000, "10.10.1.2", "10.1.1.1"), Some(2), "a later one of the same SPI stays");
        table.release(&reservation(2, 0x1000, None, "10.10.1.2"));
        assert!(matches!(table.lookup(Spi(0x1000), ip("10.10.1.2"), ip("10.1.1.1")), Lookup::Unknown));
        assert!(table.is_empty());
    }

    #[test]
    fn a_reservation_goes_before_the_memory_of_a_deleted_sa() {
        for src in [None, Some("10.1.1.1")] {
            let mut table = SaTable::with_capacity(8);
            let old = sa(1, 0x1000, "10.1.1.1", "10.10.1.2");
            let key = old.key;
            table.install(old).unwrap();
            table.delete(&key);
            table.reserve(&reservation(1, 0x1000, src, "10.10.1.2"));
            assert_eq!(larval(&table, 0x1000, "10.10.1.2", "10.1.1.1"), Some(1));
            assert!(table.delete(&key).is_none(), "there is no SA to delete");
            table.forget(&key);
            assert_eq!(larval(&table, 0x1000, "10.10.1.2", "10.1.1.1"), Some(1));
            let installed = table.install(sa(2, 0x1000, "10.1.1.1", "10.10.1.2")).unwrap();
            assert_eq!((installed.matured, table.len()), (Some(ReservationId(1)), 1));
        }
    }

    #[test]
    fn a_reservation_of_one_peer_leaves_anothers_sa_alone() {
        let mut table = SaTable::with_capacity(8);
        table.install(sa(1, 0x1000, "10.1.1.1", "10.10.1.2")).unwrap();
        assert!(table.reserve(&reservation(1, 0x1000, Some("10.1.1.2"), "10.10.1.2")));
        assert_eq!(found(&table, 0x1000, "10.10.1.2", "10.1.1.1"), Some(1));
        assert_eq!(larval(&table, 0x1000, "10.10.1.2", "10.1.1.2"), Some(1));
        let installed = table.install(sa(2, 0x1000, "10.1.1.3", "10.10.1.2")).unwrap();
        assert_eq!(installed.matured, None, "a third peer's SA isn't the reserved one");
    }

    #[test]
    fn coming_and_going_never_makes_it_grow() {
        // Miri takes seconds for each SA.
        let (most, rounds) = if cfg!(miri) { (4, 12) } else { (64, 10_000) };
        let mut table = SaTable::with_capacity(most as usize);
        let capacity = table.entries.capacity();
        for round in 0..rounds {
            let new = sa(round, 0x1000 + round, "10.1.1.1", "10.10.1.2");
            let key = new.key;
            table.reserve(&Reservation { id: ReservationId(round.into()), spi: key.spi, dst: key.dst, src: None });
            table.install(new).unwrap();
            if round + 1 >= most {
                let oldest = SaKey { spi: Spi(key.spi.0 + 1 - most), ..key };
                table.delete(&oldest);
                table.forget(&oldest);
            }
        }
        assert_eq!((table.len(), table.entries.capacity()), (most as usize - 1, capacity));
    }
}
