//! The ESP termination network function: decapsulates, and makes every dropped packet and every invalid SPI visible.
//!
//! docs/architecture.md tells the life of a packet and of an SA. The heart of the crate knows nothing of DPDK and holds
//! no `unsafe`; only `runtime`, behind the feature `dpdk`, runs it on ports.
//!
//! # Words
//! - **SPI**, **SA**, **SAD**, **ICV**, **ESN**: as in RFC 4301 and RFC 4303.
//! - **burst**: packets received, or worked on, together; **lane**: a packet's place in one.
//! - **gate**: a point of the pipeline where plugins may be bound; **instance**: a plugin with settings; **binding**: an
//!   instance at a gate, for the packets that a filter picks.
//! - **core**: a worker, one thread on one lcore; **control thread**: everything that may allocate, wait and log.
//! - **consumed**: ended by design, such as a NAT keepalive; **dropped**: lost, under exactly one reason.
#![forbid(unsafe_code)]

pub mod batch;
pub mod capture;
pub mod classify;
pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod counters;
mod cpu;
pub mod crypto;
pub mod decap;
pub mod drop;
pub mod encap;
pub mod event;
pub mod forward;
pub mod fragment;
mod hash;
pub mod holding;
pub mod hooks;
pub mod icmp;
pub mod lanes;
pub mod lookaside;
pub mod metrics;
pub mod net;
pub mod notify;
pub mod packet;
pub mod path_mtu;
pub mod plugin;
pub mod policy;
pub mod prefix;
pub mod process;
pub mod route;
#[cfg(feature = "dpdk")]
pub mod runtime;
pub mod sa;
pub mod spd;
pub mod stage;
pub mod state;
mod sync;
pub mod systemd;
pub mod types;
pub mod wire;

// What unit tests share with those in tests/ calls the crate by its name.
#[cfg(test)]
extern crate self as nf_core;
