//! Ports: found by name, configured by one owner, started into queues.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_int};
use std::fmt;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};

use crate::eal::{Eal, SocketId};
use crate::error::{Errno, Error};
use crate::life::{self, Lease, lock};
use crate::mempool::Mempool;
use crate::offload::{RssTypes, RxOffloads, TxOffloads};
use crate::queue::{RxQueue, TxQueue};
use crate::sys;

/// The number DPDK gave to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(u16);

impl PortId {
    pub(crate) const fn new(id: u16) -> Self {
        Self(id)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The ports that have an owner. Its lock is held for whatever adds, removes, configures or looks up ports, which
/// DPDK does not make safe for several threads.
static OWNED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that exists, not configured yet. A name for it, not its owner: [`Port::configure`] makes an owner.
#[derive(Clone, Debug)]
pub struct Port {
    id: PortId,
    name: String,
}

/// What a port is and can do.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// Its name: that of the `--vdev`, or the PCI address.
    pub name: String,
    /// Its driver, as `net_pcap`.
    pub driver: String,
    /// The socket it is attached to.
    pub socket: SocketId,
    /// Its address.
    pub mac: MacAddr,
    /// The number of the kernel's interface that it is made of (net_tap, net_af_packet), if the driver tells.
    pub interface: Option<u32>,
    /// The most receive queues it can have.
    pub max_rx_queues: u16,
    /// The most transmit queues it can have.
    pub max_tx_queues: u16,
    /// The least MTU in bytes.
    pub min_mtu: u16,
    /// The largest MTU in bytes.
    pub max_mtu: u16,
    /// The least bytes that a buffer needs behind its headroom, 0 if there is no limit.
    pub min_rx_buffer: u32,
    /// What it can do on receipt.
    pub rx_offloads: RxOffloads,
    /// What it can do on sending.
    pub tx_offloads: TxOffloads,
    /// What it can hash to choose a queue.
    pub rss_types: RssTypes,
    /// Entries of its table from hash to queue, 0 if it has none.
    pub reta_size: u16,
}

/// What is asked of a port. [`PortConfig::default`] has one queue each way and asks for nothing else.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors of each receive queue; the driver may round.
    pub rx_desc: u16,
    /// Descriptors of each transmit queue; the driver may round.
    pub tx_desc: u16,
    /// The MTU in bytes (without Ethernet header), or the driver's default.
    pub mtu: Option<u16>,
    /// Take frames for any address. Ports without such a filter take all frames anyway.
    pub promiscuous: bool,
    /// Spread packets over the receive queues by a hash of IP addresses, UDP ports and SPI, as far as the port can.
    /// [`StartedPort::active_rss`] tells what is in force.
    pub rss: bool,
    /// What the port must do on receipt.
    pub rx_offloads: RxOffloads,
    /// What the port must do on sending.
    pub tx_offloads: TxOffloads,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_desc: 1024,
            tx_desc: 1024,
            mtu: None,
            promiscuous: false,
            rss: false,
            rx_offloads: RxOffloads::NONE,
            tx_offloads: TxOffloads::NONE,
        }
    }
}

/// Counters of a port, in packets, since it was started (some drivers: since it was made).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Received.
    pub ipackets: u64,
    /// Sent.
    pub opackets: u64,
    /// Bytes received.
    pub ibytes: u64,
    /// Bytes sent.
    pub obytes: u64,
    /// Dropped by the port since the receive queues were full.
    pub imissed: u64,
    /// Received with an error.
    pub ierrors: u64,
    /// Dropped since the pool had no buffer.
    pub rx_nombuf: u64,
    /// Not sent because of an error.
    pub oerrors: u64,
}

/// The state of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// Whether there is a link.
    pub up: bool,
    /// Speed in Mbit/s; `None` if the driver does not know.
    pub mbit_per_s: Option<u32>,
    /// Whether both ends may send at once.
    pub full_duplex: bool,
}

/// All ports that exist, in the order of their numbers.
#[must_use]
pub fn ports(_eal: Eal) -> Vec<Port> {
    let Ok(_running) = life::running() else { return Vec::new() };
    let _owned = lock(&OWNED);
    ids().filter_map(|id| Some(Port { id, name: name_of(id)? })).collect()
}

