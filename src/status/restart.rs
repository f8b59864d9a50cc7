//! Whether a container that has ended is started again: its own policy and rules, else the pod's.
//! Pure.

use k8s_openapi::api::core::v1 as api;

use crate::model::pod;

/// The rule's action that starts this container again.
const RESTART: &str = "Restart";
/// The rule's action that starts the whole pod again in place.
const RESTART_ALL: &str = "RestartAllContainers";

/// Whether the container is started again after it ended with `exit_code`.
pub fn restarts(pod: &api::Pod, container: &api::Container, exit_code: i32) -> bool {
    let by_policy = |policy: &str| match policy {
        "OnFailure" => exit_code != 0,
        "Never" => false,
        _ => true,
    };
    let Some(own) = container.restart_policy.as_deref() else {
        return by_policy(pod::restart_policy(pod));
    };
    if matching_rule(container, exit_code)
        .is_some_and(|rule| rule.action == RESTART || rule.action == RESTART_ALL)
    {
        return true;
    }
    match own {
        "Always" | "OnFailure" | "Never" => by_policy(own),
        _ => by_policy(pod::restart_policy(pod)),
    }
}

/// Whether a container that ended with `exit_code` has the whole pod started again in place.
pub fn restarts_all(container: &api::Container, exit_code: i32) -> bool {
    matching_rule(container, exit_code).is_some_and(|rule| rule.action == RESTART_ALL)
}

/// Whether any rule of the pod could have the whole pod started again in place.
pub fn could_restart_all(pod: &api::Pod) -> bool {
    pod::init_containers(pod)
        .iter()
        .chain(pod::main_containers(pod))
        .flat_map(|container| container.restart_policy_rules.iter().flatten())
        .any(|rule| rule.action == RESTART_ALL)
}

fn matching_rule(container: &api::Container, exit_code: i32) -> Option<&api::ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "tables read better with values")]
mod tests {
    use serde_json::{Value, json};

    use super::restarts;
    use crate::model::Pod;

    #[track_caller]
    fn check(pod_policy: &str, container: Value, exit_code: i32, expected: bool) {
        let mut own = json!({"name": "c"});
        own.as_object_mut()
            .expect("an object")
            .extend(container.as_object().expect("an object").clone());
        let pod: Pod = serde_json::from_value(
            json!({"spec": {"restartPolicy": pod_policy, "containers": [own]}}),
        )
        .expect("a pod");
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        assert_eq!(restarts(&pod, container, exit_code), expected);
    }

    #[test]
    fn by_the_pods_policy() {
        for (policy, code, expected) in [
            ("Always", 0, true),
            ("OnFailure", 0, false),
            ("OnFailure", 1, true),
            ("Never", 1, false),
        ] {
            check(policy, json!({}), code, expected);
        }
    }

    #[test]
    fn by_its_own() {
        check("Never", json!({"restartPolicy": "Always"}), 0, true);
        check("Always", json!({"restartPolicy": "Never"}), 1, false);
        let rules = json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]});
        check("Always", rules.clone(), 42, true);
        check("Always", rules, 43, false);
        let rules = json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}}]});
        check("Never", rules.clone(), 1, true);
        check("Never", rules, 0, false);
    }
}
