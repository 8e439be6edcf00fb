//! From a CHILD_SA that IKE has negotiated to the two SAs that nf-core installs.

use std::net::IpAddr;

use ikev2::ChildUp;
use ikev2::config::Mode;
use ikev2::crypto::esp::{EspCipher, EspKeys, EspSuite, GcmIcv};
use ikev2::crypto::integrity::Integrity;
use ikev2::crypto::secret::Secret as Key;
use ikev2::wire::{AddressRange, IpSelector};
use nf_core::policy::Upper;
use nf_core::sa::lifetime::{Lifetime, Limits};
use nf_core::sa::spec::{Direction, SaSpec, Secret, SelectorSpec};
use nf_core::types::Spi;

/// Packets of the anti-replay window: several cores, and a network that reorders, take packets out of order.
const REPLAY_WINDOW: u32 = 1024;

/// How much longer than IKE nf-core keeps an SA.
const GRACE_S: u64 = 60;

/// The inbound SA of a CHILD_SA that IKE ends after `seconds`. nf-core ends it by itself some time later: an agent that died
/// leaves no SA for ever.
///
/// # Errors
/// Where nf-core can't check what may be inside.
pub fn inbound(child: &ChildUp, peer: &str, seconds: u64) -> Result<SaSpec, String> {
    Ok(SaSpec {
        spi: child.inbound_spi.0.to_string(),
        direction: Direction::In.to_string(),
        src: child.remote.ip().to_string(),
        dst: child.local.ip().to_string(),
        selectors: SelectorSpec { src: selectors(&child.remote_ts)?, dst: selectors(&child.local_ts)? },
        ..common(child, &child.keys.inbound, peer, seconds)
    })
}

/// The outbound SA of a CHILD_SA that IKE ends after `seconds`; nf-core ends it some time later as well.
///
/// # Errors
/// As [`inbound`].
pub fn outbound(child: &ChildUp, peer: &str, seconds: u64) -> Result<SaSpec, String> {
    Ok(SaSpec {
        spi: child.outbound_spi.0.to_string(),
        direction: Direction::Out.to_string(),
        src: child.local.ip().to_string(),
        dst: child.remote.ip().to_string(),
        peer_port: child.udp_encap.then(|| child.remote.port()),
        follows: (child.udp_encap && child.peer_may_move && child.mode == Mode::Tunnel)
            .then(|| child.inbound_spi.0.to_string()),
        selectors: SelectorSpec { src: selectors(&child.local_ts)?, dst: selectors(&child.remote_ts)? },
        ..common(child, &child.keys.outbound, peer, seconds)
    })
}

/// What both SAs have: addresses, SPI and selectors are left open.
fn common(child: &ChildUp, keys: &EspKeys, peer: &str, seconds: u64) -> SaSpec {
    let (alg, auth) = algorithms(&child.suite);
    SaSpec {
        spi: String::new(),
        direction: String::new(),
        src: String::new(),
        dst: String::new(),
        mode: mode(child.mode).to_owned(),
        alg: alg.to_owned(),
        key: secret(&keys.encryption),
        key_file: None,
        auth: auth.map(str::to_owned),
        auth_key: auth.and_then(|_| secret(&keys.integrity)),
        esn: child.suite.esn,
        replay_window: REPLAY_WINDOW,
        encap: if child.udp_encap { "udp" } else { "none" }.to_owned(),
        peer_port: None,
        follows: None,
        df: None,
        path_mtu: None,
        selectors: SelectorSpec::default(),
        peer: Some(peer.to_owned()),
        lifetime: Lifetime {
            soft: Limits::default(),
            hard: Limits { seconds: Some(seconds.saturating_add(GRACE_S)), ..Limits::default() },
        },
    }
}

/// As nf.toml has it.
pub fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Tunnel => "tunnel",
        Mode::Transport => "transport",
    }
}

/// nf-core's type of an SPI.
pub fn spi(spi: ikev2::wire::ChildSpi) -> Spi {
    Spi(spi.0)
}

fn secret(key: &Key) -> Option<Secret> {
    (!key.is_empty()).then(|| Secret::new(hex::encode(key.expose())))
}

fn algorithms(suite: &EspSuite) -> (&'static str, Option<&'static str>) {
    let alg = match suite.cipher {
        EspCipher::AesGcm(_, GcmIcv::Octets8) => "aes-gcm-8",
        EspCipher::AesGcm(_, GcmIcv::Octets12) => "aes-gcm-12",
        EspCipher::AesGcm(_, GcmIcv::Octets16) => "aes-gcm-16",
        EspCipher::AesCbc(_) => "aes-cbc",
        EspCipher::ChaCha20Poly1305 => "chacha20-poly1305",
        EspCipher::Null => "null",
    };
    let auth = suite.integrity.map(|integrity| match integrity {
        Integrity::HmacSha1_96 => "hmac-sha1-96",
        Integrity::HmacSha256_128 => "hmac-sha256-128",
        Integrity::HmacSha384_192 => "hmac-sha384-192",
        Integrity::HmacSha512_256 => "hmac-sha512-256",
    });
    (alg, auth)
}

