//! An SA of either direction, as the control thread holds it.

use std::sync::Arc;

use crate::sa::inbound::{Sa, SaKey, SaTotals};
use crate::sa::lifetime::Phase;
use crate::sa::outbound::OutboundSa;
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
