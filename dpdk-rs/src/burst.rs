//! Several packets at a time.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::mbuf::Mbuf;
use crate::sys;

/// Up to `N` packets. What is in it when it is dropped goes back to the pools.
pub struct Burst<const N: usize> {
    /// The first `len` are valid.
    packets: [MaybeUninit<Mbuf>; N],
    len: usize,
}

impl<const N: usize> Default for Burst<N> {
    fn default() -> Self {
        Burst { packets: [const { MaybeUninit::uninit() }; N], len: 0 }
    }
}

impl<const N: usize> Burst<N> {
    /// How many packets there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no room for another.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len == N
    }

    /// The packets.
    #[inline]
    pub fn as_slice(&self) -> &[Mbuf] {
        // SAFETY: the first `len` are valid, and MaybeUninit has the layout of what is in it.
        unsafe { std::slice::from_raw_parts(self.packets.as_ptr().cast(), self.len) }
    }

    /// The packets, to be changed.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Mbuf] {
        // SAFETY: as above, and the burst is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.packets.as_mut_ptr().cast(), self.len) }
    }

    /// Adds a packet; gives it back where the burst is full.
    #[inline]
    pub fn push(&mut self, packet: Mbuf) -> Result<(), Mbuf> {
        match self.packets.get_mut(self.len) {
            Some(place) => {
                place.write(packet);
                self.len += 1;
                Ok(())
            }
            None => Err(packet),
        }
    }

    /// Takes all packets out, in order. Those that the iterator has not given when it is dropped are freed.
    #[inline]
    pub fn drain(&mut self) -> Drain<'_, N> {
        let len = std::mem::take(&mut self.len);
        Drain { burst: self, next: 0, len }
    }

    /// Frees all packets at once.
    #[inline]
    pub fn clear(&mut self) {
        let len = std::mem::take(&mut self.len);
        if len > 0 {
            // SAFETY: the first `len` are valid and ours; with `len` at 0 nobody will look at them again.
            unsafe { sys::rte_pktmbuf_free_bulk(self.packets.as_mut_ptr().cast(), len as u32) };
        }
    }

    /// Room for `N` pointers that C fills, and what to do with how many it has.
    #[inline]
    pub(crate) fn fill(&mut self, receive: impl FnOnce(*mut *mut sys::rte_mbuf, usize) -> usize) -> usize {
        let room = N - self.len;
        // SAFETY: `len` is at most N.
        let free = unsafe { self.packets.as_mut_ptr().add(self.len) };
        let count = receive(free.cast(), room).min(room);
        self.len += count;
        count
    }

    /// The pointers, for C to take the first few, and what to do with how many it has taken.
    #[inline]
    pub(crate) fn give(&mut self, send: impl FnOnce(*mut *mut sys::rte_mbuf, usize) -> usize) -> usize {
        let count = send(self.packets.as_mut_ptr().cast(), self.len).min(self.len);
        let left = self.len - count;
        let start = self.packets.as_mut_ptr();
        // SAFETY: both ranges lie within the first `len`; what C has taken is overwritten without being dropped.
        unsafe { std::ptr::copy(start.add(count), start, left) };
        self.len = left;
        count
    }
}

impl<const N: usize> Drop for Burst<N> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Takes a burst's packets out.
pub struct Drain<'b, const N: usize> {
    burst: &'b mut Burst<N>,
    next: usize,
    len: usize,
}

impl<const N: usize> Iterator for Drain<'_, N> {
    type Item = Mbuf;

    #[inline]
    fn next(&mut self) -> Option<Mbuf> {
        if self.next == self.len {
            return None;
        }
        let place = self.burst.packets.get(self.next)?;
        self.next += 1;
        // SAFETY: it was valid when the drain began, and each place is read once.
        Some(unsafe { place.assume_init_read() })
    }
}

impl<const N: usize> Drop for Drain<'_, N> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

/// A packet, or none, is a pointer: what C reads and writes.
const _: () = assert!(size_of::<Mbuf>() == size_of::<NonNull<u8>>());
