//! The IKE SAs and CHILD_SAs that there are, and the inbound SAs in nf-core that have outlived theirs.
//!
//! An inbound SA isn't taken out of nf-core when its CHILD_SA ends, but when its successor carries traffic: until then
//! packets of the old one may be under way, or the peer hasn't moved yet. What doesn't move is taken out after a time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nf_core::control::proto::SaName;
use nf_core::types::Spi;

use super::proto::{ChildReport, IkeReport};
use crate::recovery::{IkeId, PeerId};

/// For so long an inbound SA stays whose successor carries no traffic.
pub const LINGER: Duration = Duration::from_secs(30);

/// An IKE SA.
#[derive(Clone, Debug)]
pub struct IkeEntry {
    /// Its peer.
    pub peer: PeerId,
    /// When it was established.
    pub since: Instant,
    /// What is shown of it; its children and its age are filled in when it is.
    pub report: IkeReport,
    children: BTreeMap<Spi, ChildEntry>,
}

/// A CHILD_SA.
#[derive(Clone, Debug)]
pub struct ChildEntry {
    /// When it was installed.
    pub since: Instant,
    /// Our outer address: where the inbound SA's packets go.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// The outbound SA, once nf-core has it.
    pub outbound: Option<SaName>,
    /// What is shown of it; its age is filled in when it is.
    pub report: ChildReport,
}

/// An SA that has outlived its CHILD_SA.
#[derive(Clone, Debug)]
struct Lingering {
    sa: SaName,
    peer: PeerId,
    remote: IpAddr,
    since: Instant,
    until: Instant,
    /// It is of an agent before this one.
    adopted: bool,
}

/// The SAs.
#[derive(Debug, Default)]
pub struct Ledger {
    ikes: BTreeMap<IkeId, IkeEntry>,
    lingering: Vec<Lingering>,
}

fn name(spi: Spi, child: &ChildEntry) -> SaName {
    SaName { spi, dst: Some(child.local), src: Some(child.remote) }
}

impl Ledger {
    /// An IKE SA was established.
    pub fn ike_up(&mut self, id: IkeId, peer: PeerId, now: Instant, report: IkeReport) {
        self.ikes.insert(id, IkeEntry { peer, since: now, report, children: BTreeMap::new() });
    }

    /// An IKE SA goes on under another number, with its CHILD_SAs.
    pub fn ike_rekeyed(&mut self, old: IkeId, new: IkeId, now: Instant, change: impl FnOnce(&mut IkeReport)) {
        if let Some(mut entry) = self.ikes.remove(&old) {
            (entry.since, entry.report.id) = (now, new.0);
            change(&mut entry.report);
            self.ikes.insert(new, entry);
        }
    }

    /// The peer of an IKE SA has another address.
    pub fn ike_moved(&mut self, id: IkeId, remote: SocketAddr) {
        if let Some(entry) = self.ikes.get_mut(&id) {
            entry.report.remote = remote;
        }
    }

    /// An IKE SA is gone. What is left of its CHILD_SAs lingers.
    pub fn ike_down(&mut self, id: IkeId, now: Instant) -> Option<IkeEntry> {
        let entry = self.ikes.remove(&id)?;
        for (spi, child) in &entry.children {
            self.linger(entry.peer, *spi, child, now, LINGER);
        }
        Some(entry)
    }

    /// A CHILD_SA was installed.
    pub fn child_up(&mut self, ike: IkeId, spi: Spi, child: ChildEntry) {
        if let Some(entry) = self.ikes.get_mut(&ike) {
            entry.children.insert(spi, child);
        }
    }

    /// nf-core has the outbound SA of a CHILD_SA.
    pub fn outbound_up(&mut self, spi: Spi, outbound: SaName) {
        let mut entries = self.ikes.values_mut();
        if let Some(child) = entries.find_map(|entry| entry.children.get_mut(&spi)) {
            child.outbound = Some(outbound);
        }
    }

