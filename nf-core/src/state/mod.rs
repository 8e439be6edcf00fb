//! What outlives nf-core when it is killed: its SAs, and how far their sequence numbers have come.
//!
//! Two files in a tmpfs, and a key elsewhere:
//!
//! - the **state file** (`[state] file`): the SAs with their keys, sealed; the control thread writes it anew, beside the
//!   old one and renamed over it, when SAs come or go, and every five seconds;
//! - the **marks** (the state file's name with an id and `.marks`): 64 octets for each SA, mapped into memory. A core
//!   stores in them the highest number that it has accepted, *before* it sends a packet of that burst on. That is a store
//!   to memory, not a system call, and the kernel keeps it however the process ends;
//! - the **key** of the seal, in the user's keyring of the kernel, or in a directory of its own (`[state] key`).
//!
//! # Why no replay is accepted after a restart
//! A successor lets an SA's window begin behind the number in its mark: all up to it counts as received. A core raises the
//! mark after it has taken a burst's numbers and before any packet of the burst leaves, so whatever has left is at or below
//! the mark. A number that a core took and hadn't marked yet belongs to a packet that never left. What is lost in return are
//! packets that were overtaken on the way: they come left of the mark. A file that the control thread alone writes, from time
//! to time, would have to reserve numbers ahead: either traffic stalls at the reservation's end, or all of what was
//! reserved is lost after a restart.
//!
//! # What the successor refuses
//! Anything that isn't exactly what its predecessor left: another owner, rights for others, another format, a broken seal,
//! marks that are missing or of another process. It says so in one line, and begins without SAs but those of nf.toml.
//!
//! A clean end removes all of it.

mod content;
mod files;
mod keeper;
mod key;
mod marks;
mod seal;

use std::path::PathBuf;

pub use content::Predecessor;
pub(crate) use content::{Digest, RestoredSa, SavedSa, Withdrawn};
pub(crate) use keeper::since_boot;
pub use keeper::{Keeper, MapWords, Opened};
pub use key::KeyPlace;
pub use marks::{Kept, Mark};

/// `[state]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateConfig {
    /// The state file.
    pub file: PathBuf,
    /// Where the key of its seal is.
    pub key: KeyPlace,
}

/// Why the state can't be kept. Each message is one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory doesn't do.
    #[error("[state] {field}: {} {problem}", .path.display())]
    Directory {
        /// The key of nf.toml that names it.
        field: &'static str,
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file can't be read or written.
    #[error("[state] file: {}: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The seal's key can't be kept.
    #[error("[state] key: {0}")]
    Key(String),
}

/// Why a predecessor's state isn't used.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Another user could have written it.
    #[error("it belongs to the user {owner}, not to {us}")]
    Owner {
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Others may use it.
    #[error("others than its owner may access it (mode {0:o})")]
    Mode(u32),
    /// It isn't a file.
    #[error("it isn't a regular file")]
    NotAFile,
    /// It isn't a state file.
    #[error("it isn't a state file of nf-core")]
    Foreign,
    /// Another version of nf-core wrote it.
    #[error("it is of format {0}, and this nf-core reads format {FORMAT} alone")]
    Format(u32),
    /// It ends early.
    #[error("it is cut short")]
    Short,
    /// The seal's key is gone.
    #[error("the key of its seal is gone from {0}")]
    NoKey(String),
    /// Somebody or something changed it.
    #[error("its seal is broken: it was changed or damaged")]
    Broken,
    /// It is sealed, and makes no sense all the same.
    #[error("what is in it can't be read: {0}")]
    Content(String),
    /// The marks don't belong to it.
    #[error("the marks beside it are missing, damaged or of another process")]
    Marks,
    /// The operating system refuses.
    #[error("it can't be read: {0}")]
    Io(#[from] std::io::Error),
}

/// The format of both files. Another one is refused: a state is worth seconds, and not worth a mistake.
const FORMAT: u32 = 1;
