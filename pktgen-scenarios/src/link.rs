//! The generator's side: two virtual ports that a running nf-core is connected to.
//!
//! They are net_memif, shared memory between two processes, which needs neither hugepages nor root nor a network device.
//! The generator serves the sockets, nf-core connects to them: so it can be started anew beside a generator that stays.
//! A port that loses its other end unmaps what they share, so neither end may be polled while the other goes.

use std::path::{Path, PathBuf};

use dpdk_rs::{Burst, Eal, Error, Mbuf, Mempool, Port, PortConfig, RxQueue, SocketId, StartedPort, TxQueue};

/// Packets of a burst.
pub const BURST: usize = 32;
/// Octets of a place in a memif ring; a longer frame takes several.
pub const PLACE: usize = 2048;
/// Octets of the longest frame that nf-core lets out of a memif port: the driver takes no larger MTU than 1,500.
pub const LONGEST: usize = 1514;
/// The usual packet buffers, and octets of each behind its headroom.
const FRAMES: u32 = 16_383;
const FRAME_OCTETS: u16 = 2048;
/// Buffers for longer frames.
const JUMBO_FRAMES: u32 = 127;
const JUMBO_OCTETS: u16 = u16::MAX - dpdk_rs::HEADROOM;

/// DPDK in this process, once.
pub struct Generator {
    eal: Eal,
    frames: Mempool,
    jumbo: Mempool,
    links: u32,
}

impl Generator {
    /// Starts DPDK without hugepages, devices, files or privileges. The calling thread goes on to run on any CPU.
    ///
    /// # Errors
    /// DPDK's refusal; a process can have one generator.
    pub fn start() -> Result<Generator, Error> {
        let cpus = allowed_cpus().iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let args = [
            "--no-huge",
            "--no-pci",
            "--no-shconf",
            "--no-telemetry",
            "--log-level=*:error",
            "-m",
            "128",
            &format!("--lcores=0@({cpus})"),
            &format!("--file-prefix=pktgen-scenarios-{}", std::process::id()),
        ];
        let eal = Eal::init(args.map(str::to_owned))?;
        let frames = Mempool::create(eal, "generator", FRAMES, 256, FRAME_OCTETS + dpdk_rs::HEADROOM, SocketId::ANY)?;
        let jumbo = Mempool::create(eal, "jumbo", JUMBO_FRAMES, 0, JUMBO_OCTETS + dpdk_rs::HEADROOM, SocketId::ANY)?;
        Ok(Generator { eal, frames, jumbo, links: 0 })
    }

    /// Makes the two ports, with their sockets in `dir`.
    ///
    /// # Errors
    /// DPDK's refusal, such as of a path that is too long for a socket.
    pub fn link(&mut self, dir: &Path, ring: RingSize) -> Result<Link, Error> {
        self.links += 1;
        let end = |side: &str| End::new(self, &format!("net_memif_{side}{}", self.links), dir.join(side), ring);
        Ok(Link { wan: end("wan")?, lan: end("lan")?, ring, eal: self.eal })
    }

    /// A packet with these octets; none while all buffers are in use.
    pub fn packet(&self, octets: &[u8]) -> Option<Mbuf> {
        let pool = if octets.len() > usize::from(FRAME_OCTETS) { &self.jumbo } else { &self.frames };
        let mut packet = pool.alloc()?;
        packet.append(octets.len()).ok()?.copy_from_slice(octets);
        Some(packet)
    }

    /// How fast the time stamp counter counts.
    pub fn tsc_hz(&self) -> dpdk_rs::TscHz {
        self.eal.tsc_hz()
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // EAL makes a directory even where it has nothing to put there.
        let _ = std::fs::remove_dir(self.eal.runtime_dir());
    }
}

/// Places in a ring, as the power of two that memif takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingSize(u8);

impl RingSize {
    /// 1,024 places.
    pub const DEFAULT: RingSize = RingSize(10);
    /// The places of [`RingSize::DEFAULT`].
    pub const DEFAULT_PLACES: u32 = 1024;

    /// The smallest ring that has so many places, of those that memif allows.
    pub fn with_places(places: u32) -> RingSize {
        RingSize((places.max(2).next_power_of_two().trailing_zeros() as u8).min(14))
    }

