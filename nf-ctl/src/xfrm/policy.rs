//! The kernel's policies: which packets go by which SA.
//!
//! Daemons leave the selectors of a tunnel's SAs open and put the networks into policies, whose templates name the SAs by
//! addresses, mode and reqid, as the kernel itself finds them (`xfrm_tmpl_resolve`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_packet_core::Emitable;
use netlink_packet_xfrm::constants::{
    AF_INET6, XFRM_MODE_TRANSPORT, XFRM_MODE_TUNNEL, XFRM_POLICY_ALLOW, XFRM_POLICY_IN, XFRM_POLICY_OUT,
    XFRM_POLICY_TYPE_MAIN,
};
use netlink_packet_xfrm::{Selector, UserPolicyInfo, UserTemplate, XFRM_SELECTOR_LEN, XfrmAttrs};
use nf_core::sa::spec::{Direction, SelectorSpec};

use super::message::{ESP, address, ends, is_bound};

/// What the kernel finds a policy by: which way its packets go, and its selector.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PolicyId {
    outbound: bool,
    selector: [u8; XFRM_SELECTOR_LEN],
}

impl PolicyId {
    /// None for packets that pass through (`fwd`): their SAs' are those of `in` as well.
    pub(super) fn new(direction: u8, selector: &Selector) -> Option<PolicyId> {
        let outbound = match direction {
            XFRM_POLICY_IN => false,
            XFRM_POLICY_OUT => true,
            _ => return None,
        };
        let mut octets = [0; XFRM_SELECTOR_LEN];
        selector.emit(&mut octets);
        Some(PolicyId { outbound, selector: octets })
    }
}

/// A policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Which.
    pub id: PolicyId,
    /// The SAs that its packets go by; none where they are let pass or dropped, and where they need more than ESP.
    template: Option<Template>,
    /// Its packets, or why nf-core can't tell them.
    flow: Result<Flow, String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Template {
    src: IpAddr,
    dst: IpAddr,
    reqid: u32,
    mode: &'static str,
    /// 0 for any.
    spi: u32,
}

/// What two ends must have in common for a packet to have both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Kind {
    ipv6: bool,
    /// 0 for any.
    protocol: u8,
}

impl Kind {
    fn meets(self, other: Kind) -> bool {
        self.ipv6 == other.ipv6 && (self.protocol == 0 || other.protocol == 0 || self.protocol == other.protocol)
    }
}

/// The packets between two networks, in `[[sa]] selectors`' words.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Flow {
    kind: Kind,
    src: String,
    dst: String,
}

impl Policy {
    /// None for packets that pass through, and for policies of a mark or an xfrm interface, which the kernel asks only of
    /// some packets.
    pub(super) fn new(info: &UserPolicyInfo, attributes: &[XfrmAttrs]) -> Option<Policy> {
        let id = PolicyId::new(info.direction, &info.selector)?;
        if is_bound(attributes) {
            return None;
        }
        let mut template = None;
        for attribute in attributes {
            match attribute {
                XfrmAttrs::PolicyType(kind) if kind.ptype != XFRM_POLICY_TYPE_MAIN => return None,
                XfrmAttrs::Template(templates) if info.action == XFRM_POLICY_ALLOW => {
                    template = match templates.as_slice() {
                        [only] => Template::new(only),
                        _ => None,
                    };
                }
                _ => {}
            }
        }
        let kind = Kind { ipv6: info.selector.family == AF_INET6, protocol: info.selector.proto };
        let any = if kind.ipv6 { "::/0" } else { "0.0.0.0/0" };
        let flow = ends(&info.selector).map(|ends| {
            let [src, dst] = ends.map(|end| end.unwrap_or_else(|| any.to_owned()));
            Flow { kind, src, dst }
        });
        Some(Policy { id, template, flow })
    }
}

impl Template {
    fn new(template: &UserTemplate) -> Option<Template> {
        (template.id.proto == ESP).then_some(())?;
        Some(Template {
            src: address(&template.saddr, template.family)?,
            dst: address(&template.id.daddr, template.family)?,
            reqid: template.reqid,
            mode: match template.mode {
                XFRM_MODE_TUNNEL => "tunnel",
                XFRM_MODE_TRANSPORT => "transport",
                _ => return None,
            },
            spi: template.id.spi,
        })
    }

    fn is_for(&self, sa: &Wanted<'_>) -> bool {
        let is = |own: IpAddr, other| own == other || (own.is_unspecified() && self.mode == "transport");
        self.mode == sa.mode && is(self.src, sa.src) && is(self.dst, sa.dst) && (self.spi == 0 || self.spi == sa.spi)
    }
}

/// The SA whose packets are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) direction: Direction,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) spi: u32,
    pub(super) reqid: u32,
    pub(super) mode: &'a str,
}

