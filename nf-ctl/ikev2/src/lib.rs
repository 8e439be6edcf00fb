//! An IKEv2 endpoint without I/O (RFC 7296), initiator and responder.
//!
//! Datagrams and the time go in, datagrams and events come out: sockets, clocks and threads are the caller's, and so tests
//! run in virtual time, from a seed. [`Endpoint`] is the only door; `examples/endpoint.rs` is the smallest driver.
//!
//! # Driving it
//! - [`Endpoint::handle_datagram`] takes what a socket received, without the non-ESP marker of port 4500;
//!   [`Endpoint::handle_timeout`] does what is due at [`Endpoint::poll_timeout`].
//! - Commands ([`Endpoint::initiate`], [`Endpoint::rekey_child`], ..) give a [`CommandId`]; [`Event::Done`] tells what became
//!   of it. A [`Failure`] prints as a sentence for an operator.
//! - After each of these **first all events, then all transmits**: an inbound SA has to be in place before the peer hears
//!   of it (RFC 7296 2.8).
//! - SPIs of inbound CHILD_SAs come from a [`SpiSource`], which reserves one before the peer is told: a packet that is
//!   faster than its SA is early, not unknown.
//!
//! # Life of an IKE SA
//! ```text
//!          we initiate                      the peer initiates
//!   Connecting: IKE_SA_INIT sent        HalfOpen: IKE_SA_INIT answered; past a threshold only to who returns a cookie
//!        │  cookie, other group: again       │  IKE_AUTH: who is it, which connection?   ─── no ──▶ Refused ──▶ gone
//!   Connecting: IKE_AUTH sent                │
//!        ▼                                   ▼
//!   Established ── Event::IkeUp, Event::ChildUp ──┐
//!        │   ▲                                    │ tasks, one request at a time: CHILD_SAs, rekeys, DELETE, liveness
//!        │   └────────────────────────────────────┘
//!        ├─ rekeyed ──▶ Replaced: the successor has its children and tasks; the initiator of the rekey deletes it
//!        ├─ DELETE of ours, connection removed or changed ──▶ Closing: until the answer, or four repetitions
//!        └─ silence, DELETE of the peer's, a valid QCD token, INITIAL_CONTACT ──▶ Event::ChildDown.., Event::IkeDown
//! ```
//! - *An IKE SA always has a CHILD_SA when we begin.* INITIAL_CONTACT makes the peer drop what it had with our identity, so
//!   a failed CHILD_SA ends the attempt as a whole.
//! - *Both sides rekey at once*: of the two new SAs the one that was made with the lowest nonce goes, by the hand of who made
//!   it (RFC 7296 2.8.1, 2.8.2). A peer that is busy is asked again some seconds later.
//! - *Nothing unprotected changes state.* INVALID_SPI and INVALID_IKE_SPI in the clear lead to a liveness check, one in ten
//!   seconds; answers to strangers keep a budget. The only exception is a token by which the peer said, under protection,
//!   that it would prove to have lost the IKE SA (RFC 6290).
//! - *Addresses* follow an authentic message only where a NAT was found on the peer's side (RFC 7296 2.23).
//!
//! # Rooms
//! | module | its one job |
//! |---|---|
//! | [`wire`] | messages as octets |
//! | [`crypto`] | algorithms, keys, certificates; every primitive from a library |
//! | [`proposal`], [`selector`] | what is offered and chosen, in strongSwan's notation |
//! | `sa` | one IKE SA: windows, timers; below it `exchange`, a module for each exchange with both of its sides |
//! | `endpoint` | all of them: look-up, cookies, budgets, what concerns more than one |
//!
//! # What it leaves out
//! EAP, MOBIKE, IPComp, AH, configuration payloads and revocation lists; windows larger than 1; RSA with SHA-1.

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

pub use config::{Connection, Difference, EndpointConfig};
pub use context::{SpiError, SpiSource};
pub use endpoint::{ChildSummary, CommandError, ConnectionChanges, Endpoint, IkeSummary};
pub use event::*;
pub use identity::{Identity, IdentityError};

use rand_core::{CryptoRng, SeedableRng};

/// A generator seeded by the operating system, or the error of that.
pub fn system_rng() -> Result<Box<dyn CryptoRng + Send>, getrandom::Error> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice())?;
    Ok(Box::new(rand_chacha::ChaCha20Rng::from_seed(*seed)))
}
