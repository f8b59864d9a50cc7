//! Makes the headers by which a request has the rights of another user.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The headers for a user, or none if it is empty. `None`: something cannot be a header.
pub(super) fn headers(
    user: &str,
    uid: &str,
    groups: &[String],
    extra: &BTreeMap<String, Vec<String>>,
) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    if user.is_empty() {
        return Some(headers);
    }
    let mut add = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_str(value).ok()?);
        Some(())
    };
    add("impersonate-user", user)?;
    if !uid.is_empty() {
        add("impersonate-uid", uid)?;
    }
    for group in groups {
        add("impersonate-group", group)?;
    }
    for (name, values) in extra {
        let name = format!("impersonate-extra-{}", escaped(name));
        values.iter().try_for_each(|value| add(&name, value))?;
    }
    Some(headers)
}

/// A name as a part of a header's: what may not stand there as `%` and two digits.
fn escaped(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}
