//! `show crypto isakmp sa`, `show crypto ikev2 sa`, `show crypto ipsec sa`, `show recovery`: in the layouts that operators
//! of IOS know.

use std::fmt::Write;
use std::net::IpAddr;

use nf_core::control::proto::SaReport;
use nf_core::policy::Selector;
use nf_core::sa::spec::Direction;
use nf_ctl::agent::proto::{ChildReport, IkeReport, RecoveryReport, Status};
use serde::Serialize;

/// A line. Writing to a string can't fail.
macro_rules! line {
    ($out:ident) => {{
        $out.push('\n');
    }};
    ($out:ident, $($arg:tt)*) => {{
        let _ = writeln!($out, $($arg)*);
    }};
}

/// `show crypto isakmp sa`: all IKE SAs, as on IOS in two tables.
pub(crate) fn isakmp(list: &[IkeReport]) -> String {
    let mut out = String::new();
    for (place, version) in ["IPv4", "IPv6"].iter().enumerate() {
        line!(out, "{version} Crypto ISAKMP SA");
        line!(out, "{:<15} {:<15} {:<14} {:>7} status", "dst", "src", "state", "conn-id");
        for ike in list.iter().filter(|ike| ike.remote.is_ipv4() == (place == 0)) {
            // On IOS the destination is the responder.
            let (dst, src) = if ike.initiator { (ike.remote, ike.local) } else { (ike.local, ike.remote) };
            let state = if ike.version == 1 { "QM_IDLE" } else { "READY" };
            line!(out, "{:<15} {:<15} {state:<14} {:>7} ACTIVE", dst.ip().to_string(), src.ip().to_string(), ike.id);
        }
        if place == 0 {
            line!(out);
        }
    }
    out
}

/// `show crypto ikev2 sa`
pub(crate) fn ikev2(list: &[IkeReport]) -> String {
    let mut out = String::new();
    for (place, version) in ["IPv4", "IPv6"].iter().enumerate() {
        line!(out, " {version} Crypto IKEv2  SA\n");
        for ike in list.iter().filter(|ike| ike.version == 2 && ike.remote.is_ipv4() == (place == 0)) {
            let end = |end: std::net::SocketAddr| format!("{}/{}", end.ip(), end.port());
            line!(out, "{:<9} {:<21} {:<21} {:<20} Status", "Tunnel-id", "Local", "Remote", "fvrf/ivrf");
            line!(out, "{:<9} {:<21} {:<21} {:<20} READY", ike.id, end(ike.local), end(ike.remote), "none/none");
            line!(out, "      {}", ike.algorithms);
            line!(out, "      Life/Active Time: {}/{} sec", ike.lifetime_s, ike.age_s);
            line!(out, "      Local spi: {}       Remote spi: {}", spi_of(ike, true), spi_of(ike, false));
            line!(out, "      Local id: {}", ike.local_id);
            line!(out, "      Remote id: {}", ike.remote_id);
            let nat = |yes| if yes { "NAT" } else { "no NAT" };
            line!(out, "      Peer: {} ({}); {} here, {} there", ike.peer, ike.backend, nat(ike.nat.0), nat(ike.nat.1));
            for child in &ike.children {
                let (local, remote) = (list_of(&child.local_ts), list_of(&child.remote_ts));
                line!(out, "Child sa: local selector  {local}");
                line!(out, "          remote selector {remote}");
                line!(out, "          ESP spi in/out: 0x{:X}/0x{:X}", child.inbound_spi.0, child.outbound_spi.0);
            }
            line!(out);
        }
    }
    out
}

fn spi_of(ike: &IkeReport, ours: bool) -> String {
    let spi = if ours == ike.initiator { &ike.initiator_spi } else { &ike.responder_spi };
    spi.to_uppercase()
}

fn list_of(list: &[String]) -> String {
    if list.is_empty() { "any".to_owned() } else { list.join(", ") }
}

/// An SA with what is known of its other half.
#[derive(Serialize)]
pub(crate) struct Tunnel<'a> {
    peer: &'a str,
    remote: IpAddr,
    port: u16,
    sa: &'a SaReport,
    child: Option<&'a ChildReport>,
    outbound: Option<&'a SaReport>,
}

