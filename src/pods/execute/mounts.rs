//! The mounts of one container: where the pod's volumes are on the node, with `subPath` resolved
//! without following links out of the volume.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1 as api;
use tracing::warn;

use super::ActionError;
use super::container::ContainerStart;
use crate::images;
use crate::model::reason::container as reason;
use crate::model::{ContainerKind, error_chain, pod};
use crate::pods::request::{self, EnvVar, VolumeSource};
use crate::volumes::SubPath;

impl ContainerStart<'_> {
    /// Returns where the pod's volumes are, by name. Images that this container mounts are pulled
    /// first.
    pub(super) async fn volume_sources(
        self,
    ) -> Result<BTreeMap<String, VolumeSource>, ActionError> {
        let handle = &self.scope.deps.volumes;
        let mut sources = BTreeMap::new();
        for volume in self.pod_volumes() {
            let mut mounts = self.container.volume_mounts.iter().flatten();
            let is_mounted = mounts.any(|mount| mount.name == volume.name);
            if let Some(image) = &volume.image {
                if is_mounted {
                    sources.insert(volume.name.clone(), self.image_volume(image).await?);
                }
                continue;
            }

            if let Some(source) = volume.host_path.as_ref().filter(|_| is_mounted) {
                let checked = handle.check_host_path(source).await;
                checked.map_err(|error| {
                    ActionError::new(reason::CREATE_CONTAINER_CONFIG_ERROR, error.text())
                })?;
            }
            let Some(placed) = handle.place(self.scope.uid, volume) else { continue };
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

    /// Pulls an image that the runtime is to mount. A failure is the container's, with the pull's
    /// reason.
    async fn image_volume(
        self,
        volume: &api::ImageVolumeSource,
    ) -> Result<VolumeSource, ActionError> {
        let Self { scope, container, .. } = self;
        let pod = &scope.context.pod;
        let kind =
            pod::find_container(pod, &container.name).map_or(ContainerKind::Main, |(kind, _)| kind);
        let image = volume.reference.clone().unwrap_or_default();
        let request = images::EnsureImage {
            pod: pod.clone(),
            kind,
            container: container.name.clone(),
            policy: images::PullPolicy::of(volume.pull_policy.as_deref(), &image),
            image: image.clone(),
            of_volume: true,
            secrets: scope.pull_secrets(true).await,
            silent: false,
            runtime_handler: scope.image_handler(),
            sandbox: scope.sandbox_for_pull(),
        };

        match scope.deps.images.ensure(request).await {
            Ok(present) => {
                let runtime_handler = scope.runtime_handler().unwrap_or_default();
                Ok(VolumeSource::Image { image_ref: present.image_ref, image, runtime_handler })
            }
            Err(images::ImageError { reason, message, .. }) => {
                Err(ActionError::new(reason, message))
            }
        }
    }

    /// Binds the `subPath`s of the container's mounts and returns their places, by the mount's
    /// index. Then makes the mount points that the runtime cannot make.
    pub(super) async fn sub_paths(
        self,
        env: &[EnvVar],
        volumes: &BTreeMap<String, VolumeSource>,
    ) -> Result<BTreeMap<usize, String>, ActionError> {
        let mounts = self.container.volume_mounts.as_deref().unwrap_or_default();
        let mut prepared = BTreeMap::new();
        for (index, mount) in mounts.iter().enumerate() {
            let wanted = request::sub_path(mount, env)
                .map_err(|error| ActionError::new(error.reason, error.message))?;
            let Some(sub_path) = wanted else { continue };
            let Some(VolumeSource::Path { path, .. }) = volumes.get(&mount.name) else { continue };
            let place = self.prepare_sub_path(index, mount, path, sub_path).await?;
            prepared.insert(index, place);
        }

        let source = |index: usize| {
            let mount = mounts.get(index)?;
            match (prepared.get(&index), volumes.get(&mount.name)?) {
                (Some(path), _) | (None, VolumeSource::Path { path, .. }) => {
                    Some(PathBuf::from(path))
                }
                (None, VolumeSource::Device { .. } | VolumeSource::Image { .. }) => None,
            }
        };
        let Self { scope, container, .. } = self;
        scope.deps.volumes.make_mount_points(&scope.context.pod, container, source).await;
        Ok(prepared)
    }

    /// Binds one `subPath` of the volume at `volume_path`.
    async fn prepare_sub_path(
        self,
        index: usize,
        mount: &api::VolumeMount,
        volume_path: &str,
        sub_path: String,
    ) -> Result<String, ActionError> {
        let handle = &self.scope.deps.volumes;
        let volume = self.pod_volumes().iter().find(|volume| volume.name == mount.name);
        let placed = volume.and_then(|volume| handle.place(self.scope.uid, volume));
        let request = SubPath {
            uid: self.scope.uid.clone(),
            volume: mount.name.clone(),
            directory: placed.map_or_else(|| mount.name.clone(), |placed| placed.name),
            volume_path: volume_path.into(),
            sub_path,
            container: self.container.name.clone(),
            index,
        };

        let place = handle.prepare_subpath(request).await.map_err(|error| {
            warn!(
                container = self.container.name,
                volume = mount.name,
                error = error_chain(&error),
                "subPath cannot be prepared"
            );
            ActionError::new(reason::CREATE_CONTAINER_CONFIG_ERROR, error.to_string())
        })?;
        Ok(place.to_string_lossy().into_owned())
    }

    fn pod_volumes(&self) -> &[api::Volume] {
        let spec = self.scope.context.pod.spec.as_ref();
        spec.and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
    }
}
