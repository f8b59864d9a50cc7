//! Paths of logs, as the runtime and the readers of logs know them. Pure.

use crate::model::Pod;

/// Where the runtime writes the logs of a pod: `<root>/NAMESPACE_NAME_UID`.
pub fn pod_log_directory(pod: &Pod, root: &str) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    format!("{root}/{}_{}_{}", text(&metadata.namespace), text(&metadata.name), text(&metadata.uid))
}

/// The log of a container, below its pod's directory.
pub fn container_log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}
