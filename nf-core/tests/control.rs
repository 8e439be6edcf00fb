//! Changes at run time, over the real socket, while cores work.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Fixture, Nf, NoPorts, Peer};
use nf_core::config::Config;
use nf_core::control::audit::{AuditEntry, Outcome};
use nf_core::control::client::{Client, ClientError};
use nf_core::control::controller::Reloaded;
use nf_core::control::handler::{ConfigFile, Daemon};
use nf_core::control::proto::{
    Endpoint, EventKind, EventReport, InvalidSpiEvent, Request, Reserved, SaId, SaName, SaReport, Status,
};
use nf_core::control::server::ControlServer;
use nf_core::counters::Report;
use nf_core::drop::DropReason;
use nf_core::sa::spec::SaSpec;
use nf_core::types::{Nanos, Spi};

const SPI: Spi = Spi(0x1234_5678);

fn spec(spi: Spi, dst: &str) -> SaSpec {
    serde_json::from_value(serde_json::json!({
        "spi": spi.0, "src": "10.1.1.1", "dst": dst, "mode": "tunnel", "alg": "aes-gcm-16", "key": "5a".repeat(20),
    }))
    .unwrap()
}

/// A daemon without ports on a socket, its cores working, for as long as `test` runs.
fn with_daemon(nf: Nf, test: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nf.sock");
    let server = ControlServer::bind(&socket).unwrap();
    let Nf { controller, mut cores, .. } = nf;
    let file = ConfigFile { path: dir.path().join("nf.toml"), config: Config::default() };
    let mut daemon = Daemon { controller, platform: NoPorts, audit: server.audit(), file };
    let done = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for core in &mut cores {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    core.poll_commands();
                    std::thread::yield_now();
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                server.serve(&mut daemon, Duration::from_millis(5));
                daemon.controller.tick(Nanos(start.elapsed().as_nanos() as u64));
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&socket)));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    match result {
        Err(ClientError::Refused(message)) => message,
        other => format!("not refused: {other:?}"),
    }
}

#[test]
fn sas_come_and_go() {
    with_daemon(Nf::new("[sad]\ncapacity = 3\n", 2), |socket| {
        let mut client = Client::connect(socket).unwrap();
        let add =
            |client: &mut Client, spi, dst: &str| client.call::<()>(&Request::SaAdd { sa: Box::new(spec(spi, dst)) });
        let name = |dst: Option<&str>| SaName { spi: SPI, dst: dst.map(|dst| dst.parse().unwrap()), src: None };
        add(&mut client, SPI, "10.10.1.2").unwrap();
        assert!(
            refusal(add(&mut client, SPI, "10.10.1.2")).contains("exists; delete it first: nf-ctl sa del 0x12345678")
        );
        add(&mut client, SPI, "10.10.1.3").unwrap();

        let shown: SaReport = client.call(&Request::SaShow { sa: name(Some("10.10.1.3")) }).unwrap();
        assert_eq!((shown.spi, shown.transform.as_str(), shown.totals.packets), (SPI, "esp-gcm 128", 0));
        let ambiguous = client.call::<SaReport>(&Request::SaShow { sa: name(None) });
        assert_eq!(refusal(ambiguous), "2 SAs have SPI 0x12345678(305419896); name one with --dst and --src");

        client.call::<()>(&Request::SaDel { sa: name(Some("10.10.1.2")) }).unwrap();
        let list: Vec<SaReport> = client.call(&Request::SaList {}).unwrap();
        assert_eq!(list.iter().map(|sa| sa.dst.to_string()).collect::<Vec<_>>(), ["10.10.1.3"]);
        let gone = client.call::<()>(&Request::SaDel { sa: name(Some("10.10.1.2")) });
        assert!(refusal(gone).starts_with("there is no SA with SPI 0x12345678(305419896) to 10.10.1.2"));

        add(&mut client, Spi(0x1000), "10.10.1.2").unwrap();
        // Two live and one that is remembered fill the table.
        assert!(refusal(add(&mut client, Spi(0x1001), "10.10.1.2")).contains("no room for more than 3 SAs"));
        // What was deleted may come back all the same.
        add(&mut client, SPI, "10.10.1.2").unwrap();
    });
}

