//! What a pod has been given of the node, as opposed to what its spec asks for now: the two differ
//! while a resize in place has to wait. Pure.
//!
//! Fed by dispatch, which decides on resizes, and by the pods' tasks, which carry them out.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;

use super::cpu;
use super::list::{CPU, Column, MEMORY, Quantities, amount, amounts, column, container_amount};
use crate::model::observed::AppliedResources;
use crate::model::pod;

/// The resources that a pod was given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation {
    /// Those of the pod as a whole.
    pub whole: Option<api::ResourceRequirements>,
    /// Those of its containers by name; ephemeral ones have none.
    pub containers: BTreeMap<String, api::ResourceRequirements>,
}

/// The condition of a pod whose resize has to wait.
pub const RESIZE_PENDING: &str = "PodResizePending";
/// The condition of a pod whose resize is being carried out.
pub const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

/// What the pod's spec asks for.
pub fn of(pod: &api::Pod) -> Allocation {
    let containers = pod::main_containers(pod).iter().chain(pod::init_containers(pod));
    let containers = containers
        .map(|container| (container.name.clone(), container.resources.clone().unwrap_or_default()));
    Allocation { whole: whole(pod).cloned(), containers: containers.collect() }
}

/// What the pod had been given before this process, by its status: where a resize waited, and where
/// the spec asks for other requests than were given. The latter is a resize that was asked for
/// while nothing looked. Limits are not kept in the status as given, only as applied; where the
/// requests are as the spec has them, a resize that was granted may still be under way, and the
/// spec counts.
pub fn recorded(pod: &api::Pod) -> Allocation {
    let mut allocation = of(pod);
    let Some(status) = &pod.status else { return allocation };
    let waits =
        status.conditions.iter().flatten().any(|condition| condition.type_ == RESIZE_PENDING);
    if let Some(own) = &mut allocation.whole {
        let given = given_to_whole(pod, status, own);
        restore(own, given.as_ref(), status.resources.as_ref(), waits);
    }
    let statuses =
        status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    for status in statuses {
        let Some(own) = allocation.containers.get_mut(&status.name) else { continue };
        restore(own, status.allocated_resources.as_ref(), status.resources.as_ref(), waits);
    }
    allocation
}

/// The requests of the pod as a whole by its status, which says what the pod counts for: with its
/// overhead, and with the sum of its containers where it asks for nothing as a whole.
fn given_to_whole(
    pod: &api::Pod,
    status: &api::PodStatus,
    own: &api::ResourceRequirements,
) -> Option<Quantities> {
    if pod.spec.as_ref().is_some_and(|spec| spec.overhead.is_some()) {
        return None;
    }
    let given = status.allocated_resources.as_ref()?;
    let asked = own.requests.as_ref()?;
    let given = given.iter().filter(|(name, _)| asked.contains_key(*name));
    Some(given.map(|(name, amount)| (name.clone(), amount.clone())).collect())
}

/// Replaces `own` by what the status says was given and applied, if a resize waits or `own` asks
/// for other requests.
fn restore(
    own: &mut api::ResourceRequirements,
    given: Option<&Quantities>,
    applied: Option<&api::ResourceRequirements>,
    waits: bool,
) {
    let asks_for_more = given.is_some_and(|given| is_resized(given, own));
    let Some(applied) = applied.filter(|_| waits || asks_for_more) else { return };
    own.limits.clone_from(&applied.limits);
    own.requests = given.cloned().or_else(|| applied.requests.clone());
}

/// Whether what can be resized of the requests is other than what was given.
fn is_resized(given: &Quantities, own: &api::ResourceRequirements) -> bool {
    let given = amounts(Some(given));
    let own = amounts(column(Some(own), Column::Requests));
    [CPU, MEMORY].into_iter().any(|name| given.get(name) != own.get(name))
}

/// The pod with what it has been given in the place of what it asks for; `None` where that is the
/// same.
pub fn apply(pod: &api::Pod, allocation: &Allocation) -> Option<api::Pod> {
    let differs = |container: &api::Container| {
        let own = container.resources.clone().unwrap_or_default();
        allocation.containers.get(&container.name).is_some_and(|given| !is_same(given, &own))
    };
    let is_whole_resized = is_whole_resized(pod, allocation);
    let mut containers = pod::main_containers(pod).iter().chain(pod::init_containers(pod));
    if !is_whole_resized && !containers.any(differs) {
        return None;
    }
    let mut given = pod.clone();
    let spec = given.spec.as_mut()?;
    if is_whole_resized {
        spec.resources.clone_from(&allocation.whole);
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let own = allocation.containers.get(&container.name);
        if let Some(own) = own.filter(|_| differs(container)) {
            container.resources = Some(own.clone());
        }
    }
    Some(given)
}

/// Returns true if the pod asks for other resources as a whole than it was given.
pub fn is_whole_resized(pod: &api::Pod, allocation: &Allocation) -> bool {
    let none = api::ResourceRequirements::default();
    let given = allocation.whole.as_ref().unwrap_or(&none);
    !is_same(given, whole(pod).unwrap_or(&none))
}

