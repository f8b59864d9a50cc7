//! Where a pod may run: affinity, tolerations, spreading. Pure.
//!
//! A static pod is on its node already; the API refuses a mirror pod that breaks these rules.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration,
    TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::names;
use super::problems::Problems;

/// Checks a set of labels.
pub(super) fn labels(problems: &mut Problems, path: &str, labels: &BTreeMap<String, String>) {
    for (key, value) in labels {
        problems.name(path, key, names::qualified);
        problems.name(path, value, names::label_value);
    }
}

pub(super) fn affinity(problems: &mut Problems, spec: &PodSpec) {
    let Some(affinity) = &spec.affinity else { return };
    let path = "spec.affinity";
    if let Some(node) = &affinity.node_affinity {
        let path = format!("{path}.nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            let path = format!("{path}.requiredDuringSchedulingIgnoredDuringExecution");
            let path = format!("{path}.nodeSelectorTerms");
            if required.node_selector_terms.is_empty() {
                problems.required_for(&path, "must have at least one node selector term");
            }
            for (index, term) in required.node_selector_terms.iter().enumerate() {
                node_term(problems, &format!("{path}[{index}]"), term, Values::Checked);
            }
        }
        let preferred = node.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (index, term) in preferred.enumerate() {
            let path = format!("{path}.preferredDuringSchedulingIgnoredDuringExecution[{index}]");
            weight(problems, &path, term.weight);
            // As upstream: on a cluster of one node such a preference does no harm.
            let path = format!("{path}.preference");
            node_term(problems, &path, &term.preference, Values::Any);
        }
    }

    let near = affinity.pod_affinity.as_ref().map(|found| {
        (
            &found.required_during_scheduling_ignored_during_execution,
            &found.preferred_during_scheduling_ignored_during_execution,
        )
    });
    let far = affinity.pod_anti_affinity.as_ref().map(|found| {
        (
            &found.required_during_scheduling_ignored_during_execution,
            &found.preferred_during_scheduling_ignored_during_execution,
        )
    });
    for (field, terms) in [("podAffinity", near), ("podAntiAffinity", far)] {
        let Some((required, preferred)) = terms else { continue };
        let path = format!("{path}.{field}");
        for (index, term) in required.iter().flatten().enumerate() {
            let path = format!("{path}.requiredDuringSchedulingIgnoredDuringExecution[{index}]");
            pod_term(problems, &path, term);
        }
        for (index, term) in preferred.iter().flatten().enumerate() {
            let path = format!("{path}.preferredDuringSchedulingIgnoredDuringExecution[{index}]");
            weight(problems, &path, term.weight);
            pod_term(problems, &format!("{path}.podAffinityTerm"), &term.pod_affinity_term);
        }
    }
}

fn weight(problems: &mut Problems, path: &str, weight: i32) {
    if !(1..=100).contains(&weight) {
        problems.invalid(format!("{path}.weight"), weight, "must be in the range 1-100");
    }
}

/// Whether the values of a term have to be values that a label can have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Checked,
    Any,
}

fn node_term(problems: &mut Problems, path: &str, term: &NodeSelectorTerm, values: Values) {
    for (index, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        node_requirement(problems, &path, requirement);
        problems.name(format!("{path}.key"), &requirement.key, names::qualified);
        let checked = requirement.values.iter().flatten().filter(|_| values == Values::Checked);
        for (index, value) in checked.enumerate() {
            problems.name(format!("{path}.values[{index}]"), value, names::label_value);
        }
    }
    for (index, requirement) in term.match_fields.iter().flatten().enumerate() {
        let path = format!("{path}.matchFields[{index}]");
        let values = requirement.values.as_deref().unwrap_or_default();
        if !matches!(requirement.operator.as_str(), "In" | "NotIn") {
            let why = "not a valid selector operator";
            problems.invalid(format!("{path}.operator"), &requirement.operator, why);
        } else if values.len() != 1 {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field \
                       selector";
            problems.required_for(format!("{path}.values"), why);
        }
        if requirement.key == "metadata.name" {
            for (index, value) in values.iter().enumerate() {
                problems.name(format!("{path}.values[{index}]"), value, names::subdomain);
            }
        } else {
            let why = "not a valid field selector key";
            problems.invalid(format!("{path}.key"), &requirement.key, why);
        }
    }
}

