//! One core's table of inbound SAs: the SAD of RFC 4301 4.4.2 as far as a core needs it.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::sa::inbound::{Sa, SaKey};
use crate::types::Spi;

/// What the table knows of a packet's SA.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'t> {
    /// It is there.
    Found(&'t Sa),
    /// It was deleted a moment ago.
    Deleted,
    /// Never heard of it.
    Unknown,
}

struct Entry {
    key: SaKey,
    /// None once the SA is deleted, until the entry is forgotten.
    sa: Option<Arc<Sa>>,
}

/// A core's SAs by SPI. Its room is set at the start, so that no core ever allocates.
pub struct SaTable {
    entries: HashTable<Entry>,
    limit: usize,
    seed: u64,
}

impl SaTable {
    /// A table for that many SAs, counting those that are deleted and not yet forgotten.
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
    #[inline]
    pub fn lookup(&self, spi: Spi, dst: IpAddr, src: IpAddr) -> Lookup<'_> {
        let mut best = Lookup::Unknown;
        for entry in self.entries.iter_hash(Self::hash(self.seed, spi)) {
            if entry.key.spi != spi || entry.key.dst != dst {
                continue;
            }
            let found = entry.sa.as_deref().map_or(Lookup::Deleted, Lookup::Found);
            if entry.key.src == src {
                return found;
            }
            if !matches!(best, Lookup::Found(_)) {
                best = found;
            }
        }
        best
    }

    /// Puts an SA in; gives back the one that had the same key. With no room left the new one comes back as an error.
    pub fn install(&mut self, sa: Arc<Sa>) -> Result<Option<Arc<Sa>>, Arc<Sa>> {
        let hash = Self::hash(self.seed, sa.key.spi);
        if let Some(entry) = self.entries.find_mut(hash, |entry| entry.key == sa.key) {
            return Ok(entry.sa.replace(sa));
        }
        if self.entries.len() >= self.limit {
            return Err(sa);
        }
        let seed = self.seed;
        self.entries.insert_unique(hash, Entry { key: sa.key, sa: Some(sa) }, |entry| Self::hash(seed, entry.key.spi));
        Ok(None)
    }

    /// Takes an SA out, and remembers that it was there.
    pub fn delete(&mut self, key: &SaKey) -> Option<Arc<Sa>> {
        self.entries.find_mut(Self::hash(self.seed, key.spi), |entry| entry.key == *key)?.sa.take()
    }

    /// Forgets a deleted SA. One that is there again is left alone.
    pub fn forget(&mut self, key: &SaKey) {
        let hash = Self::hash(self.seed, key.spi);
        if let Ok(entry) = self.entries.find_entry(hash, |entry| entry.key == *key && entry.sa.is_none()) {
            entry.remove();
        }
    }

    /// SAs and deleted ones that are not yet forgotten.
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
            Lookup::Deleted | Lookup::Unknown => None,
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
            assert!(table.install(sa).unwrap().is_none());
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
        assert_eq!(replaced.map(|sa| sa.id), Some(1));
    }

    #[test]
    fn coming_and_going_never_makes_it_grow() {
        let mut table = SaTable::with_capacity(64);
        let capacity = table.entries.capacity();
        for round in 0..10_000u32 {
            let new = sa(round, 0x1000 + round, "10.1.1.1", "10.10.1.2");
            let key = new.key;
            table.install(new).unwrap();
            if round >= 63 {
                let oldest = SaKey { spi: Spi(key.spi.0 - 63), ..key };
                table.delete(&oldest);
                table.forget(&oldest);
            }
        }
        assert_eq!((table.len(), table.entries.capacity()), (63, capacity));
    }
}
