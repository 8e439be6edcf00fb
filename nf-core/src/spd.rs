//! What becomes of a packet that leaves the protected network: the outbound half of the security policy database
//! (RFC 4301 4.4.1), as the cores read it.
//!
//! An entry is for packets from one network to another. Of the entries that a packet fits, the one with the longest
//! destination prefix counts, and of those the one with the longest source prefix. No two entries have the same networks. Most
//! hold one answer for all packets: which policy or SA that is, is settled when the table is made. Where selectors name protocols
//! and ports there are several, of which the one for the fewest counts.
//!
//! The entries are in one hash table. A look-up asks it once for each pair of prefix lengths that occurs, the longest
//! first: tables of thousands of tunnels have few such pairs.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;

use crate::hash::{bits, mix};
use crate::policy::{Selector, Selectors, Upper};
use crate::prefix::Prefix;
use crate::sa::outbound::OutboundSa;
use crate::sa::spec::{FieldError, names};
use crate::types::Spi;

names! {
    /// What is done with packets that a policy is for (RFC 4301 4.4.1).
    PolicyAction "action" {
        /// They go by an SA, or not at all.
        Protect = "protect",
        /// They leave in clear.
        Bypass = "bypass",
        /// They are dropped.
        Discard = "discard",
    }
}

/// A policy as the operator wrote it, checked: a `[[policy]]` table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// The packets.
    pub selectors: Selectors,
    /// What is done with them.
    pub action: PolicyAction,
    /// Whose SAs protect them; without a name anybody's.
    pub peer: Option<String>,
}

/// The number of a [`Policy`] in the order in which they are written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PolicyId(pub u32);

/// What becomes of a packet.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It goes by this SA.
    Protect(Arc<OutboundSa>),
    /// It is to be protected, and there is no SA.
    NoSa(PolicyId),
    /// It leaves in clear.
    Bypass,
    /// It is dropped.
    Discard,
}

/// The networks of an entry, of one IP version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    src: Prefix,
    dst: Prefix,
}

/// The lengths of an entry's prefixes. Ordered by how much they say, least first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Lengths {
    dst: u8,
    src: u8,
}

struct Entry {
    key: Key,
    /// The first one that a packet fits counts.
    answers: Vec<Answer>,
}

struct Answer {
    flows: Flows,
    verdict: Verdict,
    rank: Rank,
}

/// Which of the packets between two networks: all, or those of a protocol and of ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Flows {
    src: Upper,
    dst: Upper,
}

impl Flows {
    const ALL: Flows = Flows { src: Upper::ANY, dst: Upper::ANY };

    /// None where no packet has both protocols.
    fn new(src: Upper, dst: Upper) -> Option<Flows> {
        let (one, other) = (src.protocol(), dst.protocol());
        (one == 0 || other == 0 || one == other).then_some(Flows { src, dst })
    }

    fn fits(self, flow: Flow) -> bool {
        self.src.fits(flow.protocol, flow.ports.map(|(src, _)| src))
            && self.dst.fits(flow.protocol, flow.ports.map(|(_, dst)| dst))
    }

    /// The narrower, the smaller: those of a protocol before those of any, then by ports.
    fn width(self) -> (bool, u64) {
        (self.src.protocol() == 0 && self.dst.protocol() == 0, self.src.ports() * self.dst.ports())
    }
}

/// What is asked of a packet beside its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow {
    /// Its upper-layer protocol.
    pub protocol: u8,
    /// Its ports, or what selectors take for them ([`Inner::selector_ports`](crate::wire::Inner::selector_ports)).
    pub ports: Option<(u16, u16)>,
}

/// Which of two entries with the same networks and flows counts: the greater one. Policies that forbid or permit go before all
/// else, the first written first; an SA goes before a policy that asks for one, the newest first, so that a rekeyed one
/// takes over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Rank {
    Asked(std::cmp::Reverse<PolicyId>),
    Sa(u32),
    Decided(std::cmp::Reverse<PolicyId>),
}

/// The table. Read-only: made by the control thread, swapped into the cores as a whole.
pub struct Spd {
    entries: HashTable<Entry>,
    /// The lengths that occur, of IPv4 and of IPv6, the longest first.
    lengths: [Vec<Lengths>; 2],
    /// The SAs by SPI and the peer's address.
    sas: HashTable<Arc<OutboundSa>>,
    /// Whether protocols and ports count.
    by_flow: bool,
    seed: u64,
}

