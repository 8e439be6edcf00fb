//! One owned packet.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::mempool::Mempool;
use crate::port::PortId;
use crate::prefetch::prefetch_read;
use crate::sys;

/// One packet: a chain of one or more segments, each a buffer with data somewhere within it. Owned: not `Clone`, and
/// freed when dropped.
///
/// Most packets are *exclusive*: their buffers belong to this packet alone. Some drivers and libraries make packets
/// that share their buffer with another one, or whose buffer is memory of someone else; those can be read and sent, but
/// what would change them returns an error.
///
/// A packet that was sent is gone:
/// ```compile_fail,E0382
/// fn f(tx: &mut dpdk_rs::TxQueue, burst: &mut dpdk_rs::Burst, packet: dpdk_rs::Mbuf) -> usize {
///     let _ = burst.push(packet);
///     tx.send(burst);
///     packet.pkt_len()
/// }
/// ```
// Transparent, so that an array of mbufs is the array of pointers that the burst functions take.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: an Mbuf is the only handle of its mbuf. Pools take mbufs back from any thread, and the reference count, the
// one field shared between mbufs, is atomic.
unsafe impl Send for Mbuf {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for Mbuf {}

/// Why a packet can't be changed in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWritable {
    /// The buffer is shared with another packet, or memory that is not the pool's.
    #[error("the buffer of the packet is shared")]
    Shared,
    /// The packet has more than one segment: see [`Mbuf::linearise_into`].
    #[error("the packet has more than one segment")]
    Chained,
    /// The range asked for does not fit into the buffer or the data.
    #[error("the range does not fit into the buffer of the packet")]
    OutOfBounds,
}

/// What the hardware found of a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumStatus {
    /// Verified and right.
    Good,
    /// Verified and wrong.
    Bad,
    /// Not verified: the software has to.
    Unknown,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident, $set:ident: $type:ty = $offset:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// `mbuf` must be a live mbuf.
        #[inline(always)]
        #[allow(dead_code)]
        pub(crate) unsafe fn $name(mbuf: *const sys::rte_mbuf) -> $type {
            // SAFETY: the shim took offset and width from the header; an mbuf is aligned to its cache line.
            unsafe { mbuf.byte_add(sys::$offset).cast::<$type>().read() }
        }

        /// Sets the field of the same name.
        ///
        /// # Safety
        /// `mbuf` must be a live mbuf that the caller owns, and stay consistent.
        #[inline(always)]
        #[allow(dead_code)]
        unsafe fn $set(mbuf: *mut sys::rte_mbuf, value: $type) {
            // SAFETY: as for reading.
            unsafe { mbuf.byte_add(sys::$offset).cast::<$type>().write(value) }
        }
    )*};
}

fields! {
    /// The start of the buffer.
    buf_addr, set_buf_addr: *mut u8 = SHIM_MBUF_BUF_ADDR;
    /// The size of the buffer.
    buf_len, set_buf_len: u16 = SHIM_MBUF_BUF_LEN;
    /// Where in the buffer the data starts.
    data_off, set_data_off: u16 = SHIM_MBUF_DATA_OFF;
    /// How much data this segment has.
    data_len, set_data_len: u16 = SHIM_MBUF_DATA_LEN;
    /// How much data the whole chain has (in its first segment).
    pkt_len, set_pkt_len: u32 = SHIM_MBUF_PKT_LEN;
    /// How many segments the chain has (in its first segment).
    nb_segs, set_nb_segs: u16 = SHIM_MBUF_NB_SEGS;
    /// The next segment.
    next, set_next: *mut sys::rte_mbuf = SHIM_MBUF_NEXT;
    /// The port it came from.
    port, set_port: u16 = SHIM_MBUF_PORT;
    /// What is known of it, as flags.
    ol_flags, set_ol_flags: u64 = SHIM_MBUF_OL_FLAGS;
    /// The hash that chose the queue.
    rss_hash, set_rss_hash: u32 = SHIM_MBUF_RSS_HASH;
    /// The VLAN tag that was stripped.
    vlan_tci, set_vlan_tci: u16 = SHIM_MBUF_VLAN_TCI;
}

