//! The network function.
