//! Fuzzes the law of `testkit::hostile::atomic_writer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rkubelet_fuzz::check("atomic_writer", input));
