//! The server's end of the control socket.
//!
//! One thread accepts clients, one more a client reads its requests and writes the responses. Those threads do nothing
//! else: a request goes over a bounded queue to the control thread, which answers it in [`Server::serve`]. So a
//! slow, silent or hostile client holds up nobody but itself, and that for a bounded time ([`Limits`]).

mod connection;
mod socket;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::access::Access;
use super::audit::Audit;
use super::proto::{Request, Response, Subscribed};
use super::subscribers::Subscription;
use connection::Connection;
use socket::Socket;

/// Whose socket it is, for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The program.
    pub program: &'static str,
    /// Where nf.toml has the socket's path.
    pub setting: &'static str,
}

/// What goes over a socket: the requests of a program's protocol, lines of JSON.
pub trait Protocol: Sized + Send + 'static {
    /// The program that answers them.
    const OWNER: Owner;

    /// Reads a request from its line.
    ///
    /// # Errors
    /// Says what is wrong with the line, in one sentence, without a secret.
    fn decode(line: &[u8]) -> Result<Self, String>;

    /// What the request changes, in a few words without a secret, for the record of changes. None where it only looks:
    /// then everybody may send it who may connect.
    fn change(&self) -> Option<String>;
}

impl Protocol for Request {
    const OWNER: Owner = Owner { program: "nf-core", setting: "[control] socket" };

    fn decode(line: &[u8]) -> Result<Request, String> {
        Request::decode(line)
    }

    fn change(&self) -> Option<String> {
        self.change()
    }
}

/// nf-core's control socket, served.
pub type ControlServer = Server<Request>;

/// How long clients that are cut off at the end get to read a last response.
const FAREWELL: Duration = Duration::from_millis(500);

/// Requests that are answered before the control thread has its turn again.
const REQUESTS_PER_TURN: usize = 64;

/// How long to wait before the next try when a client can't be accepted, for want of file descriptors for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client may take of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Clients at once. One more gets an error and is cut off.
    pub clients: usize,
    /// The time for a request to arrive whole, from the connection's start or the last response.
    pub request: Duration,
    /// The time for the control thread to answer.
    pub answer: Duration,
    /// The time for the client to take a response.
    pub response: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            clients: 32,
            request: Duration::from_secs(30),
            answer: Duration::from_secs(20),
            response: Duration::from_secs(10),
        }
    }
}

/// Why the control socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The path is longer than a socket's address can be.
    #[error(
        "the control socket's path {} has {octets} octets: set {} to one with {max} octets at most",
        path.display(),
        owner.setting
    )]
    PathTooLong {
        /// Whose socket.
        owner: Owner,
        /// The socket.
        path: PathBuf,
        /// Its length.
        octets: usize,
        /// The greatest length.
        max: usize,
    },
    /// Another process serves this socket.
    #[error(
        "another {} serves {}: stop it, or set {} to another path",
        pid.map_or_else(|| "process".to_owned(), |pid| format!("{} (pid {pid})", owner.program)),
        path.display(),
        owner.setting
    )]
    InUse {
        /// Whose socket.
        owner: Owner,
        /// The socket.
        path: PathBuf,
        /// The process, where it is the same program.
        pid: Option<u32>,
    },
    /// Something that isn't a socket has the socket's path. It is left alone.
    #[error("{} is there but is not a socket: remove it, or set {} to another path", path.display(), owner.setting)]
    NotASocket {
        /// Whose socket.
        owner: Owner,
        /// The socket.
        path: PathBuf,
    },
    /// The process may not create, write or connect to something that the socket needs.
    #[error(
        "no permission to {what} {}: run {} as a user who may, or set {} to another path",
        path.display(),
        owner.program,
        owner.setting
    )]
    Permission {
        /// Whose socket.
        owner: Owner,
        /// What was tried.
        what: &'static str,
        /// To what.
        path: PathBuf,
    },
    /// There is no such group.
    #[error("[control] group: there is no group `{0}`; make it (groupadd --system {0}), or name another one")]
    NoSuchGroup(String),
    /// The system refused for another reason.
    #[error("can't {what} {}: {source}; remove the cause, or set {} to another path", path.display(), owner.setting)]
    Io {
        /// Whose socket.
        owner: Owner,
        /// What was tried.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The system has no room for another thread.
    #[error("can't start the control socket's thread: {0}; raise the limit of processes (ulimit -u, TasksMax)")]
    Thread(io::Error),
}