impl Default for Spd {
    fn default() -> Self {
        Spd::new(&[], [])
    }
}

impl Spd {
    /// The table of these policies, in the order in which they are written, and outbound SAs. An SA is an entry by
    /// itself, for its selectors; and where a policy asks for an SA, it is taken if its selectors cover the policy's.
    pub fn new<'s>(policies: &[Policy], sas: impl IntoIterator<Item = &'s Arc<OutboundSa>>) -> Spd {
        let mut spd = Spd {
            entries: HashTable::new(),
            lengths: [Vec::new(), Vec::new()],
            sas: HashTable::new(),
            by_flow: false,
            seed: RandomState::new().hash_one(0),
        };
        for (number, policy) in policies.iter().enumerate() {
            let id = PolicyId(number as u32);
            let (verdict, rank) = match policy.action {
                PolicyAction::Protect => (Verdict::NoSa(id), Rank::Asked(std::cmp::Reverse(id))),
                PolicyAction::Bypass => (Verdict::Bypass, Rank::Decided(std::cmp::Reverse(id))),
                PolicyAction::Discard => (Verdict::Discard, Rank::Decided(std::cmp::Reverse(id))),
            };
            keys(&policy.selectors, |key, flows| spd.put(key, flows, verdict.clone(), rank));
        }
        for sa in sas {
            spd.sas.insert_unique(hash_sa(spd.seed, sa.key.spi, sa.to), Arc::clone(sa), |sa| {
                hash_sa(spd.seed, sa.key.spi, sa.to)
            });
            let entry =
                |spd: &mut Spd, key, flows| spd.put(key, flows, Verdict::Protect(Arc::clone(sa)), Rank::Sa(sa.id));
            keys(&sa.selectors, |key, flows| entry(&mut spd, key, flows));
            for policy in policies {
                let whose = policy.peer.is_none() || policy.peer == sa.peer;
                if policy.action == PolicyAction::Protect && whose {
                    keys(&policy.selectors, |key, flows| {
                        if covers(&sa.selectors, key, flows) {
                            entry(&mut spd, key, flows);
                        }
                    });
                }
            }
        }
        for lengths in &mut spd.lengths {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
        }
        spd
    }

    fn put(&mut self, key: Key, flows: Flows, verdict: Verdict, rank: Rank) {
        let seed = self.seed;
        self.by_flow |= flows != Flows::ALL;
        let hash = hash(seed, key);
        match self.entries.entry(hash, |entry| entry.key == key, |entry| self::hash(seed, entry.key)) {
            Place::Occupied(mut place) => {
                let answers = &mut place.get_mut().answers;
                match answers.iter_mut().find(|answer| answer.flows == flows) {
                    Some(answer) if rank > answer.rank => (answer.verdict, answer.rank) = (verdict, rank),
                    Some(_) => return,
                    None => answers.push(Answer { flows, verdict, rank }),
                }
                answers.sort_by_key(|answer| (answer.flows.width(), std::cmp::Reverse(answer.rank)));
            }
            Place::Vacant(place) => {
                place.insert(Entry { key, answers: vec![Answer { flows, verdict, rank }] });
            }
        }
        let lengths = Lengths { dst: key.dst.length(), src: key.src.length() };
        if let Some(known) = self.lengths.get_mut(usize::from(key.dst.address().is_ipv6()))
            && !known.contains(&lengths)
        {
            known.push(lengths);
        }
    }

    /// Whether a packet's protocol and ports count, so that [`Spd::look_up`] must be told them.
    #[inline]
    pub fn is_by_flow(&self) -> bool {
        self.by_flow
    }

    /// What becomes of a packet; none where nothing is said of it.
    #[inline]
    pub fn look_up(&self, src: IpAddr, dst: IpAddr, flow: Flow) -> Option<&Verdict> {
        let lengths = self.lengths.get(usize::from(dst.is_ipv6()))?;
        lengths.iter().find_map(|lengths| {
            let key = Key { src: Prefix::around(src, lengths.src), dst: Prefix::around(dst, lengths.dst) };
            let entry = self.entries.find(hash(self.seed, key), |entry| entry.key == key)?;
            let fits = |answer: &&Answer| answer.flows == Flows::ALL || answer.flows.fits(flow);
            entry.answers.iter().find(fits).map(|answer| &answer.verdict)
        })
    }

    /// The SA that sends packets with that SPI from one address to another.
    pub fn sa(&self, spi: Spi, src: IpAddr, dst: IpAddr) -> Option<&OutboundSa> {
        let is_it = |sa: &Arc<OutboundSa>| (sa.key.spi, sa.key.src, sa.to) == (spi, src, dst);
        self.sas.find(hash_sa(self.seed, spi, dst), is_it).map(|sa| &**sa)
    }

    /// Whether nothing is said of any packet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

