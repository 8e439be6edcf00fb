//! An outbound SA as the cores use it.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use crate::counters::Count;
use crate::crypto::{Engine, EngineError, IvSource, Layout, Sealer};
use crate::encap::Outer;
use crate::policy::Selectors;
use crate::sa::inbound::{Progress, SaKey, SaTotals};
use crate::sa::lifetime::{Allowance, Limit, Phase, Unit};
use crate::sa::path_mtu::PathMtu;
use crate::sa::spec::{Df, Mode, SaParams};
use crate::state::Mark;
use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::types::{CoreId, Nanos, SeqNo};

/// The last number with ESN. Cores may take numbers beyond an SA's last one before they hear that it has ended; this far
/// from the end of 64 bits they never get to where numbers begin again.
const LAST_WITH_ESN: u64 = u64::MAX - (1 << 32);

/// An outbound SA. Shared by all cores: what changes in it is atomic, or per core.
pub struct OutboundSa {
    /// SPI, the peer's address when the SA was made, and ours: `dst` is the peer's here. It is what the SA is found by and
    /// stays when the peer moves.
    pub key: SaKey,
    /// A number for sorting and display. No two SAs of a process have the same.
    pub id: u32,
    /// Tunnel or transport mode.
    pub mode: Mode,
    /// Lengths of the ESP fields.
    pub layout: Layout,
    /// What may be inside.
    pub selectors: Selectors,
    /// The peer's name, if it was given one.
    pub peer: Option<String>,
    /// Where the peer is now.
    pub to: IpAddr,
    /// The headers in front of ESP.
    pub outer: Outer,
    /// The outer DF bit.
    pub df: Df,
    /// Octets of the largest outer packet that the path takes, if the operator has said so.
    path_mtu: Option<u16>,
    state: Arc<State>,
}

/// What must go on when the peer's address changes: a number that was used stays used.
struct State {
    numbers: Numbers,
    /// Where its progress outlives the process.
    mark: Option<Mark>,
    ivs: IvSource,
    sealer: Box<dyn Sealer>,
    learned_mtu: PathMtu,
    counters: Box<[OutboundCounters]>,
    allowance: Allowance,
    /// The first sequence number at which traffic may have reached a limit.
    attention: SeqNo,
    phase: Phase,
}

/// Sequence numbers, given to cores in blocks. Alone on its cache lines: all cores write it.
#[derive(Debug)]
#[repr(align(128))]
struct Numbers {
    next: AtomicU64,
    last: u64,
}

impl Numbers {
    /// Numbers behind those that were used; the first one is 1 (RFC 4303 3.3.3).
    fn after(used: SeqNo, esn: bool) -> Numbers {
        let last = if esn { LAST_WITH_ESN } else { u32::MAX.into() };
        Numbers { next: AtomicU64::new(used.0.min(last) + 1), last }
    }

    #[inline]
    fn take(&self, count: u64) -> Range<u64> {
        // Without this look, cores that go on asking at the end would get to where 64 bits begin again, if in centuries.
        if self.next.load(Relaxed) > self.last {
            return 0..0;
        }
        // Each number is in one block only: that is all that is asked of the order, and an addition gives it.
        let first = self.next.fetch_add(count, Relaxed);
        let end = first.saturating_add(count).min(self.last + 1);
        first..end.max(first)
    }

    fn highest(&self) -> Option<SeqNo> {
        let taken = self.next.load(Relaxed).min(self.last + 1) - 1;
        (taken > 0).then_some(SeqNo(taken))
    }
}

impl OutboundSa {
    /// Makes the SA with its key schedule, for `cores` cores.
    ///
    /// # Errors
    /// Where the engine doesn't support the transform, or there are no random numbers.
    pub fn new(params: &SaParams, id: u32, engine: &dyn Engine, cores: usize) -> Result<OutboundSa, EngineError> {
        OutboundSa::resume(params, id, engine, cores, Progress::default())
    }

    /// Makes an SA that has come some way already: its numbers go on behind the highest one that was used.
    ///
    /// # Errors
    /// As [`OutboundSa::new`].
    pub fn resume(
        params: &SaParams,
        id: u32,
        engine: &dyn Engine,
        cores: usize,
        progress: Progress,
    ) -> Result<OutboundSa, EngineError> {
        let Progress { highest, packets, octets, mark } = progress;
        let numbers = Numbers::after(highest, params.transform.esn());
        let allowance = Allowance::new(&params.lifetime, SeqNo(numbers.last));
        let state = State {
            attention: allowance.attention(),
            allowance,
            numbers,
            mark,
            ivs: IvSource::new(&params.transform)?,
            sealer: engine.prepare_seal(&params.transform)?,
            learned_mtu: PathMtu::default(),
            counters: (0..cores.max(1)).map(|_| OutboundCounters::default()).collect(),
            phase: Phase::default(),
        };
        let sa = OutboundSa {
            key: params.key(),
            id,
            mode: params.mode,
            layout: params.transform.layout(),
            selectors: params.selectors.clone(),
            peer: params.peer.clone(),
            to: params.dst,
            outer: Outer::new(params),
            df: params.df,
            path_mtu: params.path_mtu,
            state: Arc::new(state),
        };
        if let Some(counters) = sa.state.counters.first() {
            counters.packets.add(packets);
            counters.octets.add(octets);
        }
        // A limit that was reached before is reached.
        if highest.0 > 0 {
            sa.note_progress(highest);
        }
        Ok(sa)
    }

