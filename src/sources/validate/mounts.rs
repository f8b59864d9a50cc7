//! Where containers mount volumes, and which devices they get. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Volume, VolumeMount};

use super::problems::Problems;

pub(super) fn mounts(
    problems: &mut Problems,
    path: &str,
    container: &Container,
    volumes: &BTreeMap<&str, &Volume>,
) {
    let devices = container.volume_devices.iter().flatten();
    // As upstream: of two devices of one volume the last counts.
    let devices: BTreeMap<&str, &str> =
        devices.map(|device| (device.name.as_str(), device.device_path.as_str())).collect();
    let all = format!("{path}.volumeMounts");
    let mut seen = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{all}[{index}]");
        if mount.name.is_empty() {
            problems.required(format!("{path}.name"));
        }
        if !volumes.contains_key(mount.name.as_str()) {
            problems.not_found(format!("{path}.name"), &mount.name);
        }
        if mount.mount_path.is_empty() {
            problems.required(format!("{path}.mountPath"));
        }
        if !seen.insert(mount.mount_path.as_str()) {
            problems.invalid(format!("{path}.mountPath"), &mount.mount_path, "must be unique");
        }
        if devices.contains_key(mount.name.as_str()) {
            let why = "must not already exist in volumeDevices";
            problems.invalid(format!("{path}.name"), &mount.name, why);
        }
        if devices.values().any(|path| *path == mount.mount_path) {
            let why = "must not already exist as a path in volumeDevices";
            problems.invalid(format!("{path}.mountPath"), &mount.mount_path, why);
        }

        // From here on upstream leaves out which mount is wrong.
        let sub_path = mount.sub_path.as_deref().unwrap_or_default();
        problems.descending(format!("{all}.subPath"), sub_path);
        let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
        if !expression.is_empty() && !sub_path.is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            problems.invalid(format!("{path}.subPathExpr"), expression, why);
        }
        problems.descending(format!("{all}.subPathExpr"), expression);
        propagation(problems, &format!("{all}.mountPropagation"), mount, container);
        recursive(problems, &format!("{all}.recursiveReadOnly"), mount);
    }
}

fn propagation(problems: &mut Problems, path: &str, mount: &VolumeMount, container: &Container) {
    let mode = mount.mount_propagation.as_deref();
    problems.one_of(path, mode, &["Bidirectional", "HostToContainer", "None"]);
    let context = container.security_context.as_ref();
    let is_privileged = context.and_then(|context| context.privileged) == Some(true);
    if mode == Some("Bidirectional") && !is_privileged {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        problems.forbidden(path, why);
    }
}

fn recursive(problems: &mut Problems, path: &str, mount: &VolumeMount) {
    let mode = mount.recursive_read_only.as_deref();
    problems.one_of(path, mode, &["Disabled", "Enabled", "IfPossible"]);
    if !matches!(mode, Some("Enabled" | "IfPossible")) {
        return;
    }
    if mount.read_only != Some(true) {
        problems.forbidden(path, "may only be specified when readOnly is true");
    }
    if mount.mount_propagation.as_deref().is_some_and(|mode| mode != "None") {
        let why = "may only be specified when mountPropagation is None or not specified";
        problems.forbidden(path, why);
    }
}

pub(super) fn devices(
    problems: &mut Problems,
    path: &str,
    container: &Container,
    volumes: &BTreeMap<&str, &Volume>,
) {
    let mounts = container.volume_mounts.iter().flatten();
    let mounts: BTreeMap<&str, &str> =
        mounts.map(|mount| (mount.name.as_str(), mount.mount_path.as_str())).collect();
    let mut names = BTreeSet::new();
    let mut paths = BTreeSet::new();
    for (index, device) in container.volume_devices.iter().flatten().enumerate() {
        let path = format!("{path}.volumeDevices[{index}]");
        let (name, place) = (device.name.as_str(), device.device_path.as_str());
        let name_path = format!("{path}.name");
        let device_path = format!("{path}.devicePath");
        if name.is_empty() {
            problems.required(&name_path);
        }
        if names.contains(name) {
            problems.invalid(&name_path, name, "must be unique");
        }
        match volumes.get(name) {
            None => problems.not_found(&name_path, name),
            Some(volume)
                if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() =>
            {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral \
                           for block mode";
                problems.invalid(&name_path, name, why);
            }
            Some(_) => {}
        }
        if place.is_empty() {
            problems.required(&device_path);
        }
        if paths.contains(place) {
            problems.invalid(&device_path, place, "must be unique");
        }
        if place.split('/').any(|part| part == "..") {
            problems.invalid(&device_path, place, "can not contain backsteps ('..')");
        } else {
            paths.insert(place);
        }
        if mounts.contains_key(name) {
            problems.invalid(&name_path, name, "must not already exist in volumeMounts");
        }
        if mounts.values().any(|path| *path == place) {
            let why = "must not already exist as a path in volumeMounts";
            problems.invalid(&device_path, place, why);
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
}
