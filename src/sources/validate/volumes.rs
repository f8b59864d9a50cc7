//! Volumes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource,
    KeyToPath, NFSVolumeSource, ProjectedVolumeSource, Volume, VolumeProjection,
};

use super::problems::Problems;
use super::{containers, env, names};
use crate::model::quantity::Amount;

/// Checks the volumes, and returns those that are right: mounts may refer to these only.
pub(super) fn volumes<'a>(
    problems: &mut Problems,
    volumes: &'a [Volume],
) -> BTreeMap<&'a str, &'a Volume> {
    let mut right = BTreeMap::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = format!("spec.volumes[{index}]");
        let mut found = Problems::default();
        source(&mut found, &path, volume);
        if volume.name.is_empty() {
            found.required(format!("{path}.name"));
        } else {
            found.name(format!("{path}.name"), &volume.name, names::label);
        }
        if right.contains_key(volume.name.as_str()) {
            found.duplicate(format!("{path}.name"), &volume.name);
        }
        if found.0.is_empty() {
            right.insert(volume.name.as_str(), volume);
        }
        problems.0.append(&mut found.0);
    }
    right
}

/// The sources in the order in which upstream looks for a second one. The checks of those that no
/// static pod can have mounted here are left out: they are refused later, each by its name.
fn source(problems: &mut Problems, path: &str, volume: &Volume) {
    let mut is_first = true;
    let mut counts = |problems: &mut Problems, field: &str| {
        let is_only = std::mem::replace(&mut is_first, false);
        if !is_only {
            let why = "may not specify more than 1 volume type";
            problems.forbidden(format!("{path}.{field}"), why);
        }
        is_only
    };

    if let Some(found) = &volume.empty_dir {
        counts(problems, "emptyDir");
        empty_dir(problems, &format!("{path}.emptyDir"), found);
    }
    if let Some(found) = &volume.host_path
        && counts(problems, "hostPath")
    {
        host_path(problems, &format!("{path}.hostPath"), found);
    }
    if volume.git_repo.is_some() {
        counts(problems, "gitRepo");
    }
    if let Some(secret) = &volume.secret
        && counts(problems, "secret")
    {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let items = secret.items.as_deref();
        files(
            problems,
            &format!("{path}.secret"),
            ("secretName", name),
            secret.default_mode,
            items,
        );
    }
    if let Some(found) = &volume.nfs
        && counts(problems, "nfs")
    {
        nfs(problems, &format!("{path}.nfs"), found);
    }
    if let Some(claim) = &volume.persistent_volume_claim
        && counts(problems, "persistentVolumeClaim")
        && claim.claim_name.is_empty()
    {
        problems.required(format!("{path}.persistentVolumeClaim.claimName"));
    }
    if let Some(found) = &volume.downward_api
        && counts(problems, "downwardAPI")
    {
        downward_api(problems, &format!("{path}.downwardAPI"), found);
    }
    if let Some(config_map) = &volume.config_map
        && counts(problems, "configMap")
    {
        let mode = config_map.default_mode;
        let items = config_map.items.as_deref();
        files(problems, &format!("{path}.configMap"), ("name", &config_map.name), mode, items);
    }
    if let Some(found) = &volume.projected
        && counts(problems, "projected")
    {
        projected(problems, &format!("{path}.projected"), found);
    }
    if let Some(image) = &volume.image
        && counts(problems, "image")
    {
        let path = format!("{path}.image.pullPolicy");
        containers::pull_policy(problems, &path, image.pull_policy.as_deref());
    }
    for (field, present) in [
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("fc", volume.fc.is_some()),
    ] {
        if present {
            counts(problems, field);
        }
    }
}

fn empty_dir(problems: &mut Problems, path: &str, source: &EmptyDirVolumeSource) {
    let limit = source.size_limit.as_ref().map(|limit| Amount::parse(&limit.0));
    if limit.is_some_and(|limit| limit.is_ok_and(|limit| limit < Amount::ZERO)) {
        let why = "SizeLimit field must be a valid resource quantity";
        problems.forbidden(format!("{path}.sizeLimit"), why);
    }
}

/// Checks the files of a volume. Upstream leaves out which one is wrong.
fn downward_api(problems: &mut Problems, path: &str, source: &DownwardAPIVolumeSource) {
    problems.file_mode(format!("{path}.defaultMode"), source.default_mode);
    for file in source.items.iter().flatten() {
        downward_file(problems, path, file);
    }
}

