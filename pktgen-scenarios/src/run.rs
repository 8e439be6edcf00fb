//! Plays a scenario through `nf-core replay` and holds what comes of it against what must.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nf_core::control::client::ClientError;
use nf_core::counters::{Consumed, Report};
use nf_core::drop::DropReason;
use pcap_file::PcapError;
use pcap_file::pcap::PcapReader;
use serde::Serialize;

use crate::scenario::{Expected, Scenario, Step, Writer};

/// The part of a message by which it is told from a log.
const MESSAGE: &str = "%CRYPTO-4-RECVD_PKT_INV_SPI:";

/// Why a scenario could not be played.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file can't be written or read.
    #[error("{}: {error}", .path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// Why.
        error: PcapError,
    },
    /// A file can't be written or read.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The program can't be started.
    #[error("{} can't be started: {error}; build it (cargo build -p nf-core) or name it with --nf-core", .path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The program failed.
    #[error("{0}")]
    Failed(String),
    /// It doesn't answer over its control socket, or refuses.
    #[error(transparent)]
    Control(#[from] ClientError),
    /// The generator's own ports fail.
    #[error("the generator's ports: {0}")]
    Dpdk(#[from] dpdk_rs::Error),
    /// It doesn't come to an end.
    #[error("waited {} s in vain for {what}; the log of nf-core ends in: {log}", .patience.as_secs())]
    Stalled {
        /// What was waited for.
        what: String,
        /// For how long.
        patience: Duration,
        /// The last lines of nf-core's log.
        log: String,
    },
    /// Its counters can't be read.
    #[error("{}: isn't a file of counters: {error}", .path.display())]
    Counters {
        /// The file.
        path: PathBuf,
        /// Why.
        error: serde_json::Error,
    },
}

impl RunError {
    /// Makes an error about a file of one about I/O.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> RunError {
        let path = path.to_owned();
        move |error| RunError::Io { path, error }
    }
}

/// The files of a scenario in a directory.
#[derive(Clone, Debug)]
pub struct Files {
    /// The frames.
    pub frames: PathBuf,
    /// The packets that must come out.
    pub outputs: PathBuf,
    /// nf.toml.
    pub config: PathBuf,
    /// What must come of it, as JSON.
    pub expected: PathBuf,
    /// The packets that came out.
    pub got: PathBuf,
    /// The counters.
    pub stats: PathBuf,
    /// What a running nf-core says on stderr.
    pub log: PathBuf,
}

impl Files {
    /// The files of a scenario.
    pub fn new(dir: &Path, name: &str) -> Files {
        Files {
            frames: dir.join(format!("{name}.pcap")),
            outputs: dir.join(format!("{name}.expected.pcap")),
            config: dir.join("nf.toml"),
            expected: dir.join("expected.json"),
            got: dir.join(format!("{name}.out.pcap")),
            stats: dir.join("stats.json"),
            log: dir.join("nf-core.log"),
        }
    }
}

/// A scenario, written.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Its name.
    pub name: &'static str,
    /// Its files.
    pub files: Files,
    /// nf.toml's text: local addresses and SAs.
    pub config: String,
    /// What must come of it.
    pub expected: Expected,
    /// Octets of the longest frame that must come out.
    pub longest: usize,
    /// Requests to the control socket on the way.
    pub steps: Vec<Step>,
}

/// Writes a scenario's frames, nf.toml and expected result into a directory.
pub fn generate(scenario: &Scenario, dir: &Path, packets: usize, seed: u64) -> Result<Generated, RunError> {
    std::fs::create_dir_all(dir).map_err(RunError::io(dir))?;
    let files = Files::new(dir, scenario.name);
    let capture = |error| RunError::Capture { path: files.frames.clone(), error };
    let mut writer = Writer::create(&files.frames, &files.outputs, seed).map_err(capture)?;
    (scenario.write)(&mut writer, packets).map_err(capture)?;
    let (config, steps, expected, longest) = writer.finish().map_err(capture)?;
    std::fs::write(&files.config, &config).map_err(RunError::io(&files.config))?;
    let json = serde_json::to_vec_pretty(&expected).unwrap_or_default();
    std::fs::write(&files.expected, json).map_err(RunError::io(&files.expected))?;
    Ok(Generated { name: scenario.name, files, config, expected, longest, steps })
}

