//! Checks that a claim and a persistent volume belong together, and reads what the volume is. Pure.
//!
//! Fed by `claim` with the two objects as the API server has them. The rules and the texts of
//! errors are upstream's.

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, PodSpec, Volume,
    VolumeNodeAffinity,
};

use crate::model::{Pod, node_selector, pod};
use crate::volumes::error::SetUpError;

/// Upstream's finalizer on claims that pods use.
const PROTECTED: &str = "kubernetes.io/pvc-protection";
/// The group that a volume's files belong to.
const GID: &str = "pv.beta.kubernetes.io/gid";
/// Mount options from before they had a field.
const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

/// A pod's reference to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// The claim's name; `None`: made for this pod alone (a generic ephemeral volume), named after
    /// pod and volume.
    pub claim: Option<&'a str>,
    /// `readOnly` of the reference.
    pub read_only: bool,
}

/// A volume that a claim is bound to.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// The name of the persistent volume.
    pub name: String,
    /// The kind of the persistent volume.
    pub source: Source,
    /// True if the pod mounts it read-only.
    pub read_only: bool,
    /// True for a device (`volumeMode: Block`).
    pub block: bool,
    /// Mount options, e.g. `ro` or `noatime`.
    pub options: Vec<String>,
    /// The group that the volume's files belong to.
    pub gid: Option<i64>,
    /// True if only one pod may use it at a time (`ReadWriteOncePod`).
    pub single_pod: bool,
    /// The nodes that can mount the volume; `None` for every node.
    pub affinity: Option<VolumeNodeAffinity>,
}

/// The kind of a persistent volume.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A directory or device of this node.
    Local(String),
    /// A path of this node.
    HostPath(HostPathVolumeSource),
    /// A volume of the CSI driver with this name.
    Csi(String),
}

/// Returns the name of the claim.
pub fn name(pod: &Pod, volume: &str, reference: Reference<'_>) -> String {
    let own = || format!("{}-{volume}", pod.metadata.name.as_deref().unwrap_or_default());
    reference.claim.map_or_else(own, str::to_owned)
}

/// Returns the name of the persistent volume that a claim is bound to.
pub fn volume_of(
    pod: &Pod,
    reference: Reference<'_>,
    claim: &PersistentVolumeClaim,
) -> Result<String, SetUpError> {
    let meta = &claim.metadata;
    let is_protected = meta.finalizers.iter().flatten().any(|finalizer| finalizer == PROTECTED);
    let spec = claim.spec.as_ref();
    let bound_to = spec.and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let (namespace, name) =
        (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    if meta.deletion_timestamp.is_some() && !is_protected {
        return Err(processing(namespace, name, "PVC is being deleted"));
    }
    if phase != Some("Bound") {
        return Err(processing(namespace, name, "PVC is not bound"));
    }
    if bound_to.is_empty() {
        return Err(processing(namespace, name, "PVC has empty pvc.Spec.VolumeName"));
    }
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let is_own = owner.is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref());
    if reference.claim.is_none() && !is_own {
        let key = pod::key(pod);
        return Err(SetUpError::Unprocessed(format!(
            "PVC {namespace}/{name} was not created for pod {}/{} (pod is not owner)",
            key.namespace, key.name
        )));
    }
    Ok(bound_to)
}

/// Makes upstream's error for a claim that cannot be used.
pub fn processing(namespace: &str, claim: &str, problem: &str) -> SetUpError {
    SetUpError::Unprocessed(format!("error processing PVC {namespace}/{claim}: {problem}"))
}

