//! The examples of docs/nf-ctl.md, run: each command of a `console` block puts out what the page shows under it. And the
//! table of docs/troubleshooting.md, made of the drop reasons.
//!
//! With `NF_CTL_BLESS=1` in the environment the pages are written anew instead, to be looked through.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod canned;

use std::fmt::Write;
use std::path::Path;

use canned::Daemon;
use nf_core::drop::DropReason;

/// Where the examples' daemon listens.
const SOCKET: &str = "/run/nf-core/nf-core.sock";

/// The page with the outputs that its commands have.
fn run(page: &str, daemon: &Daemon) -> (String, usize) {
    let (mut out, mut commands, mut in_block) = (String::new(), 0, false);
    for line in page.lines() {
        match (in_block, line.strip_prefix("$ ")) {
            (true, Some(command)) => {
                let output = daemon.shell(&format!("exec 2>&1; {command}"));
                let text = String::from_utf8(output.stdout).unwrap();
                writeln!(out, "{line}").unwrap();
                out += &text.replace(daemon.socket().to_str().unwrap(), SOCKET);
                commands += 1;
            }
            (true, None) if line != "```" => {}
            _ => {
                in_block = line == "```console";
                writeln!(out, "{line}").unwrap();
            }
        }
    }
    (out, commands)
}

#[test]
fn the_page_shows_what_the_commands_put_out() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/nf-ctl.md");
    let mut page = std::fs::read_to_string(&path).unwrap();
    let daemon = Daemon::new();
    let sa = "[[sa]]\nspi = 0x2000\nsrc = '10.1.1.1'\ndst = '10.10.1.2'\nmode = 'transport'\nencap = 'udp'\nesn = true\n\
              alg = 'aes-gcm-16'\nkey = '0123456789abcdef0123456789abcdef01234567'\n";
    std::fs::write(daemon.directory().join("sa.toml"), sa).unwrap();
    let (real, commands) = run(&page, &daemon);
    if std::env::var_os("NF_CTL_BLESS").is_some() {
        std::fs::write(&path, &real).unwrap();
        page.clone_from(&real);
    }
    for (shown, real) in page.lines().zip(real.lines()) {
        assert_eq!(shown, real);
    }
    assert_eq!(page, real);
    assert!(commands >= 15, "{commands} examples");
}

/// The lines between which the table of drop reasons stands.
const TABLE: [&str; 2] = ["<!-- from nf-core/src/drop.rs -->\n", "<!-- end -->\n"];

fn table() -> String {
    let mut out = "| drop | meaning | likely cause | what to do |\n|---|---|---|---|\n".to_owned();
    for info in DropReason::ALL.iter().map(|reason| reason.info()) {
        let (index, name) = (info.index, info.name);
        writeln!(out, "| {index} `{name}` | {} | {} | {} |", info.meaning, info.cause, info.action).unwrap();
    }
    out
}

#[test]
fn troubleshooting_has_every_drop_reason() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/troubleshooting.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(TABLE[0]).unwrap();
    let (shown, after) = rest.split_once(TABLE[1]).unwrap();
    let real = table();
    assert!(!real.contains("||") && real.lines().all(|row| row.matches('|').count() == 5), "{real}");
    if std::env::var_os("NF_CTL_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{}{real}{}{after}", TABLE[0], TABLE[1])).unwrap();
        return;
    }
    let differ = shown.lines().zip(real.lines()).find(|(shown, real)| shown != real);
    assert_eq!(differ, None, "write it anew: NF_CTL_BLESS=1 cargo test -p nf-ctl --test docs");
    assert_eq!(shown.lines().count(), real.lines().count());
}
