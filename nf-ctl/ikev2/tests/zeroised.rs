//! No memory is given back with a secret of IKE in it: the allocator looks into every block that is freed.
//!
//! Over a whole exchange that can't be asked: what cryptography leaves on the stack, messages take along in their padding when they are
//! moved into memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap is a failed test")]

#[path = "../../../nf-core/tests/common/freed.rs"]
mod freed;
mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use freed::{Looking, freed_on_purpose, freed_with_a_secret};
use ikev2::config::Auth;
use ikev2::crypto::cipher::{AesKey, IkeCipher};
use ikev2::crypto::dh::{DhGroup, KeyExchange};
use ikev2::crypto::esp::{ChildKeys, EspCipher, EspSuite, GcmIcv};
use ikev2::crypto::keys::{IkeKeys, IkeSuite, Role, Seed};
use ikev2::crypto::prf::Prf;
use ikev2::crypto::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use support::{A, Net};

/// The first octets of what is looked for.
static MARKERS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
static COUNT: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Looking = Looking(|block| {
    let count = COUNT.load(Relaxed);
    let is_marker = |window: &[u8]| {
        let word = window.try_into().map_or(0, u64::from_ne_bytes);
        word != 0 && MARKERS.iter().take(count).any(|marker| marker.load(Relaxed) == word)
    };
    if count == 0 { None } else { block.windows(8).position(is_marker) }
});

/// Has the allocator look for these beginnings of secrets while `work` runs.
fn look_for<T>(secrets: &BTreeSet<u64>, work: impl FnOnce() -> T) -> T {
    assert!((1..=MARKERS.len()).contains(&secrets.len()), "{} secrets", secrets.len());
    for (marker, secret) in MARKERS.iter().zip(secrets) {
        marker.store(*secret, Relaxed);
    }
    COUNT.store(secrets.len(), Relaxed);
    let found = work();
    COUNT.store(0, Relaxed);
    found
}

/// Blocks with one of these beginnings in them that are freed while `work` runs.
fn freed_with(secrets: &BTreeSet<u64>, work: impl FnOnce()) -> u64 {
    look_for(secrets, || freed_with_a_secret(work))
}

fn beginning(secret: &[u8]) -> u64 {
    u64::from_ne_bytes(secret[..8].try_into().unwrap())
}

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

/// One test, as the allocator is the whole process's.
#[test]
fn no_secret_of_ike_is_left_in_freed_memory() {
    let psk = BTreeSet::from([beginning(PSK)]);
    assert_eq!(look_for(&psk, || freed_on_purpose(|| drop(PSK.to_vec()))), 1, "the allocator sees secrets");

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
}
