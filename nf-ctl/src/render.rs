//! Tables as text. Drop tables have the layout of IOS XE; columns split at white space.

use std::fmt::Write;

use nf_core::control::audit::AuditEntry;
use nf_core::control::proto::{PluginReport, PortReport, SaReport, Status};
use nf_core::counters::{Report, Tally};
use nf_core::drop::GlobalDrop;
use nf_core::notify::{Class, NotifyReport};
use nf_core::sa::lifetime::Limits;
use nf_core::sa::spec::Direction;
use nf_core::stage::RuntimeReport;
use serde::Serialize;

/// As JSON.
pub(crate) fn json(report: &impl Serialize) -> String {
    serde_json::to_string_pretty(report).unwrap_or_default() + "\n"
}

/// A line. Writing to a string can't fail.
macro_rules! line {
    ($out:ident, $($arg:tt)*) => {{
        let _ = writeln!($out, $($arg)*);
    }};
}

/// `show platform hardware qfp active statistics drop`
pub(crate) fn global_drops(report: &Report) -> String {
    let mut out = String::new();
    let rule = "-".repeat(73);
    line!(out, "{rule}");
    line!(out, "{:<30}{:>19}{:>24}", "Global Drop Stats", "Packets", "Octets");
    line!(out, "{rule}");
    for name in GlobalDrop::ALL {
        let Tally { packets, octets } = report.global.get(name.name()).copied().unwrap_or_default();
        line!(out, "{:<30}{packets:>19}{octets:>24}", name.name());
    }
    out
}

/// `show platform hardware qfp active feature ipsec datapath drops`
pub(crate) fn feature_drops(report: &Report, all: bool) -> String {
    let mut out = String::new();
    let rule = "-".repeat(72);
    line!(out, "{rule}");
    line!(out, "{:>9}  {:<36} {:>11}", "Drop Type", "Name", "Packets");
    line!(out, "{rule}");
    for row in report.feature.iter().filter(|row| all || row.packets > 0) {
        line!(out, "{:>9}  {:<36} {:>11}", row.index, row.name, row.packets);
    }
    out
}

/// `show counters`
pub(crate) fn counters(report: &Report, cores: &[Report]) -> String {
    let mut out = String::new();
    line!(out, "{:<45}{:>16}{:>20}", "", "Packets", "Octets");
    let mut row = |name: &str, tally: Tally| line!(out, "{name:<45}{:>16}{:>20}", tally.packets, tally.octets);
    row("received", report.rx);
    row("sent", report.tx);
    if report.originated.packets > 0 {
        row("made here", report.originated);
    }
    for (name, tally) in &report.consumed {
        row(&format!("consumed: {name}"), *tally);
    }
    for drop in report.feature.iter().filter(|drop| drop.packets > 0) {
        row(&format!("dropped: {}", drop.name), Tally { packets: drop.packets, octets: drop.octets });
    }
    if report.in_flight > 0 {
        line!(out, "with the crypto device: {}", report.in_flight);
    }
    line!(out, "events lost: {}", report.events_lost);
    if cores.is_empty() {
        return out;
    }
    // What was received, or made here, is sent, consumed, dropped or under way: nothing else can become of it.
    line!(out, "\nSince the start");
    line!(out, "{:<6}{:>16}{:>16}{:>16}{:>16}{:>11}", "Core", "Received", "Sent", "Consumed", "Dropped", "Under way");
    for (core, report) in cores.iter().enumerate() {
        let consumed: u64 = report.consumed.values().map(|tally| tally.packets).sum();
        let dropped: u64 = report.feature.iter().map(|row| row.packets).sum();
        let ended = report.tx.packets.saturating_add(consumed).saturating_add(dropped);
        line!(
            out,
            "{core:<6}{:>16}{:>16}{consumed:>16}{dropped:>16}{:>11}",
            report.rx.packets,
            report.tx.packets,
            i128::from(report.rx.packets) + i128::from(report.originated.packets) - i128::from(ended)
        );
    }
    out
}

