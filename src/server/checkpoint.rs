//! `POST /checkpoint/{namespace}/{pod}/{container}`: has the backend write a checkpoint of a
//! running container, and answers the path of the archive.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, State as Shared};
use axum::response::Response;
use axum::routing::post;
use http::StatusCode;

use super::diagnostics::{Diagnostics, Handler};
use super::{State, json, text};
use crate::model::{Wall, pod};

/// The route; none if the gate is off.
pub(super) fn routes(diagnostics: &Diagnostics) -> Router<State> {
    if diagnostics.serves(Handler::Checkpoint) {
        Router::new().route("/checkpoint/{namespace}/{pod}/{container}", post(checkpoint))
    } else {
        Router::new()
    }
}

async fn checkpoint(
    Shared(state): Shared<State>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let Some(view) = state.pods.by_name(&namespace, &name) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    if pod::find_container(&view.pod, &container).is_none() {
        return text(StatusCode::NOT_FOUND, format!("container {container} does not exist"));
    }
    let Ok(timeout) = timeout(&query) else {
        return text(StatusCode::NOT_FOUND, "cannot parse value of timeout parameter");
    };

    let file = file_name(&view.key.name, &view.key.namespace, &container, state.clock.now().wall);
    let path = state.diagnostics.checkpoints.join(file);
    let streams = state.pods.streams();
    let made = match timeout {
        Ok(timeout) => {
            let made = streams.checkpoint(&view, &container, &path, timeout).await;
            made.map_err(|error| error.to_string())
        }
        Err(problem) => Err(problem.to_owned()),
    };
    match made {
        Ok(()) => json(format!("{{\"items\":[\"{}\"]}}", path.display())),
        Err(problem) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("checkpointing of {namespace}/{name}/{container} failed ({problem})"),
        ),
    }
}

/// Reads the last `timeout` of the query, in seconds. The outer error is a value that is no number,
/// the inner one a number that the runtime's client refuses.
fn timeout(
    query: &[(String, String)],
) -> Result<Result<Duration, &'static str>, std::num::ParseIntError> {
    let last = query.iter().rfind(|(name, _)| name == "timeout");
    let seconds: i64 = last.map_or(Ok(0), |(_, value)| value.parse())?;
    let seconds = u64::try_from(seconds);
    Ok(seconds
        .map(Duration::from_secs)
        .map_err(|_| "CheckpointContainer requires the timeout value to be > 0"))
}

/// Upstream's name of the archive: `checkpoint-web_default-main-2026-11-30T10:00:00Z.tar`.
fn file_name(pod: &str, namespace: &str, container: &str, now: Wall) -> String {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ");
    format!("checkpoint-{pod}_{namespace}-{container}-{now}.tar")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_named_as_upstream_names_it() {
        let now = "2026-11-30T10:00:00.5Z".parse().expect("a time");
        let name = file_name("web", "default", "main", now);
        assert_eq!(name, "checkpoint-web_default-main-2026-11-30T10:00:00Z.tar");
    }

    #[test]
    fn the_last_timeout_counts() {
        let query = |values: &[&str]| -> Vec<(String, String)> {
            values.iter().map(|value| ("timeout".to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(timeout(&query(&[])), Ok(Ok(Duration::ZERO)));
        assert_eq!(timeout(&query(&["x", "300"])), Ok(Ok(Duration::from_secs(300))));
        assert!(timeout(&query(&["300", "x"])).is_err());
        let refused = "CheckpointContainer requires the timeout value to be > 0";
        assert_eq!(timeout(&query(&["-1"])), Ok(Err(refused)));
    }
}
