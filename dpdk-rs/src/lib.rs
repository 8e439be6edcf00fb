//! Safe, owning wrappers of DPDK, on bindings that bindgen makes of the libdpdk that pkg-config finds.
//!
//! # The contract
//! This is the only crate of the workspace with `unsafe` for DPDK's sake, and it knows nothing of ESP. What it holds to:
//!
//! - **EAL runs once.** [`Eal`] is the proof that it does; what needs EAL takes it. It is never shut down, and pools live
//!   as long as the process, so no buffer outlives its pool.
//! - **A packet has one owner.** [`Mbuf`] frees it when dropped; sending gives it away. A [`Burst`] owns its packets.
//! - **Memory is initialised.** A pool writes all its buffers once, so a buffer's octets may be lent as a slice, room in
//!   front and behind included. It is lent only where the buffer is the packet's alone.
//! - **A port has one owner, and so has a queue.** [`Port::start`] gives each queue once. Queues can't be shared between
//!   threads, and keep their port running: a stopped port can't be polled.
//! - **No panic goes into C.** What runs on an lcore or answers telemetry is caught.
//! - **Errors are values** that name the object and the remedy.

mod burst;
mod clock;
mod eal;
mod errno;
mod lcore;
mod mbuf;
mod mempool;
mod port;
mod reassembly;
mod ring;
mod sys;
mod telemetry;

pub use burst::{Burst, Drain};
pub use clock::Tsc;
pub use eal::Eal;
pub use errno::{Errno, Error};
pub use lcore::{LcoreHandle, LcoreId};
pub use mbuf::Mbuf;
pub use mempool::{HEADROOM, Mempool, SocketId};
pub use port::{EtherAddr, Port, PortConfig, PortInfo, PortStats, RxQueue, StartedPort, TxQueue, port_names};
pub use reassembly::{FragTable, Reassembled};
pub use ring::{MbufConsumer, MbufProducer, mbuf_ring};
pub use telemetry::{Value, register as register_telemetry};
