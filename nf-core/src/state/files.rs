//! What is asked of the files and directories of the state.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::{Refusal, StateError};

/// `f_type` of a tmpfs and of a ramfs (statfs(2)).
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58F6;

pub(super) fn our_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Makes a directory where there is none, and insists that it is in memory and that nobody else can write to it.
pub(super) fn check_directory(field: &'static str, path: &Path) -> Result<(), StateError> {
    let error = |problem: String| StateError::Directory { field, path: path.to_owned(), problem };
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error(format!("can't be made ({e}); make it, or name a directory below /run")));
        }
        _ => {}
    }
    let metadata = fs::metadata(path).map_err(|e| error(format!("can't be looked at: {e}")))?;
    if !metadata.is_dir() {
        return Err(error("isn't a directory".to_owned()));
    }
    if ![our_user(), 0].contains(&metadata.uid()) {
        return Err(error(format!("belongs to the user {}; it must be root's or that of nf-core", metadata.uid())));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(error("can be written to by others than its owner; run: chmod 755 on it".to_owned()));
    }
    let kind = rustix::fs::statfs(path).map_err(|e| error(format!("can't be looked at: {e}")))?.f_type;
    #[allow(clippy::unnecessary_cast, reason = "its width differs between machines")]
    let kind = kind as i64;
    if ![TMPFS, RAMFS].contains(&kind) {
        return Err(error("isn't in a tmpfs, and keys don't belong on a disk; name a directory below /run".to_owned()));
    }
    Ok(())
}

/// Opens a file that only its owner, us, may access.
pub(super) fn open_private(path: &Path) -> Result<File, Refusal> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Refusal::NotAFile);
    }
    let (owner, us) = (metadata.uid(), our_user());
    if owner != us {
        return Err(Refusal::Owner { owner, us });
    }
    match metadata.mode() & 0o7777 {
        mode if mode & 0o077 != 0 => Err(Refusal::Mode(mode)),
        _ => Ok(file),
    }
}

/// Reads all of it.
pub(super) fn read_all(mut file: File) -> Result<Vec<u8>, Refusal> {
    let mut octets = Vec::new();
    file.read_to_end(&mut octets)?;
    Ok(octets)
}

/// Makes a file that only we may access, in place of whatever has its name.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}
