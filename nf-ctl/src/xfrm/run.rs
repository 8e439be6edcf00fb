//! The mirror at work: kernel events in, requests to nf-core out.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nf_core::control::client::{Client, ClientError};
use nf_core::control::proto::{EventKind, EventReport, Request, Reserved, SaName, SaReport, Status};
use nf_core::sa::lifetime::Limit;
use zeroize::Zeroizing;

use super::kernel;
use super::message::{SaId, read};
use super::mirror::{Action, Mirror};

/// How long the kernel keeps an SPI reserved: net.core.xfrm_acq_expires as charon sets it. The kernel tells when one runs
/// out; this is for a mirror that ends before that.
const RESERVED_S: u64 = 165;

/// Between two attempts to find an nf-core that is gone.
const RETRY: Duration = Duration::from_millis(200);

/// Datagrams that may wait. More wait in the kernel, and if there is no room left there either, a dump makes up for it.
const WAITING: usize = 64;

/// How long the policies of an SA may take to come one after the other.
const SETTLE: Duration = Duration::from_millis(50);

/// Why the mirror ended.
#[derive(Debug, thiserror::Error)]
#[error("the kernel's SAs can't be mirrored: {what}: {error}{}", hint(error))]
pub struct MirrorError {
    what: &'static str,
    error: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root, or with CAP_NET_ADMIN",
        io::ErrorKind::Unsupported => "; the kernel has no XFRM (CONFIG_XFRM_USER): use charon's plugin",
        _ => "",
    }
}

/// What wakes the mirror.
enum Input {
    Kernel(Zeroizing<Vec<u8>>),
    /// The kernel had more to tell than fits.
    Overrun,
    KernelGone(io::Error),
    /// An SA has reached a limit in nf-core.
    Lifetime(SaId, Limit),
    /// Seen by the watcher of this session.
    NfCoreGone(u64),
}

/// Mirrors the kernel's SAs into the nf-core that serves a socket, for as long as the process lives. It outlives nf-core.
/// `local` are the addresses at which this host's SAs end; without any, those that it has. Everything is compared every
/// `resync`, as reserved SPIs aren't told of otherwise. `log` gets a line for each thing that happened.
///
/// # Errors
/// [`MirrorError`] if the kernel can't be listened to.
pub fn run(
    nf_core: &Path,
    local: Vec<IpAddr>,
    resync: Duration,
    log: &mut dyn FnMut(&str),
) -> Result<Infallible, MirrorError> {
    let (sender, inputs) = sync_channel(WAITING);
    let socket = kernel::listen().map_err(|error| MirrorError { what: "no socket", error })?;
    let kernel_sender = sender.clone();
    thread::spawn(move || {
        loop {
            let input = match kernel::receive(&socket) {
                Ok(datagram) => Input::Kernel(datagram),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Input::Overrun,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Input::KernelGone(error),
            };
            let last = matches!(input, Input::KernelGone(_));
            if kernel_sender.send(input).is_err() || last {
                return;
            }
        }
    });
    let is_local = move |address| match local.is_empty() {
        true => UdpSocket::bind((address, 0)).is_ok(),
        false => local.contains(&address),
    };
    let mut mirror = Mirror::new(is_local);
    let mut session = 0u64;
    loop {
        session = session.wrapping_add(1);
        let client = find(nf_core, log);
        log(&format!("mirroring the kernel's SAs into nf-core at {}", nf_core.display()));
        watch(nf_core, session, sender.clone());
        let mut at_work = AtWork { session, client, mirror: &mut mirror, log: &mut *log };
        match at_work.run(&inputs, resync) {
            Ended::Kernel(error) => return Err(error),
            Ended::NfCore(why) => log(&format!("{why}; SAs that it loses will be rekeyed when it is back")),
        }
    }
}

/// Waits for nf-core.
fn find(nf_core: &Path, log: &mut dyn FnMut(&str)) -> Client {
    let mut told = false;
    loop {
        match Client::connect(nf_core) {
            Ok(client) => return client,
            Err(error) if !told => log(&format!("{error}; waiting for it")),
            Err(_) => {}
        }
        told = true;
        thread::sleep(RETRY);
    }
}

/// Tells of lifetimes that are over in nf-core, and when nf-core goes: nothing need be asked of it for hours.
fn watch(nf_core: &Path, session: u64, inputs: SyncSender<Input>) {
    let nf_core = nf_core.to_owned();
    thread::spawn(move || {
        let events = Client::connect(&nf_core).and_then(|client| client.subscribe(&[EventKind::SaLifetime]));
        if let Ok(mut events) = events {
            while let Ok(event) = events.next(None) {
                if let Some(EventReport::SaLifetime { sa, limit, .. }) = event
                    && inputs.send(Input::Lifetime(SaId { spi: sa.spi, dst: sa.dst }, limit)).is_err()
                {
                    return;
                }
            }
        }
        let _ = inputs.send(Input::NfCoreGone(session));
    });
}

/// Why work can't go on.
enum Ended {
    Kernel(MirrorError),
    NfCore(String),
}

/// The mirror with an nf-core that is there.
struct AtWork<'a> {
    session: u64,
    client: Client,
    mirror: &'a mut Mirror,
    log: &'a mut dyn FnMut(&str),
}

