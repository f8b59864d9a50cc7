//! Parses image references, `[domain/]path[:tag][@digest]`, as the runtimes and upstream do. Pure.

/// A normalised reference: the domain is always present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The domain and path, e.g. `docker.io/library/nginx`; credentials are looked up by it.
    pub repository: String,
    /// The tag, if one is given.
    pub tag: Option<String>,
    /// The digest, if one is given, e.g. `sha256:…`.
    pub digest: Option<String>,
}

/// The reason why a text is not a reference. The texts are upstream's: users see them in events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {image:?}: {problem}")]
pub struct ReferenceError {
    /// The text.
    pub image: String,
    /// The fault in the text.
    pub problem: String,
}

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const INVALID: &str = "invalid reference format";
/// The longest path; upstream's limit.
const PATH_LIMIT: usize = 255;
/// The longest tag.
const TAG_LIMIT: usize = 128;

impl Reference {
    /// Parses a reference as a pod's spec has it.
    pub fn parse(image: &str) -> Result<Self, ReferenceError> {
        parse(image).map_err(|problem| ReferenceError { image: image.to_owned(), problem })
    }
}

/// Returns the image as the runtime's requests name it: with `:latest` if it has neither tag nor
/// digest.
pub fn with_default_tag(image: &str) -> Result<String, ReferenceError> {
    let reference = Reference::parse(image)?;
    Ok(match (reference.tag, reference.digest) {
        (None, None) => format!("{image}:{DEFAULT_TAG}"),
        _ => image.to_owned(),
    })
}

/// Returns the image as written, without tag and digest; for the records of pulls.
pub fn without_tag(image: &str) -> Result<&str, ReferenceError> {
    Reference::parse(image)?;
    Ok(split(image).0)
}

/// Returns true if the tag is `:latest`, explicitly or by default: it decides the default policy.
pub fn is_latest(image: &str) -> bool {
    Reference::parse(image).is_ok_and(|reference| {
        match (reference.tag.as_deref(), reference.digest) {
            (None, None) | (Some(DEFAULT_TAG), _) => true,
            (Some(_), _) | (None, Some(_)) => false,
        }
    })
}

/// Splits a text into name, tag and digest, by the separators only.
fn split(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (text, digest) = match text.split_once('@') {
        Some((text, digest)) => (text, Some(digest)),
        None => (text, None),
    };
    let last = text.rfind('/').map_or(0, |slash| slash + 1);
    match text[last..].find(':') {
        Some(colon) => (&text[..last + colon], Some(&text[last + colon + 1..]), digest),
        None => (text, None, digest),
    }
}

fn parse(image: &str) -> Result<Reference, String> {
    if image.len() == 64 && image.bytes().all(is_lower_hex) {
        return Err(format!(
            "invalid repository name ({image}), cannot specify 64-byte hexadecimal strings"
        ));
    }

    let (domain, remainder) = split_domain(image);
    let remote = remainder.split(':').next().unwrap_or_default();
    if has_capitals(remote) {
        return Err(format!("{INVALID}: repository name ({remote}) must be lowercase"));
    }

    let full = format!("{domain}/{remainder}");
    let Some((name, tag, digest)) = grammar(&full) else {
        let lowercase = grammar(&full.to_lowercase()).is_some();
        return Err(if lowercase {
            "repository name must be lowercase".to_owned()
        } else {
            INVALID.to_owned()
        });
    };

    let path = match name.split_once('/') {
        Some((domain, path)) if is_domain(domain) => path,
        _ => name,
    };
    if path.len() > PATH_LIMIT {
        return Err(format!("repository name must not be more than {PATH_LIMIT} characters"));
    }

    digest.map_or(Ok(()), check_digest)?;
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Ok(Reference { repository: name.to_owned(), tag: owned(tag), digest: owned(digest) })
}

/// Splits the registry off a reference. A first part without dot, port and capital that is not
/// `localhost` is no registry.
fn split_domain(name: &str) -> (&str, String) {
    let Some((first, rest)) = name.split_once('/') else {
        return (DEFAULT_DOMAIN, format!("{OFFICIAL}{name}"));
    };

    let is_domain = first == "localhost" || first.contains(['.', ':']) || has_capitals(first);
    let (domain, remainder) = match first {
        LEGACY_DOMAIN => (DEFAULT_DOMAIN, rest),
        _ if is_domain => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        return (domain, format!("{OFFICIAL}{remainder}"));
    }

    (domain, remainder.to_owned())
}

/// Returns true if lower case changes the text. It also changes `ǅ`, which is no capital.
fn has_capitals(text: &str) -> bool {
    text.to_lowercase() != text
}

/// Splits a text that follows the grammar into name, tag and digest.
fn grammar(text: &str) -> Option<(&str, Option<&str>, Option<&str>)> {
    let (name, tag, digest) = split(text);
    let named = match name.split_once('/') {
        Some((domain, path)) if is_domain(domain) => is_path(path),
        _ => is_path(name),
    };
    (named && tag.is_none_or(is_tag) && digest.is_none_or(is_digest)).then_some((name, tag, digest))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else { return false };
        if address.is_empty()
            || !address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
        {
            return false;
        }
        ("", after)
    } else {
        text.find(':').map_or((text, ""), |colon| text.split_at(colon))
    };

    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let port = match port.strip_prefix(':') {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };

    port && (text.starts_with('[') || host.split('.').all(label))
}

