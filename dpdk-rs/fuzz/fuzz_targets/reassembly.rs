//! Fragments from anybody.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| dpdk_rs_fuzz::reassembly(octets));
