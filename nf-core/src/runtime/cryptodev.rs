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
    self, Cipher, Engine, EngineChoice, EngineError, HEADER_LEN, Integrity, Layout, MAX_IV_LEN, OpenJob, Opener,
    SALT_LEN, SealJob, Sealer, Transform,
};
use crate::lookaside::{Task, Ticket};

/// Octets of an AEAD's nonce: the salt, then the packet's IV (RFC 4106 4, RFC 7634 2).
const NONCE_LEN: u8 = 12;
/// How the names of virtual crypto devices begin.
const VIRTUAL: &str = "crypto_";

/// A worker's way to the device.
pub(super) type DeviceQueue = CryptoQueue<Ticket>;

/// The engine.
struct Cryptodev(CryptoDevice);

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
    tracing::debug!(device = name, driver = device.driver(), "a crypto device opens and seals packets");
    Ok((Cryptodev(device), queues))
}

impl Engine for Cryptodev {
    fn name(&self) -> &'static str {
        EngineChoice::Cryptodev.as_str()
    }

    fn supports(&self, transform: &Transform) -> bool {
        // What a device can do, it can do in both directions.
        self.0.check(&for_device(transform, CryptoDirection::Open)).is_ok()
    }

    fn prepare(&self, transform: &Transform) -> Result<Box<dyn Opener>, EngineError> {
        Ok(Box::new(DeviceOpener(self.sa(transform, CryptoDirection::Open)?)))
    }

    fn prepare_seal(&self, transform: &Transform) -> Result<Box<dyn Sealer>, EngineError> {
        Ok(Box::new(DeviceSealer(self.sa(transform, CryptoDirection::Seal)?)))
    }
}

