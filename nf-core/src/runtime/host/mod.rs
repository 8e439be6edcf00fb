//! The host's stack behind exception ports: its interfaces follow the ports that they stand for, and its routes and
//! neighbours are mirrored into the cores.
//!
//! Routes and neighbours are read anew as a whole whenever the kernel says that they have changed: what the cores have
//! can't drift from what the kernel has, whatever was missed. A thread of its own does that, so that a large table costs
//! the control thread nothing; how often is bounded by how long it takes.

mod mirror;
mod netlink;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use netlink_sys::Socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Error;
use crate::route::HostTables;
use crate::types::PortIndex;
use crate::wire::ethernet::MacAddr;
use mirror::Interfaces;
use netlink::{Heard, IfIndex};

/// How often the mirror's thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);
/// Between two readings of a table: so long at least, and so many times as long as reading it took.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_FACTOR: u32 = 4;
/// How often the kernel is asked whether neighbours are still there that only the cores use.
const REFRESH: Duration = Duration::from_secs(30);
/// How many it is asked about at a time: an ARP cache may hold a whole network.
const REFRESH_MOST: usize = 1024;

/// An exception port, and what it stands for.
#[derive(Clone, Debug)]
pub(super) struct Tap {
    /// The exception port's name.
    pub(super) name: String,
    /// The number of its interface in the kernel.
    pub(super) interface: Option<u32>,
    /// The port that it stands for.
    pub(super) of: PortIndex,
    /// That port's address.
    pub(super) mac: MacAddr,
    /// That port's MTU.
    pub(super) mtu: u16,
}

/// The host's side of the exception ports.
pub(super) struct Host {
    interfaces: Interfaces,
    /// What is known of the links of ports.
    links: BTreeMap<PortIndex, bool>,
    /// The newest tables. What nobody has taken is replaced by what is newer.
    tables: Arc<ArrayQueue<HostTables>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Gives the taps' interfaces the addresses and MTUs of their ports, and begins to mirror.
    ///
    /// # Errors
    /// [`Error::Unusable`] where the kernel doesn't let its routes be read.
    pub(super) fn start(taps: &[Tap]) -> Result<Host, Error> {
        let mut interfaces = Vec::new();
        for tap in taps {
            let Some(interface) = tap.interface.map(IfIndex) else {
                tracing::warn!(
                    port = tap.name,
                    "the exception port's driver doesn't tell its interface: give it the MAC and MTU of its port by hand; \
                     routes by it aren't mirrored"
                );
                continue;
            };
            if let Err(error) = netlink::set_link(interface, tap.mac, tap.mtu) {
                tracing::warn!(port = tap.name, mac = %tap.mac, mtu = tap.mtu, %error,
                    "the exception port's interface can't be given the MAC and MTU of its port: run with CAP_NET_ADMIN, \
                     or give it them by `ip link set`");
            }
            interfaces.push((interface, tap.of));
        }
        let interfaces = Interfaces::new(interfaces);
        let refused = |error: io::Error| {
            Error::Unusable(format!(
                "the kernel's routes can't be mirrored: rtnetlink: {error}; leave out `for` of exception ports to do without"
            ))
        };
        let tables = Arc::new(ArrayQueue::new(1));
        let stop = Arc::new(AtomicBool::new(false));
        let mut reader = Reader {
            socket: netlink::listen().map_err(refused)?,
            interfaces: interfaces.clone(),
            current: HostTables::default(),
            tables: Arc::clone(&tables),
        };
        // The first time here, so that packets find their way from the first one on.
        reader.read(Heard { routes: true, neighbours: true }).map_err(refused)?;
        let thread = {
            let stop = Arc::clone(&stop);
            std::thread::Builder::new()
                .name("nf-mirror".to_owned())
                .spawn(move || reader.run(&stop))
                .map_err(refused)?
        };
        Ok(Host { interfaces, links: BTreeMap::new(), tables, stop, thread: Some(thread) })
    }

    /// What has changed, as a whole.
    pub(super) fn take_tables(&self) -> Option<HostTables> {
        self.tables.pop()
    }

    /// Has the kernel resolve a neighbour; what it finds out comes by the tables.
    pub(super) fn resolve(&self, port: PortIndex, address: IpAddr) {
        if let Some(interface) = self.interfaces.interface(port)
            && let Err(error) = netlink::use_neighbour(interface, address)
        {
            tracing::debug!(%address, %error, "the kernel doesn't resolve the next hop");
        }
    }

    /// Lets a port's interface have a link while the port has.
    pub(super) fn follow_link(&mut self, port: PortIndex, up: bool) {
        let Some(interface) = self.interfaces.interface(port) else {
            return;
        };
        if self.links.insert(port, up) != Some(up)
            && let Err(error) = netlink::set_carrier(interface, up)
        {
            tracing::warn!(interface = interface.0, up, %error,
                "the exception port's interface can't follow its port's link: it needs CAP_NET_ADMIN and a TAP driver");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell: a panic is on stderr already.
            let _ = thread.join();
        }
    }
}

/// Reads the kernel's tables when they change.
struct Reader {
    socket: Socket,
    interfaces: Interfaces,
    current: HostTables,
    tables: Arc<ArrayQueue<HostTables>>,
}

impl Reader {
    fn run(mut self, stop: &AtomicBool) {
        let mut next_refresh = Instant::now() + REFRESH;
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = self.turn(&mut next_refresh) {
                tracing::error!(%error, "the kernel's routes can't be read: the cores go on with what they have");
                std::thread::sleep(LOOK);
            }
        }
    }

    fn turn(&mut self, next_refresh: &mut Instant) -> io::Result<()> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let heard = netlink::hear(&self.socket)?;
        if heard != Heard::default() {
            let begun = Instant::now();
            self.read(heard)?;
            std::thread::sleep((begun.elapsed() * PAUSE_FACTOR).max(PAUSE));
        }
        if Instant::now() >= *next_refresh {
            *next_refresh = Instant::now() + REFRESH;
            for (interface, address) in
                mirror::stale(&netlink::neighbours()?, &self.interfaces).iter().take(REFRESH_MOST)
            {
                // One that is gone meanwhile is no loss.
                let _ = netlink::use_neighbour(*interface, *address);
            }
        }
        Ok(())
    }

    /// Reads what has changed, and passes it on if that makes a difference.
    fn read(&mut self, heard: Heard) -> io::Result<()> {
        let mut tables = self.current.clone();
        if heard.routes {
            (tables.routes, tables.addresses) = mirror::routes(&netlink::routes()?, &self.interfaces);
        }
        if heard.neighbours {
            tables.neighbours = mirror::neighbours(&netlink::neighbours()?, &self.interfaces);
        }
        if tables != self.current {
            self.current = tables.clone();
            let _ = self.tables.force_push(tables);
        }
        Ok(())
    }
}
