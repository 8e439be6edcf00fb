//! The kernel's lists of sockets (proc(5), /proc/net) and who owns them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// A bound UDP socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Udp {
    pub(super) local: SocketAddr,
    pub(super) inode: u64,
}

/// A Unix socket that takes connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct UnixListener {
    pub(super) path: PathBuf,
    pub(super) inode: u64,
}

/// All bound UDP sockets of a network namespace. A kernel without IPv6 has none of that.
pub(super) fn udp(network: &Path) -> io::Result<Vec<Udp>> {
    let v4 = fs::read_to_string(network.join("udp"))?;
    let v6 = fs::read_to_string(network.join("udp6")).unwrap_or_default();
    Ok(v4.lines().chain(v6.lines()).filter_map(udp_line).collect())
}

/// `  12: 0100007F:01F4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12345 2 ..`; the head line
/// is none.
fn udp_line(line: &str) -> Option<Udp> {
    let mut columns = line.split_whitespace();
    let (address, port) = columns.nth(1)?.split_once(':')?;
    let inode = columns.nth(7)?.parse().ok()?;
    Some(Udp { local: SocketAddr::new(address_of(address)?, u16::from_str_radix(port, 16).ok()?), inode })
}

/// Words of 32 bits in hex, each as the host has it in memory.
fn address_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = hex.get(at..at.checked_add(8)?)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?)))
        }
        _ => None,
    }
}

/// The listening Unix sockets of a network namespace that have a path.
pub(super) fn unix_listeners(network: &Path) -> io::Result<Vec<UnixListener>> {
    let text = fs::read(network.join("unix"))?;
    // A path may be anything.
    Ok(String::from_utf8_lossy(&text).lines().filter_map(unix_line).collect())
}

/// `0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/charon.vici`.
fn unix_line(line: &str) -> Option<UnixListener> {
    /// __SO_ACCEPTCON of the kernel's linux/net.h.
    const LISTENS: u32 = 0x1_0000;
    let mut columns = line.split_whitespace();
    let flags = u32::from_str_radix(columns.nth(3)?, 16).ok()?;
    let inode = columns.nth(2)?.parse().ok()?;
    let path = columns.next()?;
    (flags & LISTENS != 0 && path.starts_with('/')).then(|| UnixListener { path: PathBuf::from(path), inode })
}

/// Which process has which of these sockets, as far as this user may see that. The parent of several has it.
pub(super) fn owners(inodes: &BTreeSet<u64>) -> BTreeMap<u64, u32> {
    let mut owners = BTreeMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return owners };
    let mut pids: Vec<u32> = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        // Processes end at any time, and others' aren't shown.
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for target in files.filter_map(|file| fs::read_link(file.ok()?.path()).ok()) {
            let inode =
                target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                owners.entry(inode).or_insert(pid);
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_udp_are_read() {
        let head =
            "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref";
        assert_eq!(udp_line(head), None);
        let ip = u32::from_ne_bytes([127, 0, 0, 1]);
        let line = format!(
            "  500: {ip:08X}:01F4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12345 2 0 0"
        );
        assert_eq!(udp_line(&line), Some(Udp { local: "127.0.0.1:500".parse().unwrap(), inode: 12345 }));
        let last = u32::from_ne_bytes([0, 0, 0, 1]);
        let line = format!(
            " 501: 000000000000000000000000{last:08X}:1194 00000000000000000000000000000000:0000 07 0:0 00:0 0 0 0 77 2 0 0"
        );
        assert_eq!(udp_line(&line), Some(Udp { local: "[::1]:4500".parse().unwrap(), inode: 77 }));
    }

    #[test]
    fn lines_of_unix_are_read() {
        assert_eq!(unix_line("Num       RefCount Protocol Flags    Type St Inode Path"), None);
        let listener = UnixListener { path: "/run/charon.vici".into(), inode: 12345 };
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/charon.vici";
        assert_eq!(unix_line(line), Some(listener));
        assert_eq!(unix_line("0000000000000000: 00000003 00000000 00000000 0001 03 12346 /run/charon.vici"), None);
        assert_eq!(unix_line("0000000000000000: 00000002 00000000 00010000 0001 01 12345 @abstract"), None);
        assert_eq!(unix_line("0000000000000000: 00000002 00000000 00010000 0001 01 12345"), None);
    }

    proptest! {
        #[test]
        fn any_line_is_taken_or_left(line in "\\PC{0,200}", columns in prop::collection::vec("[0-9A-F:]{0,40}", 0..14)) {
            let _ = (udp_line(&line), unix_line(&line));
            let line = columns.join(" ");
            let _ = (udp_line(&line), unix_line(&line));
        }
    }
}
