//! The decision engine: events in, actions out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nf_core::config::PeerKind;
use nf_core::types::Spi;

use super::backoff::BackOff;
use super::budget::Budget;
use super::journal::{Decision, Journal, Trigger, Verdict};
use super::policy::{IkeId, Limits, PeerId, PeerRule, Policy, Site};

/// Decisions that are kept.
const JOURNAL: usize = 1024;
/// Unknown SPIs of a site that one recovery deletes.
const MAX_PENDING: usize = 16;
/// Sites of dynamic peers that are remembered.
const MAX_SITES: usize = 1024;
/// SPIs that were rekeyed or deleted and are remembered.
const MAX_RETIRED: usize = 8192;

/// ESP came in on an SPI that no SA has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unknown {
    /// The SPI.
    pub spi: Spi,
    /// Where the packet came from.
    pub src: IpAddr,
    /// The address of ours that it went to.
    pub dst: IpAddr,
    /// UDP source and destination port, if it was encapsulated.
    pub udp_ports: Option<(u16, u16)>,
}

/// What the agent is to do. All but [`Action::Hint`] and [`Action::Abandon`] are answered by [`Engine::outcome`], once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ask the peer for a sign of life over the IKE SA.
    CheckLiveness {
        /// The far end.
        site: Site,
        /// The IKE SA.
        ike: IkeId,
    },
    /// Make a CHILD_SA over the IKE SA.
    MakeChild {
        /// The far end.
        site: Site,
        /// The IKE SA.
        ike: IkeId,
        /// The CHILD_SA of ours that it replaces, by its inbound SPI: a rekey.
        replaces: Option<Spi>,
    },
    /// Send DELETE for these inbound SPIs, which no SA of ours has.
    Delete {
        /// The far end.
        site: Site,
        /// The IKE SA.
        ike: IkeId,
        /// The SPIs.
        spis: Vec<Spi>,
    },
    /// Start a new IKE SA with INITIAL_CONTACT and a CHILD_SA.
    Initiate {
        /// The far end.
        site: Site,
    },
    /// Send an unprotected INVALID_SPI.
    Hint {
        /// The far end.
        site: Site,
        /// The packet that it is about.
        packet: Unknown,
    },
    /// Forget an IKE SA that is dead, without a message.
    Abandon {
        /// The IKE SA.
        ike: IkeId,
    },
}

/// How an action ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The peer answered, and it is done.
    Done,
    /// The peer didn't answer, whatever the backend tried: its IKE SA is dead.
    NoAnswer(String),
    /// The peer or the backend refuses; the IKE SA, if there was one, lives on.
    Failed(String),
}

/// Why a recovery by hand isn't started.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// There is nobody to send anything to.
    #[error(
        "there is no IKE SA with the peer, and its kind {0} rules out starting one: have the peer connect, or wait for it"
    )]
    NobodyThere(PeerKind),
    /// One is under way.
    #[error("a recovery of the peer is under way; `nf-ctl show recovery` shows it")]
    UnderWay,
    /// No message may be sent.
    #[error(
        "recoveries have spent the budget of IKE messages: try again in some seconds, or raise [recovery] budget_per_min"
    )]
    BudgetSpent,
}

/// A living IKE SA.
#[derive(Debug)]
struct Ike {
    site: Site,
    /// The peer's end.
    remote: SocketAddr,
    /// When the peer was heard on it last.
    heard: Instant,
    /// Inbound SPIs of its CHILD_SAs, and whether nf-core has lost each.
    children: BTreeMap<Spi, bool>,
}

/// What a site's recovery waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    #[default]
    Idle,
    Checking(IkeId),
    MakingChild(IkeId, Option<Spi>),
    Deleting(IkeId),
    Initiating,
}

