//! What the kernel says of its SAs.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| nf_ctl_fuzz::xfrm(octets));
