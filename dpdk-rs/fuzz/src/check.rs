//! Reassembly, held against a model that knows which fragments it was given.

use std::collections::HashMap;
use std::time::Duration;

use dpdk_rs::{DeathReason, Eal, FragTable, Mbuf, Mempool, Outcome, SocketId, Tsc};

/// Fragments that are taken of an input: the pool must have that many buffers.
pub const MOST_FRAGMENTS: u32 = 511;
/// Octets that a buffer has room for, headroom included.
pub const DATA_ROOM: u16 = 1024;

const L2: usize = 14;
/// Datagrams at once. There are more addresses than that.
const FLOWS: u32 = 8;
const TIMEOUT: Duration = Duration::from_secs(1);

/// What an input led to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    /// Datagrams that became whole.
    pub complete: usize,
    /// Fragments that were given up.
    pub dead: usize,
    /// Frames that are no fragments.
    pub rejected: usize,
}

/// A fragment, read by other code than that under test. The frame ends with the IP packet.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Fragment {
    frame: Vec<u8>,
    /// Length of the IP header, with IPv6's fragment header.
    l3: usize,
    offset: usize,
    more: bool,
}

/// What fragments of one datagram have in common: addresses and identification.
type Key = Vec<u8>;

impl Fragment {
    /// Reads a frame that was accepted, so its lengths are right.
    fn read(frame: &[u8]) -> (Key, Fragment) {
        let ip = &frame[L2..];
        let be16 = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
        let (l3, end, offset, more, key) = if ip[0] >> 4 == 4 {
            let flags = be16(6);
            let key = [&ip[12..20], &ip[4..6]].concat();
            (
                usize::from(ip[0] & 15) * 4,
                usize::from(be16(2)),
                usize::from(flags & 0x1FFF) * 8,
                flags & 0x2000 != 0,
                key,
            )
        } else {
            let flags = be16(42);
            let key = [&ip[8..40], &ip[44..48]].concat();
            (48, 40 + usize::from(be16(4)), usize::from(flags & 0xFFF8), flags & 1 != 0, key)
        };
        (key, Fragment { frame: frame[..L2 + end].to_vec(), l3, offset, more })
    }

    fn payload(&self) -> &[u8] {
        &self.frame[L2 + self.l3..]
    }
}

