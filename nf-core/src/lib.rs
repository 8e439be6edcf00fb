//! The ESP termination network function.
#![forbid(unsafe_code)]

pub mod counters;
pub mod crypto;
pub mod drop;
pub mod sa;
pub mod types;
pub mod wire;
