//! The ESP termination network function.
#![forbid(unsafe_code)]

pub mod batch;
pub mod capture;
pub mod classify;
#[cfg(feature = "dpdk")]
pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod counters;
pub mod crypto;
pub mod decap;
pub mod drop;
pub mod event;
pub mod forward;
pub mod lanes;
pub mod net;
pub mod notify;
pub mod packet;
pub mod plugin;
pub mod policy;
pub mod prefix;
#[cfg(feature = "dpdk")]
pub mod runtime;
pub mod sa;
pub mod types;
pub mod wire;
