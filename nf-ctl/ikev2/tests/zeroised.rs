//! No memory is given back with a secret of IKE in it: the allocator looks into every block that is freed, over whole exchanges.
//!
//! All randomness comes from seeds, so what happens once happens again. The first time a tap with the private values works all keys out
//! from the messages; the second time they are looked for. What libraries are known to leave is in SECURITY.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap is a failed test")]

#[path = "../../../nf-core/tests/common/freed.rs"]
mod freed;
mod support;

mod tap;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use freed::{Looking, beginning, freed_on_purpose, freed_with};
use ikev2::config::Auth;
use ikev2::crypto::certificate::{Authorities, LocalCertificate};
use ikev2::crypto::cipher::{AesKey, IkeCipher};
use ikev2::crypto::dh::{DhGroup, KeyExchange};
use ikev2::crypto::esp::{ChildKeys, EspCipher, EspSuite, GcmIcv};
use ikev2::crypto::keys::{IkeKeys, IkeSuite, Role, Seed};
use ikev2::crypto::prf::Prf;
use ikev2::crypto::secret::Secret;
use ikev2::wire::ChildSpi;
use ikev2::{CommandError, CommandId, Connection, Endpoint, IkeId};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use support::{A, B, Net};

#[global_allocator]
static ALLOCATOR: Looking = Looking;

/// In static memory, so that no copy of the test's own is freed.
const PSK: &[u8] = b"a secret of both that nobody else knows";

/// The pre-shared key on its way: into a connection, a clone of it, two endpoints, a computation, and out again.
fn life() {
    let psk = Secret::from(PSK);
    let mut net = Net::pair(3, |_, connection| connection.auth = Auth::Psk(psk.clone()));
    let now = net.now;
    assert_eq!(net.peers[A].endpoint.set_connections(now, Vec::new()).unwrap().removed, ["b"]);
    drop(Prf::HmacSha256.compute(psk.expose(), &[b"Key Pad for IKEv2"]));
}

/// The keys of a CHILD_SA, of a secret that both sides share.
fn child_keys(shared: &Secret) -> ChildKeys {
    let suite = IkeSuite {
        cipher: IkeCipher::AesGcm16(AesKey::Bits128),
        integrity: None,
        prf: Prf::HmacSha256,
        group: DhGroup::X25519,
    };
    let seed = Seed { nonce_i: &[1; 32], nonce_r: &[2; 32], spi_i: &[3; 8], spi_r: &[4; 8] };
    let esp = EspSuite {
        cipher: EspCipher::AesGcm(AesKey::Bits256, GcmIcv::Octets16),
        integrity: None,
        esn: false,
        group: None,
    };
    IkeKeys::initial(suite, Role::Initiator, shared, seed).child_keys(esp, Role::Initiator, None, &[1; 32], &[2; 32])
}

/// How A and B prove who they are, and what of that is secret.
struct Proofs {
    auth: [Auth; 2],
    secrets: BTreeSet<u64>,
}

fn by_psk() -> Proofs {
    let auth = || Auth::Psk(Secret::from(PSK));
    Proofs { auth: [auth(), auth()], secrets: BTreeSet::from([beginning(PSK)]) }
}

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/certificates/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Read as they are used: before anything is looked for.
fn by_certificates(kind: &str) -> Proofs {
    let authorities = Arc::new(Authorities::from_pem(&file(&format!("{kind}-ca.pem"))).unwrap());
    let mut secrets = BTreeSet::new();
    let auth = ["a", "b"].map(|side| {
        let key = file(&format!("{kind}-{side}.key"));
        secrets.extend(tap::private_key(&key));
        let local = LocalCertificate::from_pem(&file(&format!("{kind}-{side}.pem")), &key, false).unwrap();
        Auth::Certificates { local: Arc::new(local), authorities: Arc::clone(&authorities) }
    });
    Proofs { auth, secrets }
}

