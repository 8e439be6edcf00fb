//! The capture of a case, and the configurations of both programs for it.

use std::fmt::Write;
use std::fs::File;
use std::io::BufWriter;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::{PcapPacket, PcapWriter};

use super::{BenchError, Case};
use crate::outer::Outer;
use crate::packet;
use crate::random::Random;
use crate::scenario::{LOCAL_V4, PEER_V4};
use crate::seal::{AES_128_GCM, IPV4, Sa};

/// The first SPI.
const FIRST_SPI: u32 = 0x1000;
/// The least frames of a capture, four bursts: so no burst is made of one frame over and over, and those of the largest size
/// fit a CPU's second cache. What doesn't would be the driver's time, which is the same for either program.
const FRAMES: usize = 256;
/// Unknown SPIs to one good packet in a flood.
const FLOOD: usize = 10;

/// What the packets are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mix {
    /// All are good.
    Good,
    /// All are on SPIs that no SA has.
    Unknown,
    /// Ten of eleven are.
    Flood,
}

impl Mix {
    pub(super) fn name(self) -> &'static str {
        match self {
            Mix::Good => "good",
            Mix::Unknown => "unknown",
            Mix::Flood => "flood",
        }
    }
}

/// The files of a case.
pub(super) struct Traffic {
    pub(super) capture: PathBuf,
    /// nf.toml's SAs, room for just these, and addresses.
    pub(super) sas_toml: String,
    /// ipsec-secgw's configuration, with `{type}` where an SA's mode goes.
    pub(super) secgw: String,
}

impl Traffic {
    /// Writes the capture.
    pub(super) fn write(dir: &Path, case: &Case) -> Result<Traffic, BenchError> {
        let capture = dir.join("frames.pcap");
        let file = File::create(&capture).map_err(|error| BenchError::Io { path: capture.clone(), error })?;
        let mut writer = PcapWriter::new(BufWriter::new(file))?;
        let mut random = Random::new(7);
        let mut sas: Vec<Sa> = (0..case.sas as u32)
            .map(|number| {
                let mut sa = Sa::new(FIRST_SPI + number, PEER_V4, LOCAL_V4, AES_128_GCM, &mut random);
                sa.replay_window = 0;
                sa.selectors = (Vec::new(), vec![format!("{}/32", inner_dst(number))]);
                sa
            })
            .collect();
        let outer = Outer::new(PEER_V4, LOCAL_V4);
        let mut lens = case.octets.iter().cycle();
        let mut unknown = 0x8000_0000_u32;
        let (good, bad) = match case.mix {
            Mix::Good => (1, 0),
            Mix::Unknown => (0, 1),
            Mix::Flood => (1, FLOOD),
        };
        // Whole turns over all SAs.
        for _ in 0..FRAMES.div_ceil(case.sas * (good + bad)) {
            for (number, sa) in sas.iter_mut().enumerate() {
                let len = lens.next().copied().unwrap_or(64);
                let inner = inner(inner_dst(number as u32), len);
                let esp = sa.seal(IPV4, &inner);
                for _ in 0..bad {
                    unknown = unknown.wrapping_add(0x0101) | 0x8000_0000;
                    let esp = [&unknown.to_be_bytes(), esp.get(4..).unwrap_or_default()].concat();
                    push(&mut writer, &outer.esp(&esp))?;
                }
                for _ in 0..good {
                    push(&mut writer, &outer.esp(&esp))?;
                }
            }
        }
        Ok(Traffic { capture, sas_toml: to_toml(&sas), secgw: to_secgw(&sas) })
    }
}

fn push(writer: &mut PcapWriter<BufWriter<File>>, frame: &[u8]) -> Result<(), BenchError> {
    writer.write_packet(&PcapPacket::new(Duration::ZERO, frame.len() as u32, frame))?;
    Ok(())
}

/// Each SA has a destination of its own behind it, since ipsec-secgw has a policy for each.
fn inner_dst(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 0).to_bits() + number)
}

fn inner(dst: Ipv4Addr, len: usize) -> Vec<u8> {
    let (src, dst) = (IpAddr::from([192, 168, 1, 7]), IpAddr::V4(dst));
    packet::ip(src, dst, 0, 64, 17, &packet::udp(src, dst, (5000, 6000), &vec![0xA5; len.saturating_sub(28)]))
}

fn to_toml(sas: &[Sa]) -> String {
    let room = sas.len();
    let sas: Vec<String> = sas.iter().map(Sa::to_toml).collect();
    format!("[sad]\ncapacity = {room}\n\n[[local]]\naddress = \"{LOCAL_V4}\"\n\n{}", sas.join("\n"))
}

fn to_secgw(sas: &[Sa]) -> String {
    let mut text = String::new();
    for sa in sas {
        let dst = sa.selectors.1.first().map(String::as_str).unwrap_or_default();
        let _ = writeln!(text, "sp ipv4 in esp protect {} pri 1 dst {dst} sport 0:65535 dport 0:65535", sa.spi);
    }
    for sa in sas {
        let key: Vec<String> = sa.key().iter().map(|octet| format!("{octet:02x}")).collect();
        let _ = writeln!(
            text,
            "sa in {} aead_algo aes-128-gcm aead_key {} mode ipv4-tunnel src {} dst {} {{type}}",
            sa.spi,
            key.join(":"),
            sa.src,
            sa.dst
        );
    }
    text + "rt ipv4 dst 172.16.0.0/12 port 1\nneigh port 1 02:00:00:00:00:08\n"
}
