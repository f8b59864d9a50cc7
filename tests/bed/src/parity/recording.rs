//! What a case left behind: a tree whose leaves are texts, and the golden of several such trees.
//!
//! On disk a golden is a JSON object of objects; a leaf is a text, or a list of all that upstream
//! did when its own runs differ (null: it was absent). A place that is a leaf and also has leaves
//! below it is an object whose key `""` is the leaf: the sandbox's configuration of two pulls of one
//! image is whole for the first and `as of sandbox#0` for the second.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

/// The key of a leaf that has leaves below it.
const ITSELF: &str = "";

/// The way from the root to a leaf.
pub type Place = Vec<String>;

/// One run's leaves.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// The texts by their places.
    pub leaves: BTreeMap<Place, String>,
}

impl Recording {
    /// Sets one leaf.
    pub fn put(&mut self, place: &[&str], value: impl Into<String>) {
        self.leaves.insert(place.iter().map(|part| (*part).to_owned()).collect(), value.into());
    }

    /// All leaves of a JSON value below `place`; a list's elements are named by what tells them
    /// apart.
    pub fn put_json(&mut self, place: &[&str], value: &Value) {
        let place: Place = place.iter().map(|part| (*part).to_owned()).collect();
        flatten(&place, value, &mut self.leaves);
    }
}

fn flatten(place: &Place, value: &Value, leaves: &mut BTreeMap<Place, String>) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&below(place, key), value, leaves);
            }
        }
        Value::Array(list) if list.iter().all(is_scalar) => {
            let list: Vec<String> = list.iter().map(as_text).collect();
            leaves.insert(place.clone(), format!("{list:?}"));
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                let key = ["key", "container_path", "name", "type"]
                    .iter()
                    .find_map(|key| value.get(key)?.as_str());
                let mut there =
                    below(place, &key.map_or_else(|| index.to_string(), |key| format!("[{key}]")));
                if leaves
                    .range(there.clone()..)
                    .next()
                    .is_some_and(|(other, _)| other.starts_with(&there))
                {
                    there = below(place, &format!("[{}]#{index}", key.unwrap_or_default()));
                }
                if value.as_object().is_some_and(|map| map.values().all(is_scalar)) {
                    leaves.insert(there, compact(value));
                } else {
                    flatten(&there, value, leaves);
                }
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            leaves.insert(place.clone(), as_text(value));
        }
    }
}

fn is_scalar(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

/// An object in one line: `reason=X message=Y`; one in it is `waiting(reason=X)`.
pub fn compact(value: &Value) -> String {
    let Some(map) = value.as_object() else { return as_text(value) };
    let present = map.iter().filter(|(_, value)| !value.is_null());
    let parts: Vec<String> = present
        .map(|(key, value)| {
            if value.is_object() {
                format!("{key}({})", compact(value))
            } else {
                format!("{key}={}", compact(value))
            }
        })
        .collect();
    parts.join(" ")
}

fn below(place: &Place, key: &str) -> Place {
    let mut place = place.clone();
    place.push(key.to_owned());
    place
}

/// A scalar as people write it.
pub fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What upstream may leave at each place: a text, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Golden {
    /// By place, all that upstream was seen to do there; `None` for nothing.
    pub leaves: BTreeMap<Place, BTreeSet<Option<String>>>,
}

impl Golden {
    /// The golden of one run.
    pub fn of(recording: Recording) -> Self {
        let leaves =
            recording.leaves.into_iter().map(|(place, text)| (place, BTreeSet::from([Some(text)])));
        Self { leaves: leaves.collect() }
    }

    /// How many leaves there are.
    pub fn len(&self) -> usize {
        self.leaves.len()
    }

    /// True if no leaf was recorded.
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// Adds another run of upstream's; says at how many places it did what it had not done before.
    pub fn add(&mut self, recording: &Recording) -> usize {
        let mut news = 0;
        for (place, known) in &mut self.leaves {
            news += usize::from(known.insert(recording.leaves.get(place).cloned()));
        }
        for (place, text) in &recording.leaves {
            if !self.leaves.contains_key(place) {
                self.leaves.insert(place.clone(), BTreeSet::from([None, Some(text.clone())]));
                news += 1;
            }
        }
        news
    }

    /// Reads a golden from its file.
    pub fn read(file: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        Ok(Self::from_json(&serde_json::from_str(&text)?))
    }

    /// Writes a golden to its file, which is replaced.
    pub fn write(&self, file: &Path) -> Result<()> {
        let mut out = Vec::new();
        let style = serde_json::ser::PrettyFormatter::with_indent(b" ");
        serde::Serialize::serialize(
            &self.to_json()?,
            &mut serde_json::Serializer::with_formatter(&mut out, style),
        )?;
        out.push(b'\n');
        std::fs::write(file, out).with_context(|| format!("writing {}", file.display()))
    }

    fn from_json(root: &Value) -> Self {
        let mut golden = Self::default();
        gather(&Vec::new(), root, &mut golden.leaves);
        golden
    }

    fn to_json(&self) -> Result<Value> {
        let mut root = json!({});
        for (place, known) in &self.leaves {
            let mut here = &mut root;
            for part in place {
                here = folder(here).entry(part).or_insert(Value::Null);
            }
            ensure!(!place.is_empty(), "a leaf at the root");

            let known: Vec<&Option<String>> = known.iter().collect();
            // A place comes before those below it: nothing is there yet.
            *here = if let [Some(only)] = known[..] { json!(only) } else { json!(known) };
        }
        Ok(root)
    }
}

/// The place as an object; a leaf that stands there becomes its key `""`.
fn folder(here: &mut Value) -> &mut Map<String, Value> {
    if !here.is_object() {
        let leaf = here.take();
        *here = if leaf.is_null() { json!({}) } else { json!({ ITSELF: leaf }) };
    }
    here.as_object_mut().expect("it is one")
}

fn gather(place: &Place, value: &Value, leaves: &mut BTreeMap<Place, BTreeSet<Option<String>>>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let there = if key == ITSELF { place.clone() } else { below(place, key) };
                gather(&there, value, leaves);
            }
        }
        Value::Array(list) => {
            let known = list.iter().map(|one| one.as_str().map(str::to_owned)).collect();
            leaves.insert(place.clone(), known);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            leaves.insert(place.clone(), BTreeSet::from([Some(as_text(value))]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_with_leaves_below_it_survives_the_way_to_disk() {
        // Two pulls of one image: before the first the sandbox has not been made.
        let pull = |part: &[&'static str]| -> Vec<&'static str> {
            [&["p", "cri", "pulls", "busybox", "sandbox_config"], part].concat()
        };
        let mut recording = Recording::default();
        recording.put(&pull(&["metadata", "name"]), "p");
        recording.put(&pull(&[]), "as of sandbox#0");
        recording.put(&pull(&["metadata"]), "m");
        recording.put(&["p", "cri", "pulls", "busybox", "auth"], "false");
        let mut golden = Golden::of(recording);
        golden.add(&Recording::default());

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("golden.json");
        golden.write(&file).unwrap();
        let back = Golden::read(&file).unwrap();
        assert_eq!(back.leaves, golden.leaves);
        assert_eq!(back.len(), 4);
    }

    #[test]
    fn a_golden_on_disk_is_an_object_of_objects() {
        let mut recording = Recording::default();
        recording.put(&["p", "status", "phase"], "Running");
        let golden = Golden::of(recording);
        assert_eq!(golden.to_json().unwrap(), json!({"p": {"status": {"phase": "Running"}}}));
    }
}
