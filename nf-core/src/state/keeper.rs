//! The files of a process: opened with what its predecessor left, written while it runs, removed at a clean end.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::content::{Content, Predecessor, SavedSa, Withdrawn};
use super::files::{check_directory, create_private, open_private, read_all};
use super::key::KeyPlace;
use super::marks::{Kept, Marks, OldMarks};
use super::seal::{HEADER, Id, SealKey, Sealed, TAG, seal};
use super::{Refusal, StateConfig, StateError};
use crate::types::SeqNo;

/// The state is written anew after this time though no SA has come or gone: what counts towards lifetimes moves on.
const INTERVAL: Duration = Duration::from_secs(5);
/// A write that takes no longer than this follows each change at once.
const CHEAP: Duration = Duration::from_millis(5);
/// Longer ones, of many SAs, take at most one part in so many of the control thread's time.
const SHARE: u32 = 20;
/// What can't be written is tried again, and complained of, after this time.
const RETRY: Duration = Duration::from_secs(10);

/// Maps words of a file into memory, as `dpdk_rs::map_words` does.
pub type MapWords = fn(&File, usize) -> io::Result<&'static [AtomicU64]>;

/// Keeps the state of this process.
pub struct Keeper {
    path: PathBuf,
    place: KeyPlace,
    /// Held locked as long as the process lives.
    _lock: File,
    id: Id,
    key: SealKey,
    marks: Marks,
    /// How many times the file was written.
    writes: u64,
    /// Whose key is to be forgotten with the first write.
    predecessor: Option<Id>,
    changed: bool,
    written: Instant,
    not_before: Instant,
    failing: bool,
}

/// What [`Keeper::open`] gives.
pub struct Opened {
    /// For this process.
    pub keeper: Keeper,
    /// What the predecessor left, if it was killed and what it left is sound.
    pub predecessor: Option<Predecessor>,
}

/// Nanoseconds since the machine has started; no setting of the clock changes it.
pub(crate) fn since_boot() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

impl Keeper {
    /// Takes the state file over: nobody else may until this process ends. `capacity` is the number of SAs that there is
    /// room for.
    ///
    /// A predecessor's state that isn't sound is refused with a warning; that isn't an error.
    ///
    /// # Errors
    /// The state can't be kept safely: the directory, the key's place, or another nf-core at the same file.
    pub fn open(config: &StateConfig, capacity: usize, map: MapWords) -> Result<Opened, StateError> {
        let path = &config.file;
        let directory = path.parent().filter(|parent| parent.is_absolute()).ok_or_else(|| StateError::File {
            path: path.clone(),
            problem: "isn't an absolute path; give one such as /run/nf-core/state".to_owned(),
        })?;
        check_directory("file", directory)?;
        config.key.check(path)?;
        let lock = lock(path)?;

        let mut old_id = None;
        let predecessor = load(path, &config.key, &mut old_id).unwrap_or_else(|why| {
            tracing::warn!(
                file = %path.display(),
                "the state of an earlier nf-core is refused: {why}; beginning without its SAs, peers have to agree on new ones"
            );
            None
        });

        let (id, key) = (Id::random()?, SealKey::random()?);
        let marks = map_marks(path, &id, capacity, map)?;
        config.key.put(&id, &key)?;
        let now = Instant::now();
        let keeper = Keeper {
            path: path.clone(),
            place: config.key.clone(),
            _lock: lock,
            id,
            key,
            marks,
            writes: 0,
            predecessor: old_id,
            changed: true,
            written: now,
            not_before: now,
            failing: false,
        };
        Ok(Opened { keeper, predecessor })
    }

    /// Gives an SA a place, up to and with `highest` received; none if there is no room. It counts for a successor from
    /// the next write on.
    pub(crate) fn take(&mut self, highest: SeqNo, configured: bool, installed: u64) -> Option<Kept> {
        self.changed = true;
        let taken = self.marks.take(highest);
        if taken.is_none() {
            tracing::warn!("there is no place among the marks: an SA would not outlive a kill of nf-core");
        }
        let (line, serial, mark) = taken?;
        Some(Kept { mark, line, serial, configured, installed })
    }

    /// Takes the place of a deleted SA back: no successor restores it.
    pub(crate) fn give_up(&mut self, kept: &Kept) {
        self.changed = true;
        self.marks.give_up(kept.line);
    }

    /// Notes that something is to be written.
    pub(crate) fn touch(&mut self) {
        self.changed = true;
    }

    /// Whether what was written last is what is.
    pub(crate) fn is_written(&self) -> bool {
        !self.changed
    }

