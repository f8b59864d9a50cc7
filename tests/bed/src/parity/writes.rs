//! What a kubelet wrote to the API server about a pod: its statuses in their order and its
//! deletion, from the audit log.
//!
//! Of a status each field has a course: its values in the order in which they were written. The
//! state of a container and a condition count as one value each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::compare::THEN;
use super::names::plain;
use super::recording::{Recording, as_text, compact};
use crate::{audit, look};

/// One accepted write of the node's.
#[derive(Debug)]
pub struct Write {
    namespace: String,
    name: String,
    verb: String,
    subresource: String,
    request: Value,
    response: Value,
}

/// The writes about pods in namespaces that begin with `prefix`, from `offset` of the log on.
pub fn read(log: &Path, offset: u64, prefix: &str) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    let words = ["\"resource\":\"pods\"", "system:node:n1"];
    for event in audit::accepted(log, offset, &words)? {
        let mut event = event?;
        let verb = look::text(&event, "verb");
        let namespace = look::text(&event, "objectRef.namespace");
        let by_node = event["user"]["username"] == "system:node:n1";
        if !by_node
            || !namespace.starts_with(prefix)
            || matches!(verb.as_str(), "get" | "list" | "watch")
        {
            continue;
        }
        writes.push(Write {
            namespace,
            name: look::text(&event, "objectRef.name"),
            verb,
            subresource: look::text(&event, "objectRef.subresource"),
            request: event["requestObject"].take(),
            response: event["responseObject"].take(),
        });
    }
    Ok(writes)
}

/// Writes what the node wrote about a pod.
pub fn write(writes: &[Write], namespace: &str, name: &str, recording: &mut Recording) {
    let mut courses: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    let mut seen = 0;
    for write in writes.iter().filter(|write| write.namespace == namespace) {
        // A mirror pod that is made has its name in the object only.
        let named = write.name == name || look::text(&write.response, "metadata.name") == name;
        match (write.verb.as_str(), write.subresource.as_str()) {
            ("patch" | "update", "status") if named => {
                let mut leaves = BTreeMap::new();
                status_leaves(&[], &write.response["status"], &mut leaves);
                follow(&mut courses, &leaves, seen);
                seen += 1;
            }
            ("delete", "") if named => put(recording, &[name, "delete"], &write.request),
            ("create", "") if named => put(recording, &[name, "mirror"], &write.response),
            _ => {}
        }
    }
    for (place, course) in courses {
        let mut whole = vec![name.to_owned(), "status".to_owned()];
        whole.extend(place);
        recording.leaves.insert(whole, course.join(THEN));
    }
}

fn put(recording: &mut Recording, place: &[&str], value: &Value) {
    let mut part = Recording::default();
    part.put_json(place, value);
    for (place, text) in part.leaves {
        let bookkeeping = ["managedFields", "resourceVersion"]
            .iter()
            .any(|key| place.iter().any(|part| part == key));
        if !bookkeeping {
            recording.leaves.insert(place.iter().map(|part| plain(part)).collect(), plain(&text));
        }
    }
}

/// Adds one status to the courses; what a status does not have is `-`.
fn follow(
    courses: &mut BTreeMap<Vec<String>, Vec<String>>,
    leaves: &BTreeMap<Vec<String>, String>,
    before: usize,
) {
    let places: BTreeSet<Vec<String>> = courses.keys().chain(leaves.keys()).cloned().collect();
    for place in places {
        let value = leaves.get(&place).map_or("-", String::as_str);
        let course = courses.entry(place).or_default();
        if course.is_empty() && before > 0 {
            course.push("-".to_owned());
        }
        if course.last().is_none_or(|last| last != value) {
            course.push(value.to_owned());
        }
    }
}

fn status_leaves(place: &[String], value: &Value, leaves: &mut BTreeMap<Vec<String>, String>) {
    let last = place.last().map_or("", String::as_str);
    let whole = matches!(last, "state" | "lastState")
        || place.first().is_some_and(|first| first == "conditions");
    let below = |key: String| place.iter().cloned().chain([key]).collect::<Vec<String>>();
    match value {
        Value::Array(items) if items.iter().all(|one| !one.is_object()) => {
            let texts: Vec<String> = items.iter().map(as_text).collect();
            leaves.insert(place.to_vec(), format!("{texts:?}"));
        }
        Value::Object(_) if whole && place.len() > 1 => {
            drop(leaves.insert(place.to_vec(), plain(&compact(value))));
        }
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| status_leaves(&below(key.clone()), value, leaves));
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                let key = ["name", "type"].iter().find_map(|key| value.get(key)?.as_str());
                // The name of a volume may be random.
                let key = key.map_or_else(|| index.to_string(), |key| format!("[{}]", plain(key)));
                status_leaves(&below(key), value, leaves);
            }
        }
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let again = last == "restartCount" && value != 0;
            leaves.insert(
                place.to_vec(),
                if again { "more".to_owned() } else { plain(&as_text(value)) },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_random_name_of_a_tokens_volume_is_no_place_of_its_own() {
        let status = |name: &str| {
            let mount = json!({"name": name, "mountPath": "/var/run/secrets", "readOnly": true});
            let response = json!({
                "metadata": {"name": "p"},
                "status": {"containerStatuses": [{"name": "main", "volumeMounts": [mount]}]},
            });
            let write = Write {
                namespace: "n".to_owned(),
                name: "p".to_owned(),
                verb: "patch".to_owned(),
                subresource: "status".to_owned(),
                request: Value::Null,
                response,
            };
            let mut recording = Recording::default();
            super::write(&[write], "n", "p", &mut recording);
            recording.leaves
        };

        let leaves = status("kube-api-access-f6kpb");
        assert_eq!(leaves, status("kube-api-access-qs2pl"));
        let place =
            "p.status.containerStatuses.[main].volumeMounts.[kube-api-access-<random>].name";
        let place: Vec<String> = place.split('.').map(str::to_owned).collect();
        assert_eq!(leaves.get(&place).map(String::as_str), Some("kube-api-access-<random>"));
    }
}
