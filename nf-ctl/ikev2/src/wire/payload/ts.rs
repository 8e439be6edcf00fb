//! Traffic selectors: TSi and TSr payloads (RFC 7296 3.13).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::error::{EmitError, ParseError, Place, Problem};
use crate::wire::octets::{Reader, Writer, octet};
use crate::wire::registry::{PayloadType, TsType};

/// The traffic selectors of one side. The first may be the packet that made the initiator ask (RFC 7296 2.9). At most 255.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ts(pub Vec<TrafficSelector>);

/// A part of the traffic.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum TrafficSelector {
    /// Of IPv4 or IPv6.
    Ip(IpSelector),
    /// Of a kind that isn't known here; matches nothing.
    Other {
        /// Which kind.
        kind: TsType,
        /// The octet that holds the protocol in the known ones.
        reserved: u8,
        /// Its content.
        data: Box<[u8]>,
    },
}

/// A range of addresses with a range of ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IpSelector {
    /// The addresses.
    pub addresses: AddressRange,
    /// The IP protocol; 0 for any.
    pub protocol: u8,
    /// The first port. For ICMP the type in the high, the code in the low octet.
    pub start_port: u16,
    /// The last port. 65535 and 0 as first and last mean OPAQUE: packets whose port can't be seen.
    pub end_port: u16,
}

/// Addresses of one family, from the first to the last.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AddressRange {
    /// Of IPv4.
    V4(Ipv4Addr, Ipv4Addr),
    /// Of IPv6.
    V6(Ipv6Addr, Ipv6Addr),
}

impl AddressRange {
    /// One address.
    pub fn single(address: IpAddr) -> AddressRange {
        match address {
            IpAddr::V4(address) => AddressRange::V4(address, address),
            IpAddr::V6(address) => AddressRange::V6(address, address),
        }
    }

    /// The addresses whose first `bits` bits are the same; None if the family has fewer.
    pub fn prefix(address: IpAddr, bits: u8) -> Option<AddressRange> {
        match address {
            IpAddr::V4(address) => {
                let host_bits = 32_u32.checked_sub(bits.into())?;
                let host = !u32::MAX.checked_shl(host_bits).unwrap_or(0);
                let start = address.to_bits() & !host;
                Some(AddressRange::V4(Ipv4Addr::from_bits(start), Ipv4Addr::from_bits(start | host)))
            }
            IpAddr::V6(address) => {
                let host_bits = 128_u32.checked_sub(bits.into())?;
                let host = !u128::MAX.checked_shl(host_bits).unwrap_or(0);
                let start = address.to_bits() & !host;
                Some(AddressRange::V6(Ipv6Addr::from_bits(start), Ipv6Addr::from_bits(start | host)))
            }
        }
    }

    /// The first address.
    pub fn start(&self) -> IpAddr {
        match *self {
            AddressRange::V4(start, _) => start.into(),
            AddressRange::V6(start, _) => start.into(),
        }
    }

    /// The last address.
    pub fn end(&self) -> IpAddr {
        match *self {
            AddressRange::V4(_, end) => end.into(),
            AddressRange::V6(_, end) => end.into(),
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.start(), self.end());
        if start == end { write!(f, "{start}") } else { write!(f, "{start}-{end}") }
    }
}

impl IpSelector {
    /// All traffic of a range of addresses.
    pub fn any(addresses: AddressRange) -> IpSelector {
        IpSelector { addresses, protocol: 0, start_port: 0, end_port: u16::MAX }
    }
}

impl fmt::Display for IpSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.addresses)?;
        if (self.protocol, self.start_port, self.end_port) != (0, 0, u16::MAX) {
            write!(f, "[{}/{}-{}]", self.protocol, self.start_port, self.end_port)?;
        }
        Ok(())
    }
}

impl Ts {
    /// The selectors of IPv4 and IPv6.
    pub fn ip(&self) -> impl Iterator<Item = &IpSelector> {
        self.0.iter().filter_map(|selector| match selector {
            TrafficSelector::Ip(selector) => Some(selector),
            TrafficSelector::Other { .. } => None,
        })
    }