impl Port {
    /// Finds a port by its name: that of the `--vdev` argument, or its PCI address.
    ///
    /// # Errors
    /// [`Error::UnknownPort`], which lists those that exist; [`Error::NotRunning`].
    pub fn by_name(_eal: Eal, name: &str) -> Result<Self, Error> {
        let _running = life::running()?;
        let _owned = lock(&OWNED);
        let c_name = life::c_string("port name", name)?;
        let mut id = 0;
        // SAFETY: the EAL runs; the name is NUL-terminated and the number has a place to go.
        match unsafe { sys::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &raw mut id) } {
            0 => Ok(Self { id: PortId(id), name: name.to_owned() }),
            _ => {
                let names: Vec<String> = ids().filter_map(name_of).collect();
                let known = match names.len() {
                    0 => "the EAL has no port at all".to_owned(),
                    _ => format!("those that exist are {}", names.join(", ")),
                };
                Err(Error::UnknownPort { name: name.to_owned(), known })
            }
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is and can do.
    ///
    /// # Errors
    /// [`Error::Port`] if the driver does not tell or the device was removed; [`Error::NotRunning`].
    pub fn info(&self) -> Result<PortInfo, Error> {
        let _running = life::running()?;
        let _owned = lock(&OWNED);
        self.query().map(|(info, _)| info)
    }

    /// Becomes the owner of the port and configures it; its receive queues take their buffers from `pool`.
    ///
    /// Everything asked for is compared with what the port can do first, so that nothing is left half configured for
    /// a reason that could have been known.
    ///
    /// # Errors
    /// [`Error::PortBusy`], [`Error::MissingCapability`], [`Error::OutOfRange`], [`Error::Port`] with what the driver
    /// refused, [`Error::NotRunning`].
    pub fn configure(&self, config: &PortConfig, pool: &Mempool) -> Result<ConfiguredPort, Error> {
        let lease = Lease::take()?;
        let mut owned = lock(&OWNED);
        if owned.contains(&self.id.0) {
            return Err(Error::PortBusy { port: self.name.clone() });
        }
        let (info, raw) = self.query()?;
        let tx_offloads = check(config, &info, pool)?;
        let rss = if config.rss { RssTypes::WANTED & info.rss_types.bits() } else { 0 };

        // SAFETY: all zeros is the neutral value of this C struct.
        let mut conf: sys::rte_eth_conf = unsafe { MaybeUninit::zeroed().assume_init() };
        conf.rxmode.mtu = config.mtu.map_or(0, u32::from);
        conf.rxmode.offloads = config.rx_offloads.bits();
        conf.txmode.offloads = tx_offloads.bits();
        if rss != 0 {
            conf.rxmode.mq_mode = sys::SHIM_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = rss;
        }
        let id = self.id.0;
        // SAFETY: the port is valid (query), has no owner, and the lock keeps others from changing it; conf outlives
        // the call, which copies it.
        self.check("the configuration", unsafe {
            sys::rte_eth_dev_configure(id, config.rx_queues, config.tx_queues, &raw const conf)
        })?;
        let (mut rx_desc, mut tx_desc) = (config.rx_desc, config.tx_desc);
        // SAFETY: the port is valid and both numbers have a place to go.
        self.check("setting the queue sizes", unsafe {
            sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx_desc, &raw mut tx_desc)
        })?;
        // "Any socket" is -1 as an unsigned number for these functions.
        let socket = info.socket.raw().cast_unsigned();
        for queue in 0..config.rx_queues {
            let mut queue_conf = raw.default_rxconf;
            queue_conf.offloads = conf.rxmode.offloads;
            // SAFETY: the queue is one of those configured, the configuration is the driver's own with our offloads,
            // and the pool lives until clean-up, before which all ports are closed.
            self.check("setting up a receive queue", unsafe {
                sys::rte_eth_rx_queue_setup(id, queue, rx_desc, socket, &raw const queue_conf, pool.as_ptr())
            })?;
        }
        for queue in 0..config.tx_queues {
            let mut queue_conf = raw.default_txconf;
            queue_conf.offloads = conf.txmode.offloads;
            // SAFETY: as for the receive queue.
            self.check("setting up a transmit queue", unsafe {
                sys::rte_eth_tx_queue_setup(id, queue, tx_desc, socket, &raw const queue_conf)
            })?;
        }
        owned.insert(id);
        drop(owned);
        Ok(ConfiguredPort {
            owner: Arc::new(Owner { port: self.clone(), driver: Mutex::new(()), started: false, _lease: lease }),
            config: PortConfig { tx_offloads, ..config.clone() },
            info,
            rss: RssTypes::from_bits(rss),
        })
    }

