//! A laboratory for IKE and ESP: two gateways in network namespaces of their own, joined by a cable, a network behind each.
//!
//! ```text
//!   branch 10.1.0.1 ── peer ── wan 10.10.1.1 ═══ wan 10.10.1.2 ── head ── lan ── inside 10.2.0.1
//! ```
//! The peer runs a real charon. The head-end runs nf-core on net_af_packet, or a charon of its own. Everything needs root;
//! `scripts/test-as-root.sh` runs these tests. All of it goes when it is dropped, by a panic too.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test binary uses its part of this; a failed unwrap is a failed test"
)]

pub mod charon;
pub mod connection;
pub mod netns;
pub mod traffic;

use std::time::{Duration, Instant};

use crate::common::{Daemon, nf_core};
use charon::{Charon, Esp, KeyType, Pki};
use netns::Namespace;
use traffic::{Capture, FileServer, Ping};

/// The peer's address on the cable between the gateways.
pub const PEER: &str = "10.10.1.1";
/// The head-end's.
pub const HEAD: &str = "10.10.1.2";
/// A host behind the peer.
pub const BRANCH: &str = "10.1.0.1";
/// A host behind the head-end.
pub const INSIDE: &str = "10.2.0.1";
/// The head-end's address for it, where the head-end is a router.
pub const GATEWAY: &str = "10.2.0.254";

