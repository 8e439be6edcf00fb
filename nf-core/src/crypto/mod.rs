//! Cryptography of ESP: what an SA is protected with ([`Transform`]), and the engines that verify and decrypt.
//!
//! An [`Engine`] expands a transform's keys once per SA into an [`Opener`]; the cores hand that whole bursts. Engines
//! must agree on every packet: tests/crypto_vectors.rs runs the same vectors through all of them.

mod portable;
mod transform;

use std::fmt;
use std::str::FromStr;

pub use portable::Portable;
pub use transform::{Cipher, Integrity, Layout, Transform, TransformError};

/// One packet for an engine.
#[derive(Debug)]
pub struct OpenJob<'a> {
    /// From the SPI to the last octet of the ICV. Once opened, the octets of [`Layout::payload_range`] are plaintext.
    esp: &'a mut [u8],
    /// The high half of the sequence number; without ESN it plays no part.
    seq_high: u32,
    opened: bool,
}

impl<'a> OpenJob<'a> {
    /// A packet to be verified and decrypted in place.
    #[inline]
    pub fn new(esp: &'a mut [u8], seq_high: u32) -> OpenJob<'a> {
        OpenJob { esp, seq_high, opened: false }
    }

    /// Whether the engine has found the packet authentic and decrypted it. Octets of one that isn't must not be used.
    #[inline]
    pub fn opened(&self) -> bool {
        self.opened
    }
}

/// The expanded keys of an SA.
pub trait Opener: Send + Sync {
    /// Verifies and decrypts each packet of a burst in place; the jobs tell which ones were authentic. ICVs are
    /// compared in constant time.
    fn open_burst(&self, jobs: &mut [OpenJob<'_>]);
}

/// An implementation of the transforms.
pub trait Engine: Send + Sync {
    /// The name in configuration and displays.
    fn name(&self) -> &'static str;

    /// Expands a transform's keys.
    fn prepare(&self, transform: &Transform) -> Result<Box<dyn Opener>, EngineError>;
}

/// `[crypto] engine`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EngineChoice {
    /// The fastest that this machine can run.
    #[default]
    Auto,
    /// RustCrypto: `aes-gcm` and its siblings, portable.
    AesGcm,
    /// libipsec-mb.
    IpsecMb,
}

impl EngineChoice {
    /// The name in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            EngineChoice::Auto => "auto",
            EngineChoice::AesGcm => "aes-gcm",
            EngineChoice::IpsecMb => "ipsec-mb",
        }
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EngineChoice {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<EngineChoice, EngineError> {
        [EngineChoice::Auto, EngineChoice::AesGcm, EngineChoice::IpsecMb]
            .into_iter()
            .find(|choice| choice.as_str() == name)
            .ok_or_else(|| EngineError::Unknown(name.to_owned()))
    }
}

/// An engine that can't be had.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EngineError {
    /// No engine has that name.
    #[error("there is no crypto engine `{0}`; use `auto`, `aes-gcm` or `ipsec-mb`")]
    Unknown(String),
    /// It isn't in this build.
    #[error("this build has no engine `{0}`; use `auto` or `aes-gcm`")]
    NotBuilt(EngineChoice),
    /// It can't do the SA's algorithms.
    #[error("the engine `{engine}` can't do {transform}; set `[crypto] engine = \"aes-gcm\"`")]
    Unsupported {
        /// The engine.
        engine: &'static str,
        /// The algorithms.
        transform: String,
    },
}

/// The engine of a choice.
pub fn select(choice: EngineChoice) -> Result<Box<dyn Engine>, EngineError> {
    match choice {
        EngineChoice::Auto | EngineChoice::AesGcm => Ok(Box::new(Portable)),
        EngineChoice::IpsecMb => Err(EngineError::NotBuilt(choice)),
    }
}
