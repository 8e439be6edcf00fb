//! A peer that has the keys and says anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| ikev2_fuzz::peer::run(octets));
