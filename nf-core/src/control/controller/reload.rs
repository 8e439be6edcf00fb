//! A changed configuration, taken over while packets flow: the difference, all of it or nothing.
//!
//! Everything that can fail is done first: SAs and plugin instances are made, room and names are checked. What follows
//! can't be refused. Cores then get the new SAs before the old ones go, and an SA or instance that changes is exchanged
//! in place, so that no packet meets a gap.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lifetimes::Reported;
use super::state::Origin;
use super::{Change, ControlError, Controller, InstalledSa, StoredBinding, StoredInstance, StoredSa, order, peer_at};
use crate::config::{self, Bind, Config};
use crate::core::Command;
use crate::hooks::Outputs;
use crate::net::LocalAddresses;
use crate::plugin::{Filter, Gate, Instance, InstanceSlot, PluginError, PluginKind};
use crate::sa::inbound::{Progress, SaKey};
use crate::sa::spec::{Direction, SaParams};
use crate::types::{CoreId, Nanos};

/// What a reload changed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// SAs that came.
    pub sas_added: usize,
    /// SAs that have other keys, algorithms or settings now. Their counters begin anew.
    pub sas_changed: usize,
    /// SAs that went.
    pub sas_removed: usize,
    /// Plugin instances that came.
    pub instances_added: Vec<String>,
    /// Plugin instances with other settings or bindings.
    pub instances_changed: Vec<String>,
    /// Plugin instances that went.
    pub instances_removed: Vec<String>,
    /// Tables and fields that were taken over as a whole.
    pub settings: Vec<String>,
    /// Tables that changed and that are the agent's, which takes them over by a reload of its own.
    pub for_agent: Vec<String>,
}

/// A plugin instance that is ready to run.
struct ReadyInstance {
    slot: InstanceSlot,
    /// None where the instance stays as it is, and only its bindings change.
    made: Option<Instance>,
    plugin: &'static str,
    table: config::Plugin,
}

/// All that a reload needs, made.
#[derive(Default)]
struct Ready {
    sas: Vec<StoredSa>,
    gone_sas: Vec<(SaKey, Direction)>,
    instances: Vec<ReadyInstance>,
    gone_instances: Vec<String>,
    report: Reloaded,
}

/// The plugin instances that a configuration stands for: de- and encapsulation are plugins like others, only that one
/// expects them to be there, and snapshots need packets.
pub(super) fn instances(config: &Config) -> Vec<config::Plugin> {
    let implicit = |name: &str, plugin: &str, gate, settings| config::Plugin {
        instance: name.to_owned(),
        plugin: plugin.to_owned(),
        settings,
        bind: vec![Bind { gate, filter: Filter::default(), priority: 1000 }],
    };
    let mut list = config.plugins.clone();
    if config.events.iter().any(|hook| hook.actions.snapshot) {
        let settings = serde_json::json!({"memory": config.snapshot.packets});
        list.push(implicit("snapshot", "capture", Gate::Drop, settings));
    }
    for (plugin, gate) in [("decap", Gate::EspInput), ("encap", Gate::Egress)] {
        if !list.iter().any(|table| table.plugin == plugin) {
            list.push(implicit(plugin, plugin, gate, Value::Null));
        }
    }
    list
}

impl Controller {
    /// Takes over what differs between the configuration that was applied last and a new one. What was added or bound by
    /// hand stays.
    ///
    /// # Errors
    /// [`ControlError`]; nothing has changed then, but for [`ControlError::CoreStuck`].
    pub fn reload(&mut self, old: &Config, new: &Config) -> Result<Reloaded, ControlError> {
        let differences = old.differences(new);
        if !differences.fixed.is_empty() {
            return Err(ControlError::NeedsRestart(differences.fixed));
        }
        let mut ready = Ready::default();
        ready.report.for_agent = differences.agents.into_iter().map(str::to_owned).collect();
        let prepared = self.prepare_sas(old, new, &mut ready);
        if let Err(error) = prepared.and_then(|()| self.prepare_instances(old, new, &mut ready)) {
            ready.sas.iter().for_each(|made| self.state.abandon(made.kept));
            return Err(error);
        }
        let (change, gone, report) = self.commit(old, new, ready);
        let applied = self.apply(change);
        self.state.forget_unnamed(&new.sas);
        self.keep_state();
        for mut stored in gone {
            // What the cores left last is still to be taken.
            stored.control.poll(self.now);
        }
        applied.map(|()| report)
    }

