//! Our IKEv2 endpoint against a real charon, driven by the crate's example: each way of authentication, each role, rekeys
//! from both sides. It needs root: `make test` runs it where it is root, and says so where it isn't.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod common;
mod lab;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use lab::charon::{Charon, Esp, KeyType, Pki};
use lab::connection::{Auth, Connection, Side};
use lab::{HEAD, Lab, PEER, wait_for};

/// The example, at the head-end; killed when dropped.
struct Endpoint {
    child: Child,
    /// What it printed: an event in each line.
    printed: Arc<Mutex<Vec<String>>>,
}

impl Endpoint {
    fn start(lab: &Lab, variables: &[(&str, &str)], credentials: &[String]) -> Endpoint {
        // Beside the directory of this test: target/debug/deps.
        let mut program = std::env::current_exe().unwrap();
        program.pop();
        program.set_file_name("examples");
        program.push("endpoint");
        assert!(program.exists(), "{} isn't there; run: cargo build -p ikev2 --examples", program.display());
        let (local, remote) = (Side::Head, Side::Peer);
        let mut child = lab
            .head
            .command(program)
            .args([HEAD, PEER, local.id(), remote.id(), &local.subnet(), &remote.subnet()])
            .args(credentials)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let printed = Arc::new(Mutex::new(Vec::new()));
        let (output, lines) = (child.stdout.take().unwrap(), Arc::clone(&printed));
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let endpoint = Endpoint { child, printed };
        endpoint.wait("ready");
        endpoint
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
    }

    fn printed(&self) -> String {
        self.printed.lock().unwrap().join("\n")
    }

