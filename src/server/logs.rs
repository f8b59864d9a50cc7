//! `/containerLogs/{namespace}/{pod}/{container}`.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State as Shared};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::StreamExt as _;
use http::StatusCode;
use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::log_lines::{LogOptions, QueryError};
use super::log_stream::LogStream;
use super::{State, text};
use crate::dispatch::PodView;
use crate::model::reason::container as reason;
use crate::model::{ContainerId, pod};

/// Chunks between reading and sending: enough to overlap the two.
const CHUNKS: usize = 4;

pub(super) fn routes() -> Router<State> {
    Router::new().route("/containerLogs/{namespace}/{pod}/{container}", get(logs))
}

async fn logs(
    Shared(state): Shared<State>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let options = match LogOptions::from_query(&query, state.clock.now()) {
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
    let id = match container_of_logs(&name, &view.status, &container, options.previous) {
        Ok(id) => id,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let request = crate::cri::v1::ContainerStatusRequest {
        container_id: id.as_str().to_owned(),
        verbose: false,
    };
    let log_path = match state.cri.container_status(request).await {
        Ok(answer) => answer.status.map(|status| status.log_path).unwrap_or_default(),
        Err(error) => {
            return text(
                StatusCode::BAD_REQUEST,
                format!("unable to retrieve container logs for containerd://{id}: {error}"),
            );
        }
    };
    if log_path.is_empty() {
        return text(
            StatusCode::BAD_REQUEST,
            format!("unable to retrieve container logs for containerd://{id}"),
        );
    }
    match LogStream::open(std::path::Path::new(&log_path), options).await {
        Ok(stream) => send(&state, &view, &id, stream),
        Err(error) => text(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

/// Streams the log; following ends when the container no longer runs or the client is gone.
fn send(state: &State, view: &PodView, id: &ContainerId, stream: LogStream) -> Response {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let (running_sender, running) = watch::channel(runs(view, id));
    let follower = {
        let (pods, uid, id) = (state.pods.clone(), view.uid.clone(), id.clone());
        async move {
            if let Some(mut views) = pods.watch(&uid) {
                // An error means that the pod's task has ended: the container does not run any
                // more.
                drop(views.wait_for(|view| !runs(view, &id)).await);
            }
            running_sender.send_replace(false);
            std::future::pending::<()>().await;
        }
    };
    // The reading is part of the body's stream: it goes when the client goes.
    let reading = async move {
        tokio::select! {
            () = stream.run(sender, running) => {}
            () = follower => {}
        }
    };
    let chunks = ReceiverStream::new(receiver).map(Some);
    let driver = futures::stream::once(reading).map(|()| None);
    let body = futures::stream::select(chunks, driver).filter_map(futures::future::ready);
    (StatusCode::OK, [(http::header::CONTENT_TYPE, "text/plain")], Body::from_stream(body))
        .into_response()
}

fn runs(view: &PodView, id: &ContainerId) -> bool {
    view.observed.container(id).is_some_and(|container| container.state.is_running())
}

/// Which container's log is meant, or upstream's text for why there is none.
fn container_of_logs(
    pod_name: &str,
    status: &PodStatus,
    name: &str,
    previous: bool,
) -> Result<ContainerId, String> {
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let found = lists.into_iter().flatten().flatten().find(|status| status.name == name);
    let Some(found) = found else {
        return Err(format!("container {name:?} in pod {pod_name:?} is not available"));
    };
    let id_of = |text: Option<&str>| {
        let text = text.unwrap_or_default();
        let id = text.split_once("://").map_or(text, |(_, id)| id);
        (!id.is_empty()).then(|| ContainerId::new(id))
    };
    let last = found.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let last_id = || id_of(last.and_then(|last| last.container_id.as_deref()));
    if previous {
        return last_id().ok_or_else(|| {
            format!("previous terminated container {name:?} in pod {pod_name:?} not found")
        });
    }
    let state = found.state.clone().unwrap_or_default();
    if state.running.is_some() {
        return id_of(found.container_id.as_deref()).ok_or_else(|| {
            format!("container {name:?} in pod {pod_name:?} is waiting to start - no logs yet")
        });
    }
    let terminated = || format!("container {name:?} in pod {pod_name:?} is terminated");
    if let Some(ended) = state.terminated {
        return id_of(ended.container_id.as_deref()).or_else(last_id).ok_or_else(terminated);
    }
    if last.is_some() {
        return last_id().ok_or_else(terminated);
    }
    let why = state.waiting.and_then(|waiting| waiting.reason).unwrap_or_default();
    Err(match why.as_str() {
        reason::ERR_IMAGE_PULL => {
            format!(
                "container {name:?} in pod {pod_name:?} is waiting to start: image can't be pulled"
            )
        }
        reason::IMAGE_PULL_BACK_OFF => {
            format!(
                "container {name:?} in pod {pod_name:?} is waiting to start: trying and failing to pull image"
            )
        }
        why => format!("container {name:?} in pod {pod_name:?} is waiting to start: {why}"),
    })
}
