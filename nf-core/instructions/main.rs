//! How many instructions nf-core needs for a packet, counted by valgrind's callgrind: from the making of a burst to the
//! fates of its packets. Unlike clocks they don't depend on what else the machine does, so a limit can be set on them:
//! `scripts/instructions.sh` holds the counts against `limits.txt`, in `make test` those of a build that takes less time.
//!
//! Counted is what runs on the CPU that valgrind shows to programs, one with AVX2 and without VAES or AVX-512. The
//! time-stamp counter isn't read and no memory is asked for ahead, as the bench is built without DPDK.
#![allow(missing_docs, clippy::expect_used, reason = "a program that measures ends where it can't")]

#[path = "../benches/memory/function.rs"]
mod function;
#[path = "../benches/memory/traffic.rs"]
#[allow(dead_code, reason = "the bench `memory` uses all of it")]
mod traffic;

use std::hint::black_box;

use gungraun::prelude::*;
use nf_core::batch::{Batch, Fate};
use nf_core::control::controller::Controller;
use nf_core::core::Core;
use nf_core::crypto::{self, Engine, EngineChoice};
use nf_core::lanes::BURST;
use nf_core::packet::Packet;
use nf_core::types::{Nanos, PortIndex};
use traffic::{Frames, SIZE_64, SIZE_512, SIZE_1400, Sizes, Traffic};

/// Packets of each benchmark; `scripts/instructions.sh` divides by it.
const PACKETS: usize = 1024;
/// Room in front of a frame, as an mbuf has it.
const HEADROOM: usize = 128;
const TIME: Nanos = Nanos(1);

/// A core, and frames that were received for it.
struct Run {
    core: Core,
    buffers: Vec<Vec<u8>>,
    _control: Controller,
}

impl Run {
    fn new(traffic: &Traffic, engine: &dyn Engine, frames: &Frames) -> Run {
        let (control, mut cores) = function::network_function(1, 4096);
        let mut core = cores.remove(0);
        function::install(&mut core, traffic.fresh_sas(engine, 1));
        let buffers = frames.iter().map(|frame| [&[0; HEADROOM][..], frame].concat()).collect();
        let run = Run { core, buffers, _control: control };
        assert_eq!(run.buffers.len(), PACKETS);
        run
    }

    /// All frames once through the core; gives how many leave.
    fn process(&mut self) -> usize {
        let mut sent = 0;
        for burst in self.buffers.chunks_mut(BURST) {
            let mut batch = Batch::default();
            for buffer in burst {
                let frame = HEADROOM..buffer.len();
                if let Ok(packet) = Packet::new(buffer, frame, PortIndex(0)) {
                    let _ = batch.push(packet);
                }
            }
            self.core.process(TIME, &mut batch);
            sent += batch.lanes().filter(|lane| matches!(batch.fate(*lane), Fate::Send(_))).count();
        }
        sent
    }
}

fn engine(choice: EngineChoice) -> Box<dyn Engine> {
    crypto::select(choice).expect("an engine that valgrind's CPU can run")
}

/// Packets of that many SAs in turn, all of them good.
fn good(choice: EngineChoice, sas: usize, sizes: Sizes) -> Run {
    let engine = engine(choice);
    let traffic = Traffic::new(&*engine, sas, PACKETS / sas, sizes, 64);
    Run::new(&traffic, &*engine, &traffic.frames)
}

/// Packets on SPIs that no SA has, each on another one, after so many others that the limiter lets no event through.
fn unknown() -> Run {
    let engine = engine(EngineChoice::AesGcm);
    let traffic = Traffic::new(&*engine, 1, PACKETS, SIZE_64, 64);
    let before = Run::new(&traffic, &*engine, &traffic.unknown());
    let mut frames = Frames::new();
    traffic.flooded(1).iter().step_by(2).for_each(|unknown| frames.push(unknown));
    again(before, 0, Run::new(&traffic, &*engine, &frames))
}

/// Packets that the core has had before.
fn replayed() -> Run {
    let engine = engine(EngineChoice::AesGcm);
    let traffic = Traffic::new(&*engine, 1, PACKETS, SIZE_64, 64);
    let run = || Run::new(&traffic, &*engine, &traffic.frames);
    again(run(), PACKETS, run())
}

/// The core of `before` once it has processed its frames, of which `sent` leave, with the frames of `then`.
fn again(mut before: Run, sent: usize, then: Run) -> Run {
    assert_eq!(before.process(), sent);
    Run { buffers: then.buffers, ..before }
}

#[library_benchmark]
#[bench::octets_64(args = (EngineChoice::AesGcm, 1, SIZE_64), setup = good)]
#[bench::octets_512(args = (EngineChoice::AesGcm, 1, SIZE_512), setup = good)]
#[bench::octets_1400(args = (EngineChoice::AesGcm, 1, SIZE_1400), setup = good)]
#[bench::octets_64_of_256_sas(args = (EngineChoice::AesGcm, 256, SIZE_64), setup = good)]
fn aes_gcm(mut run: Run) -> Run {
    assert_eq!(black_box(&mut run).process(), PACKETS);
    run
}

#[library_benchmark]
#[bench::octets_64(args = (EngineChoice::IpsecMb, 1, SIZE_64), setup = good)]
#[bench::octets_512(args = (EngineChoice::IpsecMb, 1, SIZE_512), setup = good)]
#[bench::octets_1400(args = (EngineChoice::IpsecMb, 1, SIZE_1400), setup = good)]
#[bench::octets_64_of_256_sas(args = (EngineChoice::IpsecMb, 256, SIZE_64), setup = good)]
fn ipsec_mb(mut run: Run) -> Run {
    assert_eq!(black_box(&mut run).process(), PACKETS);
    run
}

#[library_benchmark]
#[bench::unknown_spi(unknown())]
#[bench::replayed(replayed())]
fn refused(mut run: Run) -> Run {
    assert_eq!(black_box(&mut run).process(), 0);
    run
}

library_benchmark_group!(name = decap, benchmarks = [aes_gcm, ipsec_mb, refused]);

/// gungraun's main function, which can have no other name.
mod harness {
    use super::decap;

    gungraun::main!(library_benchmark_groups = decap);

    pub(super) fn run() {
        main();
    }
}

/// Each benchmark's name behind the two numbers by which gungraun's harness finds it.
fn list() {
    for (function, (name, _, benches)) in decap::__BENCHES.iter().enumerate() {
        for (bench, id) in benches.iter().map(|bench| bench.id_display.unwrap_or_default()).enumerate() {
            println!("{function} {bench} {name}.{id}");
        }
    }
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("--list") { list() } else { harness::run() }
}
