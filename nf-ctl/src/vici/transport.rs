//! A connection to charon: frames out and in, with deadlines.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::packet::Packet;
use crate::backend::BackendError;

/// How long charon may take for what needs no peer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A connection.
#[derive(Debug)]
pub(super) struct Transport {
    at: String,
    stream: UnixStream,
    /// What has come and is no whole frame yet.
    received: Vec<u8>,
}

impl Transport {
    pub(super) fn connect(socket: &Path) -> Result<Transport, BackendError> {
        let at = socket.display().to_string();
        let connected = UnixStream::connect(socket).and_then(|stream| {
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Transport { at, stream, received: Vec::new() }),
            Err(error) => Err(BackendError::Unavailable { at, why: unreachable_because(&error) }),
        }
    }

    pub(super) fn send(&mut self, frame: &[u8]) -> Result<(), BackendError> {
        self.stream.write_all(frame).map_err(|error| self.broken(&error))
    }

    /// The next packet; none when the deadline has passed. A packet of which a part is there isn't lost then.
    pub(super) fn receive(&mut self, deadline: Instant) -> Result<Option<Packet>, BackendError> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(packet) = Packet::take(&mut self.received).map_err(|error| self.nonsense(error))? {
                return Ok(Some(packet));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut chunk));
            match read {
                Ok(0) => return Err(self.broken(&ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.received.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(&error)),
            }
        }
    }

    /// As [`Transport::receive`], where silence is an error.
    pub(super) fn answer(&mut self, deadline: Instant) -> Result<Packet, BackendError> {
        let packet = self.receive(deadline)?;
        packet.ok_or_else(|| self.broken(&ErrorKind::TimedOut.into()))
    }

    pub(super) fn nonsense(&self, why: impl std::fmt::Display) -> BackendError {
        BackendError::Protocol { at: self.at.clone(), why: why.to_string() }
    }

    fn broken(&self, error: &io::Error) -> BackendError {
        let why = match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "the time for it is over; its log says why".to_owned(),
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                "it closed the connection; it has probably ended".to_owned()
            }
            _ => error.to_string(),
        };
        BackendError::Broken { at: self.at.clone(), why }
    }
}

fn unreachable_because(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            "there is no such socket; start strongSwan, with its vici plugin, and check charon.plugins.vici.socket in its \
             strongswan.conf"
        }
        ErrorKind::ConnectionRefused => "nobody listens there; start strongSwan",
        ErrorKind::PermissionDenied => "this user may not use the socket; run as root or as charon's user",
        _ => return error.to_string(),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_it_from_connecting_is_said_with_its_remedy() {
        let none = Transport::connect(Path::new("/nonexistent/charon.vici")).unwrap_err().to_string();
        assert!(
            none.starts_with("no IKE daemon at /nonexistent/charon.vici: there is no such socket; start"),
            "{none}"
        );
        let denied = unreachable_because(&ErrorKind::PermissionDenied.into());
        assert!(denied.contains("run as root"), "{denied}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vici");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let refused = Transport::connect(&path).unwrap_err().to_string();
        assert!(refused.ends_with("nobody listens there; start strongSwan"), "{refused}");
    }

    #[test]
    fn one_that_is_silent_or_goes_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vici");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut transport = Transport::connect(&path).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let soon = || Instant::now() + Duration::from_millis(10);
        let silent = transport.answer(soon()).unwrap_err().to_string();
        assert!(silent.contains("doesn't answer: the time for it is over"), "{silent}");
        // Half a packet, then the other half.
        theirs.write_all(b"\x00\x00").unwrap();
        assert_eq!(transport.receive(soon()).unwrap(), None);
        theirs.write_all(b"\x00\x01\x05").unwrap();
        assert_eq!(transport.answer(Instant::now() + PATIENCE).unwrap(), Packet::Confirm);
        drop(theirs);
        let gone = transport.answer(Instant::now() + PATIENCE).unwrap_err().to_string();
        assert!(gone.contains("it closed the connection"), "{gone}");
    }
}
