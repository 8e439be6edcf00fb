//! `nf-ctl show`: commands in words, which may be abbreviated as on IOS.

use nf_core::control::audit::AuditEntry;
use nf_core::control::client::Client;
use nf_core::control::proto::{Request, SaReport, Status};
use nf_core::counters::Report;
use nf_core::notify::NotifyReport;
use nf_core::stage::RuntimeReport;
use serde::Serialize;

use nf_core::control::client::ClientError;
use nf_ctl::agent::proto::{self, RecoveryReport};

use crate::args::Cli;
use crate::{Error, crypto_show, ike, read, render, sa, tech_support};

/// What can be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    GlobalDrops { clear: bool },
    FeatureDrops { all: bool, clear: bool },
    Audit,
    Counters,
    Interfaces,
    InvalidSpi,
    Runtime,
    Sa,
    Status,
    TechSupport,
    Recovery,
    IsakmpSa,
    Ikev2Sa,
    IpsecSa { detail: bool },
}

/// Flows with invalid SPIs that are listed, unless told otherwise.
const FLOWS: usize = 100;

/// Every command in full.
const COMMANDS: &[(&str, What)] = &[
    ("platform hardware qfp active statistics drop", What::GlobalDrops { clear: false }),
    ("platform hardware qfp active statistics drop clear", What::GlobalDrops { clear: true }),
    ("platform hardware qfp active feature ipsec datapath drops", What::FeatureDrops { all: false, clear: false }),
    ("platform hardware qfp active feature ipsec datapath drops all", What::FeatureDrops { all: true, clear: false }),
    ("platform hardware qfp active feature ipsec datapath drops clear", What::FeatureDrops { all: false, clear: true }),
    (
        "platform hardware qfp active feature ipsec datapath drops all clear",
        What::FeatureDrops { all: true, clear: true },
    ),
    ("crypto isakmp sa", What::IsakmpSa),
    ("crypto ikev2 sa", What::Ikev2Sa),
    ("crypto ipsec sa", What::IpsecSa { detail: false }),
    ("crypto ipsec sa detail", What::IpsecSa { detail: true }),
    ("audit", What::Audit),
    ("counters", What::Counters),
    ("interfaces", What::Interfaces),
    ("invalid-spi", What::InvalidSpi),
    ("recovery", What::Recovery),
    ("runtime", What::Runtime),
    ("sa", What::Sa),
    ("status", What::Status),
    ("tech-support", What::TechSupport),
];

