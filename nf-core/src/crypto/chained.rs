//! ESP with HMAC, and AES-CBC or no encryption, by libipsec-mb: several packets at once, of one SA or of many.
//!
//! What one block is chained to the one before can't be sped up within a packet. So the packets of a burst are worked on beside
//! each other, whichever SA they are of: a burst often has one packet of each.

use ipsec_mb::{AesKey, Cbc, ChainKey, Hash, Mac};

use super::engine::{OpenJob, Opener, SealJob, Sealer};
use super::layout::{Fields, Layout};
use super::packet_cipher::TwoWay;
use super::portable;
use super::transform::{Integrity, Transform};
use crate::lanes::BURST;

/// Octets of the upper half of a sequence number.
const UPPER: usize = size_of::<u32>();

/// An SA's keys and framing.
pub struct Chained {
    key: ChainKey,
    esn: bool,
    layout: Layout,
    /// For packets that come alone, where lanes for more would cost more.
    alone: Box<dyn TwoWay>,
}

impl Chained {
    /// `None` for an AEAD, or where the library can't run.
    pub(super) fn new(transform: &Transform) -> Option<Chained> {
        let (integrity, auth_key) = transform.auth()?;
        let hash = match integrity {
            Integrity::HmacSha1_96 => Hash::Sha1,
            Integrity::HmacSha256_128 => Hash::Sha256,
            Integrity::HmacSha384_192 => Hash::Sha384,
            Integrity::HmacSha512_256 => Hash::Sha512,
        };
        Some(Chained {
            key: ChainKey::new(transform.key(), hash, auth_key)?,
            esn: transform.esn(),
            layout: transform.layout(),
            alone: portable::two_way(transform)?,
        })
    }

    /// Where the ICV begins, in a packet that can be valid.
    #[inline]
    fn icv_start(&self, esp: &[u8]) -> Option<usize> {
        self.layout.payload_range(esp.len()).map(|payload| payload.end)
    }

    /// What the MAC covers: all before the ICV and, with ESN, the upper half of the sequence number in the ICV's place.
    #[inline]
    fn covered<'e>(&self, esp: &'e [u8]) -> Option<&'e [u8]> {
        esp.get(..self.icv_start(esp)? + if self.esn { UPPER } else { 0 })
    }

    /// With ESN, exchanges the first octets of the ICV for the upper half of the sequence number, which the MAC covers there
    /// (RFC 4303 2.2.1), or back.
    #[inline]
    fn exchange(&self, esp: &mut [u8], upper: &mut [u8; UPPER]) {
        if self.esn
            && let Some(icv_start) = self.icv_start(esp)
            && let Some(place) = esp.get_mut(icv_start..icv_start + UPPER)
        {
            place.swap_with_slice(upper);
        }
    }

    /// A packet for the library. None where it isn't one for AES-CBC.
    #[inline]
    fn cbc<'j>(&'j self, esp: &'j mut [u8]) -> Option<Cbc<'j>> {
        let Fields { iv, payload, .. } = self.layout.split(esp)?;
        Some(Cbc { key: &self.key, iv: (&*iv).try_into().ok()?, data: payload })
    }
}