impl Phase {
    /// The same where an IKE SA has another number.
    fn renamed(self, old: IkeId, new: IkeId) -> Phase {
        match self {
            Phase::Checking(ike) if ike == old => Phase::Checking(new),
            Phase::MakingChild(ike, replaces) if ike == old => Phase::MakingChild(new, replaces),
            Phase::Deleting(ike) if ike == old => Phase::Deleting(new),
            other => other,
        }
    }
}

/// A site that has had a recovery.
#[derive(Debug, Default)]
struct Recovery {
    phase: Phase,
    /// Unknown SPIs that are to be deleted.
    pending: Vec<Spi>,
    /// Unknown SPIs that the recovery before deleted: a DELETE alone didn't help.
    deleted: Vec<Spi>,
    /// A new CHILD_SA is wanted whatever there is.
    refresh: bool,
    /// A CHILD_SA that couldn't be made.
    failure: Option<String>,
    started: Option<(Instant, Trigger)>,
    back_off: BackOff,
    /// Messages taken from the budget and messages sent.
    taken: u32,
    sent: u32,
    last_hint: Option<Instant>,
    used: Option<Instant>,
}

/// Decides what to do about unknown SPIs.
#[derive(Debug)]
pub struct Engine {
    policy: Policy,
    budget: Budget,
    journal: Journal,
    ikes: BTreeMap<IkeId, Ike>,
    sites: HashMap<Site, Recovery>,
    /// SPIs that were rekeyed or deleted, and when. In the order of time, too, so that old ones can go.
    retired: HashMap<(PeerId, Spi), Instant>,
    retired_order: VecDeque<(Instant, PeerId, Spi)>,
    actions: VecDeque<Action>,
    news: VecDeque<Decision>,
}

impl Engine {
    /// An engine that knows no IKE SA.
    pub fn new(now: Instant, policy: Policy) -> Engine {
        let Limits { budget_per_min, budget_burst, .. } = policy.limits;
        Engine {
            budget: Budget::new(now, budget_per_min, budget_burst.max(Limits::RESERVE)),
            policy,
            journal: Journal::new(JOURNAL),
            ikes: BTreeMap::new(),
            sites: HashMap::new(),
            retired: HashMap::new(),
            retired_order: VecDeque::new(),
            actions: VecDeque::new(),
            news: VecDeque::new(),
        }
    }

    /// The next action, if there is one.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next decision that isn't a repetition of the one before, for the log.
    pub fn poll_decision(&mut self) -> Option<Decision> {
        self.news.pop_front()
    }

    /// What was decided.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The budget as it is.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Other peers and limits, from now on. Nothing is sent to a peer that is gone; its IKE SAs are reported as down before.
    pub fn set_policy(&mut self, now: Instant, policy: Policy) {
        let Limits { budget_per_min, budget_burst, .. } = policy.limits;
        self.budget.set_limits(now, budget_per_min, budget_burst.max(Limits::RESERVE));
        self.policy = policy;
        for ike in self.ikes.values_mut() {
            ike.site = site_of_ike(&self.policy, ike.site.peer, ike.remote);
        }
        let gone = |site: &Site, policy: &Policy| policy.peer(site.peer).is_none();
        let under_way =
            self.sites.iter().filter(|(site, recovery)| gone(site, &self.policy) && recovery.phase != Phase::Idle);
        for site in under_way.map(|(site, _)| *site).collect::<Vec<_>>() {
            self.end(now, site, Err("the peer was taken out of nf.toml".to_owned()));
        }
        self.sites.retain(|site, _| !gone(site, &self.policy));
        self.retired.retain(|(peer, _), _| self.policy.peer(*peer).is_some());
    }

    // What happens to IKE SAs and CHILD_SAs.

    /// An IKE SA was established, by whomever.
    pub fn ike_up(&mut self, now: Instant, ike: IkeId, peer: PeerId, remote: SocketAddr) {
        let site = site_of_ike(&self.policy, peer, remote);
        self.ikes.insert(ike, Ike { site, remote, heard: now, children: BTreeMap::new() });
    }

