//! What is kept for a successor, and what is taken over from a predecessor that was killed.

use std::collections::BTreeMap;
use std::time::Instant;

use super::lifetimes::Reported;
use super::{Change, Controller, InstalledSa, StoredSa, order, peer_at};
use crate::core::Core;
use crate::sa::inbound::{Progress, SaKey};
use crate::sa::spec::SaParams;
use crate::state::{Digest, Keeper, Kept, Opened, Predecessor, RestoredSa, SavedSa, StateError, Withdrawn, since_boot};
use crate::types::{CoreId, Nanos, SeqNo};

/// Who has an SA added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// nf.toml: after a kill the SA is there if nf.toml names it still.
    Configured,
    /// The control socket: after a kill the SA is there.
    Requested,
}

/// What a change of SAs means for the state.
#[derive(Default)]
pub(super) struct State {
    keeper: Option<Keeper>,
    /// SAs of nf.toml that were deleted.
    withdrawn: Vec<Withdrawn>,
}

impl State {
    /// Gives a new SA its place.
    pub(super) fn take(&mut self, origin: Origin) -> Option<Kept> {
        self.keeper.as_mut()?.take(SeqNo(0), origin == Origin::Configured, since_boot())
    }

    /// An SA is gone.
    pub(super) fn give_up(&mut self, kept: Option<Kept>, params: &SaParams) {
        let (Some(keeper), Some(kept)) = (&mut self.keeper, kept) else {
            return;
        };
        // nf.toml brings it back after a kill, and must not bring its numbers back. Where replays are taken anyway nothing is lost.
        if kept.configured && !params.takes_replays() {
            keeper.touch();
            self.withdrawn.push(Withdrawn { key: params.key(), digest: Digest::of(&params.transform), kept });
        } else {
            keeper.give_up(&kept);
        }
    }

    /// nf.toml has changed: what it names no more it can't bring back, and needs no place.
    pub(super) fn forget_unnamed(&mut self, sas: &[SaParams]) {
        let State { keeper: Some(keeper), withdrawn } = self else {
            return;
        };
        if withdrawn.is_empty() {
            return;
        }
        let named: BTreeMap<_, &SaParams> = sas.iter().map(|sa| (order(&sa.key()), sa)).collect();
        withdrawn.retain(|gone| {
            let is_named =
                named.get(&order(&gone.key)).is_some_and(|params| Digest::of(&params.transform) == gone.digest);
            if !is_named {
                keeper.give_up(&gone.kept);
            }
            is_named
        });
    }

    /// An SA could not be made after all.
    pub(super) fn abandon(&mut self, kept: Option<Kept>) {
        if let (Some(keeper), Some(kept)) = (&mut self.keeper, kept) {
            keeper.give_up(&kept);
        }
    }
}

/// How far the SAs of nf.toml have come, whoever had them.
fn progress_of<'p>(old: &'p Predecessor, params: &SaParams) -> (SeqNo, Option<&'p RestoredSa>) {
    let (key, digest) = (params.key(), Digest::of(&params.transform));
    let same = |sa: &&RestoredSa| sa.params.key() == key && Digest::of(&sa.params.transform) == digest;
    let alive = old.sas.iter().find(same);
    let withdrawn = old.withdrawn.iter().filter(|other| other.key == key && other.digest == digest);
    let highest = withdrawn.map(|other| other.highest).chain(alive.map(|sa| sa.highest)).max();
    (highest.unwrap_or(SeqNo(0)), alive)
}

