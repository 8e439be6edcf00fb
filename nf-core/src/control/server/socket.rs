//! The socket's files: who owns the path, and how it comes and goes without a gap.
//!
//! The lock decides: who holds the lock on `PATH.lock` owns `PATH`, and the kernel takes the lock from a process that
//! dies. The socket is made in a directory that nobody else may enter, gets its mode there, and is moved to its path.
//! So at no time does it have a wider mode than it shall have, whatever the umask.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::{Owner, ServerError};
use crate::control::access::{Access, Group};

/// The longest address of a Unix socket on Linux: `sun_path` without its NUL.
const MAX_ADDRESS: usize = 107;

/// Turns of the race between an instance that ends, and removes the lock file, and one that starts.
const LOCK_TRIES: usize = 16;

/// A file, whatever its name: device and inode.
type FileId = (u64, u64);

/// The files of a served socket. Dropping it removes them.
pub(super) struct Socket {
    path: PathBuf,
    owner: Owner,
    /// The socket's file, once it is at its path.
    placed: Option<FileId>,
    /// Held as long as this lives, and given up last.
    _lock: Lock,
}

impl Socket {
    /// Takes the path, creates the socket and listens on it.
    pub(super) fn create(path: PathBuf, owner: Owner, access: &Access) -> Result<(Socket, UnixListener), ServerError> {
        let no_such = |group: &Group| ServerError::NoSuchGroup(group.to_string());
        let group = access.group.as_ref().map(|group| group.id().ok_or_else(|| no_such(group))).transpose()?;
        let staging = beside(&path, ".new");
        let staged = staging.join("s");
        let octets = path.as_os_str().len();
        let max = MAX_ADDRESS.saturating_sub(staged.as_os_str().len().saturating_sub(octets));
        if octets > max {
            return Err(ServerError::PathTooLong { owner, path, octets, max });
        }
        let lock = Lock::take(&path, owner)?;
        refuse_others(&path, owner)?;
        let mut socket = Socket { path, owner, placed: None, _lock: lock };
        // What a process left that died at this point.
        let _ = fs::remove_file(&staged);
        let _ = fs::remove_dir(&staging);
        DirBuilder::new().mode(0o700).create(&staging).map_err(|error| failed(owner, "create", &staging, error))?;
        let listener = socket.place(&staged, access.mode, group);
        let _ = fs::remove_file(&staged);
        let _ = fs::remove_dir(&staging);
        Ok((socket, listener?))
    }

    /// Makes the socket at `staged` and moves it to its path.
    fn place(&mut self, staged: &Path, mode: u32, group: Option<u32>) -> Result<UnixListener, ServerError> {
        let listener = UnixListener::bind(staged).map_err(|error| failed(self.owner, "create", &self.path, error))?;
        if let Some(group) = group {
            chown(staged, None, Some(group))
                .map_err(|error| failed(self.owner, "give to the [control] group", &self.path, error))?;
        }
        fs::set_permissions(staged, Permissions::from_mode(mode))
            .and_then(|()| fs::symlink_metadata(staged))
            .and_then(|made| fs::rename(staged, &self.path).map(|()| self.placed = Some(id(&made))))
            .map_err(|error| failed(self.owner, "create", &self.path, error))?;
        Ok(listener)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What went wrong with the socket.
    pub(super) fn error(&self, what: &'static str, source: io::Error) -> ServerError {
        failed(self.owner, what, &self.path, source)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody may have put another file there by hand: it isn't ours to remove.
        if self.placed.is_some() && self.placed == fs::symlink_metadata(&self.path).ok().map(|found| id(&found)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The lock on a socket's path, a file with the process' number in it.
struct Lock {
    path: PathBuf,
    /// Closing it gives up the lock.
    file: File,
    /// The directories that had to be created, outermost first.
    directories: Vec<PathBuf>,
}

impl Lock {
    /// Takes the lock of a socket, and creates the socket's directory if need be.
    fn take(socket: &Path, owner: Owner) -> Result<Lock, ServerError> {
        let path = beside(socket, ".lock");
        let mut directories = Vec::new();
        for _ in 0..LOCK_TRIES {
            if let Err(error) = create_missing(socket, owner, &mut directories) {
                remove_all(&directories);
                return Err(error);
            }
            match Lock::try_take(socket, owner, &path) {
                Ok(Some(file)) => return Ok(Lock { path, file, directories }),
                Ok(None) => {}
                Err(error) => {
                    remove_all(&directories);
                    return Err(error);
                }
            }
        }
        Err(ServerError::InUse { owner, path: socket.to_owned(), pid: None })
    }

    /// `None` if the file or its directory was removed in the meantime, by an instance that ended.
    fn try_take(socket: &Path, owner: Owner, path: &Path) -> Result<Option<File>, ServerError> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(owner, "write", path, error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(ServerError::InUse { owner, path: socket.to_owned(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(failed(owner, "lock", path, error)),
        }
        let locked = file.metadata().map_err(|error| failed(owner, "lock", path, error))?;
        if fs::symlink_metadata(path).ok().map(|found| id(&found)) != Some(id(&locked)) {
            return Ok(None);
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|error| failed(owner, "write", path, error))?;
        Ok(Some(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // It goes while it is locked: so who locks it next can see that it went.
        let ours = self.file.metadata().ok().map(|held| id(&held));
        if ours.is_some() && ours == fs::symlink_metadata(&self.path).ok().map(|found| id(&found)) {
            let _ = fs::remove_file(&self.path);
        }
        remove_all(&self.directories);
    }
}

/// Creates the directories above the socket that aren't there, and notes them.
fn create_missing(socket: &Path, owner: Owner, created: &mut Vec<PathBuf>) -> Result<(), ServerError> {
    let above: Vec<&Path> =
        socket.ancestors().skip(1).take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    for directory in above.into_iter().rev() {
        match DirBuilder::new().mode(0o755).create(directory) {
            Ok(()) => created.push(directory.to_owned()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(owner, "create the directory", directory, error)),
        }
    }
    Ok(())
}

/// Removes directories again, innermost first, as far as they are empty.
fn remove_all(directories: &[PathBuf]) {
    directories.iter().rev().for_each(|directory| drop(fs::remove_dir(directory)));
}

/// Makes sure that what is at the path may be replaced: nothing, or the socket of a process that is gone.
fn refuse_others(path: &Path, owner: Owner) -> Result<(), ServerError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(owner, "look at", path, error)),
    };
    if !found.file_type().is_socket() {
        return Err(ServerError::NotASocket { owner, path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ServerError::InUse { owner, path: path.to_owned(), pid: None }),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(failed(owner, "connect to", path, error)),
    }
}

/// The path with something appended to its last part.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn id(metadata: &fs::Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// An error of the system in words: what was refused, to what.
fn failed(owner: Owner, what: &'static str, path: &Path, source: io::Error) -> ServerError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ServerError::Permission { owner, what, path },
        _ => ServerError::Io { owner, what, path, source },
    }
}
