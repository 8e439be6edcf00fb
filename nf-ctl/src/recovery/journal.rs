//! What was decided and why, for `nf-ctl show recovery`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nf_core::config::PeerKind;
use nf_core::types::Spi;

use super::policy::PeerId;

/// What gave rise to a decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// ESP on an SPI that no SA has.
    InvalidSpi(Spi),
    /// nf-core started anew, without the SAs that it had.
    SasLost,
    /// The agent started anew, without the IKE SAs that it had.
    IkeLost,
    /// The peer is to be up always, and isn't.
    KeepUp,
    /// Traffic to the peer that a policy protects.
    Traffic,
    /// A reload has changed what is negotiated with the peer.
    Reconfigured,
    /// The operator.
    ByHand,
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::InvalidSpi(spi) => write!(f, "invalid SPI {spi}"),
            Trigger::SasLost => f.write_str("nf-core lost its SAs"),
            Trigger::IkeLost => f.write_str("the agent lost its IKE SAs"),
            Trigger::KeepUp => f.write_str("start = \"always\""),
            Trigger::Traffic => f.write_str("traffic to be protected"),
            Trigger::Reconfigured => f.write_str("changed by a reload"),
            Trigger::ByHand => f.write_str("by hand"),
        }
    }
}

/// A decision, or how what was decided ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The source belongs to no peer.
    UnknownSource,
    /// The SA with this SPI was rekeyed or deleted a moment ago.
    RetiredMomentsAgo,
    /// The recovery of this site goes on; this packet is taken care of by it.
    UnderWay,
    /// The site has to wait for its next recovery.
    BackOff {
        /// For so long.
        wait: Duration,
    },
    /// Recoveries have spent the budget of IKE messages.
    BudgetSpent,
    /// Too many hosts of dynamic peers are being seen to.
    TooManySites,
    /// There is no IKE SA and `invalid_spi_recovery` is off.
    RecoveryOff,
    /// There is no IKE SA, and the peer's kind rules out both a new one and a hint.
    NotApplicable(PeerKind),
    /// There is no IKE SA, and the peer's address is a network: there is no host to start one with.
    NoHost,
    /// There is no IKE SA, none may be started, and a daemon sends no hints.
    NoHint,
    /// A hint went to the site moments ago.
    HintMomentsAgo,
    /// Whether the IKE SA lives is asked.
    CheckLiveness,
    /// CREATE_CHILD_SA goes out.
    MakeChild {
        /// The CHILD_SA that it replaces.
        replaces: Option<Spi>,
    },
    /// DELETE goes out.
    Delete {
        /// Its SPIs.
        spis: Vec<Spi>,
    },
    /// The IKE SA doesn't answer: it counts as none.
    IkeDead {
        /// What the backend says of it.
        why: String,
    },
    /// A new IKE SA is started, with INITIAL_CONTACT.
    Initiate,
    /// An unprotected INVALID_SPI goes out, as a hint.
    Hint,
    /// The recovery has ended well.
    Recovered {
        /// What it took from its trigger on.
        took: Duration,
    },
    /// The recovery has ended without a result.
    Failed {
        /// Why.
        why: String,
    },
}

