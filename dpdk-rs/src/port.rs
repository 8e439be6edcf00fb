//! Ports and their queues: configured once, started, then polled, each queue by one owner.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, PoisonError};

use crate::burst::Burst;
use crate::eal::{Eal, c_string};
use crate::errno::{Errno, Error};
use crate::mempool::{Mempool, SocketId};
use crate::sys;

/// The ports that have an owner.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

fn taken() -> std::sync::MutexGuard<'static, BTreeSet<u16>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Octets that names of devices have at most, the final NUL included.
const NAME_LEN: usize = 64;

fn number_of(name: &str) -> Option<u16> {
    let c_name = c_string(name).ok()?;
    let mut port = 0;
    // SAFETY: the name lives through the call, and `port` may be written.
    (unsafe { sys::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &mut port) } == 0).then_some(port)
}

fn name_of(port: u16) -> String {
    let mut name = [0 as c_char; NAME_LEN];
    // SAFETY: the array is as long as the function asks for.
    let code = unsafe { sys::rte_eth_dev_get_name_by_port(port, name.as_mut_ptr()) };
    if code != 0 {
        return format!("port {port}");
    }
    // SAFETY: the function has written a string with its NUL.
    unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned()
}

pub(crate) fn is_taken_by_name(name: &str) -> bool {
    number_of(name).is_some_and(|port| taken().contains(&port))
}

/// The names of all ports.
pub fn port_names(_eal: Eal) -> Vec<String> {
    // SAFETY: EAL runs; the function takes any number.
    let next =
        |port: u16| u16::try_from(unsafe { sys::rte_eth_find_next_owned_by(port, 0) }).ok().filter(|port| *port < 1024);
    std::iter::successors(next(0), |port| next(port + 1)).map(name_of).collect()
}

/// An Ethernet address.
pub type EtherAddr = [u8; 6];

/// What a port is and can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortInfo {
    /// Its driver.
    pub driver: String,
    /// The NUMA node that it is at.
    pub socket: SocketId,
    /// Its Ethernet address.
    pub mac: EtherAddr,
    /// Receive queues at most.
    pub max_rx_queues: u16,
    /// Transmit queues at most.
    pub max_tx_queues: u16,
    /// Whether it can spread packets over queues by their addresses.
    pub rss: bool,
    /// Whether its hash covers the SPI as well, so that the SAs of two hosts spread.
    pub rss_esp: bool,
    /// The largest frame payload.
    pub max_mtu: u16,
}

/// How to set up a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors of a receive queue; the driver may round.
    pub rx_descriptors: u16,
    /// Descriptors of a transmit queue.
    pub tx_descriptors: u16,
    /// The largest IP packet, if not the driver's default.
    pub mtu: Option<u16>,
    /// Whether to receive frames for other addresses.
    pub promiscuous: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        PortConfig {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            promiscuous: true,
        }
    }
}

/// A port that was found and is ours, but isn't configured.
#[derive(Debug)]
pub struct Port {
    claim: Claim,
    info: PortInfo,
}

/// The right to use a port. When it is dropped the port is stopped, closed, and gone.
#[derive(Debug)]
struct Claim {
    port: u16,
    name: String,
}

impl Claim {
    fn error(&self, step: &'static str, code: i32) -> Error {
        Error::Port { port: self.name.clone(), step, errno: Errno::returned(code) }
    }

    fn check(&self, step: &'static str, code: i32) -> Result<(), Error> {
        if code < 0 { Err(self.error(step, code)) } else { Ok(()) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // SAFETY: the port is ours, and no queue of it is left, for each holds a reference to this claim.
        unsafe {
            sys::rte_eth_dev_stop(self.port);
            sys::rte_eth_dev_close(self.port);
        }
        taken().remove(&self.port);
    }
}

impl Port {
    /// Finds a port by its name and takes it.
    ///
    /// # Errors
    /// [`Error::NoSuchPort`] names the ports that there are; [`Error::PortBusy`] means somebody has it.
    pub fn by_name(eal: Eal, name: &str) -> Result<Port, Error> {
        let no_such = || Error::NoSuchPort { name: name.to_owned(), known: port_names(eal) };
        let port = number_of(name).ok_or_else(no_such)?;
        let info = info(port).map_err(|errno| Error::Port {
            port: name.to_owned(),
            step: "a look at the capabilities",
            errno,
        })?;
        if !taken().insert(port) {
            return Err(Error::PortBusy(name.to_owned()));
        }
        Ok(Port { claim: Claim { port, name: name.to_owned() }, info })
    }

