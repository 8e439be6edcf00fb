//! The stack, on which computations with secrets leave copies that nobody owns.
//!
//! A value that is moved takes along what lay on the stack in its padding, and so a copy of a key would come into memory
//! that is never wiped. Libraries wipe what they own; what a compiler has put aside for them, nobody does.

use std::hint::black_box;

/// More than any computation here uses below its caller: an RSA signature in a build without optimisation takes about half.
const DEPTH: usize = 64 << 10;

/// Computes with secrets, and overwrites the stack that this took. What comes out should be small, or own its secrets by
/// way of a pointer: it is moved.
pub(crate) fn scrubbed<T>(compute: impl FnOnce() -> T) -> T {
    let result = apart(compute);
    overwrite();
    result
}

/// In a frame of its own, below which the caller has none.
#[inline(never)]
fn apart<T>(compute: impl FnOnce() -> T) -> T {
    compute()
}

#[inline(never)]
fn overwrite() {
    black_box(&mut [0u8; DEPTH]);
}
