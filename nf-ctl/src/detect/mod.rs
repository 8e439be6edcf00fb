//! Finds the IKE daemons that live on this host, so that no second one is run beside them.
//!
//! Two IKE endpoints with one identity destroy each other's SAs: the INITIAL_CONTACT of one makes the peer drop what the
//! other has (RFC 7296 2.4). So before nf-ctl speaks IKE itself it looks for whoever holds UDP port 500 or 4500 and for
//! whoever answers on a VICI socket, and [`conflict`] tells whether that is in the way.

mod proc_net;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::backend::{Connection, IkeBackend};
use crate::vici::Charon;

/// The ports of IKE (RFC 7296 2, RFC 3948).
const PORTS: [u16; 2] = [500, 4500];

/// Where the kernel shows the sockets of this process's network namespace.
pub const OWN_NETWORK: &str = "/proc/self/net";

/// A process that speaks IKE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IkeDaemon {
    /// Its process; none where it is another user's or another namespace's.
    pub pid: Option<u32>,
    /// Its program.
    pub program: Option<String>,
    /// The IKE ports that it holds.
    pub udp: Vec<SocketAddr>,
    /// The VICI socket that it answers on.
    pub vici: Option<PathBuf>,
    /// The peers that it is configured for, as far as it tells.
    pub connections: Vec<Connection>,
}

impl fmt::Display for IkeDaemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program.as_deref().unwrap_or("another process"))?;
        match self.pid {
            Some(pid) => write!(f, " (pid {pid})"),
            None => f.write_str(" (whose pid this user can't see)"),
        }
    }
}

/// An endpoint that is about to be run: an address, and what it would call itself and its peer.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Our address.
    pub local: IpAddr,
    /// Who we would say we are.
    pub local_id: &'a str,
    /// Who the peer has to be.
    pub remote_id: &'a str,
}

/// Why an endpoint must not be run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Conflict {
    /// The ports are taken.
    #[error("{daemon} holds UDP {socket}: stop it, or let it speak IKE with backend = \"vici\"")]
    Port {
        /// By whom.
        daemon: Box<IkeDaemon>,
        /// Where.
        socket: SocketAddr,
    },
    /// The identity is taken.
    #[error(
        "{daemon} speaks IKE as `{local_id}` with `{remote_id}` (its connection `{connection}`), and a second endpoint under \
         that identity would destroy its SAs: set backend = \"vici\" and connection = \"{connection}\", or remove it there"
    )]
    Identity {
        /// By whom.
        daemon: Box<IkeDaemon>,
        /// Its name for the peer.
        connection: String,
        /// Our identity.
        local_id: String,
        /// The peer's.
        remote_id: String,
    },
}

/// The IKE daemons that live in a network namespace, this process left out, and those that answer on these VICI sockets,
/// wherever they live. `network` is [`OWN_NETWORK`] or another process's `/proc/PID/net`.
///
/// # Errors
/// When the kernel's list of sockets can't be read.
pub fn find(network: &Path, vici: &[PathBuf]) -> std::io::Result<Vec<IkeDaemon>> {
    let mut sockets = proc_net::udp(network)?;
    sockets.retain(|socket| PORTS.contains(&socket.local.port()));
    // The kernel lists them in the order of a hash: without this the same daemon would be reported by either port.
    sockets.sort_by_key(|socket| socket.local);
    let listeners = proc_net::unix_listeners(network)?;
    let wanted = sockets.iter().map(|socket| socket.inode).chain(listeners.iter().map(|listener| listener.inode));
    let owners = proc_net::owners(&wanted.collect());

    // By process; sockets whose process can't be seen are one daemon.
    let mut daemons: BTreeMap<Option<u32>, IkeDaemon> = BTreeMap::new();
    for socket in &sockets {
        let pid = owners.get(&socket.inode).copied();
        if pid == Some(std::process::id()) {
            continue;
        }
        let daemon = daemons.entry(pid).or_insert_with(|| unnamed(pid));
        daemon.udp.push(socket.local);
    }
    for listener in &listeners {
        let pid = owners.get(&listener.inode).copied();
        let Some(daemon) = pid.and_then(|pid| daemons.get_mut(&Some(pid))) else { continue };
        if daemon.vici.is_none() && is_vici(&listener.path) {
            ask(daemon, &listener.path);
        }
    }
    let mut daemons: Vec<IkeDaemon> = daemons.into_values().collect();
    for path in vici {
        if daemons.iter().any(|daemon| daemon.vici.as_deref() == Some(path)) {
            continue;
        }
        let listener = listeners.iter().find(|listener| listener.path == *path);
        let mut daemon = unnamed(listener.and_then(|listener| owners.get(&listener.inode).copied()));
        ask(&mut daemon, path);
        if daemon.vici.is_some() {
            daemons.push(daemon);
        }
    }
    Ok(daemons)
}

fn unnamed(pid: Option<u32>) -> IkeDaemon {
    let program = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    let program = program.map(|name| name.trim_end().to_owned());
    IkeDaemon { pid, program, udp: Vec::new(), vici: None, connections: Vec::new() }
}

/// Other sockets of a daemon aren't tried: they may take a connection and never answer.
fn is_vici(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains("vici"))
}

/// Asks over VICI who is there, and for its peers. Nothing is noted if nobody answers.
fn ask(daemon: &mut IkeDaemon, path: &Path) {
    let mut charon = Charon::new(path);
    if let Ok(version) = charon.version() {
        daemon.program.get_or_insert(version.daemon);
        daemon.vici = Some(path.to_owned());
        daemon.connections = charon.connections().unwrap_or_default();
    }
}

