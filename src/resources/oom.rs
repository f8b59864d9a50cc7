//! `oom_score_adj` of a container: who is killed first when the node runs out of memory. Pure.

use k8s_openapi::api::core::v1 as api;

use super::list::{self, Column, MEMORY};
use super::qos::{self, QosClass};
use crate::model::pod;

/// The score of this process itself.
pub const KUBELET: i32 = -999;
/// The score of guaranteed and of node-critical pods.
pub const GUARANTEED: i32 = -997;
/// The score of pods that ask for nothing.
pub const BEST_EFFORT: i32 = 1000;

/// The lowest score of a burstable container: above a guaranteed one that uses all memory.
const BURSTABLE_MIN: i64 = 3;
/// The highest score of a burstable container: below one that asks for nothing.
const BURSTABLE_MAX: i64 = 999;
/// The class name of pods that are killed last.
const NODE_CRITICAL: &str = "system-node-critical";

/// The score of `container` of `pod` on a node with `memory_capacity` bytes.
///
/// A burstable container's score falls with its share of the node's memory. Where the pod as a
/// whole asks for memory, what its containers do not ask for is spread over them. A sidecar is
/// never killed before the smallest main container.
pub fn score_adj(pod: &api::Pod, container: &api::Container, memory_capacity: i64) -> i32 {
    if is_node_critical(pod) {
        return GUARANTEED;
    }
    match qos::of(pod) {
        QosClass::Guaranteed => return GUARANTEED,
        QosClass::BestEffort => return BEST_EFFORT,
        QosClass::Burstable => {}
    }
    if memory_capacity <= 0 {
        return i32::try_from(BURSTABLE_MAX).unwrap_or(BEST_EFFORT);
    }
    let spread = pod_level_share(pod);
    let score = |request: i64| {
        let share = i128::from(request.saturating_add(spread)) * 1000 / i128::from(memory_capacity);
        1000_i64.saturating_sub(i64::try_from(share).unwrap_or(i64::MAX))
    };
    let mut adj = score(request(container));
    if is_sidecar_of(pod, container) {
        let smallest = pod::main_containers(pod).iter().map(request).min().unwrap_or_default();
        adj = adj.min(score(smallest));
    }
    let adj = if adj == i64::from(BEST_EFFORT) { BURSTABLE_MAX } else { adj.max(BURSTABLE_MIN) };
    i32::try_from(adj).unwrap_or(BEST_EFFORT)
}

/// Whether the pod is of the class that is killed last.
pub fn is_node_critical(pod: &api::Pod) -> bool {
    let class = pod.spec.as_ref().and_then(|spec| spec.priority_class_name.as_deref());
    class == Some(NODE_CRITICAL) && pod::is_critical(pod)
}

fn request(container: &api::Container) -> i64 {
    list::container_amount(container, Column::Requests, MEMORY).units()
}

/// What each container gets of the pod-level request that the containers do not ask for themselves.
fn pod_level_share(pod: &api::Pod) -> i64 {
    if !list::has_pod_level_requests(pod) {
        return 0;
    }
    let Some(whole) =
        list::pod_level(pod, Column::Requests).and_then(|list| list.get(MEMORY)).map(list::parse)
    else {
        return 0;
    };
    if whole.is_zero() {
        return 0;
    }
    let asked = list::container_sum(pod, Column::Requests).get(MEMORY).copied().unwrap_or_default();
    let count = pod::main_containers(pod).len() + pod::init_containers(pod).len();
    let left = whole.units() - asked.units();
    i64::try_from(count).ok().and_then(|count| left.checked_div(count)).unwrap_or_default()
}

fn is_sidecar_of(pod: &api::Pod, container: &api::Container) -> bool {
    pod::is_sidecar(container)
        && pod::init_containers(pod).iter().any(|init| init.name == container.name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::score_adj;
    use crate::model::pod::find_container;
    use crate::resources::qos::tests::pod;

    const CAPACITY: i64 = 4_000_000_000;

    #[track_caller]
    fn check(spec: Value, container: &str, expected: i32) {
        let pod = pod(spec);
        let (_, found) = find_container(&pod, container).expect("the container");
        assert_eq!(score_adj(&pod, &found, CAPACITY), expected);
    }

    fn memory(request: &str) -> Value {
        json!({"requests": {"memory": request}})
    }

    #[test]
    fn classes_have_their_scores() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        check(json!({"containers": [{"name": "a"}]}), "a", 1000);
        check(
            json!({"containers": [{"name": "a", "resources": {"requests": full, "limits": full}}]}),
            "a",
            -997,
        );
        check(
            json!({"priorityClassName": "system-node-critical", "priority": 2_000_001_000, "containers": [{"name": "a"}]}),
            "a",
            -997,
        );
        check(
            json!({"priorityClassName": "system-cluster-critical", "priority": 2_000_000_000, "containers": [{"name": "a"}]}),
            "a",
            1000,
        );
    }

    #[test]
    fn a_burstable_score_falls_with_its_share() {
        check(
            json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}),
            "a",
            999,
        );
        check(json!({"containers": [{"name": "a", "resources": memory("400000000")}]}), "a", 900);
        check(json!({"containers": [{"name": "a", "resources": memory("4000000000")}]}), "a", 3);
        check(json!({"containers": [{"name": "a", "resources": memory("9000000000")}]}), "a", 3);
    }

    #[test]
    fn a_sidecar_survives_the_smallest_main_container() {
        let spec = |side: &str| {
            json!({"containers": [{"name": "a", "resources": memory("2000000000")}, {"name": "b", "resources": memory("1000000000")}],
                "initContainers": [{"name": "side", "restartPolicy": "Always", "resources": memory(side)},
                    {"name": "init", "resources": memory("4000000")}]})
        };
        check(spec("400000000"), "side", 750);
        check(spec("3000000000"), "side", 250);
        check(spec("400000000"), "init", 999);
    }

    #[test]
    fn a_pod_level_request_is_spread() {
        let spec = json!({"resources": memory("2000000000"),
            "containers": [{"name": "a", "resources": memory("400000000")}, {"name": "b"}]});
        check(spec.clone(), "a", 700);
        check(spec, "b", 800);
    }
}
