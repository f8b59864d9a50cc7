//! Which containers may swap, and which resizes that rules out. Pure.
//!
//! Fed by dispatch, which decides on resizes, and by the requests to the runtime, which give a
//! container its share of the swap.

use k8s_openapi::api::core::v1 as api;

use super::list::{Column, MEMORY, container_amount};
use super::qos::{self, QosClass};
use crate::model::pod;

/// Returns true if a container swaps on a node with `LimitedSwap`: one that may use more memory
/// than it requests, in a burstable pod that is not critical.
pub fn may_swap(pod: &api::Pod, container: &api::Container) -> bool {
    let request = container_amount(container, Column::Requests, MEMORY);
    let limit = container_amount(container, Column::Limits, MEMORY);
    // Equal covers those that ask for nothing.
    !pod::is_critical(pod) && qos::of(pod) == QosClass::Burstable && request != limit
}

/// Returns true if a resize from `given` to `wanted` would change the swap of a running container:
/// upstream refuses that.
pub fn is_resized(wanted: &api::Pod, given: &api::Pod) -> bool {
    let mut containers = pod::main_containers(wanted).iter().chain(pod::init_containers(wanted));
    containers.any(|container| {
        let Some((_, before)) = pod::find_container(given, &container.name) else { return false };
        let request =
            |container: &api::Container| container_amount(container, Column::Requests, MEMORY);
        request(container) != request(&before)
            && !restarts_for_memory(&before)
            && (may_swap(wanted, container) || may_swap(given, &before))
    })
}

fn restarts_for_memory(container: &api::Container) -> bool {
    let policies = container.resize_policy.iter().flatten();
    let mut policies = policies.filter(|policy| policy.resource_name == MEMORY);
    policies.next().is_some_and(|policy| policy.restart_policy == "RestartContainer")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::is_resized;
    use crate::model::Pod;

    fn pod(request: &str, limit: &str, policy: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
            {"name": "c", "resizePolicy": policy, "resources": {
                "requests": {"memory": request}, "limits": {"memory": limit}}}]}}))
        .expect("a pod")
    }

    #[test]
    fn a_request_for_memory_decides_the_swap() {
        let none = json!([]);
        let restart = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        let given = pod("64Mi", "128Mi", &none);
        assert!(is_resized(&pod("96Mi", "128Mi", &none), &given));
        assert!(!is_resized(&pod("64Mi", "256Mi", &none), &given), "the request is the same");
        let given = pod("64Mi", "128Mi", &restart);
        assert!(!is_resized(&pod("96Mi", "128Mi", &restart), &given), "it is started anew");
    }
}