    fn prepare_sas(&mut self, old: &Config, new: &Config, ready: &mut Ready) -> Result<(), ControlError> {
        let before: BTreeMap<_, &SaParams> = old.sas.iter().map(|sa| (order(&sa.key()), sa)).collect();
        let after: BTreeMap<_, &SaParams> = new.sas.iter().map(|sa| (order(&sa.key()), sa)).collect();
        let mut room = 0;
        for (place, params) in &after {
            let is_new = match before.get(place) {
                Some(same) if same == params => continue,
                Some(_) => false,
                None if self.sas.contains_key(place) => return Err(ControlError::SaExists(params.key())),
                None => true,
            };
            let inbound = params.direction == Direction::In;
            let reserved = self.reservations_of(params.spi).any(|stored| stored.reservation.is_for(&params.key()));
            let has_room = self.sas.contains_key(place) || inbound && (reserved || self.deleted.contains_key(place));
            room += usize::from(!has_room);
            let made = self.make_sa((*params).clone(), Origin::Configured)?;
            ready.sas.push(made);
            *if is_new { &mut ready.report.sas_added } else { &mut ready.report.sas_changed } += 1;
        }
        if self.sas.len() + self.deleted.len() + self.reservations.len() + room > self.capacity {
            return Err(ControlError::SadFull(self.capacity));
        }
        // One that is gone already, by hand or by its lifetime, need not go.
        let gone = before.keys().filter(|place| !after.contains_key(*place) && self.sas.contains_key(*place));
        let gone = gone.filter_map(|place| self.sas.get(place));
        ready.gone_sas = gone.map(|stored| (stored.sa.key(), stored.params.direction)).collect();
        ready.report.sas_removed = ready.gone_sas.len();
        Ok(())
    }

    fn prepare_instances(&self, old: &Config, new: &Config, ready: &mut Ready) -> Result<(), ControlError> {
        let (before, after) = (instances(old), instances(new));
        let named = |list: &[config::Plugin], name: &str| list.iter().find(|table| table.instance == name).cloned();
        for table in &after {
            let previous = named(&before, &table.instance);
            if previous.as_ref() == Some(table) {
                continue;
            }
            let kind = self.registry.get(&table.plugin)?;
            table.bind.iter().try_for_each(|bind| check_gate(kind, bind.gate))?;
            let there = self.instances.get(&table.instance);
            if let (None, Some(there)) = (&previous, there) {
                return Err(ControlError::InstanceExists { instance: table.instance.clone(), plugin: there.plugin });
            }
            let stays = there.is_some()
                && previous
                    .as_ref()
                    .is_some_and(|old| (&old.plugin, &old.settings) == (&table.plugin, &table.settings));
            let taken = |slot: &InstanceSlot| {
                let ready = ready.instances.iter().any(|instance| instance.slot == *slot);
                ready || self.instances.values().any(|stored| stored.slot == *slot)
            };
            let slot = there.map(|stored| stored.slot).or_else(|| InstanceSlot::all().find(|slot| !taken(slot)));
            let slot = slot.ok_or(ControlError::NoSlot)?;
            let made = if stays { None } else { Some(kind.create(&table.settings, self.cores.len())?) };
            ready.instances.push(ReadyInstance { slot, made, plugin: kind.name(), table: table.clone() });
            let list = match previous {
                Some(_) => &mut ready.report.instances_changed,
                None => &mut ready.report.instances_added,
            };
            list.push(table.instance.clone());
        }
        let gone = before.into_iter().map(|table| table.instance);
        ready.gone_instances =
            gone.filter(|name| named(&after, name).is_none() && self.instances.contains_key(name)).collect();
        ready.report.instances_removed.clone_from(&ready.gone_instances);
        Ok(())
    }

    /// Takes over what is ready; gives what the cores have to do, in order, and the instances that are to end when they
    /// have. Nothing here can fail.
    fn commit(&mut self, old: &Config, new: &Config, ready: Ready) -> (Change, Vec<StoredInstance>, Reloaded) {
        let Ready { sas, gone_sas, instances, gone_instances, mut report } = ready;
        let mut change = Change::new();
        for stored in sas {
            change.extend(self.store(stored));
        }
        for (key, _) in &gone_sas {
            self.remove_sa(key);
        }
        if old.policies != new.policies {
            report.settings.push("[[policy]]".to_owned());
            self.policies.clone_from(&new.policies);
            self.spd_stale = true;
        }
        change.extend(self.spd_change());
        if old.local != new.local {
            report.settings.push("[[local]]".to_owned());
        }
        self.local = new.local.iter().map(|local| local.address).collect();
        let mut net = self.net.with_local(LocalAddresses::new(&self.local, self.destinations()));
        if (&old.routes, &old.neighbours) != (&new.routes, &new.neighbours) {
            report.settings.push("[[route]], [[neighbour]]".to_owned());
            self.routing.configure(new, &self.port_names);
            net = self.routing.apply_to(&net);
        }
        let net = Arc::new(net);
        self.net = Arc::clone(&net);
        change.push(Box::new(move |_| Command::SetNet(Arc::clone(&net))));

        let mut gone: Vec<StoredInstance> =
            gone_instances.iter().filter_map(|name| self.instances.remove(name)).collect();
        let freed: Vec<InstanceSlot> = gone.iter().map(|stored| stored.slot).collect();
        for instance in instances {
            let (parts, replaced) = self.store_instance(instance);
            change.extend(parts);
            gone.extend(replaced);
        }
        change.push(self.gates_change());
        change.extend(
            freed.into_iter().map(|slot| -> Box<dyn FnMut(CoreId) -> Command> {
                Box::new(move |_| Command::SetInstance(slot, None))
            }),
        );
        let inbound = gone_sas.into_iter().filter(|(_, direction)| *direction == Direction::In);
        change.extend(
            inbound.map(|(key, _)| -> Box<dyn FnMut(CoreId) -> Command> { Box::new(move |_| Command::DeleteSa(key)) }),
        );

        if old.notify != new.notify {
            report.settings.push("[notify]".to_owned());
            self.notifier.set_limits(new.notify.limits());
        }
        if old.notify.syslog != new.notify.syslog {
            self.sinks.set_syslog(new.notify.syslog.clone());
        }
        if old.snapshot != new.snapshot {
            report.settings.push("[snapshot]".to_owned());
        }
        self.hooks.redirect(Outputs::of(new));
        if old.events != new.events {
            report.settings.push("[[event]]".to_owned());
            self.hooks.exchange(new.events.clone());
        }
        if old.sad.deleted_memory_s != new.sad.deleted_memory_s {
            report.settings.push("[sad] deleted_memory_s".to_owned());
            self.deleted_memory = Nanos::from_secs(new.sad.deleted_memory_s).0;
        }
        (change, gone, report)
    }

