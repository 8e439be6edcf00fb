//! Where a decapsulated packet leaves, and what changes on the way: TTL, Ethernet header.

use crate::batch::Batch;
use crate::config::PortRole;
use crate::core::CoreCx;
use crate::drop::DropReason;
use crate::lanes::{Lane, Lanes};
use crate::plugin::Gate;
use crate::types::PortIndex;
use crate::wire::{IpVersion, ethernet, ipv4, ipv6};

/// Gives each decapsulated packet its output port's Ethernet header and sends it to the egress gate.
pub fn process(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
    for lane in lanes {
        match prepare(core, batch, lane) {
            Ok(()) => batch.send_to(lane, Gate::Egress),
            Err(why) => batch.drop(lane, why),
        }
    }
}

/// Lets packets that have passed the egress gate leave on their ports.
pub fn transmit(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
    for lane in lanes {
        match output_port(core, batch, lane) {
            Some(port) => batch.transmit(lane, port),
            None => batch.drop(lane, DropReason::NoRoute),
        }
    }
}

/// What is for this host goes to its stack where there is a port to it; all else goes to the protected network.
fn output_port(core: &CoreCx<'_>, batch: &Batch<'_>, lane: Lane) -> Option<PortIndex> {
    let for_host = batch.packet(lane).decapsulated().is_some_and(|packet| packet.for_host);
    let host = if for_host { core.net.first(PortRole::Exception) } else { None };
    host.or_else(|| core.net.first(PortRole::Protected))
}

fn prepare(core: &CoreCx<'_>, batch: &mut Batch<'_>, lane: Lane) -> Result<(), DropReason> {
    let index = output_port(core, batch, lane).ok_or(DropReason::NoRoute)?;
    let port = core.net.port(index).ok_or(DropReason::NoRoute)?;
    let packet = batch.packet_mut(lane);
    let (received_dst, received_src) = packet.received_macs();
    let decapsulated = packet.decapsulated().ok_or(DropReason::NoRoute)?;
    let (version, for_host) = (decapsulated.inner.version, decapsulated.for_host);

    // A router takes one off the TTL of what it forwards; what is for the host itself isn't forwarded.
    if !for_host {
        let may_pass = match version {
            IpVersion::V4 => ipv4::decrement_ttl(packet.data_mut()),
            IpVersion::V6 => ipv6::decrement_hop_limit(packet.data_mut()),
        };
        if !may_pass {
            return Err(DropReason::TtlExpired);
        }
    }
    let (dst, src) = match port.next_hop {
        Some(next_hop) => (next_hop, port.mac),
        None => (received_dst, received_src),
    };
    let header = packet.prepend::<{ ethernet::HEADER_LEN }>().ok_or(DropReason::NoBuffer)?;
    ethernet::write_header(header, dst, src, version.ethertype());
    Ok(())
}
