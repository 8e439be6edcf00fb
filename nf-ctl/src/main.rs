//! Control CLI.
fn main() {}