/// The packets of an SA's policies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Covered {
    pub(super) selectors: SelectorSpec,
    /// Whether the selectors hold no other packets than the policies, or what is between.
    pub(super) exact: Result<(), String>,
}

/// All policies.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// By their template's reqid, as there may be one for each of thousands of tunnels.
    by_reqid: BTreeMap<u32, BTreeMap<PolicyId, Policy>>,
    reqids: BTreeMap<PolicyId, u32>,
}

impl Policies {
    /// Puts a policy in, in place of one with the same selector.
    pub(super) fn insert(&mut self, policy: Policy) {
        self.remove(&policy.id);
        if let Some(template) = &policy.template {
            self.reqids.insert(policy.id.clone(), template.reqid);
            self.by_reqid.entry(template.reqid).or_default().insert(policy.id.clone(), policy);
        }
    }

    pub(super) fn remove(&mut self, id: &PolicyId) {
        if let Some(reqid) = self.reqids.remove(id)
            && let Some(policies) = self.by_reqid.get_mut(&reqid)
        {
            policies.remove(id);
            if policies.is_empty() {
                self.by_reqid.remove(&reqid);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Policies::default();
    }

    /// The packets that policies want to go by an SA; none if there is no such policy.
    pub(super) fn of(&self, sa: Wanted<'_>) -> Option<Covered> {
        let (mut flows, mut exact) = (BTreeSet::new(), Ok(()));
        let any = (sa.reqid != 0).then(|| self.by_reqid.get(&0)).flatten();
        for policy in self.by_reqid.get(&sa.reqid).into_iter().chain(any).flat_map(BTreeMap::values) {
            let same_way = policy.id.outbound == (sa.direction == Direction::Out);
            if !same_way || !policy.template.as_ref().is_some_and(|template| template.is_for(&sa)) {
                continue;
            }
            match &policy.flow {
                Ok(flow) => drop(flows.insert(flow)),
                Err(why) => exact = Err(why.clone()),
            }
        }
        if flows.is_empty() && exact.is_ok() {
            return None;
        }
        let ends = |end: fn(&Flow) -> &String| flows.iter().map(|flow| (flow.kind, end(flow))).collect::<BTreeSet<_>>();
        let (src, dst) = (ends(|flow| &flow.src), ends(|flow| &flow.dst));
        let possible =
            src.iter().map(|(one, _)| dst.iter().filter(|(other, _)| one.meets(*other)).count()).sum::<usize>();
        if exact.is_ok() && possible != flows.len() {
            exact = Err(format!(
                "its {} policies aren't all those from {} networks to {}, and nf-core's SAs have a list of each; negotiate a \
                 CHILD_SA for each pair of networks",
                flows.len(),
                src.len(),
                dst.len()
            ));
        }
        let list = |ends: BTreeSet<(Kind, &String)>| ends.into_iter().map(|(_, end)| end.clone()).collect();
        Some(Covered { selectors: SelectorSpec { src: list(src), dst: list(dst) }, exact })
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Event, read};
    use super::*;

    // What Linux 6.18 sent to the group XFRMNLGRP_POLICY upon iproute2's commands.

    /// `ip xfrm policy add src 10.2.0.0/24 dst 10.1.0.0/24 dir out tmpl src 10.10.1.2 dst 10.1.1.1 proto esp mode tunnel reqid 7`
    const ADDED: &str = "\
        080100001300000000000000000000000a0100000000000000000000000000000a02000000000000000000000000000000000000\
        0000000002001818000000000000000000000000ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
        000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000e292076b\
        00000000000000000000000000000000010000000100000000000000440005000a01010100000000000000000000000000000000\
        32000000020000000a0a01020000000000000000000000000700000001000000ffffffffffffffffffffffff0a00100000000000\
        00000000";
    /// The same by `ip xfrm policy update`, with reqid 8.
    const UPDATED: &str = "\
        080100001900000000000000000000000a0100000000000000000000000000000a02000000000000000000000000000000000000\
        0000000002001818000000000000000000000000ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
        000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000e392076b\
        00000000000000000000000000000000010000000100000000000000440005000a01010100000000000000000000000000000000\
        32000000020000000a0a01020000000000000000000000000800000001000000ffffffffffffffffffffffff0a00100000000000\
        00000000";
    /// From 10.1.0.0/24 to TCP port 80 of 10.2.0.0/24, `dir in`, and the template the other way round.
    const INBOUND: &str = "\
        080100001300000000000000000000000a0200000000000000000000000000000a0100000000000000000000000000000050ffff\
        0000000002001818060000000000000000000000ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
        000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000e492076b\
        00000000000000000000000000000000080000000000000000000000440005000a0a010200000000000000000000000000000000\
        32000000020000000a0101010000000000000000000000000700000001000000ffffffffffffffffffffffff0a00100000000000\
        00000000";
    /// `action block`.
    const BLOCK: &str = "\
        c40000001300000000000000000000000a0200000000000000000000000000000a03000000000000000000000000000000000000\
        0000000002001818000000000000000000000000ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
        000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000e592076b\
        000000000000000000000000000000001100000001010000000000000a0010000000000000000000";
    /// `ip xfrm policy delete` of the first.
    const DELETED: &str = "\
        4c0100001400000000000000000000000a0100000000000000000000000000000a02000000000000000000000000000000000000\
        00000000020018180000000000000000000000000000000001000000ac0007000a0100000000000000000000000000000a020000\
        000000000000000000000000000000000000000002001818000000000000000000000000ffffffffffffffffffffffffffffffff\
        ffffffffffffffffffffffffffffffff000000000000000000000000000000000000000000000000000000000000000000000000\
        000000000000000000000000e392076b00000000000000000000000000000000010000000100000000000000440005000a010101\
        0000000000000000000000000000000032000000020000000a0a01020000000000000000000000000800000001000000ffffffff\
        ffffffffffffffff0a0010000000000000000000";
    /// From 10.1.0.0/24 to 10.2.0.0/24, `dir in priority 5`.
    const BY_INDEX: &str = "\
        080100001300000000000000000000000a0200000000000000000000000000000a01000000000000000000000000000000000000\
        0000000002001818000000000000000000000000ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
        000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000e792076b\
        00000000000000000000000005000000180000000000000000000000440005000a0a010200000000000000000000000000000000\
        32000000020000000a0101010000000000000000000000000700000001000000ffffffffffffffffffffffff0a00100000000000\
        00000000";
    /// `ip xfrm policy delete index 24 dir in`, of that.
    const DELETED_BY_INDEX: &str = "\
        4c010000140000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
        00000000000000000000000000000000000000001800000000000000ac0007000a0200000000000000000000000000000a010000\
        000000000000000000000000000000000000000002001818000000000000000000000000ffffffffffffffffffffffffffffffff\
        ffffffffffffffffffffffffffffffff000000000000000000000000000000000000000000000000000000000000000000000000\
        000000000000000000000000e792076b00000000000000000000000005000000180000000000000000000000440005000a0a0102\
        0000000000000000000000000000000032000000020000000a0101010000000000000000000000000700000001000000ffffffff\
        ffffffffffffffff0a0010000000000000000000";
    /// `ip xfrm policy flush`.
    const FLUSHED: &str = "\
        1c0000001d00000000000000000000000a0010000000000000000000";

    fn event(message: &str) -> Event {
        let mut events = read(&hex::decode(message).unwrap()).unwrap();
        assert_eq!(events.len(), 1);
        events.remove(0)
    }

    /// The policies after these messages.
    fn after(messages: &[&str]) -> Policies {
        let mut policies = Policies::default();
        for message in messages {
            match event(message) {
                Event::Policy(policy) => policies.insert(*policy),
                Event::PolicyDeleted(id) => policies.remove(&id),
                Event::PoliciesFlushed => policies.clear(),
                other => panic!("{other:?}"),
            }
        }
        policies
    }

    fn wanted(direction: Direction, reqid: u32) -> Wanted<'static> {
        let (here, there) = ("10.10.1.2".parse().unwrap(), "10.1.1.1".parse().unwrap());
        let (src, dst) = if direction == Direction::Out { (here, there) } else { (there, here) };
        Wanted { direction, src, dst, spi: 0x100, reqid, mode: "tunnel" }
    }

    fn selectors(src: &[&str], dst: &[&str]) -> SelectorSpec {
        let list = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        SelectorSpec { src: list(src), dst: list(dst) }
    }

    #[test]
    fn the_kernels_policies_name_sas_and_their_packets() {
        let policies = after(&[ADDED, INBOUND, BLOCK]);
        let out = policies.of(wanted(Direction::Out, 7)).unwrap();
        assert_eq!((out.selectors, out.exact), (selectors(&["10.2.0.0/24"], &["10.1.0.0/24"]), Ok(())));
        let inbound = policies.of(wanted(Direction::In, 7)).unwrap();
        assert_eq!(inbound.selectors, selectors(&["10.1.0.0/24[tcp]"], &["10.2.0.0/24[tcp/80]"]));
        assert_eq!(policies.of(wanted(Direction::Out, 8)), None);
        let elsewhere = Wanted { dst: "10.1.1.2".parse().unwrap(), ..wanted(Direction::Out, 7) };
        assert_eq!(policies.of(elsewhere), None);
        assert_eq!(policies.of(Wanted { mode: "transport", ..wanted(Direction::Out, 7) }), None);
    }

    #[test]
    fn policies_change_and_go() {
        let is_there = |messages: &[&str], direction, reqid| after(messages).of(wanted(direction, reqid)).is_some();
        assert!(is_there(&[ADDED, UPDATED], Direction::Out, 8));
        assert!(!is_there(&[ADDED, UPDATED], Direction::Out, 7), "it has another template now");
        assert!(!is_there(&[ADDED, UPDATED, DELETED], Direction::Out, 8));
        assert!(is_there(&[BY_INDEX], Direction::In, 7));
        assert!(!is_there(&[BY_INDEX, DELETED_BY_INDEX], Direction::In, 7));
        assert!(!is_there(&[ADDED, FLUSHED], Direction::Out, 7));
    }

    fn policy(src: &str, dst: &str, change: impl FnOnce(&mut UserPolicyInfo, &mut Vec<XfrmAttrs>)) -> Option<Policy> {
        use netlink_packet_xfrm::constants::AF_INET;
        use netlink_packet_xfrm::{Address, Id};
        let network = |text: &str| {
            let (address, length) = text.split_once('/').unwrap();
            (Address::from_ip(&address.parse().unwrap()), length.parse().unwrap())
        };
        let family = if src.contains(':') { AF_INET6 } else { AF_INET };
        let ((saddr, prefixlen_s), (daddr, prefixlen_d)) = (network(src), network(dst));
        let mut info = UserPolicyInfo {
            selector: Selector { family, saddr, prefixlen_s, daddr, prefixlen_d, ..Selector::default() },
            direction: XFRM_POLICY_OUT,
            ..UserPolicyInfo::default()
        };
        let template = UserTemplate {
            id: Id { daddr: Address::from_ip(&"10.1.1.1".parse().unwrap()), proto: ESP, ..Id::default() },
            saddr: Address::from_ip(&"10.10.1.2".parse().unwrap()),
            family: AF_INET,
            reqid: 7,
            mode: XFRM_MODE_TUNNEL,
            ..UserTemplate::default()
        };
        let mut attributes = vec![XfrmAttrs::Template(vec![template])];
        change(&mut info, &mut attributes);
        Policy::new(&info, &attributes)
    }

    fn covered(all: impl IntoIterator<Item = Option<Policy>>) -> Covered {
        let mut policies = Policies::default();
        all.into_iter().for_each(|policy| policies.insert(policy.unwrap()));
        policies.of(wanted(Direction::Out, 7)).unwrap()
    }

    #[test]
    fn lists_hold_what_all_pairs_of_networks_are() {
        let plain = |src, dst| policy(src, dst, |_, _| ());
        let all = covered([
            plain("10.2.0.0/24", "10.1.0.0/24"),
            plain("10.2.0.0/24", "10.3.0.0/24"),
            plain("2001:db8::/32", "::/0"),
        ]);
        let wanted = selectors(&["10.2.0.0/24", "2001:db8::/32"], &["10.1.0.0/24", "10.3.0.0/24", "::/0"]);
        assert_eq!((all.selectors, all.exact), (wanted, Ok(())));
        let half = covered([plain("10.2.0.0/24", "10.1.0.0/24"), plain("10.4.0.0/24", "10.3.0.0/24")]);
        assert!(half.exact.unwrap_err().contains("2 policies aren't all those from 2 networks to 2"));
        let tcp = |src, dst| policy(src, dst, |info, _| info.selector.proto = 6);
        let protocols = covered([plain("2001:db8::/32", "::/0"), tcp("10.2.0.0/24", "10.1.0.0/24")]);
        assert_eq!(protocols.exact, Ok(()));
        let ports = covered([policy("10.2.0.0/24", "10.1.0.0/24", |info, _| info.selector.dport_mask = 0xFFFF)]);
        assert!(ports.exact.unwrap_err().contains("of protocol 0"));
    }

    #[test]
    fn what_the_kernel_asks_of_some_packets_only_is_left_out() {
        let with = |attribute: XfrmAttrs| policy("10.2.0.0/24", "10.1.0.0/24", |_, all| all.push(attribute));
        assert!(with(XfrmAttrs::IfId(5)).is_none());
        assert!(with(XfrmAttrs::Mark(netlink_packet_xfrm::Mark { value: 1, mask: 0xFF })).is_none());
        assert!(with(XfrmAttrs::IfId(0)).is_some());
        let two = policy("10.2.0.0/24", "10.1.0.0/24", |_, all| {
            if let [XfrmAttrs::Template(templates)] = all.as_mut_slice() {
                templates.extend(templates.clone());
            }
        });
        assert!(two.unwrap().template.is_none(), "IPComp and ESP");
    }
}
