//! From the text of a configuration file to a typed configuration and a list of what looked wrong.
//!
//! YAML 1.1 as Go's library reads it (JSON is a part of it): the first document only, `0755` is
//! octal, `yes` is true, `5.0` is an integer. Unknown and repeated fields are warnings that name
//! them; a value of the wrong type is an error that names its field, and all such errors are
//! reported together. Pure: `file` reads the text.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::fmt;

use super::types::{API_VERSION, KIND, KubeletConfiguration};

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is no YAML.
    #[error("it is neither YAML nor JSON: {0}")]
    Syntax(String),
    /// It is no object.
    #[error("it holds no object")]
    NotAnObject,
    /// It does not say what it is.
    #[error("Object '{0}' is missing")]
    Missing(&'static str),
    /// It is something else.
    #[error(
        "no kind {kind:?} is registered for version {version:?}: expected {KIND} of {API_VERSION}"
    )]
    OtherKind {
        /// Its kind.
        kind: String,
        /// Its version.
        version: String,
    },
    /// Fields whose value has the wrong type or form.
    #[error("{}", .0.join(", "))]
    Fields(Vec<String>),
}

/// What a file says, before types: its fields, and complaints about repeated ones.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    /// The fields, without `apiVersion` and `kind`, and without those that say null.
    pub fields: Value,
    /// Fields that stand twice.
    pub repeated: Vec<String>,
}

/// Reads a file's text up to its fields. `nulls` keeps fields that say null: in a drop-in they mean
/// "remove".
pub(super) fn parse(text: &str, nulls: bool) -> Result<Document, DecodeError> {
    let repeated = RefCell::new(Vec::new());
    let value = read_first_document(text, &repeated)?;
    let Value::Object(mut fields) = value else { return Err(DecodeError::NotAnObject) };
    let mut take = |name: &'static str| match fields.remove(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(_) | None => Err(DecodeError::Missing(name)),
    };
    let (kind, version) = (take("kind")?, take("apiVersion")?);
    if kind != KIND || version != API_VERSION {
        return Err(DecodeError::OtherKind { kind, version });
    }
    let mut fields = Value::Object(fields);
    if !nulls {
        drop_nulls(&mut fields);
    }
    Ok(Document { fields, repeated: repeated.into_inner() })
}

/// Gives the fields their types. Returns the configuration and the names of unknown fields.
pub(super) fn typed(fields: &Value) -> Result<(KubeletConfiguration, Vec<String>), DecodeError> {
    let mut unknown = Vec::new();
    let decoded: Result<KubeletConfiguration, _> =
        serde_ignored::deserialize(fields.clone(), |path| unknown.push(path.to_string()));
    decoded
        .map(|config| (config, unknown))
        .map_err(|error| DecodeError::Fields(wrong_fields(fields, &error)))
}

/// Decodes each field alone, and each field of an object that is wrong, so that every wrong one is
/// named by its path and not only the first.
fn wrong_fields(fields: &Value, error: &serde_json::Error) -> Vec<String> {
    let mut problems = Vec::new();
    narrow(&mut Vec::new(), fields, &mut problems);
    if problems.is_empty() {
        problems.push(error.to_string());
    }
    problems
}

fn narrow<'a>(path: &mut Vec<&'a str>, value: &'a Value, problems: &mut Vec<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        path.push(name);
        let wrap = |inner: Value, name: &&str| {
            Value::Object(Map::from_iter([((*name).to_owned(), inner)]))
        };
        let alone = path.iter().rev().fold(value.clone(), wrap);
        if let Err(error) = serde_json::from_value::<KubeletConfiguration>(alone) {
            let before = problems.len();
            narrow(path, value, problems);
            if problems.len() == before {
                problems.push(format!("field {}: {error}", path.join(".")));
            }
        }
        path.pop();
    }
}

fn read_first_document(text: &str, repeated: &RefCell<Vec<String>>) -> Result<Value, DecodeError> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
    };
    let root = Tree { path: String::new(), repeated };
    serde_saphyr::with_deserializer_from_str_with_options(
        first_document(text),
        options,
        |deserializer| root.deserialize(deserializer),
    )
    .map_err(|error| DecodeError::Syntax(error.without_snippet().to_string()))
}

/// The text up to the marker that begins a second document: Go's library reads no further.
fn first_document(text: &str) -> &str {
    let mut offset = 0;
    let mut content = false;
    for line in text.split_inclusive('\n') {
        let marker = line.trim_end();
        if content && (marker == "---" || marker.starts_with("--- ") || marker == "...") {
            return &text[..offset];
        }
        let blank =
            marker.is_empty() || marker.trim_start().starts_with('#') || marker.starts_with('%');
        content |= !blank && marker != "---";
        offset += line.len();
    }
    text
}

/// Builds a [`Value`] and notes keys that stand twice in one map; the later one wins.
struct Tree<'a> {
    path: String,
    repeated: &'a RefCell<Vec<String>>,
}

impl Tree<'_> {
    fn child(&self, name: &str) -> Self {
        let path =
            if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { path, repeated: self.repeated }
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(integral(value).map_or_else(
            || Number::from_f64(value).map_or(Value::Null, Value::Number),
            Value::from,
        ))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self.child(&values.len().to_string()))? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            let child = self.child(&key);
            let path = child.path.clone();
            let value = entries.next_value_seed(child)?;
            if map.insert(key, value).is_some() {
                self.repeated.borrow_mut().push(path);
            }
        }
        Ok(Value::Object(map))
    }
}