fn whole(pod: &api::Pod) -> Option<&api::ResourceRequirements> {
    pod.spec.as_ref()?.resources.as_ref()
}

/// Whether the two mean the same, however they are spelled.
fn is_same(a: &api::ResourceRequirements, b: &api::ResourceRequirements) -> bool {
    [Column::Requests, Column::Limits]
        .into_iter()
        .all(|which| amounts(column(Some(a), which)) == amounts(column(Some(b), which)))
}

/// CPU (in thousandths) and memory (in bytes) of one container; zero: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// The CPU request.
    pub cpu_request: i64,
    /// The CPU limit.
    pub cpu_limit: i64,
    /// The memory request.
    pub memory_request: i64,
    /// The memory limit.
    pub memory_limit: i64,
}

impl Requirements {
    /// Reads what a container of the pod asks for. A limit of the pod as a whole holds for the
    /// containers that have none of their own: the runtime is told so when it creates them.
    pub fn of(pod: &api::Pod, container: &api::Container) -> Self {
        let whole = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
        let limit = |name: &str| {
            let own = container_amount(container, Column::Limits, name);
            if own.is_zero() { amount(whole, Column::Limits, name) } else { own }
        };
        Self {
            cpu_request: container_amount(container, Column::Requests, CPU).milli(),
            cpu_limit: limit(CPU).milli(),
            memory_request: container_amount(container, Column::Requests, MEMORY).units(),
            memory_limit: limit(MEMORY).units(),
        }
    }

    /// What a container that was met running has, given what it should have and what an earlier
    /// process has `kept` of it: what the runtime says, else what was kept, else what it should
    /// have. The memory request is nowhere to be seen.
    pub fn adopted(
        wanted: Self,
        applied: Option<&AppliedResources>,
        kept: Option<&api::ResourceRequirements>,
    ) -> Self {
        let mut has = kept.map_or(wanted, Self::written);
        let Some(applied) = applied else { return has };
        let asked = if wanted.cpu_request == 0 { wanted.cpu_limit } else { wanted.cpu_request };
        if let Some(shares) = applied.cpu_shares.filter(|shares| *shares > 0) {
            let is_same = u64::try_from(shares).is_ok_and(|shares| shares == cpu::shares(asked));
            has.cpu_request =
                if is_same { wanted.cpu_request } else { cpu::milli_of_shares(shares) };
        }
        if let (Some(quota), Some(period)) =
            (applied.cpu_quota, applied.cpu_period.filter(|period| *period > 0))
            && quota > 0
        {
            let is_same = u64::try_from(period)
                .is_ok_and(|period| quota == cpu::quota(wanted.cpu_limit, period));
            has.cpu_limit =
                if is_same { wanted.cpu_limit } else { cpu::milli_of_quota(quota, period) };
        }
        if let Some(limit) = applied.memory_limit.filter(|limit| *limit > 0) {
            has.memory_limit = limit;
        }
        has
    }

    /// What a list says.
    fn written(resources: &api::ResourceRequirements) -> Self {
        let of = |which, name| amount(Some(resources), which, name);
        Self {
            cpu_request: of(Column::Requests, CPU).milli(),
            cpu_limit: of(Column::Limits, CPU).milli(),
            memory_request: of(Column::Requests, MEMORY).units(),
            memory_limit: of(Column::Limits, MEMORY).units(),
        }
    }
}

/// Returns true if a container has to be started anew to be given `wants` instead of `has`: its
/// resize policy asks for that for a resource that differs.
pub fn needs_restart(
    policies: &[api::ContainerResizePolicy],
    has: Requirements,
    wants: Requirements,
) -> bool {
    let restarts_for = |resource: &str| {
        let policy = policies.iter().find(|policy| policy.resource_name == resource);
        policy.is_some_and(|policy| policy.restart_policy == "RestartContainer")
    };
    let cpu = (has.cpu_request, has.cpu_limit) != (wants.cpu_request, wants.cpu_limit);
    let memory =
        (has.memory_request, has.memory_limit) != (wants.memory_request, wants.memory_limit);
    (cpu && restarts_for(CPU)) || (memory && restarts_for(MEMORY))
}

