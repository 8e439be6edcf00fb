//! What the kernel says of its SAs.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| nf_core_fuzz::peers::xfrm(octets));
