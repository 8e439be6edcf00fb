//! A bounded number of packets that travel together.

use std::ffi::c_uint;
use std::fmt;
use std::mem::MaybeUninit;

use crate::mbuf::Mbuf;
use crate::sys;

/// Up to `N` owned packets, in order, on the stack. What is left in it is freed in bulk when it is dropped.
///
/// Drivers fill and empty it in place. Receive into an empty burst: some vector drivers return nothing for fewer than
/// 4 (or 32) free places.
pub struct Burst<const N: usize = 64> {
    len: usize,
    // The first len are initialised.
    packets: [MaybeUninit<Mbuf>; N],
}

impl<const N: usize> Burst<N> {
    /// An empty burst.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(N > 0 && N <= u16::MAX as usize, "a burst holds 1 to 65535 packets") };
        Self { len: 0, packets: [const { MaybeUninit::uninit() }; N] }
    }

    /// How many packets it can hold.
    #[inline]
    #[must_use]
    pub const fn capacity(&self) -> usize {
        N
    }

    /// How many packets it holds.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it can't take another.
    #[inline]
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len == N
    }

    /// The packets.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[Mbuf] {
        // SAFETY: the first len are initialised.
        unsafe { std::slice::from_raw_parts(self.packets.as_ptr().cast(), self.len) }
    }

    /// The packets, to be changed: [`Mbuf::buffer_mut`] of each gives the buffers of all at once.
    #[inline]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [Mbuf] {
        // SAFETY: the first len are initialised.
        unsafe { std::slice::from_raw_parts_mut(self.packets.as_mut_ptr().cast(), self.len) }
    }

    /// The packets in order.
    #[inline]
    pub fn iter(&self) -> std::slice::Iter<'_, Mbuf> {
        self.as_slice().iter()
    }

    /// The packets in order, to be changed.
    #[inline]
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Mbuf> {
        self.as_mut_slice().iter_mut()
    }

    /// Adds a packet at the end.
    ///
    /// # Errors
    /// The packet, if the burst is full.
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

    /// Takes the last packet.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        let last = self.len.checked_sub(1)?;
        self.len = last;
        // SAFETY: it was initialised, and is outside the length now.
        self.packets.get(last).map(|place| unsafe { place.assume_init_read() })
    }

    /// Takes the packet at `index`; the last one takes its place.
    #[inline]
    pub fn swap_remove(&mut self, index: usize) -> Option<Mbuf> {
        let last = self.len.checked_sub(1)?;
        if index > last {
            return None;
        }
        self.as_mut_slice().swap(index, last);
        self.pop()
    }

    /// Takes all packets out, in order. Those not consumed are freed with the iterator.
    #[inline]
    pub fn drain(&mut self) -> Drain<'_, N> {
        let end = self.len;
        // If the iterator is leaked, so are its packets; nothing is freed twice.
        self.len = 0;
        Drain { burst: self, next: 0, end }
    }

    /// Frees all packets, in bulk.
    #[inline]
    pub fn clear(&mut self) {
        let len = std::mem::take(&mut self.len);
        self.free(0, len);
    }

    /// Frees the places from `start` to `end`, which must be initialised and outside the length.
    #[inline]
    fn free(&mut self, start: usize, end: usize) {
        if let Some(places) = self.packets.get_mut(start..end).filter(|places| !places.is_empty()) {
            let count = c_uint::try_from(places.len()).unwrap_or(0);
            // SAFETY: Mbuf is a transparent pointer, and all of them are owned here; the caller has taken them out of
            // the length, so that nothing frees them again.
            unsafe { sys::rte_pktmbuf_free_bulk(places.as_mut_ptr().cast(), count) };
        }
    }

    /// Where the next packets go, as C sees it, and for how many there is room.
    #[inline]
    pub(crate) fn tail(&mut self) -> (*mut *mut sys::rte_mbuf, usize) {
        // SAFETY: len is at most N, so that this points into the array or to its end.
        (unsafe { self.packets.as_mut_ptr().add(self.len) }.cast(), N - self.len)
    }

    /// Counts `n` packets more.
    ///
    /// # Safety
    /// `n` owned packets were written to [`Burst::tail`], within its room.
    #[inline]
    pub(crate) unsafe fn grow(&mut self, n: usize) {
        debug_assert!(n <= N - self.len, "a driver returned more packets than it was asked for");
        self.len += n;
    }

    /// The packets as C sees them.
    #[inline]
    pub(crate) fn head(&mut self) -> *mut *mut sys::rte_mbuf {
        self.packets.as_mut_ptr().cast()
    }

    /// Forgets the first `n` packets, which have another owner now, and closes the gap.
    ///
    /// # Safety
    /// `n` is at most the length, and someone else owns those packets.
    #[inline]
    pub(crate) unsafe fn forget_front(&mut self, n: usize) {
        debug_assert!(n <= self.len, "a driver took more packets than it was given");
        let rest = self.len - n;
        if n > 0 && rest > 0 {
            let start = self.packets.as_mut_ptr();
            // SAFETY: both ranges are within the array.
            unsafe { std::ptr::copy(start.add(n), start, rest) };
        }
        self.len = rest;
    }
}

impl<const N: usize> Default for Burst<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Drop for Burst<N> {
    #[inline]
    fn drop(&mut self) {
        self.clear();
    }
}

impl<const N: usize> fmt::Debug for Burst<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, const N: usize> IntoIterator for &'a Burst<N> {
    type Item = &'a Mbuf;
    type IntoIter = std::slice::Iter<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, const N: usize> IntoIterator for &'a mut Burst<N> {
    type Item = &'a mut Mbuf;
    type IntoIter = std::slice::IterMut<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

/// The packets of a burst, by value: see [`Burst::drain`].
#[derive(Debug)]
pub struct Drain<'a, const N: usize> {
    burst: &'a mut Burst<N>,
    next: usize,
    end: usize,
}

impl<const N: usize> Iterator for Drain<'_, N> {
    type Item = Mbuf;

    #[inline]
    fn next(&mut self) -> Option<Mbuf> {
        if self.next == self.end {
            return None;
        }
        let place = self.burst.packets.get(self.next)?;
        self.next += 1;
        // SAFETY: it was initialised when the drain began; the burst's length is 0 since, and each place is read once.
        Some(unsafe { place.assume_init_read() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end - self.next;
        (left, Some(left))
    }
}

impl<const N: usize> ExactSizeIterator for Drain<'_, N> {}

impl<const N: usize> Drop for Drain<'_, N> {
    #[inline]
    fn drop(&mut self) {
        self.burst.free(self.next, self.end);
    }
}