    /// An IKE SA goes on under another number, with its CHILD_SAs: it was rekeyed.
    pub fn ike_rekeyed(&mut self, now: Instant, old: IkeId, new: IkeId) {
        if let Some(mut ike) = self.ikes.remove(&old) {
            ike.heard = now;
            if let Some(recovery) = self.sites.get_mut(&ike.site) {
                recovery.phase = recovery.phase.renamed(old, new);
            }
            self.ikes.insert(new, ike);
        }
    }

    /// An IKE SA's peer has another address now.
    pub fn ike_moved(&mut self, ike: IkeId, remote: SocketAddr) {
        if let Some(state) = self.ikes.get_mut(&ike) {
            state.remote = remote;
            state.site = site_of_ike(&self.policy, state.site.peer, remote);
        }
    }

    /// An IKE SA is gone, and its CHILD_SAs with it.
    pub fn ike_down(&mut self, now: Instant, ike: IkeId) {
        if let Some(state) = self.ikes.remove(&ike) {
            for spi in state.children.into_keys() {
                self.retire(now, state.site.peer, spi);
            }
        }
    }

    /// An authentic message came over an IKE SA.
    pub fn heard(&mut self, now: Instant, ike: IkeId) {
        if let Some(state) = self.ikes.get_mut(&ike) {
            state.heard = now;
        }
    }

    /// A CHILD_SA was installed.
    pub fn child_up(&mut self, ike: IkeId, spi: Spi) {
        if let Some(state) = self.ikes.get_mut(&ike) {
            state.children.insert(spi, false);
        }
    }

    /// A CHILD_SA is gone: deleted, or replaced by another one.
    pub fn child_down(&mut self, now: Instant, ike: IkeId, spi: Spi) {
        if let Some(state) = self.ikes.get_mut(&ike)
            && state.children.remove(&spi).is_some()
        {
            let peer = state.site.peer;
            self.retire(now, peer, spi);
        }
    }

    fn retire(&mut self, now: Instant, peer: PeerId, spi: Spi) {
        self.retired.insert((peer, spi), now);
        self.retired_order.push_back((now, peer, spi));
        while let Some(&(at, peer, spi)) = self.retired_order.front() {
            let old = now.saturating_duration_since(at) > self.policy.limits.grace;
            if !old && self.retired_order.len() <= MAX_RETIRED {
                break;
            }
            self.retired_order.pop_front();
            if self.retired.get(&(peer, spi)) == Some(&at) {
                self.retired.remove(&(peer, spi));
            }
        }
    }

    // What calls for a recovery.

    /// ESP came in on an unknown SPI.
    pub fn invalid_spi(&mut self, now: Instant, packet: Unknown) {
        let trigger = Trigger::InvalidSpi(packet.spi);
        let Some(peer) = self.peer_of(&packet) else {
            self.note(now, None, Some(packet.src), trigger, Verdict::UnknownSource);
            return;
        };
        let retired = self.retired.get(&(peer, packet.spi));
        if retired.is_some_and(|at| now.saturating_duration_since(*at) < self.policy.limits.grace) {
            self.note(now, Some(peer), Some(packet.src), trigger, Verdict::RetiredMomentsAgo);
            return;
        }
        let site = self.site_of(&packet, peer);
        // A CHILD_SA of ours that nf-core doesn't have: somebody deleted it there.
        if let Some(lost) = self.ikes.values_mut().find_map(|ike| {
            (ike.site.peer == peer).then_some(())?;
            ike.children.get_mut(&packet.spi)
        }) {
            *lost = true;
        }
        let Some(recovery) = self.open(now, site) else {
            self.note(now, Some(peer), Some(packet.src), trigger, Verdict::TooManySites);
            return;
        };
        if recovery.phase != Phase::Idle {
            recovery.pend(packet.spi);
            self.note_site(now, site, trigger, Verdict::UnderWay);
            return;
        }
        if self.ike_of(site).is_some() || self.may_initiate(site) {
            self.start(now, site, trigger, Some(packet.spi));
        } else {
            self.no_ike(now, site, trigger, packet);
        }
    }

