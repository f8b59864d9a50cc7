//! Whether a container that has ended is started again: the pod's policy, the container's own, and
//! its rules (KEP-5307).

use k8s_openapi::api::core::v1 as api;

use super::container_spec::ContainerSpec;
use super::types::KillReason;
use crate::model::observed::Exit;
use crate::model::reason::container::OOM_KILLED;

/// The action of a rule that has the whole pod started again in place (KEP-5532).
pub(super) const RESTART_ALL: &str = "RestartAllContainers";

/// The first of a container's rules that an exit with `exit_code` matches.
pub(super) fn matching_rule<'a>(
    spec: &ContainerSpec<'a>,
    exit_code: i32,
) -> Option<&'a api::ContainerRestartRule> {
    spec.restart_rules.iter().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.as_deref().unwrap_or_default().contains(&exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

/// Whether the policies ask for another start after an exit with `exit_code`: the first rule that
/// matches, else the container's policy, else the pod's.
pub(super) fn by_policy(spec: &ContainerSpec<'_>, pod_policy: &str, exit_code: i32) -> bool {
    let rule = matching_rule(spec, exit_code);
    // Rules count only beside a policy of the container's own; the API server asks for both.
    if spec.restart_policy.is_some() && rule.is_some_and(|rule| rule.action == "Restart") {
        return true;
    }
    match effective(spec, pod_policy) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// The policy that counts where there is no exit code: the container's, else the pod's.
fn effective<'a>(spec: &ContainerSpec<'a>, pod_policy: &'a str) -> &'a str {
    match spec.restart_policy {
        Some(policy @ ("Always" | "OnFailure" | "Never")) => policy,
        Some(_) | None => pod_policy,
    }
}

/// Whether a container that was killed for `why` is to be replaced whatever its exit code.
pub(super) fn after_kill(spec: &ContainerSpec<'_>, pod_policy: &str, why: &KillReason) -> bool {
    match why {
        KillReason::DefinitionChanged | KillReason::Unknown | KillReason::Resize => true,
        KillReason::Liveness | KillReason::Startup => effective(spec, pod_policy) != "Never",
        KillReason::SandboxChanged => pod_policy != "Never",
        KillReason::PodStopping
        | KillReason::PostStart { .. }
        | KillReason::NotWanted
        | KillReason::RestartAll => false,
    }
}

/// Whether a container that is being killed for `why` is not started again, whatever its exit code
/// will be.
pub(super) fn stays_stopped(spec: &ContainerSpec<'_>, pod_policy: &str, why: &KillReason) -> bool {
    effective(spec, pod_policy) == "Never"
        && spec.restart_rules.is_empty()
        && !after_kill(spec, pod_policy, why)
}

/// Whether an init container has failed: an OOM kill counts even where the exit code is zero.
pub(super) fn init_failed(exit: &Exit) -> bool {
    exit.exit_code != 0 || exit.reason == OOM_KILLED
}

#[cfg(test)]
mod tests {
    use super::super::container_spec::ContainerSpec;
    use super::by_policy;
    use crate::model::Pod;

    #[track_caller]
    fn check(container: &str, pod_policy: &str, restarts: &[i32], stays: &[i32]) {
        let pod: Pod = serde_json::from_str(&format!(
            r#"{{"metadata":{{}},"spec":{{"containers":[{{"name":"app","image":"i"{container}}}]}}}}"#
        ))
        .expect("a pod");
        let specs = ContainerSpec::all(&pod);
        for code in restarts {
            assert!(
                by_policy(&specs[0], pod_policy, *code),
                "{pod_policy}{container}: {code} restarts"
            );
        }
        for code in stays {
            assert!(
                !by_policy(&specs[0], pod_policy, *code),
                "{pod_policy}{container}: {code} stays"
            );
        }
    }

    #[test]
    fn follows_the_pod_then_the_container_then_the_rules() {
        check("", "Always", &[0, 1], &[]);
        check("", "OnFailure", &[1, 137], &[0]);
        check("", "Never", &[], &[0, 1]);
        check(r#","restartPolicy":"OnFailure""#, "Never", &[1], &[0]);
        check(r#","restartPolicy":"Never""#, "Always", &[], &[0, 1]);
        let rules = r#","restartPolicy":"Never","restartPolicyRules":[
            {"action":"Restart","exitCodes":{"operator":"In","values":[42,43]}}]"#;
        check(rules, "Always", &[42, 43], &[0, 1, 44]);
        let rules = r#","restartPolicy":"Never","restartPolicyRules":[
            {"action":"Restart","exitCodes":{"operator":"NotIn","values":[0,1]}}]"#;
        check(rules, "Never", &[2, 137], &[0, 1]);
    }

    #[test]
    fn leaves_the_start_of_the_whole_pod_to_others() {
        let rules = r#","restartPolicy":"Never","restartPolicyRules":[
            {"action":"RestartAllContainers","exitCodes":{"operator":"In","values":[42]}},
            {"action":"Restart","exitCodes":{"operator":"In","values":[42]}}]"#;
        check(rules, "Always", &[], &[42]);
    }
}
