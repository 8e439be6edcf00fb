//! An IKEv2 endpoint without I/O (RFC 7296).
//!
//! Datagrams and the time go in, datagrams and events come out: sockets, clocks and threads are the caller's.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod config;
mod context;
mod credentials;
pub mod crypto;
mod endpoint;
mod event;
mod identity;
pub mod proposal;
mod qcd;
mod sa;
pub mod selector;
pub mod wire;

pub use config::{Connection, EndpointConfig};
pub use context::{SpiError, SpiSource};
pub use endpoint::{ChildSummary, CommandError, Endpoint, IkeSummary};
pub use event::*;
pub use identity::{Identity, IdentityError};

use rand_core::{CryptoRng, SeedableRng};

/// A generator seeded by the operating system, or the error of that.
pub fn system_rng() -> Result<Box<dyn CryptoRng + Send>, getrandom::Error> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice())?;
    Ok(Box::new(rand_chacha::ChaCha20Rng::from_seed(*seed)))
}
