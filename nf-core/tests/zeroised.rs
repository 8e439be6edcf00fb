//! No memory is given back with a key in it: the allocator looks into every block that is freed.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
#[path = "common/freed.rs"]
mod freed;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Nf, NoPorts};
use freed::{Looking, beginning, freed_on_purpose, freed_with};
use nf_core::config::Config;
use nf_core::control::client::Client;
use nf_core::control::handler::{ConfigFile, Daemon};
use nf_core::control::proto::Request;
use nf_core::control::server::ControlServer;
use nf_core::sa::spec::SaSpec;
use nf_core::state::{Keeper, KeyPlace, StateConfig};
use nf_core::types::{Nanos, Spi};
use serde_json::json;

/// How every key in this test begins: as octets, and in hex. It stands in no block of the heap but those that are tested.
const MARKER: [u8; 8] = [0xC3, 0x7A, 0x91, 0x5E, 0xD8, 0x26, 0xB4, 0x0F];
const HEX: &str = "c37a915ed826b40f";

#[global_allocator]
static ALLOCATOR: Looking = Looking;

/// An SA of each kind, as nf.toml and as a request write them; the keys are in static memory.
macro_rules! sa {
    ($spi:literal, $fields:literal) => {
        (
            concat!("[[sa]]\nspi = ", $spi, "\nsrc = \"10.1.1.1\"\ndst = \"10.10.1.2\"\nmode = \"tunnel\"\n", $fields),
            $spi,
        )
    };
}
const GCM: (&str, u32) = sa!(
    1001,
    "alg = \"aes-gcm-16\"\nkey = \"c37a915ed826b40fc37a915ed826b40fc37a915ed826b40fc37a915ed826b40f00000001\"\n"
);
const CHACHA: (&str, u32) = sa!(
    1002,
    "alg = \"chacha20-poly1305\"\nkey = \"c37a915ed826b40fc37a915ed826b40fc37a915ed826b40fc37a915ed826b40f00000001\"\n"
);
const CBC: (&str, u32) = sa!(
    1003,
    "alg = \"aes-cbc\"\nkey = \"c37a915ed826b40fc37a915ed826b40f\"\nauth = \"hmac-sha256-128\"\nauth_key = \"c37a915ed826b40fc37a915ed826b40fc37a915ed826b40fc37a915ed826b40f\"\n"
);
const NULL: (&str, u32) =
    sa!(1004, "alg = \"null\"\nauth = \"hmac-sha1-96\"\nauth_key = \"c37a915ed826b40fc37a915ed826b40fc37a915e\"\n");
const ADD: &[u8] = br#"{"op":"sa-add","sa":{"spi":2001,"src":"10.1.1.1","dst":"10.10.1.2","mode":"tunnel","alg":"aes-gcm-16","key":"c37a915ed826b40fc37a915ed826b40fc37a915ed826b40fc37a915ed826b40f00000001"}}"#;
const WRONG: &[u8] = br#"{"op":"sa-add","sa":{"spi":2001,"src":"10.1.1.1","dst":"10.10.1.2","mode":"tunnel","alg":"aes-gcm-16","key":"c37a915ed826b40f"}}"#;
const SPEC: &str = r#"{"spi":"2002","src":"10.1.1.1","dst":"10.10.1.2","mode":"tunnel","alg":"aes-gcm-16","key":"c37a915ed826b40fc37a915ed826b40fc37a915ed826b40fc37a915ed826b40f00000001"}"#;

