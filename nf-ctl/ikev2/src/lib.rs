//! An IKEv2 endpoint without I/O (RFC 7296).
//!
//! Datagrams and the time go in, datagrams and events come out: sockets, clocks and threads are the caller's.

#![forbid(unsafe_code)]

pub mod crypto;
pub mod proposal;
pub mod selector;
pub mod wire;
