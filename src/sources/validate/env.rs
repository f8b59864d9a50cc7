//! The environment of containers, and what is read of the pod's own fields. Pure.

use std::fmt::Display;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, FileKeySelector, ObjectFieldSelector, ResourceFieldSelector,
};

use super::problems::Problems;
use super::{names, resources};
use crate::model::quantity::Amount;

/// The fields of a pod that a variable can be made of.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The fields of a pod that a file can be made of.
pub(super) const VOLUME_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// The resources of a container that can be read.
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn env(problems: &mut Problems, path: &str, container: &Container) {
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let path = format!("{path}.env[{index}]");
        if variable.name.is_empty() {
            problems.required(format!("{path}.name"));
        } else {
            problems.name(format!("{path}.name"), &variable.name, names::variable);
        }
        value_from(problems, &format!("{path}.valueFrom"), variable);
    }

    let path = format!("{path}.envFrom");
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        let at = format!("{path}[{index}]");
        if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            problems.name(format!("{at}.prefix"), prefix, names::variable);
        }
        let references = [
            ("configMapRef", source.config_map_ref.as_ref().map(|found| found.name.as_str())),
            ("secretRef", source.secret_ref.as_ref().map(|found| found.name.as_str())),
        ];
        for (field, name) in references {
            match name {
                Some("") => problems.required(format!("{at}.{field}.name")),
                Some(name) => {
                    problems.name(format!("{at}.{field}.name"), name, names::subdomain);
                }
                None => {}
            }
        }
        match references.iter().filter(|(_, name)| name.is_some()).count() {
            0 => {
                let why = "must specify one of: `configMapRef` or `secretRef`";
                problems.invalid(&path, "", why);
            }
            1 => {}
            _ => {
                let why = "may not have more than one field specified at a time";
                problems.invalid(&path, "", why);
            }
        }
    }
}

fn value_from(problems: &mut Problems, path: &str, variable: &EnvVar) {
    let Some(EnvVarSource {
        field_ref,
        resource_field_ref,
        config_map_key_ref,
        secret_key_ref,
        file_key_ref,
    }) = &variable.value_from
    else {
        return;
    };

    let mut sources = 0;
    if let Some(selector) = field_ref {
        sources += 1;
        field(problems, &format!("{path}.fieldRef"), selector, &FIELDS);
    }
    if let Some(selector) = resource_field_ref {
        sources += 1;
        resource_field(problems, &format!("{path}.resourceFieldRef"), selector, false);
    }
    let config_map = config_map_key_ref.as_ref().map(|found| (&found.name, &found.key));
    let secret = secret_key_ref.as_ref().map(|found| (&found.name, &found.key));
    for (field, reference) in [("configMapKeyRef", config_map), ("secretKeyRef", secret)] {
        if let Some((name, key)) = reference {
            sources += 1;
            object_key(problems, &format!("{path}.{field}"), name, key);
        }
    }
    if let Some(selector) = file_key_ref {
        sources += 1;
        file_key(problems, &format!("{path}.fileKeyRef"), selector);
    }

    let has_value = variable.value.as_deref().is_some_and(|value| !value.is_empty());
    let why = match (sources, has_value) {
        (0, _) => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
             `secretKeyRef` or `fileKeyRef`"
        }
        (_, true) => "may not be specified when `value` is not empty",
        (1, false) => return,
        (_, false) => "may not have more than one field specified at a time",
    };
    problems.invalid(path, "", why);
}

fn object_key(problems: &mut Problems, path: &str, name: &str, key: &str) {
    problems.name(format!("{path}.name"), name, names::subdomain);
    if key.is_empty() {
        problems.required(format!("{path}.key"));
    } else {
        problems.name(format!("{path}.key"), key, names::config_key);
    }
}