fn node_requirement(problems: &mut Problems, path: &str, requirement: &NodeSelectorRequirement) {
    let count = requirement.values.as_ref().map_or(0, Vec::len);
    let values = format!("{path}.values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if count == 0 => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            problems.required_for(values, why);
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            problems.forbidden(values, why);
        }
        "Gt" | "Lt" if count != 1 => {
            let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            problems.required_for(values, why);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        operator => {
            let why = "not a valid selector operator";
            problems.invalid(format!("{path}.operator"), operator, why);
        }
    }
}

fn pod_term(problems: &mut Problems, path: &str, term: &PodAffinityTerm) {
    selector(problems, &format!("{path}.labelSelector"), term.label_selector.as_ref());
    selector(problems, &format!("{path}.namespaceSelector"), term.namespace_selector.as_ref());
    for name in term.namespaces.iter().flatten() {
        problems.name(format!("{path}.namespace"), name, names::label);
    }
    let keys = Keys {
        matching: term.match_label_keys.as_deref().unwrap_or_default(),
        differing: term.mismatch_label_keys.as_deref().unwrap_or_default(),
    };
    label_keys(problems, path, keys, term.label_selector.as_ref());
    if term.topology_key.is_empty() {
        problems.required_for(format!("{path}.topologyKey"), "can not be empty");
    }
    problems.name(format!("{path}.topologyKey"), &term.topology_key, names::qualified);
}

/// The keys of labels whose values the pod itself gives.
#[derive(Clone, Copy)]
struct Keys<'a> {
    matching: &'a [String],
    differing: &'a [String],
}

fn label_keys(
    problems: &mut Problems,
    path: &str,
    keys: Keys<'_>,
    selector: Option<&LabelSelector>,
) {
    for (field, keys) in [("matchLabelKeys", keys.matching), ("mismatchLabelKeys", keys.differing)]
    {
        let path = format!("{path}.{field}");
        if selector.is_none() && !keys.is_empty() {
            problems.forbidden(&path, "must not be specified when labelSelector is not set");
            continue;
        }
        for (index, key) in keys.iter().enumerate() {
            problems.name(format!("{path}[{index}]"), key, names::qualified);
        }
    }

    // A requirement that the selector has twice is one that stands for a key of `matchLabelKeys`.
    if let Some(selector) = selector {
        let labels = selector.match_labels.iter().flatten();
        let mut seen: BTreeSet<&str> = labels.map(|(key, _)| key.as_str()).collect();
        for requirement in selector.match_expressions.iter().flatten() {
            let key = requirement.key.as_str();
            let index = keys.matching.iter().rposition(|found| found == key);
            if let Some(index) = index.filter(|_| seen.contains(key)) {
                let why = "exists in both matchLabelKeys and labelSelector";
                problems.invalid(format!("{path}[{index}]"), key, why);
            }
            seen.insert(key);
        }
    }
    for (index, key) in keys.matching.iter().enumerate() {
        if keys.differing.contains(key) {
            let why = "exists in both matchLabelKeys and mismatchLabelKeys";
            problems.invalid(format!("{path}.matchLabelKeys[{index}]"), key, why);
        }
    }
}

/// Checks the gates of a pod. One that has a node must have none left.
pub(super) fn gates(problems: &mut Problems, spec: &PodSpec) {
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    for (index, gate) in gates.iter().enumerate() {
        let path = format!("spec.schedulingGates[{index}]");
        problems.name(&path, &gate.name, names::qualified);
        if gates[..index].iter().any(|other| other.name == gate.name) {
            problems.duplicate(path, &gate.name);
        }
    }
    if !gates.is_empty() {
        let why = "cannot be set until all schedulingGates have been cleared";
        problems.forbidden("spec.nodeName", why);
    }
}

