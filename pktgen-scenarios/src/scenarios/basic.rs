//! One thing at a time: valid packets, unknown SPIs, replays, forgeries, a rekey.

use nf_core::drop::DropReason;

use crate::outer::Outer;
use crate::scenario::{LOCAL_V4, LOCAL_V6, Outcome, PEER_V4, PEER_V6, Scenario};
use crate::seal::{AES_128_GCM, IPV4, Sa};

pub(super) const VALID: Scenario = Scenario {
    name: "valid",
    about: "one SA, AES-128-GCM, packets of all lengths",
    write: |writer, packets| {
        let mut sa = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        writer.install(&sa);
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        for _ in 0..packets {
            let len = 28 + writer.random.below(1400);
            writer.push_valid(&mut sa, &outer, false, len)?;
        }
        Ok(())
    },
};

pub(super) const UNKNOWN_SPI: Scenario = Scenario {
    name: "unknown-spi",
    about: "a peer that went on with an SA we have lost, beside one that is fine",
    write: |writer, packets| {
        let mut sa = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        writer.install(&sa);
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        for number in 0..packets {
            match number % 4 {
                0 => writer.push_unknown(&outer, 0xB761_863E)?,
                1 => writer.push_unknown(&Outer::new(PEER_V6, LOCAL_V6), 0x1DB7_3BBB)?,
                _ => {
                    writer.push_valid(&mut sa, &outer, false, 200)?;
                }
            }
        }
        // ESP that only passes through is no SPI of ours.
        let transit = Outer::new(PEER_V4, [198, 51, 100, 1].into());
        writer.push(&transit.esp(&[0xAB; 60]), Outcome::Dropped(DropReason::TransitUnknownSpiV4))
    },
};

pub(super) const REPLAY: Scenario = Scenario {
    name: "replay",
    about: "packets that come again, at once and much later, and some that are only late",
    write: |writer, packets| {
        let mut sa = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        writer.install(&sa);
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        let mut first = None;
        for number in 0..packets {
            // Two change places, which the window forgives.
            let (a, b) = (writer.inner(false, 100), writer.inner(false, 120));
            let (one, two) = (sa.seal(IPV4, &a), sa.seal(IPV4, &b));
            writer.push(&outer.esp(&two), Outcome::Sent(crate::packet::forwarded(&b, 0)))?;
            writer.push(&outer.esp(&one), Outcome::Sent(crate::packet::forwarded(&a, 0)))?;
            if number % 5 == 0 {
                writer.push(&outer.esp(&two), Outcome::Dropped(DropReason::Replay))?;
            }
            let first = first.get_or_insert(one);
            if number % 50 == 49 {
                writer.push(&outer.esp(first), Outcome::Dropped(DropReason::Replay))?;
            }
        }
        Ok(())
    },
};

pub(super) const BAD_ICV: Scenario = Scenario {
    name: "bad-icv",
    about: "forged packets with numbers far ahead, which must not move the window",
    write: |writer, packets| {
        let mut sa = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        writer.install(&sa);
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        for number in 0..packets {
            writer.push_valid(&mut sa, &outer, false, 300)?;
            if number % 3 == 0 {
                let inner = writer.inner(false, 300);
                let mut esp = sa.seal_at(sa.seq + 100_000, IPV4, &inner, 0);
                let at = 8 + writer.random.below(esp.len() - 8);
                esp[at] ^= 1;
                writer.push(&outer.esp(&esp), Outcome::Dropped(DropReason::AuthFailed))?;
            }
        }
        Ok(())
    },
};

pub(super) const REKEY: Scenario = Scenario {
    name: "rekey",
    about: "from an old SPI over both to a new one: nothing is lost, the order stays",
    write: |writer, packets| {
        let mut old = Sa::new(0xC000_0001, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        let mut new = Sa::new(0xC000_0002, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        writer.install(&old);
        writer.install(&new);
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        for number in 0..packets {
            let third = number * 3 / packets.max(1);
            let sa = if third == 0 || (third == 1 && number % 2 == 0) { &mut old } else { &mut new };
            writer.push_valid(sa, &outer, false, 200)?;
        }
        Ok(())
    },
};
