//! Crypto devices in software: packets go in and come back, each once, in order, with what became of it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::sync::Arc;

use common::{bytes, eal, packet, pool, unique};
use dpdk_rs::{
    Burst, CryptoAuth, CryptoCipher, CryptoConfig, CryptoDevice, CryptoDirection, CryptoQueue, CryptoSession,
    CryptoStatus, CryptoTransform, CryptoWork, Error, Mempool,
};

/// Test case 3 of the specification of GCM (McGrew, Viega): key, IV, plaintext, ciphertext, tag.
const KEY: [u8; 16] = 0xfeff_e992_8665_731c_6d6a_8f94_6730_8308_u128.to_be_bytes();
const IV: [u8; 12] = [0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce, 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88];
const PLAIN: [u128; 4] = [
    0xd931_3225_f884_06e5_a559_09c5_aff5_269a,
    0x86a7_a953_1534_f7da_2e4c_303d_8a31_8a72,
    0x1c3c_0c95_9568_0953_2fcf_0e24_49a6_b525,
    0xb16a_edf5_aa0d_e657_ba63_7b39_1aaf_d255,
];
const CIPHER: [u128; 4] = [
    0x4283_1ec2_2177_7424_4b72_21b7_84d0_d49c,
    0xe3aa_212f_2c02_a4e0_35c1_7e23_29ac_a12e,
    0x21d5_14b2_5466_931c_7d8f_6a5a_ac84_aa05,
    0x1ba3_0b39_6a0a_ac97_3d58_e091_473f_5985,
];
const TAG: u128 = 0x4d5c_2af3_27cd_64a6_2cf3_5abd_2ba6_fab4;

/// What the tests run on: both PMDs come with Debian's libdpdk-dev.
const DRIVERS: [&str; 2] = ["crypto_openssl", "crypto_aesni_mb"];
const DEPTH: u16 = 128;

fn gcm(key: &[u8]) -> CryptoTransform<'_> {
    let (direction, cipher) = (CryptoDirection::Open, Some((CryptoCipher::AesGcm, key)));
    CryptoTransform { direction, cipher, auth: None, iv_len: 12, aad_len: 0, icv_len: 16 }
}

fn octets(words: [u128; 4]) -> Vec<u8> {
    words.into_iter().flat_map(u128::to_be_bytes).collect()
}

/// Work on a whole packet.
fn work(tag: u128) -> CryptoWork {
    let (mut iv, mut icv) = ([0; 16], [0; 64]);
    iv[..12].copy_from_slice(&IV);
    icv[..16].copy_from_slice(&tag.to_be_bytes());
    CryptoWork { cipher: 0..64, authenticated: 0..0, iv, aad: [0; 16], icv, icv_at: 0 }
}

struct Bench {
    device: CryptoDevice,
    queue: CryptoQueue<u32>,
    pool: Mempool,
}

impl Bench {
    fn new(driver: &str) -> Bench {
        let name = unique(&format!("{driver}_"));
        eal().attach_vdev(&name, "").unwrap();
        let config = CryptoConfig { queue_pairs: 1, depth: DEPTH, sessions: 8 };
        let (device, mut queues) = CryptoDevice::open(eal(), &name, &config).unwrap();
        assert_eq!((device.name(), device.driver()), (name.as_str(), driver));
        Bench { device, queue: queues.pop().unwrap(), pool: pool(2176) }
    }

    fn push(&mut self, session: &Arc<CryptoSession>, number: u32, tag: u128) -> bool {
        let packet = packet(&self.pool, &octets(CIPHER));
        self.queue.push(packet, session, &work(tag), number).is_ok()
    }

    /// Everything that the device has, in the order in which it comes back.
    fn take(&mut self) -> Vec<(u32, CryptoStatus, Vec<u8>)> {
        let mut all = Vec::new();
        while !self.queue.is_empty() {
            let (mut burst, mut done) = (Burst::<64>::new(), Vec::new());
            let count = self.queue.poll(&mut burst, |number, status| done.push((number, status)));
            assert_eq!((burst.len(), done.len()), (count, count));
            all.extend(done.into_iter().zip(&burst).map(|((number, status), packet)| (number, status, bytes(packet))));
        }
        all
    }
}

