//! Reassembly of IP fragments by `rte_ip_frag`.
//!
//! That library trusts what it is given: it reads lengths from the headers and the offsets in the mbuf without
//! comparing them with the packet, loops forever on an empty fragment, and wraps at 65535 octets. So everything it
//! relies on is checked here first, on whatever packet comes, and a packet that fails is handed back.

use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::time::Duration;

use crate::clock::Tsc;
use crate::eal::{Eal, SocketId};
use crate::error::{Errno, Error};
use crate::life::Lease;
use crate::mbuf::{Mbuf, NotWritable};
use crate::sys;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const FRAGMENT_HEADER: usize = 8;
/// The next header value of the IPv6 fragment header (RFC 8200 section 4.5).
const NEXT_FRAGMENT: u8 = 44;
/// What a 16-bit length field can say.
const LONGEST: usize = 65535;
/// The library keeps the layer 2 length in 7 bits.
const LONGEST_L2: usize = 127;
/// Ways of the library's hash table.
const BUCKET_ENTRIES: u32 = 16;

/// What became of a fragment.
#[derive(Debug)]
pub enum Outcome {
    /// It was the last one missing: the whole datagram, as a chain, with the layer 2 header of its first fragment. The
    /// header says that it is no fragment, with the right length (and checksum, for IPv4; the IPv6 fragment header is
    /// gone).
    Complete(Mbuf),
    /// It waits for the others.
    Held,
    /// It went to the dead, perhaps with others of its datagram: see [`FragTable::drain_dead`].
    Dead,
    /// It is not a fragment that the table takes; nothing changed.
    Rejected(Mbuf, Rejection),
}

/// Why a packet is not a fragment that can be reassembled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The packet is shorter than its headers, or than they say.
    #[error("the packet is shorter than its headers say")]
    Truncated,
    /// The version, header length or total length is impossible.
    #[error("the IP header is malformed")]
    Malformed,
    /// The packet is whole: an offset of 0 and no more fragments (RFC 6946: an atomic fragment, for IPv6).
    #[error("the packet is not a fragment")]
    NotAFragment,
    /// There are extension headers in front of the fragment header, which the library does not keep right.
    #[error("the fragment header does not follow the IPv6 header")]
    ExtensionHeaders,
    /// It has no payload, or one that is not a multiple of 8 octets although more follow (RFC 791, RFC 8200 4.5).
    #[error("the fragment has an impossible length")]
    BadLength,
    /// It would end beyond 65535 octets (RFC 791, RFC 8200 4.5).
    #[error("the fragment ends beyond the longest datagram")]
    TooLong,
    /// Its buffer is shared, so that it can't be chained.
    #[error("the buffer of the packet is shared")]
    Shared,
    /// It has several segments: see [`Mbuf::linearise_into`]. In a chain that the library has given up it couldn't be told from
    /// several fragments.
    #[error("the packet is a chain of segments")]
    Chained,
}

/// Why the table gave up a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeathReason {
    /// The others did not come in time.
    Expired,
    /// The fragments of its datagram overlap, repeat, leave a hole or are too many.
    Inconsistent,
    /// There was no place for another datagram.
    TableFull,
}

/// Datagrams that are incomplete, for one core.
pub struct FragTable {
    table: NonNull<sys::rte_ip_frag_tbl>,
    /// Where the library puts what it gives up; emptied after every call, as it does not check for room.
    row: Box<sys::rte_ip_frag_death_row>,
    dead: Vec<(DeathReason, Mbuf)>,
    _lease: Lease,
}

// SAFETY: the table has one owner and keeps nothing by thread.
unsafe impl Send for FragTable {}

impl FragTable {
    /// Makes a table for up to `max_flows` datagrams at once, which are given up `timeout` after their first fragment
    /// (RFC 8200 section 4.5 asks for 60 s; a router under load wants less).
    ///
    /// # Errors
    /// [`Error::FragTableFailed`] if `max_flows` is 0 or too much for the memory of the EAL; [`Error::NotRunning`].
    pub fn new(eal: Eal, max_flows: u32, timeout: Duration, socket: SocketId) -> Result<Self, Error> {
        let failed = |reason: String| Error::FragTableFailed { max_flows, reason };
        if max_flows == 0 {
            return Err(failed("a table for no flows holds nothing".to_owned()));
        }
        let lease = Lease::take()?;
        let buckets = max_flows.div_ceil(BUCKET_ENTRIES);
        // Added to the time of arrival in the library: half the range keeps that from wrapping.
        let cycles = eal.tsc_hz().cycles(timeout).min(u64::MAX / 2);
        // SAFETY: the EAL runs, as the lease shows; the call checks its numbers.
        let table = unsafe { sys::rte_ip_frag_table_create(buckets, BUCKET_ENTRIES, max_flows, cycles, socket.raw()) };
        let table = NonNull::new(table).ok_or_else(|| failed(Errno::ENOMEM.to_string()))?;
        // SAFETY: all zeros is an empty row.
        let row = unsafe { Box::<MaybeUninit<sys::rte_ip_frag_death_row>>::new_zeroed().assume_init().assume_init() };
        Ok(Self { table, row, dead: Vec::with_capacity(64), _lease: lease })
    }

