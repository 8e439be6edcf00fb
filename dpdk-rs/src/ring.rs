//! Hand-off of packets from one thread to another.

use std::cell::Cell;
use std::ffi::c_uint;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::burst::Burst;
use crate::eal::{Eal, SocketId};
use crate::error::{Errno, Error};
use crate::life::{self, Lease};
use crate::mbuf::Mbuf;
use crate::sys;

/// The most packets a ring can be made for.
const LARGEST: u32 = 1 << 30;

/// A bounded queue of packets with one producer and one consumer, without locks.
///
/// It is only ever held as its two halves; when both are dropped it is freed, with the packets left in it.
#[derive(Debug)]
pub struct MbufRing;

struct Ring {
    ring: NonNull<sys::rte_ring>,
    capacity: u32,
    _lease: Lease,
}

// SAFETY: the ring is made for one producer and one consumer at a time; each half is one of them, and neither can be
// used by two threads at once. Dropping needs that both halves are gone.
unsafe impl Send for Ring {}
// SAFETY: as above; what is shared is only counting.
unsafe impl Sync for Ring {}

/// The half that puts packets in. As with queues, it has one owner:
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<dpdk_rs::RingProducer>();
/// ```
pub struct RingProducer {
    ring: Arc<Ring>,
    not_sync: PhantomData<Cell<()>>,
}

/// The half that takes packets out.
pub struct RingConsumer {
    ring: Arc<Ring>,
    not_sync: PhantomData<Cell<()>>,
}

impl MbufRing {
    /// Makes a ring for `capacity` packets and returns its halves.
    ///
    /// # Errors
    /// [`Error::RingFailed`] if the name is taken or too long, the capacity is 0 or too large, or the EAL has not
    /// enough memory; [`Error::Nul`]; [`Error::NotRunning`].
    pub fn create(
        _eal: Eal,
        name: &str,
        capacity: u32,
        socket: SocketId,
    ) -> Result<(RingProducer, RingConsumer), Error> {
        let failed = |errno| Error::RingFailed { name: name.to_owned(), capacity, errno };
        let c_name = life::c_string("ring name", name)?;
        // rte_ring_create rounds up to a power of two, which wraps to 0 for the largest numbers.
        if capacity == 0 || capacity > LARGEST {
            return Err(failed(Errno::EINVAL));
        }
        let lease = Lease::take()?;
        // SAFETY: the EAL runs, as the lease shows; the name is NUL-terminated and copied by the call.
        let ring = unsafe { sys::rte_ring_create(c_name.as_ptr(), capacity, socket.raw(), sys::SHIM_RING_FLAGS) };
        let ring = NonNull::new(ring).ok_or_else(|| failed(Errno::last()))?;
        let ring = Arc::new(Ring { ring, capacity, _lease: lease });
        let producer = RingProducer { ring: Arc::clone(&ring), not_sync: PhantomData };
        Ok((producer, RingConsumer { ring, not_sync: PhantomData }))
    }
}

impl Ring {
    fn len(&self) -> usize {
        // SAFETY: the ring lives as long as self; counting is safe beside both halves at work.
        unsafe { sys::rte_ring_count(self.ring.as_ptr()) as usize }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        loop {
            let mut packet = std::ptr::null_mut();
            // SAFETY: both halves are gone, so that this is the one consumer; there is room for one pointer.
            let n =
                unsafe { sys::rte_ring_sc_dequeue_burst(self.ring.as_ptr(), &raw mut packet, 1, std::ptr::null_mut()) };
            match NonNull::new(packet.cast()) {
                // SAFETY: the ring owned the packet: only packets are put in, by `enqueue`.
                Some(packet) if n == 1 => drop(unsafe { Mbuf::from_raw(packet) }),
                _ => break,
            }
        }
        // SAFETY: the ring was made by rte_ring_create and nothing refers to it any more.
        unsafe { sys::rte_ring_free(self.ring.as_ptr()) };
    }
}

impl RingProducer {
    /// Puts the packets of `burst` in, from its front, as far as there is room; returns how many. The rest stays in
    /// the burst.
    #[inline]
    pub fn enqueue<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        let count = c_uint::try_from(burst.len()).unwrap_or(0);
        // SAFETY: this is the one producer, and the first `count` pointers are packets that the burst owns.
        let n = unsafe {
            sys::rte_ring_sp_enqueue_burst(self.ring.ring.as_ptr(), burst.head().cast(), count, std::ptr::null_mut())
        };
        let n = n.min(count) as usize;
        // SAFETY: the ring owns the first n packets now.
        unsafe { burst.forget_front(n) };
        n
    }

    /// How many packets are in the ring; a snapshot.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether the ring is empty; a snapshot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many packets the ring can hold.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.ring.capacity
    }

    /// Whether the consumer was dropped: what is put in now is freed with the ring.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.ring) == 1
    }
}

impl RingConsumer {
    /// Adds packets from the ring to `burst`, in order, as far as there is room; returns how many.
    #[inline]
    pub fn dequeue<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        let (tail, room) = burst.tail();
        let room = c_uint::try_from(room).unwrap_or(0);
        // SAFETY: this is the one consumer, and tail has room for so many pointers.
        let n =
            unsafe { sys::rte_ring_sc_dequeue_burst(self.ring.ring.as_ptr(), tail.cast(), room, std::ptr::null_mut()) };
        let n = n.min(room) as usize;
        // SAFETY: n pointers were written, packets that the ring owned.
        unsafe { burst.grow(n) };
        n
    }

    /// How many packets are in the ring; a snapshot.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether the ring is empty; a snapshot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the producer was dropped: once the ring is empty, it stays so.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.ring) == 1
    }
}

impl fmt::Debug for RingProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingProducer").field("len", &self.len()).field("capacity", &self.capacity()).finish()
    }
}

impl fmt::Debug for RingConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingConsumer").field("len", &self.len()).finish_non_exhaustive()
    }
}
