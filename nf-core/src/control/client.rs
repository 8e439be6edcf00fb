//! The client's end of the control socket, blocking: one call, one answer.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::proto::{ErrorReport, Hello, PROTOCOL, Request, Response};

/// How long a client waits for nf-core, unless told otherwise: longer than nf-core waits for its control thread, so that
/// its own word on the delay arrives.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error("there is no control socket {}: start nf-core, or name the socket that it serves", .0.display())]
    NoSocket(PathBuf),
    /// There is a socket, but nobody listens.
    #[error("nobody answers on {}: nf-core has died, start it again", .0.display())]
    NobodyListens(PathBuf),
    /// This user may not connect.
    #[error("no permission to use the control socket {}: use root, or a user in the socket's group", .0.display())]
    Permission(PathBuf),
    /// The other end speaks another version of the protocol.
    #[error(
        "nf-core {release} on {} speaks control protocol {theirs}, this client {PROTOCOL}: use both of one release",
        path.display()
    )]
    Version {
        /// The socket.
        path: PathBuf,
        /// nf-core's release.
        release: String,
        /// Its protocol.
        theirs: u32,
    },
    /// There was no answer in time.
    #[error("nf-core did not answer on {} within {} s: look at its log", path.display(), patience.as_secs_f32())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long the client waited.
        patience: Duration,
    },
    /// The connection ended before the answer.
    #[error("nf-core closed the connection on {} before it answered: look at its log, it may have ended", .0.display())]
    Closed(PathBuf),
    /// The other end sent something that isn't a response to the request.
    #[error("{} did not send an answer of nf-core's: {why}; check that nf-core serves this socket", path.display())]
    NotAnAnswer {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The system refused.
    #[error("can't use the control socket {}: {source}; check the path", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// nf-core refused the request.
    #[error("{}", .0.message)]
    Refused(ErrorReport),
}

/// A connection to nf-core.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    patience: Duration,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects, and checks that both ends speak the same protocol.
    ///
    /// # Errors
    /// [`ClientError`]: no socket, nobody there, no permission, all connections in use, another version, no answer.
    pub fn connect(path: impl Into<PathBuf>) -> Result<Client, ClientError> {
        Client::connect_within(path, PATIENCE)
    }

    /// As [`Client::connect`]; this and each call wait for so long at most.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_within(path: impl Into<PathBuf>, patience: Duration) -> Result<Client, ClientError> {
        let path = path.into();
        let stream = UnixStream::connect(&path).map_err(|source| cannot_connect(path.clone(), source))?;
        stream
            .set_read_timeout(Some(patience))
            .and_then(|()| stream.set_write_timeout(Some(patience)))
            .map_err(|source| ClientError::Io { path: path.clone(), source })?;
        let mut client = Client { path, patience, stream: BufReader::new(stream) };
        match client.receive()? {
            Response::Hello(hello) if hello.protocol == PROTOCOL => Ok(client),
            Response::Hello(Hello { protocol, version }) => {
                Err(ClientError::Version { path: client.path, release: version, theirs: protocol })
            }
            Response::Error(error) => Err(ClientError::Refused(error)),
            _ => Err(client.not_an_answer("it does not introduce itself")),
        }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has nf-core carry out a request. The answer is never [`Response::Error`], that is an error here.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if nf-core refused the request; any other if it isn't known what became of it.
    pub fn call(&mut self, request: &Request) -> Result<Response, ClientError> {
        // It may have a key in it.
        let mut line = Zeroizing::new(Vec::with_capacity(4096));
        serde_json::to_writer(&mut *line, request).map_err(|error| self.broken(error.into()))?;
        line.push(b'\n');
        let sent = self.stream.get_mut().write_all(&line);
        // A server that ends the connection says why before it does.
        match (sent, self.receive()) {
            (_, Ok(Response::Error(error))) => Err(ClientError::Refused(error)),
            (Ok(()), answer) => answer,
            (Err(error), _) => Err(self.broken(error)),
        }
    }

    /// The error for a response that doesn't belong to the request.
    pub fn unexpected(&self) -> ClientError {
        self.not_an_answer("the answer belongs to another request")
    }

    fn receive(&mut self) -> Result<Response, ClientError> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(_) if line.ends_with('\n') => {}
            Ok(_) => return Err(ClientError::Closed(self.path.clone())),
            Err(error) if error.kind() == ErrorKind::InvalidData => return Err(self.not_an_answer("it is not UTF-8")),
            Err(error) => return Err(self.broken(error)),
        }
        serde_json::from_str(&line).map_err(|error| self.not_an_answer(&error.to_string()))
    }

    fn not_an_answer(&self, why: &str) -> ClientError {
        ClientError::NotAnAnswer { path: self.path.clone(), why: why.to_owned() }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Timeout { path, patience: self.patience },
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => ClientError::Closed(path),
            _ => ClientError::Io { path, source },
        }
    }
}

fn cannot_connect(path: PathBuf, source: io::Error) -> ClientError {
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => ClientError::NoSocket(path),
        ErrorKind::ConnectionRefused => ClientError::NobodyListens(path),
        ErrorKind::PermissionDenied => ClientError::Permission(path),
        _ => ClientError::Io { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Against a real server: in the server's tests. Root is never refused, so this can't be there.
    #[test]
    fn no_permission_names_the_group() {
        let error = cannot_connect("/run/nf.sock".into(), io::Error::from(ErrorKind::PermissionDenied)).to_string();
        assert_eq!(
            error,
            "no permission to use the control socket /run/nf.sock: use root, or a user in the socket's group"
        );
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_an_error() {
        assert!(matches!(Client::connect("x".repeat(200)), Err(ClientError::Io { .. })));
        assert!(matches!(Client::connect("/dev/null/nf.sock"), Err(ClientError::NoSocket(_))));
    }
}
