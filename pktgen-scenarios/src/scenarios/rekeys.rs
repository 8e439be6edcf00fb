//! Faults of rekeys that the field knows: SAs are reserved, installed and deleted while frames are under way.

use std::net::IpAddr;

use nf_core::drop::DropReason;
use pcap_file::PcapError;
use serde_json::{Value, json};

use crate::outer::Outer;
use crate::packet;
use crate::scenario::{LOCAL_V4, LOCAL_V6, Outcome, PEER_V4, PEER_V6, Scenario, Writer};
use crate::seal::{AES_128_GCM, IPV4, Sa};

fn reserve(sa: &Sa) -> Value {
    json!({"op": "sa-reserve", "spi": sa.spi, "dst": sa.dst, "src": sa.src, "lifetime_s": 120})
}

fn release(sa: &Sa) -> Value {
    json!({"op": "sa-release", "spi": sa.spi, "dst": sa.dst, "src": sa.src})
}

fn add(sa: &Sa) -> Value {
    json!({"op": "sa-add", "sa": sa.to_json()})
}

fn delete(sa: &Sa) -> Value {
    json!({"op": "sa-del", "spi": sa.spi, "dst": sa.dst, "src": sa.src})
}

fn new_sa(writer: &mut Writer, spi: u32) -> Sa {
    Sa::new(spi, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random)
}

/// Packets of one of several SAs, chosen at random.
fn mixed(writer: &mut Writer, sas: &mut [&mut Sa], count: usize) -> Result<(), PcapError> {
    for _ in 0..count {
        let pick = writer.random.below(sas.len());
        let outer = Outer { udp: sas[pick].udp.then_some(61_000), ..Outer::new(sas[pick].src, sas[pick].dst) };
        writer.push_valid(sas[pick], &outer, false, 200)?;
    }
    Ok(())
}

pub(super) const LOSSLESS: Scenario = Scenario {
    name: "CSCsl68327",
    about: "packets lost during a rekey: six rekeys under full load, the old SA's tail mixed with the new one's first packets",
    write: |writer, packets| {
        let load = packets * 4;
        let mut old = new_sa(writer, 0xC000_0000);
        writer.install(&old);
        for number in 1..=6 {
            let mut new = new_sa(writer, 0xC000_0000 + number);
            writer.request_under_way(reserve(&new));
            writer.request_under_way(add(&new));
            mixed(writer, &mut [&mut old], load)?;
            writer.answered();
            mixed(writer, &mut [&mut old, &mut new], packets)?;
            writer.request_under_way(delete(&old));
            mixed(writer, &mut [&mut new], load)?;
            writer.answered();
            old = new;
        }
        Ok(())
    },
};

pub(super) const BOTH_ENDS: Scenario = Scenario {
    name: "CSCtr14840",
    about: "drops at phase 2 rekey: both ends rekey at once, the surplus SA goes under load, and what comes late on the old one is transient",
    write: |writer, packets| {
        let load = packets * 4;
        let (mut old, mut ours, mut theirs) =
            (new_sa(writer, 0xC000_0001), new_sa(writer, 0xC000_0002), new_sa(writer, 0xC000_0003));
        for sa in [&mut old, &mut ours, &mut theirs] {
            sa.udp = true;
        }
        writer.install(&old);
        writer.request_under_way(reserve(&ours));
        writer.request_under_way(reserve(&theirs));
        writer.request_under_way(add(&theirs));
        writer.request_under_way(add(&ours));
        mixed(writer, &mut [&mut old], load)?;
        writer.answered();
        // The peer sends on all three, until it knows which will stay.
        mixed(writer, &mut [&mut old, &mut ours, &mut theirs], load)?;
        writer.request_under_way(delete(&theirs));
        mixed(writer, &mut [&mut old, &mut ours], load)?;
        writer.answered();
        writer.request(delete(&old));
        let outer = Outer { udp: Some(61_000), ..Outer::new(PEER_V4, LOCAL_V4) };
        for number in 0..packets {
            mixed(writer, &mut [&mut ours], 1)?;
            if number % 8 == 0 {
                let inner = writer.inner(false, 200);
                let late = outer.esp(&old.seal(IPV4, &inner));
                writer.push(&late, Outcome::Dropped(DropReason::InvalidSaV4))?;
            }
        }
        Ok(())
    },
};