    /// The same SA to where the peer is now: its address, and its UDP port. Numbers, counters and limits are shared with the
    /// one before. None where the address can't be the peer's: it is of another IP version, or the SA isn't a tunnel in UDP.
    #[must_use]
    pub fn moved(&self, to: IpAddr, port: u16) -> Option<OutboundSa> {
        let outer = self.outer.moved(to, port)?;
        self.state.learned_mtu.forget();
        Some(OutboundSa {
            key: self.key,
            id: self.id,
            mode: self.mode,
            layout: self.layout,
            selectors: self.selectors.clone(),
            peer: self.peer.clone(),
            to,
            outer,
            df: self.df,
            path_mtu: self.path_mtu,
            state: Arc::clone(&self.state),
        })
    }

    /// Takes sequence numbers for so many packets; nobody else gets them. Fewer than that, or none, at the end of the
    /// numbers, where the SA must not be used any more (RFC 4303 3.3.3). A successor of this process goes on behind them,
    /// whatever becomes of the packets.
    #[inline]
    pub fn take_numbers(&self, count: usize) -> Range<u64> {
        let taken = self.state.numbers.take(count as u64);
        if let Some(mark) = &self.state.mark
            && !taken.is_empty()
        {
            mark.raise(SeqNo(taken.end - 1));
        }
        taken
    }

    /// As if numbers up to this one had been taken.
    #[cfg(test)]
    pub(crate) fn skip_to(&self, next: u64) {
        self.state.numbers.next.store(next, Relaxed);
    }

    /// The IV of each number.
    #[inline]
    pub fn ivs(&self) -> &IvSource {
        &self.state.ivs
    }

    /// Encrypts and authenticates.
    #[inline]
    pub fn sealer(&self) -> &dyn Sealer {
        &*self.state.sealer
    }

    /// The highest number that was used.
    pub fn highest(&self) -> Option<SeqNo> {
        self.state.numbers.highest()
    }

    /// Octets of the largest outer packet that the path takes, as far as it is known: from the operator, or else from the
    /// routers on the way.
    #[inline]
    pub fn path_mtu(&self, now: Nanos) -> Option<u16> {
        self.path_mtu.or_else(|| self.state.learned_mtu.get(now))
    }

    /// Takes a router's word that the path takes no larger packets than of `mtu` octets. What the operator has said no message
    /// changes. Gives whether the path takes less than was known.
    #[cold]
    pub fn lower_path_mtu(&self, mtu: u16, now: Nanos) -> bool {
        self.path_mtu.is_none() && self.state.learned_mtu.lower(mtu, now)
    }

    /// Octets of the largest packet, its IP header included in tunnel mode, for which the outer packet has `mtu` octets at
    /// most.
    pub fn data_within(&self, mtu: usize) -> usize {
        self.layout.data_within(mtu.saturating_sub(self.outer.len()))
    }

    /// Notes that packets have gone, up to this number, and were counted; gives the limit that this has reached.
    #[inline]
    pub fn note_progress(&self, newest: SeqNo) -> Option<(Limit, Unit)> {
        if newest < self.state.attention {
            return None;
        }
        self.state.allowance.reach(&self.totals(), newest, &self.state.phase)
    }

    /// Which of its limits it has reached.
    #[inline]
    pub fn phase(&self) -> &Phase {
        &self.state.phase
    }

    /// The counters that a core writes.
    #[inline]
    pub fn counters(&self, core: CoreId) -> &OutboundCounters {
        // A division would take longer than all that is counted.
        let counters = &self.state.counters;
        &counters[core.index().min(counters.len() - 1)]
    }

    /// The sum of all cores' counters.
    pub fn totals(&self) -> SaTotals {
        self.state.counters.iter().fold(SaTotals::default(), |sum, core| SaTotals {
            packets: sum.packets + core.packets.get(),
            octets: sum.octets + core.octets.get(),
            refused: sum.refused + core.refused.get(),
            ..sum
        })
    }
}

