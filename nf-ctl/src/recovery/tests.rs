//! The table of docs/recovery.md row by row, and what holds whatever happens.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nf_core::config::PeerKind;
use nf_core::types::Spi;
use proptest::prelude::*;

use super::*;

const OURS: &str = "192.0.2.1";
const PEER: &str = "198.51.100.1";
const LIMITS: Limits = Limits {
    budget_per_min: 600,
    budget_burst: 200,
    back_off_first: Duration::from_secs(1),
    back_off_longest: Duration::from_secs(60),
    hint_interval: Duration::from_secs(10),
    grace: Duration::from_secs(10),
    fresh: Duration::from_secs(1),
};

const STATIC: [PeerKind; 4] = [PeerKind::StaticMap, PeerKind::Svti, PeerKind::GreP2p, PeerKind::MgreStatic];
const DYNAMIC: [PeerKind; 2] = [PeerKind::DynamicMap, PeerKind::MgreDynamic];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn from(src: &str, spi: u32) -> Unknown {
    Unknown { spi: Spi(spi), src: ip(src), dst: ip(OURS), udp_ports: None }
}

/// A peer of that kind.
fn rule(kind: PeerKind) -> PeerRule {
    rule_of(kind, if kind.may_initiate() { PEER } else { "198.51.100.0/24" })
}

/// A peer of that kind with that address.
fn rule_of(kind: PeerKind, address: &str) -> PeerRule {
    let address = Some(address.parse().unwrap());
    PeerRule { place: 0, kind, address, local_address: None, keep_up: false, by_daemon: false }
}

fn policy(peers: Vec<PeerRule>, invalid_spi_recovery: bool) -> Policy {
    let placed = peers.into_iter().enumerate();
    let peers = placed.map(|(place, rule)| (PeerId(place), PeerRule { place, ..rule })).collect();
    Policy { invalid_spi_recovery, limits: LIMITS, peers }
}

/// An engine with a peer, and its time.
struct Bench {
    engine: Engine,
    now: Instant,
}

impl Bench {
    fn new(kind: PeerKind, recovery: bool) -> Bench {
        Bench::with(vec![rule(kind)], recovery)
    }

    fn with(peers: Vec<PeerRule>, invalid_spi_recovery: bool) -> Bench {
        let now = Instant::now();
        Bench { engine: Engine::new(now, policy(peers, invalid_spi_recovery)), now }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn site(&self) -> Site {
        self.engine.policy().site(PeerId(0), ip(PEER), None)
    }

    /// An IKE SA with a CHILD_SA, established long ago.
    fn established(&mut self, ike: u64, child: u32) {
        self.engine.ike_up(self.now, IkeId(ike), PeerId(0), SocketAddr::new(ip(PEER), 500));
        self.engine.child_up(IkeId(ike), Spi(child));
        self.pass(100);
    }

    fn invalid(&mut self, spi: u32) -> Vec<Action> {
        self.engine.invalid_spi(self.now, from(PEER, spi));
        self.actions()
    }

    fn outcome(&mut self, outcome: Outcome) -> Vec<Action> {
        let site = self.site();
        self.engine.outcome(self.now, site, outcome, 1);
        self.actions()
    }

    fn done(&mut self) -> Vec<Action> {
        self.outcome(Outcome::Done)
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.engine.poll_action()).collect()
    }

    fn last(&self) -> String {
        let last = self.engine.journal().entries().next_back().unwrap();
        format!("{}: {}", last.verdict.action(), last.verdict)
    }
}

fn check(site: Site, ike: u64) -> Vec<Action> {
    vec![Action::CheckLiveness { site, ike: IkeId(ike) }]
}

fn delete(site: Site, ike: u64, spis: &[u32]) -> Vec<Action> {
    vec![Action::Delete { site, ike: IkeId(ike), spis: spis.iter().copied().map(Spi).collect() }]
}

fn make(site: Site, ike: u64, replaces: Option<u32>) -> Vec<Action> {
    vec![Action::MakeChild { site, ike: IkeId(ike), replaces: replaces.map(Spi) }]
}