/// A core that hangs costs the change two seconds and an error that names it; once it goes on, so does everything.
#[test]
fn a_core_that_hangs_is_named_and_recovers() {
    let mut nf = Nf::new("", 2);
    let mut peer = Peer::new(SPI.0);
    // Core 0 works, core 1 doesn't.
    let Nf { controller, cores, .. } = &mut nf;
    let (working, hanging) = cores.split_at_mut(1);
    let done = AtomicBool::new(false);
    let (added, listed) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                working[0].poll_commands();
                std::thread::yield_now();
            }
        });
        let added = controller.add_sa(peer.params());
        let listed = controller.sas().len();
        done.store(true, Ordering::Relaxed);
        (added, listed)
    });
    let error = added.unwrap_err().to_string();
    assert!(error.starts_with("core 1 has not applied the change within 2 s"), "{error}");
    assert_eq!(listed, 1, "it is on its way");
    hanging[0].poll_commands();
    for core in [0, 1] {
        let packet = peer.next();
        nf.receive_burst(core, &[&packet]);
    }
    assert_eq!(nf.output.len(), 2);
    nf.control(|controller| controller.delete_sa(SPI, None, None)).unwrap();
    assert!(nf.counters().is_conserved());
}

#[test]
fn a_bad_sa_is_refused_by_field_and_shows_no_key() {
    with_daemon(Nf::new("", 1), |socket| {
        let mut client = Client::connect(socket).unwrap();
        let mut bad = spec(SPI, "10.10.1.2");
        bad.mode = "beet".to_owned();
        let refused = refusal(client.call::<()>(&Request::SaAdd { sa: Box::new(bad) }));
        assert_eq!(refused, "mode: `beet` isn't one of `tunnel`, `transport`");

        let mut by_file = spec(SPI, "10.10.1.2");
        (by_file.key, by_file.key_file) = (None, Some("/etc/shadow".into()));
        let refused = refusal(client.call::<()>(&Request::SaAdd { sa: Box::new(by_file) }));
        assert_eq!(refused, "key_file: isn't taken over the socket; send `key`, as nf-ctl does");

        client.call::<()>(&Request::SaAdd { sa: Box::new(spec(SPI, "10.10.1.2")) }).unwrap();
        let mut raw = UnixStream::connect(socket).unwrap();
        raw.write_all(
            b"{\"op\":\"sa-list\"}\n{\"op\":\"sa-add\",\"sa\":{\"spi\":\"5a5a5a5a\",\"esn\":\"5a5a5a5a5a5a\"}}\n",
        )
        .unwrap();
        let mut lines = BufReader::new(raw).lines();
        for _ in 0..2 {
            let line = lines.next().unwrap().unwrap();
            assert!(!line.contains("5a5a5a"), "{line}");
        }
    });
}

#[test]
fn nonsense_is_answered_and_the_connection_lives_on() {
    with_daemon(Nf::new("", 1), |socket| {
        let mut stream = UnixStream::connect(socket).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut ask = |request: &[u8]| {
            stream.write_all(request).unwrap();
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            line
        };
        assert!(ask(b"hello\n").contains("can't be understood"));
        assert!(ask(b"\xFF\xFE\n").contains("can't be understood"));
        assert!(ask(b"{\"op\":\"explode\"}\n").contains("unknown variant `explode`"));
        assert!(ask(b"{\"op\":\"status\",\"extra\":1}\n").contains("unknown field"));
        assert!(ask(b"{\"op\":\"status\"}\n").contains("\"protocol\":1"));
    });
}

#[test]
fn a_line_that_is_too_long_ends_the_connection_and_nobody_elses() {
    with_daemon(Nf::new("", 1), |socket| {
        let mut stream = UnixStream::connect(socket).unwrap();
        // The daemon may hang up while this is still being written.
        let _ = stream.write_all(&vec![b'x'; 3 << 20]);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.contains("longer than"), "{answer}");
        let status: Status = Client::connect(socket).unwrap().call(&Request::Status {}).unwrap();
        assert_eq!(status.cores, 1);
    });
}

