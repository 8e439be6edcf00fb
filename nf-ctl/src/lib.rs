//! What `nf-ctl` is made of beside its command line: the agent ([`agent`]), the decisions of invalid-SPI recovery
//! ([`recovery`]), whoever speaks IKE on the host ([`backend`]), such as strongSwan ([`vici`]), found by [`detect`], and the
//! mirror of the kernel's SAs ([`xfrm`]).

pub mod agent;
pub mod backend;
pub mod detect;
pub mod recovery;
pub mod vici;
pub mod xfrm;
