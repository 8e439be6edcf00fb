//! Many SAs, algorithms, lengths and SPIs.

use nf_core::counters::Consumed;
use nf_core::drop::DropReason;

use crate::outer::Outer;
use crate::packet;
use crate::scenario::{LOCAL_V4, Outcome, PEER_V4, Scenario};
use crate::seal::{self, AES_128_GCM, DUMMY, IPV4, Sa};

pub(super) const IMIX: Scenario = Scenario {
    name: "imix",
    about: "7:4:1 of 64, 570 and 1400 octets, over eight SAs of different algorithms",
    write: |writer, packets| {
        const MIX: [usize; 12] = [64, 570, 64, 570, 64, 64, 1400, 570, 64, 64, 570, 64];
        let mut sas: Vec<Sa> = seal::ALGORITHMS
            .iter()
            .take(8)
            .enumerate()
            .map(|(i, algorithm)| Sa::new(0xC000_0100 + i as u32, PEER_V4, LOCAL_V4, *algorithm, &mut writer.random))
            .collect();
        sas.iter().for_each(|sa| writer.install(sa));
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        let count = sas.len();
        for number in 0..packets {
            let pick = writer.random.below(count);
            writer.push_valid(&mut sas[pick], &outer, false, MIX[number % MIX.len()])?;
        }
        Ok(())
    },
};

pub(super) const ALGORITHMS: Scenario = Scenario {
    name: "algorithms",
    about: "every algorithm, with and without extended sequence numbers, over the wrap of the lower half",
    write: |writer, packets| {
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        let mut sas = Vec::new();
        for (i, algorithm) in seal::ALGORITHMS.iter().enumerate() {
            for esn in [false, true] {
                let spi = 0xC000_1000 + 2 * i as u32 + u32::from(esn);
                let mut sa = Sa::new(spi, PEER_V4, LOCAL_V4, *algorithm, &mut writer.random);
                sa.esn = esn;
                writer.install(&sa);
                sas.push(sa);
            }
        }
        let mut filler = Sa::new(0xC000_2000, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        writer.install(&filler);
        // To the end of the first epoch in two jumps, as half the space is the most that can be told. The receiver
        // learns of a jump when a burst is done, so a burst's worth of other packets goes between.
        for seq in [0x7FFF_FFFF, 0xFFFF_FFFA] {
            for sa in sas.iter_mut().filter(|sa| sa.esn) {
                sa.seq = seq;
                writer.push_valid(sa, &outer, false, 100)?;
            }
            for _ in 0..64 {
                writer.push_valid(&mut filler, &outer, false, 64)?;
            }
        }
        for _ in 0..(packets / sas.len()).max(8) {
            for sa in &mut sas {
                let len = 28 + writer.random.below(500);
                writer.push_valid(sa, &outer, false, len)?;
            }
        }
        Ok(())
    },
};

pub(super) const SELECTORS: Scenario = Scenario {
    name: "selectors",
    about: "inner addresses within and outside what the SA may carry",
    write: |writer, packets| {
        let mut sa = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        sa.selectors = (vec!["192.168.1.0/24".into()], vec!["172.16.0.0/12".into()]);
        writer.install(&sa);
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        for number in 0..packets {
            writer.push_valid(&mut sa, &outer, false, 100)?;
            let (src, dst) = match number % 2 {
                0 => ([192, 168, 2, 1].into(), [172, 16, 0, 1].into()),
                _ => ([192, 168, 1, 1].into(), [8, 8, 8, 8].into()),
            };
            let inner = packet::ip(src, dst, 0, 64, 17, &packet::udp(src, dst, (1, 2), &[0; 10]));
            let esp = sa.seal(IPV4, &inner);
            writer.push(&outer.esp(&esp), Outcome::Dropped(DropReason::PolicyV4))?;
        }
        Ok(())
    },
};

pub(super) const HIDDEN: Scenario = Scenario {
    name: "hidden",
    about: "traffic flow confidentiality: padding behind the inner packet is cut off, dummies end here; bad trailers drop",
    write: |writer, packets| {
        let mut sa = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        writer.install(&sa);
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        for number in 0..packets {
            let inner = writer.inner(false, 80);
            sa.seq += 1;
            let tfc = writer.random.below(900);
            let esp = sa.seal_at(sa.seq, IPV4, &inner, tfc);
            writer.push(&outer.esp(&esp), Outcome::Sent(packet::forwarded(&inner, 0)))?;
            let (next_header, outcome) = match number % 3 {
                0 => (DUMMY, Outcome::Consumed(Consumed::Dummy)),
                1 => (6, Outcome::Dropped(DropReason::NextHeader)),
                _ => (41, Outcome::Dropped(DropReason::InnerVersion)),
            };
            let esp = sa.seal(next_header, &inner);
            writer.push(&outer.esp(&esp), outcome)?;
        }
        Ok(())
    },
};

pub(super) const JUMBO: Scenario = Scenario {
    name: "jumbo",
    about: "packets of up to 64,000 octets, more than one buffer holds",
    write: |writer, packets| {
        let mut sa = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        writer.install(&sa);
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        for number in 0..packets {
            let len = if number % 50 == 0 { 64_000 } else { 1400 + writer.random.below(8000) };
            writer.push_valid(&mut sa, &outer, false, len)?;
        }
        Ok(())
    },
};
