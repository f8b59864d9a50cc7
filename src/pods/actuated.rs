//! The resources of a pod that the runtime and the kernel were last asked to enforce: what outlives
//! this process in `actuated_pods_state`. Pure.
//!
//! Computed by `report` for each status; read back at adoption, since a memory request is in no
//! cgroup.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::memory::known::Known;
use crate::model::{ObservedPod, Pod, pod};
use crate::resources::allocation::{Allocation, Requirements};
use crate::resources::list::{CPU, MEMORY, Quantities};

/// The resources of the pod's newest containers, and those of the pod as a whole. `before` is what
/// is kept: the pod as a whole has it until its cgroup is resized.
pub(super) fn of(
    pod: &Pod,
    observed: &ObservedPod,
    known: &Known,
    before: Option<&Allocation>,
) -> Allocation {
    let specs = pod::main_containers(pod).iter().chain(pod::init_containers(pod));
    let containers = specs.filter_map(|spec| {
        let latest = observed.latest(&spec.name)?;
        let given = *known.given(&latest.id)?;
        Some((spec.name.clone(), resources(pod, spec, given)))
    });
    let is_current = known.cgroup.has.is_some() && !known.cgroup.is_outdated();
    let whole = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let whole = if is_current { whole } else { before.and_then(|before| before.whole.as_ref()) };
    Allocation { whole: whole.cloned(), containers: containers.collect() }
}

/// The resources of a container: as its spec writes them where that is what it has. A limit of the
/// pod is its own then.
fn resources(pod: &Pod, spec: &api::Container, given: Requirements) -> api::ResourceRequirements {
    let mut resources = spec.resources.clone().unwrap_or_default();
    let wanted = Requirements::of(pod, spec);
    let requests = [
        (CPU, wanted.cpu_request, given.cpu_request, "m"),
        (MEMORY, wanted.memory_request, given.memory_request, ""),
    ];
    let limits = [
        (CPU, wanted.cpu_limit, given.cpu_limit, "m"),
        (MEMORY, wanted.memory_limit, given.memory_limit, ""),
    ];
    for (list, amounts) in [(&mut resources.requests, requests), (&mut resources.limits, limits)] {
        for (name, wanted, given, unit) in amounts {
            set(list, name, wanted, given, unit);
        }
    }
    resources
}

/// Sets an amount in a list. One that is as the spec writes it keeps its spelling.
fn set(list: &mut Option<Quantities>, name: &str, wanted: i64, given: i64, unit: &str) {
    let is_written = list.as_ref().is_some_and(|list| list.contains_key(name));
    if wanted == given && (is_written || given == 0) {
        return;
    }
    if given == 0 {
        if let Some(list) = list {
            list.remove(name);
        }
        return;
    }
    let list = list.get_or_insert_default();
    list.insert(name.to_owned(), Quantity(format!("{given}{unit}")));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::resources;
    use crate::model::{Pod, pod};
    use crate::resources::allocation::Requirements;

    #[test]
    fn a_container_is_written_as_in_its_spec_unless_it_has_something_else() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "resources": {"limits": {"cpu": "1", "memory": "128Mi"}},
            "containers": [{"name": "c", "resources": {
                "requests": {"cpu": "0.5", "memory": "64Mi", "ephemeral-storage": "1Gi"},
                "limits": {"memory": "64Mi"}}}]}}))
        .expect("a pod");
        let spec = &pod::main_containers(&pod)[0];
        let wanted = Requirements::of(&pod, spec);
        let of = |given| serde_json::to_value(resources(&pod, spec, given)).expect("JSON");
        assert_eq!(
            of(wanted),
            json!({"requests": {"cpu": "0.5", "memory": "64Mi", "ephemeral-storage": "1Gi"},
                "limits": {"cpu": "1000m", "memory": "64Mi"}})
        );
        let other = Requirements { memory_request: 1024, cpu_request: 0, ..wanted };
        assert_eq!(of(other)["requests"], json!({"memory": "1024", "ephemeral-storage": "1Gi"}));
    }
}