/// What each container of the pod asks for of CPU and memory.
pub fn requirements(pod: &api::Pod) -> BTreeMap<String, Requirements> {
    let containers = pod::main_containers(pod).iter().chain(pod::init_containers(pod));
    containers.map(|container| (container.name.clone(), Requirements::of(pod, container))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Requirements, apply, needs_restart, of, recorded, requirements};
    use crate::model::Pod;
    use crate::model::observed::AppliedResources;

    fn pod(cpu: &str, status: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}, "limits": {"memory": "64Mi"}}}]}}))
        .expect("a pod")
    }

    #[test]
    fn a_pod_shows_what_it_was_given() {
        let before = of(&pod("1", &json!({})));
        assert!(apply(&pod("1000m", &json!({})), &before).is_none(), "the same in other words");
        let given = apply(&pod("2", &json!({})), &before).expect("it differs");
        assert_eq!(requirements(&given)["c"].cpu_request, 1000);
    }

    #[test]
    fn what_waited_before_a_restart_still_waits() {
        let container = json!({"name": "c", "ready": true, "restartCount": 0, "image": "", "imageID": "",
            "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "64Mi"}}});
        let waits = json!({"conditions": [{"type": "PodResizePending", "status": "True"}], "containerStatuses": [container]});
        assert!(apply(&pod("2", &waits), &recorded(&pod("2", &waits))).is_some());
        let asked_meanwhile = json!({"containerStatuses": [container]});
        let given = recorded(&pod("2", &asked_meanwhile));
        assert!(apply(&pod("2", &asked_meanwhile), &given).is_some(), "nothing has granted it");
        let settled = recorded(&pod("1", &asked_meanwhile));
        assert!(apply(&pod("1", &asked_meanwhile), &settled).is_none());
    }

    #[test]
    fn a_pod_as_a_whole_shows_what_it_was_given() {
        let of_cpu = |cpu: &str, status: &serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {}, "status": status, "spec": {
                "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}},
                "containers": [{"name": "c"}]}}))
            .expect("a pod")
        };
        let before = of(&of_cpu("1", &json!({})));
        assert!(apply(&of_cpu("1000m", &json!({})), &before).is_none());
        let asks = of_cpu("2", &json!({}));
        let given = apply(&asks, &before).expect("it differs");
        assert_eq!(of(&given), before);

        let status = json!({"allocatedResources": {"cpu": "1"},
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}});
        assert_eq!(recorded(&of_cpu("2", &status)), before, "asked for while nothing looked");
        assert_eq!(recorded(&of_cpu("1", &status)), before);
    }

    #[test]
    fn a_granted_resize_that_is_under_way_stays_granted() {
        let container = json!({"name": "c", "ready": true, "restartCount": 0, "image": "", "imageID": "",
            "allocatedResources": {"cpu": "2"}, "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "32Mi"}}});
        let under_way = pod("2", &json!({"containerStatuses": [container]}));
        assert!(apply(&under_way, &recorded(&under_way)).is_none());
    }

    #[test]
    fn a_limit_of_the_pod_is_no_resize_of_a_container_without_one() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "resources": {"limits": {"cpu": "1", "memory": "256Mi"}},
            "containers": [
                {"name": "none", "resources": {}},
                {"name": "own", "resources": {"limits": {"memory": "64Mi"}}}]}}))
        .expect("a pod");
        let asked = requirements(&pod);
        assert_eq!(asked["own"].memory_limit, 64 << 20);

        // As the runtime was asked to run it, before this process.
        let applied = AppliedResources {
            cpu_shares: Some(1024),
            cpu_quota: Some(100_000),
            cpu_period: Some(100_000),
            memory_limit: Some(256 << 20),
        };
        assert_eq!(Requirements::adopted(asked["none"], Some(&applied), None), asked["none"]);
    }

    #[test]
    fn a_resize_policy_asks_for_a_restart_by_resource() {
        let policies =
            serde_json::from_value::<Vec<k8s_openapi::api::core::v1::ContainerResizePolicy>>(
                json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"},
                {"resourceName": "cpu", "restartPolicy": "NotRequired"}]),
            )
            .expect("policies");
        let has = Requirements { cpu_request: 250, memory_request: 1, ..Requirements::default() };
        assert!(!needs_restart(&policies, has, has));
        assert!(!needs_restart(&policies, has, Requirements { cpu_request: 500, ..has }));
        assert!(needs_restart(&policies, has, Requirements { memory_request: 2, ..has }));
        assert!(!needs_restart(&[], has, Requirements { memory_request: 2, ..has }));
    }

    #[test]
    fn what_runs_is_compared_with_what_the_runtime_says() {
        let wanted = Requirements {
            cpu_request: 250,
            cpu_limit: 500,
            memory_request: 1,
            memory_limit: 64 << 20,
        };
        let mut applied = AppliedResources {
            cpu_shares: Some(256),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory_limit: Some(64 << 20),
        };
        assert_eq!(Requirements::adopted(wanted, Some(&applied), None), wanted);
        assert_eq!(Requirements::adopted(wanted, None, None), wanted);
        applied.cpu_quota = Some(20_000);
        assert_eq!(Requirements::adopted(wanted, Some(&applied), None).cpu_limit, 200);

        let kept = serde_json::from_value(json!({"requests": {"cpu": "1", "memory": "2"}}));
        let kept = kept.expect("resources");
        let has = Requirements::adopted(wanted, Some(&applied), Some(&kept));
        assert_eq!((has.cpu_request, has.memory_request), (250, 2), "the runtime knows better");
    }
}
