//! What has to hold for any octets. A target panics where it doesn't.

pub mod checks;
