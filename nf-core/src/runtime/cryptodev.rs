//! The engine on a crypto device of DPDK: what a device needs of an SA, and of each of its packets.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use dpdk_rs::{
    CryptoAuth, CryptoCipher, CryptoConfig, CryptoDevice, CryptoDirection, CryptoQueue, CryptoSession, CryptoTransform,
    CryptoWork, Eal,
};
use zeroize::Zeroizing;

use super::Error;
use crate::config;
use crate::control::controller::ControlError;
use crate::crypto::{
    self, Cipher, Engine, EngineChoice, EngineError, HEADER_LEN, Integrity, Layout, OpenJob, Opener, SALT_LEN, Sealer,
    Transform,
};
use crate::lookaside::Ticket;
use crate::types::SeqNo;

/// Octets of an AEAD's nonce: the salt, then the packet's IV (RFC 4106 4, RFC 7634 2).
const NONCE_LEN: u8 = 12;
/// How the names of virtual crypto devices begin.
const VIRTUAL: &str = "crypto_";

/// A worker's way to the device.
pub(super) type DeviceQueue = CryptoQueue<Ticket>;

/// The engine. It has the device open packets, and seals by the CPU.
struct Cryptodev {
    device: CryptoDevice,
    sealing: Box<dyn Engine>,
}

/// The engine that the configuration asks for, and the queues of its device, one for each worker, if it has one.
///
/// # Errors
/// Where it can't be had.
pub(super) fn engine(
    eal: Eal,
    config: &config::Crypto,
    workers: usize,
) -> Result<(Box<dyn Engine>, Vec<DeviceQueue>), Error> {
    match &config.device {
        Some(device) => {
            let (engine, queues) = open(eal, device, workers)?;
            Ok((Box::new(engine), queues))
        }
        None => {
            let engine = crypto::select(config.engine).map_err(ControlError::from)?;
            Ok((engine, Vec::new()))
        }
    }
}

/// Opens the device, with a queue for each worker. A virtual one that [eal] args don't name is made.
///
/// # Errors
/// Where there is no such device, or it can't do what is asked for.
fn open(eal: Eal, config: &config::CryptoDevice, workers: usize) -> Result<(Cryptodev, Vec<DeviceQueue>), Error> {
    let name = &config.name;
    let queue_pairs = u16::try_from(workers).unwrap_or(u16::MAX);
    if name.starts_with(VIRTUAL) && !CryptoDevice::names(eal).contains(name) {
        eal.attach_vdev(name, &format!("max_nb_queue_pairs={queue_pairs}"))?;
    }
    let setup = CryptoConfig { queue_pairs, depth: config.depth, sessions: config.sessions };
    let (device, queues) = CryptoDevice::open(eal, name, &setup)?;
    let sealing = crypto::select(EngineChoice::Auto).map_err(ControlError::from)?;
    tracing::debug!(
        device = name,
        driver = device.driver(),
        sealing = sealing.name(),
        "a crypto device opens packets; sealing is done by the CPU"
    );
    Ok((Cryptodev { device, sealing }, queues))
}

impl Engine for Cryptodev {
    fn name(&self) -> &'static str {
        EngineChoice::Cryptodev.as_str()
    }

    fn supports(&self, transform: &Transform) -> bool {
        self.device.check(&for_device(transform)).is_ok()
    }

    fn prepare(&self, transform: &Transform) -> Result<Box<dyn Opener>, EngineError> {
        let session = self
            .device
            .session(&for_device(transform))
            .map_err(|error| EngineError::Device { transform: transform.name(), problem: error.to_string() })?;
        let mut salt = Zeroizing::new([0; SALT_LEN]);
        // Nothing but an AEAD has one.
        if transform.salt().len() == SALT_LEN {
            salt.copy_from_slice(transform.salt());
        }
        Ok(Box::new(DeviceOpener(DeviceSa {
            session,
            salt,
            layout: transform.layout(),
            is_aead: transform.cipher().is_aead(),
            decrypts: cipher(transform).is_some(),
            esn: transform.esn(),
        })))
    }

    fn prepare_seal(&self, transform: &Transform) -> Result<Box<dyn Sealer>, EngineError> {
        self.sealing.prepare_seal(transform)
    }
}

