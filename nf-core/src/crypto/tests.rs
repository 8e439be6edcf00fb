//! What every transform must do, whatever its algorithms: a sealed packet opens, and nothing else does.

use std::cell::RefCell;

use proptest::prelude::*;

use super::*;

/// Every transform there is, by cipher, key length and integrity algorithm. Keys are fixed and all different.
pub(crate) fn transforms(esn: bool) -> Vec<Transform> {
    let key = |len: usize| (0..len).map(|i| (i * 7 + len) as u8).collect::<Vec<u8>>();
    let mut all = Vec::new();
    for cipher in Cipher::ALL {
        let key_lens: &[usize] = match cipher {
            Cipher::AesGcm { .. } => &[20, 28, 36],
            Cipher::AesCbc => &[16, 24, 32],
            Cipher::ChaCha20Poly1305 => &[36],
            Cipher::Null => &[0],
        };
        for key_len in key_lens {
            if cipher.is_aead() {
                all.push(Transform::new(cipher, &key(*key_len), None, esn).unwrap());
                continue;
            }
            for integrity in Integrity::ALL {
                let auth_key = key(integrity.key_len());
                all.push(Transform::new(cipher, &key(*key_len), Some((integrity, &auth_key)), esn).unwrap());
            }
        }
    }
    assert_eq!(all.len(), 9 + 1 + 12 + 4);
    all
}

fn with_and_without_esn() -> impl Iterator<Item = Transform> {
    transforms(false).into_iter().chain(transforms(true))
}

/// A packet ready to be sealed: SPI 0x12345678, `seq_lo`, `data` with the padding of RFC 4303 2.4 and trailer, room for
/// IV and ICV.
fn clear_packet(layout: Layout, seq_lo: u32, data: &[u8]) -> Vec<u8> {
    let block = usize::from(layout.block);
    let pad_len = (data.len() + 2).next_multiple_of(block) - data.len() - 2;
    let mut esp = [0x1234_5678u32.to_be_bytes(), seq_lo.to_be_bytes()].concat();
    esp.resize(HEADER_LEN + usize::from(layout.iv_len), 0);
    esp.extend_from_slice(data);
    esp.extend((1..=pad_len).map(|i| i as u8));
    esp.extend_from_slice(&[pad_len as u8, 4]);
    esp.resize(esp.len() + usize::from(layout.icv_len), 0);
    esp
}

fn seal(transform: &Transform, esp: &mut [u8], seq_hi: u32, iv: &[u8]) -> bool {
    seal_by(&Portable, transform, esp, seq_hi, iv)
}

thread_local! {
    /// As a core has them.
    static MULTI_BUFFER: RefCell<MultiBuffer> = RefCell::default();
}

/// Enough for lanes of any width to pay.
const TOGETHER: usize = 3;

/// Seals in each way that there is, and with the same outcome.
fn seal_by(engine: &dyn Engine, transform: &Transform, esp: &mut [u8], seq_hi: u32, iv: &[u8]) -> bool {
    let sealer = engine.prepare_seal(transform).unwrap();
    let mut copies = vec![esp.to_vec(); TOGETHER];
    let mut jobs = [SealJob::new(esp, seq_hi, iv)];
    sealer.seal_burst(&mut jobs);
    let sealed = jobs[0].sealed();
    if let Some(keys) = sealer.chained() {
        let mut jobs: Vec<_> = copies.iter_mut().map(|esp| (keys, SealJob::new(esp, seq_hi, iv))).collect();
        MULTI_BUFFER.with_borrow_mut(|lanes| lanes.seal(&mut jobs));
        assert!(jobs.iter().all(|(_, job)| job.sealed() == sealed), "{transform:?}");
        assert!(!sealed || copies.iter().all(|copy| copy == esp), "{transform:?}");
    }
    sealed
}

/// Every engine of this build that this CPU can run. The portable one is the first, and the reference.
fn engines() -> Vec<Box<dyn Engine>> {
    let rest =
        EngineChoice::ALL.into_iter().filter(|choice| !matches!(choice, EngineChoice::Auto | EngineChoice::AesGcm));
    std::iter::once(Box::new(Portable) as Box<dyn Engine>)
        .chain(rest.filter_map(|choice| select(choice).ok()))
        .collect()
}

