//! What `nf-ctl` is made of beside its command line: the agent ([`agent`]), the decisions of invalid-SPI recovery
//! ([`recovery`]), and whoever speaks IKE on the host ([`backend`]), such as strongSwan ([`vici`]), found by [`detect`].

pub mod agent;
pub mod backend;
pub mod detect;
pub mod recovery;
pub mod vici;
