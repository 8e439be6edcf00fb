//! What becomes of the kernel's SAs in nf-core: decisions, without I/O and without a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use nf_core::sa::spec::SaSpec;

use super::message::{Event, Sa, SaId};

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Reserve an SPI at nf-core.
    Reserve {
        /// Which.
        id: SaId,
        /// Outer source, if it is known.
        src: Option<IpAddr>,
    },
    /// Give a reserved SPI back.
    Release(SaId),
    /// Install an SA into nf-core.
    Install {
        /// Which.
        id: SaId,
        /// The SA.
        spec: Box<SaSpec>,
    },
    /// Delete an SA from nf-core.
    Delete(SaId),
    /// Have the IKE daemon rekey an SA.
    Rekey(SaId),
    /// Tell the operator that an SA can't be mirrored.
    Leave {
        /// Which.
        id: SaId,
        /// Why, and what to do.
        why: String,
    },
}

/// An inbound SA of the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    /// Its SPI is reserved at nf-core.
    Reserved,
    /// nf-core has it.
    Installed,
    /// nf-core can't have it; that was told.
    Left,
}

/// The kernel's inbound SAs, and what was done about each.
pub struct Mirror {
    known: BTreeMap<SaId, Known>,
    is_local: Box<dyn Fn(IpAddr) -> bool>,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Mirror {
    /// An empty mirror. An SA is inbound if its destination is local.
    pub fn new(is_local: impl Fn(IpAddr) -> bool + 'static) -> Mirror {
        Mirror { known: BTreeMap::new(), is_local: Box::new(is_local) }
    }

    /// Something happened.
    pub fn event(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Larval { id, src } => self.larval(id, src).into_iter().collect(),
            Event::Mature(sa) => self.mature(*sa).into_iter().collect(),
            Event::Deleted(id) | Event::Expired { id, hard: true } => self.gone(id).into_iter().collect(),
            Event::Flushed => {
                let all: Vec<SaId> = self.known.keys().copied().collect();
                all.into_iter().filter_map(|id| self.gone(id)).collect()
            }
            // After a soft lifetime the daemon rekeys by itself.
            Event::Expired { hard: false, .. } | Event::Done | Event::Refused(_) => Vec::new(),
        }
    }

    fn larval(&mut self, id: SaId, src: Option<IpAddr>) -> Option<Action> {
        if self.known.contains_key(&id) || !(self.is_local)(id.dst) {
            return None;
        }
        self.known.insert(id, Known::Reserved);
        Some(Action::Reserve { id, src })
    }

    fn mature(&mut self, sa: Sa) -> Option<Action> {
        // What UPDSA may change about an SA that is installed, lifetimes and ports, nf-core doesn't need.
        if matches!(self.known.get(&sa.id), Some(Known::Installed | Known::Left)) || !(self.is_local)(sa.id.dst) {
            return None;
        }
        Some(self.install(sa))
    }

    fn install(&mut self, sa: Sa) -> Action {
        let id = sa.id;
        match sa.spec {
            Ok(spec) => {
                self.known.insert(id, Known::Installed);
                Action::Install { id, spec: Box::new(spec) }
            }
            Err(why) => {
                self.known.insert(id, Known::Left);
                Action::Leave { id, why }
            }
        }
    }

    fn gone(&mut self, id: SaId) -> Option<Action> {
        match self.known.remove(&id)? {
            Known::Reserved => Some(Action::Release(id)),
            Known::Installed => Some(Action::Delete(id)),
            Known::Left => None,
        }
    }

    /// nf-core has deleted an SA at the end of its lifetime.
    pub fn ended(&mut self, id: SaId) {
        if self.known.get(&id) == Some(&Known::Installed) {
            self.known.insert(id, Known::Left);
        }
    }

    /// nf-core refused to install an SA: that isn't tried again.
    pub fn refused(&mut self, id: SaId) {
        if let Some(known) = self.known.get_mut(&id) {
            *known = Known::Left;
        }
    }

    /// Compares with all that the kernel has, and all that nf-core has, reserved SPIs included. `started_s` is when nf-core
    /// started, in seconds since the epoch: older SAs that it doesn't have are rekeyed, not installed.
    pub fn resync(&mut self, kernel: Vec<Event>, nf_core: &BTreeSet<SaId>, started_s: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut present = BTreeSet::new();
        for event in kernel {
            match event {
                Event::Larval { id, src } => {
                    present.insert(id);
                    if !nf_core.contains(&id) && self.known.get(&id) == Some(&Known::Reserved) {
                        self.known.remove(&id);
                    }
                    actions.extend(self.larval(id, src));
                }
                Event::Mature(sa) => {
                    present.insert(sa.id);
                    actions.extend(self.resync_one(*sa, nf_core, started_s));
                }
                _ => {}
            }
        }
        let gone: Vec<SaId> = self.known.keys().filter(|id| !present.contains(id)).copied().collect();
        actions.extend(gone.into_iter().filter_map(|id| self.gone(id)));
        actions
    }

