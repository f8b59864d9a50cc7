//! Converts the path of a probe to the target in the request line, as Go's `net/url` does. Pure.
//!
//! A path is free text of a manifest: `/healthz`, `healthz?full=1`, `/a b`, `/100%`. Go parses it
//! as a URL reference. A text that cannot be parsed is taken as a path of plain characters, in
//! which every special character is encoded.

use std::fmt::Write as _;

/// Returns the path and query of the request line.
pub(super) fn target(text: &str) -> String {
    let Some((path, query)) = parse(text) else { return with_slash(encoded(text.as_bytes())) };
    match query {
        None => with_slash(path),
        // Go sends the query unchanged. But a space would end the request line, and only ASCII is
        // allowed in it.
        Some(query) => format!("{}?{}", with_slash(path), query_characters(query)),
    }
}

/// Returns the path and query of a redirect's `Location`, without scheme and authority.
pub(super) fn of_location(text: &str) -> String {
    let text = text.split('#').next().unwrap_or_default();
    let stays = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte);
    with_slash(escape(text.as_bytes(), stays))
}

fn with_slash(path: String) -> String {
    if path.starts_with('/') { path } else { format!("/{path}") }
}

/// Returns the encoded path and the query of a URL reference; `None` if Go's parser refuses it.
fn parse(text: &str) -> Option<(String, Option<&str>)> {
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return None;
    }

    let (text, fragment) = match text.split_once('#') {
        Some((text, fragment)) => (text, fragment),
        None => (text, ""),
    };
    decoded(fragment)?;
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };

    // Two slashes begin an authority, which the probe's own host replaces.
    let path = match path.strip_prefix("//") {
        Some(rest) if !rest.starts_with('/') => rest.find('/').map_or("", |slash| &rest[slash..]),
        Some(_) | None => path,
    };
    let bytes = decoded(path)?;
    let path = if path.bytes().all(may_stand) { path.to_owned() } else { encoded(&bytes) };

    Some((path, query))
}

/// Decodes the escapes of a text; `None` if one is malformed.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(value).ok()?);
    }

    Some(bytes)
}

/// Returns true if a byte may stay as it is in a path that keeps its author's escapes.
fn may_stand(byte: u8) -> bool {
    is_plain(byte) || matches!(byte, b'!' | b'\'' | b'(' | b')' | b'*' | b'[' | b']' | b'%')
}

/// Returns true if Go leaves a byte of a path unencoded.
fn is_plain(byte: u8) -> bool {
    let is_mark = matches!(byte, b'-' | b'_' | b'.' | b'~');
    let is_reserved = matches!(byte, b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@');
    byte.is_ascii_alphanumeric() || is_mark || is_reserved
}

fn encoded(bytes: &[u8]) -> String {
    escape(bytes, is_plain)
}

fn query_characters(query: &str) -> String {
    escape(query.as_bytes(), |byte| byte.is_ascii_graphic())
}

fn escape(bytes: &[u8], stays: fn(u8) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if stays(*byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _written = write!(text, "%{byte:02X}");
        }
    }

    text
}

#[cfg(test)]
mod tests {
    use super::target;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(target(text), expected, "{text:?}");
    }

    #[test]
    fn paths_are_as_go_writes_them() {
        check("", "/");
        check("/", "/");
        check("healthz", "/healthz");
        check("/healthz?full=1&x=%zz", "/healthz?full=1&x=%zz");
        check("/healthz?", "/healthz?");
        check("?a=1", "/?a=1");
        check("/a#b", "/a");
        check("/ä", "/%C3%A4");
        check("/a b", "/a%20b");
        check("/a%2Fb", "/a%2Fb");
        check("/a%2fb!*'()[]", "/a%2fb!*'()[]");
        check("/a%2Fb c", "/a/b%20c");
        check("/a\"b", "/a%22b");
        check("//host/path", "/path");
        check("///path", "///path");
        check("/{x}", "/%7Bx%7D");
    }

    #[test]
    fn what_go_cannot_parse_is_a_path_of_plain_characters() {
        check("/100%", "/100%25");
        check("/a%zz?x=1", "/a%25zz%3Fx=1");
        check("/a#%z", "/a%23%25z");
        check("/a\nb?c", "/a%0Ab%3Fc");
        check("%", "/%25");
    }

    #[test]
    fn a_location_keeps_what_it_says() {
        assert_eq!(super::of_location("//x?a=%zz#f"), "//x?a=%zz");
        assert_eq!(super::of_location("a b"), "/a%20b");
    }
}
