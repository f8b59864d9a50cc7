//! downwardAPI volumes: the pod's own labels, annotations, names and resources as files.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource, ResourceFieldSelector,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::quantity::{Amount, QuantityError};
use crate::model::quote::go_quote;
use crate::model::{Pod, pod};
use crate::volumes::allocatable::Allocatable;
use crate::volumes::error::SetUpError;
use crate::volumes::kinds::context::{Context, Done, VolumeInputs};
use crate::volumes::mounter::Mounter;
use crate::volumes::payload::{self, File, Payload};

/// The plugin's name.
pub const PLUGIN: &str = "kubernetes.io/downward-api";

/// The pod alone.
pub fn inputs() -> VolumeInputs {
    VolumeInputs { objects: Vec::new(), shows_pod: true, objects_suffice: true }
}

/// Writes the files.
pub(crate) async fn set_up<M: Mounter, T: Send + Sync + 'static>(
    source: &DownwardAPIVolumeSource,
    context: &Arc<Context<M, T>>,
) -> Result<Done, SetUpError> {
    let source = source.clone();
    let files = move |context: &Context<M, T>| {
        let items = source.items.as_deref().unwrap_or_default();
        payload(items, &context.pod, &context.allocatable, source.default_mode)
    };
    super::set_up(PLUGIN, super::memory(context), context, files).await
}

/// The files that the items ask for.
pub fn payload(
    items: &[DownwardAPIVolumeFile],
    pod: &Pod,
    allocatable: &Allocatable,
    default_mode: Option<i32>,
) -> Result<Payload, SetUpError> {
    let mut files = Payload::new();
    let mut errors = Vec::new();
    for item in items {
        let value = if let Some(field) = &item.field_ref {
            field_value(pod, &field.field_path)
        } else if let Some(resource) = &item.resource_field_ref {
            resource_value(pod, resource, allocatable)
        } else {
            Ok(String::new())
        };
        match value {
            Ok(value) => {
                let file = File {
                    data: value.into_bytes(),
                    mode: payload::mode(item.mode, default_mode),
                    uid: None,
                };
                files.insert(item.path.clone(), file);
            }
            Err(error) => errors.push(SetUpError::Payload(error.into())),
        }
    }
    SetUpError::aggregate(errors).map_or(Ok(files), Err)
}

/// The reasons for a file without a value. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The field is no map.
    #[error("fieldPath {0:?} does not support subscript")]
    Subscript(String),
    /// There is no such field.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// There is no such container.
    #[error("container {0} not found")]
    NoContainer(String),
    /// There is no such resource.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// An amount is none.
    #[error(transparent)]
    Amount(#[from] QuantityError),
}