#[test]
fn packets_come_back_in_order_with_what_became_of_them() {
    for driver in DRIVERS {
        let mut bench = Bench::new(driver);
        let sessions = [bench.device.session(&gcm(&KEY)).unwrap(), bench.device.session(&gcm(&[7; 16])).unwrap()];
        // Runs of either session, some forged.
        for number in 0..100 {
            let (session, tag) = (&sessions[number as usize / 7 % 2], TAG ^ u128::from(number % 5 == 0));
            assert!(bench.push(session, number, tag), "{driver}");
        }
        let done = bench.take();
        assert_eq!(done.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
        for (number, status, packet) in done {
            let good = number / 7 % 2 == 0 && number % 5 != 0;
            let expected = if good { CryptoStatus::Done } else { CryptoStatus::AuthFailed };
            assert_eq!(status, expected, "{driver}: {number}");
            assert_eq!(packet == octets(PLAIN), good || number / 7 % 2 == 0, "{driver}: {number}");
        }
        assert_eq!(bench.pool.in_use(), 0, "{driver}");
    }
}

#[test]
fn a_full_queue_gives_the_packet_back_and_what_is_wrong_never_goes_in() {
    for driver in DRIVERS {
        let mut bench = Bench::new(driver);
        let session = bench.device.session(&gcm(&KEY)).unwrap();
        for number in 0..DEPTH.into() {
            assert!(bench.push(&session, number, TAG), "{driver}");
        }
        assert!(!bench.push(&session, 999, TAG), "{driver}: it is full");
        assert_eq!((bench.queue.len(), bench.queue.depth()), (DEPTH.into(), DEPTH.into()));
        assert_eq!(bench.take().len(), DEPTH.into(), "{driver}");

        let beyond = CryptoWork { cipher: 8..65, ..work(TAG) };
        let short = packet(&bench.pool, &octets(CIPHER));
        assert!(bench.queue.push(short, &session, &beyond, 0).is_err(), "{driver}: beyond its end");
        let other = Bench::new(driver);
        let foreign = other.device.session(&gcm(&KEY)).unwrap();
        assert!(!bench.push(&foreign, 0, TAG), "{driver}: another device's session");
        assert!(bench.queue.is_empty());
        assert_eq!(bench.pool.in_use(), 0, "{driver}");
    }
}

#[test]
fn sessions_and_packets_outlive_whoever_drops_them_too_early() {
    for driver in DRIVERS {
        let mut bench = Bench::new(driver);
        let session = bench.device.session(&gcm(&KEY)).unwrap();
        (0..10).for_each(|number| assert!(bench.push(&session, number, TAG)));
        bench.queue.submit();
        let share = Arc::downgrade(&session);
        drop(session);
        assert!(share.upgrade().is_some(), "{driver}: the queue has a share");
        assert!(bench.take().iter().all(|(_, status, _)| *status == CryptoStatus::Done), "{driver}");
        assert!(share.upgrade().is_none(), "{driver}: and none once all are back");

        let session = bench.device.session(&gcm(&KEY)).unwrap();
        (0..10).for_each(|number| assert!(bench.push(&session, number, TAG)));
        let Bench { device, queue, pool } = bench;
        drop((session, device));
        drop(queue);
        assert_eq!(pool.in_use(), 0, "{driver}: a queue that is dropped waits for its packets");
    }
}

/// The ICV's place may be within what is authenticated, and a shorter ICV is the beginning of the whole one: what lies
/// behind it stays.
#[test]
fn sealed_packets_come_back_with_their_icv() {
    for driver in DRIVERS {
        let mut bench = Bench::new(driver);
        // One of the drivers has no shorter ones.
        for icv_len in if driver == "crypto_openssl" { &[16][..] } else { &[16, 12, 8] }.iter().copied() {
            let seal = CryptoTransform { direction: CryptoDirection::Seal, icv_len, ..gcm(&KEY) };
            let session = bench.device.session(&seal).unwrap();
            let sealing = CryptoWork { icv_at: 64, ..work(0) };
            let plain = [&octets(PLAIN)[..], &[0xEE; 20]].concat();
            for number in 0..3 {
                assert!(bench.queue.push(packet(&bench.pool, &plain), &session, &sealing, number).is_ok());
            }
            let icv_len = usize::from(icv_len);
            let sealed = [&octets(CIPHER), &TAG.to_be_bytes()[..icv_len], &[0xEE; 20][icv_len..]].concat();
            for (number, (carried, status, packet)) in bench.take().into_iter().enumerate() {
                assert_eq!((carried as usize, status), (number, CryptoStatus::Done), "{driver}");
                assert_eq!(packet, sealed, "{driver}: {icv_len}");
            }
            let beyond = CryptoWork { icv_at: 84 - icv_len as u32 + 1, ..sealing };
            assert!(bench.queue.push(packet(&bench.pool, &plain), &session, &beyond, 0).is_err(), "{driver}");
        }

        // 72 octets are authenticated, and the ICV is written over the last eight of them.
        let chain = |direction| CryptoTransform {
            direction,
            cipher: Some((CryptoCipher::AesCbc, &KEY)),
            auth: Some((CryptoAuth::HmacSha256, &[9; 32])),
            iv_len: 16,
            aad_len: 0,
            icv_len: 16,
        };
        let [open, seal] =
            [CryptoDirection::Open, CryptoDirection::Seal].map(|d| bench.device.session(&chain(d)).unwrap());
        let plain = [&octets(PLAIN)[..], &[0xAA; 16]].concat();
        let chained = CryptoWork { cipher: 16..64, authenticated: 0..72, icv_at: 64, ..work(0) };
        assert!(bench.queue.push(packet(&bench.pool, &plain), &seal, &chained, 0).is_ok());
        let (_, status, sealed) = bench.take().remove(0);
        assert_eq!((status, &sealed[..16]), (CryptoStatus::Done, &plain[..16]), "{driver}");
        assert_ne!(sealed[16..64], plain[16..64], "{driver}");
        let mut icv = [0; 64];
        icv[..16].copy_from_slice(&sealed[64..]);
        let received = [&sealed[..64], &plain[64..]].concat();
        for (at, expected) in [(0, CryptoStatus::Done), (70, CryptoStatus::AuthFailed)] {
            let mut received = received.clone();
            received[at] ^= u8::from(at > 0);
            let opening = CryptoWork { icv, ..chained.clone() };
            assert!(bench.queue.push(packet(&bench.pool, &received), &open, &opening, 0).is_ok());
            let (_, status, opened) = bench.take().remove(0);
            assert_eq!(status, expected, "{driver}");
            assert!(status != CryptoStatus::Done || opened == plain, "{driver}");
        }
        assert_eq!(bench.pool.in_use(), 0, "{driver}");
    }
}

/// With several algorithms in one session, libipsec-mb is done with a packet only when others have come or it is asked for
/// again: what isn't done yet stays.
#[test]
fn what_the_device_is_not_done_with_stays_until_it_is() {
    let mut bench = Bench::new("crypto_aesni_mb");
    let transform = CryptoTransform {
        direction: CryptoDirection::Open,
        cipher: Some((CryptoCipher::AesCbc, &KEY)),
        auth: Some((CryptoAuth::HmacSha256, &[9; 32])),
        iv_len: 16,
        aad_len: 0,
        icv_len: 16,
    };
    let session = bench.device.session(&transform).unwrap();
    let chained = CryptoWork { authenticated: 0..64, ..work(TAG) };
    for number in 0..50 {
        let packet = packet(&bench.pool, &octets(CIPHER));
        assert!(bench.queue.push(packet, &session, &chained, number).is_ok());
        // A poll between any two: the device has some of them under way then.
        if number % 3 == 0 {
            let left = bench.queue.len();
            let mut burst = Burst::<1>::new();
            let count = bench.queue.poll(&mut burst, |_, status| assert_eq!(status, CryptoStatus::AuthFailed));
            assert_eq!(bench.queue.len(), left - count);
        }
    }
    let numbers: Vec<u32> = bench.take().into_iter().map(|(number, ..)| number).collect();
    assert!(numbers.is_sorted() && numbers.last() == Some(&49), "{numbers:?}");
    assert_eq!(bench.pool.in_use(), 0);
}

#[test]
fn a_device_says_what_it_cannot_do() {
    let bench = Bench::new("crypto_openssl");
    let config = CryptoConfig { queue_pairs: 1, depth: DEPTH, sessions: 8 };
    let open = |name: &str, config: &CryptoConfig| CryptoDevice::open::<()>(eal(), name, config).map(drop);
    let busy = open(bench.device.name(), &config).unwrap_err();
    assert!(busy.to_string().contains("it is in use"), "{busy}");
    let unknown = open("crypto_qat9", &config).unwrap_err();
    assert!(matches!(unknown, Error::UnknownCryptoDevice { .. }), "{unknown}");
    assert!(unknown.to_string().contains(bench.device.name()), "{unknown}");
    assert!(CryptoDevice::names(eal()).iter().any(|name| name == bench.device.name()));

    let name = unique("crypto_openssl_");
    eal().attach_vdev(&name, "max_nb_queue_pairs=2").unwrap();
    let many = open(&name, &CryptoConfig { queue_pairs: 3, ..config }).unwrap_err();
    assert!(many.to_string().contains("has 2 queue pairs, and 3 are needed"), "{many}");
    let deep = open(&name, &CryptoConfig { depth: 100, ..config }).unwrap_err();
    assert!(deep.to_string().contains("use a power of two"), "{deep}");

    let lacks = |transform: CryptoTransform<'_>, text: &str| {
        let error = bench.device.check(&transform).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert!(bench.device.session(&transform).is_err());
    };
    lacks(CryptoTransform { icv_len: 8, ..gcm(&KEY) }, "not with these lengths");
    lacks(CryptoTransform { cipher: Some((CryptoCipher::ChaCha20Poly1305, &[1; 32])), ..gcm(&KEY) }, "doesn't know");
    lacks(CryptoTransform { auth: Some((CryptoAuth::HmacSha1, &[1; 20])), ..gcm(&KEY) }, "don't go together");
    lacks(CryptoTransform { cipher: Some((CryptoCipher::AesCbc, &KEY)), ..gcm(&KEY) }, "don't go together");

    let sessions: Vec<_> = (0..8).map(|_| bench.device.session(&gcm(&KEY)).unwrap()).collect();
    let full = bench.device.session(&gcm(&KEY)).unwrap_err();
    assert!(full.to_string().contains("allow for more sessions"), "{full}");
    drop(sessions);
    assert!(bench.device.session(&gcm(&KEY)).is_ok());
}