fn host_path(problems: &mut Problems, path: &str, source: &HostPathVolumeSource) {
    const KINDS: [&str; 8] = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    if source.path.is_empty() {
        return problems.required(format!("{path}.path"));
    }
    problems.no_backsteps(format!("{path}.path"), &source.path);
    problems.one_of(format!("{path}.type"), source.type_.as_deref(), &KINDS);
}

fn nfs(problems: &mut Problems, path: &str, source: &NFSVolumeSource) {
    if source.server.is_empty() {
        problems.required(format!("{path}.server"));
    }
    if source.path.is_empty() {
        problems.required(format!("{path}.path"));
    }
    if !source.path.starts_with('/') {
        problems.invalid(format!("{path}.path"), &source.path, "must be an absolute path");
    }
}

/// Checks the name, the mode and the files of a ConfigMap or Secret.
fn files(
    problems: &mut Problems,
    path: &str,
    (field, name): (&str, &str),
    mode: Option<i32>,
    items: Option<&[KeyToPath]>,
) {
    if name.is_empty() {
        problems.required(format!("{path}.{field}"));
    }
    problems.file_mode(format!("{path}.defaultMode"), mode);
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        key_to_path(problems, &format!("{path}.items[{index}]"), item);
    }
}

fn key_to_path(problems: &mut Problems, path: &str, item: &KeyToPath) {
    if item.key.is_empty() {
        problems.required(format!("{path}.key"));
    }
    if item.path.is_empty() {
        problems.required(format!("{path}.path"));
    }
    problems.not_reserved(format!("{path}.path"), &item.path);
    problems.file_mode(format!("{path}.mode"), item.mode);
}

fn downward_file(problems: &mut Problems, path: &str, file: &DownwardAPIVolumeFile) {
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

fn projected(problems: &mut Problems, path: &str, source: &ProjectedVolumeSource) {
    problems.file_mode(format!("{path}.defaultMode"), source.default_mode);
    let mut paths = BTreeSet::new();
    for (index, source) in source.sources.iter().flatten().enumerate() {
        projection(problems, path, &format!("{path}.sources[{index}]"), source, &mut paths);
    }
}

/// Checks one source of a projected volume. `all` is the path of the volume: conflicts are
/// reported there.
fn projection<'a>(
    problems: &mut Problems,
    all: &str,
    path: &str,
    source: &'a VolumeProjection,
    paths: &mut BTreeSet<&'a str>,
) {
    let mut take = |problems: &mut Problems, file: &'a str, shown: &str| {
        if !file.is_empty() && !paths.insert(file) {
            problems.invalid(all, shown, "conflicting duplicate paths");
        }
    };
    let secret = source.secret.as_ref().map(|found| (&found.name, &found.items));
    let config_map = source.config_map.as_ref().map(|found| (&found.name, &found.items));
    for (field, object) in [("secret", secret), ("configMap", config_map)] {
        let Some((name, items)) = object else { continue };
        let path = format!("{path}.{field}");
        if name.is_empty() {
            problems.required(format!("{path}.name"));
        }
        for (index, item) in items.iter().flatten().enumerate() {
            key_to_path(problems, &format!("{path}.items[{index}]"), item);
            take(problems, &item.path, name);
        }
    }
    for file in source.downward_api.iter().flat_map(|found| &found.items).flatten() {
        downward_file(problems, &format!("{path}.downwardAPI"), file);
        take(problems, &file.path, &file.path);
    }
    if let Some(token) = &source.service_account_token {
        let seconds = token.expiration_seconds.unwrap_or_default();
        let seconds_path = format!("{path}.serviceAccountToken.expirationSeconds");
        if seconds < 600 {
            let why = "may not specify a duration less than 10 minutes";
            problems.invalid(&seconds_path, seconds, why);
        }
        if seconds > 1 << 32 {
            let why = "may not specify a duration larger than 2^32 seconds";
            problems.invalid(&seconds_path, seconds, why);
        }
        // Upstream leaves out which source is wrong.
        if token.path.is_empty() {
            problems.required(format!("{all}.path"));
        } else {
            problems.not_reserved(format!("{all}.path"), &token.path);
        }
    }
    let count = [
        source.secret.is_some(),
        source.config_map.is_some(),
        source.downward_api.is_some(),
        source.service_account_token.is_some(),
        source.cluster_trust_bundle.is_some(),
        source.pod_certificate.is_some(),
    ];
    if count.into_iter().filter(|present| *present).count() > 1 {
        problems.forbidden(path, "may not specify more than 1 volume type per source");
    }
}
