//! The EAL once per process, its lcores, and telemetry.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::eal;
use dpdk_rs::telemetry::{self, Array, Entry, Value};
use dpdk_rs::{Eal, Error, LcoreId, SocketId, Tsc};

#[test]
fn a_second_start_is_refused() {
    eal();
    let error = Eal::init(["--no-huge".to_owned()]).unwrap_err();
    assert!(matches!(error, Error::AlreadyInitialised));
    assert!(error.to_string().contains("once per process"), "{error}");
}

#[test]
fn an_argument_with_a_nul_byte_is_refused_before_the_start() {
    let error = Eal::init(["-m\0 64".to_owned()]).unwrap_err();
    assert!(matches!(error, Error::Nul { .. }), "{error}");
    // The EAL can still be started.
    assert_eq!(eal().main_lcore(), LcoreId::new(0));
}

#[test]
fn facts_of_the_process() {
    let eal = eal();
    assert_eq!(eal.main_lcore(), LcoreId::new(0));
    assert_eq!(eal.worker_lcores(), [LcoreId::new(1)]);
    assert_eq!(eal.socket_of(LcoreId::new(77)), SocketId::ANY);
    let version = Eal::version();
    assert!(version.starts_with("DPDK "), "{version}");
    assert!(version.contains(&Eal::built_for()[..5]), "{version} {}", Eal::built_for());

    let hz = eal.tsc_hz();
    let (start, clock) = (Tsc::now(), Instant::now());
    std::thread::sleep(Duration::from_millis(50));
    let nanos = hz.nanos(Tsc::now().cycles_since(start));
    let elapsed = clock.elapsed().as_nanos() as u64;
    assert!(nanos.abs_diff(elapsed) < elapsed / 10, "{nanos} ns by the TSC, {elapsed} ns by the clock");
    assert_eq!(hz.cycles(Duration::from_secs(2)), 2 * hz.get());
}

/// One test for all that needs the only worker.
#[test]
fn an_lcore_runs_one_closure_at_a_time() {
    let (eal, worker) = (eal(), LcoreId::new(1));
    let handle = eal.launch(worker, || LcoreId::current().map(LcoreId::get)).unwrap();
    assert_eq!(handle.lcore(), worker);
    assert_eq!(handle.join().unwrap(), Some(1));

    let (go, wait) = mpsc::channel::<()>();
    let handle = eal.launch(worker, move || wait.recv().is_ok()).unwrap();
    assert!(!handle.is_finished());
    let error = eal.launch(worker, || ()).unwrap_err();
    assert!(matches!(error, Error::LcoreBusy { lcore } if lcore == worker), "{error}");
    go.send(()).unwrap();
    assert!(handle.join().unwrap());

    let error = eal.launch(worker, || panic!("out of {}", "cheese")).unwrap().join().unwrap_err();
    assert!(matches!(&error, Error::LcorePanicked { message, .. } if message == "out of cheese"), "{error}");

    // Straight after a join, again and again: the launcher must not be found busy with its last steps.
    for i in 0..1000 {
        assert_eq!(eal.launch(worker, move || i).unwrap().join().unwrap(), i);
    }

    // A handle that is dropped lets its closure run on.
    let (sender, receiver) = mpsc::channel();
    drop(eal.launch(worker, move || sender.send(7)).unwrap());
    assert_eq!(receiver.recv().unwrap(), 7);
}

#[test]
fn only_workers_can_be_launched_on() {
    for id in [0, 2, 127, 128, u32::MAX] {
        let error = eal().launch(LcoreId::new(id), || ()).unwrap_err();
        assert!(matches!(error, Error::NotAWorker { .. }), "{error}");
        assert!(error.to_string().contains("the workers are 1"), "{error}");
    }
}

