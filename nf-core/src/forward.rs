//! Where a decapsulated packet leaves, and what changes on the way: TTL, Ethernet header.

use crate::batch::Batch;
use crate::config::PortRole;
use crate::core::CoreCx;
use crate::drop::DropReason;
use crate::lanes::Lanes;
use crate::net::Net;
use crate::packet::Packet;
use crate::plugin::Gate;
use crate::types::PortIndex;
use crate::wire::{IpVersion, ethernet, ipv4, ipv6};

/// Gives each decapsulated packet its output port's Ethernet header and sends it to the egress gate.
pub fn process(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
    let outputs = Outputs::new(core.net);
    for lane in lanes {
        match prepare(core.net, outputs, batch.packet_mut(lane)) {
            Ok(()) => batch.send_to(lane, Gate::Egress),
            Err(why) => batch.drop(lane, why),
        }
    }
}

/// Lets packets that have passed the egress gate leave on their ports.
pub fn transmit(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
    let outputs = Outputs::new(core.net);
    for lane in lanes {
        match outputs.of(batch.packet(lane)) {
            Some(port) => batch.transmit(lane, port),
            None => batch.drop(lane, DropReason::NoRoute),
        }
    }
}

/// Where packets can go.
#[derive(Clone, Copy)]
struct Outputs {
    host: Option<PortIndex>,
    protected: Option<PortIndex>,
}

impl Outputs {
    fn new(net: &Net) -> Outputs {
        Outputs { host: net.first(PortRole::Exception), protected: net.first(PortRole::Protected) }
    }

    /// What is for this host goes to its stack where there is a port to it; all else goes to the protected network.
    #[inline]
    fn of(self, packet: &Packet<'_>) -> Option<PortIndex> {
        let for_host = packet.decapsulated().is_some_and(|packet| packet.for_host);
        let host = if for_host { self.host } else { None };
        host.or(self.protected)
    }
}

#[inline]
fn prepare(net: &Net, outputs: Outputs, packet: &mut Packet<'_>) -> Result<(), DropReason> {
    let port = outputs.of(packet).and_then(|index| net.port(index)).ok_or(DropReason::NoRoute)?;
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
