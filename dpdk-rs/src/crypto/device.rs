//! A crypto device with its sessions.

use std::ffi::{CStr, c_int};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::queue::CryptoQueue;
use super::{CryptoDirection, CryptoTransform, MAX_AAD, MAX_ICV, MAX_IV};
use crate::eal::{Eal, SocketId};
use crate::error::{Errno, Error};
use crate::life::{self, Lease, lock};
use crate::sys;

/// The devices that have an owner.
static OWNED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// How a device is set up.
#[derive(Clone, Copy, Debug)]
pub struct CryptoConfig {
    /// Queue pairs, each for one thread.
    pub queue_pairs: u16,
    /// Packets that each queue pair can have at a time: a power of two.
    pub depth: u16,
    /// Sessions that there can be at a time.
    pub sessions: u32,
}

/// A crypto device that runs: a handle that makes sessions. It is stopped when the last handle, session and queue of it
/// is gone.
#[derive(Clone)]
pub struct CryptoDevice(Arc<Shared>);

/// What sessions and queues share of their device.
pub(super) struct Shared {
    pub(super) id: u8,
    name: String,
    driver: String,
    sessions: NonNull<sys::rte_mempool>,
    /// Held while a session is made or freed: between its being freed and its keys' being overwritten nobody may get it.
    making: Mutex<()>,
    _lease: Lease,
}

// SAFETY: the pool is used under the lock `making` alone; everything else is a number or text.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// The keys of one SA as the driver keeps them. Freed, and overwritten, when the last share is dropped.
pub struct CryptoSession {
    session: NonNull<std::ffi::c_void>,
    is_aead: bool,
    /// Bytes of the ICVs that it makes; none if it verifies them.
    made_icv_len: u8,
    device: Arc<Shared>,
}

// SAFETY: a session is read-only once it is made: any queue pair may use it, and so any thread. It is freed under a lock.
unsafe impl Send for CryptoSession {}
// SAFETY: as above.
unsafe impl Sync for CryptoSession {}

impl CryptoDevice {
    /// The names of all crypto devices.
    #[must_use]
    pub fn names(_eal: Eal) -> Vec<String> {
        names()
    }

    /// Configures and starts the device `name`; returns it with its queues, whose packets carry a `T`.
    ///
    /// # Errors
    /// [`Error::UnknownCryptoDevice`]; [`Error::CryptoDevice`] if it has an owner, can't have so many queue pairs or
    /// sessions, or a call for it fails; [`Error::Nul`]; [`Error::NotRunning`].
    pub fn open<T>(_eal: Eal, name: &str, config: &CryptoConfig) -> Result<(Self, Vec<CryptoQueue<T>>), Error> {
        let c_name = life::c_string("crypto device", name)?;
        let lease = Lease::take()?;
        // SAFETY: the EAL runs, and the name is NUL-terminated.
        let id = unsafe { sys::rte_cryptodev_get_dev_id(c_name.as_ptr()) };
        let Ok(id) = u8::try_from(id) else {
            let known = match names() {
                known if known.is_empty() => "there is none at all".to_owned(),
                known => format!("there are: {}", known.join(", ")),
            };
            return Err(Error::UnknownCryptoDevice { name: name.to_owned(), known });
        };
        let failed = |problem: String| Error::CryptoDevice { device: name.to_owned(), problem };
        let (driver, max_queue_pairs) = info(id);
        if !config.depth.is_power_of_two() {
            return Err(failed(format!("its queues can't be {} packets deep: use a power of two", config.depth)));
        }
        if u32::from(config.queue_pairs) > max_queue_pairs {
            return Err(failed(format!(
                "its driver {driver} has {max_queue_pairs} queue pairs, and {} are needed, one for each worker: use fewer, \
                 or give a virtual device more (max_nb_queue_pairs={})",
                config.queue_pairs, config.queue_pairs
            )));
        }
        {
            let mut owned = lock(&OWNED);
            if owned.contains(&id) {
                return Err(failed("it is in use: it has one owner at a time".to_owned()));
            }
            owned.push(id);
        }
        // From here on dropping it gives the device back.
        let sessions = session_pool(id, name, config.sessions);
        let sessions = sessions.inspect_err(|_| disown(id))?;
        let making = Mutex::new(());
        let shared = Arc::new(Shared { id, name: name.to_owned(), driver, sessions, making, _lease: lease });
        let queues = shared.start(config)?;
        Ok((Self(shared), queues))
    }

