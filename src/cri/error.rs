//! The error of a CRI call. Made by `client`. Its text goes into events and statuses, so it is
//! grpc-go's.

use std::error::Error as _;
use std::fmt;

use tonic::{Code, Status};

use crate::linux::fs::go_text;

/// A CRI call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CriError {
    /// The call, e.g. `CreateContainer`.
    pub call: &'static str,
    /// The gRPC code.
    pub code: Code,
    /// The runtime's message.
    pub message: String,
    /// True if the text is the message alone, without the code: no status came over the wire, and
    /// upstream's client makes such an error itself.
    pub bare: bool,
}

impl CriError {
    /// Converts tonic's status.
    pub fn from_status(call: &'static str, status: &Status) -> Self {
        if let Some(message) = dial_failure(status) {
            return Self { call, code: Code::Unavailable, message, bare: false };
        }

        if lost_connection(status) {
            return Self {
                call,
                code: Code::Unavailable,
                message: CONNECTION_LOST.to_owned(),
                bare: false,
            };
        }

        // tonic also enforces the `grpc-timeout` header on its own side, and calls that a
        // cancellation.
        if status.code() == Code::Cancelled && status.message() == "Timeout expired" {
            return Self::deadline(call);
        }

        Self { call, code: status.code(), message: status.message().to_owned(), bare: false }
    }

    /// Returns the error of a deadline that has passed on our side, with grpc-go's text of an
    /// expired context.
    pub fn deadline(call: &'static str) -> Self {
        Self {
            call,
            code: Code::DeadlineExceeded,
            message: "context deadline exceeded".to_owned(),
            bare: false,
        }
    }

    /// Returns the error of an answer that cannot be used.
    pub fn unusable_answer(call: &'static str, message: impl Into<String>) -> Self {
        Self { call, code: Code::Unknown, message: message.into(), bare: true }
    }

    /// Returns true if the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// Returns true if the runtime does not know the call.
    pub fn is_unimplemented(&self) -> bool {
        self.code == Code::Unimplemented
    }

    /// Returns true if the deadline has passed, ours or the runtime's: the fate of the call is
    /// unknown.
    pub fn is_deadline(&self) -> bool {
        self.code == Code::DeadlineExceeded
    }

    /// Returns true if the runtime cannot be reached.
    pub fn is_unavailable(&self) -> bool {
        self.code == Code::Unavailable
    }

    /// Returns true if an earlier call that has not ended yet holds the name (containerd, CRI-O):
    /// the call is busy, not failed.
    pub fn is_name_reserved(&self) -> bool {
        self.message.contains("is reserved for")
    }

    /// Returns the text, without the code if that is `Unknown`, as upstream shows failed pulls.
    pub fn pull_text(&self) -> String {
        if self.code == Code::Unknown { self.message.clone() } else { self.to_string() }
    }
}

impl fmt::Display for CriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bare {
            return f.write_str(&self.message);
        }
        write!(f, "rpc error: code = {} desc = {}", code_name(self.code), self.message)
    }
}

impl std::error::Error for CriError {}

/// Returns grpc-go's name of a code.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// A connection that could not be opened: the connector's error lies at the end of the chain of
/// sources.
#[derive(Debug, thiserror::Error)]
#[error("connection error: desc = \"transport: Error while dialing: dial unix {path}: connect: {}\"", go_text(.source))]
pub(crate) struct DialError {
    /// The path of the socket.
    pub(crate) path: String,
    /// The kernel's error.
    pub(crate) source: std::io::Error,
}

/// grpc-go's text for a call whose connection has ended.
const CONNECTION_LOST: &str = "error reading from server: EOF";

/// Returns true if the connection ended during the call. Such a status is made on our side, so it
/// has a source; a status of the runtime has none. tonic calls some of them cancelled, which they
/// are not.
fn lost_connection(status: &Status) -> bool {
    let mut next = status.source();
    while let Some(error) = next {
        let lost = error.downcast_ref::<hyper::Error>().is_some_and(|error| {
            error.is_canceled()
                || error.is_closed()
                || error.is_incomplete_message()
                || error.is_body_write_aborted()
        });
        if lost || error.is::<std::io::Error>() {
            return true;
        }

        next = error.source();
    }

    false
}

/// Returns grpc-go's text for a connection that could not be opened.
fn dial_failure(status: &Status) -> Option<String> {
    let mut next = status.source();
    while let Some(error) = next {
        if let Some(dial) = error.downcast_ref::<DialError>() {
            return Some(dial.to_string());
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::{CriError, DialError};

    #[track_caller]
    fn check(status: &Status, text: &str) {
        assert_eq!(CriError::from_status("StartContainer", status).to_string(), text);
    }

    #[test]
    fn reads_as_the_go_client() {
        check(
            &Status::not_found("container \"c\" not found"),
            "rpc error: code = NotFound desc = container \"c\" not found",
        );
        check(&Status::cancelled("gone"), "rpc error: code = Canceled desc = gone");
        check(
            &Status::cancelled("Timeout expired"),
            "rpc error: code = DeadlineExceeded desc = context deadline exceeded",
        );
        let source = std::io::Error::from_raw_os_error(2);
        let dial = DialError { path: "/run/x.sock".to_owned(), source };
        check(
            &Status::from_error(Box::new(dial)),
            "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial unix \
             /run/x.sock: connect: no such file or directory\"",
        );
    }

    #[test]
    fn a_lost_connection_is_no_cancellation() {
        let broken = std::io::Error::from_raw_os_error(32);
        check(
            &Status::from_error(Box::new(broken)),
            "rpc error: code = Unavailable desc = error reading from server: EOF",
        );
    }

    #[test]
    fn tells_what_happened() {
        let error = |status| CriError::from_status("RunPodSandbox", &status);
        assert!(error(Status::not_found("")).is_not_found());
        assert!(error(Status::unimplemented("")).is_unimplemented());
        assert!(CriError::deadline("RunPodSandbox").is_deadline());
        assert!(error(Status::unavailable("")).is_unavailable());
        let reserved = Status::unknown(
            "failed to reserve sandbox name \"a_b\": name \"a_b\" is reserved for \"1f\"",
        );
        assert!(error(reserved).is_name_reserved());
        assert!(!error(Status::unknown("")).is_name_reserved());
        assert_eq!(error(Status::unknown("no such host")).pull_text(), "no such host");
        assert_eq!(error(Status::internal("x")).pull_text(), "rpc error: code = Internal desc = x");
        assert_eq!(error(Status::internal("x")).code, Code::Internal);
    }
}