    /// The outbound SA of a CHILD_SA, which ends with it.
    pub fn take_outbound(&mut self, spi: Spi) -> Option<SaName> {
        self.ikes.values_mut().find_map(|entry| entry.children.get_mut(&spi))?.outbound.take()
    }

    /// The inbound SPI of the CHILD_SA that an outbound SA belongs to.
    pub fn inbound_of(&self, outbound: &SaName) -> Option<Spi> {
        let mut children = self.ikes.values().flat_map(|entry| &entry.children);
        children.find(|(_, child)| child.outbound.as_ref() == Some(outbound)).map(|(spi, _)| *spi)
    }

    /// A CHILD_SA is gone. Its inbound SA lingers, or its name is given back, to be deleted at once.
    pub fn child_down(&mut self, ike: IkeId, spi: Spi, now: Instant, lingers: bool) -> Option<SaName> {
        let entry = self.ikes.get_mut(&ike)?;
        let child = entry.children.remove(&spi)?;
        let peer = entry.peer;
        if !lingers {
            return Some(name(spi, &child));
        }
        self.linger(peer, spi, &child, now, LINGER);
        None
    }

    fn linger(&mut self, peer: PeerId, spi: Spi, child: &ChildEntry, now: Instant, time: Duration) {
        let lingering = Lingering {
            sa: name(spi, child),
            peer,
            remote: child.remote,
            since: child.since,
            until: now + time,
            adopted: false,
        };
        self.lingering.push(lingering);
    }

    /// Takes in an SA, with the peer at `remote`, of an agent before this one. It stays until a new one of its peer carries
    /// traffic.
    pub fn adopt(&mut self, peer: PeerId, sa: SaName, remote: IpAddr, now: Instant, time: Duration) {
        let known = self.has_child(sa.spi) || self.inbound_of(&sa).is_some();
        if !known && !self.lingering.iter().any(|lingering| lingering.sa == sa) {
            self.lingering.push(Lingering { sa, peer, remote, since: now, until: now + time, adopted: true });
        }
    }

    /// The first packet came in on an SA: those before it may go, which are given back.
    pub fn first_packet(&mut self, spi: Spi, local: IpAddr) -> Vec<SaName> {
        let found = self.ikes.values_mut().find_map(|entry| {
            let peer = entry.peer;
            let child = entry.children.get_mut(&spi).filter(|child| child.local == local)?;
            child.report.used = true;
            Some((peer, child.remote, child.since))
        });
        let Some((peer, remote, since)) = found else {
            return Vec::new();
        };
        self.take_lingering(|lingering| {
            lingering.peer == peer && lingering.remote == remote && lingering.since <= since
        })
    }

    /// What has lingered long enough.
    pub fn expired(&mut self, now: Instant) -> Vec<SaName> {
        self.take_lingering(|lingering| lingering.until <= now)
    }

    /// All that lingers and is of this agent.
    pub fn own_lingering(&mut self) -> Vec<SaName> {
        self.take_lingering(|lingering| !lingering.adopted)
    }

    /// All that lingers of a peer, whoever made it.
    pub fn lingering_of(&mut self, peer: PeerId) -> Vec<SaName> {
        self.take_lingering(|lingering| lingering.peer == peer)
    }

    fn take_lingering(&mut self, goes: impl Fn(&Lingering) -> bool) -> Vec<SaName> {
        self.lingering.extract_if(.., |lingering| goes(lingering)).map(|lingering| lingering.sa).collect()
    }

