//! `nf-ctl show tech-support`: everything that helps to find a fault, in one text. No section needs another one, none
//! has a secret in it: nf.toml, which may hold keys, isn't in it.

use std::fmt::Write;

use nf_core::control::client::Client;
use nf_core::control::proto::Request;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::args::Cli;
use crate::show::{self, What};
use crate::{Error, ike, render};

/// Entries of the longer lists.
const LIMIT: usize = 200;
/// Of the host: what nf-core's speed and its start depend on.
const HOST_FILES: [&str; 7] = [
    "/proc/version",
    "/proc/cmdline",
    "/proc/loadavg",
    "/proc/meminfo",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/isolated",
    "/sys/devices/system/node/online",
];

/// A section, as text or as JSON.
type Section = Result<String, Error>;

/// Asks for everything.
pub(crate) fn run(cli: &Cli) -> String {
    let mut sections: Vec<(&str, Section)> = vec![("nf-ctl", Ok(version(cli)))];
    for (name, what) in [
        ("status", What::Status),
        ("global drops", What::GlobalDrops { clear: false }),
        ("drops", What::FeatureDrops { all: true, clear: false }),
        ("counters", What::Counters),
        ("runtime", What::Runtime),
        ("invalid SPIs", What::InvalidSpi),
        ("SAs", What::Sa),
        ("IPsec SAs", What::IpsecSa { detail: true }),
        ("IKE SAs", What::Ikev2Sa),
        ("recovery", What::Recovery),
        ("changes", What::Audit),
    ] {
        sections.push((name, show::show(cli, what, LIMIT)));
    }
    let call = |request: Request| -> Result<Value, Error> { Ok(Client::connect(&cli.socket)?.call(&request)?) };
    sections.push(("plugins", call(Request::PluginList {}).and_then(|list| told(cli, list, render::plugins))));
    // These have no table of their own: JSON in either case.
    sections.push(("hooks", call(Request::EventList {}).map(|list| render::json(&list))));
    sections.push(("runs of hooks", call(Request::EventHistory { limit: LIMIT }).map(|list| render::json(&list))));
    sections.push(("agent", ike::run(cli, &crate::args::IkeCommand::Status { peer: None })));
    sections.push(("host", Ok(host(cli))));
    if cli.json { render::json(&object(sections)) } else { text(sections) }
}

fn version(cli: &Cli) -> String {
    let version = env!("CARGO_PKG_VERSION");
    if cli.json { render::json(&version) } else { format!("{version}\n") }
}

fn told<T: DeserializeOwned + Serialize>(cli: &Cli, value: Value, show: fn(&T) -> String) -> Section {
    let report: T = serde_json::from_value(value).map_err(|error| Error::File(error.to_string()))?;
    Ok(if cli.json { render::json(&report) } else { show(&report) })
}

fn host(cli: &Cli) -> String {
    let files = HOST_FILES.iter().map(|path| {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
        (*path, text.trim_end().to_owned())
    });
    if cli.json {
        return render::json(&files.map(|(path, text)| (path.to_owned(), text.into())).collect::<Map<_, Value>>());
    }
    files.fold(String::new(), |mut out, (path, text)| {
        // Writing to a string can't fail.
        let _ = writeln!(out, "{path}:\n{text}");
        out
    })
}

fn object(sections: Vec<(&str, Section)>) -> Map<String, Value> {
    let value = |section: Section| match section {
        Ok(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        Err(error) => serde_json::json!({"error": error.to_string()}),
    };
    sections.into_iter().map(|(name, section)| (name.to_owned(), value(section))).collect()
}

fn text(sections: Vec<(&str, Section)>) -> String {
    sections.into_iter().fold(String::new(), |mut out, (name, section)| {
        let text = section.unwrap_or_else(|error| format!("not available: {error}\n"));
        let _ = writeln!(out, "------------------ {name} ------------------\n\n{}\n", text.trim_end());
        out
    })
}
