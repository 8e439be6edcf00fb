//! `nf-ctl explain`: what a drop reason means and what to do about it, from the table of nf-core. It needs no daemon.

use std::fmt::Write;

use nf_core::drop::{DropInfo, DropReason};
use serde::Serialize;

use crate::args::Cli;
use crate::{Error, render};

/// A row of the table.
#[derive(Serialize)]
struct Explanation {
    index: u16,
    name: &'static str,
    global: Option<&'static str>,
    meaning: &'static str,
    cause: &'static str,
    action: &'static str,
}

impl From<&DropInfo> for Explanation {
    fn from(info: &DropInfo) -> Explanation {
        let DropInfo { index, name, global, meaning, cause, action } = *info;
        Explanation { index, name, global: global.map(|global| global.name()), meaning, cause, action }
    }
}

/// Carries out `explain [REASON]`.
pub(crate) fn run(cli: &Cli, reason: Option<&str>) -> Result<String, Error> {
    let found: Vec<Explanation> = match reason {
        Some(reason) => find(reason)?.into_iter().map(Explanation::from).collect(),
        None => DropReason::ALL.iter().map(|reason| reason.info().into()).collect(),
    };
    Ok(if cli.json {
        render::json(&found)
    } else if reason.is_some() {
        found.iter().map(explanation).collect::<Vec<_>>().join("\n")
    } else {
        overview(&found)
    })
}

/// The reasons that a text names: by the index, by the whole name, or by a part of it, in upper or lower case.
fn find(text: &str) -> Result<Vec<&'static DropInfo>, Error> {
    let all = || DropReason::ALL.iter().map(|reason| reason.info());
    let name = text.to_ascii_uppercase();
    let exact: Vec<_> = match text.parse::<u16>() {
        Ok(index) => all().filter(|info| info.index == index).collect(),
        Err(_) => all().filter(|info| info.name == name).collect(),
    };
    if !exact.is_empty() {
        return Ok(exact);
    }
    let part: Vec<_> = all().filter(|info| !name.is_empty() && info.name.contains(&name)).collect();
    if part.is_empty() {
        return Err(Error::Usage(format!("there is no drop reason `{text}`; `nf-ctl explain` lists all")));
    }
    Ok(part)
}

fn explanation(row: &Explanation) -> String {
    let mut out = String::new();
    let global = row.global.map(|global| format!(", counted under {global}")).unwrap_or_default();
    // Writing to a string can't fail.
    let _ = writeln!(out, "{} {}{global}", row.index, row.name);
    for (title, text) in [("meaning", row.meaning), ("likely cause", row.cause), ("what to do", row.action)] {
        let _ = writeln!(out, "  {:<14}{text}", format!("{title}:"));
    }
    out
}

fn overview(rows: &[Explanation]) -> String {
    rows.iter().fold(String::new(), |mut out, row| {
        let _ = writeln!(out, "{:>5}  {:<36} {}", row.index, row.name, row.meaning);
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(text: &str) -> Vec<u16> {
        find(text).unwrap().into_iter().map(|info| info.index).collect()
    }

    #[test]
    fn reasons_are_found_by_index_name_and_part_of_it() {
        assert_eq!(indices("4"), [4]);
        assert_eq!(indices("in_us_v4_pkt_sa_not_found_spi"), [4]);
        assert_eq!(indices("ANTI_REPLAY"), [19]);
        assert_eq!(indices("in_v4_pkt_hit_invalid_sa"), [1]);
        assert_eq!(indices("not_found_spi"), [4, 7, 12]);
        for reason in DropReason::ALL {
            assert_eq!(indices(&reason.info().index.to_string()), indices(reason.info().name));
        }
    }

    #[test]
    fn what_is_no_reason_is_refused() {
        for text in ["", "5", "65536", "-4", "weather", "ß"] {
            let message = find(text).unwrap_err().to_string();
            assert!(message.contains("lists all"), "{text}: {message}");
        }
    }
}
