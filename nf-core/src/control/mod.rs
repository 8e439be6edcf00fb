//! The control thread: its state, and the socket over which operators reach it.
//!
//! [`proto`] says what goes over the socket. [`server`] does the I/O on threads of its own, [`client`] is the other end.
//! No thread of the socket touches a packet or an SA: a request travels to the control thread over a bounded queue, and
//! [`handler`] answers it there from what [`controller`] keeps. [`access`] says who may do what, [`audit`] records what was changed.

pub mod access;
pub mod audit;
pub mod client;
pub mod controller;
pub mod handler;
pub mod proto;
pub mod server;
pub mod subscribers;