    /// nf-core has started anew: of the inbound SAs that it had only those that `kept` says are there. Living IKE SAs get
    /// new CHILD_SAs: with the old keys the packets that were taken before could be replayed.
    pub fn sas_lost(&mut self, now: Instant, kept: impl Fn(Spi) -> bool) {
        for (spi, lost) in self.ikes.values_mut().flat_map(|ike| &mut ike.children) {
            *lost = !kept(*spi);
        }
        self.handle_timeout(now);
    }

    /// The IKE SA with a peer is gone, but the peer doesn't know: the agent was started anew.
    pub fn ike_lost(&mut self, now: Instant, peer: PeerId) {
        let host = self.policy.peer(peer).and_then(PeerRule::host).filter(|_| self.policy.invalid_spi_recovery);
        let Some(site) = host.map(|host| self.policy.site(peer, host, None)) else {
            return;
        };
        let idle = self.open(now, site).is_some_and(|recovery| recovery.phase == Phase::Idle);
        if idle && self.ike_of(site).is_none() {
            self.start(now, site, Trigger::IkeLost, None);
        }
    }

    /// A packet for a peer is to be protected, and there is no SA: the peer is spoken to, if its address is known, within
    /// back-off and budget.
    pub fn sa_wanted(&mut self, now: Instant, peer: PeerId) {
        let Some(host) = self.policy.peer(peer).and_then(PeerRule::host) else {
            return;
        };
        let site = self.policy.site(peer, host, None);
        let idle = self.open(now, site).is_some_and(|recovery| recovery.phase == Phase::Idle);
        if idle && self.wait(now, site).is_zero() {
            self.start(now, site, Trigger::Traffic, None);
        }
    }

    /// What was negotiated with a peer isn't what nf.toml says any more, and its IKE SA has ended: it gets a new one, if one may
    /// be started to it.
    pub fn negotiate_anew(&mut self, now: Instant, peer: PeerId) {
        let Some(host) = self.policy.peer(peer).and_then(PeerRule::host) else {
            return;
        };
        let site = self.policy.site(peer, host, None);
        if self.ike_of(site).is_none()
            && let Some(recovery) = self.open(now, site)
            && recovery.phase == Phase::Idle
        {
            recovery.back_off = BackOff::default();
            self.start(now, site, Trigger::Reconfigured, None);
        }
    }