    /// When [`Ledger::expired`] has something to give.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.lingering.iter().map(|lingering| lingering.until).min()
    }

    /// How many SAs linger.
    pub fn lingering(&self) -> usize {
        self.lingering.len()
    }

    /// An IKE SA.
    pub fn ike(&self, id: IkeId) -> Option<&IkeEntry> {
        self.ikes.get(&id)
    }

    /// The IKE SAs of a peer, or all.
    pub fn ikes(&self, peer: Option<PeerId>) -> impl Iterator<Item = (IkeId, &IkeEntry)> {
        self.ikes.iter().filter(move |(_, entry)| peer.is_none_or(|peer| peer == entry.peer)).map(|(id, e)| (*id, e))
    }

    /// Whether an inbound SA belongs to a CHILD_SA that there is.
    pub fn has_child(&self, spi: Spi) -> bool {
        self.ikes.values().any(|entry| entry.children.contains_key(&spi))
    }

    /// What is shown of the IKE SAs of a peer, or of all.
    pub fn reports(&self, peer: Option<PeerId>, now: Instant) -> Vec<IkeReport> {
        let age = |since: Instant| now.saturating_duration_since(since).as_secs();
        let reports = self.ikes(peer).map(|(_, entry)| IkeReport {
            age_s: age(entry.since),
            children: entry
                .children
                .values()
                .map(|child| ChildReport { age_s: age(child.since), ..child.report.clone() })
                .collect(),
            ..entry.report.clone()
        });
        reports.collect()
    }
}

impl IkeEntry {
    /// The inbound SPIs of its CHILD_SAs, the oldest first.
    pub fn spis(&self) -> Vec<Spi> {
        let mut children: Vec<_> = self.children.iter().map(|(spi, child)| (child.since, *spi)).collect();
        children.sort_unstable();
        children.into_iter().map(|(_, spi)| spi).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "192.0.2.1";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ike(remote: &str) -> IkeReport {
        IkeReport {
            id: 1,
            peer: "branch".into(),
            backend: "embedded".into(),
            version: 2,
            local: SocketAddr::new(ip(OURS), 500),
            remote: SocketAddr::new(ip(remote), 500),
            local_id: String::new(),
            remote_id: String::new(),
            initiator: true,
            initiator_spi: String::new(),
            responder_spi: String::new(),
            algorithms: String::new(),
            nat: (false, false),
            age_s: 0,
            lifetime_s: 3600,
            children: Vec::new(),
        }
    }

    fn child(remote: &str, spi: u32, since: Instant) -> ChildEntry {
        let report = ChildReport {
            inbound_spi: Spi(spi),
            outbound_spi: Spi(1),
            mode: "tunnel".into(),
            encap: "none".into(),
            transform: String::new(),
            local_ts: Vec::new(),
            remote_ts: Vec::new(),
            age_s: 0,
            lifetime_s: 3600,
            used: false,
        };
        ChildEntry { since, local: ip(OURS), remote: ip(remote), outbound: None, report }
    }

    fn sa(remote: &str, spi: u32) -> SaName {
        SaName { spi: Spi(spi), dst: Some(ip(OURS)), src: Some(ip(remote)) }
    }

    #[test]
    fn an_old_sa_goes_when_its_successor_carries_traffic_or_after_a_time() {
        let start = Instant::now();
        let later = start + Duration::from_secs(5);
        let mut ledger = Ledger::default();
        ledger.ike_up(IkeId(1), PeerId(0), start, ike("10.1.1.1"));
        ledger.child_up(IkeId(1), Spi(0x100), child("10.1.1.1", 0x100, start));
        ledger.child_up(IkeId(1), Spi(0x101), child("10.1.1.1", 0x101, later));
        assert_eq!(ledger.child_down(IkeId(1), Spi(0x100), later, true), None);
        // Traffic of somebody else's doesn't count, nor does a packet to another address.
        ledger.ike_up(IkeId(2), PeerId(0), start, ike("10.1.1.2"));
        ledger.child_up(IkeId(2), Spi(0x200), child("10.1.1.2", 0x200, later));
        assert_eq!(ledger.first_packet(Spi(0x200), ip(OURS)), []);
        assert_eq!(ledger.first_packet(Spi(0x101), ip("192.0.2.2")), []);
        assert_eq!(ledger.first_packet(Spi(0x101), ip(OURS)), [sa("10.1.1.1", 0x100)]);
        assert_eq!((ledger.first_packet(Spi(0x101), ip(OURS)), ledger.next_timeout()), (vec![], None));
        // Of an IKE SA that is gone, too; without traffic, by time.
        ledger.ike_down(IkeId(1), later).unwrap();
        assert_eq!(ledger.expired(later + LINGER - Duration::from_millis(1)), []);
        assert_eq!(ledger.next_timeout(), Some(later + LINGER));
        assert_eq!(ledger.expired(later + LINGER), [sa("10.1.1.1", 0x101)]);
        // What the peer deleted isn't waited for.
        let deleted = ledger.child_down(IkeId(2), Spi(0x200), later, false);
        assert_eq!((deleted, ledger.lingering()), (Some(sa("10.1.1.2", 0x200)), 0));
        // Nor what is of a peer that is gone.
        ledger.child_up(IkeId(2), Spi(0x201), child("10.1.1.2", 0x201, later));
        ledger.child_down(IkeId(2), Spi(0x201), later, true);
        assert_eq!(ledger.lingering_of(PeerId(1)), []);
        assert_eq!(ledger.lingering_of(PeerId(0)), [sa("10.1.1.2", 0x201)]);
    }

    #[test]
    fn sas_of_an_agent_before_this_one_stay_until_a_new_one_carries_traffic() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.adopt(PeerId(0), sa("10.1.1.1", 0x100), ip("10.1.1.1"), start, Duration::from_secs(3600));
        ledger.adopt(PeerId(0), sa("10.1.1.1", 0x100), ip("10.1.1.1"), start, Duration::from_secs(3600));
        assert_eq!(ledger.lingering(), 1);
        let later = start + Duration::from_secs(1);
        ledger.ike_up(IkeId(1), PeerId(0), later, ike("10.1.1.1"));
        ledger.child_up(IkeId(1), Spi(0x101), child("10.1.1.1", 0x101, later));
        ledger.adopt(PeerId(0), sa("10.1.1.1", 0x101), ip("10.1.1.1"), later, Duration::from_secs(3600));
        assert_eq!(ledger.lingering(), 1, "one that there is isn't one of before");
        assert_eq!(ledger.first_packet(Spi(0x101), ip(OURS)), [sa("10.1.1.1", 0x100)]);
        let reports = ledger.reports(None, later + Duration::from_secs(9));
        assert_eq!((reports[0].age_s, reports[0].children[0].age_s, reports[0].children[0].used), (9, 9, true));
    }

