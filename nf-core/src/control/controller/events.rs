//! What the cores tell, on its way to operators and subscribers.

use std::net::IpAddr;

use super::{Controller, StoredSa, order};
use crate::control::proto::{Endpoint, EventKind, EventReport, InvalidSpiEvent, Subscribed};
use crate::control::subscribers::Subscription;
use crate::event::{Event, InvalidSpi, SaRef, SaWanted};
use crate::types::{Nanos, Spi};

/// Events taken from a core at a time.
const EVENTS_PER_TURN: usize = 1024;

impl Controller {
    /// Adds a subscriber to events of these kinds; of all where there is none.
    pub fn subscribe(&mut self, kinds: Vec<EventKind>) -> (Subscribed, Subscription) {
        let kinds = if kinds.is_empty() { EventKind::ALL.to_vec() } else { kinds };
        let subscription = self.subscribers.add(kinds.clone());
        (Subscribed { kinds, now_ns: self.now.0 }, subscription)
    }

    /// Passes on that the recovery of a peer has failed.
    pub fn recovery_failed(&mut self, peer: String, src: Option<IpAddr>, spi: Option<Spi>, reason: String) {
        let at_ns = self.now.0;
        self.subscribers.publish(&EventReport::RecoveryFailed { peer, src, spi, reason, at_ns });
    }

    /// Whether a core has something to tell.
    pub fn has_events(&self) -> bool {
        self.cores.iter().any(|core| !core.events.is_empty())
    }

    /// Takes what the cores have to tell, and passes it on. Part of [`Controller::tick`], for in between.
    pub fn take_events(&mut self, now: Nanos) {
        self.now = now;
        for core in 0..self.cores.len() {
            for _ in 0..EVENTS_PER_TURN {
                match self.cores.get(core).and_then(|core| core.events.recv()) {
                    Some(Event::InvalidSpi(event)) => self.on_invalid_spi(&event),
                    Some(Event::FirstPacket { sa, at }) => self.on_first_packet(sa, at),
                    Some(Event::SourceChanged { sa, address, port, at }) => {
                        self.on_source_changed(sa, Endpoint { address, port }, at);
                    }
                    Some(Event::LimitReached { sa, limit, unit, at }) => self.on_limit(sa, limit, unit, at),
                    Some(Event::SaWanted(event)) => self.on_sa_wanted(&event),
                    Some(Event::PathMtu { sa, mtu }) => self.on_path_mtu(sa, mtu),
                    Some(Event::Unresolved { port, address }) => self.routing.ask(port, address),
                    None => break,
                }
            }
        }
        self.delete_expired();
    }

    fn on_invalid_spi(&mut self, event: &InvalidSpi) {
        let port = self.port_names.get(event.port.index()).map_or("", String::as_str);
        let Some(news) = self.notifier.on_event(self.now, event, port, &mut self.sinks) else {
            return;
        };
        self.subscribers.publish(&EventReport::InvalidSpi(InvalidSpiEvent {
            spi: event.spi,
            src: event.src,
            dst: event.dst,
            udp_ports: event.udp_ports,
            class: news.class,
            packets: news.packets,
            seq: event.seq,
            interface: port.to_owned(),
            at_ns: event.at.0,
        }));
    }

    fn on_first_packet(&mut self, sa: SaRef, at: Nanos) {
        if let Some(stored) = self.stored(sa) {
            let event = EventReport::SaFirstPacket { sa: stored.name(), at_ns: at.0 };
            self.subscribers.publish(&event);
        }
    }

    fn on_source_changed(&mut self, sa: SaRef, to: Endpoint, at: Nanos) {
        let Some(stored) = self.stored(sa) else {
            return;
        };
        let from = std::mem::replace(&mut stored.peer_at, to);
        // The first packet shows the port, which nobody could know before.
        if from.address != to.address || from.port.is_some() {
            let event = EventReport::SaAddressChanged { sa: stored.name(), from, to, at_ns: at.0 };
            self.subscribers.publish(&event);
        }
        self.followed(&sa.key, to);
    }

    fn on_path_mtu(&mut self, sa: SaRef, mtu: u16) {
        if let Some(stored) = self.stored(sa) {
            let name = stored.name();
            tracing::info!(
                spi = %name.spi, src = %name.src, dst = %name.dst, peer = name.peer, mtu,
                "a router on the path takes smaller packets only: for ten minutes the SA's packets keep to that"
            );
        }
    }

    fn on_sa_wanted(&mut self, event: &SaWanted) {
        let policy = usize::try_from(event.policy.0).ok().and_then(|number| self.policies.get(number));
        self.subscribers.publish(&EventReport::SaWanted {
            peer: policy.and_then(|policy| policy.peer.clone()),
            src: event.src,
            dst: event.dst,
            packets: event.packets.into(),
            at_ns: event.at.0,
        });
    }

    /// The SA that a core speaks of, unless it is gone or another one has its key.
    pub(super) fn stored(&mut self, sa: SaRef) -> Option<&mut StoredSa> {
        self.sas.get_mut(&order(&sa.key)).filter(|stored| stored.sa.id() == sa.id)
    }
}
