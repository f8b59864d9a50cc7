//! The metadata of a pod, and the annotations that mean something. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, SeccompProfile};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;
use serde_json::{Map, Value};

use super::problems::Problems;
use super::{names, scheduling, visit};

/// The largest annotations of an object together.
const MOST_ANNOTATIONS: usize = 256 << 10;
/// The finalizers that have no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", ORPHAN, FOREGROUND];
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const RUNTIME_DEFAULT: &str = "runtime/default";
const UNCONFINED: &str = "unconfined";
const LOCALHOST: &str = "localhost/";

type Annotations = BTreeMap<String, String>;

/// Checks what every object has.
pub(super) fn object(problems: &mut Problems, metadata: &ObjectMeta) {
    if let Some(prefix) = metadata.generate_name.as_deref().filter(|prefix| !prefix.is_empty()) {
        // A dash at the end is followed by what is generated.
        let name = match prefix.strip_suffix('-') {
            Some(name) if !name.is_empty() => format!("{name}a"),
            Some(_) | None => prefix.to_owned(),
        };
        for why in names::subdomain(&name) {
            problems.invalid("metadata.generateName", prefix, why);
        }
    }
    let name = metadata.name.as_deref().unwrap_or_default();
    problems.name("metadata.name", name, names::subdomain);
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    if namespace.is_empty() {
        problems.required("metadata.namespace");
    } else {
        problems.name("metadata.namespace", namespace, names::label);
    }
    problems.not_negative("metadata.generation", metadata.generation);
    if let Some(labels) = &metadata.labels {
        scheduling::labels(problems, "metadata.labels", labels);
    }
    annotations(problems, "metadata.annotations", metadata.annotations.as_ref());
    owners(problems, metadata.owner_references.as_deref().unwrap_or_default());
    finalizers(problems, metadata.finalizers.as_deref().unwrap_or_default());
}

/// Checks the keys of annotations, and their size together.
pub(super) fn annotations(problems: &mut Problems, path: &str, annotations: Option<&Annotations>) {
    let annotations = annotations.into_iter().flatten();
    let mut size = 0;
    for (key, value) in annotations {
        // A key may have capital letters in its domain; it is shown as it was written.
        for why in names::qualified(&key.to_lowercase()) {
            problems.invalid(path, key, why);
        }
        size += key.len() + value.len();
    }
    if size > MOST_ANNOTATIONS {
        problems.too_long(path, MOST_ANNOTATIONS);
    }
}

fn owners(problems: &mut Problems, owners: &[OwnerReference]) {
    let path = "metadata.ownerReferences";
    let mut controller = None;
    for owner in owners {
        self::owner(problems, path, owner);
        if owner.controller != Some(true) {
            continue;
        }
        let name = format!("{}/{}", owner.kind, owner.name);
        match &controller {
            None => controller = Some(name),
            Some(first) => {
                let all: Vec<PrintedOwner<'_>> = owners.iter().map(PrintedOwner::from).collect();
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {first} and {name}"
                );
                problems.invalid_json(path, &all, why);
            }
        }
    }
}

fn owner(problems: &mut Problems, path: &str, owner: &OwnerReference) {
    let version = match owner.api_version.split('/').collect::<Vec<_>>()[..] {
        [version] | [_, version] => version,
        _ => "",
    };
    if version.is_empty() {
        let why = "version must not be empty";
        problems.invalid(format!("{path}.apiVersion"), &owner.api_version, why);
    }
    for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
        if value.is_empty() {
            problems.invalid(format!("{path}.{field}"), "", "must not be empty");
        }
    }
    if owner.api_version == "v1" && owner.kind == "Event" {
        let why = "/v1, Kind=Event is disallowed from being an owner";
        problems.invalid_json(path, &PrintedOwner::from(owner), why);
    }
}

/// An owner in Go's order of fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PrintedOwner<'a> {
    api_version: &'a str,
    kind: &'a str,
    name: &'a str,
    uid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_owner_deletion: Option<bool>,
}

impl<'a> From<&'a OwnerReference> for PrintedOwner<'a> {
    fn from(owner: &'a OwnerReference) -> Self {
        Self {
            api_version: &owner.api_version,
            kind: &owner.kind,
            name: &owner.name,
            uid: &owner.uid,
            controller: owner.controller,
            block_owner_deletion: owner.block_owner_deletion,
        }
    }
}

fn finalizers(problems: &mut Problems, finalizers: &[String]) {
    let path = "metadata.finalizers";
    for (index, finalizer) in finalizers.iter().enumerate() {
        problems.name(path, finalizer, names::qualified);
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.as_str()) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            problems.invalid(format!("{path}[{index}]"), finalizer, why);
        }
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has(ORPHAN) && has(FOREGROUND) {
        let why = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        problems.invalid_json(path, &finalizers, why);
    }
}