/// All that an IKE SA can go through: it comes up, its CHILD_SA is replaced from either side, it is itself, it goes.
fn whole_exchange(net: &mut Net, mut after_each: impl FnMut(&Net)) {
    let second = Duration::from_secs(1);
    let mut over = |net: &mut Net, side: usize, command: Command<'_>| {
        let ike = net.peers[side].established()[0];
        let now = net.now;
        command(&mut net.peers[side].endpoint, now, ike).unwrap();
        net.run_for(second);
        after_each(net);
    };
    net.connect();
    net.run_for(second);
    for side in [A, B] {
        let spi = ChildSpi(*net.peers[side].sad.keys().next().unwrap());
        over(net, side, &|endpoint, now, ike| endpoint.rekey_child(now, ike, spi));
    }
    over(net, A, &|endpoint, now, ike| endpoint.rekey_ike(now, ike));
    over(net, B, &|endpoint, now, ike| endpoint.liveness(now, ike));
    over(net, A, &|endpoint, now, ike| endpoint.delete_ike(now, ike));
    assert!(net.peers.iter().all(|peer| peer.sad.is_empty() && peer.endpoint.ike_sas().count() == 0));
}

type Command<'a> = &'a dyn Fn(&mut Endpoint, std::time::Instant, IkeId) -> Result<CommandId, CommandError>;

/// Blocks with a secret in them that are freed while two endpoints that prove themselves so go through all of it.
fn freed_in_a_whole_exchange(proofs: &Proofs) -> u64 {
    let change = |side: usize, connection: &mut Connection| {
        connection.auth = proofs.auth[side].clone();
        connection.ike_proposals = vec!["aes256-sha256-prfsha384-x25519".parse().unwrap()];
        connection.esp_proposals = vec!["aes128gcm16-noesn-x25519".parse().unwrap()];
        connection.fragment_size = 8192;
    };
    let mut secrets = proofs.secrets.clone();
    let mut net = Net::pair(SEED, change);
    let mut keys = BTreeSet::new();
    whole_exchange(&mut net, |net| {
        for child in net.peers.iter().flat_map(|peer| peer.sad.values()) {
            let esp = [&child.keys.inbound, &child.keys.outbound];
            keys.extend(esp.map(|keys| beginning(keys.encryption.expose())));
        }
    });
    let tapped = tap::secrets(&net, SEED);
    assert!(tapped.len() >= 28 && keys.len() >= 4, "{} of IKE SAs, {} of CHILD_SAs", tapped.len(), keys.len());
    secrets.extend(tapped);
    secrets.extend(keys);
    // The generators of both ends, which hold what they gave last, outlive what is looked at, as they do in an agent.
    let mut again = Net::pair(SEED, change);
    freed_with(&secrets, || whole_exchange(&mut again, |_| ()))
}

const SEED: u64 = 7;

/// One test, as the allocator is the whole process's.
#[test]
fn no_secret_of_ike_is_left_in_freed_memory() {
    let psk = BTreeSet::from([beginning(PSK)]);
    assert_eq!(freed_on_purpose(&psk, || drop(PSK.to_vec())), 1, "the allocator sees secrets");

    // What two sides agree on in each group.
    for group in DhGroup::ALL {
        let agree = || {
            let mut rng = ChaCha20Rng::seed_from_u64(5);
            let (ours, theirs) = (KeyExchange::generate(group, &mut rng), KeyExchange::generate(group, &mut rng));
            ours.agree(theirs.public_value()).unwrap()
        };
        let shared = BTreeSet::from([beginning(agree().expose())]);
        assert_eq!(freed_with(&shared, || drop(agree())), 0, "{group:?}: the shared secret");
    }

    // Twice the same keys: the first tell what to look for among the second.
    let shared = Secret::from(&[7; 32][..]);
    let keys = child_keys(&shared);
    let secrets = [&keys.inbound, &keys.outbound].map(|keys| beginning(keys.encryption.expose()));
    assert_eq!(freed_with(&BTreeSet::from(secrets), || drop(child_keys(&shared))), 0, "a CHILD_SA's keys");

    assert_eq!(freed_with(&psk, life), 0, "the pre-shared key");

    for name in ["ecdsa-a", "ecdsa-b", "rsa-a"] {
        let (certificates, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
        let private = tap::private_key(&key).into_iter().collect();
        let read = || drop(LocalCertificate::from_pem(&certificates, &key, false).unwrap());
        assert_eq!(freed_with(&private, read), 0, "{name}: a private key that is read");
    }

    for (what, proofs) in [("PSK", by_psk()), ("ECDSA", by_certificates("ecdsa")), ("RSA", by_certificates("rsa"))] {
        assert_eq!(freed_in_a_whole_exchange(&proofs), 0, "a whole exchange by {what}");
    }
}
