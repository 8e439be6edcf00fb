//! What an SK payload holds, after decryption.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| ikev2_fuzz::chain(octets));
