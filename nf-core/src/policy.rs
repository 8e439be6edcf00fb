//! What an SA may carry: the check of the decapsulated packet against the SA's selectors (RFC 4301 5.2 step 4).

use std::net::IpAddr;

use crate::prefix::Prefix;
use crate::wire::Inner;

/// The addresses that may be inside. An empty list stands for any address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selectors {
    /// Inner source addresses.
    pub src: Box<[Prefix]>,
    /// Inner destination addresses.
    pub dst: Box<[Prefix]>,
}

impl Selectors {
    /// Whether the SA may carry this packet, whose IP header `inner` describes.
    #[inline]
    pub fn permit(&self, packet: &[u8], inner: &Inner) -> bool {
        within(&self.src, || inner.src(packet)) && within(&self.dst, || inner.dst(packet))
    }
}

#[inline]
fn within(list: &[Prefix], address: impl FnOnce() -> Option<IpAddr>) -> bool {
    list.is_empty() || address().is_some_and(|address| list.iter().any(|prefix| prefix.contains(address)))
}
