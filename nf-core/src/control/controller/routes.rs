//! Routes and neighbours, on their way to the cores: those of the configuration, and those of the host.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Controller, tell_all};
use crate::config::Config;
use crate::core::Command;
use crate::net::Net;
use crate::route::{HostTables, Neighbour, Route, Target};
use crate::types::PortIndex;

/// Next hops that may wait to be resolved: a core asks for 64 a second at most.
const MAX_QUESTIONS: usize = 1024;

/// What the control thread knows of routing.
#[derive(Default)]
pub(super) struct Routing {
    routes: Vec<Route>,
    neighbours: Vec<Neighbour>,
    host: HostTables,
    /// Next hops that the cores want resolved.
    questions: Vec<(PortIndex, IpAddr)>,
    /// Whether the cores are still to be told of a change.
    pending: bool,
}

impl Routing {
    /// That of the configuration. What names a port that isn't open is left out: a replay has ports of its own.
    pub(super) fn new(config: &Config, ports: &[String]) -> Routing {
        let mut routing = Routing::default();
        routing.configure(config, ports);
        routing
    }

    /// Takes those of another configuration.
    pub(super) fn configure(&mut self, config: &Config, ports: &[String]) {
        let find = |name: &str| ports.iter().position(|port| port == name).map(|index| PortIndex(index as u8));
        let routes = config.routes.iter().filter_map(|route| {
            let target = Target::Port { port: find(&route.port)?, via: route.via };
            Some(Route { dst: route.dst, target })
        });
        let neighbours = config.neighbours.iter().filter_map(|neighbour| {
            let port = find(&neighbour.port)?;
            Some(Neighbour { address: neighbour.address, mac: neighbour.mac, port })
        });
        self.routes = routes.collect();
        self.neighbours = neighbours.collect();
    }

    /// The ports' network with all of it. Where the configuration and the host contradict each other, the
    /// configuration wins.
    pub(super) fn apply_to(&self, net: &Net) -> Net {
        let routes = self.host.routes.iter().chain(&self.routes).copied().collect();
        let neighbours = self.host.neighbours.iter().chain(&self.neighbours).copied().collect();
        net.with_routes(Arc::new(routes), Arc::new(neighbours)).with_host_addresses(&self.host.addresses)
    }

    /// Notes that a core wants a next hop resolved.
    pub(super) fn ask(&mut self, port: PortIndex, address: IpAddr) {
        if self.questions.len() < MAX_QUESTIONS {
            self.questions.push((port, address));
        }
    }
}

impl Controller {
    /// Takes the host's routes and neighbours, in place of those before. The cores have them a moment later.
    pub fn set_host_tables(&mut self, tables: HostTables) {
        tracing::debug!(
            routes = tables.routes.len(),
            neighbours = tables.neighbours.len(),
            addresses = tables.addresses.len(),
            "the host's routes and neighbours have changed"
        );
        self.routing.host = tables;
        self.net = Arc::new(self.routing.apply_to(&self.net));
        self.routing.pending = true;
        self.tell_routes();
    }

    /// The next hops that the cores want resolved, each with the port on whose link it is.
    pub fn take_unresolved(&mut self) -> Vec<(PortIndex, IpAddr)> {
        std::mem::take(&mut self.routing.questions)
    }

    /// Tells the cores of routes, as long as they haven't heard of them.
    pub(super) fn tell_routes(&mut self) {
        if self.routing.pending {
            let net = &self.net;
            self.routing.pending = !tell_all(&mut self.cores, || Command::SetNet(Arc::clone(net)));
        }
    }
}
