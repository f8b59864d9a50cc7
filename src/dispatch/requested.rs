//! Which changes of resources a newer object of a pod asks for, as upstream counts them. Pure.

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};

use crate::model::quantity::Amount;
use crate::model::{Pod, pod};
use crate::resources::list::{CPU, MEMORY};

/// Returns the changes, each as its resource, its requirement (`requests`, `limits`) and its
/// operation (`add`, `remove`, `increase`, `decrease`).
pub(super) fn operations(older: &Pod, newer: &Pod) -> Vec<[&'static str; 3]> {
    let kinds = [pod::init_containers, pod::main_containers];
    let pairs = kinds.into_iter().flat_map(|containers| {
        let newer = containers(newer);
        containers(older).iter().filter_map(move |old| {
            let new = newer.iter().find(|new| new.name == old.name)?;
            Some((old, new))
        })
    });

    let mut operations = Vec::new();
    for (old, new) in pairs {
        for resource in [MEMORY, CPU] {
            for requirement in ["requests", "limits"] {
                let amount = |of: &Container| amount(of, requirement, resource);
                let operation = operation(amount(old), amount(new));
                operations.extend(operation.map(|name| [resource, requirement, name]));
            }
        }
    }
    operations
}

fn amount(container: &Container, requirement: &str, resource: &str) -> Amount {
    let of = |resources: &ResourceRequirements| {
        let list = match requirement {
            "limits" => resources.limits.as_ref(),
            _ => resources.requests.as_ref(),
        };
        list.and_then(|list| Amount::parse(&list.get(resource)?.0).ok())
    };
    container.resources.as_ref().and_then(of).unwrap_or_default()
}

fn operation(old: Amount, new: Amount) -> Option<&'static str> {
    match (old.is_zero(), new.is_zero()) {
        (false, true) => Some("remove"),
        (true, false) => Some("add"),
        (true, true) | (false, false) if new < old => Some("decrease"),
        (true, true) | (false, false) if new > old => Some("increase"),
        (true, true) | (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(init: &Value, main: &Value) -> Pod {
        let pod = json!({"spec": {"initContainers": [{"name": "i", "resources": init}],
            "containers": [{"name": "c", "resources": main}]}});
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn each_change_has_its_operation() {
        let older = pod(
            &json!({"requests": {"cpu": "1"}}),
            &json!({"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}),
        );
        assert!(operations(&older, &older).is_empty());
        let newer = pod(
            &json!({"requests": {"cpu": "1000m"}}),
            &json!({"requests": {"cpu": "0.2", "memory": "512Mi"}, "limits": {"cpu": "1"}}),
        );
        assert_eq!(
            operations(&older, &newer),
            [
                ["memory", "requests", "decrease"],
                ["memory", "limits", "remove"],
                ["cpu", "requests", "increase"],
                ["cpu", "limits", "add"],
            ]
        );
    }
}