    /// Asks the driver; [`OWNED`] must be locked.
    fn query(&self) -> Result<(PortInfo, sys::rte_eth_dev_info), Error> {
        let id = self.id.0;
        let mut raw = MaybeUninit::zeroed();
        // SAFETY: any number may be asked for; the answer has a place to go.
        self.check("asking for its capabilities", unsafe { sys::rte_eth_dev_info_get(id, raw.as_mut_ptr()) })?;
        // SAFETY: zeroed before, and filled in by the call.
        let raw: sys::rte_eth_dev_info = unsafe { raw.assume_init() };
        let driver = if raw.driver_name.is_null() {
            String::new()
        } else {
            // SAFETY: drivers have a static NUL-terminated name.
            unsafe { CStr::from_ptr(raw.driver_name) }.to_string_lossy().into_owned()
        };
        let info = PortInfo {
            name: self.name.clone(),
            driver,
            // SAFETY: the port is valid, or the call above had failed.
            socket: SocketId::from_raw(unsafe { sys::rte_eth_dev_socket_id(id) }),
            mac: self.mac()?,
            interface: Some(raw.if_index).filter(|index| *index != 0),
            max_rx_queues: raw.max_rx_queues,
            max_tx_queues: raw.max_tx_queues,
            min_mtu: raw.min_mtu,
            max_mtu: raw.max_mtu,
            min_rx_buffer: raw.min_rx_bufsize,
            rx_offloads: RxOffloads::from_bits(raw.rx_offload_capa),
            tx_offloads: TxOffloads::from_bits(raw.tx_offload_capa),
            rss_types: RssTypes::from_bits(raw.flow_type_rss_offloads),
            reta_size: raw.reta_size,
        };
        Ok((info, raw))
    }

    fn mac(&self) -> Result<MacAddr, Error> {
        let mut mac = MaybeUninit::<sys::rte_ether_addr>::zeroed();
        // SAFETY: any number may be asked for; the answer has a place to go.
        self.check("asking for its address", unsafe { sys::rte_eth_macaddr_get(self.id.0, mac.as_mut_ptr()) })?;
        // SAFETY: zeroed before, and filled in by the call.
        Ok(MacAddr(unsafe { mac.assume_init() }.addr_bytes))
    }

    fn check(&self, operation: &'static str, ret: c_int) -> Result<(), Error> {
        if ret >= 0 {
            return Ok(());
        }
        let errno = Errno::from_ret(ret);
        let remedy = match errno {
            Errno::ENOMEM => "give the EAL more memory (-m) or ask for smaller queues",
            Errno::EINVAL => "a value does not suit the driver; its lines above say which",
            Errno::ENOTSUP => "the driver does not do this; use another device",
            Errno::EBUSY => "another process or owner uses the device",
            _ => "the lines of the driver above say more",
        };
        Err(Error::Port { port: self.name.clone(), operation, errno, remedy })
    }
}

/// Compares what is asked for with what there is; returns the transmit offloads to use.
fn check(config: &PortConfig, info: &PortInfo, pool: &Mempool) -> Result<TxOffloads, Error> {
    let missing = |missing: String| {
        let (port, driver) = (info.name.clone(), info.driver.clone());
        Error::MissingCapability { port, driver, missing }
    };
    let range = |what, asked: u32, min: u32, max: u32| {
        if (min..=max).contains(&asked) {
            return Ok(());
        }
        let (port, driver) = (info.name.clone(), info.driver.clone());
        Err(Error::OutOfRange { port, driver, what, asked, min, max })
    };
    // DPDK reads 0 queues each way as a wish for its defaults, so ask for one at least.
    let least_rx = u32::from(config.tx_queues == 0);
    range("receive queues", config.rx_queues.into(), least_rx, info.max_rx_queues.into())?;
    range("transmit queues", config.tx_queues.into(), 0, info.max_tx_queues.into())?;
    if let Some(mtu) = config.mtu {
        range("bytes of MTU", mtu.into(), info.min_mtu.into(), info.max_mtu.into())?;
    }
    let room = u32::from(pool.data_room().saturating_sub(crate::mempool::HEADROOM));
    range("bytes in each buffer behind its headroom", room, info.min_rx_buffer, u32::MAX)?;
    let rx = config.rx_offloads.without(info.rx_offloads);
    if !rx.is_empty() {
        return Err(missing(format!("receive offload {}", rx.names().join(", "))));
    }
    let tx = config.tx_offloads.without(info.tx_offloads);
    if !tx.is_empty() {
        return Err(missing(format!("transmit offload {}", tx.names().join(", "))));
    }
    let multi = TxOffloads::MULTI_SEGMENT;
    Ok(if info.tx_offloads.contains(multi) { config.tx_offloads | multi } else { config.tx_offloads })
}

