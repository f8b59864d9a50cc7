//! Matches node selectors of pods and volumes with a node. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;

/// Returns true if one of the selector's terms matches the node with this name and these labels.
pub fn matches(
    selector: &api::NodeSelector,
    name: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_term(name, labels, term))
}

/// Returns true if all of a term's requirements hold. An empty term matches nothing, nor does an
/// invalid one.
fn matches_term(
    name: &str,
    labels: &BTreeMap<String, String>,
    term: &api::NodeSelectorTerm,
) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let is_empty = expressions.is_empty() && fields.is_empty();
    !is_empty
        && expressions.iter().all(|requirement| matches_label(labels, requirement))
        && fields.iter().all(|requirement| matches_field(name, requirement))
}

fn matches_label(
    labels: &BTreeMap<String, String>,
    requirement: &api::NodeSelectorRequirement,
) -> bool {
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

/// Matches a requirement on a field. The only field is the node's name; any other counts as empty.
fn matches_field(node_name: &str, requirement: &api::NodeSelectorRequirement) -> bool {
    let Some([value]) = requirement.values.as_deref() else { return false };
    let field = if requirement.key == "metadata.name" { node_name } else { "" };
    match requirement.operator.as_str() {
        "In" => field == value,
        "NotIn" => field != value,
        _ => false,
    }
}