fn is_path(text: &str) -> bool {
    text.split('/').all(is_component)
}

/// Returns true for lower case letters and digits, with single dots, one or two underscores or any
/// number of dashes between them.
fn is_component(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separators: Vec<&str> = text
        .split(|c: char| u8::try_from(c).is_ok_and(word))
        .filter(|between| !between.is_empty())
        .collect();
    let ends = text.bytes().next().is_some_and(word) && text.bytes().last().is_some_and(word);
    ends && separators.iter().all(|between| {
        matches!(*between, "." | "_" | "__") || between.bytes().all(|byte| byte == b'-')
    })
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_LIMIT
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let part = |part: &str| {
        part.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    hex.len() >= 32
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        && algorithm.split(['-', '_', '+', '.']).all(part)
}

/// Checks that the algorithm is known and the length is right.
fn check_digest(digest: &str) -> Result<(), String> {
    let (algorithm, hex) = digest.split_once(':').unwrap_or((digest, ""));
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ if algorithm.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            return Err("invalid checksum digest format".to_owned());
        }
        _ => return Err("unsupported digest algorithm".to_owned()),
    };
    if hex.len() != length {
        return Err("invalid checksum digest length".to_owned());
    }
    if !hex.bytes().all(is_lower_hex) {
        return Err("invalid checksum digest format".to_owned());
    }

    Ok(())
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::{Reference, is_latest, with_default_tag, without_tag};

    const HEX: &str = "7cc4b5aefd1d0cadf8d97d4350462ba51c694ebca145b08d7d41b41acc8db5aa";

    #[track_caller]
    fn check(image: &str, repository: &str, tag: Option<&str>, digest: Option<&str>) {
        let found = Reference::parse(image).expect("a reference");
        assert_eq!(
            (found.repository.as_str(), found.tag.as_deref(), found.digest.as_deref()),
            (repository, tag, digest)
        );
    }

    #[test]
    fn normalises() {
        let digest = format!("sha256:{HEX}");
        check("nginx", "docker.io/library/nginx", None, None);
        check("nginx:1.27", "docker.io/library/nginx", Some("1.27"), None);
        check("bitnami/redis", "docker.io/bitnami/redis", None, None);
        check("docker.io/nginx", "docker.io/library/nginx", None, None);
        check("index.docker.io/library/nginx", "docker.io/library/nginx", None, None);
        check("localhost/app:v1", "localhost/app", Some("v1"), None);
        check("localhost:5000/app", "localhost:5000/app", None, None);
        check("registry.k8s.io/pause:3.10", "registry.k8s.io/pause", Some("3.10"), None);
        check("[fd00::1]:5000/a/b:t", "[fd00::1]:5000/a/b", Some("t"), None);
        check("Registry/app", "Registry/app", None, None);
        check("a__b/c-d---e.f:T_1", "docker.io/a__b/c-d---e.f", Some("T_1"), None);
        check(&format!("nginx@{digest}"), "docker.io/library/nginx", None, Some(&digest));
        check(&format!("x.io/y:1@{digest}"), "x.io/y", Some("1"), Some(&digest));
    }

    #[track_caller]
    fn refuse(image: &str, problem: &str) {
        let error = Reference::parse(image).expect_err("not a reference");
        assert_eq!(error.to_string(), format!("couldn't parse image name {image:?}: {problem}"));
    }

    #[test]
    fn refuses_as_upstream() {
        refuse("", "invalid reference format");
        refuse("nginx:", "invalid reference format");
        refuse("a b", "invalid reference format");
        refuse("x.io//y", "invalid reference format");
        refuse("a..b", "invalid reference format");
        refuse("a/b-", "invalid reference format");
        refuse("nginx@sha256:abc", "invalid reference format");
        refuse(&format!("nginx:{}", "t".repeat(129)), "invalid reference format");
        refuse(
            "Nginx",
            "invalid reference format: repository name (library/Nginx) must be lowercase",
        );
        refuse("x.io/ǅ", "invalid reference format: repository name (ǅ) must be lowercase");
        refuse("x.io/App:v1", "invalid reference format: repository name (App) must be lowercase");
        refuse(
            HEX,
            &format!("invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        );
        refuse(&format!("nginx@sha256:{}", &HEX[..40]), "invalid checksum digest length");
        refuse(&format!("nginx@sha1:{}", &HEX[..40]), "unsupported digest algorithm");
        refuse(
            &format!("x.io/{}", "a".repeat(256)),
            "repository name must not be more than 255 characters",
        );
    }

    #[test]
    fn adds_the_default_tag_only_where_it_is_missing() {
        assert_eq!(with_default_tag("nginx").as_deref(), Ok("nginx:latest"));
        assert_eq!(
            with_default_tag("localhost:5000/app").as_deref(),
            Ok("localhost:5000/app:latest")
        );
        assert_eq!(with_default_tag("nginx:1").as_deref(), Ok("nginx:1"));
        let pinned = format!("nginx@sha256:{HEX}");
        assert_eq!(with_default_tag(&pinned), Ok(pinned.clone()));
        assert_eq!(without_tag(&format!("x.io:1/y:2@sha256:{HEX}")), Ok("x.io:1/y"));
        assert!(is_latest("nginx") && is_latest("nginx:latest"));
        assert!(!is_latest("nginx:1") && !is_latest(&pinned));
    }
}
