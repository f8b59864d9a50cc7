//! Names and values of labels and taints: what is valid, and which labels a node may give itself.
//! Texts are upstream's.

use std::collections::BTreeMap;

const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
     alphanumeric character";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character";
const LARGEST_NAME: usize = 63;
const LARGEST_PREFIX: usize = 253;

/// Keys that a kubelet may set on its own Node.
const OWN_LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Namespaces of keys that it may set.
const OWN_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Returns true if `effect` is one that a taint can have.
pub(in crate::config) fn is_taint_effect(effect: &str) -> bool {
    matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute")
}

/// Lists what is wrong with a qualified name: `[prefix/]name`.
pub(in crate::config) fn name_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let name = match text.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                problems.extend(
                    subdomain_problems(prefix)
                        .into_iter()
                        .map(|problem| format!("prefix part {problem}")),
                );
            }
            name
        }
        _ => {
            return vec![format!(
                "a qualified name {QUALIFIED_NAME} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LARGEST_NAME {
        problems.push(format!("name part must be no more than {LARGEST_NAME} bytes"));
    }
    if !is_name(name) {
        problems.push(format!("name part {QUALIFIED_NAME}"));
    }
    problems
}

/// Lists what is wrong with the value of a label or taint.
pub(in crate::config) fn value_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LARGEST_NAME {
        problems.push(format!("must be no more than {LARGEST_NAME} bytes"));
    }
    if !text.is_empty() && !is_name(text) {
        problems.push(format!(
            "a valid label must be an empty string or {}",
            QUALIFIED_NAME.replacen("must ", "", 1)
        ));
    }
    problems
}

/// Checks `--node-labels`.
pub(in crate::config) fn node_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    let foreign: Vec<&str> = labels
        .keys()
        .map(String::as_str)
        .filter(|key| is_kubernetes(key) && !is_own(key))
        .collect();
    if !foreign.is_empty() {
        return Err(format!(
            "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{}]\n--node-labels in the \
             'kubernetes.io' namespace must begin with an allowed prefix ({}) or be in the specifically allowed set ({})",
            foreign.join(" "),
            OWN_NAMESPACES.join(", "),
            OWN_LABELS.join(", ")
        ));
    }
    let invalid: Vec<String> = labels
        .iter()
        .flat_map(|(key, value)| [(key, name_problems(key)), (value, value_problems(value))])
        .filter(|(_, problems)| !problems.is_empty())
        .map(|(text, problems)| format!("'{text}' - {}", problems.join(", ")))
        .collect();
    if invalid.is_empty() {
        Ok(())
    } else {
        Err(format!("invalid node labels: {}", invalid.join("; ")))
    }
}

fn namespace(key: &str) -> &str {
    key.split_once('/').map_or("", |(namespace, _)| namespace)
}

fn is_within(namespace: &str, domain: &str) -> bool {
    namespace.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_kubernetes(key: &str) -> bool {
    ["kubernetes.io", "k8s.io"].iter().any(|domain| is_within(namespace(key), domain))
}

fn is_own(key: &str) -> bool {
    OWN_LABELS.contains(&key)
        || OWN_NAMESPACES.iter().any(|domain| is_within(namespace(key), domain))
}

fn is_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn subdomain_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LARGEST_PREFIX {
        problems.push(format!("must be no more than {LARGEST_PREFIX} bytes"));
    }
    let label = |label: &str| {
        is_name(label)
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    if !text.split('.').all(label) {
        problems.push(SUBDOMAIN.to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, value: &str, valid: bool) {
        let labels = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert_eq!(
            node_labels(&labels).is_ok(),
            valid,
            "{key}={value}: {:?}",
            node_labels(&labels)
        );
    }

    #[test]
    fn a_node_sets_its_own_labels_only() {
        check("kubernetes.io/hostname", "a", true);
        check("node.kubernetes.io/anything", "a", true);
        check("x.kubelet.kubernetes.io/y", "a", true);
        check("example.com/role", "", true);
        check("role", "a_b.c-d", true);
        check("kubernetes.io/x", "a", false);
        check("node-role.kubernetes.io/master", "", false);
        check("x.k8s.io/y", "a", false);
        check("mykubernetes.io/y", "a", true);
        check("-a", "b", false);
        check("a/b/c", "d", false);
        check("UPPER.com/x", "d", false);
        check("a", "b c", false);
        check("a", &"x".repeat(64), false);
    }
}
