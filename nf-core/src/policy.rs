//! What an SA may carry: the check of the decapsulated packet against the SA's selectors (RFC 4301 5.2 step 4).

use std::net::IpAddr;

use crate::prefix::Prefix;
use crate::wire::Inner;

/// The addresses that may be inside. An empty list stands for any address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selectors {
    /// Inner source addresses.
    pub src: Vec<Prefix>,
    /// Inner destination addresses.
    pub dst: Vec<Prefix>,
}

impl Selectors {
    /// Whether the SA may carry this packet.
    #[inline]
    pub fn permit(&self, inner: &Inner) -> bool {
        within(&self.src, inner.src) && within(&self.dst, inner.dst)
    }
}

#[inline]
fn within(list: &[Prefix], address: IpAddr) -> bool {
    list.is_empty() || list.iter().any(|prefix| prefix.contains(address))
}
