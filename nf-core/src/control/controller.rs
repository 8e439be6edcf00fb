//! The control thread's side of the network function: the authoritative list of SAs, the plugin instances and their
//! bindings, the notifier; and the commands that carry changes to the cores.
//!
//! A change is checked and prepared completely here, key schedules expanded and memory allocated, before a core hears
//! of it. It is answered once every core has applied it: what `nf-ctl` reports as done holds on all cores.

mod events;
mod follow;
mod installed;
mod lifetimes;
mod reload;
mod reservations;
mod routes;
mod state;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::capture::RecordedPacket;
use crate::config::Config;
use crate::core::{Command, Core, Link};
use crate::counters::Snapshot;
use crate::crypto::{self, Engine, EngineError};
use crate::drop::DropReason;
use crate::event::{self, EventReceiver};
use crate::hooks::{Hooks, Outputs};
use crate::net::{LocalAddresses, Net, NetPort};
use crate::notify::{FanOut, Notifier};
use crate::plugin::{Binding, Filter, Gate, GateTable, Instance, InstanceSlot, PluginControl, PluginError, Registry};
use crate::sa::inbound::SaKey;
use crate::sa::spec::{Direction, Encap, SaParams};
use crate::spd::{Policy, Spd};
use crate::stage::RuntimeReport;
use crate::state::Kept;
use crate::types::{CoreId, Nanos, Spi};

use super::proto::{Endpoint, SaId};
use super::subscribers::Subscribers;
use follow::Followers;
use lifetimes::{Lifetimes, Reported};
use reservations::{MAX_RESERVATION_S, reservation_order};
use routes::Routing;

pub use installed::InstalledSa;
pub use reload::Reloaded;
pub use reservations::StoredReservation;

/// How long a core may take to apply a change before it counts as stuck. Cores apply changes between two bursts.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// A change that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is such an SA already.
    #[error("an SA with SPI {spi} from {src} to {dst} exists; delete it first: nf-ctl sa del {spi_hex} --dst {dst} --src {src}", spi = .0.spi, src = .0.src, dst = .0.dst, spi_hex = format_args!("{:#010X}", .0.spi.0))]
    SaExists(SaKey),
    /// There is no such SA.
    #[error("there is no SA with SPI {spi}{rest}; `nf-ctl sa list` shows those that there are", rest = filter_text(.dst, .src))]
    NoSuchSa {
        /// The SPI.
        spi: Spi,
        /// The destination that was asked for.
        dst: Option<IpAddr>,
        /// The source that was asked for.
        src: Option<IpAddr>,
    },
    /// Several SAs fit.
    #[error("{count} SAs have SPI {spi}; name one with --dst and --src")]
    AmbiguousSa {
        /// The SPI.
        spi: Spi,
        /// How many.
        count: usize,
    },
    /// The SPI can't be reserved.
    #[error("spi: {spi} to {dst} is in use by {user}; leave the SPI out to be given a free one")]
    SpiTaken {
        /// The SPI.
        spi: Spi,
        /// The destination.
        dst: IpAddr,
        /// Who has it: an SA, or another reservation.
        user: &'static str,
    },
    /// No SA may have the SPI.
    #[error("spi: {0} isn't within 0x100 to 0xFFFFFFFF; leave it out to be given a free one")]
    SpiNotAssignable(Spi),
    /// A reservation can't be held for that long.
    #[error("lifetime_s: {0} isn't within 1 to {max}", max = MAX_RESERVATION_S)]
    ReservationLifetime(u64),
    /// There is no such reservation.
    #[error("SPI {spi}{rest} isn't reserved; `nf-ctl sa list` shows what is", rest = filter_text(.dst, .src))]
    NotReserved {
        /// The SPI.
        spi: Spi,
        /// The destination that was asked for.
        dst: Option<IpAddr>,
        /// The source that was asked for.
        src: Option<IpAddr>,
    },
    /// The table is full.
    #[error(
        "there is no room for more than {0} SAs, counting reserved SPIs and SAs deleted a moment ago; raise \
         `[sad] capacity` and restart"
    )]
    SadFull(usize),
    /// The engine refuses the SA's transform.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An SA can't be exchanged for one with the same keys.
    #[error("nothing was changed: the SA with SPI {spi} to {dst} has another setting and the key that it had, for which sequence numbers may not begin again (RFC 4303 3.3.3); give it a new key", spi = .0.spi, dst = .0.dst)]
    KeyUsedAgain(SaKey),
    /// What changed can't be taken over while it runs.
    #[error("nothing was changed: {} can't change while nf-core runs; restart it, or take that back", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    /// The plugin refuses.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// There is such an instance, of another plugin.
    #[error("the instance `{instance}` exists and is of the plugin `{plugin}`; choose another name or unbind it first")]
    InstanceExists {
        /// The instance.
        instance: String,
        /// The plugin that it is of.
        plugin: &'static str,
    },
    /// There is no such instance.
    #[error("there is no instance `{0}`; `nf-ctl plugin list` shows those that there are")]
    NoSuchInstance(String),
    /// The instance isn't bound there.
    #[error("the instance `{instance}` isn't bound to the gate {gate}; `nf-ctl plugin list` shows where it is")]
    NotBound {
        /// The instance.
        instance: String,
        /// The gate.
        gate: Gate,
    },
    /// All places for instances are taken.
    #[error("there is no room for another plugin instance; unbind one first")]
    NoSlot,
    /// A core does not take its commands.
    #[error("core {core} has not applied the change within {} s: it hangs or is overloaded; the change may take effect later", SETTLE_TIME.as_secs())]
    CoreStuck {
        /// The core.
        core: u16,
    },
}

