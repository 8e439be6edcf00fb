//! `nf-core replay` as a program: captures through net_pcap, as an operator plays them.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use common::pcap::{read_pcap, write_pcap};
use common::{Fixture, Peer, fixture_dir, fixtures};
use nf_core::counters::Report;

const MESSAGE: &str = "%CRYPTO-4-RECVD_PKT_INV_SPI: decaps: rec'd IPSEC packet has invalid spi for destaddr=";

fn nf_core() -> Command {
    Command::new(env!("CARGO_BIN_EXE_nf-core"))
}

/// nf-core on another CPU than this one, emulated in user mode.
fn nf_core_on(cpu: &str) -> Command {
    let mut emulator = Command::new("qemu-x86_64");
    emulator.args(["-cpu", cpu, env!("CARGO_BIN_EXE_nf-core")]);
    emulator
}

fn replay(config: &Path, input: &Path, output: &Path, stats: &Path) -> Output {
    replay_by(nf_core(), config, input, output, stats)
}

fn replay_by(mut program: Command, config: &Path, input: &Path, output: &Path, stats: &Path) -> Output {
    program
        .arg("replay")
        .arg("--config")
        .arg(config)
        .args([input, output])
        .arg("--stats-json")
        .arg(stats)
        .output()
        .unwrap()
}

fn report(path: &Path) -> Report {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn conserved(report: &Report) -> bool {
    let consumed: u64 = report.consumed.values().map(|tally| tally.packets).sum();
    let dropped: u64 = report.feature.iter().map(|row| row.packets).sum();
    report.in_flight == 0 && report.rx.packets == report.tx.packets + consumed + dropped
}

#[test]
fn every_fixture_goes_through_the_program() {
    play_fixtures(nf_core, "", &fixtures());
}

/// The default is the fastest engine that the CPU can run; this one every CPU can.
#[test]
fn every_fixture_goes_through_the_portable_engine() {
    play_fixtures(nf_core, "[crypto]\nengine = \"aes-gcm\"\n", &fixtures());
}

/// On crypto devices whose work a library does on the CPU: Debian's libdpdk-dev brings both.
fn by_device(device: &str) -> String {
    format!("[crypto]\nengine = \"cryptodev\"\ndevice = \"{device}\"\n")
}

#[test]
fn every_fixture_goes_through_crypto_devices() {
    // One sender leaves the upper half of the sequence numbers out of the ICV, which devices don't put up with.
    let names: Vec<String> = fixtures().into_iter().filter(|name| name != "esn-cbc128-sha1").collect();
    play_fixtures(nf_core, &by_device("crypto_aesni_mb0"), &names);
    // One of each kind by the other one, which doesn't have ChaCha20-Poly1305.
    let names = [
        "esn-gcm128",
        "bad-icv-cbc",
        "reorder-gcm128",
        "v4-transport-cbc256-sha512",
        "v4-tunnel-null-sha256",
        "vlan-gcm128",
    ];
    play_fixtures(nf_core, &by_device("crypto_openssl0"), &names);
}

/// What the device has no room for is dropped under a reason of its own, and everything is accounted for.
#[test]
fn what_a_device_has_no_room_for_is_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut peer = Peer::new(0x1000);
    let frames: Vec<Vec<u8>> = (0..64).map(|_| peer.next()).collect();
    write_pcap(&path("in.pcap"), &frames);
    let device = by_device("crypto_aesni_mb0");
    std::fs::write(path("nf.toml"), format!("{device}device_depth = 16\n{}", peer.to_toml())).unwrap();
    let out = replay(&path("nf.toml"), &path("in.pcap"), &path("out.pcap"), &path("stats.json"));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report = report(&path("stats.json"));
    assert!(conserved(&report), "{report:?}");
    // A burst is handed over before anything is taken back.
    assert_eq!((report.tx.packets, report.feature(224).unwrap().packets), (16, 48));
    assert_eq!(report.global["IpsecTailDrop"].packets, 48);
}

/// A part of a frame's packet as a fragment, its octets counted behind the IP header.
fn cut(frame: &[u8], id: u16, part: Range<usize>, more: bool) -> Vec<u8> {
    let (headers, payload) = frame.split_at(34);
    let mut fragment = headers.to_vec();
    let flags = (part.start / 8) as u16 | u16::from(more) << 13;
    fragment[16..18].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
    fragment[18..20].copy_from_slice(&id.to_be_bytes());
    fragment[20..22].copy_from_slice(&flags.to_be_bytes());
    nf_core::wire::ipv4::refresh_checksum(&mut fragment[14..]);
    fragment.extend(&payload[part]);
    fragment.resize(fragment.len().max(60), 0);
    fragment
}

