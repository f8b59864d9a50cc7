//! `/containerLogs/{namespace}/{pod}/{container}`: reads the query, finds the pod, and sends the
//! log that its backend opens.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State as Shared};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;
use tokio::sync::watch;

use super::log_query::{self, QueryError};
use super::{State, text};
use crate::dispatch::StreamError;
use crate::model::pod;

pub(super) fn routes() -> Router<State> {
    Router::new().route("/containerLogs/{namespace}/{pod}/{container}", get(logs))
}

async fn logs(
    Shared(state): Shared<State>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let options = match log_query::options(&query, state.clock.now()) {
        Ok(options) => options,
        Err(QueryError::Undecodable) => {
            return text(StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#);
        }
        Err(QueryError::Invalid) => {
            return text(StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#);
        }
        Err(QueryError::Stream) => {
            return text(
                StatusCode::BAD_REQUEST,
                "unable to return the given log stream. Please enable PodLogsQuerySplitStreams feature gate in kubelet",
            );
        }
    };
    let Some(view) = state.pods.by_name(&namespace, &name) else {
        return text(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist"));
    };
    if pod::find_container(&view.pod, &container).is_none() {
        return text(
            StatusCode::NOT_FOUND,
            format!("container {container:?} not found in pod {name:?}"),
        );
    }
    // Without a task, the pod stays as it is.
    let watched = state.pods.watch(&view.uid).unwrap_or_else(|| watch::channel(view).1);
    match state.pods.streams().logs(watched, container, options).await {
        Ok(chunks) => {
            let body = Body::from_stream(chunks);
            (StatusCode::OK, [(http::header::CONTENT_TYPE, "text/plain")], body).into_response()
        }
        Err(error @ StreamError::Unsupported) => {
            text(StatusCode::NOT_IMPLEMENTED, error.to_string())
        }
        Err(
            error @ (StreamError::NotFound(_) | StreamError::Exhausted(_) | StreamError::Failed(_)),
        ) => text(StatusCode::BAD_REQUEST, error.to_string()),
    }
}
