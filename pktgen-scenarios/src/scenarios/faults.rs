//! Faults that the field knows: each scenario fails on an implementation that has its fault.

use std::net::IpAddr;

use nf_core::drop::DropReason;
use serde_json::json;

use crate::outer::Outer;
use crate::packet;
use crate::scenario::{LOCAL_V4, LOCAL_V6, Outcome, PEER_V4, PEER_V6, Scenario, Writer};
use crate::seal::{AES_128_GCM, IPV4, Sa};

/// Packets that a burst of the receiver holds at most: what one burst has taught it, the next one knows.
const BURST: usize = 64;

pub(super) const SPI_RANGE: Scenario = Scenario {
    name: "CSCvp16730",
    about: "SPIs that begin with 0xFF dropped as invalid: all from 0x100 to 0xFFFFFFFF work, plain and in UDP; lower ones have reasons of their own",
    write: |writer, packets| {
        let plain = Outer::new(PEER_V4, LOCAL_V4);
        let in_udp = Outer { udp: Some(4500), ..plain.clone() };
        let six = Outer::new(PEER_V6, LOCAL_V6);
        let mut spis = vec![0x100, 0x101, 0x7FFF_FFFF, 0x8000_0000, 0xFEFF_FFFF, 0xFF00_0000, 0xFF00_0001];
        spis.extend([0xFFFF_FFFE, 0xFFFF_FFFF]);
        for _ in 0..(packets / 8).min(5_000) {
            spis.push(0xFF00_0000 | writer.random.word() as u32);
            spis.push((writer.random.word() as u32).max(0x100));
        }
        spis.sort_unstable();
        spis.dedup();
        for spi in spis {
            let mut four = Sa::new(spi, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
            let mut of_six = Sa::new(spi, PEER_V6, LOCAL_V6, AES_128_GCM, &mut writer.random);
            writer.install(&four);
            writer.install(&of_six);
            writer.push_valid(&mut four, &plain, false, 100)?;
            writer.push_valid(&mut four, &in_udp, false, 100)?;
            writer.push_valid(&mut of_six, &six, false, 100)?;
        }
        for spi in [1u32, 2, 128, 255] {
            let esp = [&spi.to_be_bytes()[..], &[0; 60]].concat();
            for outer in [&plain, &in_udp, &six] {
                writer.push(&outer.esp(&esp), Outcome::Dropped(DropReason::SpiReserved))?;
            }
        }
        writer.push(&plain.esp(&[0; 64]), Outcome::Dropped(DropReason::SpiZero))
    },
};

pub(super) const NATT_UNKNOWN: Scenario = Scenario {
    name: "CSCsq59183",
    about: "unknown SPI not reported where ESP comes in UDP: each flow has its message, and its addresses and ports are known",
    write: |writer, packets| {
        let mut sa = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        sa.udp = true;
        writer.install(&sa);
        let fine = Outer { udp: Some(4500), ..Outer::new(PEER_V4, LOCAL_V4) };
        for number in 0..packets {
            writer.push_valid(&mut sa, &fine, false, 120)?;
            // Peers behind one NAT differ by port alone; each has an SPI of its own.
            let peer = number as u16 % 8;
            let spi = [0xB761_863E, 0xFF00_0001, 0x1DB7_3BBB, 0x0000_0100][usize::from(peer % 4)] + u32::from(peer / 4);
            let outer = match peer {
                0..6 => Outer { udp: Some(61_000 + peer), ..Outer::new([198, 51, 100, 7].into(), LOCAL_V4) },
                _ => Outer { udp: Some(61_000 + peer), ..Outer::new(PEER_V6, LOCAL_V6) },
            };
            writer.push_unknown(&outer, spi)?;
        }
        Ok(())
    },
};

pub(super) const OTHER_DESTINATION: Scenario = Scenario {
    name: "spi-other-destination",
    about: "an SPI in use again for another address of ours: two SAs, and none at a third address",
    write: |writer, packets| {
        const SPI: u32 = 0xC0FF_EE01;
        let second = IpAddr::from([10, 10, 1, 3]);
        let third = IpAddr::from([10, 10, 1, 4]);
        writer.local(third);
        let mut at_first = Sa::new(SPI, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        let mut at_second = Sa::new(SPI, PEER_V4, second, AES_128_GCM, &mut writer.random);
        // Far apart, so that a window that they shared would show.
        at_second.seq = 1_000_000;
        writer.install(&at_first);
        writer.install(&at_second);
        for _ in 0..packets {
            writer.push_valid(&mut at_first, &Outer::new(PEER_V4, LOCAL_V4), false, 100)?;
            writer.push_valid(&mut at_second, &Outer::new(PEER_V4, second), false, 100)?;
            writer.push_unknown(&Outer::new(PEER_V4, third), SPI)?;
        }
        Ok(())
    },
};

pub(super) const TWO_PEERS: Scenario = Scenario {
    name: "spi-two-peers",
    about: "two peers with the same SPI to the same address: each has its own SA; a third host that uses it has none of the keys",
    write: |writer, packets| {
        const SPI: u32 = 0xC0FF_EE01;
        let (other, stranger) = (IpAddr::from([10, 1, 1, 9]), IpAddr::from([203, 0, 113, 66]));
        let mut first = Sa::new(SPI, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        let mut second = Sa::new(SPI, other, LOCAL_V4, AES_128_GCM, &mut writer.random);
        second.seq = 1_000_000;
        writer.install(&first);
        writer.install(&second);
        let mut forged = Sa::new(SPI, stranger, LOCAL_V4, AES_128_GCM, &mut writer.random);
        forged.seq = 2_000_000;
        for number in 0..packets {
            writer.push_valid(&mut first, &Outer::new(PEER_V4, LOCAL_V4), false, 100)?;
            writer.push_valid(&mut second, &Outer::new(other, LOCAL_V4), false, 100)?;
            if number % 4 == 0 {
                let inner = writer.inner(false, 100);
                let esp = forged.seal(IPV4, &inner);
                let frame = Outer::new(stranger, LOCAL_V4).esp(&esp);
                writer.push(&frame, Outcome::Dropped(DropReason::AuthFailed))?;
            }
        }
        Ok(())
    },
};

pub(super) const REPLACED: Scenario = Scenario {
    name: "sa-replaced",
    about: "an SA replaced under the same SPI: packets of the old one, replayed, open nothing, and the new window begins anew",
    write: |writer, packets| {
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        let mut old = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        let mut new = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        old.seq = 5_000_000;
        writer.install(&old);
        let mut recorded = Vec::new();
        for _ in 0..packets {
            recorded.push(writer.push_valid(&mut old, &outer, false, 100)?);
        }
        writer.request(json!({"op": "sa-del", "spi": old.spi, "dst": old.dst, "src": old.src}));
        for frame in recorded.iter().take(8) {
            writer.push(frame, Outcome::Dropped(DropReason::InvalidSaV4))?;
        }
        writer.request(json!({"op": "sa-add", "sa": new.to_json()}));
        for frame in &recorded {
            writer.push_valid(&mut new, &outer, false, 100)?;
            writer.push(frame, Outcome::Dropped(DropReason::AuthFailed))?;
        }
        Ok(())
    },
};

/// Brings SAs with extended sequence numbers to `seq` in jumps of less than half the space of the lower half, as more
/// can't be told. The receiver learns of a jump when a burst is done, so a burst's worth of other packets goes between.
fn jump_to(writer: &mut Writer, sas: &mut [Sa], filler: &mut Sa, seq: u64) -> Result<(), pcap_file::PcapError> {
    let outer = Outer::new(PEER_V4, LOCAL_V4);
    while let Some(next) =
        sas.iter().map(|sa| sa.seq).min().filter(|at| *at < seq).map(|at| (at + 0x7FFF_FFFF).min(seq))
    {
        for sa in sas.iter_mut() {
            sa.seq = next - 1;
            writer.push_valid(sa, &outer, false, 100)?;
        }
        for _ in 0..BURST {
            writer.push_valid(filler, &outer, false, 64)?;
        }
    }
    Ok(())
}

pub(super) const ESN_ROLL_OVER: Scenario = Scenario {
    name: "esn-roll-over",
    about: "extended sequence numbers over the wrap of the lower half, twice: late packets pass, replays and the same low half of another epoch don't",
    write: |writer, packets| {
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        let mut sa = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        sa.esn = true;
        let mut filler = Sa::new(0xC0FF_EE02, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        writer.install(&sa);
        writer.install(&filler);
        let mut sas = [sa];
        for epoch in 1..=2u64 {
            let wrap = epoch << 32;
            jump_to(writer, &mut sas, &mut filler, wrap - 16)?;
            let [sa] = &mut sas;
            for seq in wrap - 14..wrap + 16 {
                // Neighbours change places, over the wrap as well.
                let seq = seq ^ 1;
                let inner = writer.inner(false, 100);
                let frame = outer.esp(&sa.seal_at(seq, IPV4, &inner, 0));
                writer.push(&frame, Outcome::Sent(packet::forwarded(&inner, 0)))?;
                if seq % 4 == 0 {
                    writer.push(&frame, Outcome::Dropped(DropReason::Replay))?;
                }
                // Sealed in the epoch before, with the same low half: the high half that the receiver infers, which the
                // ICV covers, is another one.
                let inner = writer.inner(false, 100);
                let before = outer.esp(&sa.seal_at(seq + 1000 - (1 << 32), IPV4, &inner, 0));
                writer.push(&before, Outcome::Dropped(DropReason::AuthFailed))?;
            }
            sa.seq = wrap + 16;
            for _ in 0..packets / 2 {
                writer.push_valid(sa, &outer, false, 100)?;
            }
        }
        Ok(())
    },
};

pub(super) const EXHAUSTED: Scenario = Scenario {
    name: "seq-exhausted",
    about: "without extended numbers the last one, 0xFFFFFFFF, still passes and ends the SA: a peer that wraps is refused (RFC 4303 3.3.3)",
    write: |writer, packets| {
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        let mut sa = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        let mut filler = Sa::new(0xC0FF_EE02, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        writer.install(&sa);
        writer.install(&filler);
        let count = packets.max(8) as u64;
        sa.seq = u64::from(u32::MAX) - count;
        for _ in 0..count {
            writer.push_valid(&mut sa, &outer, false, 100)?;
        }
        // The receiver learns of the end when a burst is done.
        for _ in 0..BURST {
            writer.push_valid(&mut filler, &outer, false, 64)?;
        }
        for seq in 0..count {
            let inner = writer.inner(false, 100);
            let frame = outer.esp(&sa.seal_at(seq, IPV4, &inner, 0));
            writer.push(&frame, Outcome::Dropped(DropReason::InvalidSaV4))?;
        }
        Ok(())
    },
};