#[test]
fn telemetry_answers_over_its_socket() {
    let eal = eal();
    telemetry::register(
        eal,
        "/nf/test",
        "A test.",
        Box::new(|params| {
            Value::Dict(vec![
                ("packets".to_owned(), Entry::U64(u64::MAX)),
                ("params".to_owned(), Entry::Text(params.to_owned())),
                ("cores".to_owned(), Entry::Array(Array::U64(vec![1, 2, 3]))),
                ("names".to_owned(), Entry::Array(Array::Text(vec!["a".to_owned(), "b".to_owned()]))),
            ])
        }),
    )
    .unwrap();
    telemetry::register(eal, "/nf/text", "A text.", Box::new(|_| Value::Text("plain".to_owned()))).unwrap();
    telemetry::register(eal, "/nf/list", "A list.", Box::new(|_| Value::Array(Array::U64(vec![4, 5])))).unwrap();
    telemetry::register(eal, "/nf/panic", "A panic.", Box::new(|_| panic!("in a handler"))).unwrap();
    let many = || (0..300).map(|i| (format!("n{i}"), Entry::U64(i))).collect();
    telemetry::register(eal, "/nf/many", "Too much.", Box::new(move |_| Value::Dict(many()))).unwrap();
    let error = telemetry::register(eal, "/nf/test", "Again.", Box::new(|_| Value::Text(String::new()))).unwrap_err();
    assert!(error.to_string().contains("\"/nf/test\"") && error.to_string().contains("taken"), "{error}");
    let error = telemetry::register(eal, "nf", "No slash.", Box::new(|_| Value::Text(String::new()))).unwrap_err();
    assert!(matches!(error, Error::Telemetry { .. }), "{error}");

    let socket = Seqpacket::connect(&eal).unwrap();
    assert!(socket.receive().contains("\"version\""));
    let answer = socket.ask("/nf/test,all");
    assert_eq!(
        answer.replace(' ', ""),
        r#"{"/nf/test":{"packets":18446744073709551615,"params":"all","cores":[1,2,3],"names":["a","b"]}}"#
    );
    assert_eq!(socket.ask("/nf/text"), r#"{"/nf/text":"plain"}"#);
    assert_eq!(socket.ask("/nf/list"), r#"{"/nf/list":[4,5]}"#);
    assert_eq!(socket.ask("/nf/panic"), r#"{"/nf/panic":null}"#);
    assert_eq!(socket.ask("/nf/many"), r#"{"/nf/many":null}"#);
    // The socket outlives the panic.
    assert_eq!(socket.ask("/nf/text"), r#"{"/nf/text":"plain"}"#);
}

/// The telemetry socket keeps message boundaries, which the standard library has no type for.
struct Seqpacket(OwnedFd);

impl Seqpacket {
    fn connect(eal: &Eal) -> io::Result<Self> {
        let path = eal.runtime_dir().join("dpdk_telemetry.v2");
        // SAFETY: plain system calls on a socket of our own; the address is zeroed first, and its path fits.
        unsafe {
            let fd = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0);
            assert!(fd >= 0);
            let fd = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_un = std::mem::zeroed();
            address.sun_family = libc::AF_UNIX as libc::sa_family_t;
            let path = path.to_str().unwrap().as_bytes();
            assert!(path.len() < address.sun_path.len());
            for (to, from) in address.sun_path.iter_mut().zip(path) {
                *to = *from as libc::c_char;
            }
            let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
            if libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(fd))
        }
    }

    fn receive(&self) -> String {
        let mut buffer = vec![0_u8; 1 << 16];
        // SAFETY: the buffer has that many bytes.
        let n = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        buffer.truncate(usize::try_from(n).unwrap());
        String::from_utf8(buffer).unwrap()
    }

    fn ask(&self, command: &str) -> String {
        // SAFETY: the command has that many bytes.
        let n = unsafe { libc::send(self.0.as_raw_fd(), command.as_ptr().cast(), command.len(), 0) };
        assert_eq!(usize::try_from(n).unwrap(), command.len());
        self.receive()
    }
}
