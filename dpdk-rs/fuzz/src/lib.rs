//! What has to hold for any octets. A target panics where it doesn't.

pub mod check;

use std::sync::OnceLock;

use dpdk_rs::{Eal, Mempool, SocketId};

/// Fragments from anybody, as [`check::reassembly`] takes them.
pub fn reassembly(octets: &[u8]) {
    static DPDK: OnceLock<(Eal, Mempool)> = OnceLock::new();
    let (eal, pool) = DPDK.get_or_init(|| {
        let args = ["--no-huge", "--no-pci", "--no-shconf", "--log-level=error", "-m", "64", "--lcores=0"];
        let prefix = format!("--file-prefix=dpdk-rs-fuzz-{}", std::process::id());
        let eal = Eal::init(args.map(str::to_owned).into_iter().chain([prefix])).expect("the EAL starts anywhere");
        // Nothing of it is needed any more, and libFuzzer ends without a chance to tidy up.
        let _ = std::fs::remove_dir_all(eal.runtime_dir());
        let pool = Mempool::create(eal, "fuzz", check::MOST_FRAGMENTS, 0, check::DATA_ROOM, SocketId::ANY);
        (eal, pool.expect("there is memory"))
    });
    check::reassembly(*eal, pool, octets);
}
