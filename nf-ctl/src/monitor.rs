//! `nf-ctl monitor`: events, a line each, as they come.

use std::io::{ErrorKind, Write};

use nf_core::control::client::Client;
use nf_core::control::proto::{EventKind, EventReport, InvalidSpiEvent, SaId};

use crate::Error;
use crate::args::Cli;

/// Prints events until nf-core ends, nobody reads any more, or `count` have come.
pub(crate) fn run(cli: &Cli, kinds: &[EventKind], count: Option<u64>) -> Result<(), Error> {
    let mut events = Client::connect(&cli.socket)?.subscribe(kinds)?;
    let mut out = std::io::stdout().lock();
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(event) = events.next(None)? else {
            continue;
        };
        left -= 1;
        let line = if cli.json { serde_json::to_string(&event).unwrap_or_default() } else { text(&event) };
        match writeln!(out, "{line}").and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            written => written.map_err(|error| Error::File(format!("can't write the output: {error}")))?,
        }
    }
    Ok(())
}

/// An event as a line. The time is that since nf-core's start, in seconds.
pub(crate) fn text(event: &EventReport) -> String {
    let at = |ns: u64| format!("[{:>8}.{:06}]", ns / 1_000_000_000, ns / 1000 % 1_000_000);
    match event {
        EventReport::InvalidSpi(InvalidSpiEvent {
            spi,
            src,
            dst,
            udp_ports,
            class,
            packets,
            seq,
            interface,
            at_ns,
        }) => {
            let udp = udp_ports.map(|(src, dst)| format!(", UDP {src}>{dst}")).unwrap_or_default();
            let class = class.as_str();
            let at = at(*at_ns);
            format!(
                "{at} invalid-spi: {spi} from {src} to {dst}{udp}, {class}, packets {packets}, seq {seq}, on {interface}"
            )
        }
        EventReport::SaFirstPacket { sa, at_ns } => format!("{} sa-first-packet: {}", at(*at_ns), name(sa)),
        EventReport::SaLifetime { sa, limit, unit, at_ns } => {
            format!("{} sa-lifetime: {}: {} limit of {}", at(*at_ns), name(sa), limit.as_str(), unit.as_str())
        }
        EventReport::SaReplay { sa, packets, at_ns } => {
            format!("{} sa-replay: {}: packets {packets}", at(*at_ns), name(sa))
        }
        EventReport::SaAuthFailure { sa, packets, at_ns } => {
            format!("{} sa-auth-failure: {}: packets {packets}", at(*at_ns), name(sa))
        }
        EventReport::SaAddressChanged { sa, from, to, at_ns } => {
            format!("{} sa-address-changed: {}: {from} -> {to}", at(*at_ns), name(sa))
        }
        EventReport::SaReservationExpired { spi, dst, src, at_ns } => {
            let src = src.map(|src| format!(" from {src}")).unwrap_or_default();
            format!("{} sa-reservation-expired: {spi}{src} to {dst}", at(*at_ns))
        }
        EventReport::RecoveryFailed { peer, src, spi, reason, at_ns } => {
            let src = src.map(|src| format!(" at {src}")).unwrap_or_default();
            let spi = spi.map(|spi| format!(", {spi}")).unwrap_or_default();
            format!("{} recovery-failed: peer {peer}{src}{spi}: {reason}", at(*at_ns))
        }
        EventReport::SaWanted { peer, src, dst, packets, at_ns } => {
            let peer = peer.as_ref().map(|peer| format!("peer {peer}, ")).unwrap_or_default();
            format!("{} sa-wanted: {peer}packets {packets} from {src} to {dst}", at(*at_ns))
        }
        EventReport::Lost { count } => format!("lost: {count} events, for this reader was too slow"),
        EventReport::Unknown => "an event of a later release".to_owned(),
    }
}

fn name(sa: &SaId) -> String {
    let peer = sa.peer.as_ref().map(|peer| format!(", peer {peer}")).unwrap_or_default();
    format!("{} from {} to {}{peer}", sa.spi, sa.src, sa.dst)
}
