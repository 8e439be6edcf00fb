//! The server over real sockets, with a handler of the test's own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::control::client::{Client, ClientError};
use crate::control::proto::{MAX_LINE, SaName, VERSION};
use crate::counters::{Report, Snapshot};
use crate::types::Spi;

/// Answers some requests, and counts them. [`Client::connect`] makes one of its own.
#[derive(Default)]
struct Desk {
    asked: usize,
}

impl Handler for Desk {
    fn handle(&mut self, request: Request) -> Reply {
        self.asked += 1;
        match request {
            Request::Status {} => Response::ok(serde_json::json!({ "protocol": VERSION })),
            Request::Counters {} => Response::ok(Snapshot::default().report()),
            // More than a socket's buffers take, which is some hundred KiB.
            Request::SaList {} => Response::Error("x".repeat(4 << 20)),
            Request::SaDel { sa } => Response::ok(sa),
            _ => Response::Error("not at this desk".to_owned()),
        }
        .into()
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
        let server = ControlServer::bind_with(&path, limits).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let control = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut desk = Desk::default();
                while !stop.load(Ordering::Relaxed) {
                    server.serve(&mut desk, Duration::from_millis(5));
                }
                desk.asked
            }
        });
        Running { path, stop, control: Some(control), _directory: directory }
    }

    /// A client that speaks octets.
    fn raw(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        BufReader::new(stream)
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

fn error(response: Response) -> String {
    match response {
        Response::Error(message) => message,
        other => panic!("not an error: {other:?}"),
    }
}

/// A call whose answer is known to be [`Report`].
fn counters(client: &mut Client) -> Result<Report, ClientError> {
    client.call(&Request::Counters {})
}

/// The first connection that is accepted from now on.
fn connect(running: &Running) -> Client {
    let started = Instant::now();
    loop {
        match Client::connect(&running.path) {
            Ok(client) => return client,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(10), "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn refusal(path: &Path) -> ServerError {
    match ControlServer::bind_with(path, quick()) {
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
    assert_eq!(counters(&mut client).unwrap(), Snapshot::default().report());
    let name = SaName { spi: Spi(0xB761_863E), dst: Some("10.10.1.2".parse().unwrap()), src: None };
    assert_eq!(client.call::<SaName>(&Request::SaDel { sa: name }).unwrap(), name);
    let refused = client.call::<()>(&Request::PluginList {}).unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(message) if message == "not at this desk"), "{refused}");
    let misread = client.call::<u8>(&Request::Counters {}).unwrap_err();
    assert!(matches!(misread, ClientError::Protocol { .. }), "{misread}");

    let mut raw = running.raw();
    let first = ask_raw(&mut raw, b"{\"op\":\"plugin-list\"}\n{\"op\":\"counters\"}\n");
    assert_eq!(error(first), "not at this desk");
    assert!(matches!(line(&mut raw), Response::Ok(_)));
    // Connecting asks once by itself.
    assert_eq!(running.end(), 1 + 4 + 2);
}

#[test]
fn a_bad_line_is_named_and_the_connection_goes_on() {
    let running = Running::new(quick());
    let mut raw = running.raw();
    for (request, why) in [
        (&b"\n"[..], "it isn't JSON"),
        (b"hello\n", "it isn't JSON"),
        (b"{\"op\":\"counters\"\n", "it isn't JSON"),
        (b"{\"op\":\"sing\"}\n", "unknown variant `sing`, expected one of `status`"),
        (b"{\"op\":\"counters\",\"colour\":1}\n", "unknown field `colour`"),
        (b"{\"op\":\"sa-del\"}\n", "missing field `spi`"),
        (b"{\"op\":\"sa-del\",\"spi\":4294967296}\n", "invalid value, expected u32"),
        (b"{\"op\":\"sa-del\",\"spi\":256,\"dst\":\"10.1.1\"}\n", "invalid IP address syntax"),
        (b"[\"counters\"]\n", "it is an array, not an object"),
        (b"7\n", "invalid type, expected "),
        (b"{\"op\":\"counters\xFF\"}\n", "octet 16 isn't UTF-8"),
        (&[&b"{\"a\":"[..], &[b'['; 100_000], b"\n"].concat(), "it isn't JSON, recursion limit"),
    ] {
        let message = error(ask_raw(&mut raw, request));
        let wanted = format!("the request can't be understood: {why}");
        assert!(message.starts_with(&wanted), "{why:?} not in {message:?}");
    }
    assert!(matches!(ask_raw(&mut raw, b"{\"op\":\"counters\"}\r\n"), Response::Ok(_)));
    assert_eq!(running.end(), 1);
}

#[test]
fn a_line_may_have_one_mebibyte_and_no_more() {
    let running = Running::new(Limits { request: Duration::from_secs(20), ..quick() });
    let mut request = b"{\"op\":\"counters\"}".to_vec();
    request.resize(MAX_LINE - 1, b' ');
    request.push(b'\n');
    let mut raw = running.raw();
    assert!(matches!(ask_raw(&mut raw, &request), Response::Ok(_)));
    request.insert(0, b' ');
    assert!(error(ask_raw(&mut raw, &request)).starts_with("the request is longer than 1048576 octets"));
    // The connection ends; with an error, if there was something left to read for the server.
    let end = raw.read(&mut [0; 1]);
    assert!(!matches!(end, Ok(1)), "{end:?}");

    // A line without an end is cut off while it is still being sent.
    let mut endless = running.raw();
    let started = Instant::now();
    while endless.get_mut().write_all(&[b'x'; 1 << 16]).is_ok() {
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    assert!(counters(&mut connect(&running)).is_ok());
    running.end();
}

#[test]
fn a_request_cut_short_is_not_carried_out() {
    let running = Running::new(quick());
    let mut raw = running.raw();
    raw.get_mut().write_all(b"{\"op\":\"counters\"}").unwrap();
    raw.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(error(line(&mut raw)), "the last request has no newline: end each with one");
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
        assert!(counters(&mut other).is_ok());
        thread::sleep(Duration::from_millis(50));
    }
    let took = started.elapsed();
    assert!(took >= quick().request && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(error(line(&mut slow)), "no whole request came within 0.4 s: connect again");

    let mut silent = running.raw();
    assert_eq!(error(line(&mut silent)), "no whole request came within 0.4 s: connect again");
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
    assert!(counters(&mut connect(&running)).is_ok());
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    running.end();
}

#[test]
fn client_33_is_refused_and_a_place_becomes_free_again() {
    let running = Running::new(Limits { request: Duration::from_secs(20), ..quick() });
    let mut all: Vec<_> = (0..32).map(|_| Client::connect(&running.path).unwrap()).collect();
    let refused = Client::connect(&running.path).unwrap_err().to_string();
    assert_eq!(refused, "32 clients are connected, which is the limit: end one of them, then try again");
    assert!(all.iter_mut().all(|client| counters(client).is_ok()));
    all.pop();
    assert!(counters(&mut connect(&running)).is_ok());
    running.end();
}

#[test]
fn a_busy_control_thread_is_reported_and_the_late_request_is_not_carried_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nf.sock");
    let limits = Limits { answer: Duration::from_millis(100), ..quick() };
    let server = ControlServer::bind_with(&path, limits).unwrap();
    let busy = Client::connect(&path).unwrap_err().to_string();
    assert!(busy.contains("there was no answer within 0.1 s, and the request may yet be carried out"), "{busy}");
    let mut desk = Desk::default();
    server.serve(&mut desk, Duration::from_secs(5));
    assert_eq!(desk.asked, 0);
}

#[test]
fn the_control_thread_gets_its_turn_however_many_ask() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nf.sock");
    let server = ControlServer::bind(&path).unwrap();
    // More requests than a turn takes, from clients that ask again as soon as they are answered.
    let many = b"{\"op\":\"counters\"}\n".repeat(200);
    let mut streams: Vec<_> = (0..4).map(|_| UnixStream::connect(&path).unwrap()).collect();
    streams.iter_mut().for_each(|stream| stream.write_all(&many).unwrap());
    let readers: Vec<_> = streams
        .into_iter()
        .map(|stream| thread::spawn(move || BufReader::new(stream).lines().take(200).filter(Result::is_ok).count()))
        .collect();
    let mut desk = Desk::default();
    while desk.asked < 800 {
        let before = desk.asked;
        server.serve(&mut desk, Duration::from_secs(5));
        let answered = desk.asked - before;
        assert!((1..=REQUESTS_PER_TURN).contains(&answered), "{answered}");
    }
    assert!(readers.into_iter().all(|reader| reader.join().unwrap() == 200));
    let started = Instant::now();
    server.serve(&mut desk, Duration::from_millis(20));
    assert!(started.elapsed() >= Duration::from_millis(20) && desk.asked == 800);
}

#[test]
fn who_waits_when_the_server_ends_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nf.sock");
    let server = ControlServer::bind(&path).unwrap();
    let idle = UnixStream::connect(&path).unwrap();
    let waiting = thread::spawn({
        let path = path.clone();
        move || Client::connect(&path).unwrap_err().to_string()
    });
    let started = Instant::now();
    while server.calls.is_empty() {
        assert!(started.elapsed() < Duration::from_secs(5));
        thread::sleep(Duration::from_millis(1));
    }
    drop(server);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert!(waiting.join().unwrap().starts_with("nf-core is shutting down"));
    drop(idle);
}

