//! Named ESP traffic with what must come of it.
//!
//! A [`Scenario`](scenario::Scenario) writes frames, and beside each what the network function must do with it: send on
//! this packet, drop it for this reason, consume it. [`run`](run::replay) plays them through `nf-core replay` and holds
//! counters, packets and messages against that.
//!
//! Encapsulation ([`seal`]) is written for this crate alone, on the same cryptographic primitives as nf-core but sharing
//! no code with it, so that a fault in one isn't hidden by the same fault in the other.

pub mod bench;
pub mod daemon;
pub mod export;
pub mod link;
pub mod outer;
pub mod packet;
pub mod play;
pub mod random;
pub mod run;
pub mod scenario;
pub mod scenarios;
pub mod seal;
pub mod throughput;
