//! `nf-ctl sa`: keys come from files or standard input, and no key is ever shown.

use nf_core::control::client::Client;
use nf_core::control::proto::{Request, Reserved, SaName, SaReport, without_values};
use nf_core::sa::lifetime::Lifetime;
use nf_core::sa::spec::{SaSpec, SelectorSpec, read_secret};
use serde_json::Value;
use serde_json::error::Category;

use crate::args::{Cli, SaAdd, SaCommand, SaNameArgs};
use crate::{Error, read, render};

/// Carries a command out.
pub(crate) fn run(cli: &Cli, command: &SaCommand) -> Result<String, Error> {
    match command {
        SaCommand::Add(add) => {
            let mut specs = specs(add)?;
            // All are checked before the first is sent, so that none is added if one is wrong.
            for spec in &mut specs {
                own_key(spec)?;
                spec.validate()?;
            }
            let mut client = Client::connect(&cli.socket)?;
            let count = specs.len();
            for (place, spec) in specs.into_iter().enumerate() {
                client.call::<()>(&Request::SaAdd { sa: Box::new(spec) }).map_err(|error| match count {
                    1 => Error::Client(error),
                    _ => Error::Partly { error, number: place + 1, count },
                })?;
            }
            Ok(String::new())
        }
        SaCommand::Del(name) => {
            Client::connect(&cli.socket)?.call::<()>(&Request::SaDel { sa: sa_name(name) })?;
            Ok(String::new())
        }
        SaCommand::Reserve { dst, src, spi, lifetime } => {
            let request = Request::SaReserve { dst: *dst, src: *src, spi: *spi, lifetime_s: *lifetime };
            let reserved: Reserved = Client::connect(&cli.socket)?.call(&request)?;
            Ok(if cli.json { render::json(&reserved) } else { format!("0x{:08X}\n", reserved.spi.0) })
        }
        SaCommand::Release(name) => {
            Client::connect(&cli.socket)?.call::<()>(&Request::SaRelease { sa: sa_name(name) })?;
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

/// Puts the key of `key_file` in its place: the file is the operator's, and its path may be relative to the operator's
/// directory.
fn own_key(spec: &mut SaSpec) -> Result<(), Error> {
    if spec.key.is_none()
        && let Some(path) = spec.key_file.take()
    {
        spec.key = Some(read_secret(&path)?);
    }
    Ok(())
}

/// The SAs that are to be added: those of a file, or the one of the options.
fn specs(add: &SaAdd) -> Result<Vec<SaSpec>, Error> {
    match &add.file {
        Some(path) => parse(&read(path)?).map_err(|problem| Error::File(format!("{}: {problem}", path.display()))),
        None => Ok(vec![from_options(add)?]),
    }
}

/// The SAs in a text: as in nf.toml, with or without the line `[[sa]]`, or as JSON, one, a list or `{"sa": [..]}`. The
/// error has nothing of the text in it, for there are keys in it.
fn parse(text: &str) -> Result<Vec<SaSpec>, String> {
    let start = text.trim_start();
    let is_json = start.starts_with('{') || start.strip_prefix('[').is_some_and(|s| s.trim_start().starts_with('{'));
    let specs = if is_json {
        let json = |error: serde_json::Error| match error.classify() {
            Category::Data => without_values(&error.to_string()),
            Category::Syntax | Category::Eof | Category::Io => format!("not JSON, {error}"),
        };
        match serde_json::from_str(text).map_err(json)? {
            Value::Object(mut table) => match table.remove("sa") {
                Some(list) => serde_json::from_value(list).map_err(json)?,
                None => vec![serde_json::from_value(Value::Object(table)).map_err(json)?],
            },
            list => serde_json::from_value(list).map_err(json)?,
        }
    } else {
        let toml = |error: toml::de::Error| without_values(error.message());
        let mut table: toml::Table = toml::from_str(text).map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            format!("neither TOML nor JSON, line {}", before.matches('\n').count() + 1)
        })?;
        match table.remove("sa") {
            Some(list) => list.try_into::<Vec<SaSpec>>().map_err(toml)?,
            None => vec![table.try_into().map_err(toml)?],
        }
    };
    if specs.is_empty() { Err("there is no SA in it".to_owned()) } else { Ok(specs) }
}

fn from_options(add: &SaAdd) -> Result<SaSpec, Error> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Ok(SaSpec {
        spi: text(&add.spi),
        direction: add.direction.clone(),
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
        peer_port: add.peer_port,
        follows: add.follows.clone(),
        df: add.df.clone(),
        path_mtu: add.path_mtu,
        selectors: SelectorSpec { src: add.selector_src.clone(), dst: add.selector_dst.clone() },
        peer: add.peer.clone(),
        lifetime: Lifetime::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef01234567";

    fn spis(text: &str) -> Result<Vec<String>, String> {
        parse(text).map(|specs| specs.into_iter().map(|spec| spec.spi).collect())
    }

    #[test]
    fn one_sa_or_several_in_toml_or_json() {
        let toml = |spi| {
            format!("spi = {spi}\nsrc = \"10.1.1.1\"\ndst = \"10.10.1.2\"\nmode = \"tunnel\"\nalg = \"aes-gcm-16\"\n")
        };
        let json = |spi| format!(r#"{{"spi":{spi},"src":"10.1.1.1","dst":"10.10.1.2","mode":"tunnel","alg":"null"}}"#);
        assert_eq!(spis(&toml(256)).unwrap(), ["256"]);
        assert_eq!(spis(&format!("[[sa]]\n{}\n[[sa]]\n{}", toml(256), toml(257))).unwrap(), ["256", "257"]);
        assert_eq!(spis(&json(256)).unwrap(), ["256"]);
        assert_eq!(spis(&format!(" [ {}, {} ]", json(256), json(257))).unwrap(), ["256", "257"]);
        assert_eq!(spis(&format!("{{\"sa\":[{}]}}", json(256))).unwrap(), ["256"]);
    }

    #[test]
    fn mistakes_are_named_and_keys_are_not() {
        for (text, wanted) in [
            (format!("key = {KEY}"), "neither TOML nor JSON, line 1"),
            (format!("# an SA\nkey = \"{KEY}\nspi = 5"), "neither TOML nor JSON, line 2"),
            (format!("{{\"key\": \"{KEY}\", }}"), "not JSON, trailing comma at line 1"),
            (format!("{{\"{KEY}\": 5}}"), "unknown field `..`"),
            (format!("kye = \"{KEY}\""), "unknown field `kye`"),
            (format!("spi = [\"{KEY}\"]"), "expected a number or a string"),
            (format!("esn = \"{KEY}\""), "invalid type, expected a boolean"),
            (format!("{{\"esn\": \"{KEY}\"}}"), "invalid type, expected a boolean"),
            ("[]".to_owned(), "neither TOML nor JSON, line 1"),
            ("{\"sa\": []}".to_owned(), "there is no SA in it"),
            (String::new(), "missing field `spi`"),
        ] {
            let error = spis(&text).unwrap_err();
            assert!(error.starts_with(wanted), "{wanted:?}: {error:?}");
            assert!(!error.contains("0123456789"), "{error}");
        }
    }
}