fn filter_text(dst: &Option<IpAddr>, src: &Option<IpAddr>) -> String {
    let part = |name: &str, address: &Option<IpAddr>| address.map(|a| format!(" {name} {a}")).unwrap_or_default();
    part("to", dst) + &part("from", src)
}

/// What the control thread keeps of an SA.
pub struct StoredSa {
    /// The SA as the cores have it.
    pub sa: InstalledSa,
    /// Its algorithms, for display.
    pub params: SaParams,
    /// When it was installed.
    pub installed: Nanos,
    /// Where the peer is. Inbound: where the newest authentic packet came from; before the first one, where it must come from.
    /// Outbound: where packets go to.
    pub peer_at: Endpoint,
    /// How old it was, in nanoseconds, when this process took it over from a predecessor.
    age_before: u64,
    /// What has been reported of it.
    reported: Reported,
    /// Where its progress is kept for a successor.
    kept: Option<Kept>,
}

impl StoredSa {
    fn name(&self) -> SaId {
        let SaKey { spi, dst, src } = self.sa.key();
        SaId { spi, src, dst, peer: self.params.peer.clone() }
    }
}

/// What the control thread keeps of a plugin instance.
pub struct StoredInstance {
    /// The plugin's name.
    pub plugin: &'static str,
    /// Where it is bound.
    pub bindings: Vec<StoredBinding>,
    slot: InstanceSlot,
    control: Box<dyn PluginControl>,
}

impl StoredInstance {
    /// What the plugin says of it.
    pub fn status(&self) -> Value {
        self.control.status()
    }
}

/// A binding of an instance.
#[derive(Clone, Debug)]
pub struct StoredBinding {
    /// The gate.
    pub gate: Gate,
    /// Lower ones are run first; equal ones in the order in which they were bound.
    pub priority: u16,
    /// The packets.
    pub filter: Filter,
    /// The order in which bindings were made.
    serial: u64,
}

/// What is asked for when an instance of a plugin is bound.
#[derive(Clone, Debug)]
pub struct Bind<'b> {
    /// The plugin.
    pub plugin: &'b str,
    /// The instance; it is made if there is none of that name.
    pub instance: &'b str,
    /// The gate.
    pub gate: Gate,
    /// The packets.
    pub filter: Filter,
    /// Lower ones are run first.
    pub priority: u16,
    /// Settings of a new instance.
    pub settings: &'b Value,
}

/// The queues of a core, seen from here.
struct CoreLink {
    link: Arc<Link>,
    events: EventReceiver,
    sent: u64,
}

/// Commands for each core: the same for all, or each core's own.
type Change = Vec<Box<dyn FnMut(CoreId) -> Command>>;

