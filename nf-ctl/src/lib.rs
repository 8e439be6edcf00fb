//! What `nf-ctl` is made of beside its command line: the decisions of invalid-SPI recovery ([`recovery`]), whoever speaks
//! IKE on the host ([`backend`]), such as strongSwan ([`vici`]), and the search for such daemons ([`detect`]).

pub mod agent;
pub mod backend;
pub mod detect;
pub mod recovery;
pub mod vici;