/// Checks the annotations that pods had before they had fields for the same.
pub(super) fn of_pods(problems: &mut Problems, metadata: &ObjectMeta, spec: &PodSpec) {
    let path = "metadata.annotations";
    let Some(annotations) = &metadata.annotations else { return };
    if let Some(written) = annotations.get(TOLERATIONS).filter(|written| !written.is_empty()) {
        tolerations(problems, path, written);
    }
    if let Some(cost) = annotations.get(DELETION_COST)
        && !is_cost(cost)
    {
        problems.invalid(format!("{path}[{DELETION_COST}]"), cost, "must be a 32bit integer");
    }
    for (key, value) in annotations {
        if key == SECCOMP_OF_POD || key.starts_with(SECCOMP_OF_CONTAINER) {
            seccomp(problems, &format!("{path}.{key}"), value);
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            let path = format!("{path}[{key}]");
            if !visit::containers(spec).any(|(_, found)| found.name == container) {
                problems.invalid(&path, container, "container not found");
            }
            let is_known = ["", RUNTIME_DEFAULT, UNCONFINED].contains(&value.as_str());
            if !is_known && !value.starts_with(LOCALHOST) {
                let why = format!("invalid AppArmor profile name: {value:?}");
                problems.invalid(path, value, why);
            }
        }
    }
    profiles(problems, annotations, spec);
}

/// Checks tolerations in an annotation. Go reads the names of their fields whatever their case.
fn tolerations(problems: &mut Problems, path: &str, written: &str) {
    let read = serde_json::from_str::<Vec<Map<String, Value>>>(written).and_then(|found| {
        let found = found.into_iter().map(|toleration| {
            let fields = toleration.into_iter().map(|(name, value)| {
                let seconds = name.eq_ignore_ascii_case("tolerationSeconds");
                (if seconds { "tolerationSeconds".to_owned() } else { name.to_lowercase() }, value)
            });
            Value::Object(fields.collect())
        });
        serde_json::from_value(found.collect())
    });
    match read {
        Ok(found) => {
            let found: Vec<_> = found;
            scheduling::tolerations(problems, &format!("{path}.{TOLERATIONS}"), &found);
        }
        Err(error) => problems.invalid(path, TOLERATIONS, error),
    }
}

/// Returns true for an integer as Go writes one, of 32 bits.
fn is_cost(text: &str) -> bool {
    let is_written_so = matches!(text.as_bytes(), [b'-' | b'1'..=b'9', ..] | [b'0']);
    is_written_so && text.parse::<i32>().is_ok()
}

fn seccomp(problems: &mut Problems, path: &str, profile: &str) {
    if [RUNTIME_DEFAULT, "docker/default", UNCONFINED].contains(&profile) {
        return;
    }
    match profile.strip_prefix(LOCALHOST) {
        Some(file) => problems.descending(path, file),
        None => problems.invalid(path, profile, "must be a valid seccomp profile"),
    }
}

/// Checks that annotations and fields say the same where both say something.
fn profiles(problems: &mut Problems, annotations: &Annotations, spec: &PodSpec) {
    let context = spec.security_context.as_ref();
    let of_pod = context.and_then(|context| context.seccomp_profile.as_ref());
    if let (Some(annotation), Some(field)) = (annotations.get(SECCOMP_OF_POD), of_pod) {
        let field = Profile::from(field);
        agree(problems, "spec.securityContext.seccompProfile", "seccomp", annotation, field);
    }

    let is_windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    let of_pod = context.and_then(|context| context.app_armor_profile.as_ref());
    for (path, container) in visit::containers(spec) {
        let Container { name, security_context, .. } = container;
        let path = format!("{path}.securityContext");
        let context = security_context.as_ref();
        let field = context.and_then(|context| context.seccomp_profile.as_ref());
        let annotation = annotations.get(&format!("{SECCOMP_OF_CONTAINER}{name}"));
        if let (Some(annotation), Some(field)) = (annotation, field) {
            let path = format!("{path}.seccompProfile");
            agree(problems, &path, "seccomp", annotation, Profile::from(field));
        }

        let field = context.and_then(|context| context.app_armor_profile.as_ref()).or(of_pod);
        let annotation = annotations.get(&format!("{APP_ARMOR}{name}"));
        if let (Some(annotation), Some(field), false) = (annotation, field, is_windows) {
            let path = format!("{path}.appArmorProfile");
            let field = Profile { kind: &field.type_, file: field.localhost_profile.as_deref() };
            agree(problems, &path, "apparmor", annotation, field);
        }
    }
}

/// A profile as a field has it.
#[derive(Clone, Copy)]
struct Profile<'a> {
    kind: &'a str,
    file: Option<&'a str>,
}

impl<'a> From<&'a SeccompProfile> for Profile<'a> {
    fn from(profile: &'a SeccompProfile) -> Self {
        Self { kind: &profile.type_, file: profile.localhost_profile.as_deref() }
    }
}

fn agree(problems: &mut Problems, path: &str, what: &str, written: &str, field: Profile<'_>) {
    let is_kind = match field.kind {
        "Unconfined" => written == UNCONFINED,
        "RuntimeDefault" => {
            written == RUNTIME_DEFAULT || (what == "seccomp" && written == "docker/default")
        }
        "Localhost" => written.starts_with(LOCALHOST),
        _ => return,
    };
    if !is_kind {
        let why = format!("{what} type in annotation and field must match");
        problems.forbidden(format!("{path}.type"), &why);
    } else if field.kind == "Localhost" && written.strip_prefix(LOCALHOST) != field.file {
        let why = format!("{what} profile in annotation and field must match");
        problems.forbidden(format!("{path}.localhostProfile"), &why);
    }
}
