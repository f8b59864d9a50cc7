//! Finds the restart rules of a container, and whether the pod is being started again in place.
//! Pure.

use k8s_openapi::api::core::v1 as api;

use super::input::ComputeInput;
use crate::model::restart::{self, RestartRules};
use crate::model::{Pod, pod};

/// The condition of a pod that is being started again in place (KEP-5532).
pub const ALL_RESTARTING: &str = "AllContainersRestarting";

/// Returns the restart rules of a container of the pod.
pub(super) fn rules<'a>(pod: &Pod, container: &'a api::Container) -> RestartRules<'a> {
    RestartRules::of(pod::restart_policy(pod), container)
}

/// Returns true if any rule of the pod could have the whole pod started again in place.
pub(super) fn could_restart_all(pod: &Pod) -> bool {
    let mut containers = pod::init_containers(pod).iter().chain(pod::main_containers(pod));
    containers.any(restart::could_restart_all)
}

/// Returns true if the pod is being started again in place: its condition says so, or a container's
/// end causes it. `old` is the status before this one.
pub(super) fn is_restarting_all(input: &ComputeInput<'_>, old: &api::PodStatus) -> bool {
    let mut conditions = old.conditions.iter().flatten();
    if conditions.any(|condition| condition.type_ == ALL_RESTARTING && condition.status == "True") {
        return true;
    }

    let shown = |name: &str| {
        let mut statuses =
            old.init_container_statuses.iter().chain(&old.container_statuses).flatten();
        let status = statuses.find(|status| status.name == name)?;
        Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)
    };
    pod::init_containers(input.pod).iter().chain(pod::main_containers(input.pod)).any(|spec| {
        let newest = input.observed.latest(&spec.name);
        let Some(exit) = newest.and_then(|newest| newest.state.exit()) else { return false };

        let rules = rules(input.pod, spec);
        let asks = |exit_code| rules.restarts_all(exit_code);
        asks(exit.exit_code) || shown(&spec.name).is_some_and(asks)
    })
}