    /// Waits for a line with that text, and forgets all up to it.
    fn wait(&self, text: &str) {
        let look = || {
            let mut printed = self.printed.lock().unwrap();
            let at = printed.iter().position(|line| line.contains(text))?;
            printed.drain(..=at);
            Some(())
        };
        wait_for(text, look, || self.printed());
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn psk(lab: &Lab, secret: &str) -> Vec<String> {
    let file = lab.path("psk");
    fs::write(&file, secret).unwrap();
    vec!["psk".to_owned(), file.display().to_string()]
}

fn certificates(pki: &Pki) -> Vec<String> {
    let files: [PathBuf; 3] = [pki.certificate(Side::Head), pki.key(Side::Head), pki.ca()];
    std::iter::once("cert".to_owned()).chain(files.map(|file| file.display().to_string())).collect()
}

/// Has both sides authenticate by certificates with such keys, or by a secret; gives the arguments for our side.
fn agree(lab: &Lab, peer: &Charon, connection: &mut Connection, keys: Option<KeyType>) -> Vec<String> {
    let Some(keys) = keys else { return psk(lab, "a secret of this test only") };
    let pki = lab.pki(keys);
    pki.give_to(peer, Side::Peer);
    connection.auth = Auth::Certificates;
    certificates(&pki)
}

/// Both sides rekey all that there is, then the IKE SA goes.
fn rekey_from_both_sides(endpoint: &mut Endpoint, peer: &Charon) {
    for (command, done) in
        [("rekey-child", "ChildCreated"), ("rekey-ike", "IkeRekeyed"), ("rekey-child", "ChildCreated")]
    {
        endpoint.tell(command);
        endpoint.wait(&format!("Ok({done}"));
        // Until the goodbye to the old one is over.
        endpoint.tell("liveness");
        endpoint.wait("Ok(Alive)");
    }
    peer.ok(&["--rekey", "--child", "net"]);
    endpoint.wait("reason: Rekeyed");
    peer.ok(&["--rekey", "--ike", "gw"]);
    endpoint.wait("reason: Rekeyed");
    peer.ok(&["--rekey", "--child", "net"]);
    endpoint.wait("reason: Rekeyed");
    assert!(peer.list_sas().matches("ESTABLISHED").count() == 1, "{}", peer.list_sas());
    // SPIs that charon doesn't know are nothing to it.
    for (command, done) in [("delete-unknown", "Deleted"), ("invalid-spi", "Notified"), ("liveness", "Alive")] {
        endpoint.tell(command);
        endpoint.wait(&format!("Ok({done})"));
    }
}

#[test]
#[ignore = "needs root"]
fn we_initiate() {
    for keys in [None, Some(KeyType::Ecdsa), Some(KeyType::Rsa)] {
        let lab = Lab::new();
        let peer = lab.peer_charon();
        let mut connection = Connection::new(Side::Peer);
        let credentials = agree(&lab, &peer, &mut connection, keys);
        peer.load(&[connection]);
        let mut endpoint = Endpoint::start(&lab, &[], &credentials);
        endpoint.tell("initiate");
        endpoint.wait("Ok(Established");
        peer.wait_children(1);
        rekey_from_both_sides(&mut endpoint, &peer);
        endpoint.tell("delete-ike");
        endpoint.wait("Ok(Deleted)");
        wait_for("charon to forget it", || peer.list_sas().trim().is_empty().then_some(()), || peer.list_sas());
    }
}

#[test]
#[ignore = "needs root"]
fn charon_initiates() {
    for (keys, ike, esp) in [
        (None, "aes256-sha384-modp2048", "aes256-sha256-ecp384"),
        (Some(KeyType::Ecdsa), "aes256gcm16-prfsha384-ecp384", "chacha20poly1305-x25519"),
        (Some(KeyType::Rsa), "aes128-sha256-ecp256", "aes128gcm16"),
    ] {
        let lab = Lab::new();
        let peer = lab.peer_charon();
        let mut connection = Connection::new(Side::Peer);
        (connection.proposals, connection.esp_proposals) = (ike.to_owned(), esp.to_owned());
        let credentials = agree(&lab, &peer, &mut connection, keys);
        peer.load(&[connection]);
        let mut endpoint = Endpoint::start(&lab, &[("IKE", ike), ("ESP", esp)], &credentials);
        peer.initiate("gw");
        endpoint.wait("ChildUp");
        rekey_from_both_sides(&mut endpoint, &peer);
        peer.ok(&["--terminate", "--ike", "gw"]);
        endpoint.wait("reason: DeletedByPeer");
    }
}

/// charon takes every message half a second late: what both begin meanwhile collides.
#[test]
#[ignore = "needs root"]
fn both_rekey_at_once() {
    let lab = Lab::new();
    let peer = Charon::start_with(&lab.peer, &lab.path("peer"), &Esp::Libipsec, "receive_delay = 500");
    peer.load(&[Connection::new(Side::Peer)]);
    let mut endpoint = Endpoint::start(&lab, &[], &psk(&lab, "a secret of this test only"));
    endpoint.tell("initiate");
    endpoint.wait("Ok(Established");
    for (ours, done, theirs, collision) in [
        ("rekey-child", "Ok(ChildCreated", ["--rekey", "--child", "net"], "CHILD_REKEY collision with CHILD_REKEY"),
        ("rekey-ike", "Ok(IkeRekeyed", ["--rekey", "--ike", "gw"], "IKE_REKEY collision with IKE_REKEY"),
    ] {
        endpoint.tell(ours);
        peer.ok(&theirs);
        endpoint.wait(done);
        peer.wait_log(collision);
        // The survivor works. charon may keep the IKE SA that lost for a while: what it takes late, such as our DELETE, can
        // come before it knows that IKE SA.
        endpoint.tell("liveness");
        endpoint.wait("Ok(Alive)");
        let survived = || {
            let sas = peer.list_sas();
            let one = |state| sas.matches(state).count() == 1;
            (one(" ESTABLISHED,") && one(" INSTALLED,")).then_some(())
        };
        wait_for("one IKE SA with one CHILD_SA", survived, || peer.list_sas());
    }
}

#[test]
#[ignore = "needs root"]
fn what_does_not_match_is_named() {
    for (secret, ike, esp, said) in [
        ("another secret", "aes128gcm16-prfsha256-x25519", "aes128gcm16", "Err(RefusedByPeer)"),
        ("a secret of this test only", "aes256-sha512-ecp256", "aes128gcm16", "Err(NoProposalChosen(Ike))"),
        ("a secret of this test only", "aes128gcm16-prfsha256-x25519", "aes256-sha512", "Err(NoProposalChosen(Child))"),
    ] {
        let lab = Lab::new();
        let peer = lab.peer_charon();
        peer.load(&[Connection::new(Side::Peer)]);
        let mut endpoint = Endpoint::start(&lab, &[("IKE", ike), ("ESP", esp)], &psk(&lab, secret));
        endpoint.tell("initiate");
        endpoint.wait(said);
        // No IKE SA without a CHILD_SA is left at the peer.
        wait_for("charon to have nothing", || peer.list_sas().trim().is_empty().then_some(()), || peer.list_sas());
    }
}
