//! A bit of everything: what a head-end sees on a bad day, and what `make run` shows.

use nf_core::counters::Consumed;
use nf_core::drop::DropReason;

use crate::outer::Outer;
use crate::scenario::{LOCAL_V4, LOCAL_V6, Outcome, PEER_V4, PEER_V6, Scenario};
use crate::seal::{AES_128_GCM, DUMMY, IPV4, Sa};

pub(super) const MIXED: Scenario = Scenario {
    name: "mixed",
    about: "valid, replayed, forged and unknown-SPI packets, keepalives and dummies, IPv4, IPv6 and NAT-T",
    write: |writer, packets| {
        let mut four = Sa::new(0xC0FF_EE04, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        let mut six = Sa::new(0xC0FF_EE06, PEER_V6, LOCAL_V6, AES_128_GCM, &mut writer.random);
        let mut natt = Sa::new(0xC0FF_EE17, [10, 2, 2, 2].into(), LOCAL_V4, AES_128_GCM, &mut writer.random);
        natt.udp = true;
        for sa in [&four, &six, &natt] {
            writer.install(sa);
        }
        let (to_four, to_six) = (Outer::new(PEER_V4, LOCAL_V4), Outer::new(PEER_V6, LOCAL_V6));
        let to_natt = Outer { udp: Some(61_000), ..Outer::new([10, 2, 2, 2].into(), LOCAL_V4) };
        for number in 0..packets {
            let len = 60 + writer.random.below(1300);
            let frame = writer.push_valid(&mut four, &to_four, false, len)?;
            writer.push_valid(&mut six, &to_six, number % 2 == 0, len)?;
            writer.push_valid(&mut natt, &to_natt, false, len)?;
            match number % 8 {
                0 => writer.push(&frame, Outcome::Dropped(DropReason::Replay))?,
                1 => {
                    let inner = writer.inner(false, len);
                    let mut esp = four.seal_at(four.seq + 1, IPV4, &inner, 0);
                    if let Some(octet) = esp.last_mut() {
                        *octet ^= 0x80;
                    }
                    writer.push(&to_four.esp(&esp), Outcome::Dropped(DropReason::AuthFailed))?;
                }
                2 => writer.push_unknown(&to_four, 0xB761_863E)?,
                3 => writer.push_unknown(&to_natt, 0x1DB7_3BBB)?,
                4 => writer.push_unknown(&to_six, 0xCAFE_0006)?,
                5 => {
                    let esp = four.seal(DUMMY, &[0; 64]);
                    writer.push(&to_four.esp(&esp), Outcome::Consumed(Consumed::Dummy))?;
                }
                6 => {
                    let keepalive = to_natt.udp_4500(61_000, &[0xFF]);
                    writer.push(&keepalive, Outcome::Consumed(Consumed::NatKeepalive))?;
                }
                _ => {
                    let arp = to_four.frame(0x0806, &[0; 28]);
                    writer.push(&arp, Outcome::Dropped(DropReason::NotForUs))?;
                }
            }
        }
        Ok(())
    },
};
