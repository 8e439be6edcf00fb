//! One tunnel on one receive queue, spread over two workers: no packet is lost, none comes twice, and both do their part.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use pktgen_scenarios::bench::spread::Pass;

#[test]
fn a_tunnel_on_one_queue_is_spread_over_two_workers() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    if cpus < 2 {
        eprintln!("NOT RUN: spreading a tunnel over two workers: there is one CPU");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let nf_core = common::nf_core();
    let pass = Pass { nf_core: &nf_core, dir: dir.path(), cpus: [0, 1], packets: 20_000 };
    let passed = pass.run().unwrap();
    println!("{:?}", passed.order);
    assert_eq!((passed.order.packets, passed.repeated), (20_000, 0));

    let counters = passed.counters;
    assert_eq!((counters.rx.packets, counters.tx.packets), (20_000, 20_000));
    assert!(counters.feature.iter().all(|row| row.packets == 0), "{counters:?}");

    let [first, second] = passed.runtime.as_slice() else { unreachable!("there are two workers") };
    assert!(first.handed_on > 0 && first.taken_over == 0, "{first:?}");
    assert_eq!((second.handed_on, second.taken_over), (0, first.handed_on), "what one hands on the other takes over");
    let opened = |core: &nf_core::stage::RuntimeReport| {
        core.stages.iter().find(|stage| stage.stage == "decap-open").unwrap().packets
    };
    assert_eq!(opened(first) + opened(second), 20_000);
    assert_eq!(opened(second), first.handed_on);
}
