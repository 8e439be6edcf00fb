//! What `nf-ctl` is made of beside its command line: the decisions of invalid-SPI recovery ([`recovery`]).

pub mod recovery;
