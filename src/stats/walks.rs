//! Measures the volumes of pods, in the background and not too often.
//!
//! A volume without a quota of its own can only be measured by reading its whole tree. Trees are
//! read one after the other on one blocking thread, each within a budget, those first that were
//! measured longest ago. Readers get the last sizes, and wait briefly for a first one. `targets` is
//! pure; [`Batch::run`] blocks. It never decides which size is too much.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Volume;
use tokio_util::sync::CancellationToken;

use super::compose::FsReading;
use super::usage::{Fs, VolumeUsage};
use crate::clock::Clock;
use crate::linux::measure::measure;
use crate::linux::mount::fs_usage;
use crate::model::{Mono, Pod, PodKey, PodUid, pod};
use crate::volumes;

/// How long one tree may take. One that takes longer is reported as far as it was measured.
const TREE: Duration = Duration::from_secs(20);
/// After this long no further tree is begun; the rest is for the next batch.
const BATCH: Duration = Duration::from_secs(60);

/// A volume to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    name: String,
    path: PathBuf,
    /// True if the volume is a directory of a larger file system; its tree is read.
    is_tree: bool,
    claim: Option<PodKey>,
    ephemeral: bool,
}

/// Returns the volumes of a pod that can be measured, as upstream chooses them.
pub(super) fn targets(pod: &Pod, volumes: &volumes::Handle) -> Vec<Target> {
    let uid = pod::uid(pod);
    let own = volumes.paths().pod(&uid);
    let all = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let target = |volume: &Volume| {
        let placed = volumes.place(&uid, volume)?;
        // A hostPath, its own or a persistent volume's, is not the pod's to account for.
        if placed.is_device || !placed.path.starts_with(&own) {
            return None;
        }
        let claim = claim(pod, volume);
        Some(Target {
            name: volume.name.clone(),
            path: placed.path,
            is_tree: claim.is_none(),
            claim,
            ephemeral: is_ephemeral(volume),
        })
    };
    all.iter().filter_map(target).collect()
}

/// The claim that a volume refers to, or that is made for it.
fn claim(pod: &Pod, volume: &Volume) -> Option<PodKey> {
    let key = pod::key(pod);
    let name = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => claim.claim_name.clone(),
        (None, Some(_)) => format!("{}-{}", key.name, volume.name),
        (None, None) => return None,
    };
    Some(PodKey::new(key.namespace, name))
}

/// True if a volume counts as local ephemeral storage: an emptyDir on the disk, a configMap.
fn is_ephemeral(volume: &Volume) -> bool {
    let on_disk = |medium: &Option<String>| medium.as_deref().unwrap_or_default().is_empty();
    volume.empty_dir.as_ref().is_some_and(|source| on_disk(&source.medium))
        || volume.config_map.is_some()
}

/// The sizes of the volumes, by pod.
pub(super) type Volumes = HashMap<PodUid, Arc<[VolumeUsage]>>;

/// What was measured, and when.
#[derive(Debug, Default)]
pub(super) struct Walks {
    done: HashMap<PodUid, (Mono, Arc<[VolumeUsage]>)>,
    is_under_way: bool,
}

impl Walks {
    /// Begins a batch of the pods whose sizes are older than `period`; `None` if there are none, or
    /// a batch is under way.
    pub(super) fn begin(
        &mut self,
        pods: &[Arc<Pod>],
        volumes: &volumes::Handle,
        period: Duration,
        now: Mono,
    ) -> Option<Batch> {
        let present: HashSet<PodUid> = pods.iter().map(|pod| pod::uid(pod)).collect();
        self.done.retain(|uid, _| present.contains(uid));
        if self.is_under_way {
            return None;
        }

        let mut due: Vec<(Option<Mono>, PodUid, &Arc<Pod>)> = pods
            .iter()
            .map(|pod| (pod::uid(pod), pod))
            .map(|(uid, pod)| (self.done.get(&uid).map(|(at, _)| *at), uid, pod))
            .filter(|(at, ..)| at.is_none_or(|at| now.since(at) >= period))
            .collect();
        due.sort_by_key(|(at, ..)| *at);
        let targets: Vec<_> =
            due.into_iter().map(|(_, uid, pod)| (uid, targets(pod, volumes))).collect();
        self.is_under_way = !targets.is_empty();
        self.is_under_way.then_some(Batch { targets })
    }