/// Whether a word is a keyword or the beginning of it, in upper or lower case.
pub(crate) fn abbreviates(word: &str, keyword: &str) -> bool {
    !word.is_empty() && keyword.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// The command that the words stand for.
fn find(words: &[&str]) -> Result<What, Error> {
    let mut candidates: Vec<(Vec<&str>, What)> =
        COMMANDS.iter().map(|(command, what)| (command.split(' ').collect(), *what)).collect();
    for (position, word) in words.iter().enumerate() {
        let mut keywords: Vec<&str> =
            candidates.iter().filter_map(|(command, _)| command.get(position).copied()).collect();
        keywords.sort_unstable();
        keywords.dedup();
        let exact = keywords.iter().filter(|keyword| keyword.eq_ignore_ascii_case(word)).copied().collect::<Vec<_>>();
        let fitting = keywords.iter().filter(|keyword| abbreviates(word, keyword)).copied().collect::<Vec<_>>();
        let said = words.get(..position).unwrap_or_default().join(" ");
        let keyword = match (exact.as_slice(), fitting.as_slice()) {
            ([keyword], _) | ([], [keyword]) => *keyword,
            ([], []) if keywords.is_empty() => {
                return Err(Error::Usage(format!("nothing goes behind `show {said}`; `{word}` is too much")));
            }
            ([], []) => {
                return Err(Error::Usage(format!("behind `show {said}` goes {}, not `{word}`", keywords.join(" or "))));
            }
            _ => return Err(Error::Usage(format!("`{word}` may stand for {}", fitting.join(" or ")))),
        };
        candidates.retain(|(command, _)| command.get(position) == Some(&keyword));
    }
    let complete = candidates.iter().find(|(command, _)| command.len() == words.len());
    complete.map(|(_, what)| *what).ok_or_else(|| {
        let mut next: Vec<&str> =
            candidates.iter().filter_map(|(command, _)| command.get(words.len()).copied()).collect();
        next.dedup();
        Error::Usage(format!("incomplete command: behind `show {}` goes {}", words.join(" "), next.join(" or ")))
    })
}

/// Carries out `show WORDS`.
pub(crate) fn run(cli: &Cli, words: &[String], limit: Option<usize>) -> Result<String, Error> {
    let what = find(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
    if limit.is_some() && !matches!(what, What::InvalidSpi | What::Recovery | What::Audit) {
        let message = "--limit is for `show invalid-spi`, `show recovery` and `show audit` only";
        return Err(Error::Usage(message.to_owned()));
    }
    if cli.stats_file.is_some()
        && !matches!(what, What::GlobalDrops { .. } | What::FeatureDrops { .. } | What::Counters)
    {
        return Err(Error::Usage("--stats-file has counters only: use it with drops or `show counters`".to_owned()));
    }
    show(cli, what, limit.unwrap_or(FLOWS))
}

/// All counters, and those of each core since the start.
#[derive(Serialize)]
struct Counters {
    #[serde(flatten)]
    report: Report,
    cores: Vec<Report>,
}

/// Shows one thing; `limit` is for lists that take one.
pub(crate) fn show(cli: &Cli, what: What, limit: usize) -> Result<String, Error> {
    let json = cli.json;
    Ok(match what {
        What::GlobalDrops { clear } => {
            let report = counters(cli, clear)?;
            if json { render::json(&report) } else { render::global_drops(&report) }
        }
        What::FeatureDrops { all, clear } => {
            let report = counters(cli, clear)?;
            if json { render::json(&report) } else { render::feature_drops(&report, all) }
        }
        What::Counters => {
            let report = counters(cli, false)?;
            let cores: Vec<Report> = match &cli.stats_file {
                Some(_) => Vec::new(),
                None => Client::connect(&cli.socket)?.call(&Request::CoreCounters {})?,
            };
            if json { render::json(&Counters { report, cores }) } else { render::counters(&report, &cores) }
        }
        What::Audit => {
            let entries = audit(cli, limit)?;
            if json { render::json(&entries) } else { render::audit(&entries) }
        }
        What::Interfaces => {
            let status: Status = Client::connect(&cli.socket)?.call(&Request::Status {})?;
            if json { render::json(&status.ports) } else { render::ports(&status.ports) }
        }
        What::InvalidSpi => {
            let report: NotifyReport = Client::connect(&cli.socket)?.call(&Request::InvalidSpi { limit })?;
            if json { render::json(&report) } else { render::invalid_spi(&report) }
        }
        What::Runtime => {
            let cores: Vec<RuntimeReport> = Client::connect(&cli.socket)?.call(&Request::Runtime {})?;
            if json { render::json(&cores) } else { render::runtime(&cores) }
        }
        What::Sa => {
            let list: Vec<SaReport> = sa::list(cli)?;
            if json { render::json(&list) } else { render::sa_list(&list) }
        }
        What::Recovery => {
            let report: RecoveryReport = ike::connect(cli)?.call(&proto::Request::Recovery { limit })?;
            if json { render::json(&report) } else { crypto_show::recovery(&report) }
        }
        What::IsakmpSa => {
            let list = ike::list(cli)?;
            if json { render::json(&list) } else { crypto_show::isakmp(&list) }
        }
        What::Ikev2Sa => {
            let list = ike::list(cli)?;
            if json { render::json(&list) } else { crypto_show::ikev2(&list) }
        }
        What::IpsecSa { detail } => {
            let sas: Vec<SaReport> = sa::list(cli)?;
            // nf-core's half stands for itself where there is no agent.
            let ikes = match ike::list(cli) {
                Err(Error::Client(ClientError::Connect { .. })) => Vec::new(),
                list => list?,
            };
            if json {
                render::json(&crypto_show::tunnels(&sas, &ikes))
            } else {
                crypto_show::ipsec(&sas, &ikes, detail)
            }
        }
        What::TechSupport => tech_support::run(cli),
        What::Status => {
            let status: Status = Client::connect(&cli.socket)?.call(&Request::Status {})?;
            if json { render::json(&status) } else { render::status(&status) }
        }
    })
}

/// The record of changes: nf-core's, and the agent's where there is one.
fn audit(cli: &Cli, limit: usize) -> Result<Vec<AuditEntry>, Error> {
    let mut entries: Vec<AuditEntry> = Client::connect(&cli.socket)?.call(&Request::Audit { limit })?;
    match ike::connect(cli) {
        Ok(mut agent) => entries.extend(agent.call::<Vec<AuditEntry>>(&proto::Request::Audit { limit })?),
        Err(Error::Client(ClientError::Connect { .. })) => {}
        Err(error) => return Err(error),
    }
    entries.sort_by(|one, other| one.time.cmp(&other.time));
    entries.drain(..entries.len().saturating_sub(limit));
    Ok(entries)
}

fn counters(cli: &Cli, clear: bool) -> Result<Report, Error> {
    match &cli.stats_file {
        Some(_) if clear => Err(Error::Usage("counters in a file can't be cleared".to_owned())),
        Some(path) => serde_json::from_str(&read(path)?)
            .map_err(|error| Error::File(format!("{}: isn't a file of counters: {error}", path.display()))),
        None => {
            let request = if clear { Request::CountersClear {} } else { Request::Counters {} };
            Ok(Client::connect(&cli.socket)?.call(&request)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<What, String> {
        find(&text.split(' ').collect::<Vec<_>>()).map_err(|error| error.to_string())
    }

    #[test]
    fn commands_in_full_and_abbreviated() {
        for (command, what) in COMMANDS {
            assert_eq!(words(command), Ok(*what));
        }
        assert_eq!(words("plat hard qfp act stat drop"), Ok(What::GlobalDrops { clear: false }));
        assert_eq!(words("pl h q a f i d d a"), Ok(What::FeatureDrops { all: true, clear: false }));
        assert_eq!(words("pl h q a f i d d a c"), Ok(What::FeatureDrops { all: true, clear: true }));
        assert_eq!(words("Platform HARDWARE qfp act FEAT ipsec data drops"), words(COMMANDS[2].0));
        assert_eq!(words("sa"), Ok(What::Sa));
        assert_eq!(words("inv"), Ok(What::InvalidSpi));
    }

    #[test]
    fn mistakes_are_explained() {
        assert_eq!(words("s"), Err("`s` may stand for sa or status".to_owned()));
        assert_eq!(words("in"), Err("`in` may stand for interfaces or invalid-spi".to_owned()));
        assert!(words("").is_err() && words("ß").is_err() && words("sä").is_err());
        assert_eq!(words("status now"), Err("nothing goes behind `show status`; `now` is too much".to_owned()));
        assert_eq!(
            words("platform hardware qfp passive"),
            Err("behind `show platform hardware qfp` goes active, not `passive`".to_owned())
        );
        assert_eq!(
            words("platform hardware qfp active"),
            Err("incomplete command: behind `show platform hardware qfp active` goes statistics or feature".to_owned())
        );
    }
}