    /// What the port is and can do.
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// Configures and starts the port; received packets come from `pool`. Gives the port and its queues, each of which
    /// has one owner.
    ///
    /// # Errors
    /// [`Error::Unsupported`] before anything is changed, where the port can't do what is asked.
    pub fn start(self, config: &PortConfig, pool: Mempool) -> Result<(StartedPort, Vec<RxQueue>, Vec<TxQueue>), Error> {
        self.supports(config)?;
        let Port { claim, info } = self;
        let port = claim.port;
        let mut conf = sys::rte_eth_conf::default();
        if config.rx_queues > 1 {
            conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = rss_flows(port) & sys::DPDK_RSS_FLOWS;
        }
        if let Some(mtu) = config.mtu {
            conf.rxmode.mtu = mtu.into();
        }
        // SAFETY: the port is ours and isn't started; `conf` lives through the call.
        let code = unsafe { sys::rte_eth_dev_configure(port, config.rx_queues, config.tx_queues, &conf) };
        claim.check("configuration", code)?;
        let socket = u32::try_from(info.socket.0).unwrap_or(u32::MAX);
        for queue in 0..config.rx_queues {
            // SAFETY: the port is configured with so many queues; the pool lives as long as the process; without a
            // configuration of its own a queue takes the driver's default.
            let code = unsafe {
                sys::rte_eth_rx_queue_setup(port, queue, config.rx_descriptors, socket, std::ptr::null(), pool.as_ptr())
            };
            claim.check("set-up of a receive queue", code)?;
        }
        for queue in 0..config.tx_queues {
            // SAFETY: as above.
            let code =
                unsafe { sys::rte_eth_tx_queue_setup(port, queue, config.tx_descriptors, socket, std::ptr::null()) };
            claim.check("set-up of a transmit queue", code)?;
        }
        // SAFETY: the port is ours and all its queues are set up.
        claim.check("start", unsafe { sys::rte_eth_dev_start(port) })?;
        if config.promiscuous {
            // A port that can't be promiscuous, such as net_null, receives what it is given.
            // SAFETY: the port is ours.
            unsafe { sys::rte_eth_promiscuous_enable(port) };
        }
        let claim = Arc::new(claim);
        let rx = (0..config.rx_queues).map(|queue| RxQueue {
            port,
            queue,
            _claim: Arc::clone(&claim),
            _one_thread: PhantomData,
        });
        let (rx, tx) = (rx.collect(), (0..config.tx_queues));
        let tx =
            tx.map(|queue| TxQueue { port, queue, _claim: Arc::clone(&claim), _one_thread: PhantomData }).collect();
        Ok((StartedPort { claim, info }, rx, tx))
    }

