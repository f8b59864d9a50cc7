//! The container whose log is meant, from the pod's status. Pure.

use k8s_openapi::api::core::v1::PodStatus;

use crate::model::ContainerId;
use crate::model::reason::container as reason;

/// Returns the container whose log is meant, or upstream's text for why there is none.
pub(in crate::pods) fn container_of_logs(
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