/// Fragments that leave a hole and fill another place twice: the attacker's are all counted, and take up no room for good.
#[test]
fn a_flood_of_datagrams_with_a_hole_leaves_room_for_whole_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut peer = Peer::new(0x1000);
    let frame = peer.next();
    let sets = 1000;
    let mut frames: Vec<Vec<u8>> = (0..sets)
        .flat_map(|id| [(0..8, true), (16..24, true), (16..24, true), (24..32, false)].map(|part| (id, part)))
        .map(|(id, (part, more))| cut(&frame, id, part, more))
        .collect();
    let octets = frame.len() - 34;
    frames.extend([cut(&frame, sets, 0..24, true), cut(&frame, sets, 24..octets, false)]);
    write_pcap(&path("in.pcap"), &frames);
    std::fs::write(path("nf.toml"), format!("[eal]\nmbufs = 2048\n{}", peer.to_toml())).unwrap();
    let out = replay(&path("nf.toml"), &path("in.pcap"), &path("out.pcap"), &path("stats.json"));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report = report(&path("stats.json"));
    assert!(conserved(&report), "{report:?}");
    assert_eq!((report.tx.packets, report.feature(70).unwrap().packets), (1, 4 * u64::from(sets)));
}

#[test]
fn what_a_device_cannot_do_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let play = |crypto: &str, name: &str| {
        std::fs::write(path("nf.toml"), format!("{crypto}{}", Fixture::load(name).config)).unwrap();
        let input = fixture_dir().join(format!("{name}.pcap"));
        replay(&path("nf.toml"), &input, &path("out.pcap"), &path("stats.json"))
    };
    refused(
        &play(&by_device("crypto_openssl0"), "v4-tunnel-chacha20"),
        "chacha20-poly1305: crypto device \"crypto_openssl0\": its driver crypto_openssl doesn't know the algorithm; change",
    );
    refused(
        &play(&by_device("0000:01:00.0_qat_sym"), "v4-tunnel-gcm128"),
        "there is no crypto device \"0000:01:00.0_qat_sym\"",
    );
    refused(&play("[crypto]\nengine = \"cryptodev\"\n", "v4-tunnel-gcm128"), "cryptodev needs a device");
    assert!(!path("out.pcap").exists());
    // An ICV that lacks the upper half of the sequence number is wrong to a device.
    let out = play(&by_device("crypto_aesni_mb0"), "esn-cbc128-sha1");
    assert!(out.status.success());
    let report = report(&path("stats.json"));
    assert_eq!((report.tx.packets, report.feature(62).unwrap().packets), (0, report.rx.packets));
}

/// The build is for every CPU that DPDK runs on; what a CPU has beyond that is found when the program starts. On one
/// without AES instructions, one with them and without AVX, and one with AVX2, it takes other paths than here, and dies
/// on none of them: algorithms of each kind go through.
#[test]
#[cfg(target_arch = "x86_64")]
fn fixtures_go_through_on_older_cpus() {
    use std::io::Write;

    if let Err(why) = Command::new("qemu-x86_64").arg("--version").output() {
        let message = format!("NOT RUN: nf-core on older CPUs: qemu-x86_64: {why}; run: make deps-test");
        // Past libtest, which keeps what a test that passes prints.
        let _ = writeln!(std::io::stderr(), "{message}");
        return;
    }
    let names = ["esn-gcm128", "v4-tunnel-cbc256-sha512", "v4-tunnel-cbc128-sha1", "v4-tunnel-chacha20"];
    for cpu in ["Nehalem", "Westmere", "Haswell"] {
        play_fixtures(|| nf_core_on(cpu), "", &names);
    }
}

fn play_fixtures(program: impl Fn() -> Command, config: &str, names: &[impl AsRef<str>]) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in names.iter().map(AsRef::as_ref) {
        let fixture = Fixture::load(name);
        std::fs::write(path("nf.toml"), format!("{config}{}", fixture.config)).unwrap();
        let input = fixture_dir().join(format!("{name}.pcap"));
        let out = replay_by(program(), &path("nf.toml"), &input, &path("out.pcap"), &path("stats.json"));
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{name}: {}: {stderr}", out.status);
        fixture.check_output(&read_pcap(&path("out.pcap")));

        let report = report(&path("stats.json"));
        assert!(conserved(&report), "{name}: {report:?}");
        assert_eq!(report.rx.packets, fixture.frames.len() as u64, "{name}");
        assert_eq!(report.tx.packets, fixture.inner.len() as u64, "{name}");
        let dropped: u64 = fixture.drops.iter().map(|(_, count)| count).sum();
        assert_eq!(report.global["IpsecInput"].packets, dropped, "{name}");

        // One message for each flow on an unknown SPI, and none otherwise.
        let unknown = fixture.drops.iter().any(|(kind, _)| kind == "unknown_spi");
        let lines: Vec<&str> = stderr.lines().filter(|line| line.contains("RECVD_PKT_INV_SPI")).collect();
        assert_eq!(!lines.is_empty(), unknown, "{name}: {stderr}");
        for line in &lines {
            assert!(line.starts_with(MESSAGE), "{name}: {line}");
            assert!(line.contains(", prot=50, spi=0x") && line.contains("), srcaddr="), "{name}: {line}");
        }
        let mut distinct = lines.clone();
        distinct.dedup();
        assert_eq!(distinct, lines, "{name}: a message twice");
    }
}

