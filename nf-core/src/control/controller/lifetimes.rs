//! The end of SAs: limits that the clock reaches, limits that the cores report, and the deletion that follows.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Bound;

use super::{Controller, StoredSa, order, tell_all};
use crate::control::proto::EventReport;
use crate::core::Command;
use crate::event::SaRef;
use crate::sa::inbound::SaKey;
use crate::sa::lifetime::{Limit, Unit};
use crate::sa::spec::Direction;
use crate::types::{Nanos, Spi};

/// SAs that are looked at in a tick for what no event has told. All of a large table are seen within some seconds.
const SWEEP: usize = 256;

/// An SA is looked at once in this time, however few there are.
const SWEEP_INTERVAL: u64 = Nanos::SECOND;

type Order = (Spi, IpAddr, IpAddr);

/// What is due, and where the sweep stands.
#[derive(Debug, Default)]
pub(super) struct Lifetimes {
    /// The SAs with limits in seconds, by the time at which they reach them.
    due: BTreeSet<(Nanos, Order, u32, Limit)>,
    /// SAs at a hard limit, to be deleted.
    over: Vec<SaRef>,
    swept: Option<Order>,
}

/// What subscribers have heard of an SA.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reported {
    limit: Option<Limit>,
    replays: u64,
    auth_failed: u64,
    /// When the SA was looked at last.
    at: Nanos,
}

fn deadlines(stored: &StoredSa) -> impl Iterator<Item = (Nanos, Order, u32, Limit)> {
    let (key, id, installed) = (order(&stored.sa.key()), stored.sa.id(), stored.installed);
    let (lifetime, age_before) = (&stored.params.lifetime, stored.age_before);
    [(lifetime.soft.seconds, Limit::Soft), (lifetime.hard.seconds, Limit::Hard)].into_iter().filter_map(
        move |(seconds, limit)| {
            let left = Nanos::from_secs(seconds?).0.saturating_sub(age_before);
            let due = installed.0.saturating_add(left);
            Some((Nanos(due), key, id, limit))
        },
    )
}

impl Lifetimes {
    pub(super) fn watch(&mut self, stored: &StoredSa) {
        self.due.extend(deadlines(stored));
    }

    pub(super) fn unwatch(&mut self, stored: &StoredSa) {
        for deadline in deadlines(stored) {
            self.due.remove(&deadline);
        }
    }
}

impl Controller {
    /// A limit of an SA is reached: tell it once, and see to its end if it is a hard one.
    pub(super) fn on_limit(&mut self, sa: SaRef, limit: Limit, unit: Unit, at: Nanos) {
        let Some(stored) = self.stored(sa).filter(|stored| stored.reported.limit < Some(limit)) else {
            return;
        };
        stored.reported.limit = Some(limit);
        let name = stored.name();
        tracing::info!(
            spi = %name.spi, src = %name.src, dst = %name.dst, peer = name.peer, unit = unit.as_str(),
            "SA has reached its {} lifetime", limit.as_str()
        );
        if limit == Limit::Hard {
            self.lifetimes.over.push(sa);
        }
        self.subscribers.publish(&EventReport::SaLifetime { sa: name, limit, unit, at_ns: at.0 });
    }

    /// Has SAs end whose time is over.
    pub(super) fn expire_by_time(&mut self) {
        let now = self.now;
        while let Some((due, (spi, dst, src), id, limit)) = self.lifetimes.due.first().copied() {
            if due > now {
                return;
            }
            self.lifetimes.due.pop_first();
            let sa = SaRef { key: SaKey { spi, dst, src }, id };
            // From here on no core takes a packet on it if it is the end.
            if self.stored(sa).is_some_and(|stored| stored.sa.phase().reach(limit, Unit::Seconds)) {
                self.on_limit(sa, limit, Unit::Seconds, now);
            }
        }
    }

    /// Deletes SAs at a hard limit, without waiting for the cores: they use them no more.
    pub(super) fn delete_expired(&mut self) {
        for sa in std::mem::take(&mut self.lifetimes.over) {
            let Some(stored) = self.stored(sa) else {
                continue;
            };
            // An outbound one goes with the policy that is made next.
            let outbound = stored.params.direction == Direction::Out;
            if outbound || tell_all(&mut self.cores, || Command::DeleteSa(sa.key)) {
                self.remove_sa(&sa.key);
            } else {
                self.lifetimes.over.push(sa);
            }
        }
    }

    /// Looks at some SAs for what is counted but not told: replays, forged packets, and limits whose event was lost in a
    /// full queue.
    pub(super) fn sweep_sas(&mut self) {
        let (now, start) = (self.now, self.lifetimes.swept);
        let mut limits = Vec::new();
        let mut events = Vec::new();
        let from = start.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        for (key, stored) in self.sas.range_mut((from, Bound::Unbounded)).take(SWEEP) {
            last = Some(*key);
            if now.since(stored.reported.at) < SWEEP_INTERVAL {
                continue;
            }
            stored.reported.at = now;
            let totals = stored.sa.totals();
            let replays = totals.replay_duplicate + totals.replay_late;
            let new_replays = replays - std::mem::replace(&mut stored.reported.replays, replays);
            let auth_failed = std::mem::replace(&mut stored.reported.auth_failed, totals.auth_failed);
            let new_auth_failed = totals.auth_failed - auth_failed;
            if new_replays > 0 {
                events.push(EventReport::SaReplay { sa: stored.name(), packets: new_replays, at_ns: now.0 });
            }
            if new_auth_failed > 0 {
                events.push(EventReport::SaAuthFailure { sa: stored.name(), packets: new_auth_failed, at_ns: now.0 });
            }
            if let Some((limit, unit)) =
                stored.sa.phase().get().filter(|(limit, _)| stored.reported.limit < Some(*limit))
            {
                limits.push((SaRef { key: stored.sa.key(), id: stored.sa.id() }, limit, unit));
            }
        }
        // At the table's end, from its beginning the next time.
        self.lifetimes.swept = last;
        events.iter().for_each(|event| self.subscribers.publish(event));
        for (sa, limit, unit) in limits {
            self.on_limit(sa, limit, unit, now);
        }
    }
}
