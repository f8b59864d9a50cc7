//! Where a container's volumes are on the node, with `subPath` resolved without following links out
//! of the volume.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as api;

use tracing::warn;

use super::super::request::{self, EnvVar, VolumeSource};
use super::executor::PodExecutor;
use super::{ActionError, Context};
use crate::images;
use crate::linux::beneath::Root;
use crate::model::reason::container as reason;
use crate::model::{ContainerKind, Pod, error_chain, pod};
use crate::volumes::SubPath;
use crate::volumes::nested::used;

/// The longest file of variables that is read.
const LONGEST_ENV_FILE: u64 = 1 << 20;

impl PodExecutor {
    /// Where the pod's volumes are, by name; images that this container mounts are pulled first.
    pub(super) async fn volume_sources(
        &self,
        container: &api::Container,
        context: &Context,
    ) -> Result<BTreeMap<String, VolumeSource>, ActionError> {
        let volumes =
            context.pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let mut sources = BTreeMap::new();
        for volume in volumes {
            if let Some(image) = &volume.image {
                if container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name) {
                    let source = self.image_volume(container, image, context).await?;
                    sources.insert(volume.name.clone(), source);
                }
                continue;
            }
            let is_mounted =
                container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name);
            if let Some(source) = volume.host_path.as_ref().filter(|_| is_mounted) {
                let checked = self.deps.volumes.check_host_path(source).await;
                checked.map_err(|error| {
                    ActionError::new(reason::CREATE_CONTAINER_CONFIG_ERROR, error.text())
                })?;
            }
            let Some(placed) = self.deps.volumes.place(&self.uid, volume) else { continue };
            let path = placed.path.to_string_lossy().into_owned();
            let source = if placed.is_device {
                VolumeSource::Device { path, read_only: placed.read_only }
            } else {
                VolumeSource::Path { path, read_only: placed.read_only, relabel: placed.relabel }
            };
            sources.insert(volume.name.clone(), source);
        }
        Ok(sources)
    }

    /// Has an image ready that the runtime is to mount. Its failure is the container's, with the
    /// pull's reason.
    async fn image_volume(
        &self,
        container: &api::Container,
        volume: &api::ImageVolumeSource,
        context: &Context,
    ) -> Result<VolumeSource, ActionError> {
        let kind = pod::find_container(&context.pod, &container.name)
            .map_or(ContainerKind::Main, |(kind, _)| kind);
        let image = volume.reference.clone().unwrap_or_default();
        let request = images::EnsureImage {
            pod: context.pod.clone(),
            kind,
            container: container.name.clone(),
            policy: images::PullPolicy::of(volume.pull_policy.as_deref(), &image),
            image: image.clone(),
            of_volume: true,
            secrets: self.pull_secrets(context, true).await,
            silent: false,
            runtime_handler: String::new(),
            sandbox: self.sandbox_for_pull(context),
        };
        match self.deps.images.ensure(request).await {
            Ok(present) => {
                let runtime_handler = self.runtime_handler(&context.pod).unwrap_or_default();
                Ok(VolumeSource::Image { image_ref: present.image_ref, image, runtime_handler })
            }
            Err(images::ImageError { reason, message, .. }) => {
                Err(ActionError::new(reason, message))
            }
        }
    }

    /// Binds the `subPath`s of a container's mounts and answers where, by index. Then makes the
    /// mount points that the runtime cannot make.
    pub(super) async fn sub_paths(
        &self,
        container: &api::Container,
        env: &[EnvVar],
        volumes: &BTreeMap<String, VolumeSource>,
        context: &Context,
    ) -> Result<BTreeMap<usize, String>, ActionError> {
        let mut prepared = BTreeMap::new();
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let wanted = request::sub_path(mount, env)
                .map_err(|error| ActionError::new(error.reason, error.message))?;
            let Some(sub_path) = wanted else { continue };
            let Some(VolumeSource::Path { path, .. }) = volumes.get(&mount.name) else { continue };
            let pod_volumes = context
                .pod
                .spec
                .as_ref()
                .and_then(|spec| spec.volumes.as_deref())
                .unwrap_or_default();
            let volume = pod_volumes.iter().find(|volume| volume.name == mount.name);
            let placed = volume.and_then(|volume| self.deps.volumes.place(&self.uid, volume));
            let request = SubPath {
                uid: self.uid.clone(),
                volume: mount.name.clone(),
                directory: placed.map_or_else(|| mount.name.clone(), |placed| placed.name),
                volume_path: path.into(),
                sub_path,
                container: container.name.clone(),
                index,
            };
            let place = self.deps.volumes.prepare_subpath(request).await.map_err(|error| {
                warn!(
                    container = container.name,
                    volume = mount.name,
                    error = error_chain(&error),
                    "subPath cannot be prepared"
                );
                ActionError::new(reason::CREATE_CONTAINER_CONFIG_ERROR, error.to_string())
            })?;
            prepared.insert(index, place.to_string_lossy().into_owned());
        }

        let source = |index: usize| {
            let mount = container.volume_mounts.as_ref()?.get(index)?;
            match (prepared.get(&index), volumes.get(&mount.name)?) {
                (Some(path), _) | (None, VolumeSource::Path { path, .. }) => {
                    Some(PathBuf::from(path))
                }
                (None, VolumeSource::Device { .. } | VolumeSource::Image { .. }) => None,
            }
        };
        self.deps.volumes.make_mount_points(&context.pod, container, source).await;
        Ok(prepared)
    }

    /// A file of variables in a volume, opened without following a link out of it; `None`: there is
    /// no such volume.
    pub(super) async fn read_env_file(
        &self,
        pod: &Pod,
        volume: &str,
        path: &str,
    ) -> Option<request::EnvFile> {
        let volumes =
            pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let found = volumes.iter().find(|candidate| candidate.name == volume)?;
        // One that no container mounts is not set up; upstream says that there is none, too.
        if !used(pod).contains(volume) {
            return None;
        }
        let root = self.deps.volumes.place(&self.uid, found)?.path;
        let full = root.join(path).to_string_lossy().into_owned();
        let relative = PathBuf::from(path);
        // Whoever writes to the volume decides what is there: a slow disk must not hold up other
        // pods.
        let read = crate::linux::blocking::spawn(move || read_beneath(&root, &relative)).await;
        let content = match read {
            Ok(Ok(content)) => Ok(content),
            Ok(Err(error)) => Err(error.to_string()),
            Err(panicked) => Err(panicked.to_string()),
        };
        if let Err(error) = &content {
            warn!(path = full, error, "Failed to parse env file");
        }
        Some(request::EnvFile { path: full, content })
    }
}

