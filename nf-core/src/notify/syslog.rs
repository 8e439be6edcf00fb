//! Messages to a syslog daemon (RFC 5424), over a datagram socket or UDP (RFC 5426).
//!
//! Written here rather than with a crate: the line is short, and a socket that never blocks and comes back by itself is
//! what matters to the control thread.

use std::fmt::Write;
use std::io;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::sink::{Notice, Sink};
use crate::config::SyslogTarget;

/// The facility local0, as routers use it.
const FACILITY: u8 = 16;
/// The enterprise number that RFC 5612 sets aside for examples and private use in documentation.
const SD_ID: &str = "invspi@32473";
/// How long to wait before a socket that failed is opened again.
const RETRY: Duration = Duration::from_secs(5);

enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

/// A syslog daemon.
pub struct Syslog {
    target: SyslogTarget,
    socket: Option<Socket>,
    retry_at: Option<Instant>,
    lost: u64,
}

impl Syslog {
    /// Sends to a daemon; if it isn't there, messages are counted as lost until it is.
    pub fn new(target: SyslogTarget) -> Syslog {
        Syslog { target, socket: None, retry_at: None, lost: 0 }
    }

    fn open(target: &SyslogTarget) -> io::Result<Socket> {
        match target {
            SyslogTarget::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket.connect(path)?;
                Ok(Socket::Unix(socket))
            }
            SyslogTarget::Udp(address) => {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.set_nonblocking(true)?;
                socket.connect(address)?;
                Ok(Socket::Udp(socket))
            }
        }
    }

    fn send(&mut self, line: &str) -> io::Result<()> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => self.socket.insert(Self::open(&self.target)?),
        };
        match socket {
            Socket::Unix(socket) => socket.send(line.as_bytes()),
            Socket::Udp(socket) => socket.send(line.as_bytes()),
        }
        .map(|_| ())
    }
}

impl Sink for Syslog {
    fn emit(&mut self, notice: &Notice) {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            self.lost += 1;
            return;
        }
        let line = line(notice, SystemTime::now(), std::process::id());
        match self.send(&line) {
            Ok(()) => {
                if self.lost > 0 {
                    tracing::warn!(lost = self.lost, "the syslog daemon is back; messages were lost meanwhile");
                    self.lost = 0;
                }
                self.retry_at = None;
            }
            Err(error) => {
                if self.lost == 0 {
                    tracing::warn!(target = ?self.target, %error, "the syslog daemon takes no messages; trying again every 5 s");
                }
                self.lost += 1;
                self.socket = None;
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }
}

/// The message in the form of RFC 5424 6.
fn line(notice: &Notice, at: SystemTime, pid: u32) -> String {
    let priority = FACILITY * 8 + notice.severity.number();
    let mut line = format!("<{priority}>1 {} - nf-core {pid} {} ", timestamp(at), notice.mnemonic);
    match &notice.about {
        None => line.push('-'),
        Some(about) => {
            // None of the values can hold a quote, a backslash or a bracket but the port's name.
            let interface: String = about.interface.chars().flat_map(escape).collect();
            let _ = write!(
                line,
                "[{SD_ID} src=\"{}\" dst=\"{}\" spi=\"0x{:08X}\" seq=\"{}\" interface=\"{interface}\" class=\"{}\" events=\"{}\"",
                about.src,
                about.dst,
                about.spi.0,
                about.seq,
                about.class.as_str(),
                about.events
            );
            if let Some((src, dst)) = about.udp_ports {
                let _ = write!(line, " srcPort=\"{src}\" dstPort=\"{dst}\"");
            }
            line.push(']');
        }
    }
    line.push(' ');
    line.push_str(&notice.line);
    line
}

fn escape(c: char) -> impl Iterator<Item = char> {
    let backslash = matches!(c, '"' | '\\' | ']').then_some('\\');
    backslash.into_iter().chain([c])
}

/// UTC with milliseconds (RFC 3339). The civil date from the day's number is Howard Hinnant's "civil_from_days".
pub(crate) fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::InvalidSpi;
    use crate::notify::Class;
    use crate::types::{CoreId, Nanos, PortIndex, Spi};

    fn notice() -> Notice {
        let event = InvalidSpi {
            spi: Spi(0xB761_863E),
            packets: 1,
            seq: 7,
            src: "10.1.1.1".parse().unwrap(),
            dst: "10.10.1.2".parse().unwrap(),
            udp_ports: Some((61000, 4500)),
            port: PortIndex(0),
            core: CoreId(0),
            at: Nanos(0),
        };
        Notice::invalid_spi(&event, Class::Transient, 3, None, "net\"0]")
    }

    const EXPECTED: &str = "<132>1 2026-11-24T11:53:47.250Z - nf-core 42 RECVD_PKT_INV_SPI [invspi@32473 src=\"10.1.1.1\" \
        dst=\"10.10.1.2\" spi=\"0xB761863E\" seq=\"7\" interface=\"net\\\"0\\]\" class=\"transient\" events=\"3\" \
        srcPort=\"61000\" dstPort=\"4500\"] %CRYPTO-4-RECVD_PKT_INV_SPI: decaps: rec'd IPSEC packet has invalid spi for \
        destaddr=10.10.1.2, prot=50, spi=0xB761863E(3076621886), srcaddr=10.1.1.1";

    #[test]
    fn the_line_has_the_form_of_rfc_5424() {
        let at = UNIX_EPOCH + Duration::from_millis(1_795_521_227_250);
        assert_eq!(line(&notice(), at, 42), EXPECTED);
    }

    #[test]
    fn timestamps_know_leap_years() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn a_daemon_on_a_unix_socket_gets_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        daemon.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Syslog::new(SyslogTarget::Unix(path)).emit(&notice());
        let mut octets = [0; 2048];
        let len = daemon.recv(&mut octets).unwrap();
        let text = std::str::from_utf8(&octets[..len]).unwrap();
        assert!(text.starts_with("<132>1 ") && text.ends_with("srcaddr=10.1.1.1"), "{text}");
    }

    #[test]
    fn a_daemon_on_udp_gets_the_line() {
        let daemon = UdpSocket::bind("127.0.0.1:0").unwrap();
        daemon.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Syslog::new(SyslogTarget::Udp(daemon.local_addr().unwrap())).emit(&notice());
        let mut octets = [0; 2048];
        let len = daemon.recv(&mut octets).unwrap();
        assert!(std::str::from_utf8(&octets[..len]).unwrap().contains(" RECVD_PKT_INV_SPI [invspi@32473 "));
    }

    #[test]
    fn a_daemon_that_is_not_there_costs_messages_and_nothing_else() {
        let mut syslog = Syslog::new(SyslogTarget::Unix("/nonexistent/log".into()));
        syslog.emit(&notice());
        syslog.emit(&notice());
        assert_eq!(syslog.lost, 2);
    }
}