    /// Places.
    pub fn places(self) -> u32 {
        1 << self.0
    }
}

/// Two virtual ports.
pub struct Link {
    /// The peers' side: frames go from here to nf-core's unprotected port.
    pub wan: End,
    /// The protected network: what nf-core sends on arrives here.
    pub lan: End,
    ring: RingSize,
    eal: Eal,
}

impl Link {
    /// The arguments of EAL and the `[[port]]` tables by which nf-core is connected.
    pub fn nf_core(&self) -> (Vec<String>, String) {
        let vdev = |number: u8, end: &End| {
            format!(
                "--vdev=net_memif{number},role=client,socket={},socket-abstract=no,rsize={},bsize={PLACE}",
                end.socket.display(),
                self.ring.0
            )
        };
        // A directory of its own under /run/dpdk: whoever ends first removes the one that others share.
        let prefix = format!("--file-prefix=pktgen-nf-core-{}", std::process::id());
        // A telemetry socket would keep nf-core from removing it at its end.
        let mut args: Vec<String> = ["--no-huge", "--no-pci", "--no-telemetry"].map(str::to_owned).to_vec();
        args.extend([prefix, vdev(0, &self.wan), vdev(1, &self.lan)]);
        let ports = "[[port]]\nname = \"net_memif0\"\nrole = \"unprotected\"\n\n\
                     [[port]]\nname = \"net_memif1\"\nrole = \"protected\"\n";
        (args, ports.to_owned())
    }

    /// Takes the ports away. nf-core must have ended: it polls memory that they share.
    ///
    /// # Errors
    /// A driver that doesn't stop.
    pub fn close(self) -> Result<(), Error> {
        for End { port, rx, tx, .. } in [self.wan, self.lan] {
            let name = port.name().to_owned();
            port.stop(vec![rx], vec![tx])?;
            self.eal.detach_vdev(&name)?;
        }
        Ok(())
    }

    /// Whether something is connected to both ports.
    ///
    /// # Errors
    /// A driver that doesn't tell.
    pub fn is_up(&self) -> Result<bool, Error> {
        Ok(self.wan.port.link()?.up && self.lan.port.link()?.up)
    }
}

/// One of the two ports.
pub struct End {
    port: StartedPort,
    rx: RxQueue,
    tx: TxQueue,
    socket: PathBuf,
}

impl End {
    fn new(generator: &Generator, name: &str, socket: PathBuf, ring: RingSize) -> Result<End, Error> {
        let args = format!("role=server,socket={},socket-abstract=no,rsize={},bsize={PLACE}", socket.display(), ring.0);
        generator.eal.attach_vdev(name, &args)?;
        let port = Port::by_name(generator.eal, name)?;
        let (port, rx, tx) = port.configure(&PortConfig::default(), &generator.frames)?.start()?;
        match (rx.into_iter().next(), tx.into_iter().next()) {
            (Some(rx), Some(tx)) => Ok(End { port, rx, tx, socket }),
            _ => Err(Error::QueuesHeld { port: name.to_owned(), missing: 2 }),
        }
    }

    /// Sends from the front of a burst; what the ring has no room for stays in it.
    pub fn send(&mut self, burst: &mut Burst<BURST>) -> usize {
        self.tx.send(burst)
    }

    /// Receives into a burst.
    pub fn recv(&mut self, burst: &mut Burst<BURST>) -> usize {
        self.rx.recv(burst)
    }
}

/// The CPUs that this process may run on.
pub fn allowed_cpus() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Keeps the calling thread on a CPU. Not before nf-core is started, which would inherit that.
///
/// # Errors
/// The kernel's, if there is no such CPU or this process may not use it.
pub fn pin(cpu: usize) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_has_as_many_places_as_memif_allows() {
        assert_eq!(RingSize::with_places(1024), RingSize::DEFAULT);
        assert_eq!(RingSize::with_places(1025).places(), 2048);
        assert_eq!(RingSize::with_places(0).places(), 2);
        assert_eq!(RingSize::with_places(1 << 30).places(), 16_384);
    }
}
