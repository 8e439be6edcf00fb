//! Which packets a binding is for.

use std::fmt;
use std::ops::RangeInclusive;

use crate::batch::Batch;
use crate::lanes::Lanes;
use crate::packet::PacketSelectors;
use crate::prefix::Prefix;
use crate::types::Spi;

/// Conditions on a packet, all of which must hold. Before decapsulation they are held against the outer headers, after
/// it against the inner ones and the SPI that the packet came in on. A condition that isn't set holds always; one on
/// something that the packet lacks (the port of a fragment, the address of an ARP frame) never does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// Source address.
    pub src: Option<Prefix>,
    /// Destination address.
    pub dst: Option<Prefix>,
    /// Upper-layer protocol number.
    pub protocol: Option<u8>,
    /// Source port.
    pub src_port: Option<RangeInclusive<u16>>,
    /// Destination port.
    pub dst_port: Option<RangeInclusive<u16>>,
    /// SPI.
    pub spi: Option<RangeInclusive<Spi>>,
}

impl Filter {
    /// Whether no condition is set.
    pub fn is_any(&self) -> bool {
        *self == Filter::default()
    }

    /// Whether all conditions hold.
    pub fn matches(&self, packet: &PacketSelectors) -> bool {
        self.src.is_none_or(|src| src.contains(packet.src))
            && self.dst.is_none_or(|dst| dst.contains(packet.dst))
            && self.protocol.is_none_or(|protocol| protocol == packet.protocol)
            && holds(&self.src_port, packet.ports.map(|(src, _)| src))
            && holds(&self.dst_port, packet.ports.map(|(_, dst)| dst))
            && holds(&self.spi, packet.spi)
    }

    /// The lanes whose packets match.
    #[inline]
    pub fn select(&self, batch: &Batch<'_>, lanes: Lanes) -> Lanes {
        if self.is_any() {
            return lanes;
        }
        lanes.filter(|lane| batch.packet(*lane).selectors().is_some_and(|packet| self.matches(&packet))).collect()
    }
}

/// The conditions as they are written, such as `src=10.0.0.0/8 spi=256-511`; `any` if there is none.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn range<T: fmt::Display + PartialEq>(name: &str, range: &RangeInclusive<T>) -> String {
            if range.start() == range.end() {
                format!("{name}={}", range.start())
            } else {
                format!("{name}={}-{}", range.start(), range.end())
            }
        }
        let conditions: Vec<String> = [
            self.src.map(|src| format!("src={src}")),
            self.dst.map(|dst| format!("dst={dst}")),
            self.protocol.map(|protocol| format!("protocol={protocol}")),
            self.src_port.as_ref().map(|ports| range("src_port", ports)),
            self.dst_port.as_ref().map(|ports| range("dst_port", ports)),
            self.spi.as_ref().map(|spis| range("spi", &(spis.start().0..=spis.end().0))),
        ]
        .into_iter()
        .flatten()
        .collect();
        f.write_str(if conditions.is_empty() { "any".to_owned() } else { conditions.join(" ") }.as_str())
    }
}

fn holds<T: PartialOrd>(condition: &Option<RangeInclusive<T>>, value: Option<T>) -> bool {
    condition.as_ref().is_none_or(|range| value.is_some_and(|value| range.contains(&value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: PacketSelectors = PacketSelectors {
        src: std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 1, 1)),
        dst: std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 10, 1, 2)),
        protocol: 50,
        ports: None,
        spi: Some(Spi(0x1234)),
    };

    #[test]
    fn an_empty_filter_takes_everything() {
        assert!(Filter::default().is_any());
        assert!(Filter::default().matches(&PACKET));
    }

    #[test]
    fn each_condition_counts() {
        let net = |text: &str| Some(text.parse::<Prefix>().unwrap());
        assert!(Filter { src: net("10.1.0.0/16"), dst: net("10.10.1.2"), ..Filter::default() }.matches(&PACKET));
        assert!(!Filter { src: net("10.2.0.0/16"), ..Filter::default() }.matches(&PACKET));
        assert!(!Filter { dst: net("::/0"), ..Filter::default() }.matches(&PACKET));
        assert!(
            Filter { protocol: Some(50), spi: Some(Spi(0x1000)..=Spi(0x1FFF)), ..Filter::default() }.matches(&PACKET)
        );
        assert!(!Filter { protocol: Some(17), ..Filter::default() }.matches(&PACKET));
        assert!(!Filter { spi: Some(Spi(0x1235)..=Spi(u32::MAX)), ..Filter::default() }.matches(&PACKET));
    }

    #[test]
    fn a_condition_on_what_is_missing_fails() {
        assert!(!Filter { dst_port: Some(0..=u16::MAX), ..Filter::default() }.matches(&PACKET));
    }
}
