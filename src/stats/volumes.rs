//! The families of volumes and logs on `/metrics`. Pure.

use std::collections::BTreeSet;

use super::usage::{Fs, PodsUsage};
use crate::telemetry::metrics::{Collected, Kind};

/// A family of persistent volumes: name, help, value.
type OfClaims = (&'static str, &'static str, fn(&Fs) -> Option<u64>);

#[rustfmt::skip]
const OF_CLAIMS: [OfClaims; 6] = [
    ("kubelet_volume_stats_capacity_bytes", "[ALPHA] Capacity in bytes of the volume", |fs| fs.capacity),
    ("kubelet_volume_stats_available_bytes", "[ALPHA] Number of available bytes in the volume", |fs| fs.available),
    ("kubelet_volume_stats_used_bytes", "[ALPHA] Number of used bytes in the volume", |fs| fs.used),
    ("kubelet_volume_stats_inodes", "[ALPHA] Maximum number of inodes in the volume", |fs| fs.inodes),
    ("kubelet_volume_stats_inodes_free", "[ALPHA] Number of free inodes in the volume", |fs| fs.inodes_free),
    ("kubelet_volume_stats_inodes_used", "[ALPHA] Number of used inodes in the volume", |fs| fs.inodes_used),
];

/// Adds the families to a page: each claim once, however many pods use it.
pub fn write(page: &mut Collected, usage: &PodsUsage) {
    for (name, help, value) in OF_CLAIMS {
        let mut seen = BTreeSet::new();
        let mut writer = page.begin(name, help, Kind::Gauge);
        for volume in usage.pods.iter().flat_map(|pod| &pod.volumes) {
            let Some(claim) = volume.claim.as_ref().filter(|claim| seen.insert(*claim)) else {
                continue;
            };
            let labels = ["namespace", "persistentvolumeclaim"];
            let values = [&*claim.namespace, &*claim.name];
            writer.read_at(&labels, &values, float(value(&volume.fs).unwrap_or_default()), None);
        }
    }

    let name = "kubelet_container_log_filesystem_used_bytes";
    let help = "[ALPHA] Bytes used by the container's logs on the filesystem.";
    let mut writer = page.begin(name, help, Kind::Gauge);
    for pod in &usage.pods {
        for container in &pod.containers {
            let Some(used) = container.logs.as_ref().and_then(|logs| logs.used) else { continue };
            let labels = ["container", "namespace", "pod", "uid"];
            let key = &pod.key;
            let values = [&*container.name, &*key.namespace, &*key.name, pod.uid.as_str()];
            writer.read_at(&labels, &values, float(used), None);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "the format has floating-point numbers only")]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::write;
    use crate::model::{ContainerId, PodKey, PodUid, Wall};
    use crate::stats::usage::{ContainerUsage, Fs, PodUsage, PodsUsage, Resources, VolumeUsage};
    use crate::telemetry::metrics::Collected;

    fn pod(uid: &str) -> PodUsage {
        let space = |used| Fs { used: Some(used), ..Fs::unknown(Wall::UNIX_EPOCH) };
        let volume = |name: &str, claim| VolumeUsage {
            name: name.to_owned(),
            fs: space(7),
            claim,
            ephemeral: false,
            abnormal: None,
        };
        PodUsage {
            uid: PodUid::from(uid),
            key: PodKey::new("ns", uid),
            created: Wall::UNIX_EPOCH,
            containers: vec![ContainerUsage {
                name: "app".to_owned(),
                id: ContainerId::from("c"),
                created: Wall::UNIX_EPOCH,
                resources: Resources::default(),
                rootfs: None,
                logs: Some(space(5)),
                processes: None,
            }],
            resources: Resources::default(),
            network: None,
            volumes: vec![volume("v", Some(PodKey::new("ns", "claim"))), volume("w", None)],
            ephemeral_storage: None,
            processes: None,
        }
    }

    #[test]
    fn a_claim_is_shown_once_and_a_volume_without_one_never() {
        let mut page = Collected::default();
        write(&mut page, &PodsUsage { pods: vec![pod("a"), pod("b")] });
        let text = page.into_text();
        let used =
            "kubelet_volume_stats_used_bytes{namespace=\"ns\",persistentvolumeclaim=\"claim\"} 7";
        assert_eq!(text.lines().filter(|line| *line == used).count(), 1, "{text}");
        let log = "kubelet_container_log_filesystem_used_bytes{container=\"app\",namespace=\"ns\",pod=\"b\",uid=\"b\"} 5";
        assert!(text.lines().any(|line| line == log), "{text}");
        assert_eq!(text.matches("persistentvolumeclaim").count(), 6);
    }
}
