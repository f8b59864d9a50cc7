//! The patterns of `preloadedImagesVerificationAllowlist`: names of images without tag and digest,
//! or prefixes that end in `/*`.
//!
//! Pure. The texts are upstream's.

use super::reference::{self, ReferenceError};

/// Why a pattern is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid configuration: invalid image pattern in `preloadedImagesVerificationAllowlist`: {0}"
)]
pub struct AllowlistError(#[from] PatternError);

/// What is wrong with a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Spaces around it.
    #[error("leading/trailing spaces are not allowed: {0}")]
    Spaces(String),
    /// Nothing.
    #[error("the supplied pattern is too short: {0}")]
    Empty(String),
    /// An asterisk elsewhere than in `/*` at its end.
    #[error("not a valid wildcard pattern, only patterns ending with '/*' are allowed: {0}")]
    Wildcard(String),
    /// `/*` alone.
    #[error("at least registry hostname is required")]
    NoRegistry,
    /// No name of an image.
    #[error("failed to parse as an image name: {0}")]
    Name(#[from] ReferenceError),
    /// A name with a tag or a digest.
    #[error("neither tag nor digest is accepted in an image reference: {0}")]
    TagOrDigest(String),
}

/// Checks every pattern.
pub fn check(patterns: &[String]) -> Result<(), AllowlistError> {
    patterns.iter().try_for_each(|pattern| check_one(pattern)).map_err(AllowlistError)
}

fn check_one(pattern: &str) -> Result<(), PatternError> {
    if pattern != pattern.trim() {
        return Err(PatternError::Spaces(pattern.to_owned()));
    }
    let prefix = pattern.strip_suffix('*').filter(|prefix| prefix.ends_with('/'));
    let rest = prefix.unwrap_or(pattern);
    if rest.is_empty() {
        return Err(PatternError::Empty(pattern.to_owned()));
    }
    if rest.contains('*') {
        return Err(PatternError::Wildcard(pattern.to_owned()));
    }
    if prefix.is_some() {
        return if rest == "/" { Err(PatternError::NoRegistry) } else { Ok(()) };
    }
    if reference::without_tag(pattern)? != pattern {
        return Err(PatternError::TagOrDigest(pattern.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_checked_as_upstream_checks_them() {
        let check = |pattern: &str| check(&[pattern.to_owned()]).map_err(|error| error.to_string());
        for good in ["registry.k8s.io/pause", "registry.k8s.io/*", "pause"] {
            check(good).expect(good);
        }
        for (bad, problem) in [
            (" pause", "leading/trailing spaces are not allowed:  pause"),
            ("", "the supplied pattern is too short: "),
            ("*", "only patterns ending with '/*' are allowed: *"),
            ("registry.k8s.io/pa*", "only patterns ending with '/*' are allowed: "),
            ("/*", "at least registry hostname is required"),
            ("Registry/A B", "failed to parse as an image name: couldn't parse image name"),
            ("pause:3.10", "neither tag nor digest is accepted in an image reference: pause:3.10"),
        ] {
            let error = check(bad).expect_err(bad);
            let field = "invalid image pattern in `preloadedImagesVerificationAllowlist`: ";
            assert!(error.contains(field) && error.contains(problem), "{error}");
        }
    }
}
