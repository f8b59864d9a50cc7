//! From the text of a manifest to a static pod, as upstream makes it: decode, default, identify,
//! validate.
//!
//! Pure. The UID is upstream's hash of the defaulted pod, this node's name and the file's path: an
//! edited file is another pod, the same file is the same pod after a restart and after an exchange
//! of the kubelet.

use k8s_openapi::api::core::v1::Toleration;
use serde_json::Value;

use super::{defaults, references, uid, validate};
use crate::config::document;
use crate::model::pod::{CONFIG_HASH, CONFIG_MIRROR};
use crate::model::{Pod, pod};

/// Where a manifest comes from.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// A file: its path.
    File(&'a str),
    /// A URL.
    Url(&'a str),
}

/// Why a manifest gives no pod. The texts begin as upstream's do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is neither YAML nor JSON.
    #[error("it is neither YAML nor JSON: {0}")]
    Syntax(String),
    /// It holds nothing.
    #[error("it is empty")]
    Empty,
    /// It does not say what it is.
    #[error("Object '{0}' is missing")]
    Missing(&'static str),
    /// It was saved from the API: upstream never runs what looks like a mirror pod.
    #[error("Unable to find pod for mirror pod, skipping: remove the annotation {CONFIG_MIRROR}")]
    Mirror,
    /// It is no Pod.
    #[error("it is a {kind} of {version}, not a Pod of v1")]
    NotAPod {
        /// What it says it is.
        kind: String,
        /// Of which API.
        version: String,
    },
    /// A field has the wrong type.
    #[error("{0}")]
    Type(String),
    /// Fields are missing or wrong, each by its path.
    #[error("invalid pod: [{}]", .0.join(", "))]
    Invalid(Vec<String>),
    /// It refers to an object of the API, which a static pod must not.
    #[error("static pods may not reference {0}")]
    References(&'static str),
    /// It uses what static pods may not use, whatever they may refer to.
    #[error("static pods may not use {0}")]
    Uses(&'static str),
}

/// Whether static pods may refer to objects of the API (gate PreventStaticPodAPIReferences).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum References {
    /// They are refused.
    Refused,
    /// They are taken, but for those that no static pod can use.
    Taken,
}

/// Reads the pods of a manifest: one Pod, or several in a PodList.
pub fn read(
    text: &[u8],
    origin: Origin<'_>,
    node_name: &str,
    references: References,
) -> Result<Vec<Pod>, ManifestError> {
    let document = decode(text)?;
    // Go finds these two whatever their case.
    let field = |name: &'static str| {
        let mut fields = document.as_object().into_iter().flatten();
        let found = fields.rfind(|(key, _)| key.eq_ignore_ascii_case(name));
        let text = found.and_then(|(_, value)| value.as_str()).unwrap_or_default();
        if text.is_empty() { Err(ManifestError::Missing(name)) } else { Ok(text.to_owned()) }
    };
    let kind = field("kind").map_err(|_| ManifestError::Missing("Kind"))?;
    let version = field("apiVersion")?;
    match (kind.as_str(), version.as_str(), origin) {
        ("Pod", "v1", _) => Ok(vec![read_pod(&document, origin, node_name, references)?]),
        // Upstream reads lists from URLs only.
        ("PodList" | "List", "v1", Origin::Url(_)) => {
            let items =
                document.get("items").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            items.iter().map(|item| read_pod(item, origin, node_name, references)).collect()
        }
        _ => Err(ManifestError::NotAPod { kind, version }),
    }
}

/// The first document of a text, as plain data.
fn decode(text: &[u8]) -> Result<Value, ManifestError> {
    let read = document::read(text).map_err(|error| ManifestError::Syntax(error.to_string()))?;
    let mut value = read.value;
    if value.is_null() {
        return Err(ManifestError::Empty);
    }
    normalise(&mut value, false);
    Ok(value)
}

/// Go takes numbers for quantities (`cpu: 2`); the types here do not.
pub(super) fn normalise(value: &mut Value, quantity: bool) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let quantities = matches!(
                    name.as_str(),
                    "limits" | "requests" | "overhead" | "sizeLimit" | "divisor"
                );
                normalise(field, quantity || quantities);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| normalise(item, quantity)),
        Value::Number(number) if quantity => {
            let whole = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9e15);
            let text = whole.map_or_else(|| number.to_string(), |whole| format!("{whole:.0}"));
            *value = Value::String(text);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn read_pod(
    document: &Value,
    origin: Origin<'_>,
    node_name: &str,
    allowed: References,
) -> Result<Pod, ManifestError> {
    let mut pod = pod_of(document).map_err(|error| {
        let problem = without_place(&error.to_string());
        let field = wrong_field(&mut Vec::new(), document);
        ManifestError::Type(match field {
            Some(field) => format!("{field}: {problem}"),
            None => problem,
        })
    })?;

    if pod.metadata.name.as_deref().unwrap_or_default().is_empty() {
        return Err(ManifestError::Invalid(vec!["name is needed for the pod".to_owned()]));
    }
    if pod::is_mirror(&pod) {
        return Err(ManifestError::Mirror);
    }

    defaults::apply(&mut pod);
    identify(&mut pod, origin, node_name);
    let errors = validate::pod(&pod);
    if !errors.is_empty() {
        return Err(ManifestError::Invalid(errors));
    }

    match (allowed, references::api_object(&pod), references::unusable(&pod)) {
        (References::Refused, Some(what), _) => Err(ManifestError::References(what)),
        (References::Taken, _, Some(what)) => Err(ManifestError::Uses(what)),
        (References::Refused | References::Taken, _, _) => Ok(pod),
    }
}

