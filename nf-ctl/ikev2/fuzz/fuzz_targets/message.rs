//! A datagram before anything was decrypted.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| ikev2_fuzz::message(octets));