/// `show audit`
pub(crate) fn audit(entries: &[AuditEntry]) -> String {
    let mut out = String::new();
    line!(out, "{:<25}{:<14}{:<18}{:>8}  {:<7} change", "time (UTC)", "program", "user", "pid", "result");
    for entry in entries {
        let uid = entry.uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string());
        let user = entry.user.as_ref().map_or_else(|| uid.clone(), |user| format!("{user}({uid})"));
        let pid = entry.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let (time, program, result) = (&entry.time, &entry.program, entry.result.as_str());
        let error = entry.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        line!(out, "{time:<25}{program:<14}{user:<18}{pid:>8}  {result:<7} {}{error}", entry.request);
    }
    out
}

/// `show runtime`
pub(crate) fn runtime(cores: &[RuntimeReport]) -> String {
    let mut out = String::new();
    for (number, core) in cores.iter().enumerate() {
        line!(out, "Core {number}: {} polls, {} of them empty", core.polls, core.empty_polls);
        let (handed_on, kept, taken_over) = (core.handed_on, core.kept, core.taken_over);
        if handed_on + kept + taken_over > 0 {
            line!(
                out,
                "  {handed_on} packets handed on to other cores, {kept} kept as those were full, {taken_over} taken over"
            );
        }
        line!(
            out,
            "  {:<14}{:>14}{:>16}{:>18}{:>15}{:>15}{:>8}",
            "Stage",
            "Bursts",
            "Packets",
            "Clocks",
            "Packets/burst",
            "Clocks/packet",
            "Share"
        );
        let total = core.stages.iter().fold(core.empty_clocks, |sum, stage| sum.saturating_add(stage.clocks));
        let share = |clocks: u64| clocks as f64 * 100.0 / total.max(1) as f64;
        for stage in core.stages.iter().filter(|stage| stage.bursts > 0) {
            line!(
                out,
                "  {:<14}{:>14}{:>16}{:>18}{:>15.1}{:>15.1}{:>7.1}%",
                stage.stage,
                stage.bursts,
                stage.packets,
                stage.clocks,
                stage.packets_per_burst(),
                stage.clocks_per_packet(),
                share(stage.clocks)
            );
        }
        let (polls, clocks) = (core.empty_polls, core.empty_clocks);
        line!(
            out,
            "  {:<14}{polls:>14}{:>16}{clocks:>18}{:>15}{:>15}{:>7.1}%",
            "empty polls",
            0,
            "-",
            "-",
            share(clocks)
        );
    }
    out
}

/// `show invalid-spi`
pub(crate) fn invalid_spi(report: &NotifyReport) -> String {
    let mut out = String::new();
    line!(
        out,
        "packets {}: reported {}, suppressed {}; messages {}; flows {}, evicted {}",
        report.packets,
        report.events,
        report.packets.saturating_sub(report.events),
        report.messages,
        report.flows_tracked,
        report.flows_evicted
    );
    if report.flows.is_empty() {
        return out;
    }
    line!(
        out,
        "{:<24} {:<24} {:<23} {:<11} {:<10} {:>8} {:>8} {:>8} {:>8}",
        "source",
        "destination",
        "SPI",
        "UDP ports",
        "class",
        "first s",
        "last s",
        "events",
        "messages"
    );
    for flow in &report.flows {
        let ports = flow.udp_ports.map_or_else(|| "-".to_owned(), |(src, dst)| format!("{src}>{dst}"));
        line!(
            out,
            "{:<24} {:<24} {:<23} {ports:<11} {:<10} {:>8} {:>8} {:>8} {:>8}",
            flow.src.to_string(),
            flow.dst.to_string(),
            flow.spi.to_string(),
            flow.class.as_str(),
            flow.first_seen_s,
            flow.last_seen_s,
            flow.events,
            flow.messages
        );
    }
    let stuck = report.flows.iter().filter(|flow| flow.class == Class::Stuck).count();
    if stuck > 0 {
        line!(out, "{stuck} stuck: these peers are black-holed until they renegotiate");
    }
    out
}

