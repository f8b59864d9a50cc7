//! From the text of a configuration file to a typed configuration and a list of what looked wrong.
//!
//! [`document`] reads the text. Unknown and repeated fields are warnings that name them; a value of
//! the wrong type is an error that names its field, and all such errors are reported together. A
//! drop-in is read strictly: a repeated field is an error. Pure: `file` reads the files.

use serde_json::{Map, Value};

use super::document;

use super::types::{API_VERSION, KIND, KubeletConfiguration};

/// The error of a file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The text is neither YAML nor JSON.
    #[error("it is neither YAML nor JSON: {0}")]
    Syntax(String),
    /// The document is not an object.
    #[error("it holds no object")]
    NotAnObject,
    /// `kind` or `apiVersion` is missing.
    #[error("Object '{0}' is missing")]
    Missing(&'static str),
    /// `kind` or `apiVersion` is not a text.
    #[error("couldn't get version/kind; json parse error: {0} is no string")]
    NoText(&'static str),
    /// Fields of a drop-in that stand twice.
    #[error("strict decoding error: {}", already_set(.0))]
    Repeated(Vec<String>),
    /// The document is of another kind or version.
    #[error(
        "no kind {kind:?} is registered for version {version:?}: expected {KIND} of {API_VERSION}"
    )]
    OtherKind {
        /// The kind of the document.
        kind: String,
        /// The version of the document.
        version: String,
    },
    /// Fields whose value has the wrong type or form.
    #[error("{}", .0.join(", "))]
    Fields(Vec<String>),
}

fn already_set(fields: &[String]) -> String {
    let texts: Vec<String> =
        fields.iter().map(|field| format!("key {field:?} already set in map")).collect();
    texts.join(", ")
}

/// A file before it has types: its fields, and the names of repeated ones.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    /// The fields, without `apiVersion` and `kind`, and without those that say null.
    pub fields: Value,
    /// Fields that stand twice.
    pub repeated: Vec<String>,
}

/// The role of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The file that `--config` names: leniently.
    File,
    /// A file of the drop-in directory: strictly, and null means "remove".
    DropIn,
}

/// Reads a file's text up to its fields.
pub(super) fn parse(bytes: &[u8], role: Role) -> Result<Document, DecodeError> {
    let read = document::read(bytes).map_err(|error| DecodeError::Syntax(error.to_string()))?;
    let Value::Object(mut fields) = read.value else { return Err(DecodeError::NotAnObject) };
    let kind = type_field(&fields, "kind", role)?;
    let version = type_field(&fields, "apiVersion", role)?;
    if kind != KIND || version != API_VERSION {
        return Err(DecodeError::OtherKind { kind, version });
    }
    fields.retain(|name, _| name != "kind" && name != "apiVersion");

    let mut fields = Value::Object(fields);
    match role {
        Role::File => drop_nulls(&mut fields),
        Role::DropIn if read.repeated.is_empty() => {}
        Role::DropIn => return Err(DecodeError::Repeated(read.repeated)),
    }
    Ok(Document { fields, repeated: read.repeated })
}

/// `kind` or `apiVersion`. Go finds both whatever their case, and so a file may say `Kind`; a
/// drop-in may not.
fn type_field(
    fields: &Map<String, Value>,
    name: &'static str,
    role: Role,
) -> Result<String, DecodeError> {
    let is_it = |key: &str| match role {
        Role::File => key.eq_ignore_ascii_case(name),
        Role::DropIn => key == name,
    };

    let mut found = "";
    for (_, value) in fields.iter().filter(|(key, _)| is_it(key)) {
        match value {
            Value::String(text) => found = text,
            Value::Null => {}
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                return Err(DecodeError::NoText(name));
            }
        }
    }

    if found.is_empty() {
        return Err(DecodeError::Missing(name));
    }
    Ok(found.to_owned())
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

