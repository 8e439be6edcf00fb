//! How long traffic is lost when the receiver of a tunnel has lost its SAs. `make bench-recovery` prints it; it takes
//! minutes and needs root.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a failed unwrap is a failed test")]

mod common;
mod lab;

use std::thread;
use std::time::{Duration, Instant, SystemTime};

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
