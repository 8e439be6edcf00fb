//! Queues of a started port: one owner each, polled without a lock.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::burst::Burst;
use crate::port::{Owner, PortId};
use crate::sys;

/// A receive queue. It can be sent to the thread that polls it, but not shared:
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<dpdk_rs::RxQueue>();
/// ```
/// nor copied:
/// ```compile_fail,E0599
/// fn second(queue: &dpdk_rs::RxQueue) -> dpdk_rs::RxQueue {
///     queue.clone()
/// }
/// ```
pub struct RxQueue {
    port: PortId,
    queue: u16,
    owner: Arc<Owner>,
    not_sync: PhantomData<Cell<()>>,
}

/// A transmit queue. As with [`RxQueue`], it has one owner:
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<dpdk_rs::TxQueue>();
/// ```
pub struct TxQueue {
    port: PortId,
    queue: u16,
    multi_segment: bool,
    owner: Arc<Owner>,
    not_sync: PhantomData<Cell<()>>,
}

impl RxQueue {
    pub(crate) fn new(port: PortId, queue: u16, owner: Arc<Owner>) -> Self {
        Self { port, queue, owner, not_sync: PhantomData }
    }

    /// The port it belongs to.
    #[must_use]
    pub fn port(&self) -> PortId {
        self.port
    }

    /// Its number within the port.
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Adds what has arrived to `burst`, as far as there is room, and returns how many packets that were. Never waits.
    #[inline]
    pub fn recv<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        let before = burst.len();
        let (tail, room) = burst.tail();
        let room = u16::try_from(room).unwrap_or(u16::MAX);
        // SAFETY: the port is started as long as its owner lives, this is the only handle of the queue, and tail has
        // room for so many pointers.
        let n = unsafe { sys::rte_eth_rx_burst(self.port.get(), self.queue, tail, room) };
        let n = usize::from(n.min(room));
        // SAFETY: the driver wrote n packets, which are nobody else's.
        unsafe { burst.grow(n) };
        for packet in burst.as_mut_slice().get_mut(before..).unwrap_or_default() {
            packet.settle_length();
        }
        n
    }
}

impl TxQueue {
    pub(crate) fn new(port: PortId, queue: u16, multi_segment: bool, owner: Arc<Owner>) -> Self {
        Self { port, queue, multi_segment, owner, not_sync: PhantomData }
    }

    /// The port it belongs to.
    #[must_use]
    pub fn port(&self) -> PortId {
        self.port
    }

    /// Its number within the port.
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Whether the driver takes packets of several segments.
    #[must_use]
    pub fn takes_chains(&self) -> bool {
        self.multi_segment
    }

    /// Sends `burst` from its front, and returns how many packets the driver took: those are gone from the burst, the
    /// rest stays in it, in order. Fewer than all means that the queue is full; try again, or clear the burst and
    /// count the loss.
    ///
    /// Where the driver does not take chains, this sends those in front of the first chain: linearise it, or drop it.
    #[inline]
    pub fn send<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        let sendable = if self.multi_segment {
            burst.len()
        } else {
            burst.iter().position(|packet| !packet.is_contiguous()).unwrap_or(burst.len())
        };
        let count = u16::try_from(sendable).unwrap_or(u16::MAX);
        if count == 0 {
            return 0;
        }
        // SAFETY: the port is started as long as its owner lives, this is the only handle of the queue, and the first
        // `count` pointers are packets that the burst owns.
        let n = unsafe { sys::rte_eth_tx_burst(self.port.get(), self.queue, burst.head(), count) };
        let n = usize::from(n.min(count));
        // SAFETY: the driver owns the first n packets now.
        unsafe { burst.forget_front(n) };
        n
    }
}

impl fmt::Debug for RxQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxQueue").field("port", &self.owner.name()).field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl fmt::Debug for TxQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxQueue").field("port", &self.owner.name()).field("queue", &self.queue).finish_non_exhaustive()
    }
}