impl Cryptodev {
    fn sa(&self, transform: &Transform, direction: CryptoDirection) -> Result<DeviceSa, EngineError> {
        let session = self
            .0
            .session(&for_device(transform, direction))
            .map_err(|error| EngineError::Device { transform: transform.name(), problem: error.to_string() })?;
        let mut salt = Zeroizing::new([0; SALT_LEN]);
        // Nothing but an AEAD has one.
        if transform.salt().len() == SALT_LEN {
            salt.copy_from_slice(transform.salt());
        }
        Ok(DeviceSa {
            session,
            salt,
            layout: transform.layout(),
            is_aead: transform.cipher().is_aead(),
            is_encrypted: cipher(transform).is_some(),
            esn: transform.esn(),
        })
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
fn for_device(transform: &Transform, direction: CryptoDirection) -> CryptoTransform<'_> {
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
        direction,
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
    is_encrypted: bool,
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

/// Stands for the device where the heart has a sealer.
struct DeviceSealer(DeviceSa);

impl Sealer for DeviceSealer {
    fn seal_burst(&self, _jobs: &mut [SealJob<'_>]) {}

    fn device(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.0)
    }
}

impl DeviceSa {
    /// What was prepared for a packet's SA; none if another engine prepared it.
    pub(super) fn of(task: &Task) -> Option<&DeviceSa> {
        let device = match task {
            Task::Open { sa, .. } => sa.opener.device(),
            Task::Seal { sa, .. } => sa.sealer().device(),
        };
        device?.downcast_ref()
    }

    pub(super) fn session(&self) -> &Arc<CryptoSession> {
        &self.session
    }

    /// What the device has to do with a frame; none where no packet of the SA is in it. The IV of one that is to be sealed
    /// is put in here. The ICV's place may hold the upper half of the sequence number afterwards, as what is authenticated
    /// must lie together.
    pub(super) fn work(&self, frame: &mut [u8], ticket: &Ticket) -> Option<CryptoWork> {
        let esp = match &ticket.task {
            Task::Open { headers, .. } => headers.esp_range(),
            Task::Seal { esp_at, .. } => usize::from(*esp_at)..frame.len(),
        };
        let payload = self.layout.payload_range(esp.len())?;
        let at = esp.start;
        let packet = frame.get_mut(esp)?;
        let icv_at = u32::try_from(at + payload.end).ok()?;
        let mut work =
            CryptoWork { cipher: 0..0, authenticated: 0..0, iv: [0; 16], aad: [0; 16], icv: [0; 64], icv_at };
        if let Task::Seal { sa, .. } = &ticket.task {
            let mut iv = [0; MAX_IV_LEN];
            let len = sa.ivs().write(ticket.seq, &mut iv);
            fill(packet.get_mut(HEADER_LEN..payload.start)?, &[iv.get(..len)?])?;
        }
        let (header, iv) = packet.get(..payload.start)?.split_first_chunk::<HEADER_LEN>()?;
        let high = ticket.seq.high().to_be_bytes();
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
        if self.is_encrypted {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dpdk_rs::{Burst, CryptoStatus, Mempool, SocketId};

    use super::*;
    use crate::config::Config;
    use crate::crypto::{Portable, tests::transforms};
    use crate::sa::outbound::OutboundSa;
    use crate::sa::spec::{SaParams, SaSpec};
    use crate::types::{PortIndex, SeqNo};
    use crate::wire::ethernet::MacPair;

    /// Octets in front of ESP.
    const OUTER: usize = 20;

    /// What stands in for an outer header, and behind it a packet of an SA that only has to be sealed.
    fn built(layout: Layout, seq: SeqNo, data: usize) -> Vec<u8> {
        let mut packet = vec![0x77; OUTER + layout.esp_len(data)];
        packet[OUTER..OUTER + 8].copy_from_slice(&(0x1000_0000_0000 | u64::from(seq.low())).to_be_bytes());
        packet
    }

    /// By the same key and with the same IV there is one right packet. This is the only test of this program that may start
    /// DPDK.
    #[test]
    fn a_device_seals_as_the_portable_engine_does() {
        let config = Config::parse("", Path::new("nf.toml")).unwrap();
        let eal = Eal::init(super::super::eal::replay_args(&config)).unwrap();
        let pool = Mempool::create(eal, "frames", 255, 0, 2176, SocketId::ANY).unwrap();
        let spec: SaSpec = serde_json::from_value(serde_json::json!({
            "spi": 0x1000, "direction": "out", "src": "10.10.1.2", "dst": "10.1.1.1", "mode": "tunnel",
            "alg": "aes-gcm-16", "key": "00".repeat(20),
        }))
        .unwrap();
        // One of them has neither ChaCha20-Poly1305 nor the short ICVs of AES-GCM.
        for (name, count) in [("crypto_aesni_mb0", 26), ("crypto_openssl0", 26 - 1 - 6)] {
            let device = config::CryptoDevice { name: name.to_owned(), depth: 64, sessions: 64 };
            let (engine, mut queues) = open(eal, &device, 1).unwrap();
            let queue = &mut queues[0];
            for esn in [false, true] {
                let able: Vec<Transform> = transforms(esn).into_iter().filter(|it| engine.supports(it)).collect();
                assert_eq!(able.len(), count, "{name}");
                for transform in able {
                    let params = SaParams { transform: transform.clone(), ..spec.clone().validate().unwrap() };
                    let sa = Arc::new(OutboundSa::new(&params, 1, &engine, 1).unwrap());
                    let portable = Portable.prepare_seal(&transform).unwrap();
                    for (seq, data) in [(1, 0), (2, 1), (0xFFFF_FFFF, 40), (0x1_0000_0002, 333), (0x7_0000_0003, 1400)]
                    {
                        let seq = SeqNo(if esn { seq } else { seq & 0xFFFF_FFFF });
                        let mut expected = built(sa.layout, seq, data);
                        let mut packet = pool.alloc().unwrap();
                        packet.append(expected.len()).unwrap().copy_from_slice(&expected);
                        let mut iv = [0; MAX_IV_LEN];
                        let iv_len = sa.ivs().write(seq, &mut iv);
                        let mut jobs = [SealJob::new(&mut expected[OUTER..], seq.high(), &iv[..iv_len])];
                        portable.seal_burst(&mut jobs);
                        assert!(jobs[0].sealed());

                        let (macs, esp_at) = (MacPair::default(), OUTER as u16);
                        let task = Task::Seal { sa: Arc::clone(&sa), esp_at, macs, mtu: u16::MAX };
                        let ticket = Ticket { port: PortIndex(0), received: 0, seq, task };
                        let device = DeviceSa::of(&ticket.task).unwrap();
                        let work = device.work(packet.data_mut().unwrap(), &ticket).unwrap();
                        let session = Arc::clone(device.session());
                        assert!(queue.push(packet, &session, &work, ticket).is_ok());
                        let mut back = Burst::<1>::new();
                        while queue.poll(&mut back, |_, status| assert_eq!(status, CryptoStatus::Done)) == 0 {}
                        let sealed = back.drain().next().unwrap();
                        assert_eq!(sealed.data(), expected, "{name}: {}, esn {esn}, {seq:?}, {data}", transform.name());
                    }
                }
            }
        }
        assert_eq!(pool.in_use(), 0);
    }
}
