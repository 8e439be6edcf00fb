//! net_tap and net_af_packet, in network namespaces of their own. They need root: `make test` runs them where it is root,
//! and says so where it isn't.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
mod lab;

use std::fs;

use common::{Daemon, fixture, nf_core};
use lab::netns::Namespace;
use serde_json::Value;

/// The fixture's SA as an `[[sa]]` table, and its ESP packets.
fn natt_fixture() -> (String, Vec<Vec<u8>>) {
    let text = fs::read_to_string(fixture("natt-gcm128.json")).unwrap();
    let sa = serde_json::from_str::<Value>(&text).unwrap()["sas"][0].clone();
    let fields = sa.as_object().unwrap().iter().map(|(key, value)| format!("{key} = {value}\n"));
    let capture = fs::read(fixture("natt-gcm128.pcap")).unwrap();
    let mut packets = Vec::new();
    let mut at = 24;
    while let Some(record) = capture.get(at..at + 16) {
        let len = u32::from_le_bytes(record[8..12].try_into().unwrap()) as usize;
        let frame = &capture[at + 16..at + 16 + len];
        let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        packets.push(frame[14 + 20 + 8..14 + total].to_vec());
        at += 16 + len;
    }
    (format!("[[sa]]\n{}", fields.collect::<String>()), packets)
}

/// ESP in UDP from the kernel's stack through the first port into the network function and out on the second; all that isn't
/// ESP is dropped under its own reason. So many of the ports check the IPv4 header's checksum.
fn decapsulates(namespace: &Namespace, vdevs: &str, ports: (&str, &str), checking: usize, before: &str, after: &str) {
    let (sa, packets) = natt_fixture();
    namespace.sh(before);
    let config = format!(
        r#"
[eal]
args = ["--no-huge", "--no-pci", "-m", "256", {vdevs}]
idle = "sleep"
[[port]]
name = "{}"
role = "unprotected"
[[port]]
name = "{}"
role = "protected"
next_hop_mac = "02:00:00:00:00:99"
[[local]]
address = "10.10.1.2"
{sa}"#,
        ports.0, ports.1
    );
    let mut daemon = Daemon::start_by(&mut namespace.command(nf_core()), &config);
    namespace.sh(after);
    for (number, packet) in packets.iter().enumerate() {
        let file = daemon.dir.path().join(format!("packet{number}"));
        fs::write(&file, packet).unwrap();
        namespace.sh(&format!("cat {} > /dev/udp/10.10.1.2/4500", file.display()));
    }
    let all = packets.len() as u64;
    daemon.wait("decapsulated packets", |daemon| daemon.counters()["tx"]["packets"] == all);
    // Again: replays.
    let first = daemon.dir.path().join("packet0");
    namespace.sh(&format!("cat {} > /dev/udp/10.10.1.2/4500", first.display()));
    daemon.wait("the replay", |daemon| daemon.dropped(19) == 1);
    // A header whose checksum is wrong, and only that: the kernel's stack sends none.
    let header = "450000240000000040110000 0a0a0101 0a0a0102";
    let frame = format!("020000000002 020000000001 0800 {header} 11941194 00100000 00001001 00000001");
    namespace.sh(&format!(
        "python3 -c \"import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('wan0', 0))
s.send(bytes.fromhex('{frame}'))\""
    ));
    daemon.wait("the wrong checksum", |daemon| daemon.dropped(202) == 1);
    let status = daemon.ok(&["show", "status"]);
    assert_eq!(status.matches("offloads: rx IPV4_CKSUM").count(), checking, "{status}");
    assert!(status.contains(ports.0) && status.contains("link up"), "{status}");
    assert!(daemon.stop().0.success());
}

