//! The server over real sockets, with a handler of the test's own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::control::client::{Client, ClientError};
use crate::control::proto::{Hello, MAX_REQUEST, PROTOCOL, SaId};
use crate::counters::Snapshot;
use crate::types::Spi;

/// Answers some requests, and counts them.
#[derive(Default)]
struct Desk {
    asked: usize,
}

impl Handler for Desk {
    fn handle(&mut self, request: Request) -> Response {
        self.asked += 1;
        match request {
            Request::Counters {} => Response::Counters(Snapshot::default().report()),
            // More than a socket's buffers take, which is some hundred KiB.
            Request::SaList {} => Response::error(ErrorCode::Internal, "x".repeat(4 << 20)),
            Request::SaDel { spi, dst: Some(dst), src: Some(src) } => Response::SaDeleted(SaId { spi, src, dst }),
            _ => Response::error(ErrorCode::Unsupported, "not at this desk"),
        }
    }
}

fn quick() -> Limits {
    Limits {
        clients: 32,
        request: Duration::from_millis(400),
        answer: Duration::from_secs(5),
        response: Duration::from_millis(400),
    }
}

/// A server whose control thread runs until this is dropped.
struct Running {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    control: Option<JoinHandle<usize>>,
    _directory: tempfile::TempDir,
}

impl Running {
    fn new(limits: Limits) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nf.sock");
        let server = ControlServer::bind(&path, limits).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let control = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut desk = Desk::default();
                while !stop.load(Ordering::Relaxed) {
                    if server.wait(Duration::from_millis(5)) {
                        server.poll(&mut desk, 8);
                    }
                }
                desk.asked
            }
        });
        Running { path, stop, control: Some(control), _directory: directory }
    }

    /// A client that speaks octets, past its hello.
    fn raw(&self) -> BufReader<UnixStream> {
        let mut stream = BufReader::new(UnixStream::connect(&self.path).unwrap());
        stream.get_ref().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(
            line(&mut stream),
            Response::Hello(Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() })
        );
        stream
    }

    fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.control.take().unwrap().join().unwrap()
    }
}

