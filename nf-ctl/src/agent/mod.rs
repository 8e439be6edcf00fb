//! `nf-ctl agent`: speaks IKE for nf-core, and recovers peers that are black-holed.

pub mod udp;
