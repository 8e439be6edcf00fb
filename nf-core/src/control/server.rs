//! The control socket. Threads of its own read and write; requests are handled on the control thread, one at a time.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::proto::{MAX_LINE, Request, Response};

/// Connections at a time; one more is told so and closed.
const MAX_CLIENTS: usize = 32;
/// How long a client may be silent, and how long it may leave an answer unread.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests that may wait for the control thread.
const QUEUE_LENGTH: usize = 64;
/// The socket is for its owner and group.
const MODE: u32 = 0o660;

/// What answers requests, on the control thread.
pub trait Handler {
    /// Answers one.
    fn handle(&mut self, request: Request) -> Response;
}

/// A socket that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another instance has it.
    #[error("another nf-core{} serves {}; stop it, or set [control] socket to another path", pid_text(.pid), .path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
        /// The other's process, if it has left its number.
        pid: Option<u32>,
    },
    /// The system refuses.
    #[error("the control socket {} can't be {step}: {error}; {}", .path.display(), remedy(.error))]
    Io {
        /// The socket, or a file beside it.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// Why.
        error: io::Error,
    },
}

fn pid_text(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "run as a user who may write there, or set [control] socket to another path",
        ErrorKind::InvalidInput => "a socket's path has 107 octets at most: set [control] socket to a shorter one",
        _ => "set [control] socket to a path in a directory that exists",
    }
}

/// The socket and the requests that come over it. Socket and lock file go when it is dropped.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    lock_path: PathBuf,
    /// Held for as long as the socket is ours.
    _lock: File,
    requests: Receiver<Pending>,
}

#[derive(Debug)]
struct Pending {
    request: Request,
    answer: Sender<Response>,
}

impl ControlServer {
    /// Takes the path and listens there. A socket that a dead process has left is replaced.
    pub fn bind(path: &Path) -> Result<ControlServer, ServerError> {
        let io = |path: &Path, step| {
            let path = path.to_owned();
            move |error| ServerError::Io { path, step, error }
        };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            fs::create_dir_all(directory).map_err(io(directory, "given a directory"))?;
        }
        // Whoever holds the lock has the path, whatever lies there.
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(io(path, "locked"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = lock.read_to_string(&mut text);
                return Err(ServerError::Taken { path: path.to_owned(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(error)) => return Err(io(path, "locked")(error)),
        }
        let noted = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
        noted.map_err(io(path, "locked"))?;

        if path.exists() {
            fs::remove_file(path).map_err(io(path, "replaced"))?;
        }
        // Bound under another name and put in place once its permissions are right: it is never open to others.
        let hidden = path.with_extension(format!("{}.tmp", std::process::id()));
        let listener = UnixListener::bind(&hidden).map_err(io(path, "made"))?;
        let placed =
            fs::set_permissions(&hidden, Permissions::from_mode(MODE)).and_then(|()| fs::rename(&hidden, path));
        if let Err(error) = placed {
            let _ = fs::remove_file(&hidden);
            return Err(io(path, "made")(error));
        }
        let (sender, requests) = bounded(QUEUE_LENGTH);
        thread::spawn(move || accept(&listener, &sender));
        Ok(ControlServer { path: path.to_owned(), lock_path, _lock: lock, requests })
    }

    /// Waits for a request, at most for a time, and has it and those that came with it answered.
    pub fn serve(&self, handler: &mut impl Handler, wait: Duration) {
        let mut next = self.requests.recv_timeout(wait).ok();
        while let Some(Pending { request, answer }) = next {
            // A client that has gone doesn't hear it.
            let _ = answer.try_send(handler.handle(request));
            next = self.requests.try_recv().ok();
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.lock_path);
    }
}

fn accept(listener: &UnixListener, requests: &Sender<Pending>) {
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            // Out of descriptors, most likely: some client will go.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        let timeouts =
            stream.set_read_timeout(Some(CLIENT_TIMEOUT)).and(stream.set_write_timeout(Some(CLIENT_TIMEOUT)));
        if timeouts.is_err() {
            continue;
        }
        if clients.fetch_add(1, Ordering::SeqCst) >= MAX_CLIENTS {
            clients.fetch_sub(1, Ordering::SeqCst);
            let message = format!("{MAX_CLIENTS} clients are connected, which is the limit; try again later");
            let _ = write_line(&mut stream, &Response::Error(message));
            continue;
        }
        let (requests, clients) = (requests.clone(), Arc::clone(&clients));
        thread::spawn(move || {
            converse(stream, &requests);
            clients.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Answers a client's requests until it goes, is silent for too long, or sends a line that is too long.
fn converse(stream: UnixStream, requests: &Sender<Pending>) {
    let Ok(mut writer) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(stream);
    let mut line = zeroize::Zeroizing::new(Vec::new());
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line.len() > MAX_LINE => {
                let message = format!("the request is longer than {MAX_LINE} octets");
                let _ = write_line(&mut writer, &Response::Error(message));
                return;
            }
            Ok(_) => {}
        }
        let response = match serde_json::from_slice(&line) {
            Ok(request) => ask(request, requests),
            Err(error) => Response::Error(describe(&error)),
        };
        if write_line(&mut writer, &response).is_err() {
            return;
        }
    }
}

/// What is wrong with a request. Messages about types quote the value, which may be a misplaced key: those are cut.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = match text.split_once("invalid ") {
        Some((_, rest)) if rest.starts_with("type") || rest.starts_with("value") => {
            let expected = rest.split_once(", expected ").map_or("", |(_, expected)| expected);
            format!("a value is of the wrong kind; expected {expected}")
        }
        _ => text,
    };
    format!("the request can't be understood: {text}")
}

fn ask(request: Request, requests: &Sender<Pending>) -> Response {
    let (answer, answered) = bounded(1);
    if requests.send(Pending { request, answer }).is_err() {
        return Response::Error("nf-core is shutting down".to_owned());
    }
    answered.recv().unwrap_or_else(|_| Response::Error("nf-core is shutting down".to_owned()))
}

fn write_line(stream: &mut UnixStream, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    stream.write_all(&line)
}