pub(super) fn selector(problems: &mut Problems, path: &str, selector: Option<&LabelSelector>) {
    let Some(selector) = selector else { return };
    if let Some(found) = &selector.match_labels {
        labels(problems, &format!("{path}.matchLabels"), found);
    }
    for (index, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let values = requirement.values.as_deref().unwrap_or_default();
        match requirement.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                problems.required_for(format!("{path}.values"), why);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                problems.forbidden(format!("{path}.values"), why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            operator => {
                let why = "not a valid selector operator";
                problems.invalid(format!("{path}.operator"), operator, why);
            }
        }
        problems.name(format!("{path}.key"), &requirement.key, names::qualified);
        for (index, value) in values.iter().enumerate() {
            problems.name(format!("{path}.values[{index}]"), value, names::label_value);
        }
    }
}

pub(super) fn tolerations(problems: &mut Problems, all: &str, tolerations: &[Toleration]) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = format!("{all}[{index}]");
        let key = toleration.key.as_deref().unwrap_or_default();
        let operator = toleration.operator.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let operator_path = format!("{path}.operator");
        if !key.is_empty() {
            problems.name(format!("{path}.key"), key, names::qualified);
        } else if operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values \
                       and all keys\"";
            problems.invalid(&operator_path, operator, why);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            problems.invalid(format!("{path}.effect"), effect, why);
        }
        match operator {
            "Equal" | "" => {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    problems.invalid(&operator_path, value, wrong.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                problems.invalid(&operator_path, value, why);
            }
            "Exists" => {}
            // These two have an alpha gate.
            "Lt" | "Gt" => {
                let supported = ["Equal", "Exists", "Lt", "Gt"].map(|name| format!("{name:?}"));
                problems.0.push(format!(
                    "{operator_path}: Unsupported value: {operator:?}: supported values: {}",
                    supported.join(", ")
                ));
            }
            _ => problems.one_of(&operator_path, Some(operator), &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            problems.one_of(format!("{path}.effect"), Some(effect), &effects);
        }
    }
}

pub(super) fn spreading(problems: &mut Problems, constraints: &[TopologySpreadConstraint]) {
    for (index, constraint) in constraints.iter().enumerate() {
        let path = format!("spec.topologySpreadConstraints[{index}]");
        let action = constraint.when_unsatisfiable.as_str();
        problems.positive(format!("{path}.maxSkew"), constraint.max_skew.into());
        if constraint.topology_key.is_empty() {
            problems.required_for(format!("{path}.topologyKey"), "can not be empty");
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        problems.one_of(format!("{path}.whenUnsatisfiable"), Some(action), &actions);
        let is_again = constraints[index + 1..].iter().any(|other| {
            other.topology_key == constraint.topology_key && other.when_unsatisfiable == action
        });
        if is_again {
            let pair = format!("{{{}, {action}}}", constraint.topology_key);
            problems.duplicate(format!("{path}.{{topologyKey, whenUnsatisfiable}}"), &pair);
        }
        if let Some(domains) = constraint.min_domains {
            let path = format!("{path}.minDomains");
            problems.positive(&path, domains.into());
            if action != "DoNotSchedule" {
                let why = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                );
                problems.invalid(path, domains, why);
            }
        }
        for (field, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            let policies = ["Honor", "Ignore"];
            problems.one_of(format!("{path}.{field}"), policy.as_deref(), &policies);
        }
        let keys = Keys {
            matching: constraint.match_label_keys.as_deref().unwrap_or_default(),
            differing: &[],
        };
        label_keys(problems, &path, keys, constraint.label_selector.as_ref());
        selector(problems, &format!("{path}.labelSelector"), constraint.label_selector.as_ref());
    }
}
