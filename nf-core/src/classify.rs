//! Where a received packet goes: ESP to us on to its gate, the host's own traffic to the exception port.

use std::net::{IpAddr, Ipv4Addr};

use crate::batch::Batch;
use crate::config::PortRole;
use crate::core::CoreCx;
use crate::counters::Consumed;
use crate::drop::DropReason;
use crate::lanes::{Lane, Lanes};
use crate::net::Net;
use crate::packet::Packet;
use crate::path_mtu;
use crate::plugin::Gate;
use crate::types::PortIndex;
use crate::wire::{IpVersion, Kind, protocol};

/// Sends each packet on its way, by what it is, where it is for, and which port it came from.
pub fn process(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
    let mut local = LocalMemo { net: core.net, usual: None, last: None };
    let mut esp = lanes;
    for lane in lanes {
        if !local.is_usual(batch.packet(lane)) && !is_esp_to_us(core, &mut local, batch, lane) {
            esp.remove(lane);
        }
    }
    batch.send_all_to(esp, Gate::EspInput);
}

/// Whether a packet is ESP to us; one that isn't is sent on its way.
#[inline(never)]
fn is_esp_to_us(core: &mut CoreCx<'_>, local: &mut LocalMemo<'_>, batch: &mut Batch<'_>, lane: Lane) -> bool {
    let packet = batch.packet(lane);
    match core.net.port(packet.port()).map(|port| port.role) {
        Some(PortRole::Unprotected) if local.is_esp_to_us(packet) => return true,
        Some(PortRole::Unprotected) => other_from_unprotected(core, local, batch, lane),
        Some(PortRole::Protected) => from_protected(core, local, batch, lane),
        // The host's stack sends: out to the network with it.
        Some(PortRole::Exception) | None => match core.net.from_host(packet.port()) {
            Some(port) => batch.transmit(lane, port),
            None => batch.drop(lane, DropReason::NoRoute),
        },
    }
    false
}

/// Whether addresses are ours. Most packets of a burst are for the same one.
struct LocalMemo<'n> {
    net: &'n Net,
    /// Where the last ESP to us was received, and its destination, of IPv4.
    usual: Option<(PortIndex, Ipv4Addr)>,
    last: Option<(IpAddr, bool)>,
}

impl LocalMemo<'_> {
    /// Whether a packet is ESP to us, by what is known of the one before.
    #[inline(always)]
    fn is_usual(&self, packet: &Packet<'_>) -> bool {
        let (Some((port, dst)), headers) = (self.usual, packet.headers()) else {
            return false;
        };
        headers.is_esp() && headers.v4().is_some_and(|v4| v4.dst() == dst) && packet.port() == port
    }

    /// Whether a packet is ESP to us.
    fn is_esp_to_us(&mut self, packet: &Packet<'_>) -> bool {
        let is_it = packet.headers().is_esp() && self.is_for_us(packet);
        if is_it && let Some(v4) = packet.headers().v4() {
            self.usual = Some((packet.port(), v4.dst()));
        }
        is_it
    }

    /// Whether a packet is for us.
    #[inline(never)]
    fn is_for_us(&mut self, packet: &Packet<'_>) -> bool {
        let Some(dst) = packet.outer_dst() else {
            return false;
        };
        let local = match self.last {
            Some((last, local)) if last == dst => local,
            _ => self.net.is_local(dst),
        };
        self.last = Some((dst, local));
        local
    }
}

/// All but ESP to us.
#[inline(never)]
fn other_from_unprotected(core: &mut CoreCx<'_>, local: &mut LocalMemo<'_>, batch: &mut Batch<'_>, lane: Lane) {
    let packet = batch.packet(lane);
    let headers = packet.headers();
    let for_us = local.is_for_us(packet);
    match headers.kind {
        Kind::Other if for_us => {
            if matches!(headers.protocol(), protocol::ICMP | protocol::ICMPV6) {
                path_mtu::notice(core, packet);
            }
            except(core, batch, lane, DropReason::NotForUs);
        }
        Kind::Fragment if for_us => batch.reassemble(lane),
        Kind::NatKeepalive if for_us => batch.consume(lane, Consumed::NatKeepalive),
        Kind::Faulty(reason) if for_us => batch.drop(lane, reason),
        Kind::Esp if headers.version() == Some(IpVersion::V4) => {
            except(core, batch, lane, DropReason::TransitUnknownSpiV4);
        }
        Kind::Esp | Kind::EspInUdp => except(core, batch, lane, DropReason::NotForUs),
        // What the protected network takes from outside comes through a tunnel (RFC 4301 5.2). The host's stack, which
        // may have routes there, mustn't see it.
        _ if !for_us && enters_in_clear(core.net, batch.packet(lane)) => batch.drop(lane, DropReason::ClearInput),
        _ => except(core, batch, lane, DropReason::NotForUs),
    }
}

/// Whether a packet from outside, which isn't ESP, would be routed to the protected network.
fn enters_in_clear(net: &Net, packet: &Packet<'_>) -> bool {
    let dst = packet.outer_dst();
    dst.is_some_and(|dst| !net.is_host(dst) && net.leads_to(dst, PortRole::Protected))
}

#[inline(never)]
fn from_protected(core: &CoreCx<'_>, local: &mut LocalMemo<'_>, batch: &mut Batch<'_>, lane: Lane) {
    let packet = batch.packet(lane);
    let headers = packet.headers();
    let for_us = local.is_for_us(packet);
    match headers.kind {
        Kind::Esp | Kind::EspInUdp if for_us => not_enabled(batch, [lane].into_iter().collect()),
        _ if passes_through(core.net, packet) => batch.forward(lane),
        _ => except(core, batch, lane, DropReason::NotForUs),
    }
}

/// Whether a packet from the protected network is one to be forwarded: sent to us as to a router, for another host.
fn passes_through(net: &Net, packet: &Packet<'_>) -> bool {
    let Some(dst) = packet.outer_dst() else {
        return false;
    };
    let to_port = net.port(packet.port()).is_some_and(|port| port.mac == packet.received_macs().dst());
    to_port && net.forwards() && is_forwardable(dst) && !net.is_host(dst)
}

/// Whether a router may forward packets to an address: groups and what is valid on one link alone stay here.
fn is_forwardable(dst: IpAddr) -> bool {
    match dst {
        IpAddr::V4(dst) => {
            !(dst.is_multicast()
                || dst.is_broadcast()
                || dst.is_link_local()
                || dst.is_loopback()
                || dst.octets()[0] == 0)
        }
        IpAddr::V6(dst) => {
            !(dst.is_multicast() || dst.is_unicast_link_local() || dst.is_loopback() || dst.is_unspecified())
        }
    }
}

/// To the host's stack, or dropped for `reason` where there is no way to it.
fn except(core: &CoreCx<'_>, batch: &mut Batch<'_>, lane: Lane, reason: DropReason) {
    match core.net.host(batch.packet(lane).port()) {
        Some(port) => batch.transmit(lane, port),
        None => batch.drop(lane, reason),
    }
}

/// Drops ESP for which nothing is bound that would decapsulate it.
pub fn not_enabled(batch: &mut Batch<'_>, lanes: Lanes) {
    for lane in lanes {
        let reason = match batch.packet(lane).headers().version() {
            Some(IpVersion::V6) => DropReason::NotEnabledV6,
            _ => DropReason::NotEnabledV4,
        };
        batch.drop(lane, reason);
    }
}
