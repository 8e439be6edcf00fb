//! charon's events about SAs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::charon::{decode, subscribe};
use super::message::{Named, RawIke, RawRekeyed};
use super::packet::Packet;
use super::transport::Transport;
use crate::backend::{BackendError, Event, IkeSa};

const EVENTS: [&str; 3] = ["ike-updown", "child-updown", "child-rekey"];

/// A subscription to what happens to charon's SAs.
#[derive(Debug)]
pub struct Events {
    transport: Transport,
}

impl Events {
    /// Subscribes at the charon that serves a socket.
    ///
    /// # Errors
    /// [`BackendError`].
    pub fn subscribe(socket: &Path) -> Result<Events, BackendError> {
        let mut transport = Transport::connect(socket)?;
        for event in EVENTS {
            subscribe(&mut transport, event, true)?;
        }
        Ok(Events { transport })
    }

    /// The next event; none if there was none in that time.
    ///
    /// # Errors
    /// [`BackendError::Broken`] when charon is gone: its SAs are gone with it.
    pub fn next(&mut self, within: Duration) -> Result<Option<Event>, BackendError> {
        let now = Instant::now();
        let deadline = now.checked_add(within).unwrap_or(now);
        loop {
            match self.transport.receive(deadline)? {
                None => return Ok(None),
                Some(Packet::Event { name, message }) => {
                    if let Some(event) = self.read(&name, &message)? {
                        return Ok(Some(event));
                    }
                }
                Some(_) => return Err(self.transport.nonsense("a packet that isn't an event")),
            }
        }
    }

    /// None: an event that wasn't asked for.
    fn read(&self, name: &str, message: &[u8]) -> Result<Option<Event>, BackendError> {
        let event = match name {
            "ike-updown" | "child-updown" => {
                let named: Named<RawIke> = decode(&self.transport, message)?;
                let ike = named.content.whole(&named.name).map_err(|why| self.transport.nonsense(why))?;
                match (name, named.up) {
                    ("ike-updown", true) => Event::IkeUp(ike),
                    ("ike-updown", false) => Event::IkeDown(ike),
                    (_, true) => Event::ChildUp(ike),
                    (_, false) => Event::ChildDown(ike),
                }
            }
            "child-rekey" => {
                let named: Named<RawIke<BTreeMap<String, RawRekeyed>>> = decode(&self.transport, message)?;
                let read = || {
                    let children = named.content.child_sas.as_ref();
                    let rekeyed = children.and_then(|children| children.values().next()).ok_or("no CHILD_SA")?;
                    let ike = IkeSa { children: vec![rekeyed.new.child()?], ..named.content.ike(&named.name)? };
                    Ok(Event::ChildRekeyed { ike, old: Box::new(rekeyed.old.child()?) })
                };
                read().map_err(|why: String| self.transport.nonsense(why))?
            }
            _ => return Ok(None),
        };
        Ok(Some(event))
    }
}