/// What was compared, and how it came out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Outcome {
    /// The scenario.
    pub scenario: String,
    /// Numbers: what, expected, got.
    pub numbers: Vec<(String, u64, u64)>,
    /// Everything else that is wrong, a line each.
    pub differences: Vec<String>,
}

impl Outcome {
    /// Compares counters, messages and the packets that came out with what must come of a scenario.
    pub(crate) fn new(scenario: &Generated, report: &Report, stderr: &str) -> Result<Outcome, RunError> {
        let mut differences = compare_messages(&scenario.expected.messages, stderr);
        differences.extend(compare_captures(&scenario.files.outputs, &scenario.files.got)?);
        let numbers = compare_counters(&scenario.expected, report);
        Ok(Outcome { scenario: scenario.name.to_owned(), numbers, differences })
    }

    /// Whether all is as it must be.
    pub fn passed(&self) -> bool {
        self.differences.is_empty() && self.numbers.iter().all(|(_, expected, got)| expected == got)
    }
}

/// Plays a written scenario through `nf-core replay` and compares. Not for one with steps.
pub fn replay(scenario: &Generated, nf_core: &Path) -> Result<Outcome, RunError> {
    let files = &scenario.files;
    let output = Command::new(nf_core)
        .arg("replay")
        .arg("--config")
        .arg(&files.config)
        .arg("--stats-json")
        .arg(&files.stats)
        .args([&files.frames, &files.got])
        .output()
        .map_err(|error| RunError::Start { path: nf_core.to_owned(), error })?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(RunError::Failed(stderr.trim().to_owned()));
    }
    let text = std::fs::read(&files.stats).map_err(RunError::io(&files.stats))?;
    let report =
        serde_json::from_slice(&text).map_err(|error| RunError::Counters { path: files.stats.clone(), error })?;
    Outcome::new(scenario, &report, &stderr)
}

/// Every counter that there is, expected and got.
pub fn compare_counters(expected: &Expected, got: &Report) -> Vec<(String, u64, u64)> {
    let mut numbers =
        vec![("received".to_owned(), expected.rx, got.rx.packets), ("sent".to_owned(), expected.tx, got.tx.packets)];
    for why in Consumed::ALL {
        let name = why.name();
        let count = expected.consumed.get(name).copied().unwrap_or_default();
        let got = got.consumed.get(name).copied().unwrap_or_default().packets;
        numbers.push((format!("consumed {name}"), count, got));
    }
    for reason in DropReason::ALL {
        let info = reason.info();
        let count = expected.drops.get(&info.index).copied().unwrap_or_default();
        let got = got.feature(info.index).map_or(0, |row| row.packets);
        numbers.push((format!("dropped {} {}", info.index, info.name), count, got));
    }
    numbers
}

/// Each message must be there once, and no other.
fn compare_messages(expected: &BTreeSet<String>, stderr: &str) -> Vec<String> {
    let mut differences = Vec::new();
    let mut seen = BTreeSet::new();
    for line in stderr.lines().filter(|line| line.contains(MESSAGE)) {
        if !expected.contains(line) {
            differences.push(format!("unexpected message: {line}"));
        } else if !seen.insert(line.to_owned()) {
            differences.push(format!("message printed twice: {line}"));
        }
    }
    differences.extend(expected.difference(&seen).map(|line| format!("missing message: {line}")));
    differences
}