    pub(super) fn parse(body: &[u8], payload: PayloadType) -> Result<Ts, ParseError> {
        let place = Place::Payload(payload);
        let mut reader = Reader::new(body, place);
        let count = reader.u8()?;
        let _reserved: [u8; 3] = reader.array()?;
        let mut selectors = Vec::new();
        for _ in 0..count {
            let (kind, protocol, length) = (TsType(reader.u8()?), reader.u8()?, reader.u16()?);
            let mut inner = Reader::new(reader.body(length, 4)?, place);
            selectors.push(match kind {
                TsType::IPV4_ADDR_RANGE | TsType::IPV6_ADDR_RANGE => {
                    let (start_port, end_port) = (inner.u16()?, inner.u16()?);
                    let addresses = address_range(&mut inner, kind)?;
                    inner.finish()?;
                    TrafficSelector::Ip(IpSelector { addresses, protocol, start_port, end_port })
                }
                _ => TrafficSelector::Other { kind, reserved: protocol, data: inner.rest().into() },
            });
        }
        reader.finish()?;
        if selectors.is_empty() {
            return Err(reader.error(Problem::Value { field: "Number of TSs", value: 0, expected: "1 or more" }));
        }
        Ok(Ts(selectors))
    }

    pub(super) fn emit(&self, to: &mut Writer) -> Result<(), EmitError> {
        to.u8(octet(self.0.len(), "traffic selectors")?);
        to.bytes(&[0; 3]);
        for selector in &self.0 {
            match selector {
                TrafficSelector::Ip(selector) => selector.emit(to)?,
                TrafficSelector::Other { kind, reserved, data } => {
                    to.u8(kind.0);
                    to.u8(*reserved);
                    let length = to.length(2);
                    to.bytes(data);
                    to.end(length, "octets in a traffic selector")?;
                }
            }
        }
        Ok(())
    }
}

impl IpSelector {
    fn emit(&self, to: &mut Writer) -> Result<(), EmitError> {
        let kind = match self.addresses {
            AddressRange::V4(..) => TsType::IPV4_ADDR_RANGE,
            AddressRange::V6(..) => TsType::IPV6_ADDR_RANGE,
        };
        to.u8(kind.0);
        to.u8(self.protocol);
        let length = to.length(2);
        to.u16(self.start_port);
        to.u16(self.end_port);
        match self.addresses {
            AddressRange::V4(start, end) => [start, end].iter().for_each(|address| to.bytes(&address.octets())),
            AddressRange::V6(start, end) => [start, end].iter().for_each(|address| to.bytes(&address.octets())),
        }
        to.end(length, "octets in a traffic selector")
    }
}

fn address_range(reader: &mut Reader<'_>, kind: TsType) -> Result<AddressRange, ParseError> {
    let range = match kind {
        TsType::IPV4_ADDR_RANGE => AddressRange::V4(reader.array::<4>()?.into(), reader.array::<4>()?.into()),
        _ => AddressRange::V6(reader.array::<16>()?.into(), reader.array::<16>()?.into()),
    };
    if range.start() > range.end() {
        return Err(reader.error(Problem::Inverted { start: range.start(), end: range.end() }));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(address: &str, bits: u8) -> Option<String> {
        AddressRange::prefix(address.parse().unwrap(), bits).map(|range| range.to_string())
    }

    #[test]
    fn prefixes_are_ranges() {
        assert_eq!(prefix("10.1.2.3", 0).as_deref(), Some("0.0.0.0-255.255.255.255"));
        assert_eq!(prefix("10.1.2.3", 23).as_deref(), Some("10.1.2.0-10.1.3.255"));
        assert_eq!(prefix("10.1.2.3", 32).as_deref(), Some("10.1.2.3"));
        assert_eq!(prefix("10.1.2.3", 33), None);
        let all = "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert_eq!(prefix("2001:db8::1", 0).as_deref(), Some(all));
        assert_eq!(prefix("2001:db8::1", 127).as_deref(), Some("2001:db8::-2001:db8::1"));
        assert_eq!(prefix("2001:db8::1", 128).as_deref(), Some("2001:db8::1"));
        assert_eq!(prefix("2001:db8::1", 129), None);
    }
}