/// Every engine with what it makes of every transform.
fn openers() -> impl Iterator<Item = (&'static str, Transform, Box<dyn Opener>)> {
    engines().into_iter().flat_map(|engine| {
        with_and_without_esn().map(move |transform| {
            let opener = engine.prepare(&transform).unwrap();
            (engine.name(), transform, opener)
        })
    })
}

/// A build must test each engine that the CPU has the instructions for.
#[test]
#[cfg(all(feature = "ipsec-mb", target_arch = "x86_64"))]
fn every_engine_is_tested_where_it_can_run() {
    use std::io::Write;

    let ipsec_mb = std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
    let ring = std::is_x86_feature_detected!("vaes") && std::is_x86_feature_detected!("vpclmulqdq");
    if !ring {
        // Past libtest, which keeps what a test that passes prints.
        let _ = writeln!(std::io::stderr(), "NOT RUN: the tests of the engine `ring`: this CPU has no VAES");
    }
    let names: Vec<&str> = engines().iter().map(|engine| engine.name()).collect();
    let all = [("aes-gcm", true), ("ipsec-mb", ipsec_mb), ("ring", ring)];
    assert_eq!(names, all.into_iter().filter_map(|(name, able)| able.then_some(name)).collect::<Vec<_>>());
}

fn open_alone(opener: &dyn Opener, esp: &mut [u8], seq_hi: u32) -> bool {
    let mut jobs = [OpenJob::new(esp, seq_hi)];
    opener.open_burst(&mut jobs);
    jobs[0].opened()
}

/// Opens in each way that there is, and with the same outcome.
fn open(opener: &dyn Opener, esp: &mut [u8], seq_hi: u32) -> bool {
    let mut copies = vec![esp.to_vec(); TOGETHER];
    let opened = open_alone(opener, esp, seq_hi);
    if let Some(keys) = opener.chained() {
        let mut jobs: Vec<_> = copies.iter_mut().map(|esp| (keys, OpenJob::new(esp, seq_hi))).collect();
        MULTI_BUFFER.with_borrow_mut(|lanes| lanes.open(&mut jobs));
        assert!(jobs.iter().all(|(_, job)| job.opened() == opened));
        assert!(copies.iter().all(|copy| copy == esp));
    }
    opened
}

/// A sealed packet of a few blocks.
fn sealed_packet(transform: &Transform, seq_hi: u32) -> Vec<u8> {
    let layout = transform.layout();
    let mut esp = clear_packet(layout, 7, b"an inner packet of 40 octets, more than 2");
    assert!(seal(transform, &mut esp, seq_hi, &vec![0x5A; usize::from(layout.iv_len)]));
    esp
}

