//! One EAL for all tests of a process, without hugepages or root, and ports made as they need them.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use dpdk_rs::{Burst, Eal, Mbuf, Mempool, Port, PortConfig, RxQueue, SocketId, StartedPort, TxQueue};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};

static EAL: OnceLock<Eal> = OnceLock::new();
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The EAL, with one worker: two lcores that share the first CPU this process may use.
pub(crate) fn eal() -> Eal {
    *EAL.get_or_init(|| {
        let cpu = first_cpu();
        let args = [
            "--no-huge".to_owned(),
            "--no-pci".to_owned(),
            "--no-shconf".to_owned(),
            "--log-level=lib.eal:error".to_owned(),
            "--log-level=user1:error".to_owned(),
            "-m".to_owned(),
            "256".to_owned(),
            format!("--lcores=0@{cpu},1@{cpu}"),
            format!("--file-prefix={}", file_prefix()),
        ];
        let eal = Eal::init(args).unwrap();
        // SAFETY: registers a function that needs nothing but the static above.
        assert_eq!(unsafe { libc::atexit(tidy_up) }, 0);
        eal
    })
}

/// Removes the directory that the EAL made for this process.
extern "C" fn tidy_up() {
    let Some(dir) = EAL.get().map(|eal| eal.runtime_dir()) else { return };
    if dir.ends_with(file_prefix()) {
        // A test has no one left to tell of an error here.
        let _ = std::fs::remove_dir_all(dir);
    }
}

fn file_prefix() -> String {
    format!("dpdk-rs-test-{}", std::process::id())
}

fn first_cpu() -> usize {
    // SAFETY: an all-zero cpu_set_t is an empty set, and the call writes within its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set), 0);
        (0..1024).find(|cpu| libc::CPU_ISSET(*cpu, &set)).unwrap()
    }
}

/// A name that no other test of this process uses.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn pool(data_room: u16) -> Mempool {
    Mempool::create(eal(), &unique("pool"), 511, 0, data_room, SocketId::ANY).unwrap()
}

pub(crate) fn packet(pool: &Mempool, bytes: &[u8]) -> Mbuf {
    let mut packet = pool.alloc().unwrap();
    packet.append(bytes.len()).unwrap().copy_from_slice(bytes);
    packet
}

pub(crate) fn bytes(packet: &Mbuf) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}

/// Attaches a device of `driver` and finds its port.
pub(crate) fn attach(driver: &str, args: &str) -> Port {
    let name = unique(driver);
    eal().attach_vdev(&name, args).unwrap();
    Port::by_name(eal(), &name).unwrap()
}

pub(crate) fn start(port: &Port, pool: &Mempool) -> (StartedPort, RxQueue, TxQueue) {
    let (port, mut rx, mut tx) = port.configure(&PortConfig::default(), pool).unwrap().start().unwrap();
    assert_eq!((rx.len(), tx.len()), (1, 1));
    (port, rx.pop().unwrap(), tx.pop().unwrap())
}

pub(crate) fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let header = PcapHeader { snaplen: 1 << 18, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(std::fs::File::create(path).unwrap(), header).unwrap();
    for frame in frames {
        let len = u32::try_from(frame.len()).unwrap();
        writer.write_packet(&PcapPacket::new(std::time::Duration::ZERO, len, frame)).unwrap();
    }
}

pub(crate) fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = PcapReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        frames.push(packet.unwrap().data.into_owned());
    }
    frames
}

/// All packets that the queue has, burst by burst.
pub(crate) fn drain(queue: &mut RxQueue) -> Vec<Mbuf> {
    let mut packets = Vec::new();
    let mut burst = Burst::<32>::new();
    while queue.recv(&mut burst) > 0 {
        packets.extend(burst.drain());
    }
    packets
}