/// What answers requests. It runs on the control thread.
pub trait Handler<R = Request> {
    /// Carries a request out and says how it went.
    fn handle(&mut self, request: R) -> Reply;
}

/// How a request went.
#[derive(Debug)]
pub enum Reply {
    /// An answer, and the next request may come.
    Response(Response),
    /// From now on the connection carries these events.
    Events(Subscribed, Subscription),
}

impl From<Response> for Reply {
    fn from(response: Response) -> Reply {
        Reply::Response(response)
    }
}

/// A request on its way to the control thread.
#[derive(Debug)]
pub struct Call<R = Request> {
    request: R,
    /// When the client is told that there was no answer.
    deadline: Instant,
    reply: Sender<Reply>,
}

impl<R> Call<R> {
    /// Has the request answered, unless it is too late for that.
    pub fn answer(self, handler: &mut impl Handler<R>) {
        // Once the client was told that there is no answer, to carry it out would surprise.
        if Instant::now() < self.deadline {
            // The client may be gone by now: then nobody wants the response.
            let _ = self.reply.send(handler.handle(self.request));
        }
    }
}

/// The connected clients: so many are they, and by these handles they are cut off.
struct Clients {
    open: bool,
    next: u64,
    streams: HashMap<u64, UnixStream>,
}

fn lock(clients: &Mutex<Clients>) -> MutexGuard<'_, Clients> {
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a client off the list when its thread ends, however it ends.
struct Entry {
    id: u64,
    clients: Arc<Mutex<Clients>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.clients).streams.remove(&self.id);
    }
}

impl<R> fmt::Debug for Server<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// A control socket, served. Dropping it cuts off the clients, ends its threads and removes socket and lock file.
pub struct Server<R> {
    calls: Receiver<Call<R>>,
    clients: Arc<Mutex<Clients>>,
    audit: Arc<Audit>,
    /// The listening socket once more: shutting it down wakes the thread that accepts.
    waker: UnixStream,
    acceptor: Option<JoinHandle<()>>,
    socket: Socket,
}

impl<R> Server<R> {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// The record of changes.
    pub fn audit(&self) -> Arc<Audit> {
        Arc::clone(&self.audit)
    }
}

impl<R: Protocol> Server<R> {
    /// Creates the socket and starts to accept clients. Their requests wait for [`Server::serve`].
    ///
    /// The socket has its mode, 0660, and its group from the moment in which it can be found. A socket that a dead process left behind
    /// is replaced; a living process' socket is not. A missing directory is created with the mode 0755. Beside the
    /// socket lies its lock file, `PATH.lock`.
    ///
    /// # Errors
    /// See [`ServerError`]. Nothing is left behind.
    pub fn bind(path: &Path) -> Result<Server<R>, ServerError> {
        Server::bind_with(path, Limits::default())
    }