    /// Takes an IPv4 fragment whose IP header starts `l2_len` octets into the packet.
    ///
    /// `now` must not run backwards between calls.
    pub fn insert_v4(&mut self, mut packet: Mbuf, now: Tsc, l2_len: usize) -> Outcome {
        let l3_len = match check_v4(&mut packet, l2_len) {
            Ok(l3_len) => l3_len,
            Err(why) => return Outcome::Rejected(packet, why),
        };
        self.expire(now);
        let (l2, l3) = lengths(l2_len, l3_len);
        let mbuf = packet.into_raw();
        // SAFETY: a live packet, exclusive, given over to the library. Its headers lie in the first segment, its
        // lengths agree with each other, and the row is empty.
        let whole = unsafe {
            sys::shim_set_header_lengths(mbuf, l2, l3);
            let header = first_octet(mbuf).add(l2_len).cast();
            sys::rte_ipv4_frag_reassemble_packet(self.table.as_ptr(), &raw mut *self.row, mbuf, now.0, header)
        };
        let Some(whole) = NonNull::new(whole) else { return self.unfinished() };
        // SAFETY: the library gives the datagram back, and forgets it. Its first segment starts with the headers of
        // the first fragment, which passed the check.
        let packet = unsafe {
            let header: *mut sys::rte_ipv4_hdr = first_octet(whole.as_ptr()).add(l2_len).cast();
            // The library left the checksum field 0.
            let checksum = sys::rte_ipv4_cksum(header).to_ne_bytes();
            header.byte_add(10).cast::<[u8; 2]>().write(checksum);
            Mbuf::from_raw(whole)
        };
        Outcome::Complete(packet)
    }

    /// Takes an IPv6 fragment whose IP header starts `l2_len` octets into the packet, with the fragment header right
    /// behind it. `now` as for [`FragTable::insert_v4`].
    pub fn insert_v6(&mut self, mut packet: Mbuf, now: Tsc, l2_len: usize) -> Outcome {
        if let Err(why) = check_v6(&mut packet, l2_len) {
            return Outcome::Rejected(packet, why);
        }
        self.expire(now);
        let (l2, l3) = lengths(l2_len, IPV6_HEADER + FRAGMENT_HEADER);
        let mbuf = packet.into_raw();
        // SAFETY: as for IPv4; both headers lie in the first segment, one behind the other.
        let whole = unsafe {
            sys::shim_set_header_lengths(mbuf, l2, l3);
            let header = first_octet(mbuf).add(l2_len);
            let fragment = header.add(IPV6_HEADER).cast();
            let row = &raw mut *self.row;
            sys::rte_ipv6_frag_reassemble_packet(self.table.as_ptr(), row, mbuf, now.0, header.cast(), fragment)
        };
        match NonNull::new(whole) {
            // SAFETY: the library gives the datagram back, and forgets it.
            Some(whole) => Outcome::Complete(unsafe { Mbuf::from_raw(whole) }),
            None => self.unfinished(),
        }
    }

    /// Gives up the datagrams whose time is over. Called by the inserts as well, so that a table in use needs this
    /// only when no fragments come.
    pub fn expire(&mut self, now: Tsc) {
        loop {
            // SAFETY: the table and the row are valid; the call leaves off before the row overflows.
            unsafe {
                sys::rte_ip_frag_table_del_expired_entries(self.table.as_ptr(), &raw mut *self.row, now.0);
            }
            if self.collect(DeathReason::Expired) == 0 {
                return;
            }
        }
    }

    /// The fragments that the table gave up since the last time, each with the reason. Drain after every insert or
    /// burst: they keep their buffers until then.
    pub fn drain_dead(&mut self) -> impl Iterator<Item = (DeathReason, Mbuf)> + '_ {
        self.dead.drain(..)
    }

    /// What it means that a call returned no datagram.
    fn unfinished(&mut self) -> Outcome {
        // A fragment without a place dies alone; a datagram given up has another fragment at least.
        let reason = if self.row.cnt == 1 { DeathReason::TableFull } else { DeathReason::Inconsistent };
        if self.collect(reason) == 0 { Outcome::Held } else { Outcome::Dead }
    }

    /// Empties the row, and returns how many places of it were taken.
    fn collect(&mut self, reason: DeathReason) -> usize {
        let count = std::mem::take(&mut self.row.cnt) as usize;
        for packet in self.row.row.iter_mut().take(count) {
            let mut rest = std::mem::replace(packet, std::ptr::null_mut());
            let mut is_chained = false;
            // The library chains fragments from the last one on, and leaves those as a chain that it has chained before it finds a hole.
            while let Some(fragment) = NonNull::new(rest) {
                // SAFETY: what the library puts into the row it has no other pointer to. Each fragment was of one segment, so each
                // segment is a fragment, and the lengths of its headers are those that it was inserted with.
                unsafe {
                    rest = sys::shim_cut_fragment(fragment.as_ptr(), is_chained.into());
                    self.dead.push((reason, Mbuf::from_raw(fragment)));
                }
                is_chained = true;
            }
        }
        count
    }
}

