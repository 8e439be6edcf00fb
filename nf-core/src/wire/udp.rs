//! UDP headers (RFC 768) and what is behind port 4500 (RFC 3948).

use super::put_u16;

/// Octets of a header.
pub const HEADER_LEN: usize = 8;
/// The port of IKE and ESP behind a NAT (RFC 3948 2.1).
pub const NAT_T_PORT: u16 = 4500;

/// Sets the length of the datagram, its header included.
#[inline]
pub(crate) fn set_length(datagram: &mut [u8], len: usize) {
    put_u16(datagram, field::LEN, u16::try_from(len).unwrap_or(u16::MAX));
}

/// Offsets of fields.
pub(crate) mod field {
    pub(crate) const DST_PORT: usize = 2;
    pub(crate) const LEN: usize = 4;
    pub(crate) const CHECKSUM: usize = 6;
}
