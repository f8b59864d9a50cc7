//! The kinds of volumes, one folder each, and the one place that dispatches to them.
//!
//! A kind has four verbs:
//! - `inputs(spec)`: the objects that the volume is made of. It only computes.
//! - `set_up(source, context).await`: makes the volume usable for the pod. Idempotent.
//! - `tear_down(volume).await`: takes the volume away again. A missing volume is done.
//! - `on_disk(volume)`: whether a volume that was found on disk is whole.
//!
//! The first two go by the volume's spec ([`Kind`]), the last two by the plugin that the directory
//! on disk names ([`Plugin`]), as the spec may be gone. File work runs on blocking threads; a
//! driver that is asked over a socket awaits its answer instead.

pub mod claim;
pub mod context;
pub mod empty_dir;
pub mod host_path;
mod image;
pub mod local;
pub mod payload;
mod unsupported;

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource,
    ProjectedVolumeSource, SecretVolumeSource, Volume,
};

pub(crate) use context::{Context, Done};
pub use context::{OnDisk, VolumeInputs};

use super::error::TearDownError;
use super::ledger::{Made, Record};
use super::mounter::Mounter;
use super::paths::Paths;
use super::plan::MountedBy;
use super::source::TokenSource;
use crate::model::PodUid;
use crate::volumes::error::SetUpError;
use payload::{config_map, downward, projected, secret};

