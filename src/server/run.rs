//! `/run/{namespace}/{pod}/{container}`: runs a command and answers its combined output.
//!
//! Finds the pod and has its backend run the command; nothing is streamed.

use axum::Router;
use axum::extract::{Path, Query, State as Shared};
use axum::response::Response;
use axum::routing::post;
use http::StatusCode;

use super::streaming::pod_of;
use super::{State, json, text};
use crate::dispatch::StreamError;

pub(super) fn routes() -> Router<State> {
    Router::new()
        .route(
            "/run/{namespace}/{pod}/{container}",
            post(
                async |state: Shared<State>,
                       Path((namespace, pod, container)): Path<(String, String, String)>,
                       query| {
                    run(state, namespace, pod, None, container, query).await
                },
            ),
        )
        .route(
            "/run/{namespace}/{pod}/{uid}/{container}",
            post(
                async |state: Shared<State>,
                       Path((namespace, pod, uid, container)): Path<(
                    String,
                    String,
                    String,
                    String,
                )>,
                       query| {
                    run(state, namespace, pod, Some(uid), container, query).await
                },
            ),
        )
}

async fn run(
    Shared(state): Shared<State>,
    namespace: String,
    pod: String,
    uid: Option<String>,
    container: String,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let view = match pod_of(&state, &namespace, &pod, uid.as_deref(), &container) {
        Ok(view) => view,
        Err(refusal) => return refusal,
    };
    let command = query
        .iter()
        .find(|(name, _)| name == "cmd")
        .map(|(_, value)| value.as_str())
        .unwrap_or_default();
    let command: Vec<String> = command.split(' ').map(str::to_owned).collect();
    match state.pods.streams().run(&view, &container, command).await {
        Ok(output) if output.exit_code == 0 => {
            json(String::from_utf8_lossy(&output.written).into_owned())
        }
        Ok(output) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("command terminated with exit code {}", output.exit_code),
        ),
        Err(error @ StreamError::Unsupported) => {
            text(StatusCode::NOT_IMPLEMENTED, error.to_string())
        }
        Err(
            error @ (StreamError::NotFound(_) | StreamError::Exhausted(_) | StreamError::Failed(_)),
        ) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
