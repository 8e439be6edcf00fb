//! Fragments after decryption, in any order and of any number.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| ikev2_fuzz::fragments(octets));
