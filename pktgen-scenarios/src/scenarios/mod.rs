//! The scenarios, a file for each kind.

mod basic;
mod headers;
mod mixed;
mod variety;

use crate::scenario::Scenario;

/// All of them.
pub const ALL: &[Scenario] = &[
    basic::VALID,
    basic::UNKNOWN_SPI,
    basic::REPLAY,
    basic::BAD_ICV,
    mixed::MIXED,
    basic::REKEY,
    headers::NATT,
    headers::V6,
    variety::IMIX,
    variety::ALGORITHMS,
    headers::FRAGMENTS,
    headers::VLAN,
    headers::ECN,
    variety::SPI_RANGE,
    variety::SELECTORS,
    variety::HIDDEN,
    variety::JUMBO,
];

/// The scenario of that name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