// The first column: an IKE SA with the peer exists. DELETE over it, always, whatever the setting and the kind.
#[test]
fn with_an_ike_sa_there_is_a_delete_over_it_whatever_the_setting_and_the_kind() {
    for kind in STATIC.iter().chain(&DYNAMIC).chain(&[PeerKind::EzvpnClient]) {
        for recovery in [false, true] {
            let mut bench = Bench::new(*kind, recovery);
            bench.established(1, 0x1000);
            let site = bench.site();
            assert_eq!(bench.invalid(0xB761_863E), check(site, 1), "{kind}: a short liveness check first");
            assert_eq!(bench.done(), delete(site, 1, &[0xB761_863E]), "{kind}");
            assert_eq!(bench.done(), []);
            assert!(bench.last().starts_with("recovered: done after"), "{}", bench.last());
        }
    }
}

#[test]
fn traffic_gets_somewhere_to_go_before_the_delete() {
    let mut bench = Bench::new(PeerKind::Svti, false);
    bench.engine.ike_up(bench.now, IkeId(1), PeerId(0), SocketAddr::new(ip(PEER), 4500));
    bench.pass(100);
    let site = bench.site();
    assert_eq!(bench.invalid(0x2000), check(site, 1));
    assert_eq!(bench.done(), make(site, 1, None), "there is no CHILD_SA: CREATE_CHILD_SA first");
    bench.engine.child_up(IkeId(1), Spi(0x3000));
    assert_eq!(bench.done(), delete(site, 1, &[0x2000]));
    assert_eq!(bench.done(), []);
    // A refusal of the CHILD_SA doesn't keep the DELETE back.
    bench.pass(100);
    bench.engine.child_down(bench.now, IkeId(1), Spi(0x3000));
    assert_eq!(bench.invalid(0x2001), check(site, 1), "what was heard long ago proves nothing");
    assert_eq!(bench.done(), make(site, 1, None));
    assert_eq!(bench.outcome(Outcome::Failed("TS_UNACCEPTABLE".into())), delete(site, 1, &[0x2001]));
    assert_eq!(bench.done(), []);
    assert_eq!(bench.last(), "failed: TS_UNACCEPTABLE");
}

#[test]
fn an_ike_sa_heard_of_a_moment_ago_needs_no_check() {
    let mut bench = Bench::new(PeerKind::DynamicMap, false);
    bench.established(1, 0x1000);
    bench.engine.heard(bench.now, IkeId(1));
    assert_eq!(bench.invalid(0x2000), delete(bench.site(), 1, &[0x2000]));
}

#[test]
fn a_delete_that_did_not_help_is_followed_by_a_new_child_sa() {
    let mut bench = Bench::new(PeerKind::Svti, true);
    bench.established(1, 0x1000);
    let site = bench.site();
    bench.invalid(0x2000);
    assert_eq!(bench.done(), delete(site, 1, &[0x2000]));
    bench.done();
    bench.pass(3);
    assert_eq!(bench.invalid(0x2000), check(site, 1));
    assert_eq!(bench.done(), make(site, 1, Some(0x1000)), "a rekey: the peer moves to the newer one");
    assert_eq!(bench.done(), delete(site, 1, &[0x2000]));
}

// The second column: no IKE SA, recovery on.
#[test]
fn static_kinds_get_a_new_ike_sa_and_then_a_delete() {
    for kind in STATIC {
        let mut bench = Bench::new(kind, true);
        let site = bench.site();
        assert_eq!(bench.invalid(0x2000), [Action::Initiate { site }], "{kind}");
        // Further packets join in.
        assert_eq!(bench.invalid(0x2001), []);
        bench.engine.ike_up(bench.now, IkeId(1), PeerId(0), SocketAddr::new(ip(PEER), 500));
        bench.engine.child_up(IkeId(1), Spi(0x1000));
        assert_eq!(bench.done(), delete(site, 1, &[0x2000, 0x2001]));
        assert_eq!(bench.done(), []);
    }
}

