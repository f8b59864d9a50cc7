//! Fuzzes the law of `testkit::hostile::image_reference`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rkubelet_fuzz::check("image_reference", input));