/// The one owner of a port, shared by its handle and its queues. When the last of them goes, the port is stopped:
/// nobody can poll a stopped port.
pub(crate) struct Owner {
    port: Port,
    /// Held for calls to the driver off the data path, which are not safe for several threads.
    driver: Mutex<()>,
    started: bool,
    _lease: Lease,
}

impl Owner {
    pub(crate) fn name(&self) -> &str {
        &self.port.name
    }

    fn stop(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.started) {
            return Ok(());
        }
        let _owned = lock(&OWNED);
        // SAFETY: the port is started and ours, and no queue of it is left, or self would not be unique.
        self.port.check("stopping", unsafe { sys::rte_eth_dev_stop(self.port.id.0) })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // An error has nobody to go to here; StartedPort::stop is for those who want it.
        let _ = self.stop();
        lock(&OWNED).remove(&self.port.id.0);
    }
}

/// A port with an owner, ready to start. Dropping it gives the port up; it can be configured again then.
#[must_use = "dropping it gives the port up"]
pub struct ConfiguredPort {
    owner: Arc<Owner>,
    config: PortConfig,
    info: PortInfo,
    rss: RssTypes,
}

impl fmt::Debug for ConfiguredPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfiguredPort").field("name", &self.owner.name()).field("config", &self.config).finish()
    }
}

impl ConfiguredPort {
    /// Starts the port: from now on it receives. Each queue is returned once, for one owner.
    ///
    /// # Errors
    /// [`Error::Port`] with what the driver refused. The port is given up then.
    pub fn start(self) -> Result<(StartedPort, Vec<RxQueue>, Vec<TxQueue>), Error> {
        let Self { mut owner, config, info, mut rss } = self;
        let id = owner.port.id;
        if let Some(owner) = Arc::get_mut(&mut owner) {
            let _owned = lock(&OWNED);
            // SAFETY: the port is configured and ours.
            owner.port.check("starting", unsafe { sys::rte_eth_dev_start(id.0) })?;
            owner.started = true;
        }
        let PortConfig { rx_offloads, tx_offloads, .. } = config;
        let port = StartedPort { owner, info, rss, rx_offloads, tx_offloads };
        if config.promiscuous {
            port.set_promiscuous(true)?;
        }
        if !rss.is_empty() {
            // SAFETY: all zeros is the neutral value of this C struct: no key is asked for.
            let mut conf: sys::rte_eth_rss_conf = unsafe { MaybeUninit::zeroed().assume_init() };
            // SAFETY: the port is started, and the answer has a place to go.
            if unsafe { sys::rte_eth_dev_rss_hash_conf_get(id.0, &raw mut conf) } == 0 {
                rss = RssTypes::from_bits(conf.rss_hf);
            }
        }
        let port = StartedPort { rss, ..port };
        let rx = (0..config.rx_queues).map(|queue| RxQueue::new(id, queue, Arc::clone(&port.owner))).collect();
        let multi_segment = config.tx_offloads.contains(TxOffloads::MULTI_SEGMENT);
        let tx = (0..config.tx_queues)
            .map(|queue| TxQueue::new(id, queue, multi_segment, Arc::clone(&port.owner)))
            .collect();
        Ok((port, rx, tx))
    }
}

/// A port that runs: its controls and counters. It runs until this and all of its queues are dropped.
#[must_use = "the port stops when this and its queues are dropped"]
pub struct StartedPort {
    owner: Arc<Owner>,
    info: PortInfo,
    rss: RssTypes,
    rx_offloads: RxOffloads,
    tx_offloads: TxOffloads,
}