/// The control thread's state.
pub struct Controller {
    cores: Vec<CoreLink>,
    engine: Box<dyn Engine>,
    sas: BTreeMap<(Spi, IpAddr, IpAddr), StoredSa>,
    policies: Vec<Policy>,
    /// Whether the cores' outbound policy isn't that of the policies and SAs that there are.
    spd_stale: bool,
    /// Deleted SAs that the cores still remember, and until when.
    deleted: BTreeMap<(Spi, IpAddr, IpAddr), Nanos>,
    lifetimes: Lifetimes,
    followers: Followers,
    reservations: BTreeMap<(Spi, IpAddr, Option<IpAddr>), StoredReservation>,
    next_reservation: u64,
    deleted_memory: u64,
    capacity: usize,
    /// A narrower replay window is made as wide as this.
    least_window: u32,
    next_sa_id: u32,
    net: Arc<Net>,
    routing: Routing,
    local: Vec<IpAddr>,
    port_names: Vec<String>,
    registry: Registry,
    instances: BTreeMap<String, StoredInstance>,
    next_binding: u64,
    notifier: Notifier,
    sinks: FanOut,
    subscribers: Subscribers,
    hooks: Arc<Hooks>,
    baseline: Snapshot,
    state: state::State,
    now: Nanos,
}

/// Where an SA's peer is before one of its packets has shown more.
fn peer_at(params: &SaParams) -> Endpoint {
    match (params.direction, params.encap) {
        (Direction::In, _) => Endpoint { address: params.src, port: None },
        (Direction::Out, Encap::None) => Endpoint { address: params.dst, port: None },
        (Direction::Out, Encap::Udp) => Endpoint { address: params.dst, port: Some(params.peer_port) },
    }
}

/// The order in which SAs are listed.
fn order(key: &SaKey) -> (Spi, IpAddr, IpAddr) {
    (key.spi, key.dst, key.src)
}

impl Controller {
    /// Builds the network function's state from its configuration: this side of it, and a [`Core`] for each of `cores`
    /// workers, with SAs and plugins in place. `ports` are those that the configuration names, opened.
    pub fn new(
        config: &Config,
        registry: Registry,
        ports: Vec<(String, NetPort)>,
        cores: usize,
        sinks: FanOut,
    ) -> Result<(Controller, Vec<Core>), ControlError> {
        let engine = crypto::select(config.crypto.engine)?;
        Controller::with_engine(engine, config, registry, ports, cores, sinks)
    }

    /// As [`Controller::new`], with an engine that is there already.
    pub fn with_engine(
        engine: Box<dyn Engine>,
        config: &Config,
        registry: Registry,
        ports: Vec<(String, NetPort)>,
        cores: usize,
        sinks: FanOut,
    ) -> Result<(Controller, Vec<Core>), ControlError> {
        let (port_names, ports): (Vec<_>, Vec<_>) = ports.into_iter().unzip();
        let local: Vec<IpAddr> = config.local.iter().map(|local| local.address).collect();
        let destinations = config.sas.iter().map(SaParams::local);
        let routing = Routing::new(config, &port_names);
        let net = Arc::new(routing.apply_to(&Net::new(ports, LocalAddresses::new(&local, destinations))));
        let mut workers = Vec::with_capacity(cores);
        let mut links = Vec::with_capacity(cores);
        for id in 0..cores {
            let link = Arc::new(Link::default());
            let (sender, events) = event::channel();
            let id = CoreId(id as u16);
            workers.push(Core::new(id, config.sad.capacity, Arc::clone(&net), sender, Arc::clone(&link)));
            links.push(CoreLink { link, events, sent: 0 });
        }
        let mut controller = Controller {
            cores: links,
            engine,
            sas: BTreeMap::new(),
            policies: config.policies.clone(),
            spd_stale: !config.policies.is_empty(),
            deleted: BTreeMap::new(),
            lifetimes: Lifetimes::default(),
            followers: Followers::default(),
            reservations: BTreeMap::new(),
            next_reservation: 0,
            deleted_memory: Nanos::from_secs(config.sad.deleted_memory_s).0,
            capacity: config.sad.capacity,
            least_window: config.eal.spread.least_window(cores).unwrap_or(0),
            next_sa_id: 1,
            net,
            routing,
            local,
            port_names,
            registry,
            instances: BTreeMap::new(),
            next_binding: 0,
            notifier: Notifier::new(config.notify.limits()),
            sinks,
            subscribers: Subscribers::default(),
            hooks: Hooks::new(config.events.clone(), Outputs::of(config)),
            baseline: Snapshot::default(),
            state: state::State::default(),
            now: Nanos::default(),
        };
        let mut changes = Vec::new();
        for params in &config.sas {
            changes.extend(controller.register_sa(params.clone())?);
        }
        changes.extend(controller.spd_change());
        for plugin in reload::instances(config) {
            for bind in &plugin.bind {
                changes.extend(controller.register_binding(Bind {
                    plugin: &plugin.plugin,
                    instance: &plugin.instance,
                    gate: bind.gate,
                    filter: bind.filter.clone(),
                    priority: bind.priority,
                    settings: &plugin.settings,
                })?);
            }
        }
        for mut change in changes {
            for (id, core) in workers.iter_mut().enumerate() {
                core.apply_at_start(change(CoreId(id as u16)));
            }
        }
        Ok((controller, workers))
    }

