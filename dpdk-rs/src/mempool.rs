//! Pools of packet buffers.

use std::ffi::{c_uint, c_void};
use std::ptr::NonNull;

use crate::eal::{Eal, c_string};
use crate::errno::{Errno, Error};
use crate::mbuf::Mbuf;
use crate::sys;

/// A NUMA node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SocketId(pub i32);

impl SocketId {
    /// Whichever has memory.
    pub const ANY: SocketId = SocketId(-1);
}

/// Octets that DPDK leaves free in front of a received frame.
pub const HEADROOM: u16 = sys::RTE_PKTMBUF_HEADROOM as u16;

/// A pool. It lives as long as the process, so no buffer can outlive its pool.
#[derive(Clone, Copy, Debug)]
pub struct Mempool(NonNull<sys::rte_mempool>);

// SAFETY: pools are made for use by several threads: their ring is multi-producer and multi-consumer, and their caches
// are each lcore's own.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Makes a pool of `count` buffers with room for `data_room` octets each, headroom included, of which each lcore
    /// keeps up to `cache` (at most 512, and less than `count` / 1.5) at hand.
    pub fn create(
        _eal: Eal,
        name: &str,
        count: u32,
        cache: u32,
        data_room: u16,
        socket: SocketId,
    ) -> Result<Mempool, Error> {
        let c_name = c_string(name)?;
        // SAFETY: the name lives through the call, and EAL runs.
        let pool = unsafe { sys::rte_pktmbuf_pool_create(c_name.as_ptr(), count, cache, 0, data_room, socket.0) };
        let Some(pool) = NonNull::new(pool) else {
            return Err(Error::Mempool { name: name.to_owned(), count, errno: Errno::last() });
        };
        // SAFETY: the pool is new, so all its buffers are free and nobody else has one.
        unsafe { sys::rte_mempool_obj_iter(pool.as_ptr(), Some(clear), std::ptr::null_mut()) };
        Ok(Mempool(pool))
    }

    /// Buffers that are free.
    pub fn available(self) -> u32 {
        // SAFETY: the pool lives.
        unsafe { sys::rte_mempool_avail_count(self.0.as_ptr()) }
    }

    /// Buffers that hold packets.
    pub fn in_use(self) -> u32 {
        // SAFETY: the pool lives.
        unsafe { sys::rte_mempool_in_use_count(self.0.as_ptr()) }
    }

    /// An empty packet; none if no buffer is free.
    pub fn alloc(self) -> Option<Mbuf> {
        // SAFETY: the pool lives.
        let mbuf = unsafe { sys::rte_pktmbuf_alloc(self.0.as_ptr()) };
        // SAFETY: a buffer fresh from the pool has no other owner.
        NonNull::new(mbuf).map(|mbuf| unsafe { Mbuf::from_raw(mbuf) })
    }

    pub(crate) fn as_ptr(self) -> *mut sys::rte_mempool {
        self.0.as_ptr()
    }
}

/// Writes a buffer once, so that its octets count as initialised however it was allocated.
unsafe extern "C" fn clear(_pool: *mut sys::rte_mempool, _: *mut c_void, mbuf: *mut c_void, _: c_uint) {
    let mbuf = mbuf.cast::<sys::rte_mbuf>();
    // SAFETY: the pool's constructor has set up this mbuf with a buffer of buf_len octets, and nobody else has it.
    unsafe { std::ptr::write_bytes((*mbuf).buf_addr.cast::<u8>(), 0, (*mbuf).buf_len.into()) };
}
