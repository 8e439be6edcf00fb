//! What systemd is told of a service with `Type=notify` (sd_notify(3)), and the watchdog's interval.
//!
//! Without systemd, that is without `NOTIFY_SOCKET` in the environment, all of it does nothing.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where systemd listens, if it is there.
#[derive(Debug)]
pub struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names.
    pub fn from_env() -> Supervisor {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|path| Supervisor::open(&path));
        // WATCHDOG_PID names the process that is meant; a child of it inherits the environment.
        let is_ours = std::env::var("WATCHDOG_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()));
        let microseconds = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok()).filter(|n| *n > 0);
        let watchdog = microseconds.filter(|_| is_ours).map(Duration::from_micros);
        Supervisor { socket, watchdog }
    }

    fn open(path: &OsStr) -> Option<(UnixDatagram, SocketAddr)> {
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(path),
        };
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some((socket, address.ok()?))
    }

    /// How often a sign of life is due: in half the time after which systemd takes the service for dead.
    pub fn interval(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some()).map(|time| time / 2)
    }

    /// The service is up: `READY=1`, with a line for `systemctl status`.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// A sign of life.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// The service ends.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// A message that systemd doesn't take is lost: nothing here depends on it.
    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_go_to_a_path_or_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("nf-core-test-{}", std::process::id());
        let by_path = (UnixDatagram::bind(&path).unwrap(), path.into_os_string());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}").into());
        for (listener, name) in [by_path, by_name] {
            let supervisor = Supervisor { socket: Supervisor::open(&name), watchdog: Some(Duration::from_secs(10)) };
            assert_eq!(supervisor.interval(), Some(Duration::from_secs(5)));
            supervisor.ready("2 workers\n3 SAs");
            supervisor.alive();
            supervisor.stopping();
            let mut octets = [0; 256];
            for wanted in ["READY=1\nSTATUS=2 workers 3 SAs", "WATCHDOG=1", "STOPPING=1"] {
                let length = listener.recv(&mut octets).unwrap();
                assert_eq!(std::str::from_utf8(&octets[..length]), Ok(wanted));
            }
        }
    }

    #[test]
    fn without_systemd_nothing_happens() {
        let alone = Supervisor { socket: None, watchdog: Some(Duration::from_secs(10)) };
        assert_eq!(alone.interval(), None);
        alone.ready("up");
        assert!(Supervisor::open(OsStr::new("")).is_none_or(|(socket, _)| socket.peer_addr().is_err()));
    }
}