/// How long anything that isn't measured may take: machines that run tests are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until there is something; `state` tells what was found instead when it doesn't come.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>, state: impl FnOnce() -> String) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}; instead:\n{}", state());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Tries a command in a namespace until it succeeds; `state` tells what was found instead when it doesn't.
pub fn until(namespace: &Namespace, script: &str, state: impl FnOnce() -> String) -> String {
    let run = || {
        let output = namespace.command("bash").args(["-ec", script]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    };
    wait_for(script, run, state)
}

/// The gateways and the cables between them.
#[derive(Debug)]
pub struct Lab {
    // Daemons' files; dropped last.
    dir: tempfile::TempDir,
    /// The peer: `wan`, and `lo` with the branch's address.
    pub peer: Namespace,
    /// The head-end: `wan`, `lan`.
    pub head: Namespace,
    /// What is behind the head-end: `lan`.
    pub inside: Namespace,
}

impl Lab {
    /// Lays the cables.
    pub fn new() -> Lab {
        let (peer, head, inside) = (Namespace::new("peer"), Namespace::new("head"), Namespace::new("inside"));
        peer.join(&head, "wan");
        head.join(&inside, "lan");
        peer.sh(&format!("ip addr add {PEER}/24 dev wan; ip addr add {BRANCH}/32 dev lo"));
        head.sh(&format!("ip addr add {HEAD}/24 dev wan"));
        inside.sh(&format!("ip addr add {INSIDE}/24 dev lan"));
        Lab { dir: tempfile::tempdir().unwrap(), peer, head, inside }
    }

    /// The place of a file of a test's own.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// A charon at the peer.
    pub fn peer_charon(&self) -> Charon {
        Charon::start(&self.peer, &self.dir.path().join("peer"), &Esp::Libipsec)
    }

    /// A charon at the peer, with more lines in the section `charon` of its strongswan.conf.
    pub fn peer_charon_with(&self, more: &str) -> Charon {
        Charon::start_with(&self.peer, &self.dir.path().join("peer"), &Esp::Libipsec, more)
    }

    /// An nf-core at the peer that has SAs and no traffic.
    pub fn idle_nf_core(&self) -> Daemon {
        let config = r#"
[eal]
args = ["--no-huge", "--no-pci", "-m", "256", "--vdev=net_null0"]
idle = "sleep"
[[port]]
name = "net_null0"
role = "unprotected"
"#;
        Daemon::start_by(&mut self.peer.command(nf_core()), config)
    }

    /// A charon at the peer whose SAs are an nf-core's.
    pub fn peer_charon_on(&self, nf_core: &Daemon) -> Charon {
        Charon::start(&self.peer, &self.dir.path().join("peer"), &Esp::NfCore(nf_core.socket()))
    }

    /// A charon at the head-end, which then is the inside host as well: there is no nf-core.
    pub fn head_charon(&self) -> Charon {
        self.head.sh(&format!("ip addr replace {INSIDE}/32 dev lo"));
        Charon::start(&self.head, &self.dir.path().join("head"), &Esp::Libipsec)
    }

    /// A charon at the head-end whose SAs are nf-core's.
    pub fn head_charon_on(&self, nf_core: &Daemon) -> Charon {
        Charon::start(&self.head, &self.dir.path().join("head"), &Esp::NfCore(nf_core.socket()))
    }

    /// A certificate authority, and a certificate for each gateway.
    pub fn pki(&self, keys: KeyType) -> Pki {
        Pki::new(&self.dir.path().join("pki"), keys)
    }

    /// nf-core at the head-end. `more` is added to its configuration, where `{dir}` stands for its directory. It sees
    /// what comes in on `wan` and sends what it decapsulates to the inside host.
    pub fn nf_core(&self, more: &str) -> Daemon {
        let inside_mac = self.inside.sh("cat /sys/class/net/lan/address");
        let config = format!(
            r#"
[eal]
args = ["--no-huge", "--no-pci", "-m", "256", "--vdev=net_af_packet0,iface=wan", "--vdev=net_af_packet1,iface=lan"]
idle = "sleep"
[[port]]
name = "net_af_packet0"
role = "unprotected"
[[port]]
name = "net_af_packet1"
role = "protected"
next_hop_mac = "{}"
[[local]]
address = "{HEAD}"
{more}"#,
            inside_mac.trim()
        );
        Daemon::start_by(&mut self.head.command(nf_core()), &config)
    }

    /// nf-core at the head-end as on a machine whose NICs are DPDK's: the addresses are those of interfaces behind its
    /// exception ports, `wan-host` and `lan-host`, which share the MAC of `wan` and `lan`. Those two are but cables here.
    pub fn nf_core_as_host(&self, more: &str) -> Daemon {
        Lab::checksums(&[&self.peer, &self.head, &self.inside]);
        Lab::router(&self.head, HEAD, GATEWAY, more)
    }

    /// Who sends over a cable leaves checksums to hardware that isn't there, and the receiver knows; nf-core doesn't.
    pub fn checksums(namespaces: &[&Namespace]) {
        for namespace in namespaces {
            namespace.sh("for i in wan lan; do [ ! -e /sys/class/net/$i ] || ethtool -K $i tx off > /dev/null; done");
        }
    }

    /// As [`Lab::nf_core_as_host`], in any namespace with a `wan` and a `lan`, with these addresses there; `more` may begin
    /// with fields of the protected port.
    pub fn router(namespace: &Namespace, outside: &str, gateway: &str, more: &str) -> Daemon {
        namespace.sh("for i in wan lan; do
               ip addr flush dev $i
               sysctl -qw net.ipv6.conf.$i.disable_ipv6=1 net.ipv4.conf.$i.arp_ignore=1 net.ipv4.conf.$i.rp_filter=1
             done");
        let config = format!(
            r#"
[eal]
args = ["--no-huge", "--no-pci", "-m", "256", "--vdev=net_af_packet0,iface=wan", "--vdev=net_af_packet1,iface=lan",
        "--vdev=net_tap0,iface=wan-host", "--vdev=net_tap1,iface=lan-host"]
idle = "sleep"
[[port]]
name = "net_af_packet0"
role = "unprotected"
[[port]]
name = "net_af_packet1"
role = "protected"
{more}
[[port]]
name = "net_tap0"
role = "exception"
for = "net_af_packet0"
[[port]]
name = "net_tap1"
role = "exception"
for = "net_af_packet1"
[[local]]
address = "{outside}"
"#
        );
        let daemon = Daemon::start_by(&mut namespace.command(nf_core()), &config);
        namespace.sh(&format!(
            "ip addr add {outside}/24 dev wan-host; ip addr add {gateway}/24 dev lan-host
             ip link set wan-host up; ip link set lan-host up"
        ));
        daemon
    }

    /// Lets the inside host send to the branch by nf-core, as its router; gives what nf-core's configuration has to say of
    /// the way there.
    pub fn route_to_branch(&self) -> String {
        let mac = |namespace: &Namespace, interface: &str| {
            namespace.sh(&format!("cat /sys/class/net/{interface}/address")).trim().to_owned()
        };
        self.inside.sh(&format!(
            "ip neigh add {GATEWAY} lladdr {} dev lan nud permanent; ip route add {BRANCH} via {GATEWAY} dev lan",
            mac(&self.head, "lan")
        ));
        format!(
            r#"
[[route]]
dst = "10.10.1.0/24"
port = "net_af_packet0"
[[route]]
dst = "{BRANCH}"
via = "{PEER}"
port = "net_af_packet0"
[[neighbour]]
address = "{PEER}"
mac = "{}"
port = "net_af_packet0"
[[policy]]
dst = ["{BRANCH}"]
action = "protect"
peer = "branch"
"#,
            mac(&self.peer, "wan")
        )
    }

    /// Pings from the inside host to the branch.
    pub fn ping_outwards(&self, interval: Duration) -> Ping {
        Ping::start(&self.inside, INSIDE, BRANCH, interval)
    }

    /// A web server at the inside host, with a file of so many octets.
    pub fn serve_inside(&self, octets: usize) -> FileServer {
        FileServer::start(&self.inside, INSIDE, &self.path("served"), octets)
    }

    /// Kills nf-core, if it still runs, and starts it anew.
    pub fn restart_nf_core(&self, daemon: &mut Daemon) {
        daemon.restart_by(&mut self.head.command(nf_core()));
    }

    /// Pings from the branch to the inside host.
    pub fn ping(&self, interval: Duration) -> Ping {
        Ping::start(&self.peer, BRANCH, INSIDE, interval)
    }

    /// What the inside host sees.
    pub fn watch_inside(&self) -> Capture {
        Capture::start(&self.inside, "lan", "icmp", &self.dir.path().join("inside"))
    }

    /// What comes out of the peer's tunnel; its charon has to be running.
    pub fn watch_branch(&self) -> Capture {
        Capture::start(&self.peer, "ipsec0", "icmp", &self.dir.path().join("branch"))
    }

    /// The ESP packets, with or without UDP, that come to the head-end.
    pub fn watch_esp(&self) -> Capture {
        let filter = format!("dst host {HEAD} and (esp or (udp port 4500 and udp[8:4] != 0))");
        Capture::start(&self.head, "wan", &filter, &self.dir.path().join("esp"))
    }

    /// The IKE messages, both ways.
    pub fn watch_ike(&self) -> Capture {
        let filter = "udp port 500 or (udp port 4500 and udp[4:2] > 9 and udp[8:4] = 0)";
        Capture::start(&self.head, "wan", filter, &self.dir.path().join("ike"))
    }
}
