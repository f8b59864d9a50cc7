//! Labels and annotations that the kubelet finds its pods and containers again by. Names and formats are upstream's, so
//! that either kubelet can take over what the other has started.

use std::collections::HashMap;

use k8s_openapi::api::core::v1 as api;

use crate::cri::labels;
use crate::model::Pod;

use super::container_hash;

/// The labels of a sandbox: the pod's own and its identity.
pub(super) fn sandbox_labels(pod: &Pod) -> HashMap<String, String> {
    let mut all: HashMap<_, _> =
        pod.metadata.labels.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    all.extend(identity(pod));
    all
}

/// The labels of a container: whose it is.
pub(super) fn container_labels(pod: &Pod, container: &api::Container) -> HashMap<String, String> {
    let mut all: HashMap<_, _> = identity(pod).collect();
    all.insert(labels::CONTAINER_NAME.to_owned(), container.name.clone());
    all
}

fn identity(pod: &Pod) -> impl Iterator<Item = (String, String)> + use<> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    [
        (labels::POD_NAME, text(&metadata.name)),
        (labels::POD_NAMESPACE, text(&metadata.namespace)),
        (labels::POD_UID, text(&metadata.uid)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
}

/// The annotations of a container: what has to be known of it when the pod's spec is gone.
pub(super) fn container_annotations(
    pod: &Pod,
    container: &api::Container,
    restart_count: u32,
) -> HashMap<String, String> {
    let mut all = HashMap::new();
    let mut set = |name: &str, value: String| {
        all.insert(name.to_owned(), value);
    };
    set(labels::CONTAINER_HASH, format!("{:x}", container_hash(container)));
    set(labels::CONTAINER_RESTART_COUNT, restart_count.to_string());
    set(labels::CONTAINER_TERMINATION_MESSAGE_PATH, container.termination_message_path.clone().unwrap_or_default());
    set(labels::CONTAINER_TERMINATION_MESSAGE_POLICY, container.termination_message_policy.clone().unwrap_or_default());
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        set(labels::POD_DELETION_GRACE_PERIOD, seconds.to_string());
    }
    if let Some(seconds) = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds) {
        set(labels::POD_TERMINATION_GRACE_PERIOD, seconds.to_string());
    }
    if let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) {
        set(labels::CONTAINER_PRE_STOP_HANDLER, json(hook));
    }
    if let Some(ports) = container.ports.as_ref().filter(|ports| !ports.is_empty()) {
        set(labels::CONTAINER_PORTS, json(ports));
    }
    all
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("an API type that came from JSON goes back to JSON")
}