    /// The name it was opened with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its driver.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.0.driver
    }

    /// Whether the device can do this.
    ///
    /// # Errors
    /// [`Error::CryptoDevice`], with what it lacks.
    pub fn check(&self, transform: &CryptoTransform<'_>) -> Result<(), Error> {
        self.0.raw(transform).map(drop)
    }

    /// Makes a session.
    ///
    /// # Errors
    /// As [`CryptoDevice::check`], and where there are as many sessions as there can be.
    pub fn session(&self, transform: &CryptoTransform<'_>) -> Result<Arc<CryptoSession>, Error> {
        let raw = self.0.raw(transform)?;
        let _making = lock(&self.0.making);
        // SAFETY: the device is configured, the pool's elements are large enough for its sessions, and the keys live as
        // long as the call, which keeps none of them.
        let session = unsafe { sys::shim_crypto_session_create(self.0.id, &raw const raw, self.0.sessions.as_ptr()) };
        let Some(session) = NonNull::new(session) else {
            let errno = Errno::last();
            return Err(self.0.failed(format!("no session was made: {errno}; allow for more sessions")));
        };
        let made_icv_len = if transform.direction == CryptoDirection::Seal { transform.icv_len } else { 0 };
        let (is_aead, device) = (transform.is_aead(), Arc::clone(&self.0));
        Ok(Arc::new(CryptoSession { session, is_aead, made_icv_len, device }))
    }
}

impl Shared {
    fn failed(&self, problem: String) -> Error {
        Error::CryptoDevice { device: self.name.clone(), problem }
    }

    fn raw(&self, transform: &CryptoTransform<'_>) -> Result<sys::shim_crypto_transform, Error> {
        let raw = transform.raw();
        let raw =
            raw.ok_or_else(|| self.failed("cipher, integrity algorithm and lengths don't go together".to_owned()))?;
        // SAFETY: the device exists, and `raw` is read.
        match unsafe { sys::shim_crypto_lacks(self.id, &raw const raw) } {
            0 => Ok(raw),
            1 => Err(self.failed(format!("its driver {} doesn't know the algorithm", self.driver))),
            _ => Err(self.failed(format!(
                "its driver {} knows the algorithm, but not with these lengths (key {}, ICV {}, AAD {} octets)",
                self.driver,
                raw.key_len.max(raw.auth_key_len),
                raw.icv_len,
                raw.aad_len
            ))),
        }
    }

    /// Configures the device, and starts it.
    fn start<T>(self: &Arc<Self>, config: &CryptoConfig) -> Result<Vec<CryptoQueue<T>>, Error> {
        let check =
            |what: &str, ret: c_int| match ret {
                0 => Ok(()),
                ret => Err(self
                    .failed(format!("{what} failed: {}; the lines of EAL above may say more", Errno::from_ret(ret)))),
            };
        // SAFETY: reads a field of the device, which exists.
        let socket = unsafe { sys::rte_cryptodev_socket_id(self.id) };
        // SAFETY: the device has one owner, which this is, and isn't started.
        check("configuring it", unsafe { sys::shim_crypto_configure(self.id, config.queue_pairs, socket) })?;
        for queue_pair in 0..config.queue_pairs {
            // SAFETY: as above; the number is one of those configured.
            let ret = unsafe {
                let (depth, pool) = (u32::from(config.depth), self.sessions.as_ptr());
                sys::shim_crypto_queue_pair_setup(self.id, queue_pair, depth, pool, socket)
            };
            check("setting a queue pair up", ret)?;
        }
        // SAFETY: all queue pairs are set up.
        check("starting it", unsafe { sys::rte_cryptodev_start(self.id) })?;
        (0..config.queue_pairs).map(|queue_pair| CryptoQueue::new(self, queue_pair, config.depth, socket)).collect()
    }

