//! What can go wrong, as values, in words an operator can act on.

use std::ffi::CStr;
use std::fmt;

use crate::lcore::LcoreId;
use crate::sys;

/// An error number of the C library or of DPDK (which has a few of its own above 1000).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// No such file, device or free slot (`ENOENT`).
    pub const ENOENT: Self = Self(2);
    /// The thing is in use (`EBUSY`).
    pub const EBUSY: Self = Self(16);
    /// Out of memory (`ENOMEM`).
    pub const ENOMEM: Self = Self(12);
    /// No permission (`EACCES`).
    pub const EACCES: Self = Self(13);
    /// The name is taken (`EEXIST`).
    pub const EEXIST: Self = Self(17);
    /// No such device, or no driver for it (`ENODEV`).
    pub const ENODEV: Self = Self(19);
    /// An argument is not valid (`EINVAL`).
    pub const EINVAL: Self = Self(22);
    /// The driver does not do this (`ENOTSUP`).
    pub const ENOTSUP: Self = Self(95);

    /// The number itself, positive.
    #[must_use]
    pub const fn code(self) -> i32 {
        self.0
    }

    /// From a return value: DPDK returns `-errno`, and a few functions `errno`.
    pub(crate) const fn from_ret(ret: i32) -> Self {
        Self(if ret < 0 { ret.wrapping_neg() } else { ret })
    }

    /// `rte_errno` of the calling thread.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local integer.
        Self(unsafe { sys::shim_errno() })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: returns a NUL-terminated text in a buffer of the calling thread, which nothing else writes to while
        // this function borrows it.
        let text = unsafe { CStr::from_ptr(sys::rte_strerror(self.0)) };
        write!(f, "{} (errno {})", text.to_string_lossy(), self.0)
    }
}