/// The kind of a volume, by its spec.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// An empty directory on disk or in memory; also a volume without any source, as the API
    /// defaults it.
    EmptyDir(Option<&'a EmptyDirVolumeSource>),
    /// A path of the node.
    HostPath(&'a HostPathVolumeSource),
    /// Files from a ConfigMap.
    ConfigMap(&'a ConfigMapVolumeSource),
    /// Files from a Secret.
    Secret(&'a SecretVolumeSource),
    /// Files from the pod's own fields.
    DownwardApi(&'a DownwardAPIVolumeSource),
    /// Files from several sources.
    Projected(&'a ProjectedVolumeSource),
    /// The persistent volume that a claim is bound to.
    Claim(claim::Reference<'a>),
    /// An image's content: the runtime mounts it.
    Image,
    /// A kind that this node cannot mount; its name in the API.
    Unsupported(&'static str),
}

/// The plugin that a directory on disk names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin<'a> {
    /// `kubernetes.io/empty-dir`
    EmptyDir,
    /// `kubernetes.io/host-path`: has no directory of its own.
    HostPath,
    /// `kubernetes.io/configmap`, `secret`, `downward-api` or `projected`.
    Payload(&'a str),
    /// `kubernetes.io/local-volume`
    Local,
    /// A plugin that this node does not have.
    Foreign(&'a str),
}

/// The place of a pod's volume on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The path on the host.
    pub path: PathBuf,
    /// The name that its subPaths lie under: its own, or its persistent volume's.
    pub name: String,
    /// True if only the node may write to it.
    pub read_only: bool,
    /// True if the runtime may relabel it for SELinux.
    pub relabel: bool,
    /// True if it is a device.
    pub is_device: bool,
}

impl<'a> Kind<'a> {
    /// The kind of a volume.
    pub fn of(volume: &'a Volume) -> Self {
        if let Some(source) = &volume.empty_dir {
            Self::EmptyDir(Some(source))
        } else if let Some(source) = &volume.host_path {
            Self::HostPath(source)
        } else if let Some(source) = &volume.config_map {
            Self::ConfigMap(source)
        } else if let Some(source) = &volume.secret {
            Self::Secret(source)
        } else if let Some(source) = &volume.downward_api {
            Self::DownwardApi(source)
        } else if let Some(source) = &volume.projected {
            Self::Projected(source)
        } else if let Some(source) = &volume.persistent_volume_claim {
            let read_only = source.read_only == Some(true);
            Self::Claim(claim::Reference { claim: Some(&source.claim_name), read_only })
        } else if volume.ephemeral.is_some() {
            Self::Claim(claim::Reference { claim: None, read_only: false })
        } else if volume.image.is_some() {
            Self::Image
        } else {
            unsupported::name(volume).map_or(Self::EmptyDir(None), Self::Unsupported)
        }
    }

    /// The qualified name of the plugin, of which the directory's name is made. `None` for a volume
    /// that has no directory of ours, and for a claim, whose persistent volume decides.
    pub fn plugin(self) -> Option<&'static str> {
        match self {
            Self::EmptyDir(_) => Some(empty_dir::PLUGIN),
            Self::HostPath(_) => Some(host_path::PLUGIN),
            Self::ConfigMap(_) => Some(config_map::PLUGIN),
            Self::Secret(_) => Some(secret::PLUGIN),
            Self::DownwardApi(_) => Some(downward::PLUGIN),
            Self::Projected(_) => Some(projected::PLUGIN),
            Self::Claim(_) | Self::Image | Self::Unsupported(_) => None,
        }
    }

    /// Returns true if the volume is behind a claim.
    pub fn is_claim(self) -> bool {
        matches!(self, Self::Claim(_))
    }

    /// Returns true if the volume is an emptyDir.
    pub fn is_empty_dir(self) -> bool {
        matches!(self, Self::EmptyDir(_))
    }

    /// Returns what puts a volume of this kind in place. `volume` is its spec, for the text about
    /// an unsupported one.
    pub fn mounted_by(self, volume: &Volume) -> MountedBy {
        match self {
            Self::Image => image::MOUNTED_BY,
            Self::Unsupported(name) => MountedBy::Nobody(unsupported::text(volume, name)),
            Self::EmptyDir(_)
            | Self::HostPath(_)
            | Self::ConfigMap(_)
            | Self::Secret(_)
            | Self::DownwardApi(_)
            | Self::Projected(_)
            | Self::Claim(_) => MountedBy::Kubelet,
        }
    }

    /// Returns the inputs of a volume of this kind. Pure.
    pub fn inputs(self) -> VolumeInputs {
        match self {
            Self::EmptyDir(_) => VolumeInputs { objects_suffice: true, ..VolumeInputs::default() },
            Self::ConfigMap(source) => config_map::inputs(source),
            Self::Secret(source) => secret::inputs(source),
            Self::DownwardApi(_) => downward::inputs(),
            Self::Projected(source) => projected::inputs(source),
            Self::HostPath(_) | Self::Claim(_) | Self::Image | Self::Unsupported(_) => {
                VolumeInputs::default()
            }
        }
    }

    /// Makes the volume usable for the pod.
    pub(crate) async fn set_up<M: Mounter, T: TokenSource>(
        self,
        context: &Arc<Context<M, T>>,
    ) -> Result<Done, SetUpError> {
        match self {
            Self::EmptyDir(source) => empty_dir::set_up(source, context).await,
            Self::HostPath(source) => host_path::set_up(source, context).await,
            Self::ConfigMap(source) => config_map::set_up(source, context).await,
            Self::Secret(source) => secret::set_up(source, context).await,
            Self::DownwardApi(source) => downward::set_up(source, context).await,
            Self::Projected(source) => projected::set_up(source, context).await,
            Self::Claim(reference) => claim::set_up(reference, context).await,
            Self::Image | Self::Unsupported(_) => Ok(Done::default()),
        }
    }

    /// Where the volume lies, for containers. `claimed` is what the ledger says of a claim. `None`
    /// for a volume that the runtime mounts itself, that is not there, or that is not supported.
    pub fn placed(
        self,
        paths: &Paths,
        uid: &PodUid,
        name: &str,
        claimed: Option<&Record>,
    ) -> Option<Placed> {
        let own = |path: PathBuf, read_only: bool, relabel: bool| Placed {
            path,
            name: name.to_owned(),
            read_only,
            relabel,
            is_device: false,
        };

        match self {
            Self::HostPath(source) => Some(own(PathBuf::from(&source.path), false, false)),
            Self::EmptyDir(_) => {
                Some(own(paths.plugin_volume(uid, empty_dir::PLUGIN, name), false, true))
            }
            Self::ConfigMap(_) | Self::Secret(_) | Self::DownwardApi(_) | Self::Projected(_) => {
                Some(own(paths.plugin_volume(uid, self.plugin()?, name), true, true))
            }
            Self::Claim(_) => claimed.map(|record| Placed {
                path: record.path(paths, uid),
                name: record.directory.clone(),
                read_only: record.claimed.as_ref().is_some_and(|claimed| claimed.read_only),
                relabel: record.made != Made::Nothing,
                is_device: record.made == Made::Device,
            }),
            Self::Image | Self::Unsupported(_) => None,
        }
    }
}

impl<'a> Plugin<'a> {
    /// The plugin of a qualified name, e.g. `kubernetes.io/secret`.
    pub fn named(name: &'a str) -> Self {
        match name {
            empty_dir::PLUGIN => Self::EmptyDir,
            host_path::PLUGIN => Self::HostPath,
            local::PLUGIN => Self::Local,
            config_map::PLUGIN | secret::PLUGIN | downward::PLUGIN | projected::PLUGIN => {
                Self::Payload(name)
            }
            foreign => Self::Foreign(foreign),
        }
    }

    /// Takes a volume away. A missing one is done.
    pub async fn tear_down<M: Mounter>(self, volume: &Arc<OnDisk<M>>) -> Result<(), TearDownError> {
        match self {
            Self::EmptyDir => empty_dir::tear_down(volume).await,
            // The path is the node's own.
            Self::HostPath => Ok(()),
            Self::Payload(plugin) => payload::tear_down(plugin, volume).await,
            Self::Local => local::tear_down(volume).await,
            Self::Foreign(plugin) => unsupported::tear_down(plugin, volume).await,
        }
    }

    /// Returns true if a volume without a record of a claim is whole, so that containers may use it
    /// until it has been set up again. Blocks.
    pub fn on_disk<M: Mounter>(self, volume: &OnDisk<M>) -> bool {
        match self {
            Self::Payload(plugin) => payload::on_disk(plugin, volume),
            // The set-up knows better, and is quick.
            Self::EmptyDir | Self::HostPath | Self::Local | Self::Foreign(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use k8s_openapi::api::core::v1::Volume;

    use super::Kind;
    use crate::model::PodUid;
    use crate::volumes::paths::Paths;

    #[track_caller]
    fn check(volume: &str, expected: Option<&str>) {
        let paths = Paths::new("/var/lib/kubelet", "/var/log/pods");
        let volume: Volume = serde_json::from_str(volume).expect("a volume");
        let placed = Kind::of(&volume).placed(&paths, &PodUid::from("u1"), &volume.name, None);
        assert_eq!(placed.as_ref().map(|placed| placed.path.as_path()), expected.map(Path::new));
    }

    #[test]
    fn volumes_lie_where_upstream_puts_them() {
        let base = "/var/lib/kubelet/pods/u1/volumes";
        check(r#"{"name":"v","emptyDir":{}}"#, Some(&format!("{base}/kubernetes.io~empty-dir/v")));
        check(r#"{"name":"v"}"#, Some(&format!("{base}/kubernetes.io~empty-dir/v")));
        check(
            r#"{"name":"v","configMap":{"name":"c"}}"#,
            Some(&format!("{base}/kubernetes.io~configmap/v")),
        );
        check(
            r#"{"name":"v","secret":{"secretName":"c"}}"#,
            Some(&format!("{base}/kubernetes.io~secret/v")),
        );
        check(
            r#"{"name":"v","downwardAPI":{}}"#,
            Some(&format!("{base}/kubernetes.io~downward-api/v")),
        );
        check(r#"{"name":"v","projected":{}}"#, Some(&format!("{base}/kubernetes.io~projected/v")));
        check(r#"{"name":"v","hostPath":{"path":"/srv/x"}}"#, Some("/srv/x"));
        check(r#"{"name":"v","image":{"reference":"x"}}"#, None);
        check(r#"{"name":"v","persistentVolumeClaim":{"claimName":"x"}}"#, None);
    }
}
