//! strongSwan's daemon, as the agent uses it: what takes time is done on threads of its own.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use nf_core::types::Spi;

use crate::backend::{BackendError, IkeBackend, IkeSa, IkeSpis};
use crate::vici::{Charon, Events};

/// Jobs that are carried out at a time: peers that are black-holed together don't wait for one that doesn't answer.
const WORKERS: usize = 4;
/// Jobs that wait.
const QUEUE: usize = 64;
/// How long an exchange may take before the peer counts as silent.
const EXCHANGE: Duration = Duration::from_secs(10);
/// SAs are listed anew at least so often, and after each event.
const REFRESH: Duration = Duration::from_secs(5);
/// How often the daemon is looked for while it isn't there.
const RETRY: Duration = Duration::from_millis(500);
/// How often threads look whether they are to end.
const GLANCE: Duration = Duration::from_millis(200);

/// Something to ask the daemon for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Job {
    /// Bring up a connection's CHILD_SAs, over its IKE SA if there is one.
    Initiate {
        /// The connection.
        connection: String,
    },
    /// Replace a CHILD_SA.
    RekeyChild {
        /// Its inbound SPI.
        spi: Spi,
        /// Our address.
        local: IpAddr,
    },
    /// Delete an IKE SA; drop it if the peer doesn't answer.
    Terminate {
        /// The IKE SA.
        ike: IkeSpis,
    },
}

/// A job, by the number that the agent gave it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct JobId(pub u64);

/// News of the daemon.
#[derive(Debug)]
pub enum DaemonNews {
    /// Its SAs, all of them.
    Sas(Vec<IkeSa>),
    /// It can't be asked.
    Gone(String),
    /// A job has ended.
    Done(JobId, Result<(), BackendError>),
}

/// The threads that speak to the daemon. Dropping it ends them, once their last job has ended.
#[derive(Debug)]
pub struct DaemonLink {
    jobs: Option<Sender<(JobId, Job)>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    last: u64,
}

impl DaemonLink {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system has no room for another thread.
    pub fn start(socket: &Path, news: &Sender<DaemonNews>) -> std::io::Result<DaemonLink> {
        let (jobs, queue) = bounded(QUEUE);
        let stop = Arc::new(AtomicBool::new(false));
        let mut link = DaemonLink { jobs: Some(jobs), stop: Arc::clone(&stop), threads: Vec::new(), last: 0 };
        for _ in 0..WORKERS {
            let (queue, news, socket) = (queue.clone(), news.clone(), socket.to_owned());
            link.threads.push(spawn(move || work(&socket, &queue, &news))?);
        }
        let (news, socket) = (news.clone(), socket.to_owned());
        link.threads.push(spawn(move || watch(&socket, &news, &stop))?);
        Ok(link)
    }

    /// Has a job done; [`DaemonNews::Done`] tells how it went.
    ///
    /// # Errors
    /// Too many wait.
    pub fn submit(&mut self, job: Job) -> Result<JobId, String> {
        self.last += 1;
        let id = JobId(self.last);
        let Some(jobs) = &self.jobs else {
            return Err("the agent ends".to_owned());
        };
        jobs.try_send((id, job)).map(|()| id).map_err(|error| match error {
            TrySendError::Full(_) => "too many requests wait for the IKE daemon".to_owned(),
            TrySendError::Disconnected(_) => "the agent ends".to_owned(),
        })
    }
}

impl Drop for DaemonLink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name("nf-daemon".to_owned()).spawn(run)
}

fn work(socket: &Path, queue: &Receiver<(JobId, Job)>, news: &Sender<DaemonNews>) {
    while let Ok((id, job)) = queue.recv() {
        let mut charon = Charon::new(socket);
        let result = match job {
            Job::Initiate { connection } => charon.initiate(&connection, EXCHANGE),
            Job::RekeyChild { spi, local } => charon.rekey_child(spi, local),
            Job::Terminate { ike } => charon.terminate_ike(ike, EXCHANGE),
        };
        if news.send(DaemonNews::Done(id, result)).is_err() {
            return;
        }
    }
}

/// Lists the daemon's SAs at the start, after each event, and now and then.
fn watch(socket: &Path, news: &Sender<DaemonNews>, stop: &AtomicBool) {
    let mut said = None;
    while !stop.load(Ordering::Relaxed) {
        let error = match follow(socket, news, stop) {
            Ok(()) => return,
            Err(error) => error.to_string(),
        };
        if said.as_ref() != Some(&error) {
            if news.send(DaemonNews::Gone(error.clone())).is_err() {
                return;
            }
            said = Some(error);
        }
        thread::sleep(RETRY);
    }
}

fn follow(socket: &Path, news: &Sender<DaemonNews>, stop: &AtomicBool) -> Result<(), BackendError> {
    let mut events = Events::subscribe(socket)?;
    let mut charon = Charon::new(socket);
    let mut listed: Option<Instant> = None;
    let mut changed = true;
    while !stop.load(Ordering::Relaxed) {
        if changed || listed.is_none_or(|listed| listed.elapsed() >= REFRESH) {
            listed = Some(Instant::now());
            if news.send(DaemonNews::Sas(charon.sas(None)?)).is_err() {
                break;
            }
        }
        changed = events.next(GLANCE)?.is_some();
    }
    Ok(())
}
