//! One core's gates: which instances are bound where, and the run of a burst through the bindings of a gate.

use super::{Filter, Gate, Plugin};
use crate::batch::Batch;
use crate::core::CoreCx;
use crate::lanes::Lanes;

/// The most instances that may exist at a time.
const MAX_INSTANCES: usize = 64;

/// An instance's place among a core's instances, the same on every core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InstanceSlot(u8);

impl InstanceSlot {
    /// All places, free and taken.
    pub fn all() -> impl Iterator<Item = InstanceSlot> {
        (0..MAX_INSTANCES as u8).map(InstanceSlot)
    }

    const fn index(self) -> usize {
        (self.0 as usize) % MAX_INSTANCES
    }
}

/// An instance bound to a gate for the packets that a filter picks.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The packets.
    pub filter: Filter,
    /// The instance.
    pub slot: InstanceSlot,
}

/// The bindings of all gates, each gate's in the order in which they are run. Made by the control thread, swapped
/// into the core as a whole.
#[derive(Clone, Debug, Default)]
pub struct GateTable {
    gates: [Vec<Binding>; Gate::COUNT],
}

impl GateTable {
    /// Adds a binding behind those that the gate has.
    pub fn push(&mut self, gate: Gate, binding: Binding) {
        self.gates[gate.index()].push(binding);
    }
}

/// A core's instances and bindings.
pub struct Gates {
    table: Box<GateTable>,
    instances: [Option<Box<dyn Plugin>>; MAX_INSTANCES],
}

impl Default for Gates {
    fn default() -> Self {
        Gates { table: Box::default(), instances: [const { None }; MAX_INSTANCES] }
    }
}

impl Gates {
    /// Puts an instance into its place, or takes it out; gives back what was there, for the control thread to free.
    pub fn swap_instance(&mut self, slot: InstanceSlot, instance: Option<Box<dyn Plugin>>) -> Option<Box<dyn Plugin>> {
        std::mem::replace(&mut self.instances[slot.index()], instance)
    }

    /// Takes new bindings; gives back the old ones, for the control thread to free.
    pub fn swap_table(&mut self, table: Box<GateTable>) -> Box<GateTable> {
        std::mem::replace(&mut self.table, table)
    }

    /// Whether anything is bound to a gate.
    #[inline]
    pub fn is_bound(&self, gate: Gate) -> bool {
        !self.table.gates[gate.index()].is_empty()
    }

    /// Runs `lanes` through a gate's bindings; gives those that no instance moved.
    pub fn run(&mut self, gate: Gate, core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) -> Lanes {
        self.run_from(0, gate, core, batch, lanes)
    }

    /// Runs `lanes`, which were held there or went to a crypto device, through the rest of a gate's bindings, from the one
    /// that may have done that on; gives those that no instance moved.
    pub fn resume(&mut self, gate: Gate, core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) -> Lanes {
        let holds = |binding: &Binding| self.instances[binding.slot.index()].as_ref().is_some_and(|it| it.holds());
        let first = self.table.gates[gate.index()].iter().position(holds).unwrap_or(0);
        self.run_from(first, gate, core, batch, lanes)
    }

    fn run_from(
        &mut self,
        first: usize,
        gate: Gate,
        core: &mut CoreCx<'_>,
        batch: &mut Batch<'_>,
        mut lanes: Lanes,
    ) -> Lanes {
        for binding in self.table.gates[gate.index()].iter().skip(first) {
            let chosen = binding.filter.select(batch, lanes);
            if chosen.is_empty() {
                continue;
            }
            if let Some(instance) = &mut self.instances[binding.slot.index()] {
                batch.take_moved();
                instance.process(core, batch, chosen);
                core.watch.lap(gate.stage(), chosen.len());
                lanes -= batch.take_moved();
            }
        }
        lanes
    }
}