/// Returns the persistent volume as the pod uses it, if volume and claim are bound to each other.
pub fn bound(
    pod: &Pod,
    volume: &Volume,
    reference: Reference<'_>,
    claim: &PersistentVolumeClaim,
    found: &PersistentVolume,
) -> Result<Bound, SetUpError> {
    let name = found.metadata.name.clone().unwrap_or_default();
    let claim_name = claim.metadata.name.as_deref().unwrap_or_default();
    let wrong = |problem: String| processing(&pod::key(pod).namespace, claim_name, &problem);

    let spec = found.spec.clone().unwrap_or_default();
    let Some(bound_to) = &spec.claim_ref else {
        return Err(wrong(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        )));
    };

    let (theirs, ours) = (bound_to.uid.as_deref(), claim.metadata.uid.as_deref());
    if theirs != ours {
        return Err(wrong(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {} does not point to claim.UID {}",
            theirs.unwrap_or_default(),
            ours.unwrap_or_default()
        )));
    }

    let mode = spec.volume_mode.as_deref().unwrap_or("Filesystem");
    let (mounts, devices) = uses(pod, &volume.name);
    for (used, wanted, place) in
        [(mounts, "Filesystem", "volumeMounts"), (devices, "Block", "volumeDevices")]
    {
        if used && mode != wanted {
            return Err(SetUpError::Unprocessed(format!(
                "volume {} has volumeMode {mode}, but is specified in {place}",
                volume.name
            )));
        }
    }

    let source = if let Some(local) = spec.local {
        Source::Local(local.path)
    } else if let Some(host_path) = spec.host_path {
        Source::HostPath(host_path)
    } else if let Some(csi) = spec.csi {
        Source::Csi(csi.driver)
    } else {
        return Err(SetUpError::Unprocessed(format!(
            "failed to get Plugin from volumeSpec for volume {name:?} err=no volume plugin matched"
        )));
    };

    let annotations = found.metadata.annotations.clone().unwrap_or_default();
    let options =
        annotations.get(MOUNT_OPTIONS).map(|text| text.split(',').map(str::to_owned).collect());
    let modes = spec.access_modes.unwrap_or_default();

    Ok(Bound {
        name,
        source,
        read_only: reference.read_only,
        block: mode == "Block",
        options: options.or(spec.mount_options).unwrap_or_default(),
        gid: annotations.get(GID).and_then(|gid| gid.parse().ok()),
        single_pod: modes == ["ReadWriteOncePod"],
        affinity: spec.node_affinity,
    })
}

/// Returns whether a container mounts the volume, and whether one has it as a device.
fn uses(pod: &Pod, volume: &str) -> (bool, bool) {
    let containers = |spec: &PodSpec| {
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        let mut uses = (false, false);
        let parts = all.map(|container| (&container.volume_mounts, &container.volume_devices));
        let parts = parts.chain(
            ephemeral.map(|container| (&container.volume_mounts, &container.volume_devices)),
        );
        for (mounts, devices) in parts {
            uses.0 |= mounts.iter().flatten().any(|mount| mount.name == volume);
            uses.1 |= devices.iter().flatten().any(|device| device.name == volume);
        }
        uses
    };
    pod.spec.as_ref().map(containers).unwrap_or_default()
}

impl Bound {
    /// Makes the error of one of upstream's steps, e.g. `MountVolume.SetUp`, with this volume.
    pub fn failed(&self, step: &'static str, text: impl Into<String>) -> SetUpError {
        SetUpError::Persistent { volume: self.name.clone(), step, text: text.into() }
    }

    /// Fails if the volume's node affinity excludes this node.
    pub fn check_node(
        &self,
        name: &str,
        labels: &std::collections::BTreeMap<String, String>,
    ) -> Result<(), SetUpError> {
        let required = self.affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
        if required.is_none_or(|selector| node_selector::matches(selector, name, labels)) {
            return Ok(());
        }
        let step = if self.block {
            "MapVolume.NodeAffinity check"
        } else {
            "MountVolume.NodeAffinity check"
        };
        Err(self.failed(step, "no matching NodeSelectorTerms"))
    }

    /// Fails if another pod uses a volume that only one pod may use.
    pub fn check_use(&self, used_elsewhere: bool) -> Result<(), SetUpError> {
        if !self.single_pod || !used_elsewhere {
            return Ok(());
        }
        let step = if self.block { "MapVolume.SetUpDevice" } else { "MountVolume.SetUp" };
        Err(self.failed(
            step,
            "volume uses the ReadWriteOncePod access mode and is already in use by another pod",
        ))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};
    use serde_json::{Value, json};

    use super::{Bound, Reference, Source, bound, name, volume_of};
    use crate::model::Pod;

    const NAMED: Reference<'static> = Reference { claim: Some("c"), read_only: false };
    const OWN: Reference<'static> = Reference { claim: None, read_only: true };

    fn pod(container: &Value) -> Pod {
        let mut container = container.clone();
        container["name"] = json!("app");
        let pod = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u1"}, "spec": {"containers": [container]}});
        serde_json::from_value(pod).expect("a pod")
    }

