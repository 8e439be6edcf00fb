//! A line of the control protocol.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| nf_core_fuzz::checks::control(octets));