#[test]
fn a_dead_ike_sa_counts_as_none() {
    let mut bench = Bench::new(PeerKind::MgreStatic, true);
    bench.established(1, 0x1000);
    let site = bench.site();
    assert_eq!(bench.invalid(0x2000), check(site, 1));
    let dead = Outcome::NoAnswer("no answer to 4 requests in 2 s".into());
    assert_eq!(bench.outcome(dead), [Action::Abandon { ike: IkeId(1) }, Action::Initiate { site }]);
    let mut bench = Bench::new(PeerKind::MgreStatic, false);
    bench.established(1, 0x1000);
    bench.invalid(0x2000);
    assert_eq!(bench.outcome(Outcome::NoAnswer("silence".into())), [Action::Abandon { ike: IkeId(1) }]);
    assert_eq!(bench.last(), "failed: no IKE SA lives, and none may be started");
}

#[test]
fn static_kinds_get_nothing_with_recovery_off() {
    for kind in STATIC {
        let mut bench = Bench::new(kind, false);
        assert_eq!(bench.invalid(0x2000), []);
        assert!(bench.last().starts_with("none: no IKE SA with the peer, and [recovery] invalid_spi_recovery is off"));
    }
}

#[test]
fn dynamic_kinds_get_a_hint_at_a_limited_rate_and_never_an_initiation() {
    for kind in DYNAMIC {
        for recovery in [false, true] {
            let mut bench = Bench::new(kind, recovery);
            let site = bench.site();
            assert_eq!(bench.invalid(0x2000), [Action::Hint { site, packet: from(PEER, 0x2000) }], "{kind}");
            for _ in 0..9 {
                bench.pass(1);
                assert_eq!(bench.invalid(0x2000), []);
            }
            bench.pass(1);
            assert_eq!(bench.invalid(0x2001), [Action::Hint { site, packet: from(PEER, 0x2001) }]);
            let refusal = bench.engine.recover(bench.now, PeerId(0)).unwrap_err();
            assert_eq!(refusal, Refusal::NobodyThere(kind));
        }
    }
}

#[test]
fn an_ezvpn_client_gets_nothing_without_an_ike_sa() {
    for recovery in [false, true] {
        let mut bench = Bench::new(PeerKind::EzvpnClient, recovery);
        assert_eq!(bench.invalid(0x2000), []);
        assert!(bench.last().starts_with("none: no IKE SA with the peer, and the kind ezvpn-client rules out"));
    }
}

#[test]
fn an_unknown_source_gets_nothing() {
    let mut bench = Bench::new(PeerKind::Svti, true);
    bench.established(1, 0x1000);
    for n in 0..1000u32 {
        bench.engine.invalid_spi(bench.now, from(&format!("203.0.113.{}", n % 256), 0x100 + n));
    }
    assert_eq!(bench.actions(), []);
    assert_eq!(bench.engine.journal().entries().len(), 1);
    assert_eq!(bench.last(), "none: the source is no [[peer]]: counted, never answered");
    // A peer that is known by an address of ours only counts there.
    let rule = PeerRule { local_address: Some(ip("192.0.2.99")), ..rule(PeerKind::Svti) };
    let mut bench = Bench::with(vec![rule], true);
    assert_eq!(bench.invalid(0x2000), []);
}

#[test]
fn spis_rekeyed_or_deleted_moments_ago_are_left_alone() {
    let mut bench = Bench::new(PeerKind::Svti, true);
    bench.established(1, 0x1000);
    bench.engine.child_up(IkeId(1), Spi(0x1001));
    bench.engine.child_down(bench.now, IkeId(1), Spi(0x1000));
    bench.pass(9);
    assert_eq!(bench.invalid(0x1000), []);
    assert!(bench.last().starts_with("none: the SA was rekeyed or deleted moments ago"));
    bench.pass(2);
    assert_eq!(bench.invalid(0x1000), check(bench.site(), 1), "late packets don't come for so long");
}

