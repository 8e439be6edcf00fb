//! A snapshot: what is known at the time of an event, in a directory of its own, in a bounded directory.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::capture::{RecordedPacket, epoch, write_recorded};
use crate::control::client::{Client, ClientError};
use crate::control::proto::{EventReport, Request, Subscribed};
use crate::types::Nanos;

/// How long each part may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer of the agent that is kept, in octets.
const MAX_LOG: u64 = 4 << 20;
/// Lines of the recovery log that are asked for.
const LOG_LINES: usize = 1000;
/// What a snapshot that isn't complete begins with.
const UNFINISHED: &str = ".unfinished-";

/// Where snapshots go, and how many.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotConfig {
    /// Their directory.
    pub directory: PathBuf,
    /// Snapshots that are kept: the oldest ones go first.
    pub keep: usize,
    /// Octets that they may take in all.
    pub octets: u64,
    /// Dropped packets that are kept in memory for the next one.
    pub packets: usize,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        SnapshotConfig {
            directory: PathBuf::from("/var/lib/nf-core/snapshots"),
            keep: 32,
            octets: 64 << 20,
            packets: 256,
        }
    }
}

/// Where the daemons are asked.
#[derive(Clone, Debug)]
pub struct Sources {
    /// nf-core's own control socket.
    pub socket: PathBuf,
    /// The agent's.
    pub agent: PathBuf,
}

/// Takes a snapshot; gives its directory.
///
/// # Errors
/// A sentence that names what can't be had. A recovery log that can't be had, as where no agent runs, is no error: the
/// snapshot says so.
pub(super) fn take(
    config: &SnapshotConfig,
    sources: &Sources,
    hook: &str,
    run: u64,
    event: &EventReport,
) -> Result<PathBuf, String> {
    let failed = |what: &Path, error: io::Error| format!("{}: {error}", what.display());
    let mut private = fs::DirBuilder::new();
    // Addresses and packets of other people: for the owner alone.
    private.recursive(true).mode(0o700);
    private.create(&config.directory).map_err(|error| failed(&config.directory, error))?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let name = format!("{seconds:013}-{hook}-{run}");
    let unfinished = config.directory.join(format!("{UNFINISHED}{name}"));
    private.create(&unfinished).map_err(|error| failed(&unfinished, error))?;
    let written = write_all(&unfinished, sources, event);
    let done = config.directory.join(&name);
    let moved = written.and_then(|()| fs::rename(&unfinished, &done).map_err(|error| failed(&done, error)));
    if moved.is_err() {
        // What could be written is of no use to anybody.
        let _ = fs::remove_dir_all(&unfinished);
    }
    moved?;
    prune(config, &name).map_err(|error| failed(&config.directory, error))?;
    Ok(done)
}

fn write_all(dir: &Path, sources: &Sources, event: &EventReport) -> Result<(), String> {
    let write = |name: &str, value: &Value| {
        let text = serde_json::to_vec_pretty(value).unwrap_or_default();
        fs::write(dir.join(name), text).map_err(|error| format!("{}: {error}", dir.join(name).display()))
    };
    write("event.json", &serde_json::to_value(event).unwrap_or_default())?;
    let asked = |error: ClientError| error.to_string();
    let mut client = Client::connect_within(&sources.socket, PATIENCE).map_err(asked)?;
    for (name, request) in [
        ("status.json", Request::Status {}),
        ("counters.json", Request::Counters {}),
        ("cores.json", Request::CoreCounters {}),
        ("sas.json", Request::SaList {}),
        ("invalid-spi.json", Request::InvalidSpi { limit: LOG_LINES }),
    ] {
        write(name, &client.call::<Value>(&request).map_err(asked)?)?;
    }
    let packets: Vec<RecordedPacket> = client.call(&Request::RecordedPackets {}).map_err(asked)?;
    // The daemon's time now, for the packets' times.
    let subscribed: Subscribed = client.call(&Request::Subscribe { kinds: Vec::new() }).map_err(asked)?;
    let file = dir.join("drops.pcapng");
    write_recorded(&file, &packets, epoch(Nanos(subscribed.now_ns)))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let log = recovery_log(&sources.agent)
        .unwrap_or_else(|error| serde_json::json!({"unavailable": format!("{}: {error}", sources.agent.display())}));
    write("recovery.json", &log)
}

/// Asks the agent for its log, in the protocol that it shares with nf-core: a line each way.
fn recovery_log(agent: &Path) -> io::Result<Value> {
    let mut stream = UnixStream::connect(agent)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{{\"op\":\"recovery\",\"limit\":{LOG_LINES}}}\n").as_bytes())?;
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_LOG)).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

/// Whether a name is a snapshot's, as [`take`] makes them: nothing else is ever removed.
fn is_snapshot(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    let name = name.strip_prefix(UNFINISHED).unwrap_or(name);
    let mut parts = name.split('-');
    let number = |part: Option<&str>| part.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    number(parts.next()) && number(parts.next_back()) && parts.next().is_some()
}

/// Removes the oldest snapshots, by their names, until there are no more than may be; never the one just taken.
fn prune(config: &SnapshotConfig, newest: &str) -> io::Result<()> {
    let mut all = Vec::new();
    for entry in fs::read_dir(&config.directory)? {
        let entry = entry?;
        if is_snapshot(&entry.file_name()) && entry.file_type()?.is_dir() {
            let mut octets = 0;
            for file in fs::read_dir(entry.path())? {
                octets += file?.metadata()?.len();
            }
            all.push((entry.file_name(), octets));
        }
    }
    // What a process left unfinished that died goes first.
    all.sort();
    let (mut count, mut octets) = (all.len(), all.iter().map(|(_, octets)| octets).sum::<u64>());
    for (name, size) in all.into_iter().filter(|(name, _)| name != newest) {
        if count <= config.keep && octets <= config.octets {
            break;
        }
        fs::remove_dir_all(config.directory.join(name))?;
        count -= 1;
        octets -= size;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_snapshots_go_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let config =
            SnapshotConfig { directory: dir.path().to_owned(), keep: 3, octets: 1000, ..SnapshotConfig::default() };
        let make = |name: &str, octets: usize| {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("event.json"), vec![0; octets]).unwrap();
        };
        for (name, octets) in [
            ("1700000000001-a-1", 10),
            ("1700000000002-b-c-2", 10),
            ("1700000000003-a-3", 990),
            ("1700000000004-a-4", 5),
            (".unfinished-1700000000000-a-9", 1),
            ("notes", 5000),
            ("1700000000005", 5000),
        ] {
            make(name, octets);
        }
        fs::write(dir.path().join("1700000000000-file-1"), "").unwrap();
        let left = || {
            let entries = fs::read_dir(dir.path()).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        prune(&config, "1700000000004-a-4").unwrap();
        let others = ["1700000000000-file-1", "1700000000005", "notes"];
        let expected = |kept: &[&str]| {
            let mut names: Vec<String> = kept.iter().chain(&others).map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(left(), expected(&["1700000000003-a-3", "1700000000004-a-4"]), "1005 octets are too many with b");
        make("1700000000006-a-6", 2000);
        prune(&config, "1700000000006-a-6").unwrap();
        assert_eq!(left(), expected(&["1700000000006-a-6"]), "the newest stays, however large");
    }
}