/// IKE's selectors as nf-core writes them: each range of addresses as the fewest networks that make it up, with protocol and
/// ports behind each.
///
/// # Errors
/// One that no packet can be held against: ports of no protocol, or only what shows no port.
pub fn selectors(given: &[IpSelector]) -> Result<Vec<String>, String> {
    let mut list = Vec::new();
    for selector in given {
        let upper = Upper::new(selector.protocol, selector.start_port..=selector.end_port).ok_or_else(|| {
            let IpSelector { protocol, start_port, end_port, .. } = selector;
            format!(
                "nf-core can't check a traffic selector with ports {start_port} to {end_port} of protocol {protocol}"
            )
        })?;
        for network in split(selector.addresses) {
            let text = format!("{network}{upper}");
            if !list.contains(&text) {
                list.push(text);
            }
        }
    }
    Ok(list)
}

fn split(range: AddressRange) -> Vec<String> {
    let (first, last, width) = match range {
        AddressRange::V4(first, last) => (u128::from(first.to_bits()), u128::from(last.to_bits()), 32),
        AddressRange::V6(first, last) => (first.to_bits(), last.to_bits(), 128),
    };
    let address = |bits: u128| match range {
        AddressRange::V4(..) => IpAddr::from((bits as u32).to_be_bytes()),
        AddressRange::V6(..) => IpAddr::from(bits.to_be_bytes()),
    };
    let mut networks = Vec::new();
    let mut next = first;
    while next <= last {
        // The largest network that begins here and ends within the range.
        let mut host_bits: u32 = next.trailing_zeros().min(width);
        let end = loop {
            let host = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
            if next | host <= last {
                break next | host;
            }
            host_bits -= 1;
        };
        networks.push(format!("{}/{}", address(next), width - host_bits));
        match end.checked_add(1) {
            Some(following) if end < last => next = following,
            _ => break,
        }
    }
    networks
}

#[cfg(test)]
mod tests {
    use nf_core::prefix::Prefix;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_become_networks() {
        let v4 = |first: &str, last: &str| split(AddressRange::V4(first.parse().unwrap(), last.parse().unwrap()));
        assert_eq!(v4("10.1.0.0", "10.1.255.255"), ["10.1.0.0/16"]);
        assert_eq!(v4("0.0.0.0", "255.255.255.255"), ["0.0.0.0/0"]);
        assert_eq!(v4("10.0.0.1", "10.0.0.1"), ["10.0.0.1/32"]);
        assert_eq!(v4("10.0.0.1", "10.0.0.6"), ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/31", "10.0.0.6/32"]);
        assert_eq!(v4("255.255.255.254", "255.255.255.255"), ["255.255.255.254/31"]);
        let all = AddressRange::V6(0.into(), u128::MAX.into());
        assert_eq!(split(all), ["::/0"]);
        assert_eq!(split(AddressRange::V6(1.into(), 2.into())), ["::1/128", "::2/128"]);
    }

    #[test]
    fn protocols_and_ports_stand_behind_the_network() {
        let addresses = AddressRange::V4([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let of = |protocol, start_port, end_port| IpSelector { addresses, protocol, start_port, end_port };
        assert_eq!(
            selectors(&[of(6, 443, 443), of(17, 0, 65_535)]).unwrap(),
            ["10.0.0.1/32[tcp/443]", "10.0.0.2/32[tcp/443]", "10.0.0.1/32[udp]", "10.0.0.2/32[udp]"]
        );
        // Ports of any protocol; OPAQUE, which stands for what shows none.
        for unknown in [of(0, 53, 53), of(6, 65_535, 0), of(47, 1, 1)] {
            assert!(selectors(&[unknown]).unwrap_err().contains("can't check"));
        }
    }

    proptest! {
        #[test]
        fn networks_cover_the_range_and_no_more(first: u32, length in 0u32..100_000, probe: u32) {
            let last = first.saturating_add(length);
            let networks: Vec<Prefix> =
                split(AddressRange::V4(first.into(), last.into())).iter().map(|text| text.parse().unwrap()).collect();
            prop_assert!(networks.len() <= 64);
            for address in [first, last, first.wrapping_sub(1), last.wrapping_add(1), probe, first / 2 + last / 2] {
                let covered = networks.iter().any(|network| network.contains(IpAddr::from(address.to_be_bytes())));
                prop_assert_eq!(covered, (first..=last).contains(&address));
            }
        }
    }
}