    /// Whether it is time to write.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let stale = self.changed || now.duration_since(self.written) >= INTERVAL;
        stale && (now >= self.not_before || self.marks.waiting() > 1024)
    }

    /// Writes the state. What can't be written is told in the log, and tried again later: until then a successor restores
    /// what was written last, without the SAs that were deleted since.
    pub(crate) fn write<'s, I: Iterator<Item = SavedSa<'s>>>(
        &mut self,
        sas: impl Fn() -> I,
        withdrawn: &[Withdrawn],
    ) -> bool {
        let begun = Instant::now();
        let outcome = self.try_write(sas, withdrawn);
        let took = begun.elapsed();
        self.not_before = if took > CHEAP { begun + took * SHARE } else { begun };
        match outcome {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(file = %self.path.display(), "the state is written again");
                }
                self.changed = false;
                self.written = begun;
                self.marks.settle();
                if self.writes == 1 {
                    self.clean_up();
                }
                true
            }
            Err(problem) => {
                tracing::error!(
                    file = %self.path.display(),
                    "the state can't be written: {problem}; SAs that are added now would be lost with nf-core; make room there"
                );
                self.failing = true;
                self.not_before = begun + RETRY;
                if self.writes == 0 {
                    // What the predecessor left is out of date from the first packet on.
                    self.remove_state();
                }
                false
            }
        }
    }

    fn try_write<'s, I: Iterator<Item = SavedSa<'s>>>(
        &mut self,
        sas: impl Fn() -> I,
        withdrawn: &[Withdrawn],
    ) -> io::Result<()> {
        let content = Content { written: since_boot(), sas };
        // The length first: a buffer that grows would leave keys behind.
        let mut length = Length(0);
        content.write(withdrawn, &mut length)?;
        let mut file = Zeroizing::new(Vec::with_capacity(HEADER + length.0 + TAG));
        file.resize(HEADER, 0);
        content.write(withdrawn, &mut *file)?;
        seal(&mut file, &self.id, self.writes + 1, &self.key).ok_or(io::ErrorKind::InvalidData)?;

        let new = beside(&self.path, "new");
        let written = create_private(&new).and_then(|mut target| target.write_all(&file));
        written.and_then(|()| fs::rename(&new, &self.path)).inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })?;
        self.writes += 1;
        Ok(())
    }

    /// Sees that no successor can take a predecessor's state for ours.
    pub(crate) fn check(&self) -> Result<(), StateError> {
        if self.writes > 0 || !self.path.exists() {
            return Ok(());
        }
        let problem = "an old state can neither be replaced nor removed; remove it by hand".to_owned();
        Err(StateError::File { path: self.path.clone(), problem })
    }

    fn remove_state(&self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(file = %self.path.display(), "an old state can't be removed: {error}");
        }
    }

    /// Removes what the predecessor left, now that nothing refers to it.
    fn clean_up(&mut self) {
        if let Some(id) = self.predecessor.take() {
            self.place.remove(&id);
        }
        let ours = marks_path(&self.path, &self.id);
        for stale in all_marks(&self.path).into_iter().filter(|path| *path != ours) {
            let _ = fs::remove_file(stale);
        }
    }

    /// Removes everything: the process ends as it should, and its SAs with it.
    pub fn discard(self) {
        self.remove_state();
        let _ = fs::remove_file(marks_path(&self.path, &self.id));
        self.place.remove(&self.id);
        let _ = fs::remove_file(beside(&self.path, "lock"));
    }
}

fn map_marks(path: &Path, id: &Id, capacity: usize, map: MapWords) -> Result<Marks, StateError> {
    let marks = marks_path(path, id);
    let words = create_private(&marks).and_then(|file| map(&file, Marks::words(capacity)));
    words.map(|words| Marks::new(words, id)).map_err(|e| {
        let _ = fs::remove_file(&marks);
        let problem = format!(
            "{} KiB for the marks can't be had: {e}; make room, or lower [sad] capacity",
            Marks::words(capacity) * size_of::<u64>() / 1024
        );
        StateError::File { path: marks, problem }
    })
}

/// Counts octets.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0 += octets.len();
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The state file's name with an ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn marks_path(path: &Path, id: &Id) -> PathBuf {
    beside(path, &format!("{id}.marks"))
}

/// The marks of all processes that have used the state file.
fn all_marks(path: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let is_marks = |other: &str| {
        other.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".marks")).is_some()
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_marks)).map(|entry| entry.path()).collect()
}

fn lock(path: &Path) -> Result<File, StateError> {
    use std::os::unix::fs::OpenOptionsExt;
    let lock = beside(path, "lock");
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let open = || {
        let file =
            File::options().create(true).truncate(false).write(true).mode(0o600).custom_flags(flags).open(&lock)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    };
    open().map_err(|error: io::Error| StateError::File {
        path: path.to_owned(),
        problem: match error.kind() {
            io::ErrorKind::WouldBlock => {
                "another nf-core keeps its state there; give each a file of its own".to_owned()
            }
            _ => format!("can't be locked: {error}"),
        },
    })
}

/// What a predecessor left, if it left anything; and its id, as far as the file tells one.
fn load(path: &Path, place: &KeyPlace, old_id: &mut Option<Id>) -> Result<Option<Predecessor>, Refusal> {
    let file = match open_private(path) {
        Err(Refusal::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => read_all(file?)?,
    };
    // Known even of a file that is cut short: so its key is forgotten.
    *old_id = Id::of(&file);
    let sealed = Sealed::read(&file)?;
    let id = sealed.id;
    let key = place.get(&id).ok_or_else(|| Refusal::NoKey(place.name()))?;
    let plain = sealed.open(&key)?;
    let marks = open_private(&marks_path(path, &id)).and_then(read_all).map_err(|_| Refusal::Marks)?;
    let marks = OldMarks::read(&marks, &id)?;
    Predecessor::read(&plain, &marks).map(Some)
}
