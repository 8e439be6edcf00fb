//! Cryptography of IKEv2: which algorithms there are, and the keys that they use. Every primitive comes from a library.

pub mod certificate;
pub mod cipher;
pub mod dh;
pub mod esp;
pub mod integrity;
pub mod keys;
mod modp;
pub mod prf;
mod scrub;
pub mod secret;
pub mod signature;
