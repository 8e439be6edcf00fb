//! What to do about ESP packets on SPIs that nobody knows: the decisions, without I/O and without a clock.
//!
//! [`Engine`] takes what happens (packets on an unknown SPI, IKE SAs and CHILD_SAs that come and go, results of
//! exchanges) together with the time, and gives [`Action`]s, which the agent carries out. The rules are those of IOS'
//! `crypto isakmp invalid-spi-recovery`, with what real peers need beside them (docs/recovery.md):
//!
//! | peer | an IKE SA with it lives | none, recovery on | none, recovery off |
//! |---|---|---|---|
//! | static kinds | CHILD_SA if need be, then DELETE | new IKE SA (INITIAL_CONTACT), then DELETE | nothing |
//! | dynamic kinds | CHILD_SA if need be, then DELETE | unprotected INVALID_SPI, a hint | the same hint |
//! | EzVPN client | CHILD_SA if need be, then DELETE | nothing | nothing |
//! | unknown source | - | nothing | nothing |
//!
//! An IKE SA is used only if it was heard of a moment ago or answers a liveness check; one that doesn't counts as none.
//!
//! What an attacker with a false source address can cause is bounded three times: all events of a site make one recovery
//! at a time, a site's recoveries are apart by a back-off that doubles ([`BackOff`]), and all IKE messages of all
//! recoveries come out of one [`Budget`], worst case first. Nothing that he sends ends an IKE SA or CHILD_SA that is
//! healthy: an IKE SA is given up only when it doesn't answer, and a DELETE names only SPIs that no SA of ours has.

mod backoff;
mod budget;
mod engine;
mod journal;
mod policy;

#[cfg(test)]
mod tests;

pub use backoff::BackOff;
pub use budget::Budget;
pub use engine::{Action, Engine, Outcome, Refusal, Unknown};
pub use journal::{Decision, Journal, Trigger, Verdict};
pub use policy::{IkeId, Limits, PeerId, PeerRule, Policy, Site};
