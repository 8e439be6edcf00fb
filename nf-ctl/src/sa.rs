//! `nf-ctl sa`.

use nf_core::control::client::Client;
use nf_core::control::proto::{Request, SaName, SaReport};
use nf_core::sa::spec::{SaSpec, SelectorSpec, read_secret};

use crate::args::{Cli, SaAdd, SaCommand, SaNameArgs};
use crate::{Error, read, render};

/// Carries a command out.
pub(crate) fn run(cli: &Cli, command: &SaCommand) -> Result<String, Error> {
    match command {
        SaCommand::Add(add) => {
            let specs = specs(add)?;
            for spec in &specs {
                // Checked here first, so that of several SAs none is added if one is wrong. A key file is the daemon's to
                // read.
                if spec.key_file.is_none() {
                    spec.validate()?;
                }
            }
            let mut client = Client::connect(&cli.socket)?;
            for spec in specs {
                client.call::<()>(&Request::SaAdd { sa: Box::new(spec) })?;
            }
            Ok(String::new())
        }
        SaCommand::Del(name) => {
            Client::connect(&cli.socket)?.call::<()>(&Request::SaDel { sa: sa_name(name) })?;
            Ok(String::new())
        }
        SaCommand::List => {
            let list = list(cli)?;
            Ok(if cli.json { render::json(&list) } else { render::sa_list(&list) })
        }
        SaCommand::Show(name) => {
            let report: SaReport = Client::connect(&cli.socket)?.call(&Request::SaShow { sa: sa_name(name) })?;
            Ok(if cli.json { render::json(&report) } else { render::sa(&report) })
        }
    }
}

/// All SAs.
pub(crate) fn list(cli: &Cli) -> Result<Vec<SaReport>, Error> {
    Ok(Client::connect(&cli.socket)?.call(&Request::SaList {})?)
}

fn sa_name(name: &SaNameArgs) -> SaName {
    SaName { spi: name.spi, dst: name.dst, src: name.src }
}

/// The SAs that are to be added: those of a file, or the one of the options.
fn specs(add: &SaAdd) -> Result<Vec<SaSpec>, Error> {
    let Some(path) = &add.file else {
        return Ok(vec![from_options(add)?]);
    };
    let text = read(path)?;
    // Messages without the text that they are about: it holds keys.
    let file_error = |problem: &str| Error::File(format!("{}: {problem}", path.display()));
    if text.trim_start().starts_with(['{', '[']) && !text.trim_start().starts_with("[[") {
        let parsed = match text.trim_start().starts_with('[') {
            true => serde_json::from_str(&text),
            false => serde_json::from_str(&text).map(|spec| vec![spec]),
        };
        return parsed
            .map_err(|error| file_error(&format!("isn't an SA: line {}, column {}", error.line(), error.column())));
    }
    let table: toml::Table = toml::from_str(&text).map_err(|error| file_error(error.message()))?;
    let parsed = match table.get("sa") {
        Some(list) => list.clone().try_into::<Vec<SaSpec>>(),
        None => table.try_into::<SaSpec>().map(|spec| vec![spec]),
    };
    parsed.map_err(|error| file_error(error.message()))
}

fn from_options(add: &SaAdd) -> Result<SaSpec, Error> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Ok(SaSpec {
        spi: text(&add.spi),
        src: text(&add.src),
        dst: text(&add.dst),
        mode: text(&add.mode),
        alg: text(&add.alg),
        key: add.key_file.as_deref().map(read_secret).transpose()?,
        key_file: None,
        auth: add.auth.clone(),
        auth_key: add.auth_key_file.as_deref().map(read_secret).transpose()?,
        esn: add.esn,
        replay_window: add.replay_window,
        encap: add.encap.clone(),
        selectors: SelectorSpec { src: add.selector_src.clone(), dst: add.selector_dst.clone() },
    })
}
