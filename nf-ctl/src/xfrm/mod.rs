//! The kernel's SAs, whichever IKE daemon negotiates them, mirrored into nf-core.
//!
//! An IKE daemon installs its SAs into the kernel over XFRM netlink, and the kernel tells everybody who listens: NEWSA and
//! UPDSA come with keys, DELSA and EXPIRE tell of the end. [`message`] reads that, [`Mirror`] decides what becomes of it,
//! and [`run`] listens, dumps, and asks nf-core. SAs of ESP are mirrored in both directions. What may go by an SA is what its
//! policies say, NEWPOLICY and UPDPOLICY, where its own selectors are open.
//!
//! Three things that XFRM doesn't do for a mirror:
//! - ALLOCSPI is told to nobody but who asked. A reserved SPI is seen in the next dump, if it is there that long.
//! - An outbound SA is the kernel's as well: what the host itself sends into the tunnel takes the same sequence numbers.
//! - An SA that is older than nf-core isn't installed: its replay window is lost, and with a fresh one everything that came
//!   before could be played again. The kernel is told that its soft lifetime is over instead, upon which it tells the
//!   daemon, which rekeys.

mod algorithm;
mod kernel;
pub mod message;
mod mirror;
mod policy;
mod run;

pub use message::{Event, Sa, SaId};
pub use mirror::{Action, Mirror};
pub use policy::{Policy, PolicyId};
pub use run::{MirrorError, run};