/// nf-core's SAs, with what the agent knows of each, if it is there.
pub(crate) fn tunnels<'a>(sas: &'a [SaReport], ikes: &'a [IkeReport]) -> Vec<Tunnel<'a>> {
    let (outbound, inbound): (Vec<_>, Vec<_>) =
        sas.iter().filter(|sa| sa.state != "larval").partition(|sa| sa.direction == Direction::Out.as_str());
    let tunnels = inbound.into_iter().map(|sa| {
        let found = ikes.iter().find_map(|ike| {
            let child = ike.children.iter().find(|child| child.inbound_spi == sa.spi)?;
            (ike.local.ip() == sa.dst).then_some((ike, child))
        });
        // Without IKE's word the pair are the SAs between the same two addresses.
        let is_pair = |out: &&&SaReport| match found {
            Some((ike, child)) => out.spi == child.outbound_spi && out.dst == ike.remote.ip(),
            None => out.src == Some(sa.dst) && Some(out.dst) == sa.src,
        };
        Tunnel {
            outbound: outbound.iter().find(is_pair).copied(),
            peer: found.map(|(ike, _)| ike.peer.as_str()).or(sa.peer.as_deref()).unwrap_or("none"),
            remote: found.map(|(ike, _)| ike.remote.ip()).or(sa.src).unwrap_or(sa.dst),
            port: found.map_or(500, |(ike, _)| ike.remote.port()),
            sa,
            child: found.map(|(_, child)| child),
        }
    });
    tunnels.collect()
}

/// `show crypto ipsec sa`
pub(crate) fn ipsec(sas: &[SaReport], ikes: &[IkeReport], detail: bool) -> String {
    let mut out = String::new();
    for tunnel in tunnels(sas, ikes) {
        tunnel_of(&mut out, &tunnel, detail);
    }
    out
}

fn tunnel_of(out: &mut String, tunnel: &Tunnel<'_>, detail: bool) {
    let Tunnel { peer, remote, port, sa, child, outbound } = tunnel;
    line!(out, "\ninterface: {peer}");
    line!(out, "    Crypto map tag: {peer}, local addr {}\n", sa.dst);
    line!(out, "   protected vrf: (none)");
    let none = Vec::new();
    let (local, far) = match child {
        Some(child) => (&child.local_ts, &child.remote_ts),
        None => (&sa.selectors.dst, &sa.selectors.src),
    };
    for (side, networks) in [("local ", local), ("remote", far)] {
        let networks = if networks.is_empty() { &none } else { networks };
        line!(out, "   {side} ident (addr/mask/prot/port): ({})", ident(networks));
    }
    line!(out, "   current_peer {remote} port {port}");
    line!(out, "     PERMIT, flags={{origin_is_acl,}}");
    let packets = sa.totals.packets;
    let (sent, failed) = outbound.map_or((0, 0), |sa| (sa.totals.packets, sa.totals.refused));
    line!(out, "    #pkts encaps: {sent}, #pkts encrypt: {sent}, #pkts digest: {sent}");
    line!(out, "    #pkts decaps: {packets}, #pkts decrypt: {packets}, #pkts verify: {packets}");
    line!(out, "    #pkts compressed: 0, #pkts decompressed: 0");
    line!(out, "    #pkts not compressed: 0, #pkts compr. failed: 0");
    line!(out, "    #pkts not decompressed: 0, #pkts decompress failed: 0");
    let replayed = sa.totals.replay_duplicate.saturating_add(sa.totals.replay_late);
    if detail {
        line!(out, "    #pkts no sa (send) 0, #pkts invalid sa (rcv) 0");
        line!(out, "    #pkts encaps failed (send) {failed}, #pkts decaps failed (rcv) {}", sa.totals.refused);
        line!(out, "    #pkts invalid prot (recv) 0, #pkts verify failed: {}", sa.totals.auth_failed);
        line!(out, "    #pkts invalid identity (recv) {}, #pkts invalid len (rcv) 0", sa.totals.refused);
        line!(out, "    #pkts replay rollover (send): 0, #pkts replay rollover (rcv) 0");
        line!(out, "    ##pkts replay failed (rcv): {replayed}");
    } else {
        let errors = replayed.saturating_add(sa.totals.auth_failed).saturating_add(sa.totals.refused);
        line!(out, "    #send errors {failed}, #recv errors {errors}");
    }
    line!(out, "\n     local crypto endpt.: {}, remote crypto endpt.: {remote}", sa.dst);
    let outbound_spi = outbound.map(|sa| sa.spi).or(child.map(|child| child.outbound_spi));
    line!(out, "     current outbound spi: {}", outbound_spi.map_or_else(|| "none".to_owned(), |it| spi(it.0)));
    line!(out, "\n     inbound esp sas:");
    half(out, sa, *child, &spi(sa.spi.0));
    line!(out, "\n     outbound esp sas:");
    if let Some(it) = outbound_spi {
        half(out, outbound.unwrap_or(sa), *child, &spi(it.0));
    }
}