/// Whether the segment's buffer is its own and nobody else refers to it.
///
/// # Safety
/// `mbuf` must be a live mbuf.
#[inline]
unsafe fn is_exclusive(mbuf: *mut sys::rte_mbuf) -> bool {
    // SAFETY: the caller vouches for the mbuf; the count is only ever accessed atomically.
    unsafe {
        let refcnt = AtomicU16::from_ptr(mbuf.byte_add(sys::SHIM_MBUF_REFCNT).cast());
        ol_flags(mbuf) & sys::SHIM_F_NOT_DIRECT == 0 && refcnt.load(Ordering::Acquire) == 1
    }
}

impl Mbuf {
    /// Takes ownership.
    ///
    /// # Safety
    /// `mbuf` must be the first segment of a packet from a pool of this crate, to which nobody else has a handle.
    #[inline]
    pub(crate) unsafe fn from_raw(mbuf: NonNull<sys::rte_mbuf>) -> Self {
        Self(mbuf)
    }

    /// Gives up ownership.
    #[inline]
    pub(crate) fn into_raw(self) -> *mut sys::rte_mbuf {
        let mbuf = self.0.as_ptr();
        std::mem::forget(self);
        mbuf
    }

    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mbuf {
        self.0.as_ptr()
    }

    /// Bytes of the whole packet, over all segments.
    #[inline]
    #[must_use]
    pub fn pkt_len(&self) -> usize {
        // SAFETY: self is a live mbuf.
        unsafe { pkt_len(self.as_ptr()) as usize }
    }

    /// Number of segments, at least 1.
    #[inline]
    #[must_use]
    pub fn nb_segs(&self) -> u16 {
        // SAFETY: self is a live mbuf.
        unsafe { nb_segs(self.as_ptr()) }
    }

