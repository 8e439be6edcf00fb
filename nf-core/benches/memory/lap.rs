//! A lap: all frames once through a core, and the clocks that it took.

use dpdk_rs::Tsc;
use nf_core::batch::{Batch, Fate};
use nf_core::core::Core;
use nf_core::lanes::BURST;
use nf_core::packet::Packet;
use nf_core::types::{Nanos, PortIndex};

pub(crate) use crate::function::{install, network_function};
use crate::traffic::Frames;

/// Room in front of a frame, as an mbuf has it.
const HEADROOM: usize = 128;
/// Octets of an mbuf, which lies in front of its buffer.
const MBUF: usize = 128;
/// Where a frame is.
const FRAME_AT: usize = MBUF + HEADROOM;
/// From one buffer to the next: an mbuf, its headroom and its data room.
const STRIDE: usize = FRAME_AT + 2048;
/// Buffers in use, in turn: what a driver and its pool's cache circulate.
const BUFFERS: usize = 256;

/// What a lap took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lap {
    pub(crate) clocks: u64,
    pub(crate) packets: u64,
    pub(crate) sent: u64,
}

impl Lap {
    pub(crate) fn per_packet(self) -> f64 {
        self.clocks as f64 / self.packets as f64
    }
}

/// A burst's buffers, with frames in them.
pub(crate) struct Filled {
    octets: Vec<u8>,
    lens: [usize; BURST],
    count: usize,
}

impl Filled {
    pub(crate) fn new() -> Filled {
        Filled { octets: vec![0; BURST * STRIDE], lens: [0; BURST], count: 0 }
    }

    /// Copies frames in, a burst at most, as a driver does.
    pub(crate) fn fill<'f>(&mut self, frames: impl Iterator<Item = &'f [u8]>) {
        self.count = 0;
        for (buffer, frame) in self.octets.chunks_exact_mut(STRIDE).zip(frames) {
            buffer[FRAME_AT..FRAME_AT + frame.len()].copy_from_slice(frame);
            self.lens[self.count] = frame.len();
            self.count += 1;
        }
    }

    /// Takes them through a core; gives how many leave on the protected port.
    pub(crate) fn process(&mut self, core: &mut Core) -> u64 {
        let mut batch = Batch::default();
        for (buffer, len) in self.octets.chunks_exact_mut(STRIDE).zip(&self.lens[..self.count]) {
            if let Ok(packet) = Packet::new(&mut buffer[MBUF..], HEADROOM..HEADROOM + len, PortIndex(0)) {
                let _ = batch.push(packet);
            }
        }
        core.process(Nanos(Tsc::now().0), &mut batch);
        batch.lanes().map(|lane| u64::from(matches!(batch.fate(lane), Fate::Send(PortIndex(1))))).sum()
    }
}

/// The buffers in use, in turn.
pub(crate) struct Buffers(Vec<Filled>);

impl Buffers {
    pub(crate) fn new() -> Buffers {
        Buffers((0..BUFFERS / BURST).map(|_| Filled::new()).collect())
    }
}

/// All frames once through a core, in bursts of `burst`. The clock runs from the making of a burst to its fates.
pub(crate) fn lap(core: &mut Core, buffers: &mut Buffers, frames: &Frames, burst: usize) -> Lap {
    let mut lap = Lap::default();
    let mut frames = frames.iter().peekable();
    for turn in 0.. {
        if frames.peek().is_none() {
            break;
        }
        let place = turn % buffers.0.len();
        let buffer = &mut buffers.0[place];
        buffer.fill(frames.by_ref().take(burst));
        let before = Tsc::now();
        lap.sent += buffer.process(core);
        lap.clocks += Tsc::now().cycles_since(before);
        lap.packets += buffer.count as u64;
    }
    lap
}
