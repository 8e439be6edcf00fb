//! Commands on DPDK's telemetry socket.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use crate::eal::Eal;
use crate::error::{Errno, Error};
use crate::life::{self, lock};
use crate::sys;

/// An answer to a command; DPDK puts it into JSON. Names must be of letters, digits, `_` and `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// One text, of at most 8191 bytes.
    Text(String),
    /// Numbers or texts, at most 512.
    Array(Array),
    /// Named entries, at most 256.
    Dict(Vec<(String, Entry)>),
}

/// An entry of a [`Value::Dict`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A number.
    U64(u64),
    /// A text, of at most 127 bytes.
    Text(String),
    /// Numbers or texts.
    Array(Array),
}

/// Elements of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Array {
    /// Numbers.
    U64(Vec<u64>),
    /// Texts, of at most 127 bytes each.
    Text(Vec<String>),
}

type Handler = dyn Fn(&str) -> Value + Send + Sync;

/// What answers which command: the callback of DPDK has no argument of ours, but is told the command.
static HANDLERS: Mutex<Option<HashMap<String, Arc<Handler>>>> = Mutex::new(None);

/// Answers `command`, as `/nf/drops`, with what `handler` returns for its parameters (what follows a comma; mostly
/// empty). It is called on a thread of DPDK, at any time until the process ends.
///
/// If the handler panics, or its answer has more entries than fit, a name of other characters or a NUL byte, the client
/// gets `null`. Longer texts are cut.
///
/// # Errors
/// [`Error::Telemetry`] if the command does not start with `/`, is longer than 55 bytes, has other characters than letters,
/// digits, `_` and `/`, or is taken;
/// [`Error::Nul`]; [`Error::NotRunning`].
pub fn register(
    _eal: Eal,
    command: &str,
    help: &str,
    handler: Box<dyn Fn(&str) -> Value + Send + Sync>,
) -> Result<(), Error> {
    let _running = life::running()?;
    let c_command = life::c_string("telemetry command", command)?;
    let c_help = life::c_string("telemetry help text", help)?;
    // Held throughout, so that the first question after the registration finds its handler.
    let mut handlers = lock(&HANDLERS);
    let handlers = handlers.get_or_insert_default();
    let ret = if handlers.contains_key(command) {
        // DPDK would take it, and answer with either.
        -Errno::EEXIST.code()
    } else {
        // SAFETY: both strings are NUL-terminated and copied by the call, the callback lives as long as the program.
        unsafe { sys::rte_telemetry_register_cmd(c_command.as_ptr(), Some(answer), c_help.as_ptr()) }
    };
    if ret < 0 {
        let errno = Errno::from_ret(ret);
        let remedy = match errno {
            Errno::EEXIST => "use another name, this one is taken",
            Errno::EINVAL => "use a name that starts with /, of at most 55 letters, digits, _ and /",
            _ => "register fewer commands",
        };
        return Err(Error::Telemetry { command: command.to_owned(), errno, remedy });
    }
    handlers.insert(command.to_owned(), Arc::from(handler));
    Ok(())
}

/// Called by the telemetry thread, from C: nothing may unwind out of it.
unsafe extern "C" fn answer(command: *const c_char, params: *const c_char, data: *mut sys::rte_tel_data) -> c_int {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: DPDK passes strings that live through the call, and a null pointer for no parameters.
        let (command, params) = unsafe { (text(command), text(params)) };
        let handler = lock(&HANDLERS).as_ref()?.get(&command).map(Arc::clone)?;
        let value = handler(&params);
        if !fits(&value) {
            return None;
        }
        // SAFETY: DPDK passes a structure for the answer, which nobody else has.
        unsafe { fill(data, &value) }.ok()
    }));
    match outcome {
        Ok(Some(())) => 0,
        Ok(None) => -1,
        Err(payload) => {
            // The panic's own destructor may panic as well.
            if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(second);
            }
            -1
        }
    }
}

