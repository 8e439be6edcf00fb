//! `[[event]]` and `[snapshot]`: what to do when something happens.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::raw::{range, within};
use crate::hooks::{Actions, Hook, SnapshotConfig, Subject};
use crate::sa::spec::FieldError;
use crate::types::Nanos;

/// The longest name of a hook, which is part of its snapshots' names.
const MAX_NAME: usize = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHook {
    name: String,
    on: String,
    #[serde(default, rename = "match")]
    subject: RawSubject,
    count: Option<i64>,
    period_s: Option<i64>,
    cool_down_s: Option<i64>,
    #[serde(default)]
    snapshot: bool,
    #[serde(default)]
    command: Vec<String>,
    webhook: Option<String>,
    #[serde(default)]
    syslog: bool,
    timeout_s: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawSubject {
    peer: Option<String>,
    src: Option<String>,
    dst: Option<String>,
    spi: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSnapshot {
    directory: Option<PathBuf>,
    keep: Option<i64>,
    octets: Option<i64>,
    packets: Option<i64>,
}

/// Checks a hook; `syslog` tells whether there is a target for messages.
pub(super) fn hook(raw: RawHook, syslog: bool) -> Result<Hook, FieldError> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if raw.name.is_empty() || raw.name.len() > MAX_NAME || !raw.name.chars().all(is_name) {
        return Err(FieldError::new("name", format_args!("isn't 1 to {MAX_NAME} of a-z, 0-9 and -").to_string()));
    }
    if raw.syslog && !syslog {
        return Err(FieldError::new("syslog", "needs a target: set `[notify] syslog`"));
    }
    if let Some(url) = raw.webhook.as_ref().filter(|url| !url.starts_with("http://")) {
        let message =
            format_args!("`{url}` doesn't begin with http://; for https use command = [\"/usr/bin/curl\", ..]")
                .to_string();
        return Err(FieldError::new("webhook", message));
    }
    if let Some(program) = raw.command.first().filter(|program| !program.starts_with('/')) {
        let message = format_args!("`{program}` isn't an absolute path; no shell looks for it").to_string();
        return Err(FieldError::new("command", message));
    }
    if !raw.snapshot && raw.command.is_empty() && raw.webhook.is_none() && !raw.syslog {
        return Err(FieldError::new("name", "has nothing to do: set snapshot, command, webhook or syslog"));
    }
    let network = |field: &'static str, text: &Option<String>| {
        text.as_ref().map(|text| text.parse().map_err(|error| FieldError::new(field, error))).transpose()
    };
    let subject = Subject {
        src: network("match.src", &raw.subject.src)?,
        dst: network("match.dst", &raw.subject.dst)?,
        spi: range("match.spi", &raw.subject.spi)?,
        peer: raw.subject.peer,
    };
    Ok(Hook {
        name: raw.name,
        on: raw.on.parse()?,
        subject,
        count: within("count", raw.count, 1..=u64::MAX >> 1, 1)?,
        period: Nanos::from_secs(within("period_s", raw.period_s, 1..=86_400, 60)?).0,
        cool_down: Nanos::from_secs(within("cool_down_s", raw.cool_down_s, 0..=604_800, 300)?).0,
        actions: Actions {
            snapshot: raw.snapshot,
            command: raw.command,
            webhook: raw.webhook,
            syslog: raw.syslog,
            timeout: Duration::from_secs(within("timeout_s", raw.timeout_s, 1..=300, 10)?),
        },
    })
}

pub(super) fn snapshot(raw: RawSnapshot) -> Result<SnapshotConfig, FieldError> {
    let default = SnapshotConfig::default();
    let directory = raw.directory.unwrap_or(default.directory);
    if !directory.is_absolute() {
        return Err(FieldError::new("directory", "isn't an absolute path"));
    }
    Ok(SnapshotConfig {
        directory,
        keep: within("keep", raw.keep, 1..=10_000, default.keep)?,
        octets: within("octets", raw.octets, 1..=1 << 40, default.octets)?,
        packets: within("packets", raw.packets, 1..=65_536, default.packets)?,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("nf.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_hook_is_read() {
        let config = parse(
            "[notify]\nsyslog = 'unix:/dev/log'\n[snapshot]\ndirectory = '/tmp/snap'\nkeep = 4\n\
             [[event]]\nname = 'black-hole'\non = 'stuck'\nmatch = { src = '10.1.0.0/16', spi = '0x100-0x1ff' }\n\
             count = 2\nperiod_s = 30\ncool_down_s = 0\nsnapshot = true\nsyslog = true\ntimeout_s = 5\n\
             webhook = 'http://127.0.0.1/x'\ncommand = ['/bin/true', 'a b']\n",
        )
        .unwrap();
        let hook = &config.events[0];
        assert_eq!((hook.name.as_str(), hook.on.as_str(), hook.count), ("black-hole", "stuck", 2));
        assert_eq!(hook.subject.to_string(), "src 10.1.0.0/16, spi 0x00000100-0x000001FF");
        assert_eq!(hook.actions.names(), ["snapshot", "syslog", "webhook http://127.0.0.1/x", "command /bin/true a b"]);
        assert_eq!(config.snapshot.keep, 4);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let refused = |lines: &str, message: &str| {
            let error = parse(&format!("[[event]]\n{lines}")).unwrap_err();
            assert!(error.contains(message), "{error}");
        };
        let usual = "name = 'a'\non = 'stuck'\n";
        refused("name = 'A b'\non = 'stuck'\nsnapshot = true", "nf.toml:2: [[event]] #1 name: isn't 1 to 32 of a-z");
        refused("name = 'a'\non = 'rain'\nsnapshot = true", "[[event]] #1 on: `rain` isn't one of `invalid-spi`");
        refused(usual, "[[event]] #1 name: has nothing to do: set snapshot, command, webhook or syslog");
        refused(&format!("{usual}syslog = true"), "nf.toml:4: [[event]] #1 syslog: needs a target");
        refused(&format!("{usual}command = ['reboot']"), "`reboot` isn't an absolute path; no shell looks for it");
        refused(&format!("{usual}webhook = 'https://x'"), "for https use command");
        refused(&format!("{usual}snapshot = true\nmatch = {{ src = '10.0.0.1/8' }}"), "the network is 10.0.0.0/8");
        refused(&format!("{usual}snapshot = true\nperiod_s = 0"), "0 isn't within 1 to 86400");
        refused(&format!("{usual}snapshot = true\n[[event]]\n{usual}snapshot = true"), "`a` is taken by [[event]] #1");
        assert!(parse("[snapshot]\ndirectory = 'snap'").unwrap_err().contains("directory: isn't an absolute path"));
    }
}
