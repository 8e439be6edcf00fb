//! An SA of either direction, as the control thread holds it.

use std::sync::Arc;

use crate::crypto::{Engine, EngineError};
use crate::sa::inbound::{Progress, Sa, SaKey, SaTotals};
use crate::sa::lifetime::Phase;
use crate::sa::outbound::OutboundSa;
use crate::sa::spec::{Direction, SaParams};
use crate::types::SeqNo;

/// An SA that the cores have.
#[derive(Clone, Debug)]
pub enum InstalledSa {
    /// Packets come in on it.
    In(Arc<Sa>),
    /// Packets go out on it.
    Out(Arc<OutboundSa>),
}

impl InstalledSa {
    /// Makes the SA with its key schedule, for `cores` cores; it may have come some way already.
    ///
    /// # Errors
    /// Where the engine doesn't support the transform, or there are no random numbers.
    pub(super) fn resume(
        params: &SaParams,
        id: u32,
        engine: &dyn Engine,
        cores: usize,
        progress: Progress,
    ) -> Result<InstalledSa, EngineError> {
        Ok(match params.direction {
            Direction::In => InstalledSa::In(Arc::new(Sa::resume(params, id, engine, cores, progress)?)),
            Direction::Out => InstalledSa::Out(Arc::new(OutboundSa::resume(params, id, engine, cores, progress)?)),
        })
    }

    /// SPI and outer addresses.
    pub fn key(&self) -> SaKey {
        match self {
            InstalledSa::In(sa) => sa.key,
            InstalledSa::Out(sa) => sa.key,
        }
    }

    /// The number that no other SA of the process has.
    pub fn id(&self) -> u32 {
        match self {
            InstalledSa::In(sa) => sa.id,
            InstalledSa::Out(sa) => sa.id,
        }
    }

    /// Which of its limits it has reached.
    pub fn phase(&self) -> &Phase {
        match self {
            InstalledSa::In(sa) => sa.phase(),
            InstalledSa::Out(sa) => sa.phase(),
        }
    }

    /// The sum of all cores' counters.
    pub fn totals(&self) -> SaTotals {
        match self {
            InstalledSa::In(sa) => sa.totals(),
            InstalledSa::Out(sa) => sa.totals(),
        }
    }

    /// Inbound the highest authentic number, outbound the highest that was used.
    pub fn highest(&self) -> Option<SeqNo> {
        match self {
            InstalledSa::In(sa) => sa.window.highest(),
            InstalledSa::Out(sa) => sa.highest(),
        }
    }

    /// Whether an authentic packet has come in on it. Nothing comes in on an outbound one.
    pub fn is_used(&self) -> bool {
        match self {
            InstalledSa::In(sa) => sa.is_used(),
            InstalledSa::Out(_) => false,
        }
    }
}
