//! The library's managers: its table of functions for this CPU, and the lanes in which it keeps what it works on.

use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::sys;

/// A manager, freed when it is dropped.
pub(crate) struct Manager {
    memory: NonNull<sys::IMB_MGR>,
    code: Code,
}

/// Which of its implementations the library takes.
#[derive(Clone, Copy)]
enum Code {
    /// The one with the widest instructions that the CPU has.
    Widest,
    /// The one that has used SHA instructions from the first.
    Sse,
}

// SAFETY: a manager isn't bound to a thread; whoever has it may use it.
unsafe impl Send for Manager {}
// SAFETY: through a shared reference only function pointers are read.
unsafe impl Sync for Manager {}

impl Manager {
    /// One with the widest instructions that the CPU has. None where there is no memory, or where the library would fall back
    /// to an emulation that is slower than anything else.
    pub(crate) fn widest() -> Option<Manager> {
        if !is_able() {
            return None;
        }
        Manager::allocate(Code::Widest)
    }

    /// One that hashes by the CPU's SHA instructions, two packets at once, which no wider one of this library does on every
    /// CPU that has them. None without them.
    pub(crate) fn with_sha() -> Option<Manager> {
        #[cfg(target_arch = "x86_64")]
        let able = std::is_x86_feature_detected!("sha");
        #[cfg(not(target_arch = "x86_64"))]
        let able = false;
        if !able || !is_able() {
            return None;
        }
        Manager::allocate(Code::Sse)
    }

    fn allocate(code: Code) -> Option<Manager> {
        // SAFETY: any flags may be passed; none are.
        let memory = NonNull::new(unsafe { sys::alloc_mb_mgr(0) })?;
        let mut manager = Manager { memory, code };
        manager.reset();
        Some(manager)
    }

    /// Empties its lanes, whatever is in them.
    pub(crate) fn reset(&mut self) {
        let memory = self.memory.as_ptr();
        match self.code {
            // SAFETY: the manager is ours alone; it isn't asked for which CPU it chose.
            Code::Widest => unsafe { sys::init_mb_mgr_auto(memory, std::ptr::null_mut()) },
            // SAFETY: the manager is ours alone, and the CPU has the instructions.
            Code::Sse => unsafe { sys::init_mb_mgr_sse(memory) },
        }
    }

    /// For its function pointers.
    #[inline]
    pub(crate) fn functions(&self) -> &sys::IMB_MGR {
        // SAFETY: the manager lives as long as this, and is written to through an exclusive reference alone.
        unsafe { self.memory.as_ref() }
    }

    /// All of its memory.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> &[u8] {
        // SAFETY: the library says how long the memory is, which it has zeroed, and nobody writes to it meanwhile.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), sys::imb_get_mb_mgr_size()) }
    }

    /// For functions that use its lanes.
    #[inline]
    pub(crate) fn as_mut_ptr(&mut self) -> *mut sys::IMB_MGR {
        self.memory.as_ptr()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // SAFETY: it came from `alloc_mb_mgr`, and nobody has it any more.
        unsafe { sys::free_mb_mgr(self.memory.as_ptr()) };
    }
}

fn is_able() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The manager of which all threads use the functions that keep no state.
pub(crate) fn shared() -> Option<&'static sys::IMB_MGR> {
    static SHARED: OnceLock<Option<Manager>> = OnceLock::new();
    SHARED.get_or_init(Manager::widest).as_ref().map(Manager::functions)
}

/// Whether this CPU has what the library needs.
pub fn is_available() -> bool {
    shared().is_some()
}
