//! Security associations: what an operator or IKE asks for, what the cores keep of it.

pub mod inbound;
pub mod larval;
pub mod lifetime;
pub mod outbound;
pub mod path_mtu;
pub mod permit;
pub mod replay;
pub mod spec;
pub mod table;

use crate::types::CoreId;

/// A core's own counters of an SA: there are some for each core, and for one at least.
#[inline]
fn of_core<T>(counters: &[T], core: CoreId) -> &T {
    // A division would take longer than all that is counted.
    &counters[core.index().min(counters.len() - 1)]
}