impl Verdict {
    /// In a word, for a table's column.
    pub fn action(&self) -> &'static str {
        match self {
            Verdict::UnknownSource
            | Verdict::RetiredMomentsAgo
            | Verdict::RecoveryOff
            | Verdict::NotApplicable(_)
            | Verdict::NoHost
            | Verdict::NoHint
            | Verdict::HintMomentsAgo => "none",
            Verdict::UnderWay => "joined",
            Verdict::BackOff { .. } | Verdict::BudgetSpent | Verdict::TooManySites => "postponed",
            Verdict::CheckLiveness => "liveness",
            Verdict::MakeChild { .. } => "create-child",
            Verdict::Delete { .. } => "delete",
            Verdict::IkeDead { .. } => "ike-dead",
            Verdict::Initiate => "initiate",
            Verdict::Hint => "hint",
            Verdict::Recovered { .. } => "recovered",
            Verdict::Failed { .. } => "failed",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::UnknownSource => f.write_str("the source is no [[peer]]: counted, never answered"),
            Verdict::RetiredMomentsAgo => f.write_str("the SA was rekeyed or deleted moments ago: late packets"),
            Verdict::UnderWay => f.write_str("a recovery is under way and takes care of this SPI, too"),
            Verdict::BackOff { wait } => {
                write!(f, "the last recovery was moments ago: back-off for {:.1} s more", wait.as_secs_f32())
            }
            Verdict::BudgetSpent => {
                f.write_str("recoveries have spent the budget of IKE messages ([recovery] budget_per_min)")
            }
            Verdict::TooManySites => f.write_str("too many hosts of dynamic peers send invalid SPIs at once"),
            Verdict::RecoveryOff => {
                f.write_str("no IKE SA with the peer, and [recovery] invalid_spi_recovery is off: black-holed until the peer renegotiates")
            }
            Verdict::NotApplicable(kind) => {
                write!(f, "no IKE SA with the peer, and the kind {kind} rules out starting one: it has to reconnect")
            }
            Verdict::NoHost => f.write_str("no IKE SA with the peer, and its address is a network: no host to start one with"),
            Verdict::NoHint => f.write_str("no IKE SA with the peer, none may be started, and the IKE daemon sends no hints: it has to reconnect"),
            Verdict::HintMomentsAgo => f.write_str("a hint went out moments ago"),
            Verdict::CheckLiveness => f.write_str("there is an IKE SA: does the peer answer on it?"),
            Verdict::MakeChild { replaces: Some(spi) } => {
                write!(f, "CREATE_CHILD_SA over the IKE SA, in place of SPI {spi}")
            }
            Verdict::MakeChild { replaces: None } => f.write_str("CREATE_CHILD_SA over the IKE SA"),
            Verdict::Delete { spis } => {
                f.write_str("DELETE over the IKE SA for SPI ")?;
                for (place, spi) in spis.iter().enumerate() {
                    write!(f, "{}{spi}", if place > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Verdict::IkeDead { why } => write!(f, "the IKE SA is dead: {why}"),
            Verdict::Initiate => f.write_str("no IKE SA with the peer: new IKE SA with INITIAL_CONTACT"),
            Verdict::Hint => {
                f.write_str("no IKE SA, and the peer's kind rules out starting one: unprotected INVALID_SPI, a hint")
            }
            Verdict::Recovered { took } => write!(f, "done after {:.1} ms", took.as_secs_f64() * 1e3),
            Verdict::Failed { why } => f.write_str(why),
        }
    }
}

/// An entry of the journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// When it was taken first.
    pub first: Instant,
    /// When it was taken last.
    pub last: Instant,
    /// How often it was taken in a row for the same peer. The other fields are those of the last time.
    pub count: u64,
    /// The peer, where the source belongs to one.
    pub peer: Option<PeerId>,
    /// The far end's address.
    pub address: Option<IpAddr>,
    /// What gave rise to it.
    pub trigger: Trigger,
    /// The decision.
    pub verdict: Verdict,
}

/// The last decisions. The same decision about the same peer in a row is one entry, so a flood pushes nothing out.
#[derive(Debug)]
pub struct Journal {
    entries: VecDeque<Decision>,
    /// The number of the first entry, counted from the first that there ever was.
    first: u64,
    /// For each peer, and for unknown sources, the number of the last entry.
    latest: HashMap<Option<PeerId>, u64>,
    /// How often each action was decided, of decisions that have gone as well.
    totals: BTreeMap<&'static str, u64>,
    capacity: usize,
}

impl Journal {
    /// An empty journal.
    pub fn new(capacity: usize) -> Journal {
        Journal {
            entries: VecDeque::new(),
            first: 0,
            latest: HashMap::new(),
            totals: BTreeMap::new(),
            capacity: capacity.max(1),
        }
    }

