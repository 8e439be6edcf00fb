//! The raw bindings, private to the crate.

#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    unreachable_pub,
    dead_code,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]

include!(concat!(env!("OUT_DIR"), "/sys.rs"));

// The accessors of `Mbuf` count on two cache lines, as every release so far has.
const _: () = assert!(size_of::<rte_mbuf>() == 128 && SHIM_MBUF_SIZE == 128 && align_of::<rte_mbuf>() == 64);