    fn resync_one(&mut self, sa: Sa, nf_core: &BTreeSet<SaId>, started_s: u64) -> Option<Action> {
        if !(self.is_local)(sa.id.dst) {
            return None;
        }
        match self.known.get(&sa.id) {
            Some(Known::Left) => None,
            // Its keys came while nobody listened.
            Some(Known::Reserved) => Some(self.install(sa)),
            // Known or not: a mirror may have been started anew.
            _ if nf_core.contains(&sa.id) => {
                self.known.insert(sa.id, Known::Installed);
                None
            }
            // The clock of the kernel's SAs has a resolution of a second.
            _ if sa.added_s > started_s || sa.spec.is_err() => Some(self.install(sa)),
            _ => {
                self.known.insert(sa.id, Known::Left);
                Some(Action::Rekey(sa.id))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nf_core::types::Spi;
    use proptest::prelude::*;

    use super::*;

    const HERE: &str = "10.10.1.2";
    const THERE: &str = "10.10.1.1";

    fn id(spi: u32, dst: &str) -> SaId {
        SaId { spi: Spi(spi), dst: dst.parse().unwrap() }
    }

    fn larval(spi: u32) -> Event {
        Event::Larval { id: id(spi, HERE), src: None }
    }

    fn mature(id: SaId, added_s: u64) -> Event {
        let spec = serde_json::json!({
            "spi": id.spi.0, "src": THERE, "dst": id.dst, "mode": "tunnel", "alg": "aes-gcm-16", "key": "5a".repeat(20),
        });
        let spec = serde_json::from_value(spec).map_err(|error| error.to_string());
        Event::Mature(Box::new(Sa { id, src: THERE.parse().unwrap(), added_s, spec }))
    }

    fn mirror() -> Mirror {
        Mirror::new(|address| address.to_string() == HERE)
    }

    fn shown(actions: &[Action]) -> Vec<String> {
        let show = |action: &Action| match action {
            Action::Reserve { id, .. } => format!("reserve {:x}", id.spi.0),
            Action::Release(id) => format!("release {:x}", id.spi.0),
            Action::Install { id, .. } => format!("install {:x}", id.spi.0),
            Action::Delete(id) => format!("delete {:x}", id.spi.0),
            Action::Rekey(id) => format!("rekey {:x}", id.spi.0),
            Action::Leave { id, .. } => format!("leave {:x}", id.spi.0),
        };
        actions.iter().map(show).collect()
    }

    #[test]
    fn an_sa_is_reserved_installed_and_deleted() {
        let mut mirror = mirror();
        let mut does = |event| shown(&mirror.event(event));
        assert_eq!(does(larval(0x100)), ["reserve 100"]);
        assert_eq!(does(mature(id(0x100, HERE), 1)), ["install 100"]);
        assert!(does(mature(id(0x100, HERE), 1)).is_empty(), "an update changes nothing");
        assert!(does(Event::Expired { id: id(0x100, HERE), hard: false }).is_empty());
        assert_eq!(does(Event::Deleted(id(0x100, HERE))), ["delete 100"]);
        assert!(does(Event::Deleted(id(0x100, HERE))).is_empty());
        assert_eq!(does(larval(0x200)), ["reserve 200"]);
        assert_eq!(does(Event::Expired { id: id(0x200, HERE), hard: true }), ["release 200"]);
        assert_eq!(does(mature(id(0x300, HERE), 1)), ["install 300"]);
        assert_eq!(does(larval(0x400)), ["reserve 400"]);
        assert_eq!(does(Event::Flushed), ["delete 300", "release 400"]);
    }

    #[test]
    fn outbound_sas_stay_in_the_kernel() {
        let mut mirror = mirror();
        assert!(mirror.event(mature(id(0x100, THERE), 1)).is_empty());
        assert!(mirror.event(Event::Larval { id: id(0x100, THERE), src: None }).is_empty());
        assert!(mirror.resync(vec![mature(id(0x100, THERE), 1)], &BTreeSet::new(), 0).is_empty());
    }

    #[test]
    fn what_nf_core_cannot_have_is_told_once() {
        let mut mirror = mirror();
        let strange = || {
            let sa = Sa { id: id(0x100, HERE), src: THERE.parse().unwrap(), added_s: 1, spec: Err("no".to_owned()) };
            Event::Mature(Box::new(sa))
        };
        assert_eq!(shown(&mirror.event(strange())), ["leave 100"]);
        assert!(mirror.event(strange()).is_empty());
        assert!(mirror.resync(vec![strange()], &BTreeSet::new(), 0).is_empty());
        assert!(mirror.event(Event::Deleted(id(0x100, HERE))).is_empty());
        assert_eq!(shown(&mirror.event(mature(id(0x200, HERE), 1))), ["install 200"]);
        mirror.refused(id(0x200, HERE));
        assert!(mirror.event(Event::Deleted(id(0x200, HERE))).is_empty(), "nf-core never had it");
    }

    #[test]
    fn an_sa_that_nf_core_ended_is_not_installed_again() {
        let mut mirror = mirror();
        assert_eq!(shown(&mirror.event(mature(id(0x100, HERE), 150))), ["install 100"]);
        mirror.ended(id(0x100, HERE));
        assert!(mirror.resync(vec![mature(id(0x100, HERE), 150)], &BTreeSet::new(), 100).is_empty());
        assert!(mirror.event(Event::Expired { id: id(0x100, HERE), hard: true }).is_empty());
        assert_eq!(shown(&mirror.event(mature(id(0x100, HERE), 200))), ["install 100"], "the SPI may be used again");
    }

    #[test]
    fn an_sa_older_than_nf_core_is_rekeyed() {
        let mut mirror = mirror();
        let all = || vec![mature(id(0x100, HERE), 50), mature(id(0x200, HERE), 150), larval(0x300)];
        let actions = mirror.resync(all(), &BTreeSet::new(), 100);
        assert_eq!(shown(&actions), ["rekey 100", "install 200", "reserve 300"]);
        // nf-core was restarted at 200, and has nothing.
        let actions = mirror.resync(all(), &BTreeSet::new(), 200);
        assert_eq!(shown(&actions), ["rekey 200", "reserve 300"]);
    }

    #[test]
    fn a_mirror_that_was_restarted_takes_over_what_is_there() {
        let mut mirror = mirror();
        let there = BTreeSet::from([id(0x100, HERE)]);
        assert!(mirror.resync(vec![mature(id(0x100, HERE), 50)], &there, 100).is_empty());
        assert_eq!(shown(&mirror.resync(Vec::new(), &there, 100)), ["delete 100"]);
    }

    /// A step of a kernel's life.
    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u32),
        Install(u32),
        Delete(u32),
        Flush,
        /// Events are lost, until the next dump.
        Deaf(Box<Step>),
        Resync,
    }

    fn step() -> impl Strategy<Value = Step> {
        let spi = || 0x100u32..0x106;
        let heard = prop_oneof![
            spi().prop_map(Step::Allocate),
            spi().prop_map(Step::Install),
            spi().prop_map(Step::Delete),
            Just(Step::Flush),
        ];
        prop_oneof![
            6 => heard.clone(),
            2 => heard.prop_map(|step| Step::Deaf(Box::new(step))),
            1 => Just(Step::Resync),
        ]
    }

    proptest! {
        /// After a dump nf-core has exactly what the kernel has, whatever was lost on the way; and no request of the mirror
        /// is one that nf-core would refuse, but for events that were lost.
        #[test]
        fn nf_core_has_what_the_kernel_has(steps in prop::collection::vec(step(), 0..60)) {
            let mut mirror = mirror();
            // True: installed. nf-core started before all of it.
            let (mut kernel, mut nf_core) = (BTreeMap::<u32, bool>::new(), BTreeMap::<u32, bool>::new());
            for step in steps.into_iter().chain([Step::Resync]) {
                let (step, deaf) = match step {
                    Step::Deaf(step) => (*step, true),
                    step => (step, false),
                };
                let event = match step {
                    Step::Allocate(spi) if !kernel.contains_key(&spi) => {
                        kernel.insert(spi, false);
                        // Told to nobody.
                        None
                    }
                    Step::Install(spi) => {
                        kernel.insert(spi, true);
                        Some(mature(id(spi, HERE), 1))
                    }
                    Step::Delete(spi) => kernel.remove(&spi).map(|_| Event::Deleted(id(spi, HERE))),
                    Step::Flush => {
                        kernel.clear();
                        Some(Event::Flushed)
                    }
                    _ => None,
                };
                let actions = match (step, event) {
                    (Step::Resync, _) => {
                        let dump = kernel.iter().map(|(spi, installed)| match installed {
                            true => mature(id(*spi, HERE), 1),
                            false => larval(*spi),
                        });
                        let has = nf_core.keys().map(|spi| id(*spi, HERE)).collect();
                        mirror.resync(dump.collect(), &has, 0)
                    }
                    (_, Some(event)) if !deaf => mirror.event(event),
                    _ => Vec::new(),
                };
                for action in actions {
                    match action {
                        Action::Reserve { id, .. } => prop_assert_eq!(nf_core.insert(id.spi.0, false), None),
                        Action::Release(id) => prop_assert_eq!(nf_core.remove(&id.spi.0), Some(false)),
                        Action::Install { id, .. } => prop_assert_ne!(nf_core.insert(id.spi.0, true), Some(true)),
                        Action::Delete(id) => prop_assert_eq!(nf_core.remove(&id.spi.0), Some(true)),
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
            }
            // An SPI that was deleted and allocated again unheard may still be installed with its old keys: the peer's
            // packets on it fail to authenticate, and the new keys come with the next event.
            prop_assert_eq!(kernel.keys().collect::<Vec<_>>(), nf_core.keys().collect::<Vec<_>>());
        }
    }
}