/// The networks and flows of each entry that selectors make: an empty list stands for anything of either IP version.
fn keys(selectors: &Selectors, mut each: impl FnMut(Key, Flows)) {
    for is_ipv4 in [true, false] {
        let any = [Prefix::any(is_ipv4).into()];
        let of = |list| of_version(list, &any, is_ipv4);
        for src in of(&selectors.src) {
            for dst in of(&selectors.dst) {
                if let Some(flows) = Flows::new(src.upper, dst.upper) {
                    each(Key { src: src.network, dst: dst.network }, flows);
                }
            }
        }
    }
}

fn of_version<'l>(list: &'l [Selector], any: &'l [Selector], is_ipv4: bool) -> impl Iterator<Item = Selector> + 'l {
    let list = if list.is_empty() { any } else { list };
    list.iter().copied().filter(move |selector| selector.network.address().is_ipv4() == is_ipv4)
}

/// Whether all packets of these flows between two networks fit selectors.
fn covers(selectors: &Selectors, key: Key, flows: Flows) -> bool {
    // A protocol that one end names holds for both.
    let both = |upper: Upper, other: Upper| match upper.protocol() {
        0 => Upper::new(other.protocol(), 0..=u16::MAX).unwrap_or(upper),
        _ => upper,
    };
    let within = |list: &[Selector], network, upper| {
        list.is_empty() || list.iter().any(|selector| selector.network.covers(network) && selector.upper.covers(upper))
    };
    within(&selectors.src, key.src, both(flows.src, flows.dst))
        && within(&selectors.dst, key.dst, both(flows.dst, flows.src))
}

#[inline]
fn hash(seed: u64, key: Key) -> u64 {
    let lengths = u128::from(key.dst.length()) << 8 | u128::from(key.src.length());
    [lengths, bits(key.dst.address()), bits(key.src.address())].into_iter().fold(seed, mix)
}