impl std::fmt::Debug for OutboundSa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutboundSa")
            .field("key", &self.key)
            .field("id", &self.id)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// One core's counters of an outbound SA, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct OutboundCounters {
    /// Packets that were encrypted.
    pub packets: Count,
    /// Octets of their ESP payload: what lifetimes count.
    pub octets: Count,
    /// Packets that were for the SA and could not go: too big, no room in the buffer, no numbers left, not taken or not
    /// sealed by the engine.
    pub refused: Count,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Portable;
    use crate::sa::spec::SaSpec;

    fn sa(more: serde_json::Value) -> OutboundSa {
        let mut spec = serde_json::json!({
            "spi": 0x1000, "direction": "out", "src": "10.10.1.2", "dst": "10.1.1.1", "mode": "tunnel",
            "alg": "aes-gcm-16", "key": "00".repeat(20),
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        let spec: SaSpec = serde_json::from_value(spec).unwrap();
        OutboundSa::new(&spec.validate().unwrap(), 1, &Portable, 2).unwrap()
    }

    #[test]
    fn numbers_begin_at_one_and_end_at_the_last() {
        let sa = sa(serde_json::Value::Null);
        assert_eq!(sa.highest(), None);
        assert_eq!(sa.take_numbers(3), 1..4);
        assert_eq!(sa.take_numbers(64), 4..68);
        assert_eq!(sa.highest(), Some(SeqNo(67)));
        sa.skip_to(u64::from(u32::MAX) - 1);
        assert_eq!(sa.take_numbers(5), 0xFFFF_FFFE..0x1_0000_0000, "two are left");
        assert!((0..1000).all(|_| sa.take_numbers(64).is_empty()));
        assert_eq!(sa.highest(), Some(SeqNo(u32::MAX.into())));
    }

    #[test]
    fn with_esn_they_go_on_and_never_begin_again() {
        let sa = sa(serde_json::json!({"esn": true}));
        sa.skip_to(u64::from(u32::MAX));
        assert_eq!(sa.take_numbers(2), 0xFFFF_FFFF..0x1_0000_0001);
        sa.skip_to(LAST_WITH_ESN);
        assert_eq!(sa.take_numbers(64), LAST_WITH_ESN..LAST_WITH_ESN + 1);
        assert!(sa.take_numbers(64).is_empty());
    }

    #[test]
    fn a_successor_goes_on_behind_what_was_used() {
        let spec = serde_json::json!({
            "spi": 0x1000, "direction": "out", "src": "10.10.1.2", "dst": "10.1.1.1", "mode": "tunnel",
            "alg": "aes-gcm-16", "key": "00".repeat(20), "lifetime": {"soft": {"packets": 50}},
        });
        let params = serde_json::from_value::<SaSpec>(spec).unwrap().validate().unwrap();
        let resume = |highest| {
            let progress = Progress { highest: SeqNo(highest), packets: 60, octets: 600, mark: None };
            OutboundSa::resume(&params, 1, &Portable, 1, progress).unwrap()
        };
        let sa = resume(70);
        assert_eq!((sa.highest(), sa.take_numbers(1)), (Some(SeqNo(70)), 71..72));
        assert_eq!(sa.phase().get(), Some((Limit::Soft, Unit::Packets)));
        let over = resume(u64::from(u32::MAX));
        assert!(over.take_numbers(1).is_empty() && over.phase().is_over());
    }

    #[test]
    fn no_two_cores_get_the_same_number() {
        let sa = sa(serde_json::Value::Null);
        // Miri takes minutes for more.
        let blocks_each = if cfg!(miri) { 20 } else { 1000 };
        let blocks: Vec<Range<u64>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..blocks_each).map(|n| sa.take_numbers(n % 64 + 1)).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let mut numbers: Vec<u64> = blocks.into_iter().flatten().collect();
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64));
    }

    #[test]
    fn what_is_used_stays_used_when_the_peer_moves() {
        let sa = sa(serde_json::Value::Null);
        assert!(sa.moved(IpAddr::from([10, 1, 1, 9]), 61_000).is_none(), "it isn't in UDP");
        let sa = self::sa(serde_json::json!({"encap": "udp"}));
        sa.take_numbers(10);
        assert!(sa.moved("2001:db8::9".parse().unwrap(), 61_000).is_none());
        let moved = sa.moved(IpAddr::from([10, 1, 1, 9]), 61_000).unwrap();
        assert_eq!((moved.key, moved.to), (sa.key, IpAddr::from([10, 1, 1, 9])));
        assert_eq!((moved.take_numbers(1), sa.take_numbers(1)), (11..12, 12..13));
    }

    #[test]
    fn the_end_of_the_numbers_is_a_hard_limit() {
        let sa = sa(serde_json::json!({"lifetime": {"soft": {"packets": 3}}}));
        sa.counters(CoreId(1)).packets.add(2);
        assert_eq!(sa.note_progress(SeqNo(2)), None);
        sa.counters(CoreId(0)).packets.add(1);
        assert_eq!(sa.note_progress(SeqNo(3)), Some((Limit::Soft, Unit::Packets)));
        assert_eq!(sa.note_progress(SeqNo(4)), None, "told once");
        assert_eq!(sa.note_progress(SeqNo(u32::MAX.into())), Some((Limit::Hard, Unit::Sequence)));
        assert!(sa.phase().is_over());
    }

    #[test]
    fn the_largest_packet_fills_the_path_mtu() {
        let sa = sa(serde_json::Value::Null);
        // Outer header 20, SPI and number 8, IV 8, ICV 16: 1448 octets are left, the trailer takes two of them.
        assert_eq!(sa.data_within(1500), 1446);
        assert_eq!(sa.outer.len() + sa.layout.esp_len(1446), 1500);
    }
}