/// Packets must be the same, octet by octet, in the same order. Only the first difference is told: the rest follows.
fn compare_captures(expected: &Path, got: &Path) -> Result<Option<String>, RunError> {
    let open = |path: &Path| {
        let error = |error| RunError::Capture { path: path.to_owned(), error };
        let file = File::open(path).map_err(|e| error(PcapError::IoError(e)))?;
        PcapReader::new(std::io::BufReader::new(file)).map_err(error)
    };
    let (mut expected_packets, mut got_packets) = (open(expected)?, open(got)?);
    for number in 1u64.. {
        let next = |reader: &mut PcapReader<std::io::BufReader<File>>, path: &Path| {
            let packet = reader.next_packet().transpose();
            let packet = packet.map_err(|error| RunError::Capture { path: path.to_owned(), error });
            packet.map(|packet| packet.map(|packet| packet.data.into_owned()))
        };
        let difference = match (next(&mut expected_packets, expected)?, next(&mut got_packets, got)?) {
            (None, None) => return Ok(None),
            (Some(expected), Some(got)) if expected == got => continue,
            (Some(expected), Some(got)) => {
                let at = expected.iter().zip(&got).position(|(a, b)| a != b).unwrap_or(expected.len().min(got.len()));
                format!(
                    "packet {number} differs from octet {at} on ({} octets expected, {} got)",
                    expected.len(),
                    got.len()
                )
            }
            (Some(_), None) => format!("packet {number} and those behind it are missing"),
            (None, Some(_)) => format!("packet {number} should not be there"),
        };
        return Ok(Some(difference));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use nf_core::counters::CoreCounters;

    use super::*;
    use crate::scenarios;

    #[test]
    fn every_scenario_accounts_for_each_of_its_frames() {
        for scenario in scenarios::ALL {
            let dir = tempfile::tempdir().unwrap();
            let Generated { files, config, expected, steps, .. } = generate(scenario, dir.path(), 50, 1).unwrap();
            assert!(expected.is_conserved(), "{}: {expected:?}", scenario.name);
            assert!(expected.rx >= 40, "{}", scenario.name);
            assert!(steps.is_sorted_by_key(|step| step.after), "{}: {steps:?}", scenario.name);
            assert!(steps.iter().all(|step| step.until <= expected.rx), "{}: {steps:?}", scenario.name);
            for step in steps {
                nf_core::control::proto::Request::decode(step.request.to_string().as_bytes()).unwrap();
            }
            nf_core::config::Config::parse(&config, &files.config).unwrap();
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_octets() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let scenario = scenarios::find("mixed").unwrap();
        let frames = |dir: &tempfile::TempDir, seed| {
            std::fs::read(generate(scenario, dir.path(), 20, seed).unwrap().files.frames).unwrap()
        };
        assert_eq!(frames(&dirs[0], 1), frames(&dirs[1], 1));
        assert_ne!(frames(&dirs[0], 1), frames(&dirs[2], 2));
    }

    #[test]
    fn a_counter_that_differs_is_found() {
        let core = CoreCounters::default();
        core.rx().add(3, 0);
        core.tx().add(2, 0);
        core.drops(DropReason::Replay).add(1, 0);
        let report = core.snapshot().report();
        let mut expected = Expected { rx: 3, tx: 2, ..Expected::default() };
        expected.drops.insert(19, 1);
        let passed = |expected: &Expected| {
            let numbers = compare_counters(expected, &report);
            Outcome { scenario: String::new(), numbers, differences: Vec::new() }.passed()
        };
        assert!(passed(&expected));
        for change in [
            |e: &mut Expected| e.rx = 4,
            |e: &mut Expected| e.tx = 1,
            |e: &mut Expected| e.drops.clear(),
            |e: &mut Expected| {
                e.consumed.insert("dummy".to_owned(), 1);
            },
        ] {
            let mut other = expected.clone();
            change(&mut other);
            assert!(!passed(&other), "{other:?}");
        }
    }

    #[test]
    fn messages_are_compared_line_by_line() {
        let message = format!("{MESSAGE} one");
        let expected = BTreeSet::from([message.clone()]);
        assert_eq!(compare_messages(&expected, &format!("log\n{message}\n")), [""; 0]);
        assert_eq!(compare_messages(&expected, ""), [format!("missing message: {message}")]);
        assert_eq!(
            compare_messages(&expected, &format!("{message}\n{message}\n")),
            [format!("message printed twice: {message}")]
        );
        assert_eq!(compare_messages(&BTreeSet::new(), &message), [format!("unexpected message: {message}")]);
    }

    #[test]
    fn captures_are_compared_packet_by_packet() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let valid = scenarios::find("valid").unwrap();
        let output =
            |dir: &tempfile::TempDir, packets, seed| generate(valid, dir.path(), packets, seed).unwrap().files.outputs;
        let (ten, other, nine) = (output(&dirs[0], 10, 1), output(&dirs[1], 10, 2), output(&dirs[2], 9, 1));
        assert_eq!(compare_captures(&ten, &ten).unwrap(), None);
        assert!(compare_captures(&ten, &other).unwrap().unwrap().starts_with("packet 1 differs"));
        assert_eq!(compare_captures(&ten, &nine).unwrap().unwrap(), "packet 10 and those behind it are missing");
        assert_eq!(compare_captures(&nine, &ten).unwrap().unwrap(), "packet 10 should not be there");
    }
}
