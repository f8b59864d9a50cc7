//! The kinds of volumes: which one a volume is, what each is made of. One file per kind.
//!
//! A kind has a pure part (what shall be there) and, where it needs one, a part that makes it so
//! through a [`super::mounter::Mounter`].

pub mod claim;
pub mod config_map;
pub mod downward_api;
pub mod empty_dir;
pub mod host_path;
pub mod local;
pub mod nested;
pub mod projected;
pub mod secret;

pub use downward_api::Allocatable;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource,
    ProjectedVolumeSource, SecretVolumeSource, Volume,
};

/// What a volume is.
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
    /// What a claim leads to.
    Claim(claim::Reference<'a>),
    /// An image's content: the runtime mounts it.
    Image,
    /// A kind that this node cannot mount; its name in the API.
    Unsupported(&'static str),
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
            unsupported(volume).map_or(Self::EmptyDir(None), Self::Unsupported)
        }
    }

    /// The plugin's qualified name, of which its directory's name is made; `None` for what has no
    /// directory of ours, and for a claim, of which only its persistent volume tells.
    pub fn plugin(self) -> Option<&'static str> {
        match self {
            Self::EmptyDir(_) => Some(empty_dir::PLUGIN),
            Self::HostPath(_) => Some(host_path::PLUGIN),
            Self::ConfigMap(_) => Some(config_map::PLUGIN),
            Self::Secret(_) => Some(secret::PLUGIN),
            Self::DownwardApi(_) => Some(downward_api::PLUGIN),
            Self::Projected(_) => Some(projected::PLUGIN),
            Self::Claim(_) | Self::Image | Self::Unsupported(_) => None,
        }
    }

    /// Whether the volume's files are written by this process, and so are read-only to containers.
    pub fn is_payload(self) -> bool {
        match self {
            Self::ConfigMap(_) | Self::Secret(_) | Self::DownwardApi(_) | Self::Projected(_) => {
                true
            }
            Self::EmptyDir(_)
            | Self::HostPath(_)
            | Self::Claim(_)
            | Self::Image
            | Self::Unsupported(_) => false,
        }
    }
}

/// Why a volume of an unsupported kind is not mounted: upstream's text for a kind without a plugin,
/// the kind named.
pub fn unsupported_text(volume: &Volume, kind: &str) -> String {
    if let Some(csi) = &volume.csi {
        format!(
            "kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: driver name {} not found in the list of \
             registered CSI drivers",
            csi.driver
        )
    } else {
        format!(
            "failed to get Plugin from volumeSpec for volume {:?} err=no volume plugin matched: volumes of kind {kind} \
             are not supported on this node",
            volume.name
        )
    }
}

fn unsupported(volume: &Volume) -> Option<&'static str> {
    let kinds = [
        (volume.csi.is_some(), "csi"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.fc.is_some(), "fc"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (volume.azure_disk.is_some(), "azureDisk"),
        (volume.azure_file.is_some(), "azureFile"),
        (volume.cephfs.is_some(), "cephfs"),
        (volume.cinder.is_some(), "cinder"),
        (volume.flocker.is_some(), "flocker"),
        (volume.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (volume.glusterfs.is_some(), "glusterfs"),
        (volume.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (volume.portworx_volume.is_some(), "portworxVolume"),
        (volume.quobyte.is_some(), "quobyte"),
        (volume.rbd.is_some(), "rbd"),
        (volume.scale_io.is_some(), "scaleIO"),
        (volume.storageos.is_some(), "storageos"),
        (volume.vsphere_volume.is_some(), "vsphereVolume"),
    ];
    kinds.into_iter().find(|(present, _)| *present).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Volume;

    use super::{Kind, unsupported_text};

    #[track_caller]
    fn check(volume: &str, expected: &str) {
        let volume: Volume = serde_json::from_str(volume).expect("a volume");
        let Kind::Unsupported(kind) = Kind::of(&volume) else { panic!("it is supported") };
        assert_eq!(unsupported_text(&volume, kind), expected);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        check(
            r#"{"name":"data","csi":{"driver":"d.io"}}"#,
            "kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: driver name d.io not found in the list of \
             registered CSI drivers",
        );
        check(
            r#"{"name":"data","rbd":{"image":"i","monitors":[]}}"#,
            "failed to get Plugin from volumeSpec for volume \"data\" err=no volume plugin matched: volumes of kind rbd \
             are not supported on this node",
        );
    }
}
