//! Everything that ESP may travel in.

use nf_core::counters::Consumed;
use nf_core::drop::DropReason;

use crate::outer::Outer;
use crate::packet;
use crate::scenario::{LOCAL_V4, LOCAL_V6, Outcome, PEER_V4, PEER_V6, Scenario};
use crate::seal::{AES_128_GCM, IPV4, IPV6, Sa};

pub(super) const NATT: Scenario = Scenario {
    name: "natt",
    about: "ESP in UDP, tunnel and transport mode, keepalives, IKE, an unknown SPI, and nonsense on port 4500",
    write: |writer, packets| {
        let mut tunnel = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        let mut transport = Sa::new(0xC0FF_EE02, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        (tunnel.udp, transport.udp, transport.tunnel) = (true, true, false);
        writer.install(&tunnel);
        writer.install(&transport);
        let outer = Outer { udp: Some(61_000), ..Outer::new(PEER_V4, LOCAL_V4) };
        for number in 0..packets {
            writer.push_valid(&mut tunnel, &outer, false, 150)?;
            match number % 6 {
                0 => writer.push(&outer.udp_4500(61_000, &[0xFF]), Outcome::Consumed(Consumed::NatKeepalive))?,
                1 => writer.push(&outer.udp_4500(61_000, &[0; 32]), Outcome::Dropped(DropReason::NotForUs))?,
                2 => writer.push(&outer.udp_4500(61_000, &[0xFF; 3]), Outcome::Dropped(DropReason::NatDemux))?,
                3 => writer.push_unknown(&outer, 0xFF00_0001)?,
                4 => {
                    // A UDP datagram of the peer's host itself; its checksum covered other addresses before the NAT.
                    let payload = writer.random.octets(40);
                    let datagram = packet::udp(PEER_V4, LOCAL_V4, (7, 7), &payload);
                    let behind_nat = packet::udp([192, 168, 0, 5].into(), LOCAL_V4, (7, 7), &payload);
                    let esp = transport.seal(17, &behind_nat);
                    let sent = packet::ip(PEER_V4, LOCAL_V4, 0, 64, 17, &datagram);
                    writer.push(&outer.esp(&esp), Outcome::Sent(sent))?;
                }
                _ => {
                    // The NAT has gone: RFC 7296 2.23 has receivers take ESP in either form.
                    writer.push_valid(&mut tunnel, &Outer::new(PEER_V4, LOCAL_V4), false, 90)?;
                }
            }
        }
        Ok(())
    },
};

pub(super) const V6: Scenario = Scenario {
    name: "v6",
    about: "IPv6 outside, inside and both; extension headers; transport mode; an unknown SPI",
    write: |writer, packets| {
        let mut six = Sa::new(0xC0FF_EE06, PEER_V6, LOCAL_V6, AES_128_GCM, &mut writer.random);
        let mut four = Sa::new(0xC0FF_EE04, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        let mut transport = Sa::new(0xC0FF_EE07, PEER_V6, LOCAL_V6, AES_128_GCM, &mut writer.random);
        transport.tunnel = false;
        for sa in [&six, &four, &transport] {
            writer.install(sa);
        }
        let plain = Outer::new(PEER_V6, LOCAL_V6);
        let extended = Outer { extensions: vec![0, 60, 43], ..plain.clone() };
        for number in 0..packets {
            match number % 6 {
                0 => {
                    writer.push_valid(&mut six, &plain, true, 200)?;
                }
                1 => {
                    writer.push_valid(&mut six, &extended, true, 200)?;
                }
                2 => {
                    writer.push_valid(&mut six, &plain, false, 200)?;
                }
                3 => {
                    writer.push_valid(&mut four, &Outer::new(PEER_V4, LOCAL_V4), true, 200)?;
                }
                4 => {
                    let payload = writer.random.octets(30);
                    let datagram = packet::udp(PEER_V6, LOCAL_V6, (7, 7), &payload);
                    let esp = transport.seal(17, &datagram);
                    let sent = packet::ip(PEER_V6, LOCAL_V6, 0, 64, 17, &datagram);
                    writer.push(&plain.esp(&esp), Outcome::Sent(sent))?;
                }
                _ => writer.push_unknown(&extended, 0xB761_863E)?,
            }
        }
        Ok(())
    },
};

pub(super) const FRAGMENTS: Scenario = Scenario {
    name: "fragments",
    about: "outer fragments, in order and not, IPv4 and IPv6; and some whose rest never comes",
    write: |writer, packets| {
        let mut four = Sa::new(0xC0FF_EE04, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        let mut six = Sa::new(0xC0FF_EE06, PEER_V6, LOCAL_V6, AES_128_GCM, &mut writer.random);
        writer.install(&four);
        writer.install(&six);
        for number in 0..packets {
            let v6 = number % 2 == 1;
            let (sa, outer) =
                if v6 { (&mut six, Outer::new(PEER_V6, LOCAL_V6)) } else { (&mut four, Outer::new(PEER_V4, LOCAL_V4)) };
            let inner = writer.inner(false, 1200);
            let esp = sa.seal(IPV4, &inner);
            let mut fragments = outer.fragments(50, &esp, 512);
            if number % 3 == 0 {
                fragments.reverse();
            }
            let last = fragments.len() - 1;
            for (i, fragment) in fragments.iter().enumerate() {
                let outcome = if i == last { Outcome::Sent(packet::forwarded(&inner, 0)) } else { Outcome::Held };
                writer.push(fragment, outcome)?;
            }
        }
        // Alone: given up at the end.
        let alone = Outer::new([10, 9, 9, 9].into(), LOCAL_V4).fragments(50, &[1; 64], 32);
        for fragment in alone.iter().take(1) {
            writer.push(fragment, Outcome::Dropped(DropReason::FragmentTimeout))?;
        }
        Ok(())
    },
};

pub(super) const VLAN: Scenario = Scenario {
    name: "vlan",
    about: "none, one and two VLAN tags; what comes out has none; a third is too many",
    write: |writer, packets| {
        let mut sa = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        writer.install(&sa);
        for number in 0..packets {
            let vlans = (0..number % 4).map(|tag| 100 + tag as u16).collect();
            let outer = Outer { vlans, ..Outer::new(PEER_V4, LOCAL_V4) };
            if number % 4 == 3 {
                writer.push(&outer.esp(&[0; 60]), Outcome::Dropped(DropReason::L2Malformed))?;
            } else {
                writer.push_valid(&mut sa, &outer, false, 100)?;
            }
        }
        Ok(())
    },
};

pub(super) const ECN: Scenario = Scenario {
    name: "ecn",
    about: "every pair of inner and outer congestion marks (RFC 6040 figure 4), IPv4 and IPv6 inside",
    write: |writer, packets| {
        /// Rows by inner mark, columns by outer mark, both as the bits say: Not-ECT, ECT(1), ECT(0), CE.
        const FIGURE_4: [[Option<u8>; 4]; 4] = [
            [Some(0), Some(0), Some(0), None],
            [Some(1), Some(1), Some(1), Some(3)],
            [Some(2), Some(1), Some(2), Some(3)],
            [Some(3), Some(3), Some(3), Some(3)],
        ];
        let mut sa = Sa::new(0xC0FF_EE01, PEER_V4, LOCAL_V4, AES_128_GCM, &mut writer.random);
        writer.install(&sa);
        for number in 0..packets {
            let (inside, outside, v6) = (number % 4, number / 4 % 4, number / 16 % 2 == 1);
            let (src, dst) = if v6 { (PEER_V6, LOCAL_V6) } else { (PEER_V4, LOCAL_V4) };
            let payload = writer.random.octets(20);
            let inner = packet::ip(src, dst, 0xB8 | inside as u8, 64, 17, &packet::udp(src, dst, (1, 2), &payload));
            let outer = Outer { tos: outside as u8, ..Outer::new(PEER_V4, LOCAL_V4) };
            let esp = sa.seal(if v6 { IPV6 } else { IPV4 }, &inner);
            let outcome = match FIGURE_4[inside][outside] {
                Some(mark) => Outcome::Sent(packet::forwarded(&inner, mark)),
                None => Outcome::Dropped(DropReason::EcnNotEct),
            };
            writer.push(&outer.esp(&esp), outcome)?;
        }
        Ok(())
    },
};