    #[test]
    fn an_outbound_sa_ends_with_its_child_sa() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.ike_up(IkeId(1), PeerId(0), start, ike("10.1.1.1"));
        ledger.child_up(IkeId(1), Spi(0x100), child("10.1.1.1", 0x100, start));
        let outbound = SaName { spi: Spi(0x900), dst: Some(ip("10.1.1.1")), src: Some(ip(OURS)) };
        assert_eq!(ledger.inbound_of(&outbound), None);
        ledger.outbound_up(Spi(0x100), outbound);
        assert_eq!(ledger.inbound_of(&outbound), Some(Spi(0x100)));
        ledger.adopt(PeerId(0), outbound, ip("10.1.1.1"), start, LINGER);
        assert_eq!(ledger.lingering(), 0, "it is one that there is");
        assert_eq!((ledger.take_outbound(Spi(0x100)), ledger.take_outbound(Spi(0x100))), (Some(outbound), None));
    }

    #[test]
    fn a_rekeyed_ike_sa_keeps_its_child_sas() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.ike_up(IkeId(1), PeerId(0), start, ike("10.1.1.1"));
        ledger.child_up(IkeId(1), Spi(0x100), child("10.1.1.1", 0x100, start));
        ledger.ike_rekeyed(IkeId(1), IkeId(2), start, |report| report.initiator = false);
        assert!(ledger.ike(IkeId(1)).is_none() && ledger.has_child(Spi(0x100)));
        let entry = ledger.ike(IkeId(2)).unwrap();
        assert_eq!((entry.spis(), entry.report.id, entry.report.initiator), (vec![Spi(0x100)], 2, false));
        ledger.ike_moved(IkeId(2), "10.9.9.9:4500".parse().unwrap());
        assert_eq!(ledger.reports(Some(PeerId(0)), start)[0].remote.to_string(), "10.9.9.9:4500");
        assert!(ledger.reports(Some(PeerId(1)), start).is_empty());
    }
}
