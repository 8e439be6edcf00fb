//! What `nf-ctl top` asks for once a second, and the rates between two answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nf_core::control::client::Client;
use nf_core::control::proto::{Request, SaReport, Status};
use nf_core::counters::{Report, Tally};
use nf_core::notify::{Class, FlowReport, NotifyReport};
use nf_core::stage::RuntimeReport;
use nf_core::types::Spi;
use nf_ctl::agent::proto::{self, RecoveryReport};

use crate::args::Cli;
use crate::{Error, ike};

/// SAs up to which they are asked for: a larger table takes the control thread too long once a second.
const SAS: usize = 2000;
/// Flows that are looked at for stuck ones.
const FLOWS: usize = 200;
/// Decisions of recovery that are shown.
const DECISIONS: usize = 4;

/// The numbers at one time.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) status: Status,
    pub(super) cores: Vec<Report>,
    pub(super) runtime: Vec<RuntimeReport>,
    /// None where there are more than can be asked for.
    pub(super) sas: Option<Vec<SaReport>>,
    pub(super) invalid: NotifyReport,
    /// The agent's; why not, where there is none.
    pub(super) recovery: Result<RecoveryReport, String>,
}

impl Sample {
    /// Asks nf-core and the agent.
    pub(super) fn take(cli: &Cli) -> Result<Sample, Error> {
        let mut client = Client::connect(&cli.socket)?;
        let status: Status = client.call(&Request::Status {})?;
        let sas = if status.sas <= SAS { Some(client.call(&Request::SaList {})?) } else { None };
        let recovery = ike::connect(cli)
            .and_then(|mut agent| Ok(agent.call(&proto::Request::Recovery { limit: DECISIONS })?))
            .map_err(|error| error.to_string());
        Ok(Sample {
            at: Instant::now(),
            status,
            cores: client.call(&Request::CoreCounters {})?,
            runtime: client.call(&Request::Runtime {})?,
            sas,
            invalid: client.call(&Request::InvalidSpi { limit: FLOWS })?,
            recovery,
        })
    }

    /// Flows whose peer is stuck, the one that was seen last first.
    pub(super) fn stuck(&self) -> impl Iterator<Item = &FlowReport> {
        self.invalid.flows.iter().filter(|flow| flow.class == Class::Stuck)
    }
}

/// A core between two samples, each number a second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct CoreRate {
    pub(super) received: f64,
    pub(super) sent: f64,
    pub(super) bits: f64,
    pub(super) dropped: f64,
    /// The share of its rounds that found packets, 0 to 1.
    pub(super) load: f64,
}

/// A drop reason between two samples.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct DropRate {
    pub(super) index: u16,
    pub(super) name: String,
    pub(super) rate: f64,
    pub(super) packets: u64,
}

/// An SA between two samples.
#[derive(Clone, Debug)]
pub(super) struct SaRate {
    pub(super) sa: SaReport,
    pub(super) packets: f64,
    pub(super) bits: f64,
}

/// What happened between two samples.
#[derive(Clone, Debug)]
pub(super) struct Rates {
    pub(super) cores: Vec<CoreRate>,
    /// Reasons that count, the one with the highest rate first.
    pub(super) drops: Vec<DropRate>,
    pub(super) sas: Option<Vec<SaRate>>,
}

/// By what SAs are sorted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    Rate,
    Packets,
    Spi,
    Peer,
}

impl Sort {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Sort::Rate => "rate",
            Sort::Packets => "packets",
            Sort::Spi => "SPI",
            Sort::Peer => "peer",
        }
    }

    /// The next one, round and round.
    pub(super) const fn next(self) -> Sort {
        match self {
            Sort::Rate => Sort::Packets,
            Sort::Packets => Sort::Spi,
            Sort::Spi => Sort::Peer,
            Sort::Peer => Sort::Rate,
        }
    }
}

