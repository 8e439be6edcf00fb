//! strongSwan's charon as the IKE daemon, over VICI, its control interface.
//!
//! [`Charon`] is an [`IkeBackend`](crate::backend::IkeBackend): it lists, initiates, rekeys and terminates, of IKEv2 as of
//! IKEv1, and never loads or changes a configuration. [`Events`] tells of SAs that come and go. Both block, each on a
//! connection of its own, with a deadline on everything.
//!
//! Messages are read by `serde_vici`. Its companion `rsvici`, the client, isn't used: it needs tokio's multi-threaded
//! runtime for what is one blocking socket here.

mod charon;
mod events;
mod message;
pub mod packet;
mod transport;

pub use charon::Charon;
pub use events::Events;

/// Where charon listens unless its `charon.plugins.vici.socket` says otherwise.
pub const SOCKET: &str = "/run/charon.vici";