    /// Makes an SA, without installing it. One in whose place it comes may not have the same keys: while cores exchange them one
    /// by one, a packet that was taken on the new one could be replayed on the old one, and a sequence number used on both.
    /// Only where both take replays anyway nothing is lost.
    pub(super) fn make_sa(&mut self, mut params: SaParams, origin: Origin) -> Result<StoredSa, ControlError> {
        params.replay_window = params.replay_window.at_least(self.least_window);
        let key = params.key();
        let there = self.sas.get(&order(&key));
        let shares = |stored: &StoredSa| {
            stored.params.transform == params.transform && !(params.takes_replays() && stored.params.takes_replays())
        };
        if there.is_some_and(shares) {
            return Err(ControlError::KeyUsedAgain(key));
        }
        if there.is_some_and(|stored| stored.params.direction != params.direction) {
            return Err(ControlError::SaExists(key));
        }
        let kept = self.state.take(origin);
        let progress = Progress { mark: kept.map(|kept| kept.mark), ..Progress::default() };
        let made = InstalledSa::resume(&params, self.next_sa_id, &*self.engine, self.cores.len(), progress);
        let sa = made.inspect_err(|_| self.state.abandon(kept))?;
        self.next_sa_id = self.next_sa_id.wrapping_add(1);
        Ok(StoredSa {
            peer_at: peer_at(&params),
            sa,
            params,
            installed: self.now,
            age_before: 0,
            reported: Reported::default(),
            kept,
        })
    }

    /// The addresses that are ours by being an SA's or a reservation's; for late packets those of deleted SAs, too.
    pub(super) fn destinations(&self) -> impl Iterator<Item = IpAddr> {
        let sas =
            self.sas.values().map(|stored| stored.params.local()).chain(self.deleted.keys().map(|(_, dst, _)| *dst));
        sas.chain(self.reservations.keys().map(|(_, dst, _)| *dst))
    }

    /// Puts an instance on the list; gives what the cores have to do, and the one whose place it takes.
    fn store_instance(&mut self, ready: ReadyInstance) -> (Change, Option<StoredInstance>) {
        let ReadyInstance { slot, made, plugin, table } = ready;
        let mut bindings = Vec::with_capacity(table.bind.len());
        for Bind { gate, filter, priority } in table.bind {
            bindings.push(StoredBinding { gate, priority, filter, serial: self.next_binding });
            self.next_binding += 1;
        }
        let Some(Instance { cores, control }) = made else {
            if let Some(stored) = self.instances.get_mut(&table.instance) {
                stored.bindings = bindings;
            }
            return (Change::new(), None);
        };
        let stored = StoredInstance { plugin, bindings, slot, control };
        let replaced = self.instances.insert(table.instance, stored);
        let mut parts = cores.into_iter().map(Some).collect::<Vec<_>>();
        let change: Change =
            vec![Box::new(move |core| Command::SetInstance(slot, parts.get_mut(core.index()).and_then(Option::take)))];
        (change, replaced)
    }
}

pub(super) fn check_gate(kind: &dyn PluginKind, gate: Gate) -> Result<(), PluginError> {
    if kind.gates().contains(&gate) {
        return Ok(());
    }
    let gates = kind.gates().iter().map(|gate| gate.name()).collect::<Vec<_>>().join(", ");
    Err(PluginError::WrongGate { plugin: kind.name(), gate, gates })
}
