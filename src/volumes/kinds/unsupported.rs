//! Kinds that this node cannot mount, and directories of plugins that it does not have.
//!
//! A new kind loses its line in [`name`]. A directory of an unknown plugin is removed only if it is
//! empty: nobody here knows whether it holds data.

use std::io;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Volume;

use super::context::OnDisk;
use crate::volumes::error::TearDownError;
use crate::volumes::mounter::Mounter;

/// Returns the text about a volume of an unsupported kind: upstream's for a kind without a plugin,
/// with the kind named.
pub(super) fn text(volume: &Volume, kind: &str) -> String {
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

/// Returns the name in the API of a kind that this node cannot mount; `None` for other volumes.
pub(super) fn name(volume: &Volume) -> Option<&'static str> {
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

/// Removes the directory of a plugin that is not there: another kubelet's, or one that was removed.
/// Only an empty directory is known to hold no data.
pub(super) async fn tear_down<M: Mounter>(
    plugin: &str,
    volume: &Arc<OnDisk<M>>,
) -> Result<(), TearDownError> {
    let plugin = plugin.to_owned();
    let remove = move |volume: &OnDisk<M>| {
        let path = volume.dir(&plugin);
        match std::fs::remove_dir(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                let what = format!("a volume of {plugin}: {error}");
                Err(TearDownError::Foreign { path, what })
            }
        }
    };
    volume.blocking(remove).await
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Volume;

    use super::text;
    use crate::volumes::kinds::Kind;

    #[track_caller]
    fn check(volume: &str, expected: &str) {
        let volume: Volume = serde_json::from_str(volume).expect("a volume");
        let Kind::Unsupported(kind) = Kind::of(&volume) else { panic!("it is supported") };
        assert_eq!(text(&volume, kind), expected);
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
