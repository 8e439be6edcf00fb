//! The control thread: its state, and the socket over which operators reach it.

pub mod controller;