#[test]
#[ignore = "needs root"]
fn net_af_packet_over_veth() {
    let namespace = Namespace::new("afp");
    decapsulates(
        &namespace,
        "\"--vdev=net_af_packet0,iface=wan1\", \"--vdev=net_af_packet1,iface=lan1\"",
        ("net_af_packet0", "net_af_packet1"),
        0,
        "ip link add wan0 type veth peer name wan1; ip link add lan0 type veth peer name lan1
         for i in wan0 wan1 lan0 lan1; do ip link set $i up; done",
        "ip addr add 10.10.1.1/24 dev wan0
         ip neigh add 10.10.1.2 lladdr 02:00:00:00:00:02 dev wan0",
    );
}

/// The way out goes down under traffic: what can't be sent is dropped and counted, the operator is told, and once the link is
/// back all is as before.
#[test]
#[ignore = "needs root"]
fn a_port_that_goes_down_comes_back() {
    let (sa, packets) = natt_fixture();
    let namespace = Namespace::new("down");
    let config = format!(
        r#"
[eal]
args = ["--no-huge", "--no-pci", "-m", "256", "--vdev=net_tap0,iface=wan0", "--vdev=net_tap1,iface=lan0"]
idle = "sleep"
[[port]]
name = "net_tap0"
role = "unprotected"
[[port]]
name = "net_tap1"
role = "protected"
next_hop_mac = "02:00:00:00:00:99"
[[local]]
address = "10.10.1.2"
{sa}replay_window = 0
"#
    );
    let config = config.replacen("replay_window = 64\n", "", 1);
    let mut daemon = Daemon::start_by(&mut namespace.command(nf_core()), &config);
    namespace.sh("ip link set wan0 up; ip link set lan0 up
         ip addr add 10.10.1.1/24 dev wan0; ip neigh add 10.10.1.2 lladdr 02:00:00:00:00:02 dev wan0");
    let file = daemon.dir.path().join("packet");
    fs::write(&file, &packets[0]).unwrap();
    let counters = |daemon: &Daemon| {
        let counters = daemon.counters();
        let tx = counters["tx"]["packets"].as_u64().unwrap();
        (counters["rx"]["packets"].as_u64().unwrap(), tx, daemon.dropped(215))
    };
    let send = |daemon: &mut Daemon, count: u64| {
        let before = counters(daemon);
        namespace.sh(&format!("for i in $(seq {count}); do cat {} > /dev/udp/10.10.1.2/4500; done", file.display()));
        // Others come and go on the link as well: what counts is what was sealed.
        daemon.wait("each packet's fate", |daemon| {
            let now = counters(daemon);
            now.1 + now.2 >= before.1 + before.2 + count
        });
        let now = counters(daemon);
        (now.1 - before.1, now.2 - before.2)
    };
    assert_eq!(send(&mut daemon, 100), (100, 0));
    namespace.sh("ip link set lan0 down");
    daemon.wait("the link to be seen down", |daemon| daemon.log().contains("link down: check cable"));
    let (sent, refused) = send(&mut daemon, 100);
    assert_eq!(sent + refused, 100);
    assert!(refused > 0, "nothing can be sent on a link that is down");
    namespace.sh("ip link set lan0 up");
    daemon.wait("the link to be seen up", |daemon| daemon.ok(&["show", "status"]).matches("link up").count() == 2);
    // Far more than the port's ring has frames: those of before have not been lost.
    daemon.wait("packets to leave again", |daemon| send(daemon, 10) == (10, 0));
    assert_eq!(send(&mut daemon, 2000), (2000, 0));
    assert!(daemon.stop().0.success());
}

#[test]
#[ignore = "needs root"]
fn net_tap() {
    let namespace = Namespace::new("tap");
    decapsulates(
        &namespace,
        "\"--vdev=net_tap0,iface=wan0\", \"--vdev=net_tap1,iface=lan0\"",
        ("net_tap0", "net_tap1"),
        2,
        "true",
        "ip link set wan0 up; ip link set lan0 up
         ip addr add 10.10.1.1/24 dev wan0
         ip neigh add 10.10.1.2 lladdr 02:00:00:00:00:02 dev wan0",
    );
}