#[test]
fn back_off_doubles_and_a_quiet_time_ends_it() {
    let mut bench = Bench::new(PeerKind::Svti, true);
    let mut starts = Vec::new();
    for second in 0..400 {
        if !bench.invalid(0x2000 + second).is_empty() {
            starts.push(second);
            assert_eq!(bench.outcome(Outcome::Failed("AUTHENTICATION_FAILED".into())), []);
        }
        bench.pass(1);
    }
    assert_eq!(starts, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363]);
    bench.pass(200);
    for _ in 0..2 {
        assert_eq!(bench.invalid(0x9000).len(), 1);
        bench.outcome(Outcome::Failed("AUTHENTICATION_FAILED".into()));
        bench.pass(1);
    }
}

#[test]
fn nf_core_without_its_sas_gets_them_anew_over_each_living_ike_sa() {
    let mut bench = Bench::new(PeerKind::Svti, false);
    bench.established(1, 0x1000);
    bench.engine.child_up(IkeId(1), Spi(0x1001));
    let site = bench.site();
    bench.engine.sas_lost(bench.now, |_| false);
    assert_eq!(bench.actions(), check(site, 1));
    assert_eq!(bench.done(), make(site, 1, Some(0x1000)));
    // Packets on the lost SPIs join in, and are no strangers to be deleted.
    assert_eq!(bench.invalid(0x1001), []);
    bench.engine.child_up(IkeId(1), Spi(0x1100));
    bench.engine.child_down(bench.now, IkeId(1), Spi(0x1000));
    assert_eq!(bench.done(), make(site, 1, Some(0x1001)));
    bench.engine.child_up(IkeId(1), Spi(0x1101));
    bench.engine.child_down(bench.now, IkeId(1), Spi(0x1001));
    assert_eq!(bench.done(), []);
    assert!(bench.last().starts_with("recovered"), "{}", bench.last());
    assert_eq!(bench.engine.next_timeout(bench.now), None);
}

#[test]
fn a_lost_child_sa_is_tried_again_by_time_alone() {
    let mut bench = Bench::new(PeerKind::DynamicMap, false);
    bench.established(1, 0x1000);
    let site = bench.site();
    bench.engine.sas_lost(bench.now, |_| false);
    assert_eq!(bench.actions(), check(site, 1));
    bench.done();
    assert_eq!(bench.outcome(Outcome::Failed("TEMPORARY_FAILURE".into())), []);
    let next = bench.engine.next_timeout(bench.now).unwrap();
    assert_eq!(next, bench.now + Duration::from_secs(1));
    bench.now = next;
    bench.engine.handle_timeout(bench.now);
    assert_eq!(bench.actions(), check(site, 1));
}

#[test]
fn by_hand_neither_setting_nor_back_off_matter() {
    let mut bench = Bench::new(PeerKind::Svti, false);
    let site = bench.site();
    for _ in 0..3 {
        bench.engine.recover(bench.now, PeerId(0)).unwrap();
        assert_eq!(bench.actions(), [Action::Initiate { site }]);
        assert_eq!(bench.engine.recover(bench.now, PeerId(0)), Err(Refusal::UnderWay));
        bench.outcome(Outcome::Failed("no answer".into()));
    }
    bench.established(1, 0x1000);
    bench.engine.recover(bench.now, PeerId(0)).unwrap();
    assert_eq!(bench.actions(), check(site, 1));
    assert_eq!(bench.done(), make(site, 1, Some(0x1000)), "a healthy CHILD_SA is rekeyed, too");
    assert_eq!(bench.done(), []);
    // A dead IKE SA is replaced, for the operator asked for it.
    bench.pass(10);
    bench.engine.recover(bench.now, PeerId(0)).unwrap();
    bench.actions();
    let next = bench.outcome(Outcome::NoAnswer("silence".into()));
    assert_eq!(next, [Action::Abandon { ike: IkeId(1) }, Action::Initiate { site }]);
}

