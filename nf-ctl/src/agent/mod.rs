//! `nf-ctl agent`: speaks IKE for nf-core, and recovers peers that are black-holed.

pub mod coordinator;
pub mod credentials;
pub mod daemon;
pub mod daemon_link;
pub mod install;
pub mod ledger;
mod muffle;
pub mod peers;
pub mod proto;
pub mod sad;
pub mod tasks;
pub mod udp;
