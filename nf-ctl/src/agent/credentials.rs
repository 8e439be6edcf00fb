//! Secrets from files that only their owner may access.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nf_core::sa::spec::unhex;
use zeroize::Zeroizing;

/// No key or certificate is longer.
const MAX_OCTETS: u64 = 64 << 10;

/// The octets of a file that only its owner may access.
///
/// # Errors
/// A sentence with the file's path and the remedy.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let error = |problem: &str| format!("{}: {problem}", path.display());
    let file = File::open(path).map_err(|e| error(&e.to_string()))?;
    // Of the file that is open: a path may change its meaning.
    let metadata = file.metadata().map_err(|e| error(&e.to_string()))?;
    if !metadata.is_file() {
        return Err(error("isn't a regular file"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(error("others than its owner may access it; run: chmod 600 on it"));
    }
    if metadata.len() > MAX_OCTETS {
        return Err(error("is too large to hold a key"));
    }
    // With room for all of it from the start, so that no copy is left behind by growing.
    let mut octets = Zeroizing::new(Vec::with_capacity(MAX_OCTETS as usize + 1));
    (&file).take(MAX_OCTETS).read_to_end(&mut octets).map_err(|e| error(&e.to_string()))?;
    Ok(octets)
}

/// The pre-shared key in a file: its text without the line's end, or hex behind `0x`.
///
/// # Errors
/// As [`read_private`], or the key is empty or no hex.
pub fn read_psk(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut octets = read_private(path)?;
    while octets.last().is_some_and(|octet| matches!(octet, b'\n' | b'\r')) {
        octets.pop();
    }
    let key = match octets.strip_prefix(b"0x") {
        Some(hex) => std::str::from_utf8(hex)
            .ok()
            .and_then(|hex| unhex(hex).ok())
            .ok_or_else(|| format!("{}: what is behind 0x isn't pairs of hex digits", path.display()))?,
        None => octets,
    };
    if key.is_empty() { Err(format!("{}: the pre-shared key is empty", path.display())) } else { Ok(key) }
}

/// Octets of a secret that is made here.
const SECRET_OCTETS: usize = 32;

/// The secret in a file, which is made with a random one if it isn't there.
///
/// # Errors
/// As [`read_private`], or the file can't be made.
pub fn read_or_make(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let error = |problem: String| format!("{}: {problem}", path.display());
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let mut secret = Zeroizing::new(vec![0; SECRET_OCTETS]);
            getrandom::fill(&mut secret).map_err(|e| error(e.to_string()))?;
            file.write_all(&secret).and_then(|()| file.sync_all()).map_err(|e| error(e.to_string()))?;
            Ok(secret)
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let secret = read_private(path)?;
            if secret.len() < SECRET_OCTETS {
                return Err(error(format!("has less than {SECRET_OCTETS} octets; remove it, and it is made anew")));
            }
            Ok(secret)
        }
        Err(e) => Err(error(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_text_or_hex_and_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("psk");
        let psk = |content: &str, mode| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            read_psk(&path).map(|key| key.to_vec())
        };
        assert_eq!(psk("open sesame\n", 0o600).unwrap(), b"open sesame");
        assert_eq!(psk("0x00ff10\r\n", 0o400).unwrap(), [0, 255, 16]);
        for (content, mode, wanted) in [
            ("open sesame", 0o640, "others than its owner may access it; run: chmod 600 on it"),
            ("open sesame", 0o604, "others than its owner"),
            ("\n", 0o600, "the pre-shared key is empty"),
            ("0x0", 0o600, "what is behind 0x isn't pairs of hex digits"),
        ] {
            let error = psk(content, mode).unwrap_err();
            assert!(error.contains(wanted) && !error.contains("sesame"), "{error}");
        }
        assert!(read_psk(dir.path()).unwrap_err().ends_with("isn't a regular file"));
    }

    #[test]
    fn a_secret_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qcd");
        let made = read_or_make(&path).unwrap();
        assert_eq!((made.len(), std::fs::metadata(&path).unwrap().mode() & 0o777), (32, 0o600));
        assert_eq!(*read_or_make(&path).unwrap(), *made);
        std::fs::write(&path, "short").unwrap();
        assert!(read_or_make(&path).unwrap_err().contains("has less than 32 octets"));
        assert!(read_or_make(&dir.path().join("none/qcd")).is_err());
    }
}
