//! nf-core, as the agent sees it: where inbound SAs are installed, and where events come from.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use nf_core::control::client::{Client, ClientError};
use nf_core::control::proto::{EventKind, EventReport, Request, Reserved, SaName, SaReport, Status};
use nf_core::sa::spec::SaSpec;
use nf_core::types::Spi;
use serde::de::DeserializeOwned;

/// How long nf-core may take for an answer. The agent waits for it: an SPI is reserved, and an SA installed, before the
/// peer hears of it.
const PATIENCE: Duration = Duration::from_secs(2);
/// After a failure nf-core isn't asked again for this time, so that one that hangs doesn't make the agent hang.
const REST: Duration = Duration::from_millis(200);
/// How often a lost connection to nf-core is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// How often the thread that waits for events looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(200);
/// A reserved SPI whose SA doesn't come is free again after that: longer than any exchange.
const RESERVATION_S: u64 = 240;

/// The SAD of nf-core, over its control socket. It is connected when it is needed.
#[derive(Debug)]
pub struct Sad {
    path: PathBuf,
    client: Option<Client>,
    failed: Option<(Instant, String)>,
}

impl Sad {
    /// The SAD behind a control socket.
    pub fn new(path: &Path) -> Sad {
        Sad { path: path.to_owned(), client: None, failed: None }
    }

    /// Why nf-core couldn't be asked the last time, if so.
    pub fn problem(&self) -> Option<&str> {
        self.failed.as_ref().map(|(_, why)| why.as_str())
    }

    /// Forgets that nf-core couldn't be asked: it is known to be there.
    pub fn retry(&mut self) {
        (self.failed, self.client) = (None, None);
    }

    /// Reserves an SPI, which makes it larval.
    ///
    /// # Errors
    /// In words, for the operator.
    pub fn reserve(&mut self, local: IpAddr, remote: IpAddr) -> Result<Spi, String> {
        let request = Request::SaReserve { dst: local, src: Some(remote), spi: None, lifetime_s: RESERVATION_S };
        self.call(&request).map(|Reserved { spi }| spi)
    }

    /// Gives a reserved SPI back.
    ///
    /// # Errors
    /// As [`Sad::reserve`].
    pub fn release(&mut self, sa: SaName) -> Result<(), String> {
        self.call(&Request::SaRelease { sa })
    }

    /// Installs an SA on every core.
    ///
    /// # Errors
    /// As [`Sad::reserve`].
    pub fn install(&mut self, sa: SaSpec) -> Result<(), String> {
        self.call(&Request::SaAdd { sa: Box::new(sa) })
    }

    /// Deletes an SA.
    ///
    /// # Errors
    /// As [`Sad::reserve`].
    pub fn delete(&mut self, sa: SaName) -> Result<(), String> {
        self.call(&Request::SaDel { sa })
    }

    /// All SAs, larval ones included.
    ///
    /// # Errors
    /// As [`Sad::reserve`].
    pub fn list(&mut self) -> Result<Vec<SaReport>, String> {
        self.call(&Request::SaList {})
    }

    /// Tells nf-core that the recovery of a peer has failed: it has hooks for that.
    ///
    /// # Errors
    /// As [`Sad::reserve`].
    pub fn recovery_failed(
        &mut self,
        peer: &str,
        src: Option<IpAddr>,
        spi: Option<Spi>,
        reason: &str,
    ) -> Result<(), String> {
        self.call(&Request::RecoveryFailed { peer: peer.to_owned(), src, spi, reason: reason.to_owned() })
    }

    fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, String> {
        if let Some((at, why)) = &self.failed
            && at.elapsed() < REST
        {
            return Err(why.clone());
        }
        let client = match self.client.take() {
            Some(client) => Ok(client),
            None => Client::connect_within(&self.path, PATIENCE),
        };
        let result = client.and_then(|mut client| {
            let result = client.call(request);
            // One that was refused something is as good as before.
            if matches!(result, Ok(_) | Err(ClientError::Refused(_))) {
                self.client = Some(client);
            }
            result
        });
        match result {
            Ok(answer) => {
                self.failed = None;
                Ok(answer)
            }
            Err(ClientError::Refused(why)) => Err(why),
            Err(error) => {
                let why = error.to_string();
                self.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }
}

/// News of nf-core.
#[derive(Debug)]
pub enum CoreNews {
    /// It is there, and its events come from now on.
    Up {
        /// Its process.
        pid: u32,
    },
    /// An event.
    Event(EventReport),
    /// It is gone.
    Down(String),
}

/// Watches nf-core until `stop` is set or nobody listens any more: connects, subscribes, passes events on, and connects
/// again when nf-core was started anew.
pub fn watch(path: &Path, news: &Sender<CoreNews>, stop: &Arc<AtomicBool>) {
    let mut said = None;
    while !stop.load(Ordering::Relaxed) {
        let error = match follow(path, news, stop) {
            Ok(()) => return,
            Err(error) => error.to_string(),
        };
        if said.as_ref() != Some(&error) {
            if news.send(CoreNews::Down(error.clone())).is_err() {
                return;
            }
            said = Some(error);
        }
        thread::sleep(RETRY);
    }
}

/// Follows one nf-core to its end; `Ok` when there is no need to go on.
fn follow(path: &Path, news: &Sender<CoreNews>, stop: &Arc<AtomicBool>) -> Result<(), ClientError> {
    let mut client = Client::connect_within(path, PATIENCE)?;
    let Status { pid, .. } = client.call(&Request::Status {})?;
    let kinds = [
        EventKind::InvalidSpi,
        EventKind::SaFirstPacket,
        EventKind::SaLifetime,
        EventKind::SaAddressChanged,
        EventKind::SaWanted,
    ];
    let mut events = client.subscribe(&kinds)?;
    if news.send(CoreNews::Up { pid }).is_err() {
        return Ok(());
    }
    while !stop.load(Ordering::Relaxed) {
        if let Some(event) = events.next(Some(GLANCE))?
            && news.send(CoreNews::Event(event)).is_err()
        {
            break;
        }
    }
    Ok(())
}
