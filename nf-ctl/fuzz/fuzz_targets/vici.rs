//! What strongSwan's daemon sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| nf_ctl_fuzz::vici(octets));