#[test]
fn hosts_behind_one_nat_are_told_apart_by_port() {
    let mut bench = Bench::new(PeerKind::DynamicMap, true);
    for (ike, port) in [(1, 10_001), (2, 10_002)] {
        bench.engine.ike_up(bench.now, IkeId(ike), PeerId(0), SocketAddr::new(ip(PEER), port));
        bench.engine.child_up(IkeId(ike), Spi(0x1000 + ike as u32));
    }
    bench.pass(100);
    let packet = Unknown { udp_ports: Some((10_002, 4500)), ..from(PEER, 0x2000) };
    bench.engine.invalid_spi(bench.now, packet);
    let [Action::CheckLiveness { ike, .. }] = bench.actions()[..] else { panic!("no check") };
    assert_eq!(ike, IkeId(2));
}

#[test]
fn what_nf_core_has_kept_needs_nothing() {
    let mut bench = Bench::new(PeerKind::Svti, true);
    bench.established(1, 0x1000);
    bench.engine.sas_lost(bench.now, |spi| spi == Spi(0x1000));
    assert_eq!(bench.actions(), []);
}

#[test]
fn a_peer_that_is_to_be_up_is_started_and_started_again() {
    let rule = PeerRule { keep_up: true, ..rule(PeerKind::Svti) };
    let mut bench = Bench::with(vec![rule], false);
    let site = bench.site();
    let mut starts = Vec::new();
    for second in 0..20 {
        bench.engine.handle_timeout(bench.now);
        if !bench.actions().is_empty() {
            starts.push(second);
            bench.outcome(Outcome::NoAnswer("silence".into()));
        }
        bench.pass(1);
    }
    assert_eq!(starts, [0, 1, 3, 7, 15]);
    bench.established(1, 0x1000);
    bench.engine.handle_timeout(bench.now);
    assert_eq!((bench.actions(), bench.engine.next_timeout(bench.now)), (vec![], None));
    bench.engine.ike_down(bench.now, IkeId(1));
    bench.engine.handle_timeout(bench.now);
    assert_eq!(bench.actions(), [Action::Initiate { site }]);
}

#[test]
fn an_agent_that_starts_anew_starts_ike_anew_where_it_may() {
    for (kind, recovery, wanted) in
        [(PeerKind::Svti, true, 1), (PeerKind::Svti, false, 0), (PeerKind::DynamicMap, true, 0)]
    {
        let mut bench = Bench::new(kind, recovery);
        bench.engine.ike_lost(bench.now, PeerId(0));
        assert_eq!(bench.actions().len(), wanted, "{kind} {recovery}");
    }
}

#[test]
fn other_settings_count_from_now_on_and_leave_sas_alone() {
    let mut bench = Bench::new(PeerKind::Svti, false);
    let site = bench.site();
    assert_eq!(bench.invalid(0x2000), []);
    bench.engine.set_policy(bench.now, policy(vec![rule(PeerKind::Svti)], true));
    assert_eq!(bench.invalid(0x2000), [Action::Initiate { site }]);
    // A recovery that is under way goes on.
    bench.engine.set_policy(bench.now, policy(vec![rule(PeerKind::Svti)], false));
    bench.established(1, 0x1000);
    bench.done();
    bench.done();
    assert!(bench.last().starts_with("recovered"), "{}", bench.last());
    bench.pass(10);
    assert_eq!(bench.invalid(0x3000), [Action::CheckLiveness { site: bench.site(), ike: IkeId(1) }], "over its IKE SA");
}

#[test]
fn a_peer_that_is_gone_is_a_stranger() {
    let mut bench = Bench::new(PeerKind::Svti, true);
    let budget = bench.engine.budget().left();
    assert_eq!(bench.invalid(0x2000).len(), 1);
    bench.engine.set_policy(bench.now, policy(Vec::new(), true));
    assert_eq!(bench.last(), "failed: the peer was taken out of nf.toml");
    assert_eq!(bench.engine.budget().left(), budget, "what it didn't send is given back");
    // How the exchange ends doesn't matter any more.
    let site = Site { peer: PeerId(0), address: ip(PEER), port: None };
    bench.engine.outcome(bench.now, site, Outcome::Done, 0);
    assert_eq!((bench.actions(), bench.invalid(0x2000)), (vec![], vec![]));
    assert_eq!(bench.last(), "none: the source is no [[peer]]: counted, never answered");
}