fn hash_sa(seed: u64, spi: Spi, to: IpAddr) -> u64 {
    [u128::from(spi.0), bits(to)].into_iter().fold(seed, mix)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::Portable;
    use crate::sa::spec::SaSpec;

    fn nets(list: &[&str]) -> Box<[Selector]> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn policy(src: &[&str], dst: &[&str], action: PolicyAction, peer: Option<&str>) -> Policy {
        Policy { selectors: Selectors { src: nets(src), dst: nets(dst) }, action, peer: peer.map(str::to_owned) }
    }

    fn sa(id: u32, src: &[&str], dst: &[&str], peer: &str) -> Arc<OutboundSa> {
        let spec: SaSpec = serde_json::from_value(serde_json::json!({
            "spi": 0x1000 + id, "direction": "out", "src": "10.10.1.2", "dst": "10.1.1.1", "mode": "tunnel",
            "alg": "aes-gcm-16", "key": "00".repeat(20), "peer": peer, "selectors": {"src": src, "dst": dst},
        }))
        .unwrap();
        Arc::new(OutboundSa::new(&spec.validate().unwrap(), id, &Portable, 1).unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// What becomes of a packet, in a word.
    fn verdict(spd: &Spd, src: &str, dst: &str) -> String {
        verdict_of(spd, src, dst, Flow::default())
    }

    fn verdict_of(spd: &Spd, src: &str, dst: &str, flow: Flow) -> String {
        match spd.look_up(ip(src), ip(dst), flow) {
            None => "none".to_owned(),
            Some(Verdict::Protect(sa)) => format!("sa {}", sa.id),
            Some(Verdict::NoSa(PolicyId(id))) => format!("no sa {id}"),
            Some(Verdict::Bypass) => "bypass".to_owned(),
            Some(Verdict::Discard) => "discard".to_owned(),
        }
    }

    #[test]
    fn the_longest_destination_counts_then_the_longest_source() {
        use PolicyAction::{Bypass, Discard};
        let spd = Spd::new(
            &[
                policy(&[], &["10.2.0.0/16"], Discard, None),
                policy(&["10.1.1.0/24"], &["10.2.0.0/16"], Bypass, None),
                policy(&["10.1.1.1"], &[], Discard, None),
                policy(&[], &["10.2.3.4"], Bypass, None),
                policy(&[], &["2001:db8::/32"], Bypass, None),
            ],
            [],
        );
        assert_eq!(verdict(&spd, "10.9.9.9", "10.2.0.1"), "discard");
        assert_eq!(verdict(&spd, "10.1.1.9", "10.2.0.1"), "bypass");
        assert_eq!(verdict(&spd, "10.1.1.1", "10.2.0.1"), "bypass", "the destination goes before the source");
        assert_eq!(verdict(&spd, "10.1.1.1", "10.3.0.1"), "discard");
        assert_eq!(verdict(&spd, "10.9.9.9", "10.2.3.4"), "bypass");
        assert_eq!(verdict(&spd, "10.9.9.9", "10.3.0.1"), "none");
        assert_eq!(verdict(&spd, "2001:db9::1", "2001:db8::1"), "bypass");
        assert_eq!(verdict(&spd, "2001:db9::1", "2001:db9::2"), "none");
    }

    #[test]
    fn of_equal_policies_the_first_written_counts() {
        use PolicyAction::{Bypass, Discard, Protect};
        let any = |action| policy(&[], &[], action, None);
        for (policies, expected) in [
            ([any(Bypass), any(Discard)], "bypass"),
            ([any(Discard), any(Bypass)], "discard"),
            ([any(Protect), any(Bypass)], "bypass"),
            ([any(Protect), any(Protect)], "no sa 0"),
        ] {
            for (src, dst) in [("10.1.1.1", "10.2.2.2"), ("::1", "::2")] {
                assert_eq!(verdict(&Spd::new(&policies, []), src, dst), expected);
            }
        }
    }

    #[test]
    fn an_sa_is_an_entry_and_the_newest_takes_over() {
        let sas = [
            sa(1, &["172.16.0.0/16"], &["192.168.0.0/16"], "branch"),
            sa(2, &["172.16.0.0/16"], &["192.168.0.0/16"], "branch"),
            sa(3, &[], &["192.168.7.0/24"], "other"),
        ];
        let spd = Spd::new(&[], &sas);
        assert_eq!(verdict(&spd, "172.16.0.1", "192.168.1.1"), "sa 2");
        assert_eq!(verdict(&spd, "172.16.0.1", "192.168.7.1"), "sa 3");
        assert_eq!(verdict(&spd, "172.17.0.1", "192.168.1.1"), "none");
        let without = Spd::new(&[], &sas[..1]);
        assert_eq!(verdict(&without, "172.16.0.1", "192.168.1.1"), "sa 1");
    }

    #[test]
    fn a_policy_that_protects_takes_an_sa_that_covers_it() {
        use PolicyAction::{Discard, Protect};
        let policies = [
            policy(&["172.16.0.0/16"], &["192.168.0.0/16"], Protect, Some("branch")),
            policy(&["172.16.9.0/24"], &["192.168.0.0/16"], Discard, None),
        ];
        let at = ("172.16.0.1", "192.168.1.1");
        let spd = |sas: &[Arc<OutboundSa>]| Spd::new(&policies, sas);
        assert_eq!(verdict(&spd(&[]), at.0, at.1), "no sa 0");
        assert_eq!(verdict(&spd(&[sa(1, &[], &[], "branch")]), at.0, at.1), "sa 1");
        assert_eq!(verdict(&spd(&[sa(1, &[], &[], "other")]), at.0, at.1), "no sa 0", "somebody else's");
        let narrow = spd(&[sa(1, &[], &["192.168.1.0/24"], "branch")]);
        assert_eq!(verdict(&narrow, at.0, at.1), "sa 1");
        assert_eq!(verdict(&narrow, at.0, "192.168.2.1"), "no sa 0", "the SA doesn't reach that far");
        let wide = spd(&[sa(1, &["172.16.9.0/24"], &["192.168.0.0/16"], "branch")]);
        assert_eq!(verdict(&wide, "172.16.9.1", at.1), "discard", "no peer overrules the operator");
    }

    #[test]
    fn of_the_same_networks_the_fewest_flows_count() {
        use PolicyAction::{Bypass, Discard, Protect};
        let (tcp, udp) =
            (|port| Flow { protocol: 6, ports: Some((9, port)) }, Flow { protocol: 17, ports: Some((9, 53)) });
        let fragment = Flow { protocol: 6, ports: None };
        let policies = [
            policy(&[], &["10.2.0.0/16"], Discard, None),
            policy(&[], &["10.2.0.0/16[tcp]"], Bypass, None),
            policy(&[], &["10.2.0.0/16[tcp/443]"], Protect, Some("branch")),
            policy(&["10.9.0.0/16[udp]"], &["10.2.3.0/24"], Bypass, None),
        ];
        let at = |spd: &Spd, dst, flow| verdict_of(spd, "10.9.9.9", dst, flow);
        let spd = Spd::new(&policies, []);
        assert!(spd.is_by_flow() && !Spd::new(&policies[..1], []).is_by_flow());
        assert_eq!(at(&spd, "10.2.0.1", udp), "discard");
        assert_eq!(at(&spd, "10.2.0.1", tcp(80)), "bypass");
        assert_eq!(at(&spd, "10.2.0.1", tcp(443)), "no sa 2");
        assert_eq!(at(&spd, "10.2.0.1", fragment), "bypass", "it shows no port");
        assert_eq!(at(&spd, "10.2.3.1", udp), "bypass");
        assert_eq!(at(&spd, "10.2.3.1", tcp(443)), "no sa 2", "the longer prefix is for others");
        for (selector, expected) in [
            ("10.2.0.0/16", "sa 7"),
            ("10.2.0.0/16[tcp]", "sa 7"),
            ("10.2.0.0/16[tcp/400-500]", "sa 7"),
            ("10.2.0.0/16[tcp/400-442]", "no sa 2"),
            ("10.2.0.0/16[udp]", "no sa 2"),
        ] {
            let spd = Spd::new(&policies, &[sa(7, &[], &[selector], "branch")]);
            assert_eq!(at(&spd, "10.2.0.1", tcp(443)), expected, "{selector}");
        }
    }

    proptest! {
        /// Against the definition: of all entries that the packet fits, the most specific one.
        #[test]
        fn the_table_agrees_with_its_definition(
            rules in prop::collection::vec((0u32..256, 24u8..=32, 0u32..256, 24u8..=32, any::<bool>()), 0..40),
            packets in prop::collection::vec((0u32..256, 0u32..256), 50),
        ) {
            let net = |low: u32, len| Prefix::around(IpAddr::from((0x0A00_0000 | low).to_be_bytes()), len);
            let policies: Vec<Policy> = rules
                .iter()
                .map(|(src, src_len, dst, dst_len, bypass)| Policy {
                    selectors: Selectors {
                        src: [net(*src, *src_len).into()].into(),
                        dst: [net(*dst, *dst_len).into()].into(),
                    },
                    action: if *bypass { PolicyAction::Bypass } else { PolicyAction::Discard },
                    peer: None,
                })
                .collect();
            let spd = Spd::new(&policies, []);
            for (src, dst) in packets {
                let (src, dst) = (net(src, 32).address(), net(dst, 32).address());
                let fits = |policy: &&Policy| {
                    policy.selectors.src[0].network.contains(src) && policy.selectors.dst[0].network.contains(dst)
                };
                // The first of the greatest: `max_by_key` gives the last, hence the reversal.
                let expected = policies.iter().rev().filter(fits).max_by_key(|policy| {
                    (policy.selectors.dst[0].network.length(), policy.selectors.src[0].network.length())
                });
                let got = match spd.look_up(src, dst, Flow::default()) {
                    Some(Verdict::Bypass) => Some(PolicyAction::Bypass),
                    Some(Verdict::Discard) => Some(PolicyAction::Discard),
                    _ => None,
                };
                prop_assert_eq!(got, expected.map(|policy| policy.action));
            }
        }
    }
}
