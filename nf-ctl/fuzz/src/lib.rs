//! What nf-ctl reads from others on its host, and what has to hold for any octets. A target panics where it doesn't.

use nf_ctl::vici::packet::Packet;
use nf_ctl::xfrm;

/// What strongSwan's daemon sends over VICI: frames are taken until there is none, and what is left is a frame's beginning.
pub fn vici(octets: &[u8]) {
    let mut received = octets.to_vec();
    loop {
        let before = received.len();
        match Packet::take(&mut received) {
            Ok(Some(_)) => assert!(received.len() < before, "a frame takes octets"),
            Ok(None) => break,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                break;
            }
        }
    }
}

/// What the kernel sends over netlink.
pub fn xfrm(octets: &[u8]) {
    if let Err(error) = xfrm::message::read(octets) {
        assert!(!error.to_string().is_empty());
    }
}