#[test]
fn a_peer_with_other_terms_gets_a_new_ike_sa_where_one_may_be_started() {
    for (kind, wanted) in [(PeerKind::Svti, 1), (PeerKind::DynamicMap, 0)] {
        // Neither `invalid_spi_recovery` nor the back-off matter: the operator has asked for it.
        let mut bench = Bench::new(kind, false);
        for _ in 0..2 {
            bench.engine.negotiate_anew(bench.now, PeerId(0));
            assert_eq!(bench.actions().len(), wanted, "{kind}");
            if wanted > 0 {
                bench.outcome(Outcome::Failed("refused".into()));
            }
        }
        bench.established(1, 0x1000);
        bench.engine.negotiate_anew(bench.now, PeerId(0));
        assert_eq!(bench.actions(), [], "{kind}: it has one");
    }
}

#[test]
fn of_two_peers_that_fit_the_first_in_nf_toml_is_meant() {
    let placed = |first: usize| {
        let rules = [first, 1 - first].map(|place| PeerRule { place, ..rule(PeerKind::Svti) });
        let peers = rules.into_iter().enumerate().map(|(id, rule)| (PeerId(id), rule)).collect();
        Policy { invalid_spi_recovery: true, limits: LIMITS, peers }
    };
    for first in [0, 1] {
        assert_eq!(placed(first).find(ip(PEER), ip(OURS)), Some(PeerId(first)));
    }
}

#[test]
fn a_daemon_is_asked_for_what_it_can_do() {
    let rule = |kind, address| PeerRule { by_daemon: true, ..rule_of(kind, address) };
    let mut bench = Bench::with(vec![rule(PeerKind::Svti, PEER)], true);
    bench.established(1, 0x1000);
    let site = bench.site();
    assert_eq!(bench.invalid(0x2000), check(site, 1));
    assert_eq!(bench.done(), make(site, 1, Some(0x1000)), "the peer moves to a newer CHILD_SA");
    assert_eq!(bench.done(), []);
    assert!(bench.last().starts_with("recovered"), "{}", bench.last());
    let mut bench = Bench::with(vec![rule(PeerKind::DynamicMap, "198.51.100.0/24")], true);
    assert_eq!(bench.invalid(0x2000), []);
    assert!(bench.last().contains("the IKE daemon sends no hints"), "{}", bench.last());
}

/// What may happen, in any order.
#[derive(Clone, Debug)]
enum Happening {
    Stranger {
        host: u8,
        spi: u32,
    },
    Spoofed {
        peer: usize,
        host: u8,
        port: Option<u16>,
        spi: u32,
    },
    OwnSpi {
        peer: usize,
    },
    Flood {
        peer: usize,
        packets: u16,
    },
    IkeUp {
        peer: usize,
    },
    IkeDown,
    ChildUp {
        spi: u32,
    },
    ChildDown,
    Restart,
    ByHand {
        peer: usize,
    },
    /// The action that has waited longest ends, after so many messages.
    End {
        outcome: u8,
        messages: u32,
    },
    Pass {
        millis: u32,
    },
}

fn happening() -> impl Strategy<Value = Happening> {
    let spi = || 0x100u32..0x140;
    let peer = || 0..4usize;
    prop_oneof![
        2 => (any::<u8>(), spi()).prop_map(|(host, spi)| Happening::Stranger { host, spi }),
        6 => (peer(), 0..4u8, prop::option::of(1..4u16), spi())
            .prop_map(|(peer, host, port, spi)| Happening::Spoofed { peer, host, port, spi }),
        2 => peer().prop_map(|peer| Happening::OwnSpi { peer }),
        1 => (peer(), 0..500u16).prop_map(|(peer, packets)| Happening::Flood { peer, packets }),
        2 => peer().prop_map(|peer| Happening::IkeUp { peer }),
        1 => Just(Happening::IkeDown),
        2 => spi().prop_map(|spi| Happening::ChildUp { spi }),
        1 => Just(Happening::ChildDown),
        1 => Just(Happening::Restart),
        1 => peer().prop_map(|peer| Happening::ByHand { peer }),
        6 => (0..3u8, 0..=8u32).prop_map(|(outcome, messages)| Happening::End { outcome, messages }),
        4 => (0..120_000u32).prop_map(|millis| Happening::Pass { millis }),
    ]
}