/// Reads a file below `root`; a link that leads out of it is an error, and so is what is no file (a
/// pipe would never end) or too long.
fn read_beneath(root: &Path, path: &Path) -> std::io::Result<String> {
    let refused = |problem| std::io::Error::new(std::io::ErrorKind::InvalidInput, problem);
    let opened = File::from(Root::open(root)?.resolve(path)?);
    let metadata = opened.metadata()?;
    if !metadata.is_file() {
        return Err(refused("it is not a file"));
    }
    if metadata.len() > LONGEST_ENV_FILE {
        return Err(refused("it is too long"));
    }
    // What was resolved is a handle without rights; opening it anew by number cannot lead anywhere
    // else.
    let file = File::open(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
    let mut content = Vec::new();
    file.take(LONGEST_ENV_FILE).read_to_end(&mut content)?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{LONGEST_ENV_FILE, read_beneath};
    use crate::linux::fs::write_atomic;

    #[test]
    fn reads_files_of_the_volume_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("volume");
        std::fs::create_dir_all(root.join("sub")).expect("made");
        let read = |path: &str| read_beneath(&root, Path::new(path));
        write_atomic(&root.join("sub/env"), b"A='\xff'", 0o600).expect("written");
        assert_eq!(read("sub/env").expect("read"), "A='\u{fffd}'");
        write_atomic(&dir.path().join("outside"), "X='1'", 0o600).expect("written");
        std::os::unix::fs::symlink("../outside", root.join("climbs")).expect("linked");
        nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRUSR).expect("made");
        let long = std::fs::File::create(root.join("long")).expect("made");
        long.set_len(LONGEST_ENV_FILE + 1).expect("grown");
        for refused in ["climbs", "../outside", "sub", "pipe", "long", "gone"] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }
}
