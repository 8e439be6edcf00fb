//! Reassembly of IP fragments, by rte_ip_frag.

use std::ops::Range;
use std::ptr::NonNull;

use crate::clock::Tsc;
use crate::eal::Eal;
use crate::errno::{Errno, Error};
use crate::mbuf::Mbuf;
use crate::mempool::SocketId;
use crate::sys;

const IPV6_HEADER_LEN: usize = 40;
const IPV6_FRAGMENT_HEADER_LEN: usize = 8;
/// The longest datagram (RFC 791, RFC 8200).
const MAX_DATAGRAM: usize = 65_535;
/// Entries that share a bucket of the library's hash table.
const BUCKET_ENTRIES: u32 = 16;

/// What became of a fragment.
#[derive(Debug)]
pub enum Reassembled {
    /// It waits for the others.
    Held,
    /// It was the last one: the whole datagram, mostly in several buffers, with the headers of the first fragment. Its
    /// header checksum is not yet right, and for IPv6 the fragment header is gone.
    Complete(Mbuf),
    /// It isn't a fragment that can be worked with.
    Refused(Mbuf),
}

/// Datagrams that are incomplete.
#[derive(Debug)]
pub struct FragTable {
    table: NonNull<sys::rte_ip_frag_tbl>,
    /// Where the library puts packets that it gives up.
    death_row: Box<sys::rte_ip_frag_death_row>,
}

// SAFETY: the table belongs to whoever holds it, and the library keeps nothing by thread.
unsafe impl Send for FragTable {}

impl FragTable {
    /// A table for `max_flows` datagrams, each of which may take `timeout` counts of the TSC to be complete.
    pub fn new(_eal: Eal, max_flows: u32, timeout: u64, socket: SocketId) -> Result<FragTable, Error> {
        let buckets = max_flows.div_ceil(BUCKET_ENTRIES).next_power_of_two();
        // SAFETY: EAL runs.
        let table = unsafe { sys::rte_ip_frag_table_create(buckets, BUCKET_ENTRIES, max_flows, timeout, socket.0) };
        let Some(table) = NonNull::new(table) else {
            return Err(Error::Reassembly { flows: max_flows, errno: Errno::last() });
        };
        // SAFETY: the structure is a count and pointers; all zero is an empty row.
        let death_row = unsafe { Box::<sys::rte_ip_frag_death_row>::new_zeroed().assume_init() };
        Ok(FragTable { table, death_row })
    }

    /// Takes a fragment of an IPv4 datagram whose header lies at `header` of the packet.
    pub fn insert_v4(&mut self, mut packet: Mbuf, now: Tsc, header: Range<usize>) -> Reassembled {
        // The library takes the lengths on trust: they are checked here.
        let sound = packet.is_contiguous() && {
            let frame = packet.data();
            let ip = frame.get(header.clone()).unwrap_or_default();
            let total = u16_at(ip, 2);
            let offset = (u16_at(ip, 6) & 0x1FFF) * 8;
            ip.len() >= 20
                && usize::from(ip[0] & 0x0F) * 4 == ip.len()
                && total > ip.len()
                && header.start + total <= frame.len()
                && offset + total <= MAX_DATAGRAM
        };
        let (Ok(l2), Ok(l3)) = (u8::try_from(header.start), u16::try_from(header.len())) else {
            return Reassembled::Refused(packet);
        };
        if !sound || l2 > 127 || !self.has_room() {
            return Reassembled::Refused(packet);
        }
        packet.set_header_lengths(l2, l3);
        let raw = packet.into_raw();
        // SAFETY: the packet is ours to give and lies in one buffer, which holds a header at that place, with lengths
        // within the packet; the death row has room for all that one call may put there.
        let whole = unsafe {
            let ip = (*raw).buf_addr.cast::<u8>().add(usize::from((*raw).data_off) + header.start);
            sys::rte_ipv4_frag_reassemble_packet(self.table.as_ptr(), &mut *self.death_row, raw, now.0, ip.cast())
        };
        Self::outcome(whole)
    }

    /// Takes a fragment of an IPv6 datagram whose fixed header lies at `l3` of the packet. Only a fragment header right
    /// behind it can be worked with.
    pub fn insert_v6(&mut self, mut packet: Mbuf, now: Tsc, l3: usize) -> Reassembled {
        let headers = IPV6_HEADER_LEN + IPV6_FRAGMENT_HEADER_LEN;
        let sound = packet.is_contiguous() && {
            let ip = packet.data().get(l3..).unwrap_or_default();
            let payload = u16_at(ip, 4);
            let offset = u16_at(ip, IPV6_HEADER_LEN + 2) & 0xFFF8;
            ip.len() > headers
                && ip.get(6) == Some(&44)
                && payload > IPV6_FRAGMENT_HEADER_LEN
                && IPV6_HEADER_LEN + payload <= ip.len()
                && offset + payload + IPV6_HEADER_LEN <= MAX_DATAGRAM
        };
        if !sound || l3 > 127 || !self.has_room() {
            return Reassembled::Refused(packet);
        }
        packet.set_header_lengths(l3 as u8, headers as u16);
        let raw = packet.into_raw();
        // SAFETY: as for IPv4; the fragment header was found right behind the fixed one.
        let whole = unsafe {
            let ip = (*raw).buf_addr.cast::<u8>().add(usize::from((*raw).data_off) + l3);
            let fragment = ip.add(IPV6_HEADER_LEN);
            sys::rte_ipv6_frag_reassemble_packet(
                self.table.as_ptr(),
                &mut *self.death_row,
                raw,
                now.0,
                ip.cast(),
                fragment.cast(),
            )
        };
        Self::outcome(whole)
    }

    fn outcome(whole: *mut sys::rte_mbuf) -> Reassembled {
        match NonNull::new(whole) {
            // SAFETY: the library gives the datagram away.
            Some(whole) => Reassembled::Complete(unsafe { Mbuf::from_raw(whole) }),
            None => Reassembled::Held,
        }
    }

    /// Gives up datagrams whose time is over; [`FragTable::drain_dead`] then has their fragments.
    pub fn expire(&mut self, now: Tsc) {
        if self.has_room() {
            // SAFETY: table and row are ours.
            unsafe { sys::rte_ip_frag_table_del_expired_entries(self.table.as_ptr(), &mut *self.death_row, now.0) };
        }
    }

    /// One call may put a datagram's fragments there and those of one that has expired.
    fn has_room(&self) -> bool {
        (self.death_row.cnt as usize) < self.death_row.row.len() / 2
    }

    /// A packet that the library has given up: of a datagram that is damaged, overlaps itself, or took too long.
    pub fn drain_dead(&mut self) -> Option<Mbuf> {
        let last = (self.death_row.cnt as usize).checked_sub(1)?;
        self.death_row.cnt = last as u32;
        let packet = NonNull::new(*self.death_row.row.get(last)?)?;
        // SAFETY: the library gives away what it puts there, and it is no longer counted.
        Some(unsafe { Mbuf::from_raw(packet) })
    }
}

impl Drop for FragTable {
    fn drop(&mut self) {
        while self.drain_dead().is_some() {}
        // SAFETY: the table is ours; this frees what is in it.
        unsafe { sys::rte_ip_frag_table_destroy(self.table.as_ptr()) };
    }
}

fn u16_at(octets: &[u8], at: usize) -> usize {
    octets.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u16::from_be_bytes(*word).into())
}