    /// Adds an SA; every core decapsulates or encapsulates with it when this returns.
    pub fn add_sa(&mut self, params: SaParams) -> Result<(), ControlError> {
        let mut change = self.register_sa(params)?;
        change.extend(self.spd_change());
        let applied = self.apply(change);
        self.keep_state();
        applied
    }

    fn register_sa(&mut self, params: SaParams) -> Result<Change, ControlError> {
        let key = params.key();
        if self.sas.contains_key(&order(&key)) {
            return Err(ControlError::SaExists(key));
        }
        // Only the receiver chooses SPIs: no reservation and no memory is for an outbound SA.
        let inbound = params.direction == Direction::In;
        let reserved = self.reservations_of(key.spi).any(|stored| stored.reservation.is_for(&key));
        if !inbound || !(reserved || self.deleted.contains_key(&order(&key))) {
            self.make_room()?;
        }
        let stored = self.make_sa(params, state::Origin::Requested)?;
        Ok(self.store(stored))
    }

    /// Puts an SA on the list, in place of one with the same key; gives what the cores are to be told. An outbound one is told
    /// with the policy.
    fn store(&mut self, stored: StoredSa) -> Change {
        let key = stored.sa.key();
        let place = order(&key);
        self.deleted.remove(&place);
        let inbound = stored.params.direction == Direction::In;
        let reserved = self.reservations_of(key.spi).find(|stored| inbound && stored.reservation.is_for(&key));
        if let Some(reservation) = reserved.map(|stored| stored.reservation) {
            self.reservations.remove(&reservation_order(&reservation));
        }
        if let Some(replaced) = self.sas.remove(&place) {
            self.lifetimes.unwatch(&replaced);
            self.followers.remove(&replaced.params);
            self.state.give_up(replaced.kept, &replaced.params);
        }
        let mut change = self.own(stored.params.local());
        self.lifetimes.watch(&stored);
        self.followers.add(&stored.params);
        match &stored.sa {
            InstalledSa::In(sa) => {
                let sa = Arc::clone(sa);
                change.push(Box::new(move |_| Command::InstallSa(Arc::clone(&sa))));
            }
            InstalledSa::Out(_) => self.spd_stale = true,
        }
        self.sas.insert(place, stored);
        self.catch_up(&key);
        change
    }

    /// The outbound policy as it is now, unless the cores have it.
    fn spd(&mut self) -> Option<Arc<Spd>> {
        if !std::mem::take(&mut self.spd_stale) {
            return None;
        }
        let outbound = self.sas.values().filter_map(|stored| match &stored.sa {
            InstalledSa::Out(sa) => Some(sa),
            InstalledSa::In(_) => None,
        });
        Some(Arc::new(Spd::new(&self.policies, outbound)))
    }

    fn spd_change(&mut self) -> Change {
        match self.spd() {
            Some(spd) => vec![Box::new(move |_| Command::SetSpd(Arc::clone(&spd)))],
            None => Change::new(),
        }
    }

