//! The files of volumes that are made of objects. Pure.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath};

use super::env;
use super::problems::Problems;

pub(super) fn key_to_path(problems: &mut Problems, path: &str, item: &KeyToPath) {
    if item.key.is_empty() {
        problems.required(format!("{path}.key"));
    }
    if item.path.is_empty() {
        problems.required(format!("{path}.path"));
    }
    problems.not_reserved(format!("{path}.path"), &item.path);
    problems.file_mode(format!("{path}.mode"), item.mode);
}

pub(super) fn downward_file(problems: &mut Problems, path: &str, file: &DownwardAPIVolumeFile) {
    if file.path.is_empty() {
        problems.required(format!("{path}.path"));
    }
    problems.not_reserved(format!("{path}.path"), &file.path);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            env::field(problems, &format!("{path}.fieldRef"), field, &env::VOLUME_FIELDS);
            if resource.is_some() {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                problems.invalid(path, "resource", why);
            }
        }
        (None, Some(resource)) => {
            env::resource_field(problems, &format!("{path}.resourceFieldRef"), resource, true);
        }
        (None, None) => {
            problems.required_for(path, "one of fieldRef and resourceFieldRef is required");
        }
    }
    problems.file_mode(format!("{path}.mode"), file.mode);
}
