//! The control socket: how an operator's tool talks to a running network function.
//!
//! [`proto`] says what goes over the socket, [`server`] does the I/O beside the control thread, [`client`] is the other
//! end. No thread of this module touches a packet or an SA: a request travels to the control thread over a bounded
//! queue, and the control thread answers it between its other duties.

pub mod client;
pub mod proto;
pub mod server;