/// What keeps an endpoint from being run beside these daemons. An identity that is taken comes first, as it tells more.
pub fn conflict(daemons: &[IkeDaemon], endpoint: Endpoint<'_>) -> Option<Conflict> {
    let identities = daemons.iter().flat_map(|daemon| daemon.connections.iter().map(move |known| (daemon, known)));
    let mut same = identities.filter(|(_, connection)| is_same(connection, endpoint));
    if let Some((daemon, connection)) = same.next() {
        return Some(Conflict::Identity {
            daemon: Box::new(daemon.clone()),
            connection: connection.name.clone(),
            local_id: endpoint.local_id.to_owned(),
            remote_id: endpoint.remote_id.to_owned(),
        });
    }
    let sockets = daemons.iter().flat_map(|daemon| daemon.udp.iter().map(move |socket| (daemon, *socket)));
    let mut taken = sockets.filter(|(_, socket)| overlaps(socket.ip(), endpoint.local));
    taken.next().map(|(daemon, socket)| Conflict::Port { daemon: Box::new(daemon.clone()), socket })
}

/// A connection without identities goes by its addresses.
fn is_same(connection: &Connection, endpoint: Endpoint<'_>) -> bool {
    let ids = |ids: &[String], addresses: &[String]| if ids.is_empty() { addresses.to_vec() } else { ids.to_vec() };
    let local = ids(&connection.local_ids, &connection.local_addrs);
    let remote = ids(&connection.remote_ids, &connection.remote_addrs);
    local.iter().any(|id| id == endpoint.local_id)
        && remote.iter().any(|id| id == endpoint.remote_id || id.starts_with("%any"))
}

/// An unspecified address holds all; that of IPv6 those of IPv4 as well, unless its socket is for IPv6 only, which the
/// kernel doesn't show.
fn overlaps(held: IpAddr, wanted: IpAddr) -> bool {
    match held {
        held if held == wanted => true,
        IpAddr::V4(held) => held.is_unspecified() && wanted.is_ipv4(),
        IpAddr::V6(held) => {
            held.is_unspecified() || held.to_ipv4_mapped().is_some_and(|held| overlaps(IpAddr::V4(held), wanted))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn daemon(udp: &[&str], connections: Vec<Connection>) -> IkeDaemon {
        IkeDaemon {
            pid: Some(17),
            program: Some("charon".to_owned()),
            udp: udp.iter().map(|socket| socket.parse().unwrap()).collect(),
            vici: None,
            connections,
        }
    }

    fn connection(local: &str, remote: &str) -> Connection {
        Connection {
            name: "gw".to_owned(),
            local_ids: vec![local.to_owned()],
            remote_ids: vec![remote.to_owned()],
            ..Connection::default()
        }
    }

    const HUB: Endpoint<'_> = Endpoint {
        local: IpAddr::V4(std::net::Ipv4Addr::new(10, 10, 1, 2)),
        local_id: "hub.example",
        remote_id: "branch.example",
    };

    #[test]
    fn an_address_is_held_by_itself_and_by_wildcards() {
        for (held, conflicts) in [
            ("10.10.1.2:500", true),
            ("0.0.0.0:500", true),
            ("[::]:4500", true),
            ("[::ffff:10.10.1.2]:500", true),
            ("10.10.1.3:500", false),
            ("[2001:db8::1]:500", false),
        ] {
            assert_eq!(conflict(&[daemon(&[held], Vec::new())], HUB).is_some(), conflicts, "{held}");
        }
        let message = conflict(&[daemon(&["0.0.0.0:500"], Vec::new())], HUB).unwrap().to_string();
        assert_eq!(
            message,
            "charon (pid 17) holds UDP 0.0.0.0:500: stop it, or let it speak IKE with backend = \"vici\""
        );
    }

    #[test]
    fn an_identity_is_held_wherever_the_daemon_listens() {
        let taken = conflict(&[daemon(&[], vec![connection("hub.example", "branch.example")])], HUB).unwrap();
        let message = taken.to_string();
        assert!(message.starts_with("charon (pid 17) speaks IKE as `hub.example` with `branch.example`"), "{message}");
        assert!(message.contains("connection = \"gw\""), "{message}");
        assert!(conflict(&[daemon(&[], vec![connection("hub.example", "%any")])], HUB).is_some());
        assert!(conflict(&[daemon(&[], vec![connection("hub.example", "other.example")])], HUB).is_none());
        assert!(conflict(&[daemon(&[], vec![connection("other.example", "branch.example")])], HUB).is_none());
        let by_address = Connection {
            local_addrs: vec!["10.10.1.2".to_owned()],
            remote_addrs: vec!["%any".to_owned()],
            ..Connection::default()
        };
        let endpoint = Endpoint { local_id: "10.10.1.2", remote_id: "10.10.1.1", ..HUB };
        assert!(conflict(&[daemon(&[], vec![by_address])], endpoint).is_some());
    }

    #[test]
    fn this_process_is_in_nobodys_way() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let listed = proc_net::udp(Path::new(OWN_NETWORK)).unwrap();
        let ours = listed.iter().find(|listed| listed.local.port() == port).unwrap();
        assert_eq!(proc_net::owners(&[ours.inode].into()).get(&ours.inode), Some(&std::process::id()));
        let found = find(Path::new(OWN_NETWORK), &[PathBuf::from("/nonexistent/charon.vici")]).unwrap();
        assert!(found.iter().all(|daemon| daemon.pid != Some(std::process::id())), "{found:?}");
    }
}
