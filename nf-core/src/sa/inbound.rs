//! An inbound SA as the cores use it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::counters::Count;
use crate::cpu;
use crate::crypto::{Engine, EngineError, Layout, Opener};
use crate::hash::mix;
use crate::sa::lifetime::{Allowance, Limit, Phase, Unit};
use crate::sa::permit::Permit;
use crate::sa::replay::ReplayWindow;
use crate::sa::spec::{Encap, Mode, SaParams};
use crate::state::Mark;
use crate::sync::{AtomicBool, AtomicU64, Ordering::Relaxed};
use crate::types::{CoreId, SeqNo, Spi};

/// What tells one SA from another. RFC 4301 4.1 finds a unicast SA by SPI and destination; the source decides between
/// two that share both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SaKey {
    /// SPI.
    pub spi: Spi,
    /// Outer destination address: one of ours.
    pub dst: IpAddr,
    /// Outer source address: the peer's.
    pub src: IpAddr,
}

/// An inbound SA. Shared by all cores: what changes in it is atomic, or per core.
///
/// What every packet needs comes first, in the order of its use, and fills four cache lines beside each other. So a core that
/// serves many SAs asks for all of them at once, and waits for no pointer but those to the keys.
#[repr(C, align(64))]
pub struct Sa {
    /// A number for sorting and display. No two SAs of a process have the same.
    pub id: u32,
    /// The SPI, as in the key.
    pub spi: Spi,
    /// Lengths of the ESP fields.
    pub layout: Layout,
    /// Tunnel or transport mode.
    pub mode: Mode,
    /// The encapsulation that was negotiated. Packets are taken with and without UDP all the same, since a peer may
    /// choose freely (RFC 7296 2.23).
    pub encap: Encap,
    /// Which of its limits it has reached.
    phase: Phase,
    /// Whether an authentic packet has come.
    used: AtomicBool,
    /// Whether its progress outlives the process.
    marked: bool,
    /// Verifies and decrypts.
    pub opener: Box<dyn Opener>,
    /// The first sequence number at which traffic may have reached a limit.
    attention: SeqNo,
    /// What may be inside.
    pub permit: Permit,
    /// The counters of other cores than the first.
    more_counters: Box<[SaCounters]>,
    /// The anti-replay window.
    pub window: ReplayWindow,
    /// The counters of the first core, which often is the only one.
    counters: SaCounters,
    /// What it is found by.
    pub key: SaKey,
    /// Where the newest authentic packet came from, as [`fingerprint`]; 0 before the first.
    source: AtomicU64,
    /// What of its lifetime traffic uses up.
    allowance: Allowance,
    /// Where its progress is noted for a successor.
    mark: Option<Mark>,
}

/// How far an SA has come before this process has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// The highest number that was accepted; all up to it counts as received.
    pub highest: SeqNo,
    /// Packets that came on it.
    pub packets: u64,
    /// Octets that came on it.
    pub octets: u64,
    /// Where to keep it from now on.
    pub mark: Option<Mark>,
}

/// Octets of a cache line.
#[cfg(all(target_pointer_width = "64", not(loom)))]
const CACHE_LINE: usize = 64;

// What [`Sa::prefetch`] asks for is all that a packet needs of the SA itself.
#[cfg(all(target_pointer_width = "64", not(loom)))]
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Sa, more_counters) == CACHE_LINE);
    assert!(offset_of!(Sa, window) + ReplayWindow::SMALL_AT == 2 * CACHE_LINE);
    assert!(offset_of!(Sa, counters) == 3 * CACHE_LINE);
    assert!(offset_of!(Sa, key) <= 4 * CACHE_LINE);
};

impl Sa {
    /// Makes the SA with its key schedule, for `cores` cores.
    pub fn new(params: &SaParams, id: u32, engine: &dyn Engine, cores: usize) -> Result<Sa, EngineError> {
        Sa::resume(params, id, engine, cores, Progress::default())
    }

    /// Makes an SA that has come some way already.
    pub fn resume(
        params: &SaParams,
        id: u32,
        engine: &dyn Engine,
        cores: usize,
        progress: Progress,
    ) -> Result<Sa, EngineError> {
        let Progress { highest, packets, octets, mark } = progress;
        let next = SeqNo(highest.0.saturating_add(1));
        let window = ReplayWindow::resume_from(params.replay_window, params.transform.esn(), next);
        let window = if cores > 1 { window } else { window.alone() };
        // A number that may come again can't run out.
        let allowance = Allowance::new(&params.lifetime, window.last().unwrap_or(SeqNo(u64::MAX)));
        let key = params.key();
        let sa = Sa {
            id,
            spi: key.spi,
            layout: params.transform.layout(),
            mode: params.mode,
            encap: params.encap,
            phase: Phase::default(),
            used: AtomicBool::new(false),
            marked: mark.is_some(),
            opener: engine.prepare(&params.transform)?,
            attention: allowance.attention(),
            permit: Permit::from(&params.selectors),
            more_counters: (1..cores).map(|_| SaCounters::default()).collect(),
            window,
            counters: SaCounters::default(),
            key,
            source: AtomicU64::new(0),
            allowance,
            mark,
        };
        sa.counters.packets.add(packets);
        sa.counters.octets.add(octets);
        // A limit that was reached before is reached.
        if highest.0 > 0 {
            sa.note_progress(highest);
        }
        Ok(sa)
    }

