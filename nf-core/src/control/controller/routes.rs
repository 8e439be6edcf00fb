//! Routes and neighbours, on their way to the cores.

use crate::config::Config;
use crate::route::{Neighbour, Neighbours, Route, Routes, Target};
use crate::types::PortIndex;

/// Those of the configuration. What names a port that isn't open is left out: a replay has ports of its own.
pub(super) fn of_config(config: &Config, ports: &[String]) -> (Routes, Neighbours) {
    let find = |name: &str| ports.iter().position(|port| port == name).map(|index| PortIndex(index as u8));
    let routes = config.routes.iter().filter_map(|route| {
        let target = Target::Port { port: find(&route.port)?, via: route.via };
        Some(Route { dst: route.dst, target })
    });
    let neighbours = config.neighbours.iter().filter_map(|neighbour| {
        let port = find(&neighbour.port)?;
        Some(Neighbour { address: neighbour.address, mac: neighbour.mac, port })
    });
    (routes.collect(), neighbours.collect())
}
