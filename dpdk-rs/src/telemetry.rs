//! Commands that `dpdk-telemetry.py` can ask.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use crate::eal::{Eal, c_string};
use crate::errno::{Errno, Error};
use crate::sys;

/// An answer: a list of names with values. DPDK takes at most 256 entries, names of 63 and texts of 127 octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

type Answer = Box<dyn Fn(&str) -> Vec<(String, Value)> + Send>;

/// C's callback gets no pointer of ours: it finds the answer by the command.
static COMMANDS: Mutex<Option<HashMap<String, Answer>>> = Mutex::new(None);

/// Registers a command, such as `/nf/counters`, for the rest of the process. `answer` gets what the asker wrote behind
/// the command's comma.
pub fn register(
    _eal: Eal,
    command: &str,
    help: &str,
    answer: impl Fn(&str) -> Vec<(String, Value)> + Send + 'static,
) -> Result<(), Error> {
    let (c_command, c_help) = (c_string(command)?, c_string(help)?);
    // SAFETY: the strings live through the call, which copies them.
    let code = unsafe { sys::rte_telemetry_register_cmd(c_command.as_ptr(), Some(respond), c_help.as_ptr()) };
    if code < 0 {
        return Err(Error::Telemetry { command: command.to_owned(), errno: Errno::returned(code) });
    }
    let mut commands = COMMANDS.lock().unwrap_or_else(PoisonError::into_inner);
    commands.get_or_insert_default().insert(command.to_owned(), Box::new(answer));
    Ok(())
}

unsafe extern "C" fn respond(command: *const c_char, params: *const c_char, data: *mut sys::rte_tel_data) -> c_int {
    let text = |text: *const c_char| {
        if text.is_null() {
            return String::new();
        }
        // SAFETY: the library passes strings that live through the call.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    let (command, params) = (text(command), text(params));
    let answered = catch_unwind(AssertUnwindSafe(|| {
        let commands = COMMANDS.lock().unwrap_or_else(PoisonError::into_inner);
        commands.as_ref().and_then(|commands| commands.get(&command)).map(|answer| answer(&params))
    }));
    let Ok(Some(entries)) = answered else {
        return -1;
    };
    // SAFETY: the library passes a structure to be filled in.
    unsafe { sys::rte_tel_data_start_dict(data) };
    for (name, value) in entries {
        let Ok(name) = CString::new(name) else {
            continue;
        };
        // SAFETY: as above; names and texts are copied. What doesn't fit is left out.
        unsafe {
            match value {
                Value::Number(number) => sys::rte_tel_data_add_dict_u64(data, name.as_ptr(), number),
                Value::Text(text) => match CString::new(text) {
                    Ok(text) => sys::rte_tel_data_add_dict_string(data, name.as_ptr(), text.as_ptr()),
                    Err(_) => 0,
                },
            }
        };
    }
    0
}
