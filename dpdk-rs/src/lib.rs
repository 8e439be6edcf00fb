//! Safe, owning wrappers of DPDK.

mod burst;
mod clock;
mod eal;
mod error;
mod lcore;
mod life;
mod mbuf;
mod mempool;
mod offload;
mod port;
mod prefetch;
mod queue;
mod sys;

pub use burst::{Burst, Drain};
pub use clock::{Tsc, TscHz};
pub use eal::{Eal, SocketId, built_for, version};
pub use error::{Errno, Error};
pub use lcore::{LcoreHandle, LcoreId};
pub use mbuf::{ChecksumStatus, Mbuf, NotWritable, Segments};
pub use mempool::{HEADROOM, Mempool};
pub use offload::{RssTypes, RxOffloads, TxOffloads};
pub use port::{
    ConfiguredPort, LinkStatus, MacAddr, Port, PortConfig, PortId, PortInfo, PortStats, StartedPort, ports,
};
pub use prefetch::prefetch_read;
pub use queue::{RxQueue, TxQueue};