/// `sa list`
pub(crate) fn sa_list(list: &[SaReport]) -> String {
    let mut out = String::new();
    line!(
        out,
        "{:<23} {:<3} {:<24} {:<24} {:<9} {:<8} {:<30} {:>12} {:>14}  peer",
        "SPI",
        "dir",
        "source",
        "destination",
        "mode",
        "state",
        "transform",
        "packets",
        "octets"
    );
    for sa in list {
        line!(
            out,
            "{:<23} {:<3} {:<24} {:<24} {:<9} {:<8} {:<30} {:>12} {:>14}  {}",
            sa.spi.to_string(),
            sa.direction,
            source(sa),
            sa.dst.to_string(),
            or_dash(&sa.mode),
            sa.state,
            or_dash(&sa.transform),
            sa.totals.packets,
            sa.totals.octets,
            or_dash(sa.peer.as_deref().unwrap_or_default())
        );
    }
    out
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn source(sa: &SaReport) -> String {
    sa.src.map_or_else(|| "any".to_owned(), |src| src.to_string())
}

/// `sa show`
pub(crate) fn sa(sa: &SaReport) -> String {
    let mut out = String::new();
    let networks = |list: &[String]| if list.is_empty() { "any".to_owned() } else { list.join(", ") };
    line!(out, "spi: {}", sa.spi);
    if let Some(peer) = &sa.peer {
        line!(out, "  peer: {peer}");
    }
    // Of a larval SA there is nothing else to tell.
    if sa.transform.is_empty() {
        line!(out, "  src {} dst {}", source(sa), sa.dst);
        line!(out, "  state: {}, reserved {} s ago", sa.state, sa.age_s);
        return out;
    }
    line!(out, "  direction: {}", sa.direction);
    line!(out, "  src {} dst {}, {} mode, encapsulation {}", source(sa), sa.dst, sa.mode, sa.encap);
    line!(out, "  transform: {}{}", sa.transform, if sa.esn { ", extended sequence numbers" } else { "" });
    line!(out, "  selectors: src {}; dst {}", networks(&sa.selectors.src), networks(&sa.selectors.dst));
    line!(out, "  state: {}, installed {} s ago", sa.state, sa.age_s);
    line!(out, "  lifetime: soft {}; hard {}", limits(&sa.lifetime.soft), limits(&sa.lifetime.hard));
    if let Some(source) = &sa.source {
        line!(out, "  packets come from {source}");
    }
    if let Some(destination) = sa.destination.filter(|to| to.port.is_some()) {
        line!(out, "  packets go to {destination}");
    }
    if let Some(mtu) = sa.path_mtu {
        line!(out, "  path MTU {mtu}");
    }
    if sa.direction == Direction::Out.as_str() {
        line!(out, "  highest sequence number: {}", sa.highest_seq.map_or("none".to_owned(), |seq| seq.to_string()));
        line!(out, "  #pkts encaps: {}, octets: {}", sa.totals.packets, sa.totals.octets);
        line!(out, "  #pkts encaps failed (send): {}", sa.totals.refused);
        return out;
    }
    match sa.replay_window {
        0 => line!(out, "  replay detection support: N"),
        window => line!(out, "  replay detection support: Y, window {window}"),
    }
    line!(out, "  highest sequence number: {}", sa.highest_seq.map_or("none".to_owned(), |seq| seq.to_string()));
    line!(out, "  #pkts decaps: {}, octets: {}", sa.totals.packets, sa.totals.octets);
    line!(out, "  #pkts replay failed (rcv): duplicate {}, late {}", sa.totals.replay_duplicate, sa.totals.replay_late);
    line!(out, "  #pkts verify failed: {}, refused after decryption: {}", sa.totals.auth_failed, sa.totals.refused);
    out
}

fn limits(limits: &Limits) -> String {
    let parts = [(limits.bytes, "octets"), (limits.packets, "packets"), (limits.seconds, "s")];
    let parts: Vec<String> = parts.iter().filter_map(|(limit, unit)| Some(format!("{} {unit}", (*limit)?))).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// `plugin list`
pub(crate) fn plugins(report: &PluginReport) -> String {
    let mut out = String::new();
    for plugin in &report.plugins {
        line!(out, "plugin {}: {} (gates: {})", plugin.name, plugin.about, plugin.gates.join(", "));
    }
    for instance in &report.instances {
        line!(out, "instance {} of {}", instance.instance, instance.plugin);
        for binding in &instance.bindings {
            line!(out, "  bound to {} at priority {}, filter {}", binding.gate, binding.priority, binding.filter);
        }
        if !instance.status.is_null() {
            line!(out, "  {}", instance.status);
        }
    }
    out
}

/// `show status`
pub(crate) fn status(status: &Status) -> String {
    let mut out = String::new();
    line!(out, "nf-core {} on {}, pid {}, up {} s", status.version, status.dpdk, status.pid, status.uptime_s);
    line!(out, "workers: {}; crypto engine: {}; SAs: {}", status.cores, status.engine, status.sas);
    out + &ports(&status.ports)
}

/// `show interfaces`
pub(crate) fn ports(ports: &[PortReport]) -> String {
    let mut out = String::new();
    for port in ports {
        line!(
            out,
            "{} ({}, {}): link {}, mac {}, {} rx queues",
            port.name,
            port.role,
            port.driver,
            if port.link_up { "up" } else { "down" },
            port.mac,
            port.rx_queues
        );
        let offloads = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        line!(out, "  offloads: rx {}; tx {}", offloads(&port.rx_offloads), offloads(&port.tx_offloads));
        line!(
            out,
            "  received {}, sent {}; missed {}, rx errors {}, no buffer {}, tx errors {}",
            port.rx_packets,
            port.tx_packets,
            port.rx_missed,
            port.rx_errors,
            port.rx_no_buffer,
            port.tx_errors
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use nf_core::counters::CoreCounters;
    use nf_core::drop::DropReason;

    use super::*;

    fn report() -> Report {
        let core = CoreCounters::default();
        core.rx().add(64_580, 9_000_000);
        core.tx().add(5, 700);
        core.drops(DropReason::UnknownSpiV4).add(64_574, 8_999_000);
        core.drops(DropReason::UnknownSpiV6).add(1, 100);
        core.snapshot().report()
    }

    #[test]
    fn global_drops_have_the_layout_of_ios_xe() {
        let expected = "\
-------------------------------------------------------------------------
Global Drop Stats                         Packets                  Octets
-------------------------------------------------------------------------
IpsecDenyDrop                                   0                       0
IpsecIkeIndicate                                0                       0
IpsecInput                                  64575                 8999100
IpsecInvalidSa                                  0                       0
IpsecOutput                                     0                       0
IpsecTailDrop                                   0                       0
IpsecTedIndicate                                0                       0
";
        assert_eq!(global_drops(&report()), expected);
    }

    #[test]
    fn feature_drops_show_what_is_not_zero_and_all_shows_all() {
        let expected = "\
------------------------------------------------------------------------
Drop Type  Name                                     Packets
------------------------------------------------------------------------
        4  IN_US_V4_PKT_SA_NOT_FOUND_SPI              64574
       12  IN_US_V6_PKT_SA_NOT_FOUND_SPI                  1
";
        assert_eq!(feature_drops(&report(), false), expected);
        let all = feature_drops(&report(), true);
        assert_eq!(all.lines().count(), 3 + DropReason::COUNT);
        assert!(all.contains("        7  IN_TRANS_V4_IPSEC_PKT_NOT_FOUND_SPI            0\n"), "{all}");
    }

    #[test]
    fn columns_split_at_white_space() {
        for reason in DropReason::ALL {
            let all = feature_drops(&report(), true);
            let row = all.lines().find(|line| line.contains(reason.info().name)).unwrap();
            let columns: Vec<&str> = row.split_whitespace().collect();
            assert_eq!(columns[0], reason.info().index.to_string());
            assert_eq!(columns.len(), 3);
        }
    }
}
