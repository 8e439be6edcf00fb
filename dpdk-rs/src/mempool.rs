//! Pools of packet buffers.

use std::ffi::{c_uint, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use crate::burst::Burst;
use crate::eal::{Eal, SocketId};
use crate::error::{Errno, Error};
use crate::life::{self, Lease, lock};
use crate::mbuf::{self, Mbuf};
use crate::sys;

/// Bytes in front of the data of a fresh mbuf, part of its data room: space for headers to be put in front.
pub const HEADROOM: u16 = sys::RTE_PKTMBUF_HEADROOM as u16;

/// The most buffers a pool can be made of.
const LARGEST: u32 = 1 << 30;

/// A handle of a pool of mbufs, all with a buffer of the same size. Clones are handles of the same pool.
///
/// The pool itself lives until [`Eal::cleanup`], even if all handles are dropped: drivers keep pointers to the pools
/// of their receive queues for as long as a port exists, and every mbuf points to the pool it goes back to. Freeing a
/// pool earlier could be safe only by counting on the data path, so make pools at the start and keep them.
#[derive(Clone)]
pub struct Mempool {
    pool: Pool,
    name: Arc<str>,
    data_room: u16,
    _lease: Arc<Lease>,
}

/// The address of a pool: never freed but by clean-up, which no handle survives.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pool(NonNull<sys::rte_mempool>);

// SAFETY: a mempool is made for use by many threads: its ring is multi-producer and multi-consumer (the default ops),
// its caches are per lcore, and threads without an lcore bypass them.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

static POOLS: Mutex<Vec<(Pool, Arc<str>)>> = Mutex::new(Vec::new());

impl Mempool {
    /// Makes a pool of `count` mbufs, near `socket`.
    ///
    /// `data_room` is the size of each buffer in bytes, [`HEADROOM`] included: 2176 takes an Ethernet frame with a
    /// payload of 1500 bytes and leaves room. `cache` is how many free mbufs each lcore keeps for itself (0 to 512,
    /// and no more than two thirds of `count`); a `count` of one below a power of two uses memory best.
    ///
    /// # Errors
    /// [`Error::PoolFailed`] if the name is taken or too long, a number is out of range, or the EAL has not enough
    /// memory; [`Error::Nul`]; [`Error::NotRunning`].
    pub fn create(
        _eal: Eal,
        name: &str,
        count: u32,
        cache: u32,
        data_room: u16,
        socket: SocketId,
    ) -> Result<Self, Error> {
        let failed = |errno| {
            let (name, remedy) = (name.to_owned(), remedy(errno));
            Error::PoolFailed { name, count, data_room, errno, remedy }
        };
        let c_name = life::c_string("pool name", name)?;
        // The ring of free buffers is rounded up to a power of two, which wraps to 0 for the largest numbers.
        if data_room <= HEADROOM || count > LARGEST {
            return Err(failed(Errno::EINVAL));
        }
        let lease = Lease::take()?;
        // SAFETY: the EAL runs, as the lease shows; the name is NUL-terminated and copied by the call.
        let pool = unsafe { sys::rte_pktmbuf_pool_create(c_name.as_ptr(), count, cache, 0, data_room, socket.raw()) };
        let pool = NonNull::new(pool).ok_or_else(|| failed(Errno::last()))?;
        // SAFETY: the pool is complete and nobody else knows it; the callback has the type asked for.
        unsafe { sys::rte_mempool_obj_iter(pool.as_ptr(), Some(zero_buffer), std::ptr::null_mut()) };
        let name: Arc<str> = Arc::from(name);
        lock(&POOLS).push((Pool(pool), Arc::clone(&name)));
        Ok(Self { pool: Pool(pool), name, data_room, _lease: Arc::new(lease) })
    }

    /// The name it was made with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The size of each buffer in bytes, [`HEADROOM`] included.
    #[must_use]
    pub fn data_room(&self) -> u16 {
        self.data_room
    }

    /// How many mbufs are out: held by the program, by queues of ports or by tables. A snapshot while other threads
    /// use the pool, and slow enough to keep off the data path.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.pool.in_use()
    }

    /// How many mbufs are free; a snapshot as [`Mempool::in_use`].
    #[must_use]
    pub fn available(&self) -> usize {
        // SAFETY: the pool exists.
        unsafe { sys::rte_mempool_avail_count(self.as_ptr()) as usize }
    }

    /// An empty packet of one segment, or `None` if the pool is exhausted.
    #[inline]
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool exists, and is one of ours.
        let mbuf = unsafe { sys::rte_pktmbuf_alloc(self.as_ptr()) };
        // SAFETY: the mbuf is fresh, so that nobody else owns it.
        NonNull::new(mbuf).map(|mbuf| unsafe { Mbuf::from_raw(mbuf) })
    }

    /// Adds `n` empty packets to `burst`: all of them or, if the pool or the burst has not as many, none. Says which.
    #[inline]
    #[must_use]
    pub fn alloc_bulk<const N: usize>(&self, burst: &mut Burst<N>, n: usize) -> bool {
        let (tail, room) = burst.tail();
        let Ok(count) = c_uint::try_from(n) else { return false };
        if n > room {
            return false;
        }
        // SAFETY: the pool exists, and tail has room for n pointers.
        if unsafe { sys::rte_pktmbuf_alloc_bulk(self.as_ptr(), tail, count) } != 0 {
            return false;
        }
        // SAFETY: the n pointers after the burst's last are fresh mbufs now.
        unsafe { burst.grow(n) };
        true
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.pool.0.as_ptr()
    }
}

impl Pool {
    fn in_use(self) -> usize {
        // SAFETY: pools exist until clean-up, and who calls this holds a lease or is the clean-up.
        unsafe { sys::rte_mempool_in_use_count(self.0.as_ptr()) as usize }
    }
}

impl fmt::Debug for Mempool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mempool")
            .field("name", &self.name)
            .field("data_room", &self.data_room)
            .field("in_use", &self.in_use())
            .finish_non_exhaustive()
    }
}

/// The first pool with mbufs out, for clean-up.
pub(crate) fn first_in_use() -> Option<(Arc<str>, usize)> {
    lock(&POOLS).iter().map(|(pool, name)| (Arc::clone(name), pool.in_use())).find(|(_, n)| *n > 0)
}

/// Writes zeros over the buffer of a new mbuf: memory of the EAL may be recycled, and for the compiler it would be
/// uninitialised, which a `&mut [u8]` over headroom and tailroom must not see. Later contents are always bytes that
/// someone wrote.
unsafe extern "C" fn zero_buffer(_: *mut sys::rte_mempool, _: *mut c_void, object: *mut c_void, _: c_uint) {
    let mbuf = object.cast::<sys::rte_mbuf>();
    // SAFETY: the objects of a pktmbuf pool are mbufs with their buffer's address and length filled in, and nobody has
    // a reference into the buffer yet.
    unsafe { std::ptr::write_bytes(mbuf::buf_addr(mbuf), 0, usize::from(mbuf::buf_len(mbuf))) };
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EEXIST => "use another name, this one is taken",
        Errno::ENOMEM => "ask for fewer or smaller buffers, or give the EAL more memory (-m or hugepages)",
        Errno::EINVAL => {
            "the cache may be 512 and two thirds of the buffers at most, a buffer more than 128 bytes, the number \
             not 0"
        }
        _ => "use a short name (25 characters) and check the memory of the EAL",
    }
}