impl Controller {
    /// Takes over what a predecessor has left, before the cores run, and keeps the state from now on. Gives how many SAs
    /// were restored beside those of nf.toml.
    ///
    /// # Errors
    /// The old state can neither be replaced nor removed.
    pub fn keep_state_with(&mut self, opened: Opened, workers: &mut [Core]) -> Result<usize, StateError> {
        let Opened { keeper, predecessor } = opened;
        self.state.keeper = Some(keeper);
        let mut change = Change::new();
        let configured: Vec<SaKey> = self.sas.values().map(|stored| stored.sa.key()).collect();
        let mut restored = 0;
        for key in configured {
            let Some(stored) = self.sas.remove(&order(&key)) else {
                continue;
            };
            self.lifetimes.unwatch(&stored);
            self.followers.remove(&stored.params);
            let (highest, alive) = match &predecessor {
                Some(old) => progress_of(old, &stored.params),
                None => (SeqNo(0), None),
            };
            self.take_over(stored.params, highest, alive, true, &mut change);
        }
        for sa in predecessor.iter().flat_map(|old| &old.sas).filter(|sa| !sa.configured) {
            if !self.sas.contains_key(&order(&sa.params.key())) && self.make_room().is_ok() {
                restored += usize::from(self.take_over(sa.params.clone(), sa.highest, Some(sa), false, &mut change));
            }
        }
        change.extend(self.spd_change());
        for mut change in change {
            for (id, core) in workers.iter_mut().enumerate() {
                core.apply_at_start(change(CoreId(id as u16)));
            }
        }
        if let Some(old) = predecessor {
            tracing::warn!(
                restored,
                age_ms = since_boot().saturating_sub(old.written) / 1_000_000,
                "an earlier nf-core was killed: its SAs are restored, each behind the last number that was accepted"
            );
        }
        self.keep_state();
        match &self.state.keeper {
            Some(keeper) => keeper.check(),
            None => Ok(()),
        }
        .map(|()| restored)
    }

    /// Puts an SA in whose numbers up to `highest` count as received; false if it isn't usable any more.
    fn take_over(
        &mut self,
        params: SaParams,
        highest: SeqNo,
        before: Option<&RestoredSa>,
        configured: bool,
        change: &mut Change,
    ) -> bool {
        let now = since_boot();
        let installed = before.map_or(now, |sa| sa.installed);
        let kept = self.state.keeper.as_mut().and_then(|keeper| keeper.take(highest, configured, installed));
        let progress = Progress {
            highest,
            packets: before.map_or(0, |sa| sa.packets),
            octets: before.map_or(0, |sa| sa.octets),
            mark: kept.map(|kept| kept.mark),
        };
        let key = params.key();
        let sa = match InstalledSa::resume(&params, self.next_sa_id, &*self.engine, self.cores.len(), progress) {
            Ok(sa) => sa,
            Err(error) => {
                tracing::warn!(spi = %key.spi, src = %key.src, dst = %key.dst, "an SA isn't restored: {error}");
                self.state.abandon(kept);
                return false;
            }
        };
        self.next_sa_id = self.next_sa_id.wrapping_add(1);
        change.extend(self.store(StoredSa {
            peer_at: peer_at(&params),
            sa,
            params,
            installed: self.now,
            age_before: now.saturating_sub(installed),
            reported: Reported::default(),
            kept,
        }));
        true
    }

    /// Writes the state if that is due.
    pub(super) fn keep_state(&mut self) {
        let State { keeper: Some(keeper), withdrawn } = &mut self.state else {
            return;
        };
        if !keeper.is_due(Instant::now()) {
            return;
        }
        let stored: &BTreeMap<_, StoredSa> = &self.sas;
        let sas = || {
            stored.values().filter_map(|stored| {
                Some(SavedSa {
                    params: &stored.params,
                    kept: stored.kept.as_ref()?,
                    totals: stored.sa.totals(),
                    highest: stored.sa.highest(),
                })
            })
        };
        keeper.write(sas, withdrawn);
    }

    /// Whether a successor would find all SAs that there are; true where no state is kept.
    pub fn is_state_written(&self) -> bool {
        self.state.keeper.as_ref().is_none_or(Keeper::is_written)
    }

    /// Removes what was kept: the process ends as it should.
    pub fn discard_state(&mut self) {
        if let Some(keeper) = self.state.keeper.take() {
            keeper.discard();
        }
    }
}

impl StoredSa {
    /// How old the SA is, in nanoseconds, the time with a predecessor included.
    pub fn age(&self, now: Nanos) -> u64 {
        self.age_before.saturating_add(now.since(self.installed))
    }
}
