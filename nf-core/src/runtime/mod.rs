//! The network function on DPDK: lcores, ports and queues. The only user of `dpdk-rs`.

mod clock;
mod cryptodev;
mod daemon;
mod device;
mod eal;
mod holding;
mod host;
mod log;
mod numa;
mod reassembly;
mod replay;
mod spread;
mod telemetry;
mod watchdog;
mod worker;

pub use daemon::run;
pub use replay::{Replay, replay};

use std::path::PathBuf;

use crate::config::ConfigError;
use crate::control::controller::ControlError;
use crate::control::server::ServerError;
use crate::state::StateError;

/// Why the program can't go on. Each message is one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// DPDK refuses.
    #[error(transparent)]
    Dpdk(#[from] dpdk_rs::Error),
    /// An SA or plugin of the configuration can't be made.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The state can't be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// The control socket can't be had.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The configuration is sound, but not enough to run with.
    #[error("{0}")]
    Unusable(String),
    /// A file can't be read or written.
    #[error("{}: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}