    fn claim(change: &Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "claim"},
            "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
        merge(&mut claim, change);
        serde_json::from_value(claim).expect("a claim")
    }

    fn merge(into: &mut Value, change: &Value) {
        match (into, change) {
            (Value::Object(into), Value::Object(change)) => {
                for (key, value) in change {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, change) => *into = change.clone(),
        }
    }

    #[track_caller]
    fn check_claim(reference: Reference<'_>, change: &Value, expected: Result<&str, &str>) {
        let found =
            volume_of(&pod(&json!({})), reference, &claim(change)).map_err(|error| error.text());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{change}");
    }

    #[test]
    fn a_claim_must_be_bound_and_the_pods_own_where_it_was_made_for_it() {
        let owner = |uid: &str| {
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid,
                "controller": true}]}})
        };
        let deleted = |finalizer: &str| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]}});
        check_claim(NAMED, &json!({}), Ok("pv"));
        check_claim(
            NAMED,
            &json!({"status": {"phase": "Pending"}}),
            Err("error processing PVC ns/c: PVC is not bound"),
        );
        let empty = Err("error processing PVC ns/c: PVC has empty pvc.Spec.VolumeName");
        check_claim(NAMED, &json!({"spec": {"volumeName": ""}}), empty);
        check_claim(
            NAMED,
            &deleted("other"),
            Err("error processing PVC ns/c: PVC is being deleted"),
        );
        check_claim(NAMED, &deleted("kubernetes.io/pvc-protection"), Ok("pv"));
        check_claim(OWN, &owner("u1"), Ok("pv"));
        let foreign = Err("PVC ns/c was not created for pod ns/web (pod is not owner)");
        check_claim(OWN, &owner("u2"), foreign);
        check_claim(OWN, &json!({}), foreign);
        assert_eq!(name(&pod(&json!({})), "data", OWN), "web-data");
    }

    fn found(change: &Value, container: &Value) -> Result<Bound, String> {
        let mut volume = json!({"metadata": {"name": "pv"},
            "spec": {"claimRef": {"uid": "claim"}, "local": {"path": "/mnt/x"}, "accessModes": ["ReadWriteOnce"]}});
        merge(&mut volume, change);
        let volume: PersistentVolume = serde_json::from_value(volume).expect("a volume");
        let spec = Volume { name: "data".to_owned(), ..Volume::default() };
        bound(&pod(container), &spec, NAMED, &claim(&json!({})), &volume)
            .map_err(|error| error.text())
    }

    #[test]
    fn a_volume_must_be_bound_to_that_claim_and_used_as_what_it_is() {
        let mounted = json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]});
        let device = json!({"volumeDevices": [{"name": "data", "devicePath": "/dev/x"}]});
        let volume = found(&json!({}), &mounted).expect("bound");
        assert_eq!(
            (volume.source, volume.block, volume.single_pod),
            (Source::Local("/mnt/x".into()), false, false)
        );
        let error =
            |change: &Value, container: &Value| found(change, container).expect_err("an error");
        assert_eq!(
            error(&json!({"spec": {"claimRef": null}}), &mounted),
            "error processing PVC ns/c: found PV object pv but it has a nil pv.Spec.ClaimRef indicating it is not yet \
             bound to the claim"
        );
        assert_eq!(
            error(&json!({"spec": {"claimRef": {"uid": "other"}}}), &mounted),
            "error processing PVC ns/c: found PV object pv but its pv.Spec.ClaimRef.UID other does not point to \
             claim.UID claim"
        );
        assert_eq!(
            error(&json!({"spec": {"volumeMode": "Block"}}), &mounted),
            "volume data has volumeMode Block, but is specified in volumeMounts"
        );
        assert_eq!(
            error(&json!({}), &device),
            "volume data has volumeMode Filesystem, but is specified in volumeDevices"
        );
        assert!(found(&json!({"spec": {"volumeMode": "Block"}}), &device).expect("bound").block);
        let annotated = json!({"metadata": {"annotations": {"pv.beta.kubernetes.io/gid": "77",
            "volume.beta.kubernetes.io/mount-options": "noexec,nodev"}}, "spec": {"accessModes": ["ReadWriteOncePod"]}});
        let volume = found(&annotated, &mounted).expect("bound");
        assert_eq!((volume.gid, volume.options.len(), volume.single_pod), (Some(77), 2, true));
        assert!(volume.check_use(false).is_ok());
        assert_eq!(
            volume.check_use(true).expect_err("in use").text(),
            "volume uses the ReadWriteOncePod access mode and is already in use by another pod"
        );
        let csi = found(
            &json!({"spec": {"local": null, "csi": {"driver": "d.io", "volumeHandle": "h"}}}),
            &mounted,
        );
        assert_eq!(csi.expect("bound").source, Source::Csi("d.io".into()));
        let nfs = json!({"spec": {"local": null, "nfs": {"path": "/", "server": "s"}}});
        assert_eq!(
            error(&nfs, &mounted),
            "failed to get Plugin from volumeSpec for volume \"pv\" err=no volume plugin matched"
        );
    }

    #[test]
    fn only_nodes_that_reach_a_volume_mount_it() {
        let terms = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]);
        let change = json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}});
        let volume = found(&change, &json!({})).expect("bound");
        let labels = |name: &str| [("kubernetes.io/hostname".to_owned(), name.to_owned())].into();
        assert!(volume.check_node("n1", &labels("n1")).is_ok());
        let error = volume.check_node("n2", &labels("n2")).expect_err("elsewhere");
        assert_eq!(
            error.event("data"),
            "MountVolume.NodeAffinity check failed for volume \"pv\" : no matching NodeSelectorTerms"
        );
    }
}
