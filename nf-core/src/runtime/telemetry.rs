//! Commands of DPDK's telemetry: `dpdk-telemetry.py` and what builds on it find nf-core beside ethdev's and EAL's.
//!
//! They are answered on DPDK's thread, from the control socket, as any client is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dpdk_rs::Eal;
use dpdk_rs::telemetry::{Array, Entry, Value, register};

use super::Error;
use crate::control::client::{Client, ClientError};
use crate::control::proto::{Request, SaName, SaReport, Status};
use crate::counters::{Report, Tally};
use crate::types::Spi;

/// How long nf-core may take for an answer: DPDK's thread serves one client at a time.
const PATIENCE: Duration = Duration::from_secs(2);
/// SPIs in a list: as many as DPDK has room for.
const SPIS: usize = 512;

type Answer = fn(&mut Client, &str) -> Result<Value, ClientError>;

/// Registers all commands. They work for as long as the control socket is served.
pub(super) fn register_all(eal: Eal, socket: &Path) -> Result<(), Error> {
    let commands: [(&str, &str, Answer); 3] = [
        ("/nf_core/stats", "Packets received, sent, consumed and dropped, since the start. No parameters", stats),
        ("/nf_core/drops", "Packets dropped since the start, by drop reason. No parameters", drops),
        ("/nf_core/sas", "SPIs of the SAs; with an SPI as parameter, that SA", sas),
    ];
    for (command, help, answer) in commands {
        let socket: PathBuf = socket.to_owned();
        let handler = move |params: &str| {
            let asked = Client::connect_within(&socket, PATIENCE).and_then(|mut client| answer(&mut client, params));
            asked.unwrap_or_else(|error| Value::Text(error.to_string()))
        };
        register(eal, command, help, Box::new(handler))?;
    }
    Ok(())
}

fn number(name: &str, number: u64) -> (String, Entry) {
    (name.to_owned(), Entry::U64(number))
}

fn cores(client: &mut Client) -> Result<Vec<Report>, ClientError> {
    client.call(&Request::CoreCounters {})
}

fn stats(client: &mut Client, _: &str) -> Result<Value, ClientError> {
    let cores = cores(client)?;
    let status: Status = client.call(&Request::Status {})?;
    let sum = |tally: fn(&Report) -> Tally| cores.iter().map(tally).fold(Tally::default(), |sum, tally| sum + tally);
    let (rx, tx) = (sum(|core| core.rx), sum(|core| core.tx));
    let consumed = sum(|core| core.consumed.values().fold(Tally::default(), |sum, tally| sum + *tally));
    let dropped = cores.iter().flat_map(|core| &core.feature).map(|row| row.packets).sum();
    Ok(Value::Dict(vec![
        number("uptime_s", status.uptime_s),
        number("cores", cores.len() as u64),
        number("sas", status.sas as u64),
        number("rx_packets", rx.packets),
        number("rx_octets", rx.octets),
        number("tx_packets", tx.packets),
        number("tx_octets", tx.octets),
        number("consumed_packets", consumed.packets),
        number("dropped_packets", dropped),
        number("events_lost", cores.iter().map(|core| core.events_lost).sum()),
    ]))
}

fn drops(client: &mut Client, _: &str) -> Result<Value, ClientError> {
    let mut rows: Vec<(String, u64)> = Vec::new();
    for row in cores(client)?.iter().flat_map(|core| &core.feature) {
        match rows.iter_mut().find(|(name, _)| *name == row.name) {
            Some((_, packets)) => *packets += row.packets,
            None => rows.push((row.name.clone(), row.packets)),
        }
    }
    Ok(Value::Dict(rows.into_iter().map(|(name, packets)| (name, Entry::U64(packets))).collect()))
}

fn sas(client: &mut Client, params: &str) -> Result<Value, ClientError> {
    if params.is_empty() {
        let list: Vec<SaReport> = client.call(&Request::SaList {})?;
        let spis = list.iter().take(SPIS).map(|sa| format!("{:#010x}", sa.spi.0));
        return Ok(Value::Array(Array::Text(spis.collect())));
    }
    let Ok(spi) = params.trim().parse::<Spi>() else {
        return Ok(Value::Text("the parameter isn't an SPI, decimal or with 0x in hex".to_owned()));
    };
    let sa: SaReport = client.call(&Request::SaShow { sa: SaName { spi, dst: None, src: None } })?;
    let text = |name: &str, text: String| (name.to_owned(), Entry::Text(text));
    let totals = sa.totals;
    Ok(Value::Dict(vec![
        text("spi", format!("{:#010x}", sa.spi.0)),
        text("src", sa.src.map_or_else(|| "any".to_owned(), |src| src.to_string())),
        text("dst", sa.dst.to_string()),
        text("state", sa.state),
        text("transform", sa.transform),
        number("age_s", sa.age_s),
        number("packets", totals.packets),
        number("octets", totals.octets),
        number("replay_duplicate", totals.replay_duplicate),
        number("replay_late", totals.replay_late),
        number("auth_failed", totals.auth_failed),
        number("refused", totals.refused),
    ]))
}