fn line(stream: &mut BufReader<UnixStream>) -> Response {
    let mut text = String::new();
    stream.read_line(&mut text).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

fn ask_raw(stream: &mut BufReader<UnixStream>, request: &[u8]) -> Response {
    stream.get_mut().write_all(request).unwrap();
    line(stream)
}

fn code(response: &Response) -> ErrorCode {
    match response {
        Response::Error(error) => error.code,
        other => panic!("not an error: {other:?}"),
    }
}

fn refusal(path: &Path) -> ServerError {
    match ControlServer::bind(path, quick()) {
        Ok(_) => panic!("it was served"),
        Err(error) => error,
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn several_requests_are_answered_on_one_connection_in_order() {
    let running = Running::new(quick());
    let mut client = Client::connect(&running.path).unwrap();
    let report = Snapshot::default().report();
    assert_eq!(client.call(&Request::Counters {}).unwrap(), Response::Counters(report));
    let (src, dst) = ("10.1.1.1".parse().unwrap(), "10.10.1.2".parse().unwrap());
    let delete = Request::SaDel { spi: Spi(0xB761_863E), dst: Some(dst), src: Some(src) };
    let id = SaId { spi: Spi(0xB761_863E), src, dst };
    assert_eq!(client.call(&delete).unwrap(), Response::SaDeleted(id));
    let refused = client.call(&Request::Status {}).unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(error) if error.code == ErrorCode::Unsupported), "{refused}");

    let mut raw = running.raw();
    let first = ask_raw(&mut raw, b"{\"op\":\"status\"}\n{\"op\":\"counters\"}\n");
    assert_eq!(code(&first), ErrorCode::Unsupported);
    assert!(matches!(line(&mut raw), Response::Counters(_)));
    assert_eq!(running.end(), 5);
}

#[test]
fn a_bad_line_is_named_and_the_connection_goes_on() {
    let running = Running::new(quick());
    let mut raw = running.raw();
    for (request, why) in [
        (&b"\n"[..], "not JSON"),
        (b"hello\n", "not JSON"),
        (b"{\"op\":\"counters\"\n", "not JSON"),
        (b"{\"op\":\"sing\"}\n", "unknown variant, expected one of `counters`"),
        (b"{\"op\":\"counters\",\"colour\":1}\n", "unknown field `colour`"),
        (b"{\"op\":\"sa-del\"}\n", "missing field `spi`"),
        (b"{\"op\":\"sa-del\",\"spi\":4294967296}\n", "invalid value, expected u32"),
        (b"{\"op\":\"sa-del\",\"spi\":256,\"dst\":\"10.1.1\"}\n", "invalid IP address syntax"),
        (b"[\"counters\"]\n", "an array, expected an object"),
        (b"7\n", "invalid type, expected "),
        (b"{\"op\":\"counters\xFF\"}\n", "octet 16 isn't UTF-8"),
        (&[&b"{\"a\":"[..], &[b'['; 100_000], b"\n"].concat(), "not JSON, recursion limit"),
    ] {
        let response = ask_raw(&mut raw, request);
        let Response::Error(error) = &response else { panic!("{response:?}") };
        assert_eq!(error.code, ErrorCode::BadRequest);
        assert!(error.message.contains(why), "{why:?} not in {:?}", error.message);
    }
    assert!(matches!(ask_raw(&mut raw, b"{\"op\":\"counters\"}\r\n"), Response::Counters(_)));
    assert_eq!(running.end(), 1);
}

#[test]
fn a_line_may_have_one_mebibyte_and_no_more() {
    let running = Running::new(Limits { request: Duration::from_secs(20), ..quick() });
    let mut raw = running.raw();
    let mut request = b"{\"op\":\"counters\"}".to_vec();
    request.resize(MAX_REQUEST - 1, b' ');
    request.push(b'\n');
    assert!(matches!(ask_raw(&mut raw, &request), Response::Counters(_)));
    request.insert(0, b' ');
    assert_eq!(code(&ask_raw(&mut raw, &request)), ErrorCode::RequestTooLong);
    let endless = [vec![b'x'; 3 * MAX_REQUEST], b"\n{\"op\":\"counters\"}\n".to_vec()].concat();
    assert_eq!(code(&ask_raw(&mut raw, &endless)), ErrorCode::RequestTooLong);
    assert!(matches!(line(&mut raw), Response::Counters(_)));
    assert_eq!(running.end(), 2);
}

#[test]
fn a_request_cut_short_is_not_carried_out() {
    let running = Running::new(quick());
    let mut raw = running.raw();
    raw.get_mut().write_all(b"{\"op\":\"counters\"}").unwrap();
    raw.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(code(&line(&mut raw)), ErrorCode::BadRequest);
    assert_eq!(raw.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(running.end(), 0);
}

#[test]
fn a_client_that_dawdles_is_cut_off_while_others_are_served() {
    let running = Running::new(quick());
    let mut slow = running.raw();
    let started = Instant::now();
    // An octet every 50 ms: no single read ever waits long.
    let mut octets = b"{\"op\":\"counters\"}".iter().cycle();
    while slow.get_mut().write_all(&[*octets.next().unwrap()]).is_ok() && started.elapsed() < Duration::from_secs(5) {
        let mut other = Client::connect(&running.path).unwrap();
        assert!(other.call(&Request::Counters {}).is_ok());
        thread::sleep(Duration::from_millis(50));
    }
    let took = started.elapsed();
    assert!(took >= quick().request && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(code(&line(&mut slow)), ErrorCode::Timeout);

    let mut silent = running.raw();
    assert_eq!(code(&line(&mut silent)), ErrorCode::Timeout);
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    running.end();
}

#[test]
fn a_client_that_does_not_read_holds_its_thread_for_a_bounded_time() {
    let running = Running::new(Limits { clients: 1, ..quick() });
    let mut deaf = running.raw();
    deaf.get_mut().write_all(b"{\"op\":\"sa-list\"}\n").unwrap();
    let started = Instant::now();
    // The only place becomes free without the deaf client's help.
    let mut waited = Client::connect(&running.path);
    while waited.is_err() && started.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(20));
        waited = Client::connect(&running.path);
    }
    assert!(waited.unwrap().call(&Request::Counters {}).is_ok());
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    running.end();
}

#[test]
fn client_33_is_refused_and_a_place_becomes_free_again() {
    let running = Running::new(Limits { request: Duration::from_secs(20), ..quick() });
    let mut all: Vec<_> = (0..32).map(|_| Client::connect(&running.path).unwrap()).collect();
    let refused = Client::connect(&running.path).unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(error) if error.code == ErrorCode::TooManyClients), "{refused}");
    assert!(all.iter_mut().all(|client| client.call(&Request::Counters {}).is_ok()));
    all.pop();
    let started = Instant::now();
    while Client::connect(&running.path).is_err() {
        assert!(started.elapsed() < Duration::from_secs(10));
        thread::sleep(Duration::from_millis(10));
    }
    running.end();
}

