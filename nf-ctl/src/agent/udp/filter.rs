//! A classic BPF program for port 4500, where ESP, NAT keepalives and IKE meet (RFC 3948 2).
//!
//! ESP that the network function didn't take, because nf-core isn't running or the SA's address is another's, comes here at
//! line rate. The kernel drops it at the socket, without a copy or a wake-up.

use socket2::SockFilter;

// Instructions of linux/bpf_common.h.
/// A = the length of the packet.
const LOAD_LEN: u16 = 0x80;
/// A = the 32-bit word at an offset.
const LOAD_WORD: u16 = 0x20;
/// Skips instructions, depending on whether A >= k.
const JUMP_GE: u16 = 0x35;
/// Skips instructions, depending on whether A == k.
const JUMP_EQ: u16 = 0x15;
/// Ends: so many octets of the packet are kept.
const RETURN: u16 = 0x06;

/// Octets of the UDP header, with which the packet begins for a filter of a UDP socket.
const UDP_HEADER: u32 = 8;
/// The least that is an IKE message: UDP header, marker, IKE header.
const SHORTEST: u32 = UDP_HEADER + 4 + ikev2::wire::HEADER_LEN as u32;

/// Keeps what begins with the non-ESP marker and is long enough for an IKE header.
pub(super) const MARKED_IKE: [SockFilter; 6] = [
    SockFilter::new(LOAD_LEN, 0, 0, 0),
    SockFilter::new(JUMP_GE, 0, 3, SHORTEST),
    SockFilter::new(LOAD_WORD, 0, 0, UDP_HEADER),
    SockFilter::new(JUMP_EQ, 0, 1, 0),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
    SockFilter::new(RETURN, 0, 0, 0),
];
