//! Errors as values: what was asked of DPDK, of which object, and what it answered.

use std::ffi::CStr;
use std::fmt;

use crate::sys;

/// An error number of DPDK, which extends the system's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl Errno {
    /// The calling thread's last one.
    pub(crate) fn last() -> Errno {
        // SAFETY: reads a thread-local variable.
        Errno(unsafe { sys::dpdk_errno() })
    }

    /// From what a function returned, which is the number negated.
    pub(crate) fn returned(code: i32) -> Errno {
        Errno(code.saturating_abs())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: gives a string that lives at least until this thread asks again.
        let text = unsafe { CStr::from_ptr(sys::rte_strerror(self.0)) };
        write!(f, "{}", text.to_string_lossy())
    }
}

/// What can go wrong. Each message names the object and what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// EAL runs once in a process.
    #[error("DPDK's environment (EAL) was initialised before; a process can do so once")]
    AlreadyInitialised,
    /// An argument can't be passed on.
    #[error("the text {0:?} holds a NUL octet, which DPDK can't take")]
    Nul(String),
    /// EAL refuses its arguments or finds no memory.
    #[error(
        "DPDK's environment (EAL) can't start: {0}; its own messages above say more; without hugepages pass --no-huge"
    )]
    Eal(Errno),
    /// There is no such worker core, or it is the main one.
    #[error("lcore {0} isn't a worker core of this EAL; see its -l or --lcores argument")]
    NoSuchLcore(u32),
    /// The core runs something.
    #[error("lcore {0} is busy")]
    LcoreBusy(u32),
    /// What ran on the core panicked.
    #[error("what ran on lcore {0} panicked; its message is above")]
    LcorePanicked(u32),
    /// A pool can't be made.
    #[error(
        "the mempool `{name}` of {count} buffers can't be made: {errno}; give EAL more memory (-m) or ask for fewer"
    )]
    Mempool {
        /// Its name.
        name: String,
        /// Buffers that were asked for.
        count: u32,
        /// What DPDK answered.
        errno: Errno,
    },
    /// No port has that name.
    #[error("there is no port `{name}`; DPDK has {}; create it with --vdev={name},.. or bind its device to a DPDK driver (dpdk-devbind.py)", list(.known))]
    NoSuchPort {
        /// What was asked for.
        name: String,
        /// The ports that there are.
        known: Vec<String>,
    },
    /// The port is in use.
    #[error("the port `{0}` is in use already; a port has one owner")]
    PortBusy(String),
    /// The port can't do what is asked.
    #[error("the port `{port}` (driver {driver}) can't do {what}; it offers {offers}")]
    Unsupported {
        /// The port.
        port: String,
        /// Its driver.
        driver: String,
        /// What was asked.
        what: String,
        /// What it can do instead.
        offers: String,
    },
    /// A step of bringing up a port failed.
    #[error("{step} of the port `{port}` failed: {errno}")]
    Port {
        /// The port.
        port: String,
        /// The step.
        step: &'static str,
        /// What DPDK answered.
        errno: Errno,
    },
    /// A vdev can't be made or removed.
    #[error("the virtual device `{name}` can't be {step}: {errno}; is its driver installed (librte-net-*)?")]
    Vdev {
        /// Its name.
        name: String,
        /// What failed.
        step: &'static str,
        /// What DPDK answered.
        errno: Errno,
    },
    /// A ring can't be made.
    #[error("the ring `{name}` can't be made: {errno}; its name must be unused and its size a power of two")]
    Ring {
        /// Its name.
        name: String,
        /// What DPDK answered.
        errno: Errno,
    },
    /// A reassembly table can't be made.
    #[error("a reassembly table for {flows} datagrams can't be made: {errno}; give EAL more memory (-m)")]
    Reassembly {
        /// Datagrams that were asked for.
        flows: u32,
        /// What DPDK answered.
        errno: Errno,
    },
    /// A telemetry command can't be registered.
    #[error("the telemetry command `{command}` can't be registered: {errno}; it must begin with / and be unused")]
    Telemetry {
        /// The command.
        command: String,
        /// What DPDK answered.
        errno: Errno,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no ports".to_owned() } else { names.join(", ") }
}
