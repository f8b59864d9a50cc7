//! What the fuzz targets share: each tries its law on the input, with a fresh directory if it needs
//! one.

/// Tries the law of that name.
pub fn check(law: &str, input: &[u8]) {
    rkubelet::internals::testkit::hostile::check(law, input, || tempfile::tempdir().expect("a directory"));
}
