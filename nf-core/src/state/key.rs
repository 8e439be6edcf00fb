//! Where the seal's key is, from one process to the next: not beside the state file.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use linux_keyutils::{Key, KeyError, KeyPermissionsBuilder, KeyRing, KeyRingIdentifier, Permission};
use zeroize::Zeroizing;

use super::StateError;
use super::files::check_directory;
use super::seal::{Id, SealKey};
use crate::sa::spec::FieldError;

/// Where the key is kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum KeyPlace {
    /// In the user's keyring of the kernel: in no file, in no backup, in no volume of a container, and gone when the machine
    /// stops.
    #[default]
    Keyring,
    /// In a file of this directory, for containers that may not use keyrings.
    Directory(PathBuf),
}

impl FromStr for KeyPlace {
    type Err = FieldError;

    fn from_str(text: &str) -> Result<KeyPlace, FieldError> {
        match text {
            "keyring" => Ok(KeyPlace::Keyring),
            path if path.starts_with('/') => Ok(KeyPlace::Directory(path.into())),
            _ => Err(FieldError::new(
                "key",
                format_args!("`{text}` is neither `keyring` nor a directory such as /run/nf-core-key"),
            )),
        }
    }
}

impl KeyPlace {
    /// What messages call it.
    pub(super) fn name(&self) -> String {
        match self {
            KeyPlace::Keyring => "the user's keyring".to_owned(),
            KeyPlace::Directory(path) => path.display().to_string(),
        }
    }

    /// Sees whether a key can be kept there at all, and makes the directory.
    pub(super) fn check(&self, state: &Path) -> Result<(), StateError> {
        let KeyPlace::Directory(path) = self else {
            return Ok(());
        };
        check_directory("key", path)?;
        if state.parent().is_some_and(|parent| fs::canonicalize(parent).ok() == fs::canonicalize(path).ok()) {
            let problem = "is where the state file is: a copy of it would hold both; name another directory".to_owned();
            return Err(StateError::Directory { field: "key", path: path.clone(), problem });
        }
        Ok(())
    }

    pub(super) fn put(&self, id: &Id, key: &SealKey) -> Result<(), StateError> {
        match self {
            KeyPlace::Keyring => put_in_keyring(&description(id), key).map_err(|error| {
                StateError::Key(format!(
                    "the kernel takes no key into the user's keyring ({error}); where keyrings may not be used, as in some \
                     containers, set key = \"/run/nf-core-key\""
                ))
            }),
            KeyPlace::Directory(path) => put_in_file(&file(path, id), key).map_err(|error| {
                StateError::Key(format!("{} can't be written: {error}", file(path, id).display()))
            }),
        }
    }

    pub(super) fn get(&self, id: &Id) -> Option<SealKey> {
        let mut key = SealKey(Zeroizing::default());
        let complete = match self {
            KeyPlace::Keyring => find_in_keyring(&description(id)).ok()?.read(&mut *key.0).ok()? == key.0.len(),
            KeyPlace::Directory(path) => fs::File::open(file(path, id)).ok()?.read_exact(&mut *key.0).is_ok(),
        };
        complete.then_some(key)
    }

    /// Forgets a key. One that stays behind opens nothing that is left.
    pub(super) fn remove(&self, id: &Id) {
        match self {
            KeyPlace::Keyring => {
                if let Ok(key) = find_in_keyring(&description(id)) {
                    let _ = key.invalidate();
                }
            }
            KeyPlace::Directory(path) => {
                let _ = fs::remove_file(file(path, id));
            }
        }
    }
}

fn description(id: &Id) -> String {
    format!("nf-core:state:{id}")
}

fn file(directory: &Path, id: &Id) -> PathBuf {
    directory.join(format!("{id}.key"))
}

fn keyring() -> Result<KeyRing, KeyError> {
    KeyRing::from_special_id(KeyRingIdentifier::User, true)
}

fn find_in_keyring(description: &str) -> Result<Key, KeyError> {
    keyring()?.search(description)
}

fn put_in_keyring(description: &str, key: &SealKey) -> Result<(), KeyError> {
    let key = keyring()?.add_key(description, &*key.0)?;
    // A successor under systemd has a session of its own, so it doesn't possess the key: the user's rights must do.
    let rights = Permission::VIEW | Permission::READ | Permission::SEARCH | Permission::WRITE;
    key.set_perms(KeyPermissionsBuilder::builder().posessor(Permission::ALL).user(rights).build())
}

fn put_in_file(path: &Path, key: &SealKey) -> io::Result<()> {
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&*key.0)
}