    /// A pool of operations for a queue, which lives until clean-up.
    pub(super) fn op_pool(&self, depth: u16, socket: c_int) -> Result<NonNull<sys::rte_mempool>, Error> {
        let name = life::c_string("pool name", &unique("crypto_ops"))?;
        // SAFETY: the EAL runs, as the lease shows; the name is copied.
        let pool = unsafe { sys::shim_crypto_op_pool(name.as_ptr(), depth.into(), socket) };
        NonNull::new(pool).ok_or_else(|| {
            let errno = Errno::last();
            self.failed(format!("there is no memory for {depth} operations: {errno}; give the EAL more (-m)"))
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: nobody else has the device, and all of its queues and sessions are gone.
        unsafe {
            sys::rte_cryptodev_stop(self.id);
        }
        disown(self.id);
    }
}

impl CryptoSession {
    pub(super) fn as_ptr(&self) -> *mut std::ffi::c_void {
        self.session.as_ptr()
    }

    pub(super) fn is_aead(&self) -> bool {
        self.is_aead
    }

    pub(super) fn made_icv_len(&self) -> u8 {
        self.made_icv_len
    }

    pub(super) fn device(&self) -> u8 {
        self.device.id
    }
}

impl Drop for CryptoSession {
    fn drop(&mut self) {
        let _making = lock(&self.device.making);
        // SAFETY: queues keep a share in each session that they work with, so that nothing uses this one; under the lock
        // nobody is given its memory before it is overwritten.
        unsafe {
            sys::shim_crypto_session_free(self.device.id, self.as_ptr(), self.device.sessions.as_ptr());
        }
    }
}

fn disown(id: u8) {
    lock(&OWNED).retain(|owned| *owned != id);
}

fn names() -> Vec<String> {
    // SAFETY: walks the static table of devices; names live as long as their devices.
    (0..=u8::MAX)
        .filter(|id| unsafe { sys::rte_cryptodev_is_valid_dev(*id) } != 0)
        .filter_map(|id| {
            // SAFETY: as above.
            let name = unsafe { sys::rte_cryptodev_name_get(id) };
            // SAFETY: a NUL-terminated text of the device.
            (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
        })
        .collect()
}

/// The driver of a device that exists, and how many queue pairs it can have.
fn info(id: u8) -> (String, u32) {
    // SAFETY: all-zero is a value of the struct, which the call fills in.
    let mut info: sys::rte_cryptodev_info = unsafe { std::mem::zeroed() };
    // SAFETY: the device exists.
    unsafe { sys::rte_cryptodev_info_get(id, &raw mut info) };
    let driver = match info.driver_name {
        name if name.is_null() => String::new(),
        // SAFETY: a static NUL-terminated text.
        name => unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned(),
    };
    (driver, info.max_nb_queue_pairs)
}

/// The name of a pool: pools live until clean-up, so that a device that is opened again needs others.
fn unique(what: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{what}_{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A pool of sessions, which lives until clean-up.
fn session_pool(id: u8, device: &str, count: u32) -> Result<NonNull<sys::rte_mempool>, Error> {
    let name = life::c_string("pool name", &unique("crypto_sessions"))?;
    // SAFETY: the device exists.
    let size = unsafe { sys::rte_cryptodev_sym_get_private_session_size(id) };
    let socket = SocketId::ANY.raw();
    // SAFETY: the EAL runs, as the caller's lease shows; the name is copied.
    let pool = unsafe { sys::rte_cryptodev_sym_session_pool_create(name.as_ptr(), count, size, 0, 0, socket) };
    NonNull::new(pool).ok_or_else(|| {
        let errno = Errno::last();
        let problem = format!(
            "there is no memory for {count} sessions of {size} octets: {errno}; ask for fewer, or give the EAL more (-m)"
        );
        Error::CryptoDevice { device: device.to_owned(), problem }
    })
}

// What a session is made for fits into the private part of an operation.
const _: () = assert!(MAX_IV >= 16 && MAX_AAD >= 12 && MAX_ICV >= 32);

impl fmt::Debug for CryptoDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CryptoDevice").field("name", &self.name()).field("driver", &self.driver()).finish()
    }
}

impl fmt::Debug for CryptoSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No keys.
        f.debug_struct("CryptoSession").field("device", &self.device.name).finish_non_exhaustive()
    }
}
