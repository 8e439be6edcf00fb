//! Packets of a peer that has the keys, and then damage.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| nf_core_fuzz::checks::decap(octets));