#[test]
fn idle_clients_keep_nobody_out_but_the_thirty_third() {
    with_daemon(Nf::new("", 1), |socket| {
        let idle: Vec<UnixStream> = (0..32).map(|_| UnixStream::connect(socket).unwrap()).collect();
        let mut answer = String::new();
        UnixStream::connect(socket).unwrap().read_to_string(&mut answer).unwrap();
        assert!(answer.contains("32 clients are connected"), "{answer}");
        drop(idle);
        // Their threads notice at once; until they have, the next client may still be refused.
        let served = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            Client::connect(socket).is_ok()
        });
        assert!(served);
    });
}

#[test]
fn counters_are_cleared_on_demand() {
    let fixture = Fixture::load("replay-gcm128");
    let mut nf = Nf::new(&fixture.config, 1);
    nf.receive(fixture.frames.iter().map(Vec::as_slice));
    with_daemon(nf, |socket| {
        let mut client = Client::connect(socket).unwrap();
        let cleared: Report = client.call(&Request::CountersClear {}).unwrap();
        assert_eq!(cleared.feature(19).unwrap().packets, 5);
        let after: Report = client.call(&Request::Counters {}).unwrap();
        assert_eq!((after.rx.packets, after.feature(19).unwrap().packets), (0, 0));
        let cores: Vec<Report> = client.call(&Request::CoreCounters {}).unwrap();
        assert_eq!(cores[0].rx.packets, 17, "a core's own counters go on");
    });
}

#[test]
fn the_socket_is_for_owner_and_group_and_goes_with_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sub/nf.sock");
    let server = ControlServer::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let second = ControlServer::bind(&path).unwrap_err().to_string();
    let expected = format!("another nf-core (pid {}) serves {}", std::process::id(), path.display());
    assert!(second.starts_with(&expected), "{second}");
    drop(server);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing stays behind, nor the directory");
}

#[test]
fn a_dead_processs_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nf.sock");
    drop(UnixListener::bind(&path).unwrap());
    std::fs::write(dir.path().join("nf.sock.lock"), "1").unwrap();
    assert!(path.exists());
    assert!(ControlServer::bind(&path).is_ok());
}

#[test]
fn a_socket_that_cannot_be_made_says_why() {
    let long = format!("/tmp/{}/nf.sock", "x".repeat(120));
    let error = ControlServer::bind(Path::new(&long)).unwrap_err().to_string();
    assert!(error.contains("octets at most"), "{error}");
    let error = ControlServer::bind(Path::new("/proc/nf/nf.sock")).unwrap_err().to_string();
    assert!(error.contains("set [control] socket"), "{error}");
}

#[test]
fn without_a_daemon_the_client_says_so() {
    let error = Client::connect(Path::new("/nonexistent/nf.sock")).unwrap_err().to_string();
    assert!(error.contains("no nf-core at /nonexistent/nf.sock: there is no such socket"), "{error}");
}

#[test]
fn a_reservation_is_listed_matures_and_is_released() {
    with_daemon(Nf::new("", 2), |socket| {
        let mut client = Client::connect(socket).unwrap();
        let reserve = |client: &mut Client, spi| {
            client.call::<Reserved>(&Request::SaReserve {
                dst: "10.10.1.2".parse().unwrap(),
                src: None,
                spi,
                lifetime_s: 3600,
            })
        };
        let reserved = reserve(&mut client, Some(SPI)).unwrap();
        assert_eq!(reserved.spi, SPI);
        let chosen = reserve(&mut client, None).unwrap();
        let states = |client: &mut Client| {
            let list: Vec<SaReport> = client.call(&Request::SaList {}).unwrap();
            list.into_iter().map(|sa| (sa.spi, sa.state, sa.peer)).collect::<std::collections::BTreeSet<_>>()
        };
        let larval = |spi| (spi, "larval".to_owned(), None);
        assert_eq!(states(&mut client), [larval(SPI), larval(chosen.spi)].into());
        let name = SaName { spi: SPI, dst: None, src: None };
        let shown: SaReport = client.call(&Request::SaShow { sa: name }).unwrap();
        assert_eq!((shown.src, shown.state.as_str()), (None, "larval"));

        let mut sa = spec(SPI, "10.10.1.2");
        sa.peer = Some("branch".to_owned());
        client.call::<()>(&Request::SaAdd { sa: Box::new(sa) }).unwrap();
        let mature = (SPI, "mature".to_owned(), Some("branch".to_owned()));
        assert_eq!(states(&mut client), [mature.clone(), larval(chosen.spi)].into());
        assert!(refusal(client.call::<()>(&Request::SaRelease { sa: name })).contains("isn't reserved"));
        client.call::<()>(&Request::SaRelease { sa: SaName { spi: chosen.spi, ..name } }).unwrap();
        assert_eq!(states(&mut client), [mature].into());
    });
}

