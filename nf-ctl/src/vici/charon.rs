//! charon as an [`IkeBackend`].

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nf_core::types::Spi;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::message::{LogLine, Named, Outcome, RawConnection, RawIke};
use super::packet::{Packet, command, subscription};
use super::transport::{PATIENCE, Transport};
use crate::backend::{BackendError, Connection, IkeBackend, IkeSa, IkeSpis};

/// Lines of its log that are kept while it works on a command.
const LOG_LINES: usize = 3;

/// Who is there.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Version {
    /// `charon`, `charon-systemd`, ..
    pub daemon: String,
    /// strongSwan's version.
    pub version: String,
}

/// A charon.
#[derive(Debug)]
pub struct Charon {
    socket: PathBuf,
    /// None before the first request, and after one that failed: the next one connects anew.
    transport: Option<Transport>,
}

/// Arguments of all commands; each uses its own.
#[derive(Serialize, Default)]
#[serde(rename_all = "kebab-case")]
struct Arguments<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    ike: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    child: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ike_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    child_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force: Option<bool>,
    /// In milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<u64>,
    /// Of the control-log: what an operator sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    loglevel: Option<u8>,
}

impl Charon {
    /// The charon that serves a socket. It is connected to with the first request.
    pub fn new(socket: &Path) -> Charon {
        Charon { socket: socket.to_owned(), transport: None }
    }

    /// Who is there.
    ///
    /// # Errors
    /// [`BackendError`].
    pub fn version(&mut self) -> Result<Version, BackendError> {
        self.with(|transport| {
            let response = call(transport, "version", &Arguments::default(), PATIENCE, &mut |_| Ok(()))?;
            decode(transport, &response)
        })
    }

    /// Runs a request on the connection, and drops the connection if it failed on the way: the answers of what follows
    /// couldn't be told from late ones.
    fn with<T>(&mut self, request: impl FnOnce(&mut Transport) -> Result<T, BackendError>) -> Result<T, BackendError> {
        let mut transport = match self.transport.take() {
            Some(transport) => transport,
            None => Transport::connect(&self.socket)?,
        };
        let result = request(&mut transport);
        if !matches!(result, Err(BackendError::Broken { .. } | BackendError::Protocol { .. })) {
            self.transport = Some(transport);
        }
        result
    }

    /// All events that a command streams.
    fn stream<T: DeserializeOwned>(
        &mut self,
        name: &str,
        event: &str,
        arguments: &Arguments<'_>,
    ) -> Result<Vec<Named<T>>, BackendError> {
        self.with(|transport| {
            subscribe(transport, event, true)?;
            let mut messages = Vec::new();
            call(transport, name, arguments, PATIENCE, &mut |message| {
                messages.push(message.to_owned());
                Ok(())
            })?;
            subscribe(transport, event, false)?;
            messages.iter().map(|message| decode(transport, message)).collect()
        })
    }

    fn raw_sas(&mut self, connection: Option<&str>) -> Result<Vec<Named<RawIke>>, BackendError> {
        self.stream("list-sas", "list-sa", &Arguments { ike: connection, ..Arguments::default() })
    }

    /// A command about an SA; charon's log tells why it fails.
    fn control(
        &mut self,
        name: &str,
        what: &str,
        arguments: &Arguments<'_>,
        within: Duration,
    ) -> Result<Outcome, BackendError> {
        let (outcome, lines) = self.with(|transport| {
            subscribe(transport, "control-log", true)?;
            let mut lines = VecDeque::new();
            let response = call(transport, name, arguments, within.saturating_add(PATIENCE), &mut |message| {
                if lines.len() == LOG_LINES {
                    lines.pop_front();
                }
                lines.extend(serde_vici::from_slice::<LogLine>(message).ok());
                Ok(())
            })?;
            subscribe(transport, "control-log", false)?;
            Ok((decode::<Outcome>(transport, &response)?, lines))
        })?;
        if outcome.success {
            return Ok(outcome);
        }
        let told = lines.into_iter().map(|line| line.msg).chain(outcome.errmsg);
        let why = told.collect::<Vec<_>>().join("; ");
        Err(BackendError::Failed { what: what.to_owned(), why })
    }

    /// charon's number for a CHILD_SA.
    fn child_id(&mut self, spi: Spi, local: IpAddr) -> Result<u32, BackendError> {
        let all = self.raw_sas(None)?;
        let ours = all.iter().filter(|sa| sa.content.is_at(local));
        let mut children = ours.filter_map(|sa| sa.content.child_sas.as_ref()).flat_map(|children| children.values());
        let found = children.find(|child| child.spi_in() == Ok(Some(spi))).map(|child| child.uniqueid);
        found.ok_or_else(|| BackendError::NoSa { what: format!("CHILD_SA with SPI {spi} at {local}") })
    }

    /// charon's number for an IKE SA.
    fn ike_id(&mut self, spis: IkeSpis) -> Result<u32, BackendError> {
        let all = self.raw_sas(None)?;
        let found = all.iter().find(|sa| sa.content.ike(&sa.name).is_ok_and(|ike| ike.spis == spis));
        let id = found.map(|sa| sa.content.uniqueid);
        id.ok_or_else(|| BackendError::NoSa { what: format!("IKE SA {spis}") })
    }

    fn rekey(&mut self, what: &str, arguments: &Arguments<'_>) -> Result<(), BackendError> {
        let outcome = self.control("rekey", &format!("rekey {what}"), arguments, PATIENCE)?;
        match outcome.matches {
            Some(0) => Err(BackendError::NoSa { what: what.to_owned() }),
            _ => Ok(()),
        }
    }
}

