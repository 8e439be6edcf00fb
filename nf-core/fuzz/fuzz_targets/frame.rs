//! Frames as they come from the network, onto SAs whose keys the sender doesn't have.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| nf_core_fuzz::checks::frame(octets));
