//! What an engine is, what it is handed, and the choice among engines.

use std::any::Any;
use std::fmt;
use std::str::FromStr;

use super::portable::Portable;
use super::transform::Transform;

/// A packet to verify and decrypt.
pub struct OpenJob<'a> {
    /// The ESP packet, from the SPI to the last octet of the ICV. Once opened, the SA's
    /// [`Layout::payload_range`](super::Layout::payload_range) of it holds the plaintext.
    pub esp: &'a mut [u8],
    /// The upper half of the extended sequence number, which isn't on the wire; ignored without ESN.
    pub seq_hi: u32,
    opened: bool,
}

impl<'a> OpenJob<'a> {
    /// A job that no engine has done yet.
    pub fn new(esp: &'a mut [u8], seq_hi: u32) -> OpenJob<'a> {
        OpenJob { esp, seq_hi, opened: false }
    }

    /// True when an engine found the ICV right and put the plaintext in place. Otherwise the packet is short, misaligned
    /// or forged, or no engine has seen it, and its octets mean nothing.
    pub fn opened(&self) -> bool {
        self.opened
    }

    /// For engines: records how the job ended.
    pub fn finish(&mut self, opened: bool) {
        self.opened = opened;
    }
}

/// A packet to encrypt and authenticate.
pub struct SealJob<'a> {
    /// The ESP packet: SPI and sequence number; room for the IV; the payload with padding and trailer in the clear; room
    /// for the ICV.
    pub esp: &'a mut [u8],
    /// The upper half of the extended sequence number, which isn't on the wire; ignored without ESN.
    pub seq_hi: u32,
    /// The IV, as long as the layout says. It must never repeat under a key: a counter for the AEADs (RFC 4106 3.1, RFC
    /// 7634 2), whose secrecy ends with the first repetition, and unpredictable for AES-CBC (RFC 3602 3).
    pub iv: &'a [u8],
    sealed: bool,
}

impl<'a> SealJob<'a> {
    /// A job that no engine has done yet.
    pub fn new(esp: &'a mut [u8], seq_hi: u32, iv: &'a [u8]) -> SealJob<'a> {
        SealJob { esp, seq_hi, iv, sealed: false }
    }

    /// True when an engine encrypted the packet and put IV and ICV in place. Otherwise its lengths don't fit the layout,
    /// or no engine has seen it, and it must not be sent.
    pub fn sealed(&self) -> bool {
        self.sealed
    }

    /// For engines: records how the job ended.
    pub fn finish(&mut self, sealed: bool) {
        self.sealed = sealed;
    }
}

/// Opens the packets of one SA. Cores may share it.
pub trait Opener: Send + Sync {
    /// Verifies each packet and decrypts in place those whose ICV is right; each job says whether it was
    /// [opened](OpenJob::opened).
    fn open_burst(&self, jobs: &mut [OpenJob<'_>]);

    /// Asks the CPU for the memory that opening a packet with a payload of so many octets reads. For engines whose keys are
    /// large.
    fn prefetch(&self, payload_len: usize) {
        let _ = payload_len;
    }

    /// What a crypto device needs to open the SA's packets, in the terms of whoever submits them; none for an engine that
    /// opens them in [`Opener::open_burst`], which does nothing where this gives something.
    fn device(&self) -> Option<&(dyn Any + Send + Sync)> {
        None
    }
}

/// Seals the packets of one SA. Cores may share it.
pub trait Sealer: Send + Sync {
    /// Encrypts each packet in place and puts its IV and ICV in; each job says whether it was
    /// [sealed](SealJob::sealed).
    fn seal_burst(&self, jobs: &mut [SealJob<'_>]);

    /// What a crypto device needs to seal the SA's packets, as [`Opener::device`] says for those that it opens.
    fn device(&self) -> Option<&(dyn Any + Send + Sync)> {
        None
    }
}

/// An implementation of ESP's algorithms.
pub trait Engine: Send + Sync {
    /// The name in nf.toml.
    fn name(&self) -> &'static str;

    /// True where [`Engine::prepare`] and [`Engine::prepare_seal`] can take the transform.
    fn supports(&self, transform: &Transform) -> bool;

    /// Computes what opening the packets of an SA needs.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] where the engine doesn't [support](Engine::supports) the transform.
    fn prepare(&self, transform: &Transform) -> Result<Box<dyn Opener>, EngineError>;

    /// Computes what sealing the packets of an SA needs.
    ///
    /// # Errors
    /// As [`Engine::prepare`].
    fn prepare_seal(&self, transform: &Transform) -> Result<Box<dyn Sealer>, EngineError>;
}

/// The engine that the configuration asks for, `[crypto] engine` of nf.toml.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EngineChoice {
    /// The fastest engine of this build.
    #[default]
    Auto,
    /// The portable engine in Rust, named after the crate at its heart.
    AesGcm,
    /// Intel's multi-buffer library.
    IpsecMb,
    /// ring for long packets, Intel's library for short ones.
    Ring,
    /// A crypto device of DPDK.
    Cryptodev,
}

impl EngineChoice {
    /// Every choice, in the order of the documentation.
    pub const ALL: [EngineChoice; 5] =
        [EngineChoice::Auto, EngineChoice::AesGcm, EngineChoice::IpsecMb, EngineChoice::Ring, EngineChoice::Cryptodev];

    /// The name in nf.toml.
    pub const fn as_str(self) -> &'static str {
        match self {
            EngineChoice::Auto => "auto",
            EngineChoice::AesGcm => "aes-gcm",
            EngineChoice::IpsecMb => "ipsec-mb",
            EngineChoice::Ring => "ring",
            EngineChoice::Cryptodev => "cryptodev",
        }
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for EngineChoice {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.as_str() == name)
            .ok_or_else(|| EngineError::Unknown(name.to_owned()))
    }
}

/// Why an engine can't be had, or can't serve an SA.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EngineError {
    /// A name that isn't an engine's.
    #[error("there is no crypto engine `{0}`; use `auto`, `aes-gcm`, `ipsec-mb`, `ring` or `cryptodev`")]
    Unknown(String),
    /// The engine isn't part of this build.
    #[error("this build has no {0} engine; use engine = \"auto\" or \"aes-gcm\"")]
    NotBuilt(EngineChoice),
    /// The CPU lacks instructions that the engine needs.
    #[error("this CPU lacks instructions that the {0} engine needs; use engine = \"auto\" or \"aes-gcm\"")]
    NoCpu(EngineChoice),
    /// There are no random numbers to make IVs from.
    #[error("the operating system gives no random numbers: {0}; see that getrandom(2) works where nf-core runs")]
    NoRandom(String),
    /// The crypto device refuses the SA, in its own words.
    #[error("{transform}: {problem}; change the algorithm on both sides, or use engine = \"auto\"")]
    Device {
        /// The transform's name.
        transform: String,
        /// What the device says.
        problem: String,
    },
    /// The engine doesn't implement the transform.
    #[error("the {engine} engine doesn't support {transform}; use engine = \"auto\"")]
    Unsupported {
        /// The engine's name.
        engine: &'static str,
        /// The transform's name.
        transform: String,
    },
}

/// The engine for a choice. `Auto` is `Ring` on a CPU where that is the fastest, else libipsec-mb where the build has it and
/// the CPU can run it, else the portable one. `Cryptodev` needs a device, which only `runtime` can open: here it is never
/// built.
///
/// # Errors
/// [`EngineError::NotBuilt`] where this build doesn't have it, [`EngineError::NoCpu`] where the CPU can't run it.
pub fn select(choice: EngineChoice) -> Result<Box<dyn Engine>, EngineError> {
    match choice {
        EngineChoice::Auto => Ok(native::fastest().unwrap_or_else(|| Box::new(Portable))),
        EngineChoice::AesGcm => Ok(Box::new(Portable)),
        EngineChoice::IpsecMb | EngineChoice::Ring => native::select(choice),
        EngineChoice::Cryptodev => Err(EngineError::NotBuilt(choice)),
    }
}

#[cfg(feature = "ipsec-mb")]
mod native {
    use super::{Engine, EngineChoice, EngineError};
    use crate::crypto::ipsec_mb::IpsecMb;
    use crate::crypto::ring::Ring;

