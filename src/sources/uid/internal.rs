//! Arranges a pod's document as upstream's internal types are.
//!
//! Pure. These differ from the API's: some fields moved, some are gone. Also adds the defaults that
//! only matter here: the sums of containers' resources for a pod that has resources of its own.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Unprintable;
use super::quantity::Quantity;

/// The fields of the spec that stand in its security context.
const MOVED: [&str; 5] =
    ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"];

/// The annotations that held init containers once; they are dropped.
const OLD_ANNOTATIONS: [&str; 4] = [
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

/// Arranges the document of a defaulted pod.
pub(super) fn arrange(pod: &mut Value) -> Result<(), Unprintable> {
    let Some(fields) = pod.as_object_mut() else { return Err(Unprintable::Serialise) };
    fields.remove("kind");
    fields.remove("apiVersion");

    let annotations =
        fields.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"));
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        annotations.retain(|name, _| !OLD_ANNOTATIONS.contains(&name.as_str()));
    }
    if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) {
        pod_level_resources(spec)?;
        arrange_spec(spec);
    }
    if let Some(status) = fields.get_mut("status").and_then(Value::as_object_mut) {
        arrange_status(status);
    }
    Ok(())
}

fn arrange_spec(spec: &mut Map<String, Value>) {
    let moved: Vec<_> =
        MOVED.iter().filter_map(|name| spec.remove(*name).map(|value| (*name, value))).collect();
    let context = spec.entry("securityContext").or_insert_with(|| json!({}));
    if let Some(context) = context.as_object_mut() {
        context.extend(moved.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }

    let grace = spec.get_mut("terminationGracePeriodSeconds");
    if let Some(grace) = grace.filter(|grace| grace.as_i64().is_some_and(|grace| grace < 0)) {
        *grace = json!(1);
    }
}

/// The one address, if it is given, is the first of the addresses.
fn arrange_status(status: &mut Map<String, Value>) {
    let Some(ip) = status.get("podIP").and_then(Value::as_str).filter(|ip| !ip.is_empty()) else {
        return;
    };
    let first = status.get("podIPs").and_then(|ips| ips.get(0)).and_then(|first| first.get("ip"));
    if first.and_then(Value::as_str) != Some(ip) {
        let ips = json!([{ "ip": ip }]);
        status.insert("podIPs".to_owned(), ips);
    }
}

type Resources = BTreeMap<String, Quantity>;

/// A pod that has resources of its own has the sums of its containers' where it says nothing:
/// limits of huge pages, requests of CPU and memory. Where containers ask for nothing either, its
/// limits are its requests.
fn pod_level_resources(spec: &mut Map<String, Value>) -> Result<(), Unprintable> {
    let Some(own) = spec.get("resources").filter(|resources| resources.is_object()) else {
        return Ok(());
    };
    let mut limits = list(own, "limits")?;
    let mut requests = list(own, "requests")?;
    if limits.is_empty() && requests.is_empty() {
        return Ok(());
    }

    for (name, sum) in aggregate(spec, "limits")? {
        if name.starts_with("hugepages-") && !requests.contains_key(&name) {
            limits.entry(name).or_insert(sum);
        }
    }
    if !limits.is_empty() {
        for (name, sum) in aggregate(spec, "requests")? {
            if matches!(name.as_str(), "cpu" | "memory") {
                requests.entry(name).or_insert(sum);
            }
        }
        for (name, limit) in &limits {
            if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
                requests.entry(name.clone()).or_insert_with(|| limit.clone());
            }
        }
    }

    if let Some(own) = spec.get_mut("resources").and_then(Value::as_object_mut) {
        for (field, resources) in [("limits", limits), ("requests", requests)] {
            if !resources.is_empty() {
                let document = document(own.get(field), &resources)?;
                own.insert(field.to_owned(), document);
            }
        }
    }
    Ok(())
}

/// A list of resources as a document; what was written keeps its text.
fn document(written: Option<&Value>, resources: &Resources) -> Result<Value, Unprintable> {
    let mut fields = Map::new();
    for (name, quantity) in resources {
        let text = written.and_then(|written| written.get(name));
        let value = text.map_or_else(|| quantity.document(), |text| Ok(text.clone()))?;
        fields.insert(name.clone(), value);
    }
    Ok(Value::Object(fields))
}

/// Reads a list of resources; without it, none.
fn list(resources: &Value, field: &str) -> Result<Resources, Unprintable> {
    let fields = resources.get(field).and_then(Value::as_object).into_iter().flatten();
    fields.map(|(name, value)| Ok((name.clone(), Quantity::of(value)?))).collect()
}

/// What the containers of a pod take together: all that run at once, or the one init container that
/// takes most, with the sidecars before it.
fn aggregate(spec: &Map<String, Value>, field: &str) -> Result<Resources, Unprintable> {
    let containers = |kind: &str| spec.get(kind).and_then(Value::as_array).into_iter().flatten();
    let of = |container: &Value| {
        container.get("resources").map_or_else(|| Ok(Resources::new()), |own| list(own, field))
    };
    let mut sum = Resources::new();
    for container in containers("containers") {
        add(&mut sum, &of(container)?)?;
    }

    let mut sidecars = Resources::new();
    let mut most = Resources::new();
    for container in containers("initContainers") {
        let mut own = of(container)?;
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            add(&mut sum, &own)?;
            add(&mut sidecars, &own)?;
            own.clone_from(&sidecars);
        } else {
            add(&mut own, &sidecars)?;
        }
        raise(&mut most, own);
    }
    raise(&mut sum, most);
    Ok(sum)
}

fn add(sum: &mut Resources, more: &Resources) -> Result<(), Unprintable> {
    for (name, quantity) in more {
        match sum.get_mut(name) {
            Some(known) => known.add(quantity)?,
            None => {
                sum.insert(name.clone(), quantity.clone());
            }
        }
    }
    Ok(())
}

fn raise(least: &mut Resources, other: Resources) {
    for (name, quantity) in other {
        match least.get_mut(&name) {
            Some(known) if !quantity.is_more_than(known) => {}
            Some(known) => *known = quantity,
            None => {
                least.insert(name, quantity);
            }
        }
    }
}
