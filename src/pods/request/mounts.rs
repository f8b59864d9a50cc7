//! `volumeMounts` → mounts of the runtime, plus `/etc/hosts` and the termination message's file.

use k8s_openapi::api::core::v1 as api;

use crate::cri::v1::{Device, ImageSpec, Mount, MountPropagation};

use super::SpecError;
use super::expand::sub_path;
use super::input::{ContainerInput, VolumeSource};
use super::security::id_mappings;

const ETC_HOSTS: &str = "/etc/hosts";

/// The devices of a container that are volumes.
pub(super) fn devices(input: &ContainerInput<'_>) -> Result<Vec<Device>, SpecError> {
    let wanted = input.container.volume_devices.iter().flatten();
    let device = |wanted: &api::VolumeDevice| {
        let path = &wanted.device_path;
        if !path.starts_with('/') {
            return Err(SpecError::container(format!(
                "error DevicePath `{path}` must be an absolute path"
            )));
        }
        match input.volumes.get(&wanted.name) {
            Some(VolumeSource::Device { path: host, read_only }) => Ok(Device {
                container_path: path.clone(),
                host_path: host.clone(),
                permissions: if *read_only { "r" } else { "mrw" }.to_owned(),
            }),
            Some(VolumeSource::Path { .. } | VolumeSource::Image { .. }) | None => {
                Err(SpecError::container(format!(
                    "cannot find volume {:?} to pass into container {:?}",
                    wanted.name, input.container.name
                )))
            }
        }
    };
    wanted.map(device).collect()
}

/// Whether a container mounts a file of its own over `/etc/hosts`; the managed one is then not made
/// for it.
pub fn mounts_hosts_file(container: &api::Container) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| mount.mount_path == ETC_HOSTS)
}

/// The mounts of a container, in upstream's order.
pub(super) fn mounts(input: &ContainerInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let wanted = input.container.volume_mounts.as_deref().unwrap_or_default();
    let mut out = Vec::with_capacity(wanted.len() + 2);
    out.extend(input.devices.mounts.iter().map(|(path, (host_path, read_only))| Mount {
        container_path: path.clone(),
        host_path: host_path.clone(),
        readonly: *read_only,
        ..Mount::default()
    }));
    for (index, mount) in wanted.iter().enumerate() {
        out.push(volume_mount(input, index, mount)?);
    }
    if let Some(path) = input.etc_hosts
        && !mounts_hosts_file(input.container)
    {
        out.push(Mount {
            container_path: ETC_HOSTS.to_owned(),
            host_path: path.to_owned(),
            selinux_relabel: input.settings.selinux,
            ..Mount::default()
        });
    }
    let message_path = input.container.termination_message_path.as_deref().unwrap_or_default();
    if let Some(path) = input.termination_log
        && !message_path.is_empty()
    {
        out.push(Mount {
            container_path: absolute(message_path),
            host_path: path.to_owned(),
            selinux_relabel: input.settings.selinux,
            ..Mount::default()
        });
    }
    for mount in &mut out {
        mount.uid_mappings = id_mappings(input.user_ids);
        mount.gid_mappings = id_mappings(input.user_ids);
    }
    Ok(out)
}

fn volume_mount(
    input: &ContainerInput<'_>,
    index: usize,
    mount: &api::VolumeMount,
) -> Result<Mount, SpecError> {
    let name = &mount.name;
    let container = &input.container.name;
    let source = input.volumes.get(name).ok_or_else(|| {
        SpecError::container(format!(
            "cannot find volume {name:?} to mount into container {container:?}"
        ))
    })?;
    let sub = sub_path(mount, input.env)?;
    let mut out = Mount {
        container_path: absolute(&mount.mount_path),
        readonly: mount.read_only.unwrap_or(false),
        propagation: propagation(mount)?,
        recursive_read_only: recursive_read_only(mount, input.recursive_read_only).map_err(
            |problem| {
                SpecError::container(format!(
                    "failed to resolve recursive read-only mode: {problem}"
                ))
            },
        )?,
        ..Mount::default()
    };
    match source {
        VolumeSource::Device { .. } => {
            return Err(SpecError::container(format!(
                "cannot find volume {name:?} to mount into container {container:?}"
            )));
        }
        VolumeSource::Image { image_ref, image, runtime_handler } => {
            out.readonly = true;
            out.image = Some(ImageSpec {
                image: image_ref.clone(),
                user_specified_image: image.clone(),
                runtime_handler: runtime_handler.clone(),
                annotations: input
                    .pod
                    .metadata
                    .annotations
                    .clone()
                    .unwrap_or_default()
                    .into_iter()
                    .collect(),
                ..ImageSpec::default()
            });
            out.selinux_relabel = input.settings.selinux;
            out.image_sub_path = sub.unwrap_or_default();
        }
        VolumeSource::Path { path, read_only, relabel } => {
            out.readonly |= read_only;
            out.selinux_relabel = *relabel && input.settings.selinux;
            out.host_path = match sub {
                None => path.clone(),
                Some(_) => input.sub_paths.get(&index).cloned().ok_or_else(|| {
                    SpecError::container(format!(
                        "failed to prepare subPath for volumeMount {name:?} of container {container:?}"
                    ))
                })?,
            };
        }
    }
    Ok(out)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn propagation(mount: &api::VolumeMount) -> Result<i32, SpecError> {
    Ok(match mount.mount_propagation.as_deref() {
        None | Some("None") => MountPropagation::PropagationPrivate,
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        Some(other) => {
            return Err(SpecError::container(format!("invalid MountPropagation mode: {other:?}")));
        }
    }
    .into())
}

fn recursive_read_only(mount: &api::VolumeMount, supported: bool) -> Result<bool, String> {
    let Some(mode) = mount.recursive_read_only.as_deref().filter(|mode| *mode != "Disabled") else {
        return Ok(false);
    };
    let name = &mount.name;
    if !mount.read_only.unwrap_or(false) {
        return Err(format!(
            "volume {name:?} requested recursive read-only mode, but it is not read-only"
        ));
    }
    if let Some(propagation) =
        mount.mount_propagation.as_deref().filter(|propagation| *propagation != "None")
    {
        return Err(format!(
            "volume {name:?} requested recursive read-only mode, but it is not compatible with propagation {propagation:?}"
        ));
    }
    match mode {
        "IfPossible" => Ok(supported),
        "Enabled" if supported => Ok(true),
        "Enabled" => Err(format!(
            "volume {name:?} requested recursive read-only mode, but it is not supported by the runtime"
        )),
        other => Err(format!("unknown recursive read-only mode {other:?}")),
    }
}
