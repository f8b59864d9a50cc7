//! `fieldRef` and `resourceFieldRef` of variables.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::quantity::Amount;
use crate::model::quote::go_quote;
use crate::model::{Pod, pod};

use super::input::EnvInput;
use super::{SpecError, validate};

/// The value of a field of the pod.
pub(super) fn field(
    input: &EnvInput<'_>,
    selector: &api::ObjectFieldSelector,
) -> Result<String, SpecError> {
    let version = selector.api_version.as_deref().unwrap_or("v1");
    if version != "v1" {
        return Err(SpecError::container(format!("unsupported pod version: {version}")));
    }
    let path = selector.field_path.as_str();
    if let Some((map, key)) = subscripted(path) {
        return subscript(input.pod, path, map, key);
    }
    let pod = input.pod;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let spec = |field: fn(&api::PodSpec) -> &Option<String>| {
        pod.spec.as_ref().and_then(|spec| field(spec).clone()).unwrap_or_default()
    };
    Ok(match path {
        "metadata.name" => text(&pod.metadata.name),
        "metadata.namespace" => text(&pod.metadata.namespace),
        "metadata.uid" => text(&pod.metadata.uid),
        "metadata.labels" => formatted(pod.metadata.labels.as_ref()),
        "metadata.annotations" => formatted(pod.metadata.annotations.as_ref()),
        "spec.nodeName" | "spec.host" => spec(|spec| &spec.node_name),
        "spec.serviceAccountName" => spec(|spec| &spec.service_account_name),
        "status.hostIP" => first_host_ip(input.host_ips)?,
        "status.hostIPs" => {
            first_host_ip(input.host_ips)?;
            joined(input.host_ips)
        }
        "status.podIP" => input.pod_ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => joined(input.pod_ips),
        "spec.restartPolicy" | "spec.schedulerName" | "status.phase" => {
            return Err(SpecError::container(format!("unsupported fieldPath: {path}")));
        }
        _ => return Err(SpecError::container(format!("field label not supported: {path}"))),
    })
}

fn first_host_ip(ips: &[IpAddr]) -> Result<String, SpecError> {
    ips.first()
        .map(ToString::to_string)
        .ok_or_else(|| SpecError::container("the node has no address yet"))
}

fn joined(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Splits `metadata.labels['key']`.
fn subscripted(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    (!map.is_empty()).then_some((map, key))
}

fn subscript(pod: &Pod, path: &str, map: &str, key: &str) -> Result<String, SpecError> {
    let (values, name) = match map {
        "metadata.labels" => (&pod.metadata.labels, key.to_owned()),
        "metadata.annotations" => (&pod.metadata.annotations, key.to_lowercase()),
        _ => {
            return Err(SpecError::container(format!(
                "field label does not support subscript: {path}"
            )));
        }
    };
    if !validate::is_qualified_name(&name) {
        return Err(SpecError::container(format!("invalid key subscript in {path}")));
    }
    Ok(values.as_ref().and_then(|values| values.get(key)).cloned().unwrap_or_default())
}

/// `key="value"` per line, sorted, quoted as Go does.
fn formatted(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<_> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", go_quote(value)))
        .collect();
    lines.join("\n")
}

/// The value of a container's resource, in units of the divisor, rounded up. A missing limit is the
/// pod's, else the node's allocatable.
pub(super) fn resource(
    input: &EnvInput<'_>,
    selector: &api::ResourceFieldSelector,
) -> Result<String, SpecError> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let (container, defaulted) = if name.is_empty() {
        (input.container, true)
    } else if let Some(found) =
        pod::main_containers(input.pod).iter().find(|container| container.name == name)
    {
        (found, true)
    } else if let Some(found) =
        pod::init_containers(input.pod).iter().find(|container| container.name == name)
    {
        // Upstream fills in missing limits of main containers only.
        (found, false)
    } else {
        return Err(SpecError::container(format!("container {name} not found")));
    };
    let unsupported =
        || SpecError::container(format!("unsupported container resource : {}", selector.resource));
    let (list, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    if !matches!(resource, "cpu" | "memory" | "ephemeral-storage")
        && !resource.starts_with("hugepages-")
    {
        return Err(unsupported());
    }
    let resources = container.resources.as_ref();
    let amount = match list {
        "requests" => {
            amount(resources.and_then(|resources| resources.requests.as_ref()), resource)?
        }
        "limits" => {
            match amount(resources.and_then(|resources| resources.limits.as_ref()), resource)? {
                limit if limit.is_zero() && defaulted && !resource.starts_with("hugepages-") => {
                    fallback(input, resource)?
                }
                limit => limit,
            }
        }
        _ => return Err(unsupported()),
    };
    let divisor = match &selector.divisor {
        Some(divisor) => parse(divisor)?,
        None => Amount::ZERO,
    };
    let divisor = if divisor.is_zero() { Amount::from_units(1) } else { divisor };
    let in_units = if resource == "cpu" {
        ceil_div(amount.milli(), divisor.milli())
    } else {
        ceil_div(amount.units(), divisor.units())
    };
    Ok(in_units.to_string())
}

/// The limit of a container that has none.
fn fallback(input: &EnvInput<'_>, resource: &str) -> Result<Amount, SpecError> {
    let node = amount(Some(input.allocatable), resource)?;
    let limits = input
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.resources.as_ref())
        .and_then(|all| all.limits.as_ref());
    let pod =
        if matches!(resource, "cpu" | "memory") { amount(limits, resource)? } else { Amount::ZERO };
    Ok(if pod.is_zero() || node.is_zero() { node } else { pod })
}

fn amount(list: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Result<Amount, SpecError> {
    list.and_then(|list| list.get(resource)).map_or(Ok(Amount::ZERO), parse)
}

fn parse(quantity: &Quantity) -> Result<Amount, SpecError> {
    Amount::parse(&quantity.0).map_err(|error| SpecError::container(error.to_string()))
}

fn ceil_div(value: i64, divisor: i64) -> i64 {
    let quotient = value / divisor;
    if value % divisor > 0 { quotient + 1 } else { quotient }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_maps_as_upstream_does() {
        let map =
            [("b".to_owned(), "say \"hi\"\n".to_owned()), ("a".to_owned(), "é".to_owned())].into();
        assert_eq!(formatted(Some(&map)), "a=\"é\"\nb=\"say \\\"hi\\\"\\n\"");
        assert_eq!(formatted(None), "");
    }

    #[test]
    fn splits_subscripts() {
        assert_eq!(subscripted("metadata.labels['a/b']"), Some(("metadata.labels", "a/b")));
        assert_eq!(subscripted("metadata.labels['']"), Some(("metadata.labels", "")));
        assert_eq!(subscripted("metadata.labels"), None);
        assert_eq!(subscripted("['x']"), None);
    }
}