fn peers() -> Vec<PeerRule> {
    vec![
        rule_of(PeerKind::Svti, "198.51.100.1"),
        rule_of(PeerKind::DynamicMap, "198.51.100.128/25"),
        rule_of(PeerKind::EzvpnClient, "203.0.113.0/24"),
        rule_of(PeerKind::StaticMap, "198.51.100.2"),
    ]
}

fn address(peer: usize, host: u8) -> String {
    match peer {
        0 => PEER.to_owned(),
        1 => format!("198.51.100.{}", 128 + host),
        2 => format!("203.0.113.{host}"),
        _ => "198.51.100.2".to_owned(),
    }
}

/// The engine with a world around it that remembers what it must not do.
struct World {
    bench: Bench,
    start: Instant,
    recovery: bool,
    /// Living IKE SAs: peer and CHILD_SAs.
    ikes: HashMap<IkeId, (usize, Vec<Spi>)>,
    /// What waits for its end, and the most that it may send.
    waiting: Vec<(Site, Action)>,
    by_hand: Vec<usize>,
    sent: u64,
    next: u64,
}

impl World {
    fn look(&mut self) {
        for action in self.bench.actions() {
            match &action {
                Action::CheckLiveness { site, ike } | Action::MakeChild { site, ike, .. } => {
                    assert!(self.ikes.contains_key(ike), "an IKE SA that there isn't");
                    self.waiting.push((*site, action));
                }
                Action::Delete { site, ike, spis } => {
                    assert!(self.ikes.contains_key(ike), "an IKE SA that there isn't");
                    let healthy =
                        |spi: &Spi| self.ikes.values().any(|(peer, spis)| *peer == site.peer.0 && spis.contains(spi));
                    assert!(!spis.iter().any(healthy), "a DELETE of a CHILD_SA that there is");
                    assert!(!spis.is_empty());
                    self.waiting.push((*site, action));
                }
                Action::Initiate { site } => {
                    let rule = &self.bench.engine.policy().peers[&site.peer];
                    assert_eq!(rule.host(), Some(site.address), "an initiation to where none may be");
                    assert!(self.recovery || self.by_hand.contains(&site.peer.0), "an initiation without leave");
                    assert!(!self.ikes.values().any(|(peer, _)| *peer == site.peer.0), "beside a living IKE SA");
                    self.waiting.push((*site, action));
                }
                Action::Hint { site, .. } => {
                    assert!([1].contains(&site.peer.0), "a hint to one who isn't dynamic");
                    self.sent += 1;
                }
                // Only after silence, see `end`.
                Action::Abandon { ike } => assert!(!self.ikes.contains_key(ike), "a living IKE SA was given up"),
            }
        }
        let mut sites: Vec<_> = self.waiting.iter().map(|(site, _)| *site).collect();
        sites.sort_by_key(|site| format!("{site:?}"));
        sites.dedup();
        assert_eq!(sites.len(), self.waiting.len(), "one recovery of a site at a time");
    }

    fn end(&mut self, outcome: u8, messages: u32) {
        if self.waiting.is_empty() {
            return;
        }
        let (site, action) = self.waiting.remove(0);
        let most = match &action {
            Action::CheckLiveness { .. } | Action::Delete { .. } => Limits::TRANSMISSIONS,
            Action::MakeChild { .. } => Limits::TRANSMISSIONS * 2,
            _ => Limits::TRANSMISSIONS * 4,
        };
        let messages = messages.min(most);
        self.sent += u64::from(messages);
        let outcome = match (outcome, &action) {
            (0, Action::Initiate { .. }) => {
                self.ike_up(site.peer.0, site.address, 0x5000);
                Outcome::Done
            }
            (0, _) => Outcome::Done,
            (1, _) => Outcome::Failed("refused".into()),
            _ => {
                if let Action::CheckLiveness { ike, .. } | Action::MakeChild { ike, .. } | Action::Delete { ike, .. } =
                    &action
                {
                    self.ikes.remove(ike);
                }
                Outcome::NoAnswer("silence".into())
            }
        };
        self.bench.engine.outcome(self.bench.now, site, outcome, messages);
    }

