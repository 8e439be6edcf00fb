//! DPDK's environment: started once, there until the process ends.

use std::ffi::{CStr, CString, c_char};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::errno::{Errno, Error};
use crate::lcore::LcoreId;
use crate::sys;

static STARTED: AtomicBool = AtomicBool::new(false);

/// Proof that EAL runs. It isn't shut down: pools and ports live as long as the process, and what EAL leaves in files
/// is avoided by `--in-memory`, or by `--no-shconf` beside `--no-huge`.
#[derive(Clone, Copy, Debug)]
pub struct Eal(());

impl Eal {
    /// Starts EAL with these arguments, without a program name. The calling thread becomes the main lcore and is pinned
    /// to its CPU unless `--lcores` says otherwise. EAL writes its messages to stderr; `--log-level` limits them.
    ///
    /// # Errors
    /// [`Error::AlreadyInitialised`] on a second call, even if the first failed: EAL can't be started over.
    pub fn init(args: impl IntoIterator<Item = String>) -> Result<Eal, Error> {
        let args: Vec<CString> = std::iter::once("dpdk".to_owned())
            .chain(args)
            .map(|arg| CString::new(arg.clone()).map_err(|_| Error::Nul(arg)))
            .collect::<Result<_, _>>()?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(Error::AlreadyInitialised);
        }
        // EAL keeps pointers into its arguments: they live on.
        let mut argv: Vec<*mut c_char> = args.into_iter().map(CString::into_raw).collect();
        let argc = argv.len() as i32;
        argv.push(std::ptr::null_mut());
        let argv = Vec::leak(argv);
        // SAFETY: argv holds argc strings and a null pointer behind them, all of which live for the whole process.
        let code = unsafe { sys::rte_eal_init(argc, argv.as_mut_ptr()) };
        if code < 0 { Err(Error::Eal(Errno::last())) } else { Ok(Eal(())) }
    }

    /// DPDK's version, such as `DPDK 22.11.11`.
    pub fn version() -> String {
        // SAFETY: gives a string that lives for the whole process.
        unsafe { CStr::from_ptr(sys::rte_version()) }.to_string_lossy().into_owned()
    }

    /// The lcore of the thread that started EAL.
    pub fn main_lcore(self) -> LcoreId {
        // SAFETY: EAL runs.
        LcoreId(unsafe { sys::rte_get_main_lcore() })
    }

    /// All other lcores.
    pub fn worker_lcores(self) -> Vec<LcoreId> {
        let next = |lcore: u32| {
            // SAFETY: EAL runs; any number may be passed.
            let next = unsafe { sys::rte_get_next_lcore(lcore, 1, 0) };
            (next < sys::RTE_MAX_LCORE).then_some(next)
        };
        std::iter::successors(next(u32::MAX), |lcore| next(*lcore)).map(LcoreId).collect()
    }

    /// Makes a virtual device, such as `net_null0`, with the driver's arguments.
    pub fn attach_vdev(self, name: &str, args: &str) -> Result<(), Error> {
        let c_name = c_string(name)?;
        let c_args = c_string(args)?;
        // SAFETY: the strings live through the call, and EAL runs.
        let code = unsafe { sys::rte_eal_hotplug_add(c"vdev".as_ptr(), c_name.as_ptr(), c_args.as_ptr()) };
        vdev_result(name, "made", code)
    }

    /// Removes a virtual device whose port is in nobody's hands.
    pub fn detach_vdev(self, name: &str) -> Result<(), Error> {
        if crate::port::is_taken_by_name(name) {
            return Err(Error::PortBusy(name.to_owned()));
        }
        let c_name = c_string(name)?;
        // SAFETY: the string lives through the call, and EAL runs; no queue of the port is left to be polled.
        let code = unsafe { sys::rte_eal_hotplug_remove(c"vdev".as_ptr(), c_name.as_ptr()) };
        vdev_result(name, "removed", code)
    }
}

fn vdev_result(name: &str, step: &'static str, code: i32) -> Result<(), Error> {
    if code < 0 { Err(Error::Vdev { name: name.to_owned(), step, errno: Errno::returned(code) }) } else { Ok(()) }
}

pub(crate) fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Nul(text.to_owned()))
}
