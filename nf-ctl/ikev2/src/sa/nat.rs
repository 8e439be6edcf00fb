//! NAT detection (RFC 7296 2.23).

use std::net::{IpAddr, SocketAddr};

use rand_core::CryptoRng;
use sha1::{Digest, Sha1};

use crate::wire::{IkeSpi, Notify, NotifyType, Payload, Payloads};

/// On whose side a NAT was found, or is pretended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Nat {
    pub local: bool,
    pub remote: bool,
}

impl Nat {
    /// Whether ESP has to go in UDP.
    pub fn any(self) -> bool {
        self.local || self.remote
    }
}

fn hash(spis: (IkeSpi, IkeSpi), address: SocketAddr) -> Vec<u8> {
    let mut sha1 = Sha1::new();
    sha1.update(spis.0.0);
    sha1.update(spis.1.0);
    match address.ip() {
        IpAddr::V4(ip) => sha1.update(ip.octets()),
        IpAddr::V6(ip) => sha1.update(ip.octets()),
    }
    sha1.update(address.port().to_be_bytes());
    sha1.finalize().to_vec()
}

/// The two notifies of a message. With `force`, the source is one that nobody has: the peer finds a NAT.
pub(crate) fn notifies(
    spis: (IkeSpi, IkeSpi),
    local: SocketAddr,
    remote: SocketAddr,
    force: bool,
    rng: &mut dyn CryptoRng,
) -> [Payload<'static>; 2] {
    let mut source = hash(spis, local);
    if force {
        rng.fill_bytes(&mut source);
    }
    [
        Payload::Notify(Notify::with_data(NotifyType::NAT_DETECTION_SOURCE_IP, source)),
        Payload::Notify(Notify::with_data(NotifyType::NAT_DETECTION_DESTINATION_IP, hash(spis, remote))),
    ]
}

/// What a peer's notifies tell. Without any, the peer doesn't know of NATs, and none is assumed.
pub(crate) fn detect(payloads: &Payloads<'_>, spis: (IkeSpi, IkeSpi), local: SocketAddr, remote: SocketAddr) -> Nat {
    let differs = |kind, address| {
        let hash = hash(spis, address);
        let mut there = payloads.notifies(kind).peekable();
        there.peek().is_some() && !there.any(|notify| *notify.data == *hash)
    };
    Nat {
        local: differs(NotifyType::NAT_DETECTION_DESTINATION_IP, local),
        remote: differs(NotifyType::NAT_DETECTION_SOURCE_IP, remote),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    #[test]
    fn nats_are_found_on_either_side() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let spis = (IkeSpi([1; 8]), IkeSpi([2; 8]));
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a, b, nat) = (address("10.0.0.1:500"), address("[2001:db8::2]:500"), address("192.0.2.1:1024"));
        let sent = |force: bool, rng: &mut ChaCha20Rng| Payloads::from(notifies(spis, a, b, force, rng).to_vec());
        let plain = sent(false, &mut rng);
        // `a` sent, so for the receiver `b` is local.
        assert_eq!(detect(&plain, spis, b, a), Nat { local: false, remote: false });
        assert_eq!(detect(&plain, spis, b, nat), Nat { local: false, remote: true });
        assert_eq!(detect(&plain, spis, nat, a), Nat { local: true, remote: false });
        assert_eq!(detect(&sent(true, &mut rng), spis, b, a), Nat { local: false, remote: true });
        assert!(!detect(&Payloads::default(), spis, b, a).any());
    }
}
