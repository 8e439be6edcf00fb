//! Handing packets from one core to another.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::burst::Burst;
use crate::eal::{Eal, c_string};
use crate::errno::{Errno, Error};
use crate::mbuf::Mbuf;
use crate::mempool::SocketId;
use crate::sys;

/// RING_F_SP_ENQ and RING_F_SC_DEQ: one producer, one consumer.
const SP_SC: u32 = 0x0001 | 0x0002;

#[derive(Debug)]
struct Ring(NonNull<sys::rte_ring>);

// SAFETY: a ring is made for use by two threads; which one may do what is up to the two ends.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut packet = std::ptr::null_mut();
        // SAFETY: both ends are gone, so the ring is ours, and so are the packets in it.
        unsafe {
            while sys::rte_ring_sc_dequeue_burst(self.0.as_ptr(), &mut packet, 1, std::ptr::null_mut()) == 1 {
                if let Some(packet) = NonNull::new(packet.cast()) {
                    drop(Mbuf::from_raw(packet));
                }
            }
            sys::rte_ring_free(self.0.as_ptr());
        }
    }
}

/// A ring for `size` - 1 packets, a power of two, and its two ends. Packets that are left in it when both are gone are
/// freed.
pub fn mbuf_ring(_eal: Eal, name: &str, size: u32, socket: SocketId) -> Result<(MbufProducer, MbufConsumer), Error> {
    let c_name = c_string(name)?;
    // SAFETY: the name lives through the call, and EAL runs.
    let ring = unsafe { sys::rte_ring_create(c_name.as_ptr(), size, socket.0, SP_SC) };
    let Some(ring) = NonNull::new(ring) else {
        return Err(Error::Ring { name: name.to_owned(), errno: Errno::last() });
    };
    let ring = Arc::new(Ring(ring));
    Ok((
        MbufProducer { ring: Arc::clone(&ring), _one_thread: PhantomData },
        MbufConsumer { ring, _one_thread: PhantomData },
    ))
}

/// The end that packets go in at.
#[derive(Debug)]
pub struct MbufProducer {
    ring: Arc<Ring>,
    _one_thread: PhantomData<Cell<()>>,
}

impl MbufProducer {
    /// Puts the front of a burst in, as far as there is room; gives how many that are. The rest stays.
    #[inline]
    pub fn send<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        burst.give(|packets, len| {
            // SAFETY: this is the only producer, and `len` packets are ours to give.
            unsafe {
                sys::rte_ring_sp_enqueue_burst(self.ring.0.as_ptr(), packets.cast(), len as u32, std::ptr::null_mut())
                    as usize
            }
        })
    }
}

/// The end that packets come out at.
#[derive(Debug)]
pub struct MbufConsumer {
    ring: Arc<Ring>,
    _one_thread: PhantomData<Cell<()>>,
}

impl MbufConsumer {
    /// Adds to a burst what is in the ring, as far as there is room; gives how many that are.
    #[inline]
    pub fn recv<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        burst.fill(|room, len| {
            // SAFETY: this is the only consumer, there is room for `len`, and only packets are ever put in.
            unsafe {
                sys::rte_ring_sc_dequeue_burst(self.ring.0.as_ptr(), room.cast(), len as u32, std::ptr::null_mut())
                    as usize
            }
        })
    }
}