    /// Takes the sizes of a batch in.
    pub(super) fn end(&mut self, measured: Vec<(PodUid, Vec<VolumeUsage>)>, now: Mono) {
        self.is_under_way = false;
        for (uid, volumes) in measured {
            self.done.insert(uid, (now, volumes.into()));
        }
    }

    /// True while volumes are being measured.
    pub(super) fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// Returns the last sizes.
    pub(super) fn volumes(&self) -> Volumes {
        let volumes = self.done.iter();
        volumes.map(|(uid, (_, volumes))| (uid.clone(), Arc::clone(volumes))).collect()
    }
}

/// Volumes to measure, those first that were measured longest ago.
#[derive(Debug)]
pub(super) struct Batch {
    targets: Vec<(PodUid, Vec<Target>)>,
}

impl Batch {
    /// Measures until all is done, the budget is spent, or `stop`. It blocks.
    pub(super) fn run(
        self,
        clock: Clock,
        stop: &CancellationToken,
    ) -> Vec<(PodUid, Vec<VolumeUsage>)> {
        let end = clock.now().mono.after(BATCH);
        let mut measured = Vec::new();
        for (uid, targets) in self.targets {
            if stop.is_cancelled() || clock.now().mono >= end {
                break;
            }
            let volumes = targets.iter().filter_map(|target| volume(target, clock, stop)).collect();
            measured.push((uid, volumes));
        }
        measured
    }
}

/// Measures one volume; `None` if it is not there (yet, or any more).
fn volume(target: &Target, clock: Clock, stop: &CancellationToken) -> Option<VolumeUsage> {
    let usage = fs_usage(&target.path).ok()?;
    let now = clock.now();
    let reading = FsReading { at: now.wall, usage };
    let fs: Fs = if target.is_tree {
        let end = now.mono.after(TREE);
        let is_cancelled = || stop.is_cancelled() || clock.now().mono >= end;
        reading.part(Some(measure(&target.path, &is_cancelled).ok()?))
    } else {
        reading.whole()
    };
    Some(VolumeUsage {
        name: target.name.clone(),
        fs,
        claim: target.claim.clone(),
        ephemeral: target.ephemeral,
        abnormal: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::{Batch, Target, claim, is_ephemeral};
    use crate::clock::Clock;
    use crate::linux::fs::write_atomic;
    use crate::model::{Pod, PodKey, PodUid, Wall};

    #[test]
    fn which_volumes_are_local_ephemeral_storage_and_which_are_claims() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"containers": [], "volumes": [
                {"name": "scratch", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "config", "configMap": {"name": "c"}},
                {"name": "secret", "secret": {"secretName": "s"}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "own", "ephemeral": {}},
            ]},
        }))
        .expect("a pod");
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref()).expect("volumes");
        let ephemeral: Vec<bool> = volumes.iter().map(is_ephemeral).collect();
        assert_eq!(ephemeral, [true, false, true, false, false, false]);
        let claims: Vec<_> = volumes.iter().filter_map(|volume| claim(&pod, volume)).collect();
        assert_eq!(claims, [PodKey::new("ns", "claim"), PodKey::new("ns", "web-own")]);
    }

    #[tokio::test]
    async fn trees_are_measured_and_what_is_missing_is_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        write_atomic(&dir.path().join("file"), vec![1; 100_000], 0o600).expect("written");
        let target = |name: &str, path| Target {
            name: name.to_owned(),
            path,
            is_tree: true,
            claim: None,
            ephemeral: true,
        };
        let gone = target("gone", dir.path().join("gone"));
        let targets = vec![target("scratch", dir.path().to_owned()), gone];
        let batch = Batch { targets: vec![(PodUid::from("u"), targets)] };
        let clock = Clock::starting_at(Wall::UNIX_EPOCH);
        let measured = batch.run(clock, &CancellationToken::new());
        let [(_, volumes)] = measured.as_slice() else { panic!("one pod: {measured:?}") };
        let [volume] = volumes.as_slice() else { panic!("one volume: {volumes:?}") };
        assert_eq!((volume.name.as_str(), volume.fs.inodes_used), ("scratch", Some(2)));
        assert!(volume.fs.used >= Some(100_000) && volume.fs.capacity > Some(0), "{volume:?}");
    }
}
