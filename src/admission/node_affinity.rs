//! `nodeSelector` and the required node affinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;

use super::{AdmitInput, Misfit, NodeView};

pub(super) const NAME: &str = "NodeAffinity";

pub(super) fn check(input: &AdmitInput<'_>) -> Option<Misfit> {
    let matches = input.pod.spec.as_ref().is_none_or(|spec| {
        let selector = spec.node_selector.iter().flatten();
        let required = spec.affinity.as_ref().and_then(|affinity| {
            affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
        });
        selector.into_iter().all(|(key, value)| input.node.labels.get(key) == Some(value))
            && required
                .is_none_or(|selector| selector.node_selector_terms.iter().any(|term| matches_term(&input.node, term)))
    });
    (!matches)
        .then_some(Misfit::Predicate { name: NAME, description: "node(s) didn't match Pod's node affinity/selector" })
}

/// All of a term's requirements hold. A term without any matches nothing, nor does one that makes no sense.
fn matches_term(node: &NodeView<'_>, term: &api::NodeSelectorTerm) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let is_empty = expressions.is_empty() && fields.is_empty();
    !is_empty
        && expressions.iter().all(|requirement| matches_label(node.labels, requirement))
        && fields.iter().all(|requirement| matches_field(node.name, requirement))
}

fn matches_label(labels: &BTreeMap<String, String>, requirement: &api::NodeSelectorRequirement) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let label = labels.get(&requirement.key);
    match requirement.operator.as_str() {
        "In" => label.is_some_and(|label| values.contains(label)),
        "NotIn" => !values.is_empty() && label.is_none_or(|label| !values.contains(label)),
        "Exists" => values.is_empty() && label.is_some(),
        "DoesNotExist" => values.is_empty() && label.is_none(),
        "Gt" => compare(label, values).is_some_and(|(label, value)| label > value),
        "Lt" => compare(label, values).is_some_and(|(label, value)| label < value),
        _ => false,
    }
}

fn compare(label: Option<&String>, values: &[String]) -> Option<(i64, i64)> {
    let [value] = values else { return None };
    Some((label?.parse().ok()?, value.parse().ok()?))
}

/// Fields are the node's name only; any other is as if it were empty.
fn matches_field(node_name: &str, requirement: &api::NodeSelectorRequirement) -> bool {
    let Some([value]) = requirement.values.as_deref() else { return false };
    let field = if requirement.key == "metadata.name" { node_name } else { "" };
    match requirement.operator.as_str() {
        "In" => field == value,
        "NotIn" => field != value,
        _ => false,
    }
}
