//! The bindings, as bindgen makes them. Private: safe types wrap all of it.
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]

include!(concat!(env!("OUT_DIR"), "/sys.rs"));

/// An mbuf is two cache lines, whatever the release: its fast path depends on it, and so do our casts.
const _: () = assert!(size_of::<rte_mbuf>() == 128);