    /// As [`Server::bind`], with other limits.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn bind_with(path: &Path, limits: Limits) -> Result<Server<R>, ServerError> {
        Server::bind_for(path, limits, Access::default(), None)
    }

    /// As [`Server::bind_with`], for those whom `access` names; changes are recorded in `audit_file` as well.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn bind_for(
        path: &Path,
        limits: Limits,
        access: Access,
        audit_file: Option<PathBuf>,
    ) -> Result<Server<R>, ServerError> {
        let (socket, listener) = Socket::create(path.to_owned(), R::OWNER, &access)?;
        let audit = Arc::new(Audit::new(R::OWNER.program, audit_file));
        let waker = listener.try_clone().map_err(|source| socket.error("share", source))?;
        let waker = UnixStream::from(OwnedFd::from(waker));
        let clients = Arc::new(Mutex::new(Clients { open: true, next: 0, streams: HashMap::new() }));
        // Each client has at most one request under way, so there is room for all of them.
        let (queue, calls) = bounded(limits.clients.max(1));
        let acceptor = thread::Builder::new()
            .name("nf-control".to_owned())
            .spawn({
                let clients = Arc::clone(&clients);
                let terms = Terms { limits, access, audit: Arc::clone(&audit) };
                move || accept(&listener, &clients, queue, &terms)
            })
            .map_err(ServerError::Thread)?;
        Ok(Server { calls, clients, audit, waker, acceptor: Some(acceptor), socket })
    }

    /// The requests, for a loop that waits for other things as well; each is to be [answered](Call::answer).
    pub fn calls(&self) -> &Receiver<Call<R>> {
        &self.calls
    }

    /// Waits for a request, at most for a time, and has it and those that came with it answered. However many clients
    /// ask, this ends after a bounded number of requests.
    pub fn serve(&self, handler: &mut impl Handler<R>, wait: Duration) {
        let mut next = self.calls.recv_timeout(wait).ok();
        let mut left = REQUESTS_PER_TURN;
        while let Some(call) = next {
            call.answer(handler);
            left -= 1;
            next = if left > 0 { self.calls.try_recv().ok() } else { None };
        }
    }
}

impl<R> Server<R> {
    /// Takes no more clients, and shuts down the connections of those that are here.
    fn cut_off(&self, how: Shutdown) {
        let mut clients = lock(&self.clients);
        clients.open = false;
        // A client that left by itself is cut off already.
        clients.streams.values().for_each(|stream| drop(stream.shutdown(how)));
    }
}

impl<R> Drop for Server<R> {
    fn drop(&mut self) {
        self.cut_off(Shutdown::Read);
        // Shutting a listening socket down wakes the thread that waits in accept(2).
        let _ = self.waker.shutdown(Shutdown::Both);
        // Whoever waits for an answer learns that there will be none. The queue ends with the last client's thread.
        let farewell = Instant::now() + FAREWELL;
        while self.calls.recv_deadline(farewell).is_ok() {}
        self.cut_off(Shutdown::Both);
        while self.calls.recv().is_ok() {}
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// What clients are served under.
struct Terms {
    limits: Limits,
    access: Access,
    audit: Arc<Audit>,
}

/// Accepts clients until the server is dropped; returns when the last of them is gone.
fn accept<R: Protocol>(listener: &UnixListener, clients: &Arc<Mutex<Clients>>, queue: Sender<Call<R>>, terms: &Terms) {
    thread::scope(|scope| {
        while lock(clients).open {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if lock(clients).open {
                        tracing::warn!(%error, "can't accept a client on the control socket");
                        thread::sleep(ACCEPT_PAUSE);
                    }
                    continue;
                }
            };
            let mut connection = Connection::new(stream, terms);
            let entry = match admit(clients, &connection, terms.limits.clients, R::OWNER) {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(refusal) => {
                    connection.send_or_leave(&refusal);
                    continue;
                }
            };
            let queue = queue.clone();
            let spawned = thread::Builder::new().name("nf-client".to_owned()).spawn_scoped(scope, move || {
                let _entry = entry;
                connection.serve(&queue);
            });
            if let Err(error) = spawned {
                tracing::warn!(%error, "can't start a thread for a client of the control socket");
            }
        }
    });
}

/// Puts a client on the list. `None` when the server is about to end.
fn admit(
    clients: &Arc<Mutex<Clients>>,
    connection: &Connection,
    max: usize,
    owner: Owner,
) -> Result<Option<Entry>, Response> {
    let mut list = lock(clients);
    if !list.open {
        return Ok(None);
    }
    if list.streams.len() >= max {
        let message = format!("{max} clients are connected, which is the limit: end one of them, then try again");
        return Err(Response::Error(message));
    }
    let stream = connection.handle().map_err(|error| {
        let program = owner.program;
        let message = format!("the control socket has no room for a client: {error}; raise LimitNOFILE of {program}");
        Response::Error(message)
    })?;
    let id = list.next;
    list.next = list.next.wrapping_add(1);
    list.streams.insert(id, stream);
    Ok(Some(Entry { id, clients: Arc::clone(clients) }))
}

#[cfg(test)]
mod tests;