/// What cores see, on a subscriber's screen.
#[test]
fn events_reach_who_has_subscribed() {
    let mut nf = Nf::new("", 1);
    let mut peer = Peer { udp: Some(4500), ..Peer::new(SPI.0) };
    let params = peer.params_with(&serde_json::json!({"peer": "branch"}));
    nf.control(|control| control.add_sa(params)).unwrap();
    let stray = Peer { spi: 0xB761_863E, ..peer.clone() }.next();
    let first = [peer.next(), peer.next()];
    peer.udp = Some(1025);
    let rebound = peer.next();
    // One that was overtaken comes from where the peer was.
    let late = Peer { udp: Some(4500), ..peer.clone() }.packet(peer.seq + 1);
    peer.seq += 1;
    let newest = peer.next();

    let mut events = Vec::new();
    let (_, subscription) = nf.controller.subscribe(Vec::new());
    let mut play = |nf: &mut Nf, at: u64, frames: &[&[u8]]| {
        nf.now = Nanos(at);
        nf.receive(frames.iter().copied());
        nf.controller.take_events(nf.now);
        while let nf_core::control::subscribers::Next::Event(event) = subscription.next(Duration::ZERO) {
            events.push(event);
        }
    };
    play(&mut nf, 5, &[&stray, &stray, &first[0], &first[1]]);
    play(&mut nf, 6, &[&rebound]);
    play(&mut nf, 7, &[&newest]);
    play(&mut nf, 8, &[&late]);
    play(&mut nf, Nanos::from_secs(1).0 + 5, &[&stray]);

    let (src, dst) = ("10.1.1.1".parse().unwrap(), "10.10.1.2".parse().unwrap());
    let sa = SaId { spi: SPI, src, dst, peer: Some("branch".to_owned()) };
    let at = |port| Endpoint { address: src, port: Some(port) };
    let invalid = |packets, at_ns| {
        EventReport::InvalidSpi(InvalidSpiEvent {
            spi: Spi(0xB761_863E),
            src,
            dst,
            udp_ports: Some((4500, 4500)),
            class: nf_core::notify::Class::Transient,
            packets,
            seq: 1,
            interface: "net-unprotected".to_owned(),
            at_ns,
        })
    };
    assert_eq!(
        events,
        [
            invalid(1, 5),
            EventReport::SaFirstPacket { sa: sa.clone(), at_ns: 5 },
            EventReport::SaAddressChanged { sa, from: at(4500), to: at(1025), at_ns: 6 },
            invalid(2, Nanos::SECOND + 5),
        ]
    );
    let stored = nf.controller.sas().next().unwrap();
    assert_eq!(stored.peer_at, at(1025));
}

#[test]
fn a_subscriber_gets_typed_events_over_the_socket() {
    with_daemon(Nf::new("[sad]\ncapacity = 64\n", 1), |socket| {
        let kinds = [EventKind::SaReservationExpired];
        let mut events = Client::connect(socket).unwrap().subscribe(&kinds).unwrap();
        assert_eq!(events.subscribed().kinds, kinds);
        assert_eq!(events.next(Some(Duration::from_millis(20))).unwrap(), None);
        let mut client = Client::connect(socket).unwrap();
        let dst = "10.10.1.2".parse().unwrap();
        let request = Request::SaReserve { dst, src: None, spi: Some(SPI), lifetime_s: 1 };
        client.call::<Reserved>(&request).unwrap();
        let event = events.next(Some(Duration::from_secs(20))).unwrap();
        let Some(EventReport::SaReservationExpired { spi, dst: to, src: None, at_ns }) = event else {
            panic!("another event: {event:?}")
        };
        assert_eq!((spi, to), (SPI, dst));
        assert!(at_ns >= events.subscribed().now_ns + Nanos::SECOND);

        let mut raw = UnixStream::connect(socket).unwrap();
        raw.write_all(b"{\"op\":\"subscribe\",\"kinds\":[\"weather\"]}\n{\"op\":\"subscribe\"}\n").unwrap();
        let mut lines = BufReader::new(raw.try_clone().unwrap()).lines().map(Result::unwrap);
        assert!(lines.next().unwrap().contains("unknown variant `weather`, expected one of `invalid-spi`"));
        assert!(lines.next().unwrap().starts_with("{\"ok\":{\"kinds\":[\"invalid-spi\","));
        raw.write_all(b"{\"op\":\"status\"}\n").unwrap();
        let last = "{\"error\":\"this connection carries events: open another one for requests\"}";
        assert_eq!(lines.next().as_deref(), Some(last));
        assert_eq!(lines.next(), None);
    });
}