impl Rates {
    /// The rates between two samples; all are 0 where nf-core was started anew in between, or there is no time between.
    pub(super) fn between(before: &Sample, after: &Sample, sort: Sort) -> Rates {
        let same = before.status.pid == after.status.pid;
        let seconds = after.at.saturating_duration_since(before.at).max(Duration::from_millis(1)).as_secs_f64();
        let rate = |before: Option<u64>, after: u64| match before {
            Some(before) if same => after.saturating_sub(before) as f64 / seconds,
            _ => 0.0,
        };
        let cores = after.cores.iter().enumerate().map(|(number, core)| {
            let old = before.cores.get(number);
            let polls = |sample: &Sample| sample.runtime.get(number).map(|core| (core.polls, core.empty_polls));
            let (all, empty) = match (polls(before), polls(after)) {
                (Some(old), Some(new)) if same => (new.0.saturating_sub(old.0), new.1.saturating_sub(old.1)),
                _ => (0, 0),
            };
            CoreRate {
                received: rate(old.map(|core| core.rx.packets), core.rx.packets),
                sent: rate(old.map(|core| core.tx.packets), core.tx.packets),
                bits: 8.0 * rate(old.map(|core| core.rx.octets), core.rx.octets),
                dropped: rate(old.map(dropped), dropped(core)),
                load: if all == 0 { 0.0 } else { 1.0 - empty as f64 / all as f64 },
            }
        });
        Rates { cores: cores.collect(), drops: drops(before, after, rate), sas: sas(before, after, sort, rate) }
    }
}

fn dropped(core: &Report) -> u64 {
    core.feature.iter().map(|row| row.packets).sum()
}

fn drops(before: &Sample, after: &Sample, rate: impl Fn(Option<u64>, u64) -> f64) -> Vec<DropRate> {
    let sum = |sample: &Sample, index| {
        let rows = sample.cores.iter().filter_map(|core| core.feature(index));
        rows.map(|row| row.packets).sum::<u64>()
    };
    let rows = after.cores.first().map(|core| core.feature.as_slice()).unwrap_or_default();
    let mut drops: Vec<DropRate> = rows
        .iter()
        .map(|row| {
            let packets = sum(after, row.index);
            let rate = rate(Some(sum(before, row.index)), packets);
            DropRate { index: row.index, name: row.name.clone(), rate, packets }
        })
        .filter(|row| row.packets > 0)
        .collect();
    drops.sort_by(|one, other| other.rate.total_cmp(&one.rate).then(other.packets.cmp(&one.packets)));
    drops
}

fn sas(before: &Sample, after: &Sample, sort: Sort, rate: impl Fn(Option<u64>, u64) -> f64) -> Option<Vec<SaRate>> {
    type Name = (Spi, IpAddr, Option<IpAddr>);
    let name = |sa: &SaReport| -> Name { (sa.spi, sa.dst, sa.src) };
    let old: HashMap<Name, Tally> = before
        .sas
        .iter()
        .flatten()
        .map(|sa| (name(sa), Tally { packets: sa.totals.packets, octets: sa.totals.octets }))
        .collect();
    let mut rates: Vec<SaRate> = after
        .sas
        .as_ref()?
        .iter()
        .map(|sa| {
            let old = old.get(&name(sa));
            SaRate {
                packets: rate(old.map(|old| old.packets), sa.totals.packets),
                bits: 8.0 * rate(old.map(|old| old.octets), sa.totals.octets),
                sa: sa.clone(),
            }
        })
        .collect();
    rates.sort_by(|one, other| {
        let by = match sort {
            Sort::Rate => other.packets.total_cmp(&one.packets),
            Sort::Packets => other.sa.totals.packets.cmp(&one.sa.totals.packets),
            Sort::Spi => std::cmp::Ordering::Equal,
            Sort::Peer => one.sa.peer.cmp(&other.sa.peer),
        };
        by.then(name(&one.sa).cmp(&name(&other.sa)))
    });
    Some(rates)
}
