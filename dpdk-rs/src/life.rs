//! Whether the EAL runs, and what keeps it from being cleaned up.
//!
//! Memory of DPDK is unmapped by `rte_eal_cleanup`. So everything that points into it either holds a [`Lease`], or is
//! an mbuf, which its pool counts; clean-up refuses while there are any.

use std::ffi::CString;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::Error;

/// What the EAL is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// `rte_eal_init` was not called.
    Unborn,
    /// It was called and failed.
    Failed,
    /// The EAL runs.
    Running,
    /// `rte_eal_cleanup` was called.
    Over,
}

static PHASE: RwLock<Phase> = RwLock::new(Phase::Unborn);
static LEASES: AtomicUsize = AtomicUsize::new(0);

/// Takes the phase for changing it; nobody else can make an object meanwhile.
pub(crate) fn change() -> RwLockWriteGuard<'static, Phase> {
    PHASE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the EAL running as long as the guard lives: for calls that make objects.
pub(crate) fn running() -> Result<RwLockReadGuard<'static, Phase>, Error> {
    let phase = PHASE.read().unwrap_or_else(PoisonError::into_inner);
    if *phase == Phase::Running { Ok(phase) } else { Err(Error::NotRunning) }
}

/// How many leases are out.
pub(crate) fn leases() -> usize {
    LEASES.load(Ordering::Acquire)
}

/// A share in the running EAL, held by each object that points into its memory.
#[derive(Debug)]
pub(crate) struct Lease(());

impl Lease {
    pub(crate) fn take() -> Result<Self, Error> {
        let _running = running()?;
        LEASES.fetch_add(1, Ordering::AcqRel);
        Ok(Self(()))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        LEASES.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A lock whose data stays consistent even if a holder panicked.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn c_string(what: &'static str, text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Nul { what, text: text.to_owned() })
}