#[test]
fn a_busy_control_thread_is_reported_and_the_late_request_is_not_carried_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nf.sock");
    let limits = Limits { answer: Duration::from_millis(100), ..quick() };
    let server = ControlServer::bind(&path, limits).unwrap();
    assert!(!server.wait(Duration::from_millis(1)));
    let mut client = Client::connect(&path).unwrap();
    let busy = client.call(&Request::Counters {}).unwrap_err();
    assert!(matches!(&busy, ClientError::Refused(error) if error.code == ErrorCode::Busy), "{busy}");
    assert!(server.wait(Duration::from_secs(5)));
    let mut desk = Desk::default();
    assert_eq!((server.poll(&mut desk, 8), desk.asked), (0, 0));
}

#[test]
fn poll_keeps_to_its_budget() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nf.sock");
    let server = ControlServer::bind(&path, quick()).unwrap();
    let mut streams: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
    streams.iter_mut().for_each(|stream| stream.write_all(b"{\"op\":\"counters\"}\n").unwrap());
    let mut desk = Desk::default();
    let mut answered = 0;
    while answered < 3 {
        assert!(server.wait(Duration::from_secs(5)));
        let now = server.poll(&mut desk, 1);
        assert!(now <= 1);
        answered += now;
    }
    assert_eq!((server.poll(&mut desk, 1), desk.asked), (0, 3));
}

#[test]
fn who_waits_when_the_server_ends_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nf.sock");
    let server = ControlServer::bind(&path, quick()).unwrap();
    let mut client = Client::connect(&path).unwrap();
    let idle = Client::connect(&path).unwrap();
    let waiting = thread::spawn(move || client.call(&Request::Counters {}).unwrap_err());
    assert!(server.wait(Duration::from_secs(5)));
    let started = Instant::now();
    drop(server);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let told = waiting.join().unwrap();
    assert!(matches!(&told, ClientError::Refused(error) if error.code == ErrorCode::ShuttingDown), "{told}");
    drop(idle);
}

#[test]
fn the_socket_has_its_mode_and_drop_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/nf-core/nf.sock");
    let server = ControlServer::bind(&path, quick()).unwrap();
    let made = fs::metadata(&path).unwrap();
    assert!(made.file_type().is_socket());
    assert_eq!(made.permissions().mode() & 0o7777, 0o660);
    let parent = path.parent().unwrap();
    assert_eq!(fs::metadata(parent).unwrap().permissions().mode() & 0o7777 & !0o755, 0);
    assert_eq!(names(parent), ["nf.sock", "nf.sock.lock"]);
    let lock = parent.join("nf.sock.lock");
    assert_eq!(fs::metadata(&lock).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_to_string(&lock).unwrap().trim(), std::process::id().to_string());
    drop(server);
    assert!(names(directory.path()).is_empty());
}

#[test]
fn a_second_instance_is_refused_by_pid_and_does_not_disturb_the_first() {
    let running = Running::new(quick());
    let error = refusal(&running.path);
    let wanted = format!(
        "another nf-core (pid {}) serves {}: stop it, or set [control] socket to another path",
        std::process::id(),
        running.path.display()
    );
    assert_eq!(error.to_string(), wanted);
    assert!(Client::connect(&running.path).unwrap().call(&Request::Counters {}).is_ok());
    running.end();
}

