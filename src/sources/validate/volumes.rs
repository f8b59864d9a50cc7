//! Volumes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath,
    NFSVolumeSource, Volume,
};

use super::problems::Problems;
use super::{claims, containers, files, names, projected, remote};
use crate::model::quantity::Amount;

/// Checks the volumes, and returns those that are right: mounts may refer to these only.
pub(super) fn volumes<'a>(
    problems: &mut Problems,
    pod: &str,
    volumes: &'a [Volume],
) -> BTreeMap<&'a str, &'a Volume> {
    let mut right = BTreeMap::new();
    let ephemeral = volumes.iter().filter(|volume| volume.ephemeral.is_some());
    let made: BTreeSet<String> =
        ephemeral.map(|volume| claims::name_of(pod, &volume.name)).collect();
    for (index, volume) in volumes.iter().enumerate() {
        let path = format!("spec.volumes[{index}]");
        let mut found = Problems::default();
        source(&mut found, &path, pod, volume);
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
        let claim = volume.persistent_volume_claim.as_ref().map(|claim| &claim.claim_name);
        if let Some(claim) = claim.filter(|claim| made.contains(*claim)) {
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            problems.invalid(format!("{path}.persistentVolumeClaim.claimName"), claim, why);
        }
    }
    right
}

/// The sources of a volume, in upstream's order. Each but the first is refused unseen.
struct Sources<'a> {
    problems: &'a mut Problems,
    path: &'a str,
    is_first: bool,
}

impl Sources<'_> {
    fn take<T>(
        &mut self,
        field: &str,
        source: Option<&T>,
        check: impl FnOnce(&mut Problems, &str, &T),
    ) {
        self.take_as((field, field), source, check);
    }

    /// Takes a source that upstream names differently when it is one too many, and within.
    fn take_as<T>(
        &mut self,
        (field, within): (&str, &str),
        source: Option<&T>,
        check: impl FnOnce(&mut Problems, &str, &T),
    ) {
        let Some(source) = source else { return };
        if std::mem::replace(&mut self.is_first, false) {
            return check(self.problems, &format!("{}.{within}", self.path), source);
        }
        let why = "may not specify more than 1 volume type";
        self.problems.forbidden(format!("{}.{field}", self.path), why);
    }
}

fn source(problems: &mut Problems, path: &str, pod: &str, volume: &Volume) {
    let mut sources = Sources { problems, path, is_first: true };
    sources.take("emptyDir", volume.empty_dir.as_ref(), empty_dir);
    sources.take("hostPath", volume.host_path.as_ref(), host_path);
    sources.take("gitRepo", volume.git_repo.as_ref(), remote::git_repo);
    let gce = volume.gce_persistent_disk.as_ref();
    sources.take_as(("gcePersistentDisk", "persistentDisk"), gce, remote::gce);
    sources.take("awsElasticBlockStore", volume.aws_elastic_block_store.as_ref(), remote::aws);
    sources.take("secret", volume.secret.as_ref(), |problems, path, secret| {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let items = secret.items.as_deref();
        object(problems, path, ("secretName", name), secret.default_mode, items);
    });
    sources.take("nfs", volume.nfs.as_ref(), nfs);
    sources.take("iscsi", volume.iscsi.as_ref(), remote::iscsi);
    if let Some(found) = &volume.iscsi {
        remote::iscsi_target(sources.problems, path, &volume.name, found);
    }
    sources.take("glusterfs", volume.glusterfs.as_ref(), remote::glusterfs);
    sources.take("flocker", volume.flocker.as_ref(), remote::flocker);
    let claim = volume.persistent_volume_claim.as_ref();
    sources.take("persistentVolumeClaim", claim, |problems, path, claim| {
        if claim.claim_name.is_empty() {
            problems.required(format!("{path}.claimName"));
        }
    });
    sources.take("rbd", volume.rbd.as_ref(), remote::rbd);
    sources.take("cinder", volume.cinder.as_ref(), remote::cinder);
    sources.take_as(("cephFS", "cephfs"), volume.cephfs.as_ref(), remote::cephfs);
    sources.take("quobyte", volume.quobyte.as_ref(), remote::quobyte);
    let downward = volume.downward_api.as_ref();
    sources.take_as(("downwarAPI", "downwardAPI"), downward, downward_api);
    sources.take("fc", volume.fc.as_ref(), remote::fc);
    sources.take("flexVolume", volume.flex_volume.as_ref(), remote::flex);
    sources.take("configMap", volume.config_map.as_ref(), |problems, path, found| {
        let items = found.items.as_deref();
        object(problems, path, ("name", &found.name), found.default_mode, items);
    });
    sources.take("azureFile", volume.azure_file.as_ref(), remote::azure_file);
    sources.take("vsphereVolume", volume.vsphere_volume.as_ref(), remote::vsphere);
    sources.take("photonPersistentDisk", volume.photon_persistent_disk.as_ref(), remote::photon);
    sources.take("portworxVolume", volume.portworx_volume.as_ref(), remote::portworx);
    sources.take("azureDisk", volume.azure_disk.as_ref(), remote::azure_disk);
    sources.take("storageos", volume.storageos.as_ref(), remote::storage_os);
    sources.take("projected", volume.projected.as_ref(), projected::volume);
    sources.take("scaleIO", volume.scale_io.as_ref(), remote::scale_io);
    sources.take("csi", volume.csi.as_ref(), remote::csi);
    sources.take("ephemeral", volume.ephemeral.as_ref(), |problems, within, found| {
        claims::ephemeral(problems, within, found);
        if volume.name.is_empty() {
            return;
        }
        let claim = claims::name_of(pod, &volume.name);
        for why in names::subdomain(&claim) {
            let why = format!("PVC name {claim:?}: {why}");
            problems.invalid(format!("{path}.name"), &volume.name, why);
        }
    });
    sources.take("image", volume.image.as_ref(), |problems, path, image| {
        let policy = image.pull_policy.as_deref();
        containers::pull_policy(problems, &format!("{path}.pullPolicy"), policy);
    });
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
        files::downward_file(problems, path, file);
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
fn object(
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
        files::key_to_path(problems, &format!("{path}.items[{index}]"), item);
    }
}
