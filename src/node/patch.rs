//! Computes the difference between two Node objects as a strategic merge patch. Pure.
//!
//! - Conditions merge by their type.
//! - Addresses are replaced as a whole: their merge key, the type, is not unique.
//! - Every other list is atomic.
//! - Keys that have gone are set to null.

use k8s_openapi::api::core::v1::Node;
use serde_json::{Map, Value, json};

/// Returns the patch that turns labels, annotations and status of `old` into those of `new`; `None`
/// if they are equal.
pub fn between(old: &Node, new: &Node) -> Option<Value> {
    let mut patch = Map::new();

    let mut metadata = Map::new();
    for (name, old, new) in [
        ("labels", to_value(&old.metadata.labels), to_value(&new.metadata.labels)),
        ("annotations", to_value(&old.metadata.annotations), to_value(&new.metadata.annotations)),
    ] {
        if let Some(changes) = objects(&old, &new) {
            metadata.insert(name.to_owned(), changes);
        }
    }

    if !metadata.is_empty() {
        patch.insert("metadata".to_owned(), Value::Object(metadata));
    }
    if let Some(status) = objects(&to_value(&old.status), &to_value(&new.status)) {
        patch.insert("status".to_owned(), status);
    }

    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Returns the changes from one object to another; `None` if there are none.
fn objects(old: &Value, new: &Value) -> Option<Value> {
    let empty = Map::new();
    let old = old.as_object().unwrap_or(&empty);
    let new = new.as_object().unwrap_or(&empty);
    let mut changes = Map::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        changes.insert(name.clone(), Value::Null);
    }

    for (name, value) in new {
        let before = old.get(name).unwrap_or(&Value::Null);
        if before == value {
            continue;
        }

        let change = match (name.as_str(), value) {
            ("conditions", Value::Array(list)) => {
                changes.insert("$setElementOrder/conditions".to_owned(), order(list));
                Some(Value::Array(conditions(before, list)))
            }
            ("addresses", Value::Array(list)) => {
                let replace = std::iter::once(json!({"$patch": "replace"}));
                Some(Value::Array(list.iter().cloned().chain(replace).collect()))
            }
            (_, Value::Object(_)) if before.is_object() => objects(before, value),
            _ => Some(value.clone()),
        };

        if let Some(change) = change {
            changes.insert(name.clone(), change);
        }
    }

    (!changes.is_empty()).then_some(Value::Object(changes))
}

/// Returns the `$setElementOrder` of conditions: their types in order.
fn order(conditions: &[Value]) -> Value {
    conditions.iter().map(|condition| json!({"type": condition["type"]})).collect()
}

/// Returns each condition that has changed, with its type and its changed fields. Conditions that
/// have gone are deleted.
fn conditions(old: &Value, new: &[Value]) -> Vec<Value> {
    let empty = Vec::new();
    let old = old.as_array().unwrap_or(&empty);
    let find = |list: &[Value], type_: &Value| {
        list.iter().find(|condition| condition["type"] == *type_).cloned()
    };
    let changed = new.iter().filter_map(|condition| {
        let before = find(old, &condition["type"]).unwrap_or(Value::Null);
        let mut changes = objects(&before, condition)?;
        changes["type"] = condition["type"].clone();
        Some(changes)
    });
    let gone = old
        .iter()
        .filter(|condition| find(new, &condition["type"]).is_none())
        .map(|condition| json!({"$patch": "delete", "type": condition["type"]}));

    changed.chain(gone).collect()
}

/// Serializes plain data, which cannot fail.
fn to_value(data: &impl serde::Serialize) -> Value {
    serde_json::to_value(data).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};

    use super::between;

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "the tables read better")]
    fn check(old: Value, new: Value, expected: Value) {
        let node = |value: &Value| serde_json::from_value::<Node>(value.clone()).expect("a node");
        assert_eq!(between(&node(&old), &node(&new)).unwrap_or(Value::Null), expected);
    }

    #[expect(clippy::needless_pass_by_value, reason = "the tables read better")]
    fn status(status: Value) -> Value {
        json!({"metadata": {"name": "n"}, "status": status})
    }

    #[test]
    fn equal_nodes_need_no_patch() {
        check(
            status(json!({"capacity": {"cpu": "2"}})),
            status(json!({"capacity": {"cpu": "2"}})),
            Value::Null,
        );
    }

    #[test]
    fn maps_merge_and_gone_keys_are_null() {
        check(
            status(json!({"capacity": {"cpu": "2", "a/b": "1"}})),
            status(json!({"capacity": {"cpu": "4"}})),
            json!({"status": {"capacity": {"a/b": null, "cpu": "4"}}}),
        );
        check(
            json!({"metadata": {"name": "n", "annotations": {"x": "1"}}}),
            json!({"metadata": {"name": "n", "labels": {"l": "1"}}}),
            json!({"metadata": {"annotations": {"x": null}, "labels": {"l": "1"}}}),
        );
    }

    #[test]
    fn conditions_merge_by_type() {
        let ready = |status: &str| json!({"type": "Ready", "status": status, "reason": "r"});
        let other = json!({"type": "Other", "status": "True"});
        check(
            status(json!({"conditions": [other, ready("False")]})),
            status(json!({"conditions": [other, ready("True")]})),
            json!({"status": {
                "$setElementOrder/conditions": [{"type": "Other"}, {"type": "Ready"}],
                "conditions": [{"type": "Ready", "status": "True"}]
            }}),
        );
    }

    #[test]
    fn addresses_are_replaced_whole() {
        let address = |ip: &str| json!({"type": "InternalIP", "address": ip});
        check(
            status(json!({"addresses": [address("1.1.1.1")]})),
            status(json!({"addresses": [address("2.2.2.2")]})),
            json!({"status": {"addresses": [address("2.2.2.2"), {"$patch": "replace"}]}}),
        );
    }
}