/// A key as its text, whatever YAML took it for.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }
}

/// `5.0` as 5, as Go's conversion by way of JSON makes it.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked first")]
fn integral(value: f64) -> Option<i64> {
    const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;
    (value.fract() == 0.0 && value.abs() <= LARGEST_EXACT).then_some(value as i64)
}

/// Fields whose members have names of the administrator's choice: there null is a value, the zero
/// one, and a threshold without one is refused. Everywhere else null says nothing.
const MAPS: [&str; 12] = [
    "cpuManagerPolicyOptions",
    "evictionHard",
    "evictionMinimumReclaim",
    "evictionSoft",
    "evictionSoftGracePeriod",
    "featureGates",
    "kubeReserved",
    "limits",
    "qosReserved",
    "staticPodURLHeader",
    "systemReserved",
    "topologyManagerPolicyOptions",
];

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.iter_mut()
                .filter(|(name, _)| !MAPS.contains(&name.as_str()))
                .for_each(|(_, value)| drop_nulls(value));
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    fn decode(body: &str) -> Result<(KubeletConfiguration, Vec<String>, Vec<String>), DecodeError> {
        let document = parse(&format!("{HEAD}{body}"), false)?;
        let (config, unknown) = typed(&document.fields)?;
        Ok((config, unknown, document.repeated))
    }

    #[track_caller]
    fn max_pods(body: &str, expected: i32) {
        assert_eq!(decode(body).map(|(config, ..)| config.max_pods), Ok(expected), "{body}");
    }

    #[test]
    fn reads_numbers_as_go_does() {
        max_pods("maxPods: 50", 50);
        max_pods("maxPods: 5.0", 5);
        max_pods("maxPods: 0755", 493);
        max_pods("maxPods: 0x1F", 31);
        max_pods("maxPods: null", 110);
        max_pods("", 110);
    }

    #[test]
    fn reads_json_and_the_first_document_only() {
        let json = r#"{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "maxPods": 7}"#;
        assert_eq!(parse(json, false).expect("JSON").fields, serde_json::json!({ "maxPods": 7 }));
        max_pods("maxPods: 5\n---\nmaxPods: 6\n", 5);
        let leading = format!("# comment\n---\n{HEAD}maxPods: 9\n");
        assert_eq!(
            parse(&leading, false).expect("YAML").fields,
            serde_json::json!({ "maxPods": 9 })
        );
    }

    #[test]
    fn names_unknown_and_repeated_fields() {
        let (config, unknown, repeated) =
            decode("maxPods: 5\nbogus: 1\nauthentication: {x509: {nope: 2}}\nmaxPods: 6")
                .expect("lenient");
        assert_eq!(config.max_pods, 6);
        assert_eq!(unknown, ["authentication.x509.nope", "bogus"]);
        assert_eq!(repeated, ["maxPods"]);
    }

    #[test]
    fn names_every_field_of_the_wrong_type() {
        let error = decode("maxPods: many\nport: [1]\nsyncFrequency: 5\npodCIDR: 10")
            .expect_err("wrong types");
        let DecodeError::Fields(problems) = error else { panic!("{error}") };
        let names: Vec<&str> = problems.iter().filter_map(|text| text.split(':').next()).collect();
        assert_eq!(names, ["field maxPods", "field podCIDR", "field port", "field syncFrequency"]);
        let error = decode("authentication: {anonymous: {enabled: maybe}, x509: {}}")
            .expect_err("wrong type");
        assert!(
            error.to_string().starts_with("field authentication.anonymous.enabled: "),
            "{error}"
        );
    }

    #[test]
    fn null_in_a_map_is_the_zero_value() {
        let (config, ..) = decode(
            "evictionHard: {memory.available: }\nfeatureGates: {A: null}\nstaticPodURLHeader: {X: null}\n\
             reservedMemory: [{limits: {memory: null}}]\nsystemReserved: null",
        )
        .expect("lenient");
        assert_eq!(config.eviction_hard["memory.available"], "");
        assert!(!config.feature_gates["A"] && config.static_pod_url_header.0["X"].is_empty());
        assert_eq!(config.reserved_memory[0].limits["memory"].0, "0");
        assert!(config.system_reserved.is_empty());
    }

    #[test]
    fn insists_on_kind_and_version() {
        assert_eq!(parse("maxPods: 1", false), Err(DecodeError::Missing("kind")));
        assert_eq!(parse("- a", false), Err(DecodeError::NotAnObject));
        assert_eq!(parse("# nothing", false), Err(DecodeError::NotAnObject));
        let other = parse("apiVersion: v1\nkind: Pod", false).expect_err("another kind");
        assert!(
            other.to_string().starts_with("no kind \"Pod\" is registered for version \"v1\""),
            "{other}"
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,200}", name in "[a-zA-Z]{1,20}", value in "(?s).{0,40}") {
            drop(parse(&text, false));
            drop(decode(&format!("{name}: {value}")));
        }
    }
}