/// One test, as the allocator is the whole process's.
#[test]
fn no_key_is_left_in_freed_memory() {
    let keys = BTreeSet::from([MARKER.as_slice(), HEX.as_bytes()].map(beginning));
    assert_eq!(freed_on_purpose(&keys, || drop(vec![MARKER, MARKER])), 1, "the allocator sees keys");
    assert_eq!(freed_on_purpose(&keys, || drop(HEX.to_owned())), 1);

    let dir = tempfile::Builder::new().prefix("nf-zeroised-").tempdir_in("/dev/shm").unwrap();
    for engine in ["aes-gcm", "auto"] {
        for (sa, spi) in [GCM, CHACHA, CBC, NULL] {
            let case = format!("{engine}, SA {spi}");
            let file = dir.path().join("nf.toml");
            // Not in one string, which would be a block with a key in it.
            std::fs::write(&file, format!("[crypto]\nengine = \"{engine}\"\n[sad]\ncapacity = 64\n")).unwrap();
            let mut config = std::fs::File::options().append(true).open(&file).unwrap();
            std::io::Write::write_all(&mut config, sa.as_bytes()).unwrap();
            assert_eq!(freed_with(&keys, || drop(Config::load(&file).unwrap())), 0, "{case}: nf.toml");

            let config = Config::load(&file).unwrap();
            let count = freed_with(&keys, || {
                let ports = Vec::new();
                let registry = nf_core::plugin::Registry::builtin();
                let sinks = nf_core::notify::FanOut::default();
                let (controller, cores) =
                    nf_core::control::controller::Controller::new(&config, registry, ports, 1, sinks).unwrap();
                drop((controller, cores));
            });
            assert_eq!(count, 0, "{case}: an SA's life");
            assert_eq!(freed_with(&keys, || drop(config)), 0, "{case}: the configuration");
        }
    }

    let count = freed_with(&keys, || {
        let request = Request::decode(ADD).unwrap();
        let Request::SaAdd { sa } = request else { panic!() };
        drop(sa.validate().unwrap());
        let Request::SaAdd { sa } = Request::decode(WRONG).unwrap() else { panic!() };
        assert!(sa.validate().is_err());
    });
    assert_eq!(count, 0, "a request");

    // The whole way: client, socket, control thread, core, state, and back.
    let count = freed_with(&keys, || {
        let state =
            StateConfig { file: dir.path().join("run/state"), key: KeyPlace::Directory(dir.path().join("key")) };
        let open = || Keeper::open(&state, 100, dpdk_rs::map_words).unwrap();
        let mut nf = Nf::new("[sad]\ncapacity = 64\ndeleted_memory_s = 0\n", 1);
        nf.controller.keep_state_with(open(), &mut nf.cores).unwrap();
        let nf = add_over_socket(nf, &dir.path().join("nf.sock"));
        drop(nf);
        // Killed, and restored.
        let mut nf = Nf::new("", 1);
        assert_eq!(nf.controller.keep_state_with(open(), &mut nf.cores).unwrap(), 1);
        nf.control(|controller| controller.delete_sa(Spi(2002), None, None)).unwrap();
        nf.controller.discard_state();
    });
    assert_eq!(count, 0, "over the socket, into the state and back");
}

fn add_over_socket(nf: Nf, path: &Path) -> Nf {
    let server = ControlServer::bind(path).unwrap();
    let Nf { controller, mut cores, holding, now, output } = nf;
    let file = ConfigFile { path: path.with_extension("toml"), config: Config::default() };
    let mut daemon = Daemon { controller, platform: NoPorts, audit: server.audit(), file };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                cores.iter_mut().for_each(nf_core::core::Core::poll_commands);
                std::thread::yield_now();
            }
        });
        scope.spawn(|| {
            let mut client = Client::connect(path).unwrap();
            let sa: SaSpec = serde_json::from_str(SPEC).unwrap();
            client.call::<()>(&Request::SaAdd { sa: Box::new(sa) }).unwrap();
            let refused = client.call::<serde_json::Value>(&json!({"op": "sa-add", "sa": {}}));
            assert!(refused.is_err());
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            server.serve(&mut daemon, Duration::from_millis(5));
            daemon.controller.tick(Nanos(1));
        }
        while !daemon.controller.is_state_written() {
            daemon.controller.tick(Nanos(1));
        }
    });
    Nf { controller: daemon.controller, cores, holding, now, output }
}