/// Seals a packet that is held until its SA matures.
fn push_early(writer: &mut Writer, sa: &mut Sa, outer: &Outer) -> Result<(), PcapError> {
    let inner = writer.inner(false, 150);
    let frame = outer.esp(&sa.seal(IPV4, &inner));
    writer.push_early(&frame, packet::forwarded(&inner, 0))
}

pub(super) const EARLY: Scenario = Scenario {
    name: "CSCty30063",
    about: "the peer uses the new SPI before the exchange has ended: its packets are held, and come out in order when the SA is there",
    write: |writer, packets| {
        let held = packets.min(100);
        let mut old = new_sa(writer, 0xC000_0001);
        writer.install(&old);
        for (number, udp) in [(2, None), (3, Some(61_000))] {
            let mut new = new_sa(writer, 0xC000_0000 + number);
            new.udp = udp.is_some();
            let outer = Outer { udp, ..Outer::new(PEER_V4, LOCAL_V4) };
            writer.request(reserve(&new));
            for _ in 0..held {
                // The old SA is in use meanwhile, and doesn't wait.
                push_early(writer, &mut new, &outer)?;
                mixed(writer, &mut [&mut old], 1)?;
            }
            writer.request(add(&new));
            writer.release_early()?;
            mixed(writer, &mut [&mut old, &mut new], packets)?;
        }
        // While the SA is being installed: early or not, no packet overtakes another.
        let mut last = new_sa(writer, 0xC000_0004);
        writer.request(reserve(&last));
        writer.request_under_way(add(&last));
        mixed(writer, &mut [&mut last], 400)?;
        writer.answered();
        // One whose exchange comes to nothing.
        let mut given_up = new_sa(writer, 0xC000_0005);
        writer.request(reserve(&given_up));
        for _ in 0..held {
            let inner = writer.inner(false, 150);
            let frame = Outer::new(PEER_V4, LOCAL_V4).esp(&given_up.seal(IPV4, &inner));
            writer.push(&frame, Outcome::Dropped(DropReason::LarvalTimeout))?;
        }
        writer.request(release(&given_up));
        mixed(writer, &mut [&mut last], packets)
    },
};

pub(super) const EARLY_SURVIVES: Scenario = Scenario {
    name: "CSCvn31824",
    about: "the new SPI deleted when its first packet comes before the installation: the SA lives, in whatever order it all comes",
    write: |writer, packets| {
        let (src, dst): (IpAddr, IpAddr) = (PEER_V6, LOCAL_V6);
        let outer = Outer::new(src, dst);
        for round in 0..4u32 {
            let mut sa = Sa::new(0xFF00_0100 + round, src, dst, AES_128_GCM, &mut writer.random);
            // Before it is reserved: nobody knows it.
            if round & 1 != 0 {
                writer.push_unknown(&outer, sa.spi)?;
            }
            writer.request(reserve(&sa));
            // Reserved in vain first, and given back with packets held.
            if round & 2 != 0 {
                let inner = writer.inner(false, 150);
                let frame = outer.esp(&sa.seal(IPV4, &inner));
                writer.push(&frame, Outcome::Dropped(DropReason::LarvalTimeout))?;
                writer.request(release(&sa));
                writer.request(reserve(&sa));
            }
            for _ in 0..packets.min(20) {
                push_early(writer, &mut sa, &outer)?;
            }
            writer.request(add(&sa));
            writer.release_early()?;
            for _ in 0..packets / 4 {
                writer.push_valid(&mut sa, &outer, false, 150)?;
            }
        }
        Ok(())
    },
};
