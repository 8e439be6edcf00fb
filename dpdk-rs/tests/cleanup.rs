//! The end of the EAL, which takes a process of its own: it must not pull memory from under anything alive.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use common::{attach, eal, packet, pool, start};
use dpdk_rs::{Error, Mempool, SocketId};

#[test]
fn clean_up_waits_for_everything_that_is_alive() {
    // The harness runs tests on threads of their own: this one is the main lcore, as it is the first to ask.
    let eal = eal();
    let pool = pool(2176);
    let packet = packet(&pool, b"held");
    let port = attach("net_null", "");
    let started = start(&port, &pool);
    assert!(matches!(eal.cleanup(), Err(Error::StillInUse { .. })));
    drop(started);
    drop(pool);
    let error = eal.cleanup().unwrap_err();
    assert!(error.to_string().contains("1 packets of pool"), "{error}");
    assert_eq!(packet.data(), b"held");
    drop(packet);

    let error = std::thread::spawn(move || eal.cleanup()).join().unwrap().unwrap_err();
    assert!(matches!(error, Error::NotMainThread), "{error}");

    eal.cleanup().unwrap();
    assert!(matches!(eal.cleanup(), Err(Error::NotRunning)));
    assert!(matches!(Mempool::create(eal, "late", 511, 0, 2176, SocketId::ANY), Err(Error::NotRunning)));
    assert!(matches!(eal.attach_vdev("net_null9", ""), Err(Error::NotRunning)));
    assert!(matches!(eal.launch(eal.worker_lcores()[0], || ()), Err(Error::NotRunning)));
    assert!(port.info().is_err());
    assert!(dpdk_rs::ports(eal).is_empty());
    assert_eq!(eal.main_lcore().get(), 0);
}
