//! What ESP travels in: Ethernet, VLAN tags, IP, UDP.

use std::net::IpAddr;

use crate::packet;

/// The headers in front of ESP.
#[derive(Clone, Debug)]
pub struct Outer {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// TOS octet or traffic class.
    pub tos: u8,
    /// VLAN ids, the outermost first.
    pub vlans: Vec<u16>,
    /// IPv6 extension headers by number, each 8 octets of padding or nothing to do.
    pub extensions: Vec<u8>,
    /// Source port, if in UDP.
    pub udp: Option<u16>,
}

impl Outer {
    /// Plain headers.
    pub fn new(src: IpAddr, dst: IpAddr) -> Outer {
        Outer { src, dst, tos: 0, vlans: Vec::new(), extensions: Vec::new(), udp: None }
    }

    /// An Ethernet frame with ESP.
    pub fn esp(&self, esp: &[u8]) -> Vec<u8> {
        match self.udp {
            Some(port) => self.udp_4500(port, esp),
            None => self.datagram(50, esp),
        }
    }

    /// An Ethernet frame with something on UDP port 4500. The UDP checksum is zero over IPv4, as RFC 3948 2.1 has it.
    pub fn udp_4500(&self, port: u16, payload: &[u8]) -> Vec<u8> {
        let mut datagram = packet::udp(self.src, self.dst, (port, 4500), payload);
        if self.src.is_ipv4() {
            datagram[6..8].fill(0);
        }
        self.datagram(17, &datagram)
    }

    /// An Ethernet frame with a protocol's payload.
    pub fn datagram(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let ethertype = if self.src.is_ipv4() { 0x0800 } else { 0x86DD };
        self.frame(ethertype, &self.ip(protocol, payload))
    }

    /// The IP packet in it.
    fn ip(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut chained = Vec::new();
        for (i, _) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(i + 1).copied().unwrap_or(protocol);
            // Hop-by-hop and destination options: one PadN of four octets. A routing header of an unknown type with no
            // segments left has the same length.
            chained.extend([next, 0, 1, 0, 0, 0, 0, 0]);
        }
        chained.extend(payload);
        let first = self.extensions.first().copied().unwrap_or(protocol);
        packet::ip(self.src, self.dst, self.tos, 64, first, &chained)
    }

    /// The datagram of [`Outer::datagram`] cut into IP fragments of at most `size` octets of payload each, a multiple of 8.
    pub fn fragments(&self, protocol: u8, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
        let count = payload.len().div_ceil(size);
        payload
            .chunks(size)
            .enumerate()
            .map(|(i, part)| {
                let more = i + 1 < count;
                let offset = (i * size / 8) as u16;
                if self.src.is_ipv4() {
                    let mut packet = packet::ip(self.src, self.dst, self.tos, 64, protocol, part);
                    packet[6..8].copy_from_slice(&(offset | if more { 0x2000 } else { 0 }).to_be_bytes());
                    packet[10..12].fill(0);
                    let sum = packet::checksum(&[&packet[..20]]);
                    packet[10..12].copy_from_slice(&sum.to_be_bytes());
                    self.frame(0x0800, &packet)
                } else {
                    let mut body = vec![protocol, 0];
                    body.extend((offset << 3 | u16::from(more)).to_be_bytes());
                    body.extend([0, 0, 0, 1]);
                    body.extend(part);
                    self.frame(0x86DD, &packet::ip(self.src, self.dst, self.tos, 64, 44, &body))
                }
            })
            .collect()
    }

    /// An Ethernet frame.
    pub fn frame(&self, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1];
        for vlan in &self.vlans {
            frame.extend(0x8100u16.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        // Ethernet pads short frames; receivers must not take the padding for payload.
        frame.resize(frame.len().max(60), 0);
        frame
    }
}
