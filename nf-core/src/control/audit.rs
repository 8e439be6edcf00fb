//! A record of every change that was asked for over a control socket: who, what, with what result. Never a key.
//!
//! Entries go to the log, target `audit`, to a file where one is configured, and into memory for `nf-ctl show audit`.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::access::Client;
use crate::notify::timestamp;

/// Entries that are kept in memory.
const KEPT: usize = 1000;

/// A change that was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When it was answered, in UTC (RFC 3339).
    pub time: String,
    /// The program that was asked.
    pub program: String,
    /// The client's user; none where the kernel did not tell.
    pub uid: Option<u32>,
    /// The user's name, where it has one.
    pub user: Option<String>,
    /// The client's process.
    pub pid: Option<i32>,
    /// What was asked for.
    pub request: String,
    /// `done`, `denied` for want of the role, or `failed`.
    pub result: Outcome,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What became of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It holds.
    Done,
    /// The client may only look.
    Denied,
    /// It could not be made.
    Failed,
}

impl Outcome {
    /// The word in tables and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Denied => "denied",
            Outcome::Failed => "failed",
        }
    }
}

/// The record. It is written on the threads that serve clients: neither a core nor the control thread waits for a disk.
#[derive(Debug)]
pub struct Audit {
    program: &'static str,
    file: Option<PathBuf>,
    kept: Mutex<VecDeque<AuditEntry>>,
    /// Whether the last entry could not be written to the file.
    failing: AtomicBool,
}

impl Audit {
    /// An empty record of a program's changes.
    pub fn new(program: &'static str, file: Option<PathBuf>) -> Audit {
        Audit { program, file, kept: Mutex::default(), failing: AtomicBool::new(false) }
    }

    /// Notes a change.
    pub fn note(&self, client: Option<Client>, request: String, result: Outcome, error: Option<String>) {
        let entry = AuditEntry {
            time: timestamp(SystemTime::now()),
            program: self.program.to_owned(),
            uid: client.map(|client| client.uid),
            user: client.and_then(|client| client.user()),
            pid: client.map(|client| client.pid),
            request,
            result,
            error,
        };
        tracing::info!(
            target: "audit",
            uid = entry.uid,
            user = entry.user,
            pid = entry.pid,
            result = result.as_str(),
            error = entry.error,
            "{}",
            entry.request
        );
        // The lock is held over the write, so that the file has the entries in the order in which memory has them.
        let mut kept = self.kept();
        if let Err(error) = self.write(&entry)
            && !self.failing.swap(true, Ordering::Relaxed)
        {
            tracing::error!(%error, file = ?self.file, "the audit file can't be written; changes go on, and are in this log");
        }
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(entry);
    }

    /// The last entries, the oldest first.
    pub fn last(&self, limit: usize) -> Vec<AuditEntry> {
        let kept = self.kept();
        kept.iter().skip(kept.len().saturating_sub(limit)).cloned().collect()
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<AuditEntry>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opened each time, so that logrotate may take it away.
    fn write(&self, entry: &AuditEntry) -> io::Result<()> {
        let Some(path) = &self.file else {
            return Ok(());
        };
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        file.write_all(&line)?;
        self.failing.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// A name that a client gave, for an entry: on one line, and not so long that it pushes others out.
pub fn quoted(name: &str) -> String {
    const LONGEST: usize = 64;
    let short: String = name.chars().take(LONGEST).collect();
    format!("{short:?}{}", if short.len() < name.len() { ".." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kept_and_written_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.jsonl");
        let audit = Audit::new("nf-core", Some(file.clone()));
        let client = Client { uid: 0, gid: 0, pid: 7 };
        for n in 0..KEPT + 2 {
            audit.note(Some(client), format!("change {n}"), Outcome::Done, None);
        }
        audit.note(None, "change x".to_owned(), Outcome::Failed, Some("no".to_owned()));
        let last = audit.last(2);
        assert_eq!((last[0].request.as_str(), last[1].request.as_str()), ("change 1001", "change x"));
        assert_eq!(audit.last(usize::MAX).len(), KEPT);
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), KEPT + 3);
        let first: AuditEntry = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((first.uid, first.pid, first.request.as_str()), (Some(0), Some(7), "change 0"));
    }

    #[test]
    fn a_file_that_cannot_be_written_costs_no_entry() {
        let audit = Audit::new("nf-core", Some("/nonexistent/audit".into()));
        audit.note(None, "change".to_owned(), Outcome::Denied, None);
        assert_eq!(audit.last(9).len(), 1);
    }

    #[test]
    fn names_of_clients_stay_on_a_line() {
        assert_eq!(quoted("cap\n2"), "\"cap\\n2\"");
        assert!(quoted(&"x".repeat(1000)).len() < 80);
    }
}