    /// Keeps the number for a successor. Called after the window has taken a burst's numbers, and before a packet of the
    /// burst leaves.
    #[inline]
    pub fn raise_mark(&self, newest: SeqNo) {
        if self.marked
            && let Some(mark) = &self.mark
        {
            mark.raise(newest);
        }
    }

    /// Asks for the memory that the SA itself is in, as far as each packet needs it.
    #[inline]
    pub(crate) fn prefetch(&self) {
        cpu::prefetch(&self.id);
        cpu::prefetch(&self.more_counters);
        self.window.prefetch_small();
        cpu::prefetch(&self.counters);
    }

    /// Asks for the memory that the SA points to, once the SA itself is there. The engine's keys are left out: they are
    /// the largest part, and come in while the packets before are being decrypted.
    #[inline]
    pub(crate) fn prefetch_parts(&self, core: CoreId) {
        cpu::prefetch(&*self.opener);
        self.window.prefetch_large();
        if core != CoreId(0) {
            cpu::prefetch(self.counters(core));
        }
    }

    /// Notes that authentic packets have come, up to this number, and were counted; gives the limit that this has reached.
    #[inline]
    pub fn note_progress(&self, newest: SeqNo) -> Option<(Limit, Unit)> {
        if newest < self.attention {
            return None;
        }
        self.reach(newest)
    }

    #[cold]
    fn reach(&self, newest: SeqNo) -> Option<(Limit, Unit)> {
        self.allowance.reach(&self.totals(), newest, &self.phase)
    }

    /// Which of its limits it has reached.
    #[inline]
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Notes that an authentic packet has come; true for the first one.
    #[inline]
    pub fn note_use(&self) -> bool {
        !self.used.load(Relaxed) && !self.used.swap(true, Relaxed)
    }

    /// Whether an authentic packet has come.
    pub fn is_used(&self) -> bool {
        self.used.load(Relaxed)
    }

    /// Notes where the newest authentic packet came from; true where that is new, as it is for the first one.
    #[inline]
    pub fn note_source(&self, address: IpAddr, port: Option<u16>) -> bool {
        let source = fingerprint(address, port);
        self.source.load(Relaxed) != source && self.source.swap(source, Relaxed) != source
    }

    /// Nobody could be told of the source: the next packet is to show it again.
    #[cold]
    pub fn forget_source(&self) {
        self.source.store(0, Relaxed);
    }

    /// The counters that a core writes.
    #[inline]
    pub fn counters(&self, core: CoreId) -> &SaCounters {
        match core.index() {
            0 => &self.counters,
            other => self.more_counters.get(other - 1).unwrap_or(&self.counters),
        }
    }

    /// The sum of all cores' counters.
    pub fn totals(&self) -> SaTotals {
        let cores = std::iter::once(&self.counters).chain(&self.more_counters);
        cores.fold(SaTotals::default(), |sum, core| SaTotals {
            packets: sum.packets + core.packets.get(),
            octets: sum.octets + core.octets.get(),
            replay_duplicate: sum.replay_duplicate + core.replay_duplicate.get(),
            replay_late: sum.replay_late + core.replay_late.get(),
            auth_failed: sum.auth_failed + core.auth_failed.get(),
            refused: sum.refused + core.refused.get(),
        })
    }
}

/// An address and a port as a number that isn't 0: exact for IPv4. Two of IPv6 share one with a probability of 2^-63, and
/// then a change of address goes unreported, no more.
#[inline]
fn fingerprint(address: IpAddr, port: Option<u16>) -> u64 {
    let port = u64::from(port.unwrap_or(0));
    let number = match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits()) << 16 | port,
        IpAddr::V6(v6) => mix(port, v6.to_bits()),
    };
    number | 1 << 63
}

impl std::fmt::Debug for Sa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sa")
            .field("key", &self.key)
            .field("id", &self.id)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// One core's counters of an SA, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct SaCounters {
    /// Authentic packets, dummies included.
    pub packets: Count,
    /// Octets of the ESP payload of authentic packets: what lifetimes count.
    pub octets: Count,
    /// Packets with a number that was seen before.
    pub replay_duplicate: Count,
    /// Packets with a number left of the window.
    pub replay_late: Count,
    /// Packets with a wrong ICV.
    pub auth_failed: Count,
    /// Authentic packets refused for what is inside: padding, next header, inner header, selectors, ECN.
    pub refused: Count,
}

/// All cores' counters of an SA.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SaTotals {
    /// As [`SaCounters::packets`].
    pub packets: u64,
    /// As [`SaCounters::octets`].
    pub octets: u64,
    /// As [`SaCounters::replay_duplicate`].
    pub replay_duplicate: u64,
    /// As [`SaCounters::replay_late`].
    pub replay_late: u64,
    /// As [`SaCounters::auth_failed`].
    pub auth_failed: u64,
    /// As [`SaCounters::refused`].
    pub refused: u64,
}