impl AtWork<'_> {
    fn run(&mut self, inputs: &Receiver<Input>, resync: Duration) -> Ended {
        let mut next_resync = Instant::now();
        let mut settle_at = None;
        loop {
            if self.mirror.is_unsettled() {
                settle_at = settle_at.or_else(|| Instant::now().checked_add(SETTLE));
            }
            let next = settle_at.map_or(next_resync, |at| next_resync.min(at));
            let left = next.saturating_duration_since(Instant::now());
            let done = match inputs.recv_timeout(left) {
                Ok(Input::Kernel(datagram)) => self.hear(&datagram),
                Ok(Input::Lifetime(id, limit)) => {
                    self.lifetime(id, limit);
                    Ok(())
                }
                Ok(Input::NfCoreGone(session)) if session == self.session => {
                    return Ended::NfCore("nf-core is gone".to_owned());
                }
                // Of an earlier one.
                Ok(Input::NfCoreGone(_)) => Ok(()),
                Ok(Input::KernelGone(error)) => return Ended::Kernel(MirrorError { what: "no more events", error }),
                Err(RecvTimeoutError::Disconnected) => {
                    let error = io::ErrorKind::BrokenPipe.into();
                    return Ended::Kernel(MirrorError { what: "no more events", error });
                }
                Err(RecvTimeoutError::Timeout) if settle_at.is_some_and(|at| at <= Instant::now()) => {
                    settle_at = None;
                    let actions = self.mirror.settle();
                    self.act(actions)
                }
                Ok(Input::Overrun) | Err(RecvTimeoutError::Timeout) => {
                    let done = self.resync();
                    next_resync = Instant::now().checked_add(resync).unwrap_or(next_resync);
                    done
                }
            };
            if let Err(ended) = done {
                return ended;
            }
        }
    }

    fn lifetime(&mut self, id: SaId, limit: Limit) {
        let over = format!("{id}: its {} lifetime is over", limit.as_str());
        if limit == Limit::Hard {
            self.mirror.ended(id);
        }
        match kernel::expire(id, limit) {
            Ok(()) => (self.log)(&format!("{over}, its IKE daemon was told")),
            // Of an SA that the kernel never had: somebody else installed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => (self.log)(&format!("{over}, and its IKE daemon can't be told ({error})")),
        }
    }

    fn hear(&mut self, datagram: &[u8]) -> Result<(), Ended> {
        let events = match read(datagram) {
            Ok(events) => events,
            Err(error) => {
                (self.log)(&error.to_string());
                return Ok(());
            }
        };
        for event in events {
            let actions = self.mirror.event(event);
            self.act(actions)?;
        }
        Ok(())
    }

    fn resync(&mut self) -> Result<(), Ended> {
        let dump = kernel::dump().map_err(|error| Ended::Kernel(MirrorError { what: "no dump", error }))?;
        let status: Status = self.client.call(&Request::Status {}).map_err(nf_core_gone)?;
        let sas: Vec<SaReport> = self.client.call(&Request::SaList {}).map_err(nf_core_gone)?;
        let has: BTreeSet<SaId> = sas.iter().map(|sa| SaId { spi: sa.spi, dst: sa.dst }).collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let actions = self.mirror.resync(dump, &has, now.as_secs().saturating_sub(status.uptime_s));
        self.act(actions)
    }

    fn act(&mut self, actions: Vec<Action>) -> Result<(), Ended> {
        for action in actions {
            match action {
                Action::Reserve { id, src } => {
                    let SaId { spi, dst } = id;
                    let request = Request::SaReserve { dst, src, spi: Some(spi), lifetime_s: RESERVED_S };
                    let reserved = self.client.call::<Reserved>(&request).map(drop);
                    self.tell(id, "SPI reserved", reserved)?;
                }
                Action::Release(id) => {
                    let released = self.client.call(&Request::SaRelease { sa: name(id) });
                    self.tell(id, "SPI released", released)?;
                }
                Action::Install { id, spec } => {
                    let installed = self.client.call(&Request::SaAdd { sa: spec });
                    if matches!(installed, Err(ClientError::Refused(_))) {
                        self.mirror.refused(id);
                    }
                    self.tell(id, "installed", installed)?;
                }
                Action::Delete(id) => {
                    let deleted = self.client.call(&Request::SaDel { sa: name(id) });
                    self.tell(id, "deleted", deleted)?;
                }
                Action::Rekey { id, why } => match kernel::expire(id, Limit::Soft) {
                    Ok(()) => (self.log)(&format!("{id}: {why}; asked its IKE daemon to rekey it")),
                    Err(error) => (self.log)(&format!(
                        "{id}: {why}, and its IKE daemon can't be asked to rekey it ({error}); rekey it by hand"
                    )),
                },
                Action::Warn { id, what } => (self.log)(&format!("{id}: {what}")),
                Action::Leave { id, why } => (self.log)(&format!("{id}: not mirrored, {why}")),
            }
        }
        Ok(())
    }

    /// A refusal is told, and work goes on.
    fn tell(&mut self, id: SaId, done: &str, result: Result<(), ClientError>) -> Result<(), Ended> {
        match result {
            Ok(()) => (self.log)(&format!("{id}: {done}")),
            Err(ClientError::Refused(why)) => (self.log)(&format!("{id}: not {done}, nf-core refuses: {why}")),
            Err(error) => return Err(nf_core_gone(error)),
        }
        Ok(())
    }
}

fn nf_core_gone(error: ClientError) -> Ended {
    Ended::NfCore(error.to_string())
}

fn name(id: SaId) -> SaName {
    SaName { spi: id.spi, dst: Some(id.dst), src: None }
}
