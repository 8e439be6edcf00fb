//! What a message is, and where messages go.

use std::io::Write;
use std::net::IpAddr;

use super::{Class, Syslog};
use crate::config::SyslogTarget;
use crate::event::InvalidSpi;
use crate::types::{Nanos, Spi};

/// How bad it is, as in syslog (RFC 5424 6.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// 3.
    Error,
    /// 4.
    Warning,
}

impl Severity {
    /// The number in syslog.
    pub const fn number(self) -> u8 {
        match self {
            Severity::Error => 3,
            Severity::Warning => 4,
        }
    }
}

/// The packet that a message is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// Outer source address.
    pub src: IpAddr,
    /// Outer destination address.
    pub dst: IpAddr,
    /// SPI.
    pub spi: Spi,
    /// Sequence number on the wire.
    pub seq: u32,
    /// UDP ports, source first, if it came in UDP.
    pub udp_ports: Option<(u16, u16)>,
    /// The port that it came in on.
    pub interface: String,
    /// Whether it passes or the peer is stuck.
    pub class: Class,
    /// Events of the flow so far.
    pub events: u64,
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// How bad it is.
    pub severity: Severity,
    /// What it is called: the part between the number and the colon of `line`.
    pub mnemonic: &'static str,
    /// The message as a line of text.
    pub line: String,
    /// What it is about, unless it is a summary.
    pub about: Option<About>,
}

impl Notice {
    fn about(event: &InvalidSpi, class: Class, events: u64, port: &str) -> Option<About> {
        Some(About {
            src: event.src,
            dst: event.dst,
            spi: event.spi,
            seq: event.seq,
            udp_ports: event.udp_ports,
            interface: port.to_owned(),
            class,
            events,
        })
    }

    /// The message of IOS, to the letter. What comes in UDP is reported as ESP all the same.
    pub(super) fn invalid_spi(
        event: &InvalidSpi,
        class: Class,
        events: u64,
        named: Option<&str>,
        port: &str,
    ) -> Notice {
        let InvalidSpi { spi, src, dst, .. } = event;
        let interface = named.map(|port| format!(", input interface={port}")).unwrap_or_default();
        Notice {
            severity: Severity::Warning,
            mnemonic: "RECVD_PKT_INV_SPI",
            line: format!(
                "%CRYPTO-4-RECVD_PKT_INV_SPI: decaps: rec'd IPSEC packet has invalid spi for destaddr={dst}, prot=50, \
                 spi={spi}, srcaddr={src}{interface}"
            ),
            about: Self::about(event, class, events, port),
        }
    }

    pub(super) fn stuck(event: &InvalidSpi, since: u64, events: u64, port: &str) -> Notice {
        let InvalidSpi { spi, src, dst, .. } = event;
        let seconds = since / Nanos::SECOND;
        Notice {
            severity: Severity::Error,
            mnemonic: "INV_SPI_STUCK",
            line: format!(
                "%NF-3-INV_SPI_STUCK: peer {src} has sent to {dst} on SPI {spi} for {seconds} s and is black-holed: it \
                 must renegotiate; see nf-ctl show invalid-spi"
            ),
            about: Self::about(event, Class::Stuck, events, port),
        }
    }

    pub(super) fn summary(packets: u64, messages: u64, tracked: usize, evicted: u64) -> Notice {
        let suppressed = packets.saturating_sub(messages);
        Notice {
            severity: Severity::Warning,
            mnemonic: "INV_SPI_SUPPRESSED",
            line: format!(
                "%NF-4-INV_SPI_SUPPRESSED: {packets} packets with an invalid SPI, {suppressed} of them without a message \
                 of their own ({messages} printed); {tracked} flows tracked, {evicted} evicted: nf-ctl show invalid-spi"
            ),
            about: None,
        }
    }
}

/// Takes messages. It may not block for long: the control thread waits for it.
pub trait Sink {
    /// Takes one.
    fn emit(&mut self, notice: &Notice);
}

/// The line as it is, on stderr.
#[derive(Debug)]
pub struct Stderr;

impl Sink for Stderr {
    fn emit(&mut self, notice: &Notice) {
        // One write, so that lines of other threads don't come between. Without a reader there is nobody to tell.
        let _ = std::io::stderr().write_all(format!("{}\n", notice.line).as_bytes());
    }
}

/// A tracing event with fields, of the target `nf_core::inv_spi`. Through the journal's layer these are its fields.
#[derive(Debug)]
pub struct Tracing;

/// The target of [`Tracing`]'s events.
const TARGET: &str = "nf_core::inv_spi";

impl Sink for Tracing {
    fn emit(&mut self, notice: &Notice) {
        let Notice { severity, mnemonic, line, about } = notice;
        match (severity, about) {
            (_, None) => tracing::warn!(target: TARGET, mnemonic, "{line}"),
            (Severity::Error, Some(about)) => {
                let (src_port, dst_port) = about.udp_ports.unzip();
                tracing::error!(
                    target: TARGET, mnemonic, src = %about.src, dst = %about.dst, spi = about.spi.0, seq = about.seq,
                    src_port, dst_port, interface = about.interface, class = about.class.as_str(), events = about.events,
                    "{line}"
                );
            }
            (Severity::Warning, Some(about)) => {
                let (src_port, dst_port) = about.udp_ports.unzip();
                tracing::warn!(
                    target: TARGET, mnemonic, src = %about.src, dst = %about.dst, spi = about.spi.0, seq = about.seq,
                    src_port, dst_port, interface = about.interface, class = about.class.as_str(), events = about.events,
                    "{line}"
                );
            }
        }
    }
}

/// Several sinks; each gets every message.
#[derive(Default)]
pub struct FanOut {
    fixed: Vec<Box<dyn Sink + Send>>,
    syslog: Option<Syslog>,
}

impl FanOut {
    /// Adds a sink that stays.
    pub fn push(&mut self, sink: Box<dyn Sink + Send>) {
        self.fixed.push(sink);
    }

    /// Sends to another syslog daemon from now on, or to none.
    pub fn set_syslog(&mut self, target: Option<SyslogTarget>) {
        self.syslog = target.map(Syslog::new);
    }
}

impl Sink for FanOut {
    fn emit(&mut self, notice: &Notice) {
        self.fixed.iter_mut().for_each(|sink| sink.emit(notice));
        if let Some(syslog) = &mut self.syslog {
            syslog.emit(notice);
        }
    }
}