/// # Safety
/// `text` must be null or a NUL-terminated string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, so NUL-terminated.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Whether DPDK has room for all of the answer. Asked first, since an answer given up half way leaks its arrays.
fn fits(value: &Value) -> bool {
    let array_fits = |array: &Array| {
        let (len, clean) = match array {
            Array::U64(numbers) => (numbers.len(), true),
            Array::Text(texts) => (texts.len(), texts.iter().all(|text| !text.contains('\0'))),
        };
        clean && len <= sys::RTE_TEL_MAX_ARRAY_ENTRIES as usize
    };
    let entry_fits = |(name, entry): &(String, Entry)| {
        let named = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'/');
        named
            && match entry {
                Entry::U64(_) => true,
                Entry::Text(text) => !text.contains('\0'),
                Entry::Array(array) => array_fits(array),
            }
    };
    match value {
        Value::Text(text) => !text.contains('\0'),
        Value::Array(array) => array_fits(array),
        Value::Dict(entries) => {
            entries.len() <= sys::RTE_TEL_MAX_DICT_ENTRIES as usize && entries.iter().all(entry_fits)
        }
    }
}

/// The answer can't be expressed.
struct Unfit;

/// DPDK returns a positive number for a text that it cut, and a negative one for what it did not take.
fn taken(ret: c_int) -> Result<(), Unfit> {
    if ret < 0 { Err(Unfit) } else { Ok(()) }
}

fn c_text(text: &str) -> Result<CString, Unfit> {
    CString::new(text).map_err(|_| Unfit)
}

/// # Safety
/// `data` must be valid and nobody else's.
unsafe fn fill(data: *mut sys::rte_tel_data, value: &Value) -> Result<(), Unfit> {
    // SAFETY: the caller vouches for the structure; strings are NUL-terminated and copied.
    unsafe {
        match value {
            Value::Text(text) => taken(sys::rte_tel_data_string(data, c_text(text)?.as_ptr())),
            Value::Array(array) => fill_array(data, array),
            Value::Dict(entries) => {
                taken(sys::rte_tel_data_start_dict(data))?;
                entries.iter().try_for_each(|(name, entry)| add(data, &c_text(name)?, entry))
            }
        }
    }
}

/// # Safety
/// `data` must be valid and nobody else's.
unsafe fn fill_array(data: *mut sys::rte_tel_data, array: &Array) -> Result<(), Unfit> {
    // SAFETY: the caller vouches for the structure; strings are NUL-terminated and copied.
    unsafe {
        match array {
            Array::U64(numbers) => {
                taken(sys::shim_tel_start_u64s(data))?;
                numbers.iter().try_for_each(|number| taken(sys::shim_tel_add_u64(data, *number)))
            }
            Array::Text(texts) => {
                taken(sys::shim_tel_start_strings(data))?;
                texts
                    .iter()
                    .try_for_each(|text| taken(sys::rte_tel_data_add_array_string(data, c_text(text)?.as_ptr())))
            }
        }
    }
}

/// # Safety
/// `dict` must be valid, nobody else's, and started as a dictionary.
unsafe fn add(dict: *mut sys::rte_tel_data, name: &CStr, entry: &Entry) -> Result<(), Unfit> {
    // SAFETY: the caller vouches for the structure; strings are NUL-terminated and copied.
    unsafe {
        match entry {
            Entry::U64(number) => taken(sys::shim_tel_add_dict_u64(dict, name.as_ptr(), *number)),
            Entry::Text(text) => taken(sys::rte_tel_data_add_dict_string(dict, name.as_ptr(), c_text(text)?.as_ptr())),
            Entry::Array(array) => {
                let inner = NonNull::new(sys::rte_tel_data_alloc()).ok_or(Unfit)?.as_ptr();
                // The dictionary frees it (keep = 0), if it takes it.
                let done = fill_array(inner, array)
                    .and_then(|()| taken(sys::rte_tel_data_add_dict_container(dict, name.as_ptr(), inner, 0)));
                if done.is_err() {
                    sys::rte_tel_data_free(inner);
                }
                done
            }
        }
    }
}
