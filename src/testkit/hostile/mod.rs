//! Laws for input that somebody hostile wrote: each is one function that takes bytes and panics
//! when the law is broken.
//!
//! The property tests (`tests/it/hostile.rs`) and the fuzz targets (`fuzz/`) call the same
//! functions, so that each law is written once. Where upstream's parser can be told in a few lines,
//! the law holds ours against it, told anew in another way. Laws that need files are handed an
//! empty directory; nothing outside it is touched.

pub mod atomic_writer;
mod choices;
pub mod config;
pub mod env_file;
pub mod expansion;
pub mod image_reference;
pub mod quantity;
pub mod statistics;
pub mod subpath;
mod surroundings;

use std::path::Path;

pub use choices::Choices;

/// A law, by what it is tried on.
#[derive(Clone, Copy, Debug)]
pub enum Law {
    /// A text; bytes that are no UTF-8 are replaced.
    Text(fn(&str)),
    /// Decisions ([`Choices`]), and an empty directory for files.
    Files(fn(&[u8], &Path)),
}

/// The laws by the name of their fuzz target.
pub const LAWS: [(&str, Law); 8] = [
    ("atomic_writer", Law::Files(atomic_writer::check)),
    ("config", Law::Files(config::check)),
    ("env_file", Law::Text(env_file::check)),
    ("expansion", Law::Text(expansion::check)),
    ("image_reference", Law::Text(image_reference::check)),
    ("quantity", Law::Text(quantity::check)),
    ("statistics", Law::Text(statistics::check)),
    ("subpath", Law::Files(subpath::check)),
];

/// Tries one law by its name; panics if there is no such law, or if it is broken. `scratch` makes
/// an empty directory.
pub fn check<D: AsRef<Path>>(name: &str, input: &[u8], scratch: impl FnOnce() -> D) {
    let law = LAWS.iter().find(|(known, _)| *known == name).map(|(_, law)| *law);
    match law.expect("a law has this name") {
        Law::Text(check) => check(&String::from_utf8_lossy(input)),
        Law::Files(check) => check(input, scratch().as_ref()),
    }
}
