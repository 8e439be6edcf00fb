//! The client's end of the control socket, blocking: one call, one answer; or a stream of events.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::proto::{EventKind, EventLine, EventReport, Request, Response, Subscribed, VERSION};

/// How long a client waits for an answer: longer than the server waits for its control thread, so that the server's own
/// word on the delay arrives.
const PATIENCE: Duration = Duration::from_secs(25);

/// Whom a client speaks to, for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Daemon {
    /// The program.
    pub program: &'static str,
    /// How it is started.
    pub start: &'static str,
    /// The option that names its socket.
    pub option: &'static str,
    /// Where nf.toml has the socket's path.
    pub setting: &'static str,
    /// The version of its protocol that this program speaks.
    pub version: u32,
}

/// nf-core.
pub static NF_CORE: Daemon = Daemon {
    program: "nf-core",
    start: "nf-core run",
    option: "--socket",
    setting: "[control] socket",
    version: VERSION,
};

/// A request that was not answered, or refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon can't be reached.
    #[error("no {} at {}: {}", daemon.program, path.display(), unreachable_because(daemon, error))]
    Connect {
        /// Who.
        daemon: &'static Daemon,
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The connection broke, or there was no answer in time. It isn't known whether the request was carried out.
    #[error("{} at {} doesn't answer: {}; its log says why", daemon.program, path.display(), broken_because(error))]
    Io {
        /// Who.
        daemon: &'static Daemon,
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The daemon speaks another version of the protocol.
    #[error(
        "{} at {} speaks version {theirs} of the control protocol, this program version {}: use both of the same release",
        daemon.program, path.display(), daemon.version
    )]
    Version {
        /// Who.
        daemon: &'static Daemon,
        /// The socket.
        path: PathBuf,
        /// The daemon's version.
        theirs: u32,
    },
    /// The answer makes no sense.
    #[error(
        "{} answers in another protocol ({why}): is it {program}'s socket, and is {program} of the same release?",
        path.display(), program = daemon.program
    )]
    Protocol {
        /// Who.
        daemon: &'static Daemon,
        /// The socket.
        path: PathBuf,
        /// What doesn't fit.
        why: String,
    },
    /// The daemon refuses; its own words.
    #[error("{0}")]
    Refused(String),
}

fn unreachable_because(daemon: &Daemon, error: &io::Error) -> String {
    let Daemon { start, option, setting, .. } = daemon;
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            format!("there is no such socket; is it running, and is {option} the {setting} of its configuration?")
        }
        ErrorKind::ConnectionRefused => format!("nobody listens there; start it with {start}"),
        ErrorKind::PermissionDenied => {
            "this user may not use the socket; run as root or as a member of its group".to_owned()
        }
        _ => error.to_string(),
    }
}

fn broken_because(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "the time for it is over".to_owned(),
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            "it closed the connection".to_owned()
        }
        _ => error.to_string(),
    }
}

