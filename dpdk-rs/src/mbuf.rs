//! One packet.

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;

use crate::mempool::Mempool;
use crate::sys;

/// A packet in one or more buffers. It has one owner, and goes back to its pool when that drops it.
///
/// ```compile_fail
/// # fn example(mbuf: dpdk_rs::Mbuf) {
/// drop(mbuf);
/// mbuf.pkt_len(); // it was given away
/// # }
/// ```
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: a packet may be freed by another thread than the one that allocated it.
unsafe impl Send for Mbuf {}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: we own the packet, and give it up here.
        unsafe { sys::rte_pktmbuf_free(self.0.as_ptr()) };
    }
}

impl Mbuf {
    /// Takes a packet over.
    ///
    /// # Safety
    /// It must be a valid mbuf that nobody else owns.
    pub(crate) unsafe fn from_raw(mbuf: NonNull<sys::rte_mbuf>) -> Mbuf {
        Mbuf(mbuf)
    }

    /// Gives the packet up to C.
    pub(crate) fn into_raw(self) -> *mut sys::rte_mbuf {
        let mbuf = self.0.as_ptr();
        std::mem::forget(self);
        mbuf
    }

    fn raw(&self) -> &sys::rte_mbuf {
        // SAFETY: we own the packet, and C doesn't touch it meanwhile.
        unsafe { self.0.as_ref() }
    }

    fn raw_mut(&mut self) -> &mut sys::rte_mbuf {
        // SAFETY: as above, and we hold the only reference.
        unsafe { self.0.as_mut() }
    }

    /// Octets of the packet, over all its buffers.
    #[inline]
    pub fn pkt_len(&self) -> usize {
        self.raw().pkt_len as usize
    }

    /// Buffers of the packet.
    #[inline]
    pub fn segments(&self) -> usize {
        self.raw().nb_segs.into()
    }

    /// Whether the packet lies in one buffer.
    #[inline]
    pub fn is_contiguous(&self) -> bool {
        self.raw().nb_segs == 1
    }

    /// The part of the packet that lies in its first buffer.
    #[inline]
    pub fn data(&self) -> &[u8] {
        segment_data(self.raw())
    }

    /// The whole first buffer, room in front of the packet and behind it included, and where in it the packet lies. None
    /// for a packet of several buffers, and for a buffer that is shared or not the mbuf's own.
    #[inline]
    pub fn buffer_mut(&mut self) -> Option<(&mut [u8], Range<usize>)> {
        let raw = self.raw();
        let own = raw.refcnt == 1 && raw.ol_flags & (sys::RTE_MBUF_F_INDIRECT | sys::RTE_MBUF_F_EXTERNAL) == 0;
        if !own || raw.nb_segs != 1 || raw.buf_addr.is_null() {
            return None;
        }
        let (start, len) = (usize::from(raw.data_off), usize::from(raw.data_len));
        let (address, buf_len) = (raw.buf_addr.cast::<u8>(), usize::from(raw.buf_len));
        // SAFETY: the buffer has buf_len octets, which were written when its pool was made; it is this mbuf's alone, and
        // the mbuf is borrowed mutably for as long.
        let buffer = unsafe { std::slice::from_raw_parts_mut(address, buf_len) };
        Some((buffer, start..start + len))
    }

    /// Sets where the packet lies in its buffer. False, and nothing changed, if that isn't within the buffer or the
    /// packet has several.
    #[inline]
    #[must_use]
    pub fn set_data(&mut self, range: Range<usize>) -> bool {
        let raw = self.raw_mut();
        if raw.nb_segs != 1 || range.start > range.end || range.end > usize::from(raw.buf_len) {
            return false;
        }
        // Both fit: buf_len is of 16 bits.
        raw.data_off = range.start as u16;
        raw.data_len = range.len() as u16;
        raw.pkt_len = range.len() as u32;
        true
    }

    /// Puts octets behind the packet. False, and nothing changed, without room for them.
    #[must_use]
    pub fn append(&mut self, octets: &[u8]) -> bool {
        let Some((buffer, data)) = self.buffer_mut() else {
            return false;
        };
        let end = data.end + octets.len();
        let Some(room) = buffer.get_mut(data.end..end) else {
            return false;
        };
        room.copy_from_slice(octets);
        self.set_data(data.start..end)
    }

    /// The port that it was received on, by DPDK's number.
    #[inline]
    pub fn port(&self) -> u16 {
        self.raw().port
    }

    /// Copies the packet into one buffer of `pool`.
    ///
    /// # Errors
    /// Gives it back if the pool has no buffer, or its buffers are too small.
    pub fn linearise(self, pool: Mempool) -> Result<Mbuf, Mbuf> {
        let Some(mut copy) = pool.alloc() else {
            return Err(self);
        };
        let mut segment = Some(self.raw());
        while let Some(raw) = segment {
            if !copy.append(segment_data(raw)) {
                return Err(self);
            }
            // SAFETY: the segments of a packet are its owner's, and the last one's `next` is null.
            segment = unsafe { raw.next.as_ref() };
        }
        copy.raw_mut().port = self.port();
        Ok(copy)
    }

    /// Tells libraries where the headers end: octets of layer 2 and of layer 3.
    pub(crate) fn set_header_lengths(&mut self, l2: u8, l3: u16) {
        // l2_len is the lowest 7 bits of tx_offload, l3_len the 9 above them: a layout that rte_mbuf_core.h fixes.
        self.raw_mut().__bindgen_anon_3.tx_offload = u64::from(l2 & 0x7F) | u64::from(l3 & 0x1FF) << 7;
    }
}

fn segment_data(raw: &sys::rte_mbuf) -> &[u8] {
    if raw.buf_addr.is_null() {
        return &[];
    }
    // SAFETY: a segment's data_len octets at data_off lie within its buffer; C, or `set_data`, has seen to it.
    unsafe {
        let data = raw.buf_addr.cast::<u8>().add(raw.data_off.into());
        std::slice::from_raw_parts(data, raw.data_len.into())
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf").field("pkt_len", &self.pkt_len()).field("segments", &self.segments()).finish()
    }
}