impl Drop for FragTable {
    fn drop(&mut self) {
        // SAFETY: made by rte_ip_frag_table_create; this frees the fragments held as well.
        unsafe { sys::rte_ip_frag_table_destroy(self.table.as_ptr()) };
    }
}

impl fmt::Debug for FragTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FragTable").field("dead", &self.dead.len()).finish_non_exhaustive()
    }
}

/// Where the data of the first segment starts.
///
/// # Safety
/// `mbuf` must be a live, exclusive mbuf.
unsafe fn first_octet(mbuf: *mut sys::rte_mbuf) -> *mut u8 {
    // SAFETY: the data of an mbuf is within its buffer.
    unsafe { crate::mbuf::buf_addr(mbuf).add(usize::from(crate::mbuf::data_off(mbuf))) }
}

/// The lengths as the library takes them; the checks keep them in range.
fn lengths(l2_len: usize, l3_len: usize) -> (u8, u16) {
    (u8::try_from(l2_len).unwrap_or(0), u16::try_from(l3_len).unwrap_or(0))
}

fn be16(octets: &[u8], at: usize) -> Result<u16, Rejection> {
    match octets.get(at..) {
        Some([high, low, ..]) => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(Rejection::Truncated),
    }
}

/// The IP header and what follows it in the first segment.
fn layer3(packet: &Mbuf, l2_len: usize) -> Result<&[u8], Rejection> {
    if l2_len > LONGEST_L2 {
        return Err(Rejection::Malformed);
    }
    packet.data().get(l2_len..).ok_or(Rejection::Truncated)
}

/// Returns the length of the IP header, options included. Cuts off padding of the link layer.
fn check_v4(packet: &mut Mbuf, l2_len: usize) -> Result<usize, Rejection> {
    let ip = layer3(packet, l2_len)?;
    let first = *ip.first().ok_or(Rejection::Truncated)?;
    let l3_len = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || l3_len < IPV4_HEADER {
        return Err(Rejection::Malformed);
    }
    if ip.len() < l3_len {
        return Err(Rejection::Truncated);
    }
    let total = usize::from(be16(ip, 2)?);
    let fragment = be16(ip, 6)?;
    let payload = total.checked_sub(l3_len).ok_or(Rejection::Malformed)?;
    let (offset, more) = (usize::from(fragment & 0x1fff) * 8, fragment & 0x2000 != 0);
    // The longest first header counts, not this one's: another fragment may bring more options.
    check_extent(offset, payload, more, 60)?;
    settle(packet, l2_len + total)?;
    Ok(l3_len)
}

fn check_v6(packet: &mut Mbuf, l2_len: usize) -> Result<(), Rejection> {
    let ip = layer3(packet, l2_len)?;
    if *ip.first().ok_or(Rejection::Truncated)? >> 4 != 6 {
        return Err(Rejection::Malformed);
    }
    if ip.len() < IPV6_HEADER + FRAGMENT_HEADER {
        return Err(Rejection::Truncated);
    }
    if ip.get(6) != Some(&NEXT_FRAGMENT) {
        return Err(Rejection::ExtensionHeaders);
    }
    let behind_header = usize::from(be16(ip, 4)?);
    let fragment = be16(ip, IPV6_HEADER + 2)?;
    let payload = behind_header.checked_sub(FRAGMENT_HEADER).ok_or(Rejection::Malformed)?;
    check_extent(usize::from(fragment & 0xfff8), payload, fragment & 1 != 0, 0)?;
    settle(packet, l2_len + IPV6_HEADER + behind_header)
}

/// Whether a fragment of `payload` octets can be at `offset`, in a datagram whose length counts `header` octets too.
fn check_extent(offset: usize, payload: usize, more: bool, header: usize) -> Result<(), Rejection> {
    if offset == 0 && !more {
        return Err(Rejection::NotAFragment);
    }
    if payload == 0 || (more && !payload.is_multiple_of(8)) {
        return Err(Rejection::BadLength);
    }
    if offset + payload + header > LONGEST {
        return Err(Rejection::TooLong);
    }
    Ok(())
}

/// Makes the packet exactly `len` octets long, and sees that it is ours to change.
fn settle(packet: &mut Mbuf, len: usize) -> Result<(), Rejection> {
    if !packet.is_contiguous() {
        return Err(Rejection::Chained);
    }
    packet.truncate(len).map_err(|why| match why {
        NotWritable::OutOfBounds => Rejection::Truncated,
        NotWritable::Chained => Rejection::Chained,
        NotWritable::Shared => Rejection::Shared,
    })
}
