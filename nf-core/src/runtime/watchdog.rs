//! systemd's watchdog, fed while every core makes progress.

use std::time::Instant;

use crate::systemd::Supervisor;

/// Tells systemd that all goes well, for as long as every core makes progress.
pub(super) struct Watchdog {
    pub(super) supervisor: Supervisor,
    /// When the next sign of life is due, and what each core had done at the last one.
    due: Option<Instant>,
    seen: Vec<u64>,
}

impl Watchdog {
    pub(super) fn new(supervisor: Supervisor) -> Watchdog {
        let due = supervisor.interval().map(|interval| Instant::now() + interval);
        Watchdog { supervisor, due, seen: Vec::new() }
    }

    /// Call it often. A core goes round its queues many thousand times a second, with or without traffic: one that has
    /// not since the last time hangs, and systemd is left to end the process.
    pub(super) fn tick(&mut self, rounds: impl Iterator<Item = u64>) {
        let now = Instant::now();
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        let rounds: Vec<u64> = rounds.collect();
        let stuck = rounds.iter().zip(&self.seen).position(|(now, before)| now == before);
        match stuck {
            Some(core) => tracing::error!(core, "a core makes no progress: the watchdog is not fed"),
            None => {
                self.supervisor.alive();
                self.seen = rounds;
            }
        }
        self.due = self.supervisor.interval().map(|interval| now + interval);
    }
}
