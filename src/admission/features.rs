//! Features that a pod needs of its node: behind a gate, or declared in `status.declaredFeatures`.

use k8s_openapi::api::core::v1 as api;

use super::{AdmitInput, Rejection};
use crate::model::{pod, restart};

/// What this node can do, of what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// The gate `PodLevelResources`.
    pub pod_level_resources: bool,
    /// What the node declares; `None` with the gate `NodeDeclaredFeatures` off: then nothing is
    /// asked.
    pub declared: Option<Vec<&'static str>>,
}

/// The resources that can be given to a pod as a whole.
const POD_LEVEL: [&str; 2] = ["cpu", "memory"];

pub(super) fn check(input: &AdmitInput<'_>) -> Result<(), Rejection> {
    if !input.features.pod_level_resources && has_pod_level_resources(input.pod) {
        return Err(Rejection::new(
            "PodLevelResourcesNotSupported",
            "PodLevelResources feature gate is disabled",
        ));
    }
    let Some(declared) = &input.features.declared else { return Ok(()) };
    let missing: Vec<_> =
        needed(input.pod).into_iter().filter(|feature| !declared.contains(feature)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message =
        format!("Pod requires node features that are not available: {}", missing.join(", "));
    Err(Rejection::new("PodFeatureUnsupported", message))
}

fn has_pod_level_resources(pod: &api::Pod) -> bool {
    let Some(resources) = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()) else {
        return false;
    };
    let lists = resources.requests.iter().chain(&resources.limits);
    lists
        .flat_map(|list| list.keys())
        .any(|name| POD_LEVEL.contains(&name.as_str()) || name.starts_with("hugepages-"))
}

/// The declared features that a pod cannot do without, sorted.
fn needed(pod: &api::Pod) -> Vec<&'static str> {
    let mut needed = Vec::new();
    if pod::init_containers(pod)
        .iter()
        .chain(pod::main_containers(pod))
        .any(restart::could_restart_all)
    {
        needed.push("RestartAllContainersOnContainerExits");
    }
    if pod::is_host_network(pod)
        && pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false)
    {
        needed.push("UserNamespacesHostNetworkSupport");
    }
    needed
}
