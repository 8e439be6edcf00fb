//! The crypto engines that open (verify and decrypt) and seal (encrypt and authenticate) ESP packets (RFC 4303).
//!
//! Three steps, from an SA's configuration to its packets:
//!
//! 1. A [`Transform`] holds the SA's algorithms and keys and has checked that they fit each other.
//! 2. An [`Engine`] prepares from it, once per SA, an [`Opener`] or a [`Sealer`]: key schedules, GHASH keys and HMAC
//!    states are computed here and not per packet.
//! 3. The data path hands the opener a burst of [`OpenJob`]s. The choice of the algorithm costs one virtual call for the
//!    burst; the loop over its packets is compiled for the very algorithm, and nothing in it allocates.
//!
//! Where the fields are is the transform's [`Layout`]; after a packet is opened its [`Layout::payload_range`] holds the
//! plaintext: data, padding, Pad Length and Next Header. The padding and the sequence number are not looked at here.
//!
//! ICVs are compared in constant time. The portable engine does it before it decrypts anything; the others decrypt as they
//! go, and a packet that isn't opened holds nothing of use. One departure from RFC 4303 2.2.1, for senders
//! that depart from it: under AES-CBC with ESN, an ICV without the upper half of the sequence number is taken while that
//! half is 0.
//!
//! ```
//! use nf_core::crypto::{Cipher, EngineChoice, OpenJob, SealJob, Transform, select};
//!
//! let transform = Transform::new("aes-gcm-16".parse()?, &[7; 20], None, false)?;
//! let engine = select(EngineChoice::Auto)?;
//! let layout = transform.layout();
//!
//! // SPI 0x100, sequence number 1, IV, "data", padding of 2, Pad Length, Next Header, ICV.
//! let mut esp = [&[0, 0, 1, 0, 0, 0, 0, 1], &[0; 8][..], b"data\x01\x02\x02\x3b", &[0; 16]].concat();
//! let mut jobs = [SealJob::new(&mut esp, 0, &[0, 0, 0, 0, 0, 0, 0, 1])];
//! engine.prepare_seal(&transform)?.seal_burst(&mut jobs);
//! assert!(jobs[0].sealed());
//!
//! let mut jobs = [OpenJob::new(&mut esp, 0)];
//! engine.prepare(&transform)?.open_burst(&mut jobs);
//! assert!(jobs[0].opened());
//! let payload = layout.payload_range(esp.len()).ok_or("too short")?;
//! assert_eq!(&esp[payload], b"data\x01\x02\x02\x3b");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod engine;
#[cfg(feature = "ipsec-mb")]
mod ipsec_mb;
mod iv;
mod layout;
mod packet_cipher;
mod portable;
#[cfg(feature = "ipsec-mb")]
mod ring;
#[cfg(test)]
pub(crate) mod tests;
mod transform;

pub use engine::{Engine, EngineChoice, EngineError, OpenJob, Opener, SealJob, Sealer, select};
#[cfg(feature = "ipsec-mb")]
pub use ipsec_mb::IpsecMb;
pub use iv::{IvSource, MAX_IV_LEN};
pub use layout::{HEADER_LEN, Layout, TRAILER_LEN};
pub use portable::Portable;
#[cfg(feature = "ipsec-mb")]
pub use ring::Ring;
pub use transform::{Cipher, GcmIcv, Integrity, SALT_LEN, Transform, TransformError};