fn half(out: &mut String, sa: &SaReport, child: Option<&ChildReport>, spi: &str) {
    line!(out, "      spi: {spi}");
    line!(out, "        transform: {} ,", sa.transform);
    let mode = if sa.mode == "transport" { "Transport" } else { "Tunnel" };
    let encap = if sa.encap == "udp" { " UDP-Encaps" } else { "" };
    line!(out, "        in use settings ={{{mode}{encap}, }}");
    match child {
        Some(child) => {
            let left = child.lifetime_s.saturating_sub(child.age_s);
            line!(out, "        sa timing: remaining key lifetime (sec): {left}");
        }
        None => line!(out, "        sa timing: no lifetime, installed {} s ago", sa.age_s),
    }
    line!(out, "        replay detection support: {}", if sa.replay_window == 0 { "N" } else { "Y" });
    line!(out, "        Status: ACTIVE(ACTIVE)");
}

fn spi(spi: u32) -> String {
    format!("0x{spi:X}({spi})")
}

/// Networks as IOS prints an access list's entry: address/mask/protocol/port.
fn ident(networks: &[String]) -> String {
    if networks.is_empty() {
        return "0.0.0.0/0.0.0.0/0/0".to_owned();
    }
    let shown = networks.iter().map(|text| {
        let Ok(Selector { network, upper }) = text.parse::<Selector>() else {
            return text.clone();
        };
        let mask = match network.address() {
            IpAddr::V4(_) => {
                let mask = u32::MAX.checked_shl(32u32.saturating_sub(network.length().into())).unwrap_or(0);
                std::net::Ipv4Addr::from(mask).to_string()
            }
            IpAddr::V6(_) => network.length().to_string(),
        };
        // IOS has one port, or 0 for any.
        let port = if upper.ports() == 1 { *upper.range().start() } else { 0 };
        format!("{}/{mask}/{}/{port}", network.address(), upper.protocol())
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// `show recovery`
pub(crate) fn recovery(report: &RecoveryReport) -> String {
    let mut out = String::new();
    let setting = if report.invalid_spi_recovery { "enabled" } else { "disabled" };
    line!(out, "Invalid SPI recovery: {setting}");
    let RecoveryReport { budget_left, budget_burst, budget_per_min, .. } = report;
    line!(out, "IKE messages: {budget_left} of {budget_burst} left, {budget_per_min} a minute");
    if report.decisions.is_empty() {
        line!(out, "nothing had to be decided yet");
        return out;
    }
    line!(
        out,
        "\n{:>10} {:>7} {:<16} {:<24} {:<31} {:<12} reason",
        "seconds",
        "times",
        "peer",
        "address",
        "trigger",
        "action"
    );
    for decision in &report.decisions {
        line!(
            out,
            "{:>10} {:>7} {:<16} {:<24} {:<31} {:<12} {}",
            format!("{:.3}", decision.last_ms as f64 / 1e3),
            decision.count,
            decision.peer.as_deref().unwrap_or("-"),
            decision.address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
            decision.trigger,
            decision.action,
            decision.reason
        );
    }
    out
}

/// `ike status`
pub(crate) fn ike_status(status: &Status, ikes: &[IkeReport]) -> String {
    let mut out = String::new();
    line!(out, "nf-ctl agent {}, pid {}, up {} s", status.version, status.pid, status.uptime_s);
    match &status.nf_core {
        Ok(()) => line!(out, "nf-core: connected"),
        Err(problem) => line!(out, "nf-core: {problem}"),
    }
    line!(out, "{:<16} {:<13} {:<9} {:<24} {:>7} {:>9}", "peer", "kind", "backend", "address", "IKE SAs", "CHILD_SAs");
    for peer in &status.peers {
        line!(
            out,
            "{:<16} {:<13} {:<9} {:<24} {:>7} {:>9}",
            peer.peer,
            peer.kind,
            peer.backend,
            peer.address.as_deref().unwrap_or("any"),
            peer.ike_sas,
            peer.child_sas
        );
        if let Some(problem) = &peer.problem {
            line!(out, "  {problem}");
        }
        for ike in ikes.iter().filter(|ike| ike.peer == peer.peer) {
            let role = if ike.initiator { "initiator" } else { "responder" };
            line!(out, "  IKE SA {}: {} to {}, {role}, {} s old", ike.id, ike.local, ike.remote, ike.age_s);
            for child in &ike.children {
                let used = if child.used { "carries traffic" } else { "has carried no traffic yet" };
                line!(
                    out,
                    "    CHILD_SA in {} out {}: {used}, {} s old",
                    child.inbound_spi,
                    child.outbound_spi,
                    child.age_s
                );
            }
        }
    }
    out
}