impl fmt::Debug for StartedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartedPort").field("name", &self.owner.name()).finish_non_exhaustive()
    }
}

impl StartedPort {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.owner.port.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.owner.name()
    }

    /// What it is and can do, as it was when it was configured.
    #[must_use]
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// The fields it hashes to choose a queue; empty if RSS was not asked for or the port has none.
    #[must_use]
    pub fn active_rss(&self) -> RssTypes {
        self.rss
    }

    /// What it does on receipt: what was asked for.
    #[must_use]
    pub fn rx_offloads(&self) -> RxOffloads {
        self.rx_offloads
    }

    /// What it does on sending: what was asked for, and several segments to a packet where it can.
    #[must_use]
    pub fn tx_offloads(&self) -> TxOffloads {
        self.tx_offloads
    }

    /// Its counters.
    ///
    /// # Errors
    /// [`Error::Port`] if the driver has none.
    pub fn stats(&self) -> Result<PortStats, Error> {
        let _driver = lock(&self.owner.driver);
        let mut raw = MaybeUninit::<sys::rte_eth_stats>::zeroed();
        // SAFETY: the port is started, and the answer has a place to go.
        let ret = unsafe { sys::rte_eth_stats_get(self.id().0, raw.as_mut_ptr()) };
        self.owner.port.check("reading its counters", ret)?;
        // SAFETY: zeroed before, and filled in by the call.
        let raw = unsafe { raw.assume_init() };
        Ok(PortStats {
            ipackets: raw.ipackets,
            opackets: raw.opackets,
            ibytes: raw.ibytes,
            obytes: raw.obytes,
            imissed: raw.imissed,
            ierrors: raw.ierrors,
            rx_nombuf: raw.rx_nombuf,
            oerrors: raw.oerrors,
        })
    }

    /// Its link, without waiting for a negotiation to end.
    ///
    /// # Errors
    /// [`Error::Port`] if the driver does not tell.
    pub fn link(&self) -> Result<LinkStatus, Error> {
        let _driver = lock(&self.owner.driver);
        let (mut mbit_per_s, mut up, mut full_duplex) = (0, 0, 0);
        // SAFETY: the port is started, and the answers have a place to go.
        let ret = unsafe { sys::shim_link_get(self.id().0, &raw mut mbit_per_s, &raw mut up, &raw mut full_duplex) };
        self.owner.port.check("reading its link", ret)?;
        let known = mbit_per_s != 0 && mbit_per_s != u32::MAX;
        Ok(LinkStatus { up: up != 0, mbit_per_s: known.then_some(mbit_per_s), full_duplex: full_duplex != 0 })
    }

    /// The longest IP packet that it sends, in octets.
    ///
    /// # Errors
    /// [`Error::Port`] if the driver does not tell.
    pub fn mtu(&self) -> Result<u16, Error> {
        let _driver = lock(&self.owner.driver);
        let mut mtu = 0;
        // SAFETY: the port is started, and the answer has a place to go.
        let ret = unsafe { sys::rte_eth_dev_get_mtu(self.id().0, &raw mut mtu) };
        self.owner.port.check("reading its MTU", ret)?;
        Ok(mtu)
    }

    /// Gives it another address, until it is stopped.
    ///
    /// # Errors
    /// [`Error::Port`] if the driver can't, or doesn't take the address.
    pub fn set_mac(&mut self, mac: MacAddr) -> Result<(), Error> {
        let _driver = lock(&self.owner.driver);
        let mut raw = sys::rte_ether_addr { addr_bytes: mac.0 };
        // SAFETY: the port is started, and the address outlives the call, which copies it.
        let ret = unsafe { sys::rte_eth_dev_default_mac_addr_set(self.id().0, &raw mut raw) };
        self.owner.port.check("setting its address", ret)?;
        self.info.mac = mac;
        Ok(())
    }

    /// Takes frames for any address, or only for its own. A driver that has no such filter takes all anyway: that is
    /// not an error.
    ///
    /// # Errors
    /// [`Error::Port`] if the driver failed.
    pub fn set_promiscuous(&self, on: bool) -> Result<(), Error> {
        let _driver = lock(&self.owner.driver);
        let id = self.id().0;
        // SAFETY: the port is started.
        let ret =
            unsafe { if on { sys::rte_eth_promiscuous_enable(id) } else { sys::rte_eth_promiscuous_disable(id) } };
        if Errno::from_ret(ret) == Errno::ENOTSUP {
            return Ok(());
        }
        self.owner.port.check("setting promiscuous mode", ret)
    }

    /// Stops the port and gives it up; all of its queues must be handed back. Dropping them all does the same, but
    /// tells nobody of an error.
    ///
    /// # Errors
    /// [`Error::QueuesHeld`] if a queue is missing (the port then stops when that is dropped), [`Error::Port`] if the
    /// driver failed.
    pub fn stop(self, rx: Vec<RxQueue>, tx: Vec<TxQueue>) -> Result<(), Error> {
        drop((rx, tx));
        let Self { mut owner, .. } = self;
        let missing = Arc::strong_count(&owner) - 1;
        match Arc::get_mut(&mut owner) {
            Some(owner) => owner.stop(),
            None => Err(Error::QueuesHeld { port: owner.name().to_owned(), missing }),
        }
    }
}

