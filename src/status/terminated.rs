//! Gives every container of a pod an end once the pod itself has ended. Pure.

use k8s_openapi::api::core::v1 as api;

use super::containers::{UNKNOWN_AT_END, unknown_end};
use crate::model::pod;
use crate::model::reason::container::CONTAINER_STATUS_UNKNOWN;

/// Gives an end to containers that have none: to the main ones if the pod had been initialised, and
/// to the init containers that were ever tried. Their real end is not known, so it counts as
/// failure.
pub(super) fn settle(pod: &api::Pod, old: &api::PodStatus, status: &mut api::PodStatus) {
    let was_initialized = was_initialized(pod, old) || was_initialized(pod, status);
    if was_initialized {
        end_all(status.container_statuses.iter_mut().flatten());
    }

    if let Some(init) = &mut status.init_container_statuses {
        let tried =
            init.iter().rposition(|status| !is_waiting(status) || last_end(status).is_some());
        let count = tried.unwrap_or_default() + 1;
        end_all(init.iter_mut().take(count));
    }
}

fn end_all<'a>(statuses: impl Iterator<Item = &'a mut api::ContainerStatus>) {
    for status in statuses.filter(|status| end(status).is_none()) {
        status.state = Some(unknown_end(CONTAINER_STATUS_UNKNOWN, UNKNOWN_AT_END));
        status.ready = false;
    }
}

fn was_initialized(pod: &api::Pod, status: &api::PodStatus) -> bool {
    if pod::init_containers(pod).is_empty() {
        return true;
    }

    let mut main = status.container_statuses.iter().flatten();
    if main.any(|status| last_end(status).is_some() || !is_waiting(status)) {
        return true;
    }
    let Some(last) = status.init_container_statuses.as_ref().and_then(|list| list.last()) else {
        return false;
    };
    let Some(spec) = pod::init_containers(pod).iter().find(|spec| spec.name == last.name) else {
        return false;
    };

    if pod::is_sidecar(spec) {
        let is_running = last.state.as_ref().is_some_and(|state| state.running.is_some());
        return is_running && last.started == Some(true);
    }

    [end(last), last_end(last)].into_iter().flatten().any(|end| end.exit_code == 0)
}

fn end(status: &api::ContainerStatus) -> Option<&api::ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

fn last_end(status: &api::ContainerStatus) -> Option<&api::ContainerStateTerminated> {
    status.last_state.as_ref()?.terminated.as_ref()
}

fn is_waiting(status: &api::ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.waiting.is_some())
}
