//! Fuzzes the law of `testkit::hostile::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rkubelet_fuzz::check("config", input));
