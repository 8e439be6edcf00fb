//! nf.toml.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| nf_core_fuzz::checks::config(octets));
