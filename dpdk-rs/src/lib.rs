//! Safe, owning wrappers of DPDK: the only crate of the workspace that knows `rte_*`, and that has `unsafe` code.
//!
//! The bindings are made by bindgen from the headers of the libdpdk that pkg-config finds (21.11 or newer), with an
//! exact list of names; they are private. What is public can't be misused from safe code.
//!
//! # The safety contract
//!
//! - **The EAL starts once.** [`Eal::init`] returns the token that every constructor takes; a second call is an error
//!   value. Whatever points into the EAL's memory counts as a lease, and every packet counts with its pool:
//!   [`Eal::cleanup`] unmaps that memory only when nothing is left, and nothing can be made after it.
//! - **A packet has one owner.** An [`Mbuf`] is freed when dropped, a [`Burst`] frees what is left in it, and sending
//!   or enqueueing moves packets out. A buffer is lent as `&mut [u8]` only if it is the packet's own and no other
//!   packet refers to it; all of it is initialised, since a [`Mempool`] writes zeros over its buffers once.
//! - **A pool outlives its packets.** [`Mempool`] is a handle; the pool itself stays until clean-up.
//! - **A port has one owner.** [`Port::configure`] makes it, a second one gets [`Error::PortBusy`]. What the driver
//!   can't do is refused before anything is configured.
//! - **A queue has one owner.** [`ConfiguredPort::start`] returns each [`RxQueue`] and [`TxQueue`] once; they can be
//!   sent to another thread but not shared or copied. They keep their port running: a stopped port can't be polled.
//! - **A crypto device has one owner, and keeps nothing that is gone.** A [`CryptoQueue`] owns the packets that its device
//!   works on, and a share in each session that they need; what the device doesn't give back is never used again.
//! - **Nothing unwinds into C.** A panic on an lcore is an error from [`LcoreHandle::join`], one in a telemetry handler
//!   is an empty answer.
//! - **The network is not trusted.** Lengths that drivers report are bounds only within the buffers they filled;
//!   [`FragTable`] checks all that `rte_ip_frag` would take on trust.
//! - **The operator is.** Arguments of the EAL and of devices name files, load drivers and hand addresses to them. They
//!   must come from the configuration, never from a network. Drivers are trusted to keep DPDK's own rules.
//!
//! # The loop of a core
//!
//! ```no_run
//! use dpdk_rs::{Burst, Eal, Error, Mempool, Port, PortConfig, SocketId};
//!
//! # fn main() -> Result<(), Error> {
//! let args = ["--no-huge", "-m", "256", "--vdev=net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap"];
//! let eal = Eal::init(args.map(str::to_owned))?;
//! let pool = Mempool::create(eal, "packets", 8191, 256, 2176, SocketId::ANY)?;
//! let port = Port::by_name(eal, "net_pcap0")?;
//! let (port, mut rx, mut tx) = port.configure(&PortConfig::default(), &pool)?.start()?;
//! let (Some(mut from), Some(mut to)) = (rx.pop(), tx.pop()) else { return Ok(()) };
//!
//! let mut burst = Burst::<64>::new();
//! while from.recv(&mut burst) > 0 {
//!     for packet in &mut burst {
//!         let Ok((buffer, data)) = packet.buffer_mut() else { continue };
//!         // The first six octets are the destination address.
//!         if let Some(destination) = buffer.get_mut(data).and_then(|frame| frame.first_chunk_mut::<6>()) {
//!             *destination = [2, 0, 0, 0, 0, 1];
//!         }
//!     }
//!     to.send(&mut burst);
//!     // What the driver did not take is lost: count it.
//!     burst.clear();
//! }
//! port.stop(vec![from], vec![to])
//! # }
//! ```

mod burst;
mod clock;
mod crypto;
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
mod reassembly;
mod ring;
mod shared;
mod sys;
pub mod telemetry;

pub use burst::{Burst, Drain};
pub use clock::{Tsc, TscHz};
pub use crypto::{
    CryptoAuth, CryptoCipher, CryptoConfig, CryptoDevice, CryptoDirection, CryptoQueue, CryptoSession, CryptoStatus,
    CryptoTransform, CryptoWork,
};
pub use eal::{Eal, SocketId};
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
pub use reassembly::{DeathReason, FragTable, Outcome, Rejection};
pub use ring::{MbufRing, RingConsumer, RingProducer};
pub use shared::map_words;
