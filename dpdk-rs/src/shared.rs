//! Words in a file that is mapped into memory, so that what was stored in them outlives the process.
//!
//! A core writes such a word as it writes any other: with a store, without a system call. The kernel keeps the file's pages
//! when the process is killed, whatever it was doing, and a successor reads from the file what stood there at that instant.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU64;

/// Maps the first `words` words of 64 bits of a file, in the byte order of this machine, for the rest of the process's life.
///
/// The file's memory is set aside here: on a file system that is full this is an error, and no store into a word can
/// fail later. A file that is shorter grows. Nobody must shorten the file while the process runs: where somebody does,
/// the kernel ends the process (SIGBUS). So it belongs into a directory that only this process's user may write to.
///
/// # Errors
/// Whatever the operating system has against it, such as no space.
pub fn map_words(file: &File, words: usize) -> io::Result<&'static [AtomicU64]> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "no such number of words can be mapped");
    let octets = words.checked_mul(size_of::<AtomicU64>()).filter(|octets| *octets > 0).ok_or_else(invalid)?;
    let length = libc::off_t::try_from(octets).map_err(|_| invalid())?;
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a mapping at an address of the kernel's choice touches no memory that is in use.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), octets, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is page-aligned, `octets` long and never unmapped; every bit pattern is an `AtomicU64`; and other
    // processes that map the file can be told from other threads by nothing: all accesses on this side are atomic.
    Ok(unsafe { std::slice::from_raw_parts(start.cast::<AtomicU64>(), words) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_is_stored_is_in_the_file_and_the_other_way_round() {
        let file = tempfile::tempfile().unwrap();
        let words = map_words(&file, 1000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8000);
        words[999].store(0x0102_0304_0506_0708, Ordering::Relaxed);
        let mut octets = [0; 8];
        file.read_exact_at(&mut octets, 7992).unwrap();
        assert_eq!(u64::from_ne_bytes(octets), 0x0102_0304_0506_0708);
        file.write_all_at(&7u64.to_ne_bytes(), 0).unwrap();
        assert_eq!(words[0].load(Ordering::Relaxed), 7);
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        for words in [0, usize::MAX, usize::MAX / 8] {
            assert!(map_words(&file, words).is_err(), "{words}");
        }
        assert!(map_words(&File::open("/dev/null").unwrap(), 8).is_err());
    }
}
