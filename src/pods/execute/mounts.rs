//! Where a container's volumes are on the node, with `subPath` resolved without following links out of the volume.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use k8s_openapi::api::core::v1 as api;

use tracing::warn;

use super::super::spec::{self, EnvVar, VolumeSource};
use super::report::PodExecutor;
use super::{ActionError, Context};
use crate::images;
use crate::linux::beneath::Root;
use crate::model::reason::container as reason;
use crate::model::{ContainerKind, Pod, error_chain, pod};
use crate::volumes::SubPath;

impl PodExecutor {
    /// Where the pod's volumes are, by name; images that this container mounts are pulled first.
    pub(super) async fn volume_sources(
        &self,
        container: &api::Container,
        context: &Context,
    ) -> Result<BTreeMap<String, VolumeSource>, ActionError> {
        let volumes = context.pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let mut sources = BTreeMap::new();
        for volume in volumes {
            if let Some(image) = &volume.image {
                if container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name) {
                    let source = self.image_volume(container, image, context).await?;
                    sources.insert(volume.name.clone(), source);
                }
                continue;
            }
            let Some(path) = self.deps.settings.paths.volume(&self.uid, volume) else { continue };
            let managed = volume.host_path.is_none();
            let source = VolumeSource::Path {
                path: path.to_string_lossy().into_owned(),
                // What the kubelet writes itself nobody else may change.
                read_only: managed && volume.empty_dir.is_none(),
                relabel: managed,
            };
            sources.insert(volume.name.clone(), source);
        }
        Ok(sources)
    }

    /// Has an image ready that the runtime is to mount. Its failure is the container's, with the pull's reason.
    async fn image_volume(
        &self,
        container: &api::Container,
        volume: &api::ImageVolumeSource,
        context: &Context,
    ) -> Result<VolumeSource, ActionError> {
        let kind = pod::find_container(&context.pod, &container.name).map_or(ContainerKind::Main, |(kind, _)| kind);
        let image = volume.reference.clone().unwrap_or_default();
        let request = images::EnsureImage {
            pod: context.pod.clone(),
            kind,
            container: container.name.clone(),
            policy: images::PullPolicy::of(volume.pull_policy.as_deref(), &image),
            image: image.clone(),
            secrets: self.pull_secrets(context, true).await,
            silent: false,
            runtime_handler: String::new(),
            sandbox: self.sandbox_request(context, 0).ok().map(|request| request.config),
        };
        match self.deps.images.ensure(request).await {
            Ok(present) => Ok(VolumeSource::Image { image_ref: present.image_ref, image }),
            Err(images::ImageError { reason, message, .. }) => Err(ActionError::new(reason, message)),
        }
    }

    /// Binds the `subPath`s of a container's mounts and answers where, by index.
    pub(super) async fn sub_paths(
        &self,
        container: &api::Container,
        env: &[EnvVar],
        volumes: &BTreeMap<String, VolumeSource>,
    ) -> Result<BTreeMap<usize, String>, ActionError> {
        let mut prepared = BTreeMap::new();
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let wanted = spec::sub_path(mount, env).map_err(|error| ActionError::new(error.reason, error.message))?;
            let Some(sub_path) = wanted else { continue };
            let Some(VolumeSource::Path { path, .. }) = volumes.get(&mount.name) else { continue };
            let request = SubPath {
                uid: self.uid.clone(),
                volume: mount.name.clone(),
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
        Ok(prepared)
    }

    /// The text of a file in a volume, opened without following a link out of it.
    pub(super) fn read_volume_file(&self, pod: &Pod, volume: &str, path: &str) -> Result<String, String> {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let found = volumes.iter().find(|candidate| candidate.name == volume);
        let root = found.and_then(|found| self.deps.settings.paths.volume(&self.uid, found));
        let root = root.ok_or_else(|| format!("volume {volume:?} not found"))?;
        read_beneath(&root, Path::new(path)).map_err(|error| error.to_string())
    }
}

/// Reads a file below `root`; a link that leads out of it is an error.
fn read_beneath(root: &Path, path: &Path) -> std::io::Result<String> {
    let opened = Root::open(root)?.resolve(path)?;
    // What was resolved is a handle without rights; opening it anew by number cannot lead anywhere else.
    std::fs::read_to_string(format!("/proc/self/fd/{}", opened.as_raw_fd()))
}
