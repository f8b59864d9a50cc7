//! Reading `kube`'s errors: what the server answered, whether trying again makes sense, one
//! readable line.
//!
//! Pure. `kube::Error`'s own text repeats itself and quotes debug output; users see this module's
//! text instead.

use std::error::Error as _;

/// What kind of answer an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// 404.
    NotFound,
    /// 409 because it exists.
    AlreadyExists,
    /// 409 because of a resource version, a UID, or a namespace that is being deleted.
    Conflict,
    /// 401 or 403. The node authorizer forbids much until a pod that refers to the object is known:
    /// try again later.
    Forbidden,
    /// 410: the resource version is too old.
    Gone,
    /// 400 or 422: the same request will never succeed.
    Invalid,
    /// 429, 5xx, or another answer of a server in trouble.
    Busy,
    /// No answer: the request may or may not have been carried out.
    Unknown,
}

impl FailureKind {
    /// Whether the same request may succeed later.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Forbidden | Self::Gone | Self::Busy | Self::Unknown | Self::Conflict => true,
            Self::NotFound | Self::AlreadyExists | Self::Invalid => false,
        }
    }

    /// Whether the server may have carried the request out nevertheless: read before writing again.
    pub fn is_ambiguous(self) -> bool {
        self == Self::Unknown
    }
}

/// What kind of answer it is.
pub fn kind(error: &kube::Error) -> FailureKind {
    let kube::Error::Api(status) = error else { return FailureKind::Unknown };
    match (status.code, status.reason.as_str()) {
        (404, _) => FailureKind::NotFound,
        (409, "AlreadyExists") => FailureKind::AlreadyExists,
        (409, _) => FailureKind::Conflict,
        (401 | 403, _) => FailureKind::Forbidden,
        (410, _) => FailureKind::Gone,
        (400 | 422, _) => FailureKind::Invalid,
        _ => FailureKind::Busy,
    }
}

/// One line: the server's message, or the chain of causes without repetitions.
pub fn text(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return if status.message.is_empty() {
            format!("the API server answered {} {}", status.code, status.reason)
        } else {
            status.message.clone()
        };
    }
    let mut parts: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !parts.iter().any(|known| known.contains(&part)) {
            parts.push(part);
        }
        cause = error.source();
    }
    if parts.is_empty() { error.to_string() } else { parts.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::{FailureKind, kind, text};

    fn api(code: u16, reason: &str, message: &str) -> kube::Error {
        let status = kube::core::Status {
            code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            ..kube::core::Status::default()
        };
        kube::Error::Api(status.boxed())
    }

    #[test]
    fn tells_answers_apart() {
        for (code, reason, expected) in [
            (404, "NotFound", FailureKind::NotFound),
            (409, "AlreadyExists", FailureKind::AlreadyExists),
            (409, "Conflict", FailureKind::Conflict),
            (403, "Forbidden", FailureKind::Forbidden),
            (410, "Expired", FailureKind::Gone),
            (422, "Invalid", FailureKind::Invalid),
            (429, "TooManyRequests", FailureKind::Busy),
            (500, "InternalError", FailureKind::Busy),
        ] {
            assert_eq!(kind(&api(code, reason, "")), expected, "{code}");
        }
        assert_eq!(kind(&kube::Error::Service("connection reset".into())), FailureKind::Unknown);
    }

    #[test]
    fn the_text_is_the_servers() {
        assert_eq!(text(&api(404, "NotFound", "pods \"x\" not found")), "pods \"x\" not found");
        assert_eq!(text(&kube::Error::Service("connection reset".into())), "connection reset");
    }
}
