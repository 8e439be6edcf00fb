//! Messages as they are on the wire.
