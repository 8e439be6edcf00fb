//! Traffic scenarios.
