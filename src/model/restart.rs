//! Decides whether a container that has ended is started again. Pure.
//!
//! Three things decide; the first that applies wins:
//!
//! 1. the first of the container's own rules that its exit code matches (KEP-5307); a rule may ask
//!    for a restart of the whole pod in place (KEP-5532);
//! 2. the container's own restart policy;
//! 3. the pod's restart policy.
//!
//! The planner and the status both read this file, so that a container which is shown as ended for
//! good is never started again.

use k8s_openapi::api::core::v1 as api;

/// The action of a rule that starts the container again.
const RESTART: &str = "Restart";
/// The action of a rule that starts the whole pod again in place.
const RESTART_ALL: &str = "RestartAllContainers";

/// The conditions under which a container that has ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// After every end.
    Always,
    /// After an exit code other than zero.
    OnFailure,
    /// Never.
    Never,
}

impl RestartPolicy {
    /// Reads the API's text; `None` for an unknown one.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Always" => Some(Self::Always),
            "OnFailure" => Some(Self::OnFailure),
            "Never" => Some(Self::Never),
            _ => None,
        }
    }

    /// Returns true if an exit with `exit_code` is followed by another start.
    pub const fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// The restart rules that hold for one container of a pod.
#[derive(Clone, Copy, Debug)]
pub struct RestartRules<'a> {
    pod: RestartPolicy,
    own: Option<RestartPolicy>,
    rules: &'a [api::ContainerRestartRule],
}

impl<'a> RestartRules<'a> {
    /// Reads a container's policy and rules; `pod` is the policy of its pod.
    pub fn of(pod: RestartPolicy, container: &'a api::Container) -> Self {
        Self {
            pod,
            own: container.restart_policy.as_deref().and_then(RestartPolicy::parse),
            rules: container.restart_policy_rules.as_deref().unwrap_or_default(),
        }
    }

    /// Returns the rules of a container that has none of its own.
    pub const fn of_pod(pod: RestartPolicy) -> Self {
        Self { pod, own: None, rules: &[] }
    }

    /// Returns the pod's policy.
    pub const fn pod_policy(&self) -> RestartPolicy {
        self.pod
    }

    /// Returns the policy that counts where no rule does: the container's, else the pod's.
    pub fn policy(&self) -> RestartPolicy {
        self.own.unwrap_or(self.pod)
    }

    /// Returns true if the container has rules of its own.
    pub const fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Returns true if an exit with `exit_code` is followed by another start of this container. A
    /// rule that restarts all containers is not considered: the planner carries it out by itself.
    pub fn restarts_alone(&self, exit_code: i32) -> bool {
        // Rules count only beside a policy of the container's own; the API server requires both.
        let by_rule = self.own.is_some() && self.action(exit_code) == Some(RESTART);
        by_rule || self.policy().restarts(exit_code)
    }

    /// Returns true if an exit with `exit_code` has the whole pod started again in place.
    pub fn restarts_all(&self, exit_code: i32) -> bool {
        self.action(exit_code) == Some(RESTART_ALL)
    }

    /// Returns true if an exit with `exit_code` is followed by another start of the container,
    /// alone or with all others.
    pub fn restarts(&self, exit_code: i32) -> bool {
        let with_all = self.own.is_some() && self.restarts_all(exit_code);
        with_all || self.restarts_alone(exit_code)
    }

    /// Returns the action of the first rule that matches.
    fn action(&self, exit_code: i32) -> Option<&'a str> {
        let matching = self.rules.iter().find(|rule| matches(rule, exit_code));
        matching.map(|rule| rule.action.as_str())
    }
}

/// Returns true if a rule of the container could have the whole pod started again in place.
pub fn could_restart_all(container: &api::Container) -> bool {
    let mut rules = container.restart_policy_rules.iter().flatten();
    rules.any(|rule| rule.action == RESTART_ALL)
}

fn matches(rule: &api::ContainerRestartRule, exit_code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else { return false };
    let listed = codes.values.iter().flatten().any(|code| *code == exit_code);

    match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "tables read better with values")]
mod tests {
    use k8s_openapi::api::core::v1 as api;
    use serde_json::{Value, json};

    use super::{RestartPolicy, RestartRules};

    /// Checks the consequences of an exit: another start of the container alone, of all containers,
    /// of the container in either way.
    #[track_caller]
    fn check(pod: &str, own: Value, exit_code: i32, alone: bool, all: bool, either: bool) {
        let mut container = json!({"name": "c"});
        let fields = container.as_object_mut().expect("an object");
        fields.extend(own.as_object().expect("an object").clone());
        let container: api::Container = serde_json::from_value(container).expect("a container");
        let pod = RestartPolicy::parse(pod).expect("a policy");

        let rules = RestartRules::of(pod, &container);
        assert_eq!(rules.restarts_alone(exit_code), alone, "alone after {exit_code}");
        assert_eq!(rules.restarts_all(exit_code), all, "all after {exit_code}");
        assert_eq!(rules.restarts(exit_code), either, "either after {exit_code}");
    }

    #[track_caller]
    fn restarts(pod: &str, own: Value, exit_code: i32) {
        check(pod, own, exit_code, true, false, true);
    }

    #[track_caller]
    fn stays(pod: &str, own: Value, exit_code: i32) {
        check(pod, own, exit_code, false, false, false);
    }

    #[test]
    fn the_pods_policy_holds_for_containers_without_one() {
        restarts("Always", json!({}), 0);
        restarts("Always", json!({}), 1);
        restarts("OnFailure", json!({}), 1);
        restarts("OnFailure", json!({}), 137);
        stays("OnFailure", json!({}), 0);
        stays("Never", json!({}), 0);
        stays("Never", json!({}), 1);
    }

    #[test]
    fn a_containers_policy_goes_before_the_pods() {
        restarts("Never", json!({"restartPolicy": "Always"}), 0);
        restarts("Never", json!({"restartPolicy": "OnFailure"}), 1);
        stays("Never", json!({"restartPolicy": "OnFailure"}), 0);
        stays("Always", json!({"restartPolicy": "Never"}), 0);
        stays("Always", json!({"restartPolicy": "Never"}), 1);
    }

    #[test]
    fn the_first_rule_that_matches_goes_before_both() {
        let rules = json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [42, 43]}}]});
        restarts("Always", rules.clone(), 42);
        restarts("Always", rules.clone(), 43);
        stays("Always", rules.clone(), 0);
        stays("Always", rules, 44);
        let rules = json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0, 1]}}]});
        restarts("Never", rules.clone(), 2);
        restarts("Never", rules.clone(), 137);
        stays("Never", rules.clone(), 0);
        stays("Never", rules, 1);
    }

    #[test]
    fn a_rule_for_all_is_not_one_for_the_container_alone() {
        let rules = json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}},
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]});
        check("Always", rules, 42, false, true, true);
        let rules = json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}}]});
        check("Never", rules.clone(), 1, false, true, true);
        stays("Never", rules, 0);
    }
}