impl IkeBackend for Charon {
    fn connections(&mut self) -> Result<Vec<Connection>, BackendError> {
        let raw = self.stream::<RawConnection>("list-conns", "list-conn", &Arguments::default())?;
        Ok(raw.into_iter().map(|Named { name, content, .. }| Connection { name, ..content.0 }).collect())
    }

    fn sas(&mut self, connection: Option<&str>) -> Result<Vec<IkeSa>, BackendError> {
        let raw = self.raw_sas(connection)?;
        let sas: Result<_, _> = raw.iter().map(|sa| sa.content.whole(&sa.name)).collect();
        sas.map_err(|why| BackendError::Protocol { at: self.socket.display().to_string(), why })
    }

    fn initiate(&mut self, connection: &str, within: Duration) -> Result<(), BackendError> {
        let known = self.connections()?;
        let Some(found) = known.iter().find(|known| known.name == connection) else {
            let known = known.into_iter().map(|known| known.name).collect();
            return Err(BackendError::NoConnection { name: connection.to_owned(), known });
        };
        let deadline = Instant::now().checked_add(within);
        if found.children.is_empty() {
            let why = "it has no CHILD_SA in its configuration".to_owned();
            return Err(BackendError::Failed { what: format!("initiate {connection}"), why });
        }
        // Always with a child: an IKE SA without one that says INITIAL_CONTACT would leave the peer with nothing.
        for child in &found.children {
            let left = deadline.map_or(within, |deadline| deadline.saturating_duration_since(Instant::now()));
            let arguments = Arguments {
                ike: Some(connection),
                child: Some(child),
                timeout: Some(milliseconds(left)),
                loglevel: Some(1),
                ..Arguments::default()
            };
            self.control("initiate", &format!("initiate {connection}, CHILD_SA {child}"), &arguments, left)?;
        }
        Ok(())
    }

    fn rekey_child(&mut self, spi: Spi, local: IpAddr) -> Result<(), BackendError> {
        let child_id = Some(self.child_id(spi, local)?);
        self.rekey(&format!("CHILD_SA {spi}"), &Arguments { child_id, ..Arguments::default() })
    }

    fn rekey_ike(&mut self, ike: IkeSpis) -> Result<(), BackendError> {
        let ike_id = Some(self.ike_id(ike)?);
        self.rekey(&format!("IKE SA {ike}"), &Arguments { ike_id, ..Arguments::default() })
    }

    fn terminate_child(&mut self, spi: Spi, local: IpAddr, within: Duration) -> Result<(), BackendError> {
        let child_id = Some(self.child_id(spi, local)?);
        let arguments =
            Arguments { child_id, timeout: Some(milliseconds(within)), loglevel: Some(1), ..Arguments::default() };
        self.control("terminate", &format!("delete CHILD_SA {spi}"), &arguments, within).map(drop)
    }

    fn terminate_ike(&mut self, ike: IkeSpis, within: Duration) -> Result<(), BackendError> {
        let ike_id = Some(self.ike_id(ike)?);
        let arguments = Arguments {
            ike_id,
            force: Some(true),
            timeout: Some(milliseconds(within)),
            loglevel: Some(1),
            ..Arguments::default()
        };
        self.control("terminate", &format!("delete IKE SA {ike}"), &arguments, within).map(drop)
    }
}

/// A time in charon's unit. It takes 0 for "without end".
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, u64::from(u32::MAX))
}

pub(super) fn decode<T: DeserializeOwned>(transport: &Transport, message: &[u8]) -> Result<T, BackendError> {
    serde_vici::from_slice(message).map_err(|error| transport.nonsense(error))
}

/// Subscribes to an event, or ends that.
pub(super) fn subscribe(transport: &mut Transport, event: &str, on: bool) -> Result<(), BackendError> {
    transport.send(&subscription(event, on))?;
    let deadline = after(PATIENCE);
    loop {
        match transport.answer(deadline)? {
            Packet::Confirm => return Ok(()),
            // Of an earlier subscription, or the last of the one that ends.
            Packet::Event { .. } => {}
            Packet::UnknownEvent => return Err(transport.nonsense(format_args!("it has no event {event}"))),
            other => return Err(transport.nonsense(format_args!("{} after a subscription", name_of(&other)))),
        }
    }
}

/// Sends a command; gives what it streams to `event`, and its response.
fn call(
    transport: &mut Transport,
    name: &str,
    arguments: &Arguments<'_>,
    within: Duration,
    event: &mut dyn FnMut(&[u8]) -> Result<(), BackendError>,
) -> Result<Vec<u8>, BackendError> {
    let frame = command(name, arguments).map_err(|error| transport.nonsense(error))?;
    transport.send(&frame)?;
    let deadline = after(within);
    loop {
        match transport.answer(deadline)? {
            Packet::Event { message, .. } => event(&message)?,
            Packet::Response(message) => return Ok(message),
            Packet::UnknownCommand => return Err(transport.nonsense(format_args!("it has no command {name}"))),
            other => return Err(transport.nonsense(format_args!("{} after a command", name_of(&other)))),
        }
    }
}

/// For messages: what a packet holds may be long.
fn name_of(packet: &Packet) -> &'static str {
    match packet {
        Packet::Response(_) => "a response",
        Packet::UnknownCommand => "an unknown command",
        Packet::Confirm => "a confirmation",
        Packet::UnknownEvent => "an unknown event",
        Packet::Event { .. } => "an event",
    }
}

fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now)
}