#[test]
fn a_socket_that_a_dead_process_left_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nf.sock");
    // What a killed process leaves: a bound socket, the lock file, the directory in which the socket was made.
    drop(UnixListener::bind(&path).unwrap());
    fs::write(directory.path().join("nf.sock.lock"), "4194304999\n").unwrap();
    fs::create_dir(directory.path().join("nf.sock.new")).unwrap();
    drop(UnixListener::bind(directory.path().join("nf.sock.new/s")).unwrap());
    let server = ControlServer::bind(&path, quick()).unwrap();
    assert!(Client::connect(&path).is_ok());
    assert_eq!(names(directory.path()), ["nf.sock", "nf.sock.lock"]);
    drop(server);
    assert!(names(directory.path()).is_empty());
}

#[test]
fn what_belongs_to_others_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    fs::write(&path, "data").unwrap();
    assert!(matches!(refusal(&path), ServerError::NotASocket { .. }));
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    assert_eq!(names(directory.path()), ["precious"]);

    let foreign = directory.path().join("foreign");
    let listener = UnixListener::bind(&foreign).unwrap();
    assert!(matches!(refusal(&foreign), ServerError::InUse { pid: None, .. }));
    assert_eq!(names(directory.path()), ["foreign", "precious"]);
    drop(listener);

    // Nor is a file removed that took the socket's place while it was served.
    let path = directory.path().join("nf.sock");
    let server = ControlServer::bind(&path, quick()).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "data").unwrap();
    drop(server);
    assert_eq!(names(directory.path()), ["foreign", "nf.sock", "precious"]);
}

#[test]
fn a_lock_file_that_is_a_link_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nf.sock");
    let victim = directory.path().join("victim");
    fs::write(&victim, "data").unwrap();
    std::os::unix::fs::symlink(&victim, directory.path().join("nf.sock.lock")).unwrap();
    assert!(matches!(refusal(&path), ServerError::Io { .. }));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "data");
}

#[test]
fn impossible_paths_are_errors_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let long = directory.path().join("x".repeat(120));
    let error = refusal(&long).to_string();
    assert!(error.contains("101 are possible: set [control] socket to a shorter path"), "{error}");
    // A path of just that length is served.
    let room = 101 - directory.path().as_os_str().len() - 1;
    let longest = directory.path().join("x".repeat(room));
    drop(ControlServer::bind(&longest, quick()).unwrap());

    let file = directory.path().join("file");
    drop(File::create(&file).unwrap());
    let error = refusal(&file.join("nf.sock")).to_string();
    assert!(error.contains("set [control] socket to another path"), "{error}");
    assert_eq!(names(directory.path()), ["file"]);
    assert!(matches!(refusal(Path::new("")), ServerError::Io { .. } | ServerError::Permission { .. }));

    // Not even root may create a directory in sysfs.
    let error = refusal(Path::new("/sys/nf-core/nf.sock")).to_string();
    let wanted = "no permission to create the directory /sys/nf-core: run nf-core as a user who may, \
                  or set [control] socket to another path";
    assert_eq!(error, wanted);
}

#[test]
fn the_client_says_why_it_can_not_connect() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nf.sock");
    assert!(matches!(Client::connect(&path), Err(ClientError::NoSocket(_))));
    let listener = UnixListener::bind(&path).unwrap();

    let peer = |say: &'static [u8]| {
        let listener = listener.try_clone().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(say).unwrap();
            // Keeps the connection until the client leaves.
            let _ = stream.read(&mut [0; 1]);
        })
    };
    let other = peer(b"{\"type\":\"hello\",\"data\":{\"protocol\":7,\"version\":\"9.9\"}}\n");
    let error = Client::connect(&path).unwrap_err();
    assert!(error.to_string().contains("nf-core 9.9 on"), "{error}");
    assert!(error.to_string().contains("speaks control protocol 7, this client 1"), "{error}");
    other.join().unwrap();

    let other = peer(b"220 mail.example.net ESMTP\n");
    assert!(matches!(Client::connect(&path), Err(ClientError::NotAnAnswer { .. })));
    other.join().unwrap();

    let other = peer(b"");
    let error = Client::connect_within(&path, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    other.join().unwrap();

    drop(listener);
    assert!(matches!(Client::connect(&path), Err(ClientError::NobodyListens(_))));
}