/// Durations, for which null is no valid text.
const DURATIONS: [&str; 19] = [
    "cacheAuthorizedTTL",
    "cacheTTL",
    "cacheUnauthorizedTTL",
    "containerLogMonitorInterval",
    "cpuCFSQuotaPeriod",
    "cpuManagerReconcilePeriod",
    "evictionPressureTransitionPeriod",
    "fileCheckFrequency",
    "httpCheckFrequency",
    "imageMaximumGCAge",
    "imageMinimumGCAge",
    "nodeStatusReportFrequency",
    "nodeStatusUpdateFrequency",
    "runtimeRequestTimeout",
    "shutdownGracePeriod",
    "shutdownGracePeriodCriticalPods",
    "streamingConnectionIdleTimeout",
    "syncFrequency",
    "volumeStatsAggPeriod",
];

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| !value.is_null() || DURATIONS.contains(&name.as_str()));
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
        let document = parse(format!("{HEAD}{body}").as_bytes(), Role::File)?;
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
        assert_eq!(
            parse(json.as_bytes(), Role::File).expect("JSON").fields,
            serde_json::json!({ "maxPods": 7 })
        );
        max_pods("maxPods: 5\n---\nmaxPods: 6\n", 5);
        let leading = format!("# comment\n---\n{HEAD}maxPods: 9\n");
        assert_eq!(
            parse(leading.as_bytes(), Role::File).expect("YAML").fields,
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
    fn kind_and_version_are_found_whatever_their_case() {
        for head in
            ["Kind: KubeletConfiguration\napiVersion: ", "kind: KubeletConfiguration\nApiVersion: "]
        {
            let text = format!("{head}{API_VERSION}\nmaxPods: 5\n");
            let document = parse(text.as_bytes(), Role::File).expect("upstream takes it");
            let (config, unknown) = typed(&document.fields).expect("typed");
            assert_eq!((config.max_pods, unknown.len()), (5, 1), "{unknown:?}");
            let error = parse(text.as_bytes(), Role::DropIn).expect_err("strict");
            assert!(matches!(error, DecodeError::Missing(_)), "{error}");
        }
        let number = parse(b"kind: 1", Role::File);
        assert_eq!(number, Err(DecodeError::NoText("kind")));
    }

    #[test]
    fn a_repeated_field_of_a_drop_in_is_an_error() {
        let text = format!("{HEAD}maxPods: 60\nmaxPods: 61\n");
        let error = parse(text.as_bytes(), Role::DropIn).expect_err("strict").to_string();
        assert_eq!(error, "strict decoding error: key \"maxPods\" already set in map");
    }

    #[test]
    fn a_duration_that_is_null_is_refused() {
        let document = KubeletConfiguration::default().to_document();
        let is_duration = |value: &Value| {
            value.as_str().is_some_and(|text| super::super::GoDuration::parse(text).is_ok())
        };
        let mut seen = 0;
        for (name, _) in
            document.as_object().expect("an object").iter().filter(|(_, value)| is_duration(value))
        {
            let error = decode(&format!("{name}: null")).expect_err(name).to_string();
            assert!(error.contains(r#"time: invalid duration """#), "{error}");
            seen += 1;
        }
        assert_eq!(seen, DURATIONS.len() - 3, "three are nested");
        decode(
            "logging: {flushFrequency: null}\ncrashLoopBackOff: {maxContainerRestartPeriod: null}",
        )
        .expect("upstream takes these");
    }

    #[test]
    fn numbers_of_json_are_as_they_are_written() {
        let json = |value: &str| {
            let text =
                format!(r#"{{"apiVersion":"{API_VERSION}","kind":"{KIND}","maxPods":{value}}}"#);
            parse(text.as_bytes(), Role::File).and_then(|document| typed(&document.fields))
        };
        json("77").expect("a number");
        for value in ["7.7e1", "5.0", "077"] {
            json(value).expect_err(value);
        }
    }

    #[test]
    fn insists_on_kind_and_version() {
        assert_eq!(parse(b"maxPods: 1", Role::File), Err(DecodeError::Missing("kind")));
        assert_eq!(parse(b"- a", Role::File), Err(DecodeError::NotAnObject));
        assert_eq!(parse(b"# nothing", Role::File), Err(DecodeError::NotAnObject));
        let other = parse(b"apiVersion: v1\nkind: Pod", Role::File).expect_err("another kind");
        assert!(
            other.to_string().starts_with("no kind \"Pod\" is registered for version \"v1\""),
            "{other}"
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,200}", name in "[a-zA-Z]{1,20}", value in "(?s).{0,40}") {
            drop(parse(text.as_bytes(), Role::File));
            drop(decode(&format!("{name}: {value}")));
        }
    }
}
