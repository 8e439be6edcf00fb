//! Running code on worker cores.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::eal::Eal;
use crate::errno::Error;
use crate::sys;

/// A core by its number in EAL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LcoreId(pub u32);

/// Something that runs on a core.
#[derive(Debug)]
pub struct LcoreHandle<T> {
    lcore: LcoreId,
    result: Receiver<thread::Result<T>>,
}

struct Task<F, T> {
    run: F,
    result: SyncSender<thread::Result<T>>,
}

impl Eal {
    /// Runs a closure on a worker core that is idle.
    pub fn launch<T, F>(self, lcore: LcoreId, run: F) -> Result<LcoreHandle<T>, Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        if !self.worker_lcores().contains(&lcore) {
            return Err(Error::NoSuchLcore(lcore.0));
        }
        let (sender, result) = sync_channel(1);
        let task = Box::into_raw(Box::new(Task { run, result: sender }));
        // SAFETY: the core is a worker's; `start` takes the task over exactly once if the launch succeeds.
        let code = unsafe { sys::rte_eal_remote_launch(Some(start::<T, F>), task.cast(), lcore.0) };
        if code != 0 {
            // SAFETY: the launch failed, so the task is still ours.
            drop(unsafe { Box::from_raw(task) });
            return Err(Error::LcoreBusy(lcore.0));
        }
        Ok(LcoreHandle { lcore, result })
    }
}

unsafe extern "C" fn start<T, F: FnOnce() -> T>(task: *mut c_void) -> c_int {
    // SAFETY: `launch` passes a task of these types and lets go of it.
    let Task { run, result } = *unsafe { Box::from_raw(task.cast::<Task<F, T>>()) };
    // A panic may not unwind into C.
    let outcome = catch_unwind(AssertUnwindSafe(run));
    let _ = result.send(outcome);
    0
}

impl<T> LcoreHandle<T> {
    /// The core.
    pub fn lcore(&self) -> LcoreId {
        self.lcore
    }

    /// Waits until it has ended.
    pub fn join(self) -> Result<T, Error> {
        let outcome = self.result.recv();
        // SAFETY: the core was launched by us; this waits until EAL counts it as idle again.
        unsafe { sys::rte_eal_wait_lcore(self.lcore.0) };
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) | Err(_) => Err(Error::LcorePanicked(self.lcore.0)),
        }
    }
}