    fn make_room(&self) -> Result<(), ControlError> {
        let taken = self.sas.len() + self.deleted.len() + self.reservations.len();
        if taken < self.capacity { Ok(()) } else { Err(ControlError::SadFull(self.capacity)) }
    }

    /// Makes an address ours: the destination of an SA is so by being one.
    fn own(&mut self, address: IpAddr) -> Change {
        if self.net.is_local(address) {
            return Change::new();
        }
        let local = LocalAddresses::new(&self.local, self.destinations().chain([address]));
        let net = Arc::new(self.net.with_local(local));
        self.net = Arc::clone(&net);
        vec![Box::new(move |_| Command::SetNet(Arc::clone(&net)))]
    }

    /// The SA with that SPI and, where given, those addresses.
    pub fn find_sa(&self, spi: Spi, dst: Option<IpAddr>, src: Option<IpAddr>) -> Result<&StoredSa, ControlError> {
        let fits = |key: &SaKey| dst.is_none_or(|dst| dst == key.dst) && src.is_none_or(|src| src == key.src);
        let mut found = self.sas_with(spi).filter(|stored| fits(&stored.sa.key()));
        match (found.next(), found.count()) {
            (Some(stored), 0) => Ok(stored),
            (Some(_), more) => Err(ControlError::AmbiguousSa { spi, count: more + 1 }),
            (None, _) => Err(ControlError::NoSuchSa { spi, dst, src }),
        }
    }

    fn sas_with(&self, spi: Spi) -> impl Iterator<Item = &StoredSa> {
        let lowest = IpAddr::from([0; 4]);
        self.sas.range((spi, lowest, lowest)..).take_while(move |(key, _)| key.0 == spi).map(|(_, stored)| stored)
    }

    /// Deletes an SA; no core uses it any more when this returns.
    pub fn delete_sa(&mut self, spi: Spi, dst: Option<IpAddr>, src: Option<IpAddr>) -> Result<SaKey, ControlError> {
        let stored = self.find_sa(spi, dst, src)?;
        let (key, direction) = (stored.sa.key(), stored.params.direction);
        self.remove_sa(&key);
        let change = match direction {
            Direction::In => vec![Box::new(move |_| Command::DeleteSa(key)) as Box<dyn FnMut(CoreId) -> Command>],
            Direction::Out => self.spd_change(),
        };
        let applied = self.apply(change);
        self.keep_state();
        applied.map(|()| key)
    }

    /// Takes an SA off the list, and remembers an inbound one as deleted.
    fn remove_sa(&mut self, key: &SaKey) {
        let Some(stored) = self.sas.remove(&order(key)) else {
            return;
        };
        self.lifetimes.unwatch(&stored);
        self.followers.remove(&stored.params);
        self.state.give_up(stored.kept, &stored.params);
        match stored.sa {
            InstalledSa::In(_) => {
                self.deleted.insert(order(key), Nanos(self.now.0.saturating_add(self.deleted_memory)));
            }
            InstalledSa::Out(_) => self.spd_stale = true,
        }
    }

    /// Gives the cores the outbound policy without waiting for them, if they don't have it.
    fn send_spd(&mut self) {
        if let Some(spd) = self.spd() {
            // With a full queue the cores that have it get it once more the next time, which does no harm.
            self.spd_stale = !tell_all(&mut self.cores, || Command::SetSpd(Arc::clone(&spd)));
        }
    }

    /// All SAs, by SPI.
    pub fn sas(&self) -> impl ExactSizeIterator<Item = &StoredSa> {
        self.sas.values()
    }

    /// Binds an instance of a plugin to a gate, and makes the instance if there is none of that name.
    pub fn bind(&mut self, bind: Bind<'_>) -> Result<(), ControlError> {
        let change = self.register_binding(bind)?;
        self.apply(change)
    }

