//! docs/pktgen.md holds to what the programs that it names take, as far as they are to be had here.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use common::nf_core;
use nf_core::config::Config;

/// The options behind `--` in Pktgen-DPDK's usage text.
const PKTGEN: &[&str] = &["-s", "-f", "-l", "-P", "-g", "-G", "-N", "-T", "-h", "-m"];

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/pktgen.md")).unwrap()
}

/// The page's code blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let page = page();
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The page's commands that begin with a word.
fn commands(program: &str) -> Vec<Vec<String>> {
    let blocks = blocks("sh").concat();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    // What stands in PKTGEN is a command without the options that the script adds.
    let quoted = |line: &str| line.strip_prefix("PKTGEN='").and_then(|rest| rest.split('\'').next()).map(words);
    let lines = blocks.lines().map(|line| quoted(line).unwrap_or_else(|| words(line)));
    let found: Vec<_> = lines.filter(|words| words.first().is_some_and(|first| first == program)).collect();
    assert!(!found.is_empty(), "there is no {program} in the page");
    found
}

/// The options that a usage text lists.
fn options(usage: &str) -> BTreeSet<String> {
    let lines = usage.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let tokens = lines.flat_map(|line| line.split([' ', ',', '=', '<'])).filter(|token| token.starts_with('-'));
    tokens.map(str::to_owned).collect()
}

fn check(words: &[String], known: &BTreeSet<String>, program: &str) {
    for word in words.iter().filter(|word| word.starts_with('-')) {
        let option = word.split('=').next().unwrap();
        assert!(known.contains(option), "{program} knows no {option}; it knows {known:?}");
    }
}

#[test]
fn the_tables_of_nf_toml_are_read() {
    let blocks = blocks("toml");
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let config = Config::parse(&block, Path::new("docs/pktgen.md")).unwrap();
        assert_eq!(config.ports.len(), 2, "{block}");
    }
}

#[test]
fn the_tools_of_dpdk_know_their_options() {
    for program in ["dpdk-devbind.py", "dpdk-hugepages.py"] {
        let help = Command::new(program).arg("--help").output();
        let help = help.unwrap_or_else(|error| panic!("{program}: {error}; scripts/deps.sh installs it"));
        let known = options(&String::from_utf8(help.stdout).unwrap());
        for words in commands(program) {
            check(&words[1..], &known, program);
        }
    }
}

#[test]
fn eal_and_pktgen_know_their_options() {
    // EAL prints its usage and ends the program.
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("nf.toml");
    let text = format!(
        "[eal]\nargs = [\"--no-huge\", \"--no-pci\", \"--help\"]\n[control]\nsocket = {:?}\n[[port]]\nname = \"none\"\nrole = \"unprotected\"\n",
        dir.path().join("nf.sock")
    );
    std::fs::write(&config, text).unwrap();
    let usage = Command::new(nf_core()).args(["run", "--config"]).arg(&config).output().unwrap();
    let known = options(&String::from_utf8(usage.stdout).unwrap());
    assert!(known.contains("--vdev"), "{known:?}");

    let of_pktgen: BTreeSet<String> = PKTGEN.iter().map(|option| (*option).to_owned()).collect();
    for words in commands("pktgen") {
        let split = words.iter().position(|word| word == "--").unwrap();
        let (eal, own) = (&words[1..split], &words[split + 1..]);
        check(eal, &known, "EAL");
        check(own, &of_pktgen, "Pktgen");

        let value = |words: &[String], option: &str| {
            let place = words.iter().position(|word| word == option)?;
            words.get(place + 1).cloned()
        };
        let (first, last) =
            value(eal, "-l").unwrap().split_once('-').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let cores: BTreeSet<u16> = (first.parse::<u16>().unwrap() + 1..=last.parse().unwrap()).collect();
        let mapped: BTreeSet<u16> = value(own, "-m")
            .unwrap()
            .split(',')
            .flat_map(|map| {
                let (cores, port) = map.rsplit_once('.').unwrap();
                assert!(port == "0" || port == "1", "{map}");
                cores.trim_matches(['[', ']']).split(':').map(|core| core.parse().unwrap()).collect::<Vec<u16>>()
            })
            .collect();
        assert_eq!(mapped, cores, "each core but the first one is for a port");
        if let Some(capture) = value(own, "-s") {
            let name = capture.strip_prefix("0:").and_then(|file| file.strip_suffix(".pcap")).unwrap();
            assert_eq!(value(own, "-f").unwrap(), format!("{name}.lua"));
        }
    }
    for block in blocks("toml") {
        let config = Config::parse(&block, Path::new("docs/pktgen.md")).unwrap();
        check(&config.eal.args, &known, "EAL");
    }
}