/// A refusal: exit code 1, one line on stderr that says this.
fn refused(output: &Output, expected: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("nf-core: ") && stderr.contains(expected), "{stderr}\nexpected: {expected}");
}

#[test]
fn bad_files_are_refused_in_a_sentence_and_nothing_stays_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (config, input) = (path("nf.toml"), fixture_dir().join("v4-tunnel-gcm128.pcap"));
    std::fs::write(&config, "").unwrap();
    let run = |config: &Path, input: &Path, output: &Path| replay(config, input, output, &path("stats.json"));

    refused(&run(&path("none.toml"), &input, &path("out.pcap")), "none.toml: there is no such file");
    refused(&run(&config, &path("none.pcap"), &path("out.pcap")), "none.pcap: No such file");
    refused(&run(&config, &input, &path("no/dir/out.pcap")), "no/dir/out.pcap: No such file");
    std::fs::write(path("text"), "not a capture, but long enough to be one").unwrap();
    refused(&run(&config, &path("text"), &path("out.pcap")), "text: isn't a pcap or pcapng file");
    std::fs::write(path("empty"), "").unwrap();
    refused(&run(&config, &path("empty"), &path("out.pcap")), "empty: isn't a pcap or pcapng file");
    let mut raw_ip = std::fs::read(&input).unwrap();
    raw_ip[20] = 101;
    std::fs::write(path("raw.pcap"), raw_ip).unwrap();
    refused(&run(&config, &path("raw.pcap"), &path("out.pcap")), "link type 101; only Ethernet (1) will do");

    std::fs::write(&config, "[[sa]]\nspi = 1\n").unwrap();
    refused(&run(&config, &input, &path("out.pcap")), "nf.toml:1: ");
    let plugin = "[[plugin]]\ninstance = \"c\"\nplugin = \"nonsense\"\nbind = [{ gate = \"drop\" }]\n";
    std::fs::write(&config, plugin).unwrap();
    refused(
        &run(&config, &input, &path("out.pcap")),
        "there is no plugin `nonsense`; this build has: decap, encap, capture",
    );
    assert!(!path("out.pcap").exists() || std::fs::read(path("out.pcap")).unwrap().is_empty());
}

#[test]
fn a_capture_that_was_cut_off_is_played_as_far_as_it_goes_and_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let fixture = Fixture::load("v4-tunnel-gcm128");
    std::fs::write(path("nf.toml"), &fixture.config).unwrap();
    let whole = std::fs::read(fixture_dir().join("v4-tunnel-gcm128.pcap")).unwrap();
    let frames = fixture.frames.len();
    // Inside the last packet, and inside the header of the first.
    for (octets, last) in [(whole.len() - 5, frames), (24 + 5, 1)] {
        std::fs::write(path("in.pcap"), &whole[..octets]).unwrap();
        let out = replay(&path("nf.toml"), &path("in.pcap"), &path("out.pcap"), &path("stats.json"));
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success() && stderr.contains(&format!("ends inside packet {last}: ")), "{stderr}");
        assert_eq!(report(&path("stats.json")).rx.packets, last as u64 - 1);
    }
}

#[test]
fn the_capture_that_is_read_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let capture = dir.path().join("same.pcap");
    std::fs::copy(fixture_dir().join("v4-tunnel-gcm128.pcap"), &capture).unwrap();
    std::fs::set_permissions(&capture, std::fs::Permissions::from_mode(0o644)).unwrap();
    let before = std::fs::read(&capture).unwrap();
    let config = dir.path().join("nf.toml");
    std::fs::write(&config, "").unwrap();
    refused(&replay(&config, &capture, &capture, &dir.path().join("stats.json")), "is the capture that is read");
    assert_eq!(std::fs::read(&capture).unwrap(), before);
}

#[test]
fn names_that_a_device_could_not_take_are_fine() {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("a,b=c [d] 'e'");
    std::fs::create_dir(&odd).unwrap();
    let fixture = Fixture::load("v4-tunnel-gcm128");
    std::fs::write(odd.join("nf.toml"), &fixture.config).unwrap();
    std::fs::copy(fixture_dir().join("v4-tunnel-gcm128.pcap"), odd.join("in,1.pcap")).unwrap();
    let out = replay(&odd.join("nf.toml"), &odd.join("in,1.pcap"), &odd.join("out,1.pcap"), &odd.join("s.json"));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    fixture.check_output(&read_pcap(&odd.join("out,1.pcap")));
}
