//! The claims that are made for ephemeral volumes. Pure.

use k8s_openapi::api::core::v1::{
    EphemeralVolumeSource, PersistentVolumeClaimSpec, TypedLocalObjectReference,
    TypedObjectReference,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::problems::Problems;
use super::{metadata, names, resources, scheduling};
use crate::model::quantity::Amount;

/// Returns the name of the claim of an ephemeral volume.
pub(super) fn name_of(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

/// Checks the template of the claim of an ephemeral volume.
pub(super) fn ephemeral(problems: &mut Problems, path: &str, source: &EphemeralVolumeSource) {
    let path = format!("{path}.volumeClaimTemplate");
    let Some(template) = &source.volume_claim_template else {
        return problems.required(path);
    };
    if let Some(found) = &template.metadata {
        template_metadata(problems, &format!("{path}.metadata"), found);
    }
    spec(problems, &format!("{path}.spec"), &template.spec);
}

/// A template has labels and annotations, and nothing else.
fn template_metadata(problems: &mut Problems, path: &str, found: &ObjectMeta) {
    metadata::annotations(problems, &format!("{path}.annotations"), found.annotations.as_ref());
    if let Some(labels) = &found.labels {
        scheduling::labels(problems, &format!("{path}.labels"), labels);
    }
    let has_text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    // The names of Go, with a small letter: one of them reads oddly.
    for (field, is_set) in [
        ("name", has_text(&found.name)),
        ("generateName", has_text(&found.generate_name)),
        ("namespace", has_text(&found.namespace)),
        ("selfLink", has_text(&found.self_link)),
        ("uID", has_text(&found.uid)),
        ("resourceVersion", has_text(&found.resource_version)),
        ("generation", found.generation.is_some_and(|generation| generation != 0)),
        ("creationTimestamp", found.creation_timestamp.is_some()),
        ("deletionTimestamp", found.deletion_timestamp.is_some()),
        ("deletionGracePeriodSeconds", found.deletion_grace_period_seconds.is_some()),
        ("ownerReferences", found.owner_references.is_some()),
        ("finalizers", found.finalizers.is_some()),
        ("managedFields", found.managed_fields.is_some()),
    ] {
        if is_set {
            problems.forbidden(format!("{path}.{field}"), "cannot be set");
        }
    }
}

fn spec(problems: &mut Problems, path: &str, spec: &PersistentVolumeClaimSpec) {
    access_modes(problems, path, spec.access_modes.as_deref().unwrap_or_default());
    scheduling::selector(problems, &format!("{path}.selector"), spec.selector.as_ref());

    let storage_path = format!("{path}.resources[storage]");
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    match requests.and_then(|requests| requests.get("storage")) {
        None => problems.required(storage_path),
        Some(storage) => match Amount::parse(&storage.0) {
            Err(error) => problems.invalid(storage_path, &storage.0, error.problem),
            Ok(amount) if amount <= Amount::ZERO => {
                let why = "must be greater than zero";
                problems.invalid(storage_path, resources::canonical(storage), why);
            }
            Ok(_) => {}
        },
    }

    for (field, class) in [
        ("storageClassName", &spec.storage_class_name),
        ("volumeAttributesClassName", &spec.volume_attributes_class_name),
    ] {
        if let Some(class) = class.as_ref().filter(|class| !class.is_empty()) {
            problems.name(format!("{path}.{field}"), class, names::subdomain);
        }
    }
    let mode = spec.volume_mode.as_deref();
    problems.one_of(format!("{path}.volumeMode"), mode, &["Block", "Filesystem"]);
    data_sources(problems, path, spec);
}

fn access_modes(problems: &mut Problems, path: &str, modes: &[String]) {
    const SUPPORTED: [&str; 4] =
        ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

    let path = format!("{path}.accessModes");
    if modes.is_empty() {
        problems.required_for(&path, "at least 1 access mode is required");
    }
    for mode in modes {
        problems.one_of(&path, Some(mode), &SUPPORTED);
    }
    let is_alone = |mode: &String| mode == "ReadWriteOncePod";
    let is_shared = |mode: &String| !is_alone(mode) && SUPPORTED.contains(&mode.as_str());
    if modes.iter().any(is_alone) && modes.iter().any(is_shared) {
        let why = "may not use ReadWriteOncePod with other access modes";
        problems.forbidden(path, why);
    }
}

fn data_sources(problems: &mut Problems, path: &str, spec: &PersistentVolumeClaimSpec) {
    let source_path = format!("{path}.dataSource");
    let source = spec.data_source.as_ref();
    let reference = spec.data_source_ref.as_ref();
    if let Some(TypedLocalObjectReference { api_group, kind, name }) = source {
        object(problems, &source_path, api_group.as_deref(), kind, name);
    }
    let mut namespace = None;
    if let Some(found @ TypedObjectReference { api_group, kind, name, .. }) = reference {
        let path = format!("{path}.dataSourceRef");
        object(problems, &path, api_group.as_deref(), kind, name);
        namespace = found.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        if let Some(namespace) = namespace {
            problems.name(format!("{path}.namespace"), namespace, names::label);
        }
    }

    let (Some(source), Some(reference)) = (source, reference) else { return };
    let is_same = source.api_group == reference.api_group
        && source.kind == reference.kind
        && source.name == reference.name;
    // Upstream gives the path of the other field as the value, and has nothing to print of it.
    let mut refuse = |why: &str| problems.invalid_json(path, &serde_json::json!({}), why);
    if namespace.is_some() {
        refuse("may not be specified when dataSourceRef.namespace is specified");
    } else if !is_same {
        refuse("must match dataSourceRef");
    }
}

fn object(problems: &mut Problems, path: &str, group: Option<&str>, kind: &str, name: &str) {
    for (field, value) in [("name", name), ("kind", kind)] {
        if value.is_empty() {
            problems.required(format!("{path}.{field}"));
        }
    }
    let group = group.unwrap_or_default();
    if !group.is_empty() {
        problems.name(format!("{path}.apiGroup"), group, names::subdomain);
    } else if kind != "PersistentVolumeClaim" {
        let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        problems.invalid(path, kind, why);
    }
}
