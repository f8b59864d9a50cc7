//! The outcome of a command as it stands in the error channel of `v5.channel.k8s.io`. Pure.
//!
//! The runtime's streaming server writes a status of the fourth version of its protocol. Upstream's
//! kubelet reads it into an error and writes the error as a status again; so do we, for the texts.

use serde::{Deserialize, Serialize};

const NON_ZERO_EXIT_CODE: &str = "NonZeroExitCode";
const EXIT_CODE: &str = "ExitCode";

/// What ends a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has ended well.
    Success,
    /// It has ended with a code.
    Exit(u8),
    /// It, or what leads to it, has failed.
    Failed(String),
}

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    details: Option<WrittenDetails>,
}

#[derive(Deserialize)]
struct WrittenDetails {
    #[serde(default)]
    causes: Vec<WrittenCause>,
}

#[derive(Deserialize)]
struct WrittenCause {
    #[serde(default, rename = "reason")]
    kind: String,
    #[serde(default)]
    message: String,
}

/// Reads what the runtime's streaming server has written into its error stream.
pub(super) fn read(written: &[u8]) -> Outcome {
    if written.is_empty() {
        return Outcome::Success;
    }
    let failed = |why: String| Outcome::Failed(format!("error stream protocol error: {why}"));
    let status: Written = match serde_json::from_slice(written) {
        Ok(status) => status,
        Err(error) => {
            return failed(format!("{error} in {:?}", String::from_utf8_lossy(written)));
        }
    };
    match status.status.as_str() {
        "Success" => Outcome::Success,
        "Failure" if status.reason == NON_ZERO_EXIT_CODE => {
            let Some(details) = status.details else {
                return failed("details must be set".to_owned());
            };
            let mut causes = details.causes.into_iter();
            match causes.find(|cause| cause.kind == EXIT_CODE) {
                Some(cause) => match cause.message.parse() {
                    Ok(code) => Outcome::Exit(code),
                    Err(_) => failed(format!("invalid exit code value {:?}", cause.message)),
                },
                None => failed(format!("no {EXIT_CODE} cause given")),
            }
        }
        "Failure" => Outcome::Failed(status.message),
        _ => failed("unknown error".to_owned()),
    }
}

#[derive(Serialize)]
struct Status<'a> {
    metadata: Empty,
    status: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Details<'a> {
    causes: [Cause<'a>; 1],
}

#[derive(Serialize)]
struct Cause<'a> {
    #[serde(rename = "reason", skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    message: &'a str,
}

/// Returns the status that a client of the fifth version reads.
pub(super) fn write(outcome: &Outcome) -> Vec<u8> {
    let success = Status {
        metadata: Empty {},
        status: "Success",
        message: "",
        reason: "",
        details: None,
        code: None,
    };
    let written = match outcome {
        Outcome::Success => serde_json::to_vec(&success),
        Outcome::Exit(code) => serde_json::to_vec(&Status {
            status: "Failure",
            message: &format!(
                "command terminated with non-zero exit code: command terminated with exit code \
                 {code}"
            ),
            reason: NON_ZERO_EXIT_CODE,
            details: Some(Details {
                causes: [Cause { kind: EXIT_CODE, message: &code.to_string() }],
            }),
            ..success
        }),
        Outcome::Failed(why) => serde_json::to_vec(&Status {
            status: "Failure",
            message: &format!("Internal error occurred: {why}"),
            reason: "InternalError",
            details: Some(Details { causes: [Cause { kind: "", message: why }] }),
            code: Some(500),
            ..success
        }),
    };
    written.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read_as_the_runtime_writes_them() {
        let exit = br#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        let internal = br#"{"metadata":{},"status":"Failure","message":"Internal error occurred: no","reason":"InternalError","code":500}"#;
        let failed = |text: &str| Outcome::Failed(text.to_owned());
        for (written, outcome) in [
            (&b""[..], Outcome::Success),
            (br#"{"metadata":{},"status":"Success"}"#, Outcome::Success),
            (exit, Outcome::Exit(3)),
            (internal, failed("Internal error occurred: no")),
            (
                br#"{"status":"Failure","reason":"NonZeroExitCode"}"#,
                failed("error stream protocol error: details must be set"),
            ),
            (
                br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"300"}]}}"#,
                failed("error stream protocol error: invalid exit code value \"300\""),
            ),
            (
                br#"{"status":"Failure","reason":"NonZeroExitCode","details":{}}"#,
                failed("error stream protocol error: no ExitCode cause given"),
            ),
            (br#"{"status":"x"}"#, failed("error stream protocol error: unknown error")),
        ] {
            assert_eq!(read(written), outcome, "{}", String::from_utf8_lossy(written));
        }
        assert!(matches!(read(b"boom"), Outcome::Failed(_)));
    }

    #[test]
    fn outcomes_are_written_as_upstream_writes_them() {
        let text = |outcome| String::from_utf8(write(&outcome)).expect("UTF-8");
        assert_eq!(text(Outcome::Success), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(
            text(Outcome::Exit(3)),
            r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: command terminated with exit code 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#
        );
        assert_eq!(
            text(Outcome::Failed("no".to_owned())),
            r#"{"metadata":{},"status":"Failure","message":"Internal error occurred: no","reason":"InternalError","details":{"causes":[{"message":"no"}]},"code":500}"#
        );
    }
}