/// An SA that was deleted a moment ago: late packets are counted as such, and raise no alarm.
#[test]
fn late_packets_on_a_deleted_sa_are_no_invalid_spi() {
    let fixture = Fixture::load("v4-tunnel-gcm128");
    let mut nf = Nf::new(&format!("[sad]\ndeleted_memory_s = 10\n{}", fixture.config), 1);
    let key = nf.controller.sas().next().unwrap().sa.key();
    nf.now = Nanos::from_secs(1);
    nf.tick(Nanos::from_secs(1));
    let done = AtomicBool::new(false);
    let (controller, core) = (&mut nf.controller, &mut nf.cores[0]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                core.poll_commands();
            }
        });
        controller.delete_sa(key.spi, None, None).unwrap();
        done.store(true, Ordering::Relaxed);
    });
    let all = fixture.frames.len() as u64;
    nf.receive(fixture.frames.iter().map(Vec::as_slice));
    assert_eq!(nf.counters().drops(DropReason::InvalidSaV4).packets, all);
    assert_eq!(nf.controller.notifier().report(nf.now, 10).flows, []);

    // After a while the SPI is as unknown as any other.
    nf.tick(Nanos::from_secs(12));
    nf.receive(fixture.frames.iter().map(Vec::as_slice));
    nf.tick(Nanos::from_secs(12));
    assert_eq!(nf.counters().drops(DropReason::UnknownSpiV4).packets, all);
    assert_eq!(nf.controller.notifier().report(nf.now, 10).flows.len(), 1);
}

/// A table of nf.toml, with a key of one octet that comes again and again.
fn sa_table(spi: u32, octet: &str) -> String {
    format!(
        "[[sa]]\nspi = {spi}\nsrc = '10.1.1.1'\ndst = '10.10.1.2'\nmode = 'tunnel'\nalg = 'aes-gcm-16'\nkey = '{}'\n",
        octet.repeat(20)
    )
}

