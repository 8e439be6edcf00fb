//! A crypto device that does packets when it is told to.

use std::any::Any;

use nf_core::crypto::{Engine, EngineError, MAX_IV_LEN, OpenJob, Opener, Portable, SealJob, Sealer, Transform};
use nf_core::lookaside::{Task, Ticket, Verdict};

/// The portable engine as a crypto device: what that needs of an SA is what does the SA's packets.
pub struct Device;

impl Engine for Device {
    fn name(&self) -> &'static str {
        "device"
    }

    fn supports(&self, transform: &Transform) -> bool {
        Portable.supports(transform)
    }

    fn prepare(&self, transform: &Transform) -> Result<Box<dyn Opener>, EngineError> {
        Ok(Box::new(Session(Portable.prepare(transform)?)))
    }

    fn prepare_seal(&self, transform: &Transform) -> Result<Box<dyn Sealer>, EngineError> {
        Ok(Box::new(Session(Portable.prepare_seal(transform)?)))
    }
}

struct Session<W>(W);

impl Opener for Session<Box<dyn Opener>> {
    fn open_burst(&self, _jobs: &mut [OpenJob<'_>]) {
        panic!("the core opens nothing that a device is to open");
    }

    fn device(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.0)
    }
}

impl Sealer for Session<Box<dyn Sealer>> {
    fn seal_burst(&self, jobs: &mut [SealJob<'_>]) {
        assert!(jobs.is_empty(), "the core seals nothing that a device is to seal");
    }

    fn device(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.0)
    }
}

/// The device does a packet.
pub fn work(frame: &mut [u8], ticket: &Ticket) -> Verdict {
    let seq_hi = ticket.seq.high();
    let done = match &ticket.task {
        Task::Open { sa, headers } => {
            let opener = sa.opener.device().unwrap().downcast_ref::<Box<dyn Opener>>().unwrap();
            let mut jobs = [OpenJob::new(&mut frame[headers.esp_range()], seq_hi)];
            opener.open_burst(&mut jobs);
            jobs[0].opened()
        }
        Task::Seal { sa, esp_at, .. } => {
            let sealer = sa.sealer().device().unwrap().downcast_ref::<Box<dyn Sealer>>().unwrap();
            let mut iv = [0; MAX_IV_LEN];
            let iv_len = sa.ivs().write(ticket.seq, &mut iv);
            let mut jobs = [SealJob::new(&mut frame[usize::from(*esp_at)..], seq_hi, &iv[..iv_len])];
            sealer.seal_burst(&mut jobs);
            jobs[0].sealed()
        }
    };
    if done { Verdict::Done } else { Verdict::Forged }
}