    fn ike_up(&mut self, peer: usize, address: IpAddr, spi: u32) {
        self.next += 1;
        let ike = IkeId(self.next);
        self.bench.engine.ike_up(self.bench.now, ike, PeerId(peer), SocketAddr::new(address, 500));
        self.bench.engine.child_up(ike, Spi(spi));
        self.ikes.insert(ike, (peer, vec![Spi(spi)]));
    }

    fn any_ike(&self) -> Option<IkeId> {
        self.ikes.keys().min().copied()
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.bench.now;
        let first = self.any_ike();
        let engine = &mut self.bench.engine;
        match happening {
            Happening::Stranger { host, spi } => engine.invalid_spi(now, from(&format!("100.64.0.{host}"), spi)),
            Happening::Spoofed { peer, host, port, spi } => {
                let packet = from(&address(peer, host), spi);
                engine.invalid_spi(now, Unknown { udp_ports: port.map(|port| (port, 4500)), ..packet });
            }
            Happening::OwnSpi { peer } => {
                let spi = self.ikes.values().find(|(of, _)| *of == peer).and_then(|(_, spis)| spis.first());
                if let Some(spi) = spi {
                    engine.invalid_spi(now, from(&address(peer, 0), spi.0));
                }
            }
            Happening::Flood { peer, packets } => {
                for n in 0..u32::from(packets) {
                    engine.invalid_spi(now, from(&address(peer, (n % 64) as u8), 0x7000_0000 + n));
                }
            }
            Happening::IkeUp { peer } => self.ike_up(peer, ip(&address(peer, 0)), 0x4000 + self.next as u32),
            Happening::IkeDown => {
                if let Some(ike) = first {
                    engine.ike_down(now, ike);
                    self.ikes.remove(&ike);
                }
            }
            Happening::ChildUp { spi } => {
                if let Some(ike) = first {
                    engine.child_up(ike, Spi(spi));
                    self.ikes.get_mut(&ike).unwrap().1.push(Spi(spi));
                }
            }
            Happening::ChildDown => {
                if let Some(ike) = first
                    && let Some(spi) = self.ikes.get_mut(&ike).unwrap().1.pop()
                {
                    self.ikes.get_mut(&ike).unwrap().1.retain(|other| *other != spi);
                    engine.child_down(now, ike, spi);
                }
            }
            Happening::Restart => engine.sas_lost(now, |spi| spi.0 % 2 == 0),
            Happening::ByHand { peer } => {
                self.by_hand.push(peer);
                let _ = engine.recover(now, PeerId(peer));
            }
            Happening::End { outcome, messages } => self.end(outcome, messages),
            Happening::Pass { millis } => {
                self.bench.now += Duration::from_millis(u64::from(millis));
                self.bench.engine.handle_timeout(self.bench.now);
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens(recovery: bool, happenings in prop::collection::vec(happening(), 0..120)) {
        let bench = Bench::with(peers(), recovery);
        let start = bench.now;
        let mut world = World {
            bench, start, recovery, ikes: HashMap::new(), waiting: Vec::new(), by_hand: Vec::new(), sent: 0, next: 0,
        };
        for happening in happenings {
            world.happen(happening);
            world.look();
            let granted = f64::from(LIMITS.budget_burst)
                + world.bench.now.duration_since(world.start).as_secs_f64() * f64::from(LIMITS.budget_per_min) / 60.0;
            prop_assert!(world.sent as f64 <= granted, "{} messages of {granted}", world.sent);
            prop_assert!(world.bench.engine.journal().entries().len() <= 1024);
        }
    }
}