    /// Whether all the data is in the first segment.
    #[inline]
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.nb_segs() == 1
    }

    /// The data of the first segment.
    #[inline]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        // SAFETY: self is a live mbuf, and lends its segments.
        unsafe { segment_data(self.as_ptr()) }
    }

    /// The data of the first segment, to be changed.
    ///
    /// # Errors
    /// [`NotWritable::Shared`].
    #[inline]
    pub fn data_mut(&mut self) -> Result<&mut [u8], NotWritable> {
        let range = self.data_range();
        let buffer = self.first_buffer_mut()?;
        buffer.get_mut(range).ok_or(NotWritable::OutOfBounds)
    }

    /// Where in its buffer the data of the first segment is.
    #[inline]
    #[must_use]
    pub fn data_range(&self) -> Range<usize> {
        // SAFETY: self is a live mbuf.
        let (off, len) = unsafe { (data_off(self.as_ptr()), data_len(self.as_ptr())) };
        usize::from(off)..usize::from(off) + usize::from(len)
    }

    /// The data of each segment, in order.
    #[inline]
    #[must_use]
    pub fn segments(&self) -> Segments<'_> {
        Segments { next: self.as_ptr(), packet: PhantomData }
    }

    /// Free bytes in front of the data of the first segment.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.data_range().start
    }

    /// Free bytes behind the data of the first segment.
    #[inline]
    #[must_use]
    pub fn tailroom(&self) -> usize {
        self.buffer_len().saturating_sub(self.data_range().end)
    }

    /// The size of the first segment's buffer.
    #[inline]
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        // SAFETY: self is a live mbuf.
        usize::from(unsafe { buf_len(self.as_ptr()) })
    }

    /// Whether [`Mbuf::buffer_mut`] lends the buffer: it is one, and this packet's alone.
    #[inline]
    #[must_use]
    pub fn is_lendable(&self) -> bool {
        self.is_contiguous() && self.check_exclusive().is_ok()
    }

    /// The whole buffer of a packet of one segment, headroom and tailroom included, and where in it the data is.
    ///
    /// For code that works on plain slices: change the bytes, then say with [`Mbuf::set_data`] where the data is now.
    ///
    /// # Errors
    /// [`NotWritable::Chained`] or [`NotWritable::Shared`].
    #[inline]
    pub fn buffer_mut(&mut self) -> Result<(&mut [u8], Range<usize>), NotWritable> {
        if !self.is_contiguous() {
            return Err(NotWritable::Chained);
        }
        let range = self.data_range();
        Ok((self.first_buffer_mut()?, range))
    }

    /// Says that the data of a packet of one segment are `len` bytes from `off` in its buffer.
    ///
    /// # Errors
    /// [`NotWritable::OutOfBounds`] if that is not within the buffer, [`NotWritable::Chained`] or
    /// [`NotWritable::Shared`]. The packet is unchanged then.
    #[inline]
    pub fn set_data(&mut self, off: usize, len: usize) -> Result<(), NotWritable> {
        if !self.is_contiguous() {
            return Err(NotWritable::Chained);
        }
        self.check_exclusive()?;
        let end = off.checked_add(len).ok_or(NotWritable::OutOfBounds)?;
        let (Ok(off), Ok(len)) = (u16::try_from(off), u16::try_from(len)) else {
            return Err(NotWritable::OutOfBounds);
        };
        if end > self.buffer_len() {
            return Err(NotWritable::OutOfBounds);
        }
        // SAFETY: self is a live mbuf of one segment that nobody else has, and the range is within its buffer.
        unsafe {
            set_data_off(self.as_ptr(), off);
            set_data_len(self.as_ptr(), len);
            set_pkt_len(self.as_ptr(), u32::from(len));
        }
        Ok(())
    }

    /// Grows a packet of one segment by `n` bytes at its end, and returns those.
    ///
    /// # Errors
    /// As [`Mbuf::set_data`].
    #[inline]
    pub fn append(&mut self, n: usize) -> Result<&mut [u8], NotWritable> {
        let Range { start, end } = self.data_range();
        let new_end = end.checked_add(n).ok_or(NotWritable::OutOfBounds)?;
        self.set_data(start, new_end - start)?;
        self.first_buffer_mut()?.get_mut(end..new_end).ok_or(NotWritable::OutOfBounds)
    }

    /// Grows a packet of one segment by `n` bytes at its start, and returns those.
    ///
    /// # Errors
    /// As [`Mbuf::set_data`].
    #[inline]
    pub fn prepend(&mut self, n: usize) -> Result<&mut [u8], NotWritable> {
        let Range { start, end } = self.data_range();
        let new_start = start.checked_sub(n).ok_or(NotWritable::OutOfBounds)?;
        self.set_data(new_start, end - new_start)?;
        self.first_buffer_mut()?.get_mut(new_start..start).ok_or(NotWritable::OutOfBounds)
    }

    /// Takes `n` bytes off the start; they must all be in the first segment.
    ///
    /// # Errors
    /// [`NotWritable::OutOfBounds`] if the first segment has fewer, [`NotWritable::Shared`].
    #[inline]
    pub fn adj(&mut self, n: usize) -> Result<(), NotWritable> {
        self.check_exclusive()?;
        let m = self.as_ptr();
        // SAFETY: self is a live mbuf that nobody else has; n is at most its data.
        unsafe {
            let n = u16::try_from(n).ok().filter(|n| *n <= data_len(m)).ok_or(NotWritable::OutOfBounds)?;
            set_data_off(m, data_off(m) + n);
            set_data_len(m, data_len(m) - n);
            set_pkt_len(m, pkt_len(m).saturating_sub(u32::from(n)));
        }
        Ok(())
    }

    /// Takes `n` bytes off the end, over as many segments as it needs; segments left empty are freed.
    ///
    /// # Errors
    /// [`NotWritable::OutOfBounds`] if the packet has fewer, [`NotWritable::Shared`].
    pub fn trim(&mut self, n: usize) -> Result<(), NotWritable> {
        let len: usize = self.segments().map(<[u8]>::len).sum();
        self.truncate(len.checked_sub(n).ok_or(NotWritable::OutOfBounds)?)
    }

    /// Cuts the packet to its first `len` bytes; segments left empty are freed, but for the first.
    ///
    /// # Errors
    /// [`NotWritable::OutOfBounds`] if the packet has fewer, [`NotWritable::Shared`]. It is unchanged then.
    pub fn truncate(&mut self, len: usize) -> Result<(), NotWritable> {
        if !self.is_exclusive() {
            return Err(NotWritable::Shared);
        }
        let mut left = len;
        let mut last = self.as_ptr();
        let mut segments: u16 = 1;
        // SAFETY: self is a live chain, all of it exclusive; `last` walks over its segments and is never null.
        unsafe {
            while usize::from(data_len(last)) < left {
                left -= usize::from(data_len(last));
                last = next(last);
                if last.is_null() {
                    return Err(NotWritable::OutOfBounds);
                }
                segments += 1;
            }
            let rest = next(last);
            set_next(last, std::ptr::null_mut());
            if !rest.is_null() {
                sys::rte_pktmbuf_free(rest);
            }
            // left is at most data_len, which is a u16.
            set_data_len(last, u16::try_from(left).unwrap_or(u16::MAX));
            set_nb_segs(self.as_ptr(), segments);
            set_pkt_len(self.as_ptr(), u32::try_from(len).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    /// Copies the packet into one segment of `pool`, whose buffers must be large enough; then frees it. The metadata
    /// that this type shows (port, flags, hash, VLAN) is copied as well.
    ///
    /// # Errors
    /// The packet, unchanged, if it does not fit or the pool is exhausted.
    pub fn linearise_into(self, pool: &Mempool) -> Result<Self, Self> {
        let Some(mut copy) = pool.alloc() else { return Err(self) };
        let len = self.segments().map(<[u8]>::len).sum();
        let Ok(mut room) = copy.append(len) else { return Err(self) };
        for segment in self.segments() {
            let Some((head, tail)) = room.split_at_mut_checked(segment.len()) else { return Err(self) };
            head.copy_from_slice(segment);
            room = tail;
        }
        let (from, to) = (self.as_ptr(), copy.as_ptr());
        // Not the flags of the buffer, nor those for fields that are not copied.
        const KEPT: u64 =
            sys::SHIM_F_RSS_HASH | sys::SHIM_F_VLAN_STRIPPED | sys::SHIM_F_IP_CKSUM_MASK | sys::SHIM_F_L4_CKSUM_MASK;
        // SAFETY: both are live, and `to` is ours alone.
        unsafe {
            set_port(to, port(from));
            set_ol_flags(to, ol_flags(from) & KEPT);
            set_rss_hash(to, rss_hash(from));
            set_vlan_tci(to, vlan_tci(from));
        }
        Ok(copy)
    }

    /// Whether every segment has a buffer of its own, so that the packet can be changed.
    #[inline]
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        let mut segment = self.as_ptr();
        // SAFETY: self is a live chain that ends in a null pointer.
        unsafe {
            while !segment.is_null() {
                if !is_exclusive(segment) {
                    return false;
                }
                segment = next(segment);
            }
        }
        true
    }

    /// The port that received it.
    #[inline]
    #[must_use]
    pub fn port(&self) -> Option<PortId> {
        // SAFETY: self is a live mbuf.
        let port = unsafe { port(self.as_ptr()) };
        (port != sys::SHIM_MBUF_PORT_INVALID).then_some(PortId::new(port))
    }

    /// The hash by which the port chose the queue, if it gave one.
    #[inline]
    #[must_use]
    pub fn rss_hash(&self) -> Option<u32> {
        // SAFETY: self is a live mbuf.
        self.has(sys::SHIM_F_RSS_HASH).then(|| unsafe { rss_hash(self.as_ptr()) })
    }

    /// The tag (priority, DEI and VLAN ID) that the port took out of the frame, if it did.
    #[inline]
    #[must_use]
    pub fn stripped_vlan(&self) -> Option<u16> {
        // SAFETY: self is a live mbuf.
        self.has(sys::SHIM_F_VLAN_STRIPPED).then(|| unsafe { vlan_tci(self.as_ptr()) })
    }

    /// What the port found of the IPv4 header checksum (of the outer header).
    #[inline]
    #[must_use]
    pub fn ip_checksum(&self) -> ChecksumStatus {
        self.checksum(sys::SHIM_F_IP_CKSUM_MASK, sys::SHIM_F_IP_CKSUM_GOOD, sys::SHIM_F_IP_CKSUM_BAD)
    }

    /// What the port found of the UDP or TCP checksum.
    #[inline]
    #[must_use]
    pub fn l4_checksum(&self) -> ChecksumStatus {
        self.checksum(sys::SHIM_F_L4_CKSUM_MASK, sys::SHIM_F_L4_CKSUM_GOOD, sys::SHIM_F_L4_CKSUM_BAD)
    }

    /// Asks the CPU to load the start of the data; worth it a few packets ahead.
    #[inline(always)]
    pub fn prefetch(&self) {
        if let Some(first) = self.data().first() {
            prefetch_read(first);
        }
    }

    /// Makes `pkt_len` what the segments add up to.
    ///
    /// The pcap driver reports the length in the file for a frame that did not fit its 16-bit arithmetic, and code in
    /// C that trusts it would run off the chain.
    #[inline]
    pub(crate) fn settle_length(&mut self) {
        if !self.is_contiguous() {
            let len: usize = self.segments().map(<[u8]>::len).sum();
            // SAFETY: self is a live mbuf, owned.
            unsafe { set_pkt_len(self.as_ptr(), u32::try_from(len).unwrap_or(u32::MAX)) };
        }
    }

    #[inline]
    fn has(&self, flags: u64) -> bool {
        // SAFETY: self is a live mbuf.
        unsafe { ol_flags(self.as_ptr()) & flags == flags }
    }

    #[inline]
    fn checksum(&self, mask: u64, good: u64, bad: u64) -> ChecksumStatus {
        // SAFETY: self is a live mbuf.
        match unsafe { ol_flags(self.as_ptr()) } & mask {
            flags if flags == good => ChecksumStatus::Good,
            flags if flags == bad => ChecksumStatus::Bad,
            _ => ChecksumStatus::Unknown,
        }
    }

    #[inline]
    fn check_exclusive(&self) -> Result<(), NotWritable> {
        // SAFETY: self is a live mbuf.
        if unsafe { is_exclusive(self.as_ptr()) } { Ok(()) } else { Err(NotWritable::Shared) }
    }

    #[inline]
    fn first_buffer_mut(&mut self) -> Result<&mut [u8], NotWritable> {
        self.check_exclusive()?;
        let m = self.as_ptr();
        // SAFETY: the buffer belongs to this mbuf alone (direct, referred to once), which self borrows mutably. All of
        // it is initialised: its pool wrote zeros over it when it was made.
        Ok(unsafe { std::slice::from_raw_parts_mut(buf_addr(m), usize::from(buf_len(m))) })
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: self owns the packet.
        unsafe { sys::rte_pktmbuf_free(self.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No data: it may be plain text of someone's.
        f.debug_struct("Mbuf")
            .field("pkt_len", &self.pkt_len())
            .field("nb_segs", &self.nb_segs())
            .field("port", &self.port())
            .finish_non_exhaustive()
    }
}

/// The data of the segments of a packet: see [`Mbuf::segments`].
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    next: *mut sys::rte_mbuf,
    packet: PhantomData<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.next.is_null() {
            return None;
        }
        // SAFETY: a live segment of the packet, which is borrowed for 'a.
        unsafe {
            let data = segment_data(self.next);
            self.next = next(self.next);
            Some(data)
        }
    }
}

/// The data of one segment.
///
/// # Safety
/// `mbuf` must be live and stay so, unchanged, for `'a`.
#[inline]
unsafe fn segment_data<'a>(mbuf: *const sys::rte_mbuf) -> &'a [u8] {
    // SAFETY: the data of an mbuf is within its buffer, an invariant of DPDK that every setter above keeps, and was
    // written by whoever set its length (or at least by the pool).
    unsafe {
        let start = buf_addr(mbuf).add(usize::from(data_off(mbuf)));
        std::slice::from_raw_parts(start, usize::from(data_len(mbuf)))
    }
}

#[cfg(test)]
mod tests {
    //! What only a driver can do to a packet: share its buffer, set its flags.

    use super::*;
    use crate::{Eal, Mempool, SocketId};

    fn first_cpu() -> String {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        list.trim().split(['-', ',']).next().unwrap().to_owned()
    }

    /// The one test of this binary that starts the EAL.
    #[test]
    fn what_drivers_set_is_read_and_what_they_share_is_not_written() {
        let lcores = format!("--lcores=0@{}", first_cpu());
        let args = ["--no-huge", "-m", "64", "--no-pci", "--no-shconf", "--no-telemetry", &lcores];
        let eal = Eal::init(args.map(str::to_owned)).unwrap();
        let pool = Mempool::create(eal, "unit", 63, 0, 1024, SocketId::ANY).unwrap();
        let mut packet = pool.alloc().unwrap();
        packet.append(4).unwrap().copy_from_slice(b"data");
        let m = packet.as_ptr();

        // SAFETY: a live mbuf of our own; the flags set have their fields set as well.
        unsafe {
            set_port(m, 3);
            set_rss_hash(m, 0xdead_beef);
            set_vlan_tci(m, 0x2064);
            set_ol_flags(
                m,
                sys::SHIM_F_RSS_HASH | sys::SHIM_F_VLAN_STRIPPED | sys::SHIM_F_IP_CKSUM_GOOD | sys::SHIM_F_L4_CKSUM_BAD,
            );
        }
        let check = |packet: &Mbuf| {
            assert_eq!(packet.port(), Some(PortId::new(3)));
            assert_eq!((packet.rss_hash(), packet.stripped_vlan()), (Some(0xdead_beef), Some(0x2064)));
            assert_eq!((packet.ip_checksum(), packet.l4_checksum()), (ChecksumStatus::Good, ChecksumStatus::Bad));
        };
        check(&packet);
        let mut packet = packet.linearise_into(&pool).unwrap();
        check(&packet);
        assert_eq!((packet.data(), pool.in_use()), (&b"data"[..], 1));

        let m = packet.as_ptr();
        for (what, refcnt, flags) in [("counted twice", 2_u16, 0), ("not its own", 1, sys::SHIM_F_NOT_DIRECT)] {
            // SAFETY: a live mbuf of our own, whose count and flags are put back before it is freed.
            unsafe {
                m.byte_add(sys::SHIM_MBUF_REFCNT).cast::<u16>().write(refcnt);
                set_ol_flags(m, flags);
            }
            assert!(!packet.is_exclusive(), "{what}");
            assert_eq!(packet.data(), b"data", "{what}");
            assert_eq!(packet.buffer_mut().err(), Some(NotWritable::Shared), "{what}");
            assert_eq!(packet.data_mut().err(), Some(NotWritable::Shared), "{what}");
            assert_eq!(packet.append(1).err(), Some(NotWritable::Shared), "{what}");
            assert_eq!(packet.prepend(1).err(), Some(NotWritable::Shared), "{what}");
            assert_eq!(packet.set_data(0, 1), Err(NotWritable::Shared), "{what}");
            assert_eq!(packet.adj(1), Err(NotWritable::Shared), "{what}");
            assert_eq!(packet.trim(1), Err(NotWritable::Shared), "{what}");
            // SAFETY: as above.
            unsafe {
                m.byte_add(sys::SHIM_MBUF_REFCNT).cast::<u16>().write(1);
                set_ol_flags(m, 0);
            }
        }
        assert!(packet.is_exclusive());
        drop(packet);
        assert_eq!(pool.in_use(), 0);
    }
}
