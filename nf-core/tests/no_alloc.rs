//! A core may not allocate: bursts of every kind go through one while the allocator counts.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{Fixture, Nf, fixtures};
use nf_core::batch::Batch;
use nf_core::lanes::BURST;
use nf_core::packet::Packet;
use nf_core::types::{Nanos, PortIndex};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it is; counting touches no memory of the heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps to the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and frees of this thread while `work` runs.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn the_allocator_counts() {
    assert!(allocations(|| drop(vec![1])) >= 2);
}

#[test]
fn no_burst_makes_a_core_allocate() {
    for name in fixtures() {
        let fixture = Fixture::load(&name);
        let mut nf = Nf::new(&fixture.config, 1);
        let core = &mut nf.cores[0];
        for round in 0..3 {
            for frames in fixture.frames.chunks(BURST) {
                let mut buffers: Vec<Vec<u8>> = frames.iter().map(|frame| [&[0; 128][..], frame].concat()).collect();
                let count = allocations(|| {
                    let mut batch = Batch::default();
                    for buffer in &mut buffers {
                        let frame = 128..buffer.len();
                        batch.push(Packet::new(buffer, frame, PortIndex(0)).unwrap()).unwrap();
                    }
                    core.poll_commands();
                    core.process(Nanos::from_secs(round), &mut batch);
                });
                assert_eq!(count, 0, "{name}, round {round}");
            }
        }
    }
}
