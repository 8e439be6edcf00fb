//! The kernel's SAs, whichever IKE daemon negotiates them, mirrored into nf-core.
//!
//! An IKE daemon installs its SAs into the kernel over XFRM netlink, and the kernel tells everybody who listens: NEWSA and
//! UPDSA come with keys, DELSA and EXPIRE tell of the end. [`message`] reads that, [`Mirror`] decides what becomes of it,
//! and [`run`] listens, dumps, and asks nf-core. Only inbound SAs of ESP are mirrored.
//!
//! Three things that XFRM doesn't do for a mirror:
//! - ALLOCSPI is told to nobody but who asked. A reserved SPI is seen in the next dump, if it is there that long.
//! - An SA's selectors are what the daemon put there; those of policies aren't mirrored.
//! - An SA that is older than nf-core isn't installed: its replay window is lost, and with a fresh one everything that came
//!   before could be played again. The kernel is told that its soft lifetime is over instead, upon which it tells the
//!   daemon, which rekeys.

mod algorithm;
mod kernel;
pub mod message;
mod mirror;
mod run;

pub use message::{Event, Sa, SaId};
pub use mirror::{Action, Mirror};
pub use run::{MirrorError, run};
