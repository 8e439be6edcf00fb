//! The control thread's side of the network function: the authoritative list of SAs, the plugin instances and their
//! bindings, the notifier; and the commands that carry changes to the cores.
//!
//! A change is checked and prepared completely here, key schedules expanded and memory allocated, before a core hears
//! of it. It is answered once every core has applied it: what `nf-ctl` reports as done holds on all cores.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::config::Config;
use crate::core::{Command, Core, Link};
use crate::counters::Snapshot;
use crate::crypto::{self, Engine, EngineError};
use crate::drop::DropReason;
use crate::event::{self, Event, EventReceiver};
use crate::net::{LocalAddresses, Net, NetPort};
use crate::notify::{FanOut, Notifier};
use crate::plugin::{Binding, Filter, Gate, GateTable, Instance, InstanceSlot, PluginControl, PluginError, Registry};
use crate::sa::inbound::{Sa, SaKey};
use crate::sa::spec::SaParams;
use crate::types::{CoreId, Nanos, Spi};

/// How long a core may take to apply a change before it counts as stuck. Cores apply changes between two bursts.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// Events taken from a core at a time.
const EVENTS_PER_TICK: usize = 1024;

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
    /// The table is full.
    #[error(
        "there is no room for more than {0} SAs, counting those deleted a moment ago; raise `[sad] capacity` and restart"
    )]
    SadFull(usize),
    /// The engine refuses the SA's transform.
    #[error(transparent)]
    Engine(#[from] EngineError),
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
    pub sa: Arc<Sa>,
    /// Its algorithms, for display.
    pub params: SaParams,
    /// When it was installed.
    pub installed: Nanos,
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
    /// Deleted SAs that the cores still remember, and until when.
    deleted: HashMap<SaKey, Nanos>,
    deleted_memory: u64,
    capacity: usize,
    next_sa_id: u32,
    net: Arc<Net>,
    local: Vec<IpAddr>,
    port_names: Vec<String>,
    registry: Registry,
    instances: BTreeMap<String, StoredInstance>,
    next_binding: u64,
    notifier: Notifier,
    sinks: FanOut,
    baseline: Snapshot,
    now: Nanos,
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
        let (port_names, ports): (Vec<_>, Vec<_>) = ports.into_iter().unzip();
        let local: Vec<IpAddr> = config.local.iter().map(|local| local.address).collect();
        let destinations = config.sas.iter().map(|sa| sa.dst);
        let net = Arc::new(Net::new(ports, LocalAddresses::new(&local, destinations)));
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
            engine: crypto::select(config.crypto.engine)?,
            sas: BTreeMap::new(),
            deleted: HashMap::new(),
            deleted_memory: Nanos::from_secs(config.sad.deleted_memory_s).0,
            capacity: config.sad.capacity,
            next_sa_id: 1,
            net,
            local,
            port_names,
            registry,
            instances: BTreeMap::new(),
            next_binding: 0,
            notifier: Notifier::new(config.notify.limits()),
            sinks,
            baseline: Snapshot::default(),
            now: Nanos::default(),
        };
        let mut changes = Vec::new();
        for params in &config.sas {
            changes.extend(controller.register_sa(params.clone())?);
        }
        for plugin in &config.plugins {
            for bind in &plugin.bind {
                changes.extend(controller.register_binding(
                    &plugin.plugin,
                    &plugin.instance,
                    bind.gate,
                    bind.filter.clone(),
                    bind.priority,
                    &plugin.settings,
                )?);
            }
        }
        // Decapsulation is a plugin like others, only that one expects it to be there.
        if !controller.instances.values().any(|instance| instance.plugin == "decap") {
            let filter = Filter::default();
            changes.extend(controller.register_binding(
                "decap",
                "decap",
                Gate::EspInput,
                filter,
                1000,
                &Value::Null,
            )?);
        }
        for mut change in changes {
            for (id, core) in workers.iter_mut().enumerate() {
                core.apply_at_start(change(CoreId(id as u16)));
            }
        }
        Ok((controller, workers))
    }

    /// Adds an SA; it decapsulates on every core when this returns.
    pub fn add_sa(&mut self, params: SaParams) -> Result<(), ControlError> {
        let change = self.register_sa(params)?;
        self.apply(change)
    }

    fn register_sa(&mut self, params: SaParams) -> Result<Change, ControlError> {
        let key = params.key();
        if self.sas.contains_key(&order(&key)) {
            return Err(ControlError::SaExists(key));
        }
        if self.sas.len() + self.deleted.len() >= self.capacity && !self.deleted.contains_key(&key) {
            return Err(ControlError::SadFull(self.capacity));
        }
        let sa = Arc::new(Sa::new(&params, self.next_sa_id, &*self.engine, self.cores.len())?);
        self.next_sa_id = self.next_sa_id.wrapping_add(1);
        self.deleted.remove(&key);
        let mut change = Change::new();
        // An SA's destination is ours by being one.
        if !self.net.is_local(key.dst) {
            let destinations = self.sas.keys().map(|(_, dst, _)| *dst).chain([key.dst]);
            let net = Arc::new(self.net.with_local(LocalAddresses::new(&self.local, destinations)));
            self.net = Arc::clone(&net);
            change.push(Box::new(move |_| Command::SetNet(Arc::clone(&net))));
        }
        let stored = StoredSa { sa: Arc::clone(&sa), params, installed: self.now };
        self.sas.insert(order(&key), stored);
        change.push(Box::new(move |_| Command::InstallSa(Arc::clone(&sa))));
        Ok(change)
    }

    /// The SA with that SPI and, where given, those addresses.
    pub fn find_sa(&self, spi: Spi, dst: Option<IpAddr>, src: Option<IpAddr>) -> Result<&StoredSa, ControlError> {
        let fits = |key: &SaKey| dst.is_none_or(|dst| dst == key.dst) && src.is_none_or(|src| src == key.src);
        let mut found = self.sas_with(spi).filter(|stored| fits(&stored.sa.key));
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

    /// Deletes an SA; no core decapsulates with it any more when this returns.
    pub fn delete_sa(&mut self, spi: Spi, dst: Option<IpAddr>, src: Option<IpAddr>) -> Result<SaKey, ControlError> {
        let key = self.find_sa(spi, dst, src)?.sa.key;
        self.sas.remove(&order(&key));
        self.deleted.insert(key, Nanos(self.now.0.saturating_add(self.deleted_memory)));
        self.apply(vec![Box::new(move |_| Command::DeleteSa(key))])?;
        Ok(key)
    }

    /// All SAs, by SPI.
    pub fn sas(&self) -> impl ExactSizeIterator<Item = &StoredSa> {
        self.sas.values()
    }

    /// Binds an instance of a plugin to a gate, and makes the instance if there is none of that name.
    pub fn bind(
        &mut self,
        plugin: &str,
        instance: &str,
        gate: Gate,
        filter: Filter,
        priority: u16,
        settings: &Value,
    ) -> Result<(), ControlError> {
        let change = self.register_binding(plugin, instance, gate, filter, priority, settings)?;
        self.apply(change)
    }

    fn register_binding(
        &mut self,
        plugin: &str,
        instance: &str,
        gate: Gate,
        filter: Filter,
        priority: u16,
        settings: &Value,
    ) -> Result<Change, ControlError> {
        let kind = self.registry.get(plugin)?;
        if !kind.gates().contains(&gate) {
            let gates = kind.gates().iter().map(|gate| gate.name()).collect::<Vec<_>>().join(", ");
            return Err(PluginError::WrongGate { plugin: kind.name(), gate, gates }.into());
        }
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
        self.now = now;
        for core in &mut self.cores {
            core.free_retired();
            for event in std::iter::from_fn(|| core.events.recv()).take(EVENTS_PER_TICK) {
                match event {
                    Event::InvalidSpi(invalid) => {
                        let port = self.port_names.get(invalid.port.index()).map_or("", String::as_str);
                        self.notifier.on_event(now, &invalid, port, &mut self.sinks);
                    }
                }
            }
        }
        let packets = self.invalid_spi_packets();
        self.notifier.tick(now, packets, &mut self.sinks);
        for stored in self.instances.values_mut() {
            stored.control.poll(now);
        }
        self.forget_deleted();
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
        let cores = &mut self.cores;
        self.deleted.retain(|key, until| {
            let due = *until <= self.now;
            // A core whose queue is full is asked again the next time; to forget twice does no harm.
            !(due && cores.iter_mut().all(|core| core.try_send(Command::ForgetSa(*key)).is_ok()))
        });
    }
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
