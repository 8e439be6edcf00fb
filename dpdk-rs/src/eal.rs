//! The environment abstraction layer: started once, cleaned up at most once.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::clock::TscHz;
use crate::error::{Errno, Error};
use crate::lcore::LcoreId;
use crate::life::{self, Phase};
use crate::port;
use crate::{mempool, sys};

/// Proof that the EAL was started. Cheap to copy; every constructor of this crate takes one.
///
/// After [`Eal::cleanup`] the copies that are left make nothing any more: constructors return
/// [`Error::NotRunning`].
#[derive(Clone, Copy, Debug)]
pub struct Eal(());

/// A memory socket (NUMA node) for allocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(c_int);

impl SocketId {
    /// Any socket.
    pub const ANY: Self = Self(-1);

    /// The socket with this number.
    #[must_use]
    pub const fn new(id: u16) -> Self {
        Self(id as c_int)
    }

    /// The number, or `None` for [`SocketId::ANY`].
    #[must_use]
    pub fn id(self) -> Option<u16> {
        u16::try_from(self.0).ok()
    }

    pub(crate) const fn raw(self) -> c_int {
        self.0
    }

    pub(crate) const fn from_raw(raw: c_int) -> Self {
        Self(if raw < 0 { -1 } else { raw })
    }
}

/// What does not change after the start; kept here so that it can be read after clean-up too.
struct Facts {
    main: LcoreId,
    workers: Vec<LcoreId>,
    sockets: Vec<(LcoreId, SocketId)>,
    tsc_hz: TscHz,
    runtime_dir: PathBuf,
}

static FACTS: OnceLock<Facts> = OnceLock::new();

impl Eal {
    /// Starts the EAL with `args` (without a program name): cores, memory, devices, as DPDK documents them.
    ///
    /// The calling thread becomes the main lcore and is pinned to its CPU. The EAL writes what it does to stderr and
    /// stdout; `--log-level` sets how much (`--log-level=lib.eal:error` for quiet). A few arguments end the process
    /// by themselves, as `--help` does.
    ///
    /// The arguments are trusted: they come from the operator, load drivers (`-d`) and can hand addresses to them.
    /// Never build them from what comes over a network.
    ///
    /// # Errors
    /// [`Error::AlreadyInitialised`] for every call but the first, [`Error::Nul`] for an argument with a NUL byte
    /// (the EAL is untouched then, and may be initialised still), [`Error::EalFailed`] for what DPDK refuses.
    pub fn init(args: impl IntoIterator<Item = String>) -> Result<Self, Error> {
        let mut argv = vec![CString::default()];
        for arg in args {
            argv.push(life::c_string("EAL argument", &arg)?);
        }
        if let Some(first) = argv.first_mut() {
            *first = CString::from(c"dpdk-rs");
        }

        let mut phase = life::change();
        if *phase != Phase::Unborn {
            return Err(Error::AlreadyInitialised);
        }
        // Some parts of DPDK keep pointers to the arguments, so they are never freed: once per process.
        let argv: &'static mut [*mut c_char] =
            argv.into_iter().map(CString::into_raw).chain([std::ptr::null_mut()]).collect::<Vec<_>>().leak();
        let argc = c_int::try_from(argv.len() - 1).unwrap_or(c_int::MAX);
        // SAFETY: argv has argc NUL-terminated, writable strings and a null pointer after them, all of which live as
        // long as the process; the phase lock keeps a second caller out.
        let ret = unsafe { sys::rte_eal_init(argc, argv.as_mut_ptr()) };
        if ret < 0 {
            *phase = Phase::Failed;
            let errno = Errno::last();
            // SAFETY: returns a static NUL-terminated string, empty before the EAL has chosen a directory.
            let runtime_dir = unsafe { CStr::from_ptr(sys::rte_eal_get_runtime_dir()) };
            // Nothing stays behind, unless another instance uses it.
            let _ = std::fs::remove_dir(&*runtime_dir.to_string_lossy());
            return Err(Error::EalFailed { errno, remedy: init_remedy(errno) });
        }
        FACTS.get_or_init(facts);
        *phase = Phase::Running;
        Ok(Self(()))
    }

    /// Ends the EAL: closes every port, and gives back its memory, files and devices.
    ///
    /// Not needed for a process that exits: the kernel takes back all of it except the files in the runtime
    /// directory, which the next start with the same `--file-prefix` reuses. Needed where hardware must be left
    /// quiet, or the process lives on without DPDK. The order: stop the lcores (join their handles), drop bursts,
    /// queues, ports, rings, tables and pools, then clean up on the thread that initialised.
    ///
    /// # Errors
    /// [`Error::NotMainThread`], [`Error::StillInUse`] if an object or a packet is left (ports without an owner are
    /// closed even so, to count what their receive queues held), [`Error::NotRunning`], [`Error::CleanupFailed`].
    pub fn cleanup(self) -> Result<(), Error> {
        let mut phase = life::change();
        if *phase != Phase::Running {
            return Err(Error::NotRunning);
        }
        // SAFETY: reads a thread-local integer.
        let lcore = unsafe { sys::rte_lcore_id() };
        if LcoreId::new(lcore) != self.main_lcore() {
            return Err(Error::NotMainThread);
        }
        match life::leases() {
            0 => {}
            n => {
                return Err(Error::StillInUse { what: format!("{n} of its objects (ports, pools, tables) are alive") });
            }
        }
        // SAFETY: no lease is out, so no closure of ours runs on a worker; this waits for the last instructions of
        // their launcher, and for service cores nothing is started by this crate.
        unsafe { sys::rte_eal_mp_wait_lcore() };
        port::close_all();
        // No lcore runs and this thread is the main one, so no per-lcore cache changes under this count; a packet held
        // by another thread can only go back to the pool's ring meanwhile, which lowers the count.
        if let Some((pool, n)) = mempool::first_in_use() {
            return Err(Error::StillInUse { what: format!("{n} packets of pool {pool:?} are held") });
        }
        // SAFETY: nothing points into the memory of the EAL any more: no lease, no mbuf, and the phase lock keeps
        // anyone from making one.
        let ret = unsafe { sys::rte_eal_cleanup() };
        *phase = Phase::Over;
        if ret < 0 { Err(Error::CleanupFailed { errno: Errno::from_ret(ret) }) } else { Ok(()) }
    }