#[test]
fn every_engine_supports_every_transform() {
    for engine in engines() {
        for transform in transforms(false) {
            assert!(engine.supports(&transform), "{transform:?}");
            assert!(engine.prepare(&transform).is_ok(), "{transform:?}");
            assert!(engine.prepare_seal(&transform).is_ok(), "{transform:?}");
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    for (_, transform, opener) in openers() {
        let esp = sealed_packet(&transform, 1);
        for len in 0..esp.len() {
            let (mut front, mut back) = (esp[..len].to_vec(), esp[esp.len() - len..].to_vec());
            assert!(!open(&*opener, &mut front, 1), "{transform:?}: the first {len} octets");
            assert!(!open(&*opener, &mut back, 1), "{transform:?}: the last {len} octets");
        }
        assert!(open(&*opener, &mut esp.clone(), 1), "{transform:?}");
    }
}

#[test]
fn every_flipped_bit_is_refused_and_the_portable_engine_decrypts_nothing() {
    for (engine, transform, opener) in openers() {
        let esp = sealed_packet(&transform, 1);
        let sent: Vec<Vec<u8>> = (0..esp.len() * 8)
            .map(|bit| {
                let mut forged = esp.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                forged
            })
            .collect();
        for (bit, sent) in sent.iter().enumerate() {
            let mut forged = sent.clone();
            assert!(!open_alone(&*opener, &mut forged, 1), "{transform:?}: bit {bit}");
            if engine == Portable.name() {
                assert_eq!(forged, *sent, "{transform:?}: bit {bit}");
            }
        }
        if let Some(keys) = opener.chained() {
            let mut forged = sent.clone();
            let mut jobs: Vec<_> = forged.iter_mut().map(|esp| (keys, OpenJob::new(esp, 1))).collect();
            MULTI_BUFFER.with_borrow_mut(|lanes| lanes.open(&mut jobs));
            assert_eq!(jobs.iter().position(|(_, job)| job.opened()), None, "{transform:?}");
            assert!(forged == sent, "{transform:?}: nothing is decrypted");
        }
    }
}

#[test]
fn the_upper_half_of_the_sequence_number_counts_with_esn_only() {
    for (_, transform, opener) in openers() {
        let esp = sealed_packet(&transform, 1);
        for wrong in [0, 2, 1 << 31 | 1, 0x0100_0000] {
            assert_eq!(open(&*opener, &mut esp.clone(), wrong), !transform.esn(), "{transform:?}: {wrong:#x}");
        }
    }
}

#[test]
fn esn_and_plain_sequence_numbers_are_not_taken_for_each_other() {
    for (plain, esn) in transforms(false).into_iter().zip(transforms(true)) {
        let (plain_opener, esn_opener) = (Portable.prepare(&plain).unwrap(), Portable.prepare(&esn).unwrap());
        for seq_hi in [0, 1] {
            assert!(!open(&*plain_opener, &mut sealed_packet(&esn, seq_hi), seq_hi), "{esn:?}");
            // AES-CBC tolerates a sender that leaves an upper half of 0 out of the ICV.
            let tolerated = esn.cipher() == Cipher::AesCbc && seq_hi == 0;
            assert_eq!(open(&*esn_opener, &mut sealed_packet(&plain, seq_hi), seq_hi), tolerated, "{plain:?}");
        }
    }
}

/// The octets that an ICV covers with ESN, upper half included, must not pass for a packet of their own.
#[test]
fn the_upper_half_can_not_be_turned_into_payload() {
    for transform in transforms(true) {
        let opener = Portable.prepare(&transform).unwrap();
        for seq_hi in [0u32, 1, 0x0102_0204] {
            let esp = sealed_packet(&transform, seq_hi);
            let (covered, icv) = esp.split_at(esp.len() - usize::from(transform.layout().icv_len));
            let spliced = [covered, &seq_hi.to_be_bytes(), icv].concat();
            for claimed in [0, seq_hi] {
                assert!(!open(&*opener, &mut spliced.clone(), claimed), "{transform:?}: {seq_hi:#x}");
            }
        }
    }
}

#[test]
fn the_packets_of_a_burst_are_judged_one_by_one() {
    for (_, transform, opener) in openers() {
        let good = sealed_packet(&transform, 1);
        let mut forged = good.clone();
        *forged.last_mut().unwrap() ^= 0x80;
        let mut packets = [good.clone(), forged, good[..9].to_vec(), Vec::new(), good];
        let mut jobs: Vec<OpenJob<'_>> = packets.iter_mut().map(|esp| OpenJob::new(esp, 1)).collect();
        // What an earlier burst left behind must not pass for this one's outcome.
        jobs.iter_mut().for_each(|job| job.finish(true));
        opener.open_burst(&mut jobs);
        let opened: Vec<bool> = jobs.iter().map(OpenJob::opened).collect();
        assert_eq!(opened, [true, false, false, false, true], "{transform:?}");
        opener.open_burst(&mut []);
    }
}

/// SAs of every algorithm that chains blocks, their packets in turn, more of them than a burst has.
#[test]
fn packets_of_many_sas_together_are_judged_one_by_one() {
    for engine in engines() {
        let transforms: Vec<Transform> =
            with_and_without_esn().filter(|transform| !transform.cipher().is_aead()).collect();
        let sealers: Vec<_> = transforms.iter().map(|transform| engine.prepare_seal(transform).unwrap()).collect();
        let openers: Vec<_> = transforms.iter().map(|transform| engine.prepare(transform).unwrap()).collect();
        let of = |index: usize| index * 5 % transforms.len();
        let ivs: Vec<Vec<u8>> = (0..150).map(|i| vec![i as u8; transforms[of(i)].layout().iv_len.into()]).collect();
        let clear: Vec<Vec<u8>> =
            (0..150).map(|i| clear_packet(transforms[of(i)].layout(), 7, &vec![0xA5; i * 7])).collect();
        let mut sealed = clear.clone();
        let mut jobs: Vec<_> = sealed
            .iter_mut()
            .enumerate()
            .filter_map(|(i, esp)| Some((sealers[of(i)].chained()?, SealJob::new(esp, 1, &ivs[i]))))
            .collect();
        if jobs.is_empty() {
            assert!(matches!(engine.name(), "aes-gcm"), "{}", engine.name());
            continue;
        }
        MULTI_BUFFER.with_borrow_mut(|lanes| lanes.seal(&mut jobs));
        assert_eq!(jobs.iter().filter(|(_, job)| job.sealed()).count(), 150);
        for (i, esp) in sealed.iter_mut().enumerate() {
            let mut alone = clear[i].clone();
            assert!(seal(&transforms[of(i)], &mut alone, 1, &ivs[i]));
            assert_eq!(*esp, alone, "{i}");
            match i % 7 {
                2 => *esp.last_mut().unwrap() ^= 1,
                4 => esp.truncate(i),
                _ => {}
            }
        }
        let mut jobs: Vec<_> = sealed
            .iter_mut()
            .enumerate()
            .map(|(i, esp)| (openers[of(i)].chained().unwrap(), OpenJob::new(esp, 1)))
            .collect();
        // What an earlier burst left behind must not pass for this one's outcome.
        jobs.iter_mut().for_each(|(_, job)| job.finish(true));
        MULTI_BUFFER.with_borrow_mut(|lanes| lanes.open(&mut jobs));
        let opened: Vec<bool> = jobs.iter().map(|(_, job)| job.opened()).collect();
        for (i, opened) in opened.into_iter().enumerate() {
            assert_eq!(opened, !matches!(i % 7, 2 | 4), "{i}: {:?}", transforms[of(i)]);
            let payload = transforms[of(i)].layout().payload_range(clear[i].len()).unwrap();
            assert!(!opened || sealed[i][payload.clone()] == clear[i][payload], "{i}");
        }
    }
}

#[test]
fn a_packet_that_does_not_fit_the_layout_is_not_sealed() {
    for transform in transforms(false) {
        let layout = transform.layout();
        let iv = vec![1; usize::from(layout.iv_len)];
        let esp = clear_packet(layout, 1, b"data");
        let (mut short, mut uneven) = (vec![0; layout.min_esp_len() - 1], [&esp[..], &[0]].concat());
        assert!(!seal(&transform, &mut short, 0, &iv), "{transform:?}");
        assert!(!seal(&transform, &mut uneven, 0, &iv), "{transform:?}");
        for wrong_len in (0..20).filter(|len| *len != iv.len()) {
            let mut untouched = esp.clone();
            assert!(!seal(&transform, &mut untouched, 0, &vec![1; wrong_len]), "{transform:?}");
            assert_eq!(untouched, esp, "{transform:?}");
        }
        assert!(seal(&transform, &mut esp.clone(), 0, &iv), "{transform:?}");
    }
}

#[test]
fn a_short_icv_of_gcm_is_the_start_of_the_whole_tag() {
    for key_len in [20, 28, 36] {
        let packet =
            |icv| sealed_packet(&Transform::new(Cipher::AesGcm { icv }, &vec![3; key_len], None, true).unwrap(), 9);
        let whole = packet(GcmIcv::Octets16);
        assert_eq!(packet(GcmIcv::Octets12), whole[..whole.len() - 4]);
        assert_eq!(packet(GcmIcv::Octets8), whole[..whole.len() - 8]);
    }
}

/// Engines take packets in pieces of up to 256 octets, and ring's begins at [`ring::LONG`]: each length to beyond both.
#[test]
fn engines_agree_on_every_length() {
    let key: Vec<u8> = (0..36).collect();
    let mac = Some((Integrity::HmacSha256_128, &key[..32]));
    let transforms = [
        Transform::new(Cipher::AesGcm { icv: GcmIcv::Octets16 }, &key[..20], None, false).unwrap(),
        Transform::new(Cipher::AesGcm { icv: GcmIcv::Octets16 }, &key, None, true).unwrap(),
        Transform::new(Cipher::AesCbc, &key[..16], mac, false).unwrap(),
        Transform::new(Cipher::AesCbc, &key[..32], Some((Integrity::HmacSha1_96, &key[..20])), true).unwrap(),
    ];
    for transform in &transforms {
        let iv = vec![0x5A; usize::from(transform.layout().iv_len)];
        let prepared: Vec<_> = engines()
            .iter()
            .map(|engine| (engine.name(), engine.prepare(transform).unwrap(), engine.prepare_seal(transform).unwrap()))
            .collect();
        for len in (0..1040).step_by(usize::from(transform.layout().block)) {
            let clear = clear_packet(transform.layout(), 7, &vec![0xA5; len]);
            let mut reference: Option<Vec<u8>> = None;
            for (name, opener, sealer) in &prepared {
                let mut esp = clear.clone();
                let mut jobs = [SealJob::new(&mut esp, 1, &iv)];
                sealer.seal_burst(&mut jobs);
                assert!(jobs[0].sealed(), "{name}: {len}");
                assert_eq!(&esp, reference.get_or_insert_with(|| esp.clone()), "{name}: {len}");
                let mut forged = esp.clone();
                *forged.last_mut().unwrap() ^= 1;
                assert!(!open(&**opener, &mut forged, 1), "{name}: {len}");
                assert!(open(&**opener, &mut esp, 1), "{name}: {len}");
                let payload = transform.layout().payload_range(clear.len()).unwrap();
                assert_eq!(esp[payload.clone()], clear[payload], "{name}: {len}");
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_sealed_opens_to_what_it_was(
        which in 0usize..26,
        esn: bool,
        seq_lo: u32,
        seq_hi: u32,
        iv: [u8; 16],
        data in proptest::collection::vec(any::<u8>(), 0..2048),
    ) {
        let transform = &transforms(esn)[which];
        let layout = transform.layout();
        let iv = &iv[..usize::from(layout.iv_len)];
        let clear = clear_packet(layout, seq_lo, &data);
        let payload = layout.payload_range(clear.len()).unwrap();

        let mut esp = clear.clone();
        prop_assert!(seal(transform, &mut esp, seq_hi, iv));
        prop_assert_eq!(&esp[..HEADER_LEN], &clear[..HEADER_LEN]);
        prop_assert_eq!(&esp[HEADER_LEN..payload.start], iv);
        // Of 16 octets and more, keystream or block cipher leaves none as they were but with a chance of 2^-128.
        if payload.len() >= 16 {
            prop_assert_eq!(esp[payload.clone()] == clear[payload.clone()], transform.cipher() == Cipher::Null);
        }

        prop_assert!(open(&*Portable.prepare(transform).unwrap(), &mut esp, seq_hi));
        prop_assert_eq!(&esp[payload.clone()], &clear[payload]);
    }

    /// Differential: all engines seal to the same octets, and open what any has sealed.
    #[test]
    fn engines_agree(
        which in 0usize..26,
        esn: bool,
        seq_lo: u32,
        seq_hi: u32,
        iv: [u8; 16],
        data in proptest::collection::vec(any::<u8>(), 0..2048),
        misaligned in 0usize..64,
        damage in proptest::option::of((any::<proptest::sample::Index>(), 1u8..)),
    ) {
        let transform = &transforms(esn)[which];
        let layout = transform.layout();
        let iv = &iv[..usize::from(layout.iv_len)];
        let clear = clear_packet(layout, seq_lo, &data);
        let mut reference = clear.clone();
        prop_assert!(seal(transform, &mut reference, seq_hi, iv));
        for engine in engines() {
            // In place wherever a packet begins, and not an octet around it is touched.
            let mut memory = [&vec![0xEE; misaligned], &clear[..], &[0xEE; 64]].concat();
            let place = misaligned..misaligned + clear.len();
            let untouched = |memory: &[u8]| {
                memory[..place.start].iter().chain(&memory[place.end..]).all(|octet| *octet == 0xEE)
            };
            prop_assert!(seal_by(&*engine, transform, &mut memory[place.clone()], seq_hi, iv));
            prop_assert_eq!(&memory[place.clone()], &reference, "{}", engine.name());
            prop_assert!(untouched(&memory), "{}", engine.name());
            if let Some((at, flip)) = &damage {
                memory[place.start + at.index(reference.len())] ^= flip;
            }
            let opened = open(&*engine.prepare(transform).unwrap(), &mut memory[place.clone()], seq_hi);
            prop_assert_eq!(opened, damage.is_none(), "{}", engine.name());
            prop_assert!(untouched(&memory), "{}", engine.name());
            if opened {
                let payload = layout.payload_range(clear.len()).unwrap();
                prop_assert_eq!(&memory[place][payload.clone()], &clear[payload], "{}", engine.name());
            }
        }
    }

    #[test]
    fn arbitrary_octets_are_refused(
        which in 0usize..26,
        esn: bool,
        mut esp in proptest::collection::vec(any::<u8>(), 0..256),
    ) {
        let transform = &transforms(esn)[which];
        prop_assert!(!open(&*Portable.prepare(transform).unwrap(), &mut esp, 0));
    }
}