#[test]
fn the_socket_has_its_mode_and_drop_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/nf-core/nf.sock");
    let server = ControlServer::bind_with(&path, quick()).unwrap();
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
    assert!(counters(&mut Client::connect(&running.path).unwrap()).is_ok());
    running.end();
}

#[test]
fn a_socket_that_a_dead_process_left_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nf.sock");
    // What a killed process leaves: a bound socket, the lock file, the directory in which the socket was made.
    drop(UnixListener::bind(&path).unwrap());
    fs::write(directory.path().join("nf.sock.lock"), "999999999\n").unwrap();
    fs::create_dir(directory.path().join("nf.sock.new")).unwrap();
    drop(UnixListener::bind(directory.path().join("nf.sock.new/s")).unwrap());
    let server = ControlServer::bind_with(&path, quick()).unwrap();
    assert!(UnixStream::connect(&path).is_ok());
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
    let server = ControlServer::bind_with(&path, quick()).unwrap();
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
    assert!(error.contains("set [control] socket to one with 101 octets at most"), "{error}");
    // A path of just that length is served.
    let room = 101 - directory.path().as_os_str().len() - 1;
    let longest = directory.path().join("x".repeat(room));
    drop(ControlServer::bind_with(&longest, quick()).unwrap());

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
    let refusal = || Client::connect_within(&path, Duration::from_millis(100)).unwrap_err().to_string();
    assert!(refusal().contains("there is no such socket"), "{}", refusal());
    let listener = UnixListener::bind(&path).unwrap();

    let peer = |say: &'static [u8]| {
        let listener = listener.try_clone().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(say).unwrap();
            // Until the client leaves.
            let _ = stream.read_to_end(&mut Vec::new());
        })
    };
    for (say, why) in [
        (&b"{\"ok\":{\"protocol\":7}}\n"[..], "speaks version 7 of the control protocol, this program version 1"),
        (b"{\"ok\":{\"protocol\":\"new\"}}\n", "answers in another protocol"),
        (b"220 mail.example.net ESMTP\n", "answers in another protocol"),
        (b"\xFF\n", "answers in another protocol"),
        (b"", "doesn't answer: the time for it is over"),
    ] {
        let other = peer(say);
        let error = refusal();
        assert!(error.contains(why), "{why:?} not in {error:?}");
        other.join().unwrap();
    }
    drop(listener);
    assert!(refusal().contains("nobody listens there"), "{}", refusal());
}

#[test]
fn a_daemon_that_hangs_up_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nf.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let other = thread::spawn(move || drop(listener.accept().unwrap()));
    let error = Client::connect(&path).unwrap_err().to_string();
    assert!(error.contains("doesn't answer: it closed the connection"), "{error}");
    other.join().unwrap();
}
