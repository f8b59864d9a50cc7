//! Builds the body of `PATCH …/status`: a strategic two-way merge patch between two statuses. Pure.
//!
//! - Conditions, addresses and claims are lists that merge by a key: a changed element is sent with
//!   its key and its changed fields, a removed one as `$patch: delete`, and the order as
//!   `$setElementOrder`.
//! - Container statuses are replaced as a whole.
//! - The UID is always in the body, so that the server refuses a pod that was created anew under
//!   the same name.

use k8s_openapi::api::core::v1 as api;
use serde_json::{Map, Value, json};

/// The lists of a pod's status that merge, each with its key.
const MERGED: [(&str, &str); 4] = [
    ("conditions", "type"),
    ("podIPs", "ip"),
    ("hostIPs", "ip"),
    ("resourceClaimStatuses", "name"),
];
/// The key of the lists whose order has a meaning.
const ORDERED: &str = "ip";

/// Returns the patch that turns one status into the other; `None` if they are equal.
pub fn build(uid: &str, old: &api::PodStatus, new: &api::PodStatus) -> Option<Value> {
    let changes = diff(&object(old), &object(new), true);
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

fn object(status: &api::PodStatus) -> Map<String, Value> {
    let mut status = status.clone();
    // The API's objects may lack fields that ours always have: both are brought to one form.
    let lists = [
        &mut status.container_statuses,
        &mut status.init_container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    for container in lists.into_iter().flatten().flatten() {
        container.state.get_or_insert_default();
        container.last_state.get_or_insert_default();
    }

    match serde_json::to_value(&status) {
        Ok(Value::Object(mut map)) => {
            map.retain(|_, value| !is_nothing(value));
            map
        }
        Ok(_) | Err(_) => Map::new(),
    }
}

/// Returns true for an empty list or text: the API server omits them, so they equal nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Null => true,
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

fn diff(old: &Map<String, Value>, new: &Map<String, Value>, is_status: bool) -> Map<String, Value> {
    let mut changes = Map::new();
    for (name, value) in new {
        let key = MERGED.iter().find(|(list, _)| is_status && list == name).map(|(_, key)| *key);
        match (old.get(name), value, key) {
            (Some(before), _, _) if before == value => {}
            (before, Value::Array(after), Some(key)) => {
                let before =
                    before.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                diff_list(&mut changes, name, key, before, after);
            }
            (Some(Value::Object(before)), Value::Object(after), _) => {
                let inner = diff(before, after, false);
                if !inner.is_empty() {
                    changes.insert(name.clone(), Value::Object(inner));
                }
            }
            _ => {
                changes.insert(name.clone(), value.clone());
            }
        }
    }

    for (name, before) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
        let key = MERGED.iter().find(|(list, _)| is_status && list == name).map(|(_, key)| *key);
        match (before, key) {
            (Value::Array(before), Some(key)) => diff_list(&mut changes, name, key, before, &[]),
            _ => {
                changes.insert(name.clone(), Value::Null);
            }
        }
    }

    changes
}

fn diff_list(
    changes: &mut Map<String, Value>,
    name: &str,
    key: &str,
    old: &[Value],
    new: &[Value],
) {
    let find = |list: &[Value], value: &Value| {
        list.iter().find(|other| other.get(key) == value.get(key)).cloned()
    };
    let only_key = |value: &Value| json!({key: value.get(key)});
    let mut list = Vec::new();

    for value in new {
        match find(old, value) {
            Some(before) if &before == value => {}
            Some(Value::Object(before)) => {
                let mut inner =
                    value.as_object().map(|after| diff(&before, after, false)).unwrap_or_default();
                inner.extend(value.get(key).map(|own| (key.to_owned(), own.clone())));
                list.push(Value::Object(inner));
            }
            Some(_) | None => list.push(value.clone()),
        }
    }

    for value in old.iter().filter(|value| find(new, value).is_none()) {
        list.push(json!({"$patch": "delete", key: value.get(key)}));
    }

    let is_reordered = key == ORDERED && old.iter().map(only_key).ne(new.iter().map(only_key));
    if list.is_empty() && !is_reordered {
        return;
    }
    if !new.is_empty() {
        changes.insert(format!("$setElementOrder/{name}"), new.iter().map(only_key).collect());
    }
    if !list.is_empty() {
        changes.insert(name.to_owned(), Value::Array(list));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::build;

    #[track_caller]
    fn check(old: Value, new: Value, expected: Option<Value>) {
        let parse = |value| serde_json::from_value(value).expect("a status");
        let patch = build("u-1", &parse(old), &parse(new));
        assert_eq!(
            patch,
            expected.map(|status| json!({"metadata": {"uid": "u-1"}, "status": status}))
        );
    }

    fn container(name: &str, ready: bool) -> Value {
        json!({"name": name, "image": "i", "imageID": "", "ready": ready, "restartCount": 0, "state": {"running": {}}, "lastState": {}})
    }

    #[test]
    fn nothing_to_change() {
        check(json!({"phase": "Running"}), json!({"phase": "Running"}), None);
        check(json!({}), json!({"conditions": [], "message": ""}), None);
        let mut bare = container("a", true);
        bare.as_object_mut().expect("an object").remove("lastState");
        check(
            json!({"containerStatuses": [bare]}),
            json!({"containerStatuses": [container("a", true)]}),
            None,
        );
    }

    #[test]
    fn fields_are_set_and_removed() {
        check(
            json!({"phase": "Pending", "reason": "x"}),
            json!({"phase": "Running", "podIP": "10.0.0.1"}),
            Some(json!({"phase": "Running", "podIP": "10.0.0.1", "reason": null})),
        );
    }

    #[test]
    fn conditions_merge_by_type() {
        check(
            json!({"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "False", "reason": "r", "message": "m"},
                {"type": "C", "status": "True"}]}),
            json!({"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True", "reason": "r"},
                {"type": "D", "status": "True"}]}),
            Some(json!({
                "$setElementOrder/conditions": [{"type": "A"}, {"type": "B"}, {"type": "D"}],
                "conditions": [{"type": "B", "status": "True", "message": null}, {"type": "D", "status": "True"},
                    {"$patch": "delete", "type": "C"}]})),
        );
    }

    #[test]
    fn the_order_of_conditions_means_nothing() {
        check(
            json!({"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}),
            json!({"conditions": [{"type": "B", "status": "True"}, {"type": "A", "status": "True"}]}),
            None,
        );
    }

    #[test]
    fn addresses_merge_by_ip_and_keep_their_order() {
        check(
            json!({"podIPs": [{"ip": "10.0.0.1"}]}),
            json!({"podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}]}),
            Some(json!({
                "$setElementOrder/podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}],
                "podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}, {"$patch": "delete", "ip": "10.0.0.1"}]})),
        );
        check(
            json!({"podIPs": [{"ip": "a"}, {"ip": "b"}]}),
            json!({"podIPs": [{"ip": "b"}, {"ip": "a"}]}),
            Some(json!({"$setElementOrder/podIPs": [{"ip": "b"}, {"ip": "a"}]})),
        );
        check(
            json!({"podIPs": [{"ip": "a"}]}),
            json!({}),
            Some(json!({"podIPs": [{"$patch": "delete", "ip": "a"}]})),
        );
    }

    #[test]
    fn container_statuses_are_replaced_whole() {
        check(
            json!({"containerStatuses": [container("a", false), container("b", true)]}),
            json!({"containerStatuses": [container("a", true), container("b", true)]}),
            Some(json!({"containerStatuses": [container("a", true), container("b", true)]})),
        );
    }

    #[test]
    fn maps_merge() {
        check(
            json!({"allocatedResources": {"cpu": "1", "memory": "1Gi"}}),
            json!({"allocatedResources": {"cpu": "2"}}),
            Some(json!({"allocatedResources": {"cpu": "2", "memory": null}})),
        );
    }
}
