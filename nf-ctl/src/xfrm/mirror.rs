//! What becomes of the kernel's SAs in nf-core: decisions, without I/O and without a clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::IpAddr;

use nf_core::sa::spec::{Direction, SaSpec, SelectorSpec};
use nf_core::types::Spi;

use super::message::{Event, Sa, SaId};
use super::policy::{Covered, Policies, Wanted};

/// How many deleted outbound SAs are remembered.
const SPENT: usize = 4096;

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
    Rekey {
        /// Which.
        id: SaId,
        /// Why.
        why: &'static str,
    },
    /// Tell the operator that an SA can't be mirrored.
    Leave {
        /// Which.
        id: SaId,
        /// Why, and what to do.
        why: String,
    },
    /// Tell the operator of something about an SA that is mirrored.
    Warn {
        /// Which.
        id: SaId,
        /// What, and what to do.
        what: String,
    },
}

/// An SA of the kernel's.
#[derive(Debug)]
enum Known {
    /// Its SPI is reserved at nf-core.
    Reserved,
    /// It waits for its policies. The SPI of an inbound one is reserved at nf-core meanwhile.
    Waiting(Box<Sa>),
    /// nf-core has it.
    Installed(Installed),
    /// nf-core can't have it; that was told.
    Left,
}

/// What is remembered of an SA that nf-core has.
#[derive(Debug)]
struct Installed {
    src: IpAddr,
    reqid: u32,
    /// Greater than those of SAs that were there before.
    order: u64,
    /// What policies say of it.
    selectors: Option<SelectorSpec>,
    /// Whether it was told that the kernel uses it as well.
    warned: bool,
}

/// The kernel's SAs of this host, what was done about each, and the policies that name them.
pub struct Mirror {
    known: BTreeMap<SaId, Known>,
    policies: Policies,
    /// Whether SAs wait, and something has come since they were last looked at.
    unsettled: bool,
    next_order: u64,
    /// Outbound SAs that nf-core had: SPI, source and reqid, by which one is known that has moved.
    spent: VecDeque<(Spi, IpAddr, u32)>,
    is_local: Box<dyn Fn(IpAddr) -> bool>,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Mirror {
    /// An empty mirror. An SA is inbound if its destination is local, and outbound if its source is.
    pub fn new(is_local: impl Fn(IpAddr) -> bool + 'static) -> Mirror {
        Mirror {
            known: BTreeMap::new(),
            policies: Policies::default(),
            unsettled: false,
            next_order: 0,
            spent: VecDeque::new(),
            is_local: Box::new(is_local),
        }
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
            Event::Policy(policy) => {
                self.policies.insert(*policy);
                self.unsettled |= self.any_waits();
                Vec::new()
            }
            // What was installed by them is looked at in the next comparison: a daemon deletes its SAs as well.
            Event::PolicyDeleted(id) => {
                self.policies.remove(&id);
                Vec::new()
            }
            Event::PoliciesFlushed => {
                self.policies.clear();
                Vec::new()
            }
            // After a soft lifetime the daemon rekeys by itself.
            Event::Expired { hard: false, .. } | Event::Done | Event::Refused(_) => Vec::new(),
        }
    }

