//! Cookies: a peer that floods us with IKE_SA_INIT has to show that it receives at its address (RFC 7296 2.6).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;

use crate::crypto::prf::Prf;
use crate::crypto::secret::Secret;
use crate::wire::IkeSpi;

/// A secret makes cookies for that long, and they are taken for as long again.
const ROTATE: Duration = Duration::from_secs(60);

/// What cookies are made with. Nothing is kept for any of them.
pub(super) struct Cookies {
    current: Secret,
    previous: Option<Secret>,
    /// Tells the cookies of two secrets apart.
    version: u8,
    made: Instant,
}

impl Cookies {
    pub fn new(now: Instant, rng: &mut dyn CryptoRng) -> Self {
        Cookies { current: secret(rng), previous: None, version: 0, made: now }
    }

    /// The cookie for a request.
    pub fn make(
        &mut self,
        now: Instant,
        rng: &mut dyn CryptoRng,
        remote: SocketAddr,
        spi: IkeSpi,
        nonce: &[u8],
    ) -> Vec<u8> {
        self.rotate(now, rng);
        compute(&self.current, self.version, remote, spi, nonce)
    }

    /// True where the cookie is ours, and not too old.
    pub fn verify(
        &mut self,
        now: Instant,
        rng: &mut dyn CryptoRng,
        cookie: &[u8],
        remote: SocketAddr,
        spi: IkeSpi,
        nonce: &[u8],
    ) -> bool {
        self.rotate(now, rng);
        let (secret, version) = match (cookie.first(), &self.previous) {
            (Some(version), _) if *version == self.version => (&self.current, *version),
            (Some(version), Some(previous)) if *version == self.version.wrapping_sub(1) => (previous, *version),
            _ => return false,
        };
        compute(secret, version, remote, spi, nonce).ct_eq(cookie).into()
    }

    fn rotate(&mut self, now: Instant, rng: &mut dyn CryptoRng) {
        let age = now.saturating_duration_since(self.made);
        if age < ROTATE {
            return;
        }
        let previous = std::mem::replace(&mut self.current, secret(rng));
        self.previous = (age < 2 * ROTATE).then_some(previous);
        self.version = self.version.wrapping_add(1);
        self.made = now;
    }
}

fn secret(rng: &mut dyn CryptoRng) -> Secret {
    let mut secret = vec![0; 32];
    rng.fill_bytes(&mut secret);
    Secret::new(secret)
}

/// The version, and 16 octets of a MAC over address, port, SPI and nonce.
fn compute(secret: &Secret, version: u8, remote: SocketAddr, spi: IkeSpi, nonce: &[u8]) -> Vec<u8> {
    let address = match remote.ip() {
        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        std::net::IpAddr::V6(ip) => ip,
    };
    let parts: [&[u8]; 4] = [&address.octets(), &remote.port().to_be_bytes(), &spi.0, nonce];
    let mac = Prf::HmacSha256.compute(secret.expose(), &parts);
    std::iter::once(version).chain(mac.expose().iter().copied().take(16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    #[test]
    fn a_cookie_is_good_for_its_request_and_for_a_while() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let start = Instant::now();
        let mut cookies = Cookies::new(start, &mut rng);
        let remote: SocketAddr = "192.0.2.1:500".parse().unwrap();
        let other: SocketAddr = "192.0.2.2:500".parse().unwrap();
        let cookie = cookies.make(start, &mut rng, remote, IkeSpi([1; 8]), b"nonce");
        let mut good = |at, cookie: &[u8], remote, spi, nonce: &[u8]| {
            cookies.verify(start + Duration::from_secs(at), &mut rng, cookie, remote, IkeSpi([spi; 8]), nonce)
        };
        assert!(good(1, &cookie, remote, 1, b"nonce"));
        assert!(!good(1, &cookie, other, 1, b"nonce"));
        assert!(!good(1, &cookie, remote, 2, b"nonce"));
        assert!(!good(1, &cookie, remote, 1, b"other"));
        assert!(!good(1, &[], remote, 1, b"nonce"));
        assert!(!good(1, &cookie[..9], remote, 1, b"nonce"));
        assert!(good(61, &cookie, remote, 1, b"nonce"));
        assert!(!good(122, &cookie, remote, 1, b"nonce"));
        assert!(!good(600, &cookie, remote, 1, b"nonce"));
    }
}
