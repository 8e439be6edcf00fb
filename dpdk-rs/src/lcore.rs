//! Work on the cores that the EAL owns.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::eal::Eal;
use crate::error::Error;
use crate::life::{Lease, lock};
use crate::sys;

/// The number of a logical core, as in the `-l` argument of the EAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LcoreId(u32);

impl LcoreId {
    /// The lcore with this number, whether or not the EAL has it.
    #[must_use]
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The lcore of the calling thread; `None` on threads that the EAL did not make.
    #[must_use]
    pub fn current() -> Option<Self> {
        // SAFETY: reads a thread-local integer.
        let id = unsafe { sys::rte_lcore_id() };
        (id < sys::RTE_MAX_LCORE).then_some(Self(id))
    }
}

impl fmt::Display for LcoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which workers run a closure. Set before a launch and cleared when the closure has returned.
static BUSY: [AtomicBool; sys::RTE_MAX_LCORE as usize] =
    [const { AtomicBool::new(false) }; sys::RTE_MAX_LCORE as usize];

struct Outcome<T> {
    value: Mutex<Option<Result<T, String>>>,
    ready: Condvar,
}

struct Job<F, T> {
    work: F,
    outcome: Arc<Outcome<T>>,
    busy: &'static AtomicBool,
    lease: Lease,
}

/// A closure on an lcore, to be joined. Dropping the handle lets the closure run on.
#[must_use = "the result, and a panic, are lost if the handle is dropped"]
pub struct LcoreHandle<T> {
    lcore: LcoreId,
    outcome: Arc<Outcome<T>>,
}

impl<T> fmt::Debug for LcoreHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LcoreHandle").field("lcore", &self.lcore).finish_non_exhaustive()
    }
}

impl Eal {
    /// Runs `work` on the worker `lcore`, which is pinned to its CPU.
    ///
    /// # Errors
    /// [`Error::NotAWorker`] for the main lcore and for numbers the EAL does not have, [`Error::LcoreBusy`] while
    /// another closure runs there, [`Error::NotRunning`] after clean-up. `work` is dropped unrun then.
    pub fn launch<T, F>(self, lcore: LcoreId, work: F) -> Result<LcoreHandle<T>, Error>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let lease = Lease::take()?;
        let busy = BUSY.get(lcore.0 as usize).filter(|_| self.worker_lcores().contains(&lcore));
        let Some(busy) = busy else {
            let workers = self.worker_lcores().iter().map(LcoreId::to_string).collect::<Vec<_>>();
            let workers = if workers.is_empty() { "none".to_owned() } else { workers.join(", ") };
            return Err(Error::NotAWorker { lcore, workers });
        };
        if busy.swap(true, Ordering::AcqRel) {
            return Err(Error::LcoreBusy { lcore });
        }
        let outcome = Arc::new(Outcome { value: Mutex::new(None), ready: Condvar::new() });
        let job = Box::into_raw(Box::new(Job { work, outcome: Arc::clone(&outcome), busy, lease }));
        // The closure before may have cleared its flag a moment before its launcher is through.
        // SAFETY: waiting for an lcore has no preconditions but a valid number, which was checked.
        unsafe { sys::rte_eal_wait_lcore(lcore.0) };
        // SAFETY: the lcore is a worker; the trampoline takes the job, of just this type, exactly once.
        let ret = unsafe { sys::rte_eal_remote_launch(Some(trampoline::<F, T>), job.cast(), lcore.0) };
        if ret != 0 {
            // SAFETY: the launch failed, so that the trampoline does not get the job.
            drop(unsafe { Box::from_raw(job) });
            busy.store(false, Ordering::Release);
            return Err(Error::LcoreBusy { lcore });
        }
        Ok(LcoreHandle { lcore, outcome })
    }
}

/// Runs on the worker, called from C: nothing may unwind out of it.
extern "C" fn trampoline<F, T>(job: *mut c_void) -> c_int
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // SAFETY: `launch` passed a box of this type, and the EAL calls this once.
    let Job { work, outcome, busy, lease } = *unsafe { Box::from_raw(job.cast::<Job<F, T>>()) };
    let value = catch_unwind(AssertUnwindSafe(work)).map_err(panic_text);
    // Cleared before the result can be seen: who joins may launch again at once.
    busy.store(false, Ordering::Release);
    drop(lease);
    *lock(&outcome.value) = Some(value);
    outcome.ready.notify_all();
    // If the handle is gone, this drops the result. A panic there ends the process at the C boundary.
    drop(outcome);
    0
}

fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    };
    // The payload is anyone's type, and its destructor may panic too.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    text
}

impl<T> LcoreHandle<T> {
    /// Where the closure runs.
    #[must_use]
    pub fn lcore(&self) -> LcoreId {
        self.lcore
    }

    /// Whether the closure has returned (or panicked), so that [`LcoreHandle::join`] would not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        lock(&self.outcome.value).is_some()
    }

    /// Waits for the closure and returns its result.
    ///
    /// # Errors
    /// [`Error::LcorePanicked`] if it panicked.
    pub fn join(self) -> Result<T, Error> {
        let mut value = lock(&self.outcome.value);
        loop {
            match value.take() {
                Some(Ok(result)) => return Ok(result),
                Some(Err(message)) => return Err(Error::LcorePanicked { lcore: self.lcore, message }),
                None => value = self.outcome.ready.wait(value).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}
