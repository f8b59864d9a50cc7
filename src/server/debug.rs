//! `/debug/flags/v`, which changes the verbosity of the log, and `/debug/pprof/`.
//!
//! The profiles of `/debug/pprof/` are those of Go's runtime, which this process does not have:
//! only its command line is served, and every profile answers 404 with the way to get one.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State as Shared};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use http::{Method, StatusCode, header};

use super::diagnostics::{Diagnostics, Handler};
use super::{State, closed, text};

/// The routes, each of which may be closed.
pub(super) fn routes(diagnostics: &Diagnostics) -> Router<State> {
    let router = if diagnostics.serves(Handler::DebugFlags) {
        Router::new().route("/debug/flags/v", any(verbosity))
    } else {
        closed("/debug/flags/v", "flags endpoint is disabled.\n")
    };
    if diagnostics.serves(Handler::Profiling) {
        router
            .route("/debug/pprof/", get(index))
            .route("/debug/pprof/cmdline", get(command_line))
            .route("/debug/pprof/{*profile}", get(profile))
    } else {
        router.merge(closed("/debug/pprof/", "profiling endpoint is disabled.\n"))
    }
}

/// Sets the verbosity to the number in the body of a PUT.
async fn verbosity(Shared(state): Shared<State>, method: Method, body: Bytes) -> Response {
    let (status, answer) = if method == Method::PUT {
        match parse(&body) {
            Ok((level, text)) => {
                if let Some(log) = &state.diagnostics.log {
                    log.set_verbosity(level);
                }
                tracing::info!(verbosity = level, "log verbosity changed");
                (StatusCode::OK, format!("successfully set klog.logging.verbosity to {text}"))
            }
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
        }
    } else {
        (StatusCode::NOT_ACCEPTABLE, "unsupported http method".to_owned())
    };

    let headers = [(header::CONTENT_TYPE, "text/plain"), NO_SNIFF];
    (status, headers, format!("{answer}\n")).into_response()
}

const NO_SNIFF: (header::HeaderName, &str) = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");

/// Why a text is no level. The texts are Go's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum LevelError {
    #[error("strconv.ParseUint: parsing {0:?}: invalid syntax")]
    Syntax(String),
    #[error("strconv.ParseUint: parsing {0:?}: value out of range")]
    Range(String),
    /// The level does not fit klog's signed type.
    #[error(
        "failed set klog.logging.verbosity {0}: strconv.ParseInt: parsing {0:?}: value out of range"
    )]
    Sign(String),
}

/// Reads a level as klog does: an unsigned number that fits a signed one.
fn parse(body: &[u8]) -> Result<(u32, String), LevelError> {
    let text = String::from_utf8_lossy(body).into_owned();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err(LevelError::Syntax(text));
    }
    match text.parse::<u32>() {
        Err(_) => Err(LevelError::Range(text)),
        Ok(level) if i32::try_from(level).is_err() => Err(LevelError::Sign(text)),
        Ok(level) => Ok((level, text)),
    }
}

/// The page of the profiles that exist.
async fn index() -> Response {
    const PAGE: &str = "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n\
        <a href=\"cmdline\">cmdline</a>: the command line of this process<br>\n\
        This kubelet is not written in Go: it has no other profile.\n</body>\n</html>\n";
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), NO_SNIFF], PAGE).into_response()
}

/// The arguments of the process, with a zero byte between two of them.
async fn command_line() -> Response {
    let read = crate::linux::blocking::spawn(|| std::fs::read("/proc/self/cmdline")).await;
    let Ok(Ok(mut line)) = read else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the command line cannot be read\n");
    };
    line.pop_if(|last| *last == 0);
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8"), NO_SNIFF], line).into_response()
}

/// Refuses a profile, as Go refuses one that it does not know.
async fn profile(Path(profile): Path<String>) -> Response {
    let process = std::process::id();
    let answer = format!(
        "Unknown profile {profile:?}: this kubelet is not written in Go; \
         `perf record -p {process}` on the node profiles it\n"
    );
    let mut response = text(StatusCode::NOT_FOUND, answer);
    response.headers_mut().insert("x-go-pprof", http::HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_level_is_read_as_klog_reads_it() {
        assert_eq!(parse(b"4"), Ok((4, "4".to_owned())));
        assert_eq!(parse(b"007"), Ok((7, "007".to_owned())));
        for (body, problem) in [
            ("", "strconv.ParseUint: parsing \"\": invalid syntax"),
            ("4\n", "strconv.ParseUint: parsing \"4\\n\": invalid syntax"),
            ("+4", "strconv.ParseUint: parsing \"+4\": invalid syntax"),
            ("-1", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("4294967296", "strconv.ParseUint: parsing \"4294967296\": value out of range"),
            (
                "4294967295",
                "failed set klog.logging.verbosity 4294967295: strconv.ParseInt: parsing \
                 \"4294967295\": value out of range",
            ),
        ] {
            let error = parse(body.as_bytes()).expect_err("no level");
            assert_eq!(error.to_string(), problem, "{body:?}");
        }
    }
}
