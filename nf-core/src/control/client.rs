//! The other end of the control socket.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::proto::{Request, Response};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    reader: BufReader<UnixStream>,
}

/// A request that was not answered, or refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon can't be reached.
    #[error("no nf-core at {}: {}", .path.display(), reason(.error))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The connection broke.
    #[error("nf-core at {} doesn't answer: {error}; its log says why", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The answer makes no sense.
    #[error("nf-core answers in another protocol ({0}); nf-ctl and nf-core must be of the same version")]
    Protocol(String),
    /// The daemon refuses; its own words.
    #[error("{0}")]
    Refused(String),
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => {
            "there is no such socket; is it running, and is --socket the [control] socket of its configuration?"
                .to_owned()
        }
        ErrorKind::ConnectionRefused => "nobody listens there; start it with nf-core run".to_owned(),
        ErrorKind::PermissionDenied => {
            "this user may not use the socket; run as root or as a member of its group".to_owned()
        }
        _ => error.to_string(),
    }
}

impl Client {
    /// Connects to the daemon that serves a socket.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let stream =
            UnixStream::connect(path).map_err(|error| ClientError::Connect { path: path.to_owned(), error })?;
        let timeouts = stream.set_read_timeout(Some(TIMEOUT)).and(stream.set_write_timeout(Some(TIMEOUT)));
        timeouts.map_err(|error| ClientError::Io { path: path.to_owned(), error })?;
        Ok(Client { path: path.to_owned(), reader: BufReader::new(stream) })
    }

    /// Sends a request and waits for its answer.
    pub fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let io = |error| ClientError::Io { path: self.path.clone(), error };
        let protocol = |error: serde_json::Error| ClientError::Protocol(error.to_string());
        let mut line = zeroize::Zeroizing::new(serde_json::to_vec(request).map_err(protocol)?);
        line.push(b'\n');
        self.reader.get_mut().write_all(&line).map_err(io)?;
        let mut answer = String::new();
        if self.reader.read_line(&mut answer).map_err(io)? == 0 {
            return Err(io(ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_str(&answer).map_err(protocol)? {
            Response::Ok(content) => serde_json::from_value(content).map_err(protocol),
            Response::Error(message) => Err(ClientError::Refused(message)),
        }
    }
}