/// Every failure of this crate. Each text says what failed, on what, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// [`Eal::init`](crate::Eal::init) was called before in this process, with or without success.
    #[error("the EAL was initialised before: DPDK can be started once per process, so restart the process")]
    AlreadyInitialised,
    /// `rte_eal_init` failed; its own lines on stderr name the cause.
    #[error("the EAL did not start: {errno}; {remedy}")]
    EalFailed {
        /// What DPDK reported.
        errno: Errno,
        /// What usually helps.
        remedy: &'static str,
    },
    /// A string for DPDK holds a NUL byte and would be cut there.
    #[error("{what} {text:?} holds a NUL byte: remove it")]
    Nul {
        /// What the string is.
        what: &'static str,
        /// The string.
        text: String,
    },
    /// The EAL was cleaned up.
    #[error("the EAL is not running any more: nothing can be made after its clean-up")]
    NotRunning,
    /// Clean-up was asked for while objects of DPDK are alive.
    #[error("the EAL can't be cleaned up: {what}; drop it first")]
    StillInUse {
        /// What is alive, and how many.
        what: String,
    },
    /// Clean-up was asked for on another thread than the one that initialised.
    #[error("the EAL can only be cleaned up on the thread that initialised it")]
    NotMainThread,
    /// `rte_eal_cleanup` failed.
    #[error("the clean-up of the EAL failed: {errno}")]
    CleanupFailed {
        /// What DPDK reported.
        errno: Errno,
    },
    /// The lcore is not a worker of this EAL.
    #[error("lcore {lcore} is not a worker; the workers are {workers}: add it to the core list (-l) of the EAL")]
    NotAWorker {
        /// The lcore asked for.
        lcore: LcoreId,
        /// The workers there are.
        workers: String,
    },
    /// The lcore runs something already.
    #[error("lcore {lcore} is busy: join what runs on it first")]
    LcoreBusy {
        /// The lcore asked for.
        lcore: LcoreId,
    },
    /// The closure on the lcore panicked.
    #[error("the work on lcore {lcore} panicked: {message}")]
    LcorePanicked {
        /// Where it ran.
        lcore: LcoreId,
        /// The text of the panic.
        message: String,
    },
    /// A memory pool could not be made.
    #[error("memory pool {name:?} of {count} buffers of {data_room} bytes was not made: {errno}; {remedy}")]
    PoolFailed {
        /// The name asked for.
        name: String,
        /// How many buffers.
        count: u32,
        /// Bytes of one buffer.
        data_room: u16,
        /// What DPDK reported.
        errno: Errno,
        /// What usually helps.
        remedy: &'static str,
    },
    /// No port has this name.
    #[error(
        "there is no port {name:?}; {known}. Add it with an EAL argument --vdev={name},... or bind the device to a \
             driver of DPDK (dpdk-devbind.py) and allow it with -a"
    )]
    UnknownPort {
        /// The name asked for.
        name: String,
        /// The ports there are, as a clause.
        known: String,
    },
    /// The port has an owner.
    #[error("port {port:?} is in use: it has one owner at a time, stop that one first")]
    PortBusy {
        /// The name of the port.
        port: String,
    },
    /// The driver of the port lacks something that was asked for.
    #[error("port {port:?}: its driver {driver} has no {missing}; leave it out or use another device")]
    MissingCapability {
        /// The name of the port.
        port: String,
        /// The driver of the port.
        driver: String,
        /// What it lacks.
        missing: String,
    },
    /// A number is outside what the driver of the port takes.
    #[error("port {port:?}: {asked} {what} asked for, but its driver {driver} takes {min} to {max}")]
    OutOfRange {
        /// The name of the port.
        port: String,
        /// The driver of the port.
        driver: String,
        /// What was counted.
        what: &'static str,
        /// The number asked for.
        asked: u32,
        /// The least the driver takes.
        min: u32,
        /// The most the driver takes.
        max: u32,
    },
    /// A call for a port failed.
    #[error("port {port:?}: {operation} failed: {errno}; {remedy}")]
    Port {
        /// The name of the port.
        port: String,
        /// What was tried.
        operation: &'static str,
        /// What DPDK reported.
        errno: Errno,
        /// What usually helps.
        remedy: &'static str,
    },
    /// A port was to be stopped, but not all of its queues were handed back.
    #[error("port {port:?} can't be stopped: {missing} of its queues are still held elsewhere; hand them back")]
    QueuesHeld {
        /// The name of the port.
        port: String,
        /// How many are missing.
        missing: usize,
    },
    /// A device could not be added or removed.
    #[error("device {device:?} was not {operation}: {errno}; {remedy}")]
    Hotplug {
        /// The device.
        device: String,
        /// `attached` or `detached`.
        operation: &'static str,
        /// What DPDK reported.
        errno: Errno,
        /// What usually helps.
        remedy: &'static str,
    },
    /// A ring could not be made.
    #[error("ring {name:?} for {capacity} packets was not made: {errno}; use a free name and at most 2^30 packets")]
    RingFailed {
        /// The name asked for.
        name: String,
        /// How many packets it was to hold.
        capacity: u32,
        /// What DPDK reported.
        errno: Errno,
    },
    /// A reassembly table could not be made.
    #[error(
        "the reassembly table for {max_flows} flows was not made: {reason}; ask for fewer flows (at least 1) or give \
             the EAL more memory (-m)"
    )]
    FragTableFailed {
        /// How many flows it was to hold.
        max_flows: u32,
        /// What is wrong.
        reason: String,
    },
    /// No crypto device has this name.
    #[error(
        "there is no crypto device {name:?}; {known}. Add a virtual one with an EAL argument --vdev={name}, or bind the \
             device to vfio-pci (dpdk-devbind.py --status-dev crypto) and allow it with -a"
    )]
    UnknownCryptoDevice {
        /// The name asked for.
        name: String,
        /// The crypto devices there are, as a clause.
        known: String,
    },
    /// A call for a crypto device failed, or it can't do what is asked for.
    #[error("crypto device {device:?}: {problem}")]
    CryptoDevice {
        /// The name of the device.
        device: String,
        /// What is wrong, and what usually helps.
        problem: String,
    },
    /// A telemetry command could not be registered.
    #[error("telemetry command {command:?} was not registered: {errno}; {remedy}")]
    Telemetry {
        /// The command.
        command: String,
        /// What DPDK reported.
        errno: Errno,
        /// What usually helps.
        remedy: &'static str,
    },
}