    /// Notes a decision; `true` if it is another one than the one before about the same peer.
    pub fn note(&mut self, decision: Decision) -> bool {
        *self.totals.entry(decision.verdict.action()).or_default() += decision.count;
        let latest = self.latest.get(&decision.peer).and_then(|number| number.checked_sub(self.first));
        let latest = latest.and_then(|place| self.entries.get_mut(usize::try_from(place).ok()?));
        if let Some(entry) = latest
            && std::mem::discriminant(&entry.verdict) == std::mem::discriminant(&decision.verdict)
            && decision.verdict.repeats()
        {
            *entry = Decision { first: entry.first, count: entry.count.saturating_add(1), ..decision };
            return false;
        }
        if self.entries.len() >= self.capacity {
            self.entries.pop_front();
            self.first += 1;
        }
        self.latest.insert(decision.peer, self.first + self.entries.len() as u64);
        self.entries.push_back(decision);
        true
    }

    /// How often each action was decided since the start.
    pub fn totals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.totals.iter().map(|(action, times)| (*action, *times))
    }

    /// All entries, the oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Decision> + ExactSizeIterator {
        self.entries.iter()
    }
}

impl Verdict {
    /// Whether it can come many times in a row, by packets alone.
    fn repeats(&self) -> bool {
        matches!(self.action(), "none" | "joined" | "postponed" | "hint")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(at: Instant, peer: Option<usize>, spi: u32, verdict: Verdict) -> Decision {
        let trigger = Trigger::InvalidSpi(Spi(spi));
        Decision { first: at, last: at, count: 1, peer: peer.map(PeerId), address: None, trigger, verdict }
    }

    #[test]
    fn a_flood_is_one_entry_for_each_peer() {
        let start = Instant::now();
        let mut journal = Journal::new(4);
        assert!(journal.note(decision(start, Some(0), 0x100, Verdict::Initiate)));
        for n in 0..1000 {
            let at = start + Duration::from_millis(n);
            let spi = 0x200 + n as u32;
            assert_eq!(journal.note(decision(at, None, spi, Verdict::UnknownSource)), n == 0);
            assert_eq!(journal.note(decision(at, Some(0), spi, Verdict::UnderWay)), n == 0);
        }
        let counts: Vec<_> = journal.entries().map(|entry| (entry.peer, entry.count)).collect();
        assert_eq!(counts, [(Some(PeerId(0)), 1), (None, 1000), (Some(PeerId(0)), 1000)]);
        let unknown = journal.entries().nth(1).unwrap();
        assert_eq!((unknown.first, unknown.last), (start, start + Duration::from_millis(999)));
        assert_eq!(unknown.trigger, Trigger::InvalidSpi(Spi(0x200 + 999)));
        assert_eq!(journal.totals().collect::<Vec<_>>(), [("initiate", 1), ("joined", 1000), ("none", 1000)]);
    }

    #[test]
    fn the_oldest_entries_go() {
        let start = Instant::now();
        let mut journal = Journal::new(4);
        for n in 0..10 {
            assert!(journal.note(decision(start, Some(n), 0x100, Verdict::Initiate)));
            assert!(journal.note(decision(
                start,
                Some(n),
                0x100,
                Verdict::Delete { spis: vec![Spi(0x100), Spi(0x101)] }
            )));
        }
        let left: Vec<_> = journal.entries().map(|entry| entry.peer).collect();
        assert_eq!(left, [8, 8, 9, 9].map(|n| Some(PeerId(n))));
        let last = journal.entries().next_back().unwrap();
        assert_eq!(last.verdict.to_string(), "DELETE over the IKE SA for SPI 0x00000100(256), 0x00000101(257)");
        // The entry that the first peer's next decision would be merged with is gone.
        assert!(journal.note(decision(start, Some(0), 0x100, Verdict::UnderWay)));
        assert_eq!(journal.entries().len(), 4);
    }
}