/// The frame that a datagram's fragments make, if they do without a gap.
fn whole(mut fragments: Vec<Fragment>) -> Vec<u8> {
    fragments.sort_by_key(|fragment| fragment.offset);
    let mut payload: Vec<u8> = Vec::new();
    for fragment in &fragments {
        assert_eq!(fragment.offset, payload.len(), "a hole or an overlap was taken for a whole datagram");
        payload.extend(fragment.payload());
    }
    let (first, last) = (&fragments[0], &fragments[fragments.len() - 1]);
    assert!(!last.more, "a datagram without its end was taken for a whole one");
    let mut frame = first.frame[..L2 + first.l3].to_vec();
    if frame[L2] >> 4 == 4 {
        let length = (first.l3 + payload.len()) as u16;
        frame[L2 + 2..L2 + 4].copy_from_slice(&length.to_be_bytes());
        frame[L2 + 6..L2 + 8].fill(0);
        frame[L2 + 10..L2 + 12].fill(0);
        let sum = frame[L2..].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
        let folded = (sum & 0xFFFF) + (sum >> 16);
        let checksum = !((folded & 0xFFFF) + (folded >> 16)) as u16;
        frame[L2 + 10..L2 + 12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        frame[L2 + 4..L2 + 6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        frame[L2 + 6] = frame[L2 + 40];
        frame.truncate(L2 + 40);
    }
    frame.extend(payload);
    frame
}

/// The frame that six octets of input stand for: a fragment, or something that claims to be one.
fn frame(serial: usize, input: [u8; 6]) -> (Vec<u8>, bool) {
    let [kind, id, offset, length, lie, _] = input;
    let (v6, more) = (kind & 1 != 0, kind & 2 != 0);
    // Mostly near the beginning, so that fragments meet; sometimes near the longest datagram's end.
    let offset = usize::from(offset) << if kind & 0xC0 == 0xC0 { 8 } else { 3 };
    let length = if lie & 7 == 0 { usize::from(length) } else { (usize::from(length) & !7).max(8) };
    let data = (0..length).map(|at| (serial * 31 + at) as u8);
    let mut frame = vec![0xEE; 12];
    if v6 {
        frame.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
        frame.extend((8 + length as u16).to_be_bytes());
        frame.extend([44, 64]);
        frame.extend([0x20; 16]);
        frame.extend([0x30; 16]);
        frame.extend([50, 0]);
        frame.extend(((offset & 0xFFF8) as u16 | u16::from(more)).to_be_bytes());
        frame.extend([0, 0, 0, id % 12]);
    } else {
        // Some with options.
        let words = if kind & 0x20 != 0 { 6 } else { 5 };
        frame.extend([0x08, 0x00, 0x40 | words, 0]);
        frame.extend((u16::from(words) * 4 + length as u16).to_be_bytes());
        frame.extend([0, id % 12]);
        frame.extend(((offset / 8) as u16 & 0x1FFF | u16::from(more) << 13).to_be_bytes());
        frame.extend([64, 50, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(&[1; 4][..usize::from(words - 5) * 4]);
    }
    let headers = frame.len();
    frame.extend(data);
    match lie & 7 {
        1 => frame.truncate(usize::from(lie >> 3) * 4),
        2 => frame[L2 + usize::from(lie >> 3) % (headers - L2)] ^= length as u8,
        // Ethernet's padding, which is no part of the packet.
        3 => frame.extend(vec![0xAA; usize::from(lie >> 3)]),
        _ => {}
    }
    (frame, v6)
}

/// Fragments, six octets of input for each: its kind, identification, offset, length, what is wrong with it, and how much time has
/// passed. A datagram is whole if and only if its fragments are there, without hole or overlap, and it is what they make;
/// each fragment is held, handed back or part of a datagram; at the end no buffer is missing.
pub fn reassembly(eal: Eal, pool: &Mempool, octets: &[u8]) -> Seen {
    let mut table = FragTable::new(eal, FLOWS, TIMEOUT, SocketId::ANY).expect("there is memory");
    let mut held: HashMap<Key, Vec<Fragment>> = HashMap::new();
    let (mut seen, mut now) = (Seen::default(), 1);
    let tick = eal.tsc_hz().cycles(TIMEOUT) / 64;
    for (serial, input) in octets.as_chunks().0.iter().take(MOST_FRAGMENTS as usize).enumerate() {
        now += tick * u64::from(input[5] % 16);
        let (frame, v6) = frame(serial, *input);
        let mut packet = pool.alloc().expect("there is a buffer for each fragment");
        packet.append(frame.len()).expect("there is room").copy_from_slice(&frame);
        let outcome = match v6 {
            true => table.insert_v6(packet, Tsc(now), L2),
            false => table.insert_v4(packet, Tsc(now), L2),
        };
        match outcome {
            Outcome::Rejected(packet, why) => {
                assert!(frame.starts_with(packet.data()), "{why}, and changed");
                seen.rejected += 1;
            }
            Outcome::Held => {
                let (key, fragment) = Fragment::read(&frame);
                held.entry(key).or_default().push(fragment);
            }
            Outcome::Dead => {
                let (key, fragment) = Fragment::read(&frame);
                held.entry(key.clone()).or_default().push(fragment);
                let dead = bury(&mut table, &mut held);
                let inconsistent = dead.contains(&DeathReason::Inconsistent);
                assert!(
                    !inconsistent || !held.contains_key(&key),
                    "a part of a datagram that was given up is held still"
                );
                seen.dead += dead.len();
            }
            Outcome::Complete(packet) => {
                let (key, fragment) = Fragment::read(&frame);
                let mut fragments = held.remove(&key).unwrap_or_default();
                fragments.push(fragment);
                assert_eq!(usize::from(packet.nb_segs()), fragments.len());
                assert_eq!(octets_of(&packet), whole(fragments));
                seen.complete += 1;
            }
        }
        seen.dead += bury(&mut table, &mut held).len();
        assert_eq!(pool.in_use(), held.values().map(Vec::len).sum::<usize>(), "a buffer is missing");
    }
    table.expire(Tsc(u64::MAX));
    seen.dead += bury(&mut table, &mut held).len();
    assert!(held.is_empty(), "what never became whole was not handed back: {held:?}");
    assert_eq!(pool.in_use(), 0);
    seen
}

fn octets_of(packet: &Mbuf) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}

/// Takes what the table gave up off the list of what it holds.
fn bury(table: &mut FragTable, held: &mut HashMap<Key, Vec<Fragment>>) -> Vec<DeathReason> {
    let buried = table.drain_dead().map(|(why, packet)| {
        let (key, fragment) = Fragment::read(&octets_of(&packet));
        let of_datagram = held.get_mut(&key).expect("what died was held");
        let place = of_datagram.iter().position(|other| *other == fragment).expect("what died was held");
        of_datagram.swap_remove(place);
        if of_datagram.is_empty() {
            held.remove(&key);
        }
        why
    });
    buried.collect()
}
