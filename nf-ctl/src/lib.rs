//! What `nf-ctl` is made of beside its command line: the decisions of invalid-SPI recovery ([`recovery`]), and whoever
//! speaks IKE on the host ([`backend`]), such as strongSwan ([`vici`]).

pub mod backend;
pub mod recovery;
pub mod vici;
