//! ESP spread over the workers in software.
//!
//! Most NICs choose a receive queue by a hash of the outer addresses, which all packets of a tunnel share: one worker gets
//! the whole tunnel and the others none of it. That worker hands bursts on to the others, in turn, over rings. Any core
//! can take any packet, as SAs and their replay windows are shared; it sends what comes out on its own transmit queues.
//!
//! Packets keep their order within a burst that is handed on. Between bursts they may change it, by what waits in the
//! rings at most as long as no worker is held up.
//!
//! A ring that is full costs no packet: the worker does what the ring doesn't take itself, and then its receive queue
//! tells whether all of them together are too slow.

use dpdk_rs::{Burst, Eal, MbufRing, RingConsumer, RingProducer, SocketId};

use super::Error;
use crate::config::Spread;
use crate::lanes::BURST;
use crate::stage::StageCounters;
use crate::types::PortIndex;
use crate::wire;

/// Packets that may wait for one worker: two bursts keep it busy, and any more would be overtaken for longer.
const RING: u32 = 2 * BURST as u32;

/// A worker's rings: to the others, and from them.
pub(super) struct Spreader {
    mode: Spread,
    to: Vec<Outward>,
    from: Vec<(PortIndex, RingConsumer)>,
}

/// What a worker receives on a port goes here.
struct Outward {
    port: PortIndex,
    /// To each other worker.
    rings: Vec<RingProducer>,
    /// Whose turn it is: one of the rings', or this worker's own behind the last.
    turn: usize,
}

impl Spreader {
    /// The rings of all workers. `receivers` has, for each port whose ESP is spread, the workers that have a queue of it.
    ///
    /// # Errors
    /// DPDK's, where there is no memory left.
    pub(super) fn mesh(
        eal: Eal,
        mode: Spread,
        workers: usize,
        receivers: &[(PortIndex, Vec<usize>)],
    ) -> Result<Vec<Spreader>, Error> {
        let mut mesh: Vec<Spreader> =
            (0..workers).map(|_| Spreader { mode, to: Vec::new(), from: Vec::new() }).collect();
        if mode == Spread::Off {
            return Ok(mesh);
        }
        for (port, receivers) in receivers {
            for receiver in receivers {
                let mut outward = Outward { port: *port, rings: Vec::new(), turn: 0 };
                for (other, spreader) in mesh.iter_mut().enumerate().filter(|(other, _)| other != receiver) {
                    let name = format!("spread{}-{receiver}-{other}", port.index());
                    let (producer, consumer) = MbufRing::create(eal, &name, RING, SocketId::ANY)?;
                    outward.rings.push(producer);
                    spreader.from.push((*port, consumer));
                }
                // A lone worker has nobody to hand anything on to.
                if let Some(spreader) = mesh.get_mut(*receiver).filter(|_| !outward.rings.is_empty()) {
                    spreader.to.push(outward);
                }
            }
        }
        Ok(mesh)
    }

    /// Of a worker that is the only one.
    pub(super) fn alone() -> Spreader {
        Spreader { mode: Spread::Off, to: Vec::new(), from: Vec::new() }
    }

    /// Whether a burst of a port, by its length, is to be handed on.
    #[inline]
    pub(super) fn is_due(&self, burst: &Burst<BURST>, port: PortIndex) -> bool {
        let is_due = match self.mode {
            Spread::Off => false,
            // The driver had as much as was asked for, and has more: this worker doesn't keep up.
            Spread::Auto => burst.is_full(),
            Spread::On => true,
        };
        is_due && self.to.iter().any(|outward| outward.port == port)
    }

    /// Hands the ESP of a burst on, where it is another worker's turn. What this worker is to do itself stays in the burst.
    pub(super) fn hand_on(&mut self, burst: &mut Burst<BURST>, port: PortIndex, counters: &StageCounters) {
        let Some(outward) = self.to.iter_mut().find(|outward| outward.port == port) else {
            return;
        };
        let turn = outward.turn;
        outward.turn = if turn < outward.rings.len() { turn + 1 } else { 0 };
        let Some(ring) = outward.rings.get_mut(turn) else {
            return;
        };
        let (mut esp, mut other) = (Burst::<BURST>::default(), Burst::<BURST>::default());
        for packet in burst.drain() {
            let to = if wire::is_whole_esp(packet.data()) { &mut esp } else { &mut other };
            // There is room: each of the two takes a burst.
            drop(to.push(packet));
        }
        let handed_on = ring.enqueue(&mut esp);
        counters.handed_on(handed_on, esp.len());
        for packet in esp.drain().chain(other.drain()) {
            drop(burst.push(packet));
        }
    }

    /// How many rings lead to this worker.
    pub(super) fn sources(&self) -> usize {
        self.from.len()
    }

    /// Takes what another worker has handed on; gives the port that it was received on.
    #[inline]
    pub(super) fn take_over(
        &mut self,
        source: usize,
        burst: &mut Burst<BURST>,
        counters: &StageCounters,
    ) -> Option<PortIndex> {
        let (port, ring) = self.from.get_mut(source)?;
        let count = ring.dequeue(burst);
        counters.taken_over(count);
        (count > 0).then_some(*port)
    }

    /// Hands nothing on any more.
    pub(super) fn close(&mut self) {
        self.to.clear();
    }

    /// Whether nothing can come any more: all others have closed, and the rings are empty.
    pub(super) fn is_over(&self) -> bool {
        self.from.iter().all(|(_, ring)| ring.is_abandoned() && ring.is_empty())
    }
}
