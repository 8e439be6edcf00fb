//! The control thread: its state, and the socket over which operators reach it.

pub mod client;
pub mod controller;
pub mod handler;
pub mod proto;
pub mod server;
