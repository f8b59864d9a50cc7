//! `/pods`, `/runningpods/`, `/configz` and `/debug/blocked`.
//!
//! Fed by the table of pods and the desired pods; it only reads.

use axum::extract::State as Shared;
use axum::response::Response;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::{State, json};
use crate::dispatch::PodView;
use crate::model::{Pod, pod};

#[derive(Serialize)]
struct PodList<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: Empty,
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Empty {}

/// A pod with the status that its task last computed. It has no kind and version, as items of a
/// list have none.
#[derive(Serialize)]
struct Item<'a> {
    metadata: &'a ObjectMeta,
    spec: &'a Option<PodSpec>,
    status: &'a k8s_openapi::api::core::v1::PodStatus,
}

/// Every pod of the node, static ones included, with its newest status.
pub(super) async fn list(Shared(state): Shared<State>) -> Response {
    let views = state.pods.views();
    let items = views
        .iter()
        .map(|view| Item {
            metadata: &view.pod.metadata,
            spec: &view.pod.spec,
            status: &view.status,
        })
        .collect();
    write(&PodList { kind: "PodList", api_version: "v1", metadata: Empty {}, items })
}

/// Lists what the runtime runs, as minimal pods.
pub(super) async fn running(Shared(state): Shared<State>) -> Response {
    let pods: Vec<Pod> = state.pods.views().iter().filter_map(running_pod).collect();
    let status = k8s_openapi::api::core::v1::PodStatus::default();
    let items = pods
        .iter()
        .map(|pod| Item { metadata: &pod.metadata, spec: &pod.spec, status: &status })
        .collect();
    write(&PodList { kind: "PodList", api_version: "v1", metadata: Empty {}, items })
}

fn running_pod(view: &PodView) -> Option<Pod> {
    let containers: Vec<Container> = view
        .observed
        .containers
        .iter()
        .filter(|container| container.state.is_running())
        .map(|container| Container {
            name: container.name.clone(),
            image: Some(container.image_ref.clone()),
            ..Container::default()
        })
        .collect();
    let sandbox = view
        .observed
        .latest_sandbox()
        .is_some_and(|sandbox| sandbox.state == crate::model::SandboxState::Ready);
    (sandbox || !containers.is_empty()).then(|| Pod {
        metadata: ObjectMeta {
            name: Some(view.key.name.to_string()),
            namespace: Some(view.key.namespace.to_string()),
            uid: Some(view.uid.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { containers, ..PodSpec::default() }),
        status: None,
    })
}

/// The effective configuration.
pub(super) async fn configz(Shared(state): Shared<State>) -> Response {
    json(state.configz.to_string())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockedPod {
    namespace: String,
    name: String,
    uid: String,
    stage: &'static str,
    on: String,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_try_in_seconds: Option<f64>,
}

/// `/debug/blocked`: what each pod that waits is waiting for (our own endpoint; invariant 12).
pub(super) async fn blocked(Shared(state): Shared<State>) -> Response {
    let now = state.clock.now().mono;
    let blocked: Vec<BlockedPod> = state
        .pods
        .views()
        .into_iter()
        .filter_map(|view| {
            let blocked = view.blocked?;
            let key = pod::key(&view.pod);
            Some(BlockedPod {
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                uid: view.uid.to_string(),
                stage: blocked.stage.as_str(),
                on: blocked.on,
                since: blocked.since.wall.to_string(),
                last_error: blocked.last_error,
                next_try_in_seconds: blocked.next_try.map(|at| at.since(now).as_secs_f64()),
            })
        })
        .collect();
    write(&blocked)
}

pub(super) fn write(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(body) => json(body),
        Err(error) => super::text(http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