/// Closes every port; the caller holds the phase lock and knows that no port has an owner.
pub(crate) fn close_all() {
    let _owned = lock(&OWNED);
    for id in ids().collect::<Vec<_>>() {
        // SAFETY: the port exists, and nobody owns it. An error leaves it as it was.
        unsafe {
            sys::rte_eth_dev_stop(id.0);
            sys::rte_eth_dev_close(id.0);
        }
    }
}

pub(crate) fn attach_vdev(name: &str, args: &str) -> Result<(), Error> {
    let _running = life::running()?;
    let _owned = lock(&OWNED);
    let c_name = life::c_string("device name", name)?;
    let c_args = life::c_string("device arguments", args)?;
    // SAFETY: the EAL runs, no other thread adds or removes devices (the lock), and the strings are NUL-terminated.
    let ret = unsafe { sys::rte_eal_hotplug_add(c"vdev".as_ptr(), c_name.as_ptr(), c_args.as_ptr()) };
    hotplug(name, "attached", ret)
}

pub(crate) fn detach_vdev(name: &str) -> Result<(), Error> {
    let _running = life::running()?;
    let owned = lock(&OWNED);
    let c_name = life::c_string("device name", name)?;
    if owned.iter().any(|id| name_of(PortId(*id)).as_deref() == Some(name)) {
        return Err(Error::PortBusy { port: name.to_owned() });
    }
    // SAFETY: as for attaching; no port of this device has an owner (a virtual device has one port, of its name).
    let ret = unsafe { sys::rte_eal_hotplug_remove(c"vdev".as_ptr(), c_name.as_ptr()) };
    hotplug(name, "detached", ret)
}

fn hotplug(device: &str, operation: &'static str, ret: c_int) -> Result<(), Error> {
    if ret >= 0 {
        return Ok(());
    }
    let errno = Errno::from_ret(ret);
    let remedy = match errno {
        Errno::EEXIST => "use another name, this device exists",
        Errno::ENOENT => "check its name: there is no such device",
        _ => "check its name (it starts with that of its driver, as net_ring0) and its arguments",
    };
    Err(Error::Hotplug { device: device.to_owned(), operation, errno, remedy })
}

/// The ports that exist; [`OWNED`] must be locked while it is used.
fn ids() -> impl Iterator<Item = PortId> {
    let mut next = 0;
    std::iter::from_fn(move || {
        // SAFETY: walks the static table of ports, from any number.
        let id = unsafe { sys::rte_eth_find_next(next) };
        if u32::from(id) >= sys::RTE_MAX_ETHPORTS {
            return None;
        }
        next = id + 1;
        Some(PortId(id))
    })
}

fn name_of(id: PortId) -> Option<String> {
    // DPDK writes at most RTE_ETH_NAME_MAX_LEN, 64 bytes.
    let mut name = [0_u8; 256];
    // SAFETY: any number may be asked for; the buffer is larger than any name.
    let ret = unsafe { sys::rte_eth_dev_get_name_by_port(id.0, name.as_mut_ptr().cast()) };
    if ret != 0 {
        return None;
    }
    CStr::from_bytes_until_nul(&name).ok().map(|name| name.to_string_lossy().into_owned())
}