    pub(super) fn select(choice: EngineChoice) -> Result<Box<dyn Engine>, EngineError> {
        if choice == EngineChoice::Ring { boxed(Ring::new()) } else { boxed(IpsecMb::new()) }
            .ok_or(EngineError::NoCpu(choice))
    }

    pub(super) fn fastest() -> Option<Box<dyn Engine>> {
        boxed(Ring::new().filter(|_| Ring::pays())).or_else(|| boxed(IpsecMb::new()))
    }

    fn boxed<E: Engine + 'static>(engine: Option<E>) -> Option<Box<dyn Engine>> {
        engine.map(|engine| Box::new(engine) as Box<dyn Engine>)
    }
}

#[cfg(not(feature = "ipsec-mb"))]
mod native {
    use super::{Engine, EngineChoice, EngineError};

    pub(super) fn select(choice: EngineChoice) -> Result<Box<dyn Engine>, EngineError> {
        Err(EngineError::NotBuilt(choice))
    }

    pub(super) fn fastest() -> Option<Box<dyn Engine>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_read_back_as_what_they_name() {
        assert!(EngineChoice::ALL.into_iter().all(|choice| choice.to_string().parse() == Ok(choice)));
        let error = "openssl".parse::<EngineChoice>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no crypto engine `openssl`; use `auto`, `aes-gcm`, `ipsec-mb`, `ring` or `cryptodev`"
        );
    }

    #[test]
    fn a_choice_is_the_engine_that_it_names() {
        assert_eq!(select(EngineChoice::AesGcm).map(|engine| engine.name()), Ok("aes-gcm"));
        for choice in [EngineChoice::IpsecMb, EngineChoice::Ring] {
            match select(choice) {
                Ok(engine) => assert_eq!(engine.name(), choice.as_str()),
                Err(error) => {
                    assert!(error.to_string().contains("use engine = \"auto\" or \"aes-gcm\""), "{error}");
                }
            }
        }
    }

    #[test]
    fn auto_never_fails_and_is_never_the_portable_engine_where_another_one_runs() {
        let auto = select(EngineChoice::default()).map(|engine| engine.name());
        match select(EngineChoice::IpsecMb) {
            Ok(_) => assert!(matches!(auto, Ok("ipsec-mb" | "ring")), "{auto:?}"),
            Err(_) => assert_eq!(auto, Ok("aes-gcm")),
        }
    }

    #[test]
    fn a_job_is_undone_until_an_engine_did_it() {
        assert!(!OpenJob::new(&mut [], 0).opened());
        assert!(!SealJob::new(&mut [], 0, &[]).sealed());
    }
}