    /// The version of the DPDK library that runs, as `DPDK 22.11.11`, with or without a running EAL. It may differ from
    /// [`Eal::built_for`] in its patch level.
    #[must_use]
    pub fn version() -> String {
        // SAFETY: returns a static NUL-terminated string, with or without an initialised EAL.
        let text = unsafe { CStr::from_ptr(sys::rte_version()) };
        text.to_string_lossy().into_owned()
    }

    /// The version of DPDK whose headers this crate was built with, as `22.11.11`.
    #[must_use]
    pub const fn built_for() -> &'static str {
        env!("DPDK_BUILD_VERSION")
    }

    /// The lcore of the thread that called [`Eal::init`].
    #[must_use]
    pub fn main_lcore(self) -> LcoreId {
        FACTS.get().map_or(LcoreId::new(0), |facts| facts.main)
    }

    /// The other lcores, in rising order: those that [`Eal::launch`] takes.
    #[must_use]
    pub fn worker_lcores(self) -> &'static [LcoreId] {
        FACTS.get().map_or(&[], |facts| &facts.workers)
    }

    /// The socket whose memory is near `lcore`, or [`SocketId::ANY`] if the lcore is not one of ours.
    #[must_use]
    pub fn socket_of(self, lcore: LcoreId) -> SocketId {
        let sockets = FACTS.get().map_or(&[][..], |facts| &facts.sockets);
        sockets.iter().find(|(id, _)| *id == lcore).map_or(SocketId::ANY, |(_, socket)| *socket)
    }

    /// How fast [`Tsc`](crate::Tsc) counts.
    #[must_use]
    pub fn tsc_hz(self) -> TscHz {
        FACTS.get().map_or(TscHz::new(1), |facts| facts.tsc_hz)
    }

    /// The directory for this instance's files: the telemetry socket `dpdk_telemetry.v2` is in it.
    #[must_use]
    pub fn runtime_dir(self) -> PathBuf {
        FACTS.get().map(|facts| facts.runtime_dir.clone()).unwrap_or_default()
    }

    /// Adds a virtual device, as `--vdev=name,args` does at the start. Its port can be found by `name` afterwards.
    /// As with [`Eal::init`], name and arguments are the operator's and trusted.
    ///
    /// # Errors
    /// [`Error::Hotplug`] if there is no such driver, the name is taken, or the driver refuses the arguments.
    pub fn attach_vdev(self, name: &str, args: &str) -> Result<(), Error> {
        port::attach_vdev(name, args)
    }

    /// Removes a virtual device.
    ///
    /// # Errors
    /// [`Error::PortBusy`] while its port has an owner, [`Error::Hotplug`] if there is no such device.
    pub fn detach_vdev(self, name: &str) -> Result<(), Error> {
        port::detach_vdev(name)
    }
}

fn facts() -> Facts {
    let mut workers = Vec::new();
    let mut next = u32::MAX;
    loop {
        // SAFETY: walks the static table of lcores; wraps from u32::MAX to 0 by its own contract.
        next = unsafe { sys::rte_get_next_lcore(next, 1, 0) };
        if next >= sys::RTE_MAX_LCORE {
            break;
        }
        workers.push(LcoreId::new(next));
    }
    // SAFETY: reads the configuration of the EAL, which has just been initialised.
    let main = LcoreId::new(unsafe { sys::rte_get_main_lcore() });
    let socket = |lcore: LcoreId| {
        // SAFETY: the lcore is one of those the EAL listed.
        let socket = unsafe { sys::rte_lcore_to_socket_id(lcore.get()) };
        (lcore, SocketId::from_raw(c_int::try_from(socket).unwrap_or(-1)))
    };
    let sockets = workers.iter().copied().chain([main]).map(socket).collect();
    // SAFETY: reads a static variable.
    let tsc_hz = TscHz::new(unsafe { sys::rte_get_tsc_hz() });
    // SAFETY: returns a static NUL-terminated string.
    let runtime_dir = unsafe { CStr::from_ptr(sys::rte_eal_get_runtime_dir()) };
    let runtime_dir = PathBuf::from(runtime_dir.to_string_lossy().into_owned());
    Facts { main, workers, sockets, tsc_hz, runtime_dir }
}

fn init_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EACCES => {
            "reserve hugepages and run with access to them, or use --no-huge with -m; the lines of EAL above say more"
        }
        Errno::ENOMEM => "ask for less memory (-m) or reserve more hugepages; the lines of EAL above say more",
        Errno::EINVAL => "one of the EAL arguments is not known or has a bad value; the lines of EAL above name it",
        Errno::ENODEV => {
            "no driver knows a device of --vdev or -a, which the lines of EAL above name: correct its name, or install the \
             driver (Debian has one package for each, librte-net-*)"
        }
        Errno::ENOTSUP => "a device (--vdev, -a) was refused by its driver; the lines of EAL above name it",
        _ => "the lines of EAL above say more",
    }
}