    fn supports(&self, config: &PortConfig) -> Result<(), Error> {
        let refuse = |what: String, offers: String| {
            Err(Error::Unsupported { port: self.claim.name.clone(), driver: self.info.driver.clone(), what, offers })
        };
        let PortInfo { max_rx_queues, max_tx_queues, max_mtu, .. } = self.info;
        if config.rx_queues == 0 || config.rx_queues > max_rx_queues {
            return refuse(format!("{} receive queues", config.rx_queues), format!("1 to {max_rx_queues}"));
        }
        if config.tx_queues == 0 || config.tx_queues > max_tx_queues {
            return refuse(format!("{} transmit queues", config.tx_queues), format!("1 to {max_tx_queues}"));
        }
        match config.mtu {
            Some(mtu) if mtu > max_mtu => refuse(format!("an MTU of {mtu}"), format!("up to {max_mtu}")),
            _ => Ok(()),
        }
    }
}

fn raw_info(port: u16) -> Result<sys::rte_eth_dev_info, Errno> {
    let mut info = MaybeUninit::zeroed();
    // SAFETY: the structure may be written.
    let code = unsafe { sys::rte_eth_dev_info_get(port, info.as_mut_ptr()) };
    // SAFETY: all zero is valid for it, and the function has filled it in.
    if code == 0 { Ok(unsafe { info.assume_init() }) } else { Err(Errno::returned(code)) }
}

fn rss_flows(port: u16) -> u64 {
    raw_info(port).map_or(0, |info| info.flow_type_rss_offloads)
}

fn info(port: u16) -> Result<PortInfo, Errno> {
    let raw = raw_info(port)?;
    let mut mac = sys::rte_ether_addr::default();
    // SAFETY: the structure may be written.
    unsafe { sys::rte_eth_macaddr_get(port, &mut mac) };
    let driver = if raw.driver_name.is_null() {
        String::new()
    } else {
        // SAFETY: a driver's name is a string that lives as long as the driver.
        unsafe { CStr::from_ptr(raw.driver_name) }.to_string_lossy().into_owned()
    };
    Ok(PortInfo {
        driver,
        // SAFETY: any number may be passed.
        socket: SocketId(unsafe { sys::rte_eth_dev_socket_id(port) }),
        mac: mac.addr_bytes,
        max_rx_queues: raw.max_rx_queues,
        max_tx_queues: raw.max_tx_queues,
        rss: raw.flow_type_rss_offloads & sys::DPDK_RSS_FLOWS != 0,
        rss_esp: raw.flow_type_rss_offloads & sys::DPDK_RSS_ESP != 0,
        max_mtu: raw.max_mtu,
    })
}

/// A port that runs. It stops when this and all its queues are dropped.
#[derive(Clone, Debug)]
pub struct StartedPort {
    claim: Arc<Claim>,
    info: PortInfo,
}

/// What a port has counted itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Octets received.
    pub rx_octets: u64,
    /// Octets sent.
    pub tx_octets: u64,
    /// Packets lost because no core took them in time.
    pub rx_missed: u64,
    /// Damaged packets.
    pub rx_errors: u64,
    /// Packets lost because no buffer was free.
    pub rx_no_buffer: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

impl StartedPort {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.claim.name
    }

    /// What it is and can do.
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// Its counters.
    pub fn stats(&self) -> PortStats {
        let mut raw = sys::rte_eth_stats::default();
        // SAFETY: the structure may be written; where the driver has no counters it stays zero.
        unsafe { sys::rte_eth_stats_get(self.claim.port, &mut raw) };
        PortStats {
            rx_packets: raw.ipackets,
            tx_packets: raw.opackets,
            rx_octets: raw.ibytes,
            tx_octets: raw.obytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            rx_no_buffer: raw.rx_nombuf,
            tx_errors: raw.oerrors,
        }
    }

    /// Whether its link is up.
    pub fn link_is_up(&self) -> bool {
        let mut link = MaybeUninit::<sys::rte_eth_link>::zeroed();
        // SAFETY: the structure may be written, and all zero is valid for it: a link that is down.
        let link = unsafe {
            sys::rte_eth_link_get_nowait(self.claim.port, link.as_mut_ptr());
            link.assume_init()
        };
        link.link_status() != 0
    }
}

/// A queue may go to another thread, but two threads may not use it at once.
type OneThread = PhantomData<Cell<()>>;

/// A receive queue. There is one for each of the port's, so nobody else can poll it.
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<dpdk_rs::RxQueue>();
/// ```
#[derive(Debug)]
pub struct RxQueue {
    port: u16,
    queue: u16,
    _claim: Arc<Claim>,
    _one_thread: OneThread,
}

impl RxQueue {
    /// Adds to a burst what has come, as far as there is room; gives how many that are.
    #[inline]
    pub fn recv<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        burst.fill(|room, len| {
            // SAFETY: the port runs as long as we hold its claim, this queue is ours alone, and there is room for `len`.
            unsafe { sys::rte_eth_rx_burst(self.port, self.queue, room, len.min(u16::MAX.into()) as u16) }.into()
        })
    }
}

/// A transmit queue, as [`RxQueue`] one of a kind.
#[derive(Debug)]
pub struct TxQueue {
    port: u16,
    queue: u16,
    _claim: Arc<Claim>,
    _one_thread: OneThread,
}

impl TxQueue {
    /// Sends the front of a burst, as far as the driver takes it; gives how many that are. The rest stays.
    #[inline]
    pub fn send<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        burst.give(|packets, len| {
            // SAFETY: the port runs as long as we hold its claim, this queue is ours alone, and `len` packets are ours to
            // give.
            unsafe { sys::rte_eth_tx_burst(self.port, self.queue, packets, len.min(u16::MAX.into()) as u16) }.into()
        })
    }
}