/// The cipher as the device knows it; none where nothing is encrypted.
fn cipher(transform: &Transform) -> Option<CryptoCipher> {
    match transform.cipher() {
        Cipher::AesGcm { .. } => Some(CryptoCipher::AesGcm),
        Cipher::ChaCha20Poly1305 => Some(CryptoCipher::ChaCha20Poly1305),
        Cipher::AesCbc => Some(CryptoCipher::AesCbc),
        Cipher::Null => None,
    }
}

/// The transform as the device knows it.
fn for_device(transform: &Transform) -> CryptoTransform<'_> {
    let auth = transform.auth().map(|(integrity, key)| {
        let auth = match integrity {
            Integrity::HmacSha1_96 => CryptoAuth::HmacSha1,
            Integrity::HmacSha256_128 => CryptoAuth::HmacSha256,
            Integrity::HmacSha384_192 => CryptoAuth::HmacSha384,
            Integrity::HmacSha512_256 => CryptoAuth::HmacSha512,
        };
        (auth, key)
    });
    let (is_aead, layout) = (transform.cipher().is_aead(), transform.layout());
    CryptoTransform {
        direction: CryptoDirection::Open,
        cipher: cipher(transform).map(|cipher| (cipher, transform.key())),
        auth,
        iv_len: if is_aead { NONCE_LEN } else { layout.iv_len },
        aad_len: match (is_aead, transform.esn()) {
            (false, _) => 0,
            (true, false) => HEADER_LEN as u8,
            (true, true) => HEADER_LEN as u8 + 4,
        },
        icv_len: layout.icv_len,
    }
}

/// What a device needs of an SA.
pub(super) struct DeviceSa {
    session: Arc<CryptoSession>,
    salt: Zeroizing<[u8; SALT_LEN]>,
    layout: Layout,
    is_aead: bool,
    decrypts: bool,
    esn: bool,
}

/// Stands for the device where the heart has an opener.
struct DeviceOpener(DeviceSa);

impl Opener for DeviceOpener {
    fn open_burst(&self, _jobs: &mut [OpenJob<'_>]) {}

    fn device(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.0)
    }
}

impl DeviceSa {
    /// What was prepared for an SA; none if another engine prepared it.
    pub(super) fn of(opener: &dyn Opener) -> Option<&DeviceSa> {
        opener.device()?.downcast_ref()
    }

    pub(super) fn session(&self) -> &Arc<CryptoSession> {
        &self.session
    }

    /// What the device has to do with a frame whose ESP packet lies at `esp`; none where that is no packet of the SA. The
    /// ICV's place may hold the upper half of the sequence number afterwards, as what is authenticated must lie together.
    pub(super) fn work(&self, frame: &mut [u8], esp: Range<usize>, seq: SeqNo) -> Option<CryptoWork> {
        let payload = self.layout.payload_range(esp.len())?;
        let at = esp.start;
        let packet = frame.get_mut(esp)?;
        let mut work =
            CryptoWork { cipher: 0..0, authenticated: 0..0, iv: [0; 16], aad: [0; 16], icv: [0; 64], icv_at: 0 };
        let (header, iv) = packet.get(..payload.start)?.split_first_chunk::<HEADER_LEN>()?;
        let high = seq.high().to_be_bytes();
        if self.is_aead {
            let (spi, low) = header.split_at(4);
            let parts = if self.esn { [spi, &high, low] } else { [spi, &[], low] };
            fill(&mut work.aad, &parts)?;
            fill(&mut work.iv, &[&*self.salt, iv])?;
        } else {
            fill(&mut work.iv, &[iv])?;
        }
        let icv = packet.get_mut(payload.end..)?;
        fill(&mut work.icv, &[icv])?;
        if self.decrypts {
            work.cipher = within(at, &payload)?;
        }
        if !self.is_aead {
            let mut end = payload.end;
            if self.esn {
                *icv.first_chunk_mut()? = high;
                end += high.len();
            }
            work.authenticated = within(at, &(0..end))?;
        }
        Some(work)
    }
}

/// Puts parts side by side at the start of a place; none where they don't fit.
fn fill(place: &mut [u8], parts: &[&[u8]]) -> Option<()> {
    let mut rest = place;
    for part in parts {
        let (here, behind) = rest.split_at_mut_checked(part.len())?;
        here.copy_from_slice(part);
        rest = behind;
    }
    Some(())
}

/// A range of an ESP packet as one of its frame.
fn within(at: usize, range: &Range<usize>) -> Option<Range<u32>> {
    Some(u32::try_from(at + range.start).ok()?..u32::try_from(at + range.end).ok()?)
}
