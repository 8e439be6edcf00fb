//! The network function that is measured.

use std::path::Path;
use std::sync::Arc;

use nf_core::config::{Config, PortRole};
use nf_core::control::controller::Controller;
use nf_core::core::{Command, Core};
use nf_core::net::NetPort;
use nf_core::notify::FanOut;
use nf_core::plugin::Registry;
use nf_core::sa::inbound::Sa;
use nf_core::wire::ethernet::MacAddr;

/// A network function with that many cores and no SAs.
pub(crate) fn network_function(cores: usize, capacity: usize) -> (Controller, Vec<Core>) {
    let text = format!("[[local]]\naddress = \"10.10.1.2\"\n[sad]\ncapacity = {capacity}\n");
    let config = Config::parse(&text, Path::new("nf.toml")).expect("a sound configuration");
    let port = |role, name: &str| {
        let (mac, next_hop) = (MacAddr([2, 0, 0, 0, 0, 9]), Some(MacAddr([2, 0, 0, 0, 0, 8])));
        (name.to_owned(), NetPort::new(role, mac, next_hop))
    };
    let ports = vec![port(PortRole::Unprotected, "outside"), port(PortRole::Protected, "inside")];
    Controller::new(&config, Registry::builtin(), ports, cores, FanOut::default()).expect("a network function")
}

/// Puts SAs in, in place of those with the same keys.
pub(crate) fn install(core: &mut Core, sas: impl IntoIterator<Item = Arc<Sa>>) {
    for sa in sas {
        core.apply_at_start(Command::InstallSa(sa));
    }
}