fn file_key(problems: &mut Problems, path: &str, selector: &FileKeySelector) {
    if selector.key.is_empty() {
        problems.required(format!("{path}.key"));
    } else {
        problems.name(format!("{path}.key"), &selector.key, names::variable);
    }
    if selector.volume_name.is_empty() {
        problems.required(format!("{path}.volumeName"));
    } else {
        problems.name(format!("{path}.volumeName"), &selector.volume_name, names::label);
    }
    if selector.path.is_empty() {
        problems.required(format!("{path}.path"));
    } else {
        problems.no_backsteps(format!("{path}.path"), &selector.path);
    }
}

/// Checks a reference to a field of the pod.
pub(super) fn field(
    problems: &mut Problems,
    path: &str,
    selector: &ObjectFieldSelector,
    fields: &[&str],
) {
    let version = selector.api_version.as_deref().unwrap_or_default();
    let wanted = selector.field_path.as_str();
    let field_path = format!("{path}.fieldPath");
    if version.is_empty() {
        return problems.required(format!("{path}.apiVersion"));
    }
    if wanted.is_empty() {
        return problems.required(field_path);
    }
    if version != "v1" {
        let why = format!("error converting fieldPath: unsupported pod version: {version}");
        return problems.invalid(field_path, wanted, why);
    }

    let subscript = wanted.strip_suffix("']").and_then(|text| text.split_once("['"));
    match subscript.filter(|(name, _)| !name.is_empty()) {
        Some(("metadata.annotations", key)) => {
            let lower = key.to_lowercase();
            problems.name(path, &lower, names::qualified);
        }
        Some(("metadata.labels", key)) => problems.name(path, key, names::qualified),
        None if is_field(wanted) => problems.one_of(field_path, Some(wanted), fields),
        Some(_) => {
            let why = format!(
                "error converting fieldPath: field label does not support subscript: {wanted}"
            );
            problems.invalid(field_path, wanted, why);
        }
        None => {
            let why = format!("error converting fieldPath: field label not supported: {wanted}");
            problems.invalid(field_path, wanted, why);
        }
    }
}

/// Returns true for a field that the API can select by, whether or not it fits here.
fn is_field(name: &str) -> bool {
    FIELDS.contains(&name)
        || VOLUME_FIELDS.contains(&name)
        || matches!(name, "spec.restartPolicy" | "spec.schedulerName" | "status.phase")
}

/// Checks a reference to a resource of a container; in a `volume` it has to name the container.
pub(super) fn resource_field(
    problems: &mut Problems,
    path: &str,
    selector: &ResourceFieldSelector,
    volume: bool,
) {
    let resource = selector.resource.as_str();
    let is_huge =
        resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    let container = selector.container_name.as_deref().unwrap_or_default();
    if volume && container.is_empty() {
        problems.required(format!("{path}.containerName"));
    } else if resource.is_empty() {
        problems.required(format!("{path}.resource"));
    } else if !is_huge {
        problems.one_of(format!("{path}.resource"), Some(resource), &RESOURCES);
    }

    let Some(divisor) = &selector.divisor else { return };
    if Amount::parse(&divisor.0).is_ok_and(Amount::is_zero) {
        return;
    }
    let divisor = resources::canonical(divisor);
    divide(problems, format!("{path}.divisor"), resource, is_huge, &divisor);
}

fn divide(
    problems: &mut Problems,
    path: impl Display,
    resource: &str,
    is_huge: bool,
    divisor: &str,
) {
    const SIZES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let what = match resource {
        "limits.cpu" | "requests.cpu" => {
            if !matches!(divisor, "1m" | "1") {
                let why = "only divisor's values 1m and 1 are supported with the cpu resource";
                problems.invalid(path, resource, why);
            }
            return;
        }
        "limits.memory" | "requests.memory" => "memory",
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => "local ephemeral storage",
        _ if is_huge => "hugepages",
        _ => return,
    };
    if !SIZES.split(", ").any(|size| size == divisor) {
        let why = format!("only divisor's values {SIZES} are supported with the {what} resource");
        problems.invalid(path, resource, why);
    }
}
