//! Messages as they are on the wire (RFC 7296 3).
//!
//! - [`Header::parse`] reads what is needed to find the IKE SA of a datagram.
//! - [`Message::parse`] reads a whole message, up to the SK payload if there is one.
//! - [`Sk::parts`] shows where IV, ciphertext, ICV and the authenticated octets lie; after decryption [`strip_padding`] and
//!   [`Payloads::parse`] read what was inside, and [`Reassembly`] puts fragments together before that.
//! - [`emit`] makes a message that isn't encrypted; [`Payloads::emit`] and [`SkFrame`] lay out one that will be.
//!
//! Parsing never panics, and takes time and memory in proportion to the datagram. What is wrong with a message is a
//! [`ParseError`], which says where and why, and which notify answers it.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod chain;
mod error;
mod fragment;
mod header;
mod message;
mod octets;
mod payload;
mod registry;
mod sk;
mod spi;

pub use chain::{Chain, MAX_PAYLOADS, Payloads};
pub use error::{EmitError, ParseError, Place, Problem};
pub use fragment::{MAX_REASSEMBLED, Reassembly, Unwanted};
pub use header::{Flags, HEADER_LEN, Header, MessageId, Version};
pub use message::{Message, emit};
pub use payload::*;
pub use registry::*;
pub use sk::{FragmentId, MAX_FRAGMENTS, Sk, SkFrame, SkLayout, SkParts, SkPartsMut, strip_padding};
pub use spi::{ChildSpi, IkeSpi, Spi};
