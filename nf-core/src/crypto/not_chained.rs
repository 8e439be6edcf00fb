//! In place of `chained`, in a build without libipsec-mb.

use super::engine::{OpenJob, SealJob};

/// There is none.
pub enum Chained {}

/// A core's lanes, which nothing is put in.
#[derive(Default)]
pub struct MultiBuffer(());

impl MultiBuffer {
    /// Has nothing to open.
    pub fn open(&mut self, _jobs: &mut [(&Chained, OpenJob<'_>)]) {}

    /// Has nothing to seal.
    pub fn seal(&mut self, _jobs: &mut [(&Chained, SealJob<'_>)]) {}
}
