//! How long traffic is lost when the receiver of a tunnel has lost its SAs. `make bench-recovery` prints it; it takes
//! minutes and needs root.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a failed unwrap is a failed test")]

mod common;
mod headend;
mod lab;

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use headend::HeadEnd;
use lab::Lab;
use lab::connection::{Connection, Side};

/// After this long a tunnel counts as lost for good.
const GIVE_UP: Duration = Duration::from_secs(200);

/// How long a tunnel between two charons stays black-holed after one was killed and started anew. None: for good.
fn charons_alone(dpd_delay_s: u32, dpd_action: &str) -> Option<Duration> {
    let lab = Lab::new();
    let (peer, mut head) = (lab.peer_charon(), lab.head_charon());
    let connection = |side| {
        Connection::new(side).with(|c| {
            c.dpd_delay_s = dpd_delay_s;
            c.dpd_action = dpd_action.to_owned();
        })
    };
    peer.load(&[connection(Side::Peer)]);
    head.load(&[connection(Side::Head)]);
    peer.initiate("gw");
    let branch = lab.watch_branch();
    let _ping = lab.ping(Duration::from_millis(100));
    branch.wait("answers", |seen| seen.text.contains("echo reply"));

    let killed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let deadline = Instant::now() + GIVE_UP;
    head.kill();
    head.restart(&lab.head);
    head.load(&[connection(Side::Head)]);
    while Instant::now() < deadline {
        if let Some(first) = branch.seen().iter().find(|seen| seen.at > killed && seen.text.contains("echo reply")) {
            return Some(first.at - killed);
        }
        thread::sleep(Duration::from_millis(100));
    }
    None
}

#[test]
#[ignore = "takes minutes: make bench-recovery"]
fn strongswan_on_both_sides() {
    let settings = [(0, "clear"), (2, "clear"), (2, "restart"), (30, "restart")];
    // Each in a laboratory of its own, all at once: what they do most is wait.
    let runs = settings.map(|(delay, action)| (delay, action, thread::spawn(move || charons_alone(delay, action))));
    println!("strongSwan on both sides, the receiver killed and started anew; time until traffic flows again:");
    for (delay, action, run) in runs {
        let outage = run.join().unwrap();
        let outage =
            outage.map_or(format!("not within {} s", GIVE_UP.as_secs()), |time| format!("{:.1} s", time.as_secs_f64()));
        println!("  dpd_delay = {delay} s, dpd_action = {action}: {outage}");
    }
}

/// Recoveries that are measured.
const RUNS: usize = 20;
/// Between two pings: as exact as the figures are.
const PING: Duration = Duration::from_millis(2);

/// How long it takes with nf-core and its agent at the receiving end: from the first packet with an invalid SPI to the first
/// packet that is decapsulated under the new SA, both by the kernel's clock. The peer has no dead peer detection.
#[test]
#[ignore = "takes minutes: make bench-recovery"]
fn nf_core_and_its_agent() {
    let lab = Lab::new();
    let charon = lab.peer_charon();
    charon.load(&[Connection::new(Side::Peer)]);
    let mut head = HeadEnd::start(&lab, "kind = \"svti\"");
    head.ok(&["ike", "initiate", "branch"]);
    let mut times = Vec::new();
    for _ in 0..RUNS {
        // Both lose all that they know, and are there again before the peer sends.
        head.kill_agent();
        head.restart_core(&lab);
        head.start_agent(&lab);
        let (esp, inside) = (lab.watch_esp(), lab.watch_inside());
        let ping = lab.ping(PING);
        let first = inside.wait("a decapsulated packet", |seen| seen.text.contains("echo request"));
        drop(ping);
        let invalid = esp.wait("a packet of ESP", |seen| seen.number("spi=0x").is_some());
        times.push(first.at.checked_sub(invalid.at).unwrap());
    }
    times.sort_unstable();
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let (median, worst) = (millis(times[RUNS / 2]), millis(times[RUNS - 1]));
    println!("nf-core and its agent, both killed and started anew; the peer without dead peer detection, {RUNS} runs:");
    println!(
        "  from the first packet with an invalid SPI to the first one decapsulated: median {median:.1} ms, worst {worst:.1} ms"
    );
    assert!(worst < 5000.0, "{times:?}");
}
