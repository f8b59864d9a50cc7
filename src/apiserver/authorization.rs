//! Values of the `Authorization` header. Each is marked as sensitive, so that no log shows it.
//!
//! Pure.

use http::HeaderValue;

/// Returns `Bearer TOKEN`, or `None` if the token holds characters that a header may not hold.
pub(super) fn bearer_header(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

/// Returns the text as a value that `Debug` hides, or `None` if a header may not hold it.
pub(super) fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