/// By way of a text, as the API server's answers are read: the code that reads a pod from plain
/// data would be one more large part of the program.
fn pod_of(document: &Value) -> serde_json::Result<Pod> {
    serde_json::from_str(&serde_json::to_string(document)?)
}

/// A step from a value to one within it.
#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

/// The path of the value that alone makes a document no pod.
fn wrong_field<'a>(path: &mut Vec<Step<'a>>, value: &'a Value) -> Option<String> {
    let inner: Vec<(Step<'a>, &'a Value)> = match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (Step::Field(name), value)).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, value)| (Step::Item(index), value)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    for (step, value) in inner {
        path.push(step);
        if pod_of(&alone(path, value.clone())).is_err() {
            let hollow = match value {
                Value::Object(_) => serde_json::json!({}),
                Value::Array(_) => serde_json::json!([]),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
            };
            // What is wrong is the value itself, or something in it.
            let within = pod_of(&alone(path, hollow)).is_ok();
            let found = if within { wrong_field(path, value) } else { None };
            return found.or_else(|| Some(text_of(path)));
        }
        path.pop();
    }
    None
}

/// A document that holds one value.
fn alone(path: &[Step<'_>], value: Value) -> Value {
    path.iter().rev().fold(value, |inner, step| match step {
        Step::Field(name) => serde_json::json!({ (*name): inner }),
        Step::Item(_) => Value::Array(vec![inner]),
    })
}

/// A path as the API writes it: `spec.containers[0].image`.
fn text_of(path: &[Step<'_>]) -> String {
    let text = path.iter().fold(String::new(), |text, step| match step {
        Step::Field(name) => format!("{text}.{name}"),
        Step::Item(index) => format!("{text}[{index}]"),
    });
    text.trim_start_matches('.').to_owned()
}

/// Without where in the text it is: that text nobody has seen.
fn without_place(problem: &str) -> String {
    problem.rsplit_once(" at line ").map_or(problem, |(what, _)| what).to_owned()
}

/// Gives the pod its UID, its name on this node, its namespace, its hash, and for a file the
/// toleration that keeps it here.
fn identify(pod: &mut Pod, origin: Origin<'_>, node_name: &str) {
    let uid = match pod.metadata.uid.take().filter(|uid| !uid.is_empty()) {
        Some(uid) => uid,
        None => uid::of(pod, origin, node_name),
    };
    let metadata = &mut pod.metadata;
    metadata.managed_fields = None;
    let name = metadata.name.take().unwrap_or_default();
    metadata.name = Some(format!("{name}-{}", node_name.to_lowercase()));
    if metadata.namespace.as_deref().unwrap_or_default().is_empty() {
        metadata.namespace = Some("default".to_owned());
    }
    metadata.annotations.get_or_insert_default().insert(CONFIG_HASH.to_owned(), uid.clone());
    metadata.uid = Some(uid);
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node_name.to_owned());
    if matches!(origin, Origin::File(_)) {
        let toleration = Toleration {
            effect: Some("NoExecute".to_owned()),
            operator: Some("Exists".to_owned()),
            ..Toleration::default()
        };
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    let status = pod.status.get_or_insert_default();
    status.phase = Some("Pending".to_owned());
}

#[cfg(test)]
mod tests {
    use super::{ManifestError, Origin, References, read};
    use crate::model::{Pod, pod};

    const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: etcd\n  namespace: kube-system\nspec:\n  \
        hostNetwork: true\n  containers:\n  - name: etcd\n    image: registry/etcd:3.6\n    \
        ports: [{containerPort: 2379}]\n    resources: {requests: {cpu: 2, memory: 1.5e3}}\n";

    fn one(text: &str) -> Result<Pod, ManifestError> {
        read(
            text.as_bytes(),
            Origin::File("/etc/kubernetes/manifests/etcd.yaml"),
            "Node-1",
            References::Refused,
        )
        .map(|mut pods| pods.remove(0))
    }

    #[test]
    fn makes_a_static_pod() {
        let pod = one(MANIFEST).expect("a pod");
        assert_eq!(pod.metadata.name.as_deref(), Some("etcd-node-1"));
        assert_eq!(pod::key(&pod).to_string(), "kube-system/etcd-node-1");
        let uid = pod::uid(&pod);
        assert_eq!(uid.as_str().len(), 32);
        assert_eq!(pod::annotation(&pod, pod::CONFIG_HASH), Some(uid.as_str()));
        let spec = pod.spec.expect("a spec");
        assert_eq!(spec.node_name.as_deref(), Some("Node-1"));
        let tolerations = spec.tolerations.expect("a toleration");
        assert_eq!(tolerations[0].effect.as_deref(), Some("NoExecute"));
        let requests = spec.containers[0]
            .resources
            .as_ref()
            .and_then(|r| r.requests.as_ref())
            .expect("requests");
        assert_eq!((requests["cpu"].0.as_str(), requests["memory"].0.as_str()), ("2", "1500"));
        assert_eq!(
            spec.containers[0].ports.as_ref().map(|ports| ports[0].host_port),
            Some(Some(2379))
        );
    }

    #[test]
    fn the_uid_follows_the_content_not_the_text() {
        let uid = |text: &str| pod::uid(&one(text).expect("a pod"));
        assert_eq!(uid(MANIFEST), uid(&format!("# a comment\n{MANIFEST}---\nsecond: document\n")));
        assert_ne!(uid(MANIFEST), uid(&MANIFEST.replace("3.6", "3.7")));
        let other = read(
            MANIFEST.as_bytes(),
            Origin::File("/elsewhere.yaml"),
            "Node-1",
            References::Refused,
        )
        .expect("a pod");
        assert_ne!(uid(MANIFEST), pod::uid(&other[0]));
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        assert_eq!(one(text).expect_err("it is wrong").to_string(), expected);
    }

    #[test]
    fn says_what_is_wrong() {
        refused("", "it is empty");
        refused(
            "kind: Deployment\napiVersion: apps/v1\n",
            "it is a Deployment of apps/v1, not a Pod of v1",
        );
        refused("kind: Pod\napiVersion: v1\n", "invalid pod: [name is needed for the pod]");
        refused(
            "kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {containers: []}",
            "invalid pod: [spec.containers: Required value]",
        );
        let secret = MANIFEST.replace("  hostNetwork: true", "  serviceAccountName: admin");
        refused(&secret, "static pods may not reference serviceaccounts");
        assert!(matches!(one("a: [\n"), Err(ManifestError::Syntax(_))));
        refused(
            "kind: Pod\napiVersion: v1\nmetadata: {name: 3}",
            "metadata.name: invalid type: integer `3`, expected a string",
        );
        let image = MANIFEST.replace("image: registry/etcd:3.6", "image: [a]");
        let error = one(&image).expect_err("no image").to_string();
        assert!(error.starts_with("spec.containers[0].image: invalid type: "), "{error}");
        refused("apiVersion: v1\n", "Object 'Kind' is missing");
        refused("kind: Pod\n", "Object 'apiVersion' is missing");
        assert!(matches!(one("{kind: Pod, apiVersion: v1}"), Err(ManifestError::Syntax(_))));
        let mirror = MANIFEST
            .replace("  namespace", "  annotations: {kubernetes.io/config.mirror: a}\n  namespace");
        assert_eq!(one(&mirror), Err(ManifestError::Mirror));
        let port = MANIFEST
            .replace("    ports", "    readinessProbe: {tcpSocket: {port: \"8080\"}}\n    ports");
        refused(
            &port,
            "invalid pod: [spec.containers[0].readinessProbe.tcpSocket.port: Invalid value: \
             \"8080\": must contain at least one letter (a-z)]",
        );
    }

    #[test]
    fn what_upstream_takes_is_taken() {
        for (from, to) in [
            ("kind: Pod", "Kind: Pod"),
            ("apiVersion", "ApiVersion"),
            ("namespace: kube-system", "namespace: \"\""),
        ] {
            let pod = one(&MANIFEST.replace(from, to)).expect(to);
            assert_ne!(pod.metadata.namespace.as_deref(), Some(""));
        }
    }

    #[test]
    fn references_are_refused_unless_the_gate_is_off() {
        let with = |field: &str| MANIFEST.replace("  hostNetwork: true", &format!("  {field}"));
        let taken = |text: &str| {
            read(text.as_bytes(), Origin::File("f"), "n", References::Taken)
                .map(|pods| pods.len())
                .map_err(|error| error.to_string())
        };
        let account = with("serviceAccountName: admin");
        assert!(matches!(one(&account), Err(ManifestError::References(_))));
        assert_eq!(taken(&account), Ok(1));
        let claims = with("resourceClaims: [{name: c, resourceClaimName: d}]");
        assert_eq!(taken(&claims), Err("static pods may not use ResourceClaims".to_owned()));
    }

    #[test]
    fn json_is_yaml_and_lists_come_from_urls() {
        let list = r#"{"kind":"PodList","apiVersion":"v1","items":[
            {"metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}}]}"#;
        assert_eq!(
            read(list.as_bytes(), Origin::Url("http://x"), "n", References::Refused)
                .expect("pods")
                .len(),
            1
        );
        assert!(read(list.as_bytes(), Origin::File("f"), "n", References::Refused).is_err());
    }
}
