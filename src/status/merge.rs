//! Merges a computed status into the API's: the kubelet's fields are taken from the first, those of
//! other writers from the second. Pure.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::{DISRUPTION_TARGET, TERMINATION_BY_KUBELET, is_ours};
use crate::model::phase::is_terminal;
use crate::model::{Wall, pod};

/// The bytes of termination messages that a pod's status may have, shared by its containers.
const MESSAGE_BYTES: usize = 12 * 1024;

/// Merges a computed status into the API's. Conditions of others, claims, the nominated node and
/// the resize are the API's. A value that is set once stays. A terminal phase is never left.
pub fn merge(base: &api::PodStatus, computed: &api::PodStatus) -> api::PodStatus {
    let mut merged = computed.clone();
    merged.conditions = Some(conditions(base, computed));
    merged.nominated_node_name.clone_from(&base.nominated_node_name);
    merged.resize.clone_from(&base.resize);
    merged.resource_claim_statuses.clone_from(&base.resource_claim_statuses);
    merged.extended_resource_claim_status.clone_from(&base.extended_resource_claim_status);
    merged
        .node_allocatable_resource_claim_statuses
        .clone_from(&base.node_allocatable_resource_claim_statuses);
    merged.start_time = base.start_time.clone().or(merged.start_time);
    merged.qos_class = base.qos_class.clone().or(merged.qos_class);
    merged.observed_generation = base.observed_generation.max(merged.observed_generation);

    if is_terminal(base) && base.phase != merged.phase {
        merged.phase.clone_from(&base.phase);
        merged.reason.clone_from(&base.reason);
        merged.message.clone_from(&base.message);
    }

    merged
}

fn conditions(base: &api::PodStatus, computed: &api::PodStatus) -> Vec<api::PodCondition> {
    let ours = |condition: &&api::PodCondition| is_ours(&condition.type_);
    let mut list: Vec<api::PodCondition> =
        base.conditions.iter().flatten().filter(|condition| !ours(condition)).cloned().collect();

    for condition in computed.conditions.iter().flatten() {
        if is_ours(&condition.type_) {
            list.push(condition.clone());
        } else if condition.type_ == DISRUPTION_TARGET
            && condition.reason.as_deref() == Some(TERMINATION_BY_KUBELET)
            && is_terminal(computed)
        {
            match list.iter_mut().find(|other| other.type_ == condition.type_) {
                Some(other) => other.clone_from(condition),
                None => list.push(condition.clone()),
            }
        }
    }

    list
}

/// Brings a status to the form that the API server returns: whole seconds, messages within their
/// share, states that are present even if empty.
pub fn normalize(pod: &api::Pod, status: &mut api::PodStatus) {
    let containers = pod::main_containers(pod).len()
        + pod::init_containers(pod).len()
        + pod::ephemeral_containers(pod).len();
    let limit = MESSAGE_BYTES / containers.max(1);

    for condition in status.conditions.iter_mut().flatten() {
        truncate(&mut condition.last_probe_time);
        truncate(&mut condition.last_transition_time);
    }

    truncate(&mut status.start_time);
    let lists = [
        &mut status.container_statuses,
        &mut status.init_container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    for container in lists.into_iter().flatten().flatten() {
        for state in [&mut container.state, &mut container.last_state] {
            normalize_state(state.get_or_insert_default(), limit);
        }
    }
}

fn normalize_state(state: &mut api::ContainerState, limit: usize) {
    if let Some(running) = &mut state.running {
        truncate(&mut running.started_at);
    }
    if let Some(terminated) = &mut state.terminated {
        truncate(&mut terminated.started_at);
        truncate(&mut terminated.finished_at);
        if let Some(message) = &mut terminated.message {
            let end =
                (0..=limit.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
            message.truncate(end.unwrap_or_default());
        }
    }
}

fn truncate(time: &mut Option<Time>) {
    if let Some(Time(time)) = time
        && let Ok(second) = Wall::from_second(time.as_second())
    {
        *time = second;
    }
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "tables read better with values")]
mod tests {
    use k8s_openapi::api::core::v1 as api;
    use serde_json::{Value, json};

    use super::{merge, normalize};

    fn status(value: Value) -> api::PodStatus {
        serde_json::from_value(value).expect("a status")
    }

    #[track_caller]
    fn check(base: Value, computed: Value, expected: Value) {
        let merged = merge(&status(base), &status(computed));
        assert_eq!(serde_json::to_value(merged).expect("JSON"), expected);
    }

    #[test]
    fn keeps_what_others_say() {
        check(
            json!({"conditions": [{"type": "example.com/gate", "status": "True"}, {"type": "Ready", "status": "False"}],
                "nominatedNodeName": "n", "resourceClaimStatuses": [{"name": "c"}], "startTime": "2026-01-01T00:00:00Z"}),
            json!({"phase": "Running", "startTime": "2026-02-02T00:00:00Z", "conditions": [
                {"type": "example.com/gate", "status": "False"}, {"type": "Ready", "status": "True"}]}),
            json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "nominatedNodeName": "n",
                "resourceClaimStatuses": [{"name": "c"}],
                "conditions": [{"type": "example.com/gate", "status": "True"}, {"type": "Ready", "status": "True"}]}),
        );
    }

    #[test]
    fn drops_ours_that_are_no_more() {
        check(
            json!({"conditions": [{"type": "PodScheduled", "status": "True"}]}),
            json!({"phase": "Failed"}),
            json!({"phase": "Failed", "conditions": []}),
        );
    }

    #[test]
    fn never_leaves_a_terminal_phase() {
        check(
            json!({"phase": "Succeeded", "reason": "r"}),
            json!({"phase": "Failed", "reason": "x", "message": "y"}),
            json!({"phase": "Succeeded", "reason": "r", "conditions": []}),
        );
    }

    #[test]
    fn disruption_is_told_at_the_end_only() {
        let target =
            json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"});
        let others = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"});
        check(
            json!({"phase": "Running", "conditions": [others]}),
            json!({"phase": "Succeeded", "conditions": []}),
            json!({"phase": "Succeeded", "conditions": [others]}),
        );
        check(
            json!({"phase": "Running"}),
            json!({"phase": "Running", "conditions": [target]}),
            json!({"phase": "Running", "conditions": []}),
        );
        check(
            json!({"phase": "Running"}),
            json!({"phase": "Failed", "conditions": [target]}),
            json!({"phase": "Failed", "conditions": [target]}),
        );
    }

    #[test]
    fn messages_share_the_room() {
        let pod: api::Pod =
            serde_json::from_value(json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}))
                .expect("a pod");
        let long = "é".repeat(6000);
        let mut both = status(
            json!({"containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 0, "message": long}}}]}),
        );
        normalize(&pod, &mut both);
        let list = both.container_statuses.expect("statuses");
        let end =
            list[0].state.as_ref().and_then(|state| state.terminated.as_ref()).expect("an end");
        assert_eq!(end.message.as_ref().map(String::len), Some(6144));
        assert_eq!(list[0].last_state, Some(api::ContainerState::default()));
    }
}
