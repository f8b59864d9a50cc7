//! Fuzzes the law of `testkit::hostile::env_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rkubelet_fuzz::check("env_file", input));
