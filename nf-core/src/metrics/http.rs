//! Just enough of HTTP/1.1 for a scraper: GET, one request a connection, everything bounded.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Clients at once; one more is turned away.
const CLIENTS: usize = 8;
/// The longest request head, in octets.
const MAX_HEAD: usize = 8192;
/// The time for a request to arrive, and for the answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before the next try when a client can't be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// OpenMetrics 1.0 text.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is answered to `GET /metrics`.
pub(super) type Page = dyn Fn() -> Result<Arc<str>, String> + Send + Sync;

/// A server of one page. Dropping it ends its threads.
pub(super) struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts to serve a page.
    pub(super) fn start(listen: SocketAddr, page: Arc<Page>) -> io::Result<Server> {
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let acceptor = thread::Builder::new().name("nf-metrics".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            move || accept(&listener, &stop, &page)
        })?;
        Ok(Server { address, stop, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let woken = TcpStream::connect_timeout(&self.address, PATIENCE);
        if let Some(acceptor) = self.acceptor.take()
            && woken.is_ok()
        {
            let _ = acceptor.join();
        }
    }
}

/// Gives a client's place back when its thread ends, however it ends.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn accept(listener: &TcpListener, stop: &AtomicBool, page: &Arc<Page>) {
    let taken = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = listener.accept();
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Ok((stream, _)) = accepted else {
            thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        if taken.fetch_add(1, Ordering::AcqRel) >= CLIENTS {
            taken.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (place, page) = (Place(Arc::clone(&taken)), Arc::clone(page));
        let spawned = thread::Builder::new().name("nf-scrape".to_owned()).spawn(move || {
            let _place = place;
            // A client that is gone or too slow can't be told.
            let _ = serve(stream, &*page);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "can't start a thread for a client of [metrics] listen");
        }
    }
}

fn serve(mut stream: TcpStream, page: &Page) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let head = read_head(&mut stream, deadline)?;
    let (status, content_type, body, with_body) = answer(&head, page);
    let reply = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
        body.len(),
        if with_body { &*body } else { "" }
    );
    let mut rest = reply.as_bytes();
    let deadline = Instant::now() + PATIENCE;
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.shutdown(Shutdown::Write)
}

fn answer(head: &[u8], page: &Page) -> (&'static str, &'static str, Arc<str>, bool) {
    const TEXT: &str = "text/plain; charset=utf-8";
    let line = head.split(|c| *c == b'\r' || *c == b'\n').next().unwrap_or_default();
    let mut words = line.split(|c| *c == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|c| *c == b'?').next().unwrap_or_default();
    let version = words.next().unwrap_or_default();
    let with_body = method != b"HEAD";
    if !version.starts_with(b"HTTP/1.") {
        return ("400 Bad Request", TEXT, "this is HTTP/1.1\n".into(), true);
    }
    if method != b"GET" && method != b"HEAD" {
        return ("405 Method Not Allowed", TEXT, "only GET is answered\n".into(), true);
    }
    if path != b"/metrics" {
        return ("404 Not Found", TEXT, "the metrics are at /metrics\n".into(), with_body);
    }
    match page() {
        Ok(text) => ("200 OK", CONTENT_TYPE, text, with_body),
        Err(message) => ("503 Service Unavailable", TEXT, format!("{message}\n").into(), with_body),
    }
}

/// Reads up to the empty line. Its time is one for all of it: a client can't hold the thread by sending slowly.
fn read_head(stream: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let read = match stream.read(&mut chunk) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        head.extend_from_slice(chunk.get(..read).unwrap_or_default());
        if head.windows(4).any(|end| end == b"\r\n\r\n") || head.windows(2).any(|end| end == b"\n\n") {
            return Ok(head);
        }
        if head.len() > MAX_HEAD {
            return Err(ErrorKind::InvalidData.into());
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
    left.ok_or_else(|| ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(page: Result<&'static str, &'static str>) -> Server {
        let page: Arc<Page> = Arc::new(move || page.map(Into::into).map_err(str::to_owned));
        Server::start("127.0.0.1:0".parse().unwrap(), page).unwrap()
    }

    fn ask(server: &Server, request: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    #[test]
    fn one_page_is_served_and_mistakes_are_named() {
        let good = server(Ok("a 1\n# EOF\n"));
        let reply = ask(&good, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.ends_with("\r\n\r\na 1\n# EOF\n"), "{reply}");
        assert!(
            reply.contains("Content-Type: application/openmetrics-text") && reply.contains("Content-Length: 10\r\n")
        );
        assert!(ask(&good, "HEAD /metrics?x=1 HTTP/1.0\r\n\r\n").ends_with("\r\n\r\n"));
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics\r\n\r\n", "400"),
            ("\r\n\r\n", "400"),
        ] {
            assert!(ask(&good, request).starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}");
        }
        let bad = server(Err("nf-core is shutting down"));
        let reply = ask(&bad, "GET /metrics HTTP/1.1\r\n\r\n");
        assert!(reply.starts_with("HTTP/1.1 503 ") && reply.ends_with("nf-core is shutting down\n"), "{reply}");
    }

    #[test]
    fn silent_clients_have_no_more_than_their_places() {
        let server = server(Ok("# EOF\n"));
        let silent: Vec<TcpStream> = (0..CLIENTS).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
        // One more is cut off, at once or by a reset.
        let mut more = TcpStream::connect(server.address()).unwrap();
        let _ = more.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
        let mut reply = Vec::new();
        let _ = more.read_to_end(&mut reply);
        assert!(reply.is_empty(), "{reply:?}");
        drop(silent);
        while ask_or_none(&server).is_none() {}
    }

    fn ask_or_none(server: &Server) -> Option<String> {
        let mut stream = TcpStream::connect(server.address()).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        (!reply.is_empty()).then_some(reply)
    }

    #[test]
    fn an_endless_head_is_not_read_to_its_end() {
        let server = server(Ok("# EOF\n"));
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let junk = vec![b'a'; 1 << 20];
        // The server hangs up; whether all could be written before is chance.
        let _ = stream.write_all(&junk);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        assert!(reply.is_empty());
    }
}
