//! The scenarios, a file for each kind.

mod basic;
mod faults;
mod headers;
mod mixed;
mod rekeys;
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
    variety::SELECTORS,
    variety::HIDDEN,
    variety::JUMBO,
    rekeys::LOSSLESS,
    rekeys::BOTH_ENDS,
    rekeys::EARLY,
    rekeys::EARLY_SURVIVES,
    faults::SPI_RANGE,
    faults::NATT_UNKNOWN,
    faults::OTHER_DESTINATION,
    faults::TWO_PEERS,
    faults::REPLACED,
    faults::ESN_ROLL_OVER,
    faults::EXHAUSTED,
];

/// The scenario of that name, in upper or lower case.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name.eq_ignore_ascii_case(name))
}
