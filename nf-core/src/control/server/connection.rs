//! One client: its request lines in, the response lines out, each within its time.

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, TrySendError, bounded};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Call, Limits, Owner, Protocol, Reply, Terms};
use crate::control::access::{Client, Role};
use crate::control::audit::{Audit, Outcome};
use crate::control::proto::{EventLine, MAX_LINE, Response};
use crate::control::subscribers::{Next, Subscription};

/// How much is read at once, in octets.
const CHUNK: usize = 8192;

/// How often a connection that carries events is looked at for the client's end.
const SUBSCRIBER_CHECK: Duration = Duration::from_millis(100);
/// How long such a look takes.
const GLANCE: Duration = Duration::from_millis(1);

/// What came from the client.
enum Line {
    /// A line, without its newline. It is zeroised when dropped: it may have a key in it.
    Whole(Zeroizing<Vec<u8>>),
    /// More than [`MAX_LINE`] octets without an end.
    TooLong,
    /// Nothing more: the client closed its end, perhaps inside a line.
    End { inside_a_line: bool },
    /// Its time is over.
    Late,
}

/// A client's connection.
pub(super) struct Connection {
    stream: UnixStream,
    limits: Limits,
    /// Who it is; none where the kernel does not tell.
    client: Option<Client>,
    role: Role,
    audit: Arc<Audit>,
    /// What has arrived and isn't answered.
    buffer: Zeroizing<Vec<u8>>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, terms: &Terms) -> Connection {
        let client = Client::of(&stream).ok();
        let role = client.map_or(Role::ReadOnly, |client| terms.access.role(client));
        let (limits, audit) = (terms.limits, Arc::clone(&terms.audit));
        Connection { stream, limits, client, role, audit, buffer: Zeroizing::new(Vec::new()) }
    }

    /// A second handle, by which the connection can be cut off.
    pub(super) fn handle(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// Sends a line to a client that will get no further one. If it can't be sent the client is gone: all the same.
    pub(super) fn send_or_leave(&mut self, response: &Response) {
        let _ = self.send(response);
    }

    /// Serves the client until it leaves, is late or is cut off. Then there is nobody whom an error could be told.
    pub(super) fn serve<R: Protocol>(mut self, queue: &Sender<Call<R>>) {
        let _ = self.converse(queue);
    }

    fn converse<R: Protocol>(&mut self, queue: &Sender<Call<R>>) -> io::Result<()> {
        loop {
            let last_word = match self.receive()? {
                Line::Whole(line) => {
                    let reply = match R::decode(&line) {
                        Ok(request) => self.answer(queue, request),
                        Err(message) => Response::Error(message).into(),
                    };
                    match reply {
                        Reply::Response(response) => self.send(&response)?,
                        Reply::Events(subscribed, events) => {
                            self.send(&Response::ok(subscribed))?;
                            return self.stream(&events);
                        }
                    }
                    continue;
                }
                Line::End { inside_a_line: false } => return Ok(()),
                Line::End { inside_a_line: true } => "the last request has no newline: end each with one".to_owned(),
                Line::TooLong => format!("the request is longer than {MAX_LINE} octets: split it"),
                Line::Late => {
                    format!("no whole request came within {} s: connect again", self.limits.request.as_secs_f32())
                }
            };
            return self.send(&Response::Error(last_word));
        }
    }

    /// Has a request answered, if the client may send it. Changes are recorded, and those that it may not make.
    fn answer<R: Protocol>(&self, queue: &Sender<Call<R>>, request: R) -> Reply {
        let change = request.change();
        let Some(change) = change else {
            return ask(queue, request, self.limits.answer);
        };
        if self.role == Role::ReadOnly {
            let user = self.client.map_or_else(|| "this client".to_owned(), |client| format!("user {}", client.uid));
            self.audit.note(self.client, change, Outcome::Denied, None);
            let program = R::OWNER.program;
            let message = format!("{user} may look at {program} and change nothing; [control] admins names who may");
            return Response::Error(message).into();
        }
        let reply = ask(queue, request, self.limits.answer);
        let (result, error) = match &reply {
            Reply::Response(Response::Error(error)) => (Outcome::Failed, Some(error.clone())),
            Reply::Response(Response::Ok(_)) | Reply::Events(..) => (Outcome::Done, None),
        };
        self.audit.note(self.client, change, result, error);
        reply
    }

    /// Sends events until the client leaves or there are no more. A client that doesn't read loses events first, and
    /// then, with a line that it doesn't take in time, the connection.
    fn stream(&mut self, events: &Subscription) -> io::Result<()> {
        self.stream.set_read_timeout(Some(GLANCE))?;
        let mut looked = Instant::now();
        loop {
            match events.next(SUBSCRIBER_CHECK) {
                Next::Event(event) => self.send(&EventLine::Event(event))?,
                Next::Nothing => {}
                Next::End => return self.send(&EventLine::Error("nf-core is shutting down".to_owned())),
            }
            if looked.elapsed() < SUBSCRIBER_CHECK {
                continue;
            }
            looked = Instant::now();
            match self.fill() {
                Ok(0) => return Ok(()),
                Ok(_) => {
                    let message = "this connection carries events: open another one for requests";
                    return self.send(&EventLine::Error(message.to_owned()));
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next line. Its time starts now, however it comes: a client can't hold the thread by sending slowly.
    fn receive(&mut self) -> io::Result<Line> {
        let deadline = Instant::now() + self.limits.request;
        let mut scanned = 0;
        loop {
            if let Some(length) = self.buffer.iter().skip(scanned).position(|octet| *octet == b'\n') {
                let line = self.take_line(scanned + length);
                return Ok(if line.len() < MAX_LINE { Line::Whole(line) } else { Line::TooLong });
            }
            scanned = self.buffer.len();
            if scanned >= MAX_LINE {
                return Ok(Line::TooLong);
            }
            match remaining(deadline) {
                Some(time) => self.stream.set_read_timeout(Some(time))?,
                None => return Ok(Line::Late),
            }
            match self.fill() {
                Ok(0) => return Ok(Line::End { inside_a_line: !self.buffer.is_empty() }),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => return Ok(Line::Late),
                Err(error) => return Err(error),
            }
        }
    }

    /// Splits the first line, of `length` octets and a newline, off the buffer.
    fn take_line(&mut self, length: usize) -> Zeroizing<Vec<u8>> {
        let rest = self.buffer.iter().skip(length + 1).copied().collect();
        let mut line = mem::replace(&mut self.buffer, Zeroizing::new(rest));
        line.truncate(length);
        line
    }

    /// Reads what there is, up to a chunk. Grows the buffer without leaving a copy of its contents in freed memory.
    fn fill(&mut self) -> io::Result<usize> {
        let length = self.buffer.len();
        if self.buffer.capacity() - length < CHUNK {
            let mut larger = Zeroizing::new(Vec::with_capacity((length + CHUNK).next_power_of_two()));
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
        self.buffer.resize(length + CHUNK, 0);
        let read = loop {
            match self.stream.read(self.buffer.get_mut(length..).unwrap_or_default()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(length + read.as_ref().map_or(0, |octets| *octets));
        read
    }

    /// Writes a line, within the time that the client has to take it.
    fn send(&mut self, line: &impl Serialize) -> io::Result<()> {
        let deadline = Instant::now() + self.limits.response;
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            let time = remaining(deadline).ok_or(ErrorKind::TimedOut)?;
            self.stream.set_write_timeout(Some(time))?;
            match self.stream.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Has the control thread answer a request.
fn ask<R: Protocol>(queue: &Sender<Call<R>>, request: R, patience: Duration) -> Reply {
    let (reply, answer) = bounded(1);
    let deadline = Instant::now() + patience;
    match queue.try_send(Call { request, deadline, reply }) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => return busy(R::OWNER, "too many requests wait for an answer").into(),
        Err(TrySendError::Disconnected(_)) => return shutting_down(R::OWNER).into(),
    }
    let response = match answer.recv_deadline(deadline) {
        Ok(reply) => return reply,
        // A call that is late goes unanswered, which must not look like the end.
        Err(_) if Instant::now() >= deadline => {
            let seconds = patience.as_secs_f32();
            busy(R::OWNER, &format!("there was no answer within {seconds} s, and the request may yet be carried out"))
        }
        Err(_) => shutting_down(R::OWNER),
    };
    response.into()
}

fn busy(owner: Owner, why: &str) -> Response {
    let program = owner.program;
    Response::Error(format!("{program}'s control thread is busy: {why}; look at {program}'s log, then try again"))
}

fn shutting_down(owner: Owner) -> Response {
    Response::Error(format!("{} is shutting down: try again once it has been started again", owner.program))
}

/// The time that is left, unless none is.
fn remaining(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|time| !time.is_zero())
}

/// Whether a read ended because its time was over: the kernel reports that as `EAGAIN`.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
