//! Outbound SAs that follow the peer behind its NAT: where authentic packets of the pair's inbound SA come from, theirs go to
//! (RFC 7296 2.23, RFC 3948 4).
//!
//! Who may move an SA has its peer's keys, and the newest packet counts: what is replayed or overtaken moves nothing. Who is on
//! the path can still send a packet on from an address of his own before the original arrives; the peer's next packet moves
//! the SA back.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use super::{Controller, InstalledSa, order};
use crate::control::proto::Endpoint;
use crate::sa::inbound::SaKey;
use crate::sa::spec::SaParams;
use crate::types::Spi;

type Order = (Spi, IpAddr, IpAddr);

/// Outbound SAs by the inbound SA that they follow.
#[derive(Debug, Default)]
pub(super) struct Followers(BTreeSet<(Order, Order)>);

impl Followers {
    pub(super) fn add(&mut self, outbound: &SaParams) {
        self.0.extend(pair(outbound));
    }

    pub(super) fn remove(&mut self, outbound: &SaParams) {
        if let Some(pair) = pair(outbound) {
            self.0.remove(&pair);
        }
    }

    fn of(&self, inbound: &SaKey) -> Vec<Order> {
        let (lowest, inbound) = (IpAddr::from([0; 4]), order(inbound));
        let from = Bound::Included((inbound, (Spi(0), lowest, lowest)));
        self.0.range((from, Bound::Unbounded)).take_while(|pair| pair.0 == inbound).map(|pair| pair.1).collect()
    }
}

/// What an SA follows, and the SA; none if it follows nothing.
fn pair(outbound: &SaParams) -> Option<(Order, Order)> {
    let followed = SaKey { spi: outbound.follows?, dst: outbound.src, src: outbound.dst };
    Some((order(&followed), order(&outbound.key())))
}

impl Controller {
    /// The peer of an inbound SA is somewhere else now.
    pub(super) fn followed(&mut self, inbound: &SaKey, to: Endpoint) {
        for outbound in self.followers.of(inbound) {
            self.move_to(outbound, to);
        }
    }

    /// Has an outbound SA that is new go where the SA that it follows has its packets from already.
    pub(super) fn catch_up(&mut self, outbound: &SaKey) {
        let place = order(outbound);
        let followed = self.sas.get(&place).and_then(|stored| pair(&stored.params)).map(|pair| pair.0);
        if let Some(to) = followed.and_then(|inbound| self.sas.get(&inbound)).map(|stored| stored.peer_at) {
            self.move_to(place, to);
        }
    }

    fn move_to(&mut self, outbound: Order, to: Endpoint) {
        let Some(stored) = self.sas.get_mut(&outbound) else {
            return;
        };
        let (InstalledSa::Out(sa), Some(port)) = (&stored.sa, to.port) else {
            return;
        };
        if stored.peer_at == to {
            return;
        }
        let Some(moved) = sa.moved(to.address, port) else {
            return;
        };
        let from = std::mem::replace(&mut stored.peer_at, to);
        stored.sa = InstalledSa::Out(Arc::new(moved));
        let name = stored.name();
        tracing::info!(
            spi = %name.spi, src = %name.src, dst = %name.dst, peer = name.peer, %from, %to,
            "the peer has moved: the outbound SA follows"
        );
        self.spd_stale = true;
    }
}