/// The value of a pod's field, by upstream's rules for files.
pub fn field_value(pod: &Pod, path: &str) -> Result<String, ValueError> {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| Ok(value.clone().unwrap_or_default());
    if let Some((field, key)) = subscript(path) {
        let map = match field {
            "metadata.annotations" => &meta.annotations,
            "metadata.labels" => &meta.labels,
            _ => return Err(ValueError::Subscript(path.to_owned())),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    match path {
        "metadata.annotations" => Ok(meta.annotations.as_ref().map(format_map).unwrap_or_default()),
        "metadata.labels" => Ok(meta.labels.as_ref().map(format_map).unwrap_or_default()),
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        _ => Err(ValueError::Field(path.to_owned())),
    }
}

/// `metadata.labels['key']` → `("metadata.labels", "key")`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (field, key) = path.strip_suffix("']")?.split_once("['")?;
    (!field.is_empty()).then_some((field, key))
}

/// One `key="value"` per line, sorted, values quoted as Go quotes them.
fn format_map(map: &BTreeMap<String, String>) -> String {
    map.iter()
        .map(|(key, value)| format!("{key}={}", go_quote(value)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The value of a container's resource, in units of the divisor, rounded up.
pub fn resource_value(
    pod: &Pod,
    field: &ResourceFieldSelector,
    allocatable: &Allocatable,
) -> Result<String, ValueError> {
    let name = field.container_name.as_deref().unwrap_or_default();
    let container = pod::main_containers(pod)
        .iter()
        .chain(pod::init_containers(pod))
        .find(|container| container.name == name)
        .ok_or_else(|| ValueError::NoContainer(name.to_owned()))?;
    let unsupported = || ValueError::Resource(field.resource.clone());
    let (side, resource) = field.resource.split_once('.').ok_or_else(unsupported)?;
    let limits = match side {
        "limits" => true,
        "requests" => false,
        _ => return Err(unsupported()),
    };
    let fallback = match resource {
        "cpu" => allocatable.cpu,
        "memory" => allocatable.memory,
        "ephemeral-storage" => allocatable.ephemeral_storage,
        _ if resource.starts_with("hugepages-") => None,
        _ => return Err(unsupported()),
    };
    let own = quantity(container, limits, resource)?;
    let amount = if limits { own.filter(|own| !own.is_zero()).or(fallback) } else { own };
    let amount = amount.unwrap_or(Amount::ZERO);
    let divisor = field.divisor.as_ref().map(|divisor| Amount::parse(&divisor.0)).transpose();
    let divisor = divisor?.filter(|divisor| !divisor.is_zero());
    let divisor = divisor.unwrap_or(Amount::from_units(1));
    let (amount, divisor) = if resource == "cpu" {
        (amount.milli(), divisor.milli())
    } else {
        (amount.units(), divisor.units())
    };
    Ok(divide_up(amount, divisor).to_string())
}

fn quantity(
    container: &Container,
    limits: bool,
    resource: &str,
) -> Result<Option<Amount>, QuantityError> {
    let map = container
        .resources
        .as_ref()
        .and_then(|all| if limits { &all.limits } else { &all.requests }.as_ref());
    let found: Option<&Quantity> = map.and_then(|map| map.get(resource));
    found.map(|quantity| Amount::parse(&quantity.0)).transpose()
}

fn divide_up(amount: i64, divisor: i64) -> i64 {
    let divisor = divisor.max(1);
    amount / divisor + i64::from(amount % divisor > 0)
}

#[cfg(test)]
mod tests {
    use super::{Allocatable, field_value, resource_value};
    use crate::model::Pod;
    use crate::model::quantity::Amount;

    fn pod() -> Pod {
        serde_json::from_str(
            r#"{"metadata":{"name":"web","namespace":"ns","uid":"u1","labels":{"b":"2","a":"1"},
                "annotations":{"k8s.io/x":"a\n\"b\"","[odd]":"y"}},
              "spec":{"containers":[{"name":"app","resources":{"limits":{"cpu":"1500m","hugepages-2Mi":"4Mi"},
                "requests":{"memory":"100Mi","cpu":"250m"}}}]}}"#,
        )
        .expect("a pod")
    }

    #[track_caller]
    fn field(path: &str, expected: Result<&str, &str>) {
        assert_eq!(
            field_value(&pod(), path)
                .map_err(|error| error.to_string())
                .as_deref()
                .map_err(String::as_str),
            expected,
            "{path}"
        );
    }

    #[track_caller]
    fn resource(name: &str, divisor: Option<&str>, expected: Result<&str, &str>) {
        let divisor = divisor.map_or(String::new(), |divisor| format!(r#","divisor":"{divisor}""#));
        let text = format!(r#"{{"containerName":"app","resource":"{name}"{divisor}}}"#);
        let selector = serde_json::from_str(&text).expect("a selector");
        let allocatable =
            Allocatable { cpu: None, memory: Amount::parse("2Gi").ok(), ephemeral_storage: None };
        let found = resource_value(&pod(), &selector, &allocatable);
        let found = found.map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{name}");
    }

    #[test]
    fn fields() {
        field("metadata.labels", Ok("a=\"1\"\nb=\"2\""));
        field("metadata.annotations", Ok("[odd]=\"y\"\nk8s.io/x=\"a\\n\\\"b\\\"\""));
        field("metadata.labels['a']", Ok("1"));
        field("metadata.labels['none']", Ok(""));
        field("metadata.annotations['[odd]']", Ok("y"));
        field("metadata.uid", Ok("u1"));
        field(
            "metadata.name['x']",
            Err("fieldPath \"metadata.name['x']\" does not support subscript"),
        );
        field("spec.nodeName", Err("unsupported fieldPath: spec.nodeName"));
    }

    #[test]
    fn resources() {
        resource("limits.cpu", None, Ok("2"));
        resource("limits.cpu", Some("1m"), Ok("1500"));
        resource("requests.cpu", Some("0"), Ok("1"));
        resource("requests.memory", Some("1Mi"), Ok("100"));
        resource("limits.memory", Some("1Gi"), Ok("2"));
        resource("limits.ephemeral-storage", None, Ok("0"));
        resource("limits.hugepages-2Mi", Some("1Mi"), Ok("4"));
        resource("limits.gpu", None, Err("unsupported container resource : limits.gpu"));
    }
}