/// What each version's [`Status`](super::proto::Status) has in it.
#[derive(Deserialize)]
struct Spoken {
    protocol: u32,
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    daemon: &'static Daemon,
    path: PathBuf,
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon that serves a socket, and checks that it speaks this protocol.
    ///
    /// # Errors
    /// [`ClientError`]: nobody is there, no permission, another version, or the daemon takes no more clients.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        Client::connect_within(path, PATIENCE)
    }

    /// As [`Client::connect`]; no read or write waits longer than `patience`.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_within(path: &Path, patience: Duration) -> Result<Client, ClientError> {
        Client::connect_to(&NF_CORE, path, patience)
    }

    /// As [`Client::connect_within`], to another daemon that speaks lines of JSON, and has a request `status` whose answer
    /// has the version of its protocol in the field `protocol`.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_to(daemon: &'static Daemon, path: &Path, patience: Duration) -> Result<Client, ClientError> {
        let failed = |error| ClientError::Connect { daemon, path: path.to_owned(), error };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(patience)).and(stream.set_write_timeout(Some(patience))).map_err(failed)?;
        let mut client = Client { daemon, path: path.to_owned(), reader: BufReader::new(stream) };
        match client.call(&Request::Status {})? {
            Spoken { protocol } if protocol == daemon.version => Ok(client),
            Spoken { protocol: theirs } => Err(ClientError::Version { daemon, path: client.path, theirs }),
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] in the daemon's words; any other if it isn't known what became of the request.
    pub fn call<T: DeserializeOwned>(&mut self, request: &impl Serialize) -> Result<T, ClientError> {
        let (daemon, path) = (self.daemon, self.path.clone());
        let protocol = |error: serde_json::Error| ClientError::Protocol { daemon, path, why: error.to_string() };
        // With a key in it, perhaps. The room is for the largest SA, so that none of it is left in freed memory.
        let mut line = Zeroizing::new(Vec::with_capacity(1 << 14));
        if let Err(error) = serde_json::to_writer(&mut *line, request) {
            return Err(protocol(error));
        }
        line.push(b'\n');
        // A daemon that hangs up says why before it does.
        let sent = self.reader.get_mut().write_all(&line);
        match (sent, self.receive()?) {
            (_, Response::Error(message)) => Err(ClientError::Refused(message)),
            (Ok(()), Response::Ok(content)) => serde_json::from_value(content).map_err(protocol),
            (Err(error), Response::Ok(_)) => Err(self.broken(error)),
        }
    }

    /// Turns the connection into a stream of events of these kinds; of all where none is named.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn subscribe(mut self, kinds: &[EventKind]) -> Result<Events, ClientError> {
        let subscribed = self.call(&Request::Subscribe { kinds: kinds.to_vec() })?;
        Ok(Events { client: self, subscribed, line: Vec::new() })
    }

    fn receive(&mut self) -> Result<Response, ClientError> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => serde_json::from_slice(&line).map_err(|error| ClientError::Protocol {
                daemon: self.daemon,
                path: self.path.clone(),
                why: error.to_string(),
            }),
            Ok(_) => Err(self.broken(ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(self.broken(error)),
        }
    }

    fn broken(&self, error: io::Error) -> ClientError {
        ClientError::Io { daemon: self.daemon, path: self.path.clone(), error }
    }
}

/// Events, as they come. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Events {
    client: Client,
    subscribed: Subscribed,
    /// What has come of a line.
    line: Vec<u8>,
}

impl Events {
    /// What the daemon has agreed to, and its time then.
    pub fn subscribed(&self) -> &Subscribed {
        &self.subscribed
    }

    /// Waits for the next event, without a `wait` for as long as it takes; none where none has come in time. Events that
    /// this release doesn't know are skipped.
    ///
    /// # Errors
    /// [`ClientError::Refused`] in the daemon's words where it ends the stream; [`ClientError::Io`] where the daemon is
    /// gone.
    pub fn next(&mut self, wait: Option<Duration>) -> Result<Option<EventReport>, ClientError> {
        let deadline = wait.map(|wait| Instant::now() + wait);
        loop {
            // The system takes no timeout of zero.
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.map(|left| left.max(Duration::from_millis(1)));
            let client = &mut self.client;
            if let Err(error) = client.reader.get_ref().set_read_timeout(timeout) {
                return Err(client.broken(error));
            }
            match client.reader.read_until(b'\n', &mut self.line) {
                Ok(_) if self.line.ends_with(b"\n") => {}
                Ok(_) => return Err(client.broken(ErrorKind::UnexpectedEof.into())),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(client.broken(error)),
            }
            let line = std::mem::take(&mut self.line);
            match serde_json::from_slice(&line) {
                Ok(EventLine::Event(EventReport::Unknown)) => {}
                Ok(EventLine::Event(event)) => return Ok(Some(event)),
                Ok(EventLine::Error(message)) => return Err(ClientError::Refused(message)),
                Err(error) => {
                    let (daemon, path) = (client.daemon, client.path.clone());
                    return Err(ClientError::Protocol { daemon, path, why: error.to_string() });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Against a real server: in the server's tests. Root is never refused, so this can't be there.
    #[test]
    fn no_permission_names_the_group() {
        let error = io::Error::from(ErrorKind::PermissionDenied);
        let error = ClientError::Connect { daemon: &NF_CORE, path: "/run/nf.sock".into(), error }.to_string();
        let wanted = "no nf-core at /run/nf.sock: \
                      this user may not use the socket; run as root or as a member of its group";
        assert_eq!(error, wanted);
    }

    #[test]
    fn paths_that_no_socket_can_have() {
        let long = Client::connect(Path::new(&"x".repeat(200))).unwrap_err();
        assert!(long.to_string().contains("shorter than SUN_LEN"), "{long}");
        let below_a_file = Client::connect(Path::new("/dev/null/nf.sock")).unwrap_err();
        assert!(below_a_file.to_string().contains("there is no such socket"), "{below_a_file}");
    }
}
