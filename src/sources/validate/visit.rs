//! The containers of a pod with their paths. Pure.

use k8s_openapi::api::core::v1::{Container, PodSpec};

/// Returns every container with its path, init containers first.
pub(super) fn containers(spec: &PodSpec) -> impl Iterator<Item = (String, &Container)> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.map(|(index, container)| (format!("spec.initContainers[{index}]"), container));
    let regular = spec.containers.iter().enumerate();
    init.chain(regular.map(|(index, container)| (format!("spec.containers[{index}]"), container)))
}