#[test]
fn a_changed_file_is_taken_over_as_a_difference_or_not_at_all() {
    with_daemon(Nf::new("", 2), |socket| {
        let mut client = Client::connect(socket).unwrap();
        let file = socket.with_file_name("nf.toml");
        let reload = |client: &mut Client, text: &str| {
            std::fs::write(&file, text).unwrap();
            client.call::<Reloaded>(&Request::Reload {})
        };
        let spis = |client: &mut Client| {
            let list: Vec<SaReport> = client.call(&Request::SaList {}).unwrap();
            list.iter().map(|sa| sa.spi.0).collect::<Vec<_>>()
        };
        let capture = |bind: &str| {
            format!("[[plugin]]\ninstance = 'cap'\nplugin = 'capture'\nsettings = {{ memory = 9 }}\nbind = [{bind}]\n")
        };
        let first = format!("{}{}{}", sa_table(0x1000, "5a"), sa_table(0x2000, "5a"), capture("{ gate = 'drop' }"));
        let reloaded = reload(&mut client, &first).unwrap();
        assert_eq!((reloaded.sas_added, &*reloaded.instances_added), (2, &["cap".to_owned()][..]));
        assert_eq!(reload(&mut client, &first).unwrap(), Reloaded::default(), "nothing has changed");

        // What comes by hand is nobody's business.
        client.call::<()>(&Request::SaAdd { sa: Box::new(spec(Spi(0x3000), "10.10.1.2")) }).unwrap();
        let second = format!(
            "[notify]\ninv_spi_interval_s = 5\nsyslog = 'unix:/nonexistent/log'\n[snapshot]\nkeep = 3\n[[local]]\naddress = '10.10.1.2'\n{}{}",
            sa_table(0x1000, "a5"),
            capture("{ gate = 'drop' }, { gate = 'egress' }")
        );
        let reloaded = reload(&mut client, &second).unwrap();
        assert_eq!((reloaded.sas_added, reloaded.sas_changed, reloaded.sas_removed), (0, 1, 1));
        assert_eq!((reloaded.instances_changed.len(), reloaded.settings.len()), (1, 3), "{reloaded:?}");
        assert_eq!(spis(&mut client), [0x1000, 0x3000]);

        let many = (0x4000..0x4010).map(|spi| sa_table(spi, "5a")).collect::<String>();
        for (text, why) in [
            (format!("{second}{many}[eal]\ncores = [0, 1]\nidle = 'sleep'\n"), "[eal] cores, [eal] idle can't change"),
            (format!("{second}{many}{}", sa_table(0x3000, "5a")), "an SA with SPI 0x00003000(12288)"),
            (
                second.replace(&sa_table(0x1000, "a5"), &format!("{}encap = 'udp'\n", sa_table(0x1000, "a5"))),
                "another setting and the key that it had",
            ),
            (format!("{second}{many}{}", sa_table(0x5000, "zz")), "[[sa]] #18 key: character 1 isn't a hex digit"),
            (
                format!(
                    "{second}{many}{}",
                    capture("{ gate = 'ingress' }").replace("'cap'", "'x'").replace("capture", "magic")
                ),
                "there is no plugin `magic`",
            ),
            (
                format!("{second}{many}{}", capture("{ gate = 'post-decap' }").replace("'cap'", "'x'")),
                "can't be bound to the gate post-decap",
            ),
            (
                format!(
                    "{second}{many}{}",
                    capture("{ gate = 'drop' }").replace("'cap'", "'x'").replace("9", "'nine'")
                ),
                "setting `file, snaplen, packets, memory`",
            ),
        ] {
            let refused = refusal(reload(&mut client, &text));
            assert!(refused.contains(why), "{refused}");
            assert_eq!(spis(&mut client), [0x1000, 0x3000], "{why}");
        }
        let reloaded = reload(&mut client, "").unwrap();
        assert_eq!((reloaded.sas_removed, &*reloaded.instances_removed), (1, &["cap".to_owned()][..]));
        assert_eq!(spis(&mut client), [0x3000]);

        let audit: Vec<AuditEntry> = client.call(&Request::Audit { limit: 100 }).unwrap();
        let reloads = audit.iter().filter(|entry| entry.request == "reload").map(|entry| entry.result);
        assert_eq!(reloads.filter(|result| *result == Outcome::Done).count(), 4);
        let add = audit.iter().find(|entry| entry.request.starts_with("sa-add 0x00003000")).unwrap();
        assert_eq!((add.result, add.pid), (Outcome::Done, i32::try_from(std::process::id()).ok()));
        assert!(!serde_json::to_string(&audit).unwrap().contains("5a5a"), "no key is recorded");
    });
}

#[test]
fn an_explicit_decapsulation_takes_the_place_of_the_implicit_one() {
    with_daemon(Nf::new("", 1), |socket| {
        let mut client = Client::connect(socket).unwrap();
        let table = "[[plugin]]\ninstance = 'mine'\nplugin = 'decap'\nbind = [{ gate = 'esp-input', priority = 7 }]\n";
        std::fs::write(socket.with_file_name("nf.toml"), table).unwrap();
        let reloaded: Reloaded = client.call(&Request::Reload {}).unwrap();
        assert_eq!(
            (&*reloaded.instances_added, &*reloaded.instances_removed),
            (&["mine".to_owned()][..], &["decap".to_owned()][..])
        );
        std::fs::write(socket.with_file_name("nf.toml"), "").unwrap();
        let reloaded: Reloaded = client.call(&Request::Reload {}).unwrap();
        assert_eq!(
            (&*reloaded.instances_added, &*reloaded.instances_removed),
            (&["decap".to_owned()][..], &["mine".to_owned()][..])
        );
    });
}