    fn register_binding(&mut self, bind: Bind<'_>) -> Result<Change, ControlError> {
        let Bind { plugin, instance, gate, filter, priority, settings } = bind;
        let kind = self.registry.get(plugin)?;
        reload::check_gate(kind, gate)?;
        let mut change = Change::new();
        let name = kind.name();
        if let Some(stored) = self.instances.get(instance) {
            if stored.plugin != name {
                let instance = instance.to_owned();
                return Err(ControlError::InstanceExists { instance, plugin: stored.plugin });
            }
        } else {
            let taken = |slot: &InstanceSlot| self.instances.values().any(|stored| stored.slot == *slot);
            let slot = InstanceSlot::all().find(|slot| !taken(slot)).ok_or(ControlError::NoSlot)?;
            let Instance { cores, control } = kind.create(settings, self.cores.len())?;
            let stored = StoredInstance { plugin: name, bindings: Vec::new(), slot, control };
            self.instances.insert(instance.to_owned(), stored);
            let mut parts = cores.into_iter().map(Some).collect::<Vec<_>>();
            change.push(Box::new(move |core| {
                Command::SetInstance(slot, parts.get_mut(core.index()).and_then(Option::take))
            }));
        }
        let serial = self.next_binding;
        self.next_binding += 1;
        if let Some(stored) = self.instances.get_mut(instance) {
            stored.bindings.push(StoredBinding { gate, priority, filter, serial });
        }
        change.push(self.gates_change());
        Ok(change)
    }

    /// Unbinds an instance from a gate, or from all; an instance without bindings goes.
    pub fn unbind(&mut self, instance: &str, gate: Option<Gate>) -> Result<(), ControlError> {
        let no_such = || ControlError::NoSuchInstance(instance.to_owned());
        let stored = self.instances.get_mut(instance).ok_or_else(no_such)?;
        let before = stored.bindings.len();
        stored.bindings.retain(|binding| gate.is_some_and(|gate| gate != binding.gate));
        if let Some(gate) = gate.filter(|_| stored.bindings.len() == before) {
            return Err(ControlError::NotBound { instance: instance.to_owned(), gate });
        }
        let (slot, gone) = (stored.slot, stored.bindings.is_empty());
        let mut change = vec![self.gates_change()];
        if gone {
            change.push(Box::new(move |_| Command::SetInstance(slot, None)));
        }
        let applied = self.apply(change);
        if gone && let Some(mut stored) = self.instances.remove(instance) {
            // What the cores left last is still to be taken.
            stored.control.poll(self.now);
        }
        applied
    }

    /// The bindings of all instances as the cores use them.
    fn gates_change(&self) -> Box<dyn FnMut(CoreId) -> Command> {
        let mut bindings: Vec<(&StoredBinding, InstanceSlot)> =
            self.instances.values().flat_map(|stored| stored.bindings.iter().map(|b| (b, stored.slot))).collect();
        bindings.sort_by_key(|(binding, _)| (binding.priority, binding.serial));
        let mut table = GateTable::default();
        for (binding, slot) in bindings {
            table.push(binding.gate, Binding { filter: binding.filter.clone(), slot });
        }
        Box::new(move |_| Command::SetGates(Box::new(table.clone())))
    }