impl Opener for Chained {
    fn open_burst(&self, jobs: &mut [OpenJob<'_>]) {
        self.alone.open_burst(jobs);
    }

    fn prefetch(&self, _payload_len: usize) {
        self.key.prefetch();
    }

    fn chained(&self) -> Option<&Chained> {
        Some(self)
    }
}

impl Sealer for Chained {
    fn seal_burst(&self, jobs: &mut [SealJob<'_>]) {
        self.alone.seal_burst(jobs);
    }

    fn chained(&self) -> Option<&Chained> {
        Some(self)
    }
}

impl TwoWay for Chained {}

/// A core's lanes, in which several packets are worked on at once.
pub struct MultiBuffer(Option<ipsec_mb::MultiBuffer>);

impl Default for MultiBuffer {
    fn default() -> Self {
        const { assert!(BURST <= ipsec_mb::MAX_JOBS, "a burst goes to the library in one call") };
        MultiBuffer(ipsec_mb::MultiBuffer::new())
    }
}

impl MultiBuffer {
    /// Verifies each packet under its SA's keys, and decrypts in place those whose ICV is right; each job says whether it was
    /// [opened](OpenJob::opened).
    pub fn open(&mut self, jobs: &mut [(&Chained, OpenJob<'_>)]) {
        self.work(jobs, open_together, |sa, job| sa.open_burst(std::slice::from_mut(job)));
    }

    /// Encrypts each packet in place under its SA's keys and puts its IV and ICV in; each job says whether it was
    /// [sealed](SealJob::sealed).
    pub fn seal(&mut self, jobs: &mut [(&Chained, SealJob<'_>)]) {
        self.work(jobs, seal_together, |sa, job| sa.seal_burst(std::slice::from_mut(job)));
    }

    fn work<'k, J>(
        &mut self,
        jobs: &mut [(&'k Chained, J)],
        together: impl Fn(&mut ipsec_mb::MultiBuffer, Hash, &mut [(&'k Chained, J)]),
        alone: impl Fn(&Chained, &mut J),
    ) {
        for jobs in jobs.chunks_mut(BURST) {
            for hash in Hash::ALL {
                let count = of(hash, jobs).count();
                match self.0.as_mut().filter(|library| library.pays(hash, count)) {
                    _ if count == 0 => {}
                    Some(library) => together(library, hash, jobs),
                    None => of(hash, jobs).for_each(|(sa, job)| alone(sa, job)),
                }
            }
        }
    }
}

/// The jobs with a hash.
fn of<'k, 'j, J>(hash: Hash, jobs: &'j mut [(&'k Chained, J)]) -> impl Iterator<Item = (&'k Chained, &'j mut J)> {
    jobs.iter_mut().filter(move |(sa, _)| sa.key.hash() == hash).map(|(sa, job)| (*sa, job))
}

fn open_together(library: &mut ipsec_mb::MultiBuffer, hash: Hash, jobs: &mut [(&Chained, OpenJob<'_>)]) {
    let mut uppers = [[0; UPPER]; BURST];
    for ((sa, job), upper) in of(hash, jobs).zip(&mut uppers) {
        *upper = job.seq_hi.to_be_bytes();
        sa.exchange(job.esp, upper);
    }
    let messages = jobs.iter().filter(|(sa, _)| sa.key.hash() == hash);
    let messages = messages.filter_map(|(sa, job)| Some((&sa.key, sa.covered(job.esp)?)));
    let mut macs = library.macs(hash, messages).unwrap_or_default().iter();
    for ((sa, job), upper) in of(hash, jobs).zip(&mut uppers) {
        sa.exchange(job.esp, upper);
        let Some(icv_start) = sa.icv_start(job.esp) else {
            job.finish(false);
            continue;
        };
        let icv = job.esp.get(icv_start..).unwrap_or_default();
        job.finish(macs.next().is_some_and(|mac| mac.is(icv)));
    }
    for aes in AesKey::ALL {
        let mut packets = of(hash, jobs)
            .filter(|(sa, job)| sa.key.aes() == Some(aes) && job.opened())
            .filter_map(|(sa, job)| sa.cbc(job.esp))
            .peekable();
        if packets.peek().is_some() && library.decrypt(aes, packets).is_none() {
            of(hash, jobs).filter(|(sa, _)| sa.key.aes() == Some(aes)).for_each(|(_, job)| job.finish(false));
        }
    }
    // The portable engine knows whose ICVs lack the upper half of the sequence number.
    for (sa, job) in of(hash, jobs).filter(|(sa, job)| sa.esn && job.seq_hi == 0 && !job.opened()) {
        sa.open_burst(std::slice::from_mut(job));
    }
}

fn seal_together(library: &mut ipsec_mb::MultiBuffer, hash: Hash, jobs: &mut [(&Chained, SealJob<'_>)]) {
    for (sa, job) in of(hash, jobs) {
        let fits = sa.layout.split(job.esp).filter(|fields| fields.iv.len() == job.iv.len());
        let fits = fits.map(|fields| fields.iv.copy_from_slice(job.iv)).is_some();
        job.finish(fits);
    }
    for aes in AesKey::ALL {
        let mut packets = of(hash, jobs)
            .filter(|(sa, job)| sa.key.aes() == Some(aes) && job.sealed())
            .filter_map(|(sa, job)| sa.cbc(job.esp))
            .peekable();
        if packets.peek().is_some() && library.encrypt(aes, packets).is_none() {
            of(hash, jobs).filter(|(sa, _)| sa.key.aes() == Some(aes)).for_each(|(_, job)| job.finish(false));
        }
    }
    for (sa, job) in of(hash, jobs).filter(|(_, job)| job.sealed()) {
        sa.exchange(job.esp, &mut job.seq_hi.to_be_bytes());
    }
    let messages = jobs.iter().filter(|(sa, job)| sa.key.hash() == hash && job.sealed());
    let messages = messages.filter_map(|(sa, job)| Some((&sa.key, sa.covered(job.esp)?)));
    let mut macs = library.macs(hash, messages).unwrap_or_default().iter();
    for (sa, job) in of(hash, jobs).filter(|(_, job)| job.sealed()) {
        let sealed = put(macs.next(), sa.icv_start(job.esp).and_then(|start| job.esp.get_mut(start..)));
        job.finish(sealed.is_some());
    }
}

/// Writes a MAC in its place.
fn put(mac: Option<&Mac>, icv: Option<&mut [u8]>) -> Option<()> {
    let (mac, icv) = (mac?.octets(), icv?);
    (mac.len() == icv.len()).then(|| icv.copy_from_slice(mac))
}