    /// Whether [`Mirror::settle`] may have something to do. A daemon installs an SA's policies one by one, before it or behind
    /// it, and what nf-core is told once about an SA holds: so SAs are settled a moment later.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    fn any_waits(&self) -> bool {
        self.known.values().any(|known| matches!(known, Known::Waiting(_)))
    }

    /// Installs SAs that wait for policies: outbound ones that have any, and inbound ones whether or not they have.
    pub fn settle(&mut self) -> Vec<Action> {
        self.unsettled = false;
        let waiting = |(id, known): (&SaId, &Known)| match known {
            Known::Waiting(sa) => Some((self.direction(sa)? == Direction::Out, *id)),
            _ => None,
        };
        // Inbound ones first, for outbound ones to follow.
        let waiting: BTreeSet<(bool, SaId)> = self.known.iter().filter_map(waiting).collect();
        let mut actions = Vec::new();
        for (_, id) in waiting {
            if let Some(Known::Waiting(sa)) = self.known.remove(&id) {
                actions.extend(self.place(*sa, true));
            }
        }
        actions
    }

    fn direction(&self, sa: &Sa) -> Option<Direction> {
        if (self.is_local)(sa.id.dst) {
            Some(Direction::In)
        } else {
            (!sa.src.is_unspecified() && (self.is_local)(sa.src)).then_some(Direction::Out)
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
        match self.known.get(&sa.id) {
            // What UPDSA may change about an SA that is installed, lifetimes and ports, nf-core doesn't need.
            Some(Known::Installed(_) | Known::Left | Known::Waiting(_)) => None,
            Some(Known::Reserved) | None => self.place(sa, false),
        }
    }

    /// Installs an SA that nf-core doesn't have, or has it wait for its policies; `settled`: an inbound one need not wait.
    fn place(&mut self, mut sa: Sa, settled: bool) -> Option<Action> {
        let (direction, id) = (self.direction(&sa)?, sa.id);
        let policies = self.policies_of(&sa, direction);
        let mut spec = match std::mem::replace(&mut sa.spec, Err(String::new())) {
            Ok(spec) => spec,
            Err(why) => return Some(self.leave(id, why)),
        };
        let open = spec.selectors == SelectorSpec::default();
        if open && policies.is_none() && !(settled && direction == Direction::In) {
            let reserve = direction == Direction::In && !matches!(self.known.get(&id), Some(Known::Reserved));
            let src = Some(sa.src);
            self.known.insert(id, Known::Waiting(Box::new(Sa { spec: Ok(spec), ..sa })));
            // One that has been settled once waits for another policy.
            self.unsettled |= !settled;
            return reserve.then_some(Action::Reserve { id, src });
        }
        let by_policy = policies.as_ref().map(|covered| covered.selectors.clone());
        if open && let Some(covered) = policies {
            // An inbound SA lets more in than its policies then, and not everything.
            if let (Err(why), Direction::Out) = (covered.exact, direction) {
                return Some(self.leave(id, why));
            }
            spec.selectors = covered.selectors;
        }
        if direction == Direction::Out
            && let Err(left) = self.outbound(&sa, &mut spec)
        {
            return Some(left);
        }
        self.installed(&sa, by_policy);
        Some(Action::Install { id, spec: Box::new(spec) })
    }

    /// Makes an outbound SA of what was read of one.
    fn outbound(&mut self, sa: &Sa, spec: &mut SaSpec) -> Result<(), Action> {
        if sa.bound {
            let why = "the kernel chooses it by a mark or an xfrm interface, and nf-core by selectors alone; use policies \
                       without (charon: if_id_out, mark_out)";
            return Err(self.leave(sa.id, why.to_owned()));
        }
        if sa.used > 0 || self.spent.contains(&(sa.id.spi, sa.src, sa.reqid)) {
            self.known.insert(sa.id, Known::Left);
            return Err(Action::Rekey {
                id: sa.id,
                why: "packets have gone out by it, and its sequence numbers are used up to somewhere",
            });
        }
        spec.direction = Direction::Out.to_string();
        if spec.encap == "udp" {
            spec.peer_port = sa.peer_port.filter(|port| *port != 0);
            spec.follows =
                (spec.mode == "tunnel").then(|| self.inbound_half(sa)).flatten().map(|spi| spi.0.to_string());
        }
        Ok(())
    }

    /// The newest inbound SA of an outbound one's CHILD_SA: its packets show where a peer behind a NAT is.
    fn inbound_half(&self, outbound: &Sa) -> Option<Spi> {
        let half = |(id, known): (&SaId, &Known)| match known {
            Known::Installed(inbound)
                if outbound.reqid != 0
                    && (id.dst, inbound.src, inbound.reqid) == (outbound.src, outbound.id.dst, outbound.reqid) =>
            {
                Some((inbound.order, id.spi))
            }
            _ => None,
        };
        self.known.iter().filter_map(half).max().map(|(_, spi)| spi)
    }

    fn policies_of(&self, sa: &Sa, direction: Direction) -> Option<Covered> {
        let mode = sa.spec.as_ref().ok()?.mode.as_str();
        let SaId { spi, dst } = sa.id;
        self.policies.of(Wanted { direction, src: sa.src, dst, spi: spi.0, reqid: sa.reqid, mode })
    }

    fn installed(&mut self, sa: &Sa, selectors: Option<SelectorSpec>) {
        let order = self.next_order;
        self.next_order = order.wrapping_add(1);
        let installed = Installed { src: sa.src, reqid: sa.reqid, order, selectors, warned: false };
        self.known.insert(sa.id, Known::Installed(installed));
    }

    fn leave(&mut self, id: SaId, why: String) -> Action {
        self.known.insert(id, Known::Left);
        Action::Leave { id, why }
    }

    fn gone(&mut self, id: SaId) -> Option<Action> {
        match self.known.remove(&id)? {
            Known::Reserved => Some(Action::Release(id)),
            Known::Waiting(_) => (self.is_local)(id.dst).then_some(Action::Release(id)),
            Known::Installed(installed) => {
                if !(self.is_local)(id.dst) {
                    self.spent.truncate(SPENT - 1);
                    self.spent.push_front((id.spi, installed.src, installed.reqid));
                }
                Some(Action::Delete(id))
            }
            Known::Left => None,
        }
    }

    /// nf-core has deleted an SA at the end of its lifetime.
    pub fn ended(&mut self, id: SaId) {
        if let Some(known @ Known::Installed(_)) = self.known.get_mut(&id) {
            *known = Known::Left;
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
        let (mut actions, mut present, mut sas) = (Vec::new(), BTreeSet::new(), Vec::new());
        self.policies.clear();
        for event in kernel {
            match event {
                Event::Larval { id, src } => {
                    present.insert(id);
                    if !nf_core.contains(&id) && matches!(self.known.get(&id), Some(Known::Reserved)) {
                        self.known.remove(&id);
                    }
                    actions.extend(self.larval(id, src));
                }
                Event::Mature(sa) => {
                    present.insert(sa.id);
                    sas.push(sa);
                }
                Event::Policy(policy) => self.policies.insert(*policy),
                _ => {}
            }
        }
        // Inbound ones first, for outbound ones to follow; those that were there before first.
        sas.sort_by_key(|sa| (!(self.is_local)(sa.id.dst), sa.added_s));
        for sa in sas {
            self.resync_one(*sa, nf_core, started_s, &mut actions);
        }
        let gone: Vec<SaId> = self.known.keys().filter(|id| !present.contains(id)).copied().collect();
        actions.extend(gone.into_iter().filter_map(|id| self.gone(id)));
        self.unsettled |= self.any_waits();
        actions
    }

    fn resync_one(&mut self, sa: Sa, nf_core: &BTreeSet<SaId>, started_s: u64, actions: &mut Vec<Action>) {
        let Some(direction) = self.direction(&sa) else {
            return;
        };
        match self.known.get(&sa.id) {
            Some(Known::Left | Known::Waiting(_)) => {}
            // Its keys came while nobody listened.
            Some(Known::Reserved) => actions.extend(self.place(sa, false)),
            Some(Known::Installed(_)) if nf_core.contains(&sa.id) => {
                if direction == Direction::Out {
                    self.check_outbound(&sa, actions);
                }
            }
            // A mirror may have been started anew.
            None if nf_core.contains(&sa.id) => {
                let policies = self.policies_of(&sa, direction).map(|covered| covered.selectors);
                self.installed(&sa, policies);
            }
            // The clock of the kernel's SAs has a resolution of a second.
            _ if sa.added_s > started_s || sa.spec.is_err() => actions.extend(self.place(sa, false)),
            _ => {
                self.known.insert(sa.id, Known::Left);
                actions.push(match direction {
                    Direction::In => Action::Rekey { id: sa.id, why: "it is older than nf-core" },
                    // Once, for both halves.
                    Direction::Out => Action::Leave {
                        id: sa.id,
                        why: "it is older than nf-core; it goes when the CHILD_SA is rekeyed".to_owned(),
                    },
                });
            }
        }
    }

    /// An outbound SA that nf-core has: whether the kernel still wants the same of it, and leaves it to nf-core.
    fn check_outbound(&mut self, sa: &Sa, actions: &mut Vec<Action>) {
        let now = self.policies_of(sa, Direction::Out).map(|covered| covered.selectors);
        let Some(Known::Installed(installed)) = self.known.get_mut(&sa.id) else {
            return;
        };
        let id = sa.id;
        if sa.used > 0 && !installed.warned {
            installed.warned = true;
            let what = "the kernel sends by it as well, with sequence numbers that nf-core uses, and the peer drops one of \
                        each two: have nothing but nf-core send into this tunnel";
            actions.push(Action::Warn { id, what: what.to_owned() });
        }
        if installed.selectors == now {
            return;
        }
        let why = "its policies have changed";
        match now {
            // What no policy wants protected doesn't leave by it.
            None => {
                self.known.insert(id, Known::Left);
                actions.extend([Action::Delete(id), Action::Leave { id, why: "its policies are gone".to_owned() }]);
            }
            now => {
                installed.selectors = now;
                actions.push(Action::Rekey { id, why });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_xfrm::constants::{AF_INET, XFRM_MODE_TUNNEL, XFRM_POLICY_IN, XFRM_POLICY_OUT};
    use netlink_packet_xfrm::{Address, Selector, UserPolicyInfo, UserTemplate, XfrmAttrs};
    use proptest::prelude::*;

    use super::super::policy::Policy;
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
        sa(Sa { added_s, ..plain(id, THERE, serde_json::from_value(spec).map_err(|error| error.to_string())) }, |_| ())
    }

    fn plain(id: SaId, src: &str, spec: Result<SaSpec, String>) -> Sa {
        Sa { id, src: src.parse().unwrap(), added_s: 1, reqid: 0, used: 0, peer_port: None, bound: false, spec }
    }

    fn sa(mut sa: Sa, change: impl FnOnce(&mut Sa)) -> Event {
        change(&mut sa);
        Event::Mature(Box::new(sa))
    }

    /// Half of a CHILD_SA of tunnel mode in UDP, with reqid 7.
    fn half(spi: u32, dst: &str, change: impl FnOnce(&mut Sa)) -> Event {
        let src = if dst == HERE { THERE } else { HERE };
        let spec = serde_json::json!({
            "spi": spi, "src": src, "dst": dst, "mode": "tunnel", "alg": "aes-gcm-16", "key": "5a".repeat(20), "encap": "udp",
        });
        let plain = plain(id(spi, dst), src, Ok(serde_json::from_value(spec).unwrap()));
        sa(Sa { reqid: 7, peer_port: Some(61_000), ..plain }, change)
    }

    /// A policy of that CHILD_SA's, to a network of the peer's or from it.
    fn policy(network: u8, outbound: bool) -> Policy {
        let info = |dir, src: [u8; 4], dst: [u8; 4]| UserPolicyInfo {
            selector: Selector {
                family: AF_INET,
                saddr: Address::from_ip(&src.into()),
                prefixlen_s: 24,
                daddr: Address::from_ip(&dst.into()),
                prefixlen_d: 24,
                ..Selector::default()
            },
            direction: dir,
            ..UserPolicyInfo::default()
        };
        let (inside, outside) = ([10, 2, 0, 0], [10, 1, network, 0]);
        let (info, src, dst) = match outbound {
            true => (info(XFRM_POLICY_OUT, inside, outside), HERE, THERE),
            false => (info(XFRM_POLICY_IN, outside, inside), THERE, HERE),
        };
        let mut template = UserTemplate { mode: XFRM_MODE_TUNNEL, reqid: 7, ..UserTemplate::default() };
        template.source(&src.parse().unwrap());
        template.destination(&dst.parse().unwrap());
        template.protocol(50);
        Policy::new(&info, &[XfrmAttrs::Template(vec![template])]).unwrap()
    }

    fn policies(networks: impl IntoIterator<Item = u8>) -> Vec<Event> {
        let both = |network| [true, false].map(|outbound| Event::Policy(Box::new(policy(network, outbound))));
        networks.into_iter().flat_map(both).collect()
    }

    /// What comes of an event, at once and a moment later.
    fn settled(mirror: &mut Mirror, event: Event) -> Vec<Action> {
        let mut actions = mirror.event(event);
        if mirror.is_unsettled() {
            actions.extend(mirror.settle());
        }
        assert!(!mirror.is_unsettled());
        actions
    }

    /// The SA that is to be installed, if nothing else is to be done.
    fn only_install(actions: &[Action]) -> &SaSpec {
        match actions {
            [Action::Install { spec, .. }] => spec,
            other => panic!("{other:?}"),
        }
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
            Action::Rekey { id, .. } => format!("rekey {:x}", id.spi.0),
            Action::Warn { id, .. } => format!("warn {:x}", id.spi.0),
            Action::Leave { id, .. } => format!("leave {:x}", id.spi.0),
        };
        actions.iter().map(show).collect()
    }

    #[test]
    fn an_sa_is_reserved_installed_and_deleted() {
        let mut mirror = mirror();
        let mut does = |event| shown(&settled(&mut mirror, event));
        assert_eq!(does(larval(0x100)), ["reserve 100"]);
        assert_eq!(does(mature(id(0x100, HERE), 1)), ["install 100"]);
        assert!(does(mature(id(0x100, HERE), 1)).is_empty(), "an update changes nothing");
        assert!(does(Event::Expired { id: id(0x100, HERE), hard: false }).is_empty());
        assert_eq!(does(Event::Deleted(id(0x100, HERE))), ["delete 100"]);
        assert!(does(Event::Deleted(id(0x100, HERE))).is_empty());
        assert_eq!(does(larval(0x200)), ["reserve 200"]);
        assert_eq!(does(Event::Expired { id: id(0x200, HERE), hard: true }), ["release 200"]);
        assert_eq!(does(mature(id(0x300, HERE), 1)), ["reserve 300", "install 300"]);
        assert_eq!(does(larval(0x400)), ["reserve 400"]);
        assert_eq!(does(Event::Flushed), ["delete 300", "release 400"]);
    }

    #[test]
    fn sas_between_others_stay_in_the_kernel() {
        let mut mirror = mirror();
        let other = || half(0x100, THERE, |sa| sa.src = "10.10.1.9".parse().unwrap());
        assert!(settled(&mut mirror, other()).is_empty());
        assert!(settled(&mut mirror, half(0x100, THERE, |sa| sa.src = "0.0.0.0".parse().unwrap())).is_empty());
        assert!(mirror.event(Event::Larval { id: id(0x100, THERE), src: None }).is_empty());
        assert!(mirror.resync(vec![other()], &BTreeSet::new(), 0).is_empty());
    }

    #[test]
    fn a_pair_of_sas_has_the_networks_of_its_policies() {
        let mut mirror = mirror();
        for event in policies([1, 3]) {
            assert!(settled(&mut mirror, event).is_empty());
        }
        let actions = mirror.event(half(0x100, HERE, |_| ()));
        let inbound = only_install(&actions);
        assert_eq!((inbound.direction.as_str(), inbound.follows.as_deref()), ("in", None));
        assert_eq!(inbound.selectors.src, ["10.1.1.0/24", "10.1.3.0/24"]);
        let actions = mirror.event(half(0x900, THERE, |_| ()));
        let outbound = only_install(&actions);
        assert_eq!((outbound.direction.as_str(), outbound.peer_port), ("out", Some(61_000)));
        assert_eq!(outbound.follows.as_deref(), Some("256"), "the peer is behind a NAT");
        assert_eq!(
            (outbound.selectors.src.as_slice(), outbound.selectors.dst.as_slice()),
            (["10.2.0.0/24".to_owned()].as_slice(), ["10.1.1.0/24".to_owned(), "10.1.3.0/24".to_owned()].as_slice())
        );
        assert!(outbound.validate().is_ok() && inbound.validate().is_ok());

        // Rekeyed: the new one follows the new one. Another CHILD_SA's isn't its own.
        only_install(&mirror.event(half(0x200, HERE, |_| ())));
        assert_eq!(shown(&settled(&mut mirror, half(0x300, HERE, |sa| sa.reqid = 8))), ["reserve 300", "install 300"]);
        let actions = mirror.event(half(0xA00, THERE, |_| ()));
        assert_eq!(only_install(&actions).follows.as_deref(), Some("512"));
        assert_eq!(shown(&mirror.event(Event::Deleted(id(0x900, THERE)))), ["delete 900"]);
    }

    #[test]
    fn sas_wait_for_their_policies() {
        let mut mirror = mirror();
        // The inbound one not for ever: its packets are held meanwhile.
        assert_eq!(shown(&mirror.event(half(0x100, HERE, |_| ()))), ["reserve 100"]);
        assert!(mirror.event(half(0x900, THERE, |_| ())).is_empty() && mirror.is_unsettled());
        for event in policies([1, 3]) {
            assert!(mirror.event(event).is_empty());
        }
        let actions = mirror.settle();
        assert_eq!(shown(&actions), ["install 100", "install 900"]);
        assert!(matches!(&actions[0], Action::Install { spec, .. } if spec.selectors.src.len() == 2), "{actions:?}");
        assert!(matches!(&actions[1], Action::Install { spec, .. } if spec.follows.is_some()), "{actions:?}");

        let mut mirror = self::mirror();
        assert_eq!(shown(&settled(&mut mirror, half(0x100, HERE, |_| ()))), ["reserve 100", "install 100"]);
        assert!(settled(&mut mirror, half(0x900, THERE, |_| ())).is_empty(), "an open one would take all traffic");
        let all = || policies([1]).into_iter().chain([half(0x100, HERE, |_| ()), half(0x900, THERE, |_| ())]).collect();
        assert!(mirror.resync(all(), &BTreeSet::from([id(0x100, HERE)]), 0).is_empty());
        assert_eq!(shown(&mirror.settle()), ["install 900"], "the event about its policy was lost");

        let mut mirror = self::mirror();
        assert_eq!(shown(&mirror.event(half(0x100, HERE, |_| ()))), ["reserve 100"]);
        assert!(mirror.event(half(0x900, THERE, |_| ())).is_empty());
        assert_eq!(shown(&mirror.event(Event::Flushed)), ["release 100"]);
    }

    #[test]
    fn no_sequence_number_is_used_twice() {
        let mut mirror = mirror();
        policies([1]).into_iter().for_each(|event| drop(mirror.event(event)));
        assert_eq!(
            shown(&mirror.event(half(0x900, THERE, |sa| sa.used = 1))),
            ["rekey 900"],
            "the kernel has sent by it"
        );
        assert_eq!(shown(&mirror.event(half(0xA00, THERE, |_| ()))), ["install a00"]);
        assert_eq!(shown(&mirror.event(Event::Deleted(id(0xA00, THERE)))), ["delete a00"]);
        assert_eq!(shown(&mirror.event(half(0xA00, THERE, |_| ()))), ["rekey a00"], "moved, or put in again");
        // Older than nf-core: of a pair the inbound half is rekeyed.
        let pair =
            || policies([1]).into_iter().chain([half(0x100, HERE, |_| ()), half(0xB00, THERE, |_| ())]).collect();
        let actions = mirror.resync(pair(), &BTreeSet::new(), 100);
        assert_eq!(shown(&actions), ["rekey 100", "leave b00"]);
    }

    #[test]
    fn what_an_outbound_sa_cannot_say_is_left() {
        let mut mirror = mirror();
        policies([1]).into_iter().for_each(|event| drop(mirror.event(event)));
        assert_eq!(shown(&mirror.event(half(0x900, THERE, |sa| sa.bound = true))), ["leave 900"]);
        let own = half(0xA00, THERE, |sa| {
            if let Ok(spec) = &mut sa.spec {
                spec.selectors.dst = vec!["10.9.0.0/16".to_owned()];
            }
        });
        let actions = mirror.event(own);
        assert_eq!(only_install(&actions).selectors.dst, ["10.9.0.0/16"], "its own selectors go first");
    }

    #[test]
    fn policies_that_change_bring_a_new_sa() {
        let mut mirror = mirror();
        policies([1]).into_iter().for_each(|event| drop(mirror.event(event)));
        assert_eq!(shown(&mirror.event(half(0x900, THERE, |_| ()))), ["install 900"]);
        let nf_core = BTreeSet::from([id(0x900, THERE)]);
        let mut compare = |networks: &[u8], used| {
            let sa = half(0x900, THERE, |sa| sa.used = used);
            let kernel = policies(networks.iter().copied()).into_iter().chain([sa]).collect();
            shown(&mirror.resync(kernel, &nf_core, 0))
        };
        assert!(compare(&[1], 0).is_empty());
        assert_eq!(compare(&[1], 5), ["warn 900"], "the kernel sends by it as well");
        assert_eq!(compare(&[1, 3], 6), ["rekey 900"]);
        assert!(compare(&[1, 3], 7).is_empty(), "both were told");
        assert_eq!(compare(&[], 7), ["delete 900", "leave 900"]);
        assert!(compare(&[1], 7).is_empty(), "its sequence numbers are lost");
    }

    #[test]
    fn what_nf_core_cannot_have_is_told_once() {
        let mut mirror = mirror();
        let strange = || sa(plain(id(0x100, HERE), THERE, Err("no".to_owned())), |_| ());
        assert_eq!(shown(&mirror.event(strange())), ["leave 100"]);
        assert!(mirror.event(strange()).is_empty());
        assert!(mirror.resync(vec![strange()], &BTreeSet::new(), 0).is_empty());
        assert!(mirror.event(Event::Deleted(id(0x100, HERE))).is_empty());
        assert_eq!(shown(&settled(&mut mirror, mature(id(0x200, HERE), 1))), ["reserve 200", "install 200"]);
        mirror.refused(id(0x200, HERE));
        assert!(mirror.event(Event::Deleted(id(0x200, HERE))).is_empty(), "nf-core never had it");
    }

    #[test]
    fn an_sa_that_nf_core_ended_is_not_installed_again() {
        let mut mirror = mirror();
        assert_eq!(shown(&settled(&mut mirror, mature(id(0x100, HERE), 150))), ["reserve 100", "install 100"]);
        mirror.ended(id(0x100, HERE));
        assert!(mirror.resync(vec![mature(id(0x100, HERE), 150)], &BTreeSet::new(), 100).is_empty());
        assert!(mirror.event(Event::Expired { id: id(0x100, HERE), hard: true }).is_empty());
        let again = settled(&mut mirror, mature(id(0x100, HERE), 200));
        assert_eq!(shown(&again), ["reserve 100", "install 100"], "the SPI may be used again");
    }

    #[test]
    fn an_sa_older_than_nf_core_is_rekeyed() {
        let mut mirror = mirror();
        let all = || vec![mature(id(0x100, HERE), 50), mature(id(0x200, HERE), 150), larval(0x300)];
        let actions = mirror.resync(all(), &BTreeSet::new(), 100);
        assert_eq!(shown(&actions), ["reserve 300", "rekey 100", "reserve 200"]);
        assert_eq!(shown(&mirror.settle()), ["install 200"]);
        // nf-core was restarted at 200, and has nothing.
        let actions = mirror.resync(all(), &BTreeSet::new(), 200);
        assert_eq!(shown(&actions), ["reserve 300", "rekey 200"]);
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
                let mut actions = match (step, event) {
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
                actions.extend(mirror.settle());
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