    /// The time of the last [`Controller::tick`].
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// The crypto engine's name.
    pub fn engine_name(&self) -> &'static str {
        self.engine.name()
    }

    /// The plugins of this build.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The packets that instances keep in memory, by the time at which they were received.
    pub fn recorded(&self) -> Vec<RecordedPacket> {
        let mut packets: Vec<RecordedPacket> =
            self.instances.values().flat_map(|stored| stored.control.recorded()).collect();
        packets.sort_by_key(|packet| packet.at_ns);
        packets
    }

    /// The hooks of the configuration.
    pub fn hooks(&self) -> &Arc<Hooks> {
        &self.hooks
    }

    /// The instances by name.
    pub fn instances(&self) -> impl Iterator<Item = (&str, &StoredInstance)> {
        self.instances.iter().map(|(name, stored)| (name.as_str(), stored))
    }

    /// Sends a change to every core and waits until all have applied it.
    fn apply(&mut self, change: Change) -> Result<(), ControlError> {
        let deadline = Instant::now() + SETTLE_TIME;
        for mut command in change {
            for (id, core) in self.cores.iter_mut().enumerate() {
                let id = CoreId(id as u16);
                core.send(id, command(id), deadline)?;
            }
        }
        self.cores.iter().enumerate().try_for_each(|(id, core)| core.settle(CoreId(id as u16), deadline))
    }

    /// All counters since they were last cleared, summed over cores.
    pub fn counters(&self) -> Snapshot {
        self.counters_since_start().since(&self.baseline)
    }

    /// All counters since the start, summed over cores.
    pub fn counters_since_start(&self) -> Snapshot {
        Snapshot::sum(self.cores.iter().map(|core| &core.link.counters))
    }

    /// Each core's counters since the start.
    pub fn core_counters(&self) -> impl Iterator<Item = Snapshot> {
        self.cores.iter().map(|core| core.link.counters.snapshot())
    }

    /// Where each core's clocks go, since the start.
    pub fn runtime(&self) -> impl Iterator<Item = RuntimeReport> {
        self.cores.iter().map(|core| core.link.stages.report())
    }

    /// How often each core went round its receive queues, since the start.
    pub fn rounds(&self) -> impl Iterator<Item = u64> {
        self.cores.iter().map(|core| core.link.stages.polls())
    }

    /// Lets counters begin at zero again; gives what they were.
    pub fn clear_counters(&mut self) -> Snapshot {
        let now = self.counters_since_start();
        let before = now.since(&self.baseline);
        self.baseline = now;
        before
    }

    /// What is known of invalid SPIs.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Does what is due: takes the cores' events, reports, frees, forgets. Call it some ten times a second.
    pub fn tick(&mut self, now: Nanos) {
        self.cores.iter().for_each(CoreLink::free_retired);
        self.take_events(now);
        let packets = self.invalid_spi_packets();
        self.notifier.tick(now, packets, &mut self.sinks);
        for stored in self.instances.values_mut() {
            stored.control.poll(now);
        }
        self.tell_routes();
        self.sweep_sas();
        self.expire_by_time();
        self.delete_expired();
        self.send_spd();
        self.forget_deleted();
        self.expire_reservations();
        self.keep_state();
    }

    /// Does what is due at the end: takes what is left and reports what was left out.
    pub fn finish(&mut self, now: Nanos) {
        self.tick(now);
        let packets = self.invalid_spi_packets();
        self.notifier.finish(now, packets, &mut self.sinks);
    }

    fn invalid_spi_packets(&self) -> u64 {
        let totals = self.counters_since_start();
        (totals.drops(DropReason::UnknownSpiV4) + totals.drops(DropReason::UnknownSpiV6)).packets
    }

    fn forget_deleted(&mut self) {
        let (cores, now) = (&mut self.cores, self.now);
        self.deleted.retain(|(spi, dst, src), until| {
            let key = SaKey { spi: *spi, dst: *dst, src: *src };
            *until > now || !tell_all(cores, || Command::ForgetSa(key))
        });
    }
}

/// Sends a command to every core without waiting. False where a queue is full: then all are asked again the next time,
/// which must do no harm.
fn tell_all(cores: &mut [CoreLink], command: impl Fn() -> Command) -> bool {
    cores.iter_mut().all(|core| core.try_send(command()).is_ok())
}

impl CoreLink {
    fn try_send(&mut self, command: Command) -> Result<(), Command> {
        self.link.commands.push(command)?;
        self.sent += 1;
        Ok(())
    }

    fn send(&mut self, id: CoreId, mut command: Command, deadline: Instant) -> Result<(), ControlError> {
        while let Err(back) = self.try_send(command) {
            command = back;
            self.wait(id, deadline)?;
        }
        Ok(())
    }

    fn settle(&self, id: CoreId, deadline: Instant) -> Result<(), ControlError> {
        // Acquire: what the core did before it counted the command is done.
        while self.link.applied.load(Ordering::Acquire) < self.sent {
            self.wait(id, deadline)?;
        }
        Ok(())
    }

    fn wait(&self, id: CoreId, deadline: Instant) -> Result<(), ControlError> {
        if Instant::now() >= deadline {
            return Err(ControlError::CoreStuck { core: id.0 });
        }
        self.free_retired();
        std::thread::sleep(Duration::from_micros(20));
        Ok(())
    }

    /// Frees what the core has given back: keys are zeroised here.
    fn free_retired(&self) {
        while self.link.retired.pop().is_some() {}
    }
}
