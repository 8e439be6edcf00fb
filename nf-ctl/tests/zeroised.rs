//! The agent reads pre-shared keys and private keys, and gives no memory back with them in it: the allocator looks into every block
//! that is freed. What IKE makes of them is looked at in `ikev2/tests/zeroised.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

#[path = "../../nf-core/tests/common/freed.rs"]
mod freed;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use freed::{Looking, beginning, freed_on_purpose, freed_with};
use nf_core::config::Config;
use nf_ctl::agent::credentials::{read_or_make, read_psk};
use nf_ctl::agent::peers;

#[global_allocator]
static ALLOCATOR: Looking = Looking;

/// In static memory, so that no copy of the test's own is freed.
const PSK: &str = "a secret of both that nobody else knows";
const PSK_AS_HEX: &str = "0x6d6f72652073656372657420";

fn private_file(path: PathBuf, content: &[u8]) -> PathBuf {
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ikev2/tests/certificates").join(name)
}

/// One test, as the allocator is the whole process's.
#[test]
fn no_credential_is_left_in_freed_memory() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let psk = private_file(place("psk"), PSK.as_bytes());
    let hex = private_file(place("hex"), PSK_AS_HEX.as_bytes());
    let secret = read_or_make(&place("qcd")).unwrap();
    let peer = |number: u8, credentials: &str, ids: &str| {
        format!("[[peer]]\nname = \"{number}\"\nkind = \"svti\"\naddress = \"10.1.1.{number}\"\n{ids}{credentials}")
    };
    let mut text = "[[local]]\naddress = \"10.10.1.2\"\n".to_owned();
    text += &peer(1, &format!("psk_file = \"{}\"\n", psk.display()), "");
    text += &peer(2, &format!("psk_file = \"{}\"\n", hex.display()), "");
    let mut pems = Vec::new();
    for (number, kind) in [(3, "ecdsa"), (4, "rsa")] {
        let pem = fs::read(certificate(&format!("{kind}-a.key"))).unwrap();
        let key = private_file(place(kind), &pem);
        let [cert, ca] = ["a", "ca"].map(|of| certificate(&format!("{kind}-{of}.pem")).display().to_string());
        let files = format!("cert_file = \"{cert}\"\nkey_file = \"{}\"\nca_file = \"{ca}\"\n", key.display());
        text += &peer(number, &files, "local_id = \"a.example.org\"\n");
        pems.push(pem);
    }
    let config = Config::parse(&text, Path::new("nf.toml")).unwrap();

    let mut secrets =
        BTreeSet::from([PSK.as_bytes(), PSK_AS_HEX.as_bytes(), b"more secret ", secret.as_slice()].map(beginning));
    // Where the files have, in base64, the scalar of the one key, the exponent and a prime of the other.
    for (pem, line, column) in [(&pems[0], 1, 16), (&pems[1], 10, 0), (&pems[1], 15, 0)] {
        secrets.insert(beginning(&pem.split(|octet| *octet == b'\n').nth(line).unwrap()[column..]));
    }
    assert_eq!(freed_on_purpose(&secrets, || drop(PSK.as_bytes().to_vec())), 1, "the allocator sees secrets");
    let read = || {
        let (peers, connections) = peers::check(&config).unwrap();
        assert_eq!((peers.len(), connections.len()), (4, 4));
        drop(read_or_make(&place("qcd")).unwrap());
        // A file that can't be used isn't left behind either.
        fs::set_permissions(&psk, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(peers::check(&config).is_err() && read_psk(&psk).is_err());
    };
    assert_eq!(freed_with(&secrets, read), 0);
}