    /// The operator wants a peer recovered: new CHILD_SAs over the IKE SAs that there are, else a new IKE SA. Neither
    /// back-off nor `invalid_spi_recovery` matter, but the budget does.
    ///
    /// # Errors
    /// [`Refusal`] if nothing was started.
    pub fn recover(&mut self, now: Instant, peer: PeerId) -> Result<(), Refusal> {
        let mut sites: Vec<Site> = Vec::new();
        for ike in self.ikes.values().filter(|ike| ike.site.peer == peer) {
            if !sites.contains(&ike.site) {
                sites.push(ike.site);
            }
        }
        if sites.is_empty() {
            let rule = self.policy.peer(peer);
            let kind = rule.map_or(PeerKind::DynamicMap, |rule| rule.kind);
            let host = rule.and_then(PeerRule::host).ok_or(Refusal::NobodyThere(kind))?;
            sites.push(self.policy.site(peer, host, None));
        }
        let mut refusal = None;
        for site in sites {
            match self.open(now, site) {
                Some(recovery) if recovery.phase == Phase::Idle => {
                    recovery.refresh = true;
                    recovery.back_off = BackOff::default();
                    if !self.start(now, site, Trigger::ByHand, None) {
                        refusal = Some(Refusal::BudgetSpent);
                    }
                }
                _ => refusal = Some(Refusal::UnderWay),
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Has what was postponed tried again, where its time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (site, trigger) in self.postponed() {
            if self.open(now, site).is_some() && self.wait(now, site).is_zero() {
                self.start(now, site, trigger, None);
            }
        }
    }

    /// When [`Engine::handle_timeout`] has something to do. It may be called at any other time.
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        // A site that only the budget keeps waiting is looked at again after a second.
        let waits = self.postponed().into_iter().map(|(site, _)| self.wait(now, site).max(Duration::from_secs(1)));
        waits.min().map(|wait| now + wait)
    }

    /// Sites that need a recovery though no packet calls for it, and have none under way: those with a CHILD_SA that
    /// nf-core has lost, and those that are to be up always.
    fn postponed(&self) -> Vec<(Site, Trigger)> {
        let mut sites = Vec::new();
        for ike in self.ikes.values().filter(|ike| ike.children.values().any(|lost| *lost)) {
            if !sites.contains(&(ike.site, Trigger::SasLost)) {
                sites.push((ike.site, Trigger::SasLost));
            }
        }
        for (peer, rule) in self.policy.peers.iter().filter(|(_, rule)| rule.keep_up) {
            let peer = *peer;
            if let Some(host) = rule.host()
                && !self.ikes.values().any(|ike| ike.site.peer == peer)
            {
                sites.push((self.policy.site(peer, host, None), Trigger::KeepUp));
            }
        }
        sites.retain(|(site, _)| self.sites.get(site).is_none_or(|recovery| recovery.phase == Phase::Idle));
        sites
    }

    /// How an action ended, and how many messages it took.
    pub fn outcome(&mut self, now: Instant, site: Site, outcome: Outcome, messages: u32) {
        let Some(recovery) = self.sites.get_mut(&site) else {
            return;
        };
        recovery.sent = recovery.sent.saturating_add(messages);
        match (recovery.phase, outcome) {
            (Phase::Idle, _) => {}
            (Phase::Initiating, Outcome::Done) => self.delete(now, site),
            (Phase::Initiating, Outcome::NoAnswer(why) | Outcome::Failed(why)) => self.end(now, site, Err(why)),
            (Phase::Checking(ike) | Phase::MakingChild(ike, _) | Phase::Deleting(ike), Outcome::NoAnswer(why)) => {
                self.dead(now, site, ike, why);
            }
            (Phase::Checking(ike), Outcome::Done) => {
                self.heard(now, ike);
                self.over_ike(now, site, ike);
            }
            (Phase::MakingChild(ike, replaces), Outcome::Done) => {
                self.heard(now, ike);
                let replaced = replaces.and_then(|spi| self.ikes.get_mut(&ike)?.children.get_mut(&spi));
                if let Some(lost) = replaced {
                    *lost = false;
                }
                self.over_ike(now, site, ike);
            }
            // The peer's word is: no. The DELETE goes out all the same.
            (Phase::MakingChild(..), Outcome::Failed(why)) => {
                recovery.failure = Some(why);
                self.delete(now, site);
            }
            (Phase::Deleting(_), Outcome::Done) => self.end(now, site, Ok(())),
            (Phase::Checking(_) | Phase::Deleting(_), Outcome::Failed(why)) => self.end(now, site, Err(why)),
        }
    }

    // The steps of a recovery.

    /// Starts a recovery, if back-off and budget allow it.
    fn start(&mut self, now: Instant, site: Site, trigger: Trigger, spi: Option<Spi>) -> bool {
        let Limits { back_off_longest, fresh, .. } = self.policy.limits;
        let wait = self.wait(now, site);
        if !wait.is_zero() {
            self.note_site(now, site, trigger, Verdict::BackOff { wait });
            return false;
        }
        if !self.budget.take(now, Limits::RESERVE) {
            self.note_site(now, site, trigger, Verdict::BudgetSpent);
            return false;
        }
        let recovery = self.sites.entry(site).or_default();
        recovery.started = Some((now, trigger));
        (recovery.taken, recovery.sent) = (Limits::RESERVE, 0);
        recovery.failure = None;
        recovery.back_off.start(now, back_off_longest);
        if let Some(spi) = spi {
            recovery.pend(spi);
        }
        match self.ike_of(site) {
            None => self.initiate(now, site),
            Some((ike, state)) if now.saturating_duration_since(state.heard) < fresh => self.over_ike(now, site, ike),
            Some((ike, _)) => {
                self.act(now, site, Phase::Checking(ike), Verdict::CheckLiveness, Action::CheckLiveness { site, ike });
            }
        }
        true
    }

    /// The IKE SA lives: a CHILD_SA if one is needed, then DELETE.
    fn over_ike(&mut self, now: Instant, site: Site, ike: IkeId) {
        let Some(state) = self.ikes.get(&ike) else {
            // It went in the meantime. Whoever ended it knows of our state.
            self.end(now, site, Err("the IKE SA was deleted in the meantime".to_owned()));
            return;
        };
        let lost = state.children.iter().find(|(_, lost)| **lost).map(|(spi, _)| *spi);
        let whole = state.children.iter().find(|(_, lost)| !**lost).map(|(spi, _)| *spi);
        let by_daemon = self.policy.peer(site.peer).is_some_and(|rule| rule.by_daemon);
        let recovery = self.sites.entry(site).or_default();
        // A DELETE of the same SPI before didn't help: the peer needs a newer CHILD_SA to move to.
        let stubborn = recovery.pending.iter().any(|spi| by_daemon || recovery.deleted.contains(spi));
        let wanted = lost.is_some() || whole.is_none() || stubborn || recovery.refresh;
        let again = matches!(recovery.phase, Phase::MakingChild(..));
        if again && lost.is_some() {
            // One more than what was taken into account.
            if !self.budget.take(now, Limits::RESERVE_CHILD) {
                self.end(now, site, Err(Verdict::BudgetSpent.to_string()));
                return;
            }
            recovery.taken = recovery.taken.saturating_add(Limits::RESERVE_CHILD);
        }
        // With nothing lost, one is enough.
        if !wanted || (again && lost.is_none()) {
            self.delete(now, site);
            return;
        }
        recovery.refresh = false;
        let replaces = lost.or(whole);
        let verdict = Verdict::MakeChild { replaces };
        let phase = Phase::MakingChild(ike, replaces);
        self.act(now, site, phase, verdict, Action::MakeChild { site, ike, replaces });
    }

    /// DELETE of the unknown SPIs over the site's IKE SA.
    fn delete(&mut self, now: Instant, site: Site) {
        let by_daemon = self.policy.peer(site.peer).is_some_and(|rule| rule.by_daemon);
        let ike = self.ike_of(site).map(|(ike, _)| ike).filter(|_| !by_daemon);
        let ours: Vec<Spi> = self
            .ikes
            .values()
            .filter(|ike| ike.site.peer == site.peer)
            .flat_map(|ike| ike.children.keys().copied())
            .collect();
        let retired: Vec<Spi> =
            self.retired.keys().filter(|(peer, _)| *peer == site.peer).map(|(_, spi)| *spi).collect();
        let recovery = self.sites.entry(site).or_default();
        let mut spis = std::mem::take(&mut recovery.pending);
        // What a rekey has replaced by now is deleted by the rekey, and what is ours is no stranger.
        spis.retain(|spi| !ours.contains(spi) && !retired.contains(spi));
        recovery.deleted.clone_from(&spis);
        match ike {
            Some(ike) if !spis.is_empty() => {
                let verdict = Verdict::Delete { spis: spis.clone() };
                self.act(now, site, Phase::Deleting(ike), verdict, Action::Delete { site, ike, spis });
            }
            _ => self.end(now, site, Ok(())),
        }
    }

    /// The IKE SA doesn't answer: from now on there is none.
    fn dead(&mut self, now: Instant, site: Site, ike: IkeId, why: String) {
        let trigger = self.trigger(site);
        self.note_site(now, site, trigger, Verdict::IkeDead { why });
        // Its CHILD_SAs aren't retired: packets on them are no late ones, but those of a peer that is black-holed.
        self.ikes.remove(&ike);
        self.actions.push_back(Action::Abandon { ike });
        if self.ike_of(site).is_some() {
            self.end(now, site, Err("the peer's other IKE SA is asked next, should this go on".to_owned()));
        } else if self.may_initiate(site) {
            self.initiate(now, site);
        } else {
            self.end(now, site, Err("no IKE SA lives, and none may be started".to_owned()));
        }
    }

    fn initiate(&mut self, now: Instant, site: Site) {
        self.act(now, site, Phase::Initiating, Verdict::Initiate, Action::Initiate { site });
    }

    /// There is no IKE SA, and none may be started: a hint, or nothing.
    fn no_ike(&mut self, now: Instant, site: Site, trigger: Trigger, packet: Unknown) {
        let Some(rule) = self.policy.peer(site.peer) else {
            return;
        };
        let kind = rule.kind;
        let interval = self.policy.limits.hint_interval;
        let last = self.sites.get(&site).and_then(|recovery| recovery.last_hint);
        let verdict = match kind {
            PeerKind::EzvpnClient => Verdict::NotApplicable(kind),
            _ if rule.host().is_some() => Verdict::RecoveryOff,
            _ if kind.may_initiate() => Verdict::NoHost,
            _ if rule.by_daemon => Verdict::NoHint,
            _ if last.is_some_and(|last| now.saturating_duration_since(last) < interval) => Verdict::HintMomentsAgo,
            _ if !self.budget.take(now, 1) => Verdict::BudgetSpent,
            _ => {
                if let Some(recovery) = self.sites.get_mut(&site) {
                    recovery.last_hint = Some(now);
                }
                self.actions.push_back(Action::Hint { site, packet });
                Verdict::Hint
            }
        };
        self.note_site(now, site, trigger, verdict);
    }

    /// Goes into a phase by an action.
    fn act(&mut self, now: Instant, site: Site, phase: Phase, verdict: Verdict, action: Action) {
        if let Some(recovery) = self.sites.get_mut(&site) {
            recovery.phase = phase;
        }
        self.note_site(now, site, self.trigger(site), verdict);
        self.actions.push_back(action);
    }

    /// A recovery is over: what it took from the budget and didn't use goes back.
    fn end(&mut self, now: Instant, site: Site, result: Result<(), String>) {
        let trigger = self.trigger(site);
        let Some(recovery) = self.sites.get_mut(&site) else {
            return;
        };
        self.budget.settle(recovery.taken, recovery.sent);
        (recovery.taken, recovery.sent, recovery.phase, recovery.refresh) = (0, 0, Phase::Idle, false);
        recovery.pending.clear();
        recovery.back_off.end(now);
        let took = recovery.started.take().map_or(Duration::ZERO, |(start, _)| now.saturating_duration_since(start));
        let verdict = match result.and(recovery.failure.take().map_or(Ok(()), Err)) {
            Ok(()) => Verdict::Recovered { took },
            Err(why) => Verdict::Failed { why },
        };
        self.note_site(now, site, trigger, verdict);
    }

    // What is known.

    /// The peer that a packet seems to come from. The source may be false: this decides who is asked, and no more.
    fn peer_of(&self, packet: &Unknown) -> Option<PeerId> {
        let by_ike = self.ikes.values().find(|ike| ike.site.may_send(packet)).map(|ike| ike.site.peer);
        by_ike.or_else(|| self.policy.find(packet.src, packet.dst))
    }

    /// The site of a packet: that of an IKE SA, where there is one.
    fn site_of(&self, packet: &Unknown, peer: PeerId) -> Site {
        let by_ike = self.ikes.values().map(|ike| ike.site).find(|site| site.peer == peer && site.may_send(packet));
        by_ike.unwrap_or_else(|| self.policy.site(peer, packet.src, packet.udp_ports.map(|(src, _)| src)))
    }

    /// The IKE SA by which a site is recovered: one whose CHILD_SAs are lost, else the newest.
    fn ike_of(&self, site: Site) -> Option<(IkeId, &Ike)> {
        let candidates = self.ikes.iter().filter(|(_, ike)| ike.site == site);
        candidates.max_by_key(|(id, ike)| (ike.children.values().any(|lost| *lost), **id)).map(|(id, ike)| (*id, ike))
    }

    /// Whether an IKE SA may be started to a site.
    fn may_initiate(&self, site: Site) -> bool {
        let is_host = self.policy.peer(site.peer).is_some_and(|rule| rule.host() == Some(site.address));
        let asked_for = matches!(self.trigger(site), Trigger::ByHand | Trigger::KeepUp | Trigger::Reconfigured);
        is_host && (self.policy.invalid_spi_recovery || asked_for)
    }

    /// What the recovery of a site was started by.
    fn trigger(&self, site: Site) -> Trigger {
        let started = self.sites.get(&site).and_then(|recovery| recovery.started);
        started.map_or(Trigger::SasLost, |(_, trigger)| trigger)
    }

    /// The time that a site has to wait for its next recovery.
    fn wait(&self, now: Instant, site: Site) -> Duration {
        let Limits { back_off_first, back_off_longest, .. } = self.policy.limits;
        self.sites
            .get(&site)
            .map_or(Duration::ZERO, |recovery| recovery.back_off.wait(now, back_off_first, back_off_longest))
    }

    /// The state of a site. There is no room for more of them when too many hosts of dynamic peers are being seen to.
    fn open(&mut self, now: Instant, site: Site) -> Option<&mut Recovery> {
        let is_static = |site: &Site| self.policy.peer(site.peer).is_some_and(|rule| rule.host().is_some());
        // There are as many static sites as static peers: they stay.
        if !self.sites.contains_key(&site) && !is_static(&site) {
            let dynamic = || self.sites.iter().filter(|(site, _)| !is_static(site));
            if dynamic().count() >= MAX_SITES {
                let idle = dynamic().filter(|(_, recovery)| recovery.phase == Phase::Idle);
                let oldest = idle.min_by_key(|(_, recovery)| recovery.used).map(|(site, _)| *site)?;
                self.sites.remove(&oldest);
            }
        }
        let recovery = self.sites.entry(site).or_default();
        recovery.used = Some(now);
        Some(recovery)
    }

    fn note_site(&mut self, now: Instant, site: Site, trigger: Trigger, verdict: Verdict) {
        self.note(now, Some(site.peer), Some(site.address), trigger, verdict);
    }

    fn note(
        &mut self,
        now: Instant,
        peer: Option<PeerId>,
        address: Option<IpAddr>,
        trigger: Trigger,
        verdict: Verdict,
    ) {
        let decision = Decision { first: now, last: now, count: 1, peer, address, trigger, verdict };
        if self.journal.note(decision.clone()) {
            if self.news.len() >= JOURNAL {
                self.news.pop_front();
            }
            self.news.push_back(decision);
        }
    }
}

/// Behind port 500 there is no UDP encapsulation, and ESP has no port.
fn site_of_ike(policy: &Policy, peer: PeerId, remote: SocketAddr) -> Site {
    policy.site(peer, remote.ip(), Some(remote.port()).filter(|port| *port != 500))
}

impl Recovery {
    /// Has an SPI deleted, too.
    fn pend(&mut self, spi: Spi) {
        if self.pending.len() < MAX_PENDING && !self.pending.contains(&spi) {
            self.pending.push(spi);
        }
    }
}

impl Site {
    /// Whether a packet may be of this site, by its source.
    fn may_send(&self, packet: &Unknown) -> bool {
        let port = packet.udp_ports.map(|(src, _)| src);
        self.address == packet.src && (port.is_none() || self.port.is_none() || port == self.port)
    }
}
